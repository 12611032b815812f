//! Why a prediction cannot be made.

use crate::definition::{ValueType, nearest};
use crate::error::ErrorKind;
use crate::model_registry::ModelRegistryError;
use crate::model_runtime::ModelError;
use crate::offline_store::OfflineStoreError;
use crate::retrieval::RetrievalError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictionError {
    #[error("there is no route or model `{name}`{}", hint(nearest))]
    UnknownRoute { name: String, nearest: Option<String> },
    #[error("route `{route}` cannot answer: {problem}")]
    RouteUnavailable { route: String, problem: String },
    #[error(
        "the request carries no value for `{input}`, which model `{model}` takes from it; send it, or register the model with a default"
    )]
    MissingInput { model: String, input: String },
    #[error("row {}: `{input}` is {found}, and model `{model}` takes {wanted}", row + 1)]
    InputType { model: String, input: String, row: usize, found: String, wanted: &'static str },
    #[error(
        "column `{column}` is neither a join key, nor a request value, nor an input of the route's models{}",
        hint(nearest)
    )]
    UnknownColumn { column: String, nearest: Option<String> },
    #[error("{rows} rows are sent with {ids} prediction ids; send one a row, or none")]
    PredictionIds { rows: usize, ids: usize },
    #[error("route `{route}` is asked twice in one request")]
    RouteTwice { route: String },
    #[error("model `{model}` of a step answers {width} numbers, and the steps after it read one")]
    StepWidth { model: String, width: usize },
    #[error("`{lookup}` has type {value_type}, and the fallback answers numbers")]
    Fallback { lookup: String, value_type: ValueType },
    #[error("input `{input}` is sent twice, as `{first}` and as `{second}`; send one of them")]
    SentTwice { input: String, first: String, second: String },
    #[error("row {}: the prediction id is empty; send one, or none at all", row + 1)]
    EmptyId { row: usize },
    #[error("row {}: the prediction id has {bytes} bytes; ids have {max} at most", row + 1)]
    LongId { row: usize, bytes: usize, max: usize },
    #[error("prediction id `{id}` is sent for two rows")]
    SameId { id: String },
    #[error("a request has columns of rows, and at least one row")]
    NoRows,
    #[error("the condition `{text}` cannot be compiled: {problem}")]
    Condition { text: String, problem: String },
    #[error("the experiment's unit `{unit}` is no column of the request")]
    NoUnit { unit: String },
    #[error("the prediction log cannot be written")]
    Log(#[source] std::io::Error),
    #[error("the prediction log ended")]
    LogClosed,
    #[error("there is no prediction `{id}` in the log")]
    UnknownPrediction { id: String },
    #[error("rows cannot be put together: {0}")]
    Rows(String),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Models(#[from] ModelRegistryError),
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    #[error(transparent)]
    OfflineStore(#[from] OfflineStoreError),
}

impl PredictionError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            PredictionError::UnknownRoute { .. } | PredictionError::UnknownPrediction { .. } => ErrorKind::NotFound,
            PredictionError::RouteUnavailable { .. }
            | PredictionError::StepWidth { .. }
            | PredictionError::Fallback { .. } => ErrorKind::Precondition,
            PredictionError::Log(_) | PredictionError::LogClosed => ErrorKind::Unavailable,
            PredictionError::Rows(_) => ErrorKind::Internal,
            PredictionError::Model(error) => error.kind(),
            PredictionError::Models(error) => error.kind(),
            PredictionError::Retrieval(error) => error.kind(),
            PredictionError::OfflineStore(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }

    /// `known`: the columns that there may be.
    pub fn unknown_column<'a>(column: &str, known: impl Iterator<Item = &'a String>) -> Self {
        let nearest = nearest(column, known.map(String::as_str)).map(str::to_owned);
        PredictionError::UnknownColumn { column: column.to_owned(), nearest }
    }

    pub fn unknown_route<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        PredictionError::UnknownRoute { name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
    }
}

impl From<arrow::error::ArrowError> for PredictionError {
    fn from(error: arrow::error::ArrowError) -> Self {
        PredictionError::Rows(error.to_string())
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
