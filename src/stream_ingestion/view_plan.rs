//! A view's compiled plan over one batch of events after the other: the same plan that jobs run, made once.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::rows::EventSchema;
use crate::compile::{CompileError, Compiler};
use crate::definition::{Definitions, FeatureView, Source};
use crate::engine::Engine;
use crate::time::TimeRange;

/// Where plans are compiled.
#[derive(Debug, Clone)]
pub struct PlanContext {
    pub definitions: Arc<Definitions>,
    pub engine: Engine,
    /// The folder that relative paths of sources start from.
    pub project: std::path::PathBuf,
}

impl PlanContext {
    /// A compiler over the events of streams alone.
    pub fn compiler(&self, session: &SessionContext) -> Compiler {
        Compiler::new(Arc::clone(&self.definitions), self.project.clone(), session.clone()).events_only()
    }
}

#[derive(Debug)]
pub struct ViewPlan {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    slot: Arc<Slot>,
}

impl ViewPlan {
    /// # Errors
    /// A view that does not compile over the source's columns.
    pub async fn compile(context: &PlanContext, view: &FeatureView, source: &Source) -> Result<Self, CompileError> {
        let Some(events) = EventSchema::new(source) else {
            return Err(CompileError::NoBatchLocation { name: source.name.clone() });
        };
        let slot = Arc::new(Slot { schema: Arc::clone(&events.schema), events: Mutex::new(None) });
        let session = context.engine.session();
        // One batch is not worth being shared out.
        session.state_ref().write().config_mut().options_mut().execution.target_partitions = 1;
        let partition: Arc<dyn PartitionStream> = Arc::clone(&slot) as _;
        let table: Arc<dyn TableProvider> =
            Arc::new(StreamingTable::try_new(Arc::clone(&events.schema), vec![partition])?);
        let compiler = context.compiler(&session).with_events([(source.name.clone(), table)].into());
        let frame = compiler.view(view, TimeRange::UNBOUNDED).await?.frame;
        let task = Arc::new(frame.task_ctx());
        Ok(ViewPlan { plan: frame.create_physical_plan().await?, task, slot })
    }

    /// The view's rows of some events, columns as [`table_schema`](crate::compile::table_schema) has them; an event that
    /// the view cannot take has no event timestamp.
    ///
    /// # Errors
    /// Events of columns that cannot be those of the source.
    pub async fn rows(&self, events: &RecordBatch) -> Result<Vec<RecordBatch>, DataFusionError> {
        let events = conform(events, &self.slot.schema)?;
        *self.slot.events.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
        execute_stream(Arc::clone(&self.plan), Arc::clone(&self.task))?.try_collect().await
    }
}

/// The columns of a schema out of a batch that may be older than it: new ones are null.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let column = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
        Some(array) if array.data_type() == field.data_type() => Ok(Arc::clone(array)),
        Some(array) => cast(array, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The batch that the plan runs over.
#[derive(Debug)]
struct Slot {
    schema: SchemaRef,
    events: Mutex<Option<RecordBatch>>,
}

impl PartitionStream for Slot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let events = futures::stream::iter(events.map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), events))
    }
}
