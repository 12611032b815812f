//! One execution of the aggregation, step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt8Array, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::stream::{self, StreamExt, TryStreamExt};
use metrics::counter;
use rayon::prelude::*;

use super::answer::{Answered, Groups, answer_groups};
use super::events::{Events, Wanted, read_events};
use super::tiled::{Cover, answer_groups_with_tiles};
use super::{AggregatedViewSpec, EventInput, WindowAggregationSpec};
use crate::arrow_types::arrow_type;
use crate::definition::{ValueType, Window};
use crate::metrics::SUMS_OUT_OF_RANGE_TOTAL;
use crate::point_in_time_join::{
    NeededTimes, RowStatus, SpineIndex, SpineIndexes, TableFiles, TableReads, TableView, scan_table, value_bytes,
};
use crate::time::duration_micros;

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

/// One execution of the aggregation.
pub(super) struct Aggregating {
    spec: Arc<WindowAggregationSpec>,
    views: Vec<Arc<AggregatedViewSpec>>,
    /// Where the events are.
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

/// What is answered of a view in a step.
struct InProgress {
    view: Arc<AggregatedViewSpec>,
    index: Arc<SpineIndex>,
    /// How its windows are put together, where tiles help.
    cover: Option<Cover>,
    answered: Vec<Answered>,
    /// Groups before this one are answered.
    first_slot: u32,
}

impl InProgress {
    fn new(view: &Arc<AggregatedViewSpec>, index: Arc<SpineIndex>) -> Self {
        InProgress {
            cover: Cover::of(&index, view),
            answered: Vec::new(),
            view: Arc::clone(view),
            index,
            first_slot: 0,
        }
    }

    fn slots(&self) -> u32 {
        u32::try_from(self.index.slot_rows().len()).unwrap_or(u32::MAX)
    }

    fn wanted(&self, needed: Option<&Arc<NeededTimes>>, end_slot: u32, bytes_max: usize) -> Arc<Wanted> {
        Arc::new(Wanted {
            index: Arc::clone(&self.index),
            view: Arc::clone(&self.view),
            reach: reach(&self.view),
            needed: needed.cloned(),
            first_slot: self.first_slot,
            end_slot: AtomicU32::new(end_slot),
            bytes: AtomicUsize::new(0),
            bytes_max,
        })
    }

    /// The features for every row of the spine, in its order.
    fn finish(self) -> Result<Vec<ArrayRef>> {
        let slots = self.answered.iter().flat_map(|answered| answered.slots.iter().cloned());
        let order = row_order(&self.index, slots.flatten());
        let mut pieces: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.view.features.len()];
        for answered in self.answered {
            pieces.iter_mut().zip(answered.features).for_each(|(all, some)| all.push(some));
        }
        let features = pieces.into_par_iter().zip(&self.view.features);
        let ordered = features.map(|(pieces, feature)| in_row_order(pieces, &arrow_type(&feature.value_type), &order));
        ordered.collect()
    }
}

impl Aggregating {
    pub fn new(
        spec: Arc<WindowAggregationSpec>,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
        context: Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let row_bytes = schema.fields().iter().map(|field| value_bytes(field)).sum::<usize>() + SLOT_BYTES;
        Aggregating {
            views: spec.views.iter().cloned().map(Arc::new).collect(),
            spec,
            inputs,
            is_input_used: false,
            schema,
            row_bytes,
            event_bytes_max: share_of_memory(&context).unwrap_or(EVENT_BYTES_DEFAULT),
            reservation: MemoryConsumer::new("WindowAggregationExec").register(context.memory_pool()),
            context,
            counters: Counters::new(metrics),
        }
    }

    /// How many rows of the spine to answer at once.
    pub fn step_rows(&self) -> usize {
        let bytes = share_of_memory(&self.context).unwrap_or(STEP_BYTES_DEFAULT);
        (bytes / self.row_bytes).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX)
    }

    /// Answers some rows of the spine.
    pub async fn step(&mut self, spine: &RecordBatch) -> Result<RecordBatch> {
        self.reservation.try_resize(spine.num_rows() * self.row_bytes)?;
        let views = self.views.clone();
        let mut indexes = SpineIndexes::new(spine, self.spec.time, views.iter().map(|view| view.spine_keys.as_slice()));
        let mut answers: Vec<Vec<ArrayRef>> = vec![Vec::new(); views.len()];
        for input in 0..self.inputs.len() {
            let together: Vec<usize> = (0..views.len()).filter(|view| views[*view].events.input == input).collect();
            let mut open = Vec::with_capacity(together.len());
            for view in &together {
                let index = indexes.take(*view).map_err(|error| DataFusionError::External(Box::new(error)))?;
                open.push(InProgress::new(&views[*view], index));
            }
            let statuses: Vec<_> = match self.spec.with_times {
                true => open.iter().map(|view| statuses(&view.index).to_vec()).collect(),
                false => vec![Vec::new(); open.len()],
            };
            for ((view, features), statuses) in together.iter().zip(self.views_of(input, open).await?).zip(statuses) {
                answers[*view] = features;
                answers[*view].extend(statuses);
            }
        }
        self.counters.output_rows.add(spine.num_rows());
        let columns = spine.columns().iter().cloned().chain(answers.into_iter().flatten()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(spine.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// The features of all views of one input for every row of the spine, in its order.
    async fn views_of(&mut self, input: usize, mut views: Vec<InProgress>) -> Result<Vec<Vec<ArrayRef>>> {
        loop {
            let mut open: Vec<&mut InProgress> =
                views.iter_mut().filter(|view| view.first_slot < view.slots()).collect();
            if open.is_empty() {
                break;
            }
            let bytes_max = self.event_bytes_max / open.len();
            let wanted: Vec<_> = open
                .iter()
                .map(|view| view.wanted(view.cover.as_ref().map(|cover| &cover.events), view.slots(), bytes_max))
                .collect();
            let events = self.read(input, wanted).await?;
            for (view, events) in open.iter_mut().zip(events) {
                self.answer(view, events, bytes_max).await?;
            }
        }
        let finished = tokio::task::spawn_blocking(move || views.into_iter().map(InProgress::finish).collect());
        finished.await.map_err(|error| DataFusionError::External(Box::new(error)))?
    }

    /// Answers the groups whose events these are.
    async fn answer(&self, open: &mut InProgress, mut events: Events, bytes_max: usize) -> Result<()> {
        let mut tiles = None;
        if let Some(starts) = open.cover.as_ref().map(|cover| Arc::clone(&cover.tiles)) {
            match self.read_tiles(open.wanted(Some(&starts), events.end_slot, bytes_max)).await {
                Ok(read) => {
                    events = events.before(read.end_slot)?;
                    tiles = Some(read);
                }
                // They only repeat what the events say.
                Err(error) => {
                    tracing::warn!(view = %open.view.name, %error, "tiles cannot be read, and all events are instead");
                    open.cover = None;
                    return Ok(());
                }
            }
        }
        let end_slot = events.end_slot;
        self.counters.passes.add(1);
        self.counters.events.add(events.len());
        self.counters.tiles.add(tiles.as_ref().map_or(0, Events::len));
        let groups = Groups {
            index: Arc::clone(&open.index),
            view: Arc::clone(&open.view),
            first_slot: open.first_slot,
            end_slot,
        };
        let timer = self.counters.compute.clone();
        let answers = tokio::task::spawn_blocking(move || {
            let _timer = timer.timer();
            match tiles {
                Some(tiles) => answer_groups_with_tiles(&groups, &events, &tiles),
                None => answer_groups(&groups, events),
            }
        });
        let answers = answers.await.map_err(|error| DataFusionError::External(Box::new(error)))??;
        let out_of_range = answers.iter().map(|answered| answered.out_of_range).sum();
        self.counters.out_of_range.add(out_of_range);
        if out_of_range > 0 {
            counter!(SUMS_OUT_OF_RANGE_TOTAL, "answer" => "batch").increment(out_of_range as u64);
        }
        open.answered.extend(answers);
        open.first_slot = end_slot;
        Ok(())
    }

    /// The events of the views of an input.
    async fn read(&mut self, input: usize, wanted: Vec<Arc<Wanted>>) -> Result<Vec<Events>> {
        if let [only] = wanted.as_slice()
            && let Some(files) = &only.view.files
        {
            let schema = self.inputs[input].schema();
            let events = self.read_files(only, files.clone(), schema, only.view.has_created_timestamp).await?;
            return Ok(vec![events]);
        }
        if self.is_input_used {
            let inputs = std::mem::take(&mut self.inputs);
            self.inputs = inputs.into_iter().map(reset_plan_states).collect::<Result<_>>()?;
        }
        self.is_input_used = true;
        let input = &self.inputs[input];
        let partitions = 0..input.output_partitioning().partition_count();
        let streams = partitions.map(|partition| input.execute(partition, Arc::clone(&self.context)));
        let places = wanted.iter().map(|wanted| wanted.view.events.clone()).collect();
        bring_together(streams.collect::<Result<_>>()?, wanted, places).await
    }

    /// The tiles of a view, as if they were events with one column.
    async fn read_tiles(&self, wanted: Arc<Wanted>) -> Result<Events> {
        let Some(tiles) = &wanted.view.tiles else { return internal_err!("the view has no tiles") };
        let events = self.inputs[wanted.view.events.input].schema();
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
        let whole = EventInput::whole(0, schema.fields().len());
        let streams = scan_table(&wanted.index, Arc::new(table), schema, &needed, &store, Arc::clone(&reads)).await;
        let streams = streams.map_err(|error| DataFusionError::External(Box::new(error)))?;
        self.counters.row_groups.add(reads.row_groups.load(Ordering::Relaxed));
        self.counters.row_groups_pruned.add(reads.row_groups_pruned.load(Ordering::Relaxed));
        let mut events = bring_together(streams, vec![Arc::clone(wanted)], vec![whole]).await?;
        Ok(events.swap_remove(0))
    }
}

/// What the steps of an execution may take of the memory, and its events as much again; None: there is no limit.
fn share_of_memory(context: &TaskContext) -> Option<usize> {
    match context.memory_pool().memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes / SHARE),
        _ => None,
    }
}

/// The events of each of some views, out of streams that are read at the same time; `places` says where they are.
async fn bring_together(
    streams: Vec<SendableRecordBatchStream>,
    wanted: Vec<Arc<Wanted>>,
    places: Vec<EventInput>,
) -> Result<Vec<Events>> {
    let count = streams.len();
    let views: Arc<[_]> = wanted.iter().cloned().zip(places).collect();
    let reading: Vec<_> = streams.into_iter().map(|rows| tokio::spawn(read_events(Arc::clone(&views), rows))).collect();
    let read = stream::iter(reading).buffered(count.max(1)).map(|read| match read {
        Ok(events) => events,
        Err(error) => Err(DataFusionError::External(Box::new(error))),
    });
    let mut of_views: Vec<Vec<Events>> = wanted.iter().map(|_| Vec::new()).collect();
    for stream in read.try_collect::<Vec<_>>().await? {
        of_views.iter_mut().zip(stream).for_each(|(all, events)| all.push(events));
    }
    of_views.into_iter().zip(&wanted).map(|(events, wanted)| Events::concat(events, wanted.complete_until())).collect()
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

/// For each row of the spine which of the answers is its own; null where none is. `slots` are those of the answers.
fn row_order(index: &SpineIndex, slots: impl Iterator<Item = usize>) -> UInt32Array {
    let mut order: Vec<Option<u32>> = vec![None; index.rows()];
    for (answer, slot) in slots.enumerate() {
        order[index.slot_rows()[slot] as usize] = Some(answer as u32);
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
