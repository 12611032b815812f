//! Moves batches from streams to accumulators.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use futures::stream::{StreamExt, select_all};
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking, yield_now};

use super::answer::build;
use super::{JoinError, JoinedView, SpineIndex, ViewAccumulator, ViewParams};

/// Joins a view's feature rows, from streams in any order, to the spine.
///
/// The partitions are read concurrently on the current tokio runtime, by no more tasks than it has
/// workers; dropping the future stops them. What the join promises is said at [`ViewAccumulator`].
///
/// # Errors
/// Those of [`ViewAccumulator`]; [`JoinError::Read`] if a stream fails: the first failure ends the join.
pub async fn join_streams(
    index: Arc<SpineIndex>,
    params: Arc<ViewParams>,
    partitions: Vec<SendableRecordBatchStream>,
) -> Result<JoinedView, JoinError> {
    let workers = Handle::current().metrics().num_workers().max(1);
    let mut tasks = JoinSet::new();
    for share in shares(partitions, workers) {
        tasks.spawn(accumulate(Arc::clone(&index), Arc::clone(&params), share));
    }
    let mut all: Option<ViewAccumulator> = None;
    while let Some(done) = tasks.join_next().await {
        let one = done.map_err(|source| stopped(&params, source))??;
        all = Some(match all {
            None => one,
            Some(all) => merge(&params, all, one).await?,
        });
    }
    let all = all.map_or_else(|| ViewAccumulator::new(index, Arc::clone(&params)), Ok)?;
    finish(&params, all, workers).await
}

/// Deals the partitions out to at most `workers` tasks.
fn shares(partitions: Vec<SendableRecordBatchStream>, workers: usize) -> Vec<Vec<SendableRecordBatchStream>> {
    let mut shares: Vec<Vec<_>> = (0..workers.min(partitions.len())).map(|_| Vec::new()).collect();
    for (number, partition) in partitions.into_iter().enumerate() {
        shares[number % workers].push(partition);
    }
    shares
}

/// Reads all partitions of a share as their batches come: to wait for one of them would hold up
/// operators below that feed several.
async fn accumulate(
    index: Arc<SpineIndex>,
    params: Arc<ViewParams>,
    share: Vec<SendableRecordBatchStream>,
) -> Result<ViewAccumulator, JoinError> {
    let mut accumulator = ViewAccumulator::new(index, Arc::clone(&params))?;
    let mut batches = select_all(share);
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|source| JoinError::Read { view: params.name.clone(), source })?;
        accumulator.push(&batch)?;
        // A stream that is always ready would keep the worker from everything else.
        yield_now().await;
    }
    Ok(accumulator)
}

async fn merge(
    params: &ViewParams,
    mut all: ViewAccumulator,
    one: ViewAccumulator,
) -> Result<ViewAccumulator, JoinError> {
    let merging = spawn_blocking(move || all.merge(one).map(|()| all));
    merging.await.map_err(|source| stopped(params, source))?
}

async fn finish(params: &ViewParams, all: ViewAccumulator, workers: usize) -> Result<JoinedView, JoinError> {
    let answering = spawn_blocking(move || all.answer());
    let (answer, columns) = answering.await.map_err(|source| stopped(params, source))?;
    build(answer, columns, workers).await
}

fn stopped(params: &ViewParams, source: tokio::task::JoinError) -> JoinError {
    JoinError::Stopped { view: params.name.clone(), source }
}
