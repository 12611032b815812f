//! Answers by definition, from a list of events: sort, filter, count.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fixture::{Case, Row, cases, floats, partial_of, rows};
use crate::definition::AggregateFunction as F;
use crate::tile::{Answer, Event, Value};

/// None: not for this function.
fn expected(case: &Case, events: &[&Event]) -> Option<Answer> {
    let mut valued: Vec<&Event> = events.iter().copied().filter(|event| event.value.is_some()).collect();
    valued.sort_by_key(|event| (event.event_timestamp, event.created_timestamp, event.value.clone()));
    let in_time = valued.iter().filter_map(|event| event.value.as_ref()).map(Value::canonical);
    let mut sorted: Vec<Value> = in_time.clone().collect();
    sorted.sort();
    let distinct: BTreeSet<Value> = sorted.iter().map(|value| value.as_key().into_owned()).collect();
    let is_true = |value: &Value| *value == Value::Bool(true);
    let count = |count: usize| Answer::Int(count as i64);
    Some(match case.aggregate.function() {
        F::Count if case.input.is_none() => count(events.len()),
        F::Count => count(sorted.len()),
        F::CountDistinct => count(distinct.len()),
        F::Min | F::Bottom => first(case, sorted.into_iter()),
        F::Max | F::Top => first(case, sorted.into_iter().rev()),
        F::First => first(case, in_time),
        F::Last => first(case, in_time.rev()),
        _ if sorted.is_empty() => return None,
        F::Any => Answer::Bool(sorted.iter().any(is_true)),
        F::All => Answer::Bool(sorted.iter().all(is_true)),
        F::Histogram => {
            let number = |value: &Value| sorted.iter().filter(|other| *other.as_key() == *value).count();
            Answer::Map(distinct.iter().map(|value| (value.clone(), count(number(value)))).collect())
        }
        _ => return None,
    })
}

fn first(case: &Case, values: impl Iterator<Item = Value>) -> Answer {
    let listed: Vec<Answer> = values.take(case.n.unwrap_or(1) as usize).map(|value| Answer::from(&value)).collect();
    match (case.n, listed.first()) {
        (_, None) => Answer::Null,
        (None, Some(one)) => one.clone(),
        (Some(_), _) => Answer::List(listed),
    }
}

fn check(case: &Case, rows: &[Row]) -> Result<(), TestCaseError> {
    let events: Vec<Event> = rows.iter().map(|row| row.event(case)).collect();
    let found = case.aggregate.finish(&partial_of(&case.aggregate, &events));
    if case.by.is_none() {
        if let Some(expected) = expected(case, &events.iter().collect::<Vec<_>>()) {
            prop_assert_eq!(found, expected, "{:?}", case);
        }
        return Ok(());
    }
    let mut buckets: BTreeMap<Value, Vec<&Event>> = BTreeMap::new();
    for event in &events {
        if let Some(bucket) = &event.bucket {
            buckets.entry(bucket.as_key().into_owned()).or_default().push(event);
        }
    }
    let answers: Option<Vec<(Value, Answer)>> =
        buckets.into_iter().map(|(bucket, events)| Some((bucket, expected(case, &events)?))).collect();
    match answers {
        Some(answers) if answers.is_empty() => prop_assert_eq!(found, Answer::Null, "{:?}", case),
        Some(answers) => prop_assert_eq!(found, Answer::Map(answers), "{:?}", case),
        None => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn answers_are_those_of_the_definition(rows in rows(floats(), 12)) {
        for case in cases() {
            check(&case, &rows)?;
        }
    }
}
