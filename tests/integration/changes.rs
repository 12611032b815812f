//! Definitions that change while both stores hold rows of the old ones.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use asof::error::ErrorKind;
use asof::retrieval::{AskedTimes, BatchRequest, FeatureSelection, OnlineRequest};

use crate::support::{TestProject, at, write_parquet};

fn definitions(views: &str) -> String {
    format!(
        "entities: [{{name: thing, join_keys: [{{name: key, type: int64}}]}}]\n\
         sources: [{{name: rows, batch: {{format: parquet, path: rows.parquet}}, event_timestamp: happened}}]\n\
         feature_views:\n{views}"
    )
}

fn view(name: &str, features: &str) -> String {
    format!("  - {{name: {name}, entities: [thing], source: rows, features: [{features}]}}\n")
}

fn rows() -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("key", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("happened", Arc::new(times) as ArrayRef),
        ("a", Arc::new(Int64Array::from(vec![10, 20])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![30, 40])) as ArrayRef),
        ("c", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
    ])
    .unwrap()
}

fn asked() -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![100, 100]).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("key", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("event_timestamp", Arc::new(times) as ArrayRef),
    ])
    .unwrap()
}

/// What both stores answer for one feature of int64, which has to be the same; the kind of error if batch refuses.
async fn answer(project: &TestProject, feature: &str) -> Result<Vec<Option<i64>>, ErrorKind> {
    let selection = FeatureSelection::References(vec![feature.to_owned()]);
    let online = OnlineRequest {
        selection: selection.clone(),
        full_feature_names: false,
        columns: asked(),
        entity_columns: 2,
        now: Some(at(100)),
    };
    let online = project.online().get(&project.catalog, &online).unwrap().columns[0].values.clone();
    let batch = BatchRequest {
        selection,
        full_feature_names: false,
        with_statuses: false,
        as_known: false,
        from_source: false,
        table_versions: Vec::new(),
        times: AskedTimes::Spine { schema: asked().schema(), rows: vec![asked()], timestamp_column: None },
    };
    match project.batch().get(&project.catalog, &batch).await {
        Ok(batch) => {
            let batch = batch.collect().await.unwrap();
            assert_eq!(batch.column(2), &online, "{feature}");
            Ok(online.as_primitive::<Int64Type>().iter().collect())
        }
        Err(error) => {
            assert_eq!(online.null_count(), 2, "{feature}: nothing is answered online either");
            Err(error.kind())
        }
    }
}

#[tokio::test]
async fn a_feature_that_is_added_is_null_until_the_view_is_materialized() {
    let a = "{name: a, type: int64}";
    let mut project = TestProject::new(&definitions(&view("v", a)), &[("rows.parquet", &rows())]).await;
    project.materialize(None, None).await;
    project.apply(&definitions(&view("v", &format!("{{name: b, type: int64}}, {a}")))).await;
    assert_eq!(answer(&project, "v:a").await, Ok(vec![Some(10), Some(20)]), "old rows are served meanwhile");
    assert_eq!(answer(&project, "v:b").await, Ok(vec![None, None]));
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:a").await, Ok(vec![Some(10), Some(20)]));
    assert_eq!(answer(&project, "v:b").await, Ok(vec![Some(30), Some(40)]));
    // And one that is removed and comes back.
    project.apply(&definitions(&view("v", a))).await;
    project.materialize(None, None).await;
    project.apply(&definitions(&view("v", &format!("{a}, {{name: b, type: int64}}")))).await;
    assert_eq!(answer(&project, "v:b").await, Ok(vec![None, None]));
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:b").await, Ok(vec![Some(30), Some(40)]));
}

#[tokio::test]
async fn a_window_that_grows_finds_what_no_window_saw_before() {
    let counts = |window: &str| {
        let aggregations = format!("aggregations: [{{function: count, windows: [{window}]}}]");
        definitions(&format!("  - {{name: v, entities: [thing], source: rows, {aggregations}}}\n"))
    };
    let mut project = TestProject::new(&counts("1h"), &[("rows.parquet", &rows())]).await;
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:count_1h").await, Ok(vec![Some(1), Some(1)]));
    forget_everything(&project);
    // The tiles are the same ones.
    project.apply(&counts("65m")).await;
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:count_65m").await, Ok(vec![Some(1), Some(1)]));
}

/// What compaction does with entries that are out of sight of every window.
fn forget_everything(project: &TestProject) {
    let store = &project.online_store;
    for id in store.views().unwrap() {
        let entries = store.scan_after(id, None, usize::MAX).unwrap();
        let position = store.position(id).unwrap().unwrap();
        let mut writer = store.bulk_writer(id).unwrap();
        entries.iter().for_each(|(key, _)| writer.delete(key).unwrap());
        writer.finish(position).unwrap();
    }
}

#[tokio::test]
async fn a_feature_of_another_type_starts_the_view_anew() {
    let mut project = TestProject::new(
        &definitions(&view("v", "{name: a, type: int64}, {name: c, type: string}")),
        &[("rows.parquet", &rows())],
    )
    .await;
    project.materialize(None, None).await;
    let changed = view("v", "{name: a, type: float64}, {name: b, type: int64}");
    let sql = changed.replace(
        "source: rows",
        "sources: [rows], sql: \"SELECT key, happened AS event_timestamp, CAST(a AS DOUBLE) AS a, b FROM rows\"",
    );
    project.apply(&definitions(&sql)).await;
    assert_eq!(answer(&project, "v:b").await, Err(ErrorKind::Precondition), "nothing of the old rows shows");
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:b").await, Ok(vec![Some(30), Some(40)]));
}

#[tokio::test]
async fn a_view_that_is_removed_and_made_again_starts_empty() {
    let (v, w) = (view("v", "{name: a, type: int64}"), view("w", "{name: b, type: int64}"));
    let mut project = TestProject::new(&definitions(&format!("{v}{w}")), &[("rows.parquet", &rows())]).await;
    project.materialize(None, None).await;
    assert_eq!(project.online_store.views().unwrap().len(), 2);
    project.apply(&definitions(&w)).await;
    assert_eq!(project.online_store.views().unwrap().len(), 1, "the values of the removed view are gone");
    assert_eq!(answer(&project, "w:b").await, Ok(vec![Some(30), Some(40)]), "and those of its neighbour stay");
    project.apply(&definitions(&format!("{v}{w}"))).await;
    assert_eq!(answer(&project, "v:a").await, Err(ErrorKind::Precondition));
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:a").await, Ok(vec![Some(10), Some(20)]));
}

#[tokio::test]
async fn a_table_that_is_made_anew_at_the_same_place_is_another_one() {
    let project =
        TestProject::new(&definitions(&view("v", "{name: a, type: int64}")), &[("rows.parquet", &rows())]).await;
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:a").await, Ok(vec![Some(10), Some(20)]));
    std::fs::remove_dir_all(project.path("offline/views/v")).unwrap();
    let changed: ArrayRef = Arc::new(Int64Array::from(vec![11, 21]));
    let mut columns = rows().columns().to_vec();
    columns[2] = changed;
    write_parquet(&project.path("rows.parquet"), &RecordBatch::try_new(rows().schema(), columns).unwrap());
    // Its versions have the same numbers.
    project.materialize(None, None).await;
    assert_eq!(answer(&project, "v:a").await, Ok(vec![Some(11), Some(21)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_spine_comes_back_in_its_order() {
    let project =
        TestProject::new(&definitions(&view("v", "{name: a, type: int64}")), &[("rows.parquet", &rows())]).await;
    project.materialize(None, None).await;
    // So large that plans would like to cut it up.
    let count = 600_000_i64;
    let times = TimestampMicrosecondArray::from_iter_values((0..count).map(|_| 100)).with_timezone("UTC");
    let spine = RecordBatch::try_from_iter([
        ("number", Arc::new(Int64Array::from_iter_values(0..count)) as ArrayRef),
        ("key", Arc::new(Int64Array::from_iter_values((0..count).map(|n| n % 3))) as ArrayRef),
        ("event_timestamp", Arc::new(times) as ArrayRef),
    ])
    .unwrap();
    for from_source in [false, true] {
        let request = BatchRequest {
            selection: FeatureSelection::References(vec!["v:a".to_owned()]),
            full_feature_names: false,
            with_statuses: false,
            as_known: false,
            from_source,
            table_versions: Vec::new(),
            times: AskedTimes::Spine { schema: spine.schema(), rows: vec![spine.clone()], timestamp_column: None },
        };
        let answer = project.batch().get(&project.catalog, &request).await.unwrap().collect().await.unwrap();
        assert_eq!(answer.column(0), spine.column(0));
        let expected: Int64Array = (0..count).map(|n| [None, Some(10), Some(20)][(n % 3) as usize]).collect();
        assert_eq!(answer.column(3).as_primitive::<Int64Type>(), &expected);
    }
}
