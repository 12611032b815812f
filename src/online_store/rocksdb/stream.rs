//! What streams write and look up.

use std::sync::PoisonError;

use rocksdb::{DEFAULT_COLUMN_FAMILY_NAME, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::meta::{MetaKey, note_key};
use super::{RocksDbOnlineStore, all_keys};
use crate::online_store::error::OnlineStoreError;
use crate::online_store::key::ViewId;
use crate::online_store::stream::{EventId, StreamChanges};

impl RocksDbOnlineStore {
    pub(super) fn load_sides(&self) -> Result<(), OnlineStoreError> {
        let mut sides = self.sides.write().unwrap_or_else(PoisonError::into_inner);
        for entry in self.db.iterator_cf(&self.meta(), IteratorMode::Start) {
            let (key, value) = entry.map_err(self.failed("read the side of a stream"))?;
            if let Some(MetaKey::StreamSide(view)) = MetaKey::decode(&key) {
                let side = <[u8; 4]>::try_from(value.as_ref());
                let side = side.map_err(|_| OnlineStoreError::CorruptEntry { entry: "stream side", view })?;
                sides.insert(view, ViewId(u32::from_be_bytes(side)));
            }
        }
        Ok(())
    }

    pub(super) fn write_changes(&self, changes: &StreamChanges) -> Result<(), OnlineStoreError> {
        let (timeline, meta, ids) = (self.timeline(), self.meta(), self.family(DEFAULT_COLUMN_FAMILY_NAME));
        let mut batch = WriteBatch::default();
        let merges = changes.merges.iter().map(|(key, value)| (key, (true, value)));
        let puts = changes.puts.iter().map(|(key, value)| (key, (false, value)));
        for (key, (is_merge, value)) in in_order(merges.chain(puts)) {
            match is_merge {
                true => batch.merge_cf(&timeline, key, value),
                false => batch.put_cf(&timeline, key, value),
            }
        }
        for (key, received_at) in
            in_order(changes.event_ids.iter().map(|(key, received_at)| (key.as_slice(), received_at)))
        {
            batch.put_cf(&ids, key, received_at.to_be_bytes());
        }
        for key in &changes.forgotten_ids {
            batch.delete_cf(&ids, key);
        }
        for (name, value) in &changes.notes {
            batch.put_cf(&meta, note_key(name), value);
        }
        for (view, side) in &changes.sides {
            batch.put_cf(&meta, MetaKey::StreamSide(*view).encode(), side.0.to_be_bytes());
        }
        // Not synced: the events are in a log that is, from which a crash of the machine is repaired.
        let mut options = WriteOptions::default();
        options.set_memtable_insert_hint_per_batch(true);
        self.db.write_opt(batch, &options).map_err(self.failed("write what a stream brought"))?;
        if !changes.sides.is_empty() {
            self.sides.write().unwrap_or_else(PoisonError::into_inner).extend(changes.sides.iter().copied());
        }
        Ok(())
    }

    pub(super) fn get_values(&self, family: &str, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, OnlineStoreError> {
        let family = self.family(family);
        let values = self.db.batched_multi_get_cf(&family, keys, false);
        let value =
            |value: Result<Option<rocksdb::DBPinnableSlice<'_>>, _>| value.map(|value| value.map(|v| v.to_vec()));
        values.into_iter().map(|found| value(found).map_err(self.failed("be read"))).collect()
    }

    pub(super) fn get_event_ids(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, OnlineStoreError> {
        let values = self.get_values(DEFAULT_COLUMN_FAMILY_NAME, keys)?;
        values.into_iter().map(|value| value.map(|value| received_at(&value)).transpose()).collect()
    }

    pub(super) fn scan_ids(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        ids_max: usize,
    ) -> Result<Vec<EventId>, OnlineStoreError> {
        let start = after.map_or_else(|| prefix.to_vec(), |after| [after, &[0]].concat());
        let mode = IteratorMode::From(&start, Direction::Forward);
        let mut ids = Vec::new();
        for entry in self.db.iterator_cf_opt(&self.family(DEFAULT_COLUMN_FAMILY_NAME), all_keys(), mode).take(ids_max) {
            let (key, value) = entry.map_err(self.failed("be scanned"))?;
            if !key.starts_with(prefix) {
                break;
            }
            ids.push((key, received_at(&value)?));
        }
        Ok(ids)
    }
}

/// Entries in the order of their keys, so that each finds its place in the store near the one before; of equal keys the
/// last still comes last.
fn in_order<'k, T>(entries: impl Iterator<Item = (&'k [u8], T)>) -> impl Iterator<Item = (&'k [u8], T)> {
    // Most keys differ in their first bytes, which stand beside one another here.
    let mut sorted: Vec<(u128, &[u8], T)> = entries.map(|(key, value)| (head(key), key, value)).collect();
    sorted.sort_by(|(a_head, a, _), (b_head, b, _)| a_head.cmp(b_head).then_with(|| a.cmp(b)));
    sorted.into_iter().map(|(_, key, value)| (key, value))
}

/// The first sixteen bytes of a key, as a number that is ordered as they are.
fn head(key: &[u8]) -> u128 {
    let mut head = [0; 16];
    let len = key.len().min(head.len());
    head[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(head)
}

fn received_at(value: &[u8]) -> Result<i64, OnlineStoreError> {
    let bytes = <[u8; 8]>::try_from(value);
    bytes.map(i64::from_be_bytes).map_err(|_| OnlineStoreError::CorruptEntry { entry: "event id", view: ViewId(0) })
}
