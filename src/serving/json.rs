//! Online requests and answers as JSON: for the HTTP gateway and the command line.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, StringArray, UInt64Array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use base64::Engine;
use serde_json::{Map, Number, Value, json};

use super::columns::row_count;
use super::pb::{self, column::Values};
use crate::definition::ValueType;
use crate::text_files::float64;
use crate::time::EventTimestamp;

/// A column whose JSON values are of several kinds, or of none that a column can have.
#[derive(Debug, thiserror::Error)]
#[error("{}column `{column}` {problem}", row.map(|row| format!("row {}: ", row + 1)).unwrap_or_default())]
pub struct JsonColumnError {
    pub column: String,
    /// From 0; messages count from 1.
    pub row: Option<usize>,
    pub problem: String,
}

/// A column out of JSON values: integers, numbers, texts, booleans, or arrays of one of these, beside nulls.
///
/// What a text stands for (an instant, a date, base64) is decided by the type that the request needs.
///
/// # Errors
/// [`JsonColumnError`] where values of several kinds meet.
pub fn column_from_json(name: &str, values: &[Value]) -> Result<ArrayRef, JsonColumnError> {
    let failed = |row: Option<usize>, problem: String| JsonColumnError { column: name.to_owned(), row, problem };
    let Some(first) = values.iter().find(|value| !value.is_null()) else {
        return Ok(Arc::new(NullArray::new(values.len())));
    };
    let other = |row: usize, value: &Value| {
        let problem = format!("holds {}, and {} before it; send values of one kind", kind(value), kind(first));
        failed(Some(row), problem)
    };
    fn each<'v, T>(
        values: &'v [Value],
        read: impl Fn(&'v Value) -> Option<T>,
        other: impl Fn(usize, &Value) -> JsonColumnError,
    ) -> Result<Vec<Option<T>>, JsonColumnError> {
        let read_row = |(row, value): (usize, &'v Value)| match value {
            Value::Null => Ok(None),
            value => read(value).map(Some).ok_or_else(|| other(row, value)),
        };
        values.iter().enumerate().map(read_row).collect()
    }
    if values.iter().any(Value::is_number) && values.iter().all(is_number_or_null) {
        return numbers_from_json(values).map_err(|(row, problem)| failed(Some(row), problem));
    }
    Ok(match first {
        Value::Bool(_) => Arc::new(BooleanArray::from(each(values, Value::as_bool, other)?)),
        Value::String(_) => Arc::new(StringArray::from(each(values, Value::as_str, other)?)),
        Value::Array(_) => lists_from_json(name, values, each(values, Value::as_array, other)?)?,
        Value::Number(_) => Arc::new(Float64Array::from(each(values, Value::as_f64, other)?)),
        Value::Null | Value::Object(_) => {
            return Err(failed(None, "holds objects, which cannot be sent as values".to_owned()));
        }
    })
}

/// Numbers, the words that stand for NaN and infinities, and nulls.
fn is_number_or_null(value: &Value) -> bool {
    value.is_null() || value.is_number() || float64(value).is_some()
}

/// # Errors
/// The row that no column of numbers can hold, and why.
fn numbers_from_json(values: &[Value]) -> Result<ArrayRef, (usize, String)> {
    if let Some(row) = values.iter().position(|value| value.is_u64() && !value.is_i64()) {
        if values.iter().all(|value| value.is_null() || value.is_u64()) {
            return Ok(Arc::new(values.iter().map(Value::as_u64).collect::<UInt64Array>()));
        }
        return Err((row, format!("holds {}, which no type holds beside the column's other numbers", values[row])));
    }
    if values.iter().all(|value| value.is_null() || value.is_i64()) {
        return Ok(Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>()));
    }
    if let Some(row) = values.iter().position(|value| !value.is_null() && float64(value).is_none()) {
        let value = &values[row];
        let problem = format!("holds {value}, which cannot stand exactly beside fractions; send the column as texts");
        return Err((row, problem));
    }
    Ok(Arc::new(values.iter().map(float64).collect::<Float64Array>()))
}

fn lists_from_json(name: &str, values: &[Value], rows: Vec<Option<&Vec<Value>>>) -> Result<ArrayRef, JsonColumnError> {
    let failed = |row, problem: String| JsonColumnError { column: name.to_owned(), row, problem };
    let items: Vec<Value> = rows.iter().flatten().flat_map(|items| items.iter().cloned()).collect();
    let offsets = OffsetBuffer::<i32>::from_lengths(rows.iter().map(|row| row.map_or(0, Vec::len)));
    // An item stands in the last row that begins at it or before.
    let row_of = |item: usize| offsets.partition_point(|start| *start as usize <= item) - 1;
    if let Some(item) = items.iter().position(Value::is_array) {
        return Err(failed(Some(row_of(item)), "holds a list of lists, which cannot be sent".to_owned()));
    }
    let in_row = |error: JsonColumnError| JsonColumnError { row: error.row.map(row_of), ..error };
    let items = match column_from_json(name, &items).map_err(in_row)? {
        // A list of nothing but nulls may be of any type; numbers fit most.
        nulls if nulls.data_type() == &DataType::Null => new_null_array(&DataType::Int64, nulls.len()),
        items => items,
    };
    let nulls = values.iter().map(|value| !value.is_null()).collect::<Vec<bool>>().into();
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    let lists = ListArray::try_new(field, offsets, items, Some(nulls));
    Ok(Arc::new(lists.map_err(|error| failed(None, error.to_string()))?))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The document of an online answer: the keys first, then each feature with its statuses.
pub fn answer_to_json(answer: &pb::GetOnlineFeaturesResponse, event_timestamps: bool) -> Value {
    let columns: Vec<Value> = answer.columns.iter().map(|column| column_to_json(column, event_timestamps)).collect();
    json!({"columns": columns, "registry_version": answer.registry_version})
}

fn column_to_json(column: &pb::Column, event_timestamps: bool) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), Value::String(column.name.clone()));
    object.insert("type".to_owned(), Value::String(column.r#type.clone()));
    object.insert("values".to_owned(), Value::Array(values_to_json(column)));
    if !column.statuses.is_empty() {
        let statuses = column.statuses().map(|status| Value::String(status.as_str_name().to_owned()));
        object.insert("statuses".to_owned(), statuses.collect());
        if event_timestamps {
            let instants = column.event_timestamps.iter().enumerate().map(|(row, micros)| {
                let is_known = is_valid(&column.event_timestamps_validity, row);
                if is_known { instant_to_json(*micros) } else { Value::Null }
            });
            object.insert("event_timestamps".to_owned(), instants.collect());
        }
    }
    Value::Object(object)
}

fn is_valid(validity: &[u8], row: usize) -> bool {
    validity.is_empty() || validity.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

/// One JSON value a row.
pub fn values_to_json(column: &pb::Column) -> Vec<Value> {
    let Some(values) = &column.values else { return Vec::new() };
    let value_type: Option<ValueType> = column.r#type.parse().ok();
    let starts = |lengths: &[u32]| {
        let mut next = 0;
        let bounds = lengths.iter().map(move |length| {
            let start = next;
            next += *length as usize;
            start..next
        });
        bounds.collect::<Vec<_>>()
    };
    let (items, map_keys, bounds) = match values {
        Values::Lists(lists) => {
            (lists.items.as_deref().map(values_to_json).unwrap_or_default(), Vec::new(), starts(&lists.lengths))
        }
        Values::Maps(maps) => (
            maps.values.as_deref().map(values_to_json).unwrap_or_default(),
            maps.keys.as_deref().map(values_to_json).unwrap_or_default(),
            starts(&maps.lengths),
        ),
        _ => (Vec::new(), Vec::new(), Vec::new()),
    };
    let row_value = |row: usize| match values {
        _ if !is_valid(&column.validity, row) => Value::Null,
        Values::Bools(bools) => Value::Bool(bools.values[row]),
        Values::Int32s(ints) if value_type == Some(ValueType::Date) => date_to_json(ints.values[row]),
        Values::Int32s(ints) => Value::from(ints.values[row]),
        Values::Int64s(ints) if value_type == Some(ValueType::Timestamp) => instant_to_json(ints.values[row]),
        Values::Int64s(ints) => Value::from(ints.values[row]),
        Values::Floats(floats) => float32_to_json(floats.values[row]),
        Values::Doubles(doubles) => float64_to_json(doubles.values[row]),
        Values::Strings(strings) => Value::String(strings.values[row].clone()),
        Values::BytesValues(bytes) => {
            Value::String(base64::engine::general_purpose::STANDARD.encode(&bytes.values[row]))
        }
        Values::Lists(_) => items.get(bounds[row].clone()).map(<[Value]>::to_vec).unwrap_or_default().into(),
        Values::Maps(_) => {
            let keys = map_keys.get(bounds[row].clone()).unwrap_or_default().iter().map(key_text);
            let values = items.get(bounds[row].clone()).unwrap_or_default().iter().cloned();
            Value::Object(keys.zip(values).collect())
        }
    };
    (0..row_count(values)).map(row_value).collect()
}

fn key_text(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

fn instant_to_json(micros: i64) -> Value {
    Value::String(EventTimestamp::from_micros(micros).to_string())
}

fn date_to_json(days: i32) -> Value {
    let date = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0);
    Value::String(date.map_or_else(|| format!("{days}d"), |date| date.format("%Y-%m-%d").to_string()))
}

fn float64_to_json(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None => Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

/// The shortest decimal that reads back as the same float32.
fn float32_to_json(value: f32) -> Value {
    match value.to_string().parse::<f64>() {
        Ok(shortest) if value.is_finite() => float64_to_json(shortest),
        _ => float64_to_json(f64::from(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::columns::encode_column;

    fn round_trip(values: Value) -> Value {
        let array = column_from_json("c", values.as_array().unwrap()).unwrap();
        Value::Array(values_to_json(&encode_column("c", &array)))
    }

    #[test]
    fn values_keep_their_kind_and_precision() {
        for values in [
            json!([9_007_199_254_740_993_i64, null, i64::MIN]),
            json!([0.1, null, 1e300]),
            json!(["", null, "ü"]),
            json!([true, null]),
            json!([[1, null], null, []]),
            json!([0.5, "NaN", null, "-Infinity"]),
            json!(["NaN", "a"]),
            json!([["a"], ["b", "c"]]),
        ] {
            assert_eq!(round_trip(values.clone()), values);
        }
        assert_eq!(
            round_trip(json!([u64::MAX, null])),
            json!(["18446744073709551615", null]),
            "the wire has no such number"
        );
        assert_eq!(float32_to_json(0.1), json!(0.1));
        assert_eq!(float64_to_json(f64::NEG_INFINITY), json!("-Infinity"));
    }

    #[test]
    fn values_of_several_kinds_are_refused_with_their_row() {
        for (values, expected) in [
            (json!([1, "a"]), "row 2: column `c` holds a text, and a number before it; send values of one kind"),
            (json!([null, true, 1]), "row 3: column `c` holds a number, and a boolean before it"),
            (json!([{"a": 1}]), "column `c` holds objects"),
            (json!([[1], [], [[1]]]), "row 3: column `c` holds a list of lists"),
            (json!([[], [1, 2], [], [3, "a"]]), "row 4: column `c` holds a text, and a number before it"),
            (json!([u64::MAX, -1]), "row 1: column `c` holds 18446744073709551615, which no type holds beside"),
            (json!([0.5, (1_i64 << 53) + 1]), "row 2: column `c` holds 9007199254740993, which cannot stand exactly"),
        ] {
            let error = column_from_json("c", values.as_array().unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{values}: {error}");
        }
    }
}
