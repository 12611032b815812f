//! Ingestion of one process: its threads, and the door to them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use metrics::gauge;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::IngestionError;
use super::applier::{Applier, SourceNote, Stores, watermark_of};
use super::applier_thread::{ApplierThread, ToApplier, with_letters};
use super::archive::Archive;
use super::build::BuiltView;
use super::door::SourceDoor;
use super::faults::Faults;
use super::known_tables::KnownTables;
use super::log::{Log, Logged};
use super::record::PassedOver;
use super::writer::{ToLog, write_log};
use crate::definition::{FeatureViewName, SourceName};
use crate::metrics::{STREAM_LAG_RECORDS, STREAM_PENDING_BYTES};
use crate::offline_store::EventKind;
use crate::registry::RegistryVersion;
use crate::time::EventTimestamp;

/// How long rows wait at most to be written to their table.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a store that takes nothing may hold up the end; what it lacks stands in the log.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);
/// How long after a failure of a store the same is tried again.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How one source's stream stands.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub name: SourceName,
    pub watermark: Option<EventTimestamp>,
    /// Since the store was made.
    pub accepted: u64,
    /// Rows that were refused, and events that views cannot take, once a view.
    pub dead_letters: u64,
    pub passed_over: PassedOver,
    /// Records of all sources that are logged and not visible online yet.
    pub online_lag_records: u64,
    /// Records of all sources that are not in the event tables yet.
    pub offline_lag_records: u64,
    /// Why no events are taken.
    pub fault: Option<IngestionError>,
}

/// The streams of one project, open. One process has them: that which has the online store.
pub struct Ingestion {
    pub(super) stores: Stores,
    pub(super) log_id: String,
    pub(super) log_folder: PathBuf,
    /// None: closed.
    pub(super) channels: Mutex<Option<Channels>>,
    pub(super) sources: RwLock<HashMap<SourceName, Arc<Mutex<SourceDoor>>>>,
    pub(super) registry: RwLock<Option<Arc<RegistryVersion>>>,
    pub(super) notes: Arc<Mutex<BTreeMap<SourceName, SourceNote>>>,
    pub(super) faults: Arc<Mutex<Faults>>,
    /// Why topics cannot be read.
    pub(super) topic_faults: Mutex<BTreeMap<SourceName, IngestionError>>,
    /// Why events wait to be in the online store.
    pub(super) store_fault: Mutex<Option<IngestionError>>,
    pub(super) is_closing: AtomicBool,
    pub(super) durable: Arc<AtomicU64>,
    pub(super) applied: watch::Receiver<u64>,
    pub(super) archive: Arc<Archive>,
    pub(super) archive_soon: Arc<Notify>,
    /// Bytes that are on their way to the archive.
    pub(super) in_flight_bytes: AtomicUsize,
    pub(super) pinned: Arc<AtomicU64>,
    pub(super) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(super) archiver: Mutex<Option<tokio::task::JoinHandle<()>>>,
    pub(super) workers: Handle,
}

impl std::fmt::Debug for Ingestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingestion").field("log", &self.log_folder).finish_non_exhaustive()
    }
}

/// The ways to the threads.
pub(super) struct Channels {
    pub(super) to_log: Sender<ToLog>,
    pub(super) to_applier: Sender<ToApplier>,
}

impl Ingestion {
    /// Opens the log in `log_folder`, brings the online store to its end, and begins to take events of the sources of
    /// `registry`. Work that takes time runs on `workers`.
    ///
    /// What keeps a single source from being taken, or a view from being fed, is among the [faults](Self::faults).
    ///
    /// # Errors
    /// A log or online store that cannot be read or written.
    pub async fn open(
        stores: Stores,
        log_folder: &Path,
        registry: Arc<RegistryVersion>,
        workers: Handle,
    ) -> Result<Arc<Self>, IngestionError> {
        let log_failed = |error: std::io::Error| IngestionError::Log {
            folder: log_folder.display().to_string(),
            source: Arc::new(error),
        };
        let log = Log::open(log_folder).map_err(log_failed)?;
        let pinned = Arc::new(AtomicU64::new(u64::MAX));
        let known_tables = Arc::new(KnownTables::read(log_folder).map_err(log_failed)?);
        let faults = Arc::<Mutex<Faults>>::default();
        let (id, folder) = (log.id().to_owned(), log_folder.to_owned());
        let archive = Arc::new(Archive::new(log.last(), Arc::clone(&known_tables)));
        let mut applier =
            Applier::new(stores.clone(), id, folder, Arc::clone(&pinned), known_tables, Arc::clone(&faults))?;
        applier.use_registry(Arc::clone(&registry)).await?;
        replay(&log, &mut applier, &archive, &stores, &registry).await?;
        applier.build(&[]).await?;
        let (to_log, log_work) = channel();
        let (to_applier, applier_work) = channel();
        let (applied_sender, applied) = watch::channel(log.last());
        let durable = Arc::new(AtomicU64::new(log.last()));
        let ingestion = Arc::new(Ingestion {
            log_id: log.id().to_owned(),
            log_folder: log_folder.to_owned(),
            channels: Mutex::new(Some(Channels { to_log, to_applier: to_applier.clone() })),
            sources: RwLock::default(),
            registry: RwLock::default(),
            notes: Arc::default(),
            faults,
            topic_faults: Mutex::default(),
            store_fault: Mutex::default(),
            is_closing: AtomicBool::new(false),
            durable: Arc::clone(&durable),
            applied,
            in_flight_bytes: AtomicUsize::new(0),
            archive,
            archive_soon: Arc::new(Notify::new()),
            pinned,
            threads: Mutex::default(),
            archiver: Mutex::default(),
            workers: workers.clone(),
            stores,
        });
        ingestion.take_notes(&applier, &registry);
        ingestion.open_doors(&registry).await?;
        let folder = log_folder.to_owned();
        let writer = std::thread::Builder::new().name("asof-log".to_owned());
        let writer =
            writer.spawn(move || write_log(log, folder, durable, &log_work, &to_applier)).map_err(log_failed)?;
        let thread = ApplierThread {
            applier,
            applied: applied_sender,
            archive: Arc::clone(&ingestion.archive),
            archive_soon: Arc::clone(&ingestion.archive_soon),
            ingestion: Arc::downgrade(&ingestion),
            workers: workers.clone(),
        };
        let applier = std::thread::Builder::new().name("asof-apply".to_owned());
        let applier = applier.spawn(move || thread.run(&applier_work)).map_err(log_failed)?;
        lock(&ingestion.threads).extend([writer, applier]);
        let archiver = workers.spawn(keep_archiving(Arc::downgrade(&ingestion), Arc::clone(&ingestion.archive_soon)));
        *lock(&ingestion.archiver) = Some(archiver);
        Ok(ingestion)
    }

    /// Takes up a newer version of the definitions; views that it feeds anew are built from what is archived. With the
    /// version in use, what is at fault is tried again.
    ///
    /// # Errors
    /// As of [`Self::open`]; the version in use stays.
    pub async fn use_registry(&self, registry: Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let (done, taken) = oneshot::channel();
        self.tell(ToApplier::Registry(Arc::clone(&registry), done))?;
        taken.await.unwrap_or(Err(IngestionError::Closed))?;
        self.open_doors(&registry).await
    }

    fn tell(&self, work: ToApplier) -> Result<(), IngestionError> {
        let channels = lock(&self.channels);
        let to_applier = &channels.as_ref().ok_or(IngestionError::Closed)?.to_applier;
        to_applier.send(work).map_err(|_| IngestionError::Closed)
    }

    /// The version of the definitions in use.
    pub fn registry_version(&self) -> Option<u64> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|registry| registry.version)
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, BTreeMap<SourceName, SourceNote>> {
        lock(&self.notes)
    }

    pub(super) fn take_notes(&self, applier: &Applier, registry: &RegistryVersion) {
        let sources = registry.definitions.sources.iter().filter(|source| source.stream.is_some());
        *self.notes() = sources.map(|source| (source.name.clone(), applier.note_of(&source.name))).collect();
    }

    pub(super) async fn wait_applied(&self, sequence: u64) -> Result<(), IngestionError> {
        let mut applied = self.applied.clone();
        let waited = applied.wait_for(|applied| *applied >= sequence).await;
        waited.map(|_| ()).map_err(|_| IngestionError::Closed)
    }

    /// Returns once everything that was acknowledged before the call is in the tables of events, and online.
    ///
    /// # Errors
    /// A table that cannot be written.
    pub async fn flush(&self) -> Result<(), IngestionError> {
        self.flush_sources(&|_| true).await
    }

    /// As [`Self::flush`], for the events of the sources that are asked about.
    ///
    /// # Errors
    /// A table of theirs that cannot be written.
    pub async fn flush_sources(&self, is_asked: &(dyn Fn(&SourceName) -> bool + Sync)) -> Result<(), IngestionError> {
        let durable = self.durable.load(Ordering::SeqCst);
        self.wait_applied(durable).await?;
        while self.archive.has_waiting(durable, is_asked) {
            let written = self.write_archive().await;
            if self.archive.has_waiting(durable, is_asked) {
                written?;
            }
        }
        match self.faults().sources.into_iter().find(|(source, _)| is_asked(source)) {
            // What it held is not there to be read.
            Some((_, fault @ IngestionError::TableGone { .. })) => Err(fault),
            _ => Ok(()),
        }
    }

    async fn write_archive(&self) -> Result<(), IngestionError> {
        self.archive.write(&self.stores.offline, &self.log_id, &self.faults).await
    }

    /// Bytes of events that wait to be in both stores.
    pub(super) fn pending_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::SeqCst) + self.archive.bytes()
    }

    /// Lets go of the files of the log that both stores have passed.
    fn trim_log(&self) -> Result<(), IngestionError> {
        let through = self.archive.archived().min(*self.applied.borrow()).min(self.pinned.load(Ordering::SeqCst));
        self.stores.online.persist()?;
        if let Some(channels) = &*lock(&self.channels) {
            let _ = channels.to_log.send(ToLog::RemoveThrough(through));
        }
        Ok(())
    }

    /// Builds the online values of these views anew from the event tables and the log, while they are read.
    ///
    /// # Errors
    /// As of [`Self::open`]; what is read stays as it was.
    pub async fn rebuild(&self, views: &[FeatureViewName]) -> Result<Vec<BuiltView>, IngestionError> {
        let (done, built) = oneshot::channel();
        self.tell(ToApplier::Rebuild(views.to_vec(), done))?;
        built.await.unwrap_or(Err(IngestionError::Closed))
    }

    /// Begins a new event table for a source whose own is gone for good; its views are built anew.
    ///
    /// # Errors
    /// A source whose table is there; a table or store that cannot be written.
    pub async fn new_table(&self, source: &str) -> Result<(), IngestionError> {
        self.known_source(source)?;
        let (done, begun) = oneshot::channel();
        self.tell(ToApplier::NewTable(SourceName::new(source), done))?;
        begun.await.unwrap_or(Err(IngestionError::Closed))
    }

    /// What keeps sources from being taken, and views from being fed.
    pub fn faults(&self) -> Faults {
        lock(&self.faults).clone()
    }

    /// The [faults](Self::faults), topics that cannot be read, and what keeps events from the online store.
    pub fn all_faults(&self) -> Faults {
        let mut faults = self.faults();
        for (source, fault) in &*lock(&self.topic_faults) {
            faults.sources.entry(source.clone()).or_insert_with(|| fault.clone());
        }
        if let Some(fault) = &*lock(&self.store_fault) {
            for source in self.sources.read().unwrap_or_else(PoisonError::into_inner).keys() {
                faults.sources.entry(source.clone()).or_insert_with(|| fault.clone());
            }
        }
        faults
    }

    /// Notes why a topic cannot be read; None: it can.
    pub(super) fn tell_topic(&self, source: &SourceName, fault: Option<IngestionError>) {
        let mut faults = lock(&self.topic_faults);
        let Some(fault) = fault else {
            faults.remove(source);
            return;
        };
        // Once: brokers that are gone are told of in several ways, again and again.
        if !faults.contains_key(source) {
            tracing::warn!(%source, error = &fault as &dyn std::error::Error, "a topic cannot be read");
        }
        faults.insert(source.clone(), fault);
    }

    /// Those of the views, or of all, that a stream feeds.
    pub fn fed_views(&self, names: &[String]) -> Vec<FeatureViewName> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let definitions = registry.iter().map(|registry| &registry.definitions);
        let fed =
            definitions.flat_map(|all| all.feature_views.iter().filter(|view| all.streamed_source(view).is_some()));
        let chosen = fed.filter(|view| names.is_empty() || names.iter().any(|name| name == view.name.as_str()));
        chosen.map(|view| view.name.clone()).collect()
    }

    pub fn status(&self) -> Vec<SourceStatus> {
        let durable = self.durable.load(Ordering::SeqCst);
        let (applied, archived) = (*self.applied.borrow(), self.archive.archived());
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let (notes, faults) = (self.notes().clone(), self.all_faults());
        let mut all: Vec<SourceStatus> = sources
            .keys()
            .map(|name| {
                let note = notes.get(name).cloned().unwrap_or_default();
                SourceStatus {
                    name: name.clone(),
                    watermark: watermark_of(&note),
                    accepted: note.accepted,
                    dead_letters: note.all_dead_letters(),
                    passed_over: note.passed_over,
                    fault: faults.sources.get(name).cloned(),
                    online_lag_records: durable.saturating_sub(applied),
                    offline_lag_records: durable.saturating_sub(archived),
                }
            })
            .collect();
        all.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        all
    }

    /// Ends as a process that is killed does: what is acknowledged stands in the log, and nothing is told to a store.
    pub async fn abandon(&self) {
        if let Some(archiver) = lock(&self.archiver).take() {
            archiver.abort();
        }
        self.end_threads().await;
    }

    async fn end_threads(&self) {
        // Without a sender the writer ends, and then the applier.
        lock(&self.channels).take();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }

    /// Takes no more events, and returns once everything that was taken is in both stores.
    ///
    /// # Errors
    /// A store that cannot be written; what it lacks stands in the log.
    pub async fn close(&self) -> Result<(), IngestionError> {
        let flushed = match tokio::time::timeout(CLOSE_PATIENCE, self.flush()).await {
            Ok(flushed) => flushed,
            Err(_) => Err(lock(&self.store_fault).clone().unwrap_or(IngestionError::Closed)),
        };
        self.is_closing.store(true, Ordering::SeqCst);
        if flushed.is_ok() {
            self.trim_log()?;
        }
        if let Some(archiver) = lock(&self.archiver).take() {
            archiver.abort();
        }
        self.end_threads().await;
        flushed
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves at most an id remembered that is nowhere else.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings the online store to the end of the log, and gathers what the tables lack.
async fn replay(
    log: &Log,
    applier: &mut Applier,
    archive: &Archive,
    stores: &Stores,
    registry: &RegistryVersion,
) -> Result<(), IngestionError> {
    let failed = |error: std::io::Error| IngestionError::Log { folder: log.id().to_owned(), source: Arc::new(error) };
    let mut positions: HashMap<(SourceName, EventKind), u64> = HashMap::new();
    for source in registry.definitions.sources.iter().filter(|source| source.stream.is_some()) {
        for kind in [EventKind::Accepted, EventKind::DeadLetters] {
            let position = match stores.offline.event_table(kind, &source.name).await {
                Ok(Some(table)) => table.position(log.id()).await.map(Option::unwrap_or_default),
                Ok(None) => Ok(0),
                Err(error) => Err(error),
            };
            if let Err(error) = &position {
                // What waits for it is looked at again when it can be read.
                tracing::warn!(error = error as &dyn std::error::Error, "the position of a table cannot be read");
            }
            positions.insert((source.name.clone(), kind), position.unwrap_or(0));
        }
    }
    let from = positions.values().copied().min().unwrap_or(0).min(applier.applied());
    let mut records: Vec<Logged> = Vec::new();
    log.read_after(from, |logged| {
        records.push(logged);
        Ok(())
    })
    .map_err(failed)?;
    for group in records.chunk_by(|_, next| next.sequence % 256 != 0) {
        applier.apply(group).await?;
    }
    let is_left = |logged: &Logged| {
        let table = (logged.record.source.clone(), logged.record.kind);
        // Events of a source that is gone go nowhere.
        positions.get(&table).is_some_and(|position| logged.sequence > *position)
    };
    // Those of records that were applied long ago, too.
    applier.letters.clear();
    let letters = records.iter().filter_map(|logged| applier.view_letters(logged).logged).collect();
    archive.add(with_letters(records, letters).into_iter().filter(is_left).collect());
    Ok(())
}

/// Writes what waits to the tables, by time and when asked, until the streams are closed.
async fn keep_archiving(ingestion: std::sync::Weak<Ingestion>, soon: Arc<Notify>) {
    loop {
        let _ = tokio::time::timeout(ARCHIVE_INTERVAL, soon.notified()).await;
        let Some(ingestion) = ingestion.upgrade() else { return };
        let archived = match ingestion.write_archive().await {
            Ok(()) => ingestion.trim_log(),
            failed => failed,
        };
        let durable = ingestion.durable.load(Ordering::SeqCst);
        gauge!(STREAM_PENDING_BYTES).set(ingestion.pending_bytes() as f64);
        gauge!(STREAM_LAG_RECORDS, "store" => "online").set(durable.saturating_sub(*ingestion.applied.borrow()) as f64);
        gauge!(STREAM_LAG_RECORDS, "store" => "offline")
            .set(durable.saturating_sub(ingestion.archive.archived()) as f64);
        if let Err(error) = archived {
            tracing::warn!(error = &error as &dyn std::error::Error, "events could not be archived; trying again");
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}
