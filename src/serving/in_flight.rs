//! A bound for the requests that are worked on at once, over gRPC and HTTP together: what comes on top is refused.
//!
//! A request counts from its head to the last byte of its answer. Probes, `/metrics`, reflection and the commands on
//! the same project are not counted: they are what a full server has to answer still.

use std::sync::Arc;

use axum::http::{HeaderValue, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use super::turns::{RETRY_PUSHBACK, RETRY_PUSHBACK_MS};
use super::watched_body::Watch;
use crate::settings::Limits;

/// A request that is counted until this is dropped.
pub(super) type Permit = OwnedSemaphorePermit;

#[derive(Debug, Clone)]
pub(super) struct InFlight {
    permits: Arc<Semaphore>,
    max: usize,
}

/// There are as many as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl InFlight {
    pub fn new(limits: &Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)));
        InFlight { permits, max: limits.in_flight }
    }

    pub fn enter(&self) -> Result<Permit, Full> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Full)
    }

    pub fn full(&self) -> String {
        format!(
            "the server works on {} requests, and takes no more at once; try again, or raise `in_flight` of its limits",
            self.max
        )
    }

    /// RESOURCE_EXHAUSTED, and when to try again.
    pub fn refuse_full(&self) -> Response<Body> {
        let mut refused = Status::resource_exhausted(self.full()).into_http();
        refused.headers_mut().insert(RETRY_PUSHBACK, HeaderValue::from_static(RETRY_PUSHBACK_MS));
        refused
    }
}

impl Watch for Permit {}
