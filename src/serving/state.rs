//! What the server's services share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::prediction::PredictionState;
use super::turns::Turns;
use crate::definition::{FeatureView, SourceName};
use crate::engine::Engine;
use crate::materialization::{MaterializationError, SyncedView, forget_position, sync_view};
use crate::offline_store::OfflineStore;
use crate::online_store::OnlineStore;
use crate::online_store::checkpoint_path;
use crate::registry::{Registry, RegistryVersion};
use crate::retrieval::{BatchRetrieval, Catalog, OnlineRetrieval};
use crate::settings::{OnlineStoreSettings, Settings, resolve};
use crate::stream_ingestion::{BuiltView, Ingestion, IngestionError, Stores, Topics};
use crate::time::Clock;

/// How long after a failure streams are opened again.
const STREAMS_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often what is at fault with a source or view is looked at again.
const FAULTS_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The components of one server; the catalog is replaced whole when the registry has a newer version.
#[derive(Debug)]
pub struct ServerState {
    pub settings: Settings,
    pub registry: Registry,
    pub offline_store: OfflineStore,
    pub online: OnlineRetrieval,
    pub prediction: PredictionState,
    pub batch: BatchRetrieval,
    pub engine: Engine,
    /// Whether requests may say what time it is.
    pub allow_request_time: bool,
    /// Whether streams are left to another server.
    pub is_replica: bool,
    /// Whether online values were brought up to their tables since the start.
    pub(super) is_caught_up: AtomicBool,
    /// Runs jobs and joins, so that they never hold up the threads that answer online requests.
    pub workers: tokio::runtime::Handle,
    pub(super) turns: Arc<Turns>,
    pub(super) catalog: ArcSwapOption<Catalog>,
    sync_lock: tokio::sync::Mutex<()>,
    /// None: no source has a stream.
    ingestion: ArcSwapOption<Ingestion>,
    /// Why the streams as a whole are not open.
    streams_fault: ArcSwapOption<IngestionError>,
    topics: Arc<Topics>,
    /// The folder of the log of streams.
    stream_log: PathBuf,
    /// Held while a version of the registry is taken up: when its streams were opened, or it was tried, last.
    pub(super) follow_lock: tokio::sync::Mutex<Option<std::time::Instant>>,
}

impl ServerState {
    #[expect(clippy::too_many_arguments, reason = "one argument a component, named at its only call")]
    pub fn new(
        settings: Settings,
        project: PathBuf,
        registry: Registry,
        offline_store: OfflineStore,
        online_store: Arc<dyn OnlineStore>,
        engine: Engine,
        clock: Arc<dyn Clock>,
        allow_request_time: bool,
        workers: tokio::runtime::Handle,
        stream_log: PathBuf,
        prediction: PredictionState,
    ) -> Self {
        let OnlineStoreSettings::Rocksdb { history, .. } = settings.online_store;
        let batch = BatchRetrieval { offline_store: offline_store.clone(), engine: engine.clone(), project };
        let turns = Arc::new(Turns::new(settings.server.limits.queue_time));
        ServerState {
            settings,
            turns,
            registry,
            offline_store,
            online: OnlineRetrieval { store: online_store, clock, history },
            batch,
            prediction,
            engine,
            allow_request_time,
            is_replica: false,
            is_caught_up: AtomicBool::new(false),
            workers,
            catalog: ArcSwapOption::empty(),
            sync_lock: tokio::sync::Mutex::new(()),
            ingestion: ArcSwapOption::empty(),
            streams_fault: ArcSwapOption::empty(),
            topics: Arc::default(),
            stream_log,
            follow_lock: tokio::sync::Mutex::new(None),
        }
    }

    /// A folder beside the online store that is not there yet.
    pub(super) fn new_checkpoint_path(&self) -> PathBuf {
        let OnlineStoreSettings::Rocksdb { path, .. } = &self.settings.online_store;
        checkpoint_path(&PathBuf::from(resolve(&self.batch.project, path)))
    }

    /// What requests are answered from; None before the first apply.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.load_full()
    }

    /// The project's streams, where a source has one.
    pub fn ingestion(&self) -> Option<Arc<Ingestion>> {
        self.ingestion.load_full()
    }

    /// Opens the streams of a version of the registry, or takes it up where they are open.
    ///
    /// # Errors
    /// As of [`Ingestion::open`].
    pub(super) async fn use_streams_of(&self, registry: &Arc<RegistryVersion>) -> Result<(), IngestionError> {
        if self.is_replica {
            return Ok(());
        }
        if let Some(ingestion) = self.ingestion() {
            ingestion.use_registry(Arc::clone(registry)).await?;
            return self.read_topics(ingestion, registry).await;
        }
        if registry.definitions.sources.iter().all(|source| source.stream.is_none()) {
            return Ok(());
        }
        let stores = Stores {
            online: Arc::clone(&self.online.store),
            offline: self.offline_store.clone(),
            engine: self.engine.clone(),
            project: self.batch.project.clone(),
            clock: Arc::clone(&self.online.clock),
        };
        let opened = Ingestion::open(stores, &self.stream_log, Arc::clone(registry), self.workers.clone()).await;
        self.streams_fault.store(opened.as_ref().err().cloned().map(Arc::new));
        let opened = opened?;
        self.ingestion.store(Some(Arc::clone(&opened)));
        self.read_topics(opened, registry).await
    }

    /// Why the streams as a whole are not open, though there are some.
    pub fn streams_fault(&self) -> Option<Arc<IngestionError>> {
        self.streams_fault.load_full()
    }

    /// How long after the last time the streams of this version of the registry are to be opened, or what is at fault
    /// among them to be looked at, again; None: they are as they should be.
    pub(super) fn streams_retry(&self, registry: &RegistryVersion) -> Option<Duration> {
        let is_behind = match self.ingestion() {
            _ if self.is_replica => return None,
            Some(ingestion) => {
                if ingestion.registry_version() == Some(registry.version) && !ingestion.faults().is_empty() {
                    return Some(FAULTS_RETRY_INTERVAL);
                }
                ingestion.registry_version() != Some(registry.version) || self.topics.are_behind()
            }
            None => registry.definitions.sources.iter().any(|source| source.stream.is_some()),
        };
        is_behind.then_some(STREAMS_RETRY_INTERVAL)
    }

    async fn read_topics(
        &self,
        ingestion: Arc<Ingestion>,
        registry: &Arc<RegistryVersion>,
    ) -> Result<(), IngestionError> {
        let (topics, workers) = (Arc::clone(&self.topics), self.workers.clone());
        let (project, folder) = (self.settings.project.clone(), self.batch.project.clone());
        let registry = Arc::clone(registry);
        // It waits for threads that read topics which nobody reads any more.
        let followed =
            tokio::task::spawn_blocking(move || topics.follow(&ingestion, &registry, &project, &folder, &workers));
        followed.await.unwrap_or(Err(IngestionError::Closed))
    }

    /// Returns once everything that the streams of these sources brought and that was acknowledged is in their event
    /// tables; of all sources where none is named.
    ///
    /// # Errors
    /// A table that cannot be written, or that is gone.
    pub async fn flush_streams(&self, sources: &[SourceName]) -> Result<(), IngestionError> {
        match self.ingestion() {
            Some(ingestion) => ingestion.flush_sources(&|source| sources.is_empty() || sources.contains(source)).await,
            None => Ok(()),
        }
    }

    /// Takes no more events, and returns once what was taken is stored.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn close_streams(&self) -> Result<(), IngestionError> {
        let topics = Arc::clone(&self.topics);
        let _ = tokio::task::spawn_blocking(move || topics.stop()).await;
        match self.ingestion.swap(None) {
            Some(ingestion) => ingestion.close().await,
            None => Ok(()),
        }
    }

    /// Makes the online values of the views, or of all, anew: those of jobs are compared with their tables one by one,
    /// those of streams are built beside the ones that are read.
    ///
    /// # Errors
    /// A table or store that cannot be read or written.
    pub async fn rebuild_online(&self, views: &[String]) -> Result<(Vec<SyncedView>, Vec<BuiltView>), IngestionError> {
        if let Some(catalog) = self.catalog() {
            let _alone = self.sync_lock.lock().await;
            let chosen = |view: &&FeatureView| views.is_empty() || views.iter().any(|name| name == view.name.as_str());
            for view in catalog.definitions().feature_views.iter().filter(chosen) {
                forget_position(&catalog.registry, view, self.online.store.as_ref())?;
            }
        }
        let synced = self.sync_online_store(views).await?;
        let Some(ingestion) = self.ingestion() else { return Ok((synced, Vec::new())) };
        let streamed = ingestion.fed_views(views);
        let rebuilt = if streamed.is_empty() { Vec::new() } else { ingestion.rebuild(&streamed).await? };
        Ok((synced, rebuilt))
    }

    /// Brings the online values of the views, or of all, up to their tables; one caller at a time.
    pub async fn sync_online_store(&self, views: &[String]) -> Result<Vec<SyncedView>, MaterializationError> {
        let _alone = self.sync_lock.lock().await;
        let Some(catalog) = self.catalog() else { return Ok(Vec::new()) };
        let mut synced = Vec::new();
        for view in &catalog.definitions().feature_views {
            if views.is_empty() || views.iter().any(|name| name == view.name.as_str()) {
                let store = self.online.store.as_ref();
                synced.push(sync_view(&catalog.registry, view, &self.offline_store, store, &self.engine).await?);
            }
        }
        Ok(synced)
    }
}
