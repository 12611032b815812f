//! The online side of one view that its stream writes: rows of the view to changes of the store.
//!
//! Row views get a version each; aggregation views their events, and the tiles over them. A tile is what it was with
//! the new events added, which is exact in any order and grouping; there is one writer, so that none is lost.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::IngestionError;
use super::view_plan::ViewPlan;
use crate::definition::{Definitions, FeatureView, Field};
use crate::online_store::{
    EncodedKeys, KeyEncoder, OnlineStore, OnlineStoreError, SchemaVersion, StreamChanges, TileLayout, Together,
    ValueEncoder, ViewId, encode_rows, tile_start, version_key,
};
use crate::tile::{Column, Partial, values};
use crate::time::EventTimestamp;

/// Bytes of the tiles that a view asked for of late, about. As many of those before them are kept.
const YOUNG_BYTES_MAX: usize = 32 << 20;

pub struct ViewSide {
    pub view: FeatureView,
    pub plan: ViewPlan,
    /// The number that its values stand under.
    pub side: ViewId,
    keys: KeyEncoder,
    key_count: usize,
    values: ValueEncoder,
    version: SchemaVersion,
    layout: Option<TileLayout>,
    tiles: TileCache,
    /// Events, or rows, that were added since it was opened.
    pub added: u64,
}

impl std::fmt::Debug for ViewSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewSide").field("view", &self.view.name).field("side", &self.side).finish_non_exhaustive()
    }
}

/// Tiles by key, as they are in the store: those asked for of late, and those before them, which go first.
#[derive(Default)]
struct TileCache {
    young: HashMap<Vec<u8>, HeldTile, KeyHash>,
    old: HashMap<Vec<u8>, HeldTile, KeyHash>,
    /// Of the young ones.
    bytes: usize,
}

struct HeldTile {
    partials: Vec<Partial>,
    /// What it takes in memory, at least what it takes encoded.
    bytes: usize,
}

type KeyHash = BuildHasherDefault<KeyHasher>;

/// Keys are bytes, many and short, and of our own making.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is added to tiles, by key and start.
struct AddedTiles<'k> {
    places: HashMap<(&'k [u8], i64), usize, KeyHash>,
    /// `parts` of each tile, one tile after the other.
    partials: Vec<Partial>,
    parts: usize,
}

/// What describes a side's values: another description, another side.
pub fn describe(
    definitions: &Definitions,
    view: &FeatureView,
    data_version: u64,
    log: &str,
) -> Result<String, IngestionError> {
    let (fields, layout) = stored_fields(view)?;
    let retention = layout.map(|layout| layout.retention(view));
    let keys: Vec<String> = definitions.join_keys(view).iter().map(|key| key.value_type.to_string()).collect();
    let fields: Vec<String> = fields.iter().map(|field| format!("{} {}", field.name, field.value_type)).collect();
    Ok(format!("{log} {data_version} {keys:?} {fields:?} {retention:?}"))
}

fn stored_fields(view: &FeatureView) -> Result<(Vec<Field>, Option<TileLayout>), IngestionError> {
    let failed = |error: crate::tile::TileError| rows_failed(view, error.to_string());
    let layout = view.is_aggregation().then(|| TileLayout::of(view)).transpose().map_err(failed)?;
    Ok((layout.as_ref().map_or_else(|| view.stored_fields(), |layout| layout.stored_fields(view)), layout))
}

fn rows_failed(view: &FeatureView, problem: String) -> IngestionError {
    IngestionError::Rows { view: view.name.clone(), problem }
}

impl ViewSide {
    /// Says in the store what the side's values are; they may be there already.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn open(
        definitions: &Definitions,
        view: &FeatureView,
        plan: ViewPlan,
        side: ViewId,
        store: &dyn OnlineStore,
    ) -> Result<Self, IngestionError> {
        let (fields, layout) = stored_fields(view)?;
        if let Some(layout) = &layout {
            store.set_retention(side, &layout.retention(view))?;
        }
        let version = store.register_schema(side, &fields)?;
        let key_types: Vec<_> = definitions.join_keys(view).into_iter().map(|key| key.value_type).collect();
        Ok(ViewSide {
            keys: KeyEncoder::new(side, &key_types).map_err(OnlineStoreError::from)?,
            key_count: key_types.len(),
            values: ValueEncoder::new(version, &fields),
            view: view.clone(),
            plan,
            side,
            version,
            layout,
            tiles: TileCache::default(),
            added: 0,
        })
    }

    /// Forgets what it holds of the store, of which it is not known any more whether it is there.
    pub fn forget(&mut self) {
        self.tiles = TileCache::default();
    }

    /// What was added is in the store. Only now may tiles be let go that the store had not.
    pub fn written(&mut self) {
        self.tiles.make_room();
    }

    /// Adds rows of the view to the changes; the tiles at hand are then as they will be when the changes are written.
    ///
    /// # Errors
    /// A store that cannot be read. The side has to [forget](Self::forget) then.
    pub fn add(
        &mut self,
        rows: &RecordBatch,
        store: &dyn OnlineStore,
        changes: &mut StreamChanges,
    ) -> Result<(), IngestionError> {
        let (keys, rest) = rows.columns().split_at(self.key_count);
        let prefixes = self.keys.encode(keys, rows.num_rows()).map_err(OnlineStoreError::from)?;
        let instants = Instants::of(rest).ok_or_else(|| rows_failed(&self.view, "times are no instants".to_owned()))?;
        let mut stored = rest[2..].to_vec();
        if self.layout.is_some() {
            stored.push(Arc::new(BooleanArray::new_null(rows.num_rows())));
        }
        self.add_rows(&prefixes, instants, &stored, changes)?;
        match self.layout.is_some() {
            true => self.add_to_tiles(&prefixes, instants, &rest[2..], store, changes),
            false => Ok(()),
        }
    }

    fn add_rows(
        &mut self,
        prefixes: &EncodedKeys,
        instants: Instants<'_>,
        columns: &[ArrayRef],
        changes: &mut StreamChanges,
    ) -> Result<(), IngestionError> {
        let values = self.values.bind(columns).map_err(OnlineStoreError::from)?;
        let together = if self.layout.is_some() { Together::Events } else { Together::Versions };
        let (mut key, mut row_value) = (Vec::new(), Vec::new());
        for row in 0..prefixes.len() {
            let Some(prefix) = prefixes.get(row).filter(|_| instants.events.is_valid(row)) else { continue };
            key.clear();
            key.extend_from_slice(prefix);
            if self.layout.is_some() {
                key.push(0);
            }
            let (event, created) = instants.of_row(row);
            version_key(&[], event, created, &mut key);
            row_value.clear();
            values.encode(row, &mut row_value).map_err(OnlineStoreError::from)?;
            changes.merges.push(&key, |out| encode_rows(together, [row_value.as_slice()], out));
            self.added += 1;
        }
        Ok(())
    }

    fn add_to_tiles(
        &mut self,
        prefixes: &EncodedKeys,
        instants: Instants<'_>,
        columns: &[ArrayRef],
        store: &dyn OnlineStore,
        changes: &mut StreamChanges,
    ) -> Result<(), IngestionError> {
        let Some(layout) = self.layout.clone() else { return Ok(()) };
        let failed = |error: crate::tile::TileError| rows_failed(&self.view, error.to_string());
        let typed = columns.iter().zip(&self.view.event_columns);
        let typed = typed.map(|(array, column)| values(array, &column.field.value_type));
        let columns: Vec<Column> = typed.collect::<Result<_, _>>().map_err(failed)?;
        let mut added = narrowest_tiles(&layout, prefixes, instants, &columns);
        for level in 1..=layout.widths.len() {
            self.merge_tiles(level as u8, &added, &layout, store, changes)?;
            let Some(width) = layout.widths.get(level) else { break };
            added = added.widened(*width, &layout);
        }
        Ok(())
    }

    /// Puts what the tiles of one level are with what is added to them.
    fn merge_tiles(
        &mut self,
        level: u8,
        added: &AddedTiles<'_>,
        layout: &TileLayout,
        store: &dyn OnlineStore,
        changes: &mut StreamChanges,
    ) -> Result<(), IngestionError> {
        let tile_key = |(key, start): (&[u8], i64), out: &mut Vec<u8>| {
            out.clear();
            out.extend_from_slice(key);
            out.push(level);
            version_key(&[], EventTimestamp::from_micros(start), None, out);
        };
        let mut key = Vec::new();
        let mut unknown: Vec<Vec<u8>> = Vec::new();
        for (place, _) in added.iter() {
            tile_key(place, &mut key);
            if !self.tiles.keep(&key) {
                unknown.push(key.clone());
            }
        }
        let stored = store.get(&unknown)?;
        for (key, value) in unknown.into_iter().zip(stored) {
            let tile = match value {
                Some(value) => layout.decode_tile(self.version, &value)?,
                None => None,
            };
            self.tiles.insert(key, tile.unwrap_or_else(|| layout.empty_tile()));
        }
        for (place, partials) in added.iter() {
            tile_key(place, &mut key);
            let Some(tile) = self.tiles.young.get_mut(&key) else { continue };
            tile.partials.iter_mut().zip(partials).for_each(|(sum, partial)| sum.merge(partial));
            let mut len = 0;
            changes.puts.push(&key, |out| {
                let before = out.len();
                layout.encode_tile(self.version, &tile.partials, out);
                len = out.len() - before;
            });
            self.tiles.bytes += len.saturating_sub(tile.bytes);
            tile.bytes = tile.bytes.max(len);
        }
        Ok(())
    }
}

impl TileCache {
    /// Whether a tile is held; it then stays longer than those that nobody asks for.
    fn keep(&mut self, key: &[u8]) -> bool {
        if self.young.contains_key(key) {
            return true;
        }
        let Some((key, tile)) = self.old.remove_entry(key) else { return false };
        self.bytes += key.len() + tile.bytes;
        self.young.insert(key, tile);
        true
    }

    fn insert(&mut self, key: Vec<u8>, partials: Vec<Partial>) {
        let tile = HeldTile { bytes: partials.len() * size_of::<Partial>(), partials };
        self.bytes += key.len() + tile.bytes;
        self.young.insert(key, tile);
    }

    fn make_room(&mut self) {
        if self.bytes > YOUNG_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }
}

impl<'k> AddedTiles<'k> {
    fn new(layout: &TileLayout) -> Self {
        AddedTiles { places: HashMap::default(), partials: Vec::new(), parts: layout.parts.len() }
    }

    /// The parts of a tile, which is empty at first.
    fn tile(&mut self, key: &'k [u8], start: i64, layout: &TileLayout) -> &mut [Partial] {
        let next = self.partials.len();
        let place = *self.places.entry((key, start)).or_insert(next);
        if place == next {
            self.partials.extend(layout.empty_tile());
        }
        &mut self.partials[place..place + self.parts]
    }

    fn iter(&self) -> impl Iterator<Item = ((&'k [u8], i64), &[Partial])> {
        self.places.iter().map(|(at, place)| (*at, &self.partials[*place..*place + self.parts]))
    }

    /// The same in tiles of a greater width, of which the width of these is a part.
    fn widened(&self, width: i64, layout: &TileLayout) -> Self {
        let mut wider = AddedTiles::new(layout);
        for ((key, start), partials) in self.iter() {
            let sums = wider.tile(key, tile_start(start, width), layout);
            sums.iter_mut().zip(partials).for_each(|(sum, partial)| sum.merge(partial));
        }
        wider
    }
}

/// What the events add to each narrowest tile, by key and start.
fn narrowest_tiles<'k>(
    layout: &TileLayout,
    prefixes: &'k EncodedKeys,
    instants: Instants<'_>,
    columns: &[Column],
) -> AddedTiles<'k> {
    let mut tiles = AddedTiles::new(layout);
    let Some(width) = layout.widths.first() else { return tiles };
    for row in 0..prefixes.len() {
        let Some(key) = prefixes.get(row).filter(|_| instants.events.is_valid(row)) else { continue };
        let time = instants.events.value(row);
        let created = instants.created.is_valid(row).then(|| instants.created.value(row));
        let partials = tiles.tile(key, tile_start(time, *width), layout);
        for (part, partial) in layout.parts.iter().zip(partials) {
            partial.update(&part.event(columns, row, (time, created)));
        }
    }
    tiles
}

type InstantArray = arrow::array::PrimitiveArray<TimestampMicrosecondType>;

/// The times of a view's rows.
#[derive(Clone, Copy)]
struct Instants<'a> {
    events: &'a InstantArray,
    created: &'a InstantArray,
}

impl<'a> Instants<'a> {
    /// `columns`: event and created timestamp come first.
    fn of(columns: &'a [ArrayRef]) -> Option<Self> {
        Some(Instants { events: columns.first()?.as_primitive_opt()?, created: columns.get(1)?.as_primitive_opt()? })
    }

    fn of_row(&self, row: usize) -> (EventTimestamp, Option<EventTimestamp>) {
        let created = self.created.is_valid(row).then(|| EventTimestamp::from_micros(self.created.value(row)));
        (EventTimestamp::from_micros(self.events.value(row)), created)
    }
}
