//! `asof push`.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use clap::{Args, ValueEnum};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::CliError;
use super::online_access::{Connection, OnlineAccess};
use super::output::Output;
use super::project::Project;
use super::push_file::{FileRows, PushedFile, ROWS_MAX};
use super::streams::close_streams;
use crate::definition::Source;
use crate::diagnostics::help_with_names;
use crate::registry::RegistryVersion;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::serving::pb::{self, push_request::Rows};
use crate::stream_ingestion::{Acknowledge, Ingestion, PassedOver, PushSummary, PushedRows};

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
    let source = streamed_source(&registry, &arguments.source)?;
    let file = PushedFile::new(&arguments.file)?;
    // The first reading finds a file that is broken anywhere, before a row is pushed.
    let total = count(file.rows(project, source).await?).await?;
    let rows = file.rows(project, source).await?;
    let bar = start_bar(total, output);
    let summary = match project.online_access().await? {
        OnlineAccess::Server(channel) => push_to_server(channel, source, rows, arguments.wait_for, &bar).await,
        OnlineAccess::Store(store) => {
            let ingestion = project.open_streams(&registry, store).await?;
            let pushed = push_here(&ingestion, source, rows, &bar).await;
            close_streams(&ingestion).await;
            pushed
        }
    };
    bar.finish_and_clear();
    report(&arguments.file, &summary?, started, output);
    Ok(())
}

/// The source of this name, which has a stream.
pub(super) fn streamed_source<'r>(registry: &'r RegistryVersion, name: &str) -> Result<&'r Source, CliError> {
    let sources = &registry.definitions.sources;
    let Some(source) = sources.iter().find(|source| source.name.as_str() == name) else {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let help = help_with_names(name, "sources", &names);
        return Err(CliError::NotFound(format!("there is no source `{name}`; {help}")));
    };
    match source.stream {
        Some(_) => Ok(source),
        None => Err(CliError::Refused(format!(
            "source `{name}` takes no events: it has no `stream`; add `stream: {{type: push}}` and apply it"
        ))),
    }
}

async fn count(mut rows: FileRows) -> Result<u64, CliError> {
    let mut count = 0;
    while let Some(part) = rows.try_next().await? {
        count += part.len() as u64;
    }
    Ok(count)
}

async fn push_here(
    ingestion: &Arc<Ingestion>,
    source: &Source,
    mut rows: FileRows,
    bar: &ProgressBar,
) -> Result<PushSummary, CliError> {
    let mut summary = PushSummary::default();
    let mut settling = VecDeque::new();
    let mut before = 0;
    while let Some(part) = rows.try_next().await? {
        let count = part.len() as u64;
        let (pushed, pending) = loop {
            match ingestion.begin_push(source.name.as_str(), part.clone()).await {
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
    mut rows: FileRows,
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
    let message = |rows: Option<Rows>| pb::PushRequest {
        source: source.name.as_str().to_owned(),
        acknowledge: acknowledge.into(),
        rows,
    };
    // A file without rows is a push of none. A closed channel means that the server has answered already.
    let mut is_open = sender.send(message(None)).await.is_ok();
    while is_open && let Some(part) = rows.try_next().await? {
        for (rows, count) in wire_rows(part)? {
            is_open = is_open && sender.send(message(Some(rows))).await.is_ok();
            bar.inc(count);
        }
    }
    drop(sender);
    let answer = call.await.map_err(|error| CliError::Failed(error.to_string()))??.into_inner();
    Ok(PushSummary {
        accepted: answer.accepted,
        passed_over: PassedOver { duplicates: answer.duplicates, late: answer.late, ignored: answer.ignored },
        dead_letters: answer.dead_letters,
        reasons: answer.problems.into_iter().map(|problem| (problem.row, problem.reason)).collect(),
    })
}

/// Rows in messages, and how many are in each.
fn wire_rows(rows: PushedRows) -> Result<Vec<(Rows, u64)>, CliError> {
    let count = rows.len() as u64;
    match rows {
        PushedRows::Json(rows) => Ok(vec![(Rows::Json(pb::RowMessages { rows }), count)]),
        PushedRows::Batch(batch) => (0..batch.num_rows())
            .step_by(ROWS_MAX)
            .map(|start| {
                let part = batch.slice(start, ROWS_MAX.min(batch.num_rows() - start));
                Ok((Rows::ArrowIpc(ipc(&part)?.into()), part.num_rows() as u64))
            })
            .collect(),
        _ => Err(CliError::Failed("rows of a file come in batches or as texts".to_owned())),
    }
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
    let PushSummary { accepted, passed_over, dead_letters, reasons } = summary;
    let PassedOver { duplicates, late, ignored } = passed_over;
    let seconds = started.elapsed().as_secs_f64();
    let mut text = format!("{file}: {accepted} events taken in {seconds:.2} s");
    let others =
        [(*duplicates, "repeated"), (*ignored, "before `stream_from` ignored"), (*dead_letters, "dead letters")];
    for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("; {count} {what}"));
    }
    for (row, reason) in reasons {
        text.push_str(&format!("\n  row {row}, from 0: {reason}"));
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
