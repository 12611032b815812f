//! The events of some groups in the order of time, as both ways to answer want them.

use std::borrow::Cow;
use std::ops::Range;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use datafusion::common::Result;
use datafusion::error::DataFusionError;

use super::WindowFeature;
use super::events::{Events, Run};
use crate::tile::{Column, TileError, values};

/// Events group by group, in each by (event timestamp, created timestamp); ties as they came, which no answer tells.
pub(super) struct OrderedEvents<'a> {
    order: Order,
    /// Of each group, where its events are.
    pub groups: Vec<Range<usize>>,
    /// Microseconds.
    pub times: Cow<'a, [i64]>,
    /// Microseconds; empty where the view has no created timestamps.
    pub created: Cow<'a, [i64]>,
}

/// Which of the events as they came.
enum Order {
    /// These, as they are.
    Range(Range<usize>),
    Rows(UInt32Array),
}

impl Order {
    fn of<'a>(&self, instants: &'a [i64]) -> Cow<'a, [i64]> {
        match self {
            Order::Range(range) => Cow::Borrowed(instants.get(range.clone()).unwrap_or_default()),
            Order::Rows(_) if instants.is_empty() => Cow::Borrowed(&[]),
            Order::Rows(rows) => rows.values().iter().map(|row| instants[*row as usize]).collect(),
        }
    }
}

impl<'a> OrderedEvents<'a> {
    pub fn new<'r>(events: &'a Events, groups: impl ExactSizeIterator<Item = &'r [Run]> + Clone) -> Self {
        let (order, ranges) = match in_order(events, groups.clone()) {
            Some((range, ranges)) => (Order::Range(range), ranges),
            None => {
                let (rows, ranges) = sorted(events, groups);
                (Order::Rows(UInt32Array::from(rows)), ranges)
            }
        };
        let (times, created) = (order.of(&events.times), order.of(&events.created));
        OrderedEvents { order, groups: ranges, times, created }
    }

    /// Values of the events as they came, in this order.
    ///
    /// # Errors
    /// As of [`take`].
    pub fn take(&self, column: &ArrayRef) -> Result<ArrayRef> {
        Ok(match &self.order {
            Order::Range(range) => column.slice(range.start, range.len()),
            Order::Rows(rows) => take(column, rows, None)?,
        })
    }

    /// The event columns that features take in, in this order; None: no feature does.
    ///
    /// # Errors
    /// A column that is of another type than its feature says.
    pub fn columns(&self, events: &Events, features: &[WindowFeature]) -> Result<Vec<Option<Column>>> {
        let mut columns: Vec<Option<Column>> = events.columns.iter().map(|_| None).collect();
        let used = features.iter().flat_map(|feature| feature.input.iter().chain(&feature.by));
        for (position, value_type) in used {
            let Some(column) = events.columns.get(*position) else { continue };
            if columns[*position].is_none() {
                columns[*position] = Some(values(&self.take(column)?, value_type).map_err(external)?);
            }
        }
        Ok(columns)
    }
}

/// Where the events of groups are, and those of each among them, if they came in order, as those of tables do.
fn in_order<'r>(
    events: &Events,
    groups: impl ExactSizeIterator<Item = &'r [Run]>,
) -> Option<(Range<usize>, Vec<Range<usize>>)> {
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(groups.len());
    let (mut first, mut end) = (None, 0);
    for runs in groups {
        for run in runs {
            let first = *first.get_or_insert(run.start as usize);
            if run.start as usize != first + end {
                return None;
            }
            end += run.len as usize;
        }
        ranges.push(ranges.last().map_or(0, |last| last.end)..end);
    }
    let first = first.unwrap_or(0);
    let is_sorted = |range: &Range<usize>| {
        let range = first + range.start..first + range.end;
        match events.created.get(range.clone()) {
            Some(created) => events.times[range].iter().zip(created).is_sorted(),
            None => events.times[range].is_sorted(),
        }
    };
    ranges.iter().all(is_sorted).then_some((first..first + end, ranges))
}

/// The events of groups, and where those of each are among them.
fn sorted<'r>(events: &Events, groups: impl ExactSizeIterator<Item = &'r [Run]>) -> (Vec<u32>, Vec<Range<usize>>) {
    let time = |event: &u32| {
        let created = events.created.get(*event as usize).copied().unwrap_or_default();
        (events.times[*event as usize], created)
    };
    let mut order: Vec<u32> = Vec::new();
    let mut ranges = Vec::with_capacity(groups.len());
    for runs in groups {
        let start = order.len();
        runs.iter().for_each(|run| order.extend(run.start..run.start + run.len));
        if !order[start..].is_sorted_by_key(time) {
            order[start..].sort_by_key(time);
        }
        ranges.push(start..order.len());
    }
    (order, ranges)
}

pub(super) fn external(error: TileError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
