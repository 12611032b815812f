//! The events that some window of the spine can see, brought together by the spine's groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::AggregatedViewSpec;
use crate::point_in_time_join::SpineIndex;

/// A created timestamp that is missing: lower than any other.
pub(super) const NEVER_CREATED: i64 = i64::MIN;

/// Which events to keep, of one view and some groups of the spine.
#[derive(Debug)]
pub(super) struct Wanted {
    pub index: Arc<SpineIndex>,
    pub view: Arc<AggregatedViewSpec>,
    /// Reaches back from an asked time to the earliest event that a window of the view can see, in microseconds;
    /// None: there is no earliest.
    pub reach: Option<i64>,
    /// Groups that begin at these slots: from, and up to.
    pub first_slot: u32,
    pub end_slot: AtomicU32,
    /// What the kept events take, and may take.
    pub bytes: AtomicUsize,
    pub bytes_max: usize,
}

/// Events in no order; columns have one value an event.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The first slot of each event's group.
    pub slots: Vec<u32>,
    /// Microseconds.
    pub times: Vec<i64>,
    /// Microseconds; empty where the view has no created timestamps.
    pub created: Vec<i64>,
    pub columns: Vec<ArrayRef>,
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
    /// The events of one stream that some asked window can see.
    pub async fn read(self: Arc<Self>, mut rows: SendableRecordBatchStream) -> Result<Events> {
        let mut kept = Kept { end_slot: self.end_slot.load(Ordering::Relaxed), ..Kept::default() };
        let mut ranges = Vec::new();
        while let Some(batch) = rows.try_next().await? {
            self.keep(&batch, &mut ranges, &mut kept)?;
            self.drop_later_groups(&mut kept)?;
        }
        kept.columns()
    }

    /// The bound below which all kept groups are complete, once every stream is read.
    pub fn complete_until(&self) -> u32 {
        self.end_slot.load(Ordering::Relaxed)
    }

    fn keep(
        &self,
        batch: &RecordBatch,
        ranges: &mut Vec<crate::point_in_time_join::SlotRange>,
        kept: &mut Kept,
    ) -> Result<()> {
        let keys = self.view.spine_keys.len();
        self.index.find(&batch.columns()[..keys], batch.num_rows(), ranges)?;
        let times = batch.column(keys).as_primitive::<TimestampMicrosecondType>();
        let created = batch.column(keys + 1).as_primitive::<TimestampMicrosecondType>();
        let end_slot = self.end_slot.load(Ordering::Relaxed);
        let asked = self.index.slot_times();
        let needs_created = self.view.has_created_timestamp;
        let mut rows: Vec<u32> = Vec::with_capacity(batch.num_rows());
        for (row, range) in ranges.iter().enumerate() {
            if range.is_empty() || range.start < self.first_slot || range.start >= end_slot || times.is_null(row) {
                continue;
            }
            let time = times.value(row);
            let (first, last) = (asked[range.start as usize], asked[range.end as usize - 1]);
            if time >= last || self.reach.is_some_and(|reach| time < first.saturating_sub(reach)) {
                continue;
            }
            if needs_created {
                kept.events.created.push(if created.is_null(row) { NEVER_CREATED } else { created.value(row) });
            }
            kept.events.slots.push(range.start);
            kept.events.times.push(time);
            rows.push(row as u32);
        }
        let is_whole = rows.len() == batch.num_rows();
        let rows = UInt32Array::from(rows);
        let mut bytes = rows.len() * (size_of::<u32>() + size_of::<i64>() * (1 + usize::from(needs_created)));
        let mut columns = Vec::new();
        for column in &batch.columns()[keys + 2..] {
            let column = if is_whole { Arc::clone(column) } else { take(column, &rows, None)? };
            bytes += column.get_buffer_memory_size();
            columns.push(column);
        }
        if !rows.is_empty() {
            kept.pieces.push(columns);
        }
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

impl Kept {
    /// Keeps the events of groups before `end_slot`.
    fn retain(&mut self, end_slot: u32) -> Result<()> {
        let rows: Vec<u32> = self
            .events
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| **slot < end_slot)
            .map(|(row, _)| row as u32)
            .collect();
        let share = rows.len() as f64 / self.events.slots.len().max(1) as f64;
        let pick = |values: &[i64]| rows.iter().map(|row| values[*row as usize]).collect::<Vec<_>>();
        let indices = UInt32Array::from(rows.clone());
        let columns = self.concatenated()?;
        let columns = columns.iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>()?;
        self.events.created = if self.events.created.is_empty() { Vec::new() } else { pick(&self.events.created) };
        self.events.times = pick(&self.events.times);
        self.events.slots = rows.iter().map(|row| self.events.slots[*row as usize]).collect();
        self.pieces = if rows.is_empty() { Vec::new() } else { vec![columns] };
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
    /// The events of several streams.
    /// Those of groups from `end_slot` on are left out: a stream may have ended before the others found that too much.
    pub fn concat(streams: Vec<Events>, end_slot: u32) -> Result<Events> {
        let mut all = Events::default();
        let mut pieces = Vec::new();
        for events in streams {
            let events = events.before(end_slot)?;
            if events.slots.is_empty() {
                continue;
            }
            if all.slots.is_empty() {
                (all.slots, all.times, all.created) = (events.slots, events.times, events.created);
            } else {
                all.slots.extend(events.slots);
                all.times.extend(events.times);
                all.created.extend(events.created);
            }
            pieces.push(events.columns);
        }
        all.columns = concat_pieces(pieces)?;
        Ok(all)
    }

    fn before(self, end_slot: u32) -> Result<Events> {
        if self.slots.iter().all(|slot| *slot < end_slot) {
            return Ok(self);
        }
        let columns = self.columns.clone();
        let mut kept = Kept { events: self, pieces: vec![columns], bytes: 0, end_slot: u32::MAX };
        kept.retain(end_slot)?;
        kept.columns()
    }

    /// Positions of the events, group by group in the order of the spine's slots, and for each slot from `first_slot`
    /// on where the events of the group that begins there start; one more at the end.
    ///
    /// Within a group the events are in the order they came.
    pub fn by_group(&self, first_slot: u32, end_slot: u32) -> (Vec<u32>, Vec<u32>) {
        let slots = (end_slot - first_slot) as usize;
        let mut starts = vec![0_u32; slots + 1];
        for slot in &self.slots {
            starts[(slot - first_slot) as usize + 1] += 1;
        }
        for slot in 0..slots {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut order = vec![0_u32; self.slots.len()];
        for (event, slot) in self.slots.iter().enumerate() {
            let place = &mut next[(slot - first_slot) as usize];
            order[*place as usize] = event as u32;
            *place += 1;
        }
        (order, starts)
    }
}
