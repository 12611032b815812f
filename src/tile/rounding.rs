//! Integers times powers of two, and quotients of them, rounded to `f64` once: to nearest, ties to even.
//!
//! Subnormal results are rounded where they end, and what is too large becomes an infinity, as IEEE 754 says of one
//! operation. Nothing here depends on a mathematics library, so every machine gives the same bits.

use num_bigint::BigUint;

/// The least and the greatest exponents of normal numbers.
const EXPONENT_MIN: i32 = -1022;
const EXPONENT_MAX: i32 = 1023;
/// The exponent of the lowest bit of a subnormal number.
pub(super) const EXPONENT_LOWEST: i32 = -1074;
const MANTISSA_BITS: u32 = 53;
/// How many bits quotients of wide integers have at least: enough that the lowest can stand for all below it.
const QUOTIENT_BITS: i64 = 66;

/// `mantissa * 2^exponent`, rounded once; zero is `+0.0`.
#[inline]
pub fn round_scaled(mantissa: i128, exponent: i32) -> f64 {
    if (EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent) {
        // An integer is no smaller than one, so the product is normal, and exact unless it overflows.
        let whole = i64::try_from(mantissa).map_or_else(|_| mantissa as f64, |small| small as f64);
        return whole * power_of_two(exponent);
    }
    with_sign(mantissa < 0, round_magnitude(mantissa.unsigned_abs(), exponent))
}

/// `mantissa * 2^exponent / n`, rounded once; NaN if `n` is zero.
#[inline]
pub fn divide_rounded(mantissa: i128, exponent: i32, n: u64) -> f64 {
    const EXACT_MAX: u64 = 1 << MANTISSA_BITS;
    /// With these the quotient of two exact integers stays normal.
    const EXPONENTS: std::ops::RangeInclusive<i32> = -960..=960;
    if let Ok(small) = i64::try_from(mantissa)
        && small.unsigned_abs() <= EXACT_MAX
        && (1..=EXACT_MAX).contains(&n)
        && EXPONENTS.contains(&exponent)
    {
        return (small as f64 / n as f64) * power_of_two(exponent);
    }
    divide_wide(mantissa, exponent, n)
}

#[cold]
fn divide_wide(mantissa: i128, exponent: i32, n: u64) -> f64 {
    let magnitude = mantissa.unsigned_abs();
    if n == 0 {
        return f64::NAN;
    }
    if magnitude == 0 {
        return 0.0;
    }
    // 128 bits divided by at most 64: at least 64 are left, and the lowest can stand for the remainder.
    let shift = magnitude.leading_zeros();
    let (scaled, n) = (magnitude << shift, u128::from(n));
    let quotient = scaled / n;
    let sticky = u128::from(quotient * n != scaled);
    with_sign(mantissa < 0, round_magnitude(quotient | sticky, exponent.saturating_sub(shift as i32)))
}

/// `magnitude * 2^exponent`, rounded once.
pub(super) fn round_magnitude(magnitude: u128, exponent: i32) -> f64 {
    if magnitude == 0 {
        return 0.0;
    }
    let top = i64::from(exponent) + i64::from(127 - magnitude.leading_zeros());
    if top > i64::from(EXPONENT_MAX) {
        return f64::INFINITY;
    }
    if top >= i64::from(EXPONENT_MIN) {
        return scale_in_two_steps(magnitude as f64, exponent);
    }
    f64::from_bits(round_to_lowest(magnitude, exponent))
}

/// `value * 2^exponent`; exact if the result and `value * 2^(exponent / 2)` are normal.
pub(super) fn scale_in_two_steps(value: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    value * power_of_two(half) * power_of_two(exponent - half)
}

/// How many times the least subnormal `magnitude * 2^exponent` is, rounded; it is less than the least normal number.
fn round_to_lowest(magnitude: u128, exponent: i32) -> u64 {
    let dropped = i64::from(EXPONENT_LOWEST) - i64::from(exponent);
    if dropped <= 0 {
        return (magnitude << -dropped) as u64;
    }
    if dropped > 128 {
        return 0;
    }
    let kept = if dropped == 128 { 0 } else { magnitude >> dropped };
    let rest = if dropped == 128 { magnitude } else { magnitude & ((1 << dropped) - 1) };
    let half = 1_u128 << (dropped - 1);
    let up = rest > half || (rest == half && kept & 1 == 1);
    kept as u64 + u64::from(up)
}

/// `numerator / denominator` as an integer of 66 bits or more and an exponent; its lowest bit is also set where the
/// division leaves a remainder, so that it rounds as the quotient itself does. Zero where one of them is zero.
pub(super) fn quotient(numerator: &BigUint, denominator: &BigUint) -> (u128, i64) {
    if numerator.bits() == 0 || denominator.bits() == 0 {
        return (0, 0);
    }
    let shift = QUOTIENT_BITS + denominator.bits() as i64 - numerator.bits() as i64;
    let numerator = numerator << shift.max(0) as u64;
    let denominator = denominator << (-shift).max(0) as u64;
    let quotient = &numerator / &denominator;
    let sticky = u128::from(&quotient * denominator != numerator);
    (quotient.iter_u64_digits().rev().fold(0, |high, digit| high << 64 | u128::from(digit)) | sticky, -shift)
}

/// `magnitude * 2^exponent` rounded once, for an exponent that may be out of any range.
pub(super) fn round_far(negative: bool, magnitude: u128, exponent: i64) -> f64 {
    let exponent = exponent.clamp(-10_000_000, 10_000_000) as i32;
    with_sign(negative, round_magnitude(magnitude, exponent))
}

#[inline]
pub(super) fn with_sign(negative: bool, magnitude: f64) -> f64 {
    if negative { -magnitude } else { magnitude }
}

/// `2^exponent`, for the exponent of a normal number.
#[inline]
pub(super) fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent), "2^{exponent} is not normal");
    f64::from_bits(((exponent + EXPONENT_MAX) as u64) << (MANTISSA_BITS - 1))
}

/// The sign, and the integer and exponent that a finite number is: `mantissa * 2^exponent`; None: it is not finite.
#[inline]
pub(super) fn decompose(value: f64) -> Option<(bool, u64, i32)> {
    let bits = value.to_bits();
    let fraction = bits & ((1 << (MANTISSA_BITS - 1)) - 1);
    let negative = bits >> 63 == 1;
    match (bits >> (MANTISSA_BITS - 1)) as i32 & 0x7ff {
        0x7ff => None,
        0 => Some((negative, fraction, EXPONENT_LOWEST)),
        biased => Some((negative, fraction | 1 << (MANTISSA_BITS - 1), biased - 1 + EXPONENT_LOWEST)),
    }
}
