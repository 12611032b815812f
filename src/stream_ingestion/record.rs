//! What the log holds: batches of one source, accepted or refused, as bytes.
//!
//! ```text
//! body = kind (u8) | received at (i64) | length of the source's name (u16), name
//!      | number of positions (u16), each: length (u16), topic, partition (i32), next offset (i64)
//!      | where the kind says so, number of places (u32), each: partition (i32), offset (i64)
//!      | where the kind says so, numbers of repeated, late and ignored rows (u64 each)
//!      | where the kind says so, the watermark from here on (i64)
//!      | rows as an Arrow IPC stream of one batch
//! ```
//!
//! Numbers are little-endian.

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::definition::SourceName;
use crate::offline_store::{EventKind, RowPlace};
use crate::time::EventTimestamp;

/// Rows of one source that stand or fall together.
#[derive(Debug, Clone)]
pub struct Record {
    pub source: SourceName,
    pub kind: EventKind,
    pub received_at: EventTimestamp,
    /// How far the topics that the rows come from are read.
    pub positions: Vec<TopicPosition>,
    /// The message of each accepted row, all of one topic; empty where rows are pushed.
    pub places: Vec<RowPlace>,
    /// Of the rows that came with these.
    pub passed_over: PassedOver,
    /// The source's watermark is this one after the rows, whatever it was.
    pub watermark: Option<EventTimestamp>,
    pub rows: RecordBatch,
}

/// Rows that came in and are in no table, or in another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PassedOver {
    /// Events whose id came before.
    pub duplicates: u64,
    /// Events later than the stream allows; they are among the dead letters, too.
    pub late: u64,
    /// Events before `stream_from`.
    pub ignored: u64,
}

impl PassedOver {
    pub fn add(&mut self, other: PassedOver) {
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.ignored += other.ignored;
    }
}

/// The next message of a partition that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPosition {
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
}

/// Marks of a kind: what the record has.
const HAS_PLACES: u8 = 2;
const HAS_PASSED_OVER: u8 = 4;
const HAS_WATERMARK: u8 = 8;

impl Record {
    /// # Errors
    /// Rows that Arrow IPC cannot hold.
    pub fn encode(&self) -> Result<Vec<u8>, ArrowError> {
        let marks = [
            (u8::from(self.kind == EventKind::DeadLetters), true),
            (HAS_PLACES, !self.places.is_empty()),
            (HAS_PASSED_OVER, self.passed_over != PassedOver::default()),
            (HAS_WATERMARK, self.watermark.is_some()),
        ];
        let kind = marks.iter().filter(|(_, has)| *has).fold(0, |kind, (mark, _)| kind | mark);
        let mut body = vec![kind];
        body.extend_from_slice(&self.received_at.micros().to_le_bytes());
        put_text(self.source.as_str(), &mut body);
        body.extend_from_slice(&u16::try_from(self.positions.len()).unwrap_or(u16::MAX).to_le_bytes());
        for position in self.positions.iter().take(usize::from(u16::MAX)) {
            put_text(&position.topic, &mut body);
            body.extend_from_slice(&position.partition.to_le_bytes());
            body.extend_from_slice(&position.next_offset.to_le_bytes());
        }
        if !self.places.is_empty() {
            body.extend_from_slice(&u32::try_from(self.places.len()).unwrap_or(u32::MAX).to_le_bytes());
            for place in &self.places {
                body.extend_from_slice(&place.partition.to_le_bytes());
                body.extend_from_slice(&place.offset.to_le_bytes());
            }
        }
        if kind & HAS_PASSED_OVER != 0 {
            let PassedOver { duplicates, late, ignored } = self.passed_over;
            [duplicates, late, ignored].iter().for_each(|count| body.extend_from_slice(&count.to_le_bytes()));
        }
        if let Some(watermark) = self.watermark {
            body.extend_from_slice(&watermark.micros().to_le_bytes());
        }
        let mut writer = StreamWriter::try_new(body, &self.rows.schema())?;
        writer.write(&self.rows)?;
        writer.into_inner()
    }

    /// None: the bytes are no record.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let [byte] = take(&mut rest)?;
        let has = |mark: u8| byte & mark != 0;
        let kind = match byte & !(HAS_PLACES | HAS_PASSED_OVER | HAS_WATERMARK) {
            0 => EventKind::Accepted,
            1 => EventKind::DeadLetters,
            _ => return None,
        };
        let received_at = EventTimestamp::from_micros(i64::from_le_bytes(take(&mut rest)?));
        let source = SourceName::new(&take_text(&mut rest)?);
        let count = u16::from_le_bytes(take(&mut rest)?);
        let position = |rest: &mut &[u8]| {
            let topic = take_text(rest)?;
            let partition = i32::from_le_bytes(take(rest)?);
            Some(TopicPosition { topic, partition, next_offset: i64::from_le_bytes(take(rest)?) })
        };
        let positions = (0..count).map(|_| position(&mut rest)).collect::<Option<_>>()?;
        let count = if has(HAS_PLACES) { u32::from_le_bytes(take(&mut rest)?) } else { 0 };
        let place = |rest: &mut &[u8]| {
            let partition = i32::from_le_bytes(take(rest)?);
            Some(RowPlace { partition, offset: i64::from_le_bytes(take(rest)?) })
        };
        let places: Vec<RowPlace> = (0..count).map(|_| place(&mut rest)).collect::<Option<_>>()?;
        let mut passed_over = PassedOver::default();
        if has(HAS_PASSED_OVER) {
            for count in [&mut passed_over.duplicates, &mut passed_over.late, &mut passed_over.ignored] {
                *count = u64::from_le_bytes(take(&mut rest)?);
            }
        }
        let mut watermark = None;
        if has(HAS_WATERMARK) {
            watermark = Some(EventTimestamp::from_micros(i64::from_le_bytes(take(&mut rest)?)));
        }
        let mut rows = StreamReader::try_new(Cursor::new(rest), None).ok()?;
        let rows = rows.next()?.ok()?;
        let fits = places.is_empty() || places.len() == rows.num_rows();
        let record = Record { source, kind, received_at, positions, places, passed_over, watermark, rows };
        fits.then_some(record)
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (found, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*found)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn records_round_trip_and_cut_ones_are_none() {
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from(vec![Some(1), None]))), ("t", Arc::new(StringArray::from(vec!["a", ""])))];
        let record = Record {
            source: SourceName::new("taps"),
            kind: EventKind::DeadLetters,
            received_at: EventTimestamp::from_micros(-5),
            positions: vec![TopicPosition { topic: "t".to_owned(), partition: 3, next_offset: 1 << 40 }],
            places: Vec::new(),
            passed_over: PassedOver::default(),
            watermark: None,
            rows: RecordBatch::try_from_iter(columns).unwrap(),
        };
        let places = [7, 1 << 40].map(|offset| RowPlace { partition: 3, offset }).to_vec();
        check(&record);
        check(&Record { kind: EventKind::Accepted, places: places.clone(), ..record.clone() });
        let passed_over = PassedOver { duplicates: 1, late: 1 << 40, ignored: 0 };
        check(&Record { kind: EventKind::Accepted, passed_over, ..record.clone() });
        let watermark = Some(EventTimestamp::from_micros(-1));
        check(&Record { kind: EventKind::Accepted, places, passed_over, watermark, ..record });
    }

    fn check(record: &Record) {
        let bytes = record.encode().unwrap();
        let decoded = Record::decode(&bytes).unwrap();
        assert_eq!((&decoded.rows, &decoded.positions), (&record.rows, &record.positions));
        assert_eq!(decoded.places, record.places);
        assert_eq!((decoded.passed_over, decoded.watermark), (record.passed_over, record.watermark));
        assert_eq!(
            (&decoded.source, decoded.kind, decoded.received_at),
            (&record.source, record.kind, record.received_at)
        );
        for end in 0..bytes.len().min(60) {
            assert!(Record::decode(&bytes[..end]).is_none());
        }
    }
}
