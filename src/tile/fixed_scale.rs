//! Floats as integers of one scale, so that their exact sums are plain sums of `i128`.

use arrow::buffer::NullBuffer;

use super::rounding::{decompose, power_of_two};

/// A power of two that divides each of some floats, such that their quotients and all sums of them fit an `i128`.
///
/// Differences of prefix sums of [`mantissa`](Self::mantissa), rounded by [`round_scaled`](super::round_scaled) or
/// [`divide_rounded`](super::divide_rounded), are then what [`ExactSum`](super::ExactSum) gives, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedScale {
    exponent: i32,
    mantissa_bits: u32,
    /// `2^-exponent`, where quotients by the power are in the range of `i64` and no product underflows.
    factor: Option<f64>,
}

/// The absolute sum of all quotients takes no more bits.
const SUM_BITS_MAX: u32 = 120;
/// Quotients of so many bits fit an `i64`.
const NARROW_BITS_MAX: u32 = 63;

impl FixedScale {
    /// The scale of the values that are not null; None: there is none, or one of them is not finite.
    pub fn find(values: &[f64], nulls: Option<&NullBuffer>) -> Option<Self> {
        let (mut low, mut high, mut is_finite) = (i32::MAX, i32::MIN, true);
        let mut cover = |value: f64| match decompose(value) {
            None => is_finite = false,
            Some((_, 0, _)) => {}
            Some((_, mantissa, exponent)) => {
                low = low.min(exponent + mantissa.trailing_zeros() as i32);
                high = high.max(exponent + 64 - mantissa.leading_zeros() as i32);
            }
        };
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            None => values.iter().for_each(|value| cover(*value)),
            Some(nulls) => nulls.valid_indices().filter_map(|row| values.get(row)).for_each(|value| cover(*value)),
        }
        if !is_finite {
            return None;
        }
        let (exponent, mantissa_bits) = if low <= high { (low, (high - low) as u32) } else { (0, 0) };
        let scale = FixedScale { exponent, mantissa_bits, factor: factor(exponent, mantissa_bits) };
        (scale.sum_bits(values.len(), 1) <= SUM_BITS_MAX).then_some(scale)
    }

    /// Of the power of two.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// No quotient takes more bits.
    pub fn mantissa_bits(&self) -> u32 {
        self.mantissa_bits
    }

    /// Whether the sum of the `degree`-th powers of `len` quotients fits an `i128` with room.
    pub fn fits_powers(&self, len: usize, degree: u32) -> bool {
        self.sum_bits(len, degree) <= SUM_BITS_MAX
    }

    fn sum_bits(&self, len: usize, degree: u32) -> u32 {
        self.mantissa_bits * degree + (usize::BITS - len.leading_zeros())
    }

    /// `value / 2^exponent`, for one of the values that the scale was found for.
    #[inline]
    pub fn mantissa(&self, value: f64) -> i128 {
        match self.factor {
            Some(factor) => i128::from((value * factor) as i64),
            None => self.wide_mantissa(value),
        }
    }

    #[inline]
    fn wide_mantissa(&self, value: f64) -> i128 {
        let Some((negative, mantissa, exponent)) = decompose(value) else { return 0 };
        let shift = exponent - self.exponent;
        let magnitude = match u32::try_from(shift) {
            Ok(up) => i128::from(mantissa).checked_shl(up).unwrap_or_default(),
            Err(_) => i128::from(mantissa) >> shift.unsigned_abs().min(64),
        };
        if negative { -magnitude } else { magnitude }
    }
}

fn factor(exponent: i32, mantissa_bits: u32) -> Option<f64> {
    let is_normal = (-1022..=1022).contains(&exponent);
    (is_normal && mantissa_bits <= NARROW_BITS_MAX).then(|| power_of_two(-exponent))
}
