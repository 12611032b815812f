//! Aggregation views of an online request: windows that end now, from events and tiles of the online store.

use std::ops::Range;

use arrow::array::ArrayRef;
use metrics::counter;

use super::RetrievalError;
use super::waiting::Waiting;
use super::windows::{aggregation_of, resolution};
use crate::definition::{FeatureView, Field, ValueType, Window};
use crate::metrics::SUMS_OUT_OF_RANGE_TOTAL;
use crate::online_store::{
    EncodedKeys, OnlineStore, OnlineStoreError, RowDecoder, SchemaVersion, Schemas, Segment, Stretch, TileLayout,
    TilePart, VersionRef, ViewId, aggregate_of, decode_rows, events_of, segments,
};
use crate::tile::{Aggregate, Answer, AnswerBuilder, Column, Partial, values};
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
        waiting: &Waiting,
    ) -> Result<Vec<ArrayRef>, RetrievalError> {
        let mut held: Option<Held> = None;
        for (id, keys) in sides {
            let more = self.read_side(store, *id, keys, now, waiting)?;
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
        waiting: &Waiting,
    ) -> Result<Held, RetrievalError> {
        let schemas = store.schemas(id)?;
        let edges = self.windows.iter().map(|window| lower_edge(now.micros(), *window, self.resolution));
        let edges: Vec<Option<i64>> = edges.collect();
        let version = schemas.iter().rev().find(|(_, fields)| fields.last() == Some(&self.layout.mark));
        let is_streamed = id.base() != id;
        if let Some((version, _)) = version {
            let segments = segments(now.micros(), &edges, &self.layout.widths);
            let reading = Reading::new(self, segments, Some(*version), is_streamed);
            if let Some(held) = reading.read(store, &schemas, keys, waiting)? {
                return Ok(held);
            }
        }
        // Stored tiles are those of an earlier definition, and are being replaced: until they are, events alone tell.
        let reading = Reading::new(self, segments(now.micros(), &edges, &[]), None, is_streamed);
        Ok(reading.read(store, &schemas, keys, waiting)?.unwrap_or_default())
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
///
/// Windows overlap: what segments of the same windows hold is added up once, and then taken into each of these.
struct Reading<'a> {
    plan: &'a WindowPlan,
    segments: Vec<Segment>,
    /// For each segment the position of its windows among `overlaps`.
    overlap_of: Vec<usize>,
    overlaps: Vec<Overlap>,
    /// The schema of the view's tiles; None: no tile is read.
    version: Option<SchemaVersion>,
    /// Whether a stream wrote what is read.
    is_streamed: bool,
}

/// What some windows have in common.
#[derive(Debug, PartialEq)]
struct Overlap {
    /// Positions among the windows.
    windows: Vec<usize>,
    /// Parts of tiles that they need.
    parts: Vec<usize>,
}

/// For each overlap that anything was found in, the partial of each of its parts.
type Found = Vec<Option<Vec<Partial>>>;

impl<'a> Reading<'a> {
    fn new(plan: &'a WindowPlan, segments: Vec<Segment>, version: Option<SchemaVersion>, is_streamed: bool) -> Self {
        let mut overlaps = Vec::new();
        let overlap_of = segments.iter().map(|segment| {
            let mut parts = Vec::new();
            for (part, _) in plan.sums.iter().filter(|(_, window)| segment.windows.contains(window)) {
                position_or_push(&mut parts, *part);
            }
            position_or_push(&mut overlaps, Overlap { windows: segment.windows.clone(), parts })
        });
        let overlap_of = overlap_of.collect();
        Reading { plan, segments, overlap_of, overlaps, version, is_streamed }
    }

    /// None: a tile is not as the view's tiles are now.
    fn read(
        &self,
        store: &dyn OnlineStore,
        schemas: &Schemas,
        keys: &EncodedKeys,
        waiting: &Waiting,
    ) -> Result<Option<Held>, RetrievalError> {
        let plan = self.plan;
        let mut found: Vec<Option<Found>> =
            keys.iter().map(|key| key.map(|_| vec![None; self.overlaps.len()])).collect();
        let mut events = Events::new(RowDecoder::new(schemas, &plan.stored_fields));
        let mut is_as_expected = true;
        let parts = self.parts(keys);
        let stretches: Vec<Stretch<'_>> = parts.iter().map(|part| self.stretch(part)).collect();
        store.read_stretches(&stretches, &mut |number, entry| {
            if waiting.is_over_at(number) {
                return Err(OnlineStoreError::Abandoned);
            }
            let Part { key, segments, .. } = &parts[number];
            let instant = entry.event_timestamp.micros();
            let newer = self.segments[segments.clone()].partition_point(|segment| segment.range.start > instant);
            let position = segments.start + newer;
            if position == segments.end {
                return Ok(());
            }
            let overlap = self.overlap_of[position];
            if self.segments[position].level == 0 {
                return events.add(*key, overlap, entry, self.is_streamed);
            }
            let Some(version) = self.version else { return Ok(()) };
            match plan.layout.decode_tile(version, entry.value)? {
                Some(tile) => {
                    if let Some(found) = &mut found[*key] {
                        self.add_tile(tile, overlap, &mut found[overlap]);
                    }
                }
                None => is_as_expected = false,
            }
            Ok(())
        })?;
        if !is_as_expected {
            return Ok(None);
        }
        events.add_up(self, &mut found)?;
        Ok(Some(found.into_iter().map(|found| found.map(|found| self.sums(&found))).collect()))
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

    fn add_tile(&self, mut tile: Vec<Partial>, overlap: usize, held: &mut Option<Vec<Partial>>) {
        let parts = &self.overlaps[overlap].parts;
        match held {
            Some(held) => held.iter_mut().zip(parts).for_each(|(sum, part)| sum.merge(&tile[*part])),
            None => {
                let take = |part: &usize| std::mem::replace(&mut tile[*part], Partial::Rows(0));
                *held = Some(parts.iter().map(take).collect());
            }
        }
    }

    /// A key's sums, from what the windows have in common.
    fn sums(&self, found: &Found) -> Vec<Partial> {
        let sum = |(part, window): &(usize, usize)| {
            let mut sum: Option<Partial> = None;
            for (overlap, partials) in self.overlaps.iter().zip(found) {
                let Some(partials) = partials.as_ref().filter(|_| overlap.windows.contains(window)) else { continue };
                let Some(position) = overlap.parts.iter().position(|known| known == part) else { continue };
                match &mut sum {
                    Some(sum) => sum.merge(&partials[position]),
                    None => sum = Some(partials[position].clone()),
                }
            }
            sum.unwrap_or_else(|| self.plan.layout.parts[*part].kind.empty())
        };
        self.plan.sums.iter().map(sum).collect()
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
struct Events {
    rows: RowDecoder,
    /// Of each event: its key, its overlap, its event and created timestamp.
    places: Vec<(usize, usize, EventTimestamp, Option<EventTimestamp>)>,
}

impl Events {
    fn new(rows: RowDecoder) -> Self {
        Events { rows, places: Vec::new() }
    }

    fn add(
        &mut self,
        key: usize,
        overlap: usize,
        entry: VersionRef<'_>,
        is_streamed: bool,
    ) -> Result<(), OnlineStoreError> {
        let mut add = |row: &[u8]| {
            self.rows.append(row)?;
            self.places.push((key, overlap, entry.event_timestamp, entry.created_timestamp));
            Ok::<_, OnlineStoreError>(())
        };
        match is_streamed {
            true => decode_rows(entry.value)?.try_for_each(|row| add(row?)),
            false => events_of(entry.value).try_for_each(|row| add(row?)),
        }
    }

    fn add_up(self, reading: &Reading<'_>, found: &mut [Option<Found>]) -> Result<(), RetrievalError> {
        let plan = reading.plan;
        let columns = self.rows.finish();
        let columns: Vec<Column> = columns
            .iter()
            .zip(&plan.stored_fields)
            .map(|(array, field)| values(array, &field.value_type))
            .collect::<Result<_, _>>()?;
        for (row, (key, overlap, event_timestamp, created_timestamp)) in self.places.iter().enumerate() {
            let Some(found) = &mut found[*key] else { continue };
            let parts = || reading.overlaps[*overlap].parts.iter().map(|part| &plan.layout.parts[*part]);
            let sums = found[*overlap].get_or_insert_with(|| parts().map(|part| part.kind.empty()).collect());
            let instants = (event_timestamp.micros(), created_timestamp.map(EventTimestamp::micros));
            for (part, sum) in parts().zip(sums) {
                sum.update(&part.event(&columns, row, instants));
            }
        }
        Ok(())
    }
}
