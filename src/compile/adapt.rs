//! From the type a column has to the type a definition declares, where every value stays the same value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::logical_expr::{Expr, cast};

use super::floor_timestamp::{FloorTimestamp, floor_micros};
use crate::arrow_types::{UTC, arrow_type, type_name};
use crate::definition::ValueType;
use crate::time::EventTimestamp;

/// A column that cannot hold the declared type without changing values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeMismatch {
    pub found: String,
    pub declared: ValueType,
    /// What to write instead.
    pub remedy: String,
}

/// How values get from one type to the other unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adaptation {
    None,
    Cast,
    FloorNanos,
}

/// The expression that gives `column`, of type `from`, the declared type.
///
/// # Errors
/// [`TypeMismatch`] where a value could change on the way.
pub(super) fn adapt_expr(column: Expr, from: &DataType, to: &ValueType) -> Result<Expr, TypeMismatch> {
    Ok(match adaptation(from, to)? {
        Adaptation::None => column,
        Adaptation::Cast => cast(column, arrow_type(to)),
        Adaptation::FloorNanos => FloorTimestamp::udf().call(vec![column]),
    })
}

/// `array` in the declared type, by the same rules; used for the columns of a spine.
///
/// # Errors
/// [`TypeMismatch`] where a value could change on the way.
pub fn adapt_array(array: &ArrayRef, to: &ValueType) -> Result<ArrayRef, TypeMismatch> {
    let from = array.data_type();
    let failed = |error: ArrowError| TypeMismatch {
        found: type_name(from),
        declared: to.clone(),
        remedy: format!("its values do not fit: {error}"),
    };
    match adaptation(from, to)? {
        Adaptation::None => Ok(array.clone()),
        // Arrow's own cast goes by way of the calendar, which ends before the microseconds do.
        Adaptation::Cast if *from == DataType::Timestamp(TimeUnit::Microsecond, None) => {
            Ok(Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC")))
        }
        Adaptation::Cast => {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, &arrow_type(to), &options).map_err(failed)
        }
        Adaptation::FloorNanos => Ok(floor_micros(array)),
    }
}

/// `array` in the declared type; numbers may change type where every value stays the same, and texts may be instants.
/// For what callers send.
///
/// # Errors
/// [`TypeMismatch`] where a value would change on the way.
pub fn adapt_values(array: &ArrayRef, to: &ValueType) -> Result<ArrayRef, TypeMismatch> {
    let mismatch = match adapt_array(array, to) {
        Ok(adapted) => return Ok(adapted),
        Err(mismatch) => TypeMismatch { remedy: "send values that it can hold".to_owned(), ..mismatch },
    };
    if let Some(texts) = array.as_string_opt::<i32>().filter(|_| *to == ValueType::Timestamp) {
        return instants(texts).map_err(|text| TypeMismatch { found: format!("`{text}`"), ..mismatch });
    }
    let target = arrow_type(to);
    let checked = CastOptions { safe: false, ..CastOptions::default() };
    let there_and_back = || {
        let there = cast_with_options(array, &target, &checked).ok()?;
        let back = cast_with_options(&there, array.data_type(), &checked).ok()?;
        (back.as_ref() == array.as_ref()).then_some(there)
    };
    let are_numbers = is_numeric(array.data_type()) && is_numeric(&target);
    are_numbers.then(there_and_back).flatten().ok_or(mismatch)
}

/// The instants that texts say.
///
/// # Errors
/// The first text that says none.
fn instants(texts: &StringArray) -> Result<ArrayRef, &str> {
    let instant =
        |text: Option<&str>| text.map(|text| EventTimestamp::parse(text).map(EventTimestamp::micros)).transpose();
    let wrong = texts.iter().flatten().find(|text| EventTimestamp::parse(text).is_err());
    match (wrong, texts.iter().map(instant).collect::<Result<TimestampMicrosecondArray, _>>()) {
        (None, Ok(instants)) => Ok(Arc::new(instants.with_timezone(UTC))),
        (wrong, _) => Err(wrong.unwrap_or_default()),
    }
}

/// Numbers and lists of numbers.
fn is_numeric(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => item.data_type().is_numeric(),
        scalar => scalar.is_numeric(),
    }
}

fn adaptation(from: &DataType, to: &ValueType) -> Result<Adaptation, TypeMismatch> {
    find_adaptation(from, to).ok_or_else(|| mismatch(from, to))
}

fn find_adaptation(from: &DataType, to: &ValueType) -> Option<Adaptation> {
    if *from == arrow_type(to) {
        return Some(Adaptation::None);
    }
    if matches!((from, to), (DataType::Timestamp(TimeUnit::Nanosecond, _), ValueType::Timestamp)) {
        return Some(Adaptation::FloorNanos);
    }
    widens(from, to).then_some(Adaptation::Cast)
}

/// Whether every value of `from` is a value of `to`.
fn widens(from: &DataType, to: &ValueType) -> bool {
    use DataType as D;
    use ValueType as V;
    match (from, to) {
        (D::Dictionary(_, values), to) => **values == arrow_type(to) || widens(values, to),
        (D::Null, _) | (D::Boolean, V::Bool) => true,
        (D::Int8 | D::Int16 | D::UInt8 | D::UInt16, V::Int32 | V::Int64 | V::Float32 | V::Float64) => true,
        (D::Int32 | D::UInt32, V::Int64 | V::Float64) | (D::Int32, V::Int32) | (D::Int64, V::Int64) => true,
        (D::Float16, V::Float32 | V::Float64) | (D::Float32, V::Float32 | V::Float64) | (D::Float64, V::Float64) => {
            true
        }
        (D::Decimal32(precision, 0) | D::Decimal64(precision, 0) | D::Decimal128(precision, 0), V::Int32) => {
            *precision <= 9
        }
        (D::Decimal32(precision, 0) | D::Decimal64(precision, 0) | D::Decimal128(precision, 0), V::Int64) => {
            *precision <= 18
        }
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, V::String) => true,
        (D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_), V::Bytes) => true,
        (D::Date32 | D::Date64, V::Date | V::Timestamp) | (D::Timestamp(..), V::Timestamp) => true,
        (D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) | D::ListView(item), V::List(to)) => {
            let nanos = matches!(item.data_type(), D::Timestamp(TimeUnit::Nanosecond, _));
            !nanos && (*item.data_type() == arrow_type(to) || widens(item.data_type(), to))
        }
        (D::Map(entries, false), V::Map(key, value)) => match entries.data_type() {
            D::Struct(fields) => [key, value].into_iter().zip(fields).all(|(to, field)| {
                let nanos = matches!(field.data_type(), D::Timestamp(TimeUnit::Nanosecond, _));
                !nanos && (*field.data_type() == arrow_type(to) || widens(field.data_type(), to))
            }),
            _ => false,
        },
        _ => false,
    }
}

/// Whether a column of type `from` can be read as the declared type where it is: a cast that no value can fail.
pub(super) fn is_readable_as(from: &DataType, to: &ValueType) -> bool {
    let is_integer = |data_type: &DataType| data_type.is_integer() && !matches!(data_type, DataType::UInt64);
    match to {
        ValueType::Timestamp => matches!(from, DataType::Timestamp(TimeUnit::Microsecond, _)),
        ValueType::Int32 | ValueType::Int64 => is_integer(from) && widens(from, to),
        _ => *from == arrow_type(to),
    }
}

fn mismatch(from: &DataType, to: &ValueType) -> TypeMismatch {
    let remedy = match declarable(from) {
        Some(fitting) => format!("declare {fitting}, or use an SQL view with a CAST that says how to convert"),
        None => "use an SQL view with a CAST that says how to convert".to_owned(),
    };
    TypeMismatch { found: type_name(from), declared: to.clone(), remedy }
}

/// The declarable type that holds every value of `from`.
pub(super) fn declarable(from: &DataType) -> Option<ValueType> {
    let scalars = [
        ValueType::Bool,
        ValueType::Int32,
        ValueType::Int64,
        ValueType::Float32,
        ValueType::Float64,
        ValueType::String,
        ValueType::Bytes,
        ValueType::Date,
        ValueType::Timestamp,
    ];
    if let DataType::Map(entries, _) = from
        && let DataType::Struct(fields) = entries.data_type()
        && let [key, value] = fields.as_ref()
    {
        let (key, value) = (declarable(key.data_type())?, declarable(value.data_type())?);
        return Some(ValueType::Map(Box::new(key), Box::new(value)));
    }
    let holds = |to: &ValueType| find_adaptation(from, to).is_some();
    let lists = scalars.iter().cloned().map(ValueType::list_of);
    scalars.iter().cloned().chain(lists).find(holds)
}
