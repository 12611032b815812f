//! Sums of powers of values without rounding, and the moments that follow from them.

use num_bigint::{BigInt, BigUint, Sign};

use super::codec::Flaw;
use super::exact_sum::Specials;
use super::limbs::Limbs;
use super::rounding::{decompose, divide_rounded, quotient, round_far, scale_in_two_steps, with_sign};
use super::value::canonical_float;

/// The exact sums of the first powers of values: all that variance, skew and kurtosis are made of.
///
/// The central moments of the population, times a power of `n`, are integers in the unit of the values:
///
/// ```text
/// n^2 m2 = n S2 - S1^2
/// n^3 m3 = n^2 S3 - 3 n S1 S2 + 2 S1^3
/// n^4 m4 = n^3 S4 - 4 n^2 S1 S3 + 6 n S1^2 S2 - 3 S1^4
/// ```
///
/// They are computed as such, so nothing cancels, and rounded once. With a value that is not finite they are NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Of the powers from the first on.
    sums: Vec<Limbs>,
    specials: Specials,
}

impl Moments {
    /// # Arguments
    /// `degree`: the greatest power, 2 for the variance, 4 for all.
    pub fn new(degree: usize) -> Self {
        Moments { sums: vec![Limbs::default(); degree], specials: Specials::default() }
    }

    pub fn add(&mut self, value: f64) {
        self.accumulate(value, false);
    }

    /// Takes away a value that was added.
    pub fn subtract(&mut self, value: f64) {
        self.accumulate(value, true);
    }

    pub fn add_int(&mut self, value: i64) {
        self.accumulate_powers(value < 0, value.unsigned_abs(), 0, false);
    }

    /// Takes away a value that was added.
    pub fn subtract_int(&mut self, value: i64) {
        self.accumulate_powers(value < 0, value.unsigned_abs(), 0, true);
    }

    fn accumulate(&mut self, value: f64, subtract: bool) {
        match decompose(value) {
            // Few bits make few limbs.
            Some((negative, mantissa, exponent)) => {
                let zeros = mantissa.trailing_zeros() & 63;
                self.accumulate_powers(negative, mantissa >> zeros, exponent + zeros as i32, subtract);
            }
            None => self.specials.count(value, if subtract { u64::MAX } else { 1 }),
        }
    }

    fn accumulate_powers(&mut self, negative: bool, mantissa: u64, exponent: i32, subtract: bool) {
        if mantissa == 0 {
            return;
        }
        let mut power = [1, 0, 0, 0];
        for (degree, sum) in (1..).zip(&mut self.sums) {
            power = times(power, mantissa);
            let negative = negative && degree % 2 == 1;
            sum.add_words(negative != subtract, &power, degree * exponent);
        }
    }

    pub fn merge(&mut self, other: &Moments) {
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            sum.combine(other, false);
        }
        self.specials.merge(&other.specials);
    }

    /// The variance of the population of `n` values, rounded once; None: there are none.
    pub fn variance(&self, n: u64) -> Option<f64> {
        if n == 0 {
            return None;
        }
        if !self.specials.is_empty() {
            return Some(canonical_float(f64::NAN));
        }
        let unit = self.unit();
        if let [first, second, ..] = self.sums.as_slice()
            && let (Some(first), Some(second)) = (first.small_integer(unit), second.small_integer(2 * unit))
            && let Some(variance) = small_variance(n, first, second, 2 * unit)
        {
            return Some(variance);
        }
        let second = self.central(n).second();
        let (magnitude, exponent) = quotient(second.magnitude(), &BigUint::from(n).pow(2));
        Some(round_far(second.sign() == Sign::Minus, magnitude, exponent + 2 * i64::from(unit)))
    }

    /// The root of the variance; None: there are no values.
    ///
    /// The variance is rounded once, then its root. It is in the range of `f64` also where the variance is not.
    pub fn stddev(&self, n: u64) -> Option<f64> {
        let variance = self.variance(n)?;
        if variance.is_normal() || variance.is_nan() {
            return Some(canonical_float(variance.sqrt()));
        }
        let (mut magnitude, mut exponent) = quotient(self.central(n).second().magnitude(), &BigUint::from(n).pow(2));
        exponent += 2 * i64::from(self.unit());
        // An even exponent leaves the root; the magnitude has bits to spare.
        if exponent % 2 != 0 {
            (magnitude, exponent) = (magnitude << 1, exponent - 1);
        }
        Some(scale_in_two_steps((magnitude as f64).sqrt(), (exponent / 2) as i32))
    }

    /// The skew of the population, `m3 / m2^1.5`; None: there are no values, or all are the same.
    ///
    /// The two moments are rounded once each; then come a square root, a product and a division, each rounded.
    /// No step leaves the range of `f64`, however large or small the values are.
    pub fn skew(&self, n: u64) -> Option<f64> {
        if !self.specials.is_empty() {
            return (n > 0).then(|| canonical_float(f64::NAN));
        }
        let central = self.central(n);
        let (second, third) = (central.second(), central.third());
        let n = BigUint::from(n);
        let (m2, mut m2_exponent) = quotient(second.magnitude(), &n.pow(2));
        let (m3, m3_exponent) = quotient(third.magnitude(), &n.pow(3));
        if m2 == 0 {
            return None;
        }
        let (mut m2, m3) = (m2 as f64, m3 as f64);
        // An even exponent leaves the root.
        if m2_exponent % 2 != 0 {
            (m2, m2_exponent) = (m2 * 2.0, m2_exponent - 1);
        }
        // Below it everything is zero; that much above it nothing is, since no skew exceeds the root of `n`.
        let exponent = (m3_exponent - m2_exponent / 2 * 3).clamp(-2044, 1023) as i32;
        let skew = scale_in_two_steps(m3 / (m2 * m2.sqrt()), exponent);
        Some(with_sign(third.sign() == Sign::Minus, skew))
    }

    /// The excess kurtosis of the population, `m4 / m2^2 - 3`, rounded once; None: there are no values, or all are
    /// the same.
    pub fn kurtosis(&self, n: u64) -> Option<f64> {
        if !self.specials.is_empty() {
            return (n > 0).then(|| canonical_float(f64::NAN));
        }
        let central = self.central(n);
        let square = central.second().pow(2);
        if square.sign() == Sign::NoSign {
            return None;
        }
        let excess: BigInt = central.fourth() - 3 * &square;
        let (magnitude, exponent) = quotient(excess.magnitude(), square.magnitude());
        Some(round_far(excess.sign() == Sign::Minus, magnitude, exponent))
    }

    /// An exponent such that the sum of the `k`-th powers is an integer times `2^(k * unit)`.
    fn unit(&self) -> i32 {
        let exponents = (1..).zip(&self.sums).filter_map(|(degree, sum)| Some(sum.exponent()?.div_euclid(degree)));
        exponents.min().unwrap_or_default()
    }

    fn central(&self, n: u64) -> Central {
        let unit = self.unit();
        let sums = (1..).zip(&self.sums).map(|(degree, sum)| sum.integer(degree * unit));
        Central { n: n.into(), sums: sums.collect() }
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        self.specials.encode(bytes);
        self.sums.iter().for_each(|sum| sum.encode(bytes));
    }

    pub(super) fn decode(bytes: &mut &[u8], degree: usize) -> Result<Self, Flaw> {
        let specials = Specials::decode(bytes)?;
        let sums = (1..).take(degree).map(|degree| Limbs::decode(bytes, degree)).collect::<Result<_, _>>()?;
        Ok(Moments { sums, specials })
    }
}

/// The variance of `n` values with the sums `first * 2^exponent` and `second * 2^(2 * exponent)` of their first and
/// second powers: what [`Moments`] gives, rounded once; None: there are no values.
pub fn variance_of_sums(n: u64, first: i128, second: i128, exponent: i32) -> Option<f64> {
    if n == 0 {
        return None;
    }
    small_variance(n, first, second, 2 * exponent).or_else(|| {
        let numerator = BigInt::from(n) * second - BigInt::from(first).pow(2);
        let (magnitude, far) = quotient(numerator.magnitude(), &BigUint::from(n).pow(2));
        Some(round_far(numerator.sign() == Sign::Minus, magnitude, far + 2 * i64::from(exponent)))
    })
}

/// The variance in the unit `2^exponent`; None: an intermediate result would not fit.
#[inline]
fn small_variance(n: u64, first: i128, second: i128, exponent: i32) -> Option<f64> {
    let numerator = i128::from(n).checked_mul(second)?.checked_sub(first.checked_mul(first)?)?;
    Some(divide_rounded(numerator, exponent, n.checked_mul(n)?))
}

/// `power * factor`, modulo `2^256`.
fn times(power: [u64; 4], factor: u64) -> [u64; 4] {
    let mut carry = 0;
    power.map(|word| {
        let product = u128::from(word) * u128::from(factor) + carry;
        carry = product >> 64;
        product as u64
    })
}

/// Sums of powers as integers.
struct Central {
    n: BigInt,
    sums: Vec<BigInt>,
}

impl Central {
    fn sum(&self, degree: usize) -> BigInt {
        self.sums.get(degree - 1).cloned().unwrap_or_default()
    }

    /// `n^2 m2`.
    fn second(&self) -> BigInt {
        &self.n * self.sum(2) - self.sum(1).pow(2)
    }

    /// `n^3 m3`.
    fn third(&self) -> BigInt {
        let (n, first) = (&self.n, self.sum(1));
        n * n * self.sum(3) - 3 * n * &first * self.sum(2) + 2 * first.pow(3)
    }

    /// `n^4 m4`.
    fn fourth(&self) -> BigInt {
        let (n, first) = (&self.n, self.sum(1));
        n.pow(3) * self.sum(4) - 4 * n.pow(2) * &first * self.sum(3) + 6 * n * first.pow(2) * self.sum(2)
            - 3 * first.pow(4)
    }
}
