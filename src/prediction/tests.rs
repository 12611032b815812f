//! Shares of traffic, and what becomes of shadows that misbehave.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};

use super::catalog::{LoadedModel, PredictionCatalog, Scope};
use super::inputs::InputNames;
use super::plan::{Planner, RoutePlan};
use super::rows::KnownRows;
use super::shadow::{ShadowJob, Shadows};
use super::{SHADOW_QUEUE_MAX, share};
use crate::definition::{DefinitionFile, parse_definitions};
use crate::model_registry::{ModelRegistry, Registration, SignatureRequest, prepare};
use crate::model_runtime::{InputRows, Model, Predictions, TestCode};
use crate::online_store::MemoryOnlineStore;
use crate::registry::{Registry, plan};
use crate::retrieval::{Catalog, OnlineRetrieval};
use crate::time::{Clock, SystemClock};

#[test]
fn shares_are_those_asked_for_and_the_same_each_time() {
    let ids: Vec<String> = (0..10_000).map(|number| format!("id-{number}")).collect();
    for percent in [2.0, 10.0, 50.0] {
        let chosen = |id: &&String| share(&["shadow", "route", "model"], id) * 100.0 < percent;
        let first: Vec<&String> = ids.iter().filter(chosen).collect();
        let again: Vec<&String> = ids.iter().filter(chosen).collect();
        assert_eq!(first, again);
        let p: f64 = percent / 100.0;
        // The 99.9 % band of a binomial distribution, by its normal approximation.
        let band = 3.2905 * (10_000.0 * p * (1.0 - p)).sqrt();
        let distance = (first.len() as f64 - 10_000.0 * p).abs();
        assert!(distance <= band, "{percent} %: {} of 10,000", first.len());
    }
}

#[test]
fn shares_of_two_purposes_are_independent() {
    let both =
        (0..10_000).map(|number| number.to_string()).filter(|id| share(&["a"], id) < 0.5 && share(&["b"], id) < 0.5);
    assert!((2_300..2_700).contains(&both.count()));
    assert_ne!(share(&["ab", "c"], "d"), share(&["a", "bc"], "d"));
}

const DEFINITIONS: &str = r#"
entities:
  - {name: shop, join_keys: [{name: shop, type: string}]}
sources:
  - {name: visits, schema: [{name: shop, type: string}, {name: at, type: timestamp}], event_timestamp: at, stream: {type: push}}
feature_views:
  - {name: profile, entities: [shop], source: visits, features: [{name: a, type: float64}, {name: b, type: float64}, {name: size, type: int64}, {name: colour, type: string}]}
feature_services:
  - {name: s, features: [profile]}
prediction_routes:
  - {name: r, model: m, shadows: [{model: m, percent: 100}]}
"#;

/// A route whose shadow does what `code` does, and a request to it.
struct Shadowed {
    catalog: Arc<PredictionCatalog>,
    plan: Arc<RoutePlan>,
    online: OnlineRetrieval,
}

impl Shadowed {
    async fn new(folder: &Path, code: impl Fn(&InputRows) -> Predictions + Send + Sync + 'static) -> Self {
        let location = folder.to_str().unwrap();
        let file = DefinitionFile { path: "f.yaml".to_owned(), text: DEFINITIONS.to_owned() };
        let definitions = parse_definitions(&[file]).unwrap();
        let registry = Registry::open(location).unwrap();
        let applied = registry.apply(&plan(None, definitions), &SystemClock).await.unwrap();
        let models = ModelRegistry::open(location).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models/lightgbm_binary.txt");
        let asked = Registration {
            name: "m".to_owned(),
            service: "s".to_owned(),
            signature: SignatureRequest::default(),
            ..Registration::default()
        };
        let prepared = prepare(std::fs::read(file).unwrap(), asked, &applied).unwrap();
        let version = models.register(prepared, &SystemClock).await.unwrap();
        let real = super::catalog::load(&models, &version).await.unwrap();
        let model = Model::of_code(real.model.inputs().to_vec(), TestCode(Arc::new(code)));
        let loaded = Arc::new(LoadedModel { names: InputNames::of(&version), version, model });
        let features = Arc::new(Catalog::new(Arc::new(applied)).unwrap());
        let route = &features.definitions().prediction_routes[0];
        let planner = Planner { features: &features, load: &|_| Ok(Arc::clone(&loaded)) };
        let plan = Arc::new(planner.plan(route).unwrap());
        let known = models.models().await.unwrap();
        let catalog = PredictionCatalog::build(Arc::clone(&features), known, &models, None, Scope::Served(&[])).await;
        let store = Arc::new(MemoryOnlineStore::new());
        let online = OnlineRetrieval { store, clock: Arc::new(SystemClock), history: None };
        Shadowed { catalog: Arc::new(catalog), plan, online }
    }

    fn job(&self) -> ShadowJob {
        let number = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
        let columns = [
            ("a", number(1.0)),
            ("b", number(2.0)),
            ("size", number(3.0)),
            ("colour", Arc::new(StringArray::from(vec!["red"])) as ArrayRef),
        ];
        ShadowJob {
            catalog: Arc::clone(&self.catalog),
            plan: Arc::clone(&self.plan),
            position: 0,
            known: Arc::new(KnownRows::new(&RecordBatch::try_from_iter(columns).unwrap())),
            rows: vec![0],
            ids: Arc::new(["id".to_owned()]),
            now: SystemClock.now(),
        }
    }
}

fn eventually(is_true: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(2));
    }
}

const ANSWER: Predictions = Predictions { width: 1, values: Vec::new() };

#[tokio::test]
async fn a_shadow_that_panics_sees_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let panicking = move |_: &InputRows| match counted.fetch_add(1, Ordering::SeqCst) {
        0..5 => panic!("as the test wants"),
        _ => Predictions { width: 1, values: vec![1.0] },
    };
    let shadowed = Shadowed::new(folder.path(), panicking).await;
    let shadows = Shadows::new(shadowed.online.clone(), None);
    for _ in 0..10 {
        shadows.offer(shadowed.job());
    }
    eventually(|| calls.load(Ordering::SeqCst) == 10);
}

#[tokio::test]
async fn a_shadow_that_hangs_loses_what_its_queue_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, calls) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicUsize::new(0)));
    let (waited_for, counted) = (Arc::clone(&gate), Arc::clone(&calls));
    let hanging = move |_: &InputRows| {
        counted.fetch_add(1, Ordering::SeqCst);
        let opened = waited_for.0.lock().unwrap();
        drop(waited_for.1.wait_while(opened, |opened| !*opened).unwrap());
        ANSWER
    };
    let shadowed = Shadowed::new(folder.path(), hanging).await;
    let shadows = Shadows::new(shadowed.online.clone(), None);
    shadows.offer(shadowed.job());
    eventually(|| calls.load(Ordering::SeqCst) == 1);
    let started = Instant::now();
    for _ in 0..SHADOW_QUEUE_MAX * 3 {
        shadows.offer(shadowed.job());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits for it");
    // Its route has no such shadow any more: what it was given, it still sees.
    shadows.keep(&shadowed.catalog);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    eventually(|| calls.load(Ordering::SeqCst) == SHADOW_QUEUE_MAX + 1);
}
