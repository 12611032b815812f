//! Events and asked times of a step to arrays of answers, group by group, on all cores.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::common::Result;
use rayon::prelude::*;

use super::events::{Events, Run};
use super::ordered::{OrderedEvents, external};
use super::ranges::{GroupColumn, answer_ranges};
use super::sliding::{Function, GroupTimes, slide};
use super::{AggregatedViewSpec, WindowFeature};
use crate::definition::Window;
use crate::point_in_time_join::SpineIndex;
use crate::tile::{Answer, AnswerBuilder, Column, TileError};
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

/// Answers of some slots.
pub(super) struct Answered {
    /// The slots, in the order of the answers.
    pub slots: Vec<Range<usize>>,
    /// One column a feature of the view.
    pub features: Vec<ArrayRef>,
    /// How many sums were out of range.
    pub out_of_range: usize,
}

/// The answers of groups, in pieces.
pub(super) fn answer_groups(groups: &Groups, events: Events) -> Result<Vec<Answered>> {
    let (runs, starts) = events.by_group(groups.first_slot, groups.end_slot);
    let runs_of = |group: &Range<usize>| {
        let slot = group.start - groups.first_slot as usize;
        &runs[starts[slot] as usize..starts[slot + 1] as usize]
    };
    groups.chunks(&runs_of).par_iter().map(|chunk| chunk.answer(groups, &events)).collect()
}

/// Some groups: of each its slots, and its events.
struct Chunk<'a> {
    groups: Vec<(Range<usize>, &'a [Run])>,
    features: &'a [WindowFeature],
}

impl Groups {
    /// The groups in the order of their events as they came, which tables have key by key.
    fn chunks<'a>(&'a self, runs_of: &impl Fn(&Range<usize>) -> &'a [Run]) -> Vec<Chunk<'a>> {
        let mut chunks = Vec::new();
        let mut groups = Vec::new();
        let mut rows = 0;
        let (first, end) = (self.first_slot as usize, self.end_slot as usize);
        let is_asked = |group: &Range<usize>| first <= group.start && group.start < end && !group.is_empty();
        let asked = self.index.groups().filter(is_asked);
        let mut asked: Vec<(Range<usize>, &[Run])> = asked.map(|group| (group.clone(), runs_of(&group))).collect();
        asked.sort_by_key(|(_, runs)| runs.first().map(|run| run.start));
        for (group, runs) in asked {
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
    fn answer(&self, groups: &Groups, events: &Events) -> Result<Answered> {
        let ordered = OrderedEvents::new(events, self.groups.iter().map(|(_, runs)| *runs));
        let columns = ordered.columns(events, self.features)?;
        let windows = groups.view.distinct_windows();
        let slots = self.groups.iter().map(|(slots, _)| slots.len()).sum();
        let mut families = families(&groups.view, &windows, slots).map_err(external)?;
        let mut seen: Vec<Vec<Range<u32>>> = vec![Vec::new(); windows.len()];
        for ((slots, _), range) in self.groups.iter().zip(&ordered.groups) {
            let group_times = GroupTimes {
                asked: &groups.index.slot_times()[slots.clone()],
                times: &ordered.times[range.clone()],
                created: ordered.created.get(range.clone()).unwrap_or_default(),
                as_known: groups.view.as_known && groups.view.has_created_timestamp,
            };
            window_ranges(&group_times, &windows, groups.view.resolution.map(duration_micros), &mut seen);
            let mut inputs: Vec<Option<GroupColumn<'_>>> = columns.iter().map(|_| None).collect();
            for family in &mut families {
                family.group(&group_times, &seen, &columns, range.clone(), &mut inputs);
            }
        }
        let mut outputs: Vec<Output> = families.into_iter().flat_map(|family| family.outputs).collect();
        outputs.sort_by_key(|output| output.feature);
        Ok(Answered {
            slots: self.groups.iter().map(|(slots, _)| slots.clone()).collect(),
            out_of_range: outputs.iter().map(|output| output.out_of_range).sum(),
            features: outputs.into_iter().map(Output::finish).collect::<Result<_>>()?,
        })
    }
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

/// For each window and asked time the events in it; both ascend, so one walk finds all.
fn window_ranges(group: &GroupTimes<'_>, windows: &[Window], resolution: Option<i64>, seen: &mut [Vec<Range<u32>>]) {
    seen.iter_mut().for_each(Vec::clear);
    let mut lower = vec![0; windows.len()];
    let mut upper = 0;
    for asked in group.asked {
        upper += advance(&group.times[upper..], *asked);
        for ((window, lower), seen) in windows.iter().zip(&mut lower).zip(seen.iter_mut()) {
            if let Some(edge) = lower_edge(*asked, *window, resolution) {
                *lower += advance(&group.times[*lower..], edge);
            }
            seen.push(*lower as u32..upper.max(*lower) as u32);
        }
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

/// Features that differ in their windows alone.
struct Family<'a> {
    /// One of them.
    feature: &'a WindowFeature,
    function: Function,
    outputs: Vec<Output>,
    resolution: Option<i64>,
}

/// The answers of one feature as they are added.
pub(super) struct Output {
    /// Position among the features of the view.
    feature: usize,
    /// Position among the windows of the view.
    window: usize,
    length: Window,
    builder: AnswerBuilder,
    out_of_range: usize,
    /// The first answer that could not be added.
    failed: Option<TileError>,
}

fn families<'v>(view: &'v AggregatedViewSpec, windows: &[Window], slots: usize) -> Result<Vec<Family<'v>>, TileError> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for (position, feature) in view.features.iter().enumerate() {
        let output = Output {
            feature: position,
            window: windows.iter().position(|window| *window == feature.window).unwrap_or_default(),
            length: feature.window,
            builder: AnswerBuilder::with_capacity(&feature.value_type, slots),
            out_of_range: 0,
            failed: None,
        };
        match families.iter_mut().find(|family| family.feature.differs_in_window(feature)) {
            Some(family) => family.outputs.push(output),
            None => families.push(Family {
                feature,
                function: Function::of(feature)?,
                outputs: vec![output],
                resolution: view.resolution.map(duration_micros),
            }),
        }
    }
    Ok(families)
}

impl Output {
    pub fn add(&mut self, answer: Answer) {
        self.out_of_range += answer.out_of_range();
        if let Err(error) = self.builder.append(answer) {
            self.failed.get_or_insert(error);
        }
    }

    #[inline]
    pub fn add_ints(&mut self, answers: impl Iterator<Item = Option<i64>>) {
        if let Err(error) = self.builder.append_ints(answers) {
            self.failed.get_or_insert(error);
        }
    }

    #[inline]
    pub fn add_floats(&mut self, answers: impl Iterator<Item = Option<f64>>) {
        if let Err(error) = self.builder.append_floats(answers) {
            self.failed.get_or_insert(error);
        }
    }

    #[inline]
    pub fn add_list_of_ints(&mut self, items: impl ExactSizeIterator<Item = i64>) {
        if let Err(error) = self.builder.append_list_of_ints(items) {
            self.failed.get_or_insert(error);
        }
    }

    #[inline]
    pub fn add_list_of_floats(&mut self, items: impl ExactSizeIterator<Item = f64>) {
        if let Err(error) = self.builder.append_list_of_floats(items) {
            self.failed.get_or_insert(error);
        }
    }

    fn finish(self) -> Result<ArrayRef> {
        match self.failed {
            Some(error) => Err(external(error)),
            None => Ok(self.builder.finish()),
        }
    }
}

impl Family<'_> {
    /// Adds the answers of one group: one a slot and feature. `seen` has for each window the events in it.
    fn group<'c>(
        &mut self,
        group_times: &GroupTimes<'_>,
        seen: &[Vec<Range<u32>>],
        columns: &'c [Option<Column>],
        events: Range<usize>,
        inputs: &mut [Option<GroupColumn<'c>>],
    ) {
        let Family { feature, function, outputs, resolution } = self;
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
            let mut asked: Vec<(&[Range<u32>], &mut Output)> =
                outputs.iter_mut().map(|output| (seen[output.window].as_slice(), output)).collect();
            // A view whose groups have no events at all has no columns to look at.
            if (group.is_some() || known.is_none()) && answer_ranges(function, group, group_times, &mut asked) {
                return;
            }
        }
        for output in outputs {
            let (length, resolution) = (output.length, *resolution);
            let edge_of = |asked: i64| lower_edge(asked, length, resolution);
            let inputs = [input, column(&feature.by)];
            slide(function, group_times, inputs, events.start, edge_of, &mut |answer| output.add(answer));
        }
    }
}
