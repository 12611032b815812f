//! Definitions to DataFusion plans and expressions.
//!
//! ```text
//! source  ──► its rows under their names here, instants in microseconds UTC      (source.rs)
//! view    ──► join keys, event_timestamp, created_timestamp, features, in a range (view.rs)
//! on-demand view ──► one physical expression a feature, for both stores           (on_demand.rs)
//! ```
//!
//! Reads schemas of files to check declared types against them; runs no job.

mod adapt;
mod floor_timestamp;
mod on_demand;
mod source;
mod view;

use datafusion::error::DataFusionError;

use crate::definition::{FeatureViewName, SourceName, ValueType};
use crate::error::ErrorKind;

pub use adapt::{TypeMismatch, adapt_array};
pub use on_demand::{OnDemandPlan, on_demand_inputs};
pub use source::Compiler;
pub use view::{CompiledView, table_schema, view_join_keys};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    #[error("source `{name}` has no batch location; rows cannot be read from it")]
    NoBatchLocation { name: SourceName },
    #[error("source `{name}` cannot be read from `{path}`")]
    Unreadable { name: SourceName, path: String, source: Box<DataFusionError> },
    #[error("{owner} needs column `{column}`, which {place} does not have{}", did_you_mean(nearest))]
    MissingColumn { owner: String, column: String, place: String, nearest: Option<String> },
    #[error("{owner}: column `{column}` is {}, declared {}: {}", mismatch.found, mismatch.declared, mismatch.remedy)]
    Type { owner: String, column: String, mismatch: TypeMismatch },
    #[error(
        "feature view `{view}`: its sources are static, so its query cannot have an `event_timestamp`; set `event_timestamp` on the source"
    )]
    StaticWithTimestamp { view: FeatureViewName },
    #[error("feature view `{view}`: its SQL cannot be compiled")]
    Sql { view: FeatureViewName, source: Box<DataFusionError> },
    #[error("on-demand feature `{view}:{feature}`: its expression cannot be compiled")]
    Expression { view: FeatureViewName, feature: String, source: Box<DataFusionError> },
    #[error(
        "on-demand feature `{view}:{feature}` calls `{function}`, whose result changes from call to call; batch and online answers would differ"
    )]
    Volatile { view: FeatureViewName, feature: String, function: String },
    #[error("on-demand feature `{view}:{feature}` gives {found}, declared {declared}; cast it in the expression")]
    ExpressionType { view: FeatureViewName, feature: String, found: String, declared: ValueType },
    #[error("the plan cannot be built")]
    Plan(#[from] Box<DataFusionError>),
}

impl CompileError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            CompileError::Unreadable { source, .. } => match source.find_root() {
                DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Invalid,
            },
            CompileError::Plan(_) => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<DataFusionError> for CompileError {
    fn from(error: DataFusionError) -> Self {
        CompileError::Plan(Box::new(error))
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
