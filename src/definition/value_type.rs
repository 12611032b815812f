//! Types of feature values, join keys and request values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Type of a value, the same in files, tables, the online store and on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ValueType {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    String,
    Bytes,
    /// Microseconds since the Unix epoch, UTC.
    Timestamp,
    /// Days since the Unix epoch.
    Date,
    List(Box<ValueType>),
    Map(Box<ValueType>, Box<ValueType>),
}

/// A text that names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a type; the types are {}", ValueType::CHOICES)]
pub struct ParseTypeError {
    pub text: String,
}

const SCALARS: [(&str, ValueType); 9] = [
    ("bool", ValueType::Bool),
    ("int32", ValueType::Int32),
    ("int64", ValueType::Int64),
    ("float32", ValueType::Float32),
    ("float64", ValueType::Float64),
    ("string", ValueType::String),
    ("bytes", ValueType::Bytes),
    ("timestamp", ValueType::Timestamp),
    ("date", ValueType::Date),
];

/// Bounds how deep types nest.
const TEXT_BYTES_MAX: usize = 200;

impl ValueType {
    /// The types a definition may name, for messages.
    pub const CHOICES: &'static str =
        "bool, int32, int64, float32, float64, string, bytes, timestamp, date, and list<T> of these";

    /// The names of the types that are neither lists nor maps.
    pub fn scalar_names() -> impl Iterator<Item = &'static str> {
        SCALARS.iter().map(|(name, _)| *name)
    }

    pub fn is_scalar(&self) -> bool {
        !matches!(self, ValueType::List(_) | ValueType::Map(..))
    }

    pub fn is_number(&self) -> bool {
        use ValueType::{Bool, Float32, Float64, Int32, Int64};
        matches!(self, Bool | Int32 | Int64 | Float32 | Float64)
    }

    /// Whether its values may be predictions of a model: numbers, or lists of numbers.
    pub fn is_prediction(&self) -> bool {
        match self {
            ValueType::List(item) => item.is_number(),
            other => other.is_number(),
        }
    }

    /// Whether the type may be a join key: it compares exactly and has one form for each value.
    pub fn is_join_key(&self) -> bool {
        self.is_scalar() && !matches!(self, ValueType::Float32 | ValueType::Float64)
    }

    pub fn list_of(item: ValueType) -> Self {
        ValueType::List(Box::new(item))
    }
}

impl FromStr for ValueType {
    type Err = ParseTypeError;

    fn from_str(text: &str) -> Result<Self, ParseTypeError> {
        let error = || ParseTypeError { text: text.to_owned() };
        let trimmed = text.trim();
        if trimmed.len() > TEXT_BYTES_MAX {
            return Err(error());
        }
        if let Some((_, scalar)) = SCALARS.iter().find(|(name, _)| *name == trimmed) {
            return Ok(scalar.clone());
        }
        let inside = |prefix: &str| trimmed.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
        if let Some(item) = inside("list<") {
            let item: ValueType = item.parse().map_err(|_| error())?;
            return if item.is_scalar() { Ok(ValueType::list_of(item)) } else { Err(error()) };
        }
        let (key, value) = inside("map<").and_then(|inside| inside.split_once(',')).ok_or_else(error)?;
        let key: ValueType = key.parse().map_err(|_| error())?;
        let value: ValueType = value.parse().map_err(|_| error())?;
        if key.is_scalar() { Ok(ValueType::Map(Box::new(key), Box::new(value))) } else { Err(error()) }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::List(item) => write!(f, "list<{item}>"),
            ValueType::Map(key, value) => write!(f, "map<{key}, {value}>"),
            scalar => {
                let name = SCALARS.iter().find(|(_, ty)| ty == scalar).map_or("", |(name, _)| name);
                f.write_str(name)
            }
        }
    }
}

impl Serialize for ValueType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ValueType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_round_trip_through_their_names() {
        for name in ["bool", "int64", "list<float32>", "list<string>", "map<string, int64>", "map<string, list<int64>>"]
        {
            assert_eq!(name.parse::<ValueType>().unwrap().to_string(), name);
        }
        for name in ["", "int", "list<>", "list<list<int64>>", "list<int64", "decimal", "map<string>"] {
            assert!(name.parse::<ValueType>().is_err(), "{name}");
        }
    }
}
