//! The one writer of what streams bring into the online store: records of the log, in their order.
//!
//! Every write holds the rows of all views, the ids of events and the position in the log, so that a crash leaves all
//! of a record or nothing of it. A view whose side is not what its definition asks for is built anew from the event
//! table and the log, beside the side that is read, and takes its place in the write that finishes it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::prelude::ident;
use futures::TryStreamExt;
use metrics::{counter, histogram};

use super::IngestionError;
use super::admission::{Admission, RECEIVED_AT};
use super::fail_point::fail_point;
use super::log::{Logged, read_records};
use super::side::{ViewSide, describe};
use super::view_plan::{PlanContext, ViewPlan};
use crate::compile::{Compiler, view_join_keys};
use crate::definition::{Definitions, EVENT_TIMESTAMP, FeatureView, FeatureViewName, Source, SourceName};
use crate::engine::Engine;
use crate::metrics::{STREAM_APPLIED_ROWS_TOTAL, STREAM_FRESHNESS_SECONDS};
use crate::offline_store::{EventKind, EventTable, OfflineStore};
use crate::online_store::{OnlineStore, OnlineStoreError, StreamChanges, ViewId};
use crate::registry::RegistryVersion;
use crate::time::{Clock, EventTimestamp, TimeRange};

const APPLIED_NOTE: &str = "stream/applied";
/// Rows that are written in one step while a side is built.
const BUILD_ROWS: usize = 64 * 1024;
/// How long readers may still read a side that another one has replaced.
const REPLACED_SIDE_PATIENCE: Duration = Duration::from_secs(10);
/// Ids that are looked at in one go for those whose time has passed.
const SWEEP_IDS: usize = 10_000;

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
}

impl SourceNote {
    /// # Errors
    /// A store that cannot be read.
    pub fn read(store: &dyn OnlineStore, source: &SourceName) -> Result<Self, OnlineStoreError> {
        let note = store.note(&source_note(source))?;
        Ok(note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default())
    }
}

pub struct Applier {
    stores: Stores,
    log_id: String,
    log_folder: PathBuf,
    /// Records up to here are in the online store.
    applied: u64,
    /// Whether the store knew of no position in this log: then it knows no ids and watermarks, either.
    is_fresh: bool,
    registry: Option<Arc<RegistryVersion>>,
    sides: BTreeMap<SourceName, Vec<ViewSide>>,
    /// Only to tell the ids of rows.
    admissions: HashMap<SourceName, Admission>,
    notes: HashMap<SourceName, SourceNote>,
    /// Records after this one are needed; see `Log::remove_through`.
    pinned: Arc<AtomicU64>,
    /// Sides to delete once nobody reads them.
    replaced: Vec<(std::time::Instant, ViewId)>,
    /// Where the search for ids whose time has passed goes on.
    sweep_after: HashMap<SourceName, Vec<u8>>,
}

impl Applier {
    /// # Errors
    /// A store that cannot be read.
    pub fn new(
        stores: Stores,
        log_id: String,
        log_folder: PathBuf,
        pinned: Arc<AtomicU64>,
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
            registry: None,
            sides: BTreeMap::new(),
            admissions: HashMap::new(),
            notes: HashMap::new(),
            pinned,
            replaced: Vec::new(),
            sweep_after: HashMap::new(),
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
    /// A view that does not compile; the definitions in use stay.
    pub async fn use_registry(&mut self, registry: Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let definitions = Arc::new(registry.definitions.clone());
        let (mut sides, mut admissions) = (BTreeMap::new(), HashMap::new());
        for source in definitions.sources.iter().filter(|source| source.stream.is_some()) {
            let mut of_source = Vec::new();
            for view in definitions.views_fed_by(&source.name) {
                of_source.extend(self.open_side(&registry, &definitions, source, view).await?);
            }
            let note = SourceNote::read(self.stores.online.as_ref(), &source.name)?;
            admissions.extend(Admission::new(source, note.watermark).map(|admission| (source.name.clone(), admission)));
            self.notes.insert(source.name.clone(), note);
            sides.insert(source.name.clone(), of_source);
        }
        (self.sides, self.admissions, self.registry) = (sides, admissions, Some(registry));
        Ok(())
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

    async fn new_side(
        &self,
        definitions: &Arc<Definitions>,
        source: &Source,
        view: &FeatureView,
        side: ViewId,
    ) -> Result<ViewSide, IngestionError> {
        let context = PlanContext {
            definitions: Arc::clone(definitions),
            engine: self.stores.engine.clone(),
            project: self.stores.project.clone(),
        };
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
        let mut notes: HashMap<SourceName, SourceNote> = HashMap::new();
        for (source, kind, rows) in by_source(records, self.applied)? {
            let known = self.notes.get(&source).cloned().unwrap_or_default();
            let note = notes.entry(source.clone()).or_insert(known);
            if kind == EventKind::DeadLetters {
                note.dead_letters += rows.num_rows() as u64;
                continue;
            }
            note.accepted += rows.num_rows() as u64;
            if let Some(admission) = self.admissions.get(&source) {
                let times = rows.column_by_name(&admission.schema.columns[admission.schema.event_timestamp].name);
                let times = times.and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
                note.watermark = note.watermark.max(times.and_then(arrow::compute::max));
                changes.event_ids.extend(admission.ids_of(&rows)?.into_iter().zip(received_at(&rows)));
            }
            let sides = self.sides.entry(source.clone()).or_default();
            let mut position = 0;
            while let Some(side) = sides.get_mut(position) {
                match add(side, &rows, self.stores.online.as_ref(), &mut changes).await {
                    Err(error @ IngestionError::Rows { .. }) => {
                        // Other views go on. What is stored of this one is made anew when the process begins.
                        tracing::error!(error = &error as &dyn std::error::Error, "a view is not fed any more");
                        changes.notes.push((view_note(side.side.base()), b"to be built anew".to_vec()));
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
        self.notes.extend(notes);
        self.applied = last;
        let now = self.stores.clock.now();
        for record in records.iter().filter(|record| record.record.kind == EventKind::Accepted) {
            let age = now.micros().saturating_sub(record.record.received_at.micros());
            histogram!(STREAM_FRESHNESS_SECONDS).record(age as f64 / 1e6);
        }
        Ok(())
    }

    /// Builds every side that the definitions ask for and that is not there, and those of the views named.
    ///
    /// # Errors
    /// A table, log or store that cannot be read or written; what is read stays as it was.
    pub async fn build(&mut self, named: &[FeatureViewName]) -> Result<Vec<FeatureViewName>, IngestionError> {
        let Some(registry) = self.registry.clone() else { return Ok(Vec::new()) };
        let definitions = Arc::new(registry.definitions.clone());
        let mut built = Vec::new();
        // Nothing may be taken from the log before it is known how far the tables reach.
        self.pinned.store(0, Ordering::SeqCst);
        let done = self.build_sides(&registry, &definitions, named, &mut built).await;
        self.pinned.store(u64::MAX, Ordering::SeqCst);
        done.map(|()| built)
    }

    async fn build_sides(
        &mut self,
        registry: &Arc<RegistryVersion>,
        definitions: &Arc<Definitions>,
        named: &[FeatureViewName],
        built: &mut Vec<FeatureViewName>,
    ) -> Result<(), IngestionError> {
        for source in definitions.sources.iter().filter(|source| source.stream.is_some()) {
            let table = self.stores.offline.event_table(EventKind::Accepted, &source.name).await?;
            if self.is_fresh {
                self.recall(source, table.as_ref()).await?;
            }
            for view in definitions.views_fed_by(&source.name) {
                let of_source = self.sides.entry(source.name.clone()).or_default();
                let is_there = of_source.iter().any(|side| side.view.name == view.name);
                if is_there && !named.contains(&view.name) {
                    continue;
                }
                let side = self.build_side(registry, definitions, source, view, table.as_ref()).await?;
                let of_source = self.sides.entry(source.name.clone()).or_default();
                of_source.retain(|side| side.view.name != view.name);
                of_source.push(side);
                built.push(view.name.clone());
            }
        }
        self.is_fresh = false;
        Ok(())
    }

    async fn build_side(
        &mut self,
        registry: &RegistryVersion,
        definitions: &Arc<Definitions>,
        source: &Source,
        view: &FeatureView,
        table: Option<&EventTable>,
    ) -> Result<ViewSide, IngestionError> {
        let online = Arc::clone(&self.stores.online);
        let state = registry.views.get(&view.name).copied();
        let state = state
            .ok_or_else(|| crate::materialization::MaterializationError::NotApplied { view: view.name.clone() })?;
        let base = ViewId(state.id);
        let read_now = online.stream_side(base);
        let number = base.stream_side(read_now.is_some_and(|side| !side.is_second_side()));
        self.replaced.retain(|(_, side)| *side != number);
        // What an earlier build left, that did not live to its end.
        online.delete_view(number)?;
        let mut side = self.new_side(definitions, source, view, number).await?;
        let position = match table {
            Some(table) => {
                self.add_table(&mut side, definitions, source, table).await?;
                table.position(&self.log_id).await?.unwrap_or(0)
            }
            None => 0,
        };
        self.add_log(&mut side, &source.name, position).await?;
        let wanted = describe(definitions, view, state.data_version, &self.log_id)?;
        let changes = StreamChanges {
            notes: vec![(view_note(base), wanted.into_bytes())],
            sides: vec![(base, number)],
            ..StreamChanges::default()
        };
        fail_point("side.built");
        online.write_stream(&changes)?;
        if let Some(old) = read_now {
            self.replaced.push((std::time::Instant::now(), old));
        }
        Ok(side)
    }

    /// Adds the rows of the event table to a side.
    async fn add_table(
        &self,
        side: &mut ViewSide,
        definitions: &Arc<Definitions>,
        source: &Source,
        table: &EventTable,
    ) -> Result<(), IngestionError> {
        let context = self.stores.engine.session();
        let provider = table.provider(&context).await?;
        let compiler = Compiler::new(Arc::clone(definitions), self.stores.project.clone(), context.clone());
        let compiler = compiler.with_events([(source.name.clone(), provider)].into()).events_only();
        let name = side.view.name.clone();
        let compiled = compiler.view(&side.view, TimeRange::UNBOUNDED).await;
        let frame =
            compiled.map_err(|source| IngestionError::View { view: name.clone(), source: Arc::new(source) })?.frame;
        let failed = |error: datafusion::error::DataFusionError| IngestionError::Rows {
            view: name.clone(),
            problem: error.to_string(),
        };
        // Events of a key one after the other: their tiles are at hand.
        let mut order: Vec<_> =
            view_join_keys(definitions, &side.view).iter().map(|key| ident(key.as_str()).sort(true, true)).collect();
        order.push(ident(EVENT_TIMESTAMP).sort(true, true));
        let mut rows = frame.sort(order).map_err(failed)?.execute_stream().await.map_err(failed)?;
        let mut changes = StreamChanges::default();
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            side.add(&batch, self.stores.online.as_ref(), &mut changes)?;
            if changes.merges.len() >= BUILD_ROWS {
                self.write(&mut changes, side)?;
            }
        }
        self.write(&mut changes, side)
    }

    /// Adds the records after `position`, as far as other sides have them, to a side.
    async fn add_log(&self, side: &mut ViewSide, source: &SourceName, position: u64) -> Result<(), IngestionError> {
        let mut records = Vec::new();
        let read = read_records(&self.log_folder, position, |logged| {
            if logged.sequence <= self.applied && logged.record.source == *source {
                records.push(logged);
            }
            Ok(())
        });
        read.map_err(|error| self.log_failed(error))?;
        let mut changes = StreamChanges::default();
        for (_, kind, rows) in by_source(&records, position)? {
            if kind == EventKind::Accepted {
                add(side, &rows, self.stores.online.as_ref(), &mut changes).await?;
            }
        }
        self.write(&mut changes, side)
    }

    fn log_failed(&self, error: std::io::Error) -> IngestionError {
        IngestionError::Log { folder: self.log_folder.display().to_string(), source: Arc::new(error) }
    }

    fn write(&self, changes: &mut StreamChanges, side: &mut ViewSide) -> Result<(), IngestionError> {
        self.stores.online.write_stream(changes)?;
        side.written();
        *changes = StreamChanges::default();
        Ok(())
    }

    /// Learns ids and watermark from the event table, of a store that knows neither.
    async fn recall(&mut self, source: &Source, table: Option<&EventTable>) -> Result<(), IngestionError> {
        let (Some(table), Some(admission)) = (table, self.admissions.get(&source.name)) else { return Ok(()) };
        let context = self.stores.engine.session();
        let failed = |error: datafusion::error::DataFusionError| IngestionError::Encode { problem: error.to_string() };
        let frame = context.read_table(table.provider(&context).await?).map_err(failed)?;
        let time = admission.schema.columns[admission.schema.event_timestamp].name.clone();
        let id = admission.schema.event_id.map(|id| admission.schema.columns[id].name.clone());
        let columns = [Some(time.clone()), Some(RECEIVED_AT.to_owned()), id.filter(|id| *id != time)];
        let columns = columns.into_iter().flatten().map(|column| ident(column.as_str())).collect::<Vec<_>>();
        let mut rows = frame.select(columns).map_err(failed)?.execute_stream().await.map_err(failed)?;
        let mut note = self.notes.get(&source.name).cloned().unwrap_or_default();
        let forgotten = admission.forgotten_before(self.stores.clock.now());
        note.accepted = 0;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let times = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>();
            note.watermark = note.watermark.max(times.and_then(arrow::compute::max));
            note.accepted += batch.num_rows() as u64;
            let ids = admission.ids_of(&batch)?.into_iter().zip(received_at(&batch));
            let event_ids = ids.filter(|(_, received_at)| *received_at > forgotten).collect();
            self.stores.online.write_stream(&StreamChanges { event_ids, ..StreamChanges::default() })?;
        }
        let position = table.position(&self.log_id).await?.unwrap_or(0);
        let logged = read_records(&self.log_folder, position, |logged| {
            let record = &logged.record;
            let counts = logged.sequence <= self.applied && record.source == source.name;
            if counts && record.kind == EventKind::Accepted {
                note.accepted += record.rows.num_rows() as u64;
            }
            Ok(())
        });
        logged.map_err(|error| self.log_failed(error))?;
        let value = serde_json::to_vec(&note).unwrap_or_default();
        let notes = vec![(source_note(&source.name), value)];
        self.stores.online.write_stream(&StreamChanges { notes, ..StreamChanges::default() })?;
        self.notes.insert(source.name.clone(), note);
        Ok(())
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
        for (source, admission) in &self.admissions {
            let Some(prefix) = admission.id_prefix() else { continue };
            let after = self.sweep_after.remove(source);
            let ids = self.stores.online.scan_event_ids(prefix, after.as_deref(), SWEEP_IDS)?;
            let last = ids.last().filter(|_| ids.len() == SWEEP_IDS);
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

async fn add(
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
fn by_source(records: &[Logged], applied: u64) -> Result<Vec<(SourceName, EventKind, RecordBatch)>, IngestionError> {
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
fn received_at(rows: &RecordBatch) -> Vec<i64> {
    let column =
        rows.column_by_name(RECEIVED_AT).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    column.map_or_else(|| vec![i64::MAX; rows.num_rows()], |column| column.values().to_vec())
}

fn source_note(source: &SourceName) -> String {
    format!("stream/source/{source}")
}

/// The note that says which message of a partition is to be read next.
pub fn position_note(topic: &str, partition: i32) -> String {
    format!("stream/position/{topic}/{partition}")
}

fn view_note(view: ViewId) -> String {
    format!("stream/view/{view}")
}

/// The time of the watermark of a note.
pub fn watermark_of(note: &SourceNote) -> Option<EventTimestamp> {
    note.watermark.map(EventTimestamp::from_micros)
}
