//! The join as an operator: the spine goes through in steps that fit in memory, each joined with every view.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, reset_plan_states};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::steps::{Steps, value_bytes};
use super::{JoinError, JoinSpec, JoinedView, SpineIndex, TableReads, TableView, join_streams, join_table};

/// See [`JoinSpec`].
#[derive(Debug)]
pub struct PointInTimeJoinExec {
    spec: Arc<JoinSpec>,
    /// The spine, then the views.
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What a step may hold where no limit is set.
const STEP_BYTES_DEFAULT: usize = 1 << 30;
/// A step's share of the limit where one is set: the writer behind it and the tables' pages need the rest.
const STEP_SHARE: usize = 4;
const STEP_ROWS_MIN: usize = 4 << 10;
const STEP_ROWS_MAX: usize = 16 << 20;
/// Index, candidates and places of one spine row and one view.
const SLOT_BYTES: usize = 96;
/// Views that are joined at the same time where their answers are small: while one is put together, the next is read.
const VIEWS_AT_ONCE: usize = 4;
/// Up to here an answer is small.
const SMALL_ROWS_MAX: usize = 64 << 10;

impl PointInTimeJoinExec {
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn try_new(spec: Arc<JoinSpec>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        let Some((spine, views)) = inputs.split_first() else { return internal_err!("a join has a spine") };
        let views: Vec<SchemaRef> = views.iter().map(|view| view.schema()).collect();
        let schema = spec.schema(&spine.schema(), &views.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(PointInTimeJoinExec { spec, inputs, properties: Arc::new(properties), metrics })
    }

    pub fn spec(&self) -> &JoinSpec {
        &self.spec
    }

    /// Rows of the spine that are joined at once.
    fn step_rows(&self, context: &TaskContext) -> usize {
        let budget = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / STEP_SHARE,
            _ => STEP_BYTES_DEFAULT,
        };
        let schema = self.schema();
        let width = schema.fields().iter().map(|field| value_bytes(field)).sum::<usize>();
        (budget / (width + SLOT_BYTES)).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX)
    }
}

impl DisplayAs for PointInTimeJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PointInTimeJoinExec: {}", self.spec)
    }
}

impl ExecutionPlan for PointInTimeJoinExec {
    fn name(&self) -> &str {
        "PointInTimeJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        let views = std::iter::repeat_n(Distribution::UnspecifiedDistribution, self.spec.views.len());
        std::iter::once(Distribution::SinglePartition).chain(views).collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::try_new(Arc::clone(&self.spec), children)?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::try_new(Arc::clone(&self.spec), children)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("the join has one partition, and {partition} is asked for");
        }
        let spine = self.inputs[0].execute(0, Arc::clone(&context))?;
        let step_rows = self.step_rows(&context);
        let joining = Joining {
            spec: Arc::clone(&self.spec),
            views: self.inputs[1..].to_vec(),
            schema: self.schema(),
            reservation: MemoryConsumer::new("PointInTimeJoinExec").register(context.memory_pool()),
            context,
            counters: Counters::new(&self.metrics),
            is_first_step: true,
        };
        let steps = Steps::new(spine, self.inputs[0].schema(), step_rows);
        let answers = stream::try_unfold((joining, steps), |(mut joining, mut steps)| async move {
            let Some(spine) = steps.next().await? else { return Ok(None) };
            let answer = joining.step(spine).await?;
            Ok(Some((answer, (joining, steps))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), answers)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One execution of the join.
struct Joining {
    spec: Arc<JoinSpec>,
    views: Vec<Arc<dyn ExecutionPlan>>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    reservation: MemoryReservation,
    counters: Counters,
    is_first_step: bool,
}

impl Joining {
    /// Joins some rows of the spine.
    async fn step(&mut self, spine: RecordBatch) -> Result<RecordBatch> {
        let width = self.schema.fields().iter().map(|field| value_bytes(field)).sum::<usize>();
        self.reservation.try_resize(spine.num_rows() * (width + SLOT_BYTES))?;
        let timer = self.counters.compute.clone();
        let _timer = timer.timer();
        if !std::mem::take(&mut self.is_first_step) {
            let views = std::mem::take(&mut self.views);
            self.views = views.into_iter().map(reset_plan_states).collect::<Result<_>>()?;
        }
        let indexes = self.indexes(&spine)?;
        let joins = (0..self.views.len()).map(|view| self.join_view(view, Arc::clone(&indexes[view])));
        let at_once = if spine.num_rows() <= SMALL_ROWS_MAX { VIEWS_AT_ONCE } else { 1 };
        let joined: Vec<JoinedView> = stream::iter(joins).buffered(at_once).try_collect().await?;
        let mut columns: Vec<ArrayRef> = spine.columns()[..self.spec.carried].to_vec();
        for view in joined {
            columns.extend(view.features);
            if self.spec.with_times {
                columns.push(Arc::new(view.statuses.iter().map(|s| *s as u8).collect::<UInt8Array>()));
                columns.push(Arc::new(view.event_timestamps.with_timezone("UTC")));
            }
        }
        self.counters.output_rows.add(spine.num_rows());
        let options = RecordBatchOptions::new().with_row_count(Some(spine.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// For each view the index of the spine by its keys; views with the same ones share it.
    fn indexes(&self, spine: &RecordBatch) -> Result<Vec<Arc<SpineIndex>>> {
        let times = spine.column(self.spec.time).as_primitive::<TimestampMicrosecondType>().clone();
        let mut known: Vec<(&[usize], Arc<SpineIndex>)> = Vec::new();
        let mut indexes = Vec::with_capacity(self.spec.views.len());
        for view in &self.spec.views {
            let index = match known.iter().find(|(keys, _)| *keys == view.spine_keys) {
                Some((_, index)) => Arc::clone(index),
                None => {
                    let keys: Vec<ArrayRef> = view.spine_keys.iter().map(|key| spine.column(*key).clone()).collect();
                    let index = Arc::new(SpineIndex::build(&keys, &times).map_err(external)?);
                    known.push((&view.spine_keys, Arc::clone(&index)));
                    index
                }
            };
            indexes.push(index);
        }
        Ok(indexes)
    }

    async fn join_view(&self, position: usize, index: Arc<SpineIndex>) -> Result<JoinedView> {
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
