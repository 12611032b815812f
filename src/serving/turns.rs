//! The work of online requests and predictions, as many at a time as there are cores: more would only make all of them
//! slower.
//!
//! A request is computed on a thread that receives requests, because handing it over would take longer. Meanwhile the
//! thread receives nothing, and what comes in waits where nobody sees it. So whoever begins to work first lets everything
//! in that has come in: all that wait then stand in one queue, and it is known for how long. Receiving takes time, too,
//! and refusing; work goes on for as long as that took before it makes way again, so that a flood leaves it half of the
//! time at least.
//!
//! Those who came first are first, until one has waited too long: there is more to do than can be done, and if everybody
//! waited as long as they can, everybody would be answered late. From then on those who came last are first, and answered
//! about as fast as ever; the others are refused once their patience is over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Histogram, histogram};
use tokio::runtime::Handle;
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
/// How long work goes on at least before it makes way.
const STRETCH_MIN: Duration = Duration::from_millis(1);

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

struct QueueState {
    /// How many more may work.
    free: usize,
    /// Those who came first stand in front.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    came: Instant,
    /// Does the work, unless nobody waits for it any more.
    work: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for QueueState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueState").field("free", &self.free).field("waiting", &self.waiting.len()).finish()
    }
}

/// The right to work, until it is dropped; what waits then is worked on by somebody else.
struct Turn(Option<Arc<Queue>>);

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        if queue.is_over() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(work_on(Turn(Some(queue))))),
            // The process ends.
            Err(_) => queue.state().free += 1,
        }
    }
}

/// Works on what waits until nothing does.
async fn work_on(mut turn: Turn) {
    let mut stretch = STRETCH_MIN;
    while let Some(queue) = turn.0.as_ref() {
        let began = Instant::now();
        while began.elapsed() < stretch
            && let Some(waiting) = queue.next()
        {
            (waiting.work)();
        }
        if queue.is_over() {
            turn.0 = None;
            return;
        }
        let made_way = Instant::now();
        let stretch_max = queue.queue_time.max(STRETCH_MIN);
        tokio::task::yield_now().await;
        stretch = made_way.elapsed().clamp(STRETCH_MIN, stretch_max);
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // Numbers and entries are changed in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn and the work, if one is free; else the work waits for one, and this for what it gives.
    fn enter<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        self: &Arc<Self>,
        came: Instant,
        work: W,
    ) -> Result<(Turn, W), oneshot::Receiver<T>> {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return Ok((Turn(Some(Arc::clone(self))), work));
        }
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        };
        state.waiting.push_back(Waiting { came, work: Box::new(work) });
        Err(receiver)
    }

    /// How long a request waits before it is refused.
    fn patience(&self) -> Duration {
        self.queue_time * PATIENCE
    }

    /// Whether nothing waits; the turn is free then.
    fn is_over(&self) -> bool {
        let mut state = self.state();
        let is_over = state.waiting.is_empty();
        state.free += usize::from(is_over);
        is_over
    }

    fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        loop {
            let waited = state.waiting.front()?.came.elapsed();
            if waited <= self.queue_time {
                return state.waiting.pop_front();
            }
            if waited <= self.patience() {
                return state.waiting.pop_back();
            }
            state.waiting.pop_front();
        }
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

    /// Does some work of one request when its turn comes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED after too long a time, while the server has more to do than it can.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let came = Instant::now();
        // Not before the recorder of the process is there.
        let metric = self.waited.get_or_init(|| histogram!(REQUEST_STAGE_SECONDS, "stage" => "wait")).clone();
        let record = move || {
            metric.record(came.elapsed());
            trace::stage("wait", came);
        };
        let (traced, recorded) = (trace::current(), record.clone());
        let work = move || {
            trace::within_thread(traced, || {
                recorded();
                work()
            })
        };
        let done = match self.queue.enter(came, work) {
            Ok((_turn, work)) => {
                tokio::task::yield_now().await;
                return Ok(work());
            }
            Err(done) => tokio::time::timeout(self.queue.patience(), done).await,
        };
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) if came.elapsed() < self.queue.patience() => {
                Err(Status::internal("the work on the request ended before its time"))
            }
            _ => {
                record();
                Err(self.refusal())
            }
        }
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

    /// Work that comes in piece by piece while a turn is taken, and is done in which order once that is over.
    async fn order(queue_time: Duration, late: Duration, is_gone: &[usize]) -> Vec<usize> {
        let turns = Arc::new(Turns::of(1, queue_time));
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), || ()) else { panic!("a turn is free") };
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = Vec::new();
        for number in 0..4 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            calls.push(tokio::spawn(async move {
                let done = turns.run(move || {
                    order.lock().unwrap().push(number);
                    number
                });
                assert_eq!(done.await.unwrap_or(number), number);
            }));
            tokio::task::yield_now().await;
        }
        is_gone.iter().for_each(|number| calls[*number].abort());
        tokio::time::sleep(late).await;
        drop(taken);
        for call in calls {
            assert!(call.await.is_ok_and(|()| true) || !is_gone.is_empty());
        }
        while turns.queue.state().free == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.queue.state().waiting.len(), 0);
        assert_eq!(turns.run(|| 7).await.unwrap(), 7, "it goes on as before");
        order.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn those_who_came_first_are_first_and_nobody_works_for_those_who_are_gone() {
        let long = Duration::from_secs(60);
        assert_eq!(order(long, Duration::ZERO, &[]).await, [0, 1, 2, 3]);
        assert_eq!(order(long, Duration::ZERO, &[0, 2]).await, [1, 3]);
        assert_eq!(order(long, Duration::ZERO, &[0, 1, 2, 3]).await, [0; 0]);
    }

    #[tokio::test]
    async fn those_who_came_last_are_first_once_one_has_waited_too_long_and_nobody_waits_for_ever() {
        let short = Duration::from_millis(200);
        assert_eq!(order(short, 2 * short, &[]).await, [3, 2, 1, 0]);
        assert_eq!(order(short, 2 * short, &[3, 1]).await, [2, 0]);
        assert_eq!(order(short, 2 * PATIENCE * short, &[]).await, [0; 0]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_is_worked_on_once_whoever_takes_turns() {
        let turns = Arc::new(Turns::of(2, Duration::from_secs(60)));
        let calls = (0..2_000).map(|number| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.run(move || number).await.unwrap() })
        });
        for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), number);
        }
    }

    #[tokio::test]
    async fn work_that_panics_takes_nobody_elses_turn() {
        let turns = Arc::new(Turns::of(1, Duration::from_secs(60)));
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), || ()) else { panic!("a turn is free") };
        let failing = Arc::clone(&turns);
        let failing = tokio::spawn(async move { failing.run(|| panic!("as it is meant to")).await });
        tokio::task::yield_now().await;
        drop(taken);
        assert_eq!(failing.await.unwrap().unwrap_err().code(), tonic::Code::Internal);
        assert_eq!(turns.run(|| 7).await.unwrap(), 7);
    }
}
