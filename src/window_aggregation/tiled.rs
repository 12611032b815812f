//! Windows that are long beside what is asked of them: whole tiles in their middle, events at their edges.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray};
use datafusion::common::{Result, exec_err};
use rayon::prelude::*;

use super::answer::{Answered, Groups, lower_edge};
use super::events::{Events, NEVER_CREATED, Run};
use super::node::TableTiles;
use super::ordered::{OrderedEvents, external};
use super::{AggregatedViewSpec, WindowFeature};
use crate::definition::Window;
use crate::point_in_time_join::{NeededTimes, SpineIndex};
use crate::tile::{Aggregate, AnswerBuilder, Column, Event, Partial, TileError};
use crate::time::duration_micros;

/// Tiles are read where the edges of all windows take no more than one of so many parts of the time between the oldest
/// edge and the last asked time of each key.
const EDGES_SHARE: i128 = 4;
/// Asked times that one thread answers at a time.
const CHUNK_SLOTS: usize = 1024;

/// What the windows of a view are made of: events at these times, and the tiles that start at those.
pub(super) struct Cover {
    pub events: Arc<NeededTimes>,
    pub tiles: Arc<NeededTimes>,
}

impl Cover {
    /// None: the view has no tiles, or to read all events takes less.
    pub fn of(index: &SpineIndex, view: &AggregatedViewSpec) -> Option<Cover> {
        let tiles = view.tiles.as_ref().filter(|_| !view.as_known)?;
        let windows = view.distinct_windows();
        let resolution = view.resolution.map(duration_micros);
        let edges_of = |asked: i64| windows.iter().map(move |window| lower_edge(asked, *window, resolution));
        let (mut span, mut at_edges) = (0_i128, 0_i128);
        for group in index.groups() {
            let asked = &index.slot_times()[group];
            let (Some(first), Some(last)) = (asked.first(), asked.last()) else { continue };
            let oldest = edges_of(*first).map(|edge| edge.unwrap_or(first.saturating_sub(LIFETIME))).min();
            let group_span = i128::from(*last) - i128::from(oldest.unwrap_or(*first));
            // Of the tiles that edges lie in, half are read as events.
            let edges = asked.len() as i128 * (1 + windows.len() as i128) * i128::from(tiles.width) / 2;
            span += group_span;
            at_edges += edges.min(group_span);
        }
        if at_edges * EDGES_SHARE > span {
            return None;
        }
        let cut = |group: Range<usize>| {
            let (mut events, mut starts) = (Vec::new(), Vec::new());
            for asked in &index.slot_times()[group] {
                for edge in edges_of(*asked) {
                    let cut = Cut::of(edge, *asked, tiles.width);
                    events.extend(cut.events().map(|range| (range.start, range.end - 1)));
                    starts
                        .extend(cut.tiles.filter(|tiles| !tiles.is_empty()).map(|tiles| (tiles.start, tiles.end - 1)));
                }
            }
            (merged(events), merged(starts))
        };
        let (events, tiles): (Vec<_>, Vec<_>) = index.groups().map(cut).unzip();
        Some(Cover {
            events: Arc::new(NeededTimes::new(events.into_iter())),
            tiles: Arc::new(NeededTimes::new(tiles.into_iter())),
        })
    }
}

/// What a window without end is taken for when its length counts: ten years, in microseconds.
const LIFETIME: i64 = 10 * 365 * 86_400_000_000;

/// Ranges, both ends included, that ascend and do not touch.
fn merged(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut().filter(|before| first <= before.1.saturating_add(1)) {
            Some(before) => before.1 = before.1.max(last),
            None => merged.push((first, last)),
        }
    }
    merged
}

/// A window, cut into whole tiles and what is left of it on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    before: Range<i64>,
    /// None: no whole tile fits, and `before` is the window.
    tiles: Option<Range<i64>>,
    after: Range<i64>,
}

impl Cut {
    /// `edge`: None where the window has no beginning.
    fn of(edge: Option<i64>, asked: i64, width: i64) -> Cut {
        let end = asked.saturating_sub(asked.rem_euclid(width));
        let start = edge.map(|edge| edge.saturating_add((width - edge.rem_euclid(width)) % width));
        match (edge, start) {
            (Some(edge), Some(start)) if start >= end => {
                Cut { before: edge..asked.max(edge), tiles: None, after: asked..asked }
            }
            (Some(edge), Some(start)) => Cut { before: edge..start, tiles: Some(start..end), after: end..asked },
            _ => Cut { before: i64::MIN..i64::MIN, tiles: Some(i64::MIN..end), after: end..asked },
        }
    }

    fn events(&self) -> impl Iterator<Item = Range<i64>> {
        [self.before.clone(), self.after.clone()].into_iter().filter(|range| !range.is_empty())
    }
}

/// The answers of groups, in pieces.
pub(super) fn answer_groups_with_tiles(groups: &Groups, events: &Events, tiles: &Events) -> Result<Vec<Answered>> {
    let Some(table) = &groups.view.tiles else { return exec_err!("the view has no tiles") };
    let (runs, starts) = events.by_group(groups.first_slot, groups.end_slot);
    let (tile_runs, tile_starts) = tiles.by_group(groups.first_slot, groups.end_slot);
    let in_range = |group: &Range<usize>| {
        !group.is_empty() && (groups.first_slot as usize..groups.end_slot as usize).contains(&group.start)
    };
    let mut chunks: Vec<Vec<Group<'_>>> = Vec::new();
    let mut slots = CHUNK_SLOTS;
    for group in groups.index.groups().filter(in_range) {
        if slots >= CHUNK_SLOTS {
            chunks.push(Vec::new());
            slots = 0;
        }
        slots += group.len();
        let at = group.start - groups.first_slot as usize;
        let group = Group {
            asked: &groups.index.slot_times()[group.clone()],
            slots: group,
            events: &runs[starts[at] as usize..starts[at + 1] as usize],
            tiles: &tile_runs[tile_starts[at] as usize..tile_starts[at + 1] as usize],
        };
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(group);
        }
    }
    let asking = Asking::new(&groups.view, table).map_err(external)?;
    chunks.par_iter().map(|chunk| asking.answer(chunk, events, tiles)).collect()
}

/// The asked times of a key, and what is known of it.
struct Group<'a> {
    slots: Range<usize>,
    asked: &'a [i64],
    events: &'a [Run],
    tiles: &'a [Run],
}

/// What is asked of each group.
struct Asking<'a> {
    view: &'a AggregatedViewSpec,
    table: &'a TableTiles,
    windows: Vec<Window>,
    /// Features that share partial and window share a sum: its part, its window, and one of these features.
    sums: Vec<(usize, usize, &'a WindowFeature)>,
    /// For each feature its aggregate, and the position of its sum.
    features: Vec<(Aggregate, usize)>,
}

impl<'a> Asking<'a> {
    fn new(view: &'a AggregatedViewSpec, table: &'a TableTiles) -> Result<Self, TileError> {
        let windows = view.distinct_windows();
        let mut sums: Vec<(usize, usize, &WindowFeature)> = Vec::new();
        let mut features = Vec::with_capacity(view.features.len());
        for (feature, part) in view.features.iter().zip(&table.parts) {
            let window = windows.iter().position(|window| *window == feature.window).unwrap_or_default();
            let known = sums.iter().position(|(known, of, _)| (known, *of) == (part, window));
            let sum = known.unwrap_or(sums.len());
            if known.is_none() {
                sums.push((*part, window, feature));
            }
            features.push((feature.aggregate()?, sum));
        }
        Ok(Asking { view, table, windows, sums, features })
    }

    fn answer(&self, chunk: &[Group<'_>], events: &Events, tiles: &Events) -> Result<Answered> {
        let ordered = OrderedEvents::new(events, chunk.iter().map(|group| group.events));
        let ordered_tiles = OrderedEvents::new(tiles, chunk.iter().map(|group| group.tiles));
        let columns = ordered.columns(events, &self.view.features)?;
        let bytes = tiles.columns.first().map(|column| ordered_tiles.take(column)).transpose()?;
        let mut builders: Vec<AnswerBuilder> =
            self.view.features.iter().map(|feature| AnswerBuilder::new(&feature.value_type)).collect();
        let mut out_of_range = 0;
        for ((group, range), tile_range) in chunk.iter().zip(&ordered.groups).zip(&ordered_tiles.groups) {
            let known = Known {
                times: &ordered.times[range.clone()],
                created: ordered.created.get(range.clone()).unwrap_or_default(),
                first: range.start,
                columns: &columns,
                tile_times: &ordered_tiles.times[tile_range.clone()],
                tiles: self.decode(bytes.as_ref(), tile_range.clone())?,
            };
            for asked in group.asked {
                let sums = self.sums(*asked, &known);
                for ((aggregate, sum), builder) in self.features.iter().zip(&mut builders) {
                    let answer = aggregate.finish(&sums[*sum]);
                    out_of_range += answer.out_of_range();
                    builder.append(answer).map_err(external)?;
                }
            }
        }
        Ok(Answered {
            slots: chunk.iter().map(|group| group.slots.clone()).collect(),
            features: builders.into_iter().map(AnswerBuilder::finish).collect(),
            out_of_range,
        })
    }

    fn decode(&self, bytes: Option<&ArrayRef>, range: Range<usize>) -> Result<Vec<Vec<Partial>>> {
        let Some(bytes) = bytes.and_then(|bytes| bytes.as_binary_opt::<i32>()) else { return Ok(Vec::new()) };
        range.map(|row| self.decode_tile(bytes, row)).collect()
    }

    fn decode_tile(&self, bytes: &BinaryArray, row: usize) -> Result<Vec<Partial>> {
        let mut rest = bytes.value(row);
        let partials = self.table.kinds.iter().map(|kind| kind.decode(&mut rest));
        let partials = partials.collect::<Result<Vec<Partial>, TileError>>().map_err(external)?;
        if rest.is_empty() {
            Ok(partials)
        } else {
            exec_err!("a tile of view `{}` is longer than it says", self.view.name)
        }
    }

    /// What the windows that end at `asked` add up to.
    fn sums(&self, asked: i64, known: &Known<'_>) -> Vec<Partial> {
        let resolution = self.view.resolution.map(duration_micros);
        let cut = |window: &Window| Cut::of(lower_edge(asked, *window, resolution), asked, self.table.width);
        let cuts: Vec<Cut> = self.windows.iter().map(cut).collect();
        let sum = |(part, window, feature): &(usize, usize, &WindowFeature)| {
            let mut sum = self.table.kinds[*part].empty();
            if let Some(tiles) = &cuts[*window].tiles {
                known.tiles[within(known.tile_times, tiles)].iter().for_each(|tile| sum.merge(&tile[*part]));
            }
            for events in cuts[*window].events() {
                within(known.times, &events).for_each(|event| sum.update(&known.event(event, feature)));
            }
            sum
        };
        self.sums.iter().map(sum).collect()
    }
}

/// What is known of a key, in the order of time.
struct Known<'a> {
    times: &'a [i64],
    /// Empty, or one an event.
    created: &'a [i64],
    /// Where the key's events start in the columns.
    first: usize,
    columns: &'a [Option<Column>],
    tile_times: &'a [i64],
    tiles: Vec<Vec<Partial>>,
}

impl Known<'_> {
    fn event(&self, event: usize, feature: &WindowFeature) -> Event {
        let value = |column: &Option<(usize, _)>| {
            let (position, _) = column.as_ref()?;
            self.columns.get(*position)?.as_ref()?.value(self.first + event)
        };
        Event {
            event_timestamp: self.times[event],
            created_timestamp: self.created.get(event).copied().filter(|created| *created != NEVER_CREATED),
            value: value(&feature.input),
            bucket: value(&feature.by),
        }
    }
}

/// The positions of the times that lie in a range; times ascend.
fn within(times: &[i64], range: &Range<i64>) -> Range<usize> {
    times.partition_point(|time| *time < range.start)..times.partition_point(|time| *time < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_once() {
        for asked in -25..25 {
            for length in 0..25 {
                let edge = asked - length;
                let cut = Cut::of(Some(edge), asked, 10);
                let mut at = edge;
                for range in [Some(cut.before), cut.tiles.clone(), Some(cut.after)].into_iter().flatten() {
                    assert_eq!(range.start, at, "{edge}..{asked}");
                    at = range.end;
                }
                assert_eq!(at, asked);
                let tiles = cut.tiles.unwrap_or(0..0);
                assert_eq!((tiles.start.rem_euclid(10), tiles.end.rem_euclid(10)), (0, 0));
            }
        }
        let lifetime = Cut::of(None, 23, 10);
        assert_eq!((lifetime.tiles.clone(), lifetime.events().collect::<Vec<_>>()), (Some(i64::MIN..20), vec![20..23]));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(merged(vec![(5, 7), (0, 1), (2, 3), (8, 8), (20, 30), (21, 22)]), [(0, 3), (5, 8), (20, 30)]);
        assert_eq!(merged(Vec::new()), []);
    }
}
