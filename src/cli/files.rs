//! Writing an answer's rows to a file that appears whole or not at all, or to a Delta table.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::writer::LineDelimited;
use deltalake::protocol::SaveMode;
use futures::TryStreamExt;

use super::error::CliError;
use crate::parquet_files::{self, ParallelWriter};
use crate::retrieval::BatchAnswer;
use crate::text_files::{JsonForms, write_csv, write_csv_header};

/// Writes to a `.parquet`, `.csv` or `.ndjson` file, or to `delta:PATH`; what was there is replaced. Gives the number
/// of rows.
pub async fn write_rows(answer: BatchAnswer, target: &str) -> Result<usize, CliError> {
    if let Some(path) = target.strip_prefix("delta:") {
        let rows = answer.collect().await?;
        write_delta(&rows, path).await?;
        return Ok(rows.num_rows());
    }
    let part = format!("{target}.{}.part", std::process::id());
    let written = match File::create(&part) {
        Ok(file) => write_file(answer, target, file).await,
        Err(error) => Err(failed(target, error.into())),
    };
    let done =
        written.and_then(|rows| std::fs::rename(&part, target).map(|()| rows).map_err(|e| failed(target, e.into())));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

async fn write_file(mut answer: BatchAnswer, target: &str, file: File) -> Result<usize, CliError> {
    let failed = |error| failed(target, error);
    let first =
        answer.rows.try_next().await?.unwrap_or_else(|| RecordBatch::new_empty(SchemaRef::clone(&answer.schema)));
    let mut writer: Box<dyn RowsWriter + Send> = match Path::new(target).extension() {
        Some(extension) if extension == "parquet" => {
            let properties = parquet_files::properties(&first).build();
            let writer = ParallelWriter::try_new(file, SchemaRef::clone(&answer.schema), properties);
            Box::new(writer.map_err(|error| failed(error.into()))?)
        }
        Some(extension) if extension == "csv" => Box::new(CsvWriter::new(file, &answer.schema)),
        Some(extension) if extension == "ndjson" => {
            let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
            let builder = builder.with_encoder_factory(Arc::new(JsonForms));
            Box::new(NdjsonWriter(builder.build(std::io::BufWriter::new(file))))
        }
        _ => return Err(unknown_target(target)),
    };
    let mut rows = first.num_rows();
    writer.write_rows(&first).map_err(failed)?;
    drop(first);
    while let Some(batch) = answer.rows.try_next().await? {
        rows += batch.num_rows();
        writer.write_rows(&batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(rows)
}

fn failed(target: &str, source: BoxError) -> CliError {
    CliError::Write { file: target.to_owned(), source }
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

/// A file being written, batch by batch.
trait RowsWriter {
    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), BoxError>;
    fn finish(self: Box<Self>) -> Result<(), BoxError>;
}

impl RowsWriter for ParallelWriter<File> {
    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), BoxError> {
        Ok(self.write(rows)?)
    }

    fn finish(self: Box<Self>) -> Result<(), BoxError> {
        Ok(self.close()?)
    }
}

struct CsvWriter {
    file: File,
    text: String,
}

impl CsvWriter {
    fn new(file: File, schema: &SchemaRef) -> Self {
        let mut text = String::new();
        write_csv_header(schema, &mut text);
        CsvWriter { file, text }
    }
}

impl RowsWriter for CsvWriter {
    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), BoxError> {
        write_csv(rows, &mut self.text)?;
        self.file.write_all(self.text.as_bytes())?;
        self.text.clear();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), BoxError> {
        Ok(())
    }
}

struct NdjsonWriter(arrow::json::Writer<std::io::BufWriter<File>, LineDelimited>);

impl RowsWriter for NdjsonWriter {
    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), BoxError> {
        Ok(self.0.write(rows)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), BoxError> {
        self.0.finish()?;
        Ok(self.0.into_inner().flush()?)
    }
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
