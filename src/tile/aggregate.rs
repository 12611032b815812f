//! Aggregates of definitions: which partial each needs, and what it makes of it.

use super::TileError;
use super::answer::Answer;
use super::kind::PartialKind;
use super::partial::Partial;
use super::ranking::Best;
use super::value::{Scalar, Value};
use crate::definition::{AggregateFunction, Aggregation, Percentiles, ValueType};

/// One function over one input, for events in hand; windows are the business of who has the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    function: AggregateFunction,
    n: Option<u32>,
    percentiles: Option<Percentiles>,
    kind: PartialKind,
    value_type: ValueType,
}

impl Aggregate {
    /// # Arguments
    /// - `n`: of `first`, `last`, `top` and `bottom`, for a list; None: one value
    /// - `percentiles`: of `approx_percentile`
    /// - `input`, `by`: the types of the input and of the bucket
    ///
    /// # Errors
    /// [`TileError::Unsupported`] if the function does not take such an input or bucket, or `approx_percentile` is
    /// given no percentile.
    pub fn new(
        function: AggregateFunction,
        n: Option<u32>,
        percentiles: Option<Percentiles>,
        input: Option<ValueType>,
        by: Option<ValueType>,
    ) -> Result<Self, TileError> {
        let aggregation = Aggregation {
            name: None,
            input: None,
            function,
            windows: Vec::new(),
            n: n.filter(|_| function.lists_values()),
            p: percentiles.filter(|_| function == AggregateFunction::ApproxPercentile),
            by: None,
        };
        Aggregate::of(&aggregation, input.as_ref(), by.as_ref())
    }

    /// The aggregate that a definition describes, over an input and buckets of these types.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(aggregation: &Aggregation, input: Option<&ValueType>, by: Option<&ValueType>) -> Result<Self, TileError> {
        let Aggregation { function, n, p: percentiles, .. } = aggregation.clone();
        let unsupported = |reason: String| TileError::Unsupported { function, reason };
        let value_type = aggregation.value_type(input, by).map_err(unsupported)?;
        if function == AggregateFunction::ApproxPercentile && percentiles.is_none() {
            return Err(unsupported(format!("`{function}` needs a `p`")));
        }
        // `count` takes inputs of any type.
        let inner = inner_kind(function, n, input.map(Scalar::of));
        let inner = inner.ok_or_else(|| unsupported(format!("`{function}` does not take such an input")))?;
        let kind = match by.and_then(Scalar::of) {
            Some(by) => PartialKind::ByBucket { by, inner: Box::new(inner) },
            None => inner,
        };
        Ok(Aggregate { function, n, percentiles, kind, value_type })
    }

    pub fn function(&self) -> AggregateFunction {
        self.function
    }

    /// Of the partials that it [finishes](Self::finish).
    pub fn kind(&self) -> &PartialKind {
        &self.kind
    }

    /// Of its answers.
    pub fn value_type(&self) -> &ValueType {
        &self.value_type
    }

    /// The aggregate of the events that a partial of its [kind](Self::kind) stands for.
    ///
    /// Of no events it is null, and of the counting functions zero; by bucket it is null. Variance and standard
    /// deviation of no values, and skew and kurtosis of no values or of equal ones, are null.
    pub fn finish(&self, partial: &Partial) -> Answer {
        match partial {
            Partial::ByBucket(buckets) => {
                let entries = buckets.buckets.iter();
                let entries = entries.map(|(key, bucket)| (key.clone(), self.finish_one(&bucket.partial)));
                map_or_null(entries.collect())
            }
            one => self.finish_one(one),
        }
    }

    fn finish_one(&self, partial: &Partial) -> Answer {
        use AggregateFunction as F;
        match (self.function, partial) {
            (_, Partial::Rows(count) | Partial::Count(count)) => count_answer(*count),
            (F::Any, Partial::Bools { trues, falses }) => bool_or_null(trues | falses, *trues > 0),
            (F::All, Partial::Bools { trues, falses }) => bool_or_null(trues | falses, *falses == 0),
            (_, Partial::Bools { trues, falses }) => share(*trues, *falses),
            (_, Partial::IntegerSum { count: 0, .. } | Partial::FloatSum { count: 0, .. }) => Answer::Null,
            (F::Sum, Partial::IntegerSum { sum, .. }) => i64::try_from(*sum).map_or(Answer::OutOfRange, Answer::Int),
            (_, Partial::IntegerSum { count, sum }) => Answer::Float(super::divide_rounded(*sum, 0, *count)),
            (F::Sum, Partial::FloatSum { sum, .. }) => Answer::Float(sum.to_f64()),
            (_, Partial::FloatSum { count, sum }) => Answer::Float(sum.mean(*count)),
            (function, Partial::Moments { count, moments }) => {
                let moment = match function {
                    F::Skew => moments.skew(*count),
                    F::Kurtosis => moments.kurtosis(*count),
                    F::Stddev => moments.stddev(*count),
                    _ => moments.variance(*count),
                };
                moment.map_or(Answer::Null, Answer::Float)
            }
            (_, Partial::Extremes(_, values)) => self.list_or_first(values.items().iter()),
            (_, Partial::Ends(_, values)) => self.list_or_first(values.items().iter().map(|timed| &timed.value)),
            (F::Histogram, Partial::Values(_, counts)) => {
                map_or_null(counts.iter().map(|(value, count)| (value.clone(), count_answer(*count))).collect())
            }
            (_, Partial::Values(_, counts)) => count_answer(counts.len() as u64),
            (_, Partial::Registers(registers)) => Answer::Int(registers.estimate()),
            (_, Partial::Sketch(sketch)) => {
                let percentile = |p: f64| sketch.percentile(p).map_or(Answer::Null, Answer::Float);
                match &self.percentiles {
                    Some(Percentiles::One(p)) => percentile(*p),
                    Some(Percentiles::Several(several)) if !sketch.is_empty() => {
                        list_or_null(several.iter().map(|p| percentile(*p)).collect())
                    }
                    _ => Answer::Null,
                }
            }
            (_, Partial::ByBucket(_)) => Answer::Null,
        }
    }

    fn list_or_first<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Answer {
        let mut answers = values.map(Answer::from);
        match self.n {
            Some(_) => list_or_null(answers.collect()),
            None => answers.next().unwrap_or(Answer::Null),
        }
    }
}

/// The kind for one bucket; None: the function takes no such input.
///
/// # Arguments
/// `input`: None: there is none; `Some(None)`: it is a list or a map.
fn inner_kind(function: AggregateFunction, n: Option<u32>, input: Option<Option<Scalar>>) -> Option<PartialKind> {
    use AggregateFunction as F;
    let of = match (function, input) {
        (F::Count, None) => return Some(PartialKind::Rows),
        (F::Count, Some(_)) => return Some(PartialKind::Count),
        (_, of) => of??,
    };
    let n = n.unwrap_or(1);
    Some(match function {
        F::Count => PartialKind::Count,
        F::Mean if of == Scalar::Bool => PartialKind::Bools,
        F::Sum | F::Mean if of.is_float() => PartialKind::FloatSum,
        F::Sum | F::Mean => PartialKind::IntegerSum,
        F::Variance | F::Stddev => PartialKind::Moments { degree: 2 },
        F::Skew | F::Kurtosis => PartialKind::Moments { degree: 4 },
        F::Min | F::Bottom => PartialKind::Extremes { best: Best::Least, n, of },
        F::Max | F::Top => PartialKind::Extremes { best: Best::Greatest, n, of },
        F::First => PartialKind::Ends { best: Best::Least, n, of },
        F::Last => PartialKind::Ends { best: Best::Greatest, n, of },
        F::CountDistinct | F::Histogram => PartialKind::Values { of },
        F::ApproxCountDistinct => PartialKind::Registers,
        F::ApproxPercentile => PartialKind::Sketch,
        F::Any | F::All => PartialKind::Bools,
    })
}

fn count_answer(count: u64) -> Answer {
    Answer::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn bool_or_null(count: u64, answer: bool) -> Answer {
    if count == 0 { Answer::Null } else { Answer::Bool(answer) }
}

/// The share of `trues`, rounded once.
fn share(trues: u64, falses: u64) -> Answer {
    match trues.wrapping_add(falses) {
        0 => Answer::Null,
        count => Answer::Float(super::divide_rounded(i128::from(trues), 0, count)),
    }
}

fn list_or_null(list: Vec<Answer>) -> Answer {
    if list.is_empty() { Answer::Null } else { Answer::List(list) }
}

fn map_or_null(entries: Vec<(Value, Answer)>) -> Answer {
    if entries.is_empty() { Answer::Null } else { Answer::Map(entries) }
}
