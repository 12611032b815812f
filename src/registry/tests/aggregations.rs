//! What changes of an aggregation view do to the plan, to its identity and to its callers.

use serde_json::{Value, json};

use super::super::Cost;
use super::*;
use crate::definition::{DefinitionFile, FeatureView, ValueType, parse_definitions};

/// An aggregation view and a service that reads one of its features.
fn project() -> Value {
    json!({
        "entities": [{"name": "carrier", "join_keys": [{"name": "carrier", "type": "string"}]}],
        "sources": [
            {"name": "arrivals", "batch": {"format": "parquet", "path": "data/arrivals"}, "event_timestamp": "at",
             "schema": [{"name": "at", "type": "timestamp"}, {"name": "delay", "type": "int32"},
                        {"name": "dest", "type": "string"}]}
        ],
        "feature_views": [
            {"name": "delays", "entities": ["carrier"], "source": "arrivals", "where": "cancelled = false",
             "aggregations": [
                {"input": "delay", "function": "mean", "windows": ["1h", "1d"]},
                {"input": "delay > 15", "function": "mean", "windows": ["1d"], "name": "late"},
                {"input": "delay", "function": "top", "windows": ["1d"], "n": 3, "by": "dest"},
             ]}
        ],
        "feature_services": [{"name": "delay_v1", "features": ["delays:delay_mean_1d"]}]
    })
}

/// The features of aggregations follow as they do from files.
fn parsed(project: &Value) -> Definitions {
    let file = DefinitionFile { path: "a.yaml".to_owned(), text: project.to_string() };
    parse_definitions(&[file]).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Applies one after the other: the cost of the change of the view, and its line in the plan.
fn change(before: Definitions, after: Definitions) -> (Option<Cost>, String) {
    let first = plan(None, before).next_version(EventTimestamp::from_micros(0));
    let next = plan(Some(&first), after).allow_breaking();
    let (was, is) = (first.views["delays"], next.next_version(EventTimestamp::from_micros(1)).views["delays"]);
    let shown = next.changes.iter().find(|change| change.name == "delays");
    let cost = shown.and_then(|change| change.cost);
    assert_eq!(cost == Some(Cost::Rewrite), was.id != is.id);
    assert_eq!(cost == Some(Cost::Backfill), was.id == is.id && was.data_version < is.data_version);
    (cost, shown.map(told).unwrap_or_default())
}

#[test]
fn changes_are_told_by_feature_with_their_cost() {
    let set = |pointer: &str, value: Value| with(project(), &format!("/feature_views/0{pointer}"), value);
    let first = |pointer: &str, value: Value| set(&format!("/aggregations/0{pointer}"), value);
    let mut reordered = project();
    reordered["feature_views"][0]["aggregations"].as_array_mut().unwrap().swap(0, 1);
    let mut row_view = set("/aggregations", json!(null));
    row_view = with(row_view, "/feature_views/0/where", json!(null));
    row_view = with(row_view, "/feature_views/0/features", json!([{"name": "delay_mean_1d", "type": "float64"}]));
    let again = Some(Cost::Backfill);
    let cases = [
        (project(), None, ""),
        (first("/windows", json!(["60m", "24h"])), None, ""),
        (first("/name", json!("delay_mean")), None, ""),
        (set("/where", json!(" cancelled = false ")), None, ""),
        (set("/lookback", json!("2d")), None, "lookback: default -> 2d"),
        (set("/where", json!("true")), again, "where: cancelled = false -> true"),
        (set("/where", json!(null)), again, "where: cancelled = false -> none"),
        (set("/resolution", json!("5m")), again, "resolution: none -> 5m"),
        (reordered, again, "features ordered differently"),
        (
            first("/windows", json!(["1d", "lifetime"])),
            again,
            "feature `delay_mean_1h` removed: float64; feature `delay_mean_lifetime` added: float64",
        ),
        (
            set("/aggregations/1/function", json!("stddev")),
            again,
            "`late_1d`: mean of delay > 15 -> stddev of delay > 15",
        ),
        (
            set("/aggregations/1/input", json!("delay > 20")),
            again,
            "`late_1d`: mean of delay > 15 -> mean of delay > 20; \
             column of events `late`: delay > 15 -> delay > 20",
        ),
        (
            set("/aggregations/2/n", json!(5)),
            again,
            "`delay_top_1d`: top of delay, n 3, by dest -> top of delay, n 5, by dest",
        ),
        (
            set("/aggregations/2/n", json!(null)),
            again,
            "type of `delay_top_1d`: map<string, list<int32>> -> map<string, int32>; \
             `delay_top_1d`: top of delay, n 3, by dest -> top of delay, by dest",
        ),
        (
            set("/aggregations/2/by", json!("upper(dest)")),
            again,
            "`delay_top_1d`: top of delay, n 3, by dest -> top of delay, n 3, by upper(dest); \
             column of events `dest` removed: string; column of events `delay_top` added: string",
        ),
        (
            set("/aggregations/1", json!(null)),
            again,
            "feature `late_1d` removed: float64; column of events `late` removed: float64",
        ),
        (
            set(
                "/aggregations/-",
                json!({"input": "fare", "function": "approx_percentile", "p": [0.5, 1], "windows": ["1h"]}),
            ),
            again,
            "feature `fare_approx_percentile_1h` added: list<float64>; column of events `fare` added: float64",
        ),
        // Stored events have another type.
        (
            with(project(), "/sources/0/schema/1/type", json!("int64")),
            Some(Cost::Rewrite),
            "source `arrivals` changed; \
             type of `delay_top_1d`: map<string, list<int32>> -> map<string, list<int64>>; \
             type of `delay`: int32 -> int64",
        ),
        (
            row_view,
            Some(Cost::Rewrite),
            "aggregations -> rows of the source; feature `delay_mean_1h` removed: float64; \
             feature `late_1d` removed: float64; feature `delay_top_1d` removed: map<string, list<int32>>",
        ),
    ];
    for (changed, cost, details) in cases {
        let after = parsed(&changed);
        assert_eq!(change(parsed(&project()), after.clone()), (cost, details.to_owned()));
        // Back again costs the same.
        assert_eq!(change(after, parsed(&project())).0, cost);
    }
}

#[test]
fn types_that_were_found_in_the_source_change_with_it() {
    let mut found = parsed(&project());
    found.feature_views[0].event_columns[0].field.value_type = ValueType::Int64;
    let (cost, details) = change(parsed(&project()), found);
    assert_eq!((cost, details.as_str()), (Some(Cost::Rewrite), "type of `delay`: int32 -> int64"));
}

#[test]
fn a_feature_that_goes_or_changes_type_breaks_its_service() {
    let reasons = |changed: Value| {
        let base = plan(None, parsed(&project())).next_version(EventTimestamp::from_micros(0));
        let plan = plan(Some(&base), parsed(&changed));
        let breaking = plan.changes.iter().flat_map(|change| &change.breaking);
        breaking.map(|reason| reason.change.to_string()).collect::<Vec<_>>()
    };
    let first = |key: &str, value: Value| with(project(), &format!("/feature_views/0/aggregations/0/{key}"), value);
    assert_eq!(reasons(first("windows", json!(["1d"]))), Vec::<String>::new());
    assert_eq!(
        reasons(with(first("function", json!("sum")), "/feature_views/0/aggregations/0/name", json!("delay_mean"))),
        ["type of `delays:delay_mean_1d`: float64 -> int64"]
    );
    let mut gone = first("windows", json!(["1h"]));
    gone["feature_services"][0]["features"] = json!(["delays:delay_mean_1h"]);
    assert_eq!(reasons(gone), ["it no longer answers `delays:delay_mean_1d`"]);
}

#[tokio::test]
async fn aggregation_views_are_stored_and_read_again() {
    let registry = in_memory();
    let definitions = parsed(&with(project(), "/feature_views/0/resolution", json!("5m")));
    registry.apply(&plan(None, definitions.clone()), &clock()).await.unwrap();
    let stored = registry.latest().await.unwrap().unwrap().definitions;
    assert_eq!(stored, definitions);
    let view: &FeatureView = stored.feature_view("delays").unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(view).unwrap(), @r#"
    {
      "name": "delays",
      "entities": [
        "carrier"
      ],
      "source": "arrivals",
      "where": "cancelled = false",
      "aggregations": [
        {
          "input": "delay",
          "function": "mean",
          "windows": [
            "1h",
            "1d"
          ]
        },
        {
          "name": "late",
          "input": "delay > 15",
          "function": "mean",
          "windows": [
            "1d"
          ]
        },
        {
          "input": "delay",
          "function": "top",
          "windows": [
            "1d"
          ],
          "n": 3,
          "by": "dest"
        }
      ],
      "resolution": "5m",
      "features": [
        {
          "name": "delay_mean_1h",
          "type": "float64"
        },
        {
          "name": "delay_mean_1d",
          "type": "float64"
        },
        {
          "name": "late_1d",
          "type": "float64"
        },
        {
          "name": "delay_top_1d",
          "type": "map<string, list<int32>>"
        }
      ],
      "event_columns": [
        {
          "name": "delay",
          "type": "int32",
          "expression": "delay"
        },
        {
          "name": "late",
          "type": "float64",
          "expression": "delay > 15"
        },
        {
          "name": "dest",
          "type": "string",
          "expression": "dest"
        }
      ]
    }
    "#);
}
