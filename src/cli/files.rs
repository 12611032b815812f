//! Writing an answer's rows to a file that appears whole or not at all, or to a Delta table.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::protocol::SaveMode;
use parquet::arrow::ArrowWriter;

use super::error::CliError;
use crate::serving::columns::encode_column;
use crate::serving::json::values_to_json;

/// Writes to a `.parquet`, `.csv` or `.ndjson` file, or to `delta:PATH`; what was there is replaced.
pub async fn write_rows(rows: &RecordBatch, target: &str) -> Result<(), CliError> {
    if let Some(path) = target.strip_prefix("delta:") {
        return write_delta(rows, path).await;
    }
    let failed = |source| CliError::Write { file: target.to_owned(), source };
    let write: fn(&RecordBatch, File) -> Result<(), BoxError> = match Path::new(target).extension() {
        Some(extension) if extension == "parquet" => write_parquet,
        Some(extension) if extension == "csv" => write_csv,
        Some(extension) if extension == "ndjson" => write_ndjson,
        _ => return Err(unknown_target(target)),
    };
    let part = format!("{target}.{}.part", std::process::id());
    let written = File::create(&part).map_err(BoxError::from).and_then(|file| write(rows, file));
    let done = written.and_then(|()| Ok(std::fs::rename(&part, target)?));
    done.map_err(|error| {
        let _ = std::fs::remove_file(&part);
        failed(error)
    })
}

/// # Errors
/// A target that [`write_rows`] could not write, before any work is done for it.
pub fn check_target(target: &str) -> Result<(), CliError> {
    let extension = Path::new(target).extension().and_then(|extension| extension.to_str());
    let is_known = target.starts_with("delta:") || matches!(extension, Some("parquet" | "csv" | "ndjson"));
    let folder = Path::new(target).parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        _ if !is_known => Err(unknown_target(target)),
        Some(folder) if !target.starts_with("delta:") && !folder.is_dir() => {
            Err(CliError::Usage(format!("the folder of `{target}` does not exist")))
        }
        _ => Ok(()),
    }
}

fn unknown_target(target: &str) -> CliError {
    CliError::Usage(format!("`{target}` has to end in .parquet, .csv or .ndjson, or to be a Delta table as delta:PATH"))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn write_parquet(rows: &RecordBatch, file: File) -> Result<(), BoxError> {
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None)?;
    writer.write(rows)?;
    writer.close()?;
    Ok(())
}

fn write_csv(rows: &RecordBatch, file: File) -> Result<(), BoxError> {
    let flat = lists_as_text(rows)?;
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(file);
    writer.write(&flat)?;
    Ok(())
}

/// A cell of a CSV file is a text: lists and maps are written as JSON.
fn lists_as_text(rows: &RecordBatch) -> Result<RecordBatch, BoxError> {
    let schema = rows.schema();
    let mut fields: Vec<Arc<Field>> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        if matches!(field.data_type(), DataType::List(_) | DataType::Map(..)) {
            let values = values_to_json(&encode_column(field.name(), column));
            let texts = values.iter().map(|value| (!value.is_null()).then(|| value.to_string()));
            columns.push(Arc::new(texts.collect::<StringArray>()));
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        } else {
            columns.push(Arc::clone(column));
            fields.push(Arc::clone(field));
        }
    }
    if columns.is_empty() {
        return Ok(rows.clone());
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn write_ndjson(rows: &RecordBatch, file: File) -> Result<(), BoxError> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(std::io::BufWriter::new(file));
    writer.write(rows)?;
    writer.finish()?;
    Ok(())
}

async fn write_delta(rows: &RecordBatch, path: &str) -> Result<(), CliError> {
    let failed = |error: deltalake::DeltaTableError| CliError::Write { file: path.to_owned(), source: Box::new(error) };
    if !path.contains("://") {
        std::fs::create_dir_all(path)
            .map_err(|source| CliError::Io { action: format!("make the folder `{path}`"), source })?;
    }
    let url = deltalake::ensure_table_uri(path).map_err(failed)?;
    let mut table = deltalake::DeltaTableBuilder::from_url(url).and_then(|builder| builder.build()).map_err(failed)?;
    // A new table has no state to load.
    let _ = table.load().await;
    let write = table.write([rows.clone()]).with_save_mode(SaveMode::Overwrite);
    write.with_schema_mode(deltalake::operations::write::SchemaMode::Overwrite).await.map_err(failed)?;
    Ok(())
}
