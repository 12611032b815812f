//! The online store on one machine's disk, in RocksDB.
//!
//! ```text
//! PATH/db/        the database: column families `timeline` (versions of rows), `meta` (schemas, positions) and
//!                 `default` (ids of events)
//! PATH/ingest/    files of bulk writes under way; emptied when the store is opened
//! ```
//!
//! One process at a time has the store open. A bulk write makes sorted files beside the database, which then takes
//! them in as they are, all in one step: nothing goes through the log, and readers never see a part.

mod bulk;
mod history;
mod meta;
mod options;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind as RocksDbErrorKind,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

pub use options::RocksDbOptions;

use self::bulk::RocksDbBulkWriter;
use self::history::Retentions;
use self::meta::{FORMAT_VERSION, META, MetaKey, decode_retention, decode_schema, encode_retention, encode_schema};
use super::error::OnlineStoreError;
use super::key::{EncodedKeys, ViewId, seek_key, split_version_key, view_of, view_range};
use super::value::SchemaVersion;
use super::{
    BulkWriter, Entry, EventId, OnStretch, OnVersion, OnlineStore, Schemas, StreamChanges, Stretch, VersionRef,
    bare_fields, schema_version,
};
use crate::definition::Field;
use crate::time::{Clock, EventTimestamp};

/// Name of the column family of values.
const TIMELINE: &str = "timeline";
/// What is read at once of a store that is read as a whole.
const VERIFY_READAHEAD_BYTES: usize = 4 << 20;

/// What RocksDB tells of the values, and what it calls it.
const NUMBERS: [(&str, &str); 8] = [
    ("file_bytes", "rocksdb.total-sst-files-size"),
    ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
    ("block_cache_bytes", "rocksdb.block-cache-usage"),
    ("index_bytes", "rocksdb.estimate-table-readers-mem"),
    ("versions", "rocksdb.estimate-num-keys"),
    ("compaction_pending_bytes", "rocksdb.estimate-pending-compaction-bytes"),
    ("compactions_running", "rocksdb.num-running-compactions"),
    ("writes_stopped", "rocksdb.is-write-stopped"),
];

/// An [`OnlineStore`] in a folder.
pub struct RocksDbOnlineStore {
    path: PathBuf,
    db: DB,
    bulk_file_options: Options,
    /// A file of a bulk write is closed once it is this long.
    bulk_file_bytes: u64,
    bulk_writes: AtomicU64,
    /// Held while a schema gets its version.
    registering: Mutex<()>,
    /// Schemas that were asked for, by view: every read of values does.
    schemas: RwLock<HashMap<ViewId, Arc<Schemas>>>,
    retentions: Retentions,
    /// The stream side of each view that has one.
    sides: RwLock<HashMap<ViewId, ViewId>>,
}

impl fmt::Debug for RocksDbOnlineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksDbOnlineStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RocksDbOnlineStore {
    /// Opens the store, or makes an empty one. `clock` tells compaction what is past `history`.
    ///
    /// # Errors
    /// [`Locked`](OnlineStoreError::Locked) while another process, or another part of this one, has it open.
    pub fn open(options: &RocksDbOptions, clock: Arc<dyn Clock>) -> Result<Self, OnlineStoreError> {
        let path = options.path.clone();
        create_folder(&path)?;
        let retentions = Retentions::default();
        let timeline = options::timeline_options(options, &clock, &retentions);
        let families = [
            ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, options::event_ids_options()),
            ColumnFamilyDescriptor::new(META, Options::default()),
            ColumnFamilyDescriptor::new(TIMELINE, timeline.clone()),
        ];
        let db = DB::open_cf_descriptors(&options::database_options(), database_folder(&path), families)
            .map_err(|source| open_error(&path, source))?;
        let store = RocksDbOnlineStore {
            path,
            db,
            bulk_file_options: options::bulk_file_options(&timeline),
            bulk_file_bytes: options::BULK_FILE_BYTES,
            bulk_writes: AtomicU64::new(0),
            registering: Mutex::new(()),
            schemas: RwLock::default(),
            retentions,
            sides: RwLock::default(),
        };
        store.check_format_version()?;
        store.retentions.load(store.read_retentions()?);
        store.load_sides()?;
        store.clear_ingest_folder()?;
        Ok(store)
    }

    /// Rewrites the whole store, which drops what the history setting allows to forget. Takes its time; reads and
    /// writes go on meanwhile.
    pub fn compact(&self) {
        self.db.compact_range_cf(&self.timeline(), None::<&[u8]>, None::<&[u8]>);
    }

    /// Reads all of the store once: every block is compared with its checksum.
    ///
    /// # Errors
    /// A store that is damaged anywhere.
    pub fn verify(&self) -> Result<(), OnlineStoreError> {
        for family in [DEFAULT_COLUMN_FAMILY_NAME, META, TIMELINE] {
            let mut options = all_keys();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_readahead_size(VERIFY_READAHEAD_BYTES);
            let mut entries = self.db.raw_iterator_cf_opt(&self.family(family), options);
            entries.seek_to_first();
            while entries.valid() {
                entries.next();
            }
            entries.status().map_err(self.failed("be read"))?;
        }
        Ok(())
    }

    fn check_format_version(&self) -> Result<(), OnlineStoreError> {
        let key = MetaKey::FormatVersion.encode();
        match self.db.get_cf(&self.meta(), &key).map_err(self.failed("read its format version"))? {
            Some(found) => check_format_version(&self.path, &found),
            None if self.is_empty()? => self
                .db
                .put_cf_opt(&self.meta(), &key, FORMAT_VERSION.to_be_bytes(), &synced())
                .map_err(self.failed("write its format version")),
            None => Err(OnlineStoreError::NotAnOnlineStore { path: self.path.clone() }),
        }
    }

    fn is_empty(&self) -> Result<bool, OnlineStoreError> {
        for family in [DEFAULT_COLUMN_FAMILY_NAME, META, TIMELINE] {
            let mut entries = self.db.raw_iterator_cf_opt(&self.family(family), all_keys());
            entries.seek_to_first();
            if entries.valid() {
                return Ok(false);
            }
            entries.status().map_err(self.failed("be read"))?;
        }
        Ok(true)
    }

    /// Removes what a killed process left. Only the holder of the database's lock may do this.
    fn clear_ingest_folder(&self) -> Result<(), OnlineStoreError> {
        let folder = ingest_folder(&self.path);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|source| storage_error(&self.path, "clear its folder", source))?;
        }
        create_folder(&folder)
    }

    fn family(&self, name: &str) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(name).expect("the store was opened with this column family")
    }

    fn timeline(&self) -> Arc<BoundColumnFamily<'_>> {
        self.family(TIMELINE)
    }

    fn meta(&self) -> Arc<BoundColumnFamily<'_>> {
        self.family(META)
    }

    fn put_position(&self, view: ViewId, position: u64) -> Result<(), OnlineStoreError> {
        self.db
            .put_cf_opt(&self.meta(), MetaKey::Position(view).encode(), position.to_be_bytes(), &synced())
            .map_err(self.failed("record a position"))
    }

    fn read_schemas(&self, view: ViewId) -> Result<Schemas, OnlineStoreError> {
        let prefix = MetaKey::schemas_of(view);
        let mut schemas = Schemas::new();
        let mut options = ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(prefix));
        for entry in self.db.iterator_cf_opt(&self.meta(), options, IteratorMode::Start) {
            let (key, value) = entry.map_err(self.failed("read a schema"))?;
            let (Some(MetaKey::Schema(_, version)), Some(features)) = (MetaKey::decode(&key), decode_schema(&value))
            else {
                return Err(OnlineStoreError::CorruptEntry { entry: "schema", view });
            };
            schemas.insert(version, features);
        }
        Ok(schemas)
    }

    fn read_retentions(&self) -> Result<HashMap<ViewId, Vec<Option<i64>>>, OnlineStoreError> {
        let mut retentions = HashMap::new();
        for entry in self.db.iterator_cf(&self.meta(), IteratorMode::Start) {
            let (key, value) = entry.map_err(self.failed("read a retention"))?;
            if let Some(MetaKey::Retention(view)) = MetaKey::decode(&key) {
                let levels = decode_retention(&value);
                let levels = levels.ok_or(OnlineStoreError::CorruptEntry { entry: "retention", view })?;
                retentions.insert(view, levels);
            }
        }
        Ok(retentions)
    }

    fn forget_schemas(&self, view: ViewId) {
        self.schemas.write().unwrap_or_else(PoisonError::into_inner).remove(&view);
    }

    /// Turns what RocksDB says into what the caller can do about it.
    fn failed(&self, action: &'static str) -> impl Fn(rocksdb::Error) -> OnlineStoreError + '_ {
        move |source| rocksdb_error(&self.path, action, source)
    }
}

impl OnlineStore for RocksDbOnlineStore {
    fn read(&self, keys: &EncodedKeys, now: EventTimestamp, out: &mut OnVersion<'_>) -> Result<(), OnlineStoreError> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let mut versions = self.db.raw_iterator_cf_opt(&self.timeline(), options);
        let (mut seek, mut sought) = (Vec::new(), None);
        for (row, prefix) in keys.iter().enumerate() {
            let Some(prefix) = prefix else {
                out(row, None)?;
                continue;
            };
            if sought != Some(prefix) {
                seek.clear();
                seek_key(prefix, now, &mut seek);
                versions.seek(&seek);
                sought = Some(prefix);
            }
            match versions.item() {
                Some((key, value)) => out(row, version_of(prefix, key, value)?)?,
                None => {
                    versions.status().map_err(self.failed("be read"))?;
                    out(row, None)?;
                }
            }
        }
        Ok(())
    }

    fn read_stretches(&self, stretches: &[Stretch<'_>], out: &mut OnStretch<'_>) -> Result<(), OnlineStoreError> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let mut versions = self.db.raw_iterator_cf_opt(&self.timeline(), options);
        let mut seek = Vec::new();
        for (number, stretch) in stretches.iter().enumerate() {
            seek.clear();
            stretch.seek_key(&mut seek);
            versions.seek(&seek);
            while let Some((key, value)) = versions.item() {
                match stretch.version_of(key, value)? {
                    Some(version) => out(number, version)?,
                    None => break,
                }
                versions.next();
            }
            versions.status().map_err(self.failed("be read"))?;
        }
        Ok(())
    }

    fn schemas(&self, view: ViewId) -> Result<Arc<Schemas>, OnlineStoreError> {
        if let Some(schemas) = self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(&view) {
            return Ok(Arc::clone(schemas));
        }
        // Read under the lock: whoever changes a schema then waits, and takes away what was read before.
        let mut known = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        let schemas = Arc::new(self.read_schemas(view)?);
        known.insert(view, Arc::clone(&schemas));
        Ok(schemas)
    }

    fn register_schema(&self, view: ViewId, features: &[Field]) -> Result<SchemaVersion, OnlineStoreError> {
        let _registering = self.registering.lock().unwrap_or_else(PoisonError::into_inner);
        let schemas = self.schemas(view)?;
        let (version, is_new) = schema_version(&schemas, features);
        if is_new {
            let (key, value) = (MetaKey::Schema(view, version).encode(), encode_schema(&bare_fields(features)));
            self.db.put_cf_opt(&self.meta(), key, value, &synced()).map_err(self.failed("record a schema"))?;
            self.forget_schemas(view);
        }
        Ok(version)
    }

    fn bulk_writer(&self, view: ViewId) -> Result<Box<dyn BulkWriter + '_>, OnlineStoreError> {
        let folder = ingest_folder(&self.path).join(self.bulk_writes.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(Box::new(RocksDbBulkWriter::new(self, view, folder)?))
    }

    fn position(&self, view: ViewId) -> Result<Option<u64>, OnlineStoreError> {
        let value = self.db.get_cf(&self.meta(), MetaKey::Position(view).encode());
        let Some(value) = value.map_err(self.failed("read a position"))? else {
            return Ok(None);
        };
        let bytes: [u8; 8] =
            value.try_into().map_err(|_| OnlineStoreError::CorruptEntry { entry: "position", view })?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    fn origin(&self, view: ViewId) -> Result<Option<String>, OnlineStoreError> {
        let value = self.db.get_cf(&self.meta(), MetaKey::Origin(view).encode());
        let value = value.map_err(self.failed("read an origin"))?;
        let text = value.map(String::from_utf8).transpose();
        text.map_err(|_| OnlineStoreError::CorruptEntry { entry: "origin", view })
    }

    fn set_origin(&self, view: ViewId, table_id: &str) -> Result<(), OnlineStoreError> {
        self.db
            .put_cf_opt(&self.meta(), MetaKey::Origin(view).encode(), table_id, &synced())
            .map_err(self.failed("record an origin"))
    }

    fn set_retention(&self, view: ViewId, levels: &[Option<i64>]) -> Result<(), OnlineStoreError> {
        if self.retention(view)?.as_deref() == Some(levels) {
            return Ok(());
        }
        let (key, value) = (MetaKey::Retention(view).encode(), encode_retention(levels));
        self.db.put_cf_opt(&self.meta(), key, value, &synced()).map_err(self.failed("record a retention"))?;
        self.retentions.set(view, Some(levels.to_vec()));
        Ok(())
    }

    fn retention(&self, view: ViewId) -> Result<Option<Vec<Option<i64>>>, OnlineStoreError> {
        let key = MetaKey::Retention(view).encode();
        let value = self.db.get_cf(&self.meta(), key).map_err(self.failed("read a retention"))?;
        let Some(value) = value else { return Ok(None) };
        let levels = decode_retention(&value);
        levels.map(Some).ok_or(OnlineStoreError::CorruptEntry { entry: "retention", view })
    }

    fn scan_after(
        &self,
        view: ViewId,
        after: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<Vec<Entry>, OnlineStoreError> {
        let (start, end) = view_range(view);
        let mut options = all_keys();
        // The next key after one is the same with a zero more.
        options.set_iterate_lower_bound(after.map_or_else(|| start.to_vec(), |after| [after, &[0]].concat()));
        options.set_iterate_upper_bound(end);
        options.fill_cache(false);
        let entries = self.db.iterator_cf_opt(&self.timeline(), options, IteratorMode::Start);
        entries.take(entries_max).map(|entry| entry.map_err(self.failed("be scanned"))).collect()
    }

    fn stream_side(&self, view: ViewId) -> Option<ViewId> {
        self.sides.read().unwrap_or_else(PoisonError::into_inner).get(&view).copied()
    }

    fn write_stream(&self, changes: &StreamChanges) -> Result<(), OnlineStoreError> {
        self.write_changes(changes)
    }

    fn persist(&self) -> Result<(), OnlineStoreError> {
        self.db.flush_wal(true).map_err(self.failed("make what it was given durable"))
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, OnlineStoreError> {
        self.get_values(TIMELINE, keys)
    }

    fn event_ids(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, OnlineStoreError> {
        self.get_event_ids(keys)
    }

    fn scan_event_ids(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        ids_max: usize,
    ) -> Result<Vec<EventId>, OnlineStoreError> {
        self.scan_ids(prefix, after, ids_max)
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, OnlineStoreError> {
        self.db.get_cf(&self.meta(), meta::note_key(name)).map_err(self.failed("read a note"))
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), OnlineStoreError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(self.failed("make a checkpoint"))?;
        checkpoint.create_checkpoint(folder).map_err(self.failed("make a checkpoint"))
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let timeline = self.timeline();
        let number = |(name, property): &(&'static str, &str)| {
            let number = self.db.property_int_value_cf(&timeline, *property).ok().flatten();
            number.map(|number| (*name, number))
        };
        NUMBERS.iter().filter_map(number).collect()
    }

    fn delete_view(&self, view: ViewId) -> Result<(), OnlineStoreError> {
        let failed = || self.failed("delete a view");
        let _registering = self.registering.lock().unwrap_or_else(PoisonError::into_inner);
        let (meta, timeline) = (self.meta(), self.timeline());
        let (start, end) = view_range(view);
        let mut batch = WriteBatch::default();
        batch.delete_cf(&meta, MetaKey::Position(view).encode());
        batch.delete_cf(&meta, MetaKey::Origin(view).encode());
        batch.delete_cf(&meta, MetaKey::Retention(view).encode());
        batch.delete_cf(&meta, MetaKey::StreamSide(view).encode());
        for version in self.read_schemas(view)?.into_keys() {
            batch.delete_cf(&meta, MetaKey::Schema(view, version).encode());
        }
        batch.delete_range_cf(&timeline, start, end);
        self.db.write_opt(batch, &synced()).map_err(failed())?;
        self.forget_schemas(view);
        // Dropping whole files frees their space at once. A file dropped may be the one that hid older values in
        // another file, so the range is deleted once more.
        self.db.delete_file_in_range_cf(&timeline, start, end).map_err(failed())?;
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&timeline, start, end);
        self.db.write_opt(batch, &synced()).map_err(failed())?;
        // What is left stands in files shared with neighbours. It has to go before the number is used again: the
        // history filter could take a deleted version, whose deletion it does not see, for one that supersedes.
        self.db.compact_range_cf(&timeline, Some(start), Some(end));
        self.retentions.set(view, None);
        self.sides.write().unwrap_or_else(PoisonError::into_inner).remove(&view);
        Ok(())
    }

    fn views(&self) -> Result<Vec<ViewId>, OnlineStoreError> {
        let mut views = Vec::new();
        let mut versions = self.db.raw_iterator_cf_opt(&self.timeline(), all_keys());
        versions.seek_to_first();
        while let Some(key) = versions.key() {
            let view = view_of(key).ok_or_else(|| OnlineStoreError::CorruptKey { key: key.to_vec() })?;
            if views.last() == Some(&view) {
                break; // Past the last view that can be sought.
            }
            views.push(view);
            versions.seek(view_range(view).1);
        }
        versions.status().map_err(self.failed("be scanned"))?;
        for entry in self.db.iterator_cf(&self.meta(), IteratorMode::Start) {
            let (key, _) = entry.map_err(self.failed("list its views"))?;
            views.extend(MetaKey::decode(&key).and_then(MetaKey::view));
        }
        views.sort_unstable();
        views.dedup();
        Ok(views)
    }
}

/// The version that a seek for `prefix` came to, unless that is one of another key.
fn version_of<'a>(prefix: &[u8], key: &'a [u8], value: &'a [u8]) -> Result<Option<VersionRef<'a>>, OnlineStoreError> {
    let (found, event_timestamp, created_timestamp) =
        split_version_key(key).ok_or_else(|| OnlineStoreError::CorruptKey { key: key.to_vec() })?;
    Ok((found == prefix).then_some(VersionRef { event_timestamp, created_timestamp, value }))
}

/// Reads that go from key to key, whatever their prefix.
fn all_keys() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    options
}

/// Writes that have reached the disk when they return.
fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn database_folder(path: &Path) -> PathBuf {
    path.join("db")
}

fn ingest_folder(path: &Path) -> PathBuf {
    path.join("ingest")
}

fn create_folder(path: &Path) -> Result<(), OnlineStoreError> {
    std::fs::create_dir_all(path).map_err(|source| storage_error(path, "make its folder", source))
}

fn check_format_version(path: &Path, found: &[u8]) -> Result<(), OnlineStoreError> {
    let Ok(found) = <[u8; 4]>::try_from(found).map(u32::from_be_bytes) else {
        return Err(OnlineStoreError::NotAnOnlineStore { path: path.to_owned() });
    };
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(OnlineStoreError::FormatVersion { path: path.to_owned(), found, supported: FORMAT_VERSION })
}

fn open_error(path: &Path, source: rocksdb::Error) -> OnlineStoreError {
    let message: &str = source.as_ref();
    // RocksDB has no code for these; the first comes from another process, the second from this one.
    if message.contains("While lock file") || message.contains("lock hold by current process") {
        return OnlineStoreError::Locked { path: path.to_owned() };
    }
    if message.contains("Column families not opened") {
        return foreign_store_error(path);
    }
    rocksdb_error(path, "be opened", source)
}

/// What is wrong with a database that has column families nobody here knows.
fn foreign_store_error(path: &Path) -> OnlineStoreError {
    let not_a_store = || OnlineStoreError::NotAnOnlineStore { path: path.to_owned() };
    match read_format_version(path) {
        Ok(Some(found)) => check_format_version(path, &found).err().unwrap_or_else(not_a_store),
        Ok(None) => not_a_store(),
        Err(source) => rocksdb_error(path, "be opened", source),
    }
}

fn read_format_version(path: &Path) -> Result<Option<Vec<u8>>, rocksdb::Error> {
    let (options, folder) = (Options::default(), database_folder(path));
    let db = DB::open_cf_for_read_only(&options, &folder, DB::list_cf(&options, &folder)?, false)?;
    match db.cf_handle(META) {
        Some(meta) => db.get_cf(&meta, MetaKey::FormatVersion.encode()),
        None => Ok(None),
    }
}

fn rocksdb_error(path: &Path, action: &'static str, source: rocksdb::Error) -> OnlineStoreError {
    match source.kind() {
        RocksDbErrorKind::Corruption => {
            OnlineStoreError::CorruptStore { path: path.to_owned(), source: Box::new(source) }
        }
        _ => storage_error(path, action, source),
    }
}

fn storage_error(
    path: &Path,
    action: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> OnlineStoreError {
    OnlineStoreError::Storage { path: path.to_owned(), action, source: Box::new(source) }
}
