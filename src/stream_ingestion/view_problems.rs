//! Events that a view cannot take, because an expression of it fails for them: the view's dead letters.
//!
//! Which events these are follows from the events and the view alone, so it need not be written down when they come in:
//! it is found out again where a crash has left it open. What was told of in the dead-letter table, its commits say:
//!
//! ```text
//! asof.view.VERSION        everything that was archived before the view was fed
//! asof.view.VERSION.LOG    records of this log up to the number; those after it, as far as the table reaches in the log
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::prelude::{ident, lit};
use futures::TryStreamExt;

use super::IngestionError;
use super::applier::{Applier, ViewLetters, received_at, source_note};
use super::dead_letters::{DeadLetter, MessagePlace, as_json, dead_letter_rows};
use super::log::{Logged, read_records};
use super::record::{PassedOver, Record};
use super::rows::EventSchema;
use super::view_plan::{PlanContext, conform};
use crate::arrow_types::UTC;
use crate::compile::{CompileError, RowProblems};
use crate::definition::{FeatureView, FeatureViewName, Source};
use crate::offline_store::{EventKind, EventTable};
use crate::online_store::StreamChanges;
use crate::registry::ViewState;

/// Letters of one view that are kept of what was archived before it was fed; all are counted.
const ARCHIVED_LETTERS_MAX: usize = 100_000;

/// Tells which events a view cannot take.
#[derive(Debug)]
pub struct ViewProblems {
    pub view: FeatureViewName,
    problems: RowProblems,
    schema: SchemaRef,
}

impl ViewProblems {
    /// None: it can take all.
    ///
    /// # Errors
    /// A view that does not compile over the source's columns.
    pub async fn compile(
        context: &PlanContext,
        view: &FeatureView,
        source: &Source,
    ) -> Result<Option<Self>, CompileError> {
        let problems = context.compiler(&context.engine.session()).row_problems(view).await?;
        let schema = EventSchema::new(source).map(|events| events.schema);
        Ok(problems.zip(schema).map(|(problems, schema)| ViewProblems { view: view.name.clone(), problems, schema }))
    }

    /// Of the events that it cannot take, the position among them and why.
    ///
    /// # Errors
    /// Events of columns that cannot be those of the source.
    pub fn of(&self, events: &RecordBatch) -> Result<Vec<(usize, String)>, DataFusionError> {
        self.problems.of(&conform(events, &self.schema)?)
    }

    fn letters(
        &self,
        events: &RecordBatch,
        place: impl Fn(usize) -> Option<MessagePlace>,
    ) -> Result<Vec<DeadLetter>, DataFusionError> {
        let problems = self.of(events)?;
        if problems.is_empty() {
            return Ok(Vec::new());
        }
        let (received_at, sent) = (received_at(events), conform(events, &self.schema)?);
        let letter = |(row, reason): (usize, String)| DeadLetter {
            received_at: received_at[row],
            reason,
            raw: as_json(&sent, row),
            view: Some(self.view.clone()),
            place: place(row),
        };
        Ok(problems.into_iter().map(letter).collect())
    }
}

/// The problems of a view that is fed, and how far they are told.
#[derive(Debug)]
pub(super) struct Judge {
    problems: ViewProblems,
    /// The view's number, and which of its definitions it is.
    version: String,
    /// Records after this one have to be told of as they come; None: what is archived is not told of yet.
    since: Option<u64>,
}

impl Judge {
    /// Whether it is that of this view, as it is defined.
    pub(super) fn is_of(&self, version: &str) -> bool {
        self.version == version
    }

    fn archived_mark(&self) -> String {
        format!("asof.view.{}", self.version)
    }

    fn log_mark(&self, log: &str) -> String {
        format!("asof.view.{}.{log}", self.version)
    }

    fn letters_of(&self, logged: &Logged) -> Vec<DeadLetter> {
        let record = &logged.record;
        if record.kind != EventKind::Accepted || self.since.is_none_or(|since| logged.sequence <= since) {
            return Vec::new();
        }
        let place = |row: usize| {
            let (place, position) = record.places.get(row).zip(record.positions.first())?;
            let topic = Arc::from(position.topic.as_str());
            Some(MessagePlace { topic, partition: place.partition, offset: place.offset })
        };
        // Events that are not even of the source's columns are a fault of the view, and told as such.
        self.problems.letters(&record.rows, place).unwrap_or_default()
    }
}

/// The dead letters of views that an accepted record makes, in a record that stands beside it.
pub struct ViewLettersOf {
    pub counts: Vec<(FeatureViewName, u64)>,
    pub logged: Option<Logged>,
}

impl Applier {
    /// # Errors
    /// A view that does not compile, a table that cannot be read.
    pub(super) async fn open_judge(
        &self,
        context: &PlanContext,
        view: &FeatureView,
        source: &Source,
        state: ViewState,
    ) -> Result<Option<Judge>, IngestionError> {
        let failed = |error| IngestionError::View { view: view.name.clone(), source: Arc::new(error) };
        let Some(problems) = ViewProblems::compile(context, view, source).await.map_err(failed)? else {
            return Ok(None);
        };
        let mut judge = Judge { problems, version: format!("{}.{}", state.id, state.data_version), since: None };
        if let Some(told) = self.stores.offline.event_table(EventKind::DeadLetters, &source.name).await?
            && told.mark(&judge.archived_mark()).await?.is_some()
        {
            let through = told.mark(&judge.log_mark(&self.log_id)).await?;
            judge.since = Some(through.and_then(|through| u64::try_from(through).ok()).unwrap_or(0));
        }
        Ok(Some(judge))
    }

    /// What the views of its source cannot take of a record.
    pub(super) fn view_letters(&self, logged: &Logged) -> ViewLettersOf {
        let judges = self.judges.get(&logged.record.source).into_iter().flatten();
        let letters: Vec<DeadLetter> = judges.flat_map(|judge| judge.letters_of(logged)).collect();
        let mut counts: Vec<(FeatureViewName, u64)> = Vec::new();
        for view in letters.iter().filter_map(|letter| letter.view.as_ref()) {
            match counts.iter_mut().find(|(known, _)| known == view) {
                Some((_, count)) => *count += 1,
                None => counts.push((view.clone(), 1)),
            }
        }
        let record = |letters: &[DeadLetter]| Logged {
            sequence: logged.sequence,
            bytes: letters.iter().map(|letter| letter.raw.len() + letter.reason.len()).sum(),
            record: Record {
                source: logged.record.source.clone(),
                kind: EventKind::DeadLetters,
                received_at: logged.record.received_at,
                positions: Vec::new(),
                places: Vec::new(),
                passed_over: PassedOver::default(),
                watermark: None,
                rows: dead_letter_rows(letters),
            },
        };
        ViewLettersOf { counts, logged: (!letters.is_empty()).then(|| record(&letters)) }
    }

    /// Tells, and counts, what the views of a source cannot take of what is archived and logged, where that is not done.
    /// What keeps it from being told is a fault of the view.
    ///
    /// # Errors
    /// An online store that cannot be written.
    pub(super) async fn look_back(
        &mut self,
        source: &Source,
        table: Option<&EventTable>,
    ) -> Result<(), IngestionError> {
        let Some(mut judges) = self.judges.remove(&source.name) else { return Ok(()) };
        let mut done = Ok(());
        for judge in &mut judges {
            if let Err(error) = self.look_back_for(judge, source, table).await {
                done = done.and(self.faults.keep(&judge.problems.view, error));
            }
        }
        self.judges.insert(source.name.clone(), judges);
        done
    }

    async fn look_back_for(
        &mut self,
        judge: &mut Judge,
        source: &Source,
        table: Option<&EventTable>,
    ) -> Result<(), IngestionError> {
        let mut note = self.note_of(&source.name);
        let view = judge.problems.view.as_str().to_owned();
        let is_counted = note.views.get(&view).is_some_and(|known| known.version == judge.version);
        if is_counted && judge.since.is_some() {
            return Ok(());
        }
        let (count, letters) = self.archived_letters(judge, source, table).await?;
        if judge.since.is_none() {
            let applied = i64::try_from(self.applied).unwrap_or(i64::MAX);
            let marks = [(judge.archived_mark(), 1), (judge.log_mark(&self.log_id), applied)];
            let rows = dead_letter_rows(&letters);
            self.stores.offline.append_once(EventKind::DeadLetters, &source.name, &rows, &marks).await?;
            judge.since = Some(self.applied);
        }
        note.views.insert(view, ViewLetters { version: judge.version.clone(), dead_letters: count });
        let notes = vec![(source_note(&source.name), serde_json::to_vec(&note).unwrap_or_default())];
        self.stores.online.write_stream(&StreamChanges { notes, ..StreamChanges::default() })?;
        self.notes.insert(source.name.clone(), note);
        Ok(())
    }

    /// The letters that the event table and the log make, the first of them, and how many there are.
    async fn archived_letters(
        &self,
        judge: &Judge,
        source: &Source,
        table: Option<&EventTable>,
    ) -> Result<(u64, Vec<DeadLetter>), IngestionError> {
        let rows_failed = |error: DataFusionError| IngestionError::Rows {
            view: judge.problems.view.clone(),
            problem: error.to_string(),
        };
        let (mut count, mut letters) = (0, Vec::new());
        let mut add = |found: Vec<DeadLetter>| {
            count += found.len() as u64;
            letters.extend(found.into_iter().take(ARCHIVED_LETTERS_MAX - letters.len()));
        };
        let mut position = 0;
        if let Some(table) = table {
            position = table.position(&self.log_id).await?.unwrap_or(0);
            let context = self.stores.engine.session();
            let mut frame = context.read_table(table.provider(&context).await?).map_err(rows_failed)?;
            if let (Some(from), Some(time)) = (source.stream_from, &source.event_timestamp) {
                let from = datafusion::common::ScalarValue::TimestampMicrosecond(Some(from.micros()), Some(UTC.into()));
                frame = frame.filter(ident(time.as_str()).gt_eq(lit(from))).map_err(rows_failed)?;
            }
            let mut rows = frame.execute_stream().await.map_err(rows_failed)?;
            while let Some(batch) = rows.try_next().await.map_err(rows_failed)? {
                add(judge.problems.letters(&batch, |_| None).map_err(rows_failed)?);
            }
        }
        let read = read_records(&self.log_folder, position, |logged| {
            let record = &logged.record;
            if logged.sequence <= self.applied && record.source == source.name && record.kind == EventKind::Accepted {
                add(judge.problems.letters(&record.rows, |_| None).unwrap_or_default());
            }
            Ok(())
        });
        read.map_err(|error| self.log_failed(error))?;
        Ok((count, letters))
    }
}
