//! The batch job: a view's rows from its sources into the offline store, and from there into the online store.
//!
//! ```text
//! sources ─► plan of the view ─► complete rows, sorted, each once ─► one Delta commit        (job.rs)
//!                                                                        │
//!                     tiles of aggregation views ◄─ what changed since their version ◄──┤        (tiles.rs)
//!                     online store ◄─ what changed since its position ◄──┘   (sync.rs, of windows also events.rs)
//! ```
//!
//! The two steps share nothing but the table: the second brings the online values from the version of the table
//! that they stand for to the newest one. So a job killed anywhere is repaired by the next one, and jobs that run
//! at once leave what one undisturbed job would.

mod events;
mod job;
mod rows;
mod sync;
mod tiles;

use datafusion::error::DataFusionError;

use crate::compile::CompileError;
use crate::definition::FeatureViewName;
use crate::error::ErrorKind;
use crate::offline_store::OfflineStoreError;
use crate::online_store::OnlineStoreError;

pub use job::{Bounds, Job, MaterializedView};
pub use rows::Progress;
pub use sync::{SyncedView, remove_unknown_views, sync_view};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterializationError {
    #[error("feature view `{view}` is not in the registry's state; run `asof apply`")]
    NotApplied { view: FeatureViewName },
    #[error("feature view `{view}` is being written by other runs all the time; run it again later")]
    Busy { view: FeatureViewName },
    #[error("feature view `{view}` cannot be compiled")]
    Compile { view: FeatureViewName, source: Box<CompileError> },
    #[error("rows of feature view `{view}` cannot be computed")]
    Rows { view: FeatureViewName, source: Box<DataFusionError> },
    #[error("the offline store failed")]
    OfflineStore(#[from] OfflineStoreError),
    #[error("the online store failed")]
    OnlineStore(#[from] OnlineStoreError),
    #[error("values of feature view `{view}` do not fit its schema: {problem}")]
    Schema { view: FeatureViewName, problem: String },
}

impl MaterializationError {
    /// Whether another run wrote meanwhile what this one is about: it is to be computed again.
    fn is_conflict(&self) -> bool {
        matches!(self, MaterializationError::OfflineStore(OfflineStoreError::Conflict { .. }))
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            MaterializationError::NotApplied { .. } => ErrorKind::Precondition,
            MaterializationError::Busy { .. } => ErrorKind::Conflict,
            MaterializationError::Compile { source, .. } => source.kind(),
            MaterializationError::Rows { source, .. } => match source.find_root() {
                DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
                DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
                // Values of a source that its declared types cannot hold.
                _ => ErrorKind::Corrupt,
            },
            MaterializationError::OfflineStore(error) => error.kind(),
            MaterializationError::OnlineStore(error) => error.kind(),
            MaterializationError::Schema { .. } => ErrorKind::Internal,
        }
    }
}
