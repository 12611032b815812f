//! What has to hold of a model before it is registered: it loads, its inputs are bound, its golden rows come out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::binding::{Scalar, SignatureRequest, bind};
use super::error::ModelRegistryError;
use super::event::ModelVersion;
use super::golden::{GoldenRow, check_golden};
use super::store::NewModel;
use crate::model_runtime::{InputRows, LoadOptions, Model, ModelFormat};
use crate::registry::RegistryVersion;

/// Numbers of a prediction are under this name in golden rows.
const PREDICTION: &str = "prediction";

/// What a caller says of a model.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    pub name: String,
    pub service: String,
    /// None: told by the file.
    pub format: Option<ModelFormat>,
    pub signature: SignatureRequest,
    pub output: Option<String>,
    pub takes_matrix: bool,
    pub metrics: BTreeMap<String, f64>,
    pub training: Option<Value>,
    /// Lines of JSON: the inputs of a row by name, and `prediction`.
    pub golden: Option<String>,
    pub owner: Option<String>,
    pub description: Option<String>,
}

/// Checks a model against the definitions that are applied. It takes as long as loading and asking the model does.
///
/// # Errors
/// A model that does not load, inputs that do not fit the service, golden rows that come out otherwise.
pub fn prepare(
    bytes: Vec<u8>,
    asked: Registration,
    registry: &RegistryVersion,
) -> Result<NewModel, ModelRegistryError> {
    let format = match asked.format {
        Some(format) => format,
        None => ModelFormat::detect(&bytes)?,
    };
    let model = Model::load(format, &bytes, &LoadOptions { output: asked.output.clone() })?;
    let inputs = bind(model.inputs(), &registry.definitions, &asked.service, &asked.signature)?;
    let golden = match asked.golden {
        Some(text) => {
            let rows = golden_rows(&text)?;
            check_golden(&model, &inputs, &rows)?;
            Some((rows.len(), text.into_bytes()))
        }
        None => None,
    };
    let version = ModelVersion {
        model: asked.name,
        version: 0,
        format,
        sha256: String::new(),
        bytes: 0,
        service: asked.service,
        registry_version: registry.version,
        inputs,
        output: asked.output,
        prediction_width: model.outputs().or_else(|| answered_width(&model)),
        takes_matrix: asked.takes_matrix,
        metrics: asked.metrics,
        training: asked.training,
        golden: None,
        owner: asked.owner,
        description: asked.description,
    };
    Ok(NewModel { version, bytes, golden })
}

/// Numbers of the answer to a row without values; None: the model takes no such row.
fn answered_width(model: &Model) -> Option<usize> {
    let answered = model.predict(&InputRows::missing(1, model.inputs().len())).ok()?;
    Some(answered.width)
}

fn golden_rows(text: &str) -> Result<Vec<GoldenRow>, ModelRegistryError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(number, line)| {
        golden_row(line)
            .map_err(|problem| ModelRegistryError::GoldenRows { problem: format!("line {}: {problem}", number + 1) })
    });
    let rows: Vec<GoldenRow> = rows.collect::<Result<_, _>>()?;
    match rows.is_empty() {
        true => Err(ModelRegistryError::GoldenRows { problem: "there are none".to_owned() }),
        false => Ok(rows),
    }
}

fn golden_row(line: &str) -> Result<GoldenRow, String> {
    let mut row: BTreeMap<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let prediction = match row.remove(PREDICTION).ok_or("it has no `prediction`")? {
        // As CSV has lists.
        Value::String(text) => serde_json::from_str(&text).map_err(|error| format!("its `prediction`: {error}"))?,
        prediction => prediction,
    };
    let numbers = match &prediction {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>(),
        number => number.as_f64().map(|number| vec![number]),
    };
    let mut inputs = BTreeMap::new();
    for (name, value) in row {
        let scalar = match value {
            Value::Null => continue,
            Value::Bool(is_true) => Scalar::Number(f64::from(u8::from(is_true))),
            Value::String(text) => Scalar::Text(text),
            value => Scalar::Number(value.as_f64().ok_or_else(|| format!("`{name}` is neither number nor text"))?),
        };
        inputs.insert(name, scalar);
    }
    Ok(GoldenRow { inputs, prediction: numbers.ok_or("its `prediction` is no number and no list of numbers")? })
}
