//! What follows from the aggregations of a view, and where they stand.

use super::*;
use crate::diagnostics::Span;

/// A view of aggregations over a source that declares some of its columns.
fn file_of(aggregations: &str) -> String {
    format!(
        "
entities: [{{name: carrier, join_keys: [{{name: carrier, type: string}}]}}]
sources:
  - name: arrivals
    batch: {{format: parquet, path: a}}
    event_timestamp: at
    schema:
      - {{name: at, type: timestamp}}
      - {{name: delay, type: int32}}
      - {{name: fare, type: float32}}
      - {{name: dest, type: string}}
      - {{name: late, type: bool}}
      - {{name: tags, type: list<string>}}
feature_views:
  - {{name: v, entities: [carrier], source: arrivals, aggregations: {aggregations}}}
"
    )
}

fn view(aggregations: &str) -> FeatureView {
    let definitions = parse(&file_of(aggregations)).unwrap_or_else(|errors| panic!("{errors}"));
    definitions.feature_views.into_iter().next().unwrap()
}

#[track_caller]
fn check_features(aggregations: &str, expected: &[&str]) {
    let found: Vec<_> = view(aggregations).features.iter().map(|f| format!("{} {}", f.name, f.value_type)).collect();
    assert_eq!(found, expected, "{aggregations}");
}

#[track_caller]
fn check_event_columns(aggregations: &str, expected: &[&str]) {
    let columns = view(aggregations).event_columns;
    let drawn = |c: &EventColumn| format!("{} {} = {}", c.field.name, c.field.value_type, c.expression);
    assert_eq!(columns.iter().map(drawn).collect::<Vec<_>>(), expected, "{aggregations}");
}

#[test]
fn features_are_named_by_input_function_and_window() {
    check_features(
        "[{input: delay, function: mean, windows: [1h, 24h, 2w, 90m, 500ms, lifetime]}]",
        &[
            "delay_mean_1h float64",
            "delay_mean_1d float64",
            "delay_mean_14d float64",
            "delay_mean_90m float64",
            "delay_mean_500ms float64",
            "delay_mean_lifetime float64",
        ],
    );
    check_features("[{function: count, windows: [1h]}]", &["count_1h int64"]);
    check_features("[{function: count, windows: [1h], name: flights}]", &["flights_1h int64"]);
    check_features("[{input: ' delay ', function: sum, windows: [1h]}]", &["delay_sum_1h int64"]);
    check_features("[{input: 'delay > 15', function: mean, windows: [1d], name: late}]", &["late_1d float64"]);
    // One name for several aggregations, as long as their windows differ.
    check_features(
        "[{name: x, input: delay, function: min, windows: [1h]}, {name: x, input: delay, function: max, windows: [2h]}]",
        &["x_1h int32", "x_2h int32"],
    );
}

#[test]
fn types_of_features_follow_from_those_that_are_declared() {
    for (aggregation, expected) in [
        ("input: delay, function: count", "int64"),
        ("input: delay, function: sum", "int64"),
        ("input: fare, function: sum", "float64"),
        ("input: late, function: mean", "float64"),
        ("input: delay, function: stddev", "float64"),
        ("input: delay, function: max", "int32"),
        ("input: dest, function: max", "string"),
        ("input: at, function: max", "timestamp"),
        ("input: dest, function: first", "string"),
        ("input: dest, function: last, n: 1", "list<string>"),
        ("input: fare, function: top, n: 10000", "list<float32>"),
        ("input: dest, function: count_distinct", "int64"),
        ("input: dest, function: approx_count_distinct", "int64"),
        ("input: delay, function: approx_percentile, p: 0", "float64"),
        ("input: delay, function: approx_percentile, p: [0.5]", "list<float64>"),
        ("input: delay, function: histogram", "map<int32, int64>"),
        ("input: late, function: any", "bool"),
        ("function: count, by: dest", "map<string, int64>"),
        ("function: count, by: delay", "map<int32, int64>"),
        ("input: delay, function: top, n: 3, by: dest", "map<string, list<int32>>"),
        // Not declared: until the source is read.
        ("input: other, function: max", "float64"),
        ("input: other, function: all", "bool"),
        ("input: other, function: histogram", "map<float64, int64>"),
        ("function: count, by: other", "map<string, int64>"),
        ("input: delay + 1, function: max", "float64"),
    ] {
        let view = view(&format!("[{{name: x, windows: [1h], {aggregation}}}]"));
        assert_eq!(view.features[0].value_type.to_string(), expected, "{aggregation}");
    }
}

#[test]
fn inputs_and_buckets_are_kept_once_under_names_of_their_own() {
    check_event_columns("[{function: count, windows: [1h]}]", &[]);
    check_event_columns(
        "[{input: delay, function: mean, windows: [1h]},
          {input: ' delay', function: max, windows: [1h], by: dest},
          {input: dest, function: last, windows: [1h]},
          {input: other, function: any, windows: [1h]}]",
        &["delay int32 = delay", "dest string = dest", "other bool = other"],
    );
    check_event_columns(
        "[{input: delay > 15, function: mean, windows: [1h], name: late_share},
          {input: delay > 15, function: any, windows: [1h], name: any_late},
          {function: count, windows: [1h], name: by_letter, by: 'left(dest, 1)'}]",
        &["late_share float64 = delay > 15", "by_letter string = left(dest, 1)"],
    );
}

#[test]
fn a_column_of_events_has_no_name_that_its_table_has() {
    // A join key and the times of the table go by the aggregation's name.
    check_event_columns(
        "[{input: carrier, function: last, windows: [1h]},
          {input: event_timestamp, function: max, windows: [1h]},
          {input: created_timestamp, function: max, windows: [1h], name: created_timestamp}]",
        &[
            "carrier_last float64 = carrier",
            "event_timestamp_max float64 = event_timestamp",
            "input_1 float64 = created_timestamp",
        ],
    );
    // A plain column keeps its name wherever it stands.
    check_event_columns(
        "[{input: delay + 1, function: max, windows: [1h], name: delay},
          {input: delay + 2, function: max, windows: [1h], name: carrier},
          {input: delay, function: max, windows: [2h]},
          {input: input_1, function: max, windows: [1h]}]",
        &[
            "input_2 float64 = delay + 1",
            "input_3 float64 = delay + 2",
            "delay int32 = delay",
            "input_1 float64 = input_1",
        ],
    );
    // The input takes the aggregation's name, its bucket a number.
    check_event_columns(
        "[{input: delay + 1, function: max, windows: [1h], name: x, by: upper(dest)}]",
        &["x float64 = delay + 1", "input_1 string = upper(dest)"],
    );
}

#[test]
fn what_aggregations_read_can_be_found() {
    let view = view("[{input: delay, function: mean, windows: [1h], by: ' dest '}]");
    assert!(view.is_aggregation() && view.aggregations().len() == 1);
    assert_eq!(view.event_column(" delay"), Some(0));
    assert_eq!(view.event_column("dest"), Some(1));
    assert_eq!(view.event_column("fare"), None);
    assert_eq!(view.stored_fields().len(), 2);
}

#[test]
fn parts_of_aggregations_have_places() {
    let text = "
sources: [{name: s, batch: {format: parquet, path: a}, event_timestamp: at}]
feature_views:
  - name: v
    source: s
    where: a > 0
    aggregations:
      - {function: count, windows: [1h]}
      - {input: delay, function: mean, windows: [1h, 1d], by: dest}
      - {input: delay > 15, function: mean, windows: [1d], name: late}
";
    let (_, positions) = parse_located(&[file("a.yaml", text)]).unwrap_or_else(|errors| panic!("{errors}"));
    let column = |name: &str| Part::Column(name.to_owned());
    for (part, expected) in [
        (Part::Input, "s\n"),
        (Part::Where, "a > 0"),
        (Part::AggregationInput(0), "s\n"),
        (Part::AggregationInput(1), "delay, function"),
        (Part::AggregationInput(2), "delay > 15"),
        (Part::AggregationBy(1), "dest}"),
        (Part::AggregationBy(2), "s\n"),
        (column("count_1h"), "count, windows"),
        (column("delay_mean_1d"), "delay, function"),
        (column("delay_mean"), "delay, function"),
        (column("delay"), "delay, function"),
        (column("dest"), "dest}"),
        (column("late_1d"), "late}"),
        (Part::ColumnType("late".to_owned()), "late}"),
        (column("carrier"), "s\n"),
    ] {
        let Span { offset, .. } = positions.span(&Owner::FeatureView("v".into()), &part).unwrap();
        assert!(text[offset..].starts_with(expected), "{part:?}: {}", &text[offset..]);
    }
}

#[test]
fn a_view_of_very_many_features_is_refused() {
    let windows: Vec<String> = (1..=2_000).map(|minutes| format!("{minutes}m")).collect();
    let aggregations = |count: usize| {
        let one = |at: usize| format!("{{name: x{at}, function: count, windows: [{}]}}", windows.join(","));
        format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(", "))
    };
    assert_eq!(view(&aggregations(5)).features.len(), 10_000);
    let errors = parse(&file_of(&aggregations(6))).unwrap_err();
    assert_eq!(errors.iter().next().unwrap().message, "feature view `v` has 12000 features, more than 10000");
}
