//! The join itself: feature rows find their slots; slots find their rows.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::answer::{Answer, AnswerColumn, Winners};
use super::candidate::{AGED, AgeLimit, Candidate, NO_ROW};
use super::matching::{Matcher, NEVER, RowTimes, micros_or_never};
use super::retained::{RetainedBatches, RowSlot};
use super::{ContentOrder, JoinError, JoinedView, RowStatus, SpineIndex, ViewParams};

/// Joins each spine row with the newest feature row visible at its time, from feature batches in any order.
///
/// Of the feature rows with the same join keys and `event_timestamp <= t`, the greatest (event timestamp,
/// created timestamp) wins; a null created timestamp sorts lowest, and rows tied on both are ordered by
/// their values ([`ContentOrder`]), so every run picks the same one. A null event timestamp sorts lowest
/// and is visible at every time. If the winner is older than `t - ttl` the values are null and the status
/// is [`OutsideMaxAge`](RowStatus::OutsideMaxAge): no other row is tried. A null join key matches nothing.
/// With [`as_known`](ViewParams::as_known) only rows with `created_timestamp <= t` are visible; a null is not.
///
/// The answer does not depend on how the feature rows are cut into batches and accumulators, nor on
/// their order. Memory is in proportion to the spine and the rows that may still win, whatever goes by.
///
/// # Units
/// Timestamps: microseconds since the Unix epoch, UTC. `i64::MIN` is no instant and stands for null
/// ([`EventTimestamp::ALWAYS`](crate::time::EventTimestamp::ALWAYS)).
///
/// # Source
/// SPEC, "Time"; Feast, "Point-in-time joins".
#[derive(Debug)]
pub struct ViewAccumulator {
    index: Arc<SpineIndex>,
    params: Arc<ViewParams>,
    age: AgeLimit,
    /// The greatest row that counts from each slot on, but from none before it.
    candidates: Vec<Candidate>,
    retained: RetainedBatches,
    scratch: Scratch,
}

/// Buffers of [`ViewAccumulator::push`], kept from batch to batch.
#[derive(Debug, Default)]
struct Scratch {
    matcher: Matcher,
    hits: Vec<RowSlot>,
    accepted: Vec<RowSlot>,
}

impl ViewAccumulator {
    /// # Errors
    /// [`JoinError::KeyTypes`] if the view has more or fewer keys than the spine,
    /// [`JoinError::UnsupportedType`] if a feature's values cannot be ordered.
    pub fn new(index: Arc<SpineIndex>, params: Arc<ViewParams>) -> Result<Self, JoinError> {
        params.check(&index)?;
        Ok(ViewAccumulator {
            age: AgeLimit::new(params.ttl),
            candidates: vec![Candidate::NONE; index.slot_times().len()],
            retained: RetainedBatches::default(),
            scratch: Scratch::default(),
            index,
            params,
        })
    }

    /// Takes in a batch of feature rows, laid out as the [`ViewParams`] say.
    ///
    /// # Errors
    /// [`JoinError::KeyTypes`], [`JoinError::ColumnMissing`] or [`JoinError::ColumnType`] if it is laid out
    /// otherwise; then nothing of it has been taken in.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        let rows = batch.num_rows();
        if rows >= AGED as usize {
            return Err(JoinError::TooManyRows { rows });
        }
        let params = Arc::clone(&self.params);
        let keys = params.keys(batch, &self.index)?;
        let values = params.values(batch)?;
        let events = match params.event_timestamp {
            Some(column) => micros_or_never(params.instants(batch, column)?),
            None => Cow::Owned(vec![NEVER; rows]),
        };
        let created = params.created_timestamp.map(|column| params.instants(batch, column).map(micros_or_never));
        let created = created.transpose()?;
        let times = RowTimes { events: &events, created: created.as_deref(), as_known: params.as_known };

        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.accepted.clear();
        let found = scratch.matcher.find(&self.index, &keys, times, &mut scratch.hits);
        found.map_err(|source| self.values_error(source))?;
        let id = self.retained.add(values, rows);
        self.offer_rows(id, times, &scratch.hits, &mut scratch.accepted);
        self.retained.settle(id, || scratch.accepted.clone());
        self.scratch = scratch;
        self.compact_if_due()
    }

    /// Joins what another accumulator of the same index and view has seen to what this one has.
    ///
    /// # Errors
    /// [`JoinError::DifferentJoins`] if it is not of the same index and view.
    pub fn merge(&mut self, other: ViewAccumulator) -> Result<(), JoinError> {
        if !Arc::ptr_eq(&self.index, &other.index) || !Arc::ptr_eq(&self.params, &other.params) {
            return Err(JoinError::DifferentJoins { view: self.params.name.clone() });
        }
        let renumbered = self.retained.absorb(other.retained);
        for (slot, mut challenger) in other.candidates.into_iter().enumerate() {
            if challenger.has_values() {
                challenger.batch = renumbered[challenger.batch as usize];
            }
            if challenger.batch != NO_ROW {
                self.offer(slot, challenger);
                self.release(challenger);
            }
        }
        self.compact_if_due()
    }

    /// The answer for every row of the spine, in its order.
    ///
    /// # Errors
    /// [`JoinError::Values`] if a column of the answer does not fit its Arrow type: split the spine.
    pub fn finish(self) -> Result<JoinedView, JoinError> {
        let (answer, columns) = self.answer();
        let features = columns.into_iter().map(|column| answer.column(column)).collect::<Result<_, _>>()?;
        Ok(answer.into_joined(features))
    }

    /// Everything but the values, and what to make those of, column by column.
    pub(super) fn answer(self) -> (Answer, Vec<AnswerColumn>) {
        let (places, winners) = self.places();
        let mut answer = Answer::new(self.params.name.clone(), self.index.rows(), winners);
        let (times, rows) = (self.index.slot_times(), self.index.slot_rows());
        for group in self.index.groups() {
            let (mut holder, mut place) = (Candidate::NONE, None);
            for slot in group {
                let challenger = self.candidates[slot];
                if challenger.batch != NO_ROW && self.beats(&challenger, &holder) {
                    (holder, place) = (challenger, places[slot]);
                }
                let status = match holder.batch {
                    NO_ROW => continue,
                    _ if self.age.is_exceeded(holder.event, times[slot]) => RowStatus::OutsideMaxAge,
                    _ => RowStatus::Found,
                };
                answer.set(rows[slot] as usize, status, holder.event, place);
            }
        }
        let column = |position: &usize| AnswerColumn {
            data_type: self.params.features[*position].field.data_type().clone(),
            parts: self.retained.iter().map(|(_, batch)| ArrayRef::clone(&batch.columns[*position])).collect(),
        };
        let columns = self.params.requested.iter().map(column).collect();
        (answer, columns)
    }

    /// Numbers the candidates that have values: for each slot its number, and where each is.
    fn places(&self) -> (Vec<Option<u32>>, Winners) {
        let mut places = vec![None; self.candidates.len()];
        let mut winners = Vec::new();
        for (part, (id, batch)) in self.retained.iter().enumerate() {
            for RowSlot { row, slot } in &batch.candidates {
                if self.candidates[*slot as usize].is(id, *row) {
                    places[*slot as usize] = Some(winners.len() as u32);
                    winners.push((part, *row as usize));
                }
            }
        }
        (places, Winners::Chosen(winners))
    }

    fn offer_rows(&mut self, batch: u32, times: RowTimes<'_>, hits: &[RowSlot], accepted: &mut Vec<RowSlot>) {
        for hit in hits {
            let (event, created) = times.of(hit.row as usize);
            if self.offer(hit.slot as usize, Candidate { event, created, batch, row: hit.row }) {
                accepted.push(*hit);
            }
        }
    }

    /// Makes a row the candidate of a slot if it beats the one that is; returns whether it did.
    #[inline]
    fn offer(&mut self, slot: usize, challenger: Candidate) -> bool {
        let holder = self.candidates[slot];
        if !self.beats(&challenger, &holder) {
            return false;
        }
        if self.age.is_exceeded(challenger.event, self.index.slot_times()[slot]) {
            self.candidates[slot] = Candidate { batch: AGED, ..challenger };
        } else {
            self.candidates[slot] = challenger;
            self.retained.acquire(challenger.batch);
        }
        self.release(holder);
        true
    }

    #[inline]
    fn release(&mut self, candidate: Candidate) {
        if candidate.has_values() {
            self.retained.release(candidate.batch);
        }
    }

    #[inline]
    fn beats(&self, challenger: &Candidate, holder: &Candidate) -> bool {
        match challenger.times().cmp(&holder.times()) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => self.wins_tie(challenger, holder),
        }
    }

    #[cold]
    fn wins_tie(&self, challenger: &Candidate, holder: &Candidate) -> bool {
        if !challenger.has_values() || !holder.has_values() {
            return holder.batch == NO_ROW;
        }
        let (left, right) = (self.retained.columns(challenger.batch), self.retained.columns(holder.batch));
        ContentOrder::compare(left, challenger.row as usize, right, holder.row as usize).is_gt()
    }

    /// Copies sparse batches together however little memory they take.
    #[cfg(test)]
    pub(super) fn compact_always(&mut self) {
        self.retained.leave_sparse(0);
    }

    #[cfg(test)]
    pub(super) fn rows_retained(&self) -> usize {
        self.retained.rows()
    }

    fn compact_if_due(&mut self) -> Result<(), JoinError> {
        if !self.retained.is_due() {
            return Ok(());
        }
        let sparse = self.retained.sparse();
        let mut moving = Vec::new();
        for id in &sparse {
            let candidates = self.retained.candidates(*id).iter();
            let live = candidates.filter(|old| self.candidates[old.slot as usize].is(*id, old.row));
            moving.extend(live.map(|old| (*id, *old)));
        }
        let candidates = &mut self.candidates;
        let moved = |slot: u32, batch: u32, row: u32| {
            let candidate = &mut candidates[slot as usize];
            (candidate.batch, candidate.row) = (batch, row);
        };
        let copied = self.retained.copy_together(&moving, moved);
        copied.map_err(|source| self.values_error(source))?;
        sparse.into_iter().for_each(|id| self.retained.remove(id));
        Ok(())
    }

    fn values_error(&self, source: ArrowError) -> JoinError {
        JoinError::Values { view: self.params.name.clone(), source }
    }
}
