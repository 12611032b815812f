//! Avro records as JSON objects in the forms of this project: instants as texts, bytes as base64.
//!
//! ```text
//! value = record | 00, id of a schema registry (4), record
//! ```
//!
//! The schema is the one that the source names: values written by another one that reads differently are refused as
//! damaged or, where they cannot be told apart, read as if they were written by it.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::time::EventTimestamp;

/// How deep types may be nested.
const DEPTH_MAX: usize = 32;
/// Bytes of the header of a schema registry.
const HEADER_LEN: usize = 5;

#[derive(Debug, Clone)]
pub struct AvroSchema {
    root: Arc<Type>,
    /// Records, enums and fixed by name, for those that refer to them.
    named: Arc<HashMap<String, Arc<Type>>>,
}

#[derive(Debug)]
enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Date,
    TimestampMillis,
    TimestampMicros,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Arc<Type>),
    Map(Arc<Type>),
    Union(Vec<Arc<Type>>),
    Record(Vec<(String, Arc<Type>)>),
    Named(String),
}

impl AvroSchema {
    /// # Errors
    /// A text that is no schema of a record.
    pub fn parse(text: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let mut named = HashMap::new();
        let root = parse_type(&schema, &mut named, 0)?;
        match *root {
            Type::Record(_) => Ok(AvroSchema { root, named: Arc::new(named) }),
            _ => Err("the schema is not that of a record".to_owned()),
        }
    }

    /// The record that a message's value is.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn decode_value(&self, value: Option<&[u8]>) -> Result<Map<String, Value>, String> {
        let value = value.ok_or("the message has no value")?;
        let behind_header = value.get(HEADER_LEN..).filter(|_| value.first() == Some(&0));
        match behind_header.map(|rest| self.decode(rest)) {
            Some(Ok(record)) => Ok(record),
            _ => self.decode(value),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Map<String, Value>, String> {
        let mut rest = bytes;
        let value = self.read(&self.root, &mut rest, 0)?;
        match value {
            Value::Object(record) if rest.is_empty() => Ok(record),
            _ => Err(format!("{} bytes follow the record", rest.len())),
        }
    }

    fn read(&self, of: &Type, rest: &mut &[u8], depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("nested too deep".to_owned());
        }
        Ok(match of {
            Type::Null => Value::Null,
            Type::Boolean => Value::Bool(take(rest, 1)?[0] != 0),
            Type::Int | Type::Long => json!(long(rest)?),
            Type::Float => number(f64::from(f32::from_le_bytes(array(rest)?))),
            Type::Double => number(f64::from_le_bytes(array(rest)?)),
            Type::Bytes => Value::String(STANDARD.encode(sized(rest)?)),
            Type::Fixed(length) => Value::String(STANDARD.encode(take(rest, *length)?)),
            Type::String => Value::String(text(sized(rest)?)?),
            Type::Date => {
                let days = long(rest)?;
                let micros = days.checked_mul(86_400_000_000).ok_or("a date out of range")?;
                Value::String(EventTimestamp::from_micros(micros).to_string().chars().take(10).collect())
            }
            Type::TimestampMillis => instant(long(rest)?.checked_mul(1000).ok_or("a time out of range")?),
            Type::TimestampMicros => instant(long(rest)?),
            Type::Enum(symbols) => {
                let symbol = usize::try_from(long(rest)?).ok().and_then(|position| symbols.get(position));
                Value::String(symbol.ok_or("no such symbol")?.clone())
            }
            Type::Array(items) => {
                let mut values = Vec::new();
                self.blocks(rest, |rest| {
                    values.push(self.read(items, rest, depth + 1)?);
                    Ok(())
                })?;
                Value::Array(values)
            }
            Type::Map(items) => {
                let mut entries = Map::new();
                self.blocks(rest, |rest| {
                    let key = text(sized(rest)?)?;
                    entries.insert(key, self.read(items, rest, depth + 1)?);
                    Ok(())
                })?;
                Value::Object(entries)
            }
            Type::Union(branches) => {
                let branch = usize::try_from(long(rest)?).ok().and_then(|position| branches.get(position));
                self.read(branch.ok_or("no such branch of a union")?, rest, depth + 1)?
            }
            Type::Record(fields) => {
                let mut record = Map::new();
                for (name, of) in fields {
                    let value =
                        self.read(of, rest, depth + 1).map_err(|problem| format!("field `{name}`: {problem}"))?;
                    record.insert(name.clone(), value);
                }
                Value::Object(record)
            }
            Type::Named(name) => {
                let of = self.named.get(name).ok_or("a name that nothing has")?;
                self.read(of, rest, depth + 1)?
            }
        })
    }

    /// Calls `each` for the items of an array or a map.
    fn blocks(&self, rest: &mut &[u8], mut each: impl FnMut(&mut &[u8]) -> Result<(), String>) -> Result<(), String> {
        loop {
            let mut count = long(rest)?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The length of the block in bytes stands before it.
                long(rest)?;
                count = count.checked_neg().ok_or("a block out of range")?;
            }
            for _ in 0..count {
                let before = rest.len();
                each(rest)?;
                if rest.len() == before && count > 1 << 16 {
                    return Err("a block of items that take no bytes".to_owned());
                }
            }
        }
    }
}

fn parse_type(schema: &Value, named: &mut HashMap<String, Arc<Type>>, depth: usize) -> Result<Arc<Type>, String> {
    if depth > DEPTH_MAX {
        return Err("nested too deep".to_owned());
    }
    let nested = |schema: &Value, named: &mut HashMap<String, Arc<Type>>| parse_type(schema, named, depth + 1);
    let object = match schema {
        Value::String(name) => return Ok(Arc::new(primitive(name).unwrap_or_else(|| Type::Named(name.clone())))),
        Value::Array(branches) => {
            let branches = branches.iter().map(|branch| nested(branch, named)).collect::<Result<_, _>>()?;
            return Ok(Arc::new(Type::Union(branches)));
        }
        Value::Object(object) => object,
        _ => return Err(format!("{schema} is no type")),
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let kind = match object.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(inner) => return nested(inner, named),
        None => return Err("a type has no `type`".to_owned()),
    };
    let child = |key: &str| object.get(key).ok_or_else(|| format!("{kind} has no `{key}`"));
    let parsed = match kind {
        "record" => {
            let fields = child("fields")?.as_array().ok_or("`fields` is no list")?.clone();
            let mut parsed = Vec::with_capacity(fields.len());
            for field in &fields {
                let name = field.get("name").and_then(Value::as_str).ok_or("a field has no `name`")?;
                let of = field.get("type").ok_or_else(|| format!("field `{name}` has no `type`"))?;
                // Logical types stand beside the type, which may be the field itself.
                let of = if of.is_string() && field.get("logicalType").is_some() { field } else { of };
                parsed.push((name.to_owned(), nested(of, named)?));
            }
            Type::Record(parsed)
        }
        "enum" => {
            let symbols = child("symbols")?.as_array().ok_or("`symbols` is no list")?;
            Type::Enum(symbols.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        "fixed" => {
            let size = child("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
            Type::Fixed(size.ok_or("`size` is no number")?)
        }
        "array" => Type::Array(nested(child("items")?, named)?),
        "map" => Type::Map(nested(child("values")?, named)?),
        kind => match (kind, text("logicalType")) {
            ("int", Some("date")) => Type::Date,
            ("long", Some("timestamp-millis" | "local-timestamp-millis")) => Type::TimestampMillis,
            ("long", Some("timestamp-micros" | "local-timestamp-micros")) => Type::TimestampMicros,
            _ => primitive(kind).unwrap_or_else(|| Type::Named(kind.to_owned())),
        },
    };
    let parsed = Arc::new(parsed);
    if let ("record" | "enum" | "fixed", Some(name)) = (kind, text("name")) {
        let full = text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}.{name}"));
        named.insert(name.to_owned(), Arc::clone(&parsed));
        named.insert(full, Arc::clone(&parsed));
    }
    Ok(parsed)
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::String,
        _ => return None,
    })
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8], String> {
    let (found, tail) = rest.split_at_checked(length).ok_or("the value is cut off")?;
    *rest = tail;
    Ok(found)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    take(rest, N)?.try_into().map_err(|_| "the value is cut off".to_owned())
}

/// A zigzag varint.
fn long(rest: &mut &[u8]) -> Result<i64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err("a number of more than ten bytes".to_owned())
}

fn sized<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let length = usize::try_from(long(rest)?).map_err(|_| "a negative length".to_owned())?;
    take(rest, length)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
}

fn number(value: f64) -> Value {
    let word = match value {
        value if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        value => return json!(value),
    };
    Value::String(word.to_owned())
}

fn instant(micros: i64) -> Value {
    Value::String(EventTimestamp::from_micros(micros).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &str = r#"{"type": "record", "name": "Tap", "namespace": "a.b", "fields": [
        {"name": "key", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "x", "type": ["null", "double"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "again", "type": "Kind"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "raw", "type": "bytes"}
    ]}"#;

    /// A record of the schema, as the specification of Avro writes it.
    const RECORD: [u8; 29] = [
        0x03, // key: -2
        0xD0, 0x0F, // at: 1000 ms
        0x02, 0x02, // day: branch 1, 1
        0x02, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F, // x: branch 1, 1.5
        0x02, 0x00, // kind: B, again: A
        0x03, 0x08, 0x02, b'a', 0x02, b'b', // tags: a block of two items, four bytes long,
        0x02, 0x02, b'c', 0x00, // and one of one item
        0x04, 0xFF, 0x00, // raw
    ];

    #[test]
    fn records_are_read() {
        let bytes = RECORD;
        let schema = AvroSchema::parse(SCHEMA).unwrap();
        let expected = json!({
            "key": -2, "at": "1970-01-01T00:00:01.000000Z", "day": "1970-01-02", "x": 1.5, "kind": "B", "again": "A",
            "tags": ["a", "b", "c"], "raw": "/wA=",
        });
        assert_eq!(Value::Object(schema.decode_value(Some(&bytes)).unwrap()), expected);
        let behind_header = [&[0, 0, 0, 0, 9][..], &bytes].concat();
        assert_eq!(Value::Object(schema.decode_value(Some(&behind_header)).unwrap()), expected);
        for end in 0..bytes.len() {
            assert!(schema.decode_value(Some(&bytes[..end])).is_err(), "cut at {end}");
        }
        assert!(schema.decode_value(None).is_err());
        assert!(AvroSchema::parse("\"long\"").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = AvroSchema::parse(SCHEMA).unwrap().decode_value(Some(&bytes));
        }
    }
}
