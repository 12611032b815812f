//! What is remembered of a prediction.

use std::sync::Arc;

use crate::point_in_time_join::FeatureStatus;
use crate::prediction::inputs::Origin;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary = 1,
    Shadow = 2,
    Variant = 3,
    /// A model of a route of several whose prediction went into another one.
    Step = 4,
    /// No model: a feature answered.
    Lookup = 5,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Shadow => "shadow",
            Role::Variant => "variant",
            Role::Step => "step",
            Role::Lookup => "lookup",
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Self> {
        let roles = [Role::Primary, Role::Shadow, Role::Variant, Role::Step, Role::Lookup];
        roles.into_iter().find(|role| *role as u8 == number)
    }
}

/// One model's answers to some rows of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// Microseconds since the Unix epoch.
    pub sent_at: i64,
    pub route: String,
    /// Empty, and the version 0: a feature answered.
    pub model: String,
    pub version: u64,
    pub role: Role,
    /// Of a variant: the experiment.
    pub experiment: Option<String>,
    pub registry_version: u64,
    pub latency_us: u64,
    pub keys: Vec<String>,
    pub inputs: Arc<[String]>,
    pub rows: Vec<RecordRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RecordRow {
    pub prediction_id: String,
    /// One a key.
    pub keys: Vec<Option<String>>,
    /// One an input.
    pub values: Vec<RecordValue>,
    pub prediction: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RecordValue {
    /// NaN: missing, or a text.
    pub number: f64,
    pub text: Option<String>,
    pub origin: Origin,
    pub status: Option<FeatureStatus>,
    pub event_timestamp: Option<i64>,
}

/// One prediction, as it is read from the table.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    pub sent_at: i64,
    pub prediction_id: String,
    pub route: String,
    pub model: String,
    pub version: u64,
    pub role: String,
    pub experiment: Option<String>,
    /// A JSON object.
    pub entity_keys: String,
    pub features: Vec<LogValue>,
    pub prediction: Vec<f64>,
    pub defaults_used: Vec<String>,
    pub latency_us: u64,
    pub registry_version: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogValue {
    pub name: String,
    pub number: Option<f64>,
    pub text: Option<String>,
    pub status: Option<String>,
    pub origin: String,
    pub event_timestamp: Option<i64>,
}
