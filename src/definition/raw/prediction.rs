//! Prediction routes as they are written.

use super::{Documentation, Named, Text, later};
use crate::diagnostics::Located;
use crate::yaml::{Entries, record};

use super::values::RawDuration;

definition! {
    /// What callers ask for predictions by, and which models answer.
    #[schemars(extend("anyOf" = [{"required": ["model"]}, {"required": ["steps"]}, {"required": ["lookup"]}]))]
    pub struct RawPredictionRoute as "prediction route", later later::NONE => {
        /// The model that answers: `name`, `name@alias` or `name@version`.
        pub model: Option<Text>,
        /// Models that see what the route sees, and whose answers are logged only.
        pub shadows: Option<Vec<RawShadow>>,
        /// Models that answer in the place of `model`, each for its share of some units.
        pub experiment: Option<RawExperiment>,
        /// How predictions are remembered; all of them, if not given.
        pub log: Option<RawPredictionLog>,
        /// Instead of `model`: models that feed each other.
        pub steps: Option<Located<Vec<RawStep>>>,
        /// Instead of `model`: a feature that holds predictions, `view:feature`.
        pub lookup: Option<Text>,
        /// With `lookup`: the model that answers where the feature has no value.
        pub fallback: Option<Text>,
    }
}

record! {
    /// A model that sees what a route sees.
    pub struct RawShadow as "shadow", later later::NONE => {
        /// `name`, `name@alias` or `name@version`.
        pub model: Text,
        /// Share of the predictions that it sees; 100 if not given.
        #[schemars(range(min = 0, max = 100))]
        pub percent: Option<Located<f64>>,
        /// An SQL condition over keys, request values and features: it sees rows that meet it.
        pub r#where: Option<Text>,
    }
}

record! {
    /// Models beside each other, each for its share of the units.
    pub struct RawExperiment as "experiment", later later::NONE => {
        /// By it and the unit the variant is chosen.
        pub name: Text,
        /// A column of requests: all rows with one value of it get one variant.
        pub unit: Text,
        /// At least one.
        pub variants: Located<Vec<RawVariant>>,
    }
}

record! {
    /// A model and its share.
    pub struct RawVariant as "variant", later later::NONE => {
        /// `name`, `name@alias` or `name@version`.
        pub model: Text,
        /// Its part of the sum of all weights.
        pub weight: Located<f64>,
    }
}

record! {
    /// How predictions are remembered.
    pub struct RawPredictionLog as "log", later later::NONE => {
        /// Share of the predictions, 0 to 1; all if not given.
        #[schemars(range(min = 0, max = 1))]
        pub sample: Option<Located<f64>>,
        /// What an answered prediction's record survives: a crash of the `machine` (if not given), of the `process`, or `none`.
        pub durability: Option<Text>,
        /// How long they are kept; for ever if not given.
        pub retention: Option<Located<RawDuration>>,
    }
}

record! {
    /// One model of several that feed each other.
    pub struct RawStep as "step", later later::NONE => {
        /// `name`, `name@alias` or `name@version`.
        pub model: Text,
        /// The prediction is an input of this name for the steps after it.
        pub r#as: Option<Text>,
        /// An SQL condition over keys, request values, features and earlier steps: the model runs for rows that meet it.
        pub when: Option<Text>,
        /// With `when`: the model for the other rows.
        pub r#else: Option<Text>,
    }
}
