//! The operator against an oracle that looks at every event for every row of the spine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, TimestampMicrosecondType};
use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::physical_plan::collect;
use datafusion::prelude::DataFrame;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::{DefaultPhysicalProtoConverter, PhysicalExtensionCodec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::definition::{AggregateFunction, Percentiles, ValueType, Window};
use crate::engine::Engine;
use crate::operators::OperatorCodec;
use crate::tile::{AnswerBuilder, Column, Event, values};

/// One event: key, event and created timestamp, and the inputs.
#[derive(Debug, Clone)]
struct Row {
    key: Option<i64>,
    time: i64,
    created: Option<i64>,
    int: Option<i64>,
    float: Option<f64>,
    text: Option<&'static str>,
    truth: Option<bool>,
}

const INT: (usize, ValueType) = (0, ValueType::Int64);
const FLOAT: (usize, ValueType) = (1, ValueType::Float64);
const TEXT: (usize, ValueType) = (2, ValueType::String);
const TRUTH: (usize, ValueType) = (3, ValueType::Bool);

fn micros(length: u64) -> Window {
    Window::Sliding(Duration::from_micros(length))
}

/// Every function over every kind of input that it takes, over three windows, some by bucket.
fn features() -> Vec<WindowFeature> {
    use AggregateFunction as F;
    let mut features = Vec::new();
    let mut add = |function: F, n: Option<u32>, input: Option<(usize, ValueType)>, by: Option<(usize, ValueType)>| {
        let percentiles = (function == F::ApproxPercentile).then(|| Percentiles::Several(vec![0.0, 0.5, 0.99]));
        for window in [micros(5), micros(17), Window::Lifetime] {
            let mut feature = WindowFeature {
                name: format!("{function}{n:?}{input:?}{by:?}{window:?}"),
                function,
                n,
                percentiles: percentiles.clone(),
                input: input.clone(),
                by: by.clone(),
                window,
                value_type: ValueType::Bool,
            };
            let Ok(aggregate) = feature.aggregate() else { continue };
            feature.value_type = aggregate.value_type().clone();
            features.push(feature);
        }
    };
    add(F::Count, None, None, None);
    add(F::Count, None, None, Some(TEXT));
    for function in F::ALL {
        for input in [INT, FLOAT, TEXT, TRUTH] {
            add(function, None, Some(input.clone()), None);
            if function.lists_values() {
                add(function, Some(3), Some(input), None);
            }
        }
        add(function, None, Some(FLOAT), Some(TEXT));
        add(function, None, Some(INT), Some(FLOAT));
    }
    features
}

fn instants(times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn events_batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(rows.iter().map(|row| row.key).collect::<Int64Array>())),
        ("event_timestamp", instants(rows.iter().map(|row| Some(row.time)))),
        ("created_timestamp", instants(rows.iter().map(|row| row.created))),
        ("int", Arc::new(rows.iter().map(|row| row.int).collect::<Int64Array>())),
        ("float", Arc::new(rows.iter().map(|row| row.float).collect::<Float64Array>())),
        ("text", Arc::new(rows.iter().map(|row| row.text).collect::<StringArray>())),
        ("truth", Arc::new(rows.iter().map(|row| row.truth).collect::<BooleanArray>())),
    ];
    batch(columns)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
}

fn spine_batch(spine: &[(Option<i64>, Option<i64>)]) -> RecordBatch {
    batch(vec![
        ("key", Arc::new(spine.iter().map(|(key, _)| *key).collect::<Int64Array>()) as ArrayRef),
        ("time", instants(spine.iter().map(|(_, time)| *time))),
    ])
}

/// What the events of each row's windows amount to, one after the other.
fn oracle(view: &AggregatedViewSpec, events: &RecordBatch, spine: &RecordBatch) -> Vec<ArrayRef> {
    let types = [INT.1, FLOAT.1, TEXT.1, TRUTH.1];
    let columns: Vec<Column> =
        events.columns()[3..].iter().zip(&types).map(|(array, ty)| values(array, ty).unwrap()).collect();
    let key = |batch: &RecordBatch, row: usize| {
        let keys = batch.column(0).as_primitive::<Int64Type>();
        keys.is_valid(row).then(|| keys.value(row))
    };
    let time = |batch: &RecordBatch, column: usize, row: usize| {
        let times = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        times.is_valid(row).then(|| times.value(row))
    };
    let mut answers = Vec::new();
    for feature in &view.features {
        let aggregate = feature.aggregate().unwrap();
        let mut builder = AnswerBuilder::new(&feature.value_type);
        for row in 0..spine.num_rows() {
            let (Some(asked_key), Some(asked)) = (key(spine, row), time(spine, 1, row)) else {
                builder.append(crate::tile::Answer::Null).unwrap();
                continue;
            };
            let mut partial = aggregate.kind().empty();
            for event in (0..events.num_rows()).rev() {
                let at = time(events, 1, event).unwrap();
                let created = time(events, 2, event).filter(|_| view.has_created_timestamp);
                let edge = lower_edge(asked, feature.window, view.resolution.map(crate::time::duration_micros));
                let is_known = !view.as_known || !view.has_created_timestamp || created.is_some_and(|c| c <= asked);
                let is_inside = at < asked && edge.is_none_or(|edge| edge <= at);
                if key(events, event) == Some(asked_key) && is_inside && is_known {
                    let value = |column: &Option<(usize, ValueType)>| columns[column.as_ref()?.0].value(event);
                    partial.update(&Event {
                        event_timestamp: at,
                        created_timestamp: created,
                        value: value(&feature.input),
                        bucket: value(&feature.by),
                    });
                }
            }
            builder.append(aggregate.finish(&partial)).unwrap();
        }
        answers.push(builder.finish());
    }
    answers
}

fn sliced(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    (0..batch.num_rows()).step_by(rows).map(|start| batch.slice(start, rows.min(batch.num_rows() - start))).collect()
}

/// Runs the operator with its inputs in batches of `rows`, within `memory` bytes; tells how often the events were read.
async fn run(
    views: &[AggregatedViewSpec],
    events: &RecordBatch,
    spine: &RecordBatch,
    rows: usize,
    memory: Option<u64>,
) -> (RecordBatch, usize) {
    let context = Engine::new(memory).unwrap().session();
    let plan = |batch: &RecordBatch| {
        let batches = match batch.num_rows() {
            0 => vec![batch.clone()],
            _ => sliced(batch, rows),
        };
        let (_, plan) = context.read_batches(batches).unwrap().into_parts();
        plan
    };
    let spec = WindowAggregationSpec { time: 1, views: views.to_vec(), with_times: false };
    let node = WindowAggregationNode::try_new(spec, vec![plan(spine), plan(events)]).unwrap();
    let frame = DataFrame::new(context.state(), LogicalPlan::Extension(Extension { node: Arc::new(node) }));
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.unwrap();
    let batches = collect(Arc::clone(&plan), task).await.unwrap();
    let passes = plan.metrics().and_then(|metrics| metrics.sum_by_name("passes")).map_or(0, |passes| passes.as_usize());
    (concat_batches(&plan.schema(), &batches).unwrap(), passes)
}

async fn check(view: &AggregatedViewSpec, rows: &[Row], spine: &[(Option<i64>, Option<i64>)], batch_rows: usize) {
    let (events, spine) = (events_batch(rows), spine_batch(spine));
    let expected = oracle(view, &events, &spine);
    let (answer, _) = run(std::slice::from_ref(view), &events, &spine, batch_rows, None).await;
    if spine.num_rows() == 0 {
        assert_eq!(answer.num_rows(), 0);
        return;
    }
    for (position, (feature, expected)) in view.features.iter().zip(&expected).enumerate() {
        assert_eq!(answer.column(position + 2), expected, "{}", feature.name);
    }
    assert_eq!(answer.columns()[..2], *spine.columns());
}

fn view(as_known: bool, has_created_timestamp: bool, resolution: Option<u64>) -> AggregatedViewSpec {
    AggregatedViewSpec {
        name: "v".into(),
        events: EventInput::whole(0, 7),
        spine_keys: vec![0],
        has_created_timestamp,
        as_known,
        resolution: resolution.map(Duration::from_micros),
        features: features(),
        files: None,
        tiles: None,
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let floats = prop_oneof![
        4 => (-50_i32..50).prop_map(|n| f64::from(n) / 4.0),
        1 => Just(1e300),
        1 => Just(1e-300),
        1 => Just(-0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
    ];
    let ints = prop_oneof![6 => -9_i64..9, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    let texts = prop::sample::select(vec!["", "a", "b", "bb"]);
    (
        prop::option::weighted(0.9, 0_i64..3),
        -30_i64..30,
        prop::option::weighted(0.8, -30_i64..40),
        prop::option::weighted(0.8, ints),
        prop::option::weighted(0.8, floats),
        prop::option::weighted(0.8, texts),
        prop::option::weighted(0.8, any::<bool>()),
    )
        .prop_map(|(key, time, created, int, float, text, truth)| Row {
            key,
            time,
            created,
            int,
            float,
            text,
            truth,
        })
}

fn any_spine() -> impl Strategy<Value = Vec<(Option<i64>, Option<i64>)>> {
    let row = (prop::option::weighted(0.9, 0_i64..4), prop::option::weighted(0.95, -35_i64..45));
    prop::collection::vec(row, 0..24)
}

#[test]
fn windows_equal_those_of_a_nested_loop() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let inputs = (prop::collection::vec(any_row(), 0..40), any_spine(), any::<(bool, bool)>(), 0_u64..3, any::<bool>());
    runner
        .run(&inputs, |(mut rows, spine, (as_known, has_created), resolution, is_sorted)| {
            if is_sorted {
                rows.sort_by_key(|row| (row.key, row.time));
            }
            let view = view(as_known, has_created, [None, Some(1), Some(4)][resolution as usize]);
            for batch_rows in [1, 2, 3, 8192] {
                runtime.block_on(check(&view, &rows, &spine, batch_rows));
            }
            Ok(())
        })
        .unwrap();
}

fn event(key: i64, time: i64, int: i64) -> Row {
    let float = Some(int as f64 / 8.0);
    Row { key: Some(key), time, created: None, int: Some(int), float, text: Some("a"), truth: Some(int > 0) }
}

#[tokio::test]
async fn a_window_begins_at_its_lower_edge_and_ends_before_the_asked_time() {
    let rows: Vec<Row> = [4, 5, 6, 9, 10, 11].into_iter().map(|time| event(1, time, time)).collect();
    let mut view = view(false, false, None);
    view.features.retain(|feature| feature.function == AggregateFunction::Count && feature.input.is_none());
    view.features.retain(|feature| feature.window == micros(5) && feature.by.is_none());
    let spine = spine_batch(&[(Some(1), Some(10)), (Some(1), Some(11)), (Some(1), Some(4)), (Some(2), Some(10))]);
    let (answer, _) = run(&[view], &events_batch(&rows), &spine, 8192, None).await;
    let counts = answer.column(2).as_primitive::<Int64Type>();
    // Of [5, 10): 5, 6, 9. Of [6, 11): 6, 9, 10.
    assert_eq!(counts.values(), &[3, 3, 0, 0]);
}

#[tokio::test]
async fn events_that_do_not_fit_in_memory_are_read_in_passes() {
    let rows: Vec<Row> = (0..6_000).map(|n| event(n % 97, n / 3, n % 11 - 5)).collect();
    let spine: Vec<_> = (0..300).map(|n| (Some(n % 101), Some(n * 7))).collect();
    let (events, spine) = (events_batch(&rows), spine_batch(&spine));
    let mut view = view(false, false, None);
    view.features.truncate(9);
    let (whole, passes) = run(std::slice::from_ref(&view), &events, &spine, 512, None).await;
    assert_eq!(passes, 1);
    let (parts, passes) = run(&[view], &events, &spine, 512, Some(400 << 10)).await;
    assert!(passes > 1, "{passes} passes");
    assert_eq!(whole, parts);
}

#[tokio::test]
async fn views_that_share_their_input_are_answered_together() {
    let rows: Vec<Row> = (0..6_000).map(|n| event(n % 97, n / 3, n % 11 - 5)).collect();
    let spine: Vec<_> = (0..300).map(|n| (Some(n % 101), Some(n * 7))).collect();
    let (events, spine) = (events_batch(&rows), spine_batch(&spine));
    let mut whole = view(false, true, None);
    whole.features.truncate(9);
    let mut some = AggregatedViewSpec { name: "some".into(), ..view(false, true, Some(4)) };
    some.features.drain(..12);
    some.features.truncate(9);
    let met = filter_record_batch(&events, events.column(6).as_boolean()).unwrap();
    let (of_whole, _) = run(&[whole.clone()], &events, &spine, 512, None).await;
    let (of_some, _) = run(&[some.clone()], &met, &spine, 512, None).await;
    some.events.condition = Some(6);
    for memory in [None, Some(600 << 10)] {
        let (together, passes) = run(&[whole.clone(), some.clone()], &events, &spine, 512, memory).await;
        assert_eq!(passes > 2, memory.is_some(), "{passes} passes");
        assert_eq!(together.columns()[..11], *of_whole.columns());
        assert_eq!(together.columns()[11..], of_some.columns()[2..]);
    }
}

#[test]
fn names_of_test_features_are_unique() {
    let features = features();
    assert_eq!(features.iter().map(|feature| &feature.name).collect::<BTreeSet<_>>().len(), features.len());
}

#[tokio::test]
async fn plans_travel_as_bytes() {
    let rows: Vec<Row> = (0..50).map(|n| event(n % 3, n * 700, n)).collect();
    let spine = spine_batch(&(0..20).map(|n| (Some(n % 4), Some(n * 1_900))).collect::<Vec<_>>());
    let mut view = view(false, false, None);
    // Definitions know no shorter time than a millisecond.
    view.features.iter_mut().for_each(|feature| feature.window = Window::Sliding(Duration::from_millis(7)));
    view.features.truncate(30);
    let context = Engine::new(None).unwrap().session();
    let plan = |batch: RecordBatch| context.read_batch(batch).unwrap().into_unoptimized_plan();
    let spec = WindowAggregationSpec { time: 1, views: vec![view], with_times: true };
    let inputs = vec![plan(spine), plan(events_batch(&rows))];
    let node = Extension { node: Arc::new(WindowAggregationNode::try_new(spec, inputs.clone()).unwrap()) };
    let mut bytes = Vec::new();
    LogicalExtensionCodec::try_encode(&OperatorCodec, &node, &mut bytes).unwrap();
    let decoded = LogicalExtensionCodec::try_decode(&OperatorCodec, &bytes, &inputs, &context.task_ctx()).unwrap();
    assert_eq!(decoded, node);

    let frame = DataFrame::new(context.state(), LogicalPlan::Extension(node));
    let physical = frame.create_physical_plan().await.unwrap();
    let inputs: Vec<_> = physical.children().into_iter().cloned().collect();
    let mut bytes = Vec::new();
    let converter = DefaultPhysicalProtoConverter {};
    PhysicalExtensionCodec::try_encode(&OperatorCodec, Arc::clone(&physical), &mut bytes, &converter).unwrap();
    let task = context.task_ctx();
    let decoded = PhysicalExtensionCodec::try_decode(&OperatorCodec, &bytes, &inputs, &task, &converter).unwrap();
    let expected = collect(physical, Arc::clone(&task)).await.unwrap();
    assert_eq!(collect(decoded, task).await.unwrap(), expected);
}
