//! What was logged, read again and made again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::prelude::{DataFrame, Expr, SessionContext, col};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::catalog::{LoadedModel, load};
use super::error::PredictionError;
use super::log::{LogRow, LogValue, PREDICTION_LOG, Role};
use crate::definition::SourceName;
use crate::engine::Engine;
use crate::model_registry::{ModelReference, ModelRegistry, ModelVersion};
use crate::model_runtime::InputRows;
use crate::offline_store::{EventKind, OfflineStore};

/// Differences that a report lists; others are counted alone.
const LISTED_MAX: usize = 1_000;

/// Rows of the log, some at a time: all of them may be more than memory holds.
pub type LoggedRows = BoxStream<'static, Result<Vec<LogRow>, PredictionError>>;

/// A logged prediction that comes out otherwise now.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub sent_at: i64,
    pub prediction_id: String,
    pub model: String,
    pub version: u64,
    pub logged: Vec<f64>,
    pub replayed: Vec<f64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplayReport {
    pub rows: usize,
    pub differing: usize,
    /// Some of them, in the order of their time.
    pub differences: Vec<Difference>,
}

/// The rows of the log that meet a condition, in the order of their time.
///
/// # Errors
/// A table that cannot be read.
pub async fn read_log(
    store: &OfflineStore,
    engine: &Engine,
    condition: Option<Expr>,
) -> Result<LoggedRows, PredictionError> {
    let order = ["sent_at", "prediction_id", "role", "model"].map(|name| col(name).sort(true, false));
    read(store, engine, condition, |frame| frame.sort(order.to_vec())).await
}

/// As [`read_log`], in any order.
///
/// # Errors
/// A table that cannot be read.
pub async fn scan_log(
    store: &OfflineStore,
    engine: &Engine,
    condition: Option<Expr>,
) -> Result<LoggedRows, PredictionError> {
    read(store, engine, condition, Ok).await
}

async fn read(
    store: &OfflineStore,
    engine: &Engine,
    condition: Option<Expr>,
    order: impl FnOnce(DataFrame) -> Result<DataFrame, DataFusionError>,
) -> Result<LoggedRows, PredictionError> {
    let name = SourceName::new(PREDICTION_LOG);
    let Some(table) = store.event_table(EventKind::Predictions, &name).await? else {
        return Ok(stream::empty().boxed());
    };
    let context: SessionContext = engine.session();
    let provider = table.provider(&context).await?;
    let failed = |error: DataFusionError| PredictionError::Rows(error.to_string());
    let read = async {
        let frame = context.read_table(provider)?;
        let frame = match condition {
            Some(condition) => frame.filter(condition)?,
            None => frame,
        };
        order(frame)?.execute_stream().await
    };
    let batches = read.await.map_err(failed)?;
    let rows = batches.map(move |batch| {
        let other = || PredictionError::Rows("the prediction log has other columns".to_owned());
        rows_of(&batch.map_err(failed)?).ok_or_else(other)
    });
    Ok(rows.boxed())
}

/// Asks the models again what they were asked, and compares to the last bit. What a lookup answered, no model did.
///
/// # Errors
/// Rows that cannot be read, a model that is not there any more.
pub async fn replay(registry: &ModelRegistry, mut rows: LoggedRows) -> Result<ReplayReport, PredictionError> {
    let models = registry.models().await?;
    let mut loaded: HashMap<(String, u64), Arc<LoadedModel>> = HashMap::new();
    let mut report = ReplayReport::default();
    while let Some(rows) = rows.try_next().await? {
        for row in rows.into_iter().filter(|row| row.role != Role::Lookup.as_str()) {
            report.rows += 1;
            let key = (row.model.clone(), row.version);
            let model = match loaded.get(&key) {
                Some(model) => Arc::clone(model),
                None => {
                    let version = models.model(&row.model)?.version(&row.model, row.version)?;
                    let model = load(registry, version).await?;
                    loaded.insert(key, Arc::clone(&model));
                    model
                }
            };
            let replayed = model.model.predict(&input_rows(&model.version, &row)?)?.values;
            let is_same = replayed.len() == row.prediction.len()
                && replayed.iter().zip(&row.prediction).all(|(a, b)| a.to_bits() == b.to_bits());
            if is_same {
                continue;
            }
            report.differing += 1;
            if report.differences.len() < LISTED_MAX {
                let LogRow { sent_at, prediction_id, model, version, prediction: logged, .. } = row;
                report.differences.push(Difference { sent_at, prediction_id, model, version, logged, replayed });
            }
        }
    }
    report.differences.sort_by(|a, b| (a.sent_at, &a.prediction_id).cmp(&(b.sent_at, &b.prediction_id)));
    Ok(report)
}

fn input_rows(version: &ModelVersion, row: &LogRow) -> Result<InputRows, PredictionError> {
    let mut values = InputRows::missing(1, version.inputs.len());
    for (position, input) in version.inputs.iter().enumerate() {
        let logged = row.features.iter().find(|value| value.name == input.name);
        let reference = ModelReference { model: row.model.clone(), pointer: row.version.to_string() };
        let logged = logged
            .ok_or_else(|| PredictionError::MissingInput { model: reference.to_string(), input: input.name.clone() })?;
        match (&logged.text, logged.number) {
            (Some(text), _) => values.set_text(0, position, text.clone()),
            (None, Some(number)) => values.set_number(0, position, number),
            (None, None) => {}
        }
    }
    Ok(values)
}

fn rows_of(batch: &RecordBatch) -> Option<Vec<LogRow>> {
    let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let number = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let sent_at = batch.column_by_name("sent_at")?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let (ids, routes, models, roles) = (text("prediction_id")?, text("route")?, text("model")?, text("role")?);
    let (experiments, keys) = (text("experiment")?, text("entity_keys")?);
    let (versions, latencies) = (number("model_version")?, number("latency_us")?);
    let registry_versions = number("registry_version")?;
    let features = batch.column_by_name("features")?.as_list_opt::<i32>()?;
    let predictions = batch.column_by_name("prediction")?.as_list_opt::<i32>()?;
    let defaults = batch.column_by_name("defaults_used")?.as_list_opt::<i32>()?;
    (0..batch.num_rows())
        .map(|row| {
            let prediction = predictions.value(row);
            let defaults = defaults.value(row);
            Some(LogRow {
                sent_at: sent_at.value(row),
                prediction_id: ids.value(row).to_owned(),
                route: routes.value(row).to_owned(),
                model: models.value(row).to_owned(),
                version: versions.value(row) as u64,
                role: roles.value(row).to_owned(),
                experiment: experiments.is_valid(row).then(|| experiments.value(row).to_owned()),
                entity_keys: keys.value(row).to_owned(),
                features: values_of(features.value(row).as_struct_opt()?)?,
                prediction: prediction.as_primitive_opt::<Float64Type>()?.values().to_vec(),
                defaults_used: defaults.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect(),
                latency_us: latencies.value(row) as u64,
                registry_version: registry_versions.value(row) as u64,
            })
        })
        .collect()
}

fn values_of(items: &StructArray) -> Option<Vec<LogValue>> {
    let text = |name: &str| items.column_by_name(name)?.as_string_opt::<i32>();
    let (names, texts, statuses, origins) = (text("name")?, text("text")?, text("status")?, text("origin")?);
    let numbers = items.column_by_name("number")?.as_primitive_opt::<Float64Type>()?;
    let times = items.column_by_name("event_timestamp")?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let optional =
        |array: &arrow::array::StringArray, row: usize| array.is_valid(row).then(|| array.value(row).to_owned());
    let value = |row: usize| LogValue {
        name: names.value(row).to_owned(),
        number: numbers.is_valid(row).then(|| numbers.value(row)),
        text: optional(texts, row),
        status: optional(statuses, row),
        origin: origins.value(row).to_owned(),
        event_timestamp: times.is_valid(row).then(|| times.value(row)),
    };
    Some((0..items.len()).map(value).collect())
}
