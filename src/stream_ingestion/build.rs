//! Sides built anew: a view whose side is not what its definition asks for is built from the event table and the log,
//! beside the side that is read, and takes its place in the write that finishes it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use datafusion::prelude::ident;
use futures::TryStreamExt;

use super::IngestionError;
use super::admission::RECEIVED_AT;
use super::applier::{Applier, add, by_source, received_at, source_note, view_note};
use super::fail_point::fail_point;
use super::known_tables::NO_TABLE;
use super::log::read_records;
use super::side::{ViewSide, describe};
use crate::arrow_types::{arrow_type, type_name};
use crate::compile::{Compiler, view_join_keys};
use crate::definition::{
    Definitions, EVENT_TIMESTAMP, FeatureView, FeatureViewName, Field, Source, SourceName, Stream,
};
use crate::offline_store::{EventKind, EventTable};
use crate::online_store::{StreamChanges, ViewId};
use crate::registry::RegistryVersion;
use crate::time::TimeRange;

/// Rows that are written in one step.
const BUILD_ROWS: usize = 64 * 1024;

/// A view whose side was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltView {
    pub view: FeatureViewName,
    /// Events, or rows, that it holds.
    pub events: u64,
}

/// # Errors
/// A column whose values the source's event table could not hold.
fn check_types(source: &Source, table: &EventTable) -> Result<(), IngestionError> {
    let Some(stream) = &source.stream else { return Ok(()) };
    let schema = table.schema()?;
    match unstorable(stream, &schema) {
        Some((column, found)) => Err(IngestionError::TableType {
            source_name: source.name.clone(),
            column: column.name.clone(),
            found,
            declared: column.value_type.clone(),
        }),
        None => Ok(()),
    }
}

/// The first column of a stream whose values an event table with this schema cannot hold, and what it has there.
pub fn unstorable<'s>(stream: &'s Stream, schema: &Schema) -> Option<(&'s Field, String)> {
    stream.columns.iter().find_map(|column| {
        let stored = schema.field_with_name(&column.name).ok()?.data_type();
        // Tables name the items of lists in their own way.
        (!stored.equals_datatype(&arrow_type(&column.value_type))).then(|| (column, type_name(stored)))
    })
}

impl Applier {
    /// Builds every side that the definitions ask for and that is not there, and those of the views named. What keeps
    /// one from being built is among the faults then, and what is read of it stays as it was.
    ///
    /// # Errors
    /// An online store that cannot be read or written.
    pub async fn build(&mut self, named: &[FeatureViewName]) -> Result<Vec<BuiltView>, IngestionError> {
        let Some(registry) = self.registry.clone() else { return Ok(Vec::new()) };
        let definitions = Arc::new(registry.definitions.clone());
        let mut built = Vec::new();
        // Nothing may be taken from the log before it is known how far the tables reach.
        self.pinned.store(0, Ordering::SeqCst);
        let done = self.build_sides(&registry, &definitions, named, &mut built).await;
        self.pinned.store(u64::MAX, Ordering::SeqCst);
        self.told_faults.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.faults);
        done.map(|()| built)
    }

    async fn build_sides(
        &mut self,
        registry: &Arc<RegistryVersion>,
        definitions: &Arc<Definitions>,
        named: &[FeatureViewName],
        built: &mut Vec<BuiltView>,
    ) -> Result<(), IngestionError> {
        for source in definitions.sources.iter().filter(|source| source.stream.is_some()) {
            self.faults.sources.remove(&source.name);
            let table = match self.sound_table(source).await {
                Ok(table) => table,
                Err(error) => {
                    self.faults.keep_source(&source.name, error)?;
                    continue;
                }
            };
            for view in definitions.views_fed_by(&source.name) {
                let of_source = self.sides.entry(source.name.clone()).or_default();
                let is_there = of_source.iter().any(|side| side.view.name == view.name);
                if is_there && !named.contains(&view.name) {
                    continue;
                }
                match self.build_side(registry, definitions, source, view, table.as_ref()).await {
                    Ok(side) => {
                        built.push(BuiltView { view: view.name.clone(), events: side.added });
                        let of_source = self.sides.entry(source.name.clone()).or_default();
                        of_source.retain(|side| side.view.name != view.name);
                        of_source.push(side);
                        self.faults.views.remove(&view.name);
                    }
                    Err(error) => self.faults.keep(&view.name, error)?,
                }
            }
            self.look_back(source, table.as_ref()).await?;
        }
        Ok(())
    }

    /// What keeps a view from being fed.
    pub fn fault_of(&self, view: &FeatureViewName) -> Option<IngestionError> {
        let registry = self.registry.as_ref()?;
        let source = registry.definitions.streamed_source(registry.definitions.feature_view(view.as_str())?)?;
        let fault = self.faults.views.get(view).or_else(|| self.faults.sources.get(&source.name))?;
        Some(IngestionError::ViewClosed { view: view.clone(), source: Box::new(fault.clone()) })
    }

    /// Takes it that the event table of a source is gone for good, and begins one that takes records after `position`:
    /// what the views of the source hold is built anew of these.
    ///
    /// # Errors
    /// A source whose table is there, a table, file or store that cannot be written.
    pub async fn begin_table(&mut self, source: &SourceName, position: u64) -> Result<(), IngestionError> {
        let Some((registry, admission)) = self.registry.clone().zip(self.admissions.get(source)) else {
            return Err(IngestionError::NotPushed { name: source.clone(), reason: "it has no `stream`" });
        };
        match self.known_tables.open(&self.stores.offline, source).await {
            Err(IngestionError::TableGone { found: NO_TABLE, .. }) => {
                let nothing = RecordBatch::new_empty(admission.accepted_schema());
                let offline = &self.stores.offline;
                offline.begin_events(EventKind::Accepted, source, &nothing, &self.log_id, position).await?;
            }
            // Another table, which is to be taken for the source's own.
            Err(IngestionError::TableGone { .. }) => {}
            Ok(_) => return Err(IngestionError::TableThere { source_name: source.clone() }),
            Err(error) => return Err(error),
        }
        self.known_tables.set(source, None)?;
        let fed: Vec<_> = registry.definitions.views_fed_by(source).map(|view| view.name.clone()).collect();
        self.build(&fed).await.map(|_| ())
    }

    /// The event table of a source, which has to be the one that was there, and to hold what the source declares;
    /// what the store does not know of it is learned.
    async fn sound_table(&mut self, source: &Source) -> Result<Option<EventTable>, IngestionError> {
        let table = self.known_tables.open(&self.stores.offline, &source.name).await?;
        if let Some(table) = &table {
            check_types(source, table)?;
        }
        if self.is_fresh && !self.recalled.contains(&source.name) {
            self.recall(source, table.as_ref()).await?;
            self.recalled.insert(source.name.clone());
        }
        Ok(table)
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

    pub(super) fn log_failed(&self, error: std::io::Error) -> IngestionError {
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
            let times = times.into_iter().flatten().flatten().zip(received_at(&batch));
            let counts = times.filter(|(time, received_at)| admission.counts_for_watermark(*time, *received_at));
            note.watermark = note.watermark.max(counts.map(|(time, _)| time).max());
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
}
