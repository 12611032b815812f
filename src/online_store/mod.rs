//! The online store: for each (view, key) a timeline of row versions, read at an instant.
//!
//! ```text
//!  materialization, streams                       retrieval
//!        │ rows, any order of arrival                 │ keys, now
//!        ▼                                            ▼
//!  KeyEncoder + ValueEncoder ─► OnlineStore ─► newest version with event timestamp <= now ─► RowDecoder
//! ```
//!
//! A timeline answers what a point-in-time join would: a row stamped in the future neither shows early nor hides
//! the one that holds now, an old event never replaces a newer one, and a question about an earlier `now` gets the
//! answer of that time. Views are numbers here ([`ViewId`]) and rows are bytes; names, TTLs and statuses are
//! `retrieval`'s business. Stored bytes are described field by field in `docs/format/online_store.md`.

mod error;
mod key;
mod memory;
mod rocksdb;
mod row_cache;
mod snapshot;
mod stream;
mod tiles;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use self::rocksdb::{RocksDbOnlineStore, RocksDbOptions};
pub use error::{DecodeError, EncodeError, OnlineStoreError};
pub use key::{EncodedKeys, KeyEncoder, KeyPart, VERSION_SUFFIX_LEN, ViewId, seek_key, split_version_key, version_key};
pub use memory::MemoryOnlineStore;
pub use row_cache::RowCache;
pub use snapshot::{Snapshot, SnapshotError, checkpoint_path};
pub use stream::{EventId, KeyValues, StreamChanges, Together, decode_rows, encode_rows};
pub use tiles::{Segment, TileLayout, TilePart, aggregate_of, append_event, events_of, segments, tile_start};
pub use value::{DecodePlan, RowDecoder, RowEncoder, SchemaVersion, ValueEncoder};

use crate::definition::Field;
use crate::time::EventTimestamp;

/// The schemas of one view's stored values, oldest first.
pub type Schemas = BTreeMap<SchemaVersion, Vec<Field>>;

/// A version key and its value.
pub type Entry = (Box<[u8]>, Box<[u8]>);

/// One version of a row, borrowed from the store for the length of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRef<'a> {
    pub event_timestamp: EventTimestamp,
    pub created_timestamp: Option<EventTimestamp>,
    /// For [`RowDecoder::append`].
    pub value: &'a [u8],
}

/// Receives the answer to one key: its place among the keys asked for, and the version that holds.
pub type OnVersion<'a> = dyn FnMut(usize, Option<VersionRef<'_>>) -> Result<(), OnlineStoreError> + 'a;

/// A stretch of one timeline: the versions with `from <= event timestamp < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// The key without timestamps.
    pub prefix: &'a [u8],
    pub from: EventTimestamp,
    pub until: EventTimestamp,
}

impl<'a> Stretch<'a> {
    /// Appends the key at or after which its newest version stands, to `out`.
    fn seek_key(&self, out: &mut Vec<u8>) {
        let newest = EventTimestamp::from_micros(self.until.micros().saturating_sub(1));
        seek_key(self.prefix, newest, out);
    }

    /// The version that an entry is, if it is one of the stretch.
    fn version_of<'v>(&self, key: &'v [u8], value: &'v [u8]) -> Result<Option<VersionRef<'v>>, OnlineStoreError> {
        let (found, event_timestamp, created_timestamp) =
            split_version_key(key).ok_or_else(|| OnlineStoreError::CorruptKey { key: key.to_vec() })?;
        let is_inside = found == self.prefix && self.from <= event_timestamp && event_timestamp < self.until;
        Ok(is_inside.then_some(VersionRef { event_timestamp, created_timestamp, value }))
    }
}

/// Receives each version of the stretches asked for: the stretch's place, and the version.
pub type OnStretch<'a> = dyn FnMut(usize, VersionRef<'_>) -> Result<(), OnlineStoreError> + 'a;

/// Timelines of rows, by view and key.
///
/// # Contract
/// - A version is identified by (view, key, event timestamp, created timestamp); putting it again replaces its value.
/// - What a finished bulk write holds is visible at once, to reads that begin after it, and survives a crash of the
///   machine; what an unfinished one was given never shows.
/// - Views do not see each other. The number of a deleted view may be used again.
/// - A store that was told to forget history may drop a version once a newer one of the same key is older than that
///   history; reads at instants within the history are unaffected. Deleting the newer version later does not bring
///   the dropped one back.
pub trait OnlineStore: fmt::Debug + Send + Sync {
    /// Calls `out` once for each key, in the order of `keys`, repeats included, with the version that has the
    /// greatest (event timestamp, created timestamp) among those with `event timestamp <= now`; with None if there
    /// is none or the key is null. All keys see the same state of the store.
    ///
    /// # Errors
    /// Those of `out`, which end the read, and those of the store.
    fn read(&self, keys: &EncodedKeys, now: EventTimestamp, out: &mut OnVersion<'_>) -> Result<(), OnlineStoreError>;

    /// Calls `out` for each version of each stretch, newest first. All stretches see the same state of the store.
    ///
    /// # Errors
    /// Those of `out`, which end the read, and those of the store.
    fn read_stretches(&self, stretches: &[Stretch<'_>], out: &mut OnStretch<'_>) -> Result<(), OnlineStoreError>;

    /// The schemas that stored values of the view may have; empty if it has none.
    fn schemas(&self, view: ViewId) -> Result<Arc<Schemas>, OnlineStoreError>;

    /// The newest version of the view's schema, if it has these names and types in this order, else a new version:
    /// so the newest is always the one that values were last written under.
    ///
    /// It is durable when this returns, so that no value can outlive its schema.
    fn register_schema(&self, view: ViewId, features: &[Field]) -> Result<SchemaVersion, OnlineStoreError>;

    /// Begins a bulk write; any number may be under way at a time.
    fn bulk_writer(&self, view: ViewId) -> Result<Box<dyn BulkWriter + '_>, OnlineStoreError>;

    /// The version of the offline table that the view's values stand for: the last one a bulk write finished with.
    fn position(&self, view: ViewId) -> Result<Option<u64>, OnlineStoreError>;

    /// The offline table that the position is a version of; None where nobody has said.
    fn origin(&self, view: ViewId) -> Result<Option<String>, OnlineStoreError>;

    /// Says which offline table positions of the view are versions of. Durable when this returns.
    fn set_origin(&self, view: ViewId, table_id: &str) -> Result<(), OnlineStoreError>;

    /// Says that the view is an aggregation view, and how long entries of each of its levels are read: those whose
    /// instant is earlier than this before the asked time (in microseconds; None: none is) may be forgotten once that
    /// holds for all of history. Durable when this returns; comes before the view's first value.
    fn set_retention(&self, view: ViewId, levels: &[Option<i64>]) -> Result<(), OnlineStoreError>;

    /// What [`set_retention`](Self::set_retention) said last; None: it said nothing, and nothing was forgotten by it.
    fn retention(&self, view: ViewId) -> Result<Option<Vec<Option<i64>>>, OnlineStoreError>;

    /// The first `entries_max` versions of the view whose keys come after `after`, or the first of all, in key order:
    /// keys ascend, and of one key the newest comes first. Fewer than `entries_max` are the last ones.
    fn scan_after(
        &self,
        view: ViewId,
        after: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<Vec<Entry>, OnlineStoreError>;

    /// The number under which what streams wrote of the view is read; None: no stream has fed it.
    fn stream_side(&self, view: ViewId) -> Option<ViewId>;

    /// Makes all changes in one step, so that a reader and a crash see all of them or none; later ones survive no
    /// crash that earlier ones did not. Only one caller at a time may write the tiles of a side.
    fn write_stream(&self, changes: &StreamChanges) -> Result<(), OnlineStoreError>;

    /// Returns once everything written so far survives a crash of the machine.
    fn persist(&self) -> Result<(), OnlineStoreError>;

    /// The values under whole keys, such as those of tiles.
    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, OnlineStoreError>;

    /// When the events of these ids came in, in microseconds; None: no such id is remembered.
    fn event_ids(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, OnlineStoreError>;

    /// The first `ids_max` remembered ids after `after` that begin with `prefix`, and when their events came in.
    fn scan_event_ids(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        ids_max: usize,
    ) -> Result<Vec<EventId>, OnlineStoreError>;

    /// What was last noted under a name.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, OnlineStoreError>;

    /// Writes the files of this moment into a folder that must not exist, for a [`Snapshot`].
    ///
    /// # Errors
    /// A store that has no files.
    fn checkpoint(&self, folder: &Path) -> Result<(), OnlineStoreError>;

    /// What the store tells of its size and state, by name; nothing where it tells nothing.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Deletes the view's values, schemas, position, origin and retention, and nothing else. Cheap for huge views.
    ///
    /// Must not run together with a bulk write of the same view.
    fn delete_view(&self, view: ViewId) -> Result<(), OnlineStoreError>;

    /// The views that have a schema, a position, an origin or values, in order.
    fn views(&self) -> Result<Vec<ViewId>, OnlineStoreError>;
}

/// Every version of a view, read in pieces: memory holds one of them, whatever the view's size.
///
/// What is written meanwhile may show or not.
#[derive(Debug)]
pub struct Scan<'a> {
    store: &'a dyn OnlineStore,
    view: ViewId,
    piece: std::vec::IntoIter<Entry>,
    /// The key that the next piece comes after; None before the first.
    last: Option<Box<[u8]>>,
    is_over: bool,
}

/// Versions that a [`Scan`] reads at once.
pub(crate) const SCAN_ENTRIES: usize = 4096;

impl<'a> Scan<'a> {
    pub fn new(store: &'a dyn OnlineStore, view: ViewId) -> Self {
        Scan { store, view, piece: Vec::new().into_iter(), last: None, is_over: false }
    }

    fn read(&mut self) -> Result<(), OnlineStoreError> {
        let piece = self.store.scan_after(self.view, self.last.as_deref(), SCAN_ENTRIES)?;
        self.is_over = piece.len() < SCAN_ENTRIES;
        self.last = piece.last().map(|(key, _)| key.clone());
        self.piece = piece.into_iter();
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry, OnlineStoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.piece.len() == 0
            && !self.is_over
            && let Err(error) = self.read()
        {
            self.is_over = true;
            return Some(Err(error));
        }
        self.piece.next().map(Ok)
    }
}

/// Many changes to one view that become visible together. Dropped without [`finish`](BulkWriter::finish), it leaves nothing.
///
/// Keys are [version keys](version_key) and ascend strictly by their bytes, over puts and deletes together. That is:
/// join keys ascending, then event timestamp **descending**, then created timestamp **descending** with none last.
pub trait BulkWriter: Send {
    /// # Errors
    /// [`UnsortedKeys`](OnlineStoreError::UnsortedKeys) and [`ForeignKey`](OnlineStoreError::ForeignKey); the writer is
    /// then good for nothing but to be dropped.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), OnlineStoreError>;

    /// Deletes one version, if it is there; the version before it holds again.
    ///
    /// # Errors
    /// Those of [`put`](BulkWriter::put).
    fn delete(&mut self, key: &[u8]) -> Result<(), OnlineStoreError>;

    /// Makes all changes visible at once and durable, then records the position.
    ///
    /// A crash between the two leaves the old position: the same changes once more are harmless.
    fn finish(self: Box<Self>, position: u64) -> Result<BulkSummary, OnlineStoreError>;
}

/// What a bulk write did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkSummary {
    pub rows_put: u64,
    pub rows_deleted: u64,
    /// Keys and values as given, before compression.
    pub bytes: u64,
}

impl BulkSummary {
    fn count_put(&mut self, key: &[u8], value: &[u8]) {
        self.rows_put += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }

    fn count_delete(&mut self, key: &[u8]) {
        self.rows_deleted += 1;
        self.bytes += key.len() as u64;
    }
}

/// The schema version to give to `features`, and whether it is new.
fn schema_version(schemas: &Schemas, features: &[Field]) -> (SchemaVersion, bool) {
    let same = |stored: &[Field]| {
        stored.len() == features.len()
            && stored.iter().zip(features).all(|(a, b)| a.name == b.name && a.value_type == b.value_type)
    };
    match schemas.last_key_value().filter(|(_, stored)| same(stored)) {
        Some((version, _)) => (*version, false),
        None => (SchemaVersion(schemas.last_key_value().map_or(1, |(last, _)| last.0 + 1)), true),
    }
}

/// Features as schemas keep them: names and types, nothing that is for people.
fn bare_fields(features: &[Field]) -> Vec<Field> {
    features.iter().map(|field| Field { description: None, ..field.clone() }).collect()
}
