//! Columns of inputs and buckets, read as values.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use super::TileError;
use super::value::{Value, canonical_float};
use crate::arrow_types::arrow_type;
use crate::definition::ValueType;

/// The values of a column of a scalar type, by row and by slice.
#[derive(Debug, Clone)]
pub struct Column {
    values: Values,
    nulls: Option<NullBuffer>,
}

#[derive(Debug, Clone)]
enum Values {
    Bools(BooleanArray),
    Ints(ScalarBuffer<i64>),
    Floats(ScalarBuffer<f64>),
    Strings(StringArray),
    Bytes(BinaryArray),
}

/// Reads a column of the [`arrow_type`] of a scalar type.
///
/// # Errors
/// [`TileError::ColumnType`] if the array or the type is another one.
pub fn values(array: &ArrayRef, ty: &ValueType) -> Result<Column, TileError> {
    if *array.data_type() != arrow_type(ty) {
        return Err(TileError::ColumnType { expected: ty.clone(), found: array.data_type().clone() });
    }
    let values = match ty {
        ValueType::Bool => Values::Bools(array.as_boolean().clone()),
        ValueType::Int32 => widen(array.as_primitive::<Int32Type>().values()),
        ValueType::Date => widen(array.as_primitive::<Date32Type>().values()),
        ValueType::Int64 => Values::Ints(array.as_primitive::<Int64Type>().values().clone()),
        ValueType::Timestamp => Values::Ints(array.as_primitive::<TimestampMicrosecondType>().values().clone()),
        ValueType::Float32 => {
            let floats = array.as_primitive::<Float32Type>().values();
            Values::Floats(floats.iter().map(|value| f64::from(*value)).collect())
        }
        ValueType::Float64 => Values::Floats(array.as_primitive::<Float64Type>().values().clone()),
        ValueType::String => Values::Strings(array.as_string::<i32>().clone()),
        ValueType::Bytes => Values::Bytes(array.as_binary::<i32>().clone()),
        ValueType::List(_) | ValueType::Map(..) => {
            return Err(TileError::ColumnType { expected: ty.clone(), found: array.data_type().clone() });
        }
    };
    Ok(Column { values, nulls: array.nulls().cloned() })
}

fn widen(values: &[i32]) -> Values {
    Values::Ints(values.iter().map(|value| i64::from(*value)).collect())
}

impl Column {
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Bools(values) => values.len(),
            Values::Ints(values) => values.len(),
            Values::Floats(values) => values.len(),
            Values::Strings(values) => values.len(),
            Values::Bytes(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn nulls(&self) -> Option<&NullBuffer> {
        self.nulls.as_ref()
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// The value in a row; None: null.
    pub fn value(&self, row: usize) -> Option<Value> {
        if self.is_null(row) {
            return None;
        }
        Some(match &self.values {
            Values::Bools(values) => Value::Bool(values.value(row)),
            Values::Ints(values) => Value::Int(values[row]),
            Values::Floats(values) => Value::Float(canonical_float(values[row])),
            Values::Strings(values) => Value::Bytes(values.value(row).as_bytes().into()),
            Values::Bytes(values) => Value::Bytes(values.value(row).into()),
        })
    }

    /// The values of `bool`; what stands where a value is null means nothing, here and below.
    pub fn as_bools(&self) -> Option<&BooleanArray> {
        match &self.values {
            Values::Bools(values) => Some(values),
            _ => None,
        }
    }

    /// The values of `int32`, `int64`, `timestamp` and `date`.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// The values of `float32` and `float64`; a NaN may be any.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match &self.values {
            Values::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// The bytes of a value of `string` or `bytes`; None: it is null, or the column is of another type.
    #[inline]
    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        match &self.values {
            _ if self.is_null(row) => None,
            Values::Strings(values) => Some(values.value(row).as_bytes()),
            Values::Bytes(values) => Some(values.value(row)),
            _ => None,
        }
    }
}
