//! `asof vacuum`.

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::output::Output;
use super::project::Project;
use super::streams::streamed_sources;
use crate::offline_store::EventKind;
use crate::time::{duration_micros, parse_duration};

#[derive(Debug, Args)]
pub struct VacuumArguments {
    /// Keep files that a table version younger than this needs; answers at older versions are lost.
    #[arg(long, default_value = "7d")]
    older_than: String,
    /// Say what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(project: &Project, arguments: &VacuumArguments, output: Output) -> Result<(), CliError> {
    let retention = chrono::Duration::microseconds(duration_micros(parse_duration(&arguments.older_than)?));
    let applied = project.applied().await?;
    let offline_store = project.offline_store()?;
    let mut removed_tables = Vec::new();
    for removed in &applied.removed_views {
        let is_known = applied.definitions.feature_view(removed.name.as_str()).is_some();
        let Some(table) = offline_store.view_table(&removed.name).await? else { continue };
        if !is_known && table.state().view_id == Some(removed.id) && !removed_tables.contains(&removed.name) {
            if !arguments.dry_run {
                offline_store.delete_view_table(&removed.name).await?;
                offline_store.tiles().delete_view_table(&removed.name).await?;
            }
            removed_tables.push(removed.name.clone());
        }
    }
    let mut files = 0;
    for view in &applied.definitions.feature_views {
        for store in [&offline_store, &offline_store.tiles()] {
            files += store.vacuum_view_table(&view.name, retention, arguments.dry_run).await?;
        }
    }
    for source in streamed_sources(&applied.definitions) {
        for kind in [EventKind::Accepted, EventKind::DeadLetters] {
            files += offline_store.vacuum_event_table(kind, source, retention, arguments.dry_run).await?;
        }
    }
    let verb = if arguments.dry_run { "would be deleted" } else { "deleted" };
    output.say(format!("{} tables of removed views and {files} files {verb}", removed_tables.len()));
    output.document(&json!({
        "tables": removed_tables, "files": files, "dry_run": arguments.dry_run,
    }));
    Ok(())
}
