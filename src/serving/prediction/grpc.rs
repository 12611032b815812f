//! The `asof.v1.Prediction` service.

use std::pin::Pin;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::ipc::writer::StreamWriter;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::answer::to_wire;
use super::models::{model_document, registration};
use super::state::predict;
use crate::definition::Definitions;
use crate::model_registry::prepare;
use crate::prediction::{PredictRequest, predict_batch};
use crate::serving::columns::decode_column;
use crate::serving::grpc::request_batch;
use crate::serving::ipc::read_stream;
use crate::serving::pb::prediction_server::Prediction;
use crate::serving::pb::{self, batch_predict_request, register_model_request};
use crate::serving::state::ServerState;
use crate::serving::status::to_status;
use crate::time::{Clock, EventTimestamp};

/// Bytes of a model's file.
const MODEL_BYTES_MAX: usize = 1 << 30;
/// Bytes of one message of a batch answer.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct PredictionGrpc {
    pub state: Arc<ServerState>,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<pb::BatchPredictResponse, Status>> + Send>>;

impl PredictionGrpc {
    fn clock(&self) -> &dyn Clock {
        self.state.online.clock.as_ref()
    }

    fn definitions(&self) -> Definitions {
        self.state.catalog().map(|catalog| catalog.definitions().clone()).unwrap_or_default()
    }

    async fn follow(&self) -> Result<(), Status> {
        let followed = self.state.prediction.follow_once(self.state.catalog()).await;
        followed.map(|_| ()).map_err(|error| to_status(error.kind(), &error))
    }
}

#[tonic::async_trait]
impl Prediction for PredictionGrpc {
    type BatchPredictStream = Chunks;

    async fn predict(&self, request: Request<pb::PredictRequest>) -> Result<Response<pb::PredictResponse>, Status> {
        let request = request.into_inner();
        let mut columns = Vec::with_capacity(request.entities.len() + request.request.len());
        for column in request.entities.iter().chain(&request.request) {
            let array = decode_column(column).map_err(|error| Status::invalid_argument(error.to_string()))?;
            columns.push((column.name.clone(), array));
        }
        let request = PredictRequest {
            routes: std::iter::once(request.route).chain(request.other_routes).collect(),
            columns: request_batch(columns)?,
            prediction_ids: request.prediction_ids,
            now: request.now.map(EventTimestamp::from_micros),
        };
        let answers = predict(&self.state, request).await?;
        let mut answers = answers.iter().map(to_wire);
        let first = answers.next().unwrap_or_default();
        Ok(Response::new(pb::PredictResponse { others: answers.collect(), ..first }))
    }

    async fn batch_predict(
        &self,
        request: Request<Streaming<pb::BatchPredictRequest>>,
    ) -> Result<Response<Chunks>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.part);
        let Some(batch_predict_request::Part::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message has to be the header"));
        };
        let mut spine = BytesMut::new();
        while let Some(message) = messages.message().await? {
            match message.part {
                Some(batch_predict_request::Part::Spine(piece)) => spine.extend_from_slice(&piece),
                _ => return Err(Status::invalid_argument("the messages after the header carry pieces of the spine")),
            }
        }
        let (schema, rows) = read_stream(spine.freeze()).map_err(|error| {
            Status::invalid_argument(format!("the spine cannot be read as an Arrow IPC stream: {error}"))
        })?;
        let spine = concat_batches(&schema, &rows).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.state.prediction.make_ready(&header.route).await;
        let catalog = self.state.prediction.service.catalog();
        let catalog = catalog.ok_or_else(|| Status::failed_precondition("nothing is applied yet; run `asof apply`"))?;
        let state = Arc::clone(&self.state);
        let work = self.state.workers.spawn(async move {
            let timestamp_column = (!header.timestamp_column.is_empty()).then_some(header.timestamp_column);
            state.flush_streams(&[]).await.map_err(|error| to_status(error.kind(), &error))?;
            let scored = predict_batch(&catalog, &state.batch, &header.route, &spine, timestamp_column).await;
            scored.map_err(|error| to_status(error.kind(), &error))
        });
        let scored = work.await.map_err(|error| Status::internal(error.to_string()))??;
        let encode = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &scored.rows.schema())?;
            writer.write(&scored.rows)?;
            writer.into_inner()
        };
        let mut bytes = Bytes::from(encode().map_err(|error| Status::internal(error.to_string()))?);
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            chunks.push(Ok(pb::BatchPredictResponse { arrow_ipc: bytes.split_to(bytes.len().min(CHUNK_BYTES)) }));
        }
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn register_model(
        &self,
        request: Request<Streaming<pb::RegisterModelRequest>>,
    ) -> Result<Response<pb::RegisterModelResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.part);
        let Some(register_model_request::Part::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message has to be the header"));
        };
        let mut bytes = Vec::new();
        while let Some(message) = messages.message().await? {
            match message.part {
                Some(register_model_request::Part::Model(piece)) => bytes.extend_from_slice(&piece),
                _ => return Err(Status::invalid_argument("the messages after the header carry the model's file")),
            }
            if bytes.len() > MODEL_BYTES_MAX {
                return Err(Status::resource_exhausted("the model is larger than 1 GiB"));
            }
        }
        let asked = registration(header)?;
        let catalog = self.state.catalog();
        let catalog = catalog.ok_or_else(|| Status::failed_precondition("nothing is applied yet; run `asof apply`"))?;
        let prepared = tokio::task::spawn_blocking(move || prepare(bytes, asked, &catalog.registry)).await;
        let prepared = prepared.map_err(|error| Status::internal(error.to_string()))?;
        let prepared = prepared.map_err(|error| to_status(error.kind(), &error))?;
        let registered = self.state.prediction.models.register(prepared, self.clock()).await;
        let registered = registered.map_err(|error| to_status(error.kind(), &error))?;
        self.follow().await?;
        let json = serde_json::to_string(registered.as_ref()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::RegisterModelResponse { version: registered.version, json }))
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let name = request.into_inner().name;
        let failed = |error: crate::model_registry::ModelRegistryError| to_status(error.kind(), &error);
        let models = self.state.prediction.models.models().await.map_err(failed)?;
        let documents = match name.is_empty() {
            true => models.models.iter().map(|(name, model)| model_document(name, model).to_string()).collect(),
            false => vec![model_document(&name, models.model(&name).map_err(failed)?).to_string()],
        };
        Ok(Response::new(pb::ListModelsResponse { models: documents }))
    }

    async fn set_model_alias(
        &self,
        request: Request<pb::SetModelAliasRequest>,
    ) -> Result<Response<pb::SetModelAliasResponse>, Status> {
        let asked = request.into_inner();
        let to = (asked.version != 0).then_some(asked.version);
        let expected = asked.expected.map(|version| (version != 0).then_some(version));
        let models = &self.state.prediction.models;
        let definitions = self.definitions();
        let moved = match to {
            Some(to) => models.set_alias(&asked.model, &asked.alias, to, expected, &definitions, self.clock()).await,
            None => models.remove_alias(&asked.model, &asked.alias, expected, &definitions, self.clock()).await,
        };
        moved.map_err(|error| to_status(error.kind(), &error))?;
        self.follow().await?;
        Ok(Response::new(pb::SetModelAliasResponse {}))
    }

    async fn retire_model(
        &self,
        request: Request<pb::RetireModelRequest>,
    ) -> Result<Response<pb::RetireModelResponse>, Status> {
        let asked = request.into_inner();
        let models = &self.state.prediction.models;
        let retired = models.retire(&asked.model, asked.version, &self.definitions(), self.clock()).await;
        retired.map_err(|error| to_status(error.kind(), &error))?;
        self.follow().await?;
        Ok(Response::new(pb::RetireModelResponse {}))
    }

    async fn flush_predictions(
        &self,
        _: Request<pb::FlushPredictionsRequest>,
    ) -> Result<Response<pb::FlushPredictionsResponse>, Status> {
        if let Some(logger) = self.state.prediction.service.logger() {
            logger.archive().await.map_err(|error| to_status(error.kind(), &error))?;
        }
        Ok(Response::new(pb::FlushPredictionsResponse {}))
    }
}
