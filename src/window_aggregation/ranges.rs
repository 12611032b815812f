//! The functions whose answer over a range of sorted events follows from one pass over the events.
//!
//! | function | from |
//! | --- | --- |
//! | `count` | the length of the range |
//! | `sum`, `mean` | exact prefix sums; their difference is the sum of the range, to the bit |
//! | `any`, `all` | prefix sums of what is true |
//! | `min`, `max` | a queue of the values that may still be the answer |
//! | `first`, `last` | the positions at its ends |
//! | `count_distinct` | how often each value is in the range |
//!
//! Both ends of the ranges of one window ascend.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

use super::answer::Output;
use super::sliding::{Function, GroupTimes};
use crate::definition::AggregateFunction;
use crate::tile::{Answer, Column, FixedScale, Value, divide_rounded, round_scaled};

/// One input of the events of a group, without its nulls.
pub(super) struct GroupColumn<'a> {
    column: &'a Column,
    /// Where the group's events start in the column.
    first: usize,
    /// Of each event, how many before it are not null, and of all; None: no event is null.
    ranks: Option<Vec<u32>>,
    /// The events that are not null; empty where all are.
    present: Vec<u32>,
    len: usize,
    prefix: OnceCell<Option<Prefix>>,
    ids: OnceCell<(Vec<u32>, usize)>,
    order: OnceCell<Vec<i64>>,
}

/// Sums of the first 0, 1, 2, … values, as integers times a power of two.
struct Prefix {
    sums: Vec<i128>,
    exponent: i32,
}

impl<'a> GroupColumn<'a> {
    pub fn new(column: &'a Column, events: Range<usize>) -> Self {
        let len = events.len();
        let mut group = GroupColumn {
            column,
            first: events.start,
            ranks: None,
            present: Vec::new(),
            len,
            prefix: OnceCell::new(),
            ids: OnceCell::new(),
            order: OnceCell::new(),
        };
        if column.nulls().is_some_and(|nulls| nulls.null_count() > 0) {
            let mut ranks = Vec::with_capacity(len + 1);
            for at in 0..len {
                ranks.push(group.present.len() as u32);
                if !column.is_null(events.start + at) {
                    group.present.push(at as u32);
                }
            }
            ranks.push(group.present.len() as u32);
            group.ranks = Some(ranks);
        }
        group
    }

    /// How many values there are.
    fn values(&self) -> usize {
        if self.ranks.is_some() { self.present.len() } else { self.len }
    }

    /// The range of values that a range of events holds.
    fn range(&self, events: &Range<u32>) -> Range<usize> {
        match &self.ranks {
            Some(ranks) => ranks[events.start as usize] as usize..ranks[events.end as usize] as usize,
            None => events.start as usize..events.end as usize,
        }
    }

    /// The event that a value is of.
    fn event(&self, value: usize) -> usize {
        if self.ranks.is_some() { self.present[value] as usize } else { value }
    }

    fn row(&self, value: usize) -> usize {
        self.first + self.event(value)
    }

    fn value(&self, value: usize) -> Option<Value> {
        self.column.value(self.row(value))
    }

    /// None where sums of floats take more than an integer of 128 bits.
    fn prefix(&self) -> Option<&Prefix> {
        self.prefix.get_or_init(|| self.prefix_sums()).as_ref()
    }

    fn prefix_sums(&self) -> Option<Prefix> {
        let mut sums = Vec::with_capacity(self.values() + 1);
        let mut sum = 0_i128;
        sums.push(sum);
        let mut add = |value: i128| {
            sum += value;
            sums.push(sum);
        };
        let exponent = if let Some(values) = self.column.as_ints() {
            (0..self.values()).for_each(|value| add(i128::from(values[self.row(value)])));
            0
        } else if let Some(values) = self.column.as_bools() {
            (0..self.values()).for_each(|value| add(i128::from(values.value(self.row(value)))));
            0
        } else if let Some(values) = self.column.as_floats() {
            let present: Cow<'_, [f64]> = match self.ranks {
                None => Cow::Borrowed(&values[self.first..self.first + self.len]),
                Some(_) => (0..self.values()).map(|value| values[self.row(value)]).collect(),
            };
            let scale = FixedScale::find(&present, None)?;
            present.iter().for_each(|value| add(scale.mantissa(*value)));
            scale.exponent()
        } else {
            return None;
        };
        Some(Prefix { sums, exponent })
    }
}

/// The events of one window for each asked time, and where the answers go.
pub(super) type AskedWindow<'a> = (&'a [Range<u32>], &'a mut Output);

/// Answers the ranges of each window, one after the other; false: the function is not one that this can do, and nothing
/// is answered.
///
/// `group` is the input; None for a `count` of rows.
pub(super) fn answer_ranges(
    function: &Function,
    group: Option<&GroupColumn<'_>>,
    group_times: &GroupTimes<'_>,
    windows: &mut [AskedWindow<'_>],
) -> bool {
    use AggregateFunction as F;
    let Some(group) = group else {
        let is_count = function.function == F::Count;
        if is_count {
            for (ranges, output) in windows {
                output.add_ints(ranges.iter().map(|range| Some(range.len() as i64)));
            }
        }
        return is_count;
    };
    if function.function == F::Min || function.function == F::Max {
        extremes(function.function, group, windows);
        return true;
    }
    windows.iter_mut().all(|(ranges, output)| answer_window(function, group, group_times, ranges, output))
}

/// As [`answer_ranges`], of one window.
fn answer_window(
    function: &Function,
    group: &GroupColumn<'_>,
    group_times: &GroupTimes<'_>,
    ranges: &[Range<u32>],
    output: &mut Output,
) -> bool {
    use AggregateFunction as F;
    let values = ranges.iter().map(|range| group.range(range));
    match function.function {
        F::Count => output.add_ints(values.map(|range| Some(range.len() as i64))),
        F::Sum | F::Mean => {
            let Some(prefix) = group.prefix() else { return false };
            match (function.function, group.column.as_ints()) {
                (F::Mean, _) => output.add_floats(values.map(|range| prefix.mean(range))),
                (_, None) => output.add_floats(values.map(|range| prefix.sum(range))),
                (_, Some(_)) => values.for_each(|range| output.add(prefix.integer_sum(range))),
            }
        }
        F::Any | F::All => {
            let Some(prefix) = group.prefix() else { return false };
            values.for_each(|range| output.add(prefix.truth(function.function, range)));
        }
        F::First | F::Last => ends(function, group, group_times, values, output),
        F::CountDistinct => distinct(group, values, output),
        _ => return false,
    }
    true
}

impl Prefix {
    #[inline]
    fn difference(&self, range: &Range<usize>) -> Option<i128> {
        (!range.is_empty()).then(|| self.sums[range.end] - self.sums[range.start])
    }

    #[inline]
    fn sum(&self, range: Range<usize>) -> Option<f64> {
        Some(round_scaled(self.difference(&range)?, self.exponent))
    }

    #[inline]
    fn mean(&self, range: Range<usize>) -> Option<f64> {
        Some(divide_rounded(self.difference(&range)?, self.exponent, range.len() as u64))
    }

    fn integer_sum(&self, range: Range<usize>) -> Answer {
        let sum = self.difference(&range).map(|sum| i64::try_from(sum).map_or(Answer::OutOfRange, Answer::Int));
        sum.unwrap_or(Answer::Null)
    }

    fn truth(&self, function: AggregateFunction, range: Range<usize>) -> Answer {
        let Some(trues) = self.difference(&range) else { return Answer::Null };
        Answer::Bool(if function == AggregateFunction::Any { trues > 0 } else { trues == range.len() as i128 })
    }
}

/// The least or greatest value of each range.
fn extremes(function: AggregateFunction, group: &GroupColumn<'_>, windows: &mut [AskedWindow<'_>]) {
    let order = group.order.get_or_init(|| group.order_of_values());
    match function {
        AggregateFunction::Max => queue(|value| order[value], group, windows),
        _ => queue(|value| !order[value], group, windows),
    }
}

impl GroupColumn<'_> {
    /// Adds these values.
    fn add_values(&self, found: &[Option<usize>], output: &mut Output) {
        let rows = found.iter().map(|found| found.map(|value| self.row(value)));
        if let Some(ints) = self.column.as_ints() {
            output.add_ints(rows.map(|row| row.map(|row| ints[row])));
        } else if let Some(floats) = self.column.as_floats() {
            output.add_floats(rows.map(|row| row.map(|row| floats[row])));
        } else {
            let value = |row: Option<usize>| self.column.value(row?);
            rows.for_each(|row| output.add(value(row).as_ref().map_or(Answer::Null, Answer::from)));
        }
    }

    /// Adds lists of these values, each of so many; null where there is none.
    fn add_lists(&self, mut values: &[usize], lens: &[usize], output: &mut Output) {
        for len in lens {
            let (list, rest) = values.split_at(*len);
            values = rest;
            let rows = list.iter().map(|value| self.row(*value));
            if list.is_empty() {
                output.add(Answer::Null);
            } else if let Some(ints) = self.column.as_ints() {
                output.add_list_of_ints(rows.map(|row| ints[row]));
            } else if let Some(floats) = self.column.as_floats() {
                output.add_list_of_floats(rows.map(|row| floats[row]));
            } else {
                let items = rows.filter_map(|row| self.column.value(row));
                output.add(Answer::List(items.map(|value| Answer::from(&value)).collect()));
            }
        }
    }

    /// Integers in the order of the values.
    fn order_of_values(&self) -> Vec<i64> {
        let values = 0..self.values();
        if let Some(ints) = self.column.as_ints() {
            return values.map(|value| ints[self.row(value)]).collect();
        }
        if let Some(floats) = self.column.as_floats() {
            return values.map(|value| total_order(floats[self.row(value)])).collect();
        }
        let mut sorted: Vec<usize> = values.collect();
        sorted.sort_by_cached_key(|value| self.value(*value));
        let mut ranks = vec![0_i64; sorted.len()];
        let mut rank = 0;
        for (at, value) in sorted.iter().enumerate() {
            rank += i64::from(at > 0 && self.value(*value) != self.value(sorted[at - 1]));
            ranks[*value] = rank;
        }
        ranks
    }
}

/// Integers in the order of the floats; NaN, of which there is one, is the greatest.
#[inline]
fn total_order(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// For each range the value with the greatest key.
///
/// A queue keeps the values that no later one surpasses. The windows of an asked time end together, so one queue serves
/// all of them: each begins at its own place in it.
#[inline]
fn queue(key: impl Fn(usize) -> i64, group: &GroupColumn<'_>, windows: &mut [AskedWindow<'_>]) {
    let asked = windows.first().map_or(0, |(ranges, _)| ranges.len());
    let mut candidates: Vec<usize> = Vec::new();
    // Of each window the first candidate that is in it; those before the least of them are in none.
    let mut firsts = vec![0; windows.len()];
    let mut found: Vec<Vec<Option<usize>>> = vec![Vec::with_capacity(asked); windows.len()];
    let mut next = 0;
    for at in 0..asked {
        let ranges = || windows.iter().map(|(ranges, _)| group.range(&ranges[at])).filter(|range| !range.is_empty());
        let (start, end) = ranges().fold((usize::MAX, 0), |all, one| (all.0.min(one.start), all.1.max(one.end)));
        next = next.max(start.min(end));
        let dead = firsts.iter().copied().min().unwrap_or_default();
        let mut kept = candidates.len();
        while next < end {
            let new = key(next);
            let mut len = candidates.len();
            while len > dead && key(candidates[len - 1]) <= new {
                len -= 1;
            }
            kept = kept.min(len);
            candidates.truncate(len);
            candidates.push(next);
            next += 1;
        }
        for (((ranges, _), first), found) in windows.iter().zip(&mut firsts).zip(&mut found) {
            let range = group.range(&ranges[at]);
            *first = (*first).min(kept);
            while *first < candidates.len() && candidates[*first] < range.start {
                *first += 1;
            }
            found.push(candidates.get(*first).copied().filter(|_| !range.is_empty()));
        }
    }
    for ((_, output), found) in windows.iter_mut().zip(found) {
        group.add_values(&found, output);
    }
}

/// The values at one end of each range. Those of one time, by which the events are sorted, go by themselves.
fn ends(
    function: &Function,
    group: &GroupColumn<'_>,
    group_times: &GroupTimes<'_>,
    ranges: impl Iterator<Item = Range<usize>>,
    output: &mut Output,
) {
    let n = function.n.map_or(1, |n| n as usize);
    let is_first = function.function == AggregateFunction::First;
    let time = |value: usize| {
        let event = group.event(value);
        (group_times.times[event], group_times.created.get(event).copied().unwrap_or_default())
    };
    // Those of all ranges, one after the other, and how many are of each.
    let (mut chosen, mut lens): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for range in ranges {
        let start = chosen.len();
        let mut rest = range;
        while chosen.len() - start < n && !rest.is_empty() {
            // All values of one time, from this end on.
            let (tied, others) = if is_first {
                let end = tied_end(rest.clone(), |value| time(value) == time(rest.start));
                (rest.start..end, end..rest.end)
            } else {
                let start = tied_start(rest.clone(), |value| time(value) == time(rest.end - 1));
                (start..rest.end, rest.start..start)
            };
            rest = others;
            let before = chosen.len();
            chosen.extend(tied);
            if chosen.len() - before > 1 {
                chosen[before..].sort_by_cached_key(|value| group.value(*value));
                if !is_first {
                    chosen[before..].reverse();
                }
            }
            chosen.truncate(start + n);
        }
        lens.push(chosen.len() - start);
    }
    if function.n.is_some() {
        group.add_lists(&chosen, &lens, output);
    } else {
        let mut chosen = chosen.into_iter();
        let found: Vec<Option<usize>> =
            lens.into_iter().map(|len| if len == 0 { None } else { chosen.next() }).collect();
        group.add_values(&found, output);
    }
}

fn tied_end(range: Range<usize>, is_tied: impl Fn(usize) -> bool) -> usize {
    let mut end = range.start + 1;
    while end < range.end && is_tied(end) {
        end += 1;
    }
    end
}

fn tied_start(range: Range<usize>, is_tied: impl Fn(usize) -> bool) -> usize {
    let mut start = range.end - 1;
    while start > range.start && is_tied(start - 1) {
        start -= 1;
    }
    start
}

/// How many different values each range holds.
fn distinct(group: &GroupColumn<'_>, ranges: impl Iterator<Item = Range<usize>>, output: &mut Output) {
    let (ids, all) = group.ids.get_or_init(|| group.number_values());
    let mut counts = vec![0_u32; *all];
    let (mut distinct, mut next, mut oldest) = (0_i64, 0, 0);
    output.add_ints(ranges.map(|range| {
        while next < range.end {
            let count = &mut counts[ids[next] as usize];
            distinct += i64::from(*count == 0);
            *count += 1;
            next += 1;
        }
        while oldest < range.start {
            let count = &mut counts[ids[oldest] as usize];
            *count -= 1;
            distinct -= i64::from(*count == 0);
            oldest += 1;
        }
        Some(distinct)
    }));
}

impl GroupColumn<'_> {
    /// A number for each value, the same where values are, and how many there are.
    fn number_values(&self) -> (Vec<u32>, usize) {
        let values = 0..self.values();
        if let Some(ints) = self.column.as_ints() {
            return numbered(values.map(|value| ints[self.row(value)]));
        }
        numbered(values.map(|value| self.value(value).map(|value| value.as_key().into_owned())))
    }
}

fn numbered<K: Eq + Hash>(keys: impl ExactSizeIterator<Item = K>) -> (Vec<u32>, usize) {
    let mut numbers: HashMap<K, u32> = HashMap::with_capacity(keys.len());
    let mut ids = Vec::with_capacity(keys.len());
    for key in keys {
        let new = numbers.len() as u32;
        ids.push(*numbers.entry(key).or_insert(new));
    }
    (ids, numbers.len())
}
