//! Models that see what a route sees, on threads of their own.
//!
//! Each version of a model that shadows a route has one thread and one bounded queue. What does not fit is dropped and
//! counted; a model that hangs or panics loses its own work only. The threads yield to all others, and end with what
//! was asked of them once the route has other shadows; one that hangs stays until the process ends.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::catalog::PredictionCatalog;
use super::error::PredictionError;
use super::inputs::bind_rows;
use super::log::{PredictionLogger, Role};
use super::plan::RoutePlan;
use super::priority;
use super::record::{RecordHead, record};
use super::rows::KnownRows;
use super::service::{Evaluation, condition_rows, fetch};
use crate::metrics::SHADOW_ROWS_TOTAL;
use crate::retrieval::OnlineRetrieval;
use crate::time::EventTimestamp;

/// Requests that wait for a shadow.
pub const SHADOW_QUEUE_MAX: usize = 256;

/// A request that a shadow is to see.
#[derive(Debug)]
pub struct ShadowJob {
    pub catalog: Arc<PredictionCatalog>,
    pub plan: Arc<RoutePlan>,
    /// Which of the plan's shadows.
    pub position: usize,
    pub known: Arc<KnownRows>,
    pub rows: Vec<usize>,
    pub ids: Arc<[String]>,
    pub now: EventTimestamp,
}

#[derive(Debug)]
pub struct Shadows {
    online: OnlineRetrieval,
    logger: Option<Arc<PredictionLogger>>,
    queues: Mutex<HashMap<Key, SyncSender<ShadowJob>>>,
}

/// The route, and the model with its version.
type Key = (String, String, u64);

fn key(plan: &RoutePlan, position: usize) -> Key {
    let version = &plan.shadows[position].model.version;
    (plan.name.clone(), version.model.clone(), version.version)
}

impl Shadows {
    pub fn new(online: OnlineRetrieval, logger: Option<Arc<PredictionLogger>>) -> Self {
        Shadows { online, logger, queues: Mutex::default() }
    }

    /// Hands a request to a shadow, or drops it where that has too much to do.
    pub fn offer(&self, job: ShadowJob) {
        let (route, rows) = (job.plan.name.clone(), job.rows.len());
        let reference = job.plan.shadows[job.position].reference.clone();
        let key = key(&job.plan, job.position);
        let offered = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            match queues.get(&key) {
                Some(queue) => queue.try_send(job).is_ok(),
                None => match self.start() {
                    Ok(queue) => {
                        let offered = queue.try_send(job).is_ok();
                        queues.insert(key, queue);
                        offered
                    }
                    Err(_) => false,
                },
            }
        };
        if !offered {
            count(&route, &reference, "dropped", rows);
        }
    }

    /// Ends those that no route has any more.
    pub fn keep(&self, catalog: &PredictionCatalog) {
        let keys = |plan: &Arc<RoutePlan>| (0..plan.shadows.len()).map(|at| key(plan, at)).collect::<Vec<_>>();
        let kept: HashSet<Key> = catalog.plans().flat_map(keys).collect();
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| kept.contains(key));
    }

    fn start(&self) -> std::io::Result<SyncSender<ShadowJob>> {
        let (queue, jobs) = sync_channel(SHADOW_QUEUE_MAX);
        let (online, logger) = (self.online.clone(), self.logger.clone());
        std::thread::Builder::new()
            .name("asof-shadow".to_owned())
            .spawn(move || work(&jobs, &online, logger.as_deref()))?;
        Ok(queue)
    }
}

fn work(jobs: &Receiver<ShadowJob>, online: &OnlineRetrieval, logger: Option<&PredictionLogger>) {
    priority::yield_to_all();
    let mut is_failing = false;
    while let Ok(job) = jobs.recv() {
        let (route, rows) = (job.plan.name.clone(), job.rows.len());
        let reference = job.plan.shadows[job.position].reference.clone();
        // A model that panics is no reason to stop showing it the next request.
        let (outcome, rows) = match catch_unwind(AssertUnwindSafe(|| run(job, online, logger))) {
            Ok(Ok(seen)) => ("done", seen),
            Ok(Err(error)) => {
                // The first of many is told; the others are counted.
                if !is_failing {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(route, shadow = reference, error, "a shadow fails");
                }
                ("failed", rows)
            }
            Err(_) => ("failed", rows),
        };
        is_failing = outcome == "failed";
        count(&route, &reference, outcome, rows);
    }
}

/// Gives how many rows met the shadow's condition.
fn run(job: ShadowJob, online: &OnlineRetrieval, logger: Option<&PredictionLogger>) -> Result<usize, PredictionError> {
    let started = Instant::now();
    let ShadowJob { catalog, plan, position, known, mut rows, ids, now } = job;
    let shadow = &plan.shadows[position];
    let mut own;
    let mut known = known.as_ref();
    if known.fetched(&shadow.read.name).is_none() && plan.reads.iter().all(|read| read.name != shadow.read.name) {
        own = known.clone();
        fetch(online, &catalog, &shadow.read, now, &mut own)?;
        known = &own;
    }
    if let Some(condition) = &shadow.filter {
        let meets = condition_rows(condition, known)?;
        rows.retain(|row| meets[*row]);
    }
    if rows.is_empty() {
        return Ok(0);
    }
    let seen = rows.len();
    let bound = bind_rows(&shadow.model, known, &rows)?;
    let predictions = shadow.model.model.predict(&bound.values)?;
    let model = Arc::clone(&shadow.model);
    let evaluation = Evaluation { model, role: Role::Shadow, experiment: None, rows, bound, predictions };
    let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let registry_version = catalog.features.registry.version;
    let head = RecordHead { sent_at: online.clock.now().micros(), registry_version, latency_us };
    if let (Some(logger), Some(record)) = (logger, record(&head, &plan, &evaluation, &ids, known)) {
        logger.append_behind(&record);
    }
    Ok(seen)
}

fn count(route: &str, shadow: &str, outcome: &'static str, rows: usize) {
    let (route, shadow) = (route.to_owned(), shadow.to_owned());
    metrics::counter!(SHADOW_ROWS_TOTAL, "route" => route, "shadow" => shadow, "outcome" => outcome)
        .increment(rows as u64);
}
