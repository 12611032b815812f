//! What the prediction services share, and how they follow the registries.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Status;

use crate::model_registry::{ModelReference, ModelRegistry, ModelRegistryError, Models};
use crate::offline_store::OfflineStore;
use crate::prediction::{
    PredictAnswer, PredictRequest, PredictionCatalog, PredictionError, PredictionLogger, PredictionService, Scope,
};
use crate::retrieval::{Catalog, OnlineRetrieval};
use crate::serving::state::ServerState;
use crate::serving::status::to_status;

const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How often predictions are deleted that are not to be kept any longer.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct PredictionState {
    pub service: Arc<PredictionService>,
    pub models: ModelRegistry,
    /// Held while another catalog is made; the versions that were asked by their numbers alone.
    also: tokio::sync::Mutex<Vec<ModelReference>>,
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
    ) -> std::io::Result<Self> {
        let logger = PredictionLogger::open(spool, offline_store)?;
        let service = PredictionService::new(online, Some(logger));
        Ok(PredictionState { service: Arc::new(service), models, also: tokio::sync::Mutex::default() })
    }

    /// Takes over the newest models and definitions. Gives whether they are new.
    ///
    /// # Errors
    /// A registry of models that cannot be read; what is in use stays.
    pub async fn follow_once(&self, features: Option<Arc<Catalog>>) -> Result<bool, ModelRegistryError> {
        let Some(features) = features else { return Ok(false) };
        let also = self.also.lock().await;
        let models = self.models.models().await?;
        let known = self.service.catalog();
        if known.as_ref().is_some_and(|known| known.is_of(&features, &models)) {
            return Ok(false);
        }
        self.build(features, models, &also).await;
        Ok(true)
    }

    /// Makes a version ready that a caller names by its number, and that nobody else needs.
    pub async fn make_ready(&self, route: &str) {
        let is_known = |catalog: &PredictionCatalog| !route.contains('@') || catalog.not_loaded(route).is_none();
        if self.service.catalog().is_none_or(|catalog| is_known(&catalog)) {
            return;
        }
        let mut also = self.also.lock().await;
        let Some(catalog) = self.service.catalog() else { return };
        if let Some(reference) = catalog.not_loaded(route) {
            also.push(reference);
            self.build(Arc::clone(&catalog.features), Arc::clone(&catalog.models), &also).await;
        }
    }

    async fn build(&self, features: Arc<Catalog>, models: Arc<Models>, also: &[ModelReference]) {
        let known = self.service.catalog();
        let catalog =
            PredictionCatalog::build(features, models, &self.models, known.as_deref(), Scope::Served(also)).await;
        let told = known.map(|known| known.problems()).unwrap_or_default();
        for problem in catalog.problems().iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!(route = problem.route, problem = problem.problem, "a route, or a shadow, cannot be asked");
        }
        self.service.use_catalog(Arc::new(catalog));
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

/// Answers a request that came over any protocol, once a route.
pub(super) async fn predict(state: &ServerState, request: PredictRequest) -> Result<Vec<PredictAnswer>, Status> {
    if request.now.is_some() && !state.allow_request_time {
        let message = "`now` is refused: the server was not started with --allow-request-time";
        return Err(Status::invalid_argument(message));
    }
    let (limit, rows) = (state.settings.server.limits.request_rows, request.columns.num_rows());
    if rows > limit {
        let message = format!("the request has {rows} rows, and the server takes {limit} at once; send fewer");
        return Err(Status::invalid_argument(message));
    }
    for route in &request.routes {
        state.prediction.make_ready(route).await;
    }
    let (service, arrived) = (Arc::clone(&state.prediction.service), Instant::now());
    let failed = |error: PredictionError| to_status(error.kind(), &error);
    let answered = state.turns.run(rows, move || service.answer(request, arrived)).await?.map_err(failed)?;
    // Waiting for the log keeps nobody from a turn.
    state.prediction.service.remember(answered).await.map_err(failed)
}

/// As [`predict`], of a request to one route.
pub(super) async fn predict_one(state: &ServerState, request: PredictRequest) -> Result<PredictAnswer, Status> {
    let answered = predict(state, request).await?.pop();
    answered.ok_or_else(|| Status::invalid_argument("the request names no route"))
}
