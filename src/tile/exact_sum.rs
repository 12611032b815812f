//! Sums of floats without rounding.

use super::codec::{Flaw, put_varint, take_byte, take_varint};
use super::limbs::Limbs;
use super::rounding::decompose;
use super::value::canonical_float;

/// The exact sum of floats: added in any order and grouping, and taken away again, it is the same.
///
/// It is rounded when it is asked for, and once. NaN and infinities are counted beside it, so that they too can be
/// taken away: the sum is NaN with a NaN among the values or infinities of both signs.
///
/// # Source
/// Superaccumulators: Kulisch, "Computer Arithmetic and Validity", 2013; the radix of 2^32 in wider limbs: Neal,
/// "Fast exact summation using small and large superaccumulators", 2015.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExactSum {
    limbs: Limbs,
    specials: Specials,
}

/// How many of the values are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Specials {
    nan: u64,
    infinite: u64,
    negative_infinite: u64,
}

impl ExactSum {
    #[inline]
    pub fn add(&mut self, value: f64) {
        match decompose(value) {
            Some((negative, mantissa, exponent)) => self.limbs.add(negative, mantissa, exponent),
            None => self.specials.count(value, 1),
        }
    }

    /// Takes away a value that was added.
    #[inline]
    pub fn subtract(&mut self, value: f64) {
        match decompose(value) {
            Some((negative, mantissa, exponent)) => self.limbs.add(!negative, mantissa, exponent),
            None => self.specials.count(value, u64::MAX),
        }
    }

    pub fn merge(&mut self, other: &ExactSum) {
        self.limbs.combine(&other.limbs, false);
        self.specials.merge(&other.specials);
    }

    /// Takes away a sum whose values were all added.
    pub fn subtract_sum(&mut self, other: &ExactSum) {
        self.limbs.combine(&other.limbs, true);
        self.specials.subtract(&other.specials);
    }

    /// The sum, rounded once; of nothing and of what adds up to nothing `+0.0`.
    pub fn to_f64(&self) -> f64 {
        self.specials.sum().unwrap_or_else(|| self.limbs.to_f64())
    }

    /// The sum divided by the number of values, rounded once; NaN if `n` is zero.
    pub fn mean(&self, n: u64) -> f64 {
        canonical_float(self.specials.sum().unwrap_or_else(|| self.limbs.divide(n)))
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        self.specials.encode(bytes);
        self.limbs.encode(bytes);
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Self, Flaw> {
        Ok(ExactSum { specials: Specials::decode(bytes)?, limbs: Limbs::decode(bytes, 1)? })
    }
}

impl Specials {
    /// Adds `by` to the count of a value that is not finite; `u64::MAX` takes one away.
    #[cold]
    pub fn count(&mut self, value: f64, by: u64) {
        let count = match value {
            f64::INFINITY => &mut self.infinite,
            f64::NEG_INFINITY => &mut self.negative_infinite,
            _ => &mut self.nan,
        };
        *count = count.wrapping_add(by);
    }

    pub fn merge(&mut self, other: &Specials) {
        self.nan = self.nan.wrapping_add(other.nan);
        self.infinite = self.infinite.wrapping_add(other.infinite);
        self.negative_infinite = self.negative_infinite.wrapping_add(other.negative_infinite);
    }

    fn subtract(&mut self, other: &Specials) {
        self.nan = self.nan.wrapping_sub(other.nan);
        self.infinite = self.infinite.wrapping_sub(other.infinite);
        self.negative_infinite = self.negative_infinite.wrapping_sub(other.negative_infinite);
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nan | self.infinite | self.negative_infinite == 0
    }

    /// The sum, if it is not finite.
    fn sum(&self) -> Option<f64> {
        match (self.nan, self.infinite, self.negative_infinite) {
            (0, 0, 0) => None,
            (0, _, 0) => Some(f64::INFINITY),
            (0, 0, _) => Some(f64::NEG_INFINITY),
            _ => Some(canonical_float(f64::NAN)),
        }
    }

    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(!self.is_empty()));
        if !self.is_empty() {
            [self.nan, self.infinite, self.negative_infinite].iter().for_each(|count| put_varint(bytes, *count));
        }
    }

    pub fn decode(bytes: &mut &[u8]) -> Result<Self, Flaw> {
        match take_byte(bytes)? {
            0 => return Ok(Specials::default()),
            1 => {}
            _ => return Err(Flaw::Malformed),
        }
        let (nan, infinite, negative_infinite) = (take_varint(bytes)?, take_varint(bytes)?, take_varint(bytes)?);
        let specials = Specials { nan, infinite, negative_infinite };
        if specials.is_empty() { Err(Flaw::Malformed) } else { Ok(specials) }
    }
}
