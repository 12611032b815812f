//! What is kept of events: updated with them, merged, and where possible freed of them again.

use std::collections::BTreeMap;

use super::exact_sum::ExactSum;
use super::hyperloglog::HyperLogLog;
use super::kind::PartialKind;
use super::moments::Moments;
use super::ranking::Ranking;
use super::sketch::Sketch;
use super::value::{Scalar, Value};

/// What an aggregate knows of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since the Unix epoch, UTC.
    pub event_timestamp: i64,
    /// Microseconds since the Unix epoch, UTC; None is before every instant.
    pub created_timestamp: Option<i64>,
    /// The input; None: it is null, or the aggregate has none.
    pub value: Option<Value>,
    /// None: it is null, or the aggregate has none.
    pub bucket: Option<Value>,
}

/// What is kept of some events, of one [`PartialKind`].
///
/// Null inputs are skipped, except that rows are counted. Inputs are of the type that the kind was made for; others
/// are skipped too.
#[derive(Debug, Clone, PartialEq)]
pub enum Partial {
    Rows(u64),
    Count(u64),
    Bools {
        trues: u64,
        falses: u64,
    },
    /// Of 2^64 values no sum is out of range.
    IntegerSum {
        count: u64,
        sum: i128,
    },
    FloatSum {
        count: u64,
        sum: ExactSum,
    },
    Moments {
        count: u64,
        moments: Moments,
    },
    Extremes(Scalar, Ranking<Value>),
    Ends(Scalar, Ranking<TimedValue>),
    /// No count is zero.
    Values(Scalar, BTreeMap<Value, u64>),
    Registers(HyperLogLog),
    Sketch(Sketch),
    ByBucket(Box<Buckets>),
}

/// A value with its time, ordered as `first` and `last` order events.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimedValue {
    pub(super) event_timestamp: i64,
    pub(super) created_timestamp: Option<i64>,
    pub(super) value: Value,
}

/// The partials of the buckets that have events.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    pub(super) by: Scalar,
    pub(super) inner: PartialKind,
    pub(super) buckets: BTreeMap<Value, Bucket>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bucket {
    /// Also those whose input is null; never zero.
    pub events: u64,
    pub partial: Partial,
}

impl Partial {
    /// Takes an event in.
    pub fn update(&mut self, event: &Event) {
        match self {
            Partial::Rows(count) => *count = count.wrapping_add(1),
            Partial::ByBucket(buckets) => buckets.update(event),
            Partial::Ends(_, values) => {
                if let Some(value) = &event.value {
                    offer_timed(values, event, value);
                }
            }
            _ => {
                if let Some(value) = &event.value {
                    self.update_value(value);
                }
            }
        }
    }

    /// Takes in an input that is not null, where its time and bucket do not matter.
    fn update_value(&mut self, value: &Value) {
        match (self, value) {
            (Partial::Count(count), _) => *count = count.wrapping_add(1),
            (Partial::Bools { trues, .. }, Value::Bool(true)) => *trues = trues.wrapping_add(1),
            (Partial::Bools { falses, .. }, Value::Bool(false)) => *falses = falses.wrapping_add(1),
            (Partial::IntegerSum { count, sum }, Value::Int(value)) => {
                *count = count.wrapping_add(1);
                *sum = sum.wrapping_add(i128::from(*value));
            }
            (Partial::FloatSum { count, sum }, Value::Float(value)) => {
                *count = count.wrapping_add(1);
                sum.add(*value);
            }
            (Partial::Moments { count, moments }, Value::Int(value)) => {
                *count = count.wrapping_add(1);
                moments.add_int(*value);
            }
            (Partial::Moments { count, moments }, Value::Float(value)) => {
                *count = count.wrapping_add(1);
                moments.add(*value);
            }
            (Partial::Extremes(_, values), value) => values.offer(|held| value.cmp(held), || value.canonical()),
            (Partial::Values(_, counts), value) => add_to_counts(counts, value),
            (Partial::Registers(registers), value) => registers.add(value),
            (Partial::Sketch(sketch), value) => sketch.add(value.as_f64().unwrap_or(f64::NAN)),
            _ => {}
        }
    }

    /// Takes away an event that was taken in; then the partial is as if it had never been.
    ///
    /// Leaves a partial whose kind is not [invertible](PartialKind::is_invertible) as it is.
    pub fn invert(&mut self, event: &Event) {
        match self {
            Partial::Rows(count) => *count = count.wrapping_sub(1),
            Partial::ByBucket(buckets) => buckets.invert(event),
            _ => {
                if let Some(value) = &event.value {
                    self.invert_value(value);
                }
            }
        }
    }

    fn invert_value(&mut self, value: &Value) {
        match (self, value) {
            (Partial::Count(count), _) => *count = count.wrapping_sub(1),
            (Partial::Bools { trues, .. }, Value::Bool(true)) => *trues = trues.wrapping_sub(1),
            (Partial::Bools { falses, .. }, Value::Bool(false)) => *falses = falses.wrapping_sub(1),
            (Partial::IntegerSum { count, sum }, Value::Int(value)) => {
                *count = count.wrapping_sub(1);
                *sum = sum.wrapping_sub(i128::from(*value));
            }
            (Partial::FloatSum { count, sum }, Value::Float(value)) => {
                *count = count.wrapping_sub(1);
                sum.subtract(*value);
            }
            (Partial::Moments { count, moments }, Value::Int(value)) => {
                *count = count.wrapping_sub(1);
                moments.subtract_int(*value);
            }
            (Partial::Moments { count, moments }, Value::Float(value)) => {
                *count = count.wrapping_sub(1);
                moments.subtract(*value);
            }
            (Partial::Values(_, counts), value) => take_from_counts(counts, value),
            (Partial::Sketch(sketch), value) => sketch.subtract(value.as_f64().unwrap_or(f64::NAN)),
            _ => {}
        }
    }

    /// Takes in the events of another partial of the same kind; one of another kind is left out, which is a bug.
    pub fn merge(&mut self, other: &Partial) {
        match (self, other) {
            (Partial::Rows(count), Partial::Rows(other)) | (Partial::Count(count), Partial::Count(other)) => {
                *count = count.wrapping_add(*other);
            }
            (Partial::Bools { trues, falses }, Partial::Bools { trues: other_trues, falses: other_falses }) => {
                *trues = trues.wrapping_add(*other_trues);
                *falses = falses.wrapping_add(*other_falses);
            }
            (Partial::IntegerSum { count, sum }, Partial::IntegerSum { count: other_count, sum: other }) => {
                *count = count.wrapping_add(*other_count);
                *sum = sum.wrapping_add(*other);
            }
            (Partial::FloatSum { count, sum }, Partial::FloatSum { count: other_count, sum: other }) => {
                *count = count.wrapping_add(*other_count);
                sum.merge(other);
            }
            (Partial::Moments { count, moments }, Partial::Moments { count: other_count, moments: other }) => {
                *count = count.wrapping_add(*other_count);
                moments.merge(other);
            }
            (Partial::Extremes(_, values), Partial::Extremes(_, other)) => values.merge(other),
            (Partial::Ends(_, values), Partial::Ends(_, other)) => values.merge(other),
            (Partial::Values(_, counts), Partial::Values(_, other)) => merge_counts(counts, other),
            (Partial::Registers(registers), Partial::Registers(other)) => registers.merge(other),
            (Partial::Sketch(sketch), Partial::Sketch(other)) => sketch.merge(other),
            (Partial::ByBucket(buckets), Partial::ByBucket(other)) => buckets.merge(other),
            (_, other) => debug_assert!(false, "partials of different kinds are merged: {other:?}"),
        }
    }
}

impl Buckets {
    fn update(&mut self, event: &Event) {
        let Some(key) = event.bucket.as_ref().map(Value::as_key) else { return };
        let bucket = match self.buckets.get_mut(key.as_ref()) {
            Some(bucket) => bucket,
            None => {
                let empty = Bucket { events: 0, partial: self.inner.empty() };
                self.buckets.entry(key.into_owned()).or_insert(empty)
            }
        };
        bucket.events = bucket.events.wrapping_add(1);
        bucket.partial.update(event);
    }

    fn invert(&mut self, event: &Event) {
        let Some(key) = event.bucket.as_ref().map(Value::as_key) else { return };
        let Some(bucket) = self.buckets.get_mut(key.as_ref()) else { return };
        if !self.inner.is_invertible() {
            return;
        }
        bucket.events = bucket.events.wrapping_sub(1);
        bucket.partial.invert(event);
        if bucket.events == 0 {
            self.buckets.remove(key.as_ref());
        }
    }

    fn merge(&mut self, other: &Buckets) {
        for (key, other) in &other.buckets {
            match self.buckets.get_mut(key) {
                Some(bucket) => {
                    bucket.events = bucket.events.wrapping_add(other.events);
                    bucket.partial.merge(&other.partial);
                }
                None => {
                    self.buckets.insert(key.clone(), other.clone());
                }
            }
        }
    }
}

fn offer_timed(values: &mut Ranking<TimedValue>, event: &Event, value: &Value) {
    let time = (event.event_timestamp, event.created_timestamp);
    let compare = |held: &TimedValue| {
        time.cmp(&(held.event_timestamp, held.created_timestamp)).then_with(|| value.cmp(&held.value))
    };
    let timed = || TimedValue { event_timestamp: time.0, created_timestamp: time.1, value: value.canonical() };
    values.offer(compare, timed);
}

fn add_to_counts(counts: &mut BTreeMap<Value, u64>, value: &Value) {
    let key = value.as_key();
    match counts.get_mut(key.as_ref()) {
        Some(count) => *count = count.wrapping_add(1),
        None => {
            counts.insert(key.into_owned(), 1);
        }
    }
}

fn take_from_counts(counts: &mut BTreeMap<Value, u64>, value: &Value) {
    let key = value.as_key();
    if let Some(count) = counts.get_mut(key.as_ref()) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key.as_ref());
        }
    }
}

fn merge_counts(counts: &mut BTreeMap<Value, u64>, other: &BTreeMap<Value, u64>) {
    for (value, other) in other {
        match counts.get_mut(value) {
            Some(count) => *count = count.wrapping_add(*other),
            None => {
                counts.insert(value.clone(), *other);
            }
        }
    }
}
