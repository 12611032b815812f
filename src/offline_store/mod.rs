//! Delta tables: one per feature view, every value with its time; and of streams the events, and those refused.
//!
//! ```text
//! sorted rows ──► replace::replace_range ──► views/NAME, tiles/NAME (Delta) ──► table::ViewTable ──► scan at a version
//! events ───────► events::append ─────────► sources/NAME, dead_letters/NAME ──► events::EventTable
//! ```
//!
//! A table's rows are what one run after another computed for ranges of event time. A run replaces its range in
//! one commit, so a range done twice, or by two runs at once, holds what one undisturbed run would have written.
//! What the rows stand for travels in the same commit, as Delta application transactions ([`TableState`]).
//! Knows nothing of sources, of feature definitions beyond names, or of the online store.

mod events;
mod optimize;
mod replace;
mod table;
mod vacuum;

use std::collections::HashMap;
use std::error::Error;
use std::io;

use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use url::Url;

use crate::definition::{FeatureViewName, SourceName};
use crate::error::ErrorKind;

pub use events::{Appended, EventKind, EventTable, Places, Reach, RowPlace, event_providers};
pub use optimize::Optimized;
use replace::is_conflict;
pub use replace::{PAGE_ROWS_MAX, Replaced, Replacement};
pub use table::{Changed, CommittedRange, DerivedFrom, TableState, ViewTable};

/// The tables of a project, under one folder or object-store URL.
#[derive(Debug, Clone)]
pub struct OfflineStore {
    root: Url,
    /// Below the root.
    folder: &'static str,
}

/// Tables of the rows of views.
const VIEWS_FOLDER: &str = "views";
/// Tables of what the events of views add up to.
const TILES_FOLDER: &str = "tiles";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineStoreError {
    #[error("`{location}` is neither a folder nor an object-store URL that this build can open")]
    Location { location: String, source: Box<DeltaTableError> },
    #[error("table of feature view `{view}` cannot be {action}")]
    Table { view: FeatureViewName, action: &'static str, source: Box<DeltaTableError> },
    #[error("{kind} of source `{name}` cannot be {action}")]
    Events { kind: EventKind, name: SourceName, action: &'static str, source: Box<DeltaTableError> },
    #[error("table of feature view `{view}` has been written by another run meanwhile")]
    Conflict { view: FeatureViewName },
    #[error("rows for the table of feature view `{view}` cannot be computed")]
    Rows { view: FeatureViewName, source: Box<datafusion::error::DataFusionError> },
}

impl OfflineStoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            OfflineStoreError::Location { .. } => ErrorKind::Invalid,
            OfflineStoreError::Conflict { .. } => ErrorKind::Conflict,
            OfflineStoreError::Table { source, .. } | OfflineStoreError::Events { source, .. } => match source.as_ref()
            {
                // Others commit to it all the time.
                error if is_conflict(error) => ErrorKind::Conflict,
                error if is_of_storage(error) => ErrorKind::Unavailable,
                _ => ErrorKind::Corrupt,
            },
            OfflineStoreError::Rows { .. } => ErrorKind::Internal,
        }
    }
}

/// Whether the storage refused, and not what it holds: it is not reached, full, read-only.
fn is_of_storage(error: &DeltaTableError) -> bool {
    let first: &(dyn Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |&error| error.source());
    causes.any(|cause| match cause.downcast_ref::<io::Error>() {
        Some(error) => !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        None => matches!(
            cause.downcast_ref::<DeltaTableError>(),
            Some(DeltaTableError::ObjectStore { .. } | DeltaTableError::Io { .. })
        ),
    })
}

impl OfflineStore {
    /// `location` is an absolute folder or an object-store URL; nothing is created before the first write.
    ///
    /// # Errors
    /// [`OfflineStoreError::Location`] for what cannot be a root of tables.
    pub fn open(location: &str) -> Result<Self, OfflineStoreError> {
        let mut root = table_root(location).map_err(|source| OfflineStoreError::Location {
            location: location.to_owned(),
            source: Box::new(source),
        })?;
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        Ok(OfflineStore { root, folder: VIEWS_FOLDER })
    }

    /// The tables that hold, for each aggregation view, the tiles of the events in its own table.
    pub fn tiles(&self) -> OfflineStore {
        OfflineStore { root: self.root.clone(), folder: TILES_FOLDER }
    }

    /// Where the table of `view` stands.
    pub fn view_url(&self, view: &FeatureViewName) -> Url {
        self.root.join(&format!("{}/{view}/", self.folder)).expect("a valid name is a valid path segment")
    }

    /// The newest version of the view's table; None where no run has written one.
    pub async fn view_table(&self, view: &FeatureViewName) -> Result<Option<ViewTable>, OfflineStoreError> {
        self.load(view, None).await
    }

    /// The table of `view` as it was at `version`; None where the version cannot be read any more.
    pub async fn view_table_at(
        &self,
        view: &FeatureViewName,
        version: u64,
    ) -> Result<Option<ViewTable>, OfflineStoreError> {
        match self.load(view, Some(version)).await {
            Err(OfflineStoreError::Table { .. }) => Ok(None),
            loaded => loaded,
        }
    }

    async fn load(&self, view: &FeatureViewName, version: Option<u64>) -> Result<Option<ViewTable>, OfflineStoreError> {
        let failed = |source| OfflineStoreError::Table { view: view.clone(), action: "read", source: Box::new(source) };
        let mut table = self.unloaded(view).map_err(failed)?;
        if version.is_none() && !table_exists(&table).await.map_err(failed)? {
            return Ok(None);
        }
        let loaded = match version {
            Some(version) => table.load_version(version).await,
            None => table.load().await,
        };
        match loaded {
            Ok(()) => ViewTable::new(view.clone(), table).await.map(Some).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    fn unloaded(&self, view: &FeatureViewName) -> Result<DeltaTable, DeltaTableError> {
        DeltaTableBuilder::from_url(self.view_url(view))?.with_storage_options(HashMap::new()).build()
    }
}

/// A table (or folder of tables) from a path or URL; a path need not exist.
fn table_root(location: &str) -> Result<Url, DeltaTableError> {
    if location.contains("://") {
        return Url::parse(location).map_err(|error| DeltaTableError::InvalidTableLocation(error.to_string()));
    }
    Url::from_directory_path(location)
        .map_err(|()| DeltaTableError::InvalidTableLocation(format!("`{location}` is not an absolute path")))
}

/// Whether a commit stands at the table's place; a local folder need not exist.
async fn table_exists(table: &DeltaTable) -> Result<bool, DeltaTableError> {
    match table.table_url().to_file_path() {
        Ok(folder) if !folder.join("_delta_log").is_dir() => Ok(false),
        _ => table.verify_deltatable_existence().await,
    }
}
