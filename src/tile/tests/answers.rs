use super::fixture::{aggregate, answer, event, floats_of, ints_of, partial_of};
use crate::definition::{AggregateFunction as F, Percentiles, ValueType};
use crate::tile::{Aggregate, Answer, Event, PartialKind, TileError, Value};

fn of_floats(function: F, values: &[f64]) -> Answer {
    answer(&aggregate(function, "float64"), &floats_of(values))
}

fn of_ints(function: F, values: &[i64]) -> Answer {
    answer(&aggregate(function, "int64"), &ints_of(values))
}

#[test]
fn an_empty_window_is_null_or_counts_zero() {
    for function in F::ALL {
        let input = if matches!(function, F::Any | F::All) { "bool" } else { "float64" };
        let is_count = matches!(function, F::Count | F::CountDistinct | F::ApproxCountDistinct);
        let expected = if is_count { Answer::Int(0) } else { Answer::Null };
        assert_eq!(answer(&aggregate(function, input), &[]), expected, "{function}");
        assert_eq!(answer(&aggregate(function, input), &[None, None]), expected, "{function} of nulls");
    }
}

#[test]
fn count_without_input_counts_rows() {
    let rows = Aggregate::new(F::Count, None, None, None, None).unwrap();
    assert_eq!(answer(&rows, &[None, None]), Answer::Int(2));
    assert_eq!(of_floats(F::Count, &[f64::NAN, 1.0]), Answer::Int(2));
}

#[test]
fn a_sum_of_integers_beyond_int64_says_so() {
    assert_eq!(of_ints(F::Sum, &[i64::MAX, 1]), Answer::OutOfRange);
    assert_eq!(of_ints(F::Sum, &[i64::MAX, 1, -1]), Answer::Int(i64::MAX));
    assert_eq!(of_ints(F::Sum, &[i64::MIN, -1]).out_of_range(), 1);
    assert_eq!(of_ints(F::Mean, &[i64::MAX, i64::MAX]), Answer::Float(i64::MAX as f64));
}

#[test]
fn moments_of_one_value_and_of_equal_ones() {
    assert_eq!(of_floats(F::Variance, &[0.1]), Answer::Float(0.0));
    assert_eq!(of_floats(F::Stddev, &[0.1, 0.1, 0.1]), Answer::Float(0.0));
    assert_eq!(of_floats(F::Skew, &[0.1, 0.1, 0.1]), Answer::Null);
    assert_eq!(of_floats(F::Kurtosis, &[0.1, 0.1, 0.1]), Answer::Null);
    assert_eq!(of_ints(F::Variance, &[1, 2, 3, 4]), Answer::Float(1.25));
    assert_eq!(of_ints(F::Stddev, &[2, 4, 4, 4, 5, 5, 7, 9]), Answer::Float(2.0));
    assert_eq!(of_ints(F::Skew, &[1, 2, 3]), Answer::Float(0.0));
    assert_eq!(of_ints(F::Kurtosis, &[-1, 1]), Answer::Float(-2.0));
}

#[test]
fn a_standard_deviation_is_there_where_its_variance_is_out_of_range() {
    for far in [1e300, 3e-200, f64::MIN_POSITIVE, 5e-324] {
        assert_eq!(of_floats(F::Stddev, &[far, -far]), Answer::Float(far));
    }
    assert_eq!(of_floats(F::Variance, &[1e300, -1e300]), Answer::Float(f64::INFINITY));
    assert_eq!(of_floats(F::Stddev, &[1.0, f64::INFINITY]), Answer::Float(f64::NAN));
}

#[test]
fn a_variance_does_not_cancel() {
    let far = 1e9;
    assert_eq!(of_floats(F::Variance, &[far + 4.0, far + 7.0, far + 13.0, far + 16.0]), Answer::Float(22.5));
}

#[test]
fn conditions_have_a_share_and_skip_nulls() {
    let conditions = [Some(Value::Bool(true)), None, Some(Value::Bool(false)), Some(Value::Bool(true))];
    let of = |function| answer(&aggregate(function, "bool"), &conditions);
    assert_eq!(of(F::Mean), Answer::Float(2.0 / 3.0));
    assert_eq!(of(F::Any), Answer::Bool(true));
    assert_eq!(of(F::All), Answer::Bool(false));
    assert_eq!(answer(&aggregate(F::All, "bool"), &[None, Some(Value::Bool(true))]), Answer::Bool(true));
}

#[test]
fn zeros_of_both_signs_are_ordered_but_count_as_one() {
    assert_eq!(of_floats(F::Min, &[0.0, -0.0]), Answer::Float(-0.0));
    assert_eq!(of_floats(F::Max, &[0.0, -0.0]), Answer::Float(0.0));
    assert_eq!(of_floats(F::CountDistinct, &[0.0, -0.0]), Answer::Int(1));
    assert_eq!(of_floats(F::ApproxCountDistinct, &[0.0, -0.0]), Answer::Int(1));
    assert_eq!(of_floats(F::Histogram, &[0.0, -0.0]), Answer::Map(vec![(Value::Float(0.0), Answer::Int(2))]));
}

#[test]
fn every_nan_is_one_value_and_the_greatest() {
    let nans = [-f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::INFINITY];
    let canonical = Answer::Float(f64::from_bits(0x7ff8_0000_0000_0000));
    assert_eq!(of_floats(F::Max, &nans), canonical);
    assert_eq!(of_floats(F::First, &nans), canonical);
    assert_eq!(of_floats(F::Mean, &nans), canonical);
    assert_eq!(of_floats(F::Stddev, &nans), canonical);
    assert_eq!(of_floats(F::Min, &nans), Answer::Float(f64::INFINITY));
    assert_eq!(of_floats(F::CountDistinct, &nans), Answer::Int(2));
    assert_eq!(of_floats(F::ApproxCountDistinct, &nans), Answer::Int(2));
}

#[test]
fn ties_of_first_and_last_go_by_created_timestamp_and_then_by_value() {
    let events = [(Some(1), 5), (None, 9), (Some(2), 3), (Some(2), 4)]
        .map(|(created_timestamp, value)| Event { created_timestamp, ..event(7, Value::Int(value)) });
    let of = |function| {
        let aggregate = Aggregate::new(function, Some(3), None, Some(ValueType::Int64), None).unwrap();
        aggregate.finish(&partial_of(&aggregate, &events))
    };
    let list = |values: [i64; 3]| Answer::List(values.map(Answer::Int).to_vec());
    assert_eq!(of(F::First), list([9, 5, 3]));
    assert_eq!(of(F::Last), list([4, 3, 5]));
    assert_eq!(of(F::Top), list([9, 5, 4]));
    assert_eq!(of(F::Bottom), list([3, 4, 5]));
}

#[test]
fn a_bucket_is_there_while_it_has_events() {
    let sums = Aggregate::new(F::Sum, None, None, Some(ValueType::Int64), Some(ValueType::String)).unwrap();
    let in_bucket = |bucket: &str, value: Option<i64>| Event {
        bucket: Some(Value::Bytes(bucket.as_bytes().into())),
        ..event(0, value.map(Value::Int))
    };
    let events =
        [in_bucket("b", Some(2)), in_bucket("a", None), in_bucket("b", Some(i64::MAX)), event(0, Value::Int(1))];
    let mut partial = partial_of(&sums, &events);
    let key = |bucket: &str| Value::Bytes(bucket.as_bytes().into());
    let answer = sums.finish(&partial);
    assert_eq!(answer, Answer::Map(vec![(key("a"), Answer::Null), (key("b"), Answer::OutOfRange)]));
    assert_eq!(answer.out_of_range(), 1);
    partial.invert(&events[1]);
    partial.invert(&events[2]);
    assert_eq!(sums.finish(&partial), Answer::Map(vec![(key("b"), Answer::Int(2))]));
    partial.invert(&events[0]);
    assert_eq!(sums.finish(&partial), Answer::Null);
}

#[test]
fn aggregates_that_can_share_a_partial_do() {
    let kind = |function, input: &str| aggregate(function, input).kind().clone();
    for input in ["int32", "float64"] {
        assert_eq!(kind(F::Sum, input), kind(F::Mean, input));
        assert_eq!(kind(F::Variance, input), kind(F::Stddev, input));
        assert_eq!(kind(F::Skew, input), kind(F::Kurtosis, input));
        assert_eq!(kind(F::CountDistinct, input), kind(F::Histogram, input));
        assert_eq!(kind(F::Max, input), kind(F::Top, input));
    }
    assert_eq!(kind(F::Mean, "bool"), kind(F::Any, "bool"));
    assert_ne!(kind(F::Min, "int32"), kind(F::Min, "int64"));
    assert_eq!(kind(F::Count, "string"), PartialKind::Count);
}

#[test]
fn inputs_that_a_function_does_not_take_are_refused() {
    let new = |function, p, input: &str| Aggregate::new(function, None, p, Some(input.parse().unwrap()), None);
    assert!(matches!(new(F::Sum, None, "string"), Err(TileError::Unsupported { function: F::Sum, .. })));
    assert!(new(F::Last, None, "list<int64>").is_err());
    assert!(new(F::ApproxPercentile, None, "float64").is_err());
    assert!(new(F::ApproxPercentile, Some(Percentiles::One(0.5)), "float64").is_ok());
    assert!(Aggregate::new(F::Mean, None, None, None, None).is_err());
    assert!(new(F::Count, None, "list<int64>").is_ok());
}
