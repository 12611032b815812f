//! Aggregation views of an online request: windows that end now, from events and tiles of the online store.

use std::ops::Range;

use arrow::array::ArrayRef;
use metrics::counter;

use super::RetrievalError;
use super::windows::{aggregation_of, resolution};
use crate::definition::{FeatureView, Field, ValueType, Window};
use crate::metrics::SUMS_OUT_OF_RANGE_TOTAL;
use crate::online_store::{
    EncodedKeys, OnlineStore, OnlineStoreError, RowDecoder, SchemaVersion, Schemas, Segment, Stretch, TileLayout,
    TilePart, VersionRef, ViewId, aggregate_of, decode_rows, events_of, segments,
};
use crate::tile::{Aggregate, Answer, AnswerBuilder, Column, Event, Partial, values};
use crate::time::{EventTimestamp, duration_micros};
use crate::window_aggregation::lower_edge;

/// What reads of some features of an aggregation view have in common.
#[derive(Debug)]
pub struct WindowPlan {
    layout: TileLayout,
    stored_fields: Vec<Field>,
    windows: Vec<Window>,
    resolution: Option<i64>,
    /// One partial aggregate of each key: which part of a tile, over which window.
    sums: Vec<(usize, usize)>,
    features: Vec<WindowedFeature>,
}

#[derive(Debug)]
struct WindowedFeature {
    aggregate: Aggregate,
    value_type: ValueType,
    /// Position among the sums.
    sum: usize,
}

impl WindowPlan {
    /// # Errors
    /// A function that does not take its input.
    pub fn new(view: &FeatureView, requested: &[Field]) -> Result<Self, RetrievalError> {
        let layout = TileLayout::of(view)?;
        let (mut windows, mut sums, mut features) = (Vec::new(), Vec::new(), Vec::new());
        for field in requested {
            let Some((aggregation, window)) = aggregation_of(view, field) else { continue };
            let window = position_or_push(&mut windows, window);
            let part = layout.part(&TilePart::of(view, aggregation)?).unwrap_or_default();
            let sum = position_or_push(&mut sums, (part, window));
            let aggregate = aggregate_of(view, aggregation)?;
            features.push(WindowedFeature { aggregate, value_type: field.value_type.clone(), sum });
        }
        let resolution = resolution(view).map(duration_micros);
        Ok(WindowPlan { layout, stored_fields: view.stored_fields(), windows, resolution, sums, features })
    }

    /// The features for each key, over what stands on all sides; a null key has nulls.
    ///
    /// `sides`: numbers that values of the view stand under, and the keys under each; at least one.
    pub fn read(
        &self,
        store: &dyn OnlineStore,
        sides: &[(ViewId, EncodedKeys)],
        now: EventTimestamp,
    ) -> Result<Vec<ArrayRef>, RetrievalError> {
        let mut held: Option<Held> = None;
        for (id, keys) in sides {
            let more = self.read_side(store, *id, keys, now)?;
            held = Some(match held {
                Some(mut held) => {
                    held.iter_mut().flatten().zip(more.iter().flatten()).for_each(|(sums, more)| {
                        sums.iter_mut().zip(more).for_each(|(sum, more)| sum.merge(more));
                    });
                    held
                }
                None => more,
            });
        }
        self.finish(&held.unwrap_or_default())
    }

    fn read_side(
        &self,
        store: &dyn OnlineStore,
        id: ViewId,
        keys: &EncodedKeys,
        now: EventTimestamp,
    ) -> Result<Held, RetrievalError> {
        let schemas = store.schemas(id)?;
        let edges = self.windows.iter().map(|window| lower_edge(now.micros(), *window, self.resolution));
        let edges: Vec<Option<i64>> = edges.collect();
        let version = schemas.iter().rev().find(|(_, fields)| fields.last() == Some(&self.layout.mark));
        let is_streamed = id.base() != id;
        if let Some((version, _)) = version {
            let segments = segments(now.micros(), &edges, &self.layout.widths);
            let reading = Reading { plan: self, segments, version: Some(*version), is_streamed };
            if let Some(held) = reading.read(store, &schemas, keys)? {
                return Ok(held);
            }
        }
        // Stored tiles are those of an earlier definition, and are being replaced: until they are, events alone tell.
        let segments = segments(now.micros(), &edges, &[]);
        let reading = Reading { plan: self, segments, version: None, is_streamed };
        Ok(reading.read(store, &schemas, keys)?.unwrap_or_default())
    }

    fn finish(&self, held: &[Option<Vec<Partial>>]) -> Result<Vec<ArrayRef>, RetrievalError> {
        let finish = |feature: &WindowedFeature| {
            let mut builder = AnswerBuilder::new(&feature.value_type);
            let mut out_of_range = 0;
            for sums in held {
                let answer = sums.as_ref().map_or(Answer::Null, |sums| feature.aggregate.finish(&sums[feature.sum]));
                out_of_range += answer.out_of_range();
                builder.append(answer)?;
            }
            if out_of_range > 0 {
                counter!(SUMS_OUT_OF_RANGE_TOTAL, "answer" => "online").increment(out_of_range as u64);
            }
            Ok(builder.finish())
        };
        self.features.iter().map(finish).collect()
    }
}

/// The sums of each key; None: it is null.
type Held = Vec<Option<Vec<Partial>>>;

/// One read.
struct Reading<'a> {
    plan: &'a WindowPlan,
    segments: Vec<Segment>,
    /// The schema of the view's tiles; None: no tile is read.
    version: Option<SchemaVersion>,
    /// Whether a stream wrote what is read.
    is_streamed: bool,
}

impl Reading<'_> {
    /// None: a tile is not as the view's tiles are now.
    fn read(
        &self,
        store: &dyn OnlineStore,
        schemas: &Schemas,
        keys: &EncodedKeys,
    ) -> Result<Option<Held>, RetrievalError> {
        let plan = self.plan;
        let empty: Vec<Partial> = plan.sums.iter().map(|(part, _)| plan.layout.parts[*part].kind.empty()).collect();
        let mut held: Held = keys.iter().map(|key| key.map(|_| empty.clone())).collect();
        let mut events = Events::new(RowDecoder::new(schemas, &plan.stored_fields));
        let mut is_as_expected = true;
        let parts = self.parts(keys);
        let stretches: Vec<Stretch<'_>> = parts.iter().map(|part| self.stretch(part)).collect();
        store.read_stretches(&stretches, &mut |number, entry| {
            let Part { key, segments, .. } = &parts[number];
            let instant = entry.event_timestamp.micros();
            let segments = &self.segments[segments.clone()];
            let Some(segment) = segments.get(segments.partition_point(|segment| segment.range.start > instant)) else {
                return Ok(());
            };
            if segment.level == 0 {
                return events.add(*key, segment, entry, self.is_streamed);
            }
            let Some(version) = self.version else { return Ok(()) };
            match plan.layout.decode_tile(version, entry.value)? {
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
        events.add_up(plan, &mut held)?;
        Ok(Some(held))
    }

    /// For each key what to read; segments that touch are read as one.
    fn parts(&self, keys: &EncodedKeys) -> Vec<Part> {
        let mut touching: Vec<Range<usize>> = Vec::new();
        for (position, segment) in self.segments.iter().enumerate() {
            let before = position.checked_sub(1).map(|before| &self.segments[before]);
            match touching.last_mut() {
                Some(last)
                    if before.is_some_and(|newer| {
                        newer.level == segment.level && newer.range.start == segment.range.end
                    }) =>
                {
                    last.end = position + 1;
                }
                _ => touching.push(position..position + 1),
            }
        }
        let mut parts = Vec::with_capacity(keys.len() * touching.len());
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            for segments in &touching {
                let mut prefix = Vec::with_capacity(key.len() + 1);
                prefix.extend_from_slice(key);
                prefix.push(self.segments[segments.start].level as u8);
                parts.push(Part { key: row, segments: segments.clone(), prefix });
            }
        }
        parts
    }

    fn stretch<'p>(&self, part: &'p Part) -> Stretch<'p> {
        let (newest, oldest) = (&self.segments[part.segments.start], &self.segments[part.segments.end - 1]);
        Stretch {
            prefix: &part.prefix,
            from: EventTimestamp::from_micros(oldest.range.start),
            until: EventTimestamp::from_micros(newest.range.end),
        }
    }

    fn add_tile(&self, tile: &[Partial], segment: &Segment, held: &mut [Partial]) {
        for ((part, window), sum) in self.plan.sums.iter().zip(held) {
            if segment.windows.contains(window) {
                sum.merge(&tile[*part]);
            }
        }
    }
}

/// What is read of one key in one go.
struct Part {
    /// Position among the keys.
    key: usize,
    /// Positions among the segments, which touch each other.
    segments: Range<usize>,
    /// What the keys of its entries begin with.
    prefix: Vec<u8>,
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

    fn add(
        &mut self,
        key: usize,
        segment: &'s Segment,
        entry: VersionRef<'_>,
        is_streamed: bool,
    ) -> Result<(), OnlineStoreError> {
        let mut add = |row: &[u8]| {
            self.rows.append(row)?;
            self.places.push((key, segment, entry.event_timestamp, entry.created_timestamp));
            Ok::<_, OnlineStoreError>(())
        };
        match is_streamed {
            true => decode_rows(entry.value)?.try_for_each(|row| add(row?)),
            false => events_of(entry.value).try_for_each(|row| add(row?)),
        }
    }

    fn add_up(self, plan: &WindowPlan, held: &mut [Option<Vec<Partial>>]) -> Result<(), RetrievalError> {
        let columns = self.rows.finish();
        let columns: Vec<Column> = columns
            .iter()
            .zip(&plan.stored_fields)
            .map(|(array, field)| values(array, &field.value_type))
            .collect::<Result<_, _>>()?;
        for (row, (key, segment, event_timestamp, created_timestamp)) in self.places.iter().enumerate() {
            let Some(held) = &mut held[*key] else { continue };
            for ((part, window), sum) in plan.sums.iter().zip(held) {
                if !segment.windows.contains(window) {
                    continue;
                }
                let part = &plan.layout.parts[*part];
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
