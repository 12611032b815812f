//! Reading a spine: typed files as they are, text files by the types that the request needs.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field as ArrowField, Schema};
use datafusion::prelude::{DataFrame, SessionContext};
use serde_json::Value;

use super::error::CliError;
use super::project::Project;
use crate::compile::{Compiler, parquet_table};
use crate::definition::{EVENT_TIMESTAMP, Field, ValueType};
use crate::error::error_chain;
use crate::retrieval::{Catalog, ResolvedRequest, RetrievalError, key_array};
use crate::serving::json::column_from_json;
use crate::text_files::{Cell, CellKinds, Records, parse_cells, parse_object};
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
            let table = parquet_table(&context, std::path::Path::new(""), path).await;
            let table = table.map_err(|error| data(error_chain(&error)))?;
            collect(context.read_table(table).map_err(|error| data(error.to_string()))?).await
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
        let object = parse_object(line).map_err(data)?;
        for (name, value) in object {
            let column = match columns.iter().position(|(known, _)| *known == name) {
                Some(position) => &mut columns[position].1,
                None => &mut columns.push_mut((name, vec![Value::Null; rows])).1,
            };
            column.push(value);
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
    let mut records = Records::new(&text, 1);
    let mut cells: Vec<Cell<'_>> = Vec::new();
    let mut read = |cells: &mut Vec<_>| {
        records.read(cells).map_err(|quote| data(quote.line, "a quoted cell does not end".to_owned()))
    };
    if read(&mut cells)?.is_none() {
        return Err(data(1, "there is no header line".to_owned()));
    }
    let name = |cell: &Cell<'_>| cell.as_deref().unwrap_or_default().to_owned();
    let mut columns: Vec<TextColumn> = cells.iter().map(|cell| (name(cell), Vec::new())).collect();
    while let Some(line) = read(&mut cells)? {
        if cells.len() != columns.len() {
            let problem = format!("{} cells, and the header has {}", cells.len(), columns.len());
            return Err(data(line, problem));
        }
        for ((_, column), cell) in columns.iter_mut().zip(&cells) {
            column.push(cell.as_deref().map_or(Value::Null, Value::from));
        }
    }
    Ok(columns)
}

/// Join keys, request values and times in their declared types; other columns as what they hold, each value unchanged.
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
            Some(field) if is_csv => read_as(Arc::new(texts(&values)), field)?,
            Some(field) => read_as(column_from_json(&name, &values).map_err(|e| data(e.to_string()))?, field)?,
            None if is_csv => carried(&texts(&values)),
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

fn texts(values: &[Value]) -> StringArray {
    values.iter().map(Value::as_str).collect()
}

/// Whether the column holds instants and nothing else: at least one, each with a time of day.
fn look_like_instants(values: &[Value]) -> bool {
    let mut present = values.iter().filter(|value| !value.is_null()).peekable();
    present.peek().is_some()
        && present
            .all(|value| value.as_str().is_some_and(|text| text.len() > 10 && EventTimestamp::parse(text).is_ok()))
}

/// Whole numbers, numbers or booleans where all cells are written as one would write these, else texts.
fn carried(cells: &StringArray) -> ArrayRef {
    let mut kinds = CellKinds::default();
    cells.iter().flatten().for_each(|cell| kinds.add(cell));
    parse_cells(cells, &kinds.carried_type()).unwrap_or_else(|_| Arc::new(cells.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_columns_are_what_their_values_look_like() {
        let column = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>();
        let data_type = |cells: &[&str]| carried(&texts(&column(cells))).data_type().to_string();
        assert_eq!(["1", "2.5", "x", "05"].map(|text| data_type(&[text])), ["Int64", "Float64", "Utf8", "Utf8"]);
        assert_eq!(data_type(&["1", "x"]), "Utf8");
        assert!(look_like_instants(&column(&["2013-01-01T00:00:00Z"])));
        assert!(!look_like_instants(&column(&["2013"])));
    }
}
