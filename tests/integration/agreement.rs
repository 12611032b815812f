//! Batch, batch from source, and online give the answer of a brute-force oracle, at every instant.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use asof::engine::Engine;
use asof::retrieval::{AskedTimes, BatchRequest, BatchRetrieval, Catalog, FeatureSelection, OnlineRequest};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{TestProject, at, write_parquet};

const DEFINITIONS: &str = r#"
entities:
  - {name: number, join_keys: [{name: number, type: int64}]}
  - {name: pair,   join_keys: [{name: text, type: string}, {name: number, type: int64}]}
sources:
  - {name: rows,   batch: {format: parquet, path: rows.parquet}, event_timestamp: happened, created_timestamp: written}
  - {name: static, batch: {format: parquet, path: static.parquet}, rename: {text: ignored}}
feature_views:
  - {name: aged, entities: [number], source: rows, ttl: 7ms, features: [{name: a, type: int64}, {name: b, type: float64}]}
  - {name: paired, entities: [pair], source: rows, features: [{name: c, type: int64}, {name: a, type: int64}]}
  - {name: fixed, entities: [number], source: static, features: [{name: d, type: int64}]}
on_demand_feature_views:
  - {name: computed, request: [{name: given, type: int64}], features_from: ["aged:b"],
     features: [{name: ratio, type: float64, expression: "b / given"}, {name: share, type: int64, expression: "100 / given"}]}
feature_services:
  - name: all
    features:
      - aged
      - paired: [c]
      - fixed
      - {view: aged, features: [b], as: other, join_keys: {number: second}}
      - computed
"#;

/// Microseconds between neighbouring times of generated rows: the TTL is seven of them.
const STEP: i64 = 1000;

#[derive(Debug, Clone)]
struct Row {
    number: Option<i64>,
    text: Option<&'static str>,
    event: Option<i64>,
    created: Option<i64>,
    a: Option<i64>,
    b: Option<f64>,
}

fn row() -> impl Strategy<Value = Row> {
    let number = prop_oneof![9 => (-2_i64..3).prop_map(Some), 1 => Just(None)];
    let text =
        prop_oneof![9 => prop::sample::select(vec!["", "a", "a\u{0}", "ab", "é"]).prop_map(Some), 1 => Just(None)];
    // Times meet, and lie a microsecond beside each other and beside the bounds of the TTL.
    let time = (-12_i64..12, -1_i64..2).prop_map(|(step, beside)| step * STEP + beside);
    let event = prop_oneof![19 => time.clone().prop_map(Some), 1 => Just(None)];
    let created = prop_oneof![2 => time.prop_map(Some), 1 => Just(None)];
    let a = prop_oneof![4 => prop::sample::select(vec![i64::MIN, -1, 0, 1, (1 << 53) + 1, i64::MAX]).prop_map(Some), 1 => Just(None)];
    let b = prop_oneof![4 => prop::sample::select(vec![-0.0, 0.0, 0.1, 1e300]).prop_map(Some), 1 => Just(None)];
    (number, text, event, created, a, b).prop_map(|(number, text, event, created, a, b)| Row {
        number,
        text,
        event,
        created,
        a,
        b,
    })
}

fn rows_batch(rows: &[Row]) -> RecordBatch {
    let instants = |pick: fn(&Row) -> Option<i64>| {
        Arc::new(rows.iter().map(pick).collect::<TimestampMicrosecondArray>().with_timezone("UTC")) as ArrayRef
    };
    let integers = |pick: fn(&Row) -> Option<i64>| Arc::new(rows.iter().map(pick).collect::<Int64Array>()) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([
        ("number", integers(|row| row.number), true),
        ("text", Arc::new(rows.iter().map(|row| row.text).collect::<StringArray>()) as ArrayRef, true),
        ("happened", instants(|row| row.event), true),
        ("written", instants(|row| row.created), true),
        ("a", integers(|row| row.a), true),
        ("b", Arc::new(rows.iter().map(|row| row.b).collect::<Float64Array>()) as ArrayRef, true),
        ("c", integers(|row| row.a), true),
    ])
    .unwrap()
}

fn static_batch(rows: &[(i64, Option<i64>)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("number", Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()) as ArrayRef, true),
        ("text", Arc::new(rows.iter().map(|_| Some("x")).collect::<StringArray>()) as ArrayRef, true),
        ("d", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()) as ArrayRef, true),
    ])
    .unwrap()
}

/// A value with its status; a float by its bits.
type Cell = (Option<i64>, &'static str);

/// The rules of time, as a nested loop: the row that answers, or why none does.
fn holding(
    rows: &[Row],
    matches: impl Fn(&Row) -> bool,
    t: i64,
    ttl: Option<i64>,
    as_known: bool,
    content: impl Fn(&Row) -> (Option<i64>, Option<i64>),
) -> Result<&Row, &'static str> {
    let mut best: Option<&Row> = None;
    for row in rows.iter().filter(|row| matches(row)) {
        let Some(event) = row.event.filter(|event| *event <= t) else { continue };
        if as_known && row.created.is_none_or(|created| created > t) {
            continue;
        }
        let rank = |row: &Row| (row.event, row.created, content(row));
        let _ = event;
        if best.is_none_or(|best| rank(row) > rank(best)) {
            best = Some(row);
        }
    }
    match best {
        None => Err("NOT_FOUND"),
        Some(row) if ttl.is_some_and(|ttl| row.event < Some(t - ttl)) => Err("OUTSIDE_MAX_AGE"),
        Some(row) => Ok(row),
    }
}

/// Floats in total order, as integers.
fn order(b: Option<f64>) -> Option<i64> {
    b.map(|b| {
        let bits = b.to_bits() as i64;
        if bits < 0 { bits ^ i64::MAX } else { bits }
    })
}

fn bits(b: f64) -> i64 {
    b.to_bits() as i64
}

fn cell(row: Result<&Row, &'static str>, value: impl Fn(&Row) -> Option<i64>) -> Cell {
    match row {
        Err(status) => (None, status),
        Ok(row) => computed(value(row)),
    }
}

fn computed(value: Option<i64>) -> Cell {
    (value, if value.is_some() { "PRESENT" } else { "NULL_VALUE" })
}

/// A row of the spine.
#[derive(Debug, Clone)]
struct Asked {
    number: Option<i64>,
    second: Option<i64>,
    text: Option<&'static str>,
    given: i64,
    t: i64,
}

/// The answer to one row: a, b, c, d, other__b, ratio, share.
fn oracle(rows: &[Row], statics: &[(i64, Option<i64>)], asked: &Asked, as_known: bool) -> [Cell; 7] {
    let aged = |number: Option<i64>| {
        let ab = |row: &Row| (row.a, order(row.b));
        holding(rows, |row| number.is_some() && row.number == number, asked.t, Some(7 * STEP), as_known, ab)
    };
    let is_pair = |row: &Row| {
        asked.text.is_some() && asked.number.is_some() && row.text == asked.text && row.number == asked.number
    };
    let paired = holding(rows, is_pair, asked.t, None, as_known, |row| (row.a, row.a));
    let fixed = statics.iter().filter(|row| Some(row.0) == asked.number).map(|row| row.1).max();
    let b = cell(aged(asked.number), |row| row.b.map(bits));
    let ratio = b.0.map(|b| bits(f64::from_bits(b as u64) / asked.given as f64));
    [
        cell(aged(asked.number), |row| row.a),
        b,
        cell(paired, |row| row.a),
        fixed.map_or((None, "NOT_FOUND"), computed),
        cell(aged(asked.second), |row| row.b.map(bits)),
        computed(ratio),
        computed(100_i64.checked_div(asked.given)),
    ]
}

const OUTPUTS: [&str; 7] =
    ["aged__a", "aged__b", "paired__c", "fixed__d", "other__b", "computed__ratio", "computed__share"];

fn spine(asked: &[Asked]) -> RecordBatch {
    let integers =
        |pick: fn(&Asked) -> Option<i64>| Arc::new(asked.iter().map(pick).collect::<Int64Array>()) as ArrayRef;
    let times = asked.iter().map(|asked| Some(asked.t)).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    RecordBatch::try_from_iter_with_nullable([
        ("number", integers(|asked| asked.number), true),
        ("second", integers(|asked| asked.second), true),
        ("text", Arc::new(asked.iter().map(|asked| asked.text).collect::<StringArray>()) as ArrayRef, true),
        ("given", integers(|asked| Some(asked.given)), true),
        ("at", Arc::new(times) as ArrayRef, true),
    ])
    .unwrap()
}

fn integers(array: &ArrayRef) -> Vec<Option<i64>> {
    match array.as_primitive_opt::<Float64Type>() {
        Some(floats) => floats.iter().map(|value| value.map(bits)).collect(),
        None => array.as_primitive::<Int64Type>().iter().collect(),
    }
}

/// Bytes.
const LITTLE_MEMORY: u64 = 384 << 10;

async fn batch_cells(
    batch: &BatchRetrieval,
    catalog: &Catalog,
    asked: &[Asked],
    as_known: bool,
    from_source: bool,
) -> Vec<Vec<Cell>> {
    let spine = spine(asked);
    let request = BatchRequest {
        selection: FeatureSelection::Service("all".to_owned()),
        full_feature_names: true,
        with_statuses: true,
        as_known,
        from_source,
        table_versions: Vec::new(),
        times: AskedTimes::Spine {
            schema: spine.schema(),
            rows: vec![spine.clone()],
            timestamp_column: Some("at".to_owned()),
        },
    };
    let answer = batch.get(catalog, &request).await.unwrap().collect().await.unwrap();
    for (position, column) in spine.columns().iter().enumerate() {
        assert_eq!(answer.column(position), column, "the spine comes back as it was");
    }
    let column = |name: &str| answer.column_by_name(name).unwrap();
    let cells = OUTPUTS.map(|name| {
        let statuses = column(&format!("{name}__status")).as_string::<i32>().clone();
        let statuses = (0..statuses.len()).map(|row| known_status(statuses.value(row))).collect::<Vec<_>>();
        integers(column(name)).into_iter().zip(statuses).collect::<Vec<Cell>>()
    });
    (0..asked.len()).map(|row| cells.iter().map(|column| column[row]).collect()).collect()
}

fn known_status(name: &str) -> &'static str {
    ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"].into_iter().find(|known| *known == name).unwrap()
}

fn online_cells(project: &TestProject, asked: &[Asked], now: i64) -> Vec<Vec<Cell>> {
    let request = OnlineRequest {
        selection: FeatureSelection::Service("all".to_owned()),
        full_feature_names: true,
        columns: spine(asked),
        entity_columns: 0,
        now: Some(at(now)),
    };
    let answer = project.online().get(&project.catalog, &request).unwrap();
    let names: Vec<&str> = answer.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, OUTPUTS);
    let columns: Vec<Vec<Cell>> = answer
        .columns
        .iter()
        .map(|column| {
            let statuses = column.statuses.iter().map(|status| status.as_str());
            integers(&column.values).into_iter().zip(statuses).collect()
        })
        .collect();
    (0..asked.len()).map(|row| columns.iter().map(|column| column[row]).collect()).collect()
}

/// Every key, and keys that no row has, at one instant.
fn all_keys_at(t: i64) -> Vec<Asked> {
    let texts = [Some(""), Some("a"), Some("a\u{0}"), Some("ab"), Some("é"), None];
    let numbers = [-2, -1, 0, 1, 2, 99].map(Some).into_iter().chain([None]);
    numbers
        .enumerate()
        .map(|(i, number)| Asked {
            number,
            second: Some(i as i64 - 3),
            text: texts[(i + t.unsigned_abs() as usize) % texts.len()],
            given: i as i64 - 2,
            t,
        })
        .collect()
}

fn instants() -> impl Iterator<Item = i64> {
    (-14..30).flat_map(|step| [-1, 0, 1].map(|beside| step * STEP + beside))
}

async fn check(rows: &[Row], late: &[Row], statics: &[(i64, Option<i64>)], cut: i64) {
    let early = rows_batch(rows);
    let files = [("rows.parquet", &early), ("static.parquet", &static_batch(statics))];
    let project = TestProject::new(DEFINITIONS, &files).await;
    // Intervals out of order, overlapping, and once more when late rows have arrived.
    project.materialize(Some(cut), None).await;
    project.materialize(Some(-1_000_000), Some(cut + 3 * STEP)).await;
    let all: Vec<Row> = rows.iter().chain(late).cloned().collect();
    write_parquet(&project.path("rows.parquet"), &rows_batch(&all));
    project.materialize(Some(-1_000_000), None).await;

    let asked: Vec<Asked> = instants().flat_map(all_keys_at).collect();
    for as_known in [false, true] {
        let expected: Vec<Vec<Cell>> = asked.iter().map(|one| oracle(&all, statics, one, as_known).to_vec()).collect();
        for from_source in [false, true] {
            // With little memory, answers of earlier views wait in files.
            let memories: &[Option<u64>] = if from_source { &[None] } else { &[None, Some(LITTLE_MEMORY)] };
            for memory in memories.iter().copied() {
                let batch = BatchRetrieval { engine: Engine::new(memory).unwrap(), ..project.batch() };
                let found = batch_cells(&batch, &project.catalog, &asked, as_known, from_source).await;
                for (one, (found, expected)) in asked.iter().zip(found.iter().zip(&expected)) {
                    assert_eq!(found, expected, "as known {as_known}, from source {from_source}, {memory:?}: {one:?}");
                }
            }
        }
    }
    for t in instants() {
        let asked = all_keys_at(t);
        let found = online_cells(&project, &asked, t);
        for (one, found) in asked.iter().zip(&found) {
            assert_eq!(found, &oracle(&all, statics, one, false).to_vec(), "online: {one:?}");
        }
    }
}

#[test]
fn batch_and_online_give_the_answer_of_the_oracle() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let statics = prop::collection::vec((-2_i64..3, prop::option::of(0_i64..9)), 0..8);
    let inputs =
        (prop::collection::vec(row(), 0..120), prop::collection::vec(row(), 0..20), statics, -10_000_i64..10_000);
    let mut runner = TestRunner::new(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() });
    runner
        .run(&inputs, |(rows, late, statics, cut)| {
            runtime.block_on(check(&rows, &late, &statics, cut));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
