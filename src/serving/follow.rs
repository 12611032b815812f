//! Following the registry: a newer version is answered from within a second, without a request being dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::ServerState;
use crate::materialization::remove_unknown_views;
use crate::retrieval::Catalog;
use crate::stream_ingestion::IngestionError;

const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Takes over the newest version of the registry, if it is not the one in use, and deletes what it removed.
///
/// # Errors
/// A registry that cannot be read, or definitions that cannot be compiled: the version in use stays.
pub async fn follow_once(state: &ServerState) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let mut streams_tried = state.follow_lock.lock().await;
    let Some(latest) = state.registry.latest().await? else { return Ok(false) };
    let known = state.catalog().filter(|catalog| catalog.registry.version == latest.version);
    if let Some(catalog) = &known {
        let is_due = |after: Duration| streams_tried.is_none_or(|tried| tried.elapsed() >= after);
        if state.streams_retry(&catalog.registry).is_some_and(is_due) {
            *streams_tried = Some(Instant::now());
            report(state.use_streams_of(&catalog.registry).await);
        }
        return Ok(false);
    }
    let catalog = Arc::new(Catalog::new(Arc::new(latest))?);
    let registry = Arc::clone(&catalog.registry);
    // First: a view that is new to a stream is then answered from all of it. A stream that cannot follow goes on as it
    // is, and is tried again.
    *streams_tried = Some(Instant::now());
    let streams = state.use_streams_of(&registry).await;
    state.catalog.store(Some(catalog));
    report(streams);
    remove_unknown_views(state.online.store.as_ref(), &registry)?;
    Ok(true)
}

fn report(streams: Result<(), IngestionError>) {
    if let Err(error) = streams {
        tracing::error!(error = &error as &dyn std::error::Error, "streams cannot follow the registry");
    }
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
