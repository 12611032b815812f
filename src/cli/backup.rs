//! `asof backup` and `asof restore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use super::streams::{close_streams, streamed_sources};
use crate::materialization::{remove_unknown_views, sync_view};
use crate::online_store::{OnlineStore, Snapshot, SnapshotError};
use crate::serving::pb::CheckpointRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::stream_ingestion::forget_streams;
use crate::time::{Clock, SystemClock};

/// Work that ends lets go of a store within milliseconds.
const CLOSE_TRIES: usize = 1_000;

#[derive(Debug, Args)]
pub struct BackupArguments {
    /// A folder that is empty or not there, or an object-store URL.
    location: String,
}

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// Where `asof backup` put a snapshot.
    location: String,
    /// Move the online store that is there away, to PATH.before-restore.
    #[arg(long)]
    replace: bool,
}

/// Writes a snapshot of the online store, whoever has it open; reads and writes go on meanwhile.
pub async fn backup(project: &Project, arguments: &BackupArguments, output: Output) -> Result<(), CliError> {
    let checkpoint = match project.online_access().await? {
        OnlineAccess::Store(store) => {
            let folder = project.new_checkpoint_path();
            store.checkpoint(&folder)?;
            folder
        }
        OnlineAccess::Server(channel) => {
            let answer = AdminClient::new(channel).checkpoint(CheckpointRequest {}).await?;
            PathBuf::from(answer.into_inner().folder)
        }
    };
    let checkpoint = RemovedOnDrop(checkpoint);
    let now = SystemClock.now().to_string();
    let snapshot = Snapshot::publish(&checkpoint.0, &arguments.location, &project.settings.project, now).await?;
    let (files, bytes) = (snapshot.files(), snapshot.bytes());
    output.say(format!("{files} files, {bytes} bytes at {}", arguments.location));
    output.document(&json!({"location": arguments.location, "files": files, "bytes": bytes}));
    Ok(())
}

/// Makes the online store that of a snapshot, brought up to the tables of the offline store. Until that is done it
/// stands beside the store that is there, so that a restore that fails, or is killed, changes nothing.
pub async fn restore(project: &Project, arguments: &RestoreArguments, output: Output) -> Result<(), CliError> {
    let (path, before) = (project.online_store_path(), project.online_store_path().with_extension("before-restore"));
    // Refused while a server, or another command, has it; held, so that none takes it meanwhile.
    let replaced = path.exists().then(|| project.open_online_store()).transpose()?;
    if replaced.is_some() && !arguments.replace {
        let message = format!("there is an online store at {}; --replace moves it away", path.display());
        return Err(CliError::Refused(message));
    }
    if replaced.is_some() && before.exists() {
        let message = format!("{} is there still, from a restore before; delete it first", before.display());
        return Err(CliError::Refused(message));
    }
    let new = RemovedOnDrop(path.with_extension("restoring"));
    remove_folder(&new.0)?;
    let snapshot = Snapshot::fetch(&arguments.location, &new.0.join("db"), &project.settings.project).await?;
    let store = project.open_online_store_at(new.0.clone())?;
    store.verify().map_err(|error| SnapshotError::Damaged {
        location: arguments.location.clone(),
        problem: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
    })?;
    let store: Arc<dyn OnlineStore> = Arc::new(store);
    let (put, deleted) = bring_up(project, Arc::clone(&store)).await?;
    close(store).await?;
    drop(replaced);
    let failed = |action: &str, path: &Path| {
        let action = format!("{action} {}", path.display());
        move |source| CliError::Io { action, source }
    };
    if path.exists() {
        std::fs::rename(&path, &before).map_err(failed("move away", &path))?;
    }
    std::fs::rename(&new.0, &path).map_err(failed("put in place", &path))?;
    output.say(format!("restored what was there at {}", snapshot.created_at));
    output.say(format!("brought up to the tables: {put} rows put, {deleted} deleted"));
    output.document(&json!({
        "location": arguments.location,
        "created_at": snapshot.created_at,
        "rows_put": put,
        "rows_deleted": deleted,
    }));
    Ok(())
}

/// Brings a store up to the tables of the offline store, by what changed; what streams brought is built anew, with the
/// ids of events. Gives the rows put and deleted.
async fn bring_up(project: &Project, store: Arc<dyn OnlineStore>) -> Result<(u64, u64), CliError> {
    let Some(registry) = project.registry()?.latest().await? else { return Ok((0, 0)) };
    let registry = Arc::new(registry);
    let (offline, engine) = (project.offline_store()?, project.engine()?);
    remove_unknown_views(store.as_ref(), &registry)?;
    let (mut put, mut deleted) = (0, 0);
    for view in &registry.definitions.feature_views {
        let synced = sync_view(&registry, view, &offline, store.as_ref(), &engine).await?;
        (put, deleted) = (put + synced.rows_put, deleted + synced.rows_deleted);
    }
    if streamed_sources(&registry.definitions).next().is_some() {
        forget_streams(store.as_ref(), &registry)?;
        close_streams(&*project.open_streams(&registry, store).await?).await;
    }
    Ok((put, deleted))
}

/// A store that is to be moved must not be written any more.
async fn close(mut store: Arc<dyn OnlineStore>) -> Result<(), CliError> {
    for _ in 0..CLOSE_TRIES {
        if Arc::get_mut(&mut store).is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(CliError::Failed("the restored store is still written to; try again".to_owned()))
}

fn remove_folder(folder: &Path) -> Result<(), CliError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::Io { action: format!("remove {}", folder.display()), source })
        }
        _ => Ok(()),
    }
}

/// A folder that is only needed on the way.
struct RemovedOnDrop(PathBuf);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        // What is left behind takes space, and is removed before it is needed again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
