//! `asof bench-echo`: what a server of gRPC costs that does nothing, to measure a server beside.
//!
//! The first request of each number of rows is passed on to the server that is measured; its answer is the answer to
//! every later one of that many rows. So the messages are the same, and all that is missing is the work.

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
    let echo = Echo { upstream: connect(&arguments.server).await?, answers: RwLock::default() };
    output.say(format!("echoes on grpc {address}"));
    output.document(&json!({"grpc": address.to_string()}));
    let served = tonic::transport::Server::builder()
        .add_service(FeatureStoreServer::new(echo))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    served.map_err(|error| CliError::Failed(error.to_string()))
}

struct Echo {
    upstream: Connection,
    /// By number of rows.
    answers: RwLock<HashMap<usize, Arc<pb::GetOnlineFeaturesResponse>>>,
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
        let known = self.answers.read().unwrap_or_else(PoisonError::into_inner).get(&rows).cloned();
        if let Some(answer) = known {
            return Ok(Response::new(answer.as_ref().clone()));
        }
        let answer = FeatureStoreClient::new(self.upstream.clone()).get_online_features(request).await?.into_inner();
        self.answers.write().unwrap_or_else(PoisonError::into_inner).insert(rows, Arc::new(answer.clone()));
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

fn not_echoed() -> Status {
    Status::unimplemented("an echo answers GetOnlineFeatures only")
}
