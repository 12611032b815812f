//! Which value each input of a model gets: a feature of its service, a value of the request, or a default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ModelRegistryError;
use crate::definition::{Definitions, ValueType, nearest};
use crate::model_runtime::{InputKind, ModelInput};
use crate::registry::{ServiceSignature, service_signature};

/// One input of a version, in the model's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundInput {
    /// As callers name it in requests and the log does.
    pub name: String,
    pub kind: InputKind,
    #[serde(flatten)]
    pub source: InputSource,
    /// Taken where neither the request nor the store has a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Scalar>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum InputSource {
    /// A column of the service's answer with full names; a request may carry another value.
    Feature { view: String, feature: String, value_type: ValueType },
    /// A column of the request.
    Request { value_type: Option<ValueType> },
}

/// A value as a command line or a log has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Number(f64),
    Text(String),
}

/// What a caller says of a model's inputs.
#[derive(Debug, Clone, Default)]
pub struct SignatureRequest {
    /// Names in the model's order, for models without, or with others.
    pub inputs: Vec<RequestedInput>,
    /// Inputs that the caller of a prediction sends.
    pub request: Vec<String>,
    pub defaults: BTreeMap<String, Scalar>,
}

pub type RequestedInput = String;

/// A column that the service needs or gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub value_type: ValueType,
}

/// Binds a model's inputs to a service, by their names: `feature`, `view__feature` or `view:feature`.
///
/// # Errors
/// [`ModelRegistryError::Signature`] names what does not fit and the remedy.
pub fn bind(
    inputs: &[ModelInput],
    definitions: &Definitions,
    service: &str,
    asked: &SignatureRequest,
) -> Result<Vec<BoundInput>, ModelRegistryError> {
    let signature = |problem: String| ModelRegistryError::Signature { problem };
    let Some(found) = definitions.feature_service(service) else {
        let hint = nearest(service, definitions.feature_services.iter().map(|known| known.name.as_str()));
        let hint = hint.map_or("; run `asof apply` first".to_owned(), |name| format!("; did you mean `{name}`?"));
        return Err(signature(format!("there is no feature service `{service}`{hint}")));
    };
    let columns = service_signature(definitions, found);
    let names = input_names(inputs, &columns, asked).map_err(signature)?;
    for (position, name) in names.iter().enumerate() {
        if names[..position].contains(name) {
            return Err(signature(format!("two inputs of the model are called `{name}`; name them with --inputs")));
        }
    }
    if let Some(name) = asked.request.iter().chain(asked.defaults.keys()).find(|name| !names.contains(name)) {
        return Err(signature(format!("the model has no input `{name}`{}", near(name, &names))));
    }
    let bound = names.iter().zip(inputs).map(|(name, input)| bind_one(name, input, &columns, service, asked));
    bound.collect::<Result<_, _>>().map_err(signature)
}

fn input_names(
    inputs: &[ModelInput],
    columns: &ServiceSignature,
    asked: &SignatureRequest,
) -> Result<Vec<String>, String> {
    if !asked.inputs.is_empty() {
        return match asked.inputs.len() == inputs.len() {
            true => Ok(asked.inputs.clone()),
            false => Err(format!("--inputs names {} inputs, and the model has {}", asked.inputs.len(), inputs.len())),
        };
    }
    if let Some(names) = inputs.iter().map(|input| input.name.clone()).collect::<Option<Vec<_>>>() {
        // Training without names makes these up.
        let is_made_up = |(position, name): (usize, &String)| {
            *name == format!("Column_{position}") || *name == format!("f{position}") || *name == position.to_string()
        };
        if !names.iter().enumerate().all(is_made_up) {
            return Ok(names);
        }
    }
    // The features of the service in their order are what a training set has.
    if columns.outputs.len() != inputs.len() {
        return Err(format!(
            "the model does not name its inputs, and has {}, while the service has {} features; name them with --inputs",
            inputs.len(),
            columns.outputs.len()
        ));
    }
    Ok(columns.outputs.iter().map(|column| column.feature.clone()).collect())
}

fn bind_one(
    name: &str,
    input: &ModelInput,
    columns: &ServiceSignature,
    service: &str,
    asked: &SignatureRequest,
) -> Result<BoundInput, String> {
    let default = asked.defaults.get(name).cloned();
    if let (Some(Scalar::Text(text)), InputKind::Number) = (&default, input.kind) {
        return Err(format!("the default `{text}` of input `{name}` is no number"));
    }
    let bound = |source| Ok(BoundInput { name: name.to_owned(), kind: input.kind, source, default: default.clone() });
    let matches: Vec<_> = columns
        .outputs
        .iter()
        .filter(|column| {
            let (view, feature) = (&column.view, &column.feature);
            *feature == *name || format!("{view}__{feature}") == *name || format!("{view}:{feature}") == *name
        })
        .collect();
    match matches.as_slice() {
        [column] => {
            check_type(name, input.kind, &column.value_type)?;
            bound(InputSource::Feature {
                view: column.view.clone(),
                feature: column.feature.clone(),
                value_type: column.value_type.clone(),
            })
        }
        [] => {
            let needed = columns.request_values.get(name).or_else(|| columns.join_keys.get(name));
            if let Some(value_type) = needed {
                check_type(name, input.kind, value_type)?;
                return bound(InputSource::Request { value_type: Some(value_type.clone()) });
            }
            if asked.request.iter().any(|known| known == name) || default.is_some() {
                return bound(InputSource::Request { value_type: None });
            }
            let features: Vec<String> = columns.outputs.iter().map(|column| column.feature.clone()).collect();
            Err(format!(
                "input `{name}` of the model is no feature of the service `{service}`{}; name the features of the inputs with --inputs, say that it comes with the request (--request {name}), or give it a default",
                near(name, &features)
            ))
        }
        [first, second, ..] => Err(format!(
            "input `{name}` of the model may be `{}:{name}` or `{}:{name}`; name it in full with --inputs",
            first.view, second.view
        )),
    }
}

fn check_type(name: &str, kind: InputKind, value_type: &ValueType) -> Result<(), String> {
    let is_number = matches!(
        value_type,
        ValueType::Bool | ValueType::Int32 | ValueType::Int64 | ValueType::Float32 | ValueType::Float64
    );
    match kind {
        InputKind::Number if !is_number => {
            Err(format!("input `{name}` of the model is a number, and the feature has type {value_type}"))
        }
        InputKind::Category | InputKind::Text if !is_number && *value_type != ValueType::String => {
            Err(format!("input `{name}` of the model is a category, and the feature has type {value_type}"))
        }
        _ => Ok(()),
    }
}

fn near(name: &str, known: &[String]) -> String {
    let found = nearest(name, known.iter().map(String::as_str));
    found.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}
