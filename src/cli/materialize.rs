//! `asof materialize`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::error::CliError;
use super::explain::unknown_view;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use crate::definition::{FeatureView, SourceName, ViewInput};
use crate::materialization::{Bounds, Job, MaterializedView, Progress, remove_unknown_views, sync_view};
use crate::registry::RegistryVersion;
use crate::serving::pb::SyncOnlineStoreRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::time::{Clock, EventTimestamp, SystemClock, TimeRange};

#[derive(Debug, Args)]
pub struct MaterializeArguments {
    /// The views to compute; without any, all that have a batch source.
    views: Vec<String>,
    /// Event times from here on; without it, from where each view stands less its lookback.
    #[arg(long)]
    start: Option<String>,
    /// Event times before this; without it, up to now.
    #[arg(long)]
    end: Option<String>,
}

/// What an upload did.
struct Uploaded {
    rows_put: u64,
    rows_deleted: u64,
    table_version: Option<u64>,
}

pub async fn run(project: &Project, arguments: &MaterializeArguments, output: Output) -> Result<(), CliError> {
    let started = Instant::now();
    let start = arguments.start.as_deref().map(EventTimestamp::parse).transpose()?;
    let end = arguments.end.as_deref().map(EventTimestamp::parse).transpose()?;
    let now = SystemClock.now();
    let end = end.unwrap_or(now);
    TimeRange::new(start, Some(end))?;
    let registry = project.applied().await?;
    let views = chosen_views(&registry, &arguments.views)?;
    let sources: Vec<SourceName> = views.iter().flat_map(|view| view.input.sources()).cloned().collect();
    project.settle_streams(&registry, &sources).await?;
    let job = project.job(Arc::clone(&registry))?;
    let mut documents = Vec::new();
    for view in &views {
        if !registry.definitions.is_materialized(view) {
            output.say(format!("{}: nothing to materialize, its stream feeds it", view.name));
            documents.push(json!({"view": view.name, "rows_read": 0, "rows_written": 0, "streamed": true}));
            continue;
        }
        documents.push(materialize_view(project, &job, view, Bounds { start, end, now }, output).await?);
    }
    let seconds = started.elapsed().as_secs_f64();
    output.say(format!("{} in {seconds:.1} s", counted(views.len(), "feature view")));
    output.document(&json!({"views": documents, "seconds": seconds}));
    Ok(())
}

fn chosen_views(registry: &RegistryVersion, names: &[String]) -> Result<Vec<FeatureView>, CliError> {
    let definitions = &registry.definitions;
    if names.is_empty() {
        return Ok(definitions
            .feature_views
            .iter()
            .filter(|view| definitions.is_materialized(view))
            .cloned()
            .collect());
    }
    let known = || definitions.feature_views.iter().map(|view| view.name.as_str());
    names
        .iter()
        .map(|name| definitions.feature_view(name).cloned().ok_or_else(|| unknown_view(name, known())))
        .collect()
}

async fn materialize_view(
    project: &Project,
    job: &Job,
    view: &FeatureView,
    bounds: Bounds,
    output: Output,
) -> Result<Value, CliError> {
    let progress = Arc::new(Progress::default());
    let bar = start_bar(view, &progress, output);
    let done = job.run(view, bounds, &progress).await;
    bar.finish_and_clear();
    let materialized = done?;
    let upload_started = Instant::now();
    let uploaded = upload(project, job, view).await?;
    let upload_seconds = upload_started.elapsed().as_secs_f64();
    output.say(describe(view, materialized.as_ref(), &uploaded, upload_seconds));
    let mut document = match &materialized {
        Some(materialized) => serde_json::to_value(materialized).unwrap_or_default(),
        None => json!({"view": view.name, "rows_read": 0, "rows_written": 0}),
    };
    document["rows_uploaded"] = json!(uploaded.rows_put);
    document["upload_seconds"] = json!(upload_seconds);
    document["rows_deleted_online"] = json!(uploaded.rows_deleted);
    document["table_version"] = json!(uploaded.table_version);
    Ok(document)
}

/// Brings the view's online values up to its table: here, or by the server that has the store.
async fn upload(project: &Project, job: &Job, view: &FeatureView) -> Result<Uploaded, CliError> {
    match project.online_access().await? {
        OnlineAccess::Store(store) => {
            remove_unknown_views(store.as_ref(), &job.registry)?;
            let synced = sync_view(&job.registry, view, &job.offline_store, store.as_ref(), &job.engine).await?;
            Ok(Uploaded {
                rows_put: synced.rows_put,
                rows_deleted: synced.rows_deleted,
                table_version: synced.table_version,
            })
        }
        OnlineAccess::Server(channel) => {
            let request = SyncOnlineStoreRequest { views: vec![view.name.as_str().to_owned()] };
            let synced = AdminClient::new(channel).sync_online_store(request).await?.into_inner().views;
            let synced = synced.into_iter().next().unwrap_or_default();
            Ok(Uploaded {
                rows_put: synced.rows_put,
                rows_deleted: synced.rows_deleted,
                table_version: synced.table_version,
            })
        }
    }
}

/// A bar on a terminal; elsewhere lines are printed when a view is done.
fn start_bar(view: &FeatureView, progress: &Arc<Progress>, output: Output) -> ProgressBar {
    if output.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{spinner} {prefix}  {msg}  {elapsed}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_prefix(view.name.as_str().to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let (shown, counts) = (bar.downgrade(), Arc::clone(progress));
    tokio::spawn(async move {
        while let Some(bar) = shown.upgrade().filter(|bar| !bar.is_finished()) {
            bar.set_message(format!("{} rows read, {} sorted", counts.rows_read(), counts.rows_sorted()));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    bar
}

fn describe(view: &FeatureView, done: Option<&MaterializedView>, uploaded: &Uploaded, upload_seconds: f64) -> String {
    let kind = if matches!(view.input, ViewInput::Sql { .. }) { " (SQL)" } else { "" };
    let Some(done) = done else {
        return format!(
            "{}{kind}: nothing to do, {} rows uploaded in {upload_seconds:.2} s",
            view.name, uploaded.rows_put
        );
    };
    let range = done.range.map_or_else(|| "all rows".to_owned(), |range| range.to_string());
    let mut text = format!(
        "{}{kind}: {range}: {} rows read, {} written as table version {} in {:.2} s, {} uploaded in {upload_seconds:.2} s",
        done.view, done.rows_read, done.rows_written, done.table_version, done.seconds, uploaded.rows_put
    );
    if done.rows_skipped > 0 {
        text.push_str(&format!(
            "; {} without key or event timestamp, or not to be computed, skipped",
            done.rows_skipped
        ));
    }
    if done.rows_repeated > 0 {
        text.push_str(&format!("; {} repeated rows kept once", done.rows_repeated));
    }
    text
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
