//! Versions committed, read back, fought over and damaged.

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use super::super::{ChangeCounts, Registry, RegistryError, plan};
use super::*;
use crate::error::ErrorKind;

/// Every kind of place a registry may live in; the folders stay until the end of the test.
fn every_place() -> (Vec<tempfile::TempDir>, Vec<(&'static str, Registry)>) {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let missing = folders[0].path().join("not/made yet");
    let local = LocalFileSystem::new_with_prefix(folders[1].path()).unwrap();
    let registries = vec![
        ("memory", in_memory()),
        ("folder", Registry::open(missing.to_str().unwrap()).unwrap()),
        ("local store", Registry::with_store(Arc::new(local), Path::default())),
    ];
    (folders, registries)
}

#[tokio::test]
async fn an_untouched_registry_has_no_versions() {
    let (_folders, registries) = every_place();
    for (place, registry) in registries {
        assert_eq!(registry.latest().await.unwrap(), None, "{place}");
        assert_eq!(registry.history().await.unwrap(), [], "{place}");
        let error = registry.version(1).await.unwrap_err();
        assert!(matches!(error, RegistryError::UnknownVersion { version: 1, latest: None }), "{place}: {error}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn every_applied_version_stays_readable() {
    let (_folders, registries) = every_place();
    for (place, registry) in registries {
        let changed = with(project(), "/feature_views/0/ttl", json!("6h"));
        let first = apply_next(&registry, project()).await;
        let second = apply_next(&registry, changed).await;
        assert_eq!(registry.latest().await.unwrap().as_ref(), Some(&second), "{place}");
        assert_eq!(registry.version(1).await.unwrap(), first, "{place}");
        assert_eq!(registry.version(2).await.unwrap(), second, "{place}");
        assert_eq!(registry.history().await.unwrap(), [first.summary(), second.summary()], "{place}");
        assert_eq!(first.definitions, definitions(project()), "{place}");
        assert_eq!(first.summary, ChangeCounts { added: 11, changed: 0, removed: 0 }, "{place}");
        assert_eq!(second.summary, ChangeCounts { added: 0, changed: 1, removed: 0 }, "{place}");
        let error = registry.version(3).await.unwrap_err().to_string();
        assert_eq!(error, "registry version 3 does not exist; the versions are 1 to 2", "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_concurrent_applies_wins() {
    let (_folders, registries) = every_place();
    for (place, registry) in registries {
        let registry = Arc::new(registry);
        for round in 1..=5 {
            let base = registry.latest().await.unwrap();
            let applies = (0..16).map(|i| {
                let changed = with(project(), "/feature_views/0/ttl", json!(format!("{}h", 100 * round + i)));
                let (plan, registry) = (plan(base.as_ref(), definitions(changed)), Arc::clone(&registry));
                tokio::spawn(async move { registry.apply(&plan, &clock()).await })
            });
            let outcomes = futures::future::join_all(applies.collect::<Vec<_>>()).await;
            let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().map(Result::unwrap).partition(Result::is_ok);
            assert_eq!((won.len(), lost.len()), (1, 15), "{place}: {lost:?}");
            assert!(lost.into_iter().all(|outcome| outcome.unwrap_err().kind() == ErrorKind::Conflict), "{place}");
            let winner = won.into_iter().next().unwrap().unwrap();
            assert_eq!(winner.version, round, "{place}");
            assert_eq!(registry.latest().await.unwrap(), Some(winner), "{place}");
        }
        assert_eq!(registry.history().await.unwrap().len(), 5, "{place}");
    }
}

#[tokio::test]
async fn a_plan_from_an_old_version_conflicts() {
    let registry = in_memory();
    let stale = plan(None, definitions(project()));
    registry.apply(&stale, &clock()).await.unwrap();
    let error = registry.apply(&stale, &clock()).await.unwrap_err();
    assert_eq!(error.to_string(), "registry version 1 was applied by somebody else meanwhile; plan again");
}

#[tokio::test]
async fn another_handle_follows_without_listing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = |store: &Arc<dyn ObjectStore>| Registry::with_store(Arc::clone(store), Path::from("registry"));
    let (writer, follower) = (registry(&store), registry(&store));
    apply_next(&writer, project()).await;
    assert_eq!(follower.latest().await.unwrap().map(|latest| latest.version), Some(1));
    for version in 2..=4 {
        apply_next(&writer, project()).await;
        assert_eq!(follower.latest().await.unwrap().map(|latest| latest.version), Some(version));
    }
    // A listing would come upon this one.
    store.put(&file_path(9), "{".into()).await.unwrap();
    assert_eq!(follower.latest().await.unwrap().map(|latest| latest.version), Some(4));
}

#[tokio::test]
async fn files_of_others_are_overlooked() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = Registry::with_store(Arc::clone(&store), Path::from("registry"));
    for name in [".DS_Store", "7.json", "0000000000000000000x.json", ".00000000000000000003.json.0123456789abcdef"] {
        store.put(&Path::from(format!("registry/versions/{name}")), "?".into()).await.unwrap();
    }
    assert_eq!(registry.latest().await.unwrap(), None);
    assert_eq!(apply_next(&registry, project()).await.version, 1);
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().to_str().unwrap();
    let file = folder.path().join("versions/00000000000000000001.json");
    apply_next(&Registry::open(location).unwrap(), project()).await;
    let whole = std::fs::read_to_string(&file).unwrap();
    let other_format = whole.replacen("\"format_version\": 4", "\"format_version\": 5, \"news\": true", 1);
    let other_number = whole.replacen("\"version\": 1", "\"version\": 7", 1);
    assert!(other_format != whole && other_number != whole);
    let cases = [
        ("", ErrorKind::Corrupt, "is damaged"),
        (&whole[..whole.len() / 2], ErrorKind::Corrupt, "is damaged"),
        ("{}", ErrorKind::Corrupt, "is damaged"),
        ("{\"format_version\": 4}", ErrorKind::Corrupt, "is damaged"),
        (&other_number, ErrorKind::Corrupt, "says that it is version 7"),
        (&other_format, ErrorKind::Precondition, "has format 5, and this asof reads formats up to 4; upgrade asof"),
    ];
    for (text, kind, message) in cases {
        std::fs::write(&file, text).unwrap();
        // A handle that remembers nothing.
        let registry = Registry::open(location).unwrap();
        let errors = [registry.latest().await.unwrap_err(), registry.version(1).await.unwrap_err()];
        for error in errors {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        }
    }
}

#[tokio::test]
async fn no_truncation_of_a_file_is_taken_for_a_version() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = Registry::with_store(Arc::clone(&store), Path::from("registry"));
    apply_next(&registry, project()).await;
    let whole = store.get(&file_path(1)).await.unwrap().bytes().await.unwrap();
    // The last byte is the line's end.
    for length in 0..whole.len() - 1 {
        store.put(&file_path(1), whole.slice(..length).into()).await.unwrap();
        assert!(matches!(registry.version(1).await, Err(RegistryError::Corrupt { .. })), "{length} bytes");
    }
}

#[tokio::test]
async fn the_file_reads_like_a_definition_file() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = Registry::with_store(Arc::clone(&store), Path::from("registry"));
    let small = json!({
        "entities": [{"name": "origin", "join_keys": [{"name": "origin", "type": "string"}]}],
        "sources": [{"name": "weather", "event_timestamp": "at", "schema": [{"name": "temp", "type": "float64"}]}],
        "feature_views": [{"name": "now", "entities": ["origin"], "source": "weather", "ttl": "3h",
                           "features": [{"name": "temp", "type": "float64"}]}],
        "on_demand_feature_views": [], "feature_services": []
    });
    apply_next(&registry, small).await;
    let bytes = store.get(&file_path(1)).await.unwrap().bytes().await.unwrap();
    insta::assert_snapshot!(std::str::from_utf8(&bytes).unwrap(), @r#"
    {
      "format_version": 4,
      "version": 1,
      "applied_at": "2024-05-01T12:00:00.000000Z",
      "summary": {
        "added": 3,
        "changed": 0,
        "removed": 0
      },
      "views": {
        "now": {
          "id": 1,
          "data_version": 1
        }
      },
      "next_view_id": 2,
      "removed_views": [],
      "definitions": {
        "entities": [
          {
            "name": "origin",
            "join_keys": [
              {
                "name": "origin",
                "type": "string"
              }
            ]
          }
        ],
        "sources": [
          {
            "name": "weather",
            "event_timestamp": "at",
            "schema": [
              {
                "name": "temp",
                "type": "float64"
              }
            ]
          }
        ],
        "feature_views": [
          {
            "name": "now",
            "entities": [
              "origin"
            ],
            "source": "weather",
            "ttl": "3h",
            "features": [
              {
                "name": "temp",
                "type": "float64"
              }
            ]
          }
        ],
        "on_demand_feature_views": [],
        "feature_services": []
      }
    }
    "#);
}

#[test]
fn locations_that_cannot_be_are_refused() {
    for (location, message) in [
        ("state/registry", "is not absolute; write an absolute folder"),
        ("ftp://host/registry", "has an unknown scheme"),
        ("s3://", "has an unknown scheme"),
        ("://", "is not a URL"),
    ] {
        let error = Registry::open(location).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{location}");
        assert!(error.to_string().contains(message) && error.to_string().contains(location), "{error}");
    }
    #[cfg(not(feature = "s3"))]
    assert_eq!(
        Registry::open("s3://bucket/registry").unwrap_err().to_string(),
        "registry location `s3://bucket/registry` needs asof built with `--features s3`; rebuild it, or use a local folder"
    );
}

#[tokio::test]
async fn a_file_url_is_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    apply_next(&Registry::open(url.as_str()).unwrap(), project()).await;
    let by_path = Registry::open(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(by_path.latest().await.unwrap().map(|latest| latest.version), Some(1));
    let left: Vec<_> = std::fs::read_dir(folder.path().join("versions")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing but the version: {left:?}");
}

fn file_path(version: u64) -> Path {
    Path::from(format!("registry/versions/{version:020}.json"))
}
