//! Which slots of the spine a batch of feature rows reaches.
//!
//! Feature rows may come in any order. Where rows of one key follow each other, as they do in a table that is
//! sorted by key and time, the key is looked up once for all of them, and their times are merged with the asked
//! times instead of being searched one by one.

use std::borrow::Cow;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{partition, take};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;

use super::SpineIndex;
use super::key_table::SlotRange;
use super::retained::RowSlot;
use crate::time::EventTimestamp;

/// Time of what has none; sorts lowest.
pub(super) const NEVER: i64 = EventTimestamp::ALWAYS.micros();

/// The times of some feature rows, with [`NEVER`] for null.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowTimes<'a> {
    pub events: &'a [i64],
    /// None: the view has no created timestamps.
    pub created: Option<&'a [i64]>,
    /// Whether a row is seen only from its created timestamp on.
    pub as_known: bool,
}

impl RowTimes<'_> {
    #[inline]
    pub fn of(&self, row: usize) -> (i64, i64) {
        (self.events[row], self.created.map_or(NEVER, |created| created[row]))
    }
}

/// Finds slots; keeps its buffers from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    ranges: Vec<SlotRange>,
}

/// Rows that are looked up at once: their keys' slots stay in the cache until they are used.
const WINDOW_ROWS: usize = 8192;
/// Rows that tell whether a batch consists of runs of equal keys.
const SAMPLE_ROWS: usize = 256;
/// How long runs are on average where they pay.
const RUN_ROWS_MIN: usize = 4;

impl Matcher {
    /// Writes to `hits` rows and the first slot that sees each.
    ///
    /// A row that no slot sees is left out; so may be a row that is older than another one of the same slot.
    pub fn find(
        &mut self,
        index: &SpineIndex,
        keys: &[ArrayRef],
        times: RowTimes<'_>,
        hits: &mut Vec<RowSlot>,
    ) -> Result<(), ArrowError> {
        hits.clear();
        let rows = times.events.len();
        match runs(keys, rows)? {
            Some(runs) if !(times.as_known && times.created.is_some()) => {
                self.find_runs(index, keys, times.events, &runs, hits)
            }
            _ => self.find_rows(index, keys, times, hits),
        }
    }

    /// Row by row.
    fn find_rows(
        &mut self,
        index: &SpineIndex,
        keys: &[ArrayRef],
        times: RowTimes<'_>,
        hits: &mut Vec<RowSlot>,
    ) -> Result<(), ArrowError> {
        let rows = times.events.len();
        for start in (0..rows).step_by(WINDOW_ROWS) {
            let len = WINDOW_ROWS.min(rows - start);
            let keys: Vec<ArrayRef> = keys.iter().map(|key| key.slice(start, len)).collect();
            index.find(&keys, len, &mut self.ranges)?;
            let window = start..start + len;
            match times.created.filter(|_| times.as_known) {
                Some(created) => {
                    let seen_from = |row: usize| (created[row] != NEVER).then(|| times.events[row].max(created[row]));
                    search(window, &self.ranges, index.slot_times(), seen_from, hits);
                }
                None => search(window, &self.ranges, index.slot_times(), |row| Some(times.events[row]), hits),
            }
        }
        Ok(())
    }

    /// Run by run of equal keys.
    fn find_runs(
        &mut self,
        index: &SpineIndex,
        keys: &[ArrayRef],
        events: &[i64],
        runs: &[Range<usize>],
        hits: &mut Vec<RowSlot>,
    ) -> Result<(), ArrowError> {
        let heads = UInt32Array::from_iter_values(runs.iter().map(|run| run.start as u32));
        let keys = keys.iter().map(|key| take(key, &heads, None)).collect::<Result<Vec<_>, _>>()?;
        index.find(&keys, runs.len(), &mut self.ranges)?;
        for (run, range) in runs.iter().zip(&self.ranges).filter(|(_, range)| !range.is_empty()) {
            let slot_times = &index.slot_times()[range.start as usize..range.end as usize];
            let run_events = &events[run.clone()];
            let hit =
                |row: usize, slot: usize| RowSlot { row: (run.start + row) as u32, slot: range.start + slot as u32 };
            if !run_events.is_sorted() {
                for (row, event) in run_events.iter().enumerate() {
                    let slot = slot_times.partition_point(|time| time < event);
                    if slot < slot_times.len() {
                        hits.push(hit(row, slot));
                    }
                }
            } else if run_events.len() < slot_times.len() {
                slots_of_sorted_rows(run_events, slot_times, |row, slot| hits.push(hit(row, slot)));
            } else {
                rows_of_sorted_slots(run_events, slot_times, |row, slot| hits.push(hit(row, slot)));
            }
        }
        Ok(())
    }
}

/// The runs of equal keys, if they are long enough to pay.
fn runs(keys: &[ArrayRef], rows: usize) -> Result<Option<Vec<Range<usize>>>, ArrowError> {
    if rows == 0 {
        return Ok(None);
    }
    if keys.is_empty() {
        return Ok(Some(std::iter::once(0..rows).collect()));
    }
    let sample: Vec<ArrayRef> = keys.iter().map(|key| key.slice(0, rows.min(SAMPLE_ROWS))).collect();
    if partition(&sample)?.len() * RUN_ROWS_MIN > sample[0].len() {
        return Ok(None);
    }
    let runs = partition(keys)?;
    Ok((runs.len() * RUN_ROWS_MIN <= rows).then(|| runs.ranges()))
}

fn search(
    window: Range<usize>,
    ranges: &[SlotRange],
    slot_times: &[i64],
    seen_from: impl Fn(usize) -> Option<i64>,
    hits: &mut Vec<RowSlot>,
) {
    for (row, range) in window.zip(ranges).filter(|(_, range)| !range.is_empty()) {
        if let Some(from) = seen_from(row) {
            let times = &slot_times[range.start as usize..range.end as usize];
            let before = times.partition_point(|time| *time < from);
            if before < times.len() {
                hits.push(RowSlot { row: row as u32, slot: range.start + before as u32 });
            }
        }
    }
}

/// For few rows and many slots, both ascending: each row and its first slot, but only the newest rows of a slot.
fn slots_of_sorted_rows(events: &[i64], slot_times: &[i64], mut hit: impl FnMut(usize, usize)) {
    let mut slot = slot_times.partition_point(|time| *time < events[0]);
    for (row, event) in events.iter().enumerate() {
        slot += gallop(&slot_times[slot..], |time| *time < *event);
        match slot_times.get(slot) {
            None => return,
            Some(time) => match events.get(row + 1) {
                Some(next) if next > event && next <= time => {}
                _ => hit(row, slot),
            },
        }
    }
}

/// For few slots and many rows, both ascending: for each slot the newest rows that it is the first to see.
fn rows_of_sorted_slots(events: &[i64], slot_times: &[i64], mut hit: impl FnMut(usize, usize)) {
    let first_slot = slot_times.partition_point(|time| *time < events[0]);
    let mut seen = 0;
    for (slot, time) in slot_times.iter().enumerate().skip(first_slot) {
        let from = seen;
        seen += gallop(&events[from..], |event| event <= time);
        if seen > from {
            let newest = events[seen - 1];
            let ties = events[from..seen].iter().rev().take_while(|event| **event == newest).count();
            (seen - ties..seen).for_each(|row| hit(row, slot));
        }
        if seen == events.len() {
            return;
        }
    }
}

/// How many of the first values satisfy `before`, which no value does after one that does not.
#[inline]
fn gallop(values: &[i64], before: impl Fn(&i64) -> bool) -> usize {
    let mut reach = 1;
    while reach <= values.len() && before(&values[reach - 1]) {
        reach *= 2;
    }
    let from = reach / 2;
    from + values[from..values.len().min(reach)].partition_point(before)
}

/// The values of a column of instants in microseconds, with [`NEVER`] for null.
pub(super) fn micros_or_never(column: &ArrayRef) -> Cow<'_, [i64]> {
    let instants = column.as_primitive::<TimestampMicrosecondType>();
    match instants.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => Cow::Borrowed(instants.values()),
        Some(_) => Cow::Owned(instants.iter().map(|instant| instant.unwrap_or(NEVER)).collect()),
    }
}
