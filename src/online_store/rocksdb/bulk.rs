//! Bulk writes: sorted files made beside the database, then taken in together.

use std::path::PathBuf;

use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::{RocksDbOnlineStore, create_folder};
use crate::online_store::error::OnlineStoreError;
use crate::online_store::key::{KeyOrder, ViewId};
use crate::online_store::{BulkSummary, BulkWriter};

pub(super) struct RocksDbBulkWriter<'a> {
    store: &'a RocksDbOnlineStore,
    view: ViewId,
    order: KeyOrder,
    summary: BulkSummary,
    folder: PathBuf,
    files: Vec<PathBuf>,
    file: Option<SstFileWriter<'a>>,
}

impl<'a> RocksDbBulkWriter<'a> {
    pub(super) fn new(store: &'a RocksDbOnlineStore, view: ViewId, folder: PathBuf) -> Result<Self, OnlineStoreError> {
        let order = KeyOrder::new(view)?;
        create_folder(&folder)?;
        let summary = BulkSummary::default();
        Ok(RocksDbBulkWriter { store, view, order, summary, folder, files: Vec::new(), file: None })
    }

    /// The file to write to, a new one if the last is full.
    fn file(&mut self) -> Result<&mut SstFileWriter<'a>, OnlineStoreError> {
        if self.file.as_ref().is_some_and(|file| file.file_size() >= self.store.bulk_file_bytes) {
            self.finish_file()?;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.folder.join(format!("{:06}.sst", self.files.len()));
                let file = SstFileWriter::create(&self.store.bulk_file_options);
                file.open(&path).map_err(self.store.failed("open a file"))?;
                self.files.push(path);
                file
            }
        };
        Ok(self.file.insert(file))
    }

    fn finish_file(&mut self) -> Result<(), OnlineStoreError> {
        match self.file.take() {
            Some(mut file) => file.finish().map_err(self.store.failed("finish a file")),
            None => Ok(()),
        }
    }

    /// Makes the files part of the database: synced, and visible in one step.
    fn ingest(&mut self) -> Result<(), OnlineStoreError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.store
            .db
            .ingest_external_file_cf_opts(&self.store.timeline(), &options, std::mem::take(&mut self.files))
            .map_err(self.store.failed("take in the files of a bulk write"))
    }
}

impl BulkWriter for RocksDbBulkWriter<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), OnlineStoreError> {
        self.order.check(key)?;
        let failed = self.store.failed("write a value");
        self.file()?.put(key, value).map_err(failed)?;
        self.summary.count_put(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), OnlineStoreError> {
        self.order.check(key)?;
        let failed = self.store.failed("write a deletion");
        self.file()?.delete(key).map_err(failed)?;
        self.summary.count_delete(key);
        Ok(())
    }

    fn finish(mut self: Box<Self>, position: u64) -> Result<BulkSummary, OnlineStoreError> {
        self.finish_file()?;
        self.ingest()?;
        // Only now: a position that outlived a crash without the rows it stands for would hide their loss.
        self.store.put_position(self.view, position)?;
        Ok(self.summary)
    }
}

impl Drop for RocksDbBulkWriter<'_> {
    fn drop(&mut self) {
        self.file = None;
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "files of a bulk write could not be removed");
        }
    }
}
