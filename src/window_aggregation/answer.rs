//! Events and asked times of a step to arrays of answers, group by group, on all cores.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use rayon::prelude::*;

use super::events::{Events, Run};
use super::ranges::{GroupColumn, answer_ranges};
use super::sliding::{Function, GroupTimes, slide};
use super::{AggregatedViewSpec, WindowFeature};
use crate::definition::Window;
use crate::point_in_time_join::SpineIndex;
use crate::tile::{Answer, AnswerBuilder, Column, TileError, values};
use crate::time::duration_micros;

/// The groups of a spine whose first slots lie in `[first_slot, end_slot)`.
pub(super) struct Groups {
    pub index: Arc<SpineIndex>,
    pub view: Arc<AggregatedViewSpec>,
    pub first_slot: u32,
    pub end_slot: u32,
}

/// Work of one thread at a time: about so many events and asked times.
const CHUNK_ROWS: usize = 256 << 10;

/// For each feature of the view its answers, slot by slot, in pieces; and how many sums were out of range.
pub(super) fn answer_groups(groups: &Groups, events: Events) -> Result<(Vec<Vec<ArrayRef>>, usize)> {
    let (runs, starts) = events.by_group(groups.first_slot, groups.end_slot);
    let runs_of = |group: &Range<usize>| {
        let slot = group.start - groups.first_slot as usize;
        &runs[starts[slot] as usize..starts[slot + 1] as usize]
    };
    let chunks: Vec<Chunk<'_>> = groups.chunks(&runs_of);
    let answered: Vec<(Vec<ArrayRef>, usize)> =
        chunks.par_iter().map(|chunk| chunk.answer(groups, &events)).collect::<Result<_>>()?;
    let mut features: Vec<Vec<ArrayRef>> = vec![Vec::new(); groups.view.features.len()];
    let mut out_of_range = 0;
    for (columns, count) in answered {
        out_of_range += count;
        for (feature, column) in features.iter_mut().zip(columns) {
            feature.push(column);
        }
    }
    Ok((features, out_of_range))
}

/// Some groups, which follow each other: of each its slots, and its events.
struct Chunk<'a> {
    groups: Vec<(Range<usize>, &'a [Run])>,
    features: &'a [WindowFeature],
}

impl Groups {
    fn chunks<'a>(&'a self, runs_of: &impl Fn(&Range<usize>) -> &'a [Run]) -> Vec<Chunk<'a>> {
        let mut chunks = Vec::new();
        let mut groups = Vec::new();
        let mut rows = 0;
        let (first, end) = (self.first_slot as usize, self.end_slot as usize);
        for group in self.index.groups().filter(|group| first <= group.start && group.start < end) {
            if group.is_empty() {
                continue;
            }
            let runs = runs_of(&group);
            rows += group.len() + runs.iter().map(|run| run.len as usize).sum::<usize>();
            groups.push((group, runs));
            if rows >= CHUNK_ROWS {
                chunks.push(Chunk { groups: std::mem::take(&mut groups), features: &self.view.features });
                rows = 0;
            }
        }
        if !groups.is_empty() {
            chunks.push(Chunk { groups, features: &self.view.features });
        }
        chunks
    }
}

impl Chunk<'_> {
    fn answer(&self, groups: &Groups, events: &Events) -> Result<(Vec<ArrayRef>, usize)> {
        let (order, ranges) = ordered_by_time(events, self.groups.iter().map(|(_, runs)| *runs));
        let times: Vec<i64> = order.iter().map(|event| events.times[*event as usize]).collect();
        let created: Vec<i64> = match events.created.is_empty() {
            true => Vec::new(),
            false => order.iter().map(|event| events.created[*event as usize]).collect(),
        };
        let columns = self.columns(events, order)?;
        let slots = self.groups.iter().map(|(slots, _)| slots.len()).sum();
        let answers = self.features.iter().map(|feature| FeatureAnswers::new(feature, groups, slots));
        let mut answers = answers.collect::<Result<Vec<_>, TileError>>().map_err(external)?;
        let windows = distinct_windows(self.features);
        let mut seen: Vec<Vec<Range<u32>>> = vec![Vec::new(); windows.len()];
        for ((slots, _), range) in self.groups.iter().zip(ranges) {
            let asked = &groups.index.slot_times()[slots.clone()];
            let times = &times[range.clone()];
            for (window, seen) in windows.iter().zip(&mut seen) {
                window_ranges(asked, times, *window, groups.view.resolution.map(duration_micros), seen);
            }
            let created = if created.is_empty() { &[] } else { &created[range.clone()] };
            let as_known = groups.view.as_known && groups.view.has_created_timestamp;
            let group_times = GroupTimes { asked, times, created, as_known };
            let mut inputs: Vec<Option<GroupColumn<'_>>> = columns.iter().map(|_| None).collect();
            for answer in &mut answers {
                let window = windows.iter().position(|window| *window == answer.feature.window).unwrap_or_default();
                answer.group(&group_times, &seen[window], &columns, range.clone(), &mut inputs);
            }
        }
        let out_of_range = answers.iter().map(|answer| answer.out_of_range).sum();
        let finished = answers.into_iter().map(|answer| match answer.failed {
            Some(error) => Err(external(error)),
            None => Ok(answer.builder.finish()),
        });
        Ok((finished.collect::<Result<_>>()?, out_of_range))
    }

    /// The event columns of the chunk's events, in their order.
    fn columns(&self, events: &Events, order: Vec<u32>) -> Result<Vec<Option<Column>>> {
        let order = UInt32Array::from(order);
        let mut columns: Vec<Option<Column>> = events.columns.iter().map(|_| None).collect();
        let used = self.features.iter().flat_map(|feature| feature.input.iter().chain(&feature.by));
        for (position, value_type) in used {
            let Some(column) = events.columns.get(*position) else { continue };
            if columns[*position].is_none() {
                columns[*position] = Some(values(&take(column, &order, None)?, value_type).map_err(external)?);
            }
        }
        Ok(columns)
    }
}

pub(super) fn external(error: TileError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The events of some groups, group by group in the order of time, and where those of each group are among them.
pub(super) fn ordered_by_time<'a>(
    events: &Events,
    groups: impl ExactSizeIterator<Item = &'a [Run]>,
) -> (Vec<u32>, Vec<Range<usize>>) {
    let mut order: Vec<u32> = Vec::new();
    let mut ranges = Vec::with_capacity(groups.len());
    for runs in groups {
        let start = order.len();
        runs.iter().for_each(|run| order.extend(run.start..run.start + run.len));
        sort_by_time(events, &mut order[start..]);
        ranges.push(start..order.len());
    }
    (order, ranges)
}

/// Events of one group by (event timestamp, created timestamp); ties stay as they came, which no answer tells.
fn sort_by_time(events: &Events, group: &mut [u32]) {
    let time = |event: &u32| {
        let created = events.created.get(*event as usize).copied().unwrap_or_default();
        (events.times[*event as usize], created)
    };
    if !group.is_sorted_by_key(time) {
        group.sort_by_key(time);
    }
}

fn distinct_windows(features: &[WindowFeature]) -> Vec<Window> {
    let mut windows: Vec<Window> = features.iter().map(|feature| feature.window).collect();
    windows.sort_unstable();
    windows.dedup();
    windows
}

/// The instant at which a window that ends at `asked` begins, in microseconds; None: there is none.
pub(crate) fn lower_edge(asked: i64, window: Window, resolution: Option<i64>) -> Option<i64> {
    let Window::Sliding(duration) = window else { return None };
    let edge = asked.saturating_sub(duration_micros(duration));
    Some(match resolution {
        Some(step) => edge.saturating_sub(edge.rem_euclid(step)),
        None => edge,
    })
}

/// For each asked time the events of its window; both ascend, so one walk finds all.
fn window_ranges(asked: &[i64], times: &[i64], window: Window, resolution: Option<i64>, out: &mut Vec<Range<u32>>) {
    out.clear();
    let (mut lower, mut upper) = (0, 0);
    for asked in asked {
        upper += advance(&times[upper..], *asked);
        if let Some(edge) = lower_edge(*asked, window, resolution) {
            lower += advance(&times[lower..], edge);
        }
        out.push(lower as u32..upper.max(lower) as u32);
    }
}

/// How many of the times, which ascend, are less than `bound`: by galloping, since it is mostly few.
fn advance(times: &[i64], bound: i64) -> usize {
    let mut step = 1;
    while step <= times.len() && times[step - 1] < bound {
        step *= 2;
    }
    let from = step / 2;
    from + times[from..step.min(times.len())].partition_point(|time| *time < bound)
}

/// The answers of one feature as they are added.
struct FeatureAnswers<'a> {
    feature: &'a WindowFeature,
    function: Function,
    builder: AnswerBuilder,
    out_of_range: usize,
    resolution: Option<i64>,
    /// The first answer that could not be added.
    failed: Option<TileError>,
}

impl<'a> FeatureAnswers<'a> {
    fn new(feature: &'a WindowFeature, groups: &Groups, slots: usize) -> Result<Self, TileError> {
        Ok(FeatureAnswers {
            feature,
            function: Function::of(feature)?,
            builder: AnswerBuilder::with_capacity(&feature.value_type, slots),
            out_of_range: 0,
            resolution: groups.view.resolution.map(duration_micros),
            failed: None,
        })
    }

    /// Adds the answers of one group: one a slot.
    fn group<'c>(
        &mut self,
        group_times: &GroupTimes<'_>,
        ranges: &[Range<u32>],
        columns: &'c [Option<Column>],
        events: Range<usize>,
        inputs: &mut [Option<GroupColumn<'c>>],
    ) {
        let FeatureAnswers { feature, function, builder, out_of_range, resolution, failed } = self;
        let mut emit = |answer: Answer| {
            *out_of_range += answer.out_of_range();
            if let Err(error) = builder.append(answer) {
                failed.get_or_insert(error);
            }
        };
        let column = |at: &Option<(usize, _)>| at.as_ref().and_then(|(at, _)| columns.get(*at)?.as_ref());
        let input = column(&feature.input);
        if !group_times.as_known && feature.by.is_none() {
            let known = feature.input.as_ref().map(|(at, _)| *at);
            let group = match (known, input) {
                (Some(at), Some(column)) => {
                    Some(&*inputs[at].get_or_insert_with(|| GroupColumn::new(column, events.clone())))
                }
                _ => None,
            };
            // A view whose groups have no events at all has no columns to look at.
            if (group.is_some() || known.is_none()) && answer_ranges(function, group, group_times, ranges, &mut emit) {
                return;
            }
        }
        let edge_of = |asked: i64| lower_edge(asked, feature.window, *resolution);
        slide(function, group_times, [input, column(&feature.by)], events.start, edge_of, &mut emit);
    }
}
