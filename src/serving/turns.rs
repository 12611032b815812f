//! Turns of online requests and predictions, as many at a time as there are cores: more would only make all of them slower.
//!
//! A request is computed on the thread that received it, because handing it over would take longer. Meanwhile the thread
//! receives nothing, and what comes in waits where nobody sees it. So a request that has its turn first lets everything
//! in that has come in: all that wait then stand in one queue, and it is known for how long.
//!
//! Turns go to those who came first, until the first has waited too long: there is more to do than can be done, and if
//! everybody waited as long as they can, everybody would be answered late. From then on turns go to those who came last,
//! who are answered about as fast as ever; the others are refused once their patience is over. Whoever waits costs
//! nothing, so that all the time that is left goes to answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Histogram, histogram};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::metrics::REQUEST_STAGE_SECONDS;
use crate::trace;

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
pub(super) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
pub(super) const RETRY_PUSHBACK_MS: &str = "50";

/// For how many times the queue's time a request waits before it is refused.
const PATIENCE: u32 = 5;

#[derive(Debug)]
pub(super) struct Turns {
    queue: Arc<Queue>,
    waited: OnceLock<Histogram>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    /// How long the first may wait until the last goes before it.
    queue_time: Duration,
}

#[derive(Debug)]
struct QueueState {
    free: usize,
    /// Those who came first stand in front. Nobody hears of a turn any more who is refused or gone.
    waiting: VecDeque<(Instant, oneshot::Sender<Turn>)>,
}

/// Others wait until this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Queue>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.pass_on();
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // Numbers and entries are changed in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, or where to wait for one.
    fn enter(self: &Arc<Self>) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return Ok(Turn(Some(Arc::clone(self))));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back((Instant::now(), sender));
        Err(receiver)
    }

    /// Gives a turn that is over to the next who waits still.
    fn pass_on(self: Arc<Self>) {
        let mut turn = Turn(Some(self));
        while let Some(queue) = turn.0.take() {
            let Some(next) = queue.next() else { return };
            // Whoever does not hear of it any more gives it back.
            match next.send(Turn(Some(queue))) {
                Ok(()) => return,
                Err(back) => turn = back,
            }
        }
    }

    /// Who is next; without anybody the turn is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.state();
        while state.waiting.front().is_some_and(|(_, sender)| sender.is_closed()) {
            state.waiting.pop_front();
        }
        let is_late = state.waiting.front().is_some_and(|(came, _)| came.elapsed() > self.queue_time);
        let next = if is_late { state.waiting.pop_back() } else { state.waiting.pop_front() };
        if next.is_none() {
            state.free += 1;
        }
        next.map(|(_, sender)| sender)
    }
}

impl Turns {
    pub fn new(queue_time: Duration) -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, std::num::NonZero::get), queue_time)
    }

    fn of(count: usize, queue_time: Duration) -> Self {
        let state = Mutex::new(QueueState { free: count, waiting: VecDeque::new() });
        Turns { queue: Arc::new(Queue { state, queue_time }), waited: OnceLock::new() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED after too long a time, while the server has more to do than it can.
    pub async fn take(&self) -> Result<Turn, Status> {
        let came = Instant::now();
        let turn = match self.queue.enter() {
            Ok(turn) => Some(turn),
            Err(turn) => tokio::time::timeout(self.queue.queue_time * PATIENCE, turn).await.ok().and_then(Result::ok),
        };
        if turn.is_some() {
            tokio::task::yield_now().await;
        }
        // Not before the recorder of the process is there.
        let metric = self.waited.get_or_init(|| histogram!(REQUEST_STAGE_SECONDS, "stage" => "wait"));
        metric.record(came.elapsed());
        trace::stage("wait", came);
        turn.ok_or_else(|| self.refusal())
    }

    /// RESOURCE_EXHAUSTED, and when to try again.
    pub fn refusal(&self) -> Status {
        let message = "the server has more to do than it can: others had the request's turn; try again";
        let mut status = Status::resource_exhausted(message);
        status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static(RETRY_PUSHBACK_MS));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for turns one after the other, while one is taken, and tells who had one in which order once it is over.
    async fn order(queue_time: Duration, late: Duration, is_gone: &[usize]) -> Vec<Option<usize>> {
        let turns = Arc::new(Turns::of(1, queue_time));
        let taken = turns.take().await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = Vec::new();
        for number in 0..4 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            calls.push(tokio::spawn(async move {
                let turn = turns.take().await;
                order.lock().unwrap().push(turn.is_ok().then_some(number));
            }));
            tokio::task::yield_now().await;
        }
        is_gone.iter().for_each(|number| calls[*number].abort());
        tokio::time::sleep(late).await;
        drop(taken);
        for call in calls {
            let _ = call.await;
        }
        let state = turns.queue.state();
        assert_eq!((state.free, state.waiting.len()), (1, 0), "every turn is given back");
        order.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn turns_go_to_those_who_came_first_and_those_who_are_gone_take_none() {
        let long = Duration::from_secs(60);
        assert_eq!(order(long, Duration::ZERO, &[]).await, [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(order(long, Duration::ZERO, &[0, 2]).await, [Some(1), Some(3)]);
        assert_eq!(order(long, Duration::ZERO, &[0, 1, 2, 3]).await, []);
    }

    #[tokio::test]
    async fn turns_go_to_those_who_came_last_once_the_first_is_late_and_nobody_waits_for_ever() {
        let short = Duration::from_millis(200);
        assert_eq!(order(short, 2 * short, &[]).await, [Some(3), Some(2), Some(1), Some(0)]);
        assert_eq!(order(short, 2 * short, &[3, 1]).await, [Some(2), Some(0)]);
        assert_eq!(order(short, 2 * PATIENCE * short, &[]).await, [None; 4]);
    }
}
