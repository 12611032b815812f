//! Second pass: the features of the rows that slots hold on to, in the spine's order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::filter;
use parquet::errors::ParquetError;
use tokio::task::{JoinSet, yield_now};

use super::choose::{Choices, Positions, RowNumbers};
use super::read::{self, RowGroup};
use super::{TableJoin, workers};
use crate::point_in_time_join::answer::{Answer, AnswerColumn, Winners, build};
use crate::point_in_time_join::candidate::{Candidate, NO_ROW};
use crate::point_in_time_join::{JoinError, JoinedView, RowStatus};

/// Rows between two wanted ones that are decoded along: to skip fewer costs more.
const GAP_ROWS: usize = 512;

/// Which rows of a row group are wanted, a bit for each, and how many are wanted before each 64 of them.
#[derive(Debug)]
struct Wanted {
    words: ScalarBuffer<u64>,
    before: Vec<u32>,
    /// Wanted rows of all groups before this one.
    first_place: u32,
    count: u32,
}

impl Wanted {
    fn new(words: Vec<u64>, first_place: u32) -> Self {
        let mut count = 0;
        let mut before = Vec::with_capacity(words.len());
        for word in &words {
            before.push(count);
            count += word.count_ones();
        }
        Wanted { words: words.into(), before, first_place, count }
    }

    /// The number of a wanted row among those of all groups.
    fn place(&self, row: u32) -> u32 {
        let word = row as usize / 64;
        let below = self.words[word] & ((1 << (row % 64)) - 1);
        self.first_place + self.before[word] + below.count_ones()
    }

    fn contains(&self, row: u32) -> bool {
        self.words[row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// Stretches of rows that hold every wanted one, and few others.
    fn ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (number, word) in self.words.iter().enumerate().filter(|(_, word)| **word != 0) {
            let first = number * 64 + word.trailing_zeros() as usize;
            let end = number * 64 + 64 - word.leading_zeros() as usize;
            match ranges.last_mut() {
                Some(last) if first < last.end + GAP_ROWS => last.end = end,
                _ => ranges.push(first..end),
            }
        }
        ranges
    }
}

/// The answer, given the rows that the slots hold on to.
pub async fn answer(join: &Arc<TableJoin>, choices: Choices) -> Result<JoinedView, JoinError> {
    let holders = holders(join, &choices);
    let wanted = Arc::new(wanted(join, &choices, &holders));
    let features = features(join, &wanted).await?;
    let mut answer = Answer::new(join.view.name.clone(), join.index.rows(), Winners::All);
    let (times, rows) = (join.index.slot_times(), join.index.slot_rows());
    for (slot, holder) in holders.iter().enumerate().filter(|(_, holder)| **holder != NO_HOLDER) {
        let Candidate { event, batch, row, .. } = choices.candidates[*holder as usize];
        if choices.age.is_exceeded(event, times[slot]) {
            answer.set(rows[slot] as usize, RowStatus::OutsideMaxAge, event, None);
        } else {
            let place = wanted[batch as usize].place(row);
            answer.set(rows[slot] as usize, RowStatus::Found, event, Some(place));
        }
    }
    drop((holders, choices));
    build(answer, features, workers()).await
}

const NO_HOLDER: u32 = u32::MAX;

/// For each slot the one at or before it, of the same key, whose candidate is the greatest.
fn holders(join: &TableJoin, choices: &Choices) -> Vec<u32> {
    let mut holders = vec![NO_HOLDER; choices.candidates.len()];
    for group in join.index.groups() {
        let (mut holder, mut greatest) = (NO_HOLDER, Candidate::NONE);
        for slot in group {
            let challenger = choices.candidates[slot];
            if challenger.batch != NO_ROW && (holder == NO_HOLDER || challenger.times() > greatest.times()) {
                (holder, greatest) = (slot as u32, challenger);
            }
            holders[slot] = holder;
        }
    }
    holders
}

/// The rows of each row group that are an answer somewhere.
fn wanted(join: &TableJoin, choices: &Choices, holders: &[u32]) -> Vec<Wanted> {
    let mut words: Vec<Vec<u64>> = vec![Vec::new(); join.groups.len()];
    let times = join.index.slot_times();
    let mut last = NO_HOLDER;
    for (slot, holder) in holders.iter().enumerate().filter(|(_, holder)| **holder != NO_HOLDER) {
        let candidate = &choices.candidates[*holder as usize];
        if *holder != last && !choices.age.is_exceeded(candidate.event, times[slot]) {
            let group = &mut words[candidate.batch as usize];
            if group.is_empty() {
                group.resize(join.groups[candidate.batch as usize].rows.div_ceil(64), 0);
            }
            group[candidate.row as usize / 64] |= 1 << (candidate.row % 64);
            last = *holder;
        }
    }
    let mut places = 0;
    let count = |words| {
        let wanted = Wanted::new(words, places);
        places += wanted.count;
        wanted
    };
    let wanted = words.into_iter().map(count).collect();
    join.reads.rows_chosen.fetch_add(places as usize, Relaxed);
    wanted
}

/// The features of all wanted rows, in the order of the row groups and the rows in them: for each feature the parts
/// of its column.
async fn features(join: &Arc<TableJoin>, wanted: &Arc<Vec<Wanted>>) -> Result<Vec<AnswerColumn>, JoinError> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..workers().min(join.groups.len()) {
        let (join, wanted, next) = (Arc::clone(join), Arc::clone(wanted), Arc::clone(&next));
        tasks.spawn(async move {
            let mut read = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                let Some(group) = join.groups.get(number) else { return Ok(read) };
                let parts = read_wanted(&join, group, &wanted[number]).await;
                read.push((number, parts.map_err(|source| read::failed(&join.view, source))?));
            }
        });
    }
    let mut groups: Vec<(usize, Vec<Vec<ArrayRef>>)> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        groups.extend(done.map_err(|source| join.stopped(source))??);
    }
    groups.sort_unstable_by_key(|(number, _)| *number);
    let mut columns: Vec<AnswerColumn> = join
        .view
        .features
        .iter()
        .map(|field| AnswerColumn { data_type: field.data_type().clone(), parts: Vec::new() })
        .collect();
    for parts in groups.into_iter().flat_map(|(_, parts)| parts) {
        columns.iter_mut().zip(parts).for_each(|(column, part)| column.parts.push(part));
    }
    Ok(columns)
}

/// The features of a row group's wanted rows, in pieces.
async fn read_wanted(join: &TableJoin, group: &RowGroup, wanted: &Wanted) -> Result<Vec<Vec<ArrayRef>>, ParquetError> {
    let view = &join.view;
    let mut pieces = Vec::new();
    if wanted.count == 0 || view.features.is_empty() {
        return Ok(pieces);
    }
    let ranges = wanted.ranges();
    let names: Vec<&str> = view.features.iter().map(|field| field.name().as_str()).collect();
    let covers_all = ranges.iter().map(Range::len).sum::<usize>() * 10 > group.rows * 9;
    let selection = (!covers_all).then_some(ranges.as_slice());
    let Some(batches) = group.read(&names, selection).await? else { return Ok(pieces) };
    let mut positions = Positions::of(group.rows, selection);
    for batch in batches {
        let batch = batch?;
        let rows = batch.num_rows();
        join.reads.rows_decoded.fetch_add(rows, Relaxed);
        let numbers = positions.next(rows);
        let mask = BooleanArray::from(match &numbers {
            RowNumbers::From(first) => BooleanBuffer::new(wanted.words.inner().clone(), *first, rows),
            RowNumbers::Each(numbers) => BooleanBuffer::collect_bool(rows, |row| wanted.contains(numbers[row])),
        });
        if mask.true_count() == 0 {
            continue;
        }
        let piece = view.features.iter().map(|field| {
            let column = read::column(&batch, field.name(), field.data_type())?;
            Ok(if mask.false_count() == 0 { column } else { filter(&column, &mask)? })
        });
        pieces.push(piece.collect::<Result<Vec<_>, ParquetError>>()?);
        yield_now().await;
    }
    Ok(pieces)
}
