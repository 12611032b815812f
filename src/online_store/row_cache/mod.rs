//! Rows that are asked for often, kept in memory in front of a store.
//!
//! ```text
//! keys ──► kept? ──────────────────────────────► answers
//!            │ the rest                 ▲
//!            └──► store, newest version ┴──► kept
//!
//! writes ──► what they touch is dropped ──► store
//! ```
//!
//! What is kept of a key is its newest version, or that it has none. The newest version answers every question at or
//! after its event timestamp, and a key without a version every question; any other question goes to the store.
//!
//! A kept row is exactly what the store would answer. Every write comes through here: it is announced, drops what it
//! touches, and then changes the store. A read notes how many writes of its view were announced before it looks, and
//! looks again once it has everything: if one was announced meanwhile, or is under way, it leaves what it found and
//! asks the store alone. So all keys of a read are of one state, and nothing older than a write is kept after it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use metrics::{Counter, Gauge, counter, gauge};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::definition::Field;
use crate::metrics::{ROW_CACHE_BYTES, ROW_CACHE_READS_TOTAL};
use crate::online_store::error::OnlineStoreError;
use crate::online_store::key::{EncodedKeys, VERSION_SUFFIX_LEN, ViewId, view_of};
use crate::online_store::value::SchemaVersion;
use crate::online_store::{
    BulkSummary, BulkWriter, Entry, EventId, OnStretch, OnVersion, OnlineStore, Schemas, StreamChanges, Stretch,
    VersionRef,
};
use crate::time::EventTimestamp;

/// Parts of the cache that are locked each by itself; a power of two.
const SHARDS: usize = 64;
/// Keys that a bulk write remembers, to drop their rows and no others.
const BULK_KEYS_MAX: usize = 1 << 20;
/// What a kept row takes beside its key and its value, about.
const ROW_OVERHEAD: usize = 160;

/// An [`OnlineStore`] that keeps rows of another one.
pub struct RowCache {
    store: Arc<dyn OnlineStore>,
    shards: Box<[Mutex<Shard>]>,
    shard_bytes_max: usize,
    seed: u64,
    writes: RwLock<HashMap<ViewId, Arc<Writes>>>,
    metrics: OnceLock<CacheMetrics>,
}

/// The newest version of a row.
#[derive(Debug)]
struct Row {
    event_timestamp: EventTimestamp,
    created_timestamp: Option<EventTimestamp>,
    value: Box<[u8]>,
}

/// What is known of a key; None: it has no version.
type Kept = Option<Arc<Row>>;

/// Rows by the hash of their key; of two keys with one hash, the later one is kept.
#[derive(Default)]
struct Generation {
    rows: HashMap<u64, (Box<[u8]>, Kept), BuildHasherDefault<AsIs>>,
    bytes: usize,
}

/// Rows in two generations: what is asked for moves to the young one, and once that is full, the old one is dropped.
#[derive(Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

/// Writes of one view, as reads need to know of them.
#[derive(Debug, Default)]
struct Writes {
    under_way: AtomicU64,
    announced: AtomicU64,
    /// Whether a row was ever kept. Of tiles and events none is, and writes of them have nothing to drop.
    has_rows: AtomicBool,
}

struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

/// Hashes are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "only whole numbers are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowCache").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Generation {
    fn insert(&mut self, hash: u64, key: Box<[u8]>, kept: Kept) {
        let bytes = |key: &[u8], kept: &Kept| ROW_OVERHEAD + key.len() + kept.as_ref().map_or(0, |row| row.value.len());
        self.bytes += bytes(&key, &kept);
        if let Some((key, kept)) = self.rows.insert(hash, (key, kept)) {
            self.bytes -= bytes(&key, &kept);
        }
    }

    fn remove(&mut self, hash: u64) -> Option<(Box<[u8]>, Kept)> {
        let (key, kept) = self.rows.remove(&hash)?;
        self.bytes -= ROW_OVERHEAD + key.len() + kept.as_ref().map_or(0, |row| row.value.len());
        Some((key, kept))
    }
}

impl Shard {
    fn get(&mut self, hash: u64, key: &[u8], bytes_max: usize) -> Option<Kept> {
        if let Some((known, kept)) = self.young.rows.get(&hash) {
            return (known.as_ref() == key).then(|| kept.clone());
        }
        let is_known = self.old.rows.get(&hash).is_some_and(|(known, _)| known.as_ref() == key);
        let (key, kept) = is_known.then(|| self.old.remove(hash)).flatten()?;
        self.insert(hash, key, kept.clone(), bytes_max);
        Some(kept)
    }

    fn insert(&mut self, hash: u64, key: Box<[u8]>, kept: Kept, bytes_max: usize) {
        self.young.insert(hash, key, kept);
        if self.young.bytes > bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn remove(&mut self, hash: u64) {
        self.young.remove(hash);
        self.old.remove(hash);
    }

    fn remove_view(&mut self, view: ViewId) {
        for generation in [&mut self.young, &mut self.old] {
            let of_view = |(key, _): &(Box<[u8]>, Kept)| view_of(key) == Some(view);
            let hashes: Vec<u64> =
                generation.rows.iter().filter(|(_, row)| of_view(row)).map(|(hash, _)| *hash).collect();
            hashes.into_iter().for_each(|hash| drop(generation.remove(hash)));
        }
    }
}

impl Writes {
    /// How many writes were announced; None: one is under way.
    fn seen(&self) -> Option<u64> {
        // In this order: a write that is announced in between is then seen by `is_unchanged`.
        let announced = self.announced.load(Ordering::SeqCst);
        (self.under_way.load(Ordering::SeqCst) == 0).then_some(announced)
    }

    fn is_unchanged(&self, seen: u64) -> bool {
        self.announced.load(Ordering::SeqCst) == seen
    }
}

/// Writes that are announced; they are over when it is dropped.
struct Announced(Vec<Arc<Writes>>);

impl Announced {
    fn new(views: Vec<Arc<Writes>>) -> Self {
        for writes in &views {
            writes.under_way.fetch_add(1, Ordering::SeqCst);
            writes.announced.fetch_add(1, Ordering::SeqCst);
        }
        Announced(views)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        for writes in &self.0 {
            writes.under_way.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl RowCache {
    /// Keeps about this many bytes of rows.
    pub fn new(store: Arc<dyn OnlineStore>, bytes_max: usize) -> Self {
        RowCache {
            store,
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            shard_bytes_max: bytes_max / SHARDS,
            seed: RandomState::new().hash_one(0_u8),
            writes: RwLock::default(),
            metrics: OnceLock::new(),
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        // Seeded, so that nobody can send keys that fall together.
        xxh3_64_with_seed(key, self.seed)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The map uses the highest and the lowest bits.
        let shard = (hash >> 32) as usize % SHARDS;
        // A row is kept or removed in whole, so a panic elsewhere leaves the shard whole.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes_of(&self, view: ViewId) -> Arc<Writes> {
        if let Some(writes) = self.writes.read().unwrap_or_else(PoisonError::into_inner).get(&view) {
            return Arc::clone(writes);
        }
        Arc::clone(self.writes.write().unwrap_or_else(PoisonError::into_inner).entry(view).or_default())
    }

    /// Announces a write of one view, and drops all of its rows.
    fn announce_all_of(&self, view: ViewId) -> Announced {
        let announced = Announced::new(vec![self.writes_of(view)]);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).remove_view(view);
        }
        announced
    }

    /// Announces a write of one view, and drops the rows of keys with these hashes.
    fn announce_hashes(&self, view: ViewId, hashes: &[u64]) -> Announced {
        let announced = Announced::new(vec![self.writes_of(view)]);
        hashes.iter().for_each(|hash| self.shard(*hash).remove(*hash));
        announced
    }

    /// Announces a write of these versions, and drops their rows.
    fn announce<'k>(&self, version_keys: impl Iterator<Item = &'k [u8]> + Clone) -> Announced {
        let mut views: Vec<ViewId> = Vec::new();
        for view in version_keys.clone().filter_map(view_of) {
            if views.last() != Some(&view) {
                views.push(view);
            }
        }
        views.sort_unstable();
        views.dedup();
        let announced = Announced::new(views.iter().map(|view| self.writes_of(*view)).collect());
        // Looked at after the announcement: who keeps the first row of a view later than this sees it.
        let has_rows = |writes: &Writes| writes.has_rows.load(Ordering::SeqCst);
        let kept: Vec<ViewId> =
            views.iter().zip(&announced.0).filter(|(_, writes)| has_rows(writes)).map(|(view, _)| *view).collect();
        let is_kept = |key: &&[u8]| view_of(key).is_some_and(|view| kept.binary_search(&view).is_ok());
        if !kept.is_empty() {
            for key in version_keys.filter(is_kept) {
                let hash = self.hash(without_version(key));
                self.shard(hash).remove(hash);
            }
        }
        announced
    }

    /// The newest version of each of these keys, all of one state of the store.
    fn read_newest(&self, keys: &EncodedKeys) -> Result<Vec<Kept>, OnlineStoreError> {
        let mut newest = Vec::with_capacity(keys.len());
        self.store.read(keys, EventTimestamp::from_micros(i64::MAX), &mut |_, version| {
            newest.push(version.map(|version| {
                Arc::new(Row {
                    event_timestamp: version.event_timestamp,
                    created_timestamp: version.created_timestamp,
                    value: version.value.into(),
                })
            }));
            Ok(())
        })?;
        Ok(newest)
    }

    /// What is kept or, where that does not tell, newest in the store, for each key; None: the store has to be asked,
    /// because of a write or of a version that does not hold yet.
    fn read_kept(
        &self,
        writes: &Writes,
        keys: &EncodedKeys,
        now: EventTimestamp,
    ) -> Result<Option<Vec<Kept>>, OnlineStoreError> {
        let Some(seen) = writes.seen() else { return Ok(None) };
        let mut rows: Vec<Kept> = Vec::with_capacity(keys.len());
        let mut missing: Vec<(usize, u64)> = Vec::new();
        for (row, key) in keys.iter().enumerate() {
            let hash = key.map(|key| (self.hash(key), key));
            let kept = match hash {
                Some((hash, key)) => self.shard(hash).get(hash, key, self.shard_bytes_max),
                None => Some(None),
            };
            if let (None, Some((hash, _))) = (&kept, hash) {
                missing.push((row, hash));
            }
            rows.push(kept.flatten());
        }
        self.count(keys.len() - missing.len(), missing.len());
        let asked = keys.select(missing.iter().map(|(row, _)| *row));
        let found = if missing.is_empty() { Vec::new() } else { self.read_newest(&asked)? };
        for ((row, _), newest) in missing.iter().zip(&found) {
            rows[*row].clone_from(newest);
        }
        if !writes.is_unchanged(seen) {
            return Ok(None);
        }
        writes.has_rows.store(true, Ordering::SeqCst);
        for ((row, hash), newest) in missing.into_iter().zip(found) {
            let Some(key) = keys.get(row) else { continue };
            let mut shard = self.shard(hash);
            // A write that is announced from here on waits for the shard, and drops the row again.
            if writes.is_unchanged(seen) {
                shard.insert(hash, key.into(), newest, self.shard_bytes_max);
            }
        }
        let holds = |row: &Kept| row.as_ref().is_none_or(|row| row.event_timestamp <= now);
        Ok(rows.iter().all(holds).then_some(rows))
    }

    fn count(&self, hits: usize, misses: usize) {
        let metrics = self.metrics.get_or_init(|| CacheMetrics {
            hits: counter!(ROW_CACHE_READS_TOTAL, "outcome" => "hit"),
            misses: counter!(ROW_CACHE_READS_TOTAL, "outcome" => "miss"),
            bytes: gauge!(ROW_CACHE_BYTES),
        });
        metrics.hits.increment(hits as u64);
        if misses > 0 {
            metrics.misses.increment(misses as u64);
            // A shard is as full as the others.
            let shard = self.shards[0].lock().unwrap_or_else(PoisonError::into_inner);
            metrics.bytes.set(((shard.young.bytes + shard.old.bytes) * SHARDS) as f64);
        }
    }
}

impl OnlineStore for RowCache {
    fn read(&self, keys: &EncodedKeys, now: EventTimestamp, out: &mut OnVersion<'_>) -> Result<(), OnlineStoreError> {
        let view = keys.iter().flatten().next().and_then(view_of);
        let Some(view) = view else { return self.store.read(keys, now, out) };
        let Some(rows) = self.read_kept(&self.writes_of(view), keys, now)? else {
            return self.store.read(keys, now, out);
        };
        for (position, row) in rows.iter().enumerate() {
            let version = row.as_ref().map(|row| VersionRef {
                event_timestamp: row.event_timestamp,
                created_timestamp: row.created_timestamp,
                value: &row.value,
            });
            out(position, version)?;
        }
        Ok(())
    }

    fn write_stream(&self, changes: &StreamChanges) -> Result<(), OnlineStoreError> {
        let written = changes.merges.iter().chain(changes.puts.iter());
        let _announced = self.announce(written.map(|(key, _)| key));
        self.store.write_stream(changes)
    }

    fn bulk_writer(&self, view: ViewId) -> Result<Box<dyn BulkWriter + '_>, OnlineStoreError> {
        let writer = self.store.bulk_writer(view)?;
        Ok(Box::new(CachedBulkWriter { cache: self, view, written: Some(Vec::new()), writer }))
    }

    fn delete_view(&self, view: ViewId) -> Result<(), OnlineStoreError> {
        let _announced = self.announce_all_of(view);
        self.store.delete_view(view)
    }

    fn read_stretches(&self, stretches: &[Stretch<'_>], out: &mut OnStretch<'_>) -> Result<(), OnlineStoreError> {
        self.store.read_stretches(stretches, out)
    }

    fn schemas(&self, view: ViewId) -> Result<Arc<Schemas>, OnlineStoreError> {
        self.store.schemas(view)
    }

    fn register_schema(&self, view: ViewId, features: &[Field]) -> Result<SchemaVersion, OnlineStoreError> {
        self.store.register_schema(view, features)
    }

    fn position(&self, view: ViewId) -> Result<Option<u64>, OnlineStoreError> {
        self.store.position(view)
    }

    fn origin(&self, view: ViewId) -> Result<Option<String>, OnlineStoreError> {
        self.store.origin(view)
    }

    fn set_origin(&self, view: ViewId, table_id: &str) -> Result<(), OnlineStoreError> {
        self.store.set_origin(view, table_id)
    }

    fn set_retention(&self, view: ViewId, levels: &[Option<i64>]) -> Result<(), OnlineStoreError> {
        self.store.set_retention(view, levels)
    }

    fn retention(&self, view: ViewId) -> Result<Option<Vec<Option<i64>>>, OnlineStoreError> {
        self.store.retention(view)
    }

    fn scan_after(
        &self,
        view: ViewId,
        after: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<Vec<Entry>, OnlineStoreError> {
        self.store.scan_after(view, after, entries_max)
    }

    fn stream_side(&self, view: ViewId) -> Option<ViewId> {
        self.store.stream_side(view)
    }

    fn persist(&self) -> Result<(), OnlineStoreError> {
        self.store.persist()
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, OnlineStoreError> {
        self.store.get(keys)
    }

    fn event_ids(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, OnlineStoreError> {
        self.store.event_ids(keys)
    }

    fn scan_event_ids(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        ids_max: usize,
    ) -> Result<Vec<EventId>, OnlineStoreError> {
        self.store.scan_event_ids(prefix, after, ids_max)
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, OnlineStoreError> {
        self.store.note(name)
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        self.store.numbers()
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), OnlineStoreError> {
        self.store.checkpoint(folder)
    }

    fn views(&self) -> Result<Vec<ViewId>, OnlineStoreError> {
        self.store.views()
    }
}

/// A bulk write is announced when it is finished: nothing of it shows before.
struct CachedBulkWriter<'a> {
    cache: &'a RowCache,
    view: ViewId,
    /// Hashes of the keys that are written, each once; None: too many to be worth it.
    written: Option<Vec<u64>>,
    writer: Box<dyn BulkWriter + 'a>,
}

impl CachedBulkWriter<'_> {
    fn note(&mut self, version_key: &[u8]) {
        let Some(written) = &mut self.written else { return };
        let hash = self.cache.hash(without_version(version_key));
        // The versions of a key are neighbours.
        if written.last() != Some(&hash) {
            written.push(hash);
        }
        if written.len() > BULK_KEYS_MAX {
            self.written = None;
        }
    }
}

impl BulkWriter for CachedBulkWriter<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), OnlineStoreError> {
        self.note(key);
        self.writer.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), OnlineStoreError> {
        self.note(key);
        self.writer.delete(key)
    }

    fn finish(self: Box<Self>, position: u64) -> Result<BulkSummary, OnlineStoreError> {
        let _announced = match &self.written {
            Some(written) => self.cache.announce_hashes(self.view, written),
            None => self.cache.announce_all_of(self.view),
        };
        self.writer.finish(position)
    }
}

/// The key that a version is of.
fn without_version(version_key: &[u8]) -> &[u8] {
    &version_key[..version_key.len().saturating_sub(VERSION_SUFFIX_LEN)]
}
