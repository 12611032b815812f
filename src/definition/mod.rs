//! Definition files: text in, validated [`Definitions`] or [diagnostics](DefinitionError) out.
//!
//! Opens no file and has not heard of Arrow: callers hand in the text of each file with its path for messages.

mod model;
mod names;
mod value_type;

pub use model::*;
pub use names::{EntityName, FeatureServiceName, FeatureViewName, SourceName, is_valid_name, nearest};
pub use value_type::{ParseTypeError, ValueType};
