//! The join as SPEC section 4 tells it, by nested loops over plain structs: shares nothing with what it judges.

use std::cmp::Ordering;

/// A join key part or a feature value.
#[derive(Debug, Clone)]
pub enum Value {
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Option<Value>>),
}

pub type Nullable = Option<Value>;

#[derive(Debug, Clone)]
pub struct SpineRow {
    pub keys: Vec<Nullable>,
    pub time: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct FeatureRow {
    pub keys: Vec<Nullable>,
    pub event: Option<i64>,
    pub created: Option<i64>,
    pub values: Vec<Nullable>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    pub ttl_micros: Option<u64>,
    pub as_known: bool,
    pub has_created: bool,
}

/// What a spine row is answered.
#[derive(Debug, Clone)]
pub enum Answer<'a> {
    NotFound,
    OutsideMaxAge { event: i64 },
    Found(&'a FeatureRow),
}

pub fn answer<'a>(asked: &SpineRow, features: &'a [FeatureRow], rules: Rules) -> Answer<'a> {
    let Some(time) = asked.time else { return Answer::NotFound };
    let mut best: Option<&FeatureRow> = None;
    for row in features {
        let same_key = asked.keys.iter().zip(&row.keys).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => value_order(a, b) == Ordering::Equal,
            _ => false,
        });
        let has_happened = row.event.is_none_or(|event| event <= time);
        let was_known = !rules.as_known || !rules.has_created || row.created.is_some_and(|created| created <= time);
        if same_key && has_happened && was_known && best.is_none_or(|best| row_order(row, best, rules).is_gt()) {
            best = Some(row);
        }
    }
    match best {
        None => Answer::NotFound,
        Some(row) => match (row.event, rules.ttl_micros) {
            (Some(event), Some(ttl)) if i128::from(event) < i128::from(time) - i128::from(ttl) => {
                Answer::OutsideMaxAge { event }
            }
            _ => Answer::Found(row),
        },
    }
}

fn row_order(a: &FeatureRow, b: &FeatureRow, rules: Rules) -> Ordering {
    let by_event = a.event.cmp(&b.event);
    let by_created = if rules.has_created { a.created.cmp(&b.created) } else { Ordering::Equal };
    by_event.then(by_created).then_with(|| values_order(&a.values, &b.values))
}

/// Like a dictionary's order: item by item, then the shorter first.
pub fn values_order(a: &[Nullable], b: &[Nullable]) -> Ordering {
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => value_order(a, b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn value_order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::List(a), Value::List(b)) => values_order(a, b),
        (a, b) => panic!("{a:?} and {b:?} are not of one type"),
    }
}
