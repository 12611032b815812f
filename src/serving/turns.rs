//! The work of online requests and predictions, as many at a time as there are cores: more would only make all of them
//! slower.
//!
//! A request is computed on a thread that receives requests, because handing it over would take longer. Meanwhile the
//! thread receives nothing, and what comes in waits where nobody sees it. So whoever begins to work first lets everything
//! in that has come in: all that wait then stand in one queue, and it is known for how long. (The first request after a
//! thread had nothing to do is answered at once: it may well be the only one.) Receiving takes time, too,
//! and refusing; work goes on for as long as that took before it makes way again, so that a flood leaves it half of the
//! time at least.
//!
//! Those who came first are first, until one has waited too long: there is more to do than can be done, and if everybody
//! waited as long as they can, everybody would be answered late. From then on those who came last are first, and answered
//! about as fast as ever; the others are refused once their patience is over.
//!
//! Where more has stood in the queue for long than its time allows, it is a flood, until a request comes to a thread that had nothing to do. Reading a
//! request only to refuse it takes a part of what answering it would: so requests are refused by their head then, until
//! what waits will soon be done. And patience is short, so that what is answered is answered in time: as of CoDel, whose
//! queues have one bound while they empty now and then, and a shorter one while they do not (Nichols and Jacobson,
//! Controlling Queue Delay, 2012). Requests of many rows have turns of their own, and a queue that nobody is refused for
//! but they.

use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Histogram, histogram};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::metrics::REQUEST_STAGE_SECONDS;
use crate::trace;

/// Tells clients of gRPC that the call may be made again, and after how many milliseconds.
pub(super) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
pub(super) const RETRY_PUSHBACK_MS: &str = "50";

/// For how many times the queue's time a request waits before it is refused.
const PATIENCE: u32 = 5;
/// For which part of the queue's time a request waits in a flood, and work is taken in.
const FLOOD_PATIENCE: u32 = 4;
/// How long work goes on at least before it makes way.
const STRETCH_MIN: Duration = Duration::from_millis(1);
/// Up to here a request is answered on the thread that received it: handing it over would take longer.
const INLINE_ROWS_MAX: usize = 256;
/// What a request takes besides its rows, in rows.
const REQUEST_ROWS: usize = 8;
/// Of a row, before any was measured.
const ROW_NS_FIRST: u64 = 1_000;

thread_local! {
    static HAD_NOTHING_TO_DO: Cell<bool> = const { Cell::new(false) };
}

/// To be called by each thread of the runtime that serves before it sleeps.
pub fn before_sleep() {
    HAD_NOTHING_TO_DO.set(true);
}

#[derive(Debug)]
pub(super) struct Turns {
    queue: Arc<Queue>,
    /// Turns of requests that are too large for the thread that received them.
    large: Arc<Semaphore>,
    large_pace: Arc<Pace>,
    /// How many work at once of either kind.
    count: usize,
    crowd: Crowd,
    waited: OnceLock<Histogram>,
}

/// How long work takes.
#[derive(Debug)]
struct Pace {
    /// Of a row, about; a request takes as long as so many rows more than it has.
    row_ns: AtomicU64,
}

/// Since when more waits than should.
#[derive(Debug)]
struct Crowd {
    started: Instant,
    /// Nanoseconds after that; 0: it does not.
    since_ns: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    /// How long the first may wait until the last goes before it.
    queue_time: Duration,
    pace: Pace,
    /// As of the state, for those who only look.
    rows: AtomicUsize,
    is_flooded: AtomicBool,
}

struct QueueState {
    /// How many more may work.
    free: usize,
    /// Those who came first stand in front.
    waiting: VecDeque<Waiting>,
    /// The rows of all that wait, [`REQUEST_ROWS`] for each of them included.
    rows: usize,
}

struct Waiting {
    came: Instant,
    rows: usize,
    /// Does the work where it has a turn, unless nobody waits for it any more; else tells that it has none.
    work: Box<dyn FnOnce(bool) + Send>,
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
            (waiting.work)(true);
        }
        if queue.is_over() {
            turn.0 = None;
            return;
        }
        HAD_NOTHING_TO_DO.set(false);
        let made_way = Instant::now();
        let stretch_max = queue.queue_time.max(STRETCH_MIN);
        tokio::task::yield_now().await;
        stretch = made_way.elapsed().clamp(STRETCH_MIN, stretch_max);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Pace { row_ns: AtomicU64::new(ROW_NS_FIRST) }
    }
}

impl Pace {
    /// Does some work, and notes how long it took.
    fn worked<T>(&self, rows: usize, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.note(rows, began.elapsed());
        done
    }

    fn note(&self, rows: usize, took: Duration) {
        let mean = self.row_ns.load(Ordering::Relaxed);
        // A thread that was interrupted took long, and says little: what is faster counts more.
        let found = (nanos(took) / rows.max(1) as u64).min(mean.saturating_mul(4));
        let next = if found < mean { mean - (mean - found) / 4 } else { mean + (found - mean) / 16 };
        // Of two at once one is lost, which a mean can bear.
        self.row_ns.store(next.max(1), Ordering::Relaxed);
    }

    fn of(&self, rows: usize) -> Duration {
        Duration::from_nanos(self.row_ns.load(Ordering::Relaxed).saturating_mul(rows as u64))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Crowd {
    fn new() -> Self {
        Crowd { started: Instant::now(), since_ns: AtomicU64::new(0) }
    }

    /// For how long more has waited than should, if it does now.
    fn lasts(&self, is_crowded: bool) -> Duration {
        let since = self.since_ns.load(Ordering::Relaxed);
        if !is_crowded {
            if since != 0 {
                self.since_ns.store(0, Ordering::Relaxed);
            }
            return Duration::ZERO;
        }
        let now = nanos(self.started.elapsed()).max(1);
        if since == 0 {
            self.since_ns.store(now, Ordering::Relaxed);
            return Duration::ZERO;
        }
        Duration::from_nanos(now.saturating_sub(since))
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
        rows: usize,
        work: W,
    ) -> Result<(Turn, W), oneshot::Receiver<Option<T>>> {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return Ok((Turn(Some(Arc::clone(self))), work));
        }
        let (sender, receiver) = oneshot::channel();
        let work = move |has_turn: bool| {
            if !sender.is_closed() {
                let _ = sender.send(has_turn.then(work));
            }
        };
        state.waiting.push_back(Waiting { came, rows, work: Box::new(work) });
        state.rows += rows;
        self.rows.store(state.rows, Ordering::Relaxed);
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
        let is_flooded = self.is_flooded.load(Ordering::Relaxed);
        loop {
            let waited = state.waiting.front()?.came.elapsed();
            // The last one is answered in a flood, too: nobody else would be meanwhile.
            let is_too_late = is_flooded && waited > self.queue_time / FLOOD_PATIENCE && state.waiting.len() > 1;
            let is_over = waited > self.patience() || is_too_late;
            let next = if is_over || waited <= self.queue_time {
                state.waiting.pop_front()?
            } else {
                state.waiting.pop_back()?
            };
            state.rows -= next.rows;
            self.rows.store(state.rows, Ordering::Relaxed);
            if !is_over {
                return Some(next);
            }
            (next.work)(false);
        }
    }
}

impl Turns {
    pub fn new(queue_time: Duration) -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZero::get), queue_time)
    }

    fn of(count: usize, queue_time: Duration) -> Self {
        let state = Mutex::new(QueueState { free: count, waiting: VecDeque::new(), rows: 0 });
        Turns {
            queue: Arc::new(Queue {
                state,
                queue_time,
                pace: Pace::default(),
                rows: AtomicUsize::new(0),
                is_flooded: AtomicBool::new(false),
            }),
            large: Arc::new(Semaphore::new(count)),
            large_pace: Arc::default(),
            count,
            crowd: Crowd::new(),
            waited: OnceLock::new(),
        }
    }

    /// Whether a request that comes now is to be refused before more than its head is read: in a flood, while more waits
    /// than will soon be done. A burst is answered so.
    pub fn is_crowded(&self) -> bool {
        let rows = self.queue.rows.load(Ordering::Relaxed);
        let wait = self.queue.pace.of(rows) / u32::try_from(self.count).unwrap_or(1);
        if !self.queue.is_flooded.load(Ordering::Relaxed) {
            if self.crowd.lasts(wait > self.queue.queue_time) <= self.queue.patience() {
                return false;
            }
            self.queue.is_flooded.store(true, Ordering::Relaxed);
        } else if rows == 0 && HAD_NOTHING_TO_DO.get() && self.queue.state().free > 0 {
            self.crowd.lasts(false);
            self.queue.is_flooded.store(false, Ordering::Relaxed);
        }
        wait > self.queue.queue_time / FLOOD_PATIENCE
    }

    /// What a request that is refused before its patience is over waits, so that who asks again at once does not ask all the time.
    pub fn refusal_delay(&self) -> Duration {
        self.queue.queue_time
    }

    /// Does the work of one request of so many rows when its turn comes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED after too long a time, while the server has more to do than it can.
    pub async fn run<T: Send + 'static>(
        &self,
        rows: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let is_large = rows > INLINE_ROWS_MAX;
        let rows = rows.saturating_add(REQUEST_ROWS);
        if is_large { self.run_apart(rows, work).await } else { self.run_here(rows, work).await }
    }

    /// On a thread for work that takes long. It may wait as long as it takes, and for the queue's time at least.
    async fn run_apart<T: Send + 'static>(
        &self,
        rows: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let came = Instant::now();
        let patience = self.large_pace.of(rows).max(self.queue.queue_time);
        let turn = tokio::time::timeout(patience, Arc::clone(&self.large).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(self.refusal()) };
        trace::stage("turn", came);
        let (traced, pace) = (trace::current(), Arc::clone(&self.large_pace));
        let work = move || {
            let done = trace::within_thread(traced, || pace.worked(rows, work));
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
    }

    async fn run_here<T: Send + 'static>(
        &self,
        rows: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (came, had_nothing_to_do) = (Instant::now(), HAD_NOTHING_TO_DO.take());
        // Not before the recorder of the process is there.
        let metric = self.waited.get_or_init(|| histogram!(REQUEST_STAGE_SECONDS, "stage" => "wait")).clone();
        let record = move || {
            metric.record(came.elapsed());
            trace::stage("wait", came);
        };
        let (traced, recorded, queue) = (trace::current(), record.clone(), Arc::clone(&self.queue));
        let work = move || {
            trace::within_thread(traced, || {
                recorded();
                queue.pace.worked(rows, work)
            })
        };
        let done = match self.queue.enter(came, rows, work) {
            Ok((_turn, work)) => {
                if !had_nothing_to_do {
                    tokio::task::yield_now().await;
                }
                return Ok(work());
            }
            Err(done) => tokio::time::timeout(self.queue.patience(), done).await,
        };
        match done {
            Ok(Ok(Some(done))) => Ok(done),
            Ok(Err(_)) => Err(Status::internal("the work on the request ended before its time")),
            Ok(Ok(None)) | Err(_) => {
                record();
                tokio::time::sleep(self.refusal_delay().saturating_sub(came.elapsed())).await;
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
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), 1, || ()) else { panic!("a turn is free") };
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = Vec::new();
        for number in 0..4 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            calls.push(tokio::spawn(async move {
                let done = turns.run(1, move || {
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
        assert_eq!(turns.run(1, || 7).await.unwrap(), 7, "it goes on as before");
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
            tokio::spawn(async move { turns.run(1, move || number).await.unwrap() })
        });
        for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), number);
        }
    }

    #[test]
    fn a_crowd_is_what_stands_in_the_queue_for_long() {
        let mut turns = Turns::of(2, Duration::from_millis(20));
        let waits = |turns: &Turns, ms: usize| {
            turns.queue.rows.store(2 * ms, Ordering::Relaxed);
            turns.queue.pace.row_ns.store(1_000_000, Ordering::Relaxed);
            turns.is_crowded()
        };
        assert_eq!([0, 50, 500].map(|ms| waits(&turns, ms)), [false; 3], "it has only come");
        turns.crowd.started -= Duration::from_secs(1);
        assert_eq!([50, 4, 6, 0].map(|ms| waits(&turns, ms)), [true, false, true, false]);
        before_sleep();
        assert_eq!([6, 0, 50, 20].map(|ms| waits(&turns, ms)), [true, false, false, false]);
        assert_eq!([50, 20, 50].map(|ms| waits(&turns, ms)), [false; 3], "it has to stand for long again");
    }

    #[tokio::test]
    async fn in_a_flood_who_waited_for_long_is_refused_unless_nobody_else_waits() {
        let queue_time = Duration::from_millis(400);
        let turns = Arc::new(Turns::of(1, queue_time));
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), 1, || ()) else { panic!("a turn is free") };
        let ask = |number: usize| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.run(1, move || number).await.map_err(|status| status.code()) })
        };
        let early = [ask(0), ask(1)];
        tokio::task::yield_now().await;
        tokio::time::sleep(queue_time / 2).await;
        let late = ask(2);
        tokio::task::yield_now().await;
        turns.queue.is_flooded.store(true, Ordering::Relaxed);
        drop(taken);
        assert_eq!(late.await.unwrap(), Ok(2));
        for refused in early {
            assert_eq!(refused.await.unwrap(), Err(tonic::Code::ResourceExhausted));
        }
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), 1, || ()) else { panic!("a turn is free") };
        let only = ask(3);
        tokio::task::yield_now().await;
        tokio::time::sleep(queue_time / 2).await;
        drop(taken);
        assert_eq!(only.await.unwrap(), Ok(3));
        before_sleep();
        assert!(!turns.is_crowded() && !turns.queue.is_flooded.load(Ordering::Relaxed), "nobody waits");
    }

    #[test]
    fn a_pace_is_that_of_the_requests_of_late() {
        let (pace, slow, fast) = (Pace::default(), Duration::from_millis(5), Duration::from_micros(50));
        (0..100).for_each(|_| pace.note(10, slow));
        assert!(pace.of(10) > slow * 9 / 10 && pace.of(10) <= slow, "{pace:?}");
        pace.note(10, Duration::from_secs(60));
        assert!(pace.of(10) < slow * 5 / 4, "one that was interrupted says little: {pace:?}");
        (0..20).for_each(|_| pace.note(10, fast));
        assert!(pace.of(10) < fast * 2, "{pace:?}");
    }

    #[tokio::test]
    async fn work_that_panics_takes_nobody_elses_turn() {
        let turns = Arc::new(Turns::of(1, Duration::from_secs(60)));
        let Ok((taken, _)) = turns.queue.enter(Instant::now(), 1, || ()) else { panic!("a turn is free") };
        let failing = Arc::clone(&turns);
        let failing = tokio::spawn(async move { failing.run(1, || panic!("as it is meant to")).await });
        tokio::task::yield_now().await;
        drop(taken);
        assert_eq!(failing.await.unwrap().unwrap_err().code(), tonic::Code::Internal);
        assert_eq!(turns.run(1, || 7).await.unwrap(), 7);
    }
}
