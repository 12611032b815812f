//! Percentiles, approximately: counts of values by buckets of their size.
//!
//! A DDSketch whose buckets are read off the bits of a number, sign, exponent and the seven highest bits of the
//! fraction, and not off its logarithm: an octave has 128 buckets of one width each, every machine finds the same
//! ones, and an index takes one shift. The answer is the edge of a bucket that is nearer to zero. It is within
//! 1/128 = 0.8 % of the value it stands for, and exact for integers up to 256 and for those times powers of two.
//! Below `2^-1022` the error is at most `2^-1029`, but no longer relative.
//!
//! Zeros of either sign are one bucket, and each infinity is one. NaN is skipped.
//!
//! # Source
//! Masson, Rim and Lee, "DDSketch", 2019; the mapping: its section 2.2 and `LinearlyInterpolatedMapping` of
//! DataDog/sketches-java.

use super::codec::{Flaw, put_signed, put_varint, take_len, take_positive, take_signed};

/// The bits of a number that do not choose its bucket.
const DROPPED_BITS: u32 = 52 - 7;
/// The bucket of infinity; those of the numbers above zero begin at one, those below zero are their negatives.
const INFINITE: i32 = (0x7ff << 7) + 1;

/// Counts of values by bucket; what was added can be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sketch {
    /// Ascending; none is zero.
    counts: Vec<(i32, u64)>,
}

impl Sketch {
    pub fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        let index = bucket(value);
        match self.place(index) {
            Ok(place) => self.change(place, 1),
            Err(place) => self.counts.insert(place, (index, 1)),
        }
    }

    /// Takes away a value that was added.
    pub fn subtract(&mut self, value: f64) {
        if !value.is_nan()
            && let Ok(place) = self.place(bucket(value))
        {
            self.change(place, u64::MAX);
        }
    }

    fn place(&self, index: i32) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&index, |(index, _)| *index)
    }

    fn change(&mut self, place: usize, by: u64) {
        let count = &mut self.counts[place].1;
        *count = count.wrapping_add(by);
        if *count == 0 {
            self.counts.remove(place);
        }
    }

    pub fn merge(&mut self, other: &Sketch) {
        if other.counts.len() < self.counts.len() / 8 {
            for (index, count) in &other.counts {
                match self.place(*index) {
                    Ok(place) => self.change(place, *count),
                    Err(place) => self.counts.insert(place, (*index, *count)),
                }
            }
            return;
        }
        let mut merged = Vec::with_capacity(self.counts.len() + other.counts.len());
        let (mut left, mut right) = (self.counts.as_slice(), other.counts.as_slice());
        while let ([(a, m), rest_left @ ..], [(b, n), rest_right @ ..]) = (left, right) {
            let sum = if a < b {
                *m
            } else if b < a {
                *n
            } else {
                m.wrapping_add(*n)
            };
            if sum > 0 {
                merged.push((*a.min(b), sum));
            }
            if a <= b {
                left = rest_left;
            }
            if b <= a {
                right = rest_right;
            }
        }
        merged.extend_from_slice(left);
        merged.extend_from_slice(right);
        self.counts = merged;
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The value of rank `floor(p * (n - 1))` from the least, counted from zero, of `n` values, as its bucket gives
    /// it; None: there are none.
    ///
    /// # Arguments
    /// `p`: 0 is the least value, 1 the greatest; what is outside counts as the nearer of them.
    pub fn percentile(&self, p: f64) -> Option<f64> {
        let total: u128 = self.counts.iter().map(|(_, count)| u128::from(*count)).sum();
        let last = total.checked_sub(1)?;
        let rank = ((p * last as f64) as u128).min(last);
        let mut seen = 0;
        let holds_rank = |(_, count): &&(i32, u64)| {
            seen += u128::from(*count);
            rank < seen
        };
        self.counts.iter().find(holds_rank).map(|(index, _)| edge(*index))
    }

    /// Writes the number of buckets, then the gap to each from the one before, and its count.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        put_varint(bytes, self.counts.len() as u128);
        let mut before = 0;
        for (index, count) in &self.counts {
            put_signed(bytes, i128::from(index - before));
            put_varint(bytes, *count);
            before = *index;
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Self, Flaw> {
        let len = take_len(bytes)?;
        // A bucket takes two bytes at least.
        let mut counts: Vec<(i32, u64)> = Vec::with_capacity(len.min(bytes.len() / 2));
        for _ in 0..len {
            let gap: i32 = take_signed(bytes)?;
            let before = counts.last().map(|(index, _)| *index);
            let index = before.unwrap_or_default().checked_add(gap).ok_or(Flaw::Malformed)?;
            if before.is_some_and(|before| index <= before) || !(-INFINITE..=INFINITE).contains(&index) {
                return Err(Flaw::Malformed);
            }
            counts.push((index, take_positive(bytes)?));
        }
        Ok(Sketch { counts })
    }
}

/// The bucket of a number; buckets ascend with the numbers in them.
#[inline]
fn bucket(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let index = (value.abs().to_bits() >> DROPPED_BITS) as i32 + 1;
    if value < 0.0 { -index } else { index }
}

/// The number of a bucket that is nearest to zero.
fn edge(index: i32) -> f64 {
    if index == 0 {
        return 0.0;
    }
    let magnitude = f64::from_bits(u64::from(index.unsigned_abs() - 1) << DROPPED_BITS);
    if index < 0 { -magnitude } else { magnitude }
}
