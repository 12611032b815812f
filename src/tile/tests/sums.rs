use arrow::buffer::NullBuffer;
use proptest::prelude::*;

use super::fixture::{finite_floats, floats, ints};
use super::rationals::{Population, nearest};
use crate::tile::limbs::Limbs;
use crate::tile::{ExactSum, FixedScale, Moments, divide_rounded, round_scaled, variance_of_sums};
use num_bigint::BigInt;

fn sum_of(values: &[f64]) -> ExactSum {
    let mut sum = ExactSum::default();
    values.iter().for_each(|value| sum.add(*value));
    sum
}

fn same(found: f64, expected: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.to_bits(), expected.to_bits(), "{:e} is not {:e}", found, expected);
    Ok(())
}

/// An integer and an exponent as a quotient.
fn scaled(mantissa: i128, exponent: i32) -> (BigInt, BigInt) {
    let one = BigInt::from(1);
    (BigInt::from(mantissa) << exponent.max(0) as u32, one << exponent.min(0).unsigned_abs())
}

fn mantissas() -> impl Strategy<Value = i128> {
    let near_halves = (any::<u64>(), 0_u32..74, -1_i128..=1);
    prop_oneof![
        -10_i128..10,
        any::<i64>().prop_map(i128::from),
        any::<i128>(),
        near_halves.prop_map(|(bits, shift, step)| (i128::from(bits >> 10 | 1) << shift) + step),
        Just(i128::MIN),
    ]
}

fn exponents() -> impl Strategy<Value = i32> {
    prop_oneof![-60..60, -1200..-940, 800..1030, Just(-1074), Just(-1022), Just(1023), -100_000..100_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn integers_times_powers_are_rounded_once(mantissa in mantissas(), exponent in exponents()) {
        let exponent = exponent.clamp(-2000, 2000);
        let (numerator, denominator) = scaled(mantissa, exponent);
        same(round_scaled(mantissa, exponent), nearest(&numerator, &denominator, 0))?;
    }

    #[test]
    fn quotients_are_rounded_once(
        mantissa in mantissas(),
        exponent in exponents(),
        n in prop_oneof![1_u64..100, any::<u64>().prop_map(|n| n.max(1)), Just(u64::MAX)],
    ) {
        let exponent = exponent.clamp(-2000, 2000);
        let (numerator, denominator) = scaled(mantissa, exponent);
        same(divide_rounded(mantissa, exponent, n), nearest(&numerator, &(denominator * n), 0))?;
    }

    #[test]
    fn sums_and_means_are_those_of_the_reals(values in proptest::collection::vec(finite_floats(), 1..30)) {
        let population = Population::of_floats(&values);
        let sum = sum_of(&values);
        same(sum.to_f64(), population.rounded_sum())?;
        same(sum.mean(values.len() as u64), population.mean())?;
    }

    #[test]
    fn what_is_taken_away_leaves_no_trace(
        kept in proptest::collection::vec(floats(), 0..10),
        gone in proptest::collection::vec(floats(), 0..10),
    ) {
        let mut sum = sum_of(&kept);
        sum.merge(&sum_of(&gone));
        gone.iter().for_each(|value| sum.subtract(*value));
        prop_assert_eq!(&sum, &sum_of(&kept));
        sum.subtract_sum(&sum_of(&kept));
        prop_assert_eq!(&sum, &ExactSum::default());
    }

    #[test]
    fn prefix_sums_of_mantissas_give_the_exact_sums(
        values in proptest::collection::vec((-100_000_i32..100_000, -30_i32..30), 1..40),
        cut in any::<proptest::sample::Index>(),
    ) {
        let values: Vec<f64> = values.iter().map(|(m, e)| f64::from(*m) * 2_f64.powi(*e)).collect();
        let scale = FixedScale::find(&values, None).expect("the values are of like sizes");
        let from = cut.index(values.len());
        let mantissa: i128 = values[from..].iter().map(|value| scale.mantissa(*value)).sum();
        let (sum, n) = (sum_of(&values[from..]), (values.len() - from) as u64);
        same(round_scaled(mantissa, scale.exponent()), sum.to_f64())?;
        same(divide_rounded(mantissa, scale.exponent(), n), sum.mean(n))?;
        if scale.fits_powers(values.len(), 2) {
            let squares = values[from..].iter().map(|value| scale.mantissa(*value).pow(2)).sum();
            let variance = variance_of_sums(n, mantissa, squares, scale.exponent());
            prop_assert_eq!(variance.map(f64::to_bits), moments_of(&values[from..]).variance(n).map(f64::to_bits));
        }
    }

    #[test]
    fn whatever_scale_is_found_is_exact(values in proptest::collection::vec(floats(), 1..8)) {
        if let Some(scale) = FixedScale::find(&values, None) {
            let mantissa: i128 = values.iter().map(|value| scale.mantissa(*value)).sum();
            same(round_scaled(mantissa, scale.exponent()), sum_of(&values).to_f64())?;
        }
    }

    #[test]
    fn moments_are_those_of_the_reals(values in proptest::collection::vec(finite_floats(), 1..12)) {
        let (moments, population, n) = (moments_of(&values), Population::of_floats(&values), values.len() as u64);
        same(moments.variance(n).unwrap(), population.moment(2))?;
        prop_assert_eq!(moments.kurtosis(n).map(f64::to_bits), population.kurtosis().map(f64::to_bits));
    }

    #[test]
    fn moments_of_integers_are_those_of_the_reals(values in proptest::collection::vec(ints(), 1..12)) {
        let mut moments = Moments::new(4);
        values.iter().for_each(|value| moments.add_int(*value));
        let (population, n) = (Population::of_ints(&values), values.len() as u64);
        same(moments.variance(n).unwrap(), population.moment(2))?;
        prop_assert_eq!(moments.kurtosis(n).map(f64::to_bits), population.kurtosis().map(f64::to_bits));
        let (m2, m3) = (population.moment(2), population.moment(3));
        let expected = (m2 > 0.0).then(|| m3 / (m2 * m2.sqrt()));
        prop_assert_eq!(moments.skew(n).map(f64::to_bits), expected.map(f64::to_bits));
    }

    #[test]
    fn skew_follows_from_rounded_moments(values in proptest::collection::vec(-1000_i32..1000, 1..12)) {
        let values: Vec<f64> = values.iter().map(|tenths| f64::from(*tenths) / 10.0).collect();
        let (moments, population) = (moments_of(&values), Population::of_floats(&values));
        let (m2, m3) = (population.moment(2), population.moment(3));
        let expected = (m2 > 0.0).then(|| m3 / (m2 * m2.sqrt()));
        prop_assert_eq!(moments.skew(values.len() as u64).map(f64::to_bits), expected.map(f64::to_bits));
    }
}

fn moments_of(values: &[f64]) -> Moments {
    let mut moments = Moments::new(4);
    values.iter().for_each(|value| moments.add(*value));
    moments
}

#[test]
fn sums_that_cancel_are_exact() {
    assert_eq!(sum_of(&[1e308, 1.0, -1e308]).to_f64(), 1.0);
    assert_eq!(sum_of(&[1e308, 1e308, -1e308]).to_f64(), 1e308);
    assert_eq!(sum_of(&[f64::MAX, 5e-324, -f64::MAX]).to_f64(), 5e-324);
    assert_eq!(sum_of(&[0.1; 10]).to_f64(), 1.0);
    assert_eq!(sum_of(&[f64::MAX, f64::MAX]).to_f64(), f64::INFINITY);
    assert_eq!(sum_of(&[f64::MAX, f64::MAX]).mean(2), f64::MAX);
}

#[test]
fn nothing_and_what_adds_up_to_nothing_are_positive_zero() {
    for values in [&[][..], &[-0.0], &[1.5, -1.5]] {
        assert_eq!(sum_of(values).to_f64().to_bits(), 0);
    }
}

#[test]
fn values_that_are_not_finite_make_sums_and_moments_that_are_not() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let sum = |values: &[f64]| sum_of(values).to_f64();
    assert_eq!(sum(&[1.0, inf, inf]), inf);
    assert_eq!(sum(&[1.0, -inf]), -inf);
    assert!(sum(&[inf, -inf]).is_nan() && sum(&[nan, 1.0]).is_nan() && sum(&[nan, inf]).is_nan());
    for moment in [Moments::variance, Moments::skew, Moments::kurtosis] {
        assert!(moment(&moments_of(&[1.0, inf]), 2).unwrap().is_nan());
    }
}

#[test]
fn skew_that_is_too_small_for_a_float_is_zero() {
    // About 100 / 4e600 under zero: what is left when all greater terms cancel.
    let skew = moments_of(&[2e300, -10.0, 2e300, 4e-308]).skew(4).unwrap();
    assert_eq!(skew.to_bits(), (-0.0_f64).to_bits());
}

#[test]
fn skew_does_not_depend_on_the_size_of_the_values() {
    for scale in [1.0, 2_f64.powi(1000), f64::from_bits(1 << 4)] {
        let values = [scale, scale, scale, 3.0 * scale, 6.0 * scale];
        let skew = moments_of(&values).skew(5).unwrap();
        assert_eq!(skew, moments_of(&[1.0, 1.0, 1.0, 3.0, 6.0]).skew(5).unwrap(), "{scale:e}");
    }
}

#[test]
fn carries_are_handed_on_in_time() {
    let mut limbs = Limbs::default();
    limbs.add(false, u64::MAX, 7);
    let mut expected = (BigInt::from(u64::MAX)) << 7;
    // Doubled again and again it is as if 2^40 values had been added.
    for _ in 0..40 {
        let copy = limbs.clone();
        limbs.combine(&copy, false);
        expected *= 2;
    }
    assert_eq!(limbs.integer(0), expected);
    limbs.add(true, 1, 0);
    assert_eq!(limbs.integer(0), expected.clone() - 1);
    let copy = limbs.clone();
    (0..3).for_each(|_| limbs.combine(&copy, true));
    assert_eq!(limbs.integer(0), (expected - 1) * -2);
}

#[test]
fn scales_are_found_for_values_that_are_there() {
    assert_eq!(FixedScale::find(&[], None).map(|scale| scale.exponent()), Some(0));
    assert_eq!(FixedScale::find(&[0.0, -0.0], None).map(|scale| scale.exponent()), Some(0));
    assert_eq!(
        FixedScale::find(&[6.0, 0.5], None).map(|scale| (scale.exponent(), scale.mantissa_bits())),
        Some((-1, 4))
    );
    let nulls = NullBuffer::from(vec![true, false]);
    assert_eq!(FixedScale::find(&[4.0, f64::NAN], Some(&nulls)).map(|scale| scale.exponent()), Some(2));
    assert_eq!(FixedScale::find(&[4.0, f64::NAN], None), None);
    assert_eq!(FixedScale::find(&[1e30, 1e-30], None), None);
    assert!(FixedScale::find(&[1e9, 1e-9], None).is_some());
}
