//! Expressions over two integers, a float and a text, in both answers' one form.

use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray};
use arrow::util::display::array_value_to_string;

use super::*;
use crate::definition::{DefinitionFile, parse_definitions};
use crate::error::ErrorKind;

/// An on-demand view with one feature over the request values x and q (int64), i (int32), f (float64) and s (string).
fn definitions(value_type: &str, expression: &str) -> Definitions {
    let text = serde_json::json!({"on_demand_feature_views": [{
        "name": "od",
        "request": [
            {"name": "x", "type": "int64"},
            {"name": "q", "type": "int64"},
            {"name": "i", "type": "int32"},
            {"name": "f", "type": "float64"},
            {"name": "s", "type": "string"},
        ],
        "features": [{"name": "o", "type": value_type, "expression": expression}],
    }]});
    let file = DefinitionFile { path: "a.yaml".to_owned(), text: text.to_string() };
    parse_definitions(&[file]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn compile(value_type: &str, expression: &str) -> Result<OnDemandPlan, CompileError> {
    let definitions = definitions(value_type, expression);
    OnDemandPlan::compile(&definitions, &definitions.on_demand_feature_views[0])
}

/// Rows whose first, third and fifth are at the ends of what the types hold.
fn rows() -> Vec<ArrayRef> {
    vec![
        Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(2), Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(Int64Array::from(vec![Some(1), Some(3), Some(1), Some(4), Some(2)])),
        Arc::new(Int32Array::from(vec![Some(i32::MAX), Some(2), Some(i32::MIN), None, Some(0)])),
        Arc::new(Float64Array::from(vec![Some(1e300), Some(2.5), Some(f64::NAN), None, Some(-2.5)])),
        Arc::new(StringArray::from(vec![Some("a"), Some("7"), Some(""), None, Some("b")])),
    ]
}

/// Checks the values of the five rows, `-` where they are null, whole and row by row.
fn check(value_type: &str, expression: &str, expected: &str) {
    let plan = compile(value_type, expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let text = |columns: Vec<ArrayRef>, rows: usize| {
        let values = plan.evaluate(columns, rows).unwrap().remove(0);
        assert_eq!(*values.data_type(), arrow_type(&value_type.parse().unwrap()), "{expression}");
        let value =
            |row| if values.is_null(row) { "-".to_owned() } else { array_value_to_string(&values, row).unwrap() };
        (0..rows).map(value).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(text(rows(), 5), expected, "{expression}");
    let alone: Vec<String> =
        (0..5).map(|row| text(rows().iter().map(|column| column.slice(row, 1)).collect(), 1)).collect();
    assert_eq!(alone.join(" "), expected, "{expression}, row by row");
}

#[test]
fn functions_that_stand_for_others_give_what_they_give_in_a_query() {
    check("int64", "coalesce(x, q, 0)", "9223372036854775807 2 -9223372036854775808 4 9223372036854775807");
    check("int64", "nvl(x, 0 - q)", "9223372036854775807 2 -9223372036854775808 -4 9223372036854775807");
    check("int64", "ifnull(x, 5)", "9223372036854775807 2 -9223372036854775808 5 9223372036854775807");
    check("int64", "nvl2(x, q, 9)", "1 3 1 9 2");
    check("float64", "arrow_cast(q, 'Float64') / 2", "0.5 1.5 0.5 2.0 1.0");
    check("bool", "starts_with(s, 'a')", "true false false - false");
    check("float64", "power(q, 2)", "1.0 9.0 1.0 16.0 4.0");
    check("bool", "coalesce(x, 0) = 2 AND s IN ('7', 'b')", "false true false false false");
}

#[test]
fn integers_that_overflow_are_null() {
    check("int64", "x + q", "- 5 -9223372036854775807 - -");
    check("int64", "q - x", "-9223372036854775806 1 - - -9223372036854775805");
    check("int64", "x * q", "9223372036854775807 6 -9223372036854775808 - -");
    check("int64", "-x", "-9223372036854775807 -2 - - -9223372036854775807");
    check("int64", "abs(x)", "9223372036854775807 2 - - 9223372036854775807");
    check("int64", "x / -1", "-9223372036854775807 -2 - - -9223372036854775807");
    check("int64", "q * (9223372036854775807 + 1)", "- - - - -");
    check("int64", "CASE WHEN q = 3 THEN 0 ELSE x + q END", "- 0 -9223372036854775807 - -");
    check("int32", "i + i", "- 4 - - 0");
    check("int32", "-i", "-2147483647 -2 - - 0");
    check("int32", "x", "- 2 - - -");
    check("int64", "i + 1", "2147483648 3 -2147483647 - 1");
    check("int64", "x % 0", "- - - - -");
    check("int64", "lcm(x, q)", "9223372036854775807 6 - - -");
    check("int64", "factorial(q * 10)", "3628800 - 3628800 - 2432902008176640000");
    let day_later = "to_timestamp_micros(x) + INTERVAL '1 day' > to_timestamp_micros(q)";
    check("bool", day_later, "- true - - -");
}

#[test]
fn casts_that_do_not_fit_are_null() {
    check("int64", "f", "- 2 - - -2");
    check("int64", "CAST(s AS BIGINT)", "- 7 - - -");
    check("timestamp", "to_timestamp_seconds(x)", "- 1970-01-01T00:00:02Z - - -");
    check(
        "timestamp",
        "to_timestamp_nanos(-q)",
        concat!(
            "1969-12-31T23:59:59.999999Z 1969-12-31T23:59:59.999999Z 1969-12-31T23:59:59.999999Z ",
            "1969-12-31T23:59:59.999999Z 1969-12-31T23:59:59.999999Z"
        ),
    );
    check("timestamp", "arrow_cast(i, 'Date32')", "- 1970-01-03T00:00:00Z - - 1970-01-01T00:00:00Z");
    check("float32", "f", "inf 2.5 NaN - -2.5");
}

/// Checks that an expression is refused as the definition's fault, saying `said`.
fn check_refused(value_type: &str, expression: &str, said: &str) {
    let error = compile(value_type, expression).expect_err(expression);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(said), "{expression}: `{error}` does not say `{said}`");
    for raw in ["Utf8", "Int64", "AggregateFunction", "inner:"] {
        assert!(!error.to_string().contains(raw), "{expression}: {error}");
    }
}

#[test]
fn what_a_row_cannot_answer_is_refused() {
    check_refused("int64", "sum(x)", "the aggregate function `sum`, and an expression sees one row");
    check_refused("int64", "x - max(x)", "the aggregate function `max`");
    check_refused("int64", "row_number() OVER (ORDER BY x)", "the window function `row_number`");
    check_refused("int64", "(SELECT 1)", "a subquery");
    check_refused("float64", "random()", "calls `random`");
    check_refused("bool", "coalesce(now() > to_timestamp(x), true)", "calls `now`");
    check_refused("string", "uuid()", "calls `uuid`");
}

#[test]
fn what_does_not_compile_is_told_in_the_words_of_definitions() {
    check_refused("string", "x + 1", "gives int64, declared string");
    check_refused("int64", "CAST(x AS VARCHAR)", "gives string, declared int64");
    check_refused("int64", "y + 1", "there is no column `y`; the columns are `x`, `q`, `i`, `f`, `s`");
    check_refused("int64", "nonsense(x)", "nonsense");
    check_refused("int64", "x +", "Expected");
    check_refused("int64", "s - 1 + abs(s)", "string");
    check_refused("int64", "x + CAST('far' AS BIGINT)", "'far'");
    check_refused("bool", "to_timestamp_seconds(x) > DATE '2024-02-30'", "2024-02-30");
}

#[test]
fn an_expression_that_can_never_be_evaluated_is_refused() {
    // The type checker takes a stride for each row, and nothing else does.
    let stride = "CASE WHEN x > 1 THEN INTERVAL '1 day' ELSE INTERVAL '2 days' END";
    check_refused("timestamp", &format!("date_bin({stride}, to_timestamp_seconds(q))"), "DATE_BIN");
}

#[test]
fn every_expression_that_is_wrong_is_told() {
    let mut definitions = definitions("int64", "sum(x)");
    let view = &mut definitions.on_demand_feature_views[0];
    let mut second = view.features[0].clone();
    second.expression = "y".to_owned();
    view.features.push(second);
    let view = view.clone();
    assert_eq!(OnDemandPlan::compile_all(&definitions, &view).unwrap_err().len(), 2);
}
