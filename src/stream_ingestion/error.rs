//! What can go wrong with events on their way in.

use std::sync::Arc;

use crate::compile::CompileError;
use crate::definition::{FeatureViewName, SourceName, ValueType};
use crate::error::ErrorKind;
use crate::materialization::MaterializationError;
use crate::offline_store::OfflineStoreError;
use crate::online_store::OnlineStoreError;

#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IngestionError {
    #[error("there is no source `{name}`; {help}")]
    UnknownSource { name: String, help: String },
    #[error("source `{name}` takes no pushed rows: {reason}")]
    NotPushed { name: SourceName, reason: &'static str },
    #[error("source `{source_name}` has no column `{column}`{}", did_you_mean(nearest))]
    UnknownColumn { source_name: SourceName, column: String, nearest: Option<String> },
    #[error("column `{column}` of source `{source_name}` is missing; send it, with nulls where there is no value")]
    MissingColumn { source_name: SourceName, column: String },
    #[error("column `{column}` of source `{source_name}` is sent twice")]
    ColumnTwice { source_name: SourceName, column: String },
    #[error("column `{column}` of source `{source_name}` is {found}, declared {declared}: {remedy}")]
    ColumnType { source_name: SourceName, column: String, found: String, declared: ValueType, remedy: String },
    #[error(
        "column `{column}` of source `{source_name}` is {declared}, and its event table holds {found}; give the column another name, or move the table away"
    )]
    TableType { source_name: SourceName, column: String, found: String, declared: ValueType },
    #[error(
        "the event table of source `{source_name}` is not at {location} any more, where {found} is; bring it back (mount the folder, restore a backup), or go on without its events: `asof stream new-table {source_name}`"
    )]
    TableGone { source_name: SourceName, location: String, found: &'static str },
    #[error("the event table of source `{source_name}` is there; nothing has to begin anew")]
    TableThere { source_name: SourceName },
    #[error("source `{name}` takes no events now")]
    SourceClosed { name: SourceName, source: Box<IngestionError> },
    #[error("feature view `{view}` is not fed by its stream")]
    ViewClosed { view: FeatureViewName, source: Box<IngestionError> },
    #[error("more events wait to be stored than the server keeps ({bytes} bytes); try again in {} s", retry_after.as_secs())]
    Full { bytes: usize, retry_after: std::time::Duration },
    #[error("events cannot be written to the log {folder}; nothing of the push is stored")]
    Log { folder: String, source: Arc<std::io::Error> },
    #[error("the topic of source `{source_name}` cannot be read: {problem}")]
    Topic { source_name: SourceName, problem: String },
    #[error("feature view `{view}` cannot be fed by its stream")]
    View { view: FeatureViewName, source: Arc<CompileError> },
    #[error("events cannot be turned into rows of feature view `{view}`: {problem}")]
    Rows { view: FeatureViewName, problem: String },
    #[error("the offline store failed")]
    OfflineStore(#[source] Arc<OfflineStoreError>),
    #[error("the online store failed")]
    OnlineStore(#[source] Arc<OnlineStoreError>),
    #[error("the online values could not be made anew")]
    Materialization(#[source] Arc<MaterializationError>),
    #[error("ingestion has ended; send the events again")]
    Closed,
    #[error(
        "the events are stored, and are not visible yet; they will be once the server is started anew: do not send them again"
    )]
    NotVisible,
    #[error("events cannot be encoded: {problem}")]
    Encode { problem: String },
}

impl IngestionError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            IngestionError::UnknownSource { .. } => ErrorKind::NotFound,
            // What is unavailable is sent again.
            IngestionError::NotVisible
            | IngestionError::NotPushed { .. }
            | IngestionError::TableType { .. }
            | IngestionError::TableThere { .. } => ErrorKind::Precondition,
            IngestionError::UnknownColumn { .. }
            | IngestionError::MissingColumn { .. }
            | IngestionError::ColumnTwice { .. }
            | IngestionError::ColumnType { .. }
            | IngestionError::Topic { .. } => ErrorKind::Invalid,
            IngestionError::Full { .. } => ErrorKind::Exhausted,
            IngestionError::Log { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                ErrorKind::Corrupt
            }
            IngestionError::Log { .. } | IngestionError::Closed => ErrorKind::Unavailable,
            IngestionError::TableGone { .. } => ErrorKind::Unavailable,
            IngestionError::SourceClosed { source, .. } | IngestionError::ViewClosed { source, .. } => source.kind(),
            IngestionError::View { source, .. } => source.kind(),
            IngestionError::OfflineStore(error) => error.kind(),
            IngestionError::OnlineStore(error) => error.kind(),
            IngestionError::Materialization(error) => error.kind(),
            IngestionError::Rows { .. } | IngestionError::Encode { .. } => ErrorKind::Internal,
        }
    }
}

impl From<OfflineStoreError> for IngestionError {
    fn from(error: OfflineStoreError) -> Self {
        IngestionError::OfflineStore(Arc::new(error))
    }
}

impl From<OnlineStoreError> for IngestionError {
    fn from(error: OnlineStoreError) -> Self {
        IngestionError::OnlineStore(Arc::new(error))
    }
}

impl From<MaterializationError> for IngestionError {
    fn from(error: MaterializationError) -> Self {
        IngestionError::Materialization(Arc::new(error))
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
