//! Any function over windows that slide: events enter and leave as the asked time goes on.

use std::collections::BTreeMap;

use super::WindowFeature;
use super::events::NEVER_CREATED;
use crate::definition::AggregateFunction;
use crate::tile::{Aggregate, Answer, Column, Event, Partial, SlidingDistinct, TileError, Value};

/// One feature's function.
pub(super) struct Function {
    pub function: AggregateFunction,
    pub n: Option<u32>,
    aggregate: Aggregate,
    /// By bucket: the aggregate of one.
    of_bucket: Option<Aggregate>,
}

impl Function {
    pub fn of(feature: &WindowFeature) -> Result<Self, TileError> {
        Ok(Function {
            function: feature.function,
            n: feature.n,
            aggregate: feature.aggregate()?,
            of_bucket: feature.by.as_ref().map(|_| feature.aggregate_of_bucket()).transpose()?,
        })
    }
}

/// The asked times and the events of one group, both ascending, in microseconds.
pub(super) struct GroupTimes<'a> {
    pub asked: &'a [i64],
    pub times: &'a [i64],
    /// Empty, or one an event.
    pub created: &'a [i64],
    /// Only events that had been written down by then count.
    pub as_known: bool,
}

/// Answers one window for each asked time; `edge_of` gives its lower edge, and `first` is where the group's events start
/// in the columns of inputs and buckets.
///
/// Each event enters once and leaves once: the whole costs O((events + asked) log events) and what the answers hold.
pub(super) fn slide(
    function: &Function,
    group_times: &GroupTimes<'_>,
    [input, by]: [Option<&Column>; 2],
    first: usize,
    edge_of: impl Fn(i64) -> Option<i64>,
    emit: &mut impl FnMut(Answer),
) {
    let events = group_times.times.len();
    let event = |at: usize| {
        let created = group_times.created.get(at).copied().filter(|created| *created != NEVER_CREATED);
        Event {
            event_timestamp: group_times.times[at],
            created_timestamp: created,
            value: input.and_then(|column| column.value(first + at)),
            bucket: by.and_then(|column| column.value(first + at)),
        }
    };
    // The first asked time that an event counts for is after its own, and not before it was known.
    let mut entering: Vec<(i64, u32)> = Vec::new();
    if group_times.as_known {
        let known = (0..events).filter(|at| group_times.created[*at] != NEVER_CREATED);
        entering
            .extend(known.map(|at| (group_times.times[at].saturating_add(1).max(group_times.created[at]), at as u32)));
        entering.sort_unstable();
    }
    let is_in_order = !group_times.as_known;
    let (mut next, mut oldest) = (0, 0);
    let mut is_inside = vec![false; if is_in_order { 0 } else { events }];
    let mut held = match &function.of_bucket {
        Some(_) => Held::ByBucket(BTreeMap::new()),
        None => Held::new(&function.aggregate),
    };
    for asked in group_times.asked {
        let edge = edge_of(*asked);
        if is_in_order {
            while next < events && group_times.times[next] < *asked {
                held.enter(function, &event(next));
                next += 1;
            }
        } else {
            while next < entering.len() && entering[next].0 <= *asked {
                let at = entering[next].1 as usize;
                next += 1;
                if at >= oldest && edge.is_none_or(|edge| group_times.times[at] >= edge) {
                    is_inside[at] = true;
                    held.enter(function, &event(at));
                }
            }
        }
        if let Some(edge) = edge {
            while oldest < events && group_times.times[oldest] < edge {
                if if is_in_order { oldest < next } else { is_inside[oldest] } {
                    held.leave(&event(oldest));
                }
                oldest += 1;
            }
        }
        emit(held.answer(function));
    }
}

/// What the events inside of the window add up to.
enum Held {
    /// What a tile holds, where events can be taken out of it again.
    Partial(Partial),
    /// The values in their order, by time or by themselves, with how often each is there.
    Ordered {
        values: BTreeMap<Rank, u64>,
        by_time: bool,
    },
    Distinct(Box<SlidingDistinct>),
    /// For each bucket its number of events, and what they add up to.
    ByBucket(BTreeMap<Value, (u64, Held)>),
}

/// What `first` and `last` order by; `min`, `max`, `top` and `bottom` leave the times out.
type Rank = (i64, Option<i64>, Value);

fn rank(event: &Event, by_time: bool) -> Option<Rank> {
    let value = event.value.clone()?;
    Some(if by_time { (event.event_timestamp, event.created_timestamp, value) } else { (0, None, value) })
}

impl Held {
    fn new(aggregate: &Aggregate) -> Self {
        if aggregate.function() == AggregateFunction::ApproxCountDistinct {
            return Held::Distinct(Box::default());
        }
        let kind = aggregate.kind();
        if kind.is_invertible() {
            return Held::Partial(kind.empty());
        }
        let by_time = matches!(aggregate.function(), AggregateFunction::First | AggregateFunction::Last);
        Held::Ordered { values: BTreeMap::new(), by_time }
    }

    fn enter(&mut self, function: &Function, event: &Event) {
        match self {
            Held::Partial(partial) => partial.update(event),
            Held::Ordered { values, by_time } => {
                if let Some(rank) = rank(event, *by_time) {
                    *values.entry(rank).or_default() += 1;
                }
            }
            Held::Distinct(distinct) => {
                if let Some(value) = &event.value {
                    distinct.add(value);
                }
            }
            Held::ByBucket(buckets) => {
                let Some(bucket) = &event.bucket else { return };
                let new = || (0, Held::new(function.of_bucket.as_ref().unwrap_or(&function.aggregate)));
                let (events, held) = buckets.entry(bucket.as_key().into_owned()).or_insert_with(new);
                *events += 1;
                held.enter(function, event);
            }
        }
    }

    fn leave(&mut self, event: &Event) {
        match self {
            Held::Partial(partial) => partial.invert(event),
            Held::Ordered { values, by_time } => {
                let Some(rank) = rank(event, *by_time) else { return };
                if let Some(count) = values.get_mut(&rank) {
                    *count -= 1;
                    if *count == 0 {
                        values.remove(&rank);
                    }
                }
            }
            Held::Distinct(distinct) => {
                if let Some(value) = &event.value {
                    distinct.remove(value);
                }
            }
            Held::ByBucket(buckets) => {
                let Some(bucket) = event.bucket.as_ref().map(|bucket| bucket.as_key()) else { return };
                if let Some((events, held)) = buckets.get_mut(bucket.as_ref()) {
                    *events -= 1;
                    held.leave(event);
                    if *events == 0 {
                        buckets.remove(bucket.as_ref());
                    }
                }
            }
        }
    }

    fn answer(&self, function: &Function) -> Answer {
        match self {
            Held::Partial(partial) => function.of_bucket.as_ref().unwrap_or(&function.aggregate).finish(partial),
            Held::Ordered { values, .. } => ordered_answer(function, values),
            Held::Distinct(distinct) => Answer::Int(distinct.estimate()),
            Held::ByBucket(buckets) if buckets.is_empty() => Answer::Null,
            Held::ByBucket(buckets) => {
                let answers = buckets.iter().map(|(bucket, (_, held))| (bucket.clone(), held.answer(function)));
                Answer::Map(answers.collect())
            }
        }
    }
}

/// The values at the end of the order that the function asks for.
fn ordered_answer(function: &Function, values: &BTreeMap<Rank, u64>) -> Answer {
    use AggregateFunction::{Bottom, First, Min};
    let repeated =
        |(rank, count): (&Rank, &u64)| std::iter::repeat_n(rank.2.clone(), usize::try_from(*count).unwrap_or(0));
    let n = function.n.map_or(1, |n| n as usize);
    let chosen: Vec<Value> = match function.function {
        First | Min | Bottom => values.iter().flat_map(repeated).take(n).collect(),
        _ => values.iter().rev().flat_map(repeated).take(n).collect(),
    };
    listed(function, chosen)
}

/// One value, or a list where `n` is given; none of them: null.
fn listed(function: &Function, values: Vec<Value>) -> Answer {
    let mut answers = values.iter().map(Answer::from);
    match (function.n, answers.len()) {
        (_, 0) => Answer::Null,
        (None, _) => answers.next().unwrap_or(Answer::Null),
        (Some(_), _) => Answer::List(answers.collect()),
    }
}
