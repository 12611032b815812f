//! Aggregation views of an online request: windows that end now, from events and tiles of the online store.

use arrow::array::ArrayRef;

use super::RetrievalError;
use super::resolve::ResolvedView;
use super::windows::{aggregation_of, resolution};
use crate::definition::Window;
use crate::online_store::{
    EncodedKeys, OnlineStore, OnlineStoreError, RowDecoder, Segment, Stretch, TileLayout, TilePart, VersionRef, ViewId,
    aggregate_of, events_of, segments,
};
use crate::tile::{Aggregate, Answer, AnswerBuilder, Column, Event, Partial, values};
use crate::time::{EventTimestamp, duration_micros};
use crate::window_aggregation::lower_edge;

/// The features of an aggregation view for each key; a null key has nulls.
pub(super) fn read_windows(
    store: &dyn OnlineStore,
    id: ViewId,
    resolved: &ResolvedView,
    keys: &EncodedKeys,
    now: EventTimestamp,
) -> Result<Vec<ArrayRef>, RetrievalError> {
    let reading = Reading::new(resolved, now)?;
    let schemas = store.schemas(id)?;
    // Stored values that tell of other tiles are being replaced: until they are, events alone tell.
    let version = schemas.iter().rev().find(|(_, fields)| fields.last() == Some(&reading.layout.mark));
    let version = version.map(|(version, _)| *version);
    let mut answer = match version {
        Some(_) => reading.read(store, &schemas, keys, version)?,
        None => None,
    };
    if answer.is_none() {
        let reading = Reading { segments: segments(now.micros(), &reading.edges, &[]), ..Reading::new(resolved, now)? };
        answer = reading.read(store, &schemas, keys, None)?;
    }
    Ok(answer.unwrap_or_default())
}

/// What a read of one view looks for.
struct Reading<'a> {
    resolved: &'a ResolvedView,
    layout: TileLayout,
    edges: Vec<Option<i64>>,
    segments: Vec<Segment>,
    /// One partial aggregate of each key: which part of a tile, over which window.
    sums: Vec<(usize, usize)>,
    features: Vec<Feature>,
}

struct Feature {
    aggregate: Aggregate,
    /// Position among the sums.
    sum: usize,
}

impl<'a> Reading<'a> {
    fn new(resolved: &'a ResolvedView, now: EventTimestamp) -> Result<Self, RetrievalError> {
        let view = &resolved.view;
        let layout = TileLayout::of(view)?;
        let mut windows: Vec<Window> = Vec::new();
        let mut sums: Vec<(usize, usize)> = Vec::new();
        let mut features = Vec::new();
        for field in &resolved.features {
            let Some((aggregation, window)) = aggregation_of(view, field) else { continue };
            let window = position_or_push(&mut windows, window);
            let part = layout.part(&TilePart::of(view, aggregation)?).unwrap_or_default();
            let sum = position_or_push(&mut sums, (part, window));
            features.push(Feature { aggregate: aggregate_of(view, aggregation)?, sum });
        }
        let step = resolution(view).map(duration_micros);
        let edges: Vec<Option<i64>> = windows.iter().map(|window| lower_edge(now.micros(), *window, step)).collect();
        let segments = segments(now.micros(), &edges, &layout.widths);
        Ok(Reading { resolved, layout, edges, segments, sums, features })
    }

    /// None: a tile is not as the view's tiles are now.
    fn read(
        &self,
        store: &dyn OnlineStore,
        schemas: &crate::online_store::Schemas,
        keys: &EncodedKeys,
        version: Option<crate::online_store::SchemaVersion>,
    ) -> Result<Option<Vec<ArrayRef>>, RetrievalError> {
        let empty: Vec<Partial> = self.sums.iter().map(|(part, _)| self.layout.parts[*part].kind.empty()).collect();
        let mut held: Vec<Option<Vec<Partial>>> = keys.iter().map(|key| key.map(|_| empty.clone())).collect();
        let mut events = Events::new(RowDecoder::new(schemas, &self.resolved.view.stored_fields()));
        let mut is_as_expected = true;
        let prefixes = self.prefixes(keys);
        let stretches: Vec<Stretch<'_>> =
            prefixes.iter().map(|(_, segment, prefix)| self.stretch(*segment, prefix)).collect();
        store.read_stretches(&stretches, &mut |number, version_ref| {
            let (key, segment, _) = &prefixes[number];
            let segment = &self.segments[*segment];
            if segment.level == 0 {
                return events.add(*key, segment, version_ref);
            }
            let Some(version) = version else { return Ok(()) };
            match self.layout.decode_tile(version, version_ref.value)? {
                Some(tile) => {
                    if let Some(held) = &mut held[*key] {
                        self.add_tile(&tile, segment, held);
                    }
                }
                None => is_as_expected = false,
            }
            Ok(())
        })?;
        if !is_as_expected {
            return Ok(None);
        }
        events.add_up(self, &mut held)?;
        Ok(Some(self.finish(&held)?))
    }

    /// For each key and segment what its entries' keys begin with.
    fn prefixes(&self, keys: &EncodedKeys) -> Vec<(usize, usize, Vec<u8>)> {
        let mut prefixes = Vec::with_capacity(keys.len() * self.segments.len());
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            for (number, segment) in self.segments.iter().enumerate() {
                let mut prefix = Vec::with_capacity(key.len() + 1);
                prefix.extend_from_slice(key);
                prefix.push(segment.level as u8);
                prefixes.push((row, number, prefix));
            }
        }
        prefixes
    }

    fn stretch<'p>(&self, segment: usize, prefix: &'p [u8]) -> Stretch<'p> {
        let range = &self.segments[segment].range;
        let (from, until) = (EventTimestamp::from_micros(range.start), EventTimestamp::from_micros(range.end));
        Stretch { prefix, from, until }
    }

    fn add_tile(&self, tile: &[Partial], segment: &Segment, held: &mut [Partial]) {
        for ((part, window), sum) in self.sums.iter().zip(held) {
            if segment.windows.contains(window) {
                sum.merge(&tile[*part]);
            }
        }
    }

    fn finish(&self, held: &[Option<Vec<Partial>>]) -> Result<Vec<ArrayRef>, RetrievalError> {
        let finish = |(feature, field): (&Feature, &crate::definition::Field)| {
            let mut builder = AnswerBuilder::new(&field.value_type);
            for sums in held {
                builder.append(match sums {
                    Some(sums) => feature.aggregate.finish(&sums[feature.sum]),
                    None => Answer::Null,
                })?;
            }
            Ok(builder.finish())
        };
        self.features.iter().zip(&self.resolved.features).map(finish).collect()
    }
}

fn position_or_push<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|known| *known == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// The events at the edges of windows, of all keys.
struct Events<'s> {
    rows: RowDecoder,
    /// Of each event: its key, its segment, its event and created timestamp.
    places: Vec<(usize, &'s Segment, EventTimestamp, Option<EventTimestamp>)>,
}

impl<'s> Events<'s> {
    fn new(rows: RowDecoder) -> Self {
        Events { rows, places: Vec::new() }
    }

    fn add(&mut self, key: usize, segment: &'s Segment, entry: VersionRef<'_>) -> Result<(), OnlineStoreError> {
        for row in events_of(entry.value) {
            self.rows.append(row?)?;
            self.places.push((key, segment, entry.event_timestamp, entry.created_timestamp));
        }
        Ok(())
    }

    fn add_up(self, reading: &Reading<'_>, held: &mut [Option<Vec<Partial>>]) -> Result<(), RetrievalError> {
        let fields = reading.resolved.view.stored_fields();
        let columns = self.rows.finish();
        let columns: Vec<Column> = columns
            .iter()
            .zip(&fields)
            .map(|(array, field)| values(array, &field.value_type))
            .collect::<Result<_, _>>()?;
        for (row, (key, segment, event_timestamp, created_timestamp)) in self.places.iter().enumerate() {
            let Some(held) = &mut held[*key] else { continue };
            for ((part, window), sum) in reading.sums.iter().zip(held) {
                if !segment.windows.contains(window) {
                    continue;
                }
                let part = &reading.layout.parts[*part];
                let value = |column: Option<usize>| column.and_then(|column| columns[column].value(row));
                sum.update(&Event {
                    event_timestamp: event_timestamp.micros(),
                    created_timestamp: created_timestamp.map(EventTimestamp::micros),
                    value: value(part.input),
                    bucket: value(part.by),
                });
            }
        }
        Ok(())
    }
}
