//! Ingestion of one process: its threads, and the door to them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arrow::array::{BooleanArray, RecordBatch};
use metrics::{counter, gauge};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::IngestionError;
use super::admission::{Admission, Admitted, MessagePlace, PushSummary, is_stored_as};
use super::applier::{Applier, SourceNote, Stores, position_note, watermark_of};
use super::archive::Archive;
use super::log::{Log, Logged};
use super::record::{Record, TopicPosition};
use super::rows::{ReadRows, Refused, UnknownKeys};
use super::view_plan::{PlanContext, ViewPlan};
use super::writer::{Append, ToLog, write_log};
use crate::definition::{FeatureView, FeatureViewName, Source, SourceName, StreamInput, ViewInput, nearest};
use crate::metrics::{STREAM_LAG_RECORDS, STREAM_PENDING_BYTES, STREAM_ROWS_TOTAL, STREAM_WATERMARK_SECONDS};
use crate::offline_store::EventKind;
use crate::registry::RegistryVersion;
use crate::text_files::parse_object;
use crate::time::EventTimestamp;

/// Bytes of events that may wait to be in both stores; what comes on top is refused.
const PENDING_BYTES_MAX: usize = 256 << 20;
/// Bytes that are written to tables without being waited for.
const ARCHIVE_BYTES: usize = 32 << 20;
/// How long rows wait at most to be written to their table.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Rows that are applied in one step.
const APPLY_ROWS: usize = 64 * 1024;
/// How long after a failure of a store the same is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How often what is past is forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What has to be true of rows when their push is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledge {
    /// They are judged, and on their way to the log.
    Accepted,
    /// They survive a crash of the machine.
    #[default]
    Durable,
    /// They are visible online, too.
    Visible,
}

/// Rows as a caller sends them.
#[derive(Debug)]
pub enum PushedRows {
    Batch(RecordBatch),
    /// A JSON object each.
    Json(Vec<String>),
    Objects(Vec<Map<String, Value>>),
    /// The values of messages, a JSON object each.
    Messages(Vec<Option<Vec<u8>>>),
    /// Objects read from the values of messages, or what is wrong with these.
    Decoded {
        rows: Vec<Result<Map<String, Value>, String>>,
        raw: Vec<Option<Vec<u8>>>,
    },
}

impl PushedRows {
    pub fn len(&self) -> usize {
        match self {
            PushedRows::Batch(batch) => batch.num_rows(),
            PushedRows::Json(rows) => rows.len(),
            PushedRows::Objects(rows) => rows.len(),
            PushedRows::Messages(rows) => rows.len(),
            PushedRows::Decoded { rows, .. } => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row as it was sent.
    fn raw(&self, row: usize) -> Vec<u8> {
        match self {
            PushedRows::Batch(batch) => as_json(batch, row),
            PushedRows::Json(texts) => texts[row].as_bytes().to_vec(),
            PushedRows::Objects(objects) => Value::Object(objects[row].clone()).to_string().into_bytes(),
            PushedRows::Messages(values) | PushedRows::Decoded { raw: values, .. } => {
                values[row].clone().unwrap_or_default()
            }
        }
    }
}

/// The object that a message's value is.
fn message_object(value: Option<&[u8]>) -> Result<Map<String, Value>, String> {
    let value = value.ok_or("the message has no value")?;
    parse_object(std::str::from_utf8(value).map_err(|_| "not UTF-8")?)
}

/// How one source's stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    pub name: SourceName,
    pub watermark: Option<EventTimestamp>,
    /// Since the store was made.
    pub accepted: u64,
    pub dead_letters: u64,
    /// Since the process began.
    pub duplicates: u64,
    pub late: u64,
    pub ignored: u64,
    /// Records of all sources that are logged and not visible online yet.
    pub online_lag_records: u64,
    /// Records of all sources that are not in the event tables yet.
    pub offline_lag_records: u64,
}

/// What the applier is told.
pub enum ToApplier {
    Record(Box<Logged>),
    Registry(Arc<RegistryVersion>, oneshot::Sender<Result<(), IngestionError>>),
    Rebuild(Vec<FeatureViewName>, oneshot::Sender<Result<Vec<FeatureViewName>, IngestionError>>),
}

/// The streams of one project, open. One process has them: that which has the online store.
pub struct Ingestion {
    stores: Stores,
    log_id: String,
    log_folder: PathBuf,
    /// None: closed.
    channels: Mutex<Option<Channels>>,
    sources: RwLock<HashMap<SourceName, Arc<Mutex<SourceDoor>>>>,
    registry: RwLock<Option<Arc<RegistryVersion>>>,
    notes: Arc<Mutex<BTreeMap<SourceName, SourceNote>>>,
    durable: Arc<AtomicU64>,
    applied: watch::Receiver<u64>,
    archive: Arc<Archive>,
    archive_soon: Arc<Notify>,
    /// Bytes that are on their way to the archive.
    in_flight_bytes: AtomicUsize,
    pinned: Arc<AtomicU64>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    archiver: Mutex<Option<tokio::task::JoinHandle<()>>>,
    workers: Handle,
}

impl std::fmt::Debug for Ingestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingestion").field("log", &self.log_folder).finish_non_exhaustive()
    }
}

/// The ways to the threads.
struct Channels {
    to_log: Sender<ToLog>,
    to_applier: Sender<ToApplier>,
}

/// Where the rows of one source come in, one batch after the other.
#[derive(Debug)]
struct SourceDoor {
    admission: Admission,
    input: StreamInput,
    /// Plans of views that compute, and may fail on a value.
    checks: Vec<ViewPlan>,
    duplicates: u64,
    late: u64,
    ignored: u64,
}

impl Ingestion {
    /// Opens the log in `log_folder`, brings the online store to its end, and begins to take events of the sources of
    /// `registry`. Work that takes time runs on `workers`.
    ///
    /// # Errors
    /// A log, store or table that cannot be read or written, a view that does not compile.
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
        let mut applier =
            Applier::new(stores.clone(), log.id().to_owned(), log_folder.to_owned(), Arc::clone(&pinned))?;
        applier.use_registry(Arc::clone(&registry)).await?;
        let archive = Arc::new(Archive::new(log.last()));
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

    /// Takes up a newer version of the definitions; views that it feeds anew are built from what is archived.
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

    async fn open_doors(&self, registry: &Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let mut doors = HashMap::new();
        for source in &registry.definitions.sources {
            let Some(stream) = &source.stream else { continue };
            self.check_table(&source.name, registry).await?;
            let watermark = self.notes().get(&source.name).and_then(|note| note.watermark);
            let Some(admission) = Admission::new(source, watermark) else { continue };
            let (input, checks) = (stream.input.clone(), self.checks(registry, source).await?);
            let door = SourceDoor { admission, input, checks, duplicates: 0, late: 0, ignored: 0 };
            doors.insert(source.name.clone(), door);
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let mut opened = HashMap::new();
        for (name, mut door) in doors {
            let place = match sources.get(&name) {
                Some(place) => {
                    let mut current = lock(place);
                    (door.duplicates, door.late, door.ignored) = (current.duplicates, current.late, current.ignored);
                    let earlier = std::mem::replace(&mut *current, door);
                    current.admission.inherit(earlier.admission);
                    Arc::clone(place)
                }
                None => Arc::new(Mutex::new(door)),
            };
            opened.insert(name, place);
        }
        *sources = opened;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(registry));
        Ok(())
    }

    /// The plans that events have to pass before they are taken: one that fails on a row would fail every job, too.
    async fn checks(&self, registry: &RegistryVersion, source: &Source) -> Result<Vec<ViewPlan>, IngestionError> {
        let context = PlanContext {
            definitions: Arc::new(registry.definitions.clone()),
            engine: self.stores.engine.clone(),
            project: self.stores.project.clone(),
        };
        let mut checks = Vec::new();
        for view in registry.definitions.views_fed_by(&source.name).filter(|view| computes(view, source)) {
            let failed = |error| IngestionError::View { view: view.name.clone(), source: Arc::new(error) };
            checks.push(ViewPlan::compile(&context, view, source).await.map_err(failed)?);
        }
        Ok(checks)
    }

    /// # Errors
    /// A column whose values the source's event table could not hold.
    async fn check_table(&self, name: &SourceName, registry: &RegistryVersion) -> Result<(), IngestionError> {
        let Some(table) = self.stores.offline.event_table(EventKind::Accepted, name).await? else { return Ok(()) };
        let schema = table.schema()?;
        let source = registry.definitions.source(name.as_str()).and_then(|source| source.stream.as_ref());
        for column in source.iter().flat_map(|stream| &stream.columns) {
            if let Ok(field) = schema.field_with_name(&column.name)
                && !is_stored_as(field.data_type(), &column.value_type)
            {
                return Err(IngestionError::TableType {
                    source_name: name.clone(),
                    column: column.name.clone(),
                    found: crate::arrow_types::type_name(field.data_type()),
                    declared: column.value_type.clone(),
                });
            }
        }
        Ok(())
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<SourceName, SourceNote>> {
        lock(&self.notes)
    }

    fn take_notes(&self, applier: &Applier, registry: &RegistryVersion) {
        let sources = registry.definitions.sources.iter().filter(|source| source.stream.is_some());
        *self.notes() = sources.map(|source| (source.name.clone(), applier.note_of(&source.name))).collect();
    }

    /// Whether events of the source are taken.
    pub fn takes(&self, source: &str) -> bool {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).contains_key(&SourceName::new(source))
    }

    fn door(&self, name: &str) -> Result<Arc<Mutex<SourceDoor>>, IngestionError> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = sources.get(&SourceName::new(name)) {
            return Ok(Arc::clone(door));
        }
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let known = registry.iter().flat_map(|registry| &registry.definitions.sources);
        if let Some(source) = known.clone().find(|source| source.name.as_str() == name) {
            let reason = "it has no `stream`; add `stream: {type: push}`";
            return Err(IngestionError::NotPushed { name: source.name.clone(), reason });
        }
        let nearest = nearest(name, known.map(|source| source.name.as_str())).map(str::to_owned);
        Err(IngestionError::UnknownSource { name: name.to_owned(), nearest })
    }

    /// Takes rows that a caller pushes; returns as soon as what it asks for is true of them.
    ///
    /// # Errors
    /// Rows that are refused as a whole, a source that is not there, no room, a log that cannot be written: nothing of
    /// the rows is stored then.
    pub async fn push(
        self: &Arc<Self>,
        source: &str,
        rows: PushedRows,
        acknowledge: Acknowledge,
    ) -> Result<PushSummary, IngestionError> {
        let (summary, pending) = self.begin_push(source, rows).await?;
        match acknowledge {
            Acknowledge::Accepted => drop(pending),
            other => pending.settle(other).await?,
        }
        Ok(summary)
    }

    /// Judges rows and hands them to the log; they have to be [settled](PendingPush::settle).
    ///
    /// # Errors
    /// As of [`Self::push`].
    pub async fn begin_push(
        self: &Arc<Self>,
        source: &str,
        rows: PushedRows,
    ) -> Result<(PushSummary, PendingPush), IngestionError> {
        let door = self.door(source)?;
        let this = Arc::clone(self);
        let judged = tokio::task::spawn_blocking(move || {
            if !matches!(lock(&door).input, StreamInput::Push {}) {
                let name = lock(&door).admission.schema.source.clone();
                return Err(IngestionError::NotPushed { name, reason: "its stream is read from a topic" });
            }
            this.judge(&door, rows, UnknownKeys::Refuse, None, &[]).map(|judged| (judged, door))
        });
        let (Judged { summary, entries }, door) = judged.await.map_err(|_| IngestionError::Closed)??;
        Ok((summary, PendingPush { ingestion: Arc::clone(self), door, entries: Some(entries) }))
    }

    /// Judges the messages of a topic and hands them to the log, with how far it is read; they have to be
    /// [settled](PendingPush::settle). `places`: where each of the rows comes from. Not to be called by a task.
    ///
    /// # Errors
    /// As of [`Self::push`].
    pub(super) fn begin_messages(
        self: &Arc<Self>,
        source: &SourceName,
        rows: PushedRows,
        places: &[MessagePlace],
        positions: &[TopicPosition],
    ) -> Result<PendingPush, IngestionError> {
        let door = self.door(source.as_str())?;
        let judged = self.judge(&door, rows, UnknownKeys::Ignore, Some(places), positions)?;
        Ok(PendingPush { ingestion: Arc::clone(self), door, entries: Some(judged.entries) })
    }

    /// The message of a partition that comes after those that are stored; None: none is.
    pub(super) async fn next_offset(
        &self,
        source: &SourceName,
        topic: &str,
        partition: i32,
    ) -> Result<Option<i64>, IngestionError> {
        self.wait_applied(self.durable.load(Ordering::SeqCst)).await?;
        let note = self.stores.online.note(&position_note(topic, partition))?;
        let mut known = note.and_then(|note| std::str::from_utf8(&note).ok()?.parse::<i64>().ok());
        for kind in [EventKind::Accepted, EventKind::DeadLetters] {
            if let Some(table) = self.stores.offline.event_table(kind, source).await? {
                known = known.max(table.next_offset(topic, partition).await?);
            }
        }
        Ok(known)
    }

    /// Judges rows and hands those to be kept to the log.
    fn judge(
        &self,
        place: &Mutex<SourceDoor>,
        rows: PushedRows,
        unknown: UnknownKeys,
        places: Option<&[MessagePlace]>,
        positions: &[TopicPosition],
    ) -> Result<Judged, IngestionError> {
        self.check_room()?;
        // Reading rows takes long and needs nothing that others change.
        let schema = lock(place).admission.schema.clone();
        let raw = |row: usize| rows.raw(row);
        let read = match &rows {
            PushedRows::Batch(batch) => {
                let rows = schema.from_batch(batch)?;
                ReadRows { places: (0..rows.num_rows()).collect(), rows, refused: Vec::new() }
            }
            PushedRows::Json(texts) => schema.from_json(texts, unknown),
            PushedRows::Objects(objects) => schema.from_objects(objects.iter().cloned().map(Ok), unknown, &raw),
            PushedRows::Messages(values) => {
                schema.from_objects(values.iter().map(|value| message_object(value.as_deref())), unknown, &raw)
            }
            PushedRows::Decoded { rows, .. } => schema.from_objects(rows.iter().cloned(), unknown, &raw),
        };
        let now = self.stores.clock.now();
        let mut door = lock(place);
        if door.admission.schema.schema != schema.schema {
            drop(door);
            // The definitions changed meanwhile.
            return self.judge(place, rows, unknown, places, positions);
        }
        let read = self.pass_checks(&door.checks, read, &raw);
        let admitted = door.admission.admit(self.stores.online.as_ref(), read, now, &raw, places)?;
        let Admitted { accepted, dead_letters, summary, ids, watermark } = admitted;
        let name = door.admission.schema.source.clone();
        count(&name, &summary, watermark);
        door.duplicates += summary.duplicates;
        door.late += summary.late;
        door.ignored += summary.ignored;
        // The last record tells how far topics are read: before it, nothing of them is.
        let records = [(EventKind::DeadLetters, dead_letters), (EventKind::Accepted, accepted)];
        let mut records: Vec<Record> = records
            .into_iter()
            .filter_map(|(kind, rows)| {
                Some(Record { source: name.clone(), kind, received_at: now, positions: Vec::new(), rows: rows? })
            })
            .collect();
        if records.is_empty() && !positions.is_empty() {
            // Nothing of them counts, and they are read all the same.
            let rows = RecordBatch::new_empty(door.admission.accepted_schema());
            records.push(Record {
                source: name.clone(),
                kind: EventKind::Accepted,
                received_at: now,
                positions: Vec::new(),
                rows,
            });
        }
        if let Some(last) = records.last_mut() {
            last.positions = positions.to_vec();
        }
        let sent = self.send(records);
        if sent.is_err() {
            door.admission.revoke(&ids);
        }
        Ok(Judged { summary, entries: Entries { ids, watermark, done: sent? } })
    }

    /// Refuses the rows that the plan of some view fails on.
    fn pass_checks(&self, checks: &[ViewPlan], mut read: ReadRows, raw: &dyn Fn(usize) -> Vec<u8>) -> ReadRows {
        for plan in checks {
            if self.workers.block_on(plan.rows(&read.rows)).is_ok() {
                continue;
            }
            let mut passes = Vec::with_capacity(read.rows.num_rows());
            for (row, place) in read.places.iter().enumerate() {
                let tried = self.workers.block_on(plan.rows(&read.rows.slice(row, 1)));
                passes.push(tried.is_ok());
                if let Err(error) = tried {
                    let reason = format!("an expression of a feature view cannot be computed: {}", error.find_root());
                    read.refused.push(Refused { row: *place, reason, raw: raw(*place) });
                }
            }
            let mut kept = passes.iter();
            read.places.retain(|_| kept.next().copied().unwrap_or(false));
            read.rows = arrow::compute::filter_record_batch(&read.rows, &BooleanArray::from(passes))
                .unwrap_or_else(|_| read.rows.slice(0, 0));
        }
        read
    }

    fn send(&self, records: Vec<Record>) -> Result<Vec<Sent>, IngestionError> {
        let failed = |error: arrow::error::ArrowError| IngestionError::Encode { problem: error.to_string() };
        let mut encoded = Vec::with_capacity(records.len());
        for record in records {
            encoded.push((record.encode().map_err(failed)?, record));
        }
        let channels = lock(&self.channels);
        let channels = channels.as_ref().ok_or(IngestionError::Closed)?;
        let mut done = Vec::new();
        for (body, record) in encoded {
            let bytes = body.len();
            self.in_flight_bytes.fetch_add(bytes, Ordering::SeqCst);
            let (sender, receiver) = oneshot::channel();
            let append = ToLog::Append(Box::new(Append { body, record, done: sender }));
            channels.to_log.send(append).map_err(|_| IngestionError::Closed)?;
            done.push((bytes, receiver));
        }
        Ok(done)
    }

    /// Waits until the log has what was sent; gives the last sequence number.
    async fn settle(&self, door: &Mutex<SourceDoor>, entries: Entries) -> Result<u64, IngestionError> {
        let mut last = 0;
        let mut failed = None;
        for (bytes, done) in entries.done {
            match done.await.unwrap_or(Err(IngestionError::Closed)) {
                Ok(sequence) => last = sequence,
                Err(error) => {
                    self.in_flight_bytes.fetch_sub(bytes, Ordering::SeqCst);
                    failed = Some(error);
                }
            }
        }
        let mut door = lock(door);
        match failed {
            None => {
                door.admission.confirm(entries.watermark);
                Ok(last)
            }
            Some(error) => {
                door.admission.revoke(&entries.ids);
                Err(error)
            }
        }
    }

    fn check_room(&self) -> Result<(), IngestionError> {
        match self.pending_bytes() {
            bytes if bytes > PENDING_BYTES_MAX => {
                self.archive_soon.notify_one();
                Err(IngestionError::Full { bytes: PENDING_BYTES_MAX, retry_after: RETRY_AFTER })
            }
            _ => Ok(()),
        }
    }

    async fn wait_applied(&self, sequence: u64) -> Result<(), IngestionError> {
        let mut applied = self.applied.clone();
        let waited = applied.wait_for(|applied| *applied >= sequence).await;
        waited.map(|_| ()).map_err(|_| IngestionError::Closed)
    }

    /// Returns once everything that was acknowledged before the call is in the tables of events, and online.
    ///
    /// # Errors
    /// A table that cannot be written.
    pub async fn flush(&self) -> Result<(), IngestionError> {
        let durable = self.durable.load(Ordering::SeqCst);
        self.wait_applied(durable).await?;
        while self.archive.archived() < durable {
            self.write_archive().await?;
        }
        Ok(())
    }

    async fn write_archive(&self) -> Result<(), IngestionError> {
        self.archive.write(&self.stores.offline, &self.log_id).await
    }

    /// Bytes of events that wait to be in both stores.
    fn pending_bytes(&self) -> usize {
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
    pub async fn rebuild(&self, views: &[FeatureViewName]) -> Result<Vec<FeatureViewName>, IngestionError> {
        self.flush().await?;
        let (done, built) = oneshot::channel();
        self.tell(ToApplier::Rebuild(views.to_vec(), done))?;
        built.await.unwrap_or(Err(IngestionError::Closed))
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
        let notes = self.notes();
        let mut all: Vec<SourceStatus> = sources
            .iter()
            .map(|(name, door)| {
                let door = lock(door);
                let note = notes.get(name).cloned().unwrap_or_default();
                SourceStatus {
                    name: name.clone(),
                    watermark: watermark_of(&note),
                    accepted: note.accepted,
                    dead_letters: note.dead_letters,
                    duplicates: door.duplicates,
                    late: door.late,
                    ignored: door.ignored,
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
        let flushed = self.flush().await;
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

/// Rows that are on their way to the log. Dropped, they go there all the same.
#[must_use = "they are known to be durable only when they are settled"]
pub struct PendingPush {
    ingestion: Arc<Ingestion>,
    door: Arc<Mutex<SourceDoor>>,
    entries: Option<Entries>,
}

impl PendingPush {
    /// Returns once what is asked for is true of the rows.
    ///
    /// # Errors
    /// A log that cannot be written; nothing of the rows is stored then.
    pub async fn settle(mut self, acknowledge: Acknowledge) -> Result<(), IngestionError> {
        let Some(entries) = self.entries.take() else { return Ok(()) };
        let last = self.ingestion.settle(&self.door, entries).await?;
        match acknowledge {
            Acknowledge::Visible => self.ingestion.wait_applied(last).await,
            Acknowledge::Durable | Acknowledge::Accepted => Ok(()),
        }
    }
}

impl Drop for PendingPush {
    fn drop(&mut self) {
        let Some(entries) = self.entries.take() else { return };
        let (ingestion, door) = (Arc::clone(&self.ingestion), Arc::clone(&self.door));
        // What the log did with them is still to be noted.
        self.ingestion.workers.spawn(async move {
            if let Err(error) = ingestion.settle(&door, entries).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "pushed rows are lost");
            }
        });
    }
}

/// Rows that were judged and handed to the log.
struct Judged {
    summary: PushSummary,
    entries: Entries,
}

struct Entries {
    ids: Vec<Vec<u8>>,
    watermark: Option<i64>,
    done: Vec<Sent>,
}

/// Bytes handed to the log, and what becomes of them.
type Sent = (usize, oneshot::Receiver<Result<u64, IngestionError>>);

/// Whether the plan of a view does more than choose columns.
fn computes(view: &FeatureView, source: &Source) -> bool {
    let is_column = |expression: &String| {
        let columns = source.stream.iter().flat_map(|stream| &stream.columns);
        columns.into_iter().any(|column| column.name == *expression)
    };
    let ViewInput::Aggregations { filter, .. } = &view.input else { return false };
    filter.is_some() || !view.event_columns.iter().all(|column| is_column(&column.expression))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves at most an id remembered that is nowhere else.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(source: &SourceName, summary: &PushSummary, watermark: Option<i64>) {
    let outcomes = [
        ("accepted", summary.accepted),
        ("duplicate", summary.duplicates),
        ("late", summary.late),
        ("ignored", summary.ignored),
        ("dead_letter", summary.dead_letters),
    ];
    for (outcome, rows) in outcomes {
        counter!(STREAM_ROWS_TOTAL, "source" => source.as_str().to_owned(), "outcome" => outcome).increment(rows);
    }
    if let Some(watermark) = watermark {
        gauge!(STREAM_WATERMARK_SECONDS, "source" => source.as_str().to_owned()).set(watermark as f64 / 1e6);
    }
}

/// One row of a batch as a JSON object.
fn as_json(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
    let written = writer.write(&batch.slice(row, 1)).and_then(|()| writer.finish());
    match written {
        Ok(()) => text.trim_ascii_end().to_vec(),
        Err(error) => format!("a row that JSON cannot write: {error}").into_bytes(),
    }
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
            let position = match stores.offline.event_table(kind, &source.name).await? {
                Some(table) => table.position(log.id()).await?.unwrap_or(0),
                None => 0,
            };
            positions.insert((source.name.clone(), kind), position);
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
    archive.add(records.into_iter().filter(is_left).collect());
    Ok(())
}

struct ApplierThread {
    applier: Applier,
    applied: watch::Sender<u64>,
    archive: Arc<Archive>,
    archive_soon: Arc<Notify>,
    ingestion: std::sync::Weak<Ingestion>,
    workers: Handle,
}

impl ApplierThread {
    /// Works until nobody can send any more.
    fn run(mut self, incoming: &Receiver<ToApplier>) {
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
            std::thread::sleep(RETRY_INTERVAL);
            if self.ingestion.strong_count() == 0 {
                return None;
            }
        }
        if let Some(ingestion) = self.ingestion.upgrade() {
            let sources: std::collections::HashSet<&SourceName> = records.iter().map(|r| &r.record.source).collect();
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
        if self.archive.add(records) > ARCHIVE_BYTES {
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
                let _ = done.send(self.workers.block_on(self.applier.build(&views)));
            }
        }
    }
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
