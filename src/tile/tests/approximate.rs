use proptest::prelude::*;

use super::fixture::{aggregate, answer, finite_floats, floats, floats_of};
use crate::definition::AggregateFunction;
use crate::tile::{Answer, HyperLogLog, Sketch, SlidingDistinct, Value};

fn sketch_of(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    values.iter().for_each(|value| sketch.add(*value));
    sketch
}

#[test]
fn distinct_counts_are_near() {
    for distinct in [1_i64, 10, 100, 1_000, 10_000, 100_000] {
        let mut registers = HyperLogLog::default();
        (0..distinct).for_each(|value| registers.add(&Value::Int(value * 7)));
        let error = (registers.estimate() - distinct).abs() as f64 / distinct as f64;
        assert!(error <= 0.05, "{} for {distinct}", registers.estimate());
    }
}

#[test]
fn hashes_are_the_same_in_every_version() {
    let mut registers = HyperLogLog::default();
    [Value::Bool(true), Value::Int(-1), Value::Float(0.5), Value::Bytes(b"asof".as_slice().into())]
        .iter()
        .for_each(|value| registers.add(value));
    let mut bytes = Vec::new();
    registers.encode(&mut bytes);
    assert_eq!(bytes, [4, 0x84, 0x0f, 1, 0x2b, 4, 0xe1, 0x0c, 1, 0x43, 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sliding_registers_give_the_same_estimate(
        values in proptest::collection::vec(prop_oneof![0_i64..50, any::<i64>()], 0..400),
        width in 1_usize..200,
    ) {
        let values: Vec<Value> = values.into_iter().map(Value::Int).collect();
        let mut sliding = SlidingDistinct::default();
        for end in 0..values.len() {
            sliding.add(&values[end]);
            if end >= width {
                sliding.remove(&values[end - width]);
            }
            if end % 16 == 0 {
                let mut registers = HyperLogLog::default();
                values[(end + 1).saturating_sub(width)..=end].iter().for_each(|value| registers.add(value));
                prop_assert_eq!(sliding.estimate(), registers.estimate());
            }
        }
    }

    #[test]
    fn percentiles_are_within_one_percent(
        mut values in proptest::collection::vec(finite_floats(), 1..60),
        p in 0.0..=1.0,
    ) {
        let found = sketch_of(&values).percentile(p).unwrap();
        values.sort_by(f64::total_cmp);
        let expected = values[(p * (values.len() - 1) as f64) as usize];
        let error = (found - expected).abs();
        prop_assert!(error <= expected.abs() / 128.0 || error <= f64::from_bits(1 << 45), "{found} for {expected}");
    }

    #[test]
    fn percentiles_ascend(values in proptest::collection::vec(floats(), 1..60)) {
        let sketch = sketch_of(&values);
        let percentiles: Vec<_> = (0..=10).filter_map(|tenths| sketch.percentile(f64::from(tenths) / 10.0)).collect();
        prop_assert!(percentiles.is_sorted());
    }
}

#[test]
fn percentiles_of_small_integers_are_exact() {
    let values: Vec<f64> = (-256..=256).map(f64::from).collect();
    let sketch = sketch_of(&values);
    for (rank, value) in values.iter().enumerate() {
        assert_eq!(sketch.percentile(rank as f64 / 512.0), Some(*value));
    }
}

#[test]
fn percentiles_skip_nan_and_know_infinities() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let sketch = sketch_of(&[nan, inf, -inf, f64::MAX, -0.0]);
    let found = [0.0, 0.4, 0.7, 1.0].map(|p| sketch.percentile(p));
    assert_eq!(found[0], Some(-inf));
    assert_eq!(found[1].map(f64::to_bits), Some(0));
    assert!(found[2].is_some_and(|value| value.is_finite() && value > 1.7e308));
    assert_eq!(found[3], Some(inf));
    assert_eq!(sketch_of(&[nan]).percentile(0.5), None);
    assert_eq!(answer(&aggregate(AggregateFunction::ApproxPercentile, "float64"), &floats_of(&[nan])), Answer::Null);
}

#[test]
fn sketches_merge_whichever_is_larger() {
    let (many, few): (Vec<f64>, Vec<f64>) = ((1..100).map(f64::from).collect(), vec![3.0, 1e9, -5.0]);
    let both = sketch_of(&[many.clone(), few.clone()].concat());
    for (first, second) in [(&many, &few), (&few, &many)] {
        let mut merged = sketch_of(first);
        merged.merge(&sketch_of(second));
        assert_eq!(merged, both);
    }
}
