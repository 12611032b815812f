//! The thread that writes the log: what waits is written together, and made durable by one sync.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use tokio::sync::oneshot;

use super::IngestionError;
use super::applier_thread::ToApplier;
use super::log::{Log, Logged};
use super::record::Record;

/// Bytes that are written and synced together, at most; one record may be longer.
const GROUP_BYTES: usize = 32 << 20;

/// Something for the log.
pub enum ToLog {
    Append(Box<Append>),
    /// Everything up to here is in both stores.
    RemoveThrough(u64),
}

pub struct Append {
    pub body: Vec<u8>,
    pub record: Record,
    /// Told the record's sequence number once it is durable.
    pub done: oneshot::Sender<Result<u64, IngestionError>>,
}

/// Writes until nobody can send any more, then gives the log back to its folder.
pub fn write_log(
    mut log: Log,
    folder: PathBuf,
    durable: Arc<AtomicU64>,
    incoming: &Receiver<ToLog>,
    applier: &Sender<ToApplier>,
) {
    while let Ok(first) = incoming.recv() {
        let mut group: Vec<Append> = Vec::new();
        let mut bytes = 0;
        let mut remove_through = None;
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                ToLog::Append(append) => {
                    bytes += append.body.len();
                    group.push(*append);
                }
                ToLog::RemoveThrough(through) => remove_through = Some(through),
            }
            next = if bytes < GROUP_BYTES { incoming.try_recv().ok() } else { None };
        }
        append(&mut log, &folder, &durable, group, applier);
        if let Some(through) = remove_through
            && let Err(error) = log.remove_through(through)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "files of the log could not be removed");
        }
    }
}

fn append(
    log: &mut Log,
    folder: &std::path::Path,
    durable: &AtomicU64,
    mut group: Vec<Append>,
    applier: &Sender<ToApplier>,
) {
    if group.is_empty() {
        return;
    }
    let bodies: Vec<Vec<u8>> = group.iter_mut().map(|append| std::mem::take(&mut append.body)).collect();
    match log.append(&bodies) {
        Ok(first) => {
            durable.store(first + bodies.len() as u64 - 1, Ordering::SeqCst);
            for ((sequence, append), body) in (first..).zip(group).zip(&bodies) {
                let logged = Logged { sequence, record: append.record, bytes: body.len() };
                // The receiver is gone only when everything ends.
                let _ = applier.send(ToApplier::Record(Box::new(logged)));
                let _ = append.done.send(Ok(sequence));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            tracing::warn!(error = &*error as &dyn std::error::Error, "the log could not be written");
            for append in group {
                let _ = append.done.send(Err(log_error(folder, &error)));
            }
        }
    }
}

fn log_error(folder: &std::path::Path, source: &Arc<io::Error>) -> IngestionError {
    IngestionError::Log { folder: folder.display().to_string(), source: Arc::clone(source) }
}
