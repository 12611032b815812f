//! Records of predictions as bytes.
//!
//! ```text
//! record = 1 (format) | role u8 | sent_at i64 | latency_us | registry_version | version | route | model | experiment?
//!          | keys: count, text* | inputs: count, text* | rows: count, row*
//! row    = prediction id | (key?)* | value* | prediction: count, f64*
//! value  = flags u8 (1 text, 2 event timestamp, origin << 2, status << 5) | f64 or text | i64 (event timestamp)?
//! ```
//!
//! Counts, numbers and lengths of texts are LEB128, others little-endian; `?` is a byte that says whether it follows.

use std::sync::Arc;

use super::row::{LogRecord, RecordRow, RecordValue, Role};
use crate::point_in_time_join::FeatureStatus;
use crate::prediction::inputs::Origin;

const FORMAT: u8 = 1;
const HAS_TEXT: u8 = 1;
const HAS_TIME: u8 = 2;

pub fn encode(record: &LogRecord) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + record.rows.len() * (64 + 10 * record.inputs.len()));
    bytes.extend_from_slice(&[FORMAT, record.role as u8]);
    bytes.extend_from_slice(&record.sent_at.to_le_bytes());
    for number in [record.latency_us, record.registry_version, record.version] {
        put_count(&mut bytes, number);
    }
    put_text(&mut bytes, &record.route);
    put_text(&mut bytes, &record.model);
    put_optional(&mut bytes, record.experiment.as_deref());
    for names in [record.keys.as_slice(), &record.inputs] {
        put_count(&mut bytes, names.len() as u64);
        names.iter().for_each(|name| put_text(&mut bytes, name));
    }
    put_count(&mut bytes, record.rows.len() as u64);
    for row in &record.rows {
        put_text(&mut bytes, &row.prediction_id);
        row.keys.iter().for_each(|key| put_optional(&mut bytes, key.as_deref()));
        row.values.iter().for_each(|value| put_value(&mut bytes, value));
        put_count(&mut bytes, row.prediction.len() as u64);
        row.prediction.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }
    bytes
}

/// None: the bytes are no record. `inputs` are those of the record before; this one likely has the same.
pub fn decode(bytes: &[u8], inputs: &Arc<[String]>) -> Option<LogRecord> {
    let mut reader = Reader(bytes);
    if reader.byte()? != FORMAT {
        return None;
    }
    let role = Role::of_number(reader.byte()?)?;
    let sent_at = i64::from_le_bytes(reader.fixed()?);
    let (latency_us, registry_version, version) = (reader.count()?, reader.count()?, reader.count()?);
    let (route, model, experiment) = (reader.text()?, reader.text()?, reader.optional()?);
    let keys = reader.many(Reader::text)?;
    let inputs = reader.names(inputs)?;
    let rows = reader.many(|reader| {
        let prediction_id = reader.text()?;
        let keys = keys.iter().map(|_| reader.optional()).collect::<Option<_>>()?;
        let values = inputs.iter().map(|_| reader.value()).collect::<Option<_>>()?;
        let prediction = reader.many(|reader| Some(f64::from_le_bytes(reader.fixed()?)))?;
        Some(RecordRow { prediction_id, keys, values, prediction })
    })?;
    let record = LogRecord {
        sent_at,
        route,
        model,
        version,
        role,
        experiment,
        registry_version,
        latency_us,
        keys,
        inputs,
        rows,
    };
    reader.0.is_empty().then_some(record)
}

fn put_count(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn put_optional(bytes: &mut Vec<u8>, text: Option<&str>) {
    bytes.push(u8::from(text.is_some()));
    text.into_iter().for_each(|text| put_text(bytes, text));
}

fn put_value(bytes: &mut Vec<u8>, value: &RecordValue) {
    let has = |is: bool, flag: u8| if is { flag } else { 0 };
    let status = value.status.map_or(0, |status| status as u8);
    let flags = has(value.text.is_some(), HAS_TEXT) | has(value.event_timestamp.is_some(), HAS_TIME);
    bytes.push(flags | (value.origin as u8) << 2 | status << 5);
    match &value.text {
        Some(text) => put_text(bytes, text),
        None => bytes.extend_from_slice(&value.number.to_le_bytes()),
    }
    value.event_timestamp.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
}

struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (fixed, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*fixed)
    }

    fn byte(&mut self) -> Option<u8> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    fn count(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn text_bytes(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.count()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.text_bytes()?.to_vec()).ok()
    }

    /// Texts; where they are `known`, no copies of them.
    fn names(&mut self, known: &Arc<[String]>) -> Option<Arc<[String]>> {
        let mut same = Reader(self.0);
        let is_same = same.count() == Some(known.len() as u64)
            && known.iter().all(|name| same.text_bytes() == Some(name.as_bytes()));
        if is_same {
            self.0 = same.0;
            return Some(Arc::clone(known));
        }
        self.many(Reader::text).map(Arc::from)
    }

    fn optional(&mut self) -> Option<Option<String>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(self.text()?)),
            _ => None,
        }
    }

    fn value(&mut self) -> Option<RecordValue> {
        let flags = self.byte()?;
        let origin = Origin::of_number(flags >> 2 & 7)?;
        let status = match flags >> 5 {
            0 => None,
            1 => Some(FeatureStatus::Present),
            2 => Some(FeatureStatus::NullValue),
            3 => Some(FeatureStatus::NotFound),
            4 => Some(FeatureStatus::OutsideMaxAge),
            _ => return None,
        };
        let (number, text) = match flags & HAS_TEXT {
            0 => (f64::from_le_bytes(self.fixed()?), None),
            _ => (f64::NAN, Some(self.text()?)),
        };
        let has_time = flags & HAS_TIME != 0;
        let event_timestamp = if has_time { Some(i64::from_le_bytes(self.fixed()?)) } else { None };
        Some(RecordValue { number, text, origin, status, event_timestamp })
    }

    /// A count and so many items, each of a byte at least.
    fn many<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(self.count()?).ok().filter(|count| *count <= self.0.len())?;
        (0..count).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> LogRecord {
        let value = |number: f64, text: Option<&str>, status| RecordValue {
            number,
            text: text.map(str::to_owned),
            origin: Origin::Store,
            status,
            event_timestamp: status.map(|_| -5),
        };
        let row = |id: &str| RecordRow {
            prediction_id: id.to_owned(),
            keys: vec![Some("ü".to_owned()), None],
            values: vec![value(0.1, None, Some(FeatureStatus::Present)), value(1e300, None, None)],
            prediction: vec![0.5, -0.0],
        };
        LogRecord {
            sent_at: -1,
            route: "r".to_owned(),
            model: "m".to_owned(),
            version: 300,
            role: Role::Variant,
            experiment: Some("e".to_owned()),
            registry_version: 7,
            latency_us: 70_000,
            keys: vec!["a".to_owned(), "b".to_owned()],
            inputs: ["x".to_owned(), "y".to_owned()].into(),
            rows: vec![row("1"), row("2")],
        }
    }

    #[test]
    fn records_round_trip() {
        let (record, others) = (record(), ["x".to_owned(), "z".to_owned()].into());
        for inputs in [&Arc::default(), &record.inputs, &others] {
            assert_eq!(decode(&encode(&record), inputs), Some(record.clone()));
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = encode(&record());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes, &record().inputs);
            prop_assert_eq!(decode(&encode(&record())[..cut.index(bytes.len())], &Arc::default()), None);
        }
    }
}
