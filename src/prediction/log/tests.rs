//! The spool and the table, and who has which spool.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;

use super::row::{LogRecord, RecordRow, Role};
use super::spool::PredictionLogger;
use super::{LogRow, archive_left};
use crate::definition::LogDurability;
use crate::engine::Engine;
use crate::offline_store::OfflineStore;
use crate::prediction::read_log;
use crate::time::{Clock, SystemClock};

fn record(id: &str) -> LogRecord {
    LogRecord {
        sent_at: SystemClock.now().micros(),
        route: "r".to_owned(),
        model: "m".to_owned(),
        version: 1,
        role: Role::Primary,
        experiment: None,
        registry_version: 1,
        latency_us: 1,
        keys: Vec::new(),
        inputs: Arc::default(),
        rows: vec![RecordRow {
            prediction_id: id.to_owned(),
            keys: Vec::new(),
            values: Vec::new(),
            prediction: vec![0.5],
        }],
    }
}

fn store(folder: &Path) -> OfflineStore {
    OfflineStore::open(folder.join("offline").to_str().unwrap()).unwrap()
}

fn open(folder: &Path) -> Arc<PredictionLogger> {
    PredictionLogger::open(&folder.join("spool"), store(folder)).unwrap()
}

async fn ids(folder: &Path) -> Vec<String> {
    let engine = Engine::new(None).unwrap();
    let rows: Vec<Vec<LogRow>> = read_log(&store(folder), &engine, None).await.unwrap().try_collect().await.unwrap();
    let mut ids: Vec<String> = rows.into_iter().flatten().map(|row| row.prediction_id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_servers_has_a_spool_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (open(folder.path()), open(folder.path()));
    for (logger, id) in [(&first, "1"), (&second, "2")] {
        logger.append(&[record(id)], LogDurability::Machine).await.unwrap();
    }
    // What belongs to a server that runs, only it brings into the table.
    archive_left(&folder.path().join("spool"), &store(folder.path())).await.unwrap();
    assert_eq!(ids(folder.path()).await, Vec::<String>::new());
    first.archive().await.unwrap();
    assert_eq!(ids(folder.path()).await, ["1"]);
    second.archive().await.unwrap();
    first.archive().await.unwrap();
    assert_eq!(ids(folder.path()).await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_several_commits_comes_into_the_table_once() {
    let folder = tempfile::tempdir().unwrap();
    let logger = open(folder.path());
    let row = &record("").rows[0];
    let rows = |at: usize| (0..25_000).map(move |number| format!("{:06}", at * 25_000 + number));
    for at in 0..5 {
        let rows = rows(at).map(|prediction_id| RecordRow { prediction_id, ..row.clone() }).collect();
        logger.append(&[LogRecord { rows, ..record("") }], LogDurability::Process).await.unwrap();
    }
    logger.archive().await.unwrap();
    logger.archive().await.unwrap();
    assert_eq!(ids(folder.path()).await, (0..5).flat_map(rows).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_left_is_brought_into_the_table_once() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let logger = open(folder.path());
    logger.append(&[record("1"), record("2")], LogDurability::Process).await.unwrap();
    // A server that dies leaves its files, and its lock is free: a copy of them is what it leaves.
    copy(&spool, &folder.path().join("left"));
    logger.archive().await.unwrap();
    for _ in 0..2 {
        archive_left(&folder.path().join("left"), &store(folder.path())).await.unwrap();
        assert_eq!(ids(folder.path()).await, ["1", "2"], "the copy has the id of the spool: its rows are known");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_predictions_of_a_route_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let logger = open(folder.path());
    logger.append(&[record("old")], LogDurability::Process).await.unwrap();
    logger.archive().await.unwrap();
    let between = SystemClock.now();
    logger.append(&[record("new")], LogDurability::Process).await.unwrap();
    logger.archive().await.unwrap();
    assert_eq!(logger.forget("other", between).await.unwrap(), 0);
    assert_eq!(logger.forget("r", between).await.unwrap(), 1);
    assert_eq!(ids(folder.path()).await, ["new"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
