//! `asof backup` and `asof restore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use super::rebuild_online::rebuild_streams;
use crate::materialization::sync_view;
use crate::online_store::{RocksDbOnlineStore, RocksDbOptions, Snapshot};
use crate::serving::pb::CheckpointRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::time::{Clock, SystemClock};

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

/// Makes the online store that of a snapshot, and brings it up to the tables of the offline store.
pub async fn restore(project: &Project, arguments: &RestoreArguments, output: Output) -> Result<(), CliError> {
    let path = project.online_store_path();
    if path.exists() {
        // Refused while a server, or another command, has it.
        drop(project.open_online_store()?);
        if !arguments.replace {
            let message = format!("there is an online store at {}; --replace moves it away", path.display());
            return Err(CliError::Refused(message));
        }
    }
    let new = RemovedOnDrop(path.with_extension("restoring"));
    remove_folder(&new.0)?;
    let snapshot = Snapshot::fetch(&arguments.location, &new.0.join("db"), &project.settings.project).await?;
    // What cannot be read takes nobody's place.
    RocksDbOnlineStore::open(&RocksDbOptions::new(&new.0), Arc::new(SystemClock))?.verify()?;
    let failed = |action: &str, path: &Path| {
        let action = format!("{action} {}", path.display());
        move |source| CliError::Io { action, source }
    };
    if path.exists() {
        let before = path.with_extension("before-restore");
        if before.exists() {
            let message = format!("{} is there still, from a restore before; delete it first", before.display());
            return Err(CliError::Refused(message));
        }
        std::fs::rename(&path, &before).map_err(failed("move away", &path))?;
    }
    std::fs::rename(&new.0, &path).map_err(failed("put in place", &path))?;
    let store = project.open_online_store()?;
    let (mut put, mut deleted) = (0, 0);
    if let Some(registry) = project.registry()?.latest().await? {
        let registry = Arc::new(registry);
        let (offline, engine) = (project.offline_store()?, project.engine()?);
        crate::materialization::remove_unknown_views(store.as_ref(), &registry)?;
        for view in &registry.definitions.feature_views {
            let synced = sync_view(&registry, view, &offline, store.as_ref(), &engine).await?;
            (put, deleted) = (put + synced.rows_put, deleted + synced.rows_deleted);
        }
        // What streams brought since the snapshot stands in the event tables.
        rebuild_streams(project, &registry, Arc::clone(&store), &[]).await?;
    }
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
