//! Packed columns of the wire and Arrow arrays, both ways.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array,
    ListArray, MapArray, PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use bytes::Bytes;

use super::pb::{self, column::Values};
use crate::definition::ValueType;
use crate::point_in_time_join::{FeatureStatus, RowStatus};
use crate::retrieval::{AnswerColumn, StatusesRef};

/// What is wrong with a column that a caller sent.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    #[error("column `{column}` has no values; set one of the kinds of values")]
    NoValues { column: String },
    #[error("column `{column}` is said to be {declared}, and its values are another kind")]
    Kind { column: String, declared: String },
    #[error("column `{column}` has {rows} rows, and its validity covers {covered}")]
    Validity { column: String, rows: usize, covered: usize },
    #[error("column `{column}`: the lengths of its rows add up to {lengths}, and it has {items} items")]
    Lengths { column: String, lengths: u64, items: usize },
    #[error("column `{column}`: {problem}")]
    Values { column: String, problem: String },
}

/// An answered feature with its statuses and, where asked for, event timestamps.
pub fn encode_answer(column: &AnswerColumn, event_timestamps: bool) -> pb::Column {
    let mut encoded = encode_column(&column.name, &column.values);
    encoded.r#type = column.value_type.to_string();
    encoded.statuses = column.statuses.iter().map(|status| *status as i32).collect();
    if event_timestamps {
        encoded.event_timestamps = encode_instants(&column.event_timestamps);
        encoded.event_timestamps_validity = encode_validity(column.event_timestamps.nulls());
    }
    encoded
}

/// Null rows hold zero.
pub(super) fn encode_instants(instants: &TimestampMicrosecondArray) -> Vec<i64> {
    (0..instants.len()).map(|row| if instants.is_valid(row) { instants.value(row) } else { 0 }).collect()
}

/// The status of each row of a column with these nulls.
pub(super) fn encode_statuses<'a>(
    statuses: StatusesRef<'a>,
    nulls: Option<&'a NullBuffer>,
) -> impl Iterator<Item = FeatureStatus> + 'a {
    let rows = match statuses {
        StatusesRef::Rows(rows) => rows.len(),
        StatusesRef::Computed { rows } => rows,
    };
    (0..rows).map(move |row| {
        let is_null = nulls.is_some_and(|nulls| nulls.is_null(row));
        match statuses {
            StatusesRef::Rows(rows) if rows[row] == RowStatus::NotFound => FeatureStatus::NotFound,
            StatusesRef::Rows(rows) if rows[row] == RowStatus::OutsideMaxAge => FeatureStatus::OutsideMaxAge,
            _ if is_null => FeatureStatus::NullValue,
            _ => FeatureStatus::Present,
        }
    })
}

/// A column of one of the types of [`ValueType`]; any other type gives a column without values.
pub fn encode_column(name: &str, array: &ArrayRef) -> pb::Column {
    let values = encode_values(array);
    let value_type = value_type_of(array.data_type()).map(|value_type| value_type.to_string());
    pb::Column {
        name: name.to_owned(),
        r#type: value_type.unwrap_or_default(),
        values,
        validity: encode_validity(array.logical_nulls().as_ref()),
        ..pb::Column::default()
    }
}

/// The declared type that an Arrow type stands for.
pub fn value_type_of(data_type: &DataType) -> Option<ValueType> {
    Some(match data_type {
        DataType::Boolean => ValueType::Bool,
        DataType::Int32 => ValueType::Int32,
        DataType::Int64 => ValueType::Int64,
        DataType::Float32 => ValueType::Float32,
        DataType::Float64 => ValueType::Float64,
        DataType::Utf8 => ValueType::String,
        DataType::Binary => ValueType::Bytes,
        DataType::Timestamp(TimeUnit::Microsecond, _) => ValueType::Timestamp,
        DataType::Date32 => ValueType::Date,
        DataType::List(item) => ValueType::list_of(value_type_of(item.data_type())?),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => ValueType::Map(
                Box::new(value_type_of(fields[0].data_type())?),
                Box::new(value_type_of(fields[1].data_type())?),
            ),
            _ => return None,
        },
        _ => return None,
    })
}

fn encode_values(array: &ArrayRef) -> Option<Values> {
    Some(match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            let values = (0..values.len()).map(|row| values.is_valid(row) && values.value(row)).collect();
            Values::Bools(pb::BoolValues { values })
        }
        DataType::Int32 => Values::Int32s(pb::Int32Values { values: numbers::<Int32Type>(array) }),
        DataType::Date32 => Values::Int32s(pb::Int32Values { values: numbers::<Date32Type>(array) }),
        DataType::Int64 => Values::Int64s(pb::Int64Values { values: numbers::<Int64Type>(array) }),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Values::Int64s(pb::Int64Values { values: numbers::<TimestampMicrosecondType>(array) })
        }
        DataType::Float32 => Values::Floats(pb::FloatValues { values: numbers::<Float32Type>(array) }),
        DataType::Float64 => Values::Doubles(pb::DoubleValues { values: numbers::<Float64Type>(array) }),
        // The wire has no such numbers, and texts stand for any type.
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>().iter();
            Values::Strings(pb::StringValues {
                values: values.map(|value| value.map(|number| number.to_string()).unwrap_or_default()).collect(),
            })
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>().iter().map(|value| value.unwrap_or_default().to_owned());
            Values::Strings(pb::StringValues { values: values.collect() })
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>().iter();
            let values = values.map(|value| Bytes::copy_from_slice(value.unwrap_or_default())).collect();
            Values::BytesValues(pb::BytesValues { values })
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (lengths, items) = encode_rows(list.offsets(), list.nulls(), list.values());
            Values::Lists(Box::new(pb::ListValues { lengths, items: Some(Box::new(encode_column("", &items))) }))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (lengths, keys) = encode_rows(map.offsets(), map.nulls(), map.keys());
            let (_, values) = encode_rows(map.offsets(), map.nulls(), map.values());
            Values::Maps(Box::new(pb::MapValues {
                lengths,
                keys: Some(Box::new(encode_column("", &keys))),
                values: Some(Box::new(encode_column("", &values))),
            }))
        }
        _ => return None,
    })
}

/// Null rows hold zero.
fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef) -> Vec<T::Native> {
    let array = array.as_primitive::<T>();
    match array.nulls() {
        None => array.values().to_vec(),
        Some(_) => array.iter().map(Option::unwrap_or_default).collect(),
    }
}

/// The length of each row, and the items of the rows that are not null, one after the other.
fn encode_rows(offsets: &OffsetBuffer<i32>, nulls: Option<&NullBuffer>, items: &ArrayRef) -> (Vec<u32>, ArrayRef) {
    let is_valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
    let lengths = offsets.lengths().enumerate().map(|(row, length)| if is_valid(row) { length as u32 } else { 0 });
    let hidden = offsets.lengths().enumerate().any(|(row, length)| length > 0 && !is_valid(row));
    let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
    let shown = if hidden {
        let kept = (0..offsets.len() - 1).filter(|row| is_valid(*row));
        let indices = kept.flat_map(|row| offsets[row]..offsets[row + 1]);
        let indices = Int32Array::from_iter_values(indices);
        arrow::compute::take(items, &indices, None).expect("offsets of an array lie in its items")
    } else {
        items.slice(first, last - first)
    };
    (lengths.collect(), shown)
}

pub(super) fn encode_validity(nulls: Option<&NullBuffer>) -> Bytes {
    match nulls {
        Some(nulls) if nulls.null_count() > 0 => {
            let bits: BooleanBuffer = nulls.iter().collect();
            Bytes::copy_from_slice(&bits.values()[..bits.len().div_ceil(8)])
        }
        _ => Bytes::new(),
    }
}

/// The array that a column of a request holds.
///
/// # Errors
/// [`ColumnError`]: a column without values, or whose parts do not fit together.
pub fn decode_column(column: &pb::Column) -> Result<ArrayRef, ColumnError> {
    let name = || column.name.clone();
    let Some(values) = &column.values else { return Err(ColumnError::NoValues { column: name() }) };
    let kind = || ColumnError::Kind { column: name(), declared: column.r#type.clone() };
    let declared: Option<ValueType> = match column.r#type.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| kind())?),
    };
    let rows = row_count(values);
    let nulls = decode_validity(column, rows)?;
    let is = |allowed: &[ValueType]| declared.as_ref().is_none_or(|declared| allowed.contains(declared));
    let array: ArrayRef = match values {
        Values::Bools(bools) if is(&[ValueType::Bool]) => {
            Arc::new(BooleanArray::new(bools.values.iter().copied().collect(), nulls))
        }
        Values::Int32s(ints) if declared == Some(ValueType::Date) => {
            Arc::new(Date32Array::new(ints.values.clone().into(), nulls))
        }
        Values::Int32s(ints) if is(&[ValueType::Int32]) => primitive::<Int32Type>(&ints.values, nulls),
        Values::Int64s(ints) if declared == Some(ValueType::Timestamp) => {
            Arc::new(TimestampMicrosecondArray::new(ints.values.clone().into(), nulls).with_timezone("UTC"))
        }
        Values::Int64s(ints) if is(&[ValueType::Int64]) => primitive::<Int64Type>(&ints.values, nulls),
        Values::Floats(floats) if is(&[ValueType::Float32]) => {
            Arc::new(Float32Array::new(floats.values.clone().into(), nulls))
        }
        Values::Doubles(doubles) if is(&[ValueType::Float64]) => {
            Arc::new(Float64Array::new(doubles.values.clone().into(), nulls))
        }
        Values::Strings(strings) if is(&[ValueType::String]) => {
            let texts = strings.values.iter().enumerate();
            Arc::new(texts.map(|(row, text)| valid(&nulls, row).then_some(text.as_str())).collect::<StringArray>())
        }
        Values::BytesValues(bytes) if is(&[ValueType::Bytes]) => {
            let values = bytes.values.iter().enumerate();
            Arc::new(values.map(|(row, value)| valid(&nulls, row).then_some(value.as_ref())).collect::<BinaryArray>())
        }
        Values::Lists(lists) => decode_lists(column, lists, nulls)?,
        Values::Maps(maps) => decode_maps(column, maps, nulls)?,
        _ => return Err(kind()),
    };
    match declared {
        Some(declared) if value_type_of(array.data_type()) != Some(declared.clone()) => Err(kind()),
        _ => Ok(array),
    }
}

fn primitive<T: ArrowPrimitiveType>(values: &[T::Native], nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.to_vec().into(), nulls))
}

fn valid(nulls: &Option<NullBuffer>, row: usize) -> bool {
    nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
}

/// How many rows the values are for.
pub fn row_count(values: &Values) -> usize {
    match values {
        Values::Bools(values) => values.values.len(),
        Values::Int32s(values) => values.values.len(),
        Values::Int64s(values) => values.values.len(),
        Values::Floats(values) => values.values.len(),
        Values::Doubles(values) => values.values.len(),
        Values::Strings(values) => values.values.len(),
        Values::BytesValues(values) => values.values.len(),
        Values::Lists(values) => values.lengths.len(),
        Values::Maps(values) => values.lengths.len(),
    }
}

fn decode_validity(column: &pb::Column, rows: usize) -> Result<Option<NullBuffer>, ColumnError> {
    if column.validity.is_empty() {
        return Ok(None);
    }
    if column.validity.len() != rows.div_ceil(8) {
        let covered = column.validity.len() * 8;
        return Err(ColumnError::Validity { column: column.name.clone(), rows, covered });
    }
    let bits = BooleanBuffer::new(Buffer::from(column.validity.to_vec()), 0, rows);
    Ok(Some(NullBuffer::new(bits)))
}

fn decode_lists(
    column: &pb::Column,
    lists: &pb::ListValues,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ColumnError> {
    let items = decode_items(column, lists.items.as_deref())?;
    let offsets = decode_offsets(column, &lists.lengths, items.len())?;
    let item = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    Ok(Arc::new(ListArray::try_new(item, offsets, items, nulls).map_err(|error| invalid(column, &error))?))
}

fn decode_maps(column: &pb::Column, maps: &pb::MapValues, nulls: Option<NullBuffer>) -> Result<ArrayRef, ColumnError> {
    let keys = decode_items(column, maps.keys.as_deref())?;
    let values = decode_items(column, maps.values.as_deref())?;
    let offsets = decode_offsets(column, &maps.lengths, keys.len())?;
    let fields = vec![
        Field::new("keys", keys.data_type().clone(), false),
        Field::new("values", values.data_type().clone(), true),
    ];
    let entries = StructArray::try_new(fields.into(), vec![keys, values], None).map_err(|e| invalid(column, &e))?;
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, false).map_err(|e| invalid(column, &e))?))
}

fn decode_items(column: &pb::Column, items: Option<&pb::Column>) -> Result<ArrayRef, ColumnError> {
    let items = items.ok_or_else(|| ColumnError::NoValues { column: column.name.clone() })?;
    decode_column(&pb::Column { name: column.name.clone(), ..items.clone() })
}

fn decode_offsets(column: &pb::Column, lengths: &[u32], items: usize) -> Result<OffsetBuffer<i32>, ColumnError> {
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    if total != items as u64 || i32::try_from(total).is_err() {
        return Err(ColumnError::Lengths { column: column.name.clone(), lengths: total, items });
    }
    Ok(OffsetBuffer::from_lengths(lengths.iter().map(|length| *length as usize)))
}

fn invalid(column: &pb::Column, error: &arrow::error::ArrowError) -> ColumnError {
    ColumnError::Values { column: column.name.clone(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};

    fn check(array: ArrayRef) {
        let encoded = encode_column("c", &array);
        assert_eq!(decode_column(&encoded).unwrap().as_ref(), array.as_ref());
    }

    #[test]
    fn every_type_round_trips_with_its_nulls() {
        check(Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])));
        check(Arc::new(Int32Array::from(vec![Some(i32::MIN), None])));
        check(Arc::new(Date32Array::from(vec![Some(-1), None])));
        check(Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some((1 << 53) + 1)])));
        check(Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]).with_timezone("UTC")));
        check(Arc::new(Float32Array::from(vec![Some(f32::MIN_POSITIVE), None])));
        check(Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::INFINITY)])));
        check(Arc::new(StringArray::from(vec![Some(""), None, Some("ü")])));
        check(Arc::new(BinaryArray::from(vec![Some(b"\0".as_ref()), None])));
        check(Arc::new(Int64Array::from(Vec::<i64>::new())));
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), None]);
        lists.append_null();
        lists.append_value([]);
        check(Arc::new(lists.finish()));
        let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        maps.keys().append_value("a");
        maps.values().append_value(7);
        maps.append(true).unwrap();
        maps.append(false).unwrap();
        check(Arc::new(maps.finish()));
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let ints = || Some(Values::Int64s(pb::Int64Values { values: vec![1, 2] }));
        let lists = |lengths| {
            let items = pb::Column { values: ints(), ..Default::default() };
            Some(Values::Lists(Box::new(pb::ListValues { lengths, items: Some(Box::new(items)) })))
        };
        let column = |values, r#type: &str, validity: &'static [u8]| pb::Column {
            name: "c".to_owned(),
            r#type: r#type.to_owned(),
            values,
            validity: Bytes::from_static(validity),
            ..Default::default()
        };
        for wrong in [
            column(None, "int64", b""),
            column(ints(), "string", b""),
            column(ints(), "nonsense", b""),
            column(ints(), "int64", b"\x03\x00"),
            column(lists(vec![1]), "", b""),
            column(lists(vec![u32::MAX, u32::MAX]), "", b""),
            column(lists(vec![2]), "list<string>", b""),
            column(Some(Values::Lists(Box::default())), "", b""),
        ] {
            assert!(decode_column(&wrong).is_err(), "{wrong:?}");
        }
    }
}
