//! Bounds for the requests that are worked on at once, over gRPC and HTTP together: what comes on top is refused, and so
//! is what waited too long for a thread. Refusing costs little, so that a server with too much to do answers as many
//! requests as it can, each about as fast as ever.
//!
//! A request counts from its head to the last byte of its answer. Probes, `/metrics`, reflection and the commands on
//! the same project are not counted: they are what a full server has to answer still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use super::watched_body::Watch;
use crate::settings::Limits;

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const RETRY_PUSHBACK_MS: HeaderValue = HeaderValue::from_static("50");

/// The part of the queue's time that requests wait at most once the server has caught up.
const CAUGHT_UP: u32 = 4;

/// A request that is counted until this is dropped.
pub(super) type Permit = OwnedSemaphorePermit;

#[derive(Debug, Clone)]
pub(super) struct InFlight {
    permits: Arc<Semaphore>,
    max: usize,
    queue_time: Duration,
    began: Instant,
    /// Since when requests wait too long, in microseconds after `began`; 0: they do not.
    late_since: Arc<AtomicU64>,
}

/// There are as many as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl InFlight {
    pub fn new(limits: &Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)));
        let (began, late_since) = (Instant::now(), Arc::default());
        InFlight { permits, max: limits.in_flight, queue_time: limits.queue_time, began, late_since }
    }

    pub fn enter(&self) -> Result<Permit, Full> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Full)
    }

    /// Whether a request waited so long for a thread that its caller had better ask again, or elsewhere.
    ///
    /// A process that the system held up for a moment finds all requests late once, and catches up. It has too much to
    /// do if they stay late, until hardly one waits any more: while it refuses what waited too long, what it takes has
    /// waited almost as long.
    pub fn is_late(&self, arrived: Instant) -> bool {
        let waited = arrived.elapsed();
        if waited <= self.queue_time {
            if waited <= self.queue_time / CAUGHT_UP && self.late_since.load(Ordering::Relaxed) != 0 {
                self.late_since.store(0, Ordering::Relaxed);
            }
            return false;
        }
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let known = self.late_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let since = known.err().unwrap_or(now);
        u128::from(now.saturating_sub(since)) > late_patience(self.queue_time).as_micros()
    }

    pub fn queue_time(&self) -> Duration {
        self.queue_time
    }

    pub fn full(&self) -> String {
        format!(
            "the server works on {} requests, and takes no more at once; try again, or raise `in_flight` of its limits",
            self.max
        )
    }

    /// RESOURCE_EXHAUSTED, and when to try again.
    pub fn refuse_full(&self) -> Response<Body> {
        refuse(self.full())
    }

    /// As [`Self::refuse_full`].
    pub fn refuse_late(&self) -> Response<Body> {
        refuse(late(self.queue_time))
    }
}

/// How long requests may go on being late before they are refused.
fn late_patience(queue_time: Duration) -> Duration {
    queue_time * 5
}

/// Why a request that waited so long for its turn is refused.
pub(super) fn late(queue_time: Duration) -> String {
    format!("the server has more to do than it can: the request waited longer than {queue_time:?}; try again")
}

fn refuse(message: String) -> Response<Body> {
    let mut refused = Status::resource_exhausted(message).into_http();
    refused.headers_mut().insert(RETRY_PUSHBACK, RETRY_PUSHBACK_MS);
    refused
}

impl Watch for Permit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_while_they_stay_late_and_not_for_one_moment() {
        let queue_time = Duration::from_millis(20);
        let in_flight = InFlight::new(&Limits { queue_time, ..Limits::default() });
        let late = || Instant::now() - 2 * queue_time;
        assert!(!in_flight.is_late(late()), "once is a moment");
        std::thread::sleep(late_patience(queue_time) + Duration::from_millis(5));
        assert!(in_flight.is_late(late()));
        assert!(in_flight.is_late(late()));
        // One that is hardly in time is answered, and the others are late still.
        assert!(!in_flight.is_late(Instant::now() - queue_time / 2));
        assert!(in_flight.is_late(late()));
        // One that did not wait, and the rest has caught up.
        assert!(!in_flight.is_late(Instant::now()));
        assert!(!in_flight.is_late(late()));
    }
}
