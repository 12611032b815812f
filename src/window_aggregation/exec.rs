//! Window aggregation as an operator: the spine goes through in steps, each with the events that its windows see.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array, UInt32Array, new_null_array,
};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
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
use metrics::counter;
use rayon::prelude::*;

use super::answer::{Groups, answer_groups};
use super::events::{Events, Wanted};
use super::tiled::{Cover, answer_groups_with_tiles};
use super::{AggregatedViewSpec, WindowAggregationSpec};
use crate::arrow_types::arrow_type;
use crate::definition::{ValueType, Window};
use crate::metrics::SUMS_OUT_OF_RANGE_TOTAL;
use crate::point_in_time_join::{
    NeededTimes, RowStatus, SpineIndex, Steps, TableFiles, TableReads, TableView, scan_table, value_bytes,
};
use crate::time::duration_micros;

/// See [`WindowAggregationSpec`].
#[derive(Debug)]
pub struct WindowAggregationExec {
    spec: Arc<WindowAggregationSpec>,
    /// The spine, then the views.
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What the spine and the answer of a step may take, and what its events may, where no limit is set.
const STEP_BYTES_DEFAULT: usize = 1 << 30;
const EVENT_BYTES_DEFAULT: usize = 4 << 30;
/// Of a limit that is set, the spine and the answer get one part, and the events another: they are sorted, and the
/// pages they are read from and the writer behind need the rest.
const SHARE: usize = 4;
const STEP_ROWS_MIN: usize = 4 << 10;
const STEP_ROWS_MAX: usize = 16 << 20;
/// Index and places of one spine row.
const SLOT_BYTES: usize = 64;

impl WindowAggregationExec {
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn try_new(spec: Arc<WindowAggregationSpec>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        let Some((spine, views)) = inputs.split_first() else { return internal_err!("an aggregation has a spine") };
        let views: Vec<SchemaRef> = views.iter().map(|view| view.schema()).collect();
        let schema = spec.schema(&spine.schema(), &views.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(WindowAggregationExec { spec, inputs, properties: Arc::new(properties), metrics })
    }

    pub fn spec(&self) -> &WindowAggregationSpec {
        &self.spec
    }
}

impl DisplayAs for WindowAggregationExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowAggregationExec: {}", self.spec)
    }
}

impl ExecutionPlan for WindowAggregationExec {
    fn name(&self) -> &str {
        "WindowAggregationExec"
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
            return internal_err!("the aggregation has one partition, and {partition} is asked for");
        }
        let spine = self.inputs[0].execute(0, Arc::clone(&context))?;
        let limit = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => Some(bytes / SHARE),
            _ => None,
        };
        let schema = self.schema();
        let row_bytes = schema.fields().iter().map(|field| value_bytes(field)).sum::<usize>() + SLOT_BYTES;
        let aggregating = Aggregating {
            views: self.spec.views.iter().cloned().map(Arc::new).collect(),
            spec: Arc::clone(&self.spec),
            inputs: self.inputs[1..].to_vec(),
            is_input_used: false,
            schema,
            row_bytes,
            event_bytes_max: limit.unwrap_or(EVENT_BYTES_DEFAULT),
            reservation: MemoryConsumer::new("WindowAggregationExec").register(context.memory_pool()),
            context,
            counters: Counters::new(&self.metrics),
        };
        let step_rows = (limit.unwrap_or(STEP_BYTES_DEFAULT) / row_bytes).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX);
        let steps = Steps::new(spine, self.inputs[0].schema(), step_rows);
        let answers = stream::try_unfold((aggregating, steps), |(mut aggregating, mut steps)| async move {
            let Some(spine) = steps.next().await? else { return Ok(None) };
            let answer = aggregating.step(&spine).await?;
            Ok(Some((answer, (aggregating, steps))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), answers)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One execution of the aggregation.
struct Aggregating {
    spec: Arc<WindowAggregationSpec>,
    views: Vec<Arc<AggregatedViewSpec>>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// The inputs were read before, so that their state has to be made anew.
    is_input_used: bool,
    schema: SchemaRef,
    row_bytes: usize,
    event_bytes_max: usize,
    reservation: MemoryReservation,
    context: Arc<TaskContext>,
    counters: Counters,
}

impl Aggregating {
    /// Answers some rows of the spine.
    async fn step(&mut self, spine: &RecordBatch) -> Result<RecordBatch> {
        self.reservation.try_resize(spine.num_rows() * self.row_bytes)?;
        let mut columns: Vec<ArrayRef> = spine.columns().to_vec();
        let mut known: Vec<(&[usize], Arc<SpineIndex>)> = Vec::new();
        let views = self.views.clone();
        for (position, view) in views.iter().enumerate() {
            let index = match known.iter().find(|(keys, _)| *keys == view.spine_keys) {
                Some((_, index)) => Arc::clone(index),
                None => {
                    let times = spine.column(self.spec.time).as_primitive::<TimestampMicrosecondType>().clone();
                    let keys: Vec<ArrayRef> = view.spine_keys.iter().map(|key| spine.column(*key).clone()).collect();
                    let index = SpineIndex::build(&keys, &times);
                    let index = Arc::new(index.map_err(|error| DataFusionError::External(Box::new(error)))?);
                    known.push((&view.spine_keys, Arc::clone(&index)));
                    index
                }
            };
            columns.extend(self.view(position, view, &index).await?);
            if self.spec.with_times {
                columns.extend(statuses(&index));
            }
        }
        self.counters.output_rows.add(spine.num_rows());
        let options = RecordBatchOptions::new().with_row_count(Some(spine.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// The features of one view for every row of the spine, in its order.
    async fn view(
        &mut self,
        position: usize,
        view: &Arc<AggregatedViewSpec>,
        index: &Arc<SpineIndex>,
    ) -> Result<Vec<ArrayRef>> {
        let slots = u32::try_from(index.slot_rows().len()).unwrap_or(u32::MAX);
        let mut answered: Vec<Vec<ArrayRef>> = vec![Vec::new(); view.features.len()];
        let mut first_slot = 0;
        let cover = Cover::of(index, view);
        while first_slot < slots {
            let bytes_max = self.event_bytes_max;
            let wanted = |needed: Option<&Arc<NeededTimes>>, end_slot: u32| {
                Arc::new(Wanted {
                    index: Arc::clone(index),
                    view: Arc::clone(view),
                    reach: reach(view),
                    needed: needed.cloned(),
                    first_slot,
                    end_slot: AtomicU32::new(end_slot),
                    bytes: AtomicUsize::new(0),
                    bytes_max,
                })
            };
            let mut events = self.read(position, wanted(cover.as_ref().map(|cover| &cover.events), slots)).await?;
            let mut tiles = None;
            if let Some(cover) = &cover {
                let read = self.read_tiles(position, wanted(Some(&cover.tiles), events.end_slot)).await?;
                events = events.before(read.end_slot)?;
                tiles = Some(read);
            }
            let end_slot = events.end_slot;
            self.counters.passes.add(1);
            self.counters.events.add(events.len());
            self.counters.tiles.add(tiles.as_ref().map_or(0, Events::len));
            let groups = Groups { index: Arc::clone(index), view: Arc::clone(view), first_slot, end_slot };
            let timer = self.counters.compute.clone();
            let answers = tokio::task::spawn_blocking(move || {
                let _timer = timer.timer();
                match tiles {
                    Some(tiles) => answer_groups_with_tiles(&groups, &events, &tiles),
                    None => answer_groups(&groups, events),
                }
            });
            let (answers, out_of_range) =
                answers.await.map_err(|error| DataFusionError::External(Box::new(error)))??;
            self.counters.out_of_range.add(out_of_range);
            if out_of_range > 0 {
                counter!(SUMS_OUT_OF_RANGE_TOTAL, "answer" => "batch").increment(out_of_range as u64);
            }
            for (all, some) in answered.iter_mut().zip(answers) {
                all.extend(some);
            }
            first_slot = end_slot;
        }
        let (index, view) = (Arc::clone(index), Arc::clone(view));
        let ordered = tokio::task::spawn_blocking(move || {
            let order = row_order(&index);
            let features = answered.into_par_iter().zip(&view.features);
            let ordered =
                features.map(|(pieces, feature)| in_row_order(pieces, &arrow_type(&feature.value_type), &order));
            ordered.collect::<Result<Vec<ArrayRef>>>()
        });
        ordered.await.map_err(|error| DataFusionError::External(Box::new(error)))?
    }

    /// The events of a view.
    async fn read(&mut self, position: usize, wanted: Arc<Wanted>) -> Result<Events> {
        if let Some(files) = &wanted.view.files {
            let schema = self.inputs[position].schema();
            return self.read_files(&wanted, files.clone(), schema, wanted.view.has_created_timestamp).await;
        }
        if self.is_input_used {
            let inputs = std::mem::take(&mut self.inputs);
            self.inputs = inputs.into_iter().map(reset_plan_states).collect::<Result<_>>()?;
        }
        self.is_input_used = true;
        let input = &self.inputs[position];
        let partitions = 0..input.output_partitioning().partition_count();
        let streams = partitions.map(|partition| input.execute(partition, Arc::clone(&self.context)));
        bring_together(streams.collect::<Result<_>>()?, wanted).await
    }

    /// The tiles of a view, as if they were events with one column.
    async fn read_tiles(&self, position: usize, wanted: Arc<Wanted>) -> Result<Events> {
        let Some(tiles) = &wanted.view.tiles else { return internal_err!("the view has no tiles") };
        let events = self.inputs[position].schema();
        let mut fields = events.fields()[..wanted.view.spine_keys.len() + 2].to_vec();
        fields.push(Arc::new(Field::new(&tiles.column, DataType::Binary, true)));
        self.read_files(&wanted, tiles.files.clone(), Arc::new(Schema::new(fields)), false).await
    }

    async fn read_files(
        &self,
        wanted: &Arc<Wanted>,
        files: TableFiles,
        schema: SchemaRef,
        has_created_timestamp: bool,
    ) -> Result<Events> {
        let store = files.object_store(self.context.runtime_env())?;
        let keys = wanted.view.spine_keys.len();
        let table = TableView::whole(wanted.view.name.clone(), &schema, keys, has_created_timestamp, files);
        let reads = Arc::new(TableReads::default());
        let needed = wanted.needed_times();
        let streams = scan_table(&wanted.index, Arc::new(table), schema, &needed, &store, Arc::clone(&reads)).await;
        let streams = streams.map_err(|error| DataFusionError::External(Box::new(error)))?;
        self.counters.row_groups.add(reads.row_groups.load(Ordering::Relaxed));
        self.counters.row_groups_pruned.add(reads.row_groups_pruned.load(Ordering::Relaxed));
        bring_together(streams, Arc::clone(wanted)).await
    }
}

/// The events of streams that are read at the same time.
async fn bring_together(streams: Vec<SendableRecordBatchStream>, wanted: Arc<Wanted>) -> Result<Events> {
    let count = streams.len();
    let reading: Vec<_> = streams.into_iter().map(|rows| tokio::spawn(Arc::clone(&wanted).read(rows))).collect();
    let read = stream::iter(reading).buffered(count.max(1)).map(|read| match read {
        Ok(events) => events,
        Err(error) => Err(DataFusionError::External(Box::new(error))),
    });
    let events: Vec<Events> = read.try_collect().await?;
    Events::concat(events, wanted.complete_until())
}

/// From an asked time back to the earliest event that any window of the view can see, in microseconds.
fn reach(view: &AggregatedViewSpec) -> Option<i64> {
    let resolution = view.resolution.map_or(0, duration_micros);
    let reach = |window: Window| match window {
        Window::Sliding(duration) => Some(duration_micros(duration).saturating_add(resolution)),
        Window::Lifetime => None,
    };
    view.features.iter().map(|feature| reach(feature.window)).try_fold(0, |most, reach| Some(most.max(reach?)))
}

/// For each row of the spine its slot; null where it has none.
fn row_order(index: &SpineIndex) -> UInt32Array {
    let mut order: Vec<Option<u32>> = vec![None; index.rows()];
    for (slot, row) in index.slot_rows().iter().enumerate() {
        order[*row as usize] = Some(slot as u32);
    }
    UInt32Array::from(order)
}

fn in_row_order(pieces: Vec<ArrayRef>, data_type: &DataType, order: &UInt32Array) -> Result<ArrayRef> {
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    Ok(match pieces.as_slice() {
        [] => new_null_array(data_type, order.len()),
        [only] => take(*only, order, None)?,
        several => take(&concat(several)?, order, None)?,
    })
}

/// A row with a key and a time has its windows, however empty; any other is not found.
fn statuses(index: &SpineIndex) -> [ArrayRef; 2] {
    let mut statuses = vec![RowStatus::NotFound as u8; index.rows()];
    for row in index.slot_rows() {
        statuses[*row as usize] = RowStatus::Found as u8;
    }
    [Arc::new(UInt8Array::from(statuses)), new_null_array(&arrow_type(&ValueType::Timestamp), index.rows())]
}

/// Metrics of an execution.
struct Counters {
    compute: Time,
    output_rows: Count,
    passes: Count,
    events: Count,
    tiles: Count,
    row_groups: Count,
    row_groups_pruned: Count,
    out_of_range: Count,
}

impl Counters {
    fn new(metrics: &ExecutionPlanMetricsSet) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).global_counter(name);
        Counters {
            compute: MetricBuilder::new(metrics).elapsed_compute(0),
            output_rows: MetricBuilder::new(metrics).output_rows(0),
            passes: counter("passes"),
            events: counter("events"),
            tiles: counter("tiles"),
            row_groups: counter("row_groups"),
            row_groups_pruned: counter("row_groups_pruned"),
            out_of_range: counter("sums_out_of_range"),
        }
    }
}
