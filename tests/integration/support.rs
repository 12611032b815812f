//! A project in a temporary folder, driven through the library or through the command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::RecordBatch;
use asof::definition::{DefinitionFile, parse_definitions};
use asof::engine::Engine;
use asof::materialization::{Bounds, Job, Progress, remove_unknown_views, sync_view};
use asof::offline_store::OfflineStore;
use asof::online_store::{OnlineStore, RocksDbOnlineStore, RocksDbOptions};
use asof::registry::{self, Registry};
use asof::retrieval::{BatchRetrieval, Catalog, OnlineRetrieval};
use asof::time::{EventTimestamp, FixedClock};
use parquet::arrow::ArrowWriter;

pub fn at(micros: i64) -> EventTimestamp {
    EventTimestamp::from_micros(micros)
}

/// A project whose stores live as long as it does.
pub struct TestProject {
    pub folder: tempfile::TempDir,
    pub engine: Engine,
    pub offline_store: OfflineStore,
    pub online_store: Arc<dyn OnlineStore>,
    pub clock: FixedClock,
    registry: Registry,
    pub catalog: Arc<Catalog>,
}

impl TestProject {
    /// A project with these definitions applied. `files` are written first.
    pub async fn new(definitions: &str, files: &[(&str, &RecordBatch)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, rows) in files {
            write_parquet(&folder.path().join(name), rows);
        }
        let clock = FixedClock::at(EventTimestamp::parse("2040-01-01").unwrap());
        let registry = Registry::open(folder.path().join("registry").to_str().unwrap()).unwrap();
        let options = RocksDbOptions::new(folder.path().join("online"));
        let online_store = Arc::new(RocksDbOnlineStore::open(&options, Arc::new(clock.clone())).unwrap());
        let offline_store = OfflineStore::open(folder.path().join("offline").to_str().unwrap()).unwrap();
        let engine = Engine::new(None).unwrap();
        let catalog = apply(&registry, definitions, &clock).await;
        TestProject { folder, engine, offline_store, online_store, clock, registry, catalog }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Applies other definitions, and deletes what they leave behind, as a server does.
    pub async fn apply(&mut self, definitions: &str) {
        self.catalog = apply(&self.registry, definitions, &self.clock).await;
        remove_unknown_views(self.online_store.as_ref(), &self.catalog.registry).unwrap();
    }

    /// Materializes every view into both stores.
    pub async fn materialize(&self, start: Option<i64>, end: Option<i64>) {
        let end = end.map_or(EventTimestamp::parse("2040-01-01").unwrap(), at);
        let job = Job {
            registry: Arc::clone(&self.catalog.registry),
            offline_store: self.offline_store.clone(),
            engine: self.engine.clone(),
            project: self.folder.path().to_owned(),
        };
        for view in &self.catalog.definitions().feature_views {
            let progress = Arc::new(Progress::default());
            job.run(view, Bounds { start: start.map(at), end, now: end }, &progress).await.unwrap();
            self.sync(view.name.as_str()).await;
        }
    }

    pub async fn sync(&self, view: &str) {
        let registry = &self.catalog.registry;
        let view = registry.definitions.feature_view(view).unwrap();
        sync_view(registry, view, &self.offline_store, self.online_store.as_ref(), &self.engine).await.unwrap();
    }

    pub fn batch(&self) -> BatchRetrieval {
        BatchRetrieval {
            offline_store: self.offline_store.clone(),
            engine: self.engine.clone(),
            project: self.folder.path().to_owned(),
        }
    }

    pub fn online(&self) -> OnlineRetrieval {
        OnlineRetrieval { store: Arc::clone(&self.online_store), clock: Arc::new(self.clock.clone()), history: None }
    }
}

async fn apply(registry: &Registry, definitions: &str, clock: &FixedClock) -> Arc<Catalog> {
    let file = DefinitionFile { path: "feature_defs/test.yaml".to_owned(), text: definitions.to_owned() };
    let definitions = parse_definitions(&[file]).unwrap_or_else(|errors| panic!("{errors}"));
    let base = registry.latest().await.unwrap();
    let plan = registry::plan(base.as_ref(), definitions).allow_breaking();
    let applied = registry.apply(&plan, clock).await.unwrap();
    Arc::new(Catalog::new(Arc::new(applied)).unwrap())
}

pub fn write_parquet(path: &Path, rows: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// The built command, to be run in `folder`.
pub fn asof(folder: &Path) -> Command {
    // Another build of it, to be measured.
    let program = std::env::var("ASOF_TEST_COMMAND").unwrap_or_else(|_| env!("CARGO_BIN_EXE_asof").to_owned());
    let mut command = Command::new(program);
    command.current_dir(folder).env_remove("ASOF_PROJECT").stdin(Stdio::null());
    command
}

/// Runs the command; gives its exit status, standard output and standard error.
pub fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = asof(folder).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Runs the command, which has to succeed, and reads the document it prints.
pub fn run_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
    let (status, stdout, stderr) = run(folder, &arguments);
    assert_eq!(status, 0, "{arguments:?}: {stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// The flights example in a folder of its own.
pub fn flights_project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (status, _, stderr) = run(folder.path(), &["init", ".", "--template", "flights"]);
    assert_eq!(status, 0, "{stderr}");
    folder
}
