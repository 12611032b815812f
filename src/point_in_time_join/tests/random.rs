//! Random joins against the oracle.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use proptest::prelude::*;

use super::fixture::{Case, FileLayout, check};
use super::oracle::{FeatureRow, Nullable, Rules, SpineRow, Value};

/// Few times, so that they meet; some at the edge of what an `i64` holds.
const TIMES: [i64; 12] = [i64::MIN + 1, i64::MIN + 2, -2, -1, 0, 1, 2, 3, 4, 5, i64::MAX - 1, i64::MAX];

const TTLS: [Option<u64>; 7] = [None, Some(0), Some(1), Some(2), Some(7), Some(i64::MAX as u64), Some(u64::MAX)];

fn key_types() -> impl Strategy<Value = Vec<DataType>> {
    use DataType::*;
    prop_oneof![
        Just(vec![]),
        Just(vec![Int64]),
        Just(vec![Int32]),
        Just(vec![Int16]),
        Just(vec![Date32]),
        Just(vec![Boolean]),
        Just(vec![Timestamp(TimeUnit::Microsecond, None)]),
        Just(vec![Utf8]),
        Just(vec![LargeUtf8]),
        Just(vec![Utf8View]),
        Just(vec![Binary]),
        Just(vec![LargeBinary]),
        Just(vec![BinaryView]),
        Just(vec![Utf8, Utf8]),
        Just(vec![Int64, Utf8View, Boolean]),
    ]
}

fn value_types() -> Vec<DataType> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)));
    vec![DataType::Int64, DataType::Boolean, DataType::Float64, DataType::Utf8View, list, DataType::Utf8]
}

fn key(data_type: &DataType) -> BoxedStrategy<Nullable> {
    let int = |data_type: &DataType| match data_type {
        DataType::Int64 => prop_oneof![Just(i64::MIN), Just(-1), Just(0), Just(1)].boxed(),
        DataType::Boolean => (0..2_i64).boxed(),
        _ => prop_oneof![Just(-1_i64), Just(0), Just(1)].boxed(),
    };
    let value = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => text(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => text(),
        other => int(other).prop_map(Value::Int).boxed(),
    };
    prop::option::weighted(0.9, value).boxed()
}

fn text() -> BoxedStrategy<Value> {
    let texts = ["", "a", "aa", "b", "more than twelve bytes", "more than twelve bytes!"];
    prop::sample::select(texts.to_vec()).prop_map(|text| Value::Text(text.to_owned())).boxed()
}

fn float() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![f64::NEG_INFINITY, -0.0, 0.0, 1.5, f64::NAN, -f64::NAN]).prop_map(Value::Float)
}

fn values() -> impl Strategy<Value = Vec<Nullable>> {
    let nullable = |value: BoxedStrategy<Value>| prop::option::weighted(0.7, value);
    let list = prop::collection::vec(prop::option::weighted(0.8, float()), 0..3).prop_map(Value::List);
    (
        nullable((0..2_i64).prop_map(Value::Int).boxed()),
        nullable((0..2_i64).prop_map(Value::Int).boxed()),
        nullable(float().boxed()),
        nullable(text()),
        nullable(list.boxed()),
        nullable(text()),
    )
        .prop_map(|(a, b, c, d, e, f)| vec![a, b, c, d, e, f])
}

fn time() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.85, prop::sample::select(TIMES.to_vec()))
}

fn case() -> impl Strategy<Value = Case> {
    let rules = (prop::sample::select(TTLS.to_vec()), any::<bool>(), any::<bool>())
        .prop_map(|(ttl_micros, as_known, has_created)| Rules { ttl_micros, as_known, has_created });
    (key_types(), rules).prop_flat_map(|(key_types, rules)| {
        let keys: Vec<_> = key_types.iter().map(key).collect();
        let asked = (keys.clone(), time()).prop_map(|(keys, time)| SpineRow { keys, time });
        let row = (keys, time(), time(), values()).prop_map(|(keys, event, created, values)| FeatureRow {
            keys,
            event,
            created,
            values,
        });
        // Some rows come twice.
        let rows = prop::collection::vec((row, prop::bool::weighted(0.2)), 0..24);
        let rows =
            rows.prop_map(|rows| rows.into_iter().flat_map(|(row, twice)| vec![row; 1 + usize::from(twice)]).collect());
        (prop::collection::vec(asked, 0..12), rows).prop_map(move |(spine, features)| Case {
            key_types: key_types.clone(),
            value_types: value_types(),
            spine,
            features,
            rules,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_join_is_a_nested_loop(case in case()) {
        check(&case, &case.expected());
    }

    #[test]
    fn streams_give_what_accumulators_give(case in case(), partitions in 0..5_usize) {
        let mut case = case;
        if partitions == 0 {
            case.features.clear();
        }
        assert_eq!(case.join_streamed(partitions), case.expected());
    }

    #[test]
    fn tables_give_what_a_nested_loop_gives(
        case in case(),
        sorted in any::<bool>(),
        rows_per_file in 1..9_usize,
        rows_per_group in 1..5_usize,
        rows_per_page in 1..3_usize,
    ) {
        let mut case = case;
        if sorted {
            case.sort();
        }
        let has_ties = case.has_ties();
        match case.join_table(FileLayout { rows_per_file, rows_per_group, rows_per_page }) {
            Some(rows) => assert_eq!(rows, case.expected()),
            None => assert!(has_ties, "nothing is tied"),
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn long_runs_of_one_key_give_what_a_nested_loop_gives(case in long_runs(), rows_per_file in 1..400_usize) {
        let mut case = case;
        check(&case, &case.expected());
        case.sort();
        check(&case, &case.expected());
        let layout = FileLayout { rows_per_file, rows_per_group: 60, rows_per_page: 7 };
        assert_eq!(case.join_table(layout).unwrap_or_else(|| case.expected()), case.expected());
    }
}

/// Few keys with many times each, asked often or seldom.
fn long_runs() -> impl Strategy<Value = Case> {
    let keys = || (0..3_i64).prop_map(|key| vec![Some(Value::Int(key))]);
    let time = || (0..200_i64).prop_map(Some);
    let asked = (keys(), time()).prop_map(|(keys, time)| SpineRow { keys, time });
    let row = (keys(), time(), prop::option::weighted(0.9, 0..200_i64), 0..5_i64).prop_map(
        |(keys, event, created, value)| FeatureRow { keys, event, created, values: vec![Some(Value::Int(value))] },
    );
    let rules = (prop::sample::select(vec![None, Some(0), Some(5), Some(50)]), any::<bool>(), any::<bool>())
        .prop_map(|(ttl_micros, as_known, has_created)| Rules { ttl_micros, as_known, has_created });
    (prop::collection::vec(asked, 0..300), prop::collection::vec(row, 0..300), rules).prop_map(
        |(spine, features, rules)| Case {
            key_types: vec![DataType::Int64],
            value_types: vec![DataType::Int64],
            spine,
            features,
            rules,
        },
    )
}
