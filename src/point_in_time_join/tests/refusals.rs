//! What is refused, what is kept in memory, and the small parts that the joins above do not reach.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::super::*;
use super::fixture::{Case, check, rows_of, runtime};
use super::oracle::{FeatureRow, Rules, SpineRow, Value};
use crate::error::ErrorKind;

/// Spine rows of keys `0..keys` at time 1000; feature rows of the same keys, each at the times given.
fn case(keys: i64, events: impl Iterator<Item = i64> + Clone) -> Case {
    let spine = (0..keys).map(|key| SpineRow { keys: vec![Some(Value::Int(key))], time: Some(1000) });
    let rows = events.flat_map(|event| {
        (0..keys).map(move |key| FeatureRow {
            keys: vec![Some(Value::Int(key))],
            event: Some(event),
            created: None,
            values: vec![Some(Value::Text(format!("{key} at {event}, which is a text of some length")))],
        })
    });
    Case {
        key_types: vec![DataType::Int64],
        value_types: vec![DataType::Utf8View],
        spine: spine.collect(),
        features: rows.collect(),
        rules: Rules::default(),
    }
}

fn accumulator(case: &Case) -> ViewAccumulator {
    ViewAccumulator::new(case.index(), case.params()).unwrap()
}

#[test]
fn keys_of_other_types_are_refused_with_both_sides_named() {
    let case = case(1, 0..1);
    let other = Case { key_types: vec![DataType::Utf8], ..case.clone() };
    let error = accumulator(&case).push(&other.batch(&other.features)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        "feature view `view` has join keys of types (Utf8), the spine has (Int64); cast the columns of the spine"
    );
}

#[test]
fn more_keys_than_the_spine_has_are_refused() {
    let mut case = case(1, 0..1);
    let index = case.index();
    case.key_types.push(DataType::Utf8);
    let refused = ViewAccumulator::new(index, case.params()).unwrap_err();
    assert!(matches!(refused, JoinError::KeyTypes { .. }), "{refused}");
}

#[test]
fn features_of_other_types_are_refused() {
    let case = case(1, 0..1);
    let other = Case { value_types: vec![DataType::Utf8], ..case.clone() };
    let refused = accumulator(&case).push(&other.batch(&other.features)).unwrap_err();
    assert!(matches!(refused, JoinError::ColumnType { .. }), "{refused}");
}

#[test]
fn columns_that_are_not_there_are_refused() {
    let case = case(1, 0..1);
    let narrow = case.batch(&case.features).project(&[0, 1]).unwrap();
    let refused = accumulator(&case).push(&narrow).unwrap_err();
    assert!(matches!(refused, JoinError::ColumnMissing { .. }), "{refused}");
}

#[test]
fn values_without_an_order_are_refused() {
    let case = case(1, 0..1);
    let mut params = ViewParams::clone(&case.params());
    let fields = vec![Field::new("x", DataType::Int64, true)].into();
    params.features[0].field = Arc::new(Field::new("point", DataType::Struct(fields), true));
    let refused = ViewAccumulator::new(case.index(), Arc::new(params)).unwrap_err();
    assert!(matches!(refused, JoinError::UnsupportedType { .. }), "{refused}");
}

#[test]
fn a_spine_with_uneven_columns_is_refused() {
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let refused = SpineIndex::build(&[keys], &TimestampMicrosecondArray::from(vec![1])).unwrap_err();
    assert!(matches!(refused, JoinError::SpineLengths { .. }), "{refused}");
}

#[test]
fn a_key_without_equality_is_refused() {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    builder.append(true).unwrap();
    let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1])), Arc::new(builder.finish())];
    match SpineIndex::build(&keys, &TimestampMicrosecondArray::from(vec![1])) {
        Err(refused) => assert!(matches!(refused, JoinError::KeyType { .. }), "{refused}"),
        // Where Arrow can compare maps they are keys like any other.
        Ok(index) => assert_eq!(index.rows(), 1),
    }
}

#[test]
fn accumulators_of_different_spines_are_not_merged() {
    let case = case(1, 0..1);
    let refused = accumulator(&case).merge(accumulator(&case)).unwrap_err();
    assert!(matches!(refused, JoinError::DifferentJoins { .. }), "{refused}");
}

#[test]
fn a_failing_stream_ends_the_join() {
    let case = case(1, 0..1);
    let batch = case.batch(&case.features);
    let failure = Err(DataFusionError::ResourcesExhausted("memory".to_owned()));
    let batches = futures::stream::iter([Ok(batch.clone()), failure]);
    let failing = Box::pin(RecordBatchStreamAdapter::new(batch.schema(), batches)) as SendableRecordBatchStream;
    let endless = Box::pin(RecordBatchStreamAdapter::new(
        batch.schema(),
        futures::stream::repeat_with(move || Ok(batch.clone())),
    )) as SendableRecordBatchStream;
    let joining = join_streams(case.index(), case.params(), vec![endless, failing]);
    let error = runtime().block_on(joining).unwrap_err();
    assert!(matches!(error, JoinError::Read { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}

#[test]
fn spines_of_any_number_of_keys_are_answered() {
    for case in (1..6).map(|keys| case(3, keys..keys + 1)) {
        let batch = case.batch(&case.features);
        let stream = RecordBatchStreamAdapter::new(batch.schema(), futures::stream::iter([Ok(batch)]));
        let joining = join_streams(case.index(), case.params(), vec![Box::pin(stream)]);
        let answer = runtime().block_on(joining).unwrap();
        assert_eq!(rows_of(&answer), case.expected());
    }
}

#[test]
fn rows_that_lost_their_slot_are_let_go() {
    let case = case(64, 0..400);
    let mut accumulator = accumulator(&case);
    accumulator.compact_always();
    for rows in case.features.chunks(100) {
        accumulator.push(&case.batch(rows)).unwrap();
        assert!(accumulator.rows_retained() <= 4 * 64, "{}", accumulator.rows_retained());
    }
    assert_eq!(rows_of(&accumulator.finish().unwrap()), case.expected());
}

#[test]
fn rows_too_old_for_their_slot_are_not_kept_at_all() {
    let mut case = case(8, 0..400);
    case.rules.ttl_micros = Some(10);
    let mut accumulator = accumulator(&case);
    for rows in case.features.chunks(100) {
        accumulator.push(&case.batch(rows)).unwrap();
    }
    assert_eq!(accumulator.rows_retained(), 0);
    check(&case, &case.expected());
}

#[test]
fn only_the_requested_features_are_answered_but_all_break_ties() {
    let row = |first: i64, second: i64| FeatureRow {
        keys: vec![],
        event: Some(1),
        created: None,
        values: vec![Some(Value::Int(first)), Some(Value::Int(second))],
    };
    let case = Case {
        key_types: vec![],
        value_types: vec![DataType::Int64, DataType::Int64],
        spine: vec![SpineRow { keys: vec![], time: Some(1) }],
        features: vec![row(2, 1), row(1, 2)],
        rules: Rules::default(),
    };
    let params = ViewParams { requested: vec![1, 0, 1], ..ViewParams::clone(&case.params()) };
    let mut accumulator = ViewAccumulator::new(case.index(), Arc::new(params)).unwrap();
    accumulator.push(&case.batch(&case.features)).unwrap();
    let joined = accumulator.finish().unwrap();
    let values: Vec<i64> = joined.features.iter().map(|feature| feature.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(values, [1, 2, 1]);
}

#[test]
fn a_view_without_event_timestamp_is_static() {
    let case = case(1, 5000..5001);
    let params = ViewParams { event_timestamp: None, ..ViewParams::clone(&case.params()) };
    let mut accumulator = ViewAccumulator::new(case.index(), Arc::new(params)).unwrap();
    accumulator.push(&case.batch(&case.features)).unwrap();
    let joined = accumulator.finish().unwrap();
    assert_eq!(joined.statuses, [RowStatus::Found]);
    assert!(joined.event_timestamps.is_null(0));
}

#[test]
fn statuses_of_values_tell_null_from_missing() {
    let joined = JoinedView {
        features: vec![Arc::new(Int64Array::from(vec![Some(1), None, None, None]))],
        statuses: vec![RowStatus::Found, RowStatus::Found, RowStatus::NotFound, RowStatus::OutsideMaxAge],
        event_timestamps: TimestampMicrosecondArray::from(vec![1; 4]).with_timezone_utc(),
    };
    let statuses = feature_statuses(&joined, 0);
    assert_eq!(statuses.iter().map(|status| *status as u8).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let names: Vec<_> = statuses.into_iter().map(FeatureStatus::as_str).collect();
    assert_eq!(names, ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]);
}

/// Checks that the rows of a column are in strictly ascending order, and each equal to itself.
fn check_ascending(column: ArrayRef) {
    assert!(ContentOrder::supports(column.data_type()));
    let columns = [column];
    for i in 0..columns[0].len() {
        for j in 0..columns[0].len() {
            assert_eq!(ContentOrder::compare(&columns, i, &columns, j), i.cmp(&j), "rows {i} and {j}");
        }
    }
}

#[test]
fn floats_are_in_total_order_after_null() {
    let floats = [None, Some(f32::NEG_INFINITY), Some(-0.0), Some(0.0), Some(f32::INFINITY), Some(f32::NAN)];
    check_ascending(Arc::new(Float32Array::from(floats.to_vec())));
}

#[test]
fn lists_are_in_the_order_of_their_items() {
    let lists = vec![
        None,
        Some(vec![]),
        Some(vec![None]),
        Some(vec![None, Some(0.0)]),
        Some(vec![Some(1.0)]),
        Some(vec![Some(1.0), None]),
        Some(vec![Some(2.0)]),
    ];
    check_ascending(Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists.clone())));
    check_ascending(Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(lists)));
}

#[test]
fn maps_are_in_the_order_of_their_entries() {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    builder.append(false).unwrap();
    for entries in
        [vec![], vec![("a", None)], vec![("a", Some(1))], vec![("a", Some(1)), ("b", None)], vec![("b", None)]]
    {
        for (key, value) in entries {
            builder.keys().append_value(key);
            builder.values().append_option(value);
        }
        builder.append(true).unwrap();
    }
    check_ascending(Arc::new(builder.finish()));
}

#[test]
fn dictionaries_are_in_the_order_of_their_values() {
    let keys = Int32Array::from(vec![None, Some(1), Some(0)]);
    let values = Arc::new(StringArray::from(vec!["b", "a"]));
    check_ascending(Arc::new(DictionaryArray::<Int32Type>::new(keys, values)));
}

#[test]
fn the_first_column_that_differs_decides() {
    let columns: [ArrayRef; 2] =
        [Arc::new(BooleanArray::from(vec![true, true, false])), Arc::new(Int64Array::from(vec![1, 2, 3]))];
    assert_eq!(ContentOrder::compare(&columns, 0, &columns, 1), Ordering::Less);
    assert_eq!(ContentOrder::compare(&columns, 1, &columns, 2), Ordering::Greater);
}
