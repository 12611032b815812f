//! `asof rebuild-online`.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::explain::unknown_view;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use super::streams::close_streams;
use crate::materialization::{forget_position, sync_view};
use crate::online_store::OnlineStore;
use crate::registry::RegistryVersion;
use crate::serving::pb::RebuildOnlineRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::stream_ingestion::BuiltView;

#[derive(Debug, Args)]
pub struct RebuildOnlineArguments {
    /// The views whose online values are made anew; without any, all.
    views: Vec<String>,
}

/// What was made anew: names, and rows put and deleted; names of views that streams feed.
struct Rebuilt {
    synced: Vec<(String, u64, u64)>,
    streamed: Vec<StreamedView>,
}

/// A view that a stream feeds, and the events that were read for it.
pub(super) struct StreamedView {
    pub name: String,
    pub events: u64,
}

pub async fn run(project: &Project, arguments: &RebuildOnlineArguments, output: Output) -> Result<(), CliError> {
    let started = Instant::now();
    let registry = project.applied().await?;
    let known = || registry.definitions.feature_views.iter().map(|view| view.name.as_str());
    if let Some(unknown) = arguments.views.iter().find(|name| known().all(|known| known != *name)) {
        return Err(unknown_view(unknown, known()));
    }
    let rebuilt = match project.online_access().await? {
        OnlineAccess::Server(channel) => {
            let request = RebuildOnlineRequest { views: arguments.views.clone() };
            let answer = AdminClient::new(channel).rebuild_online(request).await?.into_inner();
            let synced = answer.views.into_iter().map(|view| (view.name, view.rows_put, view.rows_deleted));
            let events = answer.streamed_events.into_iter();
            let streamed = answer.streamed.into_iter().zip(events).map(|(name, events)| StreamedView { name, events });
            Rebuilt { synced: synced.collect(), streamed: streamed.collect() }
        }
        OnlineAccess::Store(store) => {
            let mut synced = Vec::new();
            let (offline, engine) = (project.offline_store()?, project.engine()?);
            let chosen = |name: &str| arguments.views.is_empty() || arguments.views.iter().any(|view| view == name);
            for view in registry.definitions.feature_views.iter().filter(|view| chosen(view.name.as_str())) {
                forget_position(&registry, view, store.as_ref())?;
                let done = sync_view(&registry, view, &offline, store.as_ref(), &engine).await?;
                synced.push((view.name.as_str().to_owned(), done.rows_put, done.rows_deleted));
            }
            let streamed = rebuild_streams(project, &registry, store, &arguments.views).await?;
            Rebuilt { synced, streamed }
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let events_of = |name: &str| rebuilt.streamed.iter().find(|view| view.name == name).map(|view| view.events);
    for (name, put, deleted) in &rebuilt.synced {
        let streamed = events_of(name).map(|events| format!(", {events} events of its stream read anew"));
        output.say(format!("{name}: {put} rows put, {deleted} deleted{}", streamed.unwrap_or_default()));
    }
    output.say(format!("online values made anew in {seconds:.1} s"));
    let view = |(name, put, deleted): &(String, u64, u64)| {
        let events = events_of(name);
        json!({"name": name, "rows_put": put, "rows_deleted": deleted, "streamed": events.is_some(), "events": events})
    };
    output.document(&json!({"views": rebuilt.synced.iter().map(view).collect::<Vec<_>>(), "seconds": seconds}));
    Ok(())
}

/// Builds what streams brought of the views, or of all, anew in a store that nobody else has.
pub(super) async fn rebuild_streams(
    project: &Project,
    registry: &Arc<RegistryVersion>,
    store: Arc<dyn OnlineStore>,
    views: &[String],
) -> Result<Vec<StreamedView>, CliError> {
    if super::streams::streamed_sources(&registry.definitions).next().is_none() {
        return Ok(Vec::new());
    }
    let ingestion = project.open_streams(registry, store).await?;
    let fed = ingestion.fed_views(views);
    let rebuilt = if fed.is_empty() { Ok(Vec::new()) } else { ingestion.rebuild(&fed).await };
    close_streams(&ingestion).await;
    let streamed = |built: BuiltView| StreamedView { name: built.view.as_str().to_owned(), events: built.events };
    Ok(rebuilt?.into_iter().map(streamed).collect())
}
