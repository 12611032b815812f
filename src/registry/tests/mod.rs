//! A small project to change, and a registry in memory to apply it to.

mod aggregations;
mod breaking;
mod plans;
mod versions;

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::{Value, json};

use super::{Change, Detail, Plan, Registry, RegistryVersion, plan};
use crate::definition::Definitions;
use crate::time::{EventTimestamp, FixedClock};

/// The differences of a change, in one line.
fn told(change: &Change) -> String {
    let texts: Vec<&str> = change.details.iter().map(|Detail { text, .. }| text.as_str()).collect();
    texts.join("; ")
}

/// Two sources, a row view, a SQL view, a static view, an on-demand view, and a service over all of them.
fn project() -> Value {
    json!({
        "entities": [
            {"name": "origin", "join_keys": [{"name": "origin", "type": "string"}]},
            {"name": "route", "join_keys": [{"name": "origin", "type": "string"}, {"name": "dest", "type": "string"}]},
            {"name": "airport", "join_keys": [{"name": "airport", "type": "string"}]}
        ],
        "sources": [
            {"name": "weather", "batch": {"format": "parquet", "path": "data/weather.parquet"},
             "event_timestamp": "observed_at", "created_timestamp": "loaded_at", "rename": {"time_hour": "observed_at"}},
            {"name": "flights", "batch": {"format": "delta", "path": "data/flights"}, "event_timestamp": "departed_at"},
            {"name": "airports", "batch": {"format": "csv", "path": "data/airports.csv"}}
        ],
        "feature_views": [
            {"name": "origin_weather", "entities": ["origin"], "source": "weather", "ttl": "3h",
             "features": [{"name": "temp", "type": "float64"}, {"name": "wind", "type": "float64"}]},
            {"name": "route_profile", "entities": ["route"], "sources": ["flights"],
             "sql": "SELECT origin, dest, departed_at AS event_timestamp, air_time FROM flights",
             "features": [{"name": "air_time", "type": "float64"}]},
            {"name": "airport_profile", "entities": ["airport"], "source": "airports",
             "features": [{"name": "lat", "type": "float64"}, {"name": "lon", "type": "float64"}]}
        ],
        "on_demand_feature_views": [
            {"name": "trip", "request": [{"name": "distance", "type": "float64"}],
             "features_from": ["route_profile:air_time"],
             "features": [{"name": "speed", "type": "float64", "expression": "distance / air_time"}]}
        ],
        "feature_services": [
            {"name": "delay_v1", "features": [
                {"view": "origin_weather"},
                {"view": "airport_profile", "features": ["lat"], "as": "destination", "join_keys": {"airport": "dest"}},
                {"view": "trip"}
            ]}
        ]
    })
}

fn definitions(project: Value) -> Definitions {
    serde_json::from_value(project).expect("the project of the test is well formed")
}

/// The project with a value set at a JSON pointer; `null` removes it, and `/-` at the end appends.
fn with(mut project: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').expect("a JSON pointer");
    match project.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent} in the project")) {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) if value.is_null() => {
            items.remove(last.parse().expect("an index"));
        }
        Value::Array(items) => items[last.parse::<usize>().expect("an index")] = value,
        Value::Object(fields) if value.is_null() => {
            fields.shift_remove(last);
        }
        Value::Object(fields) => {
            fields.insert(last.to_owned(), value);
        }
        other => panic!("{other} has no parts"),
    }
    project
}

fn in_memory() -> Registry {
    Registry::with_store(Arc::new(InMemory::new()), Path::from("registry"))
}

fn clock() -> FixedClock {
    FixedClock::at(EventTimestamp::parse("2024-05-01T12:00:00Z").expect("an instant"))
}

/// The plan from the newest version, with consent to break.
async fn plan_next(registry: &Registry, project: Value) -> Plan {
    plan(registry.latest().await.unwrap().as_ref(), definitions(project)).allow_breaking()
}

async fn apply_next(registry: &Registry, project: Value) -> RegistryVersion {
    registry.apply(&plan_next(registry, project).await, &clock()).await.unwrap()
}
