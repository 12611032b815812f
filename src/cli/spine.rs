//! Reading a spine: typed files as they are, text files by the types that the request needs.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field as ArrowField, Schema};
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionContext};
use serde_json::Value;

use super::error::CliError;
use super::project::Project;
use crate::compile::Compiler;
use crate::definition::{EVENT_TIMESTAMP, Field, ValueType};
use crate::retrieval::{Catalog, ResolvedRequest, RetrievalError, key_array};
use crate::serving::json::column_from_json;
use crate::time::EventTimestamp;

/// The rows of a spine: a .parquet, .csv or .ndjson file, a Delta table, or a .sql file with a query over the sources.
pub async fn read_spine(
    project: &Project,
    catalog: &Catalog,
    resolved: &ResolvedRequest,
    path: &str,
    timestamp_column: Option<&str>,
) -> Result<RecordBatch, CliError> {
    let data = |problem: String| CliError::Data { file: path.to_owned(), problem };
    let local = std::path::Path::new(path);
    if !path.contains("://") && !local.exists() {
        return Err(data("there is no such file or folder".to_owned()));
    }
    let extension = local.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let collected = match extension {
        "csv" => return typed_columns(path, csv_columns(path)?, resolved, timestamp_column),
        "ndjson" | "jsonl" | "json" => {
            return typed_columns(path, ndjson_columns(path)?, resolved, timestamp_column);
        }
        "sql" => collect(query(project, catalog, path).await?).await,
        _ if local.is_dir() || (path.contains("://") && extension != "parquet") => {
            collect(delta_frame(project, path).await?).await
        }
        "parquet" => {
            let context = project.engine()?.session();
            let options = ParquetReadOptions::default();
            let frame = context.read_parquet(path, options).await.map_err(|error| data(error.to_string()))?;
            collect(frame).await
        }
        _ => return Err(data("a spine is a .parquet, .csv, .ndjson or .sql file, or a Delta table".to_owned())),
    };
    collected.map_err(|error| data(error.to_string()))
}

async fn collect(frame: DataFrame) -> Result<RecordBatch, datafusion::error::DataFusionError> {
    let schema = Arc::clone(frame.schema().inner());
    // Partitions are consecutive parts of the file: one after the other they keep its order.
    let partitions = frame.collect_partitioned().await?;
    Ok(concat_batches(&schema, partitions.iter().flatten())?)
}

async fn query(project: &Project, catalog: &Catalog, path: &str) -> Result<DataFrame, CliError> {
    let sql = read_text(path)?;
    let context = project.engine()?.session();
    let definitions = Arc::new(catalog.definitions().clone());
    let compiler = Compiler::new(Arc::clone(&definitions), project.folder.clone(), context.clone());
    register_sources(&compiler, &definitions, &context, &sql).await?;
    let read_only = datafusion::execution::context::SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    context
        .sql_with_options(&sql, read_only)
        .await
        .map_err(|error| CliError::Data { file: path.to_owned(), problem: error.strip_backtrace() })
}

/// Makes the sources that the query names its tables.
async fn register_sources(
    compiler: &Compiler,
    definitions: &crate::definition::Definitions,
    context: &SessionContext,
    sql: &str,
) -> Result<(), CliError> {
    let failed = |error| CliError::Engine(Box::new(error));
    for source in definitions.sources.iter().filter(|source| sql.contains(source.name.as_str())) {
        let frame = compiler.source(source).await?;
        context.register_table(source.name.as_str(), frame.into_view()).map_err(failed)?;
    }
    Ok(())
}

async fn delta_frame(project: &Project, path: &str) -> Result<DataFrame, CliError> {
    let failed = |problem: String| CliError::Data { file: path.to_owned(), problem };
    let url = deltalake::ensure_table_uri(path).map_err(|error| failed(error.to_string()))?;
    let table = deltalake::open_table(url).await.map_err(|error| failed(error.to_string()))?;
    let provider = table.table_provider().await.map_err(|error| failed(error.to_string()))?;
    project.engine()?.session().read_table(provider).map_err(|error| failed(error.to_string()))
}

fn read_text(path: &str) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::Io { action: format!("read `{path}`"), source })
}

/// A column of a text file: its name, and a value or null a row.
type TextColumn = (String, Vec<Value>);

fn ndjson_columns(path: &str) -> Result<Vec<TextColumn>, CliError> {
    let text = read_text(path)?;
    let mut columns: Vec<TextColumn> = Vec::new();
    let mut rows = 0;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let data = |problem: String| CliError::Data { file: format!("{path}:{}", number + 1), problem };
        let value: Value = serde_json::from_str(line).map_err(|error| data(format!("not JSON: {error}")))?;
        let Value::Object(object) = value else { return Err(data("not a JSON object".to_owned())) };
        for (name, value) in object {
            let column = match columns.iter().position(|(known, _)| *known == name) {
                Some(position) => &mut columns[position].1,
                None => &mut columns.push_mut((name, vec![Value::Null; rows])).1,
            };
            if column.len() == rows {
                column.push(value);
            }
        }
        rows += 1;
        for (_, column) in &mut columns {
            column.resize(rows, Value::Null);
        }
    }
    Ok(columns)
}

fn csv_columns(path: &str) -> Result<Vec<TextColumn>, CliError> {
    let text = read_text(path)?;
    let data = |line: usize, problem: String| CliError::Data { file: format!("{path}:{line}"), problem };
    let mut records = split_csv(&text).map_err(|line| data(line, "a quoted cell does not end".to_owned()))?.into_iter();
    let Some((_, header)) = records.next() else { return Err(data(1, "there is no header line".to_owned())) };
    let mut columns: Vec<TextColumn> = header.into_iter().map(|name| (name.unwrap_or_default(), Vec::new())).collect();
    for (line, record) in records {
        if record.len() != columns.len() {
            let problem = format!("{} cells, and the header has {}", record.len(), columns.len());
            return Err(data(line, problem));
        }
        for ((_, column), cell) in columns.iter_mut().zip(record) {
            column.push(cell.map_or(Value::Null, Value::String));
        }
    }
    Ok(columns)
}

/// Records with the line each begins on. An empty cell is null, `""` is the empty string.
///
/// # Errors
/// The line of a quote that is never closed.
fn split_csv(text: &str) -> Result<Vec<(usize, Vec<Option<String>>)>, usize> {
    let mut records = Vec::new();
    let mut record: Vec<Option<String>> = Vec::new();
    let (mut cell, mut is_quoted, mut line, mut began) = (String::new(), false, 1, 1);
    let mut chars = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    let finish = |cell: &mut String, is_quoted: &mut bool| {
        let is_null = cell.is_empty() && !*is_quoted;
        *is_quoted = false;
        let text = std::mem::take(cell);
        if is_null { None } else { Some(text) }
    };
    while let Some(char) = chars.next() {
        match char {
            '"' if cell.is_empty() && !is_quoted => {
                is_quoted = true;
                let opened = line;
                loop {
                    match chars.next() {
                        None => return Err(opened),
                        Some('"') if chars.peek() == Some(&'"') => {
                            chars.next();
                            cell.push('"');
                        }
                        Some('"') => break,
                        Some(inside) => {
                            line += usize::from(inside == '\n');
                            cell.push(inside);
                        }
                    }
                }
            }
            ',' => record.push(finish(&mut cell, &mut is_quoted)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                let is_blank = record.is_empty() && cell.is_empty() && !is_quoted;
                record.push(finish(&mut cell, &mut is_quoted));
                let done = std::mem::take(&mut record);
                if !is_blank {
                    records.push((began, done));
                }
                line += 1;
                began = line;
            }
            other => cell.push(other),
        }
    }
    if !record.is_empty() || !cell.is_empty() || is_quoted {
        record.push(finish(&mut cell, &mut is_quoted));
        records.push((began, record));
    }
    Ok(records)
}

/// Join keys, request values and times in their declared types, other columns in what their values look like.
fn typed_columns(
    path: &str,
    columns: Vec<TextColumn>,
    resolved: &ResolvedRequest,
    timestamp_column: Option<&str>,
) -> Result<RecordBatch, CliError> {
    let is_csv = path.ends_with(".csv");
    let rows = columns.first().map_or(0, |(_, values)| values.len());
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (name, values) in columns {
        let data = |problem: String| CliError::Data { file: path.to_owned(), problem };
        let declared = resolved.join_keys.iter().chain(&resolved.request_values).find(|field| field.name == name);
        let time = Field { name: name.clone(), value_type: ValueType::Timestamp, description: None };
        let declared = match declared {
            Some(declared) => Some(declared),
            None if name == timestamp_column.unwrap_or(EVENT_TIMESTAMP) || look_like_instants(&values) => Some(&time),
            None => None,
        };
        let array = match declared {
            Some(field) if is_csv => read_as(texts(&values), field)?,
            Some(field) => read_as(column_from_json(&name, &values).map_err(|e| data(e.to_string()))?, field)?,
            None if is_csv => infer(&values),
            None => column_from_json(&name, &values).map_err(|error| data(error.to_string()))?,
        };
        fields.push(ArrowField::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|error| CliError::Data { file: path.to_owned(), problem: error.to_string() })
}

fn read_as(array: ArrayRef, field: &Field) -> Result<ArrayRef, RetrievalError> {
    key_array(&array, field)
}

fn texts(values: &[Value]) -> ArrayRef {
    Arc::new(values.iter().map(Value::as_str).collect::<StringArray>())
}

/// Whether the column holds instants and nothing else: at least one, each with a time of day.
fn look_like_instants(values: &[Value]) -> bool {
    let mut present = values.iter().filter(|value| !value.is_null()).peekable();
    present.peek().is_some()
        && present
            .all(|value| value.as_str().is_some_and(|text| text.len() > 10 && EventTimestamp::parse(text).is_ok()))
}

/// Whole numbers, numbers, booleans, or texts: the first that all cells are.
fn infer(values: &[Value]) -> ArrayRef {
    use arrow::array::{BooleanArray, Float64Array, Int64Array};
    fn all<T: std::str::FromStr>(values: &[Value]) -> Option<Vec<Option<T>>> {
        let parse = |value: &Value| match value.as_str() {
            None => Some(None),
            Some(text) => text.parse::<T>().ok().map(Some),
        };
        values.iter().map(parse).collect()
    }
    if values.iter().all(Value::is_null) {
        return texts(values);
    }
    if let Some(ints) = all::<i64>(values) {
        return Arc::new(Int64Array::from(ints));
    }
    if let Some(floats) = all::<f64>(values) {
        return Arc::new(Float64Array::from(floats));
    }
    match all::<bool>(values) {
        Some(booleans) => Arc::new(BooleanArray::from(booleans)),
        None => texts(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str) -> Vec<Vec<Option<String>>> {
        split_csv(text).unwrap().into_iter().map(|(_, record)| record).collect()
    }

    #[test]
    fn an_empty_cell_is_null_and_an_empty_quote_is_the_empty_string() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(cells("a,b\n,\"\"\n"), [vec![some("a"), some("b")], vec![None, some("")]]);
        assert_eq!(cells("\u{feff}a\r\n\"x,\"\"y\n\"\r\n\r\nz"), [[some("a")], [some("x,\"y\n")], [some("z")]]);
        assert_eq!(cells("a,\n"), [vec![some("a"), None]]);
        assert_eq!(cells(""), Vec::<Vec<Option<String>>>::new());
        assert_eq!(split_csv("a\n\"b\n"), Err(2));
    }

    #[test]
    fn other_columns_are_what_their_values_look_like() {
        let column = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>();
        let data_type = |texts: &[&str]| infer(&column(texts)).data_type().to_string();
        assert_eq!(["1", "2.5", "x"].map(|text| data_type(&[text])), ["Int64", "Float64", "Utf8"]);
        assert_eq!(data_type(&["1", "x"]), "Utf8");
        assert!(look_like_instants(&column(&["2013-01-01T00:00:00Z"])));
        assert!(!look_like_instants(&column(&["2013"])));
    }
}
