//! Turns of online requests and predictions: first come, first served, and what waited too long is refused. Refusing costs
//! little, so that a server with too much to do answers as many requests as it can, each about as fast as ever.
//!
//! A request is computed on the thread that received it, because handing it over would take longer. Meanwhile the thread
//! receives nothing, and what comes in waits where nobody sees it. So a request that has its turn first lets everything
//! in that has come in: all that wait then stand in one queue, and it is known for how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Histogram, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::metrics::REQUEST_STAGE_SECONDS;
use crate::trace;

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
pub(super) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
pub(super) const RETRY_PUSHBACK_MS: &str = "50";

/// The part of the queue's time that requests wait at most once the server has caught up.
const CAUGHT_UP: u32 = 4;
/// For how many times the queue's time requests may be late before they are refused.
const LATE_PATIENCE: u32 = 5;

#[derive(Debug)]
pub(super) struct Turns {
    /// As many as there are cores: more would only make all of them slower.
    free: Arc<Semaphore>,
    queue_time: Duration,
    began: Instant,
    /// Since when requests wait too long, in microseconds after `began`; 0: they do not.
    late_since: AtomicU64,
    waited: OnceLock<Histogram>,
}

/// Others wait until this is dropped.
pub(super) type Turn = OwnedSemaphorePermit;

impl Turns {
    pub fn new(queue_time: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Turns {
            free: Arc::new(Semaphore::new(cores)),
            queue_time,
            began: Instant::now(),
            late_since: AtomicU64::new(0),
            waited: OnceLock::new(),
        }
    }

    /// Waits for a turn, behind those who came before.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED after too long a time, while the server has more to do than it can.
    pub async fn take(&self) -> Result<Turn, Status> {
        let came = Instant::now();
        // Nobody closes the semaphore.
        let turn = Arc::clone(&self.free).acquire_owned().await.map_err(|_| self.refusal())?;
        tokio::task::yield_now().await;
        let waited = came.elapsed();
        // Not before the recorder of the process is there.
        let metric = self.waited.get_or_init(|| histogram!(REQUEST_STAGE_SECONDS, "stage" => "wait"));
        metric.record(waited);
        trace::stage("wait", came);
        if self.is_late(waited) { Err(self.refusal()) } else { Ok(turn) }
    }

    /// Whether a request that waited so long had better ask again, or elsewhere.
    ///
    /// A process that the system held up for a moment finds all requests late once, and catches up. It has too much to
    /// do if they stay late, until hardly one waits any more: while it refuses what waited too long, what it takes has
    /// waited almost as long.
    fn is_late(&self, waited: Duration) -> bool {
        if waited <= self.queue_time {
            if waited <= self.queue_time / CAUGHT_UP && self.late_since.load(Ordering::Relaxed) != 0 {
                self.late_since.store(0, Ordering::Relaxed);
            }
            return false;
        }
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let known = self.late_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let since = known.err().unwrap_or(now);
        u128::from(now.saturating_sub(since)) > (self.queue_time * LATE_PATIENCE).as_micros()
    }

    /// RESOURCE_EXHAUSTED, and when to try again.
    pub fn refusal(&self) -> Status {
        let queue_time = self.queue_time;
        let message =
            format!("the server has more to do than it can: the request waited longer than {queue_time:?}; try again");
        let mut status = Status::resource_exhausted(message);
        status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static(RETRY_PUSHBACK_MS));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_while_they_stay_late_and_not_for_one_moment() {
        let queue_time = Duration::from_millis(20);
        let turns = Turns::new(queue_time);
        assert!(!turns.is_late(2 * queue_time), "once is a moment");
        std::thread::sleep(queue_time * LATE_PATIENCE + Duration::from_millis(5));
        assert!(turns.is_late(2 * queue_time));
        // One that is hardly in time is answered, and the others are late still.
        assert!(!turns.is_late(queue_time / 2));
        assert!(turns.is_late(2 * queue_time));
        // One that did not wait, and the rest has caught up.
        assert!(!turns.is_late(Duration::ZERO));
        assert!(!turns.is_late(2 * queue_time));
    }

    #[tokio::test]
    async fn turns_go_to_those_who_came_first_and_those_who_are_gone_take_none() {
        let turns = Arc::new(Turns::new(Duration::from_secs(60)));
        let cores = turns.free.available_permits();
        let mut taken = Vec::new();
        for _ in 0..cores {
            taken.push(turns.take().await.unwrap());
        }
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut calls = Vec::new();
        for number in 0..6 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            calls.push(tokio::spawn(async move {
                let _turn = turns.take().await.unwrap();
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        calls[2].abort();
        drop(taken);
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.is_ok(), number != 2);
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 3, 4, 5]);
        assert_eq!(turns.free.available_permits(), cores);
    }
}
