//! Definitions to DataFusion plans and expressions.
//!
//! ```text
//! source  ──► its rows under their names here, instants in microseconds UTC      (source.rs)
//! view    ──► join keys, event_timestamp, created_timestamp, features, in a range (view.rs)
//! on-demand view ──► one physical expression a feature, for both stores           (on_demand.rs, expression.rs)
//! ```
//!
//! Reads schemas of files to check declared types against them; runs no job.

mod adapt;
mod aggregation;
mod as_stored;
mod attempt;
mod expression;
mod files;
mod floor_timestamp;
mod message;
mod on_demand;
mod open;
mod row_files;
mod source;
mod view;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::definition::{FeatureViewName, Owner, Part, SourceName, ValueType};
use crate::error::ErrorKind;
use crate::text_files::TextFileError;

pub use adapt::{TypeMismatch, adapt_array, adapt_values};
pub use aggregation::{EventPlaces, RowProblems, SharedEvents};
pub use message::SqlProblem;
pub use on_demand::{OnDemandPlan, on_demand_inputs};
pub use open::parquet_table;
pub use source::Compiler;
pub use view::{CompiledView, table_schema, view_join_keys};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    #[error("source `{name}` has no batch location; rows cannot be read from it")]
    NoBatchLocation { name: SourceName },
    #[error("source `{name}` cannot be read from `{path}`")]
    Unreadable { name: SourceName, path: String, source: Box<SourceFilesError> },
    #[error("{owner} needs column `{column}`, which {place} does not have{}", did_you_mean(nearest))]
    MissingColumn { owner: Owner, column: String, place: String, nearest: Option<String> },
    #[error("source `{name}`: its columns `{first}` and `{second}` are both called `{column}`; `rename` one of them")]
    SameColumn { name: SourceName, column: String, first: String, second: String },
    #[error("{owner}: column `{column}` is {}, declared {}: {}", mismatch.found, mismatch.declared, mismatch.remedy)]
    Type { owner: Owner, column: String, mismatch: TypeMismatch },
    #[error(
        "feature view `{view}`: its sources are static, so its query cannot have an `event_timestamp`; set `event_timestamp` on the source"
    )]
    StaticWithTimestamp { view: FeatureViewName },
    #[error("feature view `{view}`: its SQL cannot be compiled: {problem}")]
    Sql { view: FeatureViewName, problem: SqlProblem },
    #[error(
        "feature view `{view}`: its SQL calls `{function}`, whose result changes from run to run, so that the same run again would give other values; use a column, or `$start` and `$end`"
    )]
    VolatileSql { view: FeatureViewName, function: String },
    #[error("on-demand feature `{view}:{feature}`: its expression cannot be compiled: {problem}")]
    Expression { view: FeatureViewName, feature: String, problem: SqlProblem },
    #[error(
        "on-demand feature `{view}:{feature}` has {what}, and an expression sees one row; compute that in a feature view with `sql`"
    )]
    NotOfOneRow { view: FeatureViewName, feature: String, what: String },
    #[error(
        "on-demand feature `{view}:{feature}` calls `{function}`, whose result changes from call to call; batch and online answers would differ"
    )]
    Volatile { view: FeatureViewName, feature: String, function: String },
    #[error("on-demand feature `{view}:{feature}` gives {found}, declared {declared}; cast it in the expression")]
    ExpressionType { view: FeatureViewName, feature: String, found: String, declared: ValueType },
    #[error("feature view `{view}`: {} cannot be compiled: {problem}", said(part))]
    AggregationExpression { view: FeatureViewName, part: Part, problem: SqlProblem },
    #[error("feature view `{view}`: aggregation `{aggregate}`: {problem}")]
    AggregateInput { view: FeatureViewName, aggregate: String, part: Part, problem: String },
    #[error("feature view `{view}`: its `where` is {found}; write a condition, which is true or false")]
    Condition { view: FeatureViewName, found: String },
    #[error(
        "source `{name}`: its `event_id` `{column}` is {found}, and ids are compared exactly; use bool, int32, int64, string, bytes, timestamp or date"
    )]
    EventId { name: SourceName, column: String, found: ValueType },
    #[error(
        "source `{name}`: column `{column}` is {declared}, and its event table holds {stored}, which the events to come would have to fit; leave it as it is and give the new values another name, as in `{column}_2`"
    )]
    EventTableType { name: SourceName, column: String, declared: ValueType, stored: String },
    #[error("the plan cannot be built")]
    Plan(#[from] Box<DataFusionError>),
}

impl CompileError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            CompileError::Unreadable { source, .. } => source.kind(),
            CompileError::Plan(_) => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }

    /// What has to be changed; `None` if no definition has to be.
    pub fn place(&self) -> Option<Place> {
        let place = |owner, part| Some(Place { owner, part, within: None });
        let view = |view: &FeatureViewName, part| place(Owner::FeatureView(view.clone()), part);
        let on_demand = |view: &FeatureViewName, part| place(Owner::OnDemandFeatureView(view.clone()), part);
        let source = |name: &SourceName, part| place(Owner::Source(name.clone()), part);
        match self {
            CompileError::NoBatchLocation { name } => source(name, Part::Name),
            CompileError::Unreadable { name, .. } => source(name, Part::Input),
            CompileError::SameColumn { name, column, first, second } => {
                let renamed = if first == column { second } else { first };
                source(name, Part::Column(renamed.clone()))
            }
            CompileError::EventTableType { name, column, .. } => source(name, Part::ColumnType(column.clone())),
            CompileError::EventId { name, column, .. } => source(name, Part::Column(column.clone())),
            CompileError::MissingColumn { owner, column, .. } => place(owner.clone(), Part::Column(column.clone())),
            CompileError::Type { owner, column, .. } => place(owner.clone(), Part::ColumnType(column.clone())),
            CompileError::StaticWithTimestamp { view: name } | CompileError::VolatileSql { view: name, .. } => {
                view(name, Part::Input)
            }
            CompileError::Sql { view: name, problem } => Some(Place { within: problem.at, ..view(name, Part::Input)? }),
            CompileError::Expression { view, feature, problem } => {
                Some(Place { within: problem.at, ..on_demand(view, Part::Expression(feature.clone()))? })
            }
            CompileError::NotOfOneRow { view, feature, .. } | CompileError::Volatile { view, feature, .. } => {
                on_demand(view, Part::Expression(feature.clone()))
            }
            CompileError::AggregationExpression { view: name, part, problem } => {
                Some(Place { within: problem.at, ..view(name, part.clone())? })
            }
            CompileError::AggregateInput { view: name, part, .. } => view(name, part.clone()),
            CompileError::Condition { view: name, .. } => view(name, Part::Where),
            CompileError::ExpressionType { view, feature, .. } => on_demand(view, Part::ColumnType(feature.clone())),
            CompileError::Plan(_) => None,
        }
    }
}

/// A part of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub owner: Owner,
    pub part: Part,
    /// Line and column of the part's own text, both from 1.
    pub within: Option<(usize, usize)>,
}

impl From<DataFusionError> for CompileError {
    fn from(error: DataFusionError) -> Self {
        CompileError::Plan(Box::new(error))
    }
}

/// Why the files of a source cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceFilesError {
    #[error("there is no such file, nor a folder with files")]
    Missing,
    #[error("the folder itself has no {endings} file; name those below it with a glob such as `**/*{ending}`")]
    EmptyFolder { endings: String, ending: &'static str },
    #[error("no file matches; `*` matches within one folder, `**` crosses folders")]
    NoMatch,
    #[error("{problem}")]
    Location { problem: String },
    #[error("`{file}` is no Parquet file that can be read")]
    Parquet { file: String, source: Box<DataFusionError> },
    #[error("`{file}` has the column `{column}` twice; give one of them another name")]
    ColumnTwice { file: String, column: String },
    #[error("`{file}` has columns of other types than the files before it")]
    Types { file: String, source: ArrowError },
    #[error(transparent)]
    Text(TextFileError),
    #[error(transparent)]
    Other(Box<DataFusionError>),
}

impl SourceFilesError {
    fn kind(&self) -> ErrorKind {
        match self {
            SourceFilesError::Parquet { source, .. } | SourceFilesError::Other(source) => match source.find_root() {
                DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Invalid,
            },
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<DataFusionError> for SourceFilesError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<TextFileError>() {
                Ok(text) => SourceFilesError::Text(*text),
                Err(inner) => SourceFilesError::Other(Box::new(DataFusionError::External(inner))),
            },
            other => SourceFilesError::Other(Box::new(other)),
        }
    }
}

impl From<object_store::Error> for SourceFilesError {
    fn from(error: object_store::Error) -> Self {
        DataFusionError::from(error).into()
    }
}

/// What a part of an aggregation view is called in messages.
fn said(part: &Part) -> &'static str {
    match part {
        Part::Where => "its `where`",
        Part::AggregationBy(_) => "a `by`",
        _ => "an `input`",
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
