//! Values of events, in one order and with one form each.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::definition::ValueType;

/// A value of a scalar type.
///
/// # Order
/// Numbers by size, with `-0.0 < 0.0` and every NaN the same and greatest; text and bytes byte by byte.
/// Values of one input are all of one variant; others are ordered by variant.
#[derive(Debug, Clone)]
pub enum Value {
    Bool(bool),
    /// `int32`, `int64`, `timestamp` (microseconds), `date` (days).
    Int(i64),
    /// `float64`, and `float32`, of which every value is one of `float64`.
    Float(f64),
    /// `string` and `bytes`.
    Bytes(Box<[u8]>),
}

/// The types of values that are neither lists nor maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    String,
    Bytes,
    Timestamp,
    Date,
}

impl Value {
    /// The value with the one NaN for any.
    pub fn canonical(&self) -> Value {
        match self {
            Value::Float(value) => Value::Float(canonical_float(*value)),
            other => other.clone(),
        }
    }

    /// The value as counts of values know it: `-0.0` is `0.0`, and every NaN the same.
    #[inline]
    pub fn as_key(&self) -> Cow<'_, Value> {
        match self {
            Value::Float(value) => Cow::Owned(Value::Float(key_float(*value))),
            other => Cow::Borrowed(other),
        }
    }

    /// The number that an integer or float is; of large integers the nearest.
    #[inline]
    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Bool(_) | Value::Bytes(_) => None,
        }
    }

    fn variant(&self) -> u8 {
        match self {
            Value::Bool(_) => 0,
            Value::Int(_) => 1,
            Value::Float(_) => 2,
            Value::Bytes(_) => 3,
        }
    }
}

impl Ord for Value {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => canonical_float(*a).total_cmp(&canonical_float(*b)),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            _ => self.variant().cmp(&other.variant()),
        }
    }
}

impl PartialOrd for Value {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.variant().hash(state);
        match self {
            Value::Bool(value) => value.hash(state),
            Value::Int(value) => value.hash(state),
            Value::Float(value) => canonical_float(*value).to_bits().hash(state),
            Value::Bytes(value) => value.hash(state),
        }
    }
}

impl Scalar {
    /// None for lists and maps.
    pub fn of(value_type: &ValueType) -> Option<Self> {
        Some(match value_type {
            ValueType::Bool => Scalar::Bool,
            ValueType::Int32 => Scalar::Int32,
            ValueType::Int64 => Scalar::Int64,
            ValueType::Float32 => Scalar::Float32,
            ValueType::Float64 => Scalar::Float64,
            ValueType::String => Scalar::String,
            ValueType::Bytes => Scalar::Bytes,
            ValueType::Timestamp => Scalar::Timestamp,
            ValueType::Date => Scalar::Date,
            ValueType::List(_) | ValueType::Map(..) => return None,
        })
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Scalar::Float32 | Scalar::Float64)
    }
}

/// The number itself, or the one NaN: positive, quiet and without payload.
#[inline]
pub(super) fn canonical_float(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value }
}

/// As [`canonical_float`], with `0.0` for `-0.0`.
#[inline]
pub(super) fn key_float(value: f64) -> f64 {
    // Zero of either sign plus zero is positive zero.
    canonical_float(value + 0.0)
}
