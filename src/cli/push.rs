//! `asof push`.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use clap::{Args, ValueEnum};
use datafusion::prelude::DataFrame;
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::CliError;
use super::online_access::{Connection, OnlineAccess};
use super::output::Output;
use super::project::Project;
use crate::compile::Compiler;
use crate::definition::{BatchLocation, Definitions, FileFormat, Source, nearest};
use crate::registry::RegistryVersion;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::serving::pb::{self, push_request::Rows};
use crate::stream_ingestion::{Acknowledge, Ingestion, PushSummary, PushedRows};

/// Rows of one message.
const BATCH_ROWS: usize = 16 * 1024;
/// Batches that are on their way to the log.
const SETTLING_MAX: usize = 16;

#[derive(Debug, Args)]
pub struct PushArguments {
    /// The source whose events the file holds; its stream is pushed.
    source: String,
    /// A .parquet, .csv or .ndjson file with the source's own column names.
    file: String,
    /// What has to be true of the rows when the command ends.
    #[arg(long, value_enum, default_value_t = WaitFor::Durable)]
    wait_for: WaitFor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitFor {
    /// They survive a crash of the machine.
    Durable,
    /// They are visible online, too.
    Visible,
}

pub async fn run(project: &Project, arguments: &PushArguments, output: Output) -> Result<(), CliError> {
    let started = Instant::now();
    let registry = project.applied().await?;
    let source = pushed_source(&registry, &arguments.source)?;
    let frame = file_rows(project, source, &arguments.file).await?;
    // The first reading finds what is wrong anywhere, before a row is pushed.
    let total = count(frame.clone()).await?;
    let bar = start_bar(total, output);
    let summary = match project.online_access().await? {
        OnlineAccess::Server(channel) => push_to_server(channel, source, frame, arguments.wait_for, &bar).await,
        OnlineAccess::Store(store) => {
            let ingestion = project.open_streams(&registry, store).await?;
            let pushed = push_here(&ingestion, source, frame, &bar).await;
            ingestion.close().await?;
            pushed
        }
    };
    bar.finish_and_clear();
    report(&arguments.file, &summary?, started, output);
    Ok(())
}

fn pushed_source<'r>(registry: &'r RegistryVersion, name: &str) -> Result<&'r Source, CliError> {
    let sources = &registry.definitions.sources;
    let Some(source) = sources.iter().find(|source| source.name.as_str() == name) else {
        let hint = nearest(name, sources.iter().map(|source| source.name.as_str()));
        let hint = hint.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
        return Err(CliError::NotFound(format!("there is no source `{name}`{hint}")));
    };
    match source.stream {
        Some(_) => Ok(source),
        None => Err(CliError::Refused(format!(
            "source `{name}` takes no pushed rows: it has no `stream`; add `stream: {{type: push}}` and apply it"
        ))),
    }
}

/// The rows of a file as rows of the source: renamed, and in the types of its columns.
async fn file_rows(project: &Project, source: &Source, file: &str) -> Result<DataFrame, CliError> {
    let path = std::path::absolute(file);
    let path = path.map_err(|source| CliError::Io { action: "tell the working directory".to_owned(), source })?;
    let format = match path.extension().and_then(|ending| ending.to_str()) {
        Some("parquet") => FileFormat::Parquet,
        Some("csv") => FileFormat::Csv,
        Some("ndjson" | "json" | "jsonl") => FileFormat::Json,
        _ => return Err(CliError::Usage(format!("`{file}` is no .parquet, .csv or .ndjson file"))),
    };
    let columns = source.stream.iter().flat_map(|stream| stream.columns.iter().cloned()).collect();
    let batch = Some(BatchLocation { format, path: path.display().to_string() });
    let pushed = Source { batch, schema: columns, stream: None, stream_from: None, event_id: None, ..source.clone() };
    let definitions = Arc::new(Definitions { sources: vec![pushed.clone()], ..Definitions::default() });
    let compiler = Compiler::new(definitions, project.folder.clone(), project.engine()?.session());
    Ok(compiler.source(&pushed).await?)
}

async fn count(frame: DataFrame) -> Result<u64, CliError> {
    let failed = |error: datafusion::error::DataFusionError| rows_error(&error);
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut count = 0;
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        count += batch.num_rows() as u64;
    }
    Ok(count)
}

fn rows_error(error: &datafusion::error::DataFusionError) -> CliError {
    match error.find_root() {
        datafusion::error::DataFusionError::External(inner) => CliError::Refused(inner.to_string()),
        root => CliError::Refused(root.strip_backtrace()),
    }
}

async fn push_here(
    ingestion: &Arc<Ingestion>,
    source: &Source,
    frame: DataFrame,
    bar: &ProgressBar,
) -> Result<PushSummary, CliError> {
    let failed = |error: datafusion::error::DataFusionError| rows_error(&error);
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut summary = PushSummary::default();
    let mut settling = VecDeque::new();
    let mut before = 0;
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        let count = batch.num_rows() as u64;
        let (pushed, pending) = loop {
            match ingestion.begin_push(source.name.as_str(), PushedRows::Batch(batch.clone())).await {
                // Here is nobody to be told to try again.
                Err(crate::stream_ingestion::IngestionError::Full { .. }) => ingestion.flush().await?,
                begun => break begun?,
            }
        };
        summary.add(&pushed, before);
        before += count;
        settling.push_back(pending);
        if settling.len() > SETTLING_MAX
            && let Some(pending) = settling.pop_front()
        {
            pending.settle(Acknowledge::Durable).await?;
        }
        bar.inc(count);
    }
    for pending in settling {
        pending.settle(Acknowledge::Durable).await?;
    }
    Ok(summary)
}

async fn push_to_server(
    channel: Connection,
    source: &Source,
    frame: DataFrame,
    wait_for: WaitFor,
    bar: &ProgressBar,
) -> Result<PushSummary, CliError> {
    let (sender, messages) = mpsc::channel(SETTLING_MAX);
    let acknowledge = match wait_for {
        WaitFor::Durable => pb::Acknowledge::Durable,
        WaitFor::Visible => pb::Acknowledge::Visible,
    };
    let mut client = FeatureStoreClient::new(channel);
    let call = tokio::spawn(async move { client.push(ReceiverStream::new(messages)).await });
    let failed = |error: datafusion::error::DataFusionError| rows_error(&error);
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            let part = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
            let message = pb::PushRequest {
                source: source.name.as_str().to_owned(),
                acknowledge: acknowledge.into(),
                rows: Some(Rows::ArrowIpc(ipc(&part)?.into())),
            };
            // A closed channel means that the server has answered already, with an error.
            if sender.send(message).await.is_err() {
                break;
            }
            bar.inc(part.num_rows() as u64);
        }
    }
    drop(sender);
    let answer = call.await.map_err(|error| CliError::Failed(error.to_string()))??.into_inner();
    Ok(PushSummary {
        accepted: answer.accepted,
        duplicates: answer.duplicates,
        ignored: answer.ignored,
        late: answer.late,
        dead_letters: answer.dead_letters,
        reasons: answer.problems.into_iter().map(|problem| (problem.row, problem.reason)).collect(),
    })
}

fn ipc(batch: &RecordBatch) -> Result<Vec<u8>, CliError> {
    let failed = |error: arrow::error::ArrowError| CliError::Failed(error.to_string());
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

fn start_bar(total: u64, output: Output) -> ProgressBar {
    if output.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {pos}/{len} rows  {per_sec}  {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn report(file: &str, summary: &PushSummary, started: Instant, output: Output) {
    let PushSummary { accepted, duplicates, ignored, late, dead_letters, reasons } = summary;
    let seconds = started.elapsed().as_secs_f64();
    let mut text = format!("{file}: {accepted} events taken in {seconds:.2} s");
    let others = [
        (*duplicates, "repeated"),
        (*ignored, "before `stream_from` ignored"),
        (*dead_letters, "refused (dead letters)"),
    ];
    for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("; {count} {what}"));
    }
    for (row, reason) in reasons {
        text.push_str(&format!("\n  row {}: {reason}", row + 1));
    }
    output.say(text);
    let problems: Vec<_> = reasons.iter().map(|(row, reason)| json!({"row": row, "reason": reason})).collect();
    output.document(&json!({
        "file": file,
        "accepted": accepted,
        "duplicates": duplicates,
        "ignored": ignored,
        "late": late,
        "dead_letters": dead_letters,
        "problems": problems,
        "seconds": seconds,
    }));
}
