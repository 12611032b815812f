//! Which event tables there are: a table that was there is not made anew where it is missing.
//!
//! ```text
//! FOLDER/tables.json    the id of each source's event table, by source
//! ```
//!
//! It stands in the folder of the log, whose positions the tables have.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::IngestionError;
use crate::definition::SourceName;
use crate::offline_store::{EventKind, EventTable, OfflineStore};

/// What is found in place of a table.
pub const NO_TABLE: &str = "no table";
const ANOTHER_TABLE: &str = "another one";
const FILE: &str = "tables.json";

#[derive(Debug, Default)]
pub struct KnownTables {
    folder: PathBuf,
    ids: Mutex<BTreeMap<String, String>>,
}

impl KnownTables {
    /// Reads what is known; `folder` is that of the log.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let ids = match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(KnownTables { folder: folder.to_owned(), ids: Mutex::new(ids) })
    }

    /// The id of a source's table, if it was ever there.
    pub fn id(&self, source: &SourceName) -> Option<String> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(source.as_str()).cloned()
    }

    /// A source's event table; one that is seen for the first time is known from then on.
    ///
    /// # Errors
    /// A table that cannot be read, that is gone, or that is another one.
    pub async fn open(&self, store: &OfflineStore, source: &SourceName) -> Result<Option<EventTable>, IngestionError> {
        let table = store.event_table(EventKind::Accepted, source).await?;
        let found = table.as_ref().map(EventTable::id).transpose()?;
        let gone = |found| IngestionError::TableGone {
            source_name: source.clone(),
            location: store.event_url(EventKind::Accepted, source).to_string(),
            found,
        };
        match (self.id(source), found) {
            (Some(_), None) => Err(gone(NO_TABLE)),
            (Some(known), Some(found)) if known != found => Err(gone(ANOTHER_TABLE)),
            (None, Some(found)) => {
                self.set(source, Some(found))?;
                Ok(table)
            }
            _ => Ok(table),
        }
    }

    /// The table of a source has this id from now on; None: whatever table there is, or comes to be.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn set(&self, source: &SourceName, id: Option<String>) -> Result<(), IngestionError> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = ids.clone();
        match id {
            Some(id) => changed.insert(source.as_str().to_owned(), id),
            None => changed.remove(source.as_str()),
        };
        if *ids != changed {
            let failed =
                |error| IngestionError::Log { folder: self.folder.display().to_string(), source: Arc::new(error) };
            self.write(&changed).map_err(failed)?;
            *ids = changed;
        }
        Ok(())
    }

    fn write(&self, ids: &BTreeMap<String, String>) -> io::Result<()> {
        let fresh = self.folder.join("tables.json.new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(ids)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, self.folder.join(FILE))?;
        std::fs::File::open(&self.folder)?.sync_all()
    }
}
