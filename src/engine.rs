//! DataFusion sessions within the project's limits.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Statistics, config::ConfigOptions};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::operators::OperatorPlanner;

/// Makes sessions that share one memory limit and one set of object stores.
#[derive(Debug, Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
}

impl Engine {
    /// `memory_bytes`: what sorts and joins may hold before they spill to disk; None: no limit.
    ///
    /// # Errors
    /// No folder for what is spilled.
    pub fn new(memory_bytes: Option<u64>) -> Result<Self, DataFusionError> {
        let mut builder = RuntimeEnvBuilder::new();
        if let Some(bytes) = memory_bytes {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            builder = builder.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
        }
        Ok(Engine { runtime: builder.build_arc()? })
    }

    /// A session of its own: tables registered in it are seen by nobody else.
    pub fn session(&self) -> SessionContext {
        let mut config = SessionConfig::new().with_information_schema(false);
        let options = config.options_mut();
        options.execution.parquet.schema_force_view_types = false;
        options.execution.parquet.pushdown_filters = true;
        // A time without an offset is UTC.
        options.execution.time_zone = Some("UTC".to_owned());
        // Errors say where in a query they are.
        options.sql_parser.collect_spans = true;
        // It fails where a column keeps its name on its way through a projection, as those of sources do.
        options.optimizer.enable_leaf_expression_pushdown = false;
        let mut rules = PhysicalOptimizer::new().rules;
        rules.insert(0, Arc::new(BoundsAreHints));
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_query_planner(Arc::new(OperatorQueryPlanner))
            .with_physical_optimizer_rules(rules)
            .build();
        SessionContext::new_with_state(state)
    }
}

/// Plans queries that may hold a point-in-time join or a window aggregation.
#[derive(Debug)]
struct OperatorQueryPlanner;

#[async_trait]
impl QueryPlanner for OperatorQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(OperatorPlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}

/// Takes what is said of a file's least and greatest values for a hint.
///
/// Parquet leaves NaN out of them, and Delta's log cuts instants to milliseconds. DataFusion would answer from them
/// where they are exact: a column whose least value is the greatest one too is not read at all.
#[derive(Debug)]
struct BoundsAreHints;

impl PhysicalOptimizerRule for BoundsAreHints {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let hinted = plan.transform_up(|node| {
            let scan = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
            Ok(match scan.and_then(|scan| scan.downcast_ref::<FileScanConfig>()) {
                Some(files) => Transformed::yes(DataSourceExec::from_data_source(with_hints(files)) as _),
                None => Transformed::no(node),
            })
        })?;
        Ok(hinted.data)
    }

    fn name(&self) -> &str {
        "bounds_are_hints"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn with_hints(files: &FileScanConfig) -> FileScanConfig {
    let groups = files.file_groups.iter().map(|group| {
        let hinted = group.iter().cloned().map(|mut file| {
            file.statistics = file.statistics.map(|known| Arc::new(without_exact_bounds(known.as_ref().clone())));
            file
        });
        let hinted = FileGroup::new(hinted.collect());
        match group.file_statistics(None) {
            Some(known) => hinted.with_statistics(Arc::new(without_exact_bounds(known.clone()))),
            None => hinted,
        }
    });
    FileScanConfigBuilder::from(files.clone())
        .with_file_groups(groups.collect())
        .with_statistics(without_exact_bounds(files.statistics()))
        .build()
}

fn without_exact_bounds(mut statistics: Statistics) -> Statistics {
    for column in &mut statistics.column_statistics {
        column.min_value = std::mem::take(&mut column.min_value).to_inexact();
        column.max_value = std::mem::take(&mut column.max_value).to_inexact();
    }
    statistics
}
