//! The thread of the applier: records of the log as they come, and what else it is told, one after the other.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::IngestionError;
use super::applier::Applier;
use super::archive::Archive;
use super::build::BuiltView;
use super::engine::{Ingestion, RETRY_INTERVAL, lock};
use super::log::Logged;
use crate::definition::{FeatureViewName, SourceName};
use crate::offline_store::EventKind;
use crate::registry::RegistryVersion;

/// Bytes that are written to tables without being waited for.
const ARCHIVE_BYTES: usize = 32 << 20;
/// Rows that are applied in one step.
const APPLY_ROWS: usize = 64 * 1024;
/// How often what is past is forgotten.
const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// What the applier is told.
pub enum ToApplier {
    Record(Box<Logged>),
    Registry(Arc<RegistryVersion>, oneshot::Sender<Result<(), IngestionError>>),
    Rebuild(Vec<FeatureViewName>, oneshot::Sender<Result<Vec<BuiltView>, IngestionError>>),
    /// A new event table may begin for this source.
    NewTable(SourceName, oneshot::Sender<Result<(), IngestionError>>),
}

pub(super) struct ApplierThread {
    pub(super) applier: Applier,
    pub(super) applied: watch::Sender<u64>,
    pub(super) archive: Arc<Archive>,
    pub(super) archive_soon: Arc<Notify>,
    pub(super) ingestion: Weak<Ingestion>,
    pub(super) workers: Handle,
}

impl ApplierThread {
    /// Works until nobody can send any more.
    pub(super) fn run(mut self, incoming: &Receiver<ToApplier>) {
        let mut tidied = Instant::now();
        loop {
            let mut work = match incoming.recv_timeout(TIDY_INTERVAL) {
                Ok(work) => Some(work),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.ingestion.strong_count() == 0 && work.is_none() {
                return;
            }
            while let Some(next) = work.take() {
                work = match next {
                    ToApplier::Record(record) => self.apply(*record, incoming),
                    other => {
                        self.obey(other);
                        None
                    }
                };
            }
            if tidied.elapsed() >= TIDY_INTERVAL {
                tidied = Instant::now();
                if let Err(error) = self.applier.tidy() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "what is past could not be forgotten");
                }
            }
        }
    }

    /// Applies a record and those that follow it; gives what came after them and is none.
    fn apply(&mut self, first: Logged, incoming: &Receiver<ToApplier>) -> Option<ToApplier> {
        let mut rows = first.record.rows.num_rows();
        let mut records = vec![first];
        let mut other = None;
        while rows < APPLY_ROWS {
            match incoming.try_recv() {
                Ok(ToApplier::Record(record)) => {
                    rows += record.record.rows.num_rows();
                    records.push(*record);
                }
                Ok(work) => {
                    other = Some(work);
                    break;
                }
                Err(_) => break,
            }
        }
        while let Err(error) = self.workers.block_on(self.applier.apply(&records)) {
            // Events are in the log: they wait until the store takes them, and so does everything after them.
            tracing::warn!(error = &error as &dyn std::error::Error, "events could not be applied; trying again");
            match self.ingestion.upgrade() {
                Some(ingestion) if !ingestion.is_closing.load(Ordering::SeqCst) => {
                    *lock(&ingestion.store_fault) = Some(error);
                }
                _ => return None,
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        if let Some(ingestion) = self.ingestion.upgrade() {
            lock(&ingestion.store_fault).take();
            let sources: HashSet<&SourceName> = records.iter().map(|r| &r.record.source).collect();
            for source in sources {
                ingestion.notes().insert(source.clone(), self.applier.note_of(source));
            }
            ingestion.forget_pending(&records);
        }
        let bytes = records.iter().map(|record| record.bytes).sum();
        if let Some(ingestion) = self.ingestion.upgrade() {
            ingestion.in_flight_bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        // The tables are never ahead of the online store.
        let letters = std::mem::take(&mut self.applier.letters);
        if self.archive.add(with_letters(records, letters)) > ARCHIVE_BYTES {
            self.archive_soon.notify_one();
        }
        self.applied.send_replace(self.applier.applied());
        other
    }

    fn obey(&mut self, work: ToApplier) {
        match work {
            ToApplier::Record(_) => {}
            ToApplier::Registry(registry, done) => {
                let applier = &mut self.applier;
                let taken = self.workers.block_on(async {
                    applier.use_registry(Arc::clone(&registry)).await?;
                    applier.build(&[]).await
                });
                if let Some(ingestion) = self.ingestion.upgrade() {
                    ingestion.take_notes(&self.applier, &registry);
                }
                let _ = done.send(taken.map(|_| ()));
            }
            ToApplier::Rebuild(views, done) => {
                let built = self.workers.block_on(self.applier.build(&views));
                let _ = done.send(built.and_then(
                    |built| match views.iter().find_map(|view| self.applier.fault_of(view)) {
                        Some(fault) => Err(fault),
                        None => Ok(built),
                    },
                ));
            }
            ToApplier::NewTable(source, done) => {
                let _ = done.send(self.begin_table(&source));
                self.archive_soon.notify_one();
            }
        }
    }
}

impl ApplierThread {
    fn begin_table(&mut self, source: &SourceName) -> Result<(), IngestionError> {
        // What waits for the table that is gone goes to the new one.
        let position = self.archive.position_of(source).unwrap_or_else(|| self.applier.applied());
        self.workers.block_on(self.applier.begin_table(source, position))
    }
}

/// Records with the dead letters of views that they make, each after its own.
pub(super) fn with_letters(records: Vec<Logged>, letters: Vec<Logged>) -> Vec<Logged> {
    if letters.is_empty() {
        return records;
    }
    let mut all: Vec<Logged> = records.into_iter().chain(letters).collect();
    // Stable: letters come after the record that they are of.
    all.sort_by_key(|logged| logged.sequence);
    all
}

impl Ingestion {
    /// The store knows the ids of these records now.
    fn forget_pending(&self, records: &[Logged]) {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        for record in records.iter().filter(|record| record.record.kind == EventKind::Accepted) {
            let Some(door) = sources.get(&record.record.source) else { continue };
            let mut door = lock(door);
            if let Ok(ids) = door.admission.ids_of(&record.record.rows) {
                door.admission.stored(&ids);
            }
        }
    }
}
