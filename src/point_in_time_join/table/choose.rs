//! First pass: which row of which row group each slot of the spine holds on to.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{ArrayRef, RecordBatch};
use parquet::errors::ParquetError;
use tokio::task::yield_now;

use super::read::{self, RowGroup};
use super::{TableJoin, TableView};
use crate::point_in_time_join::candidate::{AGED, AgeLimit, Candidate};
use crate::point_in_time_join::matching::{Matcher, NEVER, RowTimes, micros_or_never};
use crate::point_in_time_join::retained::RowSlot;
use crate::point_in_time_join::{JoinError, SpineIndex};

/// A row for each slot, of the row groups that were looked at.
#[derive(Debug)]
pub struct Choices {
    /// Batches are numbers of row groups.
    pub candidates: Vec<Candidate>,
    pub age: AgeLimit,
    tied: bool,
}

impl Choices {
    pub fn new(index: &SpineIndex, view: &TableView) -> Self {
        let candidates = vec![Candidate::NONE; index.slot_times().len()];
        Choices { candidates, age: AgeLimit::new(view.ttl), tied: false }
    }

    /// Whether rows that share keys, event and created timestamp have met.
    pub fn is_tied(&self) -> bool {
        self.tied
    }

    #[inline]
    fn offer(&mut self, slot: usize, challenger: Candidate) {
        let holder = &mut self.candidates[slot];
        match challenger.times().cmp(&holder.times()) {
            Ordering::Greater => *holder = challenger,
            Ordering::Equal if holder.is_row() => self.tied = true,
            Ordering::Equal => *holder = challenger,
            Ordering::Less => {}
        }
    }

    pub fn merge(mut self, other: Choices) -> Choices {
        self.tied |= other.tied;
        for (slot, challenger) in other.candidates.into_iter().enumerate().filter(|(_, candidate)| candidate.is_row()) {
            self.offer(slot, challenger);
        }
        self
    }
}

/// Looks at row groups until none is left.
pub async fn choose(join: Arc<TableJoin>) -> Result<Choices, JoinError> {
    let mut choices = Choices::new(&join.index, &join.view);
    let mut matching = Matching { join: &join, matcher: Matcher::default(), hits: Vec::new() };
    while let Some((number, group)) = join.take() {
        matching.group(&mut choices, number, group).await.map_err(|source| read::failed(&join.view, source))?;
        if choices.tied {
            break;
        }
    }
    Ok(choices)
}

struct Matching<'a> {
    join: &'a TableJoin,
    matcher: Matcher,
    hits: Vec<RowSlot>,
}

impl Matching<'_> {
    async fn group(&mut self, choices: &mut Choices, number: usize, group: &RowGroup) -> Result<(), ParquetError> {
        let view = &self.join.view;
        let times = view.event_timestamp.iter().chain(&view.created_timestamp);
        let columns: Vec<&str> = view.keys.iter().chain(times).map(String::as_str).collect();
        let Some(batches) = group.read(&columns, group.selection.as_deref()).await? else { return Ok(()) };
        let mut positions = Positions::new(group);
        for batch in batches {
            let batch = batch?;
            self.batch(choices, number as u32, &batch, &positions.next(batch.num_rows()))?;
            self.join.reads.rows_matched.fetch_add(batch.num_rows(), Relaxed);
            // Decoding that never waits would keep the worker from everything else.
            yield_now().await;
        }
        Ok(())
    }

    fn batch(
        &mut self,
        choices: &mut Choices,
        group: u32,
        batch: &RecordBatch,
        positions: &RowNumbers,
    ) -> Result<(), ParquetError> {
        let TableJoin { view, index, .. } = self.join;
        let key = |(name, data_type): (&String, _)| read::column(batch, name, data_type);
        let keys = view.keys.iter().zip(index.key_types()).map(key).collect::<Result<Vec<ArrayRef>, _>>()?;
        let instants = |name: &String| read::column(batch, name, &read::instant_type());
        let events = view.event_timestamp.as_ref().map(instants).transpose()?;
        let events = match &events {
            Some(events) => micros_or_never(events),
            None => Cow::Owned(vec![NEVER; batch.num_rows()]),
        };
        let created = view.created_timestamp.as_ref().map(instants).transpose()?;
        let created = created.as_ref().map(micros_or_never);
        let times = RowTimes { events: &events, created: created.as_deref(), as_known: view.as_known };
        self.matcher.find(index, &keys, times, &mut self.hits)?;
        if view.files.skips_untimed && view.event_timestamp.is_some() {
            self.hits.retain(|hit| events[hit.row as usize] != NEVER);
        }
        for hit in &self.hits {
            let (event, created) = times.of(hit.row as usize);
            let is_aged = choices.age.is_exceeded(event, index.slot_times()[hit.slot as usize]);
            let batch = if is_aged { AGED } else { group };
            let row = positions.of(hit.row);
            choices.offer(hit.slot as usize, Candidate { event, created, batch, row });
        }
        Ok(())
    }
}

/// Which rows of a row group the batches that are read of it hold.
pub struct Positions<'a> {
    /// What is left of the selection; None: all rows are read.
    selection: Option<std::slice::Iter<'a, Range<usize>>>,
    current: Range<usize>,
}

/// The rows of a row group that a batch holds.
pub enum RowNumbers {
    From(usize),
    Each(Vec<u32>),
}

impl<'a> Positions<'a> {
    pub fn new(group: &'a RowGroup) -> Self {
        Self::of(group.rows, group.selection.as_deref())
    }

    pub fn of(rows: usize, selection: Option<&'a [Range<usize>]>) -> Self {
        let current = if selection.is_some() { 0..0 } else { 0..rows };
        Positions { selection: selection.map(<[_]>::iter), current }
    }

    /// The next `rows` rows.
    pub fn next(&mut self, rows: usize) -> RowNumbers {
        let mut numbers = Vec::new();
        let mut left = rows;
        while left > 0 {
            if self.current.is_empty() {
                match self.selection.as_mut().and_then(Iterator::next) {
                    Some(range) => self.current = range.clone(),
                    None => break,
                }
            }
            let taken = self.current.start..self.current.end.min(self.current.start + left);
            self.current.start = taken.end;
            if taken.len() == rows {
                return RowNumbers::From(taken.start);
            }
            left -= taken.len();
            numbers.extend(taken.map(|row| row as u32));
        }
        RowNumbers::Each(numbers)
    }
}

impl RowNumbers {
    /// The row of the group that row `row` of the batch is.
    #[inline]
    pub fn of(&self, row: u32) -> u32 {
        match self {
            RowNumbers::From(first) => *first as u32 + row,
            RowNumbers::Each(numbers) => numbers[row as usize],
        }
    }
}
