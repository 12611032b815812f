//! Where the time of a request goes, for requests that are traced: whoever works on one notes the stages of its work.
//!
//! A request that is not traced costs a look at a variable of the thread for each stage. Who is traced, and who hears of
//! it, is the server's business.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// Stages of one request.
const STAGES_MAX: usize = 64;

/// What is noted of one request.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Noted>);

#[derive(Debug, Default)]
pub struct Noted {
    pub stages: Vec<Stage>,
    /// Rows that were asked for.
    pub rows: Option<usize>,
}

/// Work of one kind, from one moment to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    /// The feature view that it is of.
    pub view: Option<String>,
    pub from: Instant,
    pub to: Instant,
}

impl Trace {
    fn note(&self, change: impl FnOnce(&mut Noted)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes a stage that began at `from` and is over.
    pub fn stage(&self, name: &'static str, view: Option<&str>, from: Instant) {
        let to = Instant::now();
        self.note(|noted| {
            if noted.stages.len() < STAGES_MAX {
                noted.stages.push(Stage { name, view: view.map(str::to_owned), from, to });
            }
        });
    }

    /// What was noted, in the order in which it ended; nothing of it is left.
    pub fn take(&self) -> Noted {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The trace of the request that this thread works on.
pub fn current() -> Option<Arc<Trace>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Notes a stage that began at `from` and is over, if the request is traced.
pub fn stage(name: &'static str, from: Instant) {
    let _ = CURRENT.try_with(|trace| trace.stage(name, None, from));
}

/// As [`stage`], of one feature view.
pub fn stage_of_view(name: &'static str, view: &str, from: Instant) {
    let _ = CURRENT.try_with(|trace| trace.stage(name, Some(view), from));
}

/// Notes how many rows the request asks for.
pub fn rows(rows: usize) {
    let _ = CURRENT.try_with(|trace| trace.note(|noted| noted.rows = Some(rows)));
}

/// Works on a request with its trace, if it has one.
pub async fn within<T>(trace: Option<Arc<Trace>>, work: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => CURRENT.scope(trace, work).await,
        None => work.await,
    }
}

/// As [`within`], on a thread that only this request has.
pub fn within_thread<T>(trace: Option<Arc<Trace>>, work: impl FnOnce() -> T) -> T {
    match trace {
        Some(trace) => CURRENT.sync_scope(trace, work),
        None => work(),
    }
}
