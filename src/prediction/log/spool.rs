//! The thread that writes records to the disk, many at a time, and those that bring them into the table.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datafusion::common::ScalarValue;
use datafusion::prelude::{col, lit};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

use super::archive::{PREDICTION_LOG, archive_next};
use super::codec::encode;
use super::row::LogRecord;
use crate::definition::{LogDurability, SourceName};
use crate::metrics::{PREDICTION_LOG_DROPPED_TOTAL, PREDICTION_LOG_ROWS_TOTAL};
use crate::offline_store::{EventKind, OfflineStore};
use crate::prediction::PredictionError;
use crate::prediction::priority::{yield_to_all, yield_to_most};
use crate::stream_ingestion::Log;
use crate::time::EventTimestamp;

/// Records that wait to be written.
const QUEUE_MAX: usize = 4096;
/// Records that are written at once.
const GROUP_MAX: usize = 1024;
/// How often the table is brought up to the spool.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a commit may take on threads that get what others leave.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(10);

enum Message {
    Records(Records),
    /// Records up to this one are in the table.
    Archived(u64),
}

struct Records {
    bodies: Vec<Vec<u8>>,
    durability: LogDurability,
    done: Option<oneshot::Sender<io::Result<()>>>,
}

/// Spools of servers on one project, the number of those that run at once.
const SPOOLS_MAX: usize = 64;
const LOCK_FILE: &str = "lock";

/// The folders that spools may have: each server that runs has one to itself.
pub(super) fn spool_folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let numbered = move |number: usize, folder: &Path| match number {
        1 => folder.to_owned(),
        number => folder.with_file_name(format!("{name}.{number}")),
    };
    let folder = folder.to_owned();
    (1..=SPOOLS_MAX).map(move |number| numbered(number, &folder))
}

/// Takes a spool for this process alone; None: another one has it.
pub(super) fn lock_spool(folder: &Path) -> io::Result<Option<File>> {
    std::fs::create_dir_all(folder)?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Writes down predictions.
#[derive(Debug)]
pub struct PredictionLogger {
    /// Held while the spool is this process's.
    _lock: File,
    queue: mpsc::Sender<Message>,
    folder: PathBuf,
    id: String,
    store: OfflineStore,
    /// One archive at a time.
    archiving: tokio::sync::Mutex<()>,
    written: Arc<AtomicU64>,
    stop: Arc<Notify>,
}

impl PredictionLogger {
    /// Opens the spool in `folder`, or in one beside it where another server has that; what it holds from before is
    /// brought into the table.
    ///
    /// # Errors
    /// A folder that cannot be read or written.
    pub fn open(folder: &Path, store: OfflineStore) -> io::Result<Arc<Self>> {
        let mut folders = spool_folders(folder);
        let (folder, lock) = loop {
            let folder = folders.next().ok_or_else(|| io::Error::other("other servers have all of its places"))?;
            if let Some(lock) = lock_spool(&folder)? {
                break (folder, lock);
            }
        };
        let log = Log::open(&folder)?;
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let written = Arc::new(AtomicU64::new(log.last()));
        let logger = Arc::new(PredictionLogger {
            queue,
            _lock: lock,
            folder,
            id: log.id().to_owned(),
            store,
            archiving: tokio::sync::Mutex::new(()),
            written: Arc::clone(&written),
            stop: Arc::default(),
        });
        std::thread::Builder::new()
            .name("asof-predictions".to_owned())
            .spawn(move || write(log, messages, &written))?;
        let new_runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (sharing, patient) = (new_runtime()?, new_runtime()?);
        let (archiver, patient_handle) = (Arc::clone(&logger), patient.handle().clone());
        let (ended, has_ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("asof-archive".to_owned()).spawn(move || {
            yield_to_most();
            sharing.block_on(archiver.archive_always(&patient_handle));
            drop(ended);
        })?;
        std::thread::Builder::new().name("asof-archive-idle".to_owned()).spawn(move || {
            yield_to_all();
            let _ = patient.block_on(has_ended);
        })?;
        Ok(logger)
    }

    /// Until [`Self::close`], on threads that `patient` runs on, which leave the processors to all others: requests wait
    /// for milliseconds for one that has a share. Where they get too little, on the caller's, until all is done.
    async fn archive_always(self: Arc<Self>, patient: &Handle) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(ARCHIVE_INTERVAL) => {}
                () = self.stop.notified() => return,
            }
            let mut is_late = false;
            loop {
                let began = Instant::now();
                let next = Arc::clone(&self).archive_next();
                let archived = if is_late {
                    next.await
                } else {
                    let next = patient.spawn(next).await;
                    next.unwrap_or_else(|error| Err(PredictionError::Log(io::Error::other(error))))
                };
                match archived {
                    Ok(is_all) if is_all => break,
                    Ok(_) => is_late |= began.elapsed() > ARCHIVE_PATIENCE,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "predictions stay in the spool for now");
                        break;
                    }
                }
            }
        }
    }

    /// Brings what is written and not in the table there, as much as one commit takes. Gives whether that was all.
    async fn archive_next(self: Arc<Self>) -> Result<bool, PredictionError> {
        let _alone = self.archiving.lock().await;
        let through = self.written.load(Ordering::Acquire);
        let archived = archive_next(&self.folder, &self.id, through, &self.store).await?;
        if archived.is_new {
            let _ = self.queue.send(Message::Archived(archived.reach)).await;
        }
        Ok(archived.is_all)
    }

    /// Writes the records of one request, all of them or none; returns once they are as durable as asked.
    ///
    /// # Errors
    /// A spool that cannot be written.
    pub async fn append(&self, records: &[LogRecord], durability: LogDurability) -> Result<(), PredictionError> {
        if records.is_empty() {
            return Ok(());
        }
        if durability == LogDurability::None {
            records.iter().for_each(|record| self.append_behind(record));
            return Ok(());
        }
        records.iter().for_each(count);
        let (done, written) = oneshot::channel();
        let bodies = records.iter().map(encode).collect();
        let message = Message::Records(Records { bodies, durability, done: Some(done) });
        self.queue.send(message).await.map_err(|_| PredictionError::LogClosed)?;
        written.await.map_err(|_| PredictionError::LogClosed)?.map_err(PredictionError::Log)
    }

    /// Writes a record that nobody waits for; drops it, counted, where the queue is full.
    pub fn append_behind(&self, record: &LogRecord) {
        let message =
            Message::Records(Records { bodies: vec![encode(record)], durability: LogDurability::None, done: None });
        match self.queue.try_send(message) {
            Ok(()) => count(record),
            Err(_) => metrics::counter!(PREDICTION_LOG_DROPPED_TOTAL).increment(record.rows.len() as u64),
        }
    }

    /// Brings what is written into the table.
    ///
    /// # Errors
    /// A table that cannot be written; the spool keeps what it lacks.
    pub async fn archive(self: &Arc<Self>) -> Result<(), PredictionError> {
        while !Arc::clone(self).archive_next().await? {}
        Ok(())
    }

    /// Deletes the rows of a route that were sent before an instant. Gives how many there were.
    ///
    /// # Errors
    /// A table that cannot be written; it is as it was.
    pub async fn forget(&self, route: &str, before: EventTimestamp) -> Result<usize, PredictionError> {
        let _alone = self.archiving.lock().await;
        let instant = ScalarValue::TimestampMicrosecond(Some(before.micros()), Some("UTC".into()));
        let condition = col("route").eq(lit(route)).and(col("sent_at").lt(lit(instant)));
        let name = SourceName::new(PREDICTION_LOG);
        Ok(self.store.delete_events(EventKind::Predictions, &name, condition).await?)
    }

    /// Brings the rest into the table and ends.
    ///
    /// # Errors
    /// As of [`Self::archive`].
    pub async fn close(self: &Arc<Self>) -> Result<(), PredictionError> {
        self.stop.notify_one();
        self.archive().await
    }
}

fn count(record: &LogRecord) {
    let rows = record.rows.len() as u64;
    metrics::counter!(PREDICTION_LOG_ROWS_TOTAL, "role" => record.role.as_str()).increment(rows);
}

/// Writes until nobody can send any more.
fn write(mut log: Log, mut messages: mpsc::Receiver<Message>, written: &AtomicU64) {
    let mut group = Vec::new();
    while let Some(first) = messages.blocking_recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Archived(through) => {
                    if let Err(error) = log.remove_through(through) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the spool cannot be shortened");
                    }
                }
                Message::Records(records) => group.push(records),
            }
            next = if group.len() < GROUP_MAX { messages.try_recv().ok() } else { None };
        }
        if !group.is_empty() {
            write_group(&mut log, std::mem::take(&mut group), written);
        }
    }
}

fn write_group(log: &mut Log, mut group: Vec<Records>, written: &AtomicU64) {
    let bodies: Vec<Vec<u8>> = group.iter_mut().flat_map(|records| std::mem::take(&mut records.bodies)).collect();
    let (synced, others): (Vec<_>, Vec<_>) =
        group.into_iter().partition(|records| records.durability == LogDurability::Machine);
    let outcome = log.write(&bodies).map(|_| ());
    if outcome.is_ok() {
        written.store(log.last(), Ordering::Release);
    }
    tell(others, &outcome);
    let outcome = if synced.is_empty() { outcome } else { outcome.and_then(|()| log.sync()) };
    if let Err(error) = &outcome {
        tracing::error!(error = error as &dyn std::error::Error, "predictions cannot be written to the spool");
    }
    tell(synced, &outcome);
}

/// Answers those who wait for records.
fn tell(group: Vec<Records>, outcome: &io::Result<()>) {
    for done in group.into_iter().filter_map(|records| records.done) {
        let outcome = outcome.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
        let _ = done.send(outcome);
    }
}
