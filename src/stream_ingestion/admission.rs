//! Which events are taken: decided once, before they are logged, so that nothing that is replayed is judged again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};

use super::IngestionError;
use super::dead_letters::{DeadLetter, MessagePlace, dead_letter_rows};
use super::record::PassedOver;
use super::rows::{EventSchema, ReadRows, Refused};
use crate::arrow_types::UTC;
use crate::definition::{Source, SourceName};
use crate::offline_store::RowPlace;
use crate::online_store::{KeyEncoder, OnlineStore, OnlineStoreError, ViewId};
use crate::time::{EventTimestamp, duration_micros};

/// Column of event tables that says when an event came in.
pub const RECEIVED_AT: &str = "asof_received_at";

/// What became of the rows of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushSummary {
    pub accepted: u64,
    pub passed_over: PassedOver,
    /// Rows that were refused, and events that are accepted and that an expression of a view fails for, once a view.
    pub dead_letters: u64,
    /// The first reasons, with the rows they concern, from 0.
    pub reasons: Vec<(u64, String)>,
}

/// Reasons that a summary tells.
const REASONS_MAX: usize = 10;

impl PushSummary {
    pub fn add(&mut self, other: &PushSummary, rows_before: u64) {
        self.accepted += other.accepted;
        self.passed_over.add(other.passed_over);
        self.dead_letters += other.dead_letters;
        let reasons = other.reasons.iter().map(|(row, reason)| (row + rows_before, reason.clone()));
        self.reasons.extend(reasons.take(REASONS_MAX.saturating_sub(self.reasons.len())));
    }

    pub(super) fn add_dead_letter(&mut self, row: u64, reason: String) {
        self.dead_letters += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push((row, reason));
        }
    }
}

/// Rows that were judged.
#[derive(Debug)]
pub struct Admitted {
    /// Those that count, with when they came in.
    pub accepted: Option<RecordBatch>,
    /// The place of each of them among the rows sent.
    pub accepted_rows: Vec<usize>,
    /// The message of each of them; empty where rows are pushed.
    pub accepted_places: Vec<RowPlace>,
    pub dead_letters: Option<RecordBatch>,
    pub summary: PushSummary,
    /// What [`Admission::revoke`] takes back.
    pub ids: Vec<Vec<u8>>,
    pub watermark: Reached,
}

/// A watermark, and how often it was set before by somebody: an earlier one does not concern later rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    pub watermark: Option<i64>,
    times_set: u64,
}

/// Judges the events of one source, one batch after the other.
#[derive(Debug)]
pub struct Admission {
    pub schema: EventSchema,
    accepted_schema: SchemaRef,
    ids: Option<EventIds>,
    stream_from: Option<i64>,
    /// Microseconds.
    allowed_lateness: Option<i64>,
    /// How far after the clock an event's time may lie, in microseconds.
    max_ahead: Option<i64>,
    remember: i64,
    /// The greatest event timestamp accepted so far.
    watermark: Option<i64>,
    /// The same, of what is durable.
    durable_watermark: Option<i64>,
    /// How often the watermark was set.
    times_set: u64,
    /// Ids that are accepted and not in the store yet, and when their events came in.
    pending_ids: HashMap<Vec<u8>, i64>,
}

impl Admission {
    /// None: the source has no stream.
    pub fn new(source: &Source, watermark: Option<i64>) -> Option<Self> {
        let schema = EventSchema::new(source)?;
        let mut fields: Vec<_> = schema.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(instant_field(RECEIVED_AT)));
        let lateness = source.stream.as_ref()?.allowed_lateness;
        Some(Admission {
            accepted_schema: Arc::new(Schema::new(fields)),
            ids: EventIds::new(&schema),
            stream_from: source.stream_from.map(EventTimestamp::micros),
            allowed_lateness: lateness.map(duration_micros),
            max_ahead: source.stream.as_ref()?.max_ahead().map(duration_micros),
            remember: source.remembers_ids_for().map_or(0, duration_micros),
            watermark,
            durable_watermark: watermark,
            times_set: 0,
            pending_ids: HashMap::new(),
            schema,
        })
    }

    /// Columns of accepted events.
    pub fn accepted_schema(&self) -> SchemaRef {
        Arc::clone(&self.accepted_schema)
    }

    /// Takes over what an earlier version of the definitions had under way.
    pub fn inherit(&mut self, earlier: Admission) {
        self.pending_ids = earlier.pending_ids;
        self.watermark = earlier.watermark;
        self.durable_watermark = earlier.durable_watermark;
        self.times_set = earlier.times_set;
    }

    /// Judges rows that came in at `now`; `raw` tells a row as it was sent.
    ///
    /// # Errors
    /// A store that cannot tell which ids it knows; nothing is changed.
    pub fn admit(
        &mut self,
        store: &dyn OnlineStore,
        read: ReadRows,
        now: EventTimestamp,
        raw: &dyn Fn(usize) -> Vec<u8>,
        places: Option<&[MessagePlace]>,
    ) -> Result<Admitted, IngestionError> {
        let rows = read.rows.num_rows();
        let ids = self.ids.as_ref().map(|ids| ids.of(&read.rows)).transpose()?;
        let known = match &ids {
            Some(ids) => self.known_ids(store, ids, now)?,
            None => vec![false; rows],
        };
        let mut summary = PushSummary::default();
        let mut refused = read.refused;
        let mut taken = vec![false; rows];
        let mut new_ids = Vec::new();
        let times = read.rows.column(self.schema.event_timestamp).as_primitive::<TimestampMicrosecondType>();
        for row in 0..rows {
            let refuse = |reason: String| Refused { row: read.places[row], reason, raw: raw(read.places[row]) };
            if times.is_null(row) {
                let column = &self.schema.columns[self.schema.event_timestamp].name;
                refused.push(refuse(format!("column `{column}` is null, and an event has a time")));
                continue;
            }
            let time = times.value(row);
            let id = match ids.as_ref().map(|ids| &ids[row]) {
                Some(None) => {
                    let column = self.schema.event_id.map_or("", |column| &self.schema.columns[column].name);
                    refused.push(refuse(format!("column `{column}` is null, and tells an event from all others")));
                    continue;
                }
                Some(Some(id)) => Some(id),
                None => None,
            };
            if self.stream_from.is_some_and(|from| time < from) {
                summary.passed_over.ignored += 1;
                continue;
            }
            if known[row]
                || id.is_some_and(|id| self.pending_ids.get(id).is_some_and(|at| self.is_remembered(*at, now)))
            {
                summary.passed_over.duplicates += 1;
                continue;
            }
            if let Some(ahead) = self.max_ahead
                && time > now.micros().saturating_add(ahead)
            {
                refused.push(refuse(format!(
                    "its time {} is further after the clock, {now}, than `max_ahead` allows",
                    EventTimestamp::from_micros(time)
                )));
                continue;
            }
            if let (Some(lateness), Some(watermark)) = (self.allowed_lateness, self.watermark)
                && time < watermark.saturating_sub(lateness)
            {
                let [time, watermark] = [time, watermark].map(EventTimestamp::from_micros);
                summary.passed_over.late += 1;
                refused
                    .push(refuse(format!("its time {time} is later than is allowed after the watermark {watermark}")));
                continue;
            }
            self.watermark = self.watermark.max(Some(time));
            if let Some(id) = id {
                self.pending_ids.insert(id.clone(), now.micros());
                new_ids.push(id.clone());
            }
            taken[row] = true;
            summary.accepted += 1;
        }
        refused.sort_by_key(|refused| refused.row);
        summary.dead_letters = refused.len() as u64;
        summary.reasons =
            refused.iter().take(REASONS_MAX).map(|refused| (refused.row as u64, refused.reason.clone())).collect();
        let place = |row: usize| {
            let place = places?.get(read.places[row])?;
            Some(RowPlace { partition: place.partition, offset: place.offset })
        };
        let accepted_places = (0..rows).filter(|row| taken[*row]).filter_map(place).collect();
        let accepted_rows = (0..rows).filter(|row| taken[*row]).map(|row| read.places[row]).collect();
        let accepted = (summary.accepted > 0).then(|| self.with_received_at(&read.rows, taken, now)).transpose()?;
        let letter = |refused: Refused| DeadLetter {
            received_at: now.micros(),
            place: places.and_then(|places| places.get(refused.row)).cloned(),
            reason: refused.reason,
            raw: refused.raw,
            view: None,
        };
        let letters: Vec<DeadLetter> = refused.into_iter().map(letter).collect();
        let dead_letters = (!letters.is_empty()).then(|| dead_letter_rows(&letters));
        let watermark = Reached { watermark: self.watermark, times_set: self.times_set };
        Ok(Admitted { accepted, accepted_rows, accepted_places, dead_letters, summary, ids: new_ids, watermark })
    }

    fn with_received_at(
        &self,
        rows: &RecordBatch,
        taken: Vec<bool>,
        now: EventTimestamp,
    ) -> Result<RecordBatch, IngestionError> {
        let failed = |error: arrow::error::ArrowError| IngestionError::Encode { problem: error.to_string() };
        let all = taken.iter().all(|taken| *taken);
        let rows =
            if all { rows.clone() } else { filter_record_batch(rows, &BooleanArray::from(taken)).map_err(failed)? };
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(instants(std::iter::repeat_n(now, rows.num_rows()))));
        RecordBatch::try_new(Arc::clone(&self.accepted_schema), columns).map_err(failed)
    }

    fn known_ids(
        &self,
        store: &dyn OnlineStore,
        ids: &[Option<Vec<u8>>],
        now: EventTimestamp,
    ) -> Result<Vec<bool>, IngestionError> {
        let asked: Vec<Vec<u8>> = ids.iter().flatten().cloned().collect();
        let mut found = store.event_ids(&asked)?.into_iter();
        let known = |id: &Option<Vec<u8>>| {
            let received_at = id.as_ref().and_then(|_| found.next().flatten());
            received_at.is_some_and(|received_at| self.is_remembered(received_at, now))
        };
        Ok(ids.iter().map(known).collect())
    }

    /// Whether an event that came in at `received_at` makes one of its id that comes in now a repeat.
    fn is_remembered(&self, received_at: i64, now: EventTimestamp) -> bool {
        now.micros().saturating_sub(received_at) < self.remember
    }

    /// The ids of accepted rows, as the store keeps them; empty where events have none.
    ///
    /// # Errors
    /// Rows of another schema.
    pub fn ids_of(&self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>, IngestionError> {
        let Some(ids) = &self.ids else { return Ok(Vec::new()) };
        Ok(ids.of(rows)?.into_iter().flatten().collect())
    }

    /// What begins the ids of this source in the store.
    pub fn id_prefix(&self) -> Option<&[u8]> {
        self.ids.as_ref().map(|ids| ids.prefix.as_slice())
    }

    /// Instants up to which ids are forgotten, of events that came in before them.
    pub fn forgotten_before(&self, now: EventTimestamp) -> i64 {
        now.micros().saturating_sub(self.remember)
    }

    /// Rows were written to the log.
    pub fn confirm(&mut self, reached: Reached) {
        if reached.times_set == self.times_set {
            self.durable_watermark = self.durable_watermark.max(reached.watermark);
            self.watermark = self.watermark.max(self.durable_watermark);
        }
    }

    /// The watermark is this one from now on, as the log has it, too; gives what it was.
    pub fn set_watermark(&mut self, watermark: EventTimestamp) -> Option<EventTimestamp> {
        self.times_set += 1;
        self.durable_watermark = Some(watermark.micros());
        std::mem::replace(&mut self.watermark, self.durable_watermark).map(EventTimestamp::from_micros)
    }

    /// Of events that came in at these times those that the watermark is made of.
    pub fn counts_for_watermark(&self, time: i64, received_at: i64) -> bool {
        self.max_ahead.is_none_or(|ahead| time <= received_at.saturating_add(ahead))
    }

    /// Rows that were admitted could not be written to the log.
    pub fn revoke(&mut self, ids: &[Vec<u8>]) {
        self.stored(ids);
        self.watermark = self.durable_watermark;
    }

    /// The store knows these ids now.
    pub fn stored(&mut self, ids: &[Vec<u8>]) {
        for id in ids {
            self.pending_ids.remove(id);
        }
    }
}

/// Event ids as bytes: the source's name, a zero, the id as a join key is encoded.
#[derive(Debug)]
pub struct EventIds {
    prefix: Vec<u8>,
    encoder: KeyEncoder,
    column: String,
}

impl EventIds {
    fn new(schema: &EventSchema) -> Option<Self> {
        let column = &schema.columns[schema.event_id?];
        let encoder = KeyEncoder::new(ViewId(0), std::slice::from_ref(&column.value_type)).ok()?;
        Some(EventIds { prefix: id_prefix(&schema.source), encoder, column: column.name.clone() })
    }

    fn of(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>, IngestionError> {
        let Some(column) = rows.column_by_name(&self.column) else {
            return Ok(vec![None; rows.num_rows()]);
        };
        let keys =
            self.encoder.encode(std::slice::from_ref(column), rows.num_rows()).map_err(OnlineStoreError::from)?;
        // The first four bytes are those of a view.
        let id = |key: Option<&[u8]>| key.map(|key| [self.prefix.as_slice(), &key[4..]].concat());
        Ok(keys.iter().map(id).collect())
    }
}

fn id_prefix(source: &SourceName) -> Vec<u8> {
    [source.as_str().as_bytes(), &[0]].concat()
}

fn instant_field(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())), true)
}

fn instants(instants: impl Iterator<Item = EventTimestamp>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from_iter_values(instants.map(EventTimestamp::micros)).with_timezone(UTC)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Int64Type;

    use super::super::rows::UnknownKeys;
    use super::*;
    use crate::definition::{DefinitionFile, parse_definitions};
    use crate::online_store::{MemoryOnlineStore, StreamChanges};

    const SECOND: i64 = 1_000_000;

    fn admission(keys: &str) -> Admission {
        let text = format!(
            "sources: [{{name: s, event_timestamp: at, schema: [{{name: id, type: int64}}, {{name: at, type: timestamp}}], {keys}}}]"
        );
        let file = DefinitionFile { path: "s.yaml".to_owned(), text };
        let definitions = parse_definitions(&[file]).unwrap_or_else(|errors| panic!("{errors}"));
        Admission::new(&definitions.sources[0], None).unwrap()
    }

    /// Admits rows of (id, second of the event) that come in at a second; gives the ids that are accepted.
    fn admit(
        admission: &mut Admission,
        store: &MemoryOnlineStore,
        second: i64,
        rows: &[(i64, i64)],
    ) -> (Vec<i64>, Admitted) {
        let at = |second: i64| EventTimestamp::from_micros(second * SECOND);
        let texts: Vec<String> =
            rows.iter().map(|(id, event)| format!("{{\"id\": {id}, \"at\": \"{}\"}}", at(*event))).collect();
        let read = admission.schema.read_json(&texts, UnknownKeys::Refuse);
        let raw = |row: usize| texts[row].clone().into_bytes();
        let admitted = admission.admit(store, read, at(second), &raw, None).unwrap();
        let ids = admitted.accepted.as_ref().map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec());
        (ids.unwrap_or_default(), admitted)
    }

    #[test]
    fn what_is_later_than_allowed_after_the_greatest_time_so_far_is_refused() {
        let (mut admission, store) =
            (admission("stream: {type: push, allowed_lateness: 10s}"), MemoryOnlineStore::new());
        let (ids, first) = admit(&mut admission, &store, 0, &[(1, 100), (2, 90), (3, 89), (4, 101), (5, 90)]);
        assert_eq!(ids, [1, 2, 4]);
        assert_eq!((first.summary.passed_over.late, first.summary.dead_letters), (2, 2));
        assert_eq!(first.summary.reasons[0].0, 2);
        assert_eq!(
            first.dead_letters.unwrap().column(2).as_binary::<i32>().value(0),
            b"{\"id\": 3, \"at\": \"1970-01-01T00:01:29.000000Z\"}"
        );
        let unlimited = &mut self::admission("stream: {type: push}");
        assert_eq!(admit(unlimited, &store, 0, &[(1, 100), (2, -100)]).0, [1, 2]);
    }

    #[test]
    fn an_id_is_remembered_for_a_while_from_when_its_event_came_in() {
        let keys = "event_id: id, deduplicate_for: 10s, stream: {type: push}";
        let (mut admission, store) = (admission(keys), MemoryOnlineStore::new());
        let (ids, _) = admit(&mut admission, &store, 0, &[(1, 5), (2, 5), (1, 6)]);
        assert_eq!(ids, [1, 2]);
        // Before the store knows it, and after.
        let (ids, again) = admit(&mut admission, &store, 1, &[(1, 5), (3, 5)]);
        assert_eq!((ids, again.summary.passed_over.duplicates), (vec![3], 1));
        let event_ids = admission.ids_of(again.accepted.as_ref().unwrap()).unwrap();
        let changes = StreamChanges {
            event_ids: event_ids.iter().map(|id| (id.clone(), SECOND)).collect(),
            ..Default::default()
        };
        store.write_stream(&changes).unwrap();
        admission.stored(&event_ids);
        assert_eq!(admit(&mut admission, &store, 10, &[(3, 5)]).0, [0; 0]);
        assert_eq!(admit(&mut admission, &store, 11, &[(3, 5)]).0, [3]);
    }

    #[test]
    fn a_time_far_after_the_clock_is_refused_and_moves_no_watermark() {
        let store = MemoryOnlineStore::new();
        let day = 86_400;
        let mut by_default = admission("stream: {type: push, allowed_lateness: 10s}");
        let (ids, admitted) = admit(&mut by_default, &store, 100, &[(1, 90), (2, 100 + day + 1), (3, 85)]);
        assert_eq!((ids, admitted.summary.dead_letters), (vec![1, 3], 1));
        assert!(admitted.summary.reasons[0].1.contains("max_ahead"), "{:?}", admitted.summary.reasons);
        assert_eq!(admit(&mut by_default, &store, 100, &[(4, 100 + day)]).0, [4]);
        let mut bounded = admission("stream: {type: push, max_ahead: 1s}");
        assert_eq!(admit(&mut bounded, &store, 100, &[(1, 101), (2, 102), (3, -5)]).0, [1, 3]);
        let mut unlimited = admission("stream: {type: push}");
        assert_eq!(admit(&mut unlimited, &store, 100, &[(1, 1_000_000_000)]).0, [1]);
    }

    #[test]
    fn a_watermark_that_is_set_is_not_moved_by_what_was_admitted_before() {
        let (mut admission, store) =
            (admission("stream: {type: push, allowed_lateness: 10s}"), MemoryOnlineStore::new());
        let (_, before) = admit(&mut admission, &store, 500, &[(1, 400)]);
        admission.set_watermark(EventTimestamp::from_micros(50 * SECOND));
        admission.confirm(before.watermark);
        let (ids, after) = admit(&mut admission, &store, 500, &[(2, 39), (3, 40), (4, 60)]);
        assert_eq!((ids, after.summary.passed_over.late), (vec![3, 4], 1));
        admission.confirm(after.watermark);
        assert_eq!(admit(&mut admission, &store, 500, &[(5, 49), (6, 50)]).0, [6]);
    }

    #[test]
    fn what_could_not_be_logged_is_taken_back() {
        let keys = "event_id: id, stream: {type: push, allowed_lateness: 1s}";
        let (mut admission, store) = (admission(keys), MemoryOnlineStore::new());
        let (_, first) = admit(&mut admission, &store, 0, &[(1, 10)]);
        admission.confirm(first.watermark);
        let (_, lost) = admit(&mut admission, &store, 0, &[(2, 1_000)]);
        admission.revoke(&lost.ids);
        assert_eq!(admit(&mut admission, &store, 0, &[(2, 10), (1, 10)]).0, [2]);
    }

    #[test]
    fn events_before_the_stream_begins_are_ignored() {
        let keys = "batch: {format: parquet, path: x.parquet}, stream_from: 1970-01-01T00:00:05Z, stream: {type: push}";
        let (mut admission, store) = (admission(keys), MemoryOnlineStore::new());
        let (ids, admitted) = admit(&mut admission, &store, 0, &[(1, 4), (2, 5)]);
        assert_eq!((ids, admitted.summary.passed_over.ignored), (vec![2], 1));
    }
}
