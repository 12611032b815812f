//! From the logical to the physical node, and both to bytes and back, so that a plan can run elsewhere.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, TableReference, not_impl_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Extension, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use super::{WindowAggregationExec, WindowAggregationNode};

/// Plans [`WindowAggregationNode`].
#[derive(Debug)]
pub struct WindowAggregationPlanner;

#[async_trait]
impl ExtensionPlanner for WindowAggregationPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<WindowAggregationNode>() else { return Ok(None) };
        let exec = WindowAggregationExec::try_new(Arc::new(node.spec().clone()), physical_inputs.to_vec())?;
        Ok(Some(Arc::new(exec)))
    }
}

/// Writes the nodes of this module as JSON; those of others are not its concern.
#[derive(Debug, Default)]
pub struct WindowAggregationCodec;

fn json_error(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl LogicalExtensionCodec for WindowAggregationCodec {
    fn try_decode(&self, bytes: &[u8], inputs: &[LogicalPlan], _: &TaskContext) -> Result<Extension> {
        let spec = serde_json::from_slice(bytes).map_err(json_error)?;
        Ok(Extension { node: Arc::new(WindowAggregationNode::try_new(spec, inputs.to_vec())?) })
    }

    fn try_encode(&self, node: &Extension, bytes: &mut Vec<u8>) -> Result<()> {
        match node.node.as_any().downcast_ref::<WindowAggregationNode>() {
            Some(node) => serde_json::to_writer(bytes, node.spec()).map_err(json_error),
            None => not_impl_err!("the node {} is no window aggregation", node.node.name()),
        }
    }

    fn try_decode_table_provider(
        &self,
        _: &[u8],
        table: &TableReference,
        _: arrow::datatypes::SchemaRef,
        _: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        not_impl_err!("the table {table} is no part of a window aggregation")
    }

    fn try_encode_table_provider(
        &self,
        table: &TableReference,
        _: Arc<dyn TableProvider>,
        _: &mut Vec<u8>,
    ) -> Result<()> {
        not_impl_err!("the table {table} is no part of a window aggregation")
    }
}

impl PhysicalExtensionCodec for WindowAggregationCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let spec = serde_json::from_slice(bytes).map_err(json_error)?;
        Ok(Arc::new(WindowAggregationExec::try_new(Arc::new(spec), inputs.to_vec())?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match node.downcast_ref::<WindowAggregationExec>() {
            Some(exec) => serde_json::to_writer(bytes, exec.spec()).map_err(json_error),
            None => not_impl_err!("the operator {} is no window aggregation", node.name()),
        }
    }
}
