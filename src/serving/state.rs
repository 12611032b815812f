//! What the server's services share.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::engine::Engine;
use crate::materialization::{MaterializationError, SyncedView, sync_view};
use crate::offline_store::OfflineStore;
use crate::online_store::OnlineStore;
use crate::registry::Registry;
use crate::retrieval::{BatchRetrieval, Catalog, OnlineRetrieval};
use crate::settings::{OnlineStoreSettings, Settings};
use crate::time::Clock;

/// The components of one server; the catalog is replaced whole when the registry has a newer version.
#[derive(Debug)]
pub struct ServerState {
    pub settings: Settings,
    pub registry: Registry,
    pub offline_store: OfflineStore,
    pub online: OnlineRetrieval,
    pub batch: BatchRetrieval,
    pub engine: Engine,
    /// Whether requests may say what time it is.
    pub allow_request_time: bool,
    /// Runs jobs and joins, so that they never hold up the threads that answer online requests.
    pub workers: tokio::runtime::Handle,
    pub(super) catalog: ArcSwapOption<Catalog>,
    sync_lock: tokio::sync::Mutex<()>,
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
    ) -> Self {
        let OnlineStoreSettings::Rocksdb { history, .. } = settings.online_store;
        let batch = BatchRetrieval { offline_store: offline_store.clone(), engine: engine.clone(), project };
        ServerState {
            settings,
            registry,
            offline_store,
            online: OnlineRetrieval { store: online_store, clock, history },
            batch,
            engine,
            allow_request_time,
            workers,
            catalog: ArcSwapOption::empty(),
            sync_lock: tokio::sync::Mutex::new(()),
        }
    }

    /// What requests are answered from; None before the first apply.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.load_full()
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
