//! The online store in memory, for tests and examples.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::error::{DecodeError, OnlineStoreError};
use super::key::{EncodedKeys, KeyOrder, ViewId, seek_key, split_version_key, view_of, view_range};
use super::stream::merge_rows;
use super::value::SchemaVersion;
use super::{
    BulkSummary, BulkWriter, Entry, EventId, OnStretch, OnVersion, OnlineStore, Schemas, StreamChanges, Stretch,
    VersionRef, bare_fields, schema_version,
};
use crate::definition::Field;
use crate::time::EventTimestamp;

/// Keeps everything, as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryOnlineStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    timeline: BTreeMap<Vec<u8>, Vec<u8>>,
    schemas: BTreeMap<ViewId, Schemas>,
    positions: BTreeMap<ViewId, u64>,
    origins: BTreeMap<ViewId, String>,
    sides: BTreeMap<ViewId, ViewId>,
    event_ids: BTreeMap<Vec<u8>, i64>,
    notes: BTreeMap<String, Vec<u8>>,
}

impl MemoryOnlineStore {
    pub fn new() -> Self {
        MemoryOnlineStore::default()
    }

    // Every change to the state is a single step, so a panic elsewhere leaves it whole.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnlineStore for MemoryOnlineStore {
    fn read(&self, keys: &EncodedKeys, now: EventTimestamp, out: &mut OnVersion<'_>) -> Result<(), OnlineStoreError> {
        let state = self.state();
        let mut seek = Vec::new();
        for (row, prefix) in keys.iter().enumerate() {
            let Some(prefix) = prefix else {
                out(row, None)?;
                continue;
            };
            seek.clear();
            seek_key(prefix, now, &mut seek);
            let version = state.timeline.range(seek.clone()..).next().and_then(|(key, value)| {
                let (found, event_timestamp, created_timestamp) = split_version_key(key)?;
                (found == prefix).then_some(VersionRef { event_timestamp, created_timestamp, value })
            });
            out(row, version)?;
        }
        Ok(())
    }

    fn read_stretches(&self, stretches: &[Stretch<'_>], out: &mut OnStretch<'_>) -> Result<(), OnlineStoreError> {
        let state = self.state();
        let mut seek = Vec::new();
        for (number, stretch) in stretches.iter().enumerate() {
            seek.clear();
            stretch.seek_key(&mut seek);
            for (key, value) in state.timeline.range(seek.clone()..) {
                match stretch.version_of(key, value)? {
                    Some(version) => out(number, version)?,
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn schemas(&self, view: ViewId) -> Result<Arc<Schemas>, OnlineStoreError> {
        Ok(Arc::new(self.state().schemas.get(&view).cloned().unwrap_or_default()))
    }

    fn register_schema(&self, view: ViewId, features: &[Field]) -> Result<SchemaVersion, OnlineStoreError> {
        let mut state = self.state_mut();
        let schemas = state.schemas.entry(view).or_default();
        let (version, is_new) = schema_version(schemas, features);
        if is_new {
            schemas.insert(version, bare_fields(features));
        }
        Ok(version)
    }

    fn bulk_writer(&self, view: ViewId) -> Result<Box<dyn BulkWriter + '_>, OnlineStoreError> {
        let order = KeyOrder::new(view)?;
        Ok(Box::new(MemoryBulkWriter {
            store: self,
            view,
            order,
            changes: Vec::new(),
            summary: BulkSummary::default(),
        }))
    }

    fn position(&self, view: ViewId) -> Result<Option<u64>, OnlineStoreError> {
        Ok(self.state().positions.get(&view).copied())
    }

    fn origin(&self, view: ViewId) -> Result<Option<String>, OnlineStoreError> {
        Ok(self.state().origins.get(&view).cloned())
    }

    fn set_origin(&self, view: ViewId, table_id: &str) -> Result<(), OnlineStoreError> {
        self.state_mut().origins.insert(view, table_id.to_owned());
        Ok(())
    }

    /// It keeps everything.
    fn set_retention(&self, _: ViewId, _: &[Option<i64>]) -> Result<(), OnlineStoreError> {
        Ok(())
    }

    fn retention(&self, _: ViewId) -> Result<Option<Vec<Option<i64>>>, OnlineStoreError> {
        Ok(None)
    }

    fn scan_after(
        &self,
        view: ViewId,
        after: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<Vec<Entry>, OnlineStoreError> {
        let (start, end) = view_range(view);
        let state = self.state();
        let start = after.map_or(Bound::Included(start.as_slice()), Bound::Excluded);
        let entries = state.timeline.range::<[u8], _>((start, Bound::Excluded(end.as_slice())));
        Ok(entries.take(entries_max).map(|(key, value)| (key.as_slice().into(), value.as_slice().into())).collect())
    }

    fn stream_side(&self, view: ViewId) -> Option<ViewId> {
        self.state().sides.get(&view).copied()
    }

    fn write_stream(&self, changes: &StreamChanges) -> Result<(), OnlineStoreError> {
        let mut state = self.state_mut();
        for (key, value) in changes.merges.iter() {
            let stored = state.timeline.get(key).map(Vec::as_slice);
            let merged = merge_rows(stored.into_iter().chain([value])).ok_or(DecodeError::Tile)?;
            state.timeline.insert(key.to_vec(), merged);
        }
        state.timeline.extend(changes.puts.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        state.event_ids.extend(changes.event_ids.iter().cloned());
        state.event_ids.retain(|id, _| !changes.forgotten_ids.contains(id));
        state.notes.extend(changes.notes.iter().cloned());
        state.sides.extend(changes.sides.iter().copied());
        Ok(())
    }

    fn persist(&self) -> Result<(), OnlineStoreError> {
        Ok(())
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, OnlineStoreError> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.timeline.get(key).cloned()).collect())
    }

    fn event_ids(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, OnlineStoreError> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.event_ids.get(key).copied()).collect())
    }

    fn scan_event_ids(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        ids_max: usize,
    ) -> Result<Vec<EventId>, OnlineStoreError> {
        let state = self.state();
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let ids = state.event_ids.range::<[u8], _>((start, Bound::Unbounded));
        let ids = ids.take_while(|(key, _)| key.starts_with(prefix)).take(ids_max);
        Ok(ids.map(|(key, received_at)| (key.as_slice().into(), *received_at)).collect())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, OnlineStoreError> {
        Ok(self.state().notes.get(name).cloned())
    }

    fn checkpoint(&self, _: &Path) -> Result<(), OnlineStoreError> {
        Err(OnlineStoreError::NoFiles)
    }

    fn delete_view(&self, view: ViewId) -> Result<(), OnlineStoreError> {
        let mut state = self.state_mut();
        state.sides.remove(&view);
        state.timeline.retain(|key, _| view_of(key) != Some(view));
        state.schemas.remove(&view);
        state.positions.remove(&view);
        state.origins.remove(&view);
        Ok(())
    }

    fn views(&self) -> Result<Vec<ViewId>, OnlineStoreError> {
        let state = self.state();
        let with_values = state.timeline.keys().filter_map(|key| view_of(key));
        let described =
            state.schemas.keys().chain(state.positions.keys()).chain(state.origins.keys()).chain(state.sides.keys());
        let mut views: Vec<ViewId> = with_values.chain(described.copied()).collect();
        views.sort_unstable();
        views.dedup();
        Ok(views)
    }
}

struct MemoryBulkWriter<'a> {
    store: &'a MemoryOnlineStore,
    view: ViewId,
    order: KeyOrder,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    summary: BulkSummary,
}

impl BulkWriter for MemoryBulkWriter<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), OnlineStoreError> {
        self.order.check(key)?;
        self.changes.push((key.to_vec(), Some(value.to_vec())));
        self.summary.count_put(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), OnlineStoreError> {
        self.order.check(key)?;
        self.changes.push((key.to_vec(), None));
        self.summary.count_delete(key);
        Ok(())
    }

    fn finish(self: Box<Self>, position: u64) -> Result<BulkSummary, OnlineStoreError> {
        let mut state = self.store.state_mut();
        for (key, value) in self.changes {
            match value {
                Some(value) => state.timeline.insert(key, value),
                None => state.timeline.remove(&key),
            };
        }
        state.positions.insert(self.view, position);
        Ok(self.summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::testing::online_store::online_store_conformance!(((), MemoryOnlineStore::new()));
}
