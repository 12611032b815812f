//! The operators of this crate in DataFusion's plans: from logical to physical nodes, and both to bytes and back, so
//! that a plan can run elsewhere.

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
use serde::{Deserialize, Serialize};

use crate::point_in_time_join::{JoinSpec, PointInTimeJoinExec, PointInTimeJoinNode};
use crate::window_aggregation::{WindowAggregationExec, WindowAggregationNode, WindowAggregationSpec};

/// What an operator does, but for its inputs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spec {
    PointInTimeJoin(JoinSpec),
    WindowAggregation(WindowAggregationSpec),
}

impl Spec {
    /// None: the node is none of this crate's.
    fn of_node(node: &dyn UserDefinedLogicalNode) -> Option<Self> {
        let node = node.as_any();
        if let Some(join) = node.downcast_ref::<PointInTimeJoinNode>() {
            return Some(Spec::PointInTimeJoin(join.spec().clone()));
        }
        let windows = node.downcast_ref::<WindowAggregationNode>()?;
        Some(Spec::WindowAggregation(windows.spec().clone()))
    }

    /// None: the operator is none of this crate's.
    fn of_exec(exec: &dyn ExecutionPlan) -> Option<Self> {
        if let Some(join) = exec.downcast_ref::<PointInTimeJoinExec>() {
            return Some(Spec::PointInTimeJoin(join.spec().clone()));
        }
        let windows = exec.downcast_ref::<WindowAggregationExec>()?;
        Some(Spec::WindowAggregation(windows.spec().clone()))
    }

    fn node(self, inputs: Vec<LogicalPlan>) -> Result<Arc<dyn UserDefinedLogicalNode>> {
        Ok(match self {
            Spec::PointInTimeJoin(spec) => Arc::new(PointInTimeJoinNode::try_new(spec, inputs)?),
            Spec::WindowAggregation(spec) => Arc::new(WindowAggregationNode::try_new(spec, inputs)?),
        })
    }

    fn exec(self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match self {
            Spec::PointInTimeJoin(spec) => Arc::new(PointInTimeJoinExec::try_new(Arc::new(spec), inputs)?),
            Spec::WindowAggregation(spec) => Arc::new(WindowAggregationExec::try_new(Arc::new(spec), inputs)?),
        })
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(bytes, self).map_err(json_error)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(json_error)
    }
}

fn json_error(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Plans the logical nodes of this crate.
#[derive(Debug)]
pub struct OperatorPlanner;

#[async_trait]
impl ExtensionPlanner for OperatorPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Spec::of_node(node).map(|spec| spec.exec(physical_inputs.to_vec())).transpose()
    }
}

/// Writes the operators of this crate as JSON; those of others are not its concern.
#[derive(Debug, Default)]
pub struct OperatorCodec;

impl LogicalExtensionCodec for OperatorCodec {
    fn try_decode(&self, bytes: &[u8], inputs: &[LogicalPlan], _: &TaskContext) -> Result<Extension> {
        Ok(Extension { node: Spec::decode(bytes)?.node(inputs.to_vec())? })
    }

    fn try_encode(&self, node: &Extension, bytes: &mut Vec<u8>) -> Result<()> {
        match Spec::of_node(node.node.as_ref()) {
            Some(spec) => spec.encode(bytes),
            None => not_impl_err!("the node {} is none of Asof's", node.node.name()),
        }
    }

    fn try_decode_table_provider(
        &self,
        _: &[u8],
        table: &TableReference,
        _: arrow::datatypes::SchemaRef,
        _: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        not_impl_err!("the table {table} is none of Asof's operators")
    }

    fn try_encode_table_provider(
        &self,
        table: &TableReference,
        _: Arc<dyn TableProvider>,
        _: &mut Vec<u8>,
    ) -> Result<()> {
        not_impl_err!("the table {table} is none of Asof's operators")
    }
}

impl PhysicalExtensionCodec for OperatorCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Spec::decode(bytes)?.exec(inputs.to_vec())
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match Spec::of_exec(node.as_ref()) {
            Some(spec) => spec.encode(bytes),
            None => not_impl_err!("the operator {} is none of Asof's", node.name()),
        }
    }
}
