//! Rows as CSV and JSON, in the forms that are read back as the same values.
//!
//! Bytes are base64, NaN and the infinities are the words `NaN`, `Infinity` and `-Infinity`. In CSV a null is an empty
//! cell, the empty string is `""`, and lists and maps are their JSON.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, AsArray, MapArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Writes bytes and floats as JSON has them in requests and answers.
#[derive(Debug)]
pub struct JsonForms;

impl EncoderFactory for JsonForms {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => base64_of(|row| array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => base64_of(|row| array.as_binary::<i64>().value(row)),
            DataType::BinaryView => base64_of(|row| array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => base64_of(|row| array.as_fixed_size_binary().value(row)),
            DataType::Float16 => number(|row| f32::from(array.as_primitive::<Float16Type>().value(row))),
            DataType::Float32 => number(|row| array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => number(|row| array.as_primitive::<Float64Type>().value(row)),
            DataType::Map(..) => objects(array.as_map(), options)?,
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct EncodeWith<F>(F);

impl<F: FnMut(usize, &mut Vec<u8>)> Encoder for EncodeWith<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        (self.0)(row, out);
    }
}

fn base64_of<'a>(bytes: impl Fn(usize) -> &'a [u8] + 'a) -> Box<dyn Encoder + 'a> {
    Box::new(EncodeWith(move |row, out: &mut Vec<u8>| {
        out.extend_from_slice(format!("\"{}\"", STANDARD.encode(bytes(row))).as_bytes());
    }))
}

/// The shortest decimal that reads back as the same number.
fn number<'a, N: Into<f64> + Copy + std::fmt::Debug>(value: impl Fn(usize) -> N + 'a) -> Box<dyn Encoder + 'a> {
    Box::new(EncodeWith(move |row, out: &mut Vec<u8>| {
        let value = value(row);
        let text = match value.into() {
            float if float.is_nan() => "\"NaN\"".to_owned(),
            f64::INFINITY => "\"Infinity\"".to_owned(),
            f64::NEG_INFINITY => "\"-Infinity\"".to_owned(),
            _ => format!("{value:?}"),
        };
        out.extend_from_slice(text.as_bytes());
    }))
}

/// Maps as objects: a key that JSON has no text for is the text of its JSON.
fn objects<'a>(maps: &'a MapArray, options: &'a EncoderOptions) -> Result<Box<dyn Encoder + 'a>, ArrowError> {
    let fields = maps.entries().fields();
    let mut keys = make_encoder(&fields[0], maps.keys().as_ref(), options)?;
    let mut values = make_encoder(&fields[1], maps.values().as_ref(), options)?;
    let offsets = maps.value_offsets();
    Ok(Box::new(EncodeWith(move |row: usize, out: &mut Vec<u8>| {
        let start = offsets[row] as usize;
        out.push(b'{');
        for entry in start..offsets[row + 1] as usize {
            if entry > start {
                out.push(b',');
            }
            let key = out.len();
            keys.encode(entry, out);
            if out.get(key) != Some(&b'"') {
                out.insert(key, b'"');
                out.push(b'"');
            }
            out.push(b':');
            if values.is_null(entry) {
                out.extend_from_slice(b"null");
            } else {
                values.encode(entry, out);
            }
        }
        out.push(b'}');
    })))
}

/// Adds the line of a CSV header.
pub fn write_csv_header(schema: &SchemaRef, out: &mut String) {
    for (position, field) in schema.fields().iter().enumerate() {
        write_cell(position, Some(field.name()), out);
    }
    out.push('\n');
}

/// Adds a line of CSV for each row.
///
/// # Errors
/// A type that has no text.
pub fn write_csv(rows: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
    let schema = rows.schema();
    let json = EncoderOptions::default().with_encoder_factory(Arc::new(JsonForms));
    let display = FormatOptions::default();
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (field, array) in schema.fields().iter().zip(rows.columns()) {
        columns.push(match array.data_type() {
            data_type if data_type.is_nested() || data_type.is_floating() || is_binary(data_type) => {
                Cells::Json(make_encoder(field, array.as_ref(), &json)?)
            }
            _ => Cells::Plain(ArrayFormatter::try_new(array.as_ref(), &display)?),
        });
    }
    let nulls: Vec<_> = rows.columns().iter().map(|array| array.logical_nulls()).collect();
    let mut text = String::new();
    for row in 0..rows.num_rows() {
        for (position, column) in columns.iter_mut().enumerate() {
            let is_null = nulls[position].as_ref().is_some_and(|nulls| nulls.is_null(row));
            text.clear();
            if !is_null {
                column.write(row, &mut text)?;
            }
            write_cell(position, (!is_null).then_some(&text), out);
        }
        out.push('\n');
    }
    Ok(())
}

fn is_binary(data_type: &DataType) -> bool {
    use DataType as D;
    matches!(data_type, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_))
}

enum Cells<'a> {
    Json(NullableEncoder<'a>),
    Plain(ArrayFormatter<'a>),
}

impl Cells<'_> {
    fn write(&mut self, row: usize, text: &mut String) -> Result<(), ArrowError> {
        match self {
            Cells::Plain(values) => {
                write!(text, "{}", values.value(row)).map_err(|error| ArrowError::ExternalError(Box::new(error)))
            }
            Cells::Json(values) => {
                let mut json = Vec::new();
                values.encode(row, &mut json);
                let json = String::from_utf8_lossy(&json);
                // Base64 and the words for NaN and infinities need no quotes here.
                text.push_str(json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(&json));
                Ok(())
            }
        }
    }
}

fn write_cell(position: usize, text: Option<&String>, out: &mut String) {
    if position > 0 {
        out.push(',');
    }
    let Some(text) = text else { return };
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, BinaryArray, Float32Array, Float64Array, Float64Builder, Int64Array, Int64Builder, ListArray,
        MapBuilder, StringArray,
    };

    use super::*;

    fn rows() -> RecordBatch {
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(f64::NAN), None]), None]);
        let columns: [(&str, ArrayRef); 6] = [
            ("text", Arc::new(StringArray::from(vec![Some(""), None]))),
            ("said, \"so\"", Arc::new(StringArray::from(vec!["a \"b\",\nc", "plain"]))),
            ("bytes", Arc::new(BinaryArray::from(vec![Some([0, 255].as_slice()), None]))),
            ("float", Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, 1e300]))),
            ("float32", Arc::new(Float32Array::from(vec![0.1, f32::NAN]))),
            ("list", Arc::new(lists)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn csv_tells_null_from_the_empty_string() {
        let rows = rows();
        let mut text = String::new();
        write_csv_header(&rows.schema(), &mut text);
        write_csv(&rows, &mut text).unwrap();
        let expected = "text,\"said, \"\"so\"\"\",bytes,float,float32,list\n\
                        \"\",\"a \"\"b\"\",\nc\",AP8=,-Infinity,0.1,\"[\"\"NaN\"\",null]\"\n\
                        ,plain,,1e300,NaN,\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_keeps_bytes_and_what_is_no_number() {
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::new(JsonForms))
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        writer.write(&rows()).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            [&lines[0]["bytes"], &lines[0]["float"], &lines[0]["float32"], &lines[0]["list"]],
            [&serde_json::json!("AP8="), &"-Infinity".into(), &0.1.into(), &serde_json::json!(["NaN", null])]
        );
        assert_eq!([&lines[1]["bytes"], &lines[1]["float32"]], [&serde_json::Value::Null, &"NaN".into()]);
    }

    #[test]
    fn maps_are_objects_whatever_their_keys_are() {
        let mut maps = MapBuilder::new(None, Float64Builder::new(), Int64Builder::new());
        maps.keys().append_slice(&[f64::NAN, 0.5]);
        maps.values().append_value(1);
        maps.values().append_null();
        maps.append(true).unwrap();
        maps.append(false).unwrap();
        maps.append(true).unwrap();
        let column: ArrayRef = Arc::new(maps.finish());
        let rows = RecordBatch::try_from_iter_with_nullable([("map", column, true)]).unwrap();
        let mut text = String::new();
        write_csv(&rows, &mut text).unwrap();
        assert_eq!(text, "\"{\"\"NaN\"\":1,\"\"0.5\"\":null}\"\n\n{}\n");
    }

    #[test]
    fn a_column_of_integers_is_written_exactly() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some((1 << 53) + 1), None]));
        let rows = RecordBatch::try_from_iter([("n", column.clone()), ("m", column)]).unwrap();
        let mut text = String::new();
        write_csv(&rows, &mut text).unwrap();
        assert_eq!(text, "9007199254740993,9007199254740993\n,\n");
    }
}
