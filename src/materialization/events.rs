//! Events of an aggregation view as the online store keeps them: entries of events, and tiles over them.

use std::collections::VecDeque;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use std::sync::Arc;

use super::MaterializationError;
use super::sync::rows_failed;
use crate::definition::{FeatureView, Field};
use crate::online_store::{
    Entry, KeyEncoder, OnlineStoreError, SchemaVersion, TileLayout, ValueEncoder, append_event, tile_start, version_key,
};
use crate::tile::{Column, Partial, values};
use crate::time::EventTimestamp;

/// A stream of events to entries in the order of their keys: of each join key its events, newest first, then its
/// tiles, level by level, each newest first.
///
/// The events come by join keys, then event and created timestamp, newest first.
pub(super) struct EncodedEvents<'a> {
    view: &'a FeatureView,
    rows: SendableRecordBatchStream,
    keys: KeyEncoder,
    key_count: usize,
    values: ValueEncoder,
    fields: Vec<Field>,
    version: SchemaVersion,
    layout: TileLayout,
    /// What comes next.
    ready: VecDeque<Entry>,
    /// The entry that is returned now.
    current: Option<Entry>,
    key: Option<Key>,
}

/// Event and created timestamp.
type Instants = (i64, Option<i64>);

/// The join key whose events come now.
struct Key {
    prefix: Vec<u8>,
    /// The pending entry of events, and its value.
    pending: Option<(Instants, Vec<u8>)>,
    /// Of each level the tile that events are added to, and the finished ones.
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    open: Option<(i64, Vec<Partial>)>,
    done: Vec<Entry>,
}

impl<'a> EncodedEvents<'a> {
    pub fn new(
        view: &'a FeatureView,
        layout: TileLayout,
        rows: SendableRecordBatchStream,
        keys: KeyEncoder,
        key_count: usize,
        version: SchemaVersion,
    ) -> Self {
        EncodedEvents {
            view,
            rows,
            keys,
            key_count,
            values: ValueEncoder::new(version, &layout.stored_fields(view)),
            fields: view.stored_fields(),
            version,
            layout,
            ready: VecDeque::new(),
            current: None,
            key: None,
        }
    }

    /// Goes to the next entry; false after the last.
    pub async fn advance(&mut self) -> Result<bool, MaterializationError> {
        while self.ready.is_empty() {
            match self.rows.try_next().await.map_err(|source| rows_failed(&self.view.name, source))? {
                Some(batch) => self.encode(&batch)?,
                None => {
                    self.finish_key();
                    break;
                }
            }
        }
        self.current = self.ready.pop_front();
        Ok(self.current.is_some())
    }

    /// Key and value of the current entry.
    pub fn row(&self) -> (&[u8], &[u8]) {
        self.current.as_ref().map_or((&[], &[]), |(key, value)| (key, value))
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), MaterializationError> {
        let (keys, rest) = batch.columns().split_at(self.key_count);
        let prefixes = self.keys.encode(keys, batch.num_rows()).map_err(OnlineStoreError::from)?;
        let times = rest[0].as_primitive_opt::<TimestampMicrosecondType>();
        let created = rest[1].as_primitive_opt::<TimestampMicrosecondType>();
        let (Some(times), Some(created)) = (times, created) else {
            return Err(self.misfit("its table's time columns are no instants in microseconds".to_owned()));
        };
        let typed = rest[2..].iter().zip(&self.fields).map(|(array, field)| values(array, &field.value_type));
        let columns: Vec<Column> = typed.collect::<Result<_, _>>().map_err(|error| self.misfit(error.to_string()))?;
        let mut stored = rest[2..].to_vec();
        stored.push(Arc::new(BooleanArray::new_null(batch.num_rows())));
        let encoder = self.values.clone();
        let encoder = encoder.bind(&stored).map_err(OnlineStoreError::from)?;
        let mut value = Vec::new();
        for row in 0..batch.num_rows() {
            // A job writes no event without its keys or its time.
            let Some(prefix) = prefixes.get(row).filter(|_| times.is_valid(row)) else { continue };
            if self.key.as_ref().is_none_or(|key| key.prefix != prefix) {
                self.finish_key();
                let levels = self.layout.widths.iter().map(|_| Level::default()).collect();
                self.key = Some(Key { prefix: prefix.to_vec(), pending: None, levels });
            }
            value.clear();
            encoder.encode(row, &mut value).map_err(OnlineStoreError::from)?;
            let instants = (times.value(row), created.is_valid(row).then(|| created.value(row)));
            self.add_event(instants, &value);
            self.add_to_tiles(instants, &columns, row);
        }
        Ok(())
    }

    fn misfit(&self, problem: String) -> MaterializationError {
        MaterializationError::Schema { view: self.view.name.clone(), problem }
    }

    fn add_event(&mut self, instants: (i64, Option<i64>), row: &[u8]) {
        let Some(key) = &mut self.key else { return };
        if key.pending.as_ref().is_some_and(|(pending, _)| *pending != instants) {
            self.ready.extend(key.take_pending());
        }
        append_event(row, &mut key.pending.get_or_insert_with(|| (instants, Vec::new())).1);
    }

    fn add_to_tiles(&mut self, instants: (i64, Option<i64>), columns: &[Column], row: usize) {
        let Some(key) = &mut self.key else { return };
        let Some(width) = self.layout.widths.first() else { return };
        let start = tile_start(instants.0, *width);
        key.open(0, start, &self.layout, self.version);
        let Some((_, partials)) = &mut key.levels[0].open else { return };
        for (part, partial) in self.layout.parts.iter().zip(partials) {
            partial.update(&part.event(columns, row, instants));
        }
    }

    fn finish_key(&mut self) {
        let Some(mut key) = self.key.take() else { return };
        self.ready.extend(key.take_pending());
        for level in 0..key.levels.len() {
            key.close(level, &self.layout, self.version);
        }
        for level in key.levels {
            self.ready.extend(level.done);
        }
    }
}

impl Key {
    fn entry(&self, level: u8, instants: (i64, Option<i64>), value: Vec<u8>) -> Entry {
        let mut prefix = self.prefix.clone();
        prefix.push(level);
        let mut key = Vec::with_capacity(prefix.len() + 16);
        let created = instants.1.map(EventTimestamp::from_micros);
        version_key(&prefix, EventTimestamp::from_micros(instants.0), created, &mut key);
        (key.into(), value.into())
    }

    fn take_pending(&mut self) -> Option<Entry> {
        let (instants, value) = self.pending.take()?;
        Some(self.entry(0, instants, value))
    }

    /// Makes the tile that starts at `start` the open one of its level; the one before is finished.
    fn open(&mut self, level: usize, start: i64, layout: &TileLayout, version: SchemaVersion) {
        if self.levels[level].open.as_ref().is_some_and(|(open, _)| *open != start) {
            self.close(level, layout, version);
        }
        self.levels[level].open.get_or_insert_with(|| (start, layout.empty_tile()));
    }

    /// Finishes the open tile of a level, which becomes a part of the one above it.
    fn close(&mut self, level: usize, layout: &TileLayout, version: SchemaVersion) {
        let Some((start, partials)) = self.levels[level].open.take() else { return };
        if let Some(width) = layout.widths.get(level + 1) {
            self.open(level + 1, tile_start(start, *width), layout, version);
            if let Some((_, wider)) = &mut self.levels[level + 1].open {
                wider.iter_mut().zip(&partials).for_each(|(wider, partial)| wider.merge(partial));
            }
        }
        let mut value = Vec::new();
        layout.encode_tile(version, &partials, &mut value);
        let entry = self.entry(level as u8 + 1, (start, None), value);
        self.levels[level].done.push(entry);
    }
}
