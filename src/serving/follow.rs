//! Following the registry: a newer version is answered from within a second, without a request being dropped.

use std::sync::Arc;
use std::time::Duration;

use super::state::ServerState;
use crate::materialization::remove_unknown_views;
use crate::retrieval::Catalog;

const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Takes over the newest version of the registry, if it is not the one in use, and deletes what it removed.
///
/// # Errors
/// A registry that cannot be read, or definitions that cannot be compiled: the version in use stays.
pub async fn follow_once(state: &ServerState) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let _alone = state.follow_lock.lock().await;
    let Some(latest) = state.registry.latest().await? else { return Ok(false) };
    if state.catalog().is_some_and(|catalog| catalog.registry.version == latest.version) {
        return Ok(false);
    }
    let catalog = Arc::new(Catalog::new(Arc::new(latest))?);
    let registry = Arc::clone(&catalog.registry);
    // First: a view that is new to a stream is then answered from all of it. A stream that cannot follow goes on as it is.
    let streams = state.use_streams_of(&registry).await;
    state.catalog.store(Some(catalog));
    if let Err(error) = streams {
        tracing::error!(error = &error as &dyn std::error::Error, "streams cannot follow the registry");
    }
    remove_unknown_views(state.online.store.as_ref(), &registry)?;
    Ok(true)
}

/// Polls until the server ends.
pub async fn follow(state: Arc<ServerState>) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match follow_once(&state).await {
            Ok(true) => {
                let version = state.catalog().map(|catalog| catalog.registry.version);
                tracing::info!(version, "following a newer version of the registry");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(error = error.as_ref(), "the registry cannot be followed"),
        }
    }
}
