//! What the prediction services share, and how they follow the registries.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Status;

use crate::model_registry::{ModelRegistry, ModelRegistryError};
use crate::offline_store::OfflineStore;
use crate::prediction::{PredictAnswer, PredictRequest, PredictionCatalog, PredictionLogger, PredictionService};
use crate::retrieval::{Catalog, OnlineRetrieval};
use crate::serving::state::ServerState;
use crate::serving::status::to_status;

const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How often predictions are deleted that are not to be kept any longer.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct PredictionState {
    pub service: PredictionService,
    pub models: ModelRegistry,
    follow_lock: tokio::sync::Mutex<()>,
}

impl PredictionState {
    /// `spool`: the folder where predictions are written down before they are in the table.
    ///
    /// # Errors
    /// A spool that cannot be opened.
    pub fn open(
        models: ModelRegistry,
        online: OnlineRetrieval,
        offline_store: OfflineStore,
        spool: &Path,
        workers: &tokio::runtime::Handle,
    ) -> std::io::Result<Self> {
        let logger = PredictionLogger::open(spool, offline_store, workers)?;
        let service = PredictionService::new(online, Some(logger));
        Ok(PredictionState { service, models, follow_lock: tokio::sync::Mutex::new(()) })
    }

    /// Takes over the newest models and definitions. Gives whether they are new.
    ///
    /// # Errors
    /// A registry of models that cannot be read; what is in use stays.
    pub async fn follow_once(&self, features: Option<Arc<Catalog>>) -> Result<bool, ModelRegistryError> {
        let Some(features) = features else { return Ok(false) };
        let _alone = self.follow_lock.lock().await;
        let models = self.models.models().await?;
        let known = self.service.catalog();
        if known.as_ref().is_some_and(|known| known.is_of(&features, &models)) {
            return Ok(false);
        }
        let catalog = PredictionCatalog::build(features, models, &self.models, known.as_deref()).await;
        self.service.use_catalog(Arc::new(catalog));
        Ok(true)
    }

    /// Brings every answered prediction into the table, and ends.
    pub async fn close(&self) {
        if let Some(logger) = self.service.logger()
            && let Err(error) = logger.close().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "predictions stay in the spool");
        }
    }
}

/// Deletes what routes keep no longer.
async fn forget_old(state: &ServerState) {
    let Some(catalog) = state.catalog() else { return };
    let Some(logger) = state.prediction.service.logger() else { return };
    for route in &catalog.definitions().prediction_routes {
        let Some(retention) = route.log.retention else { continue };
        let before = state.online.clock.now().saturating_sub(retention);
        if let Err(error) = logger.forget(route.name.as_str(), before).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old predictions stay in the log for now");
        }
    }
}

/// Polls until the server ends.
pub(crate) async fn follow(state: Arc<ServerState>) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut forgotten = None::<Instant>;
    loop {
        interval.tick().await;
        if forgotten.is_none_or(|forgotten| forgotten.elapsed() >= FORGET_INTERVAL) {
            forgotten = Some(Instant::now());
            let state = Arc::clone(&state);
            state.workers.clone().spawn(async move { forget_old(&state).await });
        }
        if let Err(error) = state.prediction.follow_once(state.catalog()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the models cannot be followed");
        }
    }
}

/// Answers a request that came over any protocol.
pub(super) async fn predict(state: &ServerState, request: PredictRequest) -> Result<PredictAnswer, Status> {
    if request.now.is_some() && !state.allow_request_time {
        let message = "`now` is refused: the server was not started with --allow-request-time";
        return Err(Status::invalid_argument(message));
    }
    let (limit, rows) = (state.settings.server.limits.request_rows, request.columns.num_rows());
    if rows > limit {
        let message = format!("the request has {rows} rows, and the server takes {limit} at once; send fewer");
        return Err(Status::resource_exhausted(message));
    }
    // It computes at once, and then waits for its log, which keeps nobody from a turn.
    drop(state.turns.take().await?);
    state.prediction.service.predict(request).await.map_err(|error| to_status(error.kind(), &error))
}
