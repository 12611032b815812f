//! JSON values as values: of the type a column is declared with, or of the one that all its values have.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Date32Array, ListArray, MapArray, NullArray,
    PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Int32Type, Int64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::cells::{EXACT_MAX, parse_cells, parse_date};
use crate::arrow_types::UTC;
use crate::time::EventTimestamp;

/// A JSON object in which every key stands once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UniqueObject(pub Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = UniqueObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueObject, A::Error> {
                let mut object = Map::new();
                while let Some((key, value)) = entries.next_entry::<String, UniqueValue>()? {
                    if object.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{key}` is given twice")));
                    }
                    object.insert(key, value.0);
                }
                Ok(UniqueObject(object))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A JSON value in whose objects every key stands once.
struct UniqueValue(Value);

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = UniqueValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<UniqueValue, E> {
                Ok(UniqueValue(Value::Null))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_string<E: Error>(self, value: String) -> Result<UniqueValue, E> {
                Ok(UniqueValue(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueValue, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element::<UniqueValue>()? {
                    array.push(item.0);
                }
                Ok(UniqueValue(Value::Array(array)))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<UniqueValue, A::Error> {
                let object = UniqueObject::deserialize(MapAccessDeserializer::new(entries))?;
                Ok(UniqueValue(Value::Object(object.0)))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The object that a text is.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str::<UniqueObject>(text).map(|object| object.0).map_err(|error| problem_of(&error))
}

fn problem_of(error: &serde_json::Error) -> String {
    let message = error.to_string();
    // The text is one line.
    let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
    match error.classify() {
        serde_json::error::Category::Data if problem.starts_with("invalid type") => "not a JSON object".to_owned(),
        serde_json::error::Category::Data => problem.to_owned(),
        _ => format!("not JSON: {problem}, at character {}", error.column()),
    }
}

/// The values of the object that a text is, by the place of their keys; what is not there is None.
///
/// `places` of them; `place` tells that of a key, None for one that is passed over, or why there must be none such.
/// Unlike [`parse_object`] it keeps no keys.
///
/// # Errors
/// A text that is no object, a key that `place` refuses, or two keys of one place.
pub fn parse_values(
    text: &[u8],
    places: usize,
    place: &dyn Fn(&str) -> Result<Option<usize>, String>,
) -> Result<Vec<Option<Value>>, BadObject> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let values = deserializer.deserialize_map(Values { places, place });
    let values = values.and_then(|values| deserializer.end().map(|()| values));
    values.map_err(|error| BadObject::Text(problem_of(&error)))?.map_err(BadObject::Twice)
}

/// Why a text gives no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadObject {
    /// What is wrong with it.
    Text(String),
    /// The place that two of its keys have.
    Twice(usize),
}

struct Values<'a> {
    places: usize,
    place: &'a dyn Fn(&str) -> Result<Option<usize>, String>,
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Result<Vec<Option<Value>>, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.places];
        let mut twice = None;
        while let Some(place) = entries.next_key_seed(Key(self.place))? {
            match place {
                Some(place) if values[place].is_some() => {
                    entries.next_value::<IgnoredAny>()?;
                    twice = twice.or(Some(place));
                }
                Some(place) => values[place] = Some(entries.next_value::<UniqueValue>()?.0),
                None => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(twice.map_or(Ok(values), Err))
    }
}

struct Key<'a>(&'a dyn Fn(&str) -> Result<Option<usize>, String>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        (self.0)(key).map_err(E::custom)
    }
}

/// A value that is not of the type that is read.
#[derive(Debug, PartialEq)]
pub(super) struct BadValue {
    pub row: usize,
    pub value: Value,
    /// The type that it should be of: the column's, or that of the items of its lists.
    pub data_type: DataType,
}

/// A row's value; a key that is not there is null.
pub(super) type JsonValue<'v> = Option<&'v Value>;

/// Whether a column of texts takes only texts, or the JSON of any value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    Only,
    OfAnything,
}

/// The array of a column's values, each unchanged.
///
/// # Errors
/// The first value that the type does not have.
pub(super) fn json_array(values: &[JsonValue<'_>], data_type: &DataType, texts: Texts) -> Result<ArrayRef, BadValue> {
    let column = JsonColumn { values, data_type, texts };
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(values.len())),
        DataType::Boolean => Arc::new(column.each(Value::as_bool)?.collect::<BooleanArray>()),
        DataType::Int32 => column.numbers::<Int32Type>(|value| i32::try_from(integer(value)?).ok())?,
        DataType::Int64 => column.numbers::<Int64Type>(integer)?,
        DataType::Float32 => column.numbers::<Float32Type>(float32)?,
        DataType::Float64 => column.numbers::<Float64Type>(float64)?,
        DataType::Utf8 if texts == Texts::OfAnything => {
            let text = |value: &Value| Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            Arc::new(column.each(text)?.collect::<StringArray>())
        }
        DataType::Utf8 => Arc::new(column.each(Value::as_str)?.collect::<StringArray>()),
        DataType::Binary => {
            Arc::new(column.each(|value| STANDARD.decode(value.as_str()?).ok())?.collect::<BinaryArray>())
        }
        DataType::Timestamp(..) => {
            let instant = |value: &Value| EventTimestamp::parse(value.as_str()?).ok().map(EventTimestamp::micros);
            Arc::new(column.each(instant)?.collect::<TimestampMicrosecondArray>().with_timezone(UTC))
        }
        DataType::Date32 => Arc::new(column.each(|value| parse_date(value.as_str()?))?.collect::<Date32Array>()),
        DataType::List(item) => column.lists(item)?,
        DataType::Map(entries, _) => column.maps(entries)?,
        DataType::Struct(fields) => column.structs(fields)?,
        _ => return Err(column.bad(0)),
    })
}

struct JsonColumn<'a, 'v> {
    values: &'a [JsonValue<'v>],
    data_type: &'a DataType,
    texts: Texts,
}

impl<'v> JsonColumn<'_, 'v> {
    fn bad(&self, row: usize) -> BadValue {
        let value = self.values.get(row).copied().flatten().cloned().unwrap_or_default();
        BadValue { row, value, data_type: self.data_type.clone() }
    }

    fn each<T>(&self, read: impl Fn(&'v Value) -> Option<T>) -> Result<std::vec::IntoIter<Option<T>>, BadValue> {
        let read_row = |(row, value): (usize, &JsonValue<'v>)| match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.bad(row)),
        };
        Ok(self.values.iter().enumerate().map(read_row).collect::<Result<Vec<_>, _>>()?.into_iter())
    }

    fn numbers<T: ArrowPrimitiveType>(&self, read: impl Fn(&Value) -> Option<T::Native>) -> Result<ArrayRef, BadValue> {
        Ok(Arc::new(self.each(read)?.collect::<PrimitiveArray<T>>()))
    }

    fn lists(&self, item: &FieldRef) -> Result<ArrayRef, BadValue> {
        let rows: Vec<Option<&Vec<Value>>> = self.each(Value::as_array)?.collect();
        let values: Vec<JsonValue<'_>> = rows.iter().flatten().flat_map(|items| items.iter().map(Some)).collect();
        let offsets = offsets(rows.iter().map(|row| row.map_or(0, Vec::len)));
        let items = json_array(&values, item.data_type(), self.texts)
            .map_err(|bad| BadValue { row: row_of(&offsets, bad.row), ..bad })?;
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        Ok(Arc::new(ListArray::new(Arc::clone(item), offsets, items, Some(nulls))))
    }

    fn maps(&self, entries: &FieldRef) -> Result<ArrayRef, BadValue> {
        let DataType::Struct(fields) = entries.data_type() else { return Err(self.bad(0)) };
        let rows: Vec<Option<&Map<String, Value>>> = self.each(Value::as_object)?.collect();
        let pairs = || rows.iter().flatten().flat_map(|object| object.iter());
        let offsets = offsets(rows.iter().map(|row| row.map_or(0, Map::len)));
        let keys: StringArray = pairs().map(|(key, _)| Some(key)).collect();
        let keys = parse_cells(&keys, fields[0].data_type()).map_err(|key| self.bad(row_of(&offsets, key)))?;
        let values: Vec<JsonValue<'_>> = pairs().map(|(_, value)| Some(value)).collect();
        let values = json_array(&values, fields[1].data_type(), self.texts)
            .map_err(|bad| BadValue { row: row_of(&offsets, bad.row), ..bad })?;
        if let Some(key) = (0..keys.len()).find(|key| keys.is_null(*key)) {
            return Err(self.bad(row_of(&offsets, key)));
        }
        let pairs = StructArray::new(fields.clone(), vec![keys, values], None);
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        Ok(Arc::new(MapArray::new(Arc::clone(entries), offsets, pairs, Some(nulls), false)))
    }

    fn structs(&self, fields: &Fields) -> Result<ArrayRef, BadValue> {
        let rows: Vec<Option<&Map<String, Value>>> = self.each(Value::as_object)?.collect();
        let field_array = |field: &FieldRef| {
            let values: Vec<JsonValue<'_>> = rows.iter().map(|row| row.and_then(|row| row.get(field.name()))).collect();
            json_array(&values, field.data_type(), self.texts)
        };
        let arrays = fields.iter().map(field_array).collect::<Result<_, _>>()?;
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        Ok(Arc::new(StructArray::new(fields.clone(), arrays, Some(nulls))))
    }
}

fn offsets(lengths: impl Iterator<Item = usize>) -> OffsetBuffer<i32> {
    OffsetBuffer::from_lengths(lengths)
}

/// The row whose items hold this one.
fn row_of(offsets: &OffsetBuffer<i32>, item: usize) -> usize {
    offsets.partition_point(|start| usize::try_from(*start).is_ok_and(|start| start <= item)) - 1
}

fn integer(value: &Value) -> Option<i64> {
    let is_exact = |float: &f64| float.fract() == 0.0 && float.abs() < EXACT_MAX as f64;
    value.as_i64().or_else(|| value.as_f64().filter(|_| value.is_f64()).filter(is_exact).map(|float| float as i64))
}

/// A number, or one of the words `NaN`, `Infinity` and `-Infinity`. None also for a whole number that a float64 cannot
/// hold.
pub fn float64(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => {
            let float = number.as_f64()?;
            let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            whole.is_none_or(|whole| float as i128 == whole).then_some(float)
        }
        Value::String(text) => not_finite(text),
        _ => None,
    }
}

fn float32(value: &Value) -> Option<f32> {
    let float = float64(value)?;
    let narrow = float as f32;
    let is_whole = value.is_i64() || value.is_u64();
    let is_same = if is_whole { f64::from(narrow) == float } else { narrow.is_finite() == float.is_finite() };
    is_same.then_some(narrow)
}

/// How answers write what JSON has no numbers for.
fn not_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// What the values of a column that nothing declares have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Null,
    Bool,
    /// `exact`: a float64 holds all of them too.
    Integer {
        exact: bool,
    },
    Float,
    /// The words for NaN and the infinities.
    NotFinite,
    Text,
    List(Box<Found>),
    Object(Vec<(String, Found)>),
    Mixed,
}

impl Found {
    pub fn of(value: &Value) -> Found {
        match value {
            Value::Null => Found::Null,
            Value::Bool(_) => Found::Bool,
            Value::Number(number) if number.is_f64() => Found::Float,
            Value::Number(number) if number.is_i64() => Found::Integer { exact: float64(value).is_some() },
            // More than an int64 can be.
            Value::Number(_) => Found::Mixed,
            Value::String(text) if not_finite(text).is_some() => Found::NotFinite,
            Value::String(_) => Found::Text,
            Value::Array(items) => Found::List(Box::new(items.iter().map(Found::of).fold(Found::Null, Found::merge))),
            Value::Object(object) if object.is_empty() => Found::Mixed,
            Value::Object(object) => {
                Found::Object(object.iter().map(|(key, value)| (key.clone(), Found::of(value))).collect())
            }
        }
    }

    pub fn merge(self, other: Found) -> Found {
        match (self, other) {
            (same, other) if same == other => same,
            (Found::Null, other) | (other, Found::Null) => other,
            (Found::Integer { exact: a }, Found::Integer { exact: b }) => Found::Integer { exact: a && b },
            (Found::Float | Found::NotFinite, Found::Integer { exact: true } | Found::Float)
            | (Found::Integer { exact: true } | Found::Float, Found::Float | Found::NotFinite) => Found::Float,
            (Found::Text, Found::NotFinite) | (Found::NotFinite, Found::Text) => Found::Text,
            (Found::List(a), Found::List(b)) => Found::List(Box::new(a.merge(*b))),
            (Found::Object(a), Found::Object(b)) => Found::Object(merge_fields(a, b)),
            _ => Found::Mixed,
        }
    }

    /// The type of an array of such values; what has nothing in common is texts.
    pub fn data_type(&self) -> DataType {
        match self {
            Found::Null => DataType::Null,
            Found::Bool => DataType::Boolean,
            Found::Integer { .. } => DataType::Int64,
            Found::Float => DataType::Float64,
            Found::NotFinite | Found::Text | Found::Mixed => DataType::Utf8,
            Found::List(item) => DataType::List(Arc::new(Field::new_list_field(item.data_type(), true))),
            Found::Object(fields) => {
                let field = |(name, found): &(String, Found)| Field::new(name, found.data_type(), true);
                DataType::Struct(fields.iter().map(field).collect())
            }
        }
    }
}

/// Each name of both with what it has in common, in the order of their appearance.
pub(super) fn merge_fields(mut fields: Vec<(String, Found)>, others: Vec<(String, Found)>) -> Vec<(String, Found)> {
    for (name, found) in others {
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = std::mem::replace(known, Found::Null).merge(found),
            None => fields.push((name, found)),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;
    use serde_json::json;

    use super::*;
    use crate::arrow_types::arrow_type;

    /// `expected`: the values as Arrow shows them, or the row, and the value in it, that cannot be read.
    fn check(value_type: &str, values: Value, expected: Result<&[&str], (usize, Value)>) {
        let data_type = arrow_type(&value_type.parse().unwrap());
        let values: Vec<JsonValue<'_>> = values.as_array().unwrap().iter().map(Some).collect();
        let shown = json_array(&values, &data_type, Texts::Only).map_err(|bad| (bad.row, bad.value)).map(|array| {
            assert_eq!(*array.data_type(), data_type);
            (0..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(shown, expected.map(|values| values.iter().map(|value| (*value).to_owned()).collect()));
    }

    #[test]
    fn a_key_stands_once_at_every_depth() {
        let place = |_: &str| Ok(Some(0));
        let read = |text: &str| parse_values(text.as_bytes(), 1, &place);
        assert_eq!(read(r#"{"m": [{"a": 1.5, "b": {"a": null}}, "x", true, -1]}"#), {
            Ok(vec![Some(json!([{"a": 1.5, "b": {"a": null}}, "x", true, -1]))])
        });
        for text in [r#"{"m": {"a": 1, "a": 2}}"#, r#"{"m": [{"b": {"a": 1, "a": 1}}]}"#] {
            assert_eq!(read(text), Err(BadObject::Text("`a` is given twice".to_owned())), "{text}");
            assert!(parse_object(text).is_err());
        }
        assert!(matches!(read(r#"{"m": 1e400}"#), Err(BadObject::Text(problem)) if problem.contains("out of range")));
        assert!(matches!(read("[1]"), Err(BadObject::Text(problem)) if problem == "not a JSON object"));
    }

    #[test]
    fn values_are_read_by_the_declared_type() {
        check("int64", json!([9_007_199_254_740_993_i64, 5.0, null]), Ok(&["9007199254740993", "5", ""]));
        check("int64", json!([1, 2.5]), Err((1, json!(2.5))));
        check("int64", json!([u64::MAX]), Err((0, json!(u64::MAX))));
        check("int64", json!([1e17]), Err((0, json!(1e17))));
        check("int64", json!(["1"]), Err((0, json!("1"))));
        check("int32", json!([2_147_483_648_i64]), Err((0, json!(2_147_483_648_i64))));
        check("float64", json!([1, 0.1, "NaN", "-Infinity"]), Ok(&["1.0", "0.1", "NaN", "-inf"]));
        check("float64", json!([9_007_199_254_740_993_i64]), Err((0, json!(9_007_199_254_740_993_i64))));
        check("float32", json!([0.1, 16_777_216]), Ok(&["0.1", "16777216.0"]));
        check("float32", json!([16_777_217]), Err((0, json!(16_777_217))));
        check("float32", json!([1e300]), Err((0, json!(1e300))));
        check("string", json!(["", null, "5"]), Ok(&["", "", "5"]));
        check("string", json!([5]), Err((0, json!(5))));
        check("bool", json!([true, 1]), Err((1, json!(1))));
        check("bytes", json!(["AP8=", null]), Ok(&["00ff", ""]));
        check("bytes", json!(["00f"]), Err((0, json!("00f"))));
        check("date", json!(["1969-12-31"]), Ok(&["1969-12-31"]));
        check("date", json!([19000.7]), Err((0, json!(19000.7))));
        check("timestamp", json!(["2024-05-01T02:00:00+02:00"]), Ok(&["2024-05-01T00:00:00Z"]));
        check("timestamp", json!([1_700_000_000]), Err((0, json!(1_700_000_000))));
    }

    #[test]
    fn items_and_entries_are_read_like_values() {
        check("list<int64>", json!([[1, null], null, []]), Ok(&["[1, ]", "", "[]"]));
        check("list<int32>", json!([[], null, [1, 2], [2.5]]), Err((3, json!(2.5))));
        check("list<string>", json!([["a"], "b"]), Err((1, json!("b"))));
        check("map<string, int64>", json!([{"a": 1}, null, {}]), Ok(&["{a: 1}", "", "{}"]));
        check("map<int64, bool>", json!([{"1": true}, {"x": true}]), Err((1, json!({"x": true}))));
    }

    #[test]
    fn values_of_a_column_that_is_not_declared_stay_what_they_are() {
        for (values, expected, shown) in [
            (json!([1, null, 2]), "Int64", vec!["1", "", "2"]),
            (json!([1, 2.5, "NaN"]), "Float64", vec!["1.0", "2.5", "NaN"]),
            (json!(["NaN", "a"]), "Utf8", vec!["NaN", "a"]),
            (json!([9_007_199_254_740_993_i64, 0.5]), "Utf8", vec!["9007199254740993", "0.5"]),
            (json!([1, "a", [true], {}]), "Utf8", vec!["1", "a", "[true]", "{}"]),
            (json!([null]), "Null", vec![""]),
        ] {
            let values = values.as_array().unwrap();
            let data_type = values.iter().map(Found::of).fold(Found::Null, Found::merge).data_type();
            assert_eq!(data_type.to_string(), expected);
            let values: Vec<JsonValue<'_>> = values.iter().map(Some).collect();
            let array = json_array(&values, &data_type, Texts::OfAnything).unwrap();
            let found: Vec<_> = (0..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect();
            assert_eq!(found, shown);
        }
    }

    #[test]
    fn objects_that_nothing_declares_are_structs_of_all_their_keys() {
        let values = [json!({"a": 1}), json!({"b": [1]}), json!({"a": 2.5, "b": [null]})];
        let data_type = values.iter().map(Found::of).fold(Found::Null, Found::merge).data_type();
        let values: Vec<JsonValue<'_>> = values.iter().map(Some).collect();
        let array = json_array(&values, &data_type, Texts::OfAnything).unwrap();
        assert_eq!(array_value_to_string(&array, 2).unwrap(), "{a: 2.5, b: []}");
        assert_eq!(array_value_to_string(&array, 1).unwrap(), "{a: , b: [1]}");
    }

    #[test]
    fn an_object_has_each_key_once() {
        assert_eq!(parse_object("{\"k\": \"a\", \"k\": \"zz\"}"), Err("`k` is given twice".to_owned()));
        assert_eq!(parse_object("[1]"), Err("not a JSON object".to_owned()));
        assert_eq!(parse_object("{\"k\": 1").map_err(|problem| problem[..9].to_owned()), Err("not JSON:".to_owned()));
        assert_eq!(parse_object("{\"k\": 1}").unwrap()["k"], 1);
    }

    #[test]
    fn values_stand_where_their_keys_have_their_place() {
        let place = |key: &str| match key {
            "a" | "theirs" => Ok(Some(0)),
            "b" => Ok(Some(1)),
            "bad" => Err("no `bad`".to_owned()),
            _ => Ok(None),
        };
        let parse = |text: &str| parse_values(text.as_bytes(), 2, &place);
        let wrong = |problem: &str| Err(BadObject::Text(problem.to_owned()));
        assert_eq!(
            parse("{\"b\": 9007199254740993, \"x\": {\"a\": [1]}}"),
            Ok(vec![None, Some(json!(9_007_199_254_740_993_i64))])
        );
        assert_eq!(parse(" {\"\\u0061\": \"\\u00fc\"} "), Ok(vec![Some(json!("ü")), None]));
        assert_eq!(parse("{\"theirs\": null, \"a\": 1}"), Err(BadObject::Twice(0)));
        assert_eq!(parse("{\"bad\": 1}"), wrong("no `bad`"));
        assert_eq!(parse("[1]"), wrong("not a JSON object"));
        assert_eq!(parse("5"), wrong("not a JSON object"));
        for text in ["", "{", "{\"a\": 1} 2", "{\"a\": \"\u{7}\"}", "{\"a\": 01}", "{a: 1}"] {
            let problem = parse(text).unwrap_err();
            assert!(matches!(&problem, BadObject::Text(text) if text.starts_with("not JSON: ")), "{text}: {problem:?}");
        }
        assert!(parse_values(b"{\"a\": \"\xff\"}", 2, &place).is_err());
    }
}
