//! One execution of the join, step by step.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt8Array};
use arrow::datatypes::{Fields, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, SpillMetrics, Time};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, SpillManager};
use futures::FutureExt;
use futures::future::{BoxFuture, ready, try_join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::set_aside::SetAside;
use super::spine_indexes::SpineIndexes;
use super::steps::value_bytes;
use super::{JoinError, JoinSpec, JoinedView, SpineIndex, TableReads, TableView, join_streams, join_table};

/// Rows that are answered at once.
const ANSWER_ROWS: usize = 64 << 10;
/// Views that are joined at the same time where their answers are small: while one is put together, the next is read.
const VIEWS_AT_ONCE: usize = 4;
/// Up to here an answer is small.
const SMALL_ROWS_MAX: usize = 64 << 10;
/// What the views of a step may hold in memory while others are joined; those after them go to disk.
const SET_ASIDE_BYTES_MAX: usize = 32 << 20;
/// The share of this in the limit where one is set.
const SET_ASIDE_SHARE: usize = 16;
/// Index, candidates and places of one spine row and one view.
const SLOT_BYTES: usize = 96;

/// The columns of the answer, and what a row of them takes, about, in bytes.
pub(super) struct Widths {
    carried: usize,
    views: Vec<(Range<usize>, usize)>,
}

impl Widths {
    pub fn of(spec: &JoinSpec, schema: &Schema) -> Self {
        let width = |columns: Range<usize>| columns.map(|column| value_bytes(schema.field(column))).sum();
        let mut views = Vec::with_capacity(spec.views.len());
        let mut first = spec.carried;
        for view in &spec.views {
            let columns = first..first + view.requested.len() + if spec.with_times { 2 } else { 0 };
            first = columns.end;
            views.push((columns.clone(), width(columns)));
        }
        Widths { carried: width(0..spec.carried), views }
    }

    /// What a row of the spine holds while it is joined: of one view the values as they were read and as they are
    /// answered; the others are set aside.
    pub fn in_memory(&self) -> usize {
        let widest = self.views.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        self.carried + SLOT_BYTES + 2 * widest
    }

    /// What the answers of all views take.
    fn of_views(&self, rows: usize) -> usize {
        rows * self.views.iter().map(|(_, bytes)| *bytes).sum::<usize>()
    }
}

/// One execution of the join.
pub(super) struct Joining {
    spec: Arc<JoinSpec>,
    views: Vec<Arc<dyn ExecutionPlan>>,
    schema: SchemaRef,
    widths: Widths,
    context: Arc<TaskContext>,
    reservation: MemoryReservation,
    counters: Counters,
    is_first_step: bool,
}

/// What is left to answer of a step.
pub(super) struct StepAnswer {
    schema: SchemaRef,
    carried: Vec<ArrayRef>,
    views: Vec<SetAside>,
    rows: usize,
    next_row: usize,
}

impl StepAnswer {
    /// The next rows, until there are none.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let rows = ANSWER_ROWS.min(self.rows - self.next_row);
        if rows == 0 {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = self.carried.iter().map(|column| column.slice(self.next_row, rows)).collect();
        for view in &mut self.views {
            columns.extend(view.next(rows).await?);
        }
        self.next_row += rows;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?))
    }
}

impl Joining {
    pub fn new(
        spec: Arc<JoinSpec>,
        views: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
        context: Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        Joining {
            widths: Widths::of(&spec, &schema),
            spec,
            views,
            schema,
            reservation: MemoryConsumer::new("PointInTimeJoinExec").register(context.memory_pool()),
            context,
            counters: Counters::new(metrics),
            is_first_step: true,
        }
    }

    /// Joins some rows of the spine.
    pub async fn step(&mut self, spine: RecordBatch) -> Result<StepAnswer> {
        let rows = spine.num_rows();
        let set_aside_max = self.set_aside_bytes_max();
        self.reservation.try_resize(rows * self.widths.in_memory() + self.widths.of_views(rows).min(set_aside_max))?;
        let timer = self.counters.compute.clone();
        let _timer = timer.timer();
        if !std::mem::take(&mut self.is_first_step) {
            let views = std::mem::take(&mut self.views);
            self.views = views.into_iter().map(reset_plan_states).collect::<Result<_>>()?;
        }
        let keys = self.spec.views.iter().map(|view| view.spine_keys.as_slice());
        let mut indexes = SpineIndexes::new(&spine, self.spec.time, keys);
        let joins = (0..self.views.len()).map(|view| self.join_view(view, indexes.take(view).map_err(external)));
        let at_once = if rows <= SMALL_ROWS_MAX { VIEWS_AT_ONCE } else { 1 };
        let mut joined = stream::iter(joins).buffered(at_once);
        let mut views: Vec<BoxFuture<'static, Result<SetAside>>> = Vec::with_capacity(self.views.len());
        let one_at_a_time = Arc::new(Semaphore::new(1));
        let mut bytes_in_memory = 0;
        while let Some(view) = joined.try_next().await? {
            let (columns, row_bytes) = &self.widths.views[views.len()];
            let is_last = views.len() + 1 == self.views.len();
            let answer = self.columns(view);
            views.push(if is_last || bytes_in_memory + rows * row_bytes <= set_aside_max {
                bytes_in_memory += rows * row_bytes;
                ready(Ok(SetAside::in_memory(answer))).boxed()
            } else {
                // One answer is written while the next view is read.
                let turn = Arc::clone(&one_at_a_time).acquire_owned().await;
                let spills = self.spills(columns.clone());
                let writing = SpawnedTask::spawn_blocking(move || {
                    let _turn = turn;
                    SetAside::on_disk(answer, ANSWER_ROWS, &spills)
                });
                writing
                    .join_unwind()
                    .map(|written| written.map_err(|error| DataFusionError::External(error.into()))?)
                    .boxed()
            });
        }
        let views = try_join_all(views).await?;
        self.counters.output_rows.add(rows);
        let carried = spine.columns()[..self.spec.carried].to_vec();
        Ok(StepAnswer { schema: Arc::clone(&self.schema), carried, views, rows, next_row: 0 })
    }

    fn set_aside_bytes_max(&self) -> usize {
        match self.context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => SET_ASIDE_BYTES_MAX.min(bytes / SET_ASIDE_SHARE),
            _ => SET_ASIDE_BYTES_MAX,
        }
    }

    /// Temporary files for these columns of the answer.
    fn spills(&self, columns: Range<usize>) -> SpillManager {
        let schema = Arc::new(Schema::new(Fields::from(&self.schema.fields()[columns])));
        SpillManager::new(self.context.runtime_env(), self.counters.spills.clone(), schema)
    }

    /// A view's columns of the answer.
    fn columns(&self, view: JoinedView) -> Vec<ArrayRef> {
        let mut columns = view.features;
        if self.spec.with_times {
            columns.push(Arc::new(view.statuses.iter().map(|s| *s as u8).collect::<UInt8Array>()));
            columns.push(Arc::new(view.event_timestamps.with_timezone("UTC")));
        }
        columns
    }

    async fn join_view(&self, position: usize, index: Result<Arc<SpineIndex>>) -> Result<JoinedView> {
        let index = index?;
        let view = &self.spec.views[position];
        let input = &self.views[position];
        let params = Arc::new(view.params(&input.schema()));
        if let Some(files) = &view.files {
            let store = files.object_store(self.context.runtime_env())?;
            let table = TableView::new(&params, &input.schema(), files.clone(), self.spec.with_times);
            let reads = Arc::new(TableReads::default());
            let joined = join_table(Arc::clone(&index), Arc::new(table), store, Arc::clone(&reads)).await;
            self.counters.add(&reads);
            if let Some(joined) = joined.map_err(external)? {
                return Ok(joined);
            }
        }
        let partitions = (0..input.output_partitioning().partition_count())
            .map(|partition| input.execute(partition, Arc::clone(&self.context)))
            .collect::<Result<Vec<_>>>()?;
        join_streams(index, params, partitions).await.map_err(external)
    }
}

fn external(error: JoinError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Metrics of an execution.
struct Counters {
    compute: Time,
    output_rows: Count,
    row_groups: Count,
    row_groups_pruned: Count,
    rows_matched: Count,
    rows_decoded: Count,
    rows_chosen: Count,
    spills: SpillMetrics,
}

impl Counters {
    fn new(metrics: &ExecutionPlanMetricsSet) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).global_counter(name);
        Counters {
            compute: MetricBuilder::new(metrics).elapsed_compute(0),
            output_rows: MetricBuilder::new(metrics).output_rows(0),
            row_groups: counter("row_groups"),
            row_groups_pruned: counter("row_groups_pruned"),
            rows_matched: counter("rows_matched"),
            rows_decoded: counter("rows_decoded"),
            rows_chosen: counter("rows_chosen"),
            spills: SpillMetrics::new(metrics, 0),
        }
    }

    fn add(&self, reads: &TableReads) {
        self.row_groups.add(reads.row_groups.load(Ordering::Relaxed));
        self.row_groups_pruned.add(reads.row_groups_pruned.load(Ordering::Relaxed));
        self.rows_matched.add(reads.rows_matched.load(Ordering::Relaxed));
        self.rows_decoded.add(reads.rows_decoded.load(Ordering::Relaxed));
        self.rows_chosen.add(reads.rows_chosen.load(Ordering::Relaxed));
    }
}
