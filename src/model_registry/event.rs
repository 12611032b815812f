//! What happens to models, as the files of the log say it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::binding::BoundInput;
use crate::model_runtime::ModelFormat;
use crate::time::EventTimestamp;

/// Format of the files. Raise it with every change that an older reader would misunderstand.
pub(super) const FORMAT_VERSION: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EventFile {
    pub format_version: u64,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    Registered(Box<ModelVersion>),
    AliasMoved { model: String, alias: String, from: Option<u64>, to: Option<u64> },
    Retired { model: String, version: u64 },
}

/// One version of a model: never changed once registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    pub model: String,
    /// From 1, without gaps.
    pub version: u64,
    pub format: ModelFormat,
    /// Of the model's bytes, in hexadecimal.
    pub sha256: String,
    pub bytes: u64,
    /// The feature service whose features it reads.
    pub service: String,
    /// The definitions that its signature was checked against.
    pub registry_version: u64,
    /// In the order of the model.
    pub inputs: Vec<BoundInput>,
    /// Of ONNX: the output that is the prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Numbers of one prediction, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_width: Option<usize>,
    /// Whether callers of the Open Inference Protocol send one matrix instead of a tensor an input.
    #[serde(default)]
    pub takes_matrix: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained on, as the caller says: such as the record of a training set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<Golden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Rows whose predictions were checked at the registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    pub rows: usize,
    /// Of the artefact that holds them.
    pub sha256: String,
}

/// One move of an alias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AliasMove {
    pub at: EventTimestamp,
    pub from: Option<u64>,
    /// None: the alias was removed.
    pub to: Option<u64>,
}
