//! Rows on their way to the log: read, judged, encoded, and waited for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, BinaryArray, RecordBatch};
use metrics::{counter, gauge};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::IngestionError;
use super::admission::{Admitted, PushSummary, Reached};
use super::applier::position_note;
use super::dead_letters::{MessagePlace, as_json};
use super::door::SourceDoor;
use super::engine::{Ingestion, lock};
use super::record::{PassedOver, Record, TopicPosition};
use super::rows::{UnknownKeys, message_bytes};
use super::view_problems::ViewProblems;
use super::writer::{Append, ToLog};
use crate::definition::{SourceName, StreamInput};
use crate::metrics::{STREAM_ROWS_TOTAL, STREAM_WATERMARK_SECONDS};
use crate::offline_store::EventKind;
use crate::time::EventTimestamp;

/// Bytes of events that may wait to be in both stores; what comes on top is refused.
const PENDING_BYTES_MAX: usize = 256 << 20;
/// Bytes that may wait to be applied; pushes wait for room. It bounds what a start after a kill has to apply.
const UNAPPLIED_BYTES_MAX: usize = 8 << 20;
/// How long a push waits for room before it is refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
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
#[derive(Debug, Clone)]
pub enum PushedRows {
    Batch(RecordBatch),
    /// A JSON object each.
    Json(Vec<String>),
    Objects(Vec<Map<String, Value>>),
    /// The values of messages, a JSON object each.
    Messages(BinaryArray),
    /// Objects read from the values of messages, or what is wrong with these.
    Decoded {
        rows: Vec<Result<Map<String, Value>, String>>,
        raw: BinaryArray,
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
            PushedRows::Messages(values) | PushedRows::Decoded { raw: values, .. } => message_bytes(values, row),
        }
    }
}

impl Ingestion {
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
        self.wait_for_room().await?;
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
        self.workers.block_on(self.wait_for_room())?;
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
        // Reading rows takes long and needs nothing that others change.
        let schema = lock(place).admission.schema.clone();
        let raw = |row: usize| rows.raw(row);
        let read = match &rows {
            PushedRows::Batch(batch) => schema.read_batch(batch, &raw)?,
            PushedRows::Json(texts) => schema.read_json(texts, unknown),
            PushedRows::Objects(objects) => schema.read_objects(objects.iter().cloned().map(Ok), unknown, &raw),
            PushedRows::Messages(values) => schema.read_messages(values, unknown),
            PushedRows::Decoded { rows, .. } => schema.read_objects(rows.iter().cloned(), unknown, &raw),
        };
        let now = self.stores.clock.now();
        let mut door = lock(place);
        if door.admission.schema.schema != schema.schema {
            drop(door);
            // The definitions changed meanwhile.
            return self.judge(place, rows, unknown, places, positions);
        }
        let admitted = door.admission.admit(self.stores.online.as_ref(), read, now, &raw, places)?;
        let Admitted { accepted, accepted_rows, accepted_places, dead_letters, mut summary, ids, watermark } = admitted;
        if let Some(rows) = &accepted {
            add_problems(&door.checks, rows, &accepted_rows, &mut summary);
        }
        let name = door.admission.schema.source.clone();
        count(&name, &summary, watermark.watermark);
        let record = |kind, rows, places| Record {
            source: name.clone(),
            kind,
            received_at: now,
            positions: Vec::new(),
            places,
            passed_over: PassedOver::default(),
            watermark: None,
            rows,
        };
        let mut records = Vec::new();
        records.extend(dead_letters.map(|rows| record(EventKind::DeadLetters, rows, Vec::new())));
        records.extend(accepted.map(|rows| record(EventKind::Accepted, rows, accepted_places)));
        let is_noted = !positions.is_empty() || summary.passed_over != PassedOver::default();
        if records.is_empty() && is_noted {
            // No row is kept, and that they came in is.
            let nothing = RecordBatch::new_empty(door.admission.accepted_schema());
            records.push(record(EventKind::Accepted, nothing, Vec::new()));
        }
        // The last record tells how far topics are read: before it, nothing of them is.
        if let Some(last) = records.last_mut() {
            last.positions = positions.to_vec();
            last.passed_over = summary.passed_over;
        }
        let sent = self.send(records);
        if sent.is_err() {
            door.admission.revoke(&ids);
        }
        Ok(Judged { summary, entries: Entries { ids, watermark, done: sent? } })
    }

    /// Sets the watermark of a source, whatever it is; gives what it was. Events that come in later are judged by it.
    ///
    /// # Errors
    /// A source that is not there, a log that cannot be written.
    pub async fn set_watermark(
        &self,
        source: &str,
        watermark: EventTimestamp,
    ) -> Result<Option<EventTimestamp>, IngestionError> {
        let place = self.known_source(source)?;
        let (before, sent) = {
            let mut door = lock(&place);
            let record = Record {
                source: door.admission.schema.source.clone(),
                kind: EventKind::Accepted,
                received_at: self.stores.clock.now(),
                positions: Vec::new(),
                places: Vec::new(),
                passed_over: PassedOver::default(),
                watermark: Some(watermark),
                rows: RecordBatch::new_empty(door.admission.accepted_schema()),
            };
            let sent = self.send(vec![record])?;
            (door.admission.set_watermark(watermark), sent)
        };
        let entries = Entries { ids: Vec::new(), watermark: Reached::default(), done: sent };
        let settled = self.settle(&place, entries).await;
        if let (Err(_), Some(before)) = (&settled, before) {
            lock(&place).admission.set_watermark(before);
        }
        self.wait_applied(settled?).await?;
        gauge!(STREAM_WATERMARK_SECONDS, "source" => source.to_owned()).set(watermark.micros() as f64 / 1e6);
        Ok(before)
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

    /// Returns once the stores keep up; many bytes that wait for tables are refused at once, since they take long.
    async fn wait_for_room(&self) -> Result<(), IngestionError> {
        let full = || IngestionError::Full { bytes: PENDING_BYTES_MAX, retry_after: RETRY_AFTER };
        if self.pending_bytes() > PENDING_BYTES_MAX {
            self.archive_soon.notify_one();
            return Err(full());
        }
        let mut applied = self.applied.clone();
        let has_room = applied.wait_for(|_| self.in_flight_bytes.load(Ordering::SeqCst) <= UNAPPLIED_BYTES_MAX);
        match tokio::time::timeout(ROOM_PATIENCE, has_room).await {
            Ok(waited) => waited.map(|_| ()).map_err(|_| IngestionError::Closed),
            Err(_) => Err(full()),
        }
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
    /// A log that cannot be written; nothing of the rows is stored then. [`IngestionError::NotVisible`], where they are.
    pub async fn settle(mut self, acknowledge: Acknowledge) -> Result<(), IngestionError> {
        let Some(entries) = self.entries.take() else { return Ok(()) };
        let last = self.ingestion.settle(&self.door, entries).await?;
        match acknowledge {
            Acknowledge::Visible => self.ingestion.wait_applied(last).await.map_err(|_| IngestionError::NotVisible),
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
    watermark: Reached,
    done: Vec<Sent>,
}

/// Bytes handed to the log, and what becomes of them.
type Sent = (usize, oneshot::Receiver<Result<u64, IngestionError>>);

fn count(source: &SourceName, summary: &PushSummary, watermark: Option<i64>) {
    let outcomes = [
        ("accepted", summary.accepted),
        ("duplicate", summary.passed_over.duplicates),
        ("late", summary.passed_over.late),
        ("ignored", summary.passed_over.ignored),
        ("dead_letter", summary.dead_letters),
    ];
    for (outcome, rows) in outcomes {
        counter!(STREAM_ROWS_TOTAL, "source" => source.as_str().to_owned(), "outcome" => outcome).increment(rows);
    }
    if let Some(watermark) = watermark {
        gauge!(STREAM_WATERMARK_SECONDS, "source" => source.as_str().to_owned()).set(watermark as f64 / 1e6);
    }
}

/// Adds to a summary what views cannot take of accepted rows; `sent`: the places of these among the rows sent.
fn add_problems(checks: &[ViewProblems], rows: &RecordBatch, sent: &[usize], summary: &mut PushSummary) {
    for check in checks {
        // What cannot even be looked at is a fault of the view, and told as such.
        for (row, reason) in check.of(rows).unwrap_or_default() {
            summary.add_dead_letter(sent[row] as u64, reason);
        }
    }
}
