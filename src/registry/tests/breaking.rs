//! Which changes of a project break the callers of its feature service, and which do not.

use serde_json::{Value, json};

use super::super::{RegistryError, service_signature};
use super::*;
use crate::error::ErrorKind;

/// Applies the changed project after the project, without consent; the reasons for which that is refused.
async fn reasons(changed: Value) -> Vec<String> {
    let registry = in_memory();
    let base = apply_next(&registry, project()).await;
    let plan = plan(Some(&base), definitions(changed));
    match registry.apply(&plan, &clock()).await {
        Ok(_) => Vec::new(),
        Err(RegistryError::Breaking { reasons }) => {
            assert_eq!(registry.latest().await.unwrap(), Some(base), "nothing was committed");
            registry.apply(&plan.allow_breaking(), &clock()).await.expect("consent was given");
            reasons.iter().map(|reason| reason.change.to_string()).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn callers_of_a_service_are_not_broken_unasked() {
    let at = |pointer: &str, value: Value| with(project(), pointer, value);
    let service = "/feature_services/0/features";
    let unused_removed = at("/feature_services/0/features", json!([{"view": "origin_weather"}]));
    let cases: Vec<(&str, Value, &[&str])> = vec![
        ("nothing", project(), &[]),
        ("ttl", at("/feature_views/0/ttl", json!("1h")), &[]),
        ("sql", at("/feature_views/1/sql", json!("SELECT 1")), &[]),
        ("expression", at("/on_demand_feature_views/0/features/0/expression", json!("distance")), &[]),
        ("a feature more", at("/feature_views/0/features/-", json!({"name": "dew", "type": "float64"})), &[]),
        ("a feature that the service does not choose", at("/feature_views/2/features/1/type", json!("string")), &[]),
        (
            "another order",
            {
                let mut changed = project();
                changed["feature_services"][0]["features"].as_array_mut().unwrap().reverse();
                changed
            },
            &[],
        ),
        ("a request value less", at("/on_demand_feature_views/0/request", json!([])), &[]),
        (
            "a feature less",
            at("/feature_views/0/features/0", json!(null)),
            &["it no longer answers `origin_weather:temp`"],
        ),
        (
            "a feature of another type",
            at("/feature_views/0/features/0/type", json!("int64")),
            &["type of `origin_weather:temp`: float64 -> int64"],
        ),
        (
            "another alias",
            at(&format!("{service}/1/as"), json!("arrival")),
            &["it no longer answers `destination:lat`"],
        ),
        (
            "another column for a key",
            at(&format!("{service}/1/join_keys/airport"), json!("stop")),
            &["it needs join key `stop` (string)"],
        ),
        (
            "a key of another type",
            with(at("/entities/0/join_keys/0/type", json!("int64")), "/entities/1/join_keys/0/type", json!("int64")),
            &["type of join key `origin`: string -> int64"],
        ),
        (
            "a key more, behind an on-demand view",
            at("/entities/1/join_keys/-", json!({"name": "carrier", "type": "string"})),
            &["it needs join key `carrier` (string)"],
        ),
        (
            "a request value more",
            at("/on_demand_feature_views/0/request/-", json!({"name": "hour", "type": "int64"})),
            &["it needs request value `hour` (int64)"],
        ),
        (
            "a request value of another type",
            at("/on_demand_feature_views/0/request/0/type", json!("int64")),
            &["type of request value `distance`: float64 -> int64"],
        ),
        ("a service less", at("/feature_services", json!([])), &["it is removed, and callers may still ask for it"]),
        (
            "views less",
            unused_removed,
            &[
                "it no longer answers `destination:lat`",
                "it no longer answers `trip:speed`",
                "it no longer takes join key `dest` (string)",
            ],
        ),
    ];
    for (case, changed, expected) in cases {
        assert_eq!(reasons(changed).await, expected, "{case}");
    }
}

#[tokio::test]
async fn a_view_that_no_service_reads_may_go() {
    let registry = in_memory();
    let base = apply_next(&registry, with(project(), "/feature_services", json!([]))).await;
    let fewer = with(with(project(), "/feature_services", json!([])), "/feature_views/0", json!(null));
    registry.apply(&plan(Some(&base), definitions(fewer)), &clock()).await.unwrap();
}

#[tokio::test]
async fn every_reason_and_the_remedy_are_told() {
    let registry = in_memory();
    let base = apply_next(&registry, project()).await;
    let changed = with(project(), "/feature_views/0/features", json!([{"name": "temp", "type": "int64"}]));
    let error = registry.apply(&plan(Some(&base), definitions(changed)), &clock()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    insta::assert_snapshot!(error, @"
    the plan breaks feature services in use:
      - feature service `delay_v1`: type of `origin_weather:temp`: float64 -> int64
      - feature service `delay_v1`: it no longer answers `origin_weather:wind`
    add a new feature service for the change and remove the old one when nobody asks for it any more, or apply with `--allow-breaking`
    ");
}

#[test]
fn a_signature_has_what_a_request_carries_and_gets() {
    let definitions = definitions(project());
    let signature = service_signature(&definitions, definitions.feature_service("delay_v1").unwrap());
    let columns = |columns: &std::collections::BTreeMap<String, crate::definition::ValueType>| {
        columns.iter().map(|(name, value_type)| format!("{name} {value_type}")).collect::<Vec<_>>()
    };
    assert_eq!(columns(&signature.join_keys), ["dest string", "origin string"]);
    assert_eq!(columns(&signature.request_values), ["distance float64"]);
    let outputs: Vec<_> =
        signature.outputs.iter().map(|o| format!("{}:{} {}", o.view, o.feature, o.value_type)).collect();
    assert_eq!(
        outputs,
        ["origin_weather:temp float64", "origin_weather:wind float64", "destination:lat float64", "trip:speed float64"]
    );
}
