//! Online answers written as bytes of `GetOnlineFeaturesResponse`, column by column, straight out of where the values
//! stand: no message is made that would only be encoded.
//!
//! Fields are written in the order of their numbers, and left out where `proto/asof/v1` says they are empty, so the
//! bytes are those that an encoder of the messages writes.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use bytes::Bytes;
use prost::Message;

use super::columns::{encode_column, encode_instants, encode_statuses, encode_validity, value_type_of};
use crate::definition::ValueType;
use crate::point_in_time_join::{FeatureStatus, RowStatus};
use crate::retrieval::{AnswerRef, OnlineAnswer, OnlineRequest, StatusesRef};

const VARINT: u8 = 0;
const LENGTH: u8 = 2;

/// The key of a field with a number below 16.
const fn tag(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

const RESPONSE_COLUMNS: u8 = tag(1, LENGTH);
const RESPONSE_REGISTRY_VERSION: u8 = tag(2, VARINT);
const COLUMN_NAME: u8 = tag(1, LENGTH);
const COLUMN_TYPE: u8 = tag(2, LENGTH);
const COLUMN_VALIDITY: u8 = tag(12, LENGTH);
const COLUMN_STATUSES: u8 = tag(13, LENGTH);
const COLUMN_EVENT_TIMESTAMPS: u8 = tag(14, LENGTH);
const COLUMN_EVENT_TIMESTAMPS_VALIDITY: u8 = tag(15, LENGTH);
/// Of each message of values.
const VALUES: u8 = tag(1, LENGTH);

/// The bytes of an answer: the entity columns as sent, then the features.
pub fn encode_online_answer(request: &OnlineRequest, answer: &OnlineAnswer, event_timestamps: bool) -> Vec<u8> {
    let schema = request.columns.schema();
    let sent = schema.fields().iter().zip(request.columns.columns()).take(request.entity_columns);
    let rows = request.columns.num_rows();
    let mut out = Vec::with_capacity(64 + answer.len() * (48 + rows * 10));
    for (field, array) in sent {
        put_column(&mut out, &Column::of_entity(field.name(), array));
    }
    for column in answer.columns() {
        put_column(&mut out, &Column::of_feature(&column, event_timestamps));
    }
    if answer.registry_version > 0 {
        out.push(RESPONSE_REGISTRY_VERSION);
        put_varint(&mut out, answer.registry_version);
    }
    out
}

/// A column and what of it is not the values.
struct Column<'a> {
    name: &'a str,
    type_name: Cow<'static, str>,
    array: &'a ArrayRef,
    nulls: Option<NullBuffer>,
    statuses: Option<StatusesRef<'a>>,
    event_timestamps: Vec<i64>,
    event_timestamps_validity: Bytes,
}

impl<'a> Column<'a> {
    fn of_entity(name: &'a str, array: &'a ArrayRef) -> Self {
        let type_name = value_type_of(array.data_type()).map(|value_type| type_name(&value_type));
        Column {
            name,
            type_name: type_name.unwrap_or_default(),
            array,
            nulls: array.logical_nulls().filter(|nulls| nulls.null_count() > 0),
            statuses: None,
            event_timestamps: Vec::new(),
            event_timestamps_validity: Bytes::new(),
        }
    }

    fn of_feature(column: &AnswerRef<'a>, event_timestamps: bool) -> Self {
        let instants = column.event_timestamps.filter(|_| event_timestamps);
        Column {
            name: column.name,
            type_name: type_name(column.value_type),
            array: column.values,
            nulls: column.values.logical_nulls().filter(|nulls| nulls.null_count() > 0),
            statuses: Some(column.statuses),
            event_timestamps: match (event_timestamps, instants) {
                (true, Some(instants)) => encode_instants(instants),
                (true, None) => vec![0; column.values.len()],
                (false, _) => Vec::new(),
            },
            event_timestamps_validity: match (event_timestamps, instants) {
                (true, Some(instants)) => encode_validity(instants.nulls()),
                (true, None) => encode_validity(Some(&NullBuffer::new_null(column.values.len()))),
                (false, _) => Bytes::new(),
            },
        }
    }
}

fn type_name(value_type: &ValueType) -> Cow<'static, str> {
    match value_type {
        ValueType::Bool => "bool".into(),
        ValueType::Int32 => "int32".into(),
        ValueType::Int64 => "int64".into(),
        ValueType::Float32 => "float32".into(),
        ValueType::Float64 => "float64".into(),
        ValueType::String => "string".into(),
        ValueType::Bytes => "bytes".into(),
        ValueType::Timestamp => "timestamp".into(),
        ValueType::Date => "date".into(),
        ValueType::List(_) | ValueType::Map(..) => value_type.to_string().into(),
    }
}

fn put_column(out: &mut Vec<u8>, column: &Column<'_>) {
    let rows = column.array.len();
    let values = Values::of(column.array);
    let validity = column.nulls.as_ref().map_or(0, |nulls| nulls.len().div_ceil(8));
    let instants = column.event_timestamps.len() * 8;
    let statuses = column.statuses.map_or(0, |_| rows);
    let lengths = [
        column.name.len(),
        column.type_name.len(),
        validity,
        statuses,
        instants,
        column.event_timestamps_validity.len(),
    ];
    out.push(RESPONSE_COLUMNS);
    put_varint(out, (lengths.into_iter().map(field_len).sum::<usize>() + values.field_len()) as u64);
    put_bytes(out, COLUMN_NAME, column.name.as_bytes());
    put_bytes(out, COLUMN_TYPE, column.type_name.as_bytes());
    values.put(out, column.nulls.as_ref());
    if validity > 0 {
        put_bytes(out, COLUMN_VALIDITY, &encode_validity(column.nulls.as_ref()));
    }
    if let Some(from) = column.statuses.filter(|_| rows > 0) {
        out.push(COLUMN_STATUSES);
        put_varint(out, rows as u64);
        put_statuses(out, from, column.nulls.as_ref());
    }
    if instants > 0 {
        out.push(COLUMN_EVENT_TIMESTAMPS);
        put_varint(out, instants as u64);
        column.event_timestamps.iter().for_each(|instant| out.extend_from_slice(&instant.to_le_bytes()));
    }
    put_bytes(out, COLUMN_EVENT_TIMESTAMPS_VALIDITY, &column.event_timestamps_validity);
}

/// One byte a row: the numbers of statuses are below 128.
fn put_statuses(out: &mut Vec<u8>, statuses: StatusesRef<'_>, nulls: Option<&NullBuffer>) {
    match (statuses, nulls) {
        (StatusesRef::Rows(rows), None) => out.extend(rows.iter().map(|status| match status {
            RowStatus::Found => FeatureStatus::Present as u8,
            RowStatus::NotFound => FeatureStatus::NotFound as u8,
            RowStatus::OutsideMaxAge => FeatureStatus::OutsideMaxAge as u8,
        })),
        (StatusesRef::Computed { rows }, None) => out.extend(std::iter::repeat_n(FeatureStatus::Present as u8, rows)),
        (statuses, nulls) => out.extend(encode_statuses(statuses, nulls).map(|status| status as u8)),
    }
}

/// The values of a column, and how long they are as a message.
enum Values<'a> {
    /// Of one width in bytes.
    Fixed {
        field: u8,
        width: usize,
        array: &'a ArrayRef,
    },
    Strings {
        array: &'a ArrayRef,
        len: usize,
    },
    Bytes {
        array: &'a ArrayRef,
        len: usize,
    },
    /// The whole field, encoded.
    Nested(Vec<u8>),
}

impl<'a> Values<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        let fixed = |field: u8, width: usize| Values::Fixed { field, width, array };
        match array.data_type() {
            DataType::Boolean => fixed(3, 1),
            DataType::Int32 | DataType::Date32 => fixed(4, 4),
            DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => fixed(5, 8),
            DataType::Float32 => fixed(6, 4),
            DataType::Float64 => fixed(7, 8),
            DataType::Utf8 => {
                let texts = array.as_string::<i32>();
                let len = |row: usize| if texts.is_valid(row) { texts.value(row).len() } else { 0 };
                Values::Strings { array, len: (0..texts.len()).map(|row| item_len(len(row))).sum() }
            }
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                let len = |row: usize| if values.is_valid(row) { values.value(row).len() } else { 0 };
                Values::Bytes { array, len: (0..values.len()).map(|row| item_len(len(row))).sum() }
            }
            _ => {
                let values = super::pb::Column { values: encode_column("", array).values, ..Default::default() };
                Values::Nested(values.encode_to_vec())
            }
        }
    }

    /// Bytes of the message that holds the values.
    fn message_len(&self) -> usize {
        match self {
            Values::Fixed { width, array, .. } => field_len(array.len() * width),
            Values::Strings { len, .. } | Values::Bytes { len, .. } => *len,
            Values::Nested(field) => field.len(),
        }
    }

    /// Bytes of the column's field, which is there however empty it is.
    fn field_len(&self) -> usize {
        match self {
            Values::Nested(field) => field.len(),
            _ => item_len(self.message_len()),
        }
    }

    fn put(&self, out: &mut Vec<u8>, nulls: Option<&NullBuffer>) {
        let (field, array) = match self {
            Values::Nested(field) => return out.extend_from_slice(field),
            Values::Fixed { field, array, .. } => (*field, array),
            Values::Strings { array, .. } => (8, array),
            Values::Bytes { array, .. } => (9, array),
        };
        out.push(tag(field, LENGTH));
        put_varint(out, self.message_len() as u64);
        if let Values::Fixed { width, .. } = self {
            if array.is_empty() {
                return;
            }
            out.push(VALUES);
            put_varint(out, (array.len() * width) as u64);
        }
        match array.data_type() {
            DataType::Boolean => {
                let values = array.as_boolean();
                out.extend((0..values.len()).map(|row| u8::from(values.is_valid(row) && values.value(row))));
            }
            DataType::Int32 => put_numbers::<Int32Type, 4>(out, array, nulls, i32::to_le_bytes),
            DataType::Date32 => put_numbers::<Date32Type, 4>(out, array, nulls, i32::to_le_bytes),
            DataType::Int64 => put_numbers::<Int64Type, 8>(out, array, nulls, i64::to_le_bytes),
            DataType::Timestamp(..) => put_numbers::<TimestampMicrosecondType, 8>(out, array, nulls, i64::to_le_bytes),
            DataType::Float32 => put_numbers::<Float32Type, 4>(out, array, nulls, f32::to_le_bytes),
            DataType::Float64 => put_numbers::<Float64Type, 8>(out, array, nulls, f64::to_le_bytes),
            DataType::Utf8 => {
                array.as_string::<i32>().iter().for_each(|text| put_item(out, text.unwrap_or_default().as_bytes()));
            }
            _ => array.as_binary::<i32>().iter().for_each(|value| put_item(out, value.unwrap_or_default())),
        }
    }
}

/// Null rows hold zero.
fn put_numbers<T: ArrowPrimitiveType, const WIDTH: usize>(
    out: &mut Vec<u8>,
    array: &ArrayRef,
    nulls: Option<&NullBuffer>,
    bytes: impl Fn(T::Native) -> [u8; WIDTH],
) {
    let values = array.as_primitive::<T>().values();
    match nulls {
        None => values.iter().for_each(|value| out.extend_from_slice(&bytes(*value))),
        Some(nulls) => values.iter().enumerate().for_each(|(row, value)| {
            let value = if nulls.is_valid(row) { *value } else { T::Native::default() };
            out.extend_from_slice(&bytes(value));
        }),
    }
}

/// An item of a repeated field, which is there however empty it is.
fn put_item(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(VALUES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn item_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// A field that is left out where it is empty.
fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn field_len(len: usize) -> usize {
    if len == 0 { 0 } else { item_len(len) }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray, new_null_array,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::point_in_time_join::{JoinedView, feature_statuses};
    use crate::retrieval::AnswerColumn;
    use crate::serving::columns::encode_answer;
    use crate::serving::pb::GetOnlineFeaturesResponse;

    /// An array of each type, with these numbers as its values.
    fn arrays(values: &[Option<i64>]) -> Vec<ArrayRef> {
        let numbers = || values.iter().copied();
        let texts: Vec<Option<String>> =
            numbers().map(|n| n.map(|n| "ü".repeat(n.unsigned_abs() as usize % 200))).collect();
        let mut lists = ListBuilder::new(Int64Builder::new());
        let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for value in values {
            if let Some(number) = value {
                lists.values().append_option((number % 2 == 0).then_some(*number));
                maps.keys().append_value("k");
                maps.values().append_value(*number);
            }
            lists.append(value.is_some());
            maps.append(value.is_some()).unwrap();
        }
        vec![
            Arc::new(numbers().map(|n| n.map(|n| n % 2 == 0)).collect::<BooleanArray>()),
            Arc::new(numbers().map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
            Arc::new(numbers().map(|n| n.map(|n| n as i32)).collect::<Date32Array>()),
            Arc::new(numbers().collect::<Int64Array>()),
            Arc::new(numbers().collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            Arc::new(numbers().map(|n| n.map(|n| n as f32)).collect::<Float32Array>()),
            Arc::new(numbers().map(|n| n.map(|n| n as f64)).collect::<Float64Array>()),
            Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref))),
            Arc::new(BinaryArray::from_iter(texts.iter().map(|text| text.as_deref().map(str::as_bytes)))),
            Arc::new(lists.finish()),
            Arc::new(maps.finish()),
        ]
    }

    fn decoded(column: &Column<'_>) -> crate::serving::pb::Column {
        let mut out = Vec::new();
        put_column(&mut out, column);
        let response = GetOnlineFeaturesResponse::decode(out.as_slice()).unwrap();
        // Nothing is left over, and nothing is written otherwise than an encoder of the messages does.
        assert_eq!(response.encode_to_vec(), out);
        response.columns.into_iter().next().unwrap()
    }

    fn row_status() -> impl Strategy<Value = RowStatus> {
        prop_oneof![4 => Just(RowStatus::Found), 1 => Just(RowStatus::NotFound), 1 => Just(RowStatus::OutsideMaxAge)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn columns_are_written_as_an_encoder_of_the_messages_writes_them(
            rows in prop::collection::vec((prop::option::weighted(0.8, any::<i64>()), row_status()), 0..40),
            with_nulls in any::<bool>(),
            event_timestamps in any::<bool>(),
        ) {
            let values: Vec<Option<i64>> =
                rows.iter().map(|(value, _)| if with_nulls { *value } else { value.or(Some(7)) }).collect();
            let statuses: Vec<RowStatus> = rows.iter().map(|(_, status)| *status).collect();
            let instants: TimestampMicrosecondArray =
                values.iter().copied().collect::<TimestampMicrosecondArray>().with_timezone("UTC");
            for array in arrays(&values) {
                prop_assert_eq!(decoded(&Column::of_entity("key", &array)), encode_column("key", &array));
                let value_type = value_type_of(array.data_type()).unwrap();
                let joined = JoinedView {
                    features: vec![array.clone()],
                    statuses: statuses.clone(),
                    event_timestamps: instants.clone(),
                };
                let expected = AnswerColumn {
                    name: "f".to_owned(),
                    value_type: value_type.clone(),
                    values: array.clone(),
                    statuses: feature_statuses(&joined, 0),
                    event_timestamps: instants.clone(),
                };
                let column = AnswerRef {
                    name: "f",
                    value_type: &value_type,
                    values: &array,
                    statuses: StatusesRef::Rows(&statuses),
                    event_timestamps: Some(&instants),
                };
                let found = decoded(&Column::of_feature(&column, event_timestamps));
                prop_assert_eq!(found, encode_answer(&expected, event_timestamps));
            }
        }
    }

    #[test]
    fn a_computed_column_has_no_times() {
        let array: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
        let column = AnswerRef {
            name: "f",
            value_type: &ValueType::Float64,
            values: &array,
            statuses: StatusesRef::Computed { rows: 2 },
            event_timestamps: None,
        };
        let found = decoded(&Column::of_feature(&column, true));
        assert_eq!(found.statuses, [FeatureStatus::Present as i32, FeatureStatus::NullValue as i32]);
        assert_eq!((found.event_timestamps, found.event_timestamps_validity), (vec![0, 0], vec![0].into()));
        let nulls = new_null_array(&DataType::Float64, 2);
        assert_eq!(decoded(&Column::of_entity("k", &nulls)), encode_column("k", &nulls));
    }
}
