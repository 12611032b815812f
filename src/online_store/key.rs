//! Codec of stored keys: bytes whose order is the order of what they stand for.
//!
//! ```text
//! version key = view (u32 BE) | key part, key part, … | event timestamp (8) | created timestamp (8)
//!               └───────────── prefix ──────────────┘   └───── inverted: newest first ────────┘
//!
//! bool                  1 byte, 0 or 1
//! int32, date           4 bytes BE, sign bit flipped
//! int64, timestamp      8 bytes BE, sign bit flipped
//! string, bytes         each 0x00 as 0x00 0xFF, then 0x00 0x00
//! timestamps of a row   8 bytes BE, all bits flipped but the sign; a missing created timestamp is the lowest one
//! ```
//!
//! Each part ends by itself, so no two composite keys have the same bytes and no prefix begins another one's.
//! Newest first lets a read seek forward to its answer, and lets compaction see the version that supersedes
//! before the versions it supersedes.

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};

use super::error::{DecodeError, EncodeError, OnlineStoreError};
use crate::definition::ValueType;
use crate::time::EventTimestamp;

/// The number that stands for a view in stored keys; `u32::MAX` is never one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId(pub u32);

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of the two timestamps at the end of a version key.
pub const VERSION_SUFFIX_LEN: usize = 16;

const VIEW_LEN: usize = 4;
const SIGN: u64 = 1 << 63;

/// Encodes the join keys of one view.
#[derive(Debug, Clone)]
pub struct KeyEncoder {
    view: ViewId,
    key_types: Vec<ValueType>,
}

impl KeyEncoder {
    /// # Errors
    /// [`EncodeError::NotAJoinKey`].
    pub fn new(view: ViewId, key_types: &[ValueType]) -> Result<Self, EncodeError> {
        match key_types.iter().find(|key_type| !key_type.is_join_key()) {
            Some(key_type) => Err(EncodeError::NotAJoinKey { value_type: key_type.clone() }),
            None => Ok(KeyEncoder { view, key_types: key_types.to_vec() }),
        }
    }

    /// Encodes `rows` keys from one array for each key part, of the declared types.
    ///
    /// A row with a null in any part is a null key. Without parts every row is the one key of the view.
    ///
    /// # Errors
    /// [`EncodeError`] if the columns are not as declared.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<EncodedKeys, EncodeError> {
        if columns.len() != self.key_types.len() {
            return Err(EncodeError::ColumnCount { expected: self.key_types.len(), found: columns.len() });
        }
        let columns = self.key_types.iter().zip(columns).enumerate();
        let parts: Vec<PartColumn> =
            columns.map(|(i, (ty, column))| PartColumn::bind(i, ty, column, rows)).collect::<Result<_, _>>()?;
        let view = self.view.0.to_be_bytes();
        let mut keys = EncodedKeys { bytes: Vec::with_capacity(rows * 16), ends: Vec::with_capacity(rows) };
        for row in 0..rows {
            if parts.iter().all(|part| part.nulls.is_none_or(|nulls| nulls.is_valid(row))) {
                keys.bytes.extend_from_slice(&view);
                parts.iter().for_each(|part| part.values.encode(row, &mut keys.bytes));
            }
            keys.ends.push(keys.bytes.len());
        }
        Ok(keys)
    }

    /// The parts of an encoded key.
    ///
    /// # Errors
    /// [`DecodeError::Key`] if `prefix` is not a key of this view with these parts.
    pub fn decode_parts(&self, prefix: &[u8]) -> Result<Vec<KeyPart>, DecodeError> {
        let mut rest = prefix.strip_prefix(&self.view.0.to_be_bytes()).ok_or(DecodeError::Key)?;
        let parts: Option<Vec<KeyPart>> = self.key_types.iter().map(|ty| KeyPart::decode(ty, &mut rest)).collect();
        parts.filter(|_| rest.is_empty()).ok_or(DecodeError::Key)
    }
}

/// Encoded keys of many rows, one after the other in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedKeys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl EncodedKeys {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key of a row, without timestamps; None if it is null.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        // Every key begins with its view, so only a null key takes no bytes.
        Some(&self.bytes[start..self.ends[row]]).filter(|key| !key.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// The keys of some rows, in this order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn select(&self, rows: impl Iterator<Item = usize>) -> EncodedKeys {
        let mut selected = EncodedKeys::default();
        for row in rows {
            selected.bytes.extend_from_slice(self.get(row).unwrap_or_default());
            selected.ends.push(selected.bytes.len());
        }
        selected
    }
}

/// Appends the key of one version to `out`.
///
/// A created timestamp at [`EventTimestamp::ALWAYS`] is the same as none.
pub fn version_key(
    prefix: &[u8],
    event_timestamp: EventTimestamp,
    created_timestamp: Option<EventTimestamp>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&encode_newest_first(event_timestamp));
    out.extend_from_slice(&encode_newest_first(created_timestamp.unwrap_or(EventTimestamp::ALWAYS)));
}

/// Appends the key at or after which the newest version with `event timestamp <= now` stands, to `out`.
pub fn seek_key(prefix: &[u8], now: EventTimestamp, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&encode_newest_first(now));
    out.extend_from_slice(&[0; 8]);
}

/// The parts of a version key: prefix, event timestamp, created timestamp. None if it is too short to be one.
pub fn split_version_key(key: &[u8]) -> Option<(&[u8], EventTimestamp, Option<EventTimestamp>)> {
    let (key, created_timestamp) = key.split_last_chunk::<8>()?;
    let (prefix, event_timestamp) = key.split_last_chunk::<8>()?;
    let created_timestamp = decode_newest_first(*created_timestamp);
    (prefix.len() >= VIEW_LEN).then_some((
        prefix,
        decode_newest_first(*event_timestamp),
        Some(created_timestamp).filter(|created| *created != EventTimestamp::ALWAYS),
    ))
}

/// The view of a stored key; None if it is too short to have one.
pub(super) fn view_of(key: &[u8]) -> Option<ViewId> {
    key.first_chunk::<VIEW_LEN>().map(|bytes| ViewId(u32::from_be_bytes(*bytes)))
}

/// The bytes every key of the view begins with, and the bytes no key of it and of any view before it reaches.
pub(super) fn view_range(view: ViewId) -> ([u8; VIEW_LEN], [u8; VIEW_LEN]) {
    (view.0.to_be_bytes(), view.0.saturating_add(1).to_be_bytes())
}

/// Checks the keys of a bulk write one after the other.
#[derive(Debug)]
pub(super) struct KeyOrder {
    view: ViewId,
    previous: Vec<u8>,
    rows: u64,
}

impl KeyOrder {
    /// # Errors
    /// [`OnlineStoreError::ReservedView`].
    pub(super) fn new(view: ViewId) -> Result<Self, OnlineStoreError> {
        if view == ViewId(u32::MAX) {
            return Err(OnlineStoreError::ReservedView { view });
        }
        Ok(KeyOrder { view, previous: Vec::new(), rows: 0 })
    }

    /// Checks that `key` is a version key of the view and greater than the one before.
    pub(super) fn check(&mut self, key: &[u8]) -> Result<(), OnlineStoreError> {
        if key.len() < VIEW_LEN + VERSION_SUFFIX_LEN || view_of(key) != Some(self.view) {
            return Err(OnlineStoreError::ForeignKey { view: self.view });
        }
        if key <= self.previous.as_slice() {
            return Err(OnlineStoreError::UnsortedKeys { view: self.view, rows: self.rows });
        }
        self.previous.clear();
        self.previous.extend_from_slice(key);
        self.rows += 1;
        Ok(())
    }
}

fn encode_newest_first(timestamp: EventTimestamp) -> [u8; 8] {
    (!(timestamp.micros() as u64 ^ SIGN)).to_be_bytes()
}

fn decode_newest_first(bytes: [u8; 8]) -> EventTimestamp {
    EventTimestamp::from_micros((!u64::from_be_bytes(bytes) ^ SIGN) as i64)
}

struct PartColumn<'a> {
    values: PartValues<'a>,
    nulls: Option<&'a NullBuffer>,
}

enum PartValues<'a> {
    Bool(&'a BooleanArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
}

impl<'a> PartColumn<'a> {
    fn bind(index: usize, key_type: &ValueType, array: &'a ArrayRef, rows: usize) -> Result<Self, EncodeError> {
        let column = || format!("{} of the key", index + 1);
        let values = PartValues::bind(key_type, array).ok_or_else(|| EncodeError::ColumnType {
            column: column(),
            expected: key_type.clone(),
            found: array.data_type().clone(),
        })?;
        if array.len() != rows {
            return Err(EncodeError::ColumnLength { column: column(), expected: rows, found: array.len() });
        }
        Ok(PartColumn { values, nulls: array.nulls() })
    }
}

impl<'a> PartValues<'a> {
    fn bind(key_type: &ValueType, array: &'a ArrayRef) -> Option<Self> {
        Some(match (key_type, array.data_type()) {
            (ValueType::Bool, DataType::Boolean) => PartValues::Bool(array.as_boolean()),
            (ValueType::Int32, DataType::Int32) => PartValues::Int32(array.as_primitive::<Int32Type>().values()),
            (ValueType::Date, DataType::Date32) => PartValues::Int32(array.as_primitive::<Date32Type>().values()),
            (ValueType::Int64, DataType::Int64) => PartValues::Int64(array.as_primitive::<Int64Type>().values()),
            (ValueType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                PartValues::Int64(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            (ValueType::String, DataType::Utf8) => PartValues::String(array.as_string()),
            (ValueType::Bytes, DataType::Binary) => PartValues::Bytes(array.as_binary()),
            _ => return None,
        })
    }

    fn encode(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            PartValues::Bool(values) => out.push(u8::from(values.value(row))),
            PartValues::Int32(values) => out.extend_from_slice(&(values[row] as u32 ^ (1 << 31)).to_be_bytes()),
            PartValues::Int64(values) => out.extend_from_slice(&(values[row] as u64 ^ SIGN).to_be_bytes()),
            PartValues::String(values) => escape(values.value(row).as_bytes(), out),
            PartValues::Bytes(values) => escape(values.value(row), out),
        }
    }
}

fn escape(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&bytes[..=zero]);
        out.push(0xFF);
        bytes = &bytes[zero + 1..];
    }
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0, 0]);
}

fn unescape(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        bytes.extend_from_slice(&rest[..zero]);
        let escaped = *rest.get(zero + 1)?;
        *rest = &rest[zero + 2..];
        match escaped {
            0x00 => return Some(bytes),
            0xFF => bytes.push(0),
            _ => return None,
        }
    }
}

/// One decoded part of a key. Parts of one type order as their encodings do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    String(String),
    Bytes(Vec<u8>),
    Timestamp(EventTimestamp),
    /// Days since the Unix epoch.
    Date(i32),
}

impl KeyPart {
    /// Takes one part off the front of `rest`.
    fn decode(key_type: &ValueType, rest: &mut &[u8]) -> Option<KeyPart> {
        Some(match key_type {
            ValueType::Bool => KeyPart::Bool(match take::<1>(rest)? {
                [0] => false,
                [1] => true,
                _ => return None,
            }),
            ValueType::Int32 => KeyPart::Int32(take_i32(rest)?),
            ValueType::Date => KeyPart::Date(take_i32(rest)?),
            ValueType::Int64 => KeyPart::Int64(take_i64(rest)?),
            ValueType::Timestamp => KeyPart::Timestamp(EventTimestamp::from_micros(take_i64(rest)?)),
            ValueType::String => KeyPart::String(String::from_utf8(unescape(rest)?).ok()?),
            ValueType::Bytes => KeyPart::Bytes(unescape(rest)?),
            ValueType::Float32 | ValueType::Float64 | ValueType::List(_) | ValueType::Map(..) => return None,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*bytes)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    take(rest).map(|bytes| (u32::from_be_bytes(bytes) ^ (1 << 31)) as i32)
}

fn take_i64(rest: &mut &[u8]) -> Option<i64> {
    take(rest).map(|bytes| (u64::from_be_bytes(bytes) ^ SIGN) as i64)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::sync::Arc;

    use arrow::array::{Date32Array, Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    const VIEW: ViewId = ViewId(0x0102_0304);

    /// Bytes that are near the ones with a meaning in the encoding.
    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0x00), Just(0x01), Just(0xFE), Just(0xFF), any::<u8>()], 0..5)
    }

    fn tricky_string() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{10FFFF}'), any::<char>()], 0..4)
            .prop_map(|chars| chars.into_iter().collect())
    }

    fn part(key_type: &ValueType) -> BoxedStrategy<KeyPart> {
        let int32 = || prop_oneof![Just(i32::MIN), Just(i32::MAX), -2..2, any::<i32>()];
        let int64 = || prop_oneof![Just(i64::MIN), Just(i64::MAX), -2i64..2, any::<i64>()];
        match key_type {
            ValueType::Bool => any::<bool>().prop_map(KeyPart::Bool).boxed(),
            ValueType::Int32 => int32().prop_map(KeyPart::Int32).boxed(),
            ValueType::Int64 => int64().prop_map(KeyPart::Int64).boxed(),
            ValueType::String => tricky_string().prop_map(KeyPart::String).boxed(),
            ValueType::Bytes => tricky_bytes().prop_map(KeyPart::Bytes).boxed(),
            ValueType::Timestamp => int64().prop_map(|t| KeyPart::Timestamp(EventTimestamp::from_micros(t))).boxed(),
            ValueType::Date => int32().prop_map(KeyPart::Date).boxed(),
            other => unreachable!("{other} is not a key type"),
        }
    }

    fn key_types() -> impl Strategy<Value = Vec<ValueType>> {
        let key_types = ["bool", "int32", "int64", "string", "bytes", "timestamp", "date"];
        let key_type = prop::sample::select(key_types.to_vec()).prop_map(|name| name.parse().unwrap());
        prop::collection::vec(key_type, 0..4)
    }

    fn timestamp() -> impl Strategy<Value = EventTimestamp> {
        let micros = prop_oneof![Just(i64::MIN), Just(i64::MAX), -2i64..2, any::<i64>()];
        micros.prop_map(EventTimestamp::from_micros)
    }

    fn created() -> impl Strategy<Value = Option<EventTimestamp>> {
        prop::option::of(timestamp()).prop_map(|created| created.filter(|created| *created != EventTimestamp::ALWAYS))
    }

    type Version = (Vec<KeyPart>, EventTimestamp, Option<EventTimestamp>);

    fn two_versions() -> impl Strategy<Value = (Vec<ValueType>, Version, Version)> {
        key_types().prop_flat_map(|key_types| {
            let version = || (key_types.iter().map(part).collect::<Vec<_>>(), timestamp(), created());
            (Just(key_types.clone()), version(), version())
        })
    }

    fn array(part: &KeyPart) -> ArrayRef {
        match part {
            KeyPart::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
            KeyPart::Int32(value) => Arc::new(Int32Array::from(vec![*value])),
            KeyPart::Int64(value) => Arc::new(Int64Array::from(vec![*value])),
            KeyPart::String(value) => Arc::new(StringArray::from(vec![value.as_str()])),
            KeyPart::Bytes(value) => Arc::new(BinaryArray::from(vec![value.as_slice()])),
            KeyPart::Timestamp(value) => {
                Arc::new(TimestampMicrosecondArray::from(vec![value.micros()]).with_timezone("UTC"))
            }
            KeyPart::Date(value) => Arc::new(Date32Array::from(vec![*value])),
        }
    }

    fn encode_prefix(key_types: &[ValueType], parts: &[KeyPart]) -> Vec<u8> {
        let columns: Vec<ArrayRef> = parts.iter().map(array).collect();
        let keys = KeyEncoder::new(VIEW, key_types).unwrap().encode(&columns, 1).unwrap();
        keys.get(0).unwrap().to_vec()
    }

    fn encode_version(key_types: &[ValueType], (parts, event, created): &Version) -> Vec<u8> {
        let mut key = Vec::new();
        version_key(&encode_prefix(key_types, parts), *event, *created, &mut key);
        key
    }

    proptest! {
        #[test]
        fn encoded_order_is_logical_order((key_types, a, b) in two_versions()) {
            let logical = |(parts, event, created): &Version| (parts.clone(), Reverse(*event), Reverse(*created));
            let encoded = encode_version(&key_types, &a).cmp(&encode_version(&key_types, &b));
            prop_assert_eq!(encoded, logical(&a).cmp(&logical(&b)));
        }

        #[test]
        fn no_key_begins_another((key_types, a, b) in two_versions()) {
            let (a_bytes, b_bytes) = (encode_prefix(&key_types, &a.0), encode_prefix(&key_types, &b.0));
            prop_assert_eq!(a.0 == b.0, a_bytes.starts_with(&b_bytes));
        }

        #[test]
        fn versions_round_trip((key_types, version, _) in two_versions()) {
            let key = encode_version(&key_types, &version);
            let (prefix, event, created) = split_version_key(&key).unwrap();
            let parts = KeyEncoder::new(VIEW, &key_types).unwrap().decode_parts(prefix).unwrap();
            prop_assert_eq!((parts, event, created), version);
        }

        #[test]
        fn a_seek_comes_to_the_versions_that_hold((key_types, version, _) in two_versions(), now in timestamp()) {
            let mut seek = Vec::new();
            seek_key(&encode_prefix(&key_types, &version.0), now, &mut seek);
            prop_assert_eq!(seek <= encode_version(&key_types, &version), version.1 <= now);
        }

        #[test]
        fn damaged_keys_are_refused_or_read(key_types in key_types(), bytes in tricky_bytes()) {
            let key = [&VIEW.0.to_be_bytes()[..], &bytes].concat();
            let keys = KeyEncoder::new(VIEW, &key_types).unwrap();
            if let Ok(parts) = keys.decode_parts(&key) {
                prop_assert_eq!(encode_prefix(&key_types, &parts), key);
            }
            let _ = split_version_key(&bytes);
        }
    }

    #[test]
    fn composite_keys_do_not_run_into_each_other() {
        let strings = [ValueType::String, ValueType::String];
        let encode =
            |a: &str, b: &str| encode_prefix(&strings, &[KeyPart::String(a.to_owned()), KeyPart::String(b.to_owned())]);
        assert_ne!(encode("a", "bc"), encode("ab", "c"));
        assert_ne!(encode("", "a"), encode("a", ""));
        assert_ne!(encode("a\0", "b"), encode("a", "\0b"));
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let parts = [KeyPart::Int32(-1), KeyPart::String("a\0b".to_owned())];
        let version = (parts.to_vec(), EventTimestamp::from_micros(0), None);
        let key = encode_version(&[ValueType::Int32, ValueType::String], &version);
        let parts = [0x01, 0x02, 0x03, 0x04, 0x7F, 0xFF, 0xFF, 0xFF, b'a', 0x00, 0xFF, b'b', 0x00, 0x00];
        let timestamps =
            [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        assert_eq!(key, [&parts[..], &timestamps].concat());
    }

    #[test]
    fn a_null_in_any_part_makes_a_null_key() {
        let keys = KeyEncoder::new(VIEW, &[ValueType::Int64, ValueType::String]).unwrap();
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)])),
            Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("")])),
        ];
        let encoded = keys.encode(&columns, 4).unwrap();
        assert_eq!(encoded.iter().map(|key| key.is_some()).collect::<Vec<_>>(), [true, false, false, true]);
        let sliced = columns.map(|column| column.slice(3, 1));
        assert_eq!(keys.encode(&sliced, 1).unwrap().get(0), encoded.get(3));
    }

    #[test]
    fn columns_that_are_not_as_declared_are_refused() {
        let keys = KeyEncoder::new(VIEW, &[ValueType::Int64]).unwrap();
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        assert!(matches!(keys.encode(&[floats], 1), Err(EncodeError::ColumnType { .. })));
        assert!(matches!(
            keys.encode(std::slice::from_ref(&ints), 2),
            Err(EncodeError::ColumnLength { expected: 2, found: 1, .. })
        ));
        assert!(matches!(keys.encode(&[ints.clone(), ints], 1), Err(EncodeError::ColumnCount { .. })));
        assert!(matches!(KeyEncoder::new(VIEW, &[ValueType::Float64]), Err(EncodeError::NotAJoinKey { .. })));
    }
}
