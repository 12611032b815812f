//! Window aggregation as an operator: the spine goes through in steps, each with the events that its windows see.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::stream;

use super::WindowAggregationSpec;
use super::aggregating::Aggregating;
use crate::point_in_time_join::Steps;

/// See [`WindowAggregationSpec`].
#[derive(Debug)]
pub struct WindowAggregationExec {
    spec: Arc<WindowAggregationSpec>,
    /// The spine, then where the events are.
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WindowAggregationExec {
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn try_new(spec: Arc<WindowAggregationSpec>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        let Some((spine, events)) = inputs.split_first() else { return internal_err!("an aggregation has a spine") };
        let events: Vec<SchemaRef> = events.iter().map(|input| input.schema()).collect();
        let schema = spec.schema(&spine.schema(), &events.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
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
        let events = std::iter::repeat_n(Distribution::UnspecifiedDistribution, self.inputs.len() - 1);
        std::iter::once(Distribution::SinglePartition).chain(events).collect()
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
        let (spec, inputs) = (Arc::clone(&self.spec), self.inputs[1..].to_vec());
        let aggregating = Aggregating::new(spec, inputs, self.schema(), context, &self.metrics);
        let steps = Steps::new(spine, self.inputs[0].schema(), aggregating.step_rows());
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
