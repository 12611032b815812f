//! The events that some window of the spine can see, brought together by the spine's groups.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat, filter_record_batch, partition, take, take_arrays};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{AggregatedViewSpec, EventInput};
use crate::point_in_time_join::{NeededTimes, SlotRange, SpineIndex};

/// A created timestamp that is missing: lower than any other.
pub(super) const NEVER_CREATED: i64 = i64::MIN;

/// Where equal keys follow each other this often, they are looked up once for all.
const ROWS_A_RUN_MIN: usize = 4;
/// What a value takes at most, about, where it is a part of a longer buffer.
const VALUE_BYTES_MAX: usize = 64;

/// Which events to keep, of one view and some groups of the spine.
#[derive(Debug)]
pub(super) struct Wanted {
    pub index: Arc<SpineIndex>,
    pub view: Arc<AggregatedViewSpec>,
    /// Reaches back from an asked time to the earliest event that a window of the view can see, in microseconds;
    /// None: there is no earliest.
    pub reach: Option<i64>,
    /// Of each group only events at these times; None: all that `reach` lets see.
    pub needed: Option<Arc<NeededTimes>>,
    /// Groups that begin at these slots: from, and up to.
    pub first_slot: u32,
    pub end_slot: AtomicU32,
    /// What the kept events take, and may take.
    pub bytes: AtomicUsize,
    pub bytes_max: usize,
}

/// Events of one group that follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The first slot of the group.
    pub slot: u32,
    /// Position of the first event.
    pub start: u32,
    pub len: u32,
}

/// Events in no order; columns have one value an event.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// They cover all events, in their order.
    pub runs: Vec<Run>,
    /// Microseconds.
    pub times: Vec<i64>,
    /// Microseconds; empty where the view has no created timestamps.
    pub created: Vec<i64>,
    pub columns: Vec<ArrayRef>,
    /// They are those of groups that begin before this slot.
    pub end_slot: u32,
}

/// What one stream of a view's input gave so far.
#[derive(Default)]
struct Kept {
    events: Events,
    /// Of each batch, each column.
    pieces: Vec<Vec<ArrayRef>>,
    bytes: usize,
    /// The bound that the events were last held against.
    end_slot: u32,
}

impl Wanted {
    /// The times that each group needs events of; none, of groups of other passes.
    pub fn needed_times(&self) -> NeededTimes {
        let end_slot = self.complete_until();
        NeededTimes::new(self.index.groups().enumerate().map(|(number, group)| {
            let is_read = self.first_slot as usize <= group.start && group.start < end_slot as usize;
            let asked = &self.index.slot_times()[group];
            let Some((first, last)) = asked.first().zip(asked.last()).filter(|_| is_read) else { return Vec::new() };
            match &self.needed {
                Some(needed) => needed.of_group(number).to_vec(),
                None => {
                    vec![(self.reach.map_or(i64::MIN, |reach| first.saturating_sub(reach)), last.saturating_sub(1))]
                }
            }
        }))
    }

    /// The bound below which all kept groups are complete, once every stream is read.
    pub fn complete_until(&self) -> u32 {
        self.end_slot.load(Ordering::Relaxed)
    }

    fn keep(&self, batch: &RecordBatch, ranges: &mut Vec<SlotRange>, kept: &mut Kept) -> Result<()> {
        let keys = self.view.spine_keys.len();
        let times = batch.column(keys).as_primitive::<TimestampMicrosecondType>();
        let end_slot = self.end_slot.load(Ordering::Relaxed);
        let mut rows: Vec<Range<usize>> = Vec::new();
        let mut keep = |range: SlotRange, events: Range<usize>| {
            if range.is_empty() || range.start < self.first_slot || range.start >= end_slot {
                return;
            }
            let events = self.visible(range, times, events);
            for events in events {
                kept.events.add_run(range.start, events.len());
                kept.events.times.extend_from_slice(&times.values()[events.clone()]);
                match rows.last_mut().filter(|last| last.end == events.start) {
                    Some(last) => last.end = events.end,
                    None => rows.push(events),
                }
            }
        };
        // Tables have the events of a key together; elsewhere a key is looked up for each of them.
        let same_keys =
            if keys == 0 { vec![0..batch.num_rows()] } else { partition(&batch.columns()[..keys])?.ranges() };
        if same_keys.len() * ROWS_A_RUN_MIN <= batch.num_rows() {
            let firsts = UInt32Array::from_iter_values(same_keys.iter().map(|range| range.start as u32));
            let firsts = take_arrays(&batch.columns()[..keys], &firsts, None)?;
            self.index.find(&firsts, same_keys.len(), ranges)?;
            same_keys.into_iter().zip(ranges.iter()).for_each(|(events, range)| keep(*range, events));
        } else {
            self.index.find(&batch.columns()[..keys], batch.num_rows(), ranges)?;
            ranges.iter().enumerate().for_each(|(row, range)| keep(*range, row..row + 1));
        }
        self.keep_columns(batch, &rows, kept)
    }

    /// Those of some events of a group that one of its windows can see.
    fn visible(
        &self,
        group: SlotRange,
        times: &TimestampMicrosecondArray,
        events: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> {
        let asked = &self.index.slot_times()[group.start as usize..group.end as usize];
        let (first, last) = (asked.first().copied().unwrap_or_default(), asked.last().copied().unwrap_or_default());
        let earliest = self.reach.map(|reach| first.saturating_sub(reach));
        let is_visible = move |time: i64| time < last && earliest.is_none_or(|earliest| time >= earliest);
        let values = &times.values()[events.clone()];
        let (mut one, mut several) = (None, Vec::new());
        if let Some(needed) = &self.needed {
            let needed = needed.of_group(self.index.group_at(group.start));
            several = among(needed, times, events);
        } else if times.null_count() == 0 && values.is_sorted() {
            let start = earliest.map_or(0, |earliest| values.partition_point(|time| *time < earliest));
            let end = values.partition_point(|time| *time < last);
            one = (start < end).then(|| events.start + start..events.start + end);
        } else {
            let visible = events.filter(|row| times.is_valid(*row) && is_visible(times.value(*row)));
            several.extend(visible.map(|row| row..row + 1));
        }
        one.into_iter().chain(several)
    }

    /// The created timestamps and event columns of some rows.
    fn keep_columns(&self, batch: &RecordBatch, rows: &[Range<usize>], kept: &mut Kept) -> Result<()> {
        let keys = self.view.spine_keys.len();
        let count: usize = rows.iter().map(ExactSizeIterator::len).sum();
        if count == 0 {
            return Ok(());
        }
        if self.view.has_created_timestamp {
            let created = batch.column(keys + 1).as_primitive::<TimestampMicrosecondType>();
            let instant = |row| if created.is_null(row) { NEVER_CREATED } else { created.value(row) };
            kept.events.created.extend(rows.iter().cloned().flatten().map(instant));
        }
        let mut bytes = count * size_of::<i64>() * (1 + usize::from(self.view.has_created_timestamp));
        let indices = match rows {
            [_] => None,
            several => Some(UInt32Array::from_iter_values(several.iter().cloned().flatten().map(|row| row as u32))),
        };
        let mut columns = Vec::new();
        for column in &batch.columns()[keys + 2..] {
            let column = match &indices {
                Some(indices) => take(column, indices, None)?,
                None => column.slice(rows[0].start, count),
            };
            bytes += column.get_buffer_memory_size().min(count * VALUE_BYTES_MAX);
            columns.push(column);
        }
        kept.pieces.push(columns);
        kept.bytes += bytes;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Where the events of all streams take too much, gives up those of later groups: another pass reads them.
    fn drop_later_groups(&self, kept: &mut Kept) -> Result<()> {
        if self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            let end = self.end_slot.load(Ordering::Relaxed);
            if let Some(earlier) = self.index.group_start_near(self.first_slot, end) {
                // Several streams may find it too much at once; one step at a time is enough.
                let _ = self.end_slot.compare_exchange(end, earlier, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        let end = self.end_slot.load(Ordering::Relaxed);
        if end >= kept.end_slot {
            return Ok(());
        }
        let before = kept.bytes;
        kept.retain(end)?;
        self.bytes.fetch_sub(before.saturating_sub(kept.bytes), Ordering::Relaxed);
        Ok(())
    }
}

/// The events of one stream that some asked window of each view can see; with each view, where its events are.
pub(super) async fn read_events(
    views: Arc<[(Arc<Wanted>, EventInput)]>,
    mut rows: SendableRecordBatchStream,
) -> Result<Vec<Events>> {
    let kept = |(wanted, _): &(Arc<Wanted>, _)| Kept { end_slot: wanted.complete_until(), ..Kept::default() };
    let mut kept: Vec<Kept> = views.iter().map(kept).collect();
    let mut ranges = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        for ((wanted, places), kept) in views.iter().zip(&mut kept) {
            wanted.keep(&places.rows(&batch)?, &mut ranges, kept)?;
            wanted.drop_later_groups(kept)?;
        }
    }
    kept.into_iter().map(Kept::columns).collect()
}

impl EventInput {
    /// The events of the view: join keys, times, event columns.
    fn rows(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let events = batch.project(&self.columns)?;
        Ok(match self.condition {
            Some(condition) => filter_record_batch(&events, batch.column(condition).as_boolean())?,
            None => events,
        })
    }
}

/// Those of some events that lie in one of the ranges of needed times.
fn among(needed: &[(i64, i64)], times: &TimestampMicrosecondArray, events: Range<usize>) -> Vec<Range<usize>> {
    let values = &times.values()[events.clone()];
    if times.null_count() > 0 || !values.is_sorted() {
        let is_needed = |time: i64| needed.iter().any(|(first, last)| *first <= time && time <= *last);
        let kept = events.filter(|row| times.is_valid(*row) && is_needed(times.value(*row)));
        return kept.map(|row| row..row + 1).collect();
    }
    let range = |(first, last): &(i64, i64)| {
        let start = values.partition_point(|time| time < first);
        let end = values.partition_point(|time| time <= last);
        events.start + start..events.start + end.max(start)
    };
    needed.iter().map(range).filter(|range| !range.is_empty()).collect()
}

impl Kept {
    /// Keeps the events of groups before `end_slot`.
    fn retain(&mut self, end_slot: u32) -> Result<()> {
        let before = std::mem::take(&mut self.events);
        let events_before = before.times.len();
        let columns = self.concatenated()?;
        let mut rows: Vec<u32> = Vec::new();
        for run in before.runs.iter().filter(|run| run.slot < end_slot) {
            let range = run.start as usize..(run.start + run.len) as usize;
            self.events.add_run(run.slot, range.len());
            self.events.times.extend_from_slice(&before.times[range.clone()]);
            self.events.created.extend_from_slice(before.created.get(range.clone()).unwrap_or_default());
            rows.extend(run.start..run.start + run.len);
        }
        let share = rows.len() as f64 / events_before.max(1) as f64;
        let indices = UInt32Array::from(rows);
        let columns = columns.iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>()?;
        self.pieces = if indices.is_empty() { Vec::new() } else { vec![columns] };
        self.bytes = (self.bytes as f64 * share) as usize;
        self.end_slot = end_slot;
        Ok(())
    }

    fn concatenated(&mut self) -> Result<Vec<ArrayRef>> {
        let pieces = std::mem::take(&mut self.pieces);
        concat_pieces(pieces)
    }

    fn columns(mut self) -> Result<Events> {
        self.events.columns = self.concatenated()?;
        Ok(self.events)
    }
}

fn concat_pieces(mut pieces: Vec<Vec<ArrayRef>>) -> Result<Vec<ArrayRef>> {
    let Some(width) = pieces.first().map(Vec::len) else { return Ok(Vec::new()) };
    let mut columns = Vec::with_capacity(width);
    for _ in 0..width {
        // The last column first, so that what is concatenated is let go.
        let column: Vec<ArrayRef> = pieces.iter_mut().filter_map(Vec::pop).collect();
        columns.push(match column.as_slice() {
            [only] => Arc::clone(only),
            several => concat(&several.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?,
        });
    }
    columns.reverse();
    Ok(columns)
}

impl Events {
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Notes that the next `len` events are of a group.
    fn add_run(&mut self, slot: u32, len: usize) {
        let start = self.runs.last().map_or(0, |last| last.start + last.len);
        match self.runs.last_mut().filter(|last| last.slot == slot) {
            Some(last) => last.len += len as u32,
            None => self.runs.push(Run { slot, start, len: len as u32 }),
        }
    }

    /// The events of several streams.
    ///
    /// Those of groups from `end_slot` on are left out: a stream may have ended before the others found that too much.
    pub fn concat(streams: Vec<Events>, end_slot: u32) -> Result<Events> {
        let mut all = Events { end_slot, ..Events::default() };
        let mut pieces = Vec::new();
        for events in streams {
            let events = events.before(end_slot)?;
            if events.runs.is_empty() {
                continue;
            }
            for run in &events.runs {
                all.add_run(run.slot, run.len as usize);
            }
            if all.times.is_empty() {
                (all.times, all.created) = (events.times, events.created);
            } else {
                all.times.extend(events.times);
                all.created.extend(events.created);
            }
            pieces.push(events.columns);
        }
        all.columns = concat_pieces(pieces)?;
        Ok(all)
    }

    /// The events of groups before `end_slot`.
    pub fn before(mut self, end_slot: u32) -> Result<Events> {
        self.end_slot = end_slot;
        if self.runs.iter().all(|run| run.slot < end_slot) {
            return Ok(self);
        }
        let columns = self.columns.clone();
        let mut kept = Kept { events: self, pieces: vec![columns], bytes: 0, end_slot: u32::MAX };
        kept.retain(end_slot)?;
        Ok(Events { end_slot, ..kept.columns()? })
    }

    /// The runs, group by group in the order of the spine's slots, and for each slot from `first_slot` on where the
    /// runs of the group that begins there start; one more at the end.
    pub fn by_group(&self, first_slot: u32, end_slot: u32) -> (Vec<Run>, Vec<u32>) {
        let slots = (end_slot - first_slot) as usize;
        let mut starts = vec![0_u32; slots + 1];
        for run in &self.runs {
            starts[(run.slot - first_slot) as usize + 1] += 1;
        }
        for slot in 0..slots {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut runs = vec![Run { slot: 0, start: 0, len: 0 }; self.runs.len()];
        for run in &self.runs {
            let place = &mut next[(run.slot - first_slot) as usize];
            runs[*place as usize] = *run;
            *place += 1;
        }
        (runs, starts)
    }
}
