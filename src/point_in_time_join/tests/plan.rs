//! The join in a plan: run in steps, shown, and sent elsewhere.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, UInt8Type};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::{DefaultPhysicalProtoConverter, PhysicalExtensionCodec};

use super::super::*;
use super::fixture::runtime;
use crate::definition::FeatureViewName;
use crate::engine::Engine;
use crate::operators::OperatorCodec;

const SPINE_ROWS: i64 = 10_000;
const KEYS: i64 = 7;

fn instants(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn integers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// Row `n` asks for key `n % KEYS` at `n`.
fn spine() -> RecordBatch {
    let rows = || 0..SPINE_ROWS;
    RecordBatch::try_from_iter([
        ("n", integers(rows())),
        ("key", integers(rows().map(|n| n % KEYS))),
        ("at", instants(rows())),
    ])
    .unwrap()
}

/// Each key has a row every 100 microseconds, whose value is its time, `sign` telling the views apart.
fn rows(sign: i64) -> RecordBatch {
    let rows = || (0..KEYS).flat_map(|key| (0..SPINE_ROWS).step_by(100).map(move |at| (key, at)));
    RecordBatch::try_from_iter([
        ("key", integers(rows().map(|(key, _)| key))),
        ("event_timestamp", instants(rows().map(|(_, at)| at))),
        ("created_timestamp", instants(rows().map(|(_, at)| at))),
        ("value", integers(rows().map(|(_, at)| sign * at))),
    ])
    .unwrap()
}

fn spec() -> JoinSpec {
    let view = JoinedViewSpec {
        name: FeatureViewName::from("view"),
        spine_keys: vec![1],
        is_static: false,
        has_created_timestamp: true,
        requested: vec![0],
        ttl: Some(std::time::Duration::from_micros(30)),
        as_known: false,
        files: None,
    };
    JoinSpec { carried: 1, time: 2, views: vec![view.clone(), view], with_times: true }
}

fn frame(context: &SessionContext) -> DataFrame {
    let inputs = [spine(), rows(1), rows(-1)].map(|batch| context.read_batch(batch).unwrap().into_unoptimized_plan());
    let node = PointInTimeJoinNode::try_new(spec(), inputs.to_vec()).unwrap();
    DataFrame::new(context.state(), LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

fn check(batches: &[RecordBatch]) {
    let answer = concat_batches(&batches[0].schema(), batches).unwrap();
    assert_eq!(answer.num_rows() as i64, SPINE_ROWS);
    let column = |position: usize| answer.column(position).as_primitive::<Int64Type>();
    for view in 0..2 {
        let statuses = answer.column(2 + 3 * view).as_primitive::<UInt8Type>();
        for n in 0..SPINE_ROWS as usize {
            assert_eq!(column(0).value(n), n as i64, "the spine's order");
            let is_young = n % 100 <= 30;
            let sign = if view == 0 { 1 } else { -1 };
            let expected = is_young.then_some(sign * (n - n % 100) as i64);
            let values = column(1 + 3 * view);
            assert_eq!(values.is_valid(n).then(|| values.value(n)), expected, "row {n}");
            assert_eq!(RowStatus::from_number(statuses.value(n)) == RowStatus::Found, is_young);
        }
    }
}

#[test]
fn a_plan_is_run_and_shown() {
    runtime().block_on(async {
        let context = Engine::new(None).unwrap().session();
        let physical = frame(&context).create_physical_plan().await.unwrap();
        check(&collect(Arc::clone(&physical), context.task_ctx()).await.unwrap());
        let shown = displayable(physical.as_ref()).indent(false).to_string();
        let first = shown.lines().next().unwrap();
        insta::assert_snapshot!(first, @"PointInTimeJoinExec: views=[view(features=1, ttl=30µs), view(features=1, ttl=30µs)]");
    });
}

#[test]
fn a_small_limit_takes_more_steps_and_disk_and_gives_the_same() {
    runtime().block_on(async {
        for (limit, goes_to_disk) in [(4 << 20, false), (1 << 20, true)] {
            let environment = RuntimeEnvBuilder::new().with_memory_limit(limit, 1.0).build_arc().unwrap();
            let context = Engine::new(None).unwrap().session();
            let physical = frame(&context).create_physical_plan().await.unwrap();
            let limited = SessionContext::new_with_config_rt(Default::default(), environment);
            let batches = collect(Arc::clone(&physical), limited.task_ctx()).await.unwrap();
            assert!(batches.len() > 1, "one step is no test");
            check(&batches);
            assert_eq!(physical.metrics().unwrap().spill_count() > Some(0), goes_to_disk);
        }
    });
}

#[test]
fn nodes_are_sent_elsewhere() {
    runtime().block_on(async {
        let context = Engine::new(None).unwrap().session();
        let LogicalPlan::Extension(extension) = frame(&context).into_unoptimized_plan() else { unreachable!() };
        let inputs: Vec<LogicalPlan> = extension.node.inputs().into_iter().cloned().collect();
        let mut bytes = Vec::new();
        LogicalExtensionCodec::try_encode(&OperatorCodec, &extension, &mut bytes).unwrap();
        let decoded = LogicalExtensionCodec::try_decode(&OperatorCodec, &bytes, &inputs, &context.task_ctx()).unwrap();
        assert_eq!(decoded, extension);

        let physical = frame(&context).create_physical_plan().await.unwrap();
        let inputs: Vec<Arc<dyn ExecutionPlan>> = physical.children().into_iter().cloned().collect();
        let mut bytes = Vec::new();
        let converter = DefaultPhysicalProtoConverter {};
        PhysicalExtensionCodec::try_encode(&OperatorCodec, physical, &mut bytes, &converter).unwrap();
        let task = context.task_ctx();
        let decoded = PhysicalExtensionCodec::try_decode(&OperatorCodec, &bytes, &inputs, &task, &converter).unwrap();
        check(&collect(decoded, task).await.unwrap());
    });
}
