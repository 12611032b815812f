//! Prediction routes: what callers ask for, and which models answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Documentation, FeatureReference};
use super::names::RouteName;
use crate::time::duration_text;

/// A name that callers ask for predictions by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionRoute {
    pub name: RouteName,
    #[serde(flatten)]
    pub answer: RouteAnswer,
    /// Models that see what the route sees, and whose answers nobody waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    #[serde(default)]
    pub log: PredictionLog,
    #[serde(flatten)]
    pub documentation: Documentation,
}

/// Where a route's predictions come from. Models are references: `name`, `name@alias`, `name@version`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RouteAnswer {
    /// Models one after the other; the last one that runs answers.
    Steps {
        steps: Vec<Step>,
    },
    /// A feature that holds predictions; where it has no value, the fallback answers.
    Lookup {
        lookup: FeatureReference,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    Model {
        model: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub model: String,
    /// The prediction is an input of that name for the steps after it.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The model runs for rows that meet this condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The model for the other rows.
    #[serde(default, rename = "else", skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    pub model: String,
    /// Share of the predictions that it sees, 0 to 100.
    pub percent: f64,
    /// It sees rows that meet this condition.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    pub name: String,
    /// The column of the request whose values are assigned to variants.
    pub unit: String,
    pub variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    pub model: String,
    pub weight: f64,
}

/// How the predictions of a route are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionLog {
    /// Share of the predictions, 0 to 1.
    pub sample: f64,
    #[serde(default)]
    pub durability: LogDurability,
    /// How long they are kept; None: for ever.
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
}

impl Default for PredictionLog {
    fn default() -> Self {
        PredictionLog { sample: 1.0, durability: LogDurability::default(), retention: None }
    }
}

/// What an answered prediction's record survives; the strictest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogDurability {
    /// A crash of the machine.
    Machine,
    /// A crash of the server.
    #[default]
    Process,
    /// None: what was answered last may be lost.
    None,
}

impl PredictionRoute {
    /// The references to all models that the route may ask.
    pub fn models(&self) -> Vec<&str> {
        let mut models = match &self.answer {
            RouteAnswer::Model { model } => vec![model.as_str()],
            RouteAnswer::Lookup { fallback, .. } => fallback.iter().map(String::as_str).collect(),
            RouteAnswer::Steps { steps } => steps
                .iter()
                .flat_map(|step| std::iter::once(&step.model).chain(&step.otherwise))
                .map(String::as_str)
                .collect(),
        };
        models.extend(self.shadows.iter().map(|shadow| shadow.model.as_str()));
        models.extend(self.experiment.iter().flat_map(|experiment| &experiment.variants).map(|v| v.model.as_str()));
        models
    }
}
