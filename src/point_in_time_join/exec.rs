//! The join as an operator: the spine goes through in steps that fit in memory, each joined with every view.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::stream;

use super::JoinSpec;
use super::joining::{Joining, StepAnswer, Widths};
use super::steps::Steps;

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
        (budget / Widths::of(&self.spec, &self.schema()).in_memory()).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX)
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
        let views = self.inputs[1..].to_vec();
        let joining = Joining::new(Arc::clone(&self.spec), views, self.schema(), context, &self.metrics);
        let steps = Steps::new(spine, self.inputs[0].schema(), step_rows);
        let answers = stream::try_unfold((joining, steps, None), |(mut joining, mut steps, mut answer)| async move {
            loop {
                let mut rest: StepAnswer = match answer.take() {
                    Some(rest) => rest,
                    None => match steps.next().await? {
                        Some(spine) => joining.step(spine).await?,
                        None => return Ok(None),
                    },
                };
                if let Some(rows) = rest.next().await? {
                    return Ok(Some((rows, (joining, steps, Some(rest)))));
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), answers)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
