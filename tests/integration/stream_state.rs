//! What streams leave in the online store does not depend on the order of arrival, on how events are cut into pushes,
//! or on where a process ends and another one goes on; and it is what batch answers, beside what jobs materialized.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use asof::compile::Compiler;
use asof::definition::{DefinitionFile, Definitions, parse_definitions};
use asof::online_store::{RocksDbOnlineStore, RocksDbOptions, Scan};
use asof::registry::RegistryVersion;
use asof::retrieval::{AskedTimes, BatchRequest, Catalog, FeatureSelection, OnlineRequest};
use asof::stream_ingestion::{Acknowledge, Ingestion, PushedRows, Stores};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{TestProject, at};

const DEFINITIONS: &str = r#"
entities:
  - {name: key, join_keys: [{name: key, type: string}]}
sources:
  - name: taps
    batch: {format: parquet, path: taps.parquet}
    event_timestamp: happened
    created_timestamp: written
    stream: {type: push}
feature_views:
  - {name: newest, entities: [key], source: taps, ttl: 20s, features: [{name: n, type: int64}, {name: x, type: float64}]}
  - name: sums
    entities: [key]
    source: taps
    where: "n <> 3"
    aggregations:
      - {function: count, windows: [7s, 1m, lifetime]}
      - {input: x, function: sum, windows: [7s, lifetime]}
      - {input: n, function: last, n: 3, windows: [1m]}
      - {input: n, function: max, windows: [7s, 1m]}
  - name: shares                        # no event of which n is 2
    entities: [key]
    source: taps
    where: "n <> 3"
    aggregations:
      - {function: count, windows: [1m, lifetime], name: events}
      - {input: "60 / (n - 2)", function: sum, windows: [7s, lifetime], name: share}
feature_services:
  - {name: all, features: [newest, sums, shares]}
"#;

const SECOND: i64 = 1_000_000;

#[derive(Debug, Clone)]
struct Tap {
    key: Option<&'static str>,
    happened: i64,
    written: Option<i64>,
    n: Option<i64>,
    x: Option<f64>,
}

fn tap() -> impl Strategy<Value = Tap> {
    let key = prop_oneof![9 => prop::sample::select(vec!["a", "b", ""]).prop_map(Some), 1 => Just(None)];
    // Times meet, and lie a microsecond beside the bounds of windows and tiles.
    let time = || (0_i64..90, -1_i64..2).prop_map(|(second, beside)| second * SECOND + beside);
    let written = prop_oneof![2 => time().prop_map(Some), 1 => Just(None)];
    let n = prop_oneof![5 => (0_i64..5).prop_map(Some), 1 => Just(None)];
    let x = prop_oneof![5 => prop::sample::select(vec![0.1, 1e16, -1e16, f64::NAN]).prop_map(Some), 1 => Just(None)];
    (key, time(), written, n, x).prop_map(|(key, happened, written, n, x)| Tap { key, happened, written, n, x })
}

fn batch(taps: &[Tap]) -> RecordBatch {
    let times = |times: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let columns: [(&str, ArrayRef); 5] = [
        ("key", Arc::new(taps.iter().map(|tap| tap.key).collect::<StringArray>())),
        ("happened", times(taps.iter().map(|tap| Some(tap.happened)).collect())),
        ("written", times(taps.iter().map(|tap| tap.written).collect())),
        ("n", Arc::new(taps.iter().map(|tap| tap.n).collect::<Int64Array>())),
        ("x", Arc::new(taps.iter().map(|tap| tap.x).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A project with these taps in its file, materialized, and its definitions resolved as `asof apply` does.
async fn project(located: &[Tap]) -> TestProject {
    let mut project = TestProject::new(DEFINITIONS, &[("taps.parquet", &batch(located))]).await;
    let file = DefinitionFile { path: "feature_defs/test.yaml".to_owned(), text: DEFINITIONS.to_owned() };
    let mut definitions = parse_definitions(&[file]).unwrap();
    resolve(&project, &mut definitions).await;
    let registry = RegistryVersion { definitions, ..project.catalog.registry.as_ref().clone() };
    project.catalog = Arc::new(Catalog::new(Arc::new(registry)).unwrap());
    project.materialize(None, None).await;
    project
}

async fn resolve(project: &TestProject, definitions: &mut Definitions) {
    let compiler = |definitions: &Definitions| {
        Compiler::new(Arc::new(definitions.clone()), project.folder.path(), project.engine.session())
    };
    let before = compiler(definitions);
    for source in &mut definitions.sources {
        let columns = before.stream_columns(source).await.unwrap();
        source.stream.as_mut().unwrap().columns = columns;
    }
    let resolver = compiler(definitions);
    for view in &mut definitions.feature_views {
        *view = resolver.resolve(view).await.unwrap();
    }
}

async fn open(project: &TestProject) -> Arc<Ingestion> {
    let stores = Stores {
        online: Arc::clone(&project.online_store),
        offline: project.offline_store.clone(),
        engine: project.engine.clone(),
        project: project.folder.path().to_owned(),
        clock: Arc::new(project.clock.clone()),
    };
    let registry = Arc::clone(&project.catalog.registry);
    Ingestion::open(stores, &project.path("log"), registry, tokio::runtime::Handle::current()).await.unwrap()
}

/// Every entry of the sides that streams write, as they are read now.
fn streamed(project: &TestProject) -> Vec<(Box<[u8]>, Box<[u8]>)> {
    let views = project.catalog.registry.views.values();
    let sides = views.filter_map(|state| project.online_store.stream_side(asof::online_store::ViewId(state.id)));
    sides
        .flat_map(|side| Scan::new(project.online_store.as_ref(), side).collect::<Result<Vec<_>, _>>().unwrap())
        .collect()
}

/// What both stores answer at moments on and beside the bounds.
async fn answers(project: &TestProject) -> (String, String) {
    let keys = ["a", "b", "", "c"];
    let times: Vec<i64> = (0..20).map(|i| i * 5 * SECOND + i % 3 - 1).collect();
    let asked: Vec<(&str, i64)> = times.iter().flat_map(|time| keys.iter().map(|key| (*key, *time))).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("key", Arc::new(asked.iter().map(|(key, _)| Some(*key)).collect::<StringArray>())),
        (
            "event_timestamp",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(asked.iter().map(|(_, time)| *time)).with_timezone("UTC"),
            ),
        ),
    ];
    let spine = RecordBatch::try_from_iter(columns).unwrap();
    let request = BatchRequest {
        selection: FeatureSelection::Service("all".to_owned()),
        full_feature_names: false,
        with_statuses: false,
        as_known: false,
        from_source: false,
        table_versions: Vec::new(),
        times: AskedTimes::Spine { schema: spine.schema(), rows: vec![spine.clone()], timestamp_column: None },
    };
    let batch = project.batch().get(&project.catalog, &request).await.unwrap().collect().await.unwrap();
    let from_source = BatchRequest { from_source: true, ..request.clone() };
    let from_source = project.batch().get(&project.catalog, &from_source).await.unwrap().collect().await.unwrap();
    let shown = |rows: &RecordBatch| pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
    assert_eq!(shown(&batch), shown(&from_source));
    let mut online = Vec::new();
    for time in &times {
        let column: ArrayRef = Arc::new(StringArray::from(keys.to_vec()));
        let request = OnlineRequest {
            selection: FeatureSelection::Service("all".to_owned()),
            full_feature_names: false,
            columns: RecordBatch::try_from_iter([("key", column)]).unwrap(),
            entity_columns: 1,
            now: Some(at(*time)),
        };
        let answer = project.online().get(&project.catalog, &request).unwrap();
        let columns = answer.columns.iter().map(|column| (column.name.clone(), Arc::clone(&column.values)));
        online.push(
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, values)| (name, values, true))).unwrap(),
        );
    }
    let features = batch.project(&(2..batch.num_columns()).collect::<Vec<_>>()).unwrap();
    (shown(&features), pretty_format_batches(&online).unwrap().to_string())
}

/// Pushes parts one after the other; `None` ends the process, as far as it can be ended within this one.
async fn push_all(project: &mut TestProject, parts: &[Option<Vec<Tap>>]) {
    let mut ingestion = open(project).await;
    for part in parts {
        match part {
            Some(taps) => {
                let rows = PushedRows::Batch(batch(taps));
                let summary = ingestion.push("taps", rows, Acknowledge::Durable).await.unwrap();
                let failing = taps.iter().filter(|tap| tap.n == Some(2)).count();
                assert_eq!((summary.accepted, summary.dead_letters), (taps.len() as u64, failing as u64));
            }
            None => {
                // Neither store is told; both are opened again where they are.
                ingestion.abandon().await;
                drop(ingestion);
                let empty = tempfile::tempdir().unwrap();
                let clock = Arc::new(project.clock.clone());
                let other =
                    RocksDbOnlineStore::open(&RocksDbOptions::new(empty.path()), Arc::clone(&clock) as _).unwrap();
                project.online_store = Arc::new(other);
                let path = project.path("online");
                let store = RocksDbOnlineStore::open(&RocksDbOptions::new(path), clock).unwrap();
                project.online_store = Arc::new(store);
                ingestion = open(project).await;
            }
        }
    }
    ingestion.close().await.unwrap();
}

#[test]
fn the_state_does_not_depend_on_order_cuts_and_ends() {
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let taps = || prop::collection::vec(tap(), 0..25);
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.3)), 0..6);
    let strategy = (taps(), taps().prop_shuffle(), any::<u64>(), cuts);
    TestRunner::new(config)
        .run(&strategy, |(located, pushed, turn, cuts)| {
            runtime.block_on(async {
                let mut whole = project(&located).await;
                push_all(&mut whole, &[Some(pushed.clone())]).await;
                let mut turned = pushed.clone();
                turned.rotate_left(turn as usize % pushed.len().max(1));
                let mut parts: Vec<Option<Vec<Tap>>> = Vec::new();
                let mut ends: Vec<(usize, bool)> =
                    cuts.iter().map(|(at, ends)| (at.index(turned.len() + 1), *ends)).collect();
                ends.sort_unstable();
                let mut start = 0;
                for (end, is_end) in ends {
                    parts.push(Some(turned[start..end].to_vec()));
                    start = end;
                    parts.extend(is_end.then_some(None));
                }
                parts.push(Some(turned[start..].to_vec()));
                let mut cut = project(&located).await;
                push_all(&mut cut, &parts).await;
                prop_assert_eq!(streamed(&cut), streamed(&whole));
                let (batch, online) = answers(&cut).await;
                prop_assert_eq!(&batch, &online);
                // Built anew from the archive it is the same.
                let ingestion = open(&cut).await;
                ingestion.rebuild(&ingestion.fed_views(&[])).await.unwrap();
                ingestion.close().await.unwrap();
                let without_side = |entries: Vec<(Box<[u8]>, Box<[u8]>)>| {
                    entries.into_iter().map(|(key, value)| (key[4..].to_vec(), value)).collect::<Vec<_>>()
                };
                prop_assert_eq!(without_side(streamed(&cut)), without_side(streamed(&whole)));
                let (rebuilt, _) = answers(&cut).await;
                prop_assert_eq!(rebuilt, batch);
                Ok(())
            })
        })
        .unwrap();
}
