//! Generated events, and the aggregates they are given to.

use proptest::prelude::*;

use crate::definition::{AggregateFunction, Percentiles, ValueType};
use crate::tile::{Aggregate, Answer, Event, Partial, Value};

/// What an event of any aggregate is made of.
#[derive(Debug, Clone)]
pub struct Row {
    pub event_timestamp: i64,
    pub created_timestamp: Option<i64>,
    pub is_null: bool,
    pub int: i64,
    pub float: f64,
    pub bucket: Option<i64>,
}

/// Ties are frequent, and so are nulls.
pub fn rows(floats: impl Strategy<Value = f64>, len_max: usize) -> impl Strategy<Value = Vec<Row>> {
    let created = proptest::option::of(-2_i64..2);
    let bucket = proptest::option::weighted(0.8, -2_i64..2);
    let row = (-3_i64..3, created, proptest::bool::weighted(0.2), ints(), floats, bucket);
    let row = row.prop_map(|(event_timestamp, created_timestamp, is_null, int, float, bucket)| Row {
        event_timestamp,
        created_timestamp,
        is_null,
        int,
        float,
        bucket,
    });
    proptest::collection::vec(row, 0..=len_max)
}

pub fn ints() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -4_i64..5, 2 => any::<i64>(), 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

/// Small, in tenths, of any size and bits, and at the ends of the range.
pub fn finite_floats() -> impl Strategy<Value = f64> {
    let edges = [0.0, -0.0, f64::MAX, f64::MIN, 5e-324, -5e-324, f64::MIN_POSITIVE, 1e300, 1e-300, 1e16, 1.0, 0.1];
    let of_any_bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |float| float.is_finite());
    prop_oneof![
        4 => (-4_i32..5).prop_map(f64::from),
        4 => (-1000_i32..1000).prop_map(|tenths| f64::from(tenths) / 10.0),
        2 => of_any_bits,
        2 => proptest::sample::select(edges.to_vec()),
    ]
}

pub fn floats() -> impl Strategy<Value = f64> {
    let specials = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::INFINITY, f64::NEG_INFINITY];
    prop_oneof![12 => finite_floats(), 1 => proptest::sample::select(specials.to_vec())]
}

impl Row {
    pub fn value(&self, ty: &ValueType) -> Option<Value> {
        let text = || ["", "a", "b", "ab", "é"][self.int.rem_euclid(5) as usize].as_bytes().into();
        let value = match ty {
            ValueType::Bool => Value::Bool(self.int & 1 == 1),
            ValueType::Int32 | ValueType::Date => Value::Int(i64::from(self.int as i32)),
            ValueType::Float32 => Value::Float(f64::from(self.float as f32)),
            ValueType::Float64 => Value::Float(self.float),
            ValueType::String | ValueType::Bytes => Value::Bytes(text()),
            _ => Value::Int(self.int),
        };
        (!self.is_null).then_some(value)
    }

    pub fn event(&self, case: &Case) -> Event {
        let by = case.by.as_ref().zip(self.bucket);
        Event {
            event_timestamp: self.event_timestamp,
            created_timestamp: self.created_timestamp,
            value: case.input.as_ref().and_then(|input| self.value(input)),
            bucket: by.map(|(by, bucket)| match by {
                ValueType::Float64 => Value::Float([-0.0, 0.0, f64::NAN, -f64::NAN][(bucket + 2) as usize]),
                ValueType::String => Value::Bytes(bucket.to_string().into_bytes().into()),
                _ => Value::Int(bucket),
            }),
        }
    }
}

/// An aggregate with the types it was made of.
#[derive(Debug, Clone)]
pub struct Case {
    pub aggregate: Aggregate,
    pub input: Option<ValueType>,
    pub by: Option<ValueType>,
    pub n: Option<u32>,
}

/// Every function over every input that it takes, by bucket and not, lists and single values.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let inputs = ValueType::scalar_names().map(|name| Some(name.parse().unwrap())).chain([None]);
    for input in inputs {
        for function in AggregateFunction::ALL {
            for by in [None, Some(ValueType::Int64), Some(ValueType::Float64), Some(ValueType::String)] {
                for n in [None, Some(1), Some(3)] {
                    let is_listed = function.lists_values() || n.is_none();
                    let p = Some(Percentiles::Several(vec![0.0, 0.5, 0.9, 1.0]));
                    let aggregate = Aggregate::new(function, n, p, input.clone(), by.clone());
                    if let (true, Ok(aggregate)) = (is_listed, aggregate) {
                        cases.push(Case { aggregate, input: input.clone(), by: by.clone(), n });
                    }
                }
            }
        }
    }
    cases
}

pub fn aggregate(function: AggregateFunction, input: &str) -> Aggregate {
    let p = Some(Percentiles::One(0.5));
    Aggregate::new(function, None, p, Some(input.parse().unwrap()), None).unwrap()
}

pub fn event(event_timestamp: i64, value: impl Into<Option<Value>>) -> Event {
    Event { event_timestamp, created_timestamp: None, value: value.into(), bucket: None }
}

pub fn partial_of<'a>(aggregate: &Aggregate, events: impl IntoIterator<Item = &'a Event>) -> Partial {
    let mut partial = aggregate.kind().empty();
    events.into_iter().for_each(|event| partial.update(event));
    partial
}

/// The aggregate of values, which come one after another.
pub fn answer(aggregate: &Aggregate, values: &[Option<Value>]) -> Answer {
    let events: Vec<Event> = (0..).zip(values).map(|(at, value)| event(at, value.clone())).collect();
    aggregate.finish(&partial_of(aggregate, &events))
}

pub fn floats_of(values: &[f64]) -> Vec<Option<Value>> {
    values.iter().map(|value| Some(Value::Float(*value))).collect()
}

pub fn ints_of(values: &[i64]) -> Vec<Option<Value>> {
    values.iter().map(|value| Some(Value::Int(*value))).collect()
}

pub fn encoded(partial: &Partial) -> Vec<u8> {
    let mut bytes = Vec::new();
    partial.encode(&mut bytes);
    bytes
}
