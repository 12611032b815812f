//! Why a command failed.

use std::error::Error;
use std::path::PathBuf;

use tonic::Code;

use crate::compile::CompileError;
use crate::definition::DefinitionErrors;
use crate::error::ErrorKind;
use crate::materialization::MaterializationError;
use crate::model_registry::ModelRegistryError;
use crate::offline_store::OfflineStoreError;
use crate::online_store::{OnlineStoreError, SnapshotError};
use crate::prediction::PredictionError;
use crate::registry::RegistryError;
use crate::retrieval::RetrievalError;
use crate::serving::ServeError;
use crate::serving::tokens::TokenError;
use crate::stream_ingestion::IngestionError;
use crate::time::TimeError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    #[error("there is no asof.yaml in `{}` or above it; run `asof init`, or name the project's folder with --project", folder.display())]
    NoProject { folder: PathBuf },
    #[error("{}", .0)]
    Definitions(DefinitionErrors),
    #[error("nothing is applied yet; run `asof apply`")]
    NothingApplied,
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("cannot {action}")]
    Io { action: String, source: std::io::Error },
    #[error("`{file}`: {problem}")]
    Data { file: String, problem: String },
    #[error("`{file}` cannot be written")]
    Write { file: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the server at {address} cannot be reached")]
    Unreachable { address: String, source: tonic::transport::Error },
    #[error("the server at {address} does not answer within {} s; it may be stopped or overloaded", patience.as_secs())]
    NoAnswer { address: String, patience: std::time::Duration },
    #[error("the server does not answer any more; it may be stopped, overloaded or gone: {}", .0.message())]
    Lost(Box<tonic::Status>),
    #[error("{}", .0.message())]
    Server(Box<tonic::Status>),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Models(#[from] ModelRegistryError),
    #[error(transparent)]
    Prediction(#[from] PredictionError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    OfflineStore(#[from] OfflineStoreError),
    #[error(transparent)]
    OnlineStore(#[from] OnlineStoreError),
    #[error(transparent)]
    Materialization(#[from] MaterializationError),
    #[error(transparent)]
    Ingestion(#[from] IngestionError),
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Tokens(#[from] TokenError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Engine(#[from] Box<datafusion::error::DataFusionError>),
}

impl CliError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            CliError::NoProject { .. } | CliError::Definitions(_) | CliError::Usage(_) | CliError::Time(_) => {
                ErrorKind::Invalid
            }
            CliError::Data { .. } => ErrorKind::Invalid,
            CliError::NotFound(_) => ErrorKind::NotFound,
            CliError::NothingApplied | CliError::Refused(_) => ErrorKind::Precondition,
            CliError::Io { .. } | CliError::Write { .. } => ErrorKind::Unavailable,
            CliError::Unreachable { .. } | CliError::NoAnswer { .. } => ErrorKind::Unavailable,
            CliError::Lost(_) => ErrorKind::Unavailable,
            CliError::Server(status) => crate::serving::status::kind_of(status.code()),
            CliError::Failed(_) | CliError::Engine(_) => ErrorKind::Internal,
            CliError::Compile(error) => error.kind(),
            CliError::Models(error) => error.kind(),
            CliError::Prediction(error) => error.kind(),
            CliError::Registry(error) => error.kind(),
            CliError::OfflineStore(error) => error.kind(),
            CliError::OnlineStore(error) => error.kind(),
            CliError::Materialization(error) => error.kind(),
            CliError::Ingestion(error) => error.kind(),
            CliError::Retrieval(error) => error.kind(),
            CliError::Serve(error) => error.kind(),
            CliError::Tokens(error) => error.kind(),
            CliError::Snapshot(error) => error.kind(),
        }
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        // What the server sends has no source, and no deadline is its own.
        let is_lost = status.source().is_some() || matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded);
        if is_lost { CliError::Lost(Box::new(status)) } else { CliError::Server(Box::new(status)) }
    }
}
