//! Deleting what nobody reads any more.

use deltalake::DeltaTableError;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{OfflineStore, OfflineStoreError};
use crate::definition::FeatureViewName;

impl OfflineStore {
    /// Deletes the table of a removed view.
    pub async fn delete_view_table(&self, view: &FeatureViewName) -> Result<(), OfflineStoreError> {
        let failed = |source: DeltaTableError| self.failed_to_delete(view, source);
        let store = self.unloaded(view).map_err(failed)?.object_store();
        let listed = store.list(None).map_ok(|object| object.location);
        let paths: Vec<_> = listed.try_collect().await.map_err(|error| failed(error.into()))?;
        // The log goes last: a deletion that was interrupted can be found and finished.
        let (log, files): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|path| path.as_ref().starts_with("_delta_log"));
        for path in files.iter().chain(&log) {
            store.delete(path).await.map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// Deletes the files that no version of the table younger than `retention` needs; gives their number.
    pub async fn vacuum_view_table(
        &self,
        view: &FeatureViewName,
        retention: chrono::Duration,
        dry_run: bool,
    ) -> Result<usize, OfflineStoreError> {
        let Some(table) = self.view_table(view).await? else { return Ok(0) };
        let vacuum = table.table.vacuum().with_retention_period(retention).with_enforce_retention_duration(false);
        let vacuumed = vacuum.with_dry_run(dry_run).await;
        vacuumed.map(|(_, metrics)| metrics.files_deleted.len()).map_err(|source| self.failed_to_delete(view, source))
    }

    fn failed_to_delete(&self, view: &FeatureViewName, source: DeltaTableError) -> OfflineStoreError {
        OfflineStoreError::Table { view: view.clone(), action: "cleaned", source: Box::new(source) }
    }
}
