//! The rows of a file that is pushed, as its format has them: what a value has to be, the source's admission says.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use datafusion::prelude::DataFrame;
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::error::CliError;
use super::project::Project;
use crate::compile::Compiler;
use crate::definition::{BatchLocation, Definitions, Field, FileFormat, Source, ValueType};
use crate::stream_ingestion::PushedRows;

/// Rows that go together.
pub const ROWS_MAX: usize = 16 * 1024;
/// Bytes of texts that go together, about.
const TEXT_BYTES_MAX: usize = 4 << 20;

pub type FileRows = Pin<Box<dyn Stream<Item = Result<PushedRows, CliError>> + Send>>;

/// A file with rows of a source.
pub struct PushedFile {
    /// As the caller names it.
    name: String,
    path: std::path::PathBuf,
    format: FileFormat,
}

impl PushedFile {
    /// # Errors
    /// A name whose ending tells no format.
    pub fn new(name: &str) -> Result<Self, CliError> {
        let path = std::path::absolute(name);
        let path = path.map_err(|source| CliError::Io { action: "tell the working directory".to_owned(), source })?;
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("parquet") => FileFormat::Parquet,
            Some("csv") => FileFormat::Csv,
            Some("ndjson" | "json" | "jsonl") => FileFormat::Json,
            _ => return Err(CliError::Usage(format!("`{name}` is no .parquet, .csv or .ndjson file"))),
        };
        Ok(PushedFile { name: name.to_owned(), path, format })
    }

    /// The rows, in the order of the file.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of its format.
    pub async fn rows(&self, project: &Project, source: &Source) -> Result<FileRows, CliError> {
        if self.format == FileFormat::Json {
            return self.lines().await;
        }
        let frame = self.frame(project, source).await?;
        let rows = frame.execute_stream().await.map_err(|error| rows_error(&error))?;
        let columns: Vec<Field> = source.stream.iter().flat_map(|stream| stream.columns.iter().cloned()).collect();
        let rename = source.rename.clone();
        let is_csv = self.format == FileFormat::Csv;
        Ok(Box::pin(rows.map(move |batch| {
            let batch = batch.map_err(|error| rows_error(&error))?;
            if !is_csv {
                return Ok(PushedRows::Batch(batch));
            }
            let type_of = |name: &str| {
                let name = rename.get(name).map_or(name, String::as_str);
                columns.iter().find(|column| column.name == name).map(|column| &column.value_type)
            };
            Ok(PushedRows::Json(cells_as_json(&batch, type_of)))
        })))
    }

    /// The file as a table with its own columns; the cells of one of texts are texts.
    async fn frame(&self, project: &Project, source: &Source) -> Result<DataFrame, CliError> {
        let plain = Source {
            batch: Some(BatchLocation { format: self.format, path: self.path.display().to_string() }),
            schema: Vec::new(),
            rename: Default::default(),
            event_timestamp: None,
            created_timestamp: None,
            stream: None,
            stream_from: None,
            event_id: None,
            ..source.clone()
        };
        let engine = project.engine()?;
        let compiler = |file: &Source| {
            let definitions = Arc::new(Definitions { sources: vec![file.clone()], ..Definitions::default() });
            Compiler::new(definitions, project.folder.clone(), engine.session())
        };
        let frame = compiler(&plain).source(&plain).await?;
        if self.format == FileFormat::Parquet {
            return Ok(frame);
        }
        let text = |field: &Arc<arrow::datatypes::Field>| Field {
            name: field.name().clone(),
            value_type: ValueType::String,
            description: None,
        };
        let texts = Source { schema: frame.schema().fields().iter().map(text).collect(), ..plain };
        Ok(compiler(&texts).source(&texts).await?)
    }

    /// The lines of a file of JSON objects, but for empty ones.
    async fn lines(&self) -> Result<FileRows, CliError> {
        let name = self.name.clone();
        let failed = move |source| CliError::Io { action: format!("read `{name}`"), source };
        let file = tokio::fs::File::open(&self.path).await.map_err(&failed)?;
        let lines = BufReader::with_capacity(1 << 20, file).lines();
        Ok(Box::pin(futures::stream::try_unfold((lines, failed), |(mut lines, failed)| async move {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while rows.len() < ROWS_MAX && bytes < TEXT_BYTES_MAX {
                let Some(line) = lines.next_line().await.map_err(&failed)? else { break };
                if !line.trim().is_empty() {
                    bytes += line.len();
                    rows.push(line);
                }
            }
            Ok((!rows.is_empty()).then_some((PushedRows::Json(rows), (lines, failed))))
        })))
    }
}

fn rows_error(error: &datafusion::error::DataFusionError) -> CliError {
    match error.find_root() {
        datafusion::error::DataFusionError::External(inner) => CliError::Refused(inner.to_string()),
        root => CliError::Refused(root.strip_backtrace()),
    }
}

/// Rows of cells as JSON objects: numbers and truth values where the column has them and the cell is one, else texts.
fn cells_as_json<'t>(batch: &RecordBatch, type_of: impl Fn(&str) -> Option<&'t ValueType>) -> Vec<String> {
    let schema = batch.schema();
    let columns: Vec<_> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .filter_map(|(field, array)| Some((field.name(), type_of(field.name()), array.as_string_opt::<i32>()?)))
        .collect();
    let row = |row: usize| {
        let cells = columns.iter().map(|(name, value_type, cells)| {
            let cell = cells.is_valid(row).then(|| cells.value(row));
            ((*name).clone(), cell.map_or(Value::Null, |cell| cell_as_json(cell, *value_type)))
        });
        Value::Object(cells.collect()).to_string()
    };
    (0..batch.num_rows()).map(row).collect()
}

fn cell_as_json(cell: &str, value_type: Option<&ValueType>) -> Value {
    let text = || Value::from(cell);
    match value_type {
        // Only texts have an empty value.
        Some(other) if cell.is_empty() && !matches!(other, ValueType::String | ValueType::Bytes) => Value::Null,
        Some(ValueType::Bool) if cell.eq_ignore_ascii_case("true") => true.into(),
        Some(ValueType::Bool) if cell.eq_ignore_ascii_case("false") => false.into(),
        Some(ValueType::Int32 | ValueType::Int64) => cell.parse::<i64>().map_or_else(|_| text(), Value::from),
        Some(ValueType::Float32 | ValueType::Float64) => match cell.parse::<f64>() {
            Ok(float) if float.is_finite() => Value::from(float),
            // A number that is too great for a float is none.
            Ok(_) if cell.bytes().any(|byte| byte.is_ascii_digit()) => text(),
            Ok(float) if float.is_nan() => "NaN".into(),
            Ok(float) => if float > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            Err(_) => text(),
        },
        Some(ValueType::List(_) | ValueType::Map(..)) => serde_json::from_str(cell).unwrap_or_else(|_| text()),
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_values_of_their_columns_types_where_they_can_be() {
        let check = |value_type: &str, cell: &str, expected: Value| {
            let value_type: ValueType = value_type.parse().unwrap();
            assert_eq!(cell_as_json(cell, Some(&value_type)), expected, "{value_type} {cell}");
        };
        check("int64", "12", json!(12));
        check("int64", "one", json!("one"));
        check("int64", "", Value::Null);
        check("float64", "1.5", json!(1.5));
        check("float64", "inf", json!("Infinity"));
        check("float64", "1e400", json!("1e400"));
        check("bool", "TRUE", json!(true));
        check("string", "12", json!("12"));
        check("string", "", json!(""));
        check("timestamp", "2024-05-01", json!("2024-05-01"));
        check("map<string, int64>", "{\"a\": 1}", json!({"a": 1}));
    }
}
