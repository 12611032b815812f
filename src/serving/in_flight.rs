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
use super::watched_body::{Watch, watched};

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const RETRY_PUSHBACK_MS: HeaderValue = HeaderValue::from_static("50");

#[derive(Debug, Clone)]
pub(super) struct InFlight {
    permits: Arc<Semaphore>,
    max: usize,
}

impl InFlight {
    pub fn new(max: usize) -> Self {
        InFlight { permits: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))), max }
    }

    /// None: there are as many as may be.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// RESOURCE_EXHAUSTED, and when to try again.
    pub fn refuse_grpc(&self) -> axum::http::Response<tonic::body::Body> {
        let mut refused = Status::resource_exhausted(self.refusal()).into_http();
        refused.headers_mut().insert(RETRY_PUSHBACK, RETRY_PUSHBACK_MS);
        refused
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

impl Watch for OwnedSemaphorePermit {}
