//! The one writer of what streams bring into the online store: records of the log, in their order.
//!
//! Every write holds the rows of all views, the ids of events and the position in the log, so that a crash leaves all
//! of a record or nothing of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use metrics::{counter, histogram};

use super::IngestionError;
use super::admission::{Admission, RECEIVED_AT};
use super::fail_point::fail_point;
use super::faults::Faults;
use super::known_tables::KnownTables;
use super::log::Logged;
use super::record::{PassedOver, Record};
use super::side::{ViewSide, describe};
use super::view_plan::{PlanContext, ViewPlan};
use super::view_problems::Judge;
use crate::definition::{Definitions, FeatureView, Source, SourceName};
use crate::engine::Engine;
use crate::metrics::{STREAM_APPLIED_ROWS_TOTAL, STREAM_FRESHNESS_SECONDS};
use crate::offline_store::{EventKind, OfflineStore};
use crate::online_store::{OnlineStore, OnlineStoreError, StreamChanges, ViewId};
use crate::registry::RegistryVersion;
use crate::time::{Clock, EventTimestamp};

const APPLIED_NOTE: &str = "stream/applied";
/// How long readers may still read a side that another one has replaced.
const REPLACED_SIDE_PATIENCE: Duration = Duration::from_secs(10);
/// Ids that are looked at in one go for those whose time has passed, at least; else twice as many as came meanwhile,
/// so that there are never more than twice those whose time has not.
const SWEEP_IDS_MIN: usize = 2_000;

/// What ingestion works with.
#[derive(Debug, Clone)]
pub struct Stores {
    pub online: Arc<dyn OnlineStore>,
    pub offline: OfflineStore,
    pub engine: Engine,
    /// The folder that relative paths of sources start from.
    pub project: PathBuf,
    pub clock: Arc<dyn Clock>,
}

/// What is known of a source beside its views' values.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceNote {
    /// Microseconds.
    pub watermark: Option<i64>,
    pub accepted: u64,
    pub dead_letters: u64,
    #[serde(default, flatten)]
    pub passed_over: PassedOver,
    /// Accepted events that a view cannot take, by view.
    #[serde(default)]
    pub views: BTreeMap<String, ViewLetters>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ViewLetters {
    /// The view's number, and which of its definitions it is.
    pub version: String,
    pub dead_letters: u64,
}

impl SourceNote {
    /// # Errors
    /// A store that cannot be read.
    pub fn read(store: &dyn OnlineStore, source: &SourceName) -> Result<Self, OnlineStoreError> {
        let note = store.note(&source_note(source))?;
        Ok(note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default())
    }

    /// Rows that were refused, and events that views cannot take, once a view.
    pub fn all_dead_letters(&self) -> u64 {
        self.dead_letters + self.views.values().map(|view| view.dead_letters).sum::<u64>()
    }

    fn add(&mut self, record: &Record, event_timestamp: Option<&str>) {
        self.passed_over.add(record.passed_over);
        match record.kind {
            EventKind::Accepted => {
                self.accepted += record.rows.num_rows() as u64;
                let times = event_timestamp.and_then(|time| record.rows.column_by_name(time));
                let times = times.and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
                self.watermark = self.watermark.max(times.and_then(arrow::compute::max));
            }
            EventKind::DeadLetters => self.dead_letters += record.rows.num_rows() as u64,
            EventKind::Predictions => {}
        }
        if let Some(set) = record.watermark {
            self.watermark = Some(set.micros());
        }
    }
}

pub struct Applier {
    pub(super) stores: Stores,
    pub(super) log_id: String,
    pub(super) log_folder: PathBuf,
    /// Records up to here are in the online store.
    pub(super) applied: u64,
    /// Whether the store knew of no position in this log: then it knows no ids and watermarks, either.
    pub(super) is_fresh: bool,
    /// The sources of which it has learned them since.
    pub(super) recalled: HashSet<SourceName>,
    pub(super) registry: Option<Arc<RegistryVersion>>,
    pub(super) sides: BTreeMap<SourceName, Vec<ViewSide>>,
    pub(super) judges: HashMap<SourceName, Vec<Judge>>,
    pub(super) known_tables: Arc<KnownTables>,
    /// As they are now; told to others once all sources are looked at.
    pub(super) faults: Faults,
    pub(super) told_faults: Arc<Mutex<Faults>>,
    /// Dead letters of views that records made which are applied, and that the archive does not have yet.
    pub(super) letters: Vec<Logged>,
    /// Only to tell the ids of rows.
    pub(super) admissions: HashMap<SourceName, Admission>,
    pub(super) notes: HashMap<SourceName, SourceNote>,
    /// Records after this one are needed; see `Log::remove_through`.
    pub(super) pinned: Arc<AtomicU64>,
    /// Sides to delete once nobody reads them.
    pub(super) replaced: Vec<(std::time::Instant, ViewId)>,
    /// Where the search for ids whose time has passed goes on.
    pub(super) sweep_after: HashMap<SourceName, Vec<u8>>,
    /// Ids that came since the last search.
    ids_added: usize,
}

impl Applier {
    /// # Errors
    /// A store that cannot be read.
    pub fn new(
        stores: Stores,
        log_id: String,
        log_folder: PathBuf,
        pinned: Arc<AtomicU64>,
        known_tables: Arc<KnownTables>,
        told_faults: Arc<Mutex<Faults>>,
    ) -> Result<Self, IngestionError> {
        let note = stores.online.note(APPLIED_NOTE)?.and_then(|note| String::from_utf8(note).ok());
        let known = note.as_deref().and_then(|note| note.split_once(' ')).filter(|(id, _)| *id == log_id);
        let applied = known.and_then(|(_, sequence)| sequence.parse().ok());
        Ok(Applier {
            stores,
            log_id,
            log_folder,
            applied: applied.unwrap_or(0),
            is_fresh: applied.is_none(),
            recalled: HashSet::new(),
            registry: None,
            sides: BTreeMap::new(),
            judges: HashMap::new(),
            known_tables,
            faults: Faults::default(),
            told_faults,
            letters: Vec::new(),
            admissions: HashMap::new(),
            notes: HashMap::new(),
            pinned,
            replaced: Vec::new(),
            sweep_after: HashMap::new(),
            ids_added: 0,
        })
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn note_of(&self, source: &SourceName) -> SourceNote {
        self.notes.get(source).cloned().unwrap_or_default()
    }

    /// Takes up the definitions with the sides that are as they ask for; the others have to be [built](Self::build).
    ///
    /// # Errors
    /// An online store that cannot be read; the definitions in use stay.
    pub async fn use_registry(&mut self, registry: Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let definitions = Arc::new(registry.definitions.clone());
        let context = self.plan_context(&definitions);
        let (mut sides, mut judges, mut admissions) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        let mut faults = Faults::default();
        for source in definitions.sources.iter().filter(|source| source.stream.is_some()) {
            let (mut of_source, mut judges_of_source) = (Vec::new(), Vec::new());
            for view in definitions.views_fed_by(&source.name) {
                match self.open_side(&registry, &definitions, source, view).await {
                    Ok(side) => of_source.extend(side),
                    Err(error) => faults.keep(&view.name, error)?,
                }
                let Some(state) = registry.views.get(&view.name) else { continue };
                match self.open_judge(&context, view, source, *state).await {
                    Ok(judge) => judges_of_source.extend(judge),
                    Err(error) => faults.keep(&view.name, error)?,
                }
            }
            let mut note = SourceNote::read(self.stores.online.as_ref(), &source.name)?;
            note.views.retain(|_, known| judges_of_source.iter().any(|judge: &Judge| judge.is_of(&known.version)));
            admissions.extend(Admission::new(source, note.watermark).map(|admission| (source.name.clone(), admission)));
            self.notes.insert(source.name.clone(), note);
            sides.insert(source.name.clone(), of_source);
            judges.insert(source.name.clone(), judges_of_source);
        }
        (self.sides, self.judges, self.admissions, self.faults) = (sides, judges, admissions, faults);
        self.registry = Some(registry);
        Ok(())
    }

    fn plan_context(&self, definitions: &Arc<Definitions>) -> PlanContext {
        PlanContext {
            definitions: Arc::clone(definitions),
            engine: self.stores.engine.clone(),
            project: self.stores.project.clone(),
        }
    }

    /// The side of a view as it is read now; None: there is none, or it is not what the definition asks for.
    async fn open_side(
        &self,
        registry: &RegistryVersion,
        definitions: &Arc<Definitions>,
        source: &Source,
        view: &FeatureView,
    ) -> Result<Option<ViewSide>, IngestionError> {
        let Some(state) = registry.views.get(&view.name) else { return Ok(None) };
        let wanted = describe(definitions, view, state.data_version, &self.log_id)?;
        let noted = self.stores.online.note(&view_note(ViewId(state.id)))?;
        let side = self.stores.online.stream_side(ViewId(state.id));
        match side.filter(|_| noted.as_deref() == Some(wanted.as_bytes())) {
            Some(side) => self.new_side(definitions, source, view, side).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn new_side(
        &self,
        definitions: &Arc<Definitions>,
        source: &Source,
        view: &FeatureView,
        side: ViewId,
    ) -> Result<ViewSide, IngestionError> {
        let context = self.plan_context(definitions);
        let failed = |source| IngestionError::View { view: view.name.clone(), source: Arc::new(source) };
        let plan = ViewPlan::compile(&context, view, source).await.map_err(failed)?;
        ViewSide::open(definitions, view, plan, side, self.stores.online.as_ref())
    }

    /// Writes records into the store, in one step.
    ///
    /// # Errors
    /// A store that cannot be read or written; nothing is changed then, and the same may be tried again.
    pub async fn apply(&mut self, records: &[Logged]) -> Result<(), IngestionError> {
        let Some(last) = records.last().map(|record| record.sequence).filter(|last| *last > self.applied) else {
            return Ok(());
        };
        let written = self.try_apply(records, last).await;
        if written.is_err() {
            self.sides.values_mut().flatten().for_each(ViewSide::forget);
        }
        written
    }

    async fn try_apply(&mut self, records: &[Logged], last: u64) -> Result<(), IngestionError> {
        let mut changes = StreamChanges::default();
        let (notes, letters) = self.noted(records);
        for (source, kind, rows) in by_source(records, self.applied)? {
            if kind != EventKind::Accepted {
                continue;
            }
            if let Some(admission) = self.admissions.get(&source) {
                changes.event_ids.extend(admission.ids_of(&rows)?.into_iter().zip(received_at(&rows)));
            }
            let sides = self.sides.entry(source.clone()).or_default();
            let mut position = 0;
            while let Some(side) = sides.get_mut(position) {
                match add(side, &rows, self.stores.online.as_ref(), &mut changes).await {
                    Err(error @ IngestionError::Rows { .. }) => {
                        // Other views go on. What is stored of this one is made anew.
                        changes.notes.push((view_note(side.side.base()), b"to be built anew".to_vec()));
                        self.faults.keep(&side.view.name, error)?;
                        self.told_faults.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.faults);
                        sides.remove(position);
                    }
                    added => {
                        added?;
                        position += 1;
                    }
                }
            }
            counter!(STREAM_APPLIED_ROWS_TOTAL, "source" => source.as_str().to_owned())
                .increment(rows.num_rows() as u64);
        }
        for position in records.iter().filter(|r| r.sequence > self.applied).flat_map(|r| &r.record.positions) {
            let offset = position.next_offset.to_string();
            changes.notes.push((position_note(&position.topic, position.partition), offset.into_bytes()));
        }
        for (source, note) in &notes {
            changes.notes.push((source_note(source), serde_json::to_vec(note).unwrap_or_default()));
        }
        changes.notes.push((APPLIED_NOTE.to_owned(), format!("{} {last}", self.log_id).into_bytes()));
        fail_point("online.prepared");
        self.stores.online.write_stream(&changes)?;
        fail_point("online.written");
        self.sides.values_mut().flatten().for_each(ViewSide::written);
        self.ids_added += changes.event_ids.len();
        self.notes.extend(notes);
        self.letters.extend(letters);
        self.applied = last;
        let now = self.stores.clock.now();
        for record in records.iter().filter(|record| record.record.kind == EventKind::Accepted) {
            let age = now.micros().saturating_sub(record.record.received_at.micros());
            histogram!(STREAM_FRESHNESS_SECONDS).record(age as f64 / 1e6);
        }
        Ok(())
    }

    /// What is known of sources after records that are to be applied, and the dead letters of views that they make.
    fn noted(&self, records: &[Logged]) -> (HashMap<SourceName, SourceNote>, Vec<Logged>) {
        let mut notes: HashMap<SourceName, SourceNote> = HashMap::new();
        let mut letters = Vec::new();
        for logged in records.iter().filter(|logged| logged.sequence > self.applied) {
            let source = &logged.record.source;
            let schema = self.admissions.get(source).map(|admission| &admission.schema);
            let time = schema.map(|schema| schema.columns[schema.event_timestamp].name.as_str());
            let note = notes.entry(source.clone()).or_insert_with(|| self.note_of(source));
            note.add(&logged.record, time);
            let found = self.view_letters(logged);
            for (view, count) in found.counts {
                note.views.entry(view.as_str().to_owned()).or_default().dead_letters += count;
            }
            letters.extend(found.logged);
        }
        (notes, letters)
    }

    /// Deletes sides that nobody reads any more, and forgets ids whose time has passed, a few at a time.
    pub fn tidy(&mut self) -> Result<(), IngestionError> {
        let (old, young) = self.replaced.drain(..).partition(|(since, _)| since.elapsed() > REPLACED_SIDE_PATIENCE);
        self.replaced = young;
        let old: Vec<(std::time::Instant, ViewId)> = old;
        for (_, side) in old {
            self.stores.online.delete_view(side)?;
        }
        self.sweep_ids()
    }

    fn sweep_ids(&mut self) -> Result<(), IngestionError> {
        let now = self.stores.clock.now();
        let limit = SWEEP_IDS_MIN.max(std::mem::take(&mut self.ids_added) * 2);
        for (source, admission) in &self.admissions {
            let Some(prefix) = admission.id_prefix() else { continue };
            let after = self.sweep_after.remove(source);
            let ids = self.stores.online.scan_event_ids(prefix, after.as_deref(), limit)?;
            let last = ids.last().filter(|_| ids.len() == limit);
            self.sweep_after.extend(last.map(|(id, _)| (source.clone(), id.to_vec())));
            let forgotten = admission.forgotten_before(now);
            let passed = ids.into_iter().filter(|(_, received_at)| *received_at <= forgotten);
            let forgotten_ids: Vec<Vec<u8>> = passed.map(|(id, _)| id.into_vec()).collect();
            if !forgotten_ids.is_empty() {
                self.stores.online.write_stream(&StreamChanges { forgotten_ids, ..StreamChanges::default() })?;
            }
        }
        Ok(())
    }
}

pub(super) async fn add(
    side: &mut ViewSide,
    events: &RecordBatch,
    store: &dyn OnlineStore,
    changes: &mut StreamChanges,
) -> Result<(), IngestionError> {
    let rows = side
        .plan
        .rows(events)
        .await
        .map_err(|error| IngestionError::Rows { view: side.view.name.clone(), problem: error.to_string() })?;
    for batch in rows {
        side.add(&batch, store, changes)?;
    }
    Ok(())
}

/// The rows of the records after `applied`, those of one source, kind and schema together.
pub(super) fn by_source(
    records: &[Logged],
    applied: u64,
) -> Result<Vec<(SourceName, EventKind, RecordBatch)>, IngestionError> {
    let mut together: Vec<(SourceName, EventKind, Vec<&RecordBatch>)> = Vec::new();
    for record in records.iter().filter(|record| record.sequence > applied) {
        let record = &record.record;
        let same = |(source, kind, rows): &&mut (SourceName, EventKind, Vec<&RecordBatch>)| {
            *source == record.source && *kind == record.kind && rows[0].schema() == record.rows.schema()
        };
        match together.iter_mut().find(same) {
            Some((_, _, rows)) => rows.push(&record.rows),
            None => together.push((record.source.clone(), record.kind, vec![&record.rows])),
        }
    }
    let failed = |error: arrow::error::ArrowError| IngestionError::Encode { problem: error.to_string() };
    let concat = |(source, kind, rows): (SourceName, EventKind, Vec<&RecordBatch>)| {
        Ok((source, kind, concat_batches(&rows[0].schema(), rows).map_err(failed)?))
    };
    together.into_iter().map(concat).collect()
}

/// When each row came in, in microseconds.
pub(super) fn received_at(rows: &RecordBatch) -> Vec<i64> {
    let column =
        rows.column_by_name(RECEIVED_AT).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    column.map_or_else(|| vec![i64::MAX; rows.num_rows()], |column| column.values().to_vec())
}

/// Makes a store that was restored know nothing of streams: who opens them next learns all of it from event tables and
/// log, as of a store that was lost.
///
/// # Errors
/// A store that cannot be written.
pub fn forget_streams(store: &dyn OnlineStore, registry: &RegistryVersion) -> Result<(), OnlineStoreError> {
    let views = registry.views.values().map(|view| view_note(ViewId(view.id)));
    let notes = views.chain([APPLIED_NOTE.to_owned()]).map(|name| (name, b"restored".to_vec())).collect();
    store.write_stream(&StreamChanges { notes, ..StreamChanges::default() })
}

pub(super) fn source_note(source: &SourceName) -> String {
    format!("stream/source/{source}")
}

/// The note that says which message of a partition is to be read next.
pub fn position_note(topic: &str, partition: i32) -> String {
    format!("stream/position/{topic}/{partition}")
}

pub(super) fn view_note(view: ViewId) -> String {
    format!("stream/view/{view}")
}

/// The time of the watermark of a note.
pub fn watermark_of(note: &SourceNote) -> Option<EventTimestamp> {
    note.watermark.map(EventTimestamp::from_micros)
}
