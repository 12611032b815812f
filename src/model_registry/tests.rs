//! Versions, aliases and signatures, over a registry in a folder.

use std::path::Path;

use super::{
    InputSource, ModelReference, ModelRegistry, ModelRegistryError, Registration, Scalar, SignatureRequest,
    broken_models, prepare,
};
use crate::definition::{DefinitionFile, Definitions, parse_definitions};
use crate::error::ErrorKind;
use crate::registry::{Registry, RegistryVersion, plan};
use crate::time::SystemClock;

const FILE: &str = r#"
entities:
  - {name: shop, join_keys: [{name: shop, type: string}]}
sources:
  - {name: visits, schema: [{name: shop, type: string}, {name: at, type: timestamp}], event_timestamp: at, stream: {type: push}}
feature_views:
  - {name: profile, entities: [shop], source: visits, features: [{name: a, type: float64}, {name: b, type: float64}, {name: size, type: int64}, {name: colour, type: string}]}
  - {name: other, entities: [shop], source: visits, features: [{name: b, type: float64}]}
feature_services:
  - {name: s, features: [profile]}
  - {name: both, features: [profile, other]}
"#;

fn definitions(text: &str) -> Definitions {
    parse_definitions(&[DefinitionFile { path: "f.yaml".to_owned(), text: text.to_owned() }]).unwrap()
}

async fn applied(folder: &Path) -> RegistryVersion {
    let registry = Registry::open(folder.to_str().unwrap()).unwrap();
    registry.apply(&plan(None, definitions(FILE)), &SystemClock).await.unwrap()
}

/// The model in `tests/data/models` whose inputs are a, b, size and colour.
fn model() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models/lightgbm_binary.txt")).unwrap()
}

fn asked(service: &str) -> Registration {
    Registration { name: "m".to_owned(), service: service.to_owned(), ..Registration::default() }
}

#[tokio::test]
async fn the_first_version_is_the_champion_and_every_move_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let models = ModelRegistry::open(folder.path().to_str().unwrap()).unwrap();
    for number in 1..=2 {
        let registered = models.register(prepare(model(), asked("s"), &registry).unwrap(), &SystemClock).await.unwrap();
        assert_eq!(registered.version, number);
        assert_eq!(models.artefact(&registered).await.unwrap(), model());
    }
    models.set_alias("m", "champion", 2, Some(Some(1)), &definitions(FILE), &SystemClock).await.unwrap();
    let error =
        models.set_alias("m", "champion", 1, Some(Some(1)), &definitions(FILE), &SystemClock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // Somebody who starts from the files sees the same.
    let again = ModelRegistry::open(folder.path().to_str().unwrap()).unwrap().models().await.unwrap();
    let moves: Vec<_> =
        again.model("m").unwrap().history.iter().map(|(alias, m)| (alias.as_str(), m.from, m.to)).collect();
    assert_eq!(moves, [("champion", None, Some(1)), ("champion", Some(1), Some(2))]);
    let resolve = |text: &str| again.resolve(&text.parse::<ModelReference>().unwrap()).map(|version| version.version);
    assert_eq!((resolve("m").unwrap(), resolve("m@1").unwrap()), (2, 1));
    assert!(matches!(resolve("m@rival"), Err(ModelRegistryError::UnknownAlias { .. })));
    assert!(matches!(resolve("n"), Err(ModelRegistryError::UnknownModel { .. })));
}

#[tokio::test]
async fn versions_in_use_are_not_retired_and_retired_ones_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let models = ModelRegistry::open(folder.path().to_str().unwrap()).unwrap();
    for _ in 0..2 {
        models.register(prepare(model(), asked("s"), &registry).unwrap(), &SystemClock).await.unwrap();
    }
    assert!(matches!(
        models.retire("m", 1, &Definitions::default(), &SystemClock).await,
        Err(ModelRegistryError::InUse { .. })
    ));
    models.retire("m", 2, &Definitions::default(), &SystemClock).await.unwrap();
    let moved = models.set_alias("m", "rival", 2, None, &definitions(FILE), &SystemClock).await;
    assert!(matches!(moved, Err(ModelRegistryError::Retired { .. })));
}

#[tokio::test]
async fn of_callers_at_once_each_gets_a_version_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let location = folder.path().to_str().unwrap();
    let prepared = prepare(model(), asked("s"), &registry).unwrap();
    let one = |_| {
        let (models, prepared) = (ModelRegistry::open(location).unwrap(), prepared.clone());
        async move { models.register(prepared, &SystemClock).await.unwrap().version }
    };
    let mut numbers = futures::future::join_all((0..8).map(one)).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    let models = ModelRegistry::open(location).unwrap().models().await.unwrap();
    assert_eq!(models.model("m").unwrap().aliases.len(), 1);
}

#[tokio::test]
async fn damaged_artefacts_are_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let models = ModelRegistry::open(folder.path().to_str().unwrap()).unwrap();
    let registered = models.register(prepare(model(), asked("s"), &registry).unwrap(), &SystemClock).await.unwrap();
    std::fs::write(folder.path().join("models/artefacts").join(&registered.sha256), b"tree").unwrap();
    assert_eq!(models.artefact(&registered).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn inputs_are_bound_by_name_or_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let bound = prepare(model(), asked("s"), &registry).unwrap().version.inputs;
    let features: Vec<bool> = bound.iter().map(|input| matches!(input.source, InputSource::Feature { .. })).collect();
    assert_eq!(features, [true; 4]);
    let named = |inputs: &[&str]| SignatureRequest {
        inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
        ..SignatureRequest::default()
    };
    let with_default = SignatureRequest {
        defaults: [("a".to_owned(), Scalar::Text("x".to_owned()))].into(),
        ..SignatureRequest::default()
    };
    for (service, signature, expected) in [
        ("t", SignatureRequest::default(), "there is no feature service `t`"),
        ("both", SignatureRequest::default(), "`b` of the model may be `profile:b` or `other:b`"),
        ("s", named(&["a", "b"]), "--inputs names 2 inputs, and the model has 4"),
        ("s", named(&["a", "b", "a", "colour"]), "two inputs of the model are called `a`"),
        (
            "s",
            named(&["a", "colour", "size", "b"]),
            "input `colour` of the model is a number, and the feature has type string",
        ),
        (
            "s",
            named(&["a", "b", "sise", "colour"]),
            "`sise` of the model is no feature of the service `s` (did you mean `size`?)",
        ),
        ("s", with_default, "the default `x` of input `a` is no number"),
    ] {
        let error = prepare(model(), Registration { signature, ..asked(service) }, &registry).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let in_full = named(&["profile:a", "other__b", "size", "colour"]);
    assert!(prepare(model(), Registration { signature: in_full, ..asked("both") }, &registry).is_ok());
}

#[tokio::test]
async fn changes_that_break_a_live_model_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let registry = applied(folder.path()).await;
    let models = ModelRegistry::open(folder.path().to_str().unwrap()).unwrap();
    models.register(prepare(model(), asked("s"), &registry).unwrap(), &SystemClock).await.unwrap();
    let models = models.models().await.unwrap();
    let reasons = |from: &str, to: &str| {
        let changed = plan(Some(&registry), definitions(&FILE.replace(from, to)));
        broken_models(&models, &registry.definitions, &changed)
            .iter()
            .flat_map(|model| model.reasons.clone())
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(reasons("{name: size, type: int64}, ", ""), "`profile:size` is removed");
    assert!(
        reasons("{name: size, type: int64}", "{name: size, type: float64}")
            .starts_with("`profile:size` changes from int64 to float64")
    );
    assert!(reasons("name: profile, entities", "name: profile, ttl: 1h, entities").contains("ttl: no limit -> 1h"));
    assert_eq!(reasons("name: other, entities", "name: other, ttl: 1h, entities"), "");
    assert_eq!(reasons("name: profile, entities", "name: profile, owner: me, entities"), "");
    let by_other_keys = "{name: s, features: [{view: profile, join_keys: {shop: shop2}}]}";
    assert_eq!(
        reasons("{name: s, features: [profile]}", by_other_keys),
        "`profile` of service `s` is read by other keys"
    );
    let swapped = FILE.replace("name: profile", "name: x").replace("name: other", "name: profile");
    let swapped = swapped
        .replace("name: x", "name: other")
        .replace("features: [profile]}", "features: [{view: other, as: profile}]}");
    assert!(reasons(FILE, &swapped).contains("`profile` of service `s` was `profile`, and is `other`"));
    let with_column =
        FILE.replace("{name: at, type: timestamp}", "{name: at, type: timestamp}, {name: new, type: int64}");
    assert_eq!(reasons(FILE, &with_column), "", "a column that comes to a source");
    let features = "features: [{name: a, type: float64, expression: b}, {name: size, type: int64, expression: b}]";
    let on_demand = format!("on_demand_feature_views:\n  - {{name: profile, features_from: [other], {features}}}\n");
    let view = FILE.lines().find(|line| line.contains("name: profile")).unwrap();
    let replaced = FILE.replace(view, "").replace("feature_services:", &format!("{on_demand}feature_services:"));
    assert!(reasons(FILE, &replaced).contains("`profile` is another view"), "{}", reasons(FILE, &replaced));
    let pinned = FILE.replace("name: profile, entities", "name: profile, ttl: 1h, entities");
    let pinned = format!("{pinned}prediction_routes:\n  - {{name: r, model: m@1}}\n");
    let broken = broken_models(&models, &registry.definitions, &plan(Some(&registry), definitions(&pinned)));
    assert_eq!(broken[0].routes, ["r"]);
    let grown = "entities: [shop], owner: me, source: visits, features: [{name: new, type: int64}, {name: a,";
    assert_eq!(reasons("entities: [shop], source: visits, features: [{name: a,", grown), "");
}
