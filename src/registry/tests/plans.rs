//! What a change of the project does to the plan, and to the identity of what views store.

use serde_json::{Value, json};

use super::super::{Cost, DefinitionKind, RemovedView, ViewState};
use super::*;

/// What becomes of `origin_weather`, the first view.
#[derive(Debug, PartialEq)]
enum Becomes {
    /// Not in the plan.
    Untouched,
    /// In the plan, at no cost.
    Redescribed,
    /// To be computed again under its id.
    Recomputed,
    /// Started anew under another id.
    Rebuilt,
}
use Becomes::*;

/// Applies the project and then the changed one; says what became of the first view, and its line in the plan.
async fn change(changed: Value) -> (Becomes, String) {
    let registry = in_memory();
    let before = apply_next(&registry, project()).await.views["origin_weather"];
    let plan = plan_next(&registry, changed).await;
    let shown = plan.changes.iter().find(|c| c.kind == DefinitionKind::FeatureView && c.name == "origin_weather");
    let after = registry.apply(&plan, &clock()).await.unwrap().views["origin_weather"];
    let becomes = match (shown.map(|change| change.cost), after) {
        (None, after) if after == before => Untouched,
        (Some(None), after) if after == before => Redescribed,
        (Some(Some(Cost::Backfill)), after)
            if after == ViewState { data_version: before.data_version + 1, ..before } =>
        {
            Recomputed
        }
        (Some(Some(Cost::Rewrite)), after) if after.id > before.id => Rebuilt,
        other => panic!("the cost and the identity disagree: {before:?}, {other:?}"),
    };
    (becomes, shown.map(told).unwrap_or_default())
}

#[tokio::test]
async fn identities_follow_what_the_rows_hold() {
    let view = |pointer: &str, value: Value| with(project(), &format!("/feature_views/0{pointer}"), value);
    let source = |pointer: &str, value: Value| with(project(), &format!("/sources/0{pointer}"), value);
    let key = |pointer: &str, value: Value| with(project(), &format!("/entities/0/join_keys{pointer}"), value);
    let sql = json!("SELECT * FROM weather");
    let as_sql = with(view("/source", json!(null)), "/feature_views/0/sources", json!(["weather"]));
    let cases = [
        (project(), Untouched, ""),
        // Only told.
        (view("/ttl", json!("6h")), Redescribed, "ttl: 3h -> 6h"),
        (view("/ttl", json!(null)), Redescribed, "ttl: 3h -> no limit"),
        (view("/ttl", json!("180m")), Untouched, ""),
        (view("/lookback", json!("2d")), Redescribed, "lookback: default -> 2d"),
        (view("/description", json!("at the origin")), Redescribed, "description changed"),
        (view("/owner", json!("ops")), Redescribed, "owner: none -> ops"),
        (view("/tags", json!({"team": "a"})), Redescribed, "tag `team`: none -> a"),
        (view("/features/0/description", json!("celsius")), Redescribed, "description of `temp` changed"),
        (
            view("/features", json!([{"name": "wind", "type": "float64"}, {"name": "temp", "type": "float64"}])),
            Redescribed,
            "features ordered differently",
        ),
        (source("/description", json!("hourly")), Untouched, ""),
        (key("/0/description", json!("IATA code")), Untouched, ""),
        (with(project(), "/sources/1/batch/path", json!("elsewhere")), Untouched, ""),
        // Other rows, or other features.
        (view("/features/-", json!({"name": "dew", "type": "float64"})), Recomputed, "feature `dew` added: float64"),
        (view("/features/0", json!(null)), Recomputed, "feature `temp` removed: float64"),
        (view("/source", json!("flights")), Recomputed, "sources: weather -> flights"),
        (with(as_sql, "/feature_views/0/sql", sql), Recomputed, "rows of the source -> sql"),
        (source("/batch/path", json!("data/w")), Recomputed, "source `weather` changed"),
        (source("/batch/format", json!("csv")), Recomputed, "source `weather` changed"),
        (source("/created_timestamp", json!(null)), Recomputed, "source `weather` changed"),
        (source("/event_timestamp", json!("seen_at")), Recomputed, "source `weather` changed"),
        (source("/rename/t", json!("temp")), Recomputed, "source `weather` changed"),
        (source("/schema", json!([{"name": "temp", "type": "float64"}])), Recomputed, "source `weather` changed"),
        // Rows that cannot stay.
        (view("/features/0/type", json!("int64")), Rebuilt, "type of `temp`: float64 -> int64"),
        (key("/0/type", json!("int64")), Rebuilt, "entity `origin` changed; join keys: origin string -> origin int64"),
        (key("/0/name", json!("code")), Rebuilt, "entity `origin` changed; join keys: origin string -> code string"),
        (
            view("/entities", json!(["route"])),
            Rebuilt,
            "entities: origin -> route; join keys: origin string -> origin string, dest string",
        ),
        (source("/event_timestamp", json!(null)), Rebuilt, "source `weather` changed; rows: timed -> static"),
        (view("/source", json!("airports")), Rebuilt, "sources: weather -> airports; rows: timed -> static"),
    ];
    for (changed, expected, details) in cases {
        assert_eq!(change(changed).await, (expected, details.to_owned()));
    }
}

#[tokio::test]
async fn the_order_of_join_keys_is_part_of_the_identity() {
    let registry = in_memory();
    let before = apply_next(&registry, project()).await.views["route_profile"];
    let swapped = json!([{"name": "dest", "type": "string"}, {"name": "origin", "type": "string"}]);
    let after = apply_next(&registry, with(project(), "/entities/1/join_keys", swapped)).await.views["route_profile"];
    assert_ne!(after.id, before.id);
}

#[tokio::test]
async fn sql_changes_when_more_than_its_margins_do() {
    let sql = project()["feature_views"][1]["sql"].as_str().unwrap().to_owned();
    for (sql, recomputed) in [(format!("\n{sql}\n"), false), (format!("{sql} WHERE air_time > 0"), true)] {
        let registry = in_memory();
        let before = apply_next(&registry, project()).await.views["route_profile"];
        let changed = with(project(), "/feature_views/1/sql", json!(sql));
        let after = apply_next(&registry, changed).await.views["route_profile"];
        assert_eq!(after, ViewState { data_version: before.data_version + u64::from(recomputed), ..before });
    }
}

#[tokio::test]
async fn an_entity_under_another_name_keeps_the_rows() {
    let registry = in_memory();
    let before = apply_next(&registry, project()).await.views.clone();
    let renamed =
        with(with(project(), "/entities/0/name", json!("city")), "/feature_views/0/entities/0", json!("city"));
    assert_eq!(apply_next(&registry, renamed).await.views, before);
}

#[tokio::test]
async fn ids_are_never_given_twice() {
    let registry = in_memory();
    let without_weather = with(with(project(), "/feature_views/0", json!(null)), "/feature_services", json!([]));
    let retyped = with(project(), "/feature_views/0/features/0/type", json!("int64"));
    let projects = [project(), without_weather.clone(), project(), retyped, project(), without_weather, project()];
    let mut seen = std::collections::BTreeMap::new();
    let mut retired = Vec::new();
    for project in projects {
        let version = apply_next(&registry, project).await;
        for (name, state) in &version.views {
            assert_eq!(seen.entry(state.id).or_insert(name.clone()), name, "id {}", state.id);
            assert!(state.id < version.next_view_id);
        }
        let ids = version.removed_views.iter().map(|removed| removed.id);
        assert!(ids.clone().all(|id| version.views.values().all(|state| state.id != id)));
        retired = version.removed_views;
    }
    let removed = |id, removed_in| RemovedView { name: "origin_weather".into(), id, removed_in };
    assert_eq!(retired, [removed(1, 2), removed(4, 4), removed(5, 5), removed(6, 6)]);
}

#[tokio::test]
async fn moving_definitions_about_is_no_change() {
    let registry = in_memory();
    apply_next(&registry, project()).await;
    let mut moved = project();
    for kind in ["entities", "sources", "feature_views"] {
        moved[kind].as_array_mut().unwrap().reverse();
    }
    let plan = plan_next(&registry, moved).await;
    assert!(plan.is_empty());
    assert_eq!(plan.to_string(), "No changes: the registry is up to date (version 1).");
}

#[test]
fn names_that_do_not_resolve_do_no_harm() {
    let dangling = with(project(), "/entities", json!([]));
    let dangling =
        with(with(dangling, "/sources", json!([])), "/on_demand_feature_views/0/features_from", json!(["trip"]));
    let base = plan(None, definitions(dangling.clone())).next_version(EventTimestamp::from_micros(0));
    assert!(plan(Some(&base), definitions(dangling.clone())).is_empty());
    plan(Some(&base), definitions(with(dangling, "/feature_views", json!([]))));
    plan(Some(&base), definitions(project()));
}

#[tokio::test]
async fn a_first_plan_adds_everything() {
    insta::assert_snapshot!(plan_next(&in_memory(), project()).await, @"
    + entity origin
    + entity route
    + entity airport
    + source weather
    + source flights
    + source airports
    + feature view origin_weather
        cost: to be materialized from the beginning
    + feature view route_profile
        cost: to be materialized from the beginning
    + feature view airport_profile
        cost: to be materialized from the beginning
    + on-demand feature view trip
    + feature service delay_v1

    Plan: 11 to add, 0 to change, 0 to remove.
    ");
}

#[tokio::test]
async fn a_plan_shows_what_changes_and_what_it_costs() {
    let registry = in_memory();
    apply_next(&registry, project()).await;
    let mut changed = with(project(), "/sources/0/batch/path", json!("data/hourly/*.parquet"));
    changed = with(changed, "/feature_views/0/ttl", json!("6h"));
    changed = with(changed, "/feature_views/0/features/1/type", json!("int64"));
    changed = with(changed, "/feature_views/1/name", json!("route_facts"));
    changed = with(changed, "/on_demand_feature_views/0/features_from/0", json!("route_facts:air_time"));
    changed = with(changed, "/on_demand_feature_views/0/features/0/expression", json!("60 * distance / air_time"));
    changed = with(changed, "/feature_services/-", json!({"name": "delay_v2", "features": [{"view": "route_facts"}]}));
    changed =
        with(changed, "/entities/-", json!({"name": "plane", "join_keys": [{"name": "tailnum", "type": "string"}]}));
    insta::assert_snapshot!(plan_next(&registry, changed).await, @"
    + entity plane
    ~ source weather
        batch: parquet data/weather.parquet -> parquet data/hourly/*.parquet
    ~ feature view origin_weather
        source `weather` changed
        type of `wind`: float64 -> int64
        ttl: 3h -> 6h
        cost: its table is rewritten and its online values are emptied
    + feature view route_facts
        cost: to be materialized from the beginning
    - feature view route_profile
        cost: its online values are deleted; its table stays until `asof vacuum`
    ~ on-demand feature view trip
        features_from: route_profile:air_time -> route_facts:air_time
        expression of `speed`: distance / air_time -> 60 * distance / air_time
    ~ feature service delay_v1
        breaks: type of `origin_weather:wind`: float64 -> int64
    + feature service delay_v2

    Plan: 3 to add, 4 to change, 1 to remove.
    ");
}

#[tokio::test]
async fn a_plan_is_one_json_object() {
    let registry = in_memory();
    apply_next(&registry, project()).await;
    let changed = with(project(), "/feature_views/0/features/1/type", json!("int64"));
    let plan = plan_next(&registry, changed).await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap(), @r#"
    {
      "base_version": 1,
      "changes": [
        {
          "action": "changed",
          "kind": "feature_view",
          "name": "origin_weather",
          "details": [
            "type of `wind`: float64 -> int64"
          ],
          "cost": "rewrite",
          "breaking": []
        },
        {
          "action": "changed",
          "kind": "feature_service",
          "name": "delay_v1",
          "details": [],
          "cost": null,
          "breaking": [
            {
              "service": "delay_v1",
              "change": "feature_retyped",
              "feature": "origin_weather:wind",
              "from": "float64",
              "to": "int64"
            }
          ]
        }
      ],
      "summary": {
        "added": 0,
        "changed": 2,
        "removed": 0
      },
      "breaking": [
        {
          "service": "delay_v1",
          "change": "feature_retyped",
          "feature": "origin_weather:wind",
          "from": "float64",
          "to": "int64"
        }
      ]
    }
    "#);
}
