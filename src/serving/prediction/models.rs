//! Models over the wire.

use serde_json::{Value, json};
use tonic::Status;

use crate::model_registry::{ModelVersion, RegisteredModel, Registration, SignatureRequest};
use crate::model_runtime::ModelFormat;
use crate::serving::pb;

/// A model in full.
pub fn model_document(name: &str, model: &RegisteredModel) -> Value {
    let version = |(version, at): (&std::sync::Arc<ModelVersion>, &crate::time::EventTimestamp)| {
        let mut document = serde_json::to_value(version.as_ref()).unwrap_or_default();
        document["registered_at"] = json!(at.to_string());
        document["aliases"] = json!(model.aliases_of(version.version));
        document["retired"] = json!(model.retired.contains(&version.version));
        document
    };
    let moves = model
        .history
        .iter()
        .map(|(alias, moved)| json!({"alias": alias, "at": moved.at.to_string(), "from": moved.from, "to": moved.to}));
    json!({
        "name": name,
        "aliases": model.aliases,
        "versions": model.versions.iter().zip(&model.registered_at).map(version).collect::<Vec<_>>(),
        "alias_history": moves.collect::<Vec<_>>(),
    })
}

/// # Errors
/// INVALID_ARGUMENT for a format or JSON that is none.
pub fn registration(header: pb::ModelHeader) -> Result<Registration, Status> {
    let invalid = |problem: String| Status::invalid_argument(problem);
    let some = |text: String| (!text.is_empty()).then_some(text);
    let format = some(header.format).map(|text| text.parse::<ModelFormat>()).transpose();
    let mut defaults = std::collections::BTreeMap::new();
    for (name, json) in header.defaults {
        let value = serde_json::from_str(&json).map_err(|error| invalid(format!("default of `{name}`: {error}")))?;
        defaults.insert(name, value);
    }
    let training = some(header.training).map(|json| serde_json::from_str(&json)).transpose();
    Ok(Registration {
        name: header.name,
        service: header.service,
        format: format.map_err(|error| invalid(error.to_string()))?,
        signature: SignatureRequest { inputs: header.inputs, request: header.request, defaults },
        output: some(header.output),
        takes_matrix: header.takes_matrix,
        metrics: header.metrics.into_iter().collect(),
        training: training.map_err(|error: serde_json::Error| invalid(format!("training: {error}")))?,
        golden: some(header.golden),
        owner: some(header.owner),
        description: some(header.description),
    })
}
