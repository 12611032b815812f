//! The `asof.v1.FeatureStore` service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use metrics::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::access::caller;
use super::columns::{decode_column, encode_answer, encode_column};
use super::ipc::read_stream;
use super::pb::feature_store_server::FeatureStore;
use super::pb::{self, batch_header::Times, get_batch_features_request, get_batch_features_response::Part};
use super::push::push_messages;
use super::state::ServerState;
use super::status::to_status;
use super::tokens::Caller;
use crate::definition::{FeatureView, FeatureViewName, SourceName};
use crate::error::error_chain;
use crate::metrics::{FEATURE_AGE_SECONDS, ONLINE_REQUEST_ROWS, REQUEST_STAGE_SECONDS, process_cpu_seconds};
use crate::retrieval::{
    Answer, AskedTimes, BatchAnswer, BatchRequest, Catalog, FeatureSelection, OnlineAnswer, OnlineRequest,
    RequestColumns, ResolvedRequest, RetrievalError, TableVersion, Waiting,
};
use crate::stream_ingestion::SourceStatus;
use crate::time::{EventTimestamp, TimeRange};
use crate::trace;

/// Rows of one message of a batch answer.
const CHUNK_ROWS: usize = 16 * 1024;
/// Bytes of one message of a batch answer, well below the limit that clients have by default.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct FeatureStoreService {
    pub(super) state: Arc<ServerState>,
    request_rows: Histogram,
    pub(super) stages: Stages,
    answered: Arc<AtomicU64>,
}

/// Where the time of online requests goes.
#[derive(Debug, Clone)]
pub(super) struct Stages {
    pub decode: Histogram,
    read: Histogram,
    pub encode: Histogram,
}

/// The age of values is recorded of one in so many online requests.
const AGES_EVERY: u64 = 64;

impl FeatureStoreService {
    /// After the recorder of the process is installed.
    pub(super) fn new(state: Arc<ServerState>) -> Self {
        let stage = |stage: &'static str| metrics::histogram!(REQUEST_STAGE_SECONDS, "stage" => stage);
        FeatureStoreService {
            state,
            request_rows: metrics::histogram!(ONLINE_REQUEST_ROWS),
            stages: Stages { decode: stage("decode"), read: stage("read"), encode: stage("encode") },
            answered: Arc::default(),
        }
    }

    pub(super) fn catalog(&self) -> Result<Arc<Catalog>, Status> {
        self.state.catalog().ok_or_else(|| Status::failed_precondition("no definitions are applied; run `asof apply`"))
    }

    /// # Errors
    /// Names that are unknown, views that the caller's token is not for, and more features than the server answers at
    /// once.
    fn resolve(
        &self,
        caller: &Caller,
        catalog: &Catalog,
        selection: &FeatureSelection,
        full_feature_names: bool,
    ) -> Result<Arc<ResolvedRequest>, Status> {
        let limit = self.state.settings.server.limits.request_features;
        let too_many = |asked: usize| {
            let message =
                format!("{asked} features are asked for, and the server answers {limit} at once; ask for fewer");
            Status::invalid_argument(message)
        };
        if let FeatureSelection::References(references) = selection
            && references.len() > limit
        {
            return Err(too_many(references.len()));
        }
        let resolved = catalog.resolve(selection, full_feature_names);
        let resolved = resolved.map_err(|error| match error {
            // Whoever may use some views learns the names of no others.
            RetrievalError::Unknown { kind, name, .. } if caller.is_scoped() => {
                Status::not_found(format!("there is no {kind} `{name}` that the token is for"))
            }
            error => to_status(error.kind(), &error),
        })?;
        caller.check_request(&resolved)?;
        if resolved.outputs.len() > limit { Err(too_many(resolved.outputs.len())) } else { Ok(resolved) }
    }

    /// An earlier version of the definitions.
    async fn catalog_at(&self, version: u64) -> Result<Arc<Catalog>, Status> {
        let registry = self.state.registry.version(version).await;
        let registry = registry.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Arc::new(Catalog::new(Arc::new(registry)).map_err(|error| to_status(error.kind(), &error))?))
    }

    /// Answers an online request, in the form that `finish` gives to what was read.
    pub(super) async fn online<T: Send + 'static>(
        &self,
        caller: Caller,
        request: OnlineRequest,
        finish: impl FnOnce(&OnlineRequest, OnlineAnswer) -> T + Send + 'static,
    ) -> Result<T, Status> {
        if request.now.is_some() && !self.state.allow_request_time {
            let message = "`now` is refused: the server was not started with --allow-request-time";
            return Err(Status::invalid_argument(message));
        }
        let limit = self.state.settings.server.limits.request_rows;
        let rows = request.columns.num_rows();
        if rows > limit {
            let message = format!("the request has {rows} rows, and the server takes {limit} at once; send fewer");
            return Err(Status::invalid_argument(message));
        }
        self.request_rows.record(rows as f64);
        trace::rows(rows);
        let catalog = self.catalog()?;
        let resolved = self.resolve(&caller, &catalog, &request.selection, request.full_feature_names)?;
        let (state, stages) = (Arc::clone(&self.state), self.stages.clone());
        let waiting = Waiting::default();
        // Dropped with this call, however that ends.
        let _waiter = waiting.waiter();
        let with_ages = self.answered.fetch_add(1, Ordering::Relaxed).is_multiple_of(AGES_EVERY);
        let answer = move || {
            let begun = Instant::now();
            let failed = |error: RetrievalError| to_status(error.kind(), &error);
            let columns = RequestColumns::new(&resolved, request.columns.clone()).map_err(failed)?;
            let answer = state.online.answer(&catalog, resolved, &columns, request.now, &waiting).map_err(failed)?;
            let read = Instant::now();
            stages.read.record(read - begun);
            trace::stage("read", begun);
            if with_ages {
                record_ages(&answer, request.now.unwrap_or_else(|| state.online.clock.now()));
            }
            let finished = finish(&request, answer);
            stages.encode.record(read.elapsed());
            trace::stage("encode", read);
            Ok(finished)
        };
        self.state.turns.run(rows, answer).await?
    }
}

/// How old the first row of each view is.
fn record_ages(answer: &OnlineAnswer, now: EventTimestamp) {
    for (view, event_timestamp) in answer.first_event_timestamps() {
        let age = now.micros().saturating_sub(event_timestamp.micros()) as f64 / 1e6;
        metrics::histogram!(FEATURE_AGE_SECONDS, "view" => view.to_owned()).record(age);
    }
}

/// The wire form of an online answer: the entity columns as sent, then the features.
pub fn encode_answer_columns(
    request: &OnlineRequest,
    answer: &Answer,
    event_timestamps: bool,
) -> pb::GetOnlineFeaturesResponse {
    let schema = request.columns.schema();
    let sent = schema.fields().iter().zip(request.columns.columns()).take(request.entity_columns);
    let sent = sent.map(|(field, array)| encode_column(field.name(), array));
    let features = answer.columns.iter().map(|column| encode_answer(column, event_timestamps));
    pb::GetOnlineFeaturesResponse { columns: sent.chain(features).collect(), registry_version: answer.registry_version }
}

/// # Errors
/// INVALID_ARGUMENT unless exactly one of a service and references is named.
fn selection(features: Option<pb::FeatureSelection>) -> Result<FeatureSelection, Status> {
    let features = features.unwrap_or_default();
    match (features.feature_service.is_empty(), features.features.is_empty()) {
        (false, true) => Ok(FeatureSelection::Service(features.feature_service)),
        (true, false) => Ok(FeatureSelection::References(features.features)),
        (true, true) => Err(Status::invalid_argument("no features are asked for; set `feature_service` or `features`")),
        (false, false) => {
            Err(Status::invalid_argument("`feature_service` and `features` are both set; set one of them"))
        }
    }
}

/// One batch out of columns that have to be of one length.
pub(super) fn request_batch(columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch, Status> {
    if let Some((first, array)) = columns.first()
        && let Some((other, other_array)) = columns.iter().find(|(_, other)| other.len() != array.len())
    {
        return Err(Status::invalid_argument(format!(
            "column `{other}` has {} rows and column `{first}` has {}; send columns of one length",
            other_array.len(),
            array.len()
        )));
    }
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(name, array.data_type().clone(), true)).collect();
    // A request without columns asks for features without a key: one row.
    let rows = columns.first().map_or(1, |(_, array)| array.len());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// What a message asks for.
///
/// # Errors
/// INVALID_ARGUMENT for a column that contradicts itself, columns of several lengths, and a selection of nothing.
pub(super) fn online_request(request: pb::GetOnlineFeaturesRequest) -> Result<OnlineRequest, Status> {
    let mut columns = Vec::with_capacity(request.entities.len() + request.request.len());
    for column in request.entities.iter().chain(&request.request) {
        let array = decode_column(column).map_err(|error| Status::invalid_argument(error.to_string()))?;
        columns.push((column.name.clone(), array));
    }
    Ok(OnlineRequest {
        entity_columns: request.entities.len(),
        selection: selection(request.features)?,
        full_feature_names: request.full_feature_names,
        columns: request_batch(columns)?,
        now: request.now.map(EventTimestamp::from_micros),
    })
}

type ResponseStream = Pin<Box<dyn Stream<Item = Result<pb::GetBatchFeaturesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl FeatureStore for FeatureStoreService {
    type GetBatchFeaturesStream = ResponseStream;

    /// The same answer as the server's, which writes it in a way of its own: see `grpc_online`.
    async fn get_online_features(
        &self,
        request: Request<pb::GetOnlineFeaturesRequest>,
    ) -> Result<Response<pb::GetOnlineFeaturesResponse>, Status> {
        let caller = caller(request.extensions());
        let request = request.into_inner();
        let event_timestamps = request.event_timestamps;
        let answer = self.online(caller, online_request(request)?, move |request, answer| {
            encode_answer_columns(request, &answer.into_answer(), event_timestamps)
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_batch_features(
        &self,
        request: Request<Streaming<pb::GetBatchFeaturesRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let caller = caller(request.extensions());
        let limits = &self.state.settings.server.limits;
        let (request, registry_version) = read_batch_request(request.into_inner(), limits.request_time).await?;
        let catalog = match registry_version {
            0 => self.catalog()?,
            version => self.catalog_at(version).await?,
        };
        let resolved = self.resolve(&caller, &catalog, &request.selection, request.full_feature_names)?;
        let sources: Vec<SourceName> = resolved.sources().cloned().collect();
        let state = Arc::clone(&self.state);
        let work = AbortOnDrop(self.state.workers.spawn(async move {
            // The answer sees what was acknowledged before.
            state.flush_streams(&sources).await.map_err(|error| to_status(error.kind(), &error))?;
            state.batch.get(&catalog, &request).await.map_err(|error| to_status(error.kind(), &error))
        }));
        let answer = work.await?;
        let (sender, messages) = mpsc::channel(MESSAGES_READY_MAX);
        let encoding = AbortOnDrop(self.state.workers.spawn(send_answer(answer, sender)));
        // The work ends with the stream, whoever drops it.
        let messages = ReceiverStream::new(messages).map(move |message| {
            let _ = &encoding;
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn push(&self, request: Request<Streaming<pb::PushRequest>>) -> Result<Response<pb::PushResponse>, Status> {
        let caller = caller(request.extensions());
        Ok(Response::new(push_messages(&self.state, &caller, request.into_inner()).await?))
    }

    async fn list_definitions(
        &self,
        request: Request<pb::ListDefinitionsRequest>,
    ) -> Result<Response<pb::ListDefinitionsResponse>, Status> {
        let caller = caller(request.extensions());
        let catalog = self.catalog()?;
        let kind = request.into_inner().kind;
        let mut all = crate::definition::listed(catalog.definitions());
        all.retain(|listed| is_for(&caller, &catalog, listed.kind, &listed.name));
        if !kind.is_empty() && !crate::definition::KINDS.contains(&kind.as_str()) {
            let kinds = crate::definition::KINDS.join(", ");
            return Err(Status::invalid_argument(format!("there is no kind `{kind}`; the kinds are {kinds}")));
        }
        let chosen = all.into_iter().filter(|definition| kind.is_empty() || definition.kind == kind);
        let definitions = chosen.map(|definition| pb::Definition {
            kind: definition.kind.to_owned(),
            name: definition.name,
            description: definition.description.unwrap_or_default(),
            json: definition.document.to_string(),
        });
        Ok(Response::new(pb::ListDefinitionsResponse {
            registry_version: catalog.registry.version,
            definitions: definitions.collect(),
        }))
    }

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let caller = caller(request.extensions());
        let catalog = self.state.catalog();
        let ingestion = self.state.ingestion();
        let faults = ingestion.as_ref().map(|ingestion| ingestion.all_faults()).unwrap_or_default();
        let mut views = Vec::new();
        let all = catalog.iter().flat_map(|catalog| &catalog.definitions().feature_views);
        for view in all.filter(|view| caller.may_use(view.name.as_str())) {
            let id = catalog.as_ref().and_then(|catalog| catalog.registry.views.get(&view.name)).map(|state| state.id);
            let table = self.state.offline_store.view_table(&view.name).await;
            let table = table.map_err(|error| to_status(error.kind(), &error))?;
            let table = table.filter(|table| table.state().view_id == id);
            let position = self.state.online.store.position(crate::online_store::ViewId(id.unwrap_or(0)));
            let until = table.as_ref().and_then(|table| table.state().materialized_until);
            views.push(pb::ViewStatus {
                name: view.name.as_str().to_owned(),
                table_version: table.as_ref().map(|table| table.version()),
                materialized_until: until.map(EventTimestamp::micros),
                online_table_version: position.map_err(|error| to_status(error.kind(), &error))?,
                fault: faults.views.get(&view.name).map(|fault| error_chain(fault)).unwrap_or_default(),
            });
        }
        let is_shown = |status: &pb::StreamStatus| {
            let check = |catalog: &Arc<Catalog>| caller.check_source(catalog.definitions(), &status.source);
            catalog.as_ref().is_some_and(|catalog| check(catalog).is_ok())
        };
        let streams = match ingestion {
            Some(ingestion) => ingestion.status().into_iter().map(stream_status).collect(),
            None => self.closed_streams(),
        };
        let streams = streams.into_iter().filter(is_shown);
        Ok(Response::new(pb::GetStatusResponse {
            project: self.state.settings.project.clone(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            registry_version: catalog.as_ref().map_or(0, |catalog| catalog.registry.version),
            views,
            streams: streams.collect(),
            process_cpu_seconds: process_cpu_seconds(),
        }))
    }
}

impl FeatureStoreService {
    /// The streams of a project, of which none is open.
    fn closed_streams(&self) -> Vec<pb::StreamStatus> {
        let (catalog, fault) = (self.state.catalog(), self.state.streams_fault());
        let fault = fault.map(|fault| error_chain(&*fault)).unwrap_or_default();
        let sources = catalog.iter().flat_map(|catalog| &catalog.definitions().sources);
        let closed = |source: &SourceName| pb::StreamStatus {
            source: source.as_str().to_owned(),
            fault: fault.clone(),
            ..pb::StreamStatus::default()
        };
        sources.filter(|source| source.stream.is_some()).map(|source| closed(&source.name)).collect()
    }
}

/// Whether a definition is to be shown to a caller: of views and what is made of them, those that its token is for.
fn is_for(caller: &Caller, catalog: &Catalog, kind: &str, name: &str) -> bool {
    let uses = |selection: FeatureSelection| {
        let resolved = catalog.resolve(&selection, true);
        resolved.is_ok_and(|resolved| caller.check_request(&resolved).is_ok())
    };
    match kind {
        _ if !caller.is_scoped() => true,
        "feature_views" => caller.may_use(name),
        "on_demand_feature_views" => uses(FeatureSelection::References(vec![name.to_owned()])),
        "feature_services" => uses(FeatureSelection::Service(name.to_owned())),
        "sources" => caller.check_source(catalog.definitions(), name).is_ok(),
        "entities" => {
            let has = |view: &&FeatureView| view.entities.iter().any(|entity| entity.as_str() == name);
            let mut views = catalog.definitions().feature_views.iter().filter(has);
            views.any(|view| caller.may_use(view.name.as_str()))
        }
        // Models may read any view.
        _ => false,
    }
}

fn stream_status(status: SourceStatus) -> pb::StreamStatus {
    pb::StreamStatus {
        source: status.name.as_str().to_owned(),
        watermark: status.watermark.map(EventTimestamp::micros),
        accepted: status.accepted,
        dead_letters: status.dead_letters,
        duplicates: status.passed_over.duplicates,
        late: status.passed_over.late,
        ignored: status.passed_over.ignored,
        online_lag_records: status.online_lag_records,
        offline_lag_records: status.offline_lag_records,
        fault: status.fault.as_ref().map(|fault| error_chain(fault)).unwrap_or_default(),
    }
}

/// Work that stops when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T, Status>>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|done| done.unwrap_or_else(|error| Err(Status::internal(error.to_string()))))
    }
}

/// The next message of a caller, who may keep the server waiting for so long.
pub(super) async fn next_message<T>(messages: &mut Streaming<T>, patience: Duration) -> Result<Option<T>, Status> {
    let silence = || Status::deadline_exceeded(format!("the call was silent for more than {patience:?}"));
    tokio::time::timeout(patience, messages.message()).await.map_err(|_| silence())?
}

async fn read_batch_request(
    mut messages: Streaming<pb::GetBatchFeaturesRequest>,
    patience: Duration,
) -> Result<(BatchRequest, u64), Status> {
    let first = next_message(&mut messages, patience).await?.and_then(|message| message.part);
    let Some(get_batch_features_request::Part::Header(header)) = first else {
        return Err(Status::invalid_argument("the first message has to be the header"));
    };
    let mut spine = BytesMut::new();
    while let Some(message) = next_message(&mut messages, patience).await? {
        match message.part {
            Some(get_batch_features_request::Part::Spine(piece)) => spine.extend_from_slice(&piece),
            _ => return Err(Status::invalid_argument("the messages after the header carry pieces of the spine")),
        }
    }
    let times = match header.times {
        Some(Times::Spine(pb::Spine { timestamp_column })) => read_spine(spine.freeze(), timestamp_column)?,
        Some(Times::Range(pb::TimeRange { start, end })) => {
            let [start, end] = [start, end].map(|micros| Some(EventTimestamp::from_micros(micros)));
            let range = TimeRange::new(start, end).map_err(|error| Status::invalid_argument(error.to_string()))?;
            AskedTimes::Range(range)
        }
        Some(Times::AsOf(micros)) => AskedTimes::AsOf(EventTimestamp::from_micros(micros)),
        None => return Err(Status::invalid_argument("no times are asked about; set `spine`, `range` or `as_of`")),
    };
    let table_version = |asked: pb::TableVersion| TableVersion {
        view: FeatureViewName::from(asked.view.as_str()),
        version: asked.version,
    };
    let request = BatchRequest {
        selection: selection(header.features)?,
        full_feature_names: header.full_feature_names,
        with_statuses: header.statuses,
        as_known: header.as_known,
        from_source: header.from_source,
        table_versions: header.table_versions.into_iter().map(table_version).collect(),
        times,
    };
    Ok((request, header.registry_version))
}

fn read_spine(spine: Bytes, timestamp_column: String) -> Result<AskedTimes, Status> {
    let (schema, rows) = read_stream(spine).map_err(|error| {
        Status::invalid_argument(format!("the spine cannot be read as an Arrow IPC stream: {error}"))
    })?;
    let timestamp_column = (!timestamp_column.is_empty()).then_some(timestamp_column);
    Ok(AskedTimes::Spine { schema, rows, timestamp_column })
}

/// Messages of a batch answer that wait for a slow caller.
const MESSAGES_READY_MAX: usize = 4;

type AnswerMessage = Result<pb::GetBatchFeaturesResponse, Status>;

/// Sends the messages of a batch answer, encoded as its rows are joined.
async fn send_answer(answer: BatchAnswer, sender: mpsc::Sender<AnswerMessage>) -> Result<(), Status> {
    let sent = encode_batch_answer(answer, &sender).await;
    if let Err(status) = sent {
        // A caller that has gone needs no reason.
        let _ = sender.send(Err(status)).await;
    }
    Ok(())
}

/// Its metadata, then Arrow IPC in pieces.
async fn encode_batch_answer(answer: BatchAnswer, sender: &mpsc::Sender<AnswerMessage>) -> Result<(), Status> {
    let BatchAnswer { schema, mut rows, registry_version, tables, warnings } = answer;
    let tables = tables
        .into_iter()
        .map(|table| pb::TableVersion { view: table.view.as_str().to_owned(), version: table.version })
        .collect();
    send(sender, Part::Metadata(pb::BatchMetadata { registry_version, tables, warnings })).await?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(internal)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| to_status(error.kind(), &error))?;
        for start in (0..batch.num_rows()).step_by(CHUNK_ROWS) {
            writer.write(&batch.slice(start, CHUNK_ROWS.min(batch.num_rows() - start))).map_err(internal)?;
            send_bytes(sender, std::mem::take(writer.get_mut())).await?;
        }
    }
    send_bytes(sender, writer.into_inner().map_err(internal)?).await
}

async fn send_bytes(sender: &mpsc::Sender<AnswerMessage>, bytes: Vec<u8>) -> Result<(), Status> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        send(sender, Part::ArrowIpc(bytes.split_to(bytes.len().min(CHUNK_BYTES)))).await?;
    }
    Ok(())
}

async fn send(sender: &mpsc::Sender<AnswerMessage>, part: Part) -> Result<(), Status> {
    let message = pb::GetBatchFeaturesResponse { part: Some(part) };
    sender.send(Ok(message)).await.map_err(|_| Status::cancelled("the caller has gone"))
}

fn internal(error: arrow::error::ArrowError) -> Status {
    Status::internal(error.to_string())
}
