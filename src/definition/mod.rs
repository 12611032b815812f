//! Definition files: text in, validated [`Definitions`] or [all that is wrong](DefinitionErrors) out.
//!
//! ```text
//! text ── yaml ──> raw records ── validate ──> Definitions
//! ```
//!
//! Opens no file and has not heard of Arrow: callers hand in the text of each file with its path for messages.

mod aggregation;
mod listing;
mod model;
mod names;
mod parse;
mod positions;
mod prediction;
mod raw;
mod stream;
mod validate;
mod value_type;

pub use crate::diagnostics::Diagnostic;
pub use aggregation::{AggregateFunction, Aggregation, ParseWindowError, Percentiles, Window};
pub use listing::{KINDS, ListedDefinition, listed};
pub use model::*;
pub use names::{EntityName, FeatureServiceName, FeatureViewName, RouteName, SourceName, is_valid_name, nearest};
pub use parse::{DefinitionErrors, DefinitionFile, json_schema, parse_definitions, parse_located};
pub use positions::{Owner, Part, Positions};
pub use prediction::{Experiment, LogDurability, PredictionLog, PredictionRoute, RouteAnswer, Shadow, Step, Variant};
pub use stream::{DEDUPLICATE_FOR_DEFAULT, EventFormat, KafkaTopic, Stream, StreamInput};
pub use value_type::{ParseTypeError, ValueType};

#[cfg(test)]
mod tests;
