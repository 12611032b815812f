//! One bound for the requests that are worked on at once, over gRPC and HTTP together: what comes on top is refused.
//!
//! A request counts from its head to the last byte of its answer. Probes, `/metrics`, reflection and the commands on
//! the same project are not counted: they are what a full server has to answer still.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::http::failure;
use super::pb::{feature_store_server, prediction_server};
use super::prediction::inference_pb::grpc_inference_service_server;
use super::watched_body::{Watch, watched};

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const RETRY_PUSHBACK_MS: HeaderValue = HeaderValue::from_static("50");

/// The services whose calls count.
const BOUNDED: [&str; 3] =
    [feature_store_server::SERVICE_NAME, prediction_server::SERVICE_NAME, grpc_inference_service_server::SERVICE_NAME];

#[derive(Debug, Clone)]
pub(super) struct InFlight {
    permits: Arc<Semaphore>,
    max: usize,
}

impl InFlight {
    pub fn new(max: usize) -> Self {
        InFlight { permits: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))), max }
    }

    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    fn refusal(&self) -> String {
        format!(
            "the server works on {} requests, and takes no more at once; try again, or raise `in_flight` of its limits",
            self.max
        )
    }
}

/// Admits a request to the gateway, or answers 429.
pub(super) async fn bound_http(State(in_flight): State<InFlight>, request: Request, next: Next) -> Response {
    match in_flight.enter() {
        Some(permit) => watched(next.run(request).await, permit),
        None => failure(StatusCode::TOO_MANY_REQUESTS, &in_flight.refusal()),
    }
}

/// Admits a call of the feature store, or answers RESOURCE_EXHAUSTED.
pub(super) async fn bound_grpc(State(in_flight): State<InFlight>, request: Request, next: Next) -> Response {
    let service = request.uri().path().trim_start_matches('/').split('/').next();
    if !service.is_some_and(|service| BOUNDED.contains(&service)) {
        return next.run(request).await;
    }
    match in_flight.enter() {
        Some(permit) => watched(next.run(request).await, permit),
        None => {
            let mut refused = Status::resource_exhausted(in_flight.refusal()).into_http();
            refused.headers_mut().insert(RETRY_PUSHBACK, RETRY_PUSHBACK_MS);
            refused
        }
    }
}

impl Watch for OwnedSemaphorePermit {}
