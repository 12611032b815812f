//! Predictions over gRPC and HTTP: `asof.v1.Prediction`, `POST /predict`, `POST /invocations` and the Open Inference
//! Protocol.

mod answer;
mod grpc;
mod http;
mod inference;
mod inference_grpc;
mod inference_http;
mod models;
mod state;

/// The messages and services of `proto/inference`.
pub mod inference_pb {
    #![allow(clippy::all, missing_docs, reason = "generated from proto/inference")]
    tonic::include_proto!("inference");
}

pub use inference::MATRIX;
pub use models::{model_document, registration};
pub use state::PredictionState;

pub(super) use http::router;

use std::sync::Arc;

use grpc::PredictionGrpc;
use inference_grpc::InferenceGrpc;
use inference_pb::grpc_inference_service_server::GrpcInferenceServiceServer;

use super::pb::prediction_server::PredictionServer;
use super::state::ServerState;

/// Bytes of a message that carries values or a piece of a model.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The services of predictions, for the gRPC port.
pub(super) fn grpc_services(
    state: &Arc<ServerState>,
) -> (PredictionServer<PredictionGrpc>, GrpcInferenceServiceServer<InferenceGrpc>) {
    let prediction = PredictionServer::new(PredictionGrpc { state: Arc::clone(state) });
    let inference = GrpcInferenceServiceServer::new(InferenceGrpc { state: Arc::clone(state) });
    (prediction.max_decoding_message_size(MESSAGE_BYTES_MAX), inference.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Loads what there is, and follows what comes.
pub(super) async fn start_following(state: &Arc<ServerState>) -> tokio::task::JoinHandle<()> {
    if let Err(error) = state.prediction.follow_once(state.catalog()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the models cannot be followed");
    }
    tokio::spawn(state::follow(Arc::clone(state)))
}
