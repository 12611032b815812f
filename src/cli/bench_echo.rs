//! `asof bench-echo`: what a server of gRPC costs that does nothing, to measure a server beside.
//!
//! The first request of each number of rows (for features) or of each size (for inferences) is passed on to the server
//! that is measured; its answer is the answer to every later one like it. So the messages are the same, and all that is
//! missing is the work.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::error::CliError;
use super::online_access::{Connection, connect};
use super::output::Output;
use crate::metrics::process_cpu_seconds;
use crate::serving::columns::row_count;
use crate::serving::pb;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::serving::pb::feature_store_server::{FeatureStore, FeatureStoreServer};
use crate::serving::prediction::inference_pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use crate::serving::prediction::inference_pb::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use crate::serving::prediction::inference_pb::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};

#[derive(Debug, Args)]
pub struct BenchEchoArguments {
    /// The server whose answers are repeated.
    #[arg(long, value_name = "ADDRESS")]
    server: String,
    /// Where to listen for gRPC; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    grpc: SocketAddr,
}

pub async fn run(arguments: &BenchEchoArguments, output: Output) -> Result<(), CliError> {
    let failed = |source| CliError::Io { action: format!("listen on {}", arguments.grpc), source };
    let listener = TcpListener::bind(arguments.grpc).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let upstream = connect(&arguments.server).await?;
    let echo = Arc::new(Echo { upstream, answers: RwLock::default(), inferences: RwLock::default() });
    output.say(format!("echoes on grpc {address}"));
    output.document(&json!({"grpc": address.to_string()}));
    let served = tonic::transport::Server::builder()
        .add_service(FeatureStoreServer::from_arc(Arc::clone(&echo)))
        .add_service(GrpcInferenceServiceServer::from_arc(echo))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    served.map_err(|error| CliError::Failed(error.to_string()))
}

struct Echo {
    upstream: Connection,
    /// By number of rows.
    answers: Answers<pb::GetOnlineFeaturesResponse>,
    /// By length of the message.
    inferences: Answers<ModelInferResponse>,
}

type Answers<T> = RwLock<HashMap<usize, Arc<T>>>;

fn known<T>(answers: &Answers<T>, key: usize) -> Option<Arc<T>> {
    answers.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
}

fn remember<T>(answers: &Answers<T>, key: usize, answer: T) {
    answers.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(answer));
}

#[tonic::async_trait]
impl FeatureStore for Echo {
    type GetBatchFeaturesStream = futures::stream::Empty<Result<pb::GetBatchFeaturesResponse, Status>>;

    async fn get_online_features(
        &self,
        request: Request<pb::GetOnlineFeaturesRequest>,
    ) -> Result<Response<pb::GetOnlineFeaturesResponse>, Status> {
        let request = request.into_inner();
        let rows = request.entities.first().and_then(|column| column.values.as_ref()).map_or(1, row_count);
        if let Some(answer) = known(&self.answers, rows) {
            return Ok(Response::new(answer.as_ref().clone()));
        }
        let answer = FeatureStoreClient::new(self.upstream.clone()).get_online_features(request).await?.into_inner();
        remember(&self.answers, rows, answer.clone());
        Ok(Response::new(answer))
    }

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusResponse>, Status> {
        let status = pb::GetStatusResponse { process_cpu_seconds: process_cpu_seconds(), ..Default::default() };
        Ok(Response::new(status))
    }

    async fn get_batch_features(
        &self,
        _: Request<Streaming<pb::GetBatchFeaturesRequest>>,
    ) -> Result<Response<Self::GetBatchFeaturesStream>, Status> {
        Err(not_echoed())
    }

    async fn push(&self, _: Request<Streaming<pb::PushRequest>>) -> Result<Response<pb::PushResponse>, Status> {
        Err(not_echoed())
    }

    async fn list_definitions(
        &self,
        _: Request<pb::ListDefinitionsRequest>,
    ) -> Result<Response<pb::ListDefinitionsResponse>, Status> {
        Err(not_echoed())
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let length = request.raw_input_contents.iter().map(bytes::Bytes::len).sum();
        if let Some(answer) = known(&self.inferences, length) {
            return Ok(Response::new(answer.as_ref().clone()));
        }
        let mut upstream = GrpcInferenceServiceClient::new(self.upstream.clone());
        let answer = upstream.model_infer(request).await?.into_inner();
        remember(&self.inferences, length, answer.clone());
        Ok(Response::new(answer))
    }

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Err(not_echoed())
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Err(not_echoed())
    }

    async fn model_ready(&self, _: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        Err(not_echoed())
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Err(not_echoed())
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(not_echoed())
    }
}

fn not_echoed() -> Status {
    Status::unimplemented("an echo answers GetOnlineFeatures and ModelInfer only")
}
