//! Rows that callers push, over gRPC and HTTP.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tonic::{Status, Streaming};

use super::columns::decode_column;
use super::grpc::{next_message, request_batch};
use super::ipc::read_stream;
use super::pb::push_request::Rows;
use super::pb::{self, PushResponse, RowProblem};
use super::state::ServerState;
use super::status::to_status;
use super::tokens::Caller;
use crate::diagnostics::help_with_names;
use crate::error::{ErrorKind, error_chain};
use crate::stream_ingestion::{
    Acknowledge, Ingestion, IngestionError, PassedOver, PendingPush, PushSummary, PushedRows,
};

/// What is said where the streams as a whole cannot be opened.
pub const STREAMS_CLOSED: &str = "the project's streams cannot be opened, which is tried again";
/// Messages of one call that are judged and not durable yet.
const SETTLING_MAX: usize = 64;

/// One caller's rows, message by message.
pub struct PushCall {
    ingestion: Arc<Ingestion>,
    source: String,
    acknowledge: Acknowledge,
    summary: PushSummary,
    /// Rows of the messages before.
    rows: u64,
    settling: VecDeque<PendingPush>,
}

impl PushCall {
    /// # Errors
    /// FAILED_PRECONDITION where no source has a stream, PERMISSION_DENIED for a source that is not the caller's.
    pub async fn new(
        state: &ServerState,
        caller: &Caller,
        source: &str,
        acknowledge: Acknowledge,
    ) -> Result<Self, Status> {
        if let Some(catalog) = state.catalog() {
            caller.check_source(catalog.definitions(), source)?;
        }
        let ingestion = state.ingestion_of(source).await?;
        let (summary, settling) = (PushSummary::default(), VecDeque::new());
        Ok(PushCall { ingestion, source: source.to_owned(), acknowledge, summary, rows: 0, settling })
    }

    /// # Errors
    /// Rows that are refused as a whole; the message tells how many rows were taken before.
    pub async fn push(&mut self, rows: PushedRows) -> Result<(), Status> {
        let count = rows.len() as u64;
        match self.ingestion.begin_push(&self.source, rows).await {
            Ok((summary, pending)) => {
                self.summary.add(&summary, self.rows);
                self.rows += count;
                self.settling.push_back(pending);
            }
            Err(error) => return Err(self.fail(push_status(&error)).await),
        }
        if self.settling.len() > SETTLING_MAX
            && let Some(pending) = self.settling.pop_front()
        {
            self.settle(pending).await?;
        }
        Ok(())
    }

    /// # Errors
    /// A log that cannot be written.
    pub async fn finish(mut self) -> Result<PushSummary, Status> {
        if self.acknowledge == Acknowledge::Accepted {
            // They go to the log without being waited for.
            self.settling.clear();
            return Ok(self.summary);
        }
        while let Some(pending) = self.settling.pop_front() {
            self.settle(pending).await?;
        }
        Ok(self.summary)
    }

    async fn settle(&self, pending: PendingPush) -> Result<(), Status> {
        let acknowledge = self.acknowledge;
        pending.settle(acknowledge).await.map_err(|error| push_status(&error))
    }

    /// What was taken before the error is made durable, so that its number is true.
    async fn fail(&mut self, status: Status) -> Status {
        while let Some(pending) = self.settling.pop_front() {
            if let Err(lost) = pending.settle(Acknowledge::Durable).await {
                return push_status(&lost);
            }
        }
        if self.rows == 0 {
            return status;
        }
        let message = format!("{}; the {} rows of the messages before are taken", status.message(), self.rows);
        Status::with_metadata(status.code(), message, status.metadata().clone())
    }
}

/// The status of an error; of one that passes by itself, with when to try again.
pub fn push_status(error: &IngestionError) -> Status {
    let mut status = to_status(error.kind(), error);
    if let IngestionError::Full { retry_after, .. } = error {
        let millis = retry_after.as_millis().to_string();
        if let Ok(millis) = millis.parse() {
            status.metadata_mut().insert("retry-after-ms", millis);
        }
    }
    status
}

/// The call of gRPC.
///
/// # Errors
/// Messages that cannot be read, and those of [`PushCall`].
pub async fn push_messages(
    state: &ServerState,
    caller: &Caller,
    mut messages: Streaming<pb::PushRequest>,
) -> Result<PushResponse, Status> {
    let mut call: Option<PushCall> = None;
    while let Some(message) = next_message(&mut messages, state.settings.server.limits.request_time).await? {
        let pb::PushRequest { source, acknowledge, rows } = message;
        let call = match &mut call {
            Some(call) if source.is_empty() || source == call.source => call,
            Some(call) => {
                let message = format!("the call pushes to `{}`; push to `{source}` in a call of its own", call.source);
                return Err(Status::invalid_argument(message));
            }
            None if source.is_empty() => {
                return Err(Status::invalid_argument("the first message has to name the `source`"));
            }
            None => call.insert(PushCall::new(state, caller, &source, acknowledge_of(acknowledge)?).await?),
        };
        match rows {
            Some(Rows::ArrowIpc(bytes)) => {
                let batches = match read_arrow(bytes) {
                    Ok(batches) => batches,
                    Err(status) => return Err(call.fail(status).await),
                };
                for batch in batches {
                    call.push(PushedRows::Batch(batch)).await?;
                }
            }
            Some(Rows::Json(pb::RowMessages { rows })) => call.push(PushedRows::Json(rows)).await?,
            Some(Rows::Columns(pb::PushColumns { columns })) => {
                let decode = |column: &pb::Column| {
                    let array = decode_column(column).map_err(|error| Status::invalid_argument(error.to_string()))?;
                    Ok::<_, Status>((column.name.clone(), array))
                };
                let columns = columns.iter().map(decode).collect::<Result<Vec<_>, _>>();
                match columns.and_then(request_batch) {
                    // Without a column there is no row.
                    Ok(rows) if rows.num_columns() > 0 => call.push(PushedRows::Batch(rows)).await?,
                    Ok(_) => {}
                    Err(status) => return Err(call.fail(status).await),
                }
            }
            None => {}
        }
    }
    match call {
        Some(call) => Ok(to_wire(call.finish().await?)),
        None => Err(Status::invalid_argument("no rows are pushed; send a message with `source` and rows")),
    }
}

fn acknowledge_of(number: i32) -> Result<Acknowledge, Status> {
    match pb::Acknowledge::try_from(number) {
        Ok(pb::Acknowledge::Unspecified | pb::Acknowledge::Durable) => Ok(Acknowledge::Durable),
        Ok(pb::Acknowledge::Async) => Ok(Acknowledge::Accepted),
        Ok(pb::Acknowledge::Visible) => Ok(Acknowledge::Visible),
        Err(_) => Err(Status::invalid_argument(format!("`acknowledge` is {number}; it is DURABLE, ASYNC or VISIBLE"))),
    }
}

/// # Errors
/// INVALID_ARGUMENT for bytes that are no Arrow IPC stream.
pub fn read_arrow(bytes: Bytes) -> Result<Vec<RecordBatch>, Status> {
    let read = read_stream(bytes);
    let (_, batches) = read.map_err(|error| {
        Status::invalid_argument(format!("the rows cannot be read as an Arrow IPC stream: {error}"))
    })?;
    Ok(batches)
}

/// # Errors
/// INVALID_ARGUMENT for bytes that are no Parquet file.
pub fn read_parquet(bytes: Bytes) -> Result<Vec<RecordBatch>, Status> {
    let wrong =
        |problem: String| Status::invalid_argument(format!("the rows cannot be read as a Parquet file: {problem}"));
    // Files from outside may contradict themselves in ways that the reader asserts.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build());
        let batches = reader.map_err(|error| error.to_string())?.collect::<Result<Vec<_>, _>>();
        batches.map_err(|error| error.to_string())
    }));
    read.unwrap_or_else(|_| Err("its contents contradict each other".to_owned())).map_err(wrong)
}

fn to_wire(summary: PushSummary) -> PushResponse {
    let PushSummary { accepted, passed_over, dead_letters, reasons } = summary;
    let PassedOver { duplicates, late, ignored } = passed_over;
    let problems = reasons.into_iter().map(|(row, reason)| RowProblem { row, reason }).collect();
    PushResponse { accepted, duplicates, ignored, late, dead_letters, problems }
}

impl ServerState {
    /// The project's streams; a source that is not known yet may be of a version of the registry that is newer.
    ///
    /// # Errors
    /// NOT_FOUND, or FAILED_PRECONDITION where no source has a stream.
    pub(super) async fn ingestion_of(&self, source: &str) -> Result<Arc<Ingestion>, Status> {
        if self.is_replica {
            let message = "this server is a replica, which takes no events; push to the server that has the streams";
            return Err(Status::failed_precondition(message));
        }
        if let Some(ingestion) = self.ingestion().filter(|ingestion| ingestion.takes(source)) {
            return Ok(ingestion);
        }
        super::follow::follow_once(self).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if let Some(ingestion) = self.ingestion() {
            // It tells what is wrong with the source.
            return Ok(ingestion);
        }
        let catalog = self.catalog();
        let sources = || catalog.iter().flat_map(|catalog| &catalog.definitions().sources);
        if sources().any(|known| known.name.as_str() == source && known.stream.is_some()) {
            return Err(Status::unavailable(match self.streams_fault() {
                Some(fault) => format!("{STREAMS_CLOSED}: {}", error_chain(&*fault)),
                None => STREAMS_CLOSED.to_owned(),
            }));
        }
        if sources().any(|known| known.name.as_str() == source) {
            let message =
                format!("source `{source}` takes no pushed rows: it has no `stream`; add `stream: {{type: push}}`");
            return Err(Status::new(super::status::grpc_code(ErrorKind::Precondition), message));
        }
        let names: Vec<&str> = sources().map(|known| known.name.as_str()).collect();
        let help = help_with_names(source, "sources", &names);
        Err(Status::not_found(format!("there is no source `{source}`; {help}")))
    }
}
