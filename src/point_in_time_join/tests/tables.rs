//! Named cases, drawn as tables. One text key, one whole-number feature; `-` is null.
//!
//! ```text
//! spine:     key time
//! features:  key event created value
//! expected:  status event value, one row for each of the spine
//! ```

use arrow::datatypes::DataType;

use super::super::RowStatus;
use super::fixture::{Case, Row, check};
use super::oracle::{FeatureRow, Nullable, Rules, SpineRow, Value};

const ANY_AGE: Rules = Rules { ttl_micros: None, as_known: false, has_created: true };
const AS_KNOWN: Rules = Rules { as_known: true, ..ANY_AGE };

fn ttl(micros: u64) -> Rules {
    Rules { ttl_micros: Some(micros), ..ANY_AGE }
}

#[track_caller]
fn table(rules: Rules, spine: &str, features: &str, expected: &str) {
    let spine = cells(spine).map(|row| SpineRow { keys: vec![text(row[0])], time: int(row[1]) }).collect();
    let features = cells(features).map(|row| FeatureRow {
        keys: vec![text(row[0])],
        event: int(row[1]),
        created: int(row[2]),
        values: vec![int(row[3]).map(Value::Int)],
    });
    let case = Case {
        key_types: vec![DataType::Utf8],
        value_types: vec![DataType::Int64],
        spine,
        features: features.collect(),
        rules,
    };
    let row =
        |row: Vec<&str>| Row { status: status(row[0]), event: int(row[1]), values: vec![int(row[2]).map(Value::Int)] };
    let expected: Vec<Row> = cells(expected).map(row).collect();
    assert_eq!(case.expected(), expected, "the oracle");
    check(&case, &expected);
}

fn cells(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| !row.is_empty())
}

fn text(cell: &str) -> Nullable {
    (cell != "-").then(|| Value::Text(cell.to_owned()))
}

fn int(cell: &str) -> Option<i64> {
    match cell {
        "-" => None,
        "first" => Some(i64::MIN + 1),
        "last" => Some(i64::MAX),
        number => Some(number.parse().unwrap()),
    }
}

fn status(cell: &str) -> RowStatus {
    match cell {
        "found" => RowStatus::Found,
        "not_found" => RowStatus::NotFound,
        "too_old" => RowStatus::OutsideMaxAge,
        other => panic!("`{other}` is no status"),
    }
}

#[test]
fn the_newest_row_at_or_before_the_asked_time_holds() {
    table(
        ANY_AGE,
        "a  9
         a 10
         a 19
         a 20
         a 99",
        "a 10 - 1
         a 20 - 2",
        "not_found - -
         found    10 1
         found    10 1
         found    20 2
         found    20 2",
    );
}

#[test]
fn of_one_event_timestamp_the_row_written_last_holds_and_null_is_first() {
    table(
        ANY_AGE,
        "a 10
         b 10
         c 10",
        "a 10  7 1
         a 10  8 2
         a 10  - 3
         b 10  - 4
         b 10 -5 5
         c  9  9 6
         c 10  - 7",
        "found 10 2
         found 10 5
         found 10 7",
    );
}

#[test]
fn rows_that_only_their_values_tell_apart_are_ordered_by_them() {
    table(
        ANY_AGE,
        "a 10
         b 10",
        "a 10 5 1
         a 10 5 3
         a 10 5 2
         b 10 - -
         b 10 - -7",
        "found 10  3
         found 10 -7",
    );
}

#[test]
fn a_null_in_the_row_that_holds_is_the_answer() {
    table(
        ANY_AGE,
        "a 10",
        "a  9 - 1
         a 10 - -",
        "found 10 -",
    );
}

#[test]
fn a_row_exactly_as_old_as_the_ttl_still_holds() {
    table(
        ttl(5),
        "a 14
         a 15
         a 16",
        "a 10 - 1",
        "found   10 1
         found   10 1
         too_old 10 -",
    );
}

#[test]
fn a_row_too_old_is_not_replaced_by_another() {
    table(
        ttl(5),
        "a 20",
        "a 10 99 1
         a 14  1 2",
        "too_old 14 -",
    );
}

#[test]
fn a_ttl_of_zero_takes_rows_of_the_asked_moment_only() {
    table(
        ttl(0),
        "a 10
         a 11",
        "a 10 - 1",
        "found   10 1
         too_old 10 -",
    );
}

#[test]
fn ttl_reaches_no_further_than_the_first_instant() {
    table(
        ttl(u64::MAX),
        "a last
         b first",
        "a first - 1
         b first - 2",
        "found first 1
         found first 2",
    );
    table(
        ttl(10),
        "a last
         b first",
        "a first - 1
         b first - 2",
        "too_old first -
         found   first 2",
    );
}

#[test]
fn static_rows_hold_at_every_time_and_never_age() {
    table(
        ttl(5),
        "a first
         a 1000
         b 1000",
        "a - - 1
         b - - 1
         b 999 - 2",
        "found - 1
         found - 1
         found 999 2",
    );
}

#[test]
fn null_keys_and_null_times_find_nothing() {
    table(
        ANY_AGE,
        "- 10
         a -
         a 10",
        "- 5 - 1
         - - - 2
         a 5 - 3",
        "not_found - -
         not_found - -
         found     5 3",
    );
}

#[test]
fn spine_rows_that_are_equal_each_get_the_answer() {
    table(
        ANY_AGE,
        "a 10
         b 10
         a 10",
        "a 5 - 1",
        "found     5 1
         not_found - -
         found     5 1",
    );
}

#[test]
fn as_known_sees_a_row_from_when_it_was_written_down() {
    table(
        AS_KNOWN,
        "a 10
         a 15
         a 16
         a 30",
        "a  5  6 1
         a 10 16 2
         a 20  - 3",
        "found  5 1
         found  5 1
         found 10 2
         found 10 2",
    );
}

#[test]
fn as_known_a_correction_written_late_does_not_displace_a_newer_event() {
    table(
        AS_KNOWN,
        "a 25
         a 40",
        "a 10 10 1
         a 20 20 2
         a 10 30 3",
        "found 20 2
         found 20 2",
    );
}

#[test]
fn as_known_counts_the_age_from_the_event() {
    table(
        Rules { ttl_micros: Some(5), ..AS_KNOWN },
        "a 15
         a 16",
        "a 10 15 1",
        "found   10 1
         too_old 10 -",
    );
}

#[test]
fn as_known_takes_static_rows_from_when_they_were_written_down() {
    table(
        AS_KNOWN,
        "a 10
         a 11",
        "a - 11 1
         a -  - 2",
        "not_found - -
         found     - 1",
    );
}

#[test]
fn as_known_does_not_concern_views_without_created_timestamp() {
    table(Rules { has_created: false, ..AS_KNOWN }, "a 10", "a 5 99 1", "found 5 1");
}

#[test]
fn nothing_asked_or_nothing_there_is_no_error() {
    table(ANY_AGE, "", "a 5 - 1", "");
    table(ANY_AGE, "a 5", "", "not_found - -");
    table(ANY_AGE, "", "", "");
}

#[test]
fn texts_that_run_together_alike_are_different_keys() {
    let keys = |a: &str, b: &str| vec![text(a), text(b)];
    let feature = |keys: Vec<Nullable>, value: i64| FeatureRow {
        keys,
        event: Some(1),
        created: None,
        values: vec![Some(Value::Int(value))],
    };
    let case = Case {
        key_types: vec![DataType::Utf8, DataType::Utf8],
        value_types: vec![DataType::Int64],
        spine: vec![
            SpineRow { keys: keys("ab", "c"), time: Some(1) },
            SpineRow { keys: keys("a", "bc"), time: Some(1) },
            SpineRow { keys: keys("abc", "-"), time: Some(1) },
        ],
        features: vec![feature(keys("a", "bc"), 1), feature(keys("ab", "c"), 2), feature(keys("abc", "-"), 3)],
        rules: ANY_AGE,
    };
    let found = |value| Row { status: RowStatus::Found, event: Some(1), values: vec![Some(Value::Int(value))] };
    let not_found = Row { status: RowStatus::NotFound, event: None, values: vec![None] };
    check(&case, &[found(2), found(1), not_found]);
}
