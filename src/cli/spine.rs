//! Reading a spine: typed files as they are, text files by the types that the request needs.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, StringBuilder};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field as ArrowField, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{ExecutionPlan, collect_partitioned};
use datafusion::prelude::{DataFrame, SessionContext};
use serde_json::Value;

use super::error::CliError;
use super::project::Project;
use super::streams::streamed_sources;
use crate::compile::{Compiler, parquet_table};
use crate::definition::{EVENT_TIMESTAMP, Field, ValueType};
use crate::error::error_chain;
use crate::offline_store::event_providers;
use crate::retrieval::{Catalog, ResolvedRequest, RetrievalError, key_array};
use crate::serving::json::{JsonColumnError, column_from_json};
use crate::text_files::{Cell, CellKinds, Column, Records, csv_array, parse_cells, parse_object};
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
        "csv" => return csv_spine(path, resolved, timestamp_column),
        "ndjson" | "jsonl" | "json" => return ndjson_spine(path, resolved, timestamp_column),
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

/// The rows of a frame in the order of its files.
async fn collect(frame: DataFrame) -> Result<RecordBatch, DataFusionError> {
    let schema = Arc::clone(frame.schema().inner());
    let context = Arc::new(frame.task_ctx());
    // Else a partition that is idle takes over what stands in another one.
    let in_order = |node: Arc<dyn ExecutionPlan>| {
        Ok(match node.with_preserve_order(true) {
            Some(in_order) => Transformed::yes(in_order),
            None => Transformed::no(node),
        })
    };
    let plan = frame.create_physical_plan().await?.transform_up(in_order)?.data;
    // Partitions are consecutive parts of the file: one after the other they keep its order.
    let partitions = collect_partitioned(plan, context).await?;
    Ok(concat_batches(&schema, partitions.iter().flatten())?)
}

async fn query(project: &Project, catalog: &Catalog, path: &str) -> Result<DataFrame, CliError> {
    let sql = read_text(path)?;
    let context = project.engine()?.session();
    let definitions = Arc::new(catalog.definitions().clone());
    let tables = project.offline_store()?.event_tables(streamed_sources(&definitions)).await?;
    let events = event_providers(&tables, &context).await?;
    let compiler = Compiler::new(Arc::clone(&definitions), project.folder.clone(), context.clone()).with_events(events);
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

/// The rows of a text file, and the line that each begins on.
struct TextRows<T> {
    lines: Vec<usize>,
    columns: Vec<(String, T)>,
}

/// How a text file's column is read: by its declared type, or by what it holds.
fn declared_field(
    name: &str,
    resolved: &ResolvedRequest,
    timestamp_column: Option<&str>,
    looks_like_instants: impl FnOnce() -> bool,
) -> Option<Field> {
    let declared = resolved.join_keys.iter().chain(&resolved.request_values).find(|field| field.name == name);
    declared.cloned().or_else(|| {
        let is_time = name == timestamp_column.unwrap_or(EVENT_TIMESTAMP) || looks_like_instants();
        is_time.then(|| Field { name: name.to_owned(), value_type: ValueType::Timestamp, description: None })
    })
}

/// Join keys, request values and times in their declared types; other columns as what they hold, each value unchanged.
fn ndjson_spine(
    path: &str,
    resolved: &ResolvedRequest,
    timestamp_column: Option<&str>,
) -> Result<RecordBatch, CliError> {
    let TextRows { lines, columns } = ndjson_rows(path)?;
    let at = |row: usize| format!("{path}:{}", lines[row]);
    let mut arrays = Vec::with_capacity(columns.len());
    for (name, values) in columns {
        let instants = || look_like_instants(values.iter().filter(|value| !value.is_null()).map(Value::as_str));
        let declared = declared_field(&name, resolved, timestamp_column, instants);
        let array = column_from_json(&name, &values).map_err(|JsonColumnError { column, row, problem }| {
            let problem = format!("column `{column}` {problem}");
            CliError::Data { file: row.map_or_else(|| path.to_owned(), at), problem }
        })?;
        let array = match declared {
            None => array,
            Some(field) => key_array(&array, &field).map_err(|error| match error {
                RetrievalError::ColumnValue { column, row, problem } => {
                    CliError::Data { file: at(row), problem: format!("column `{column}` {problem}") }
                }
                error => error.into(),
            })?,
        };
        arrays.push((name, array));
    }
    spine_of(path, lines.len(), arrays)
}

fn csv_spine(path: &str, resolved: &ResolvedRequest, timestamp_column: Option<&str>) -> Result<RecordBatch, CliError> {
    let TextRows { lines, columns } = csv_rows(path)?;
    let mut arrays = Vec::with_capacity(columns.len());
    for (name, cells) in columns {
        let instants = || look_like_instants(cells.iter().flatten().map(Some));
        let array = match declared_field(&name, resolved, timestamp_column, instants) {
            None => carried(&cells),
            Some(field) => {
                csv_array(path, &lines, &cells, &Column::declared(&name, &field.value_type)).map_err(|error| {
                    CliError::Data { file: format!("{path}:{}", error.line), problem: error.problem.to_string() }
                })?
            }
        };
        arrays.push((name, array));
    }
    spine_of(path, lines.len(), arrays)
}

fn spine_of(path: &str, rows: usize, columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch, CliError> {
    let field = |(name, array): &(String, ArrayRef)| ArrowField::new(name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options)
        .map_err(|error| CliError::Data { file: path.to_owned(), problem: error.to_string() })
}

fn ndjson_rows(path: &str) -> Result<TextRows<Vec<Value>>, CliError> {
    let text = read_text(path)?;
    let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let data = |problem: String| CliError::Data { file: format!("{path}:{}", number + 1), problem };
        let object = parse_object(line).map_err(data)?;
        for (name, value) in object {
            let column = match columns.iter().position(|(known, _)| *known == name) {
                Some(position) => &mut columns[position].1,
                None => &mut columns.push_mut((name, vec![Value::Null; lines.len()])).1,
            };
            column.push(value);
        }
        lines.push(number + 1);
        for (_, column) in &mut columns {
            column.resize(lines.len(), Value::Null);
        }
    }
    Ok(TextRows { lines, columns })
}

fn csv_rows(path: &str) -> Result<TextRows<StringArray>, CliError> {
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
    let names: Vec<String> = cells.iter().map(|cell| cell.as_deref().unwrap_or_default().to_owned()).collect();
    let mut columns: Vec<StringBuilder> = names.iter().map(|_| StringBuilder::new()).collect();
    let mut lines = Vec::new();
    while let Some(line) = read(&mut cells)? {
        if cells.len() != columns.len() {
            let problem = format!("{} cells, and the header has {}", cells.len(), columns.len());
            return Err(data(line, problem));
        }
        for (column, cell) in columns.iter_mut().zip(&cells) {
            column.append_option(cell.as_deref());
        }
        lines.push(line);
    }
    let finished = columns.iter_mut().map(StringBuilder::finish);
    Ok(TextRows { lines, columns: names.into_iter().zip(finished).collect() })
}

/// Whether the column holds instants and nothing else: at least one, each with a time of day.
///
/// `present`: the values that are not null; None is one that is no text.
fn look_like_instants<'t>(present: impl Iterator<Item = Option<&'t str>>) -> bool {
    let is_instant = |text: &str| text.len() > 10 && EventTimestamp::parse(text).is_ok();
    let mut present = present.peekable();
    present.peek().is_some() && present.all(|value| value.is_some_and(is_instant))
}

/// Whole numbers, numbers or booleans where all cells are written as one would write these, else texts.
fn carried(cells: &StringArray) -> ArrayRef {
    let mut kinds = CellKinds::default();
    cells.iter().flatten().for_each(|cell| kinds.add(cell));
    parse_cells(cells, &kinds.carried_type()).unwrap_or_else(|_| Arc::new(cells.clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::engine::Engine;

    #[test]
    fn other_columns_are_what_their_values_look_like() {
        let data_type = |cells: &[&str]| carried(&StringArray::from(cells.to_vec())).data_type().to_string();
        assert_eq!(["1", "2.5", "x", "05"].map(|text| data_type(&[text])), ["Int64", "Float64", "Utf8", "Utf8"]);
        assert_eq!(data_type(&["1", "x"]), "Utf8");
        assert!(look_like_instants([Some("2013-01-01T00:00:00Z")].into_iter()));
        for others in [&[Some("2013")][..], &[Some("2013-01-01T00:00:00Z"), None], &[]] {
            assert!(!look_like_instants(others.iter().copied()), "{others:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_file_is_read_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spine.parquet");
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..2_000_000));
        let rows = RecordBatch::try_from_iter([("number", numbers)]).unwrap();
        let properties = WriterProperties::builder().set_dictionary_enabled(false);
        let properties = properties.set_max_row_group_row_count(Some(100_000)).build();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let context = Engine::new(None).unwrap().session();
        for _ in 0..20 {
            let table = parquet_table(&context, std::path::Path::new(""), path.to_str().unwrap()).await.unwrap();
            let read = collect(context.read_table(table).unwrap()).await.unwrap();
            assert_eq!(read.column(0), rows.column(0));
        }
    }
}
