//! One question, two answers: what were these features worth then (batch), and what are they worth now (online).
//!
//! ```text
//! names ──► resolve ──┬─► batch:  spine ⋈ tables at each row's time ──┬─► on-demand ──► answer
//!                     └─► online: keys  ─► online store at now ──────┘
//! ```
//!
//! Names, keys and options are resolved once for both; batch and online differ only in where rows come from.

mod answer;
mod batch;
mod online;
mod online_sides;
mod online_windows;
mod resolve;
mod spine;
mod waiting;
mod windows;

use std::sync::Arc;

use datafusion::error::DataFusionError;

use crate::compile::CompileError;
use crate::definition::{FeatureViewName, SourceName, ValueType, nearest};
use crate::error::ErrorKind;
use crate::offline_store::OfflineStoreError;
use crate::online_store::OnlineStoreError;
use crate::point_in_time_join::JoinError;
use crate::time::EventTimestamp;

pub use answer::{Answer, AnswerColumn, AnswerRef, OnlineAnswer, RequestColumns, StatusesRef, key_array};
pub use batch::{AskedTimes, BatchAnswer, BatchPlan, BatchRequest, BatchRetrieval, TableVersion};
pub use online::{OnlineRequest, OnlineRetrieval};
pub use resolve::{Catalog, FeatureSelection, Origin, OutputColumn, ResolvedRequest, ResolvedView};
pub use waiting::{Waiter, Waiting};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetrievalError {
    #[error(
        "version {version} of the event table of source `{name}` cannot be read: it was never written, or its files are vacuumed; leave the version out, or make the training set anew"
    )]
    NoEventVersion { name: SourceName, version: u64 },
    #[error("there is no {kind} `{name}`{}", suggestion(nearest, known))]
    Unknown { kind: &'static str, name: String, nearest: Option<String>, known: Vec<String> },
    #[error(
        "there is no feature service `{name}`: it is a feature view; ask for a list of features with `{name}` in it"
    )]
    ViewForService { name: String },
    #[error("no features are asked for; name a feature service, or features as `view:feature`")]
    NoFeatures,
    #[error(
        "{} the column `{column}`; {}",
        match first == second {
            true => format!("`{first}` is asked for twice, and each gives"),
            false => format!("`{first}` and `{second}` both give"),
        },
        match (full_feature_names, first == second) {
            (true, _) => "ask for it once, or give one of the views another name with `as`",
            (false, true) => "ask for it once, or give one of the views another name with `as` and ask with full feature names",
            (false, false) => "ask with full feature names, or give one of the views another name with `as` and ask with full feature names",
        }
    )]
    SameColumn { column: String, first: String, second: String, full_feature_names: bool },
    #[error(
        "request column `{column}` carries a {found} for one view and a {wanted} for `{view}`; map one of them to another column with `join_keys`"
    )]
    KeyTypes { column: String, view: FeatureViewName, found: ValueType, wanted: ValueType },
    #[error(
        "`{column}` is a join key of the request and one of its features; ask with full feature names, or rename the request column with `join_keys`"
    )]
    ColumnIsFeature { column: String },
    #[error("`{column}` is a join key and a request value of another type; rename one of them")]
    KeyAndValue { column: String },
    #[error(
        "column `{column}` is missing: it is a {role} of this request{}; the columns sent are {}",
        did_you_mean(nearest),
        listed(sent)
    )]
    MissingColumn { column: String, role: &'static str, nearest: Option<String>, sent: Vec<String> },
    #[error("column `{column}` is sent twice; send it once")]
    ColumnTwice { column: String },
    #[error("column `{column}` is sent and asked for as a feature; rename the column, or ask with full feature names")]
    ColumnClash { column: String },
    #[error("column `{column}` has {rows} rows and column `{first}` has {first_rows}; send columns of one length")]
    Lengths { column: String, rows: usize, first: String, first_rows: usize },
    #[error("column `{column}` is {found}, and {wanted} is needed{remedy}")]
    ColumnType { column: String, found: String, wanted: ValueType, remedy: &'static str },
    /// `row` counts from 0; messages count from 1.
    #[error("row {}: column `{column}` {problem}", row + 1)]
    ColumnValue { column: String, row: usize, problem: String },
    #[error(
        "the spine has no time column: {problem}; send one of timestamps, or of texts such as 2024-05-01T12:00:00Z, and name it with `timestamp_column`"
    )]
    TimeColumn { problem: String },
    #[error("feature view `{view}` is not materialized; run `asof materialize {view}`, or ask with `from_source`")]
    NotMaterialized { view: FeatureViewName },
    #[error(
        "version {version} of the table of feature view `{view}` cannot be read: it was never written, or its files are vacuumed; leave the version out, or make the training set anew"
    )]
    NoVersion { view: FeatureViewName, version: u64 },
    #[error("{problem}; ask with a spine instead")]
    NoSpine { problem: String },
    #[error(
        "online values are kept from {from} on, so what held at {now} cannot be told; ask a batch request, or set `history` of the online store"
    )]
    BeforeHistory { now: EventTimestamp, from: EventTimestamp },
    #[error("the definitions cannot be compiled")]
    Compile(#[from] CompileError),
    #[error("the offline store cannot be read")]
    OfflineStore(#[from] OfflineStoreError),
    #[error("the online store cannot be read")]
    OnlineStore(#[from] OnlineStoreError),
    #[error("events of an aggregation view cannot be added up")]
    Tile(#[from] crate::tile::TileError),
    #[error("the point-in-time join failed")]
    Join(#[from] JoinError),
    #[error("rows cannot be read")]
    Rows(#[source] Arc<DataFusionError>),
}

impl From<DataFusionError> for RetrievalError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(source) => match source.downcast::<JoinError>() {
                Ok(join) => RetrievalError::Join(*join),
                Err(source) => RetrievalError::Rows(Arc::new(DataFusionError::External(source))),
            },
            error => RetrievalError::Rows(Arc::new(error)),
        }
    }
}

impl From<arrow::error::ArrowError> for RetrievalError {
    fn from(error: arrow::error::ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl RetrievalError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            RetrievalError::Unknown { .. } | RetrievalError::ViewForService { .. } => ErrorKind::NotFound,
            RetrievalError::NotMaterialized { .. }
            | RetrievalError::NoVersion { .. }
            | RetrievalError::NoEventVersion { .. }
            | RetrievalError::BeforeHistory { .. } => ErrorKind::Precondition,
            RetrievalError::Compile(error) => error.kind(),
            RetrievalError::OfflineStore(error) => error.kind(),
            RetrievalError::OnlineStore(error) => error.kind(),
            RetrievalError::Tile(_) => ErrorKind::Internal,
            RetrievalError::Join(error) => error.kind(),
            RetrievalError::Rows(error) => match error.find_root() {
                DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
                DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            _ => ErrorKind::Invalid,
        }
    }

    fn unknown<'a>(kind: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<String> = known.map(str::to_owned).collect();
        let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        RetrievalError::Unknown { kind, name: name.to_owned(), nearest, known }
    }
}

/// How many known names an error lists.
const LISTED_MAX: usize = 8;

fn suggestion(nearest: &Option<String>, known: &[String]) -> String {
    match (nearest, known) {
        (Some(nearest), _) => format!("; did you mean `{nearest}`?"),
        (None, []) => "; none is applied yet".to_owned(),
        (None, known) => format!("; there are {}", listed(known)),
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".to_owned(),
        n if n > LISTED_MAX => format!("{} and {} more", shown.join(", "), n - LISTED_MAX),
        _ => shown.join(", "),
    }
}
