//! Kinds of partials, and their bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TileError;
use super::codec::{
    Flaw, put_signed, put_value, put_varint, take_key, take_len, take_positive, take_signed, take_value, take_varint,
};
use super::exact_sum::ExactSum;
use super::hyperloglog::HyperLogLog;
use super::moments::Moments;
use super::partial::{Bucket, Buckets, Partial, TimedValue};
use super::ranking::{Best, Ranking};
use super::sketch::Sketch;
use super::value::Scalar;

/// What a partial keeps of its events.
///
/// Aggregates of one input and bucket whose kinds are the same share one partial.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PartialKind {
    /// How many events there are.
    Rows,
    /// How many inputs are not null.
    Count,
    /// How many inputs are true and how many false: `any`, `all` and the mean of conditions.
    Bools,
    /// Number and sum of integers.
    IntegerSum,
    /// Number and exact sum of floats.
    FloatSum,
    /// Number and exact sums of powers, up to the second or the fourth.
    Moments { degree: u8 },
    /// The least or greatest values: `min`, `max`, `bottom`, `top`.
    Extremes { best: Best, n: u32, of: Scalar },
    /// The values of the oldest (least) or newest (greatest) events: `first`, `last`.
    Ends { best: Best, n: u32, of: Scalar },
    /// Every value with its number: `count_distinct`, `histogram`.
    Values { of: Scalar },
    /// The registers of `approx_count_distinct`.
    Registers,
    /// The buckets of `approx_percentile`.
    Sketch,
    /// A partial of each bucket's events.
    ByBucket { by: Scalar, inner: Box<PartialKind> },
}

impl PartialKind {
    /// The partial of no events.
    pub fn empty(&self) -> Partial {
        match self {
            PartialKind::Rows => Partial::Rows(0),
            PartialKind::Count => Partial::Count(0),
            PartialKind::Bools => Partial::Bools { trues: 0, falses: 0 },
            PartialKind::IntegerSum => Partial::IntegerSum { count: 0, sum: 0 },
            PartialKind::FloatSum => Partial::FloatSum { count: 0, sum: ExactSum::default() },
            PartialKind::Moments { degree } => {
                Partial::Moments { count: 0, moments: Moments::new(usize::from(*degree)) }
            }
            PartialKind::Extremes { best, n, of } => Partial::Extremes(*of, Ranking::new(*best, *n)),
            PartialKind::Ends { best, n, of } => Partial::Ends(*of, Ranking::new(*best, *n)),
            PartialKind::Values { of } => Partial::Values(*of, BTreeMap::new()),
            PartialKind::Registers => Partial::Registers(HyperLogLog::default()),
            PartialKind::Sketch => Partial::Sketch(Sketch::default()),
            PartialKind::ByBucket { by, inner } => {
                Partial::ByBucket(Box::new(Buckets { by: *by, inner: (**inner).clone(), buckets: BTreeMap::new() }))
            }
        }
    }

    /// Whether [`Partial::invert`] takes events away.
    pub fn is_invertible(&self) -> bool {
        match self {
            PartialKind::Extremes { .. } | PartialKind::Ends { .. } | PartialKind::Registers => false,
            PartialKind::ByBucket { inner, .. } => inner.is_invertible(),
            _ => true,
        }
    }

    /// Reads a partial of this kind off the front of `bytes`, as [`Partial::encode`] writes it.
    ///
    /// # Errors
    /// [`TileError::Corrupt`] unless the bytes are exactly what is written for some partial.
    pub fn decode(&self, bytes: &mut &[u8]) -> Result<Partial, TileError> {
        self.take(bytes).map_err(|source| TileError::Corrupt { kind: self.clone(), source })
    }

    fn take(&self, bytes: &mut &[u8]) -> Result<Partial, Flaw> {
        Ok(match self {
            PartialKind::Rows => Partial::Rows(take_varint(bytes)?),
            PartialKind::Count => Partial::Count(take_varint(bytes)?),
            PartialKind::Bools => Partial::Bools { trues: take_varint(bytes)?, falses: take_varint(bytes)? },
            PartialKind::IntegerSum => Partial::IntegerSum { count: take_varint(bytes)?, sum: take_signed(bytes)? },
            PartialKind::FloatSum => Partial::FloatSum { count: take_varint(bytes)?, sum: ExactSum::decode(bytes)? },
            PartialKind::Moments { degree } => {
                let count = take_varint(bytes)?;
                Partial::Moments { count, moments: Moments::decode(bytes, usize::from(*degree))? }
            }
            PartialKind::Extremes { best, n, of } => {
                Partial::Extremes(*of, take_ranking(bytes, *best, *n, |bytes| take_value(bytes, *of))?)
            }
            PartialKind::Ends { best, n, of } => {
                Partial::Ends(*of, take_ranking(bytes, *best, *n, |bytes| take_timed(bytes, *of))?)
            }
            PartialKind::Values { of } => Partial::Values(*of, take_map(bytes, *of, take_positive)?),
            PartialKind::Registers => Partial::Registers(HyperLogLog::decode(bytes)?),
            PartialKind::Sketch => Partial::Sketch(Sketch::decode(bytes)?),
            PartialKind::ByBucket { by, inner } => {
                let take_bucket =
                    |bytes: &mut &[u8]| Ok(Bucket { events: take_positive(bytes)?, partial: inner.take(bytes)? });
                let buckets = take_map(bytes, *by, take_bucket)?;
                Partial::ByBucket(Box::new(Buckets { by: *by, inner: (**inner).clone(), buckets }))
            }
        })
    }
}

impl Partial {
    /// Appends the partial's bytes; equal partials have equal ones.
    ///
    /// They do not say of which kind the partial is, nor where they end: [`PartialKind::decode`] is told the one and
    /// finds out the other.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Partial::Rows(count) | Partial::Count(count) => put_varint(bytes, *count),
            Partial::Bools { trues, falses } => {
                put_varint(bytes, *trues);
                put_varint(bytes, *falses);
            }
            Partial::IntegerSum { count, sum } => {
                put_varint(bytes, *count);
                put_signed(bytes, *sum);
            }
            Partial::FloatSum { count, sum } => {
                put_varint(bytes, *count);
                sum.encode(bytes);
            }
            Partial::Moments { count, moments } => {
                put_varint(bytes, *count);
                moments.encode(bytes);
            }
            Partial::Extremes(of, values) => {
                put_varint(bytes, values.items().len() as u128);
                values.items().iter().for_each(|value| put_value(bytes, *of, value));
            }
            Partial::Ends(of, values) => {
                put_varint(bytes, values.items().len() as u128);
                values.items().iter().for_each(|value| put_timed(bytes, *of, value));
            }
            Partial::Values(of, counts) => {
                put_varint(bytes, counts.len() as u128);
                for (value, count) in counts {
                    put_value(bytes, *of, value);
                    put_varint(bytes, *count);
                }
            }
            Partial::Registers(registers) => registers.encode(bytes),
            Partial::Sketch(sketch) => sketch.encode(bytes),
            Partial::ByBucket(buckets) => {
                put_varint(bytes, buckets.buckets.len() as u128);
                for (key, bucket) in &buckets.buckets {
                    put_value(bytes, buckets.by, key);
                    put_varint(bytes, bucket.events);
                    bucket.partial.encode(bytes);
                }
            }
        }
    }
}

fn take_ranking<T: Ord + Clone>(
    bytes: &mut &[u8],
    best: Best,
    n: u32,
    mut take_item: impl FnMut(&mut &[u8]) -> Result<T, Flaw>,
) -> Result<Ranking<T>, Flaw> {
    let mut ranking = Ranking::new(best, n);
    for _ in 0..take_len(bytes)? {
        if !ranking.push(take_item(bytes)?) {
            return Err(Flaw::Malformed);
        }
    }
    Ok(ranking)
}

fn take_map<T>(
    bytes: &mut &[u8],
    of: Scalar,
    mut take_item: impl FnMut(&mut &[u8]) -> Result<T, Flaw>,
) -> Result<BTreeMap<super::Value, T>, Flaw> {
    let mut entries: Vec<(super::Value, T)> = Vec::new();
    for _ in 0..take_len(bytes)? {
        let key = take_key(bytes, of)?;
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(Flaw::Malformed);
        }
        entries.push((key, take_item(bytes)?));
    }
    // From what is sorted the map is built without a search.
    Ok(entries.into_iter().collect())
}

/// Writes the event timestamp; zero for no created timestamp, else one more than the folded time from the event to it;
/// the value.
fn put_timed(bytes: &mut Vec<u8>, of: Scalar, timed: &TimedValue) {
    put_signed(bytes, i128::from(timed.event_timestamp));
    let delay = timed.created_timestamp.map(|created| i128::from(created) - i128::from(timed.event_timestamp));
    put_varint(bytes, delay.map_or(0, |delay| (delay << 1 ^ delay >> 127) as u128 + 1));
    put_value(bytes, of, &timed.value);
}

fn take_timed(bytes: &mut &[u8], of: Scalar) -> Result<TimedValue, Flaw> {
    let event_timestamp: i64 = take_signed(bytes)?;
    let folded: u128 = take_varint(bytes)?;
    let created_timestamp = match folded.checked_sub(1) {
        None => None,
        Some(folded) => {
            let delay = (folded >> 1) as i128 ^ -((folded & 1) as i128);
            let created = delay.checked_add(i128::from(event_timestamp)).ok_or(Flaw::Malformed)?;
            Some(i64::try_from(created).map_err(|_| Flaw::Malformed)?)
        }
    };
    Ok(TimedValue { event_timestamp, created_timestamp, value: take_value(bytes, of)? })
}
