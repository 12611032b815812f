//! What is wrong with one event, one view or one source stays with it: others go on, and who asks is told.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use asof::definition::SourceName;
use asof::offline_store::{EventKind, OfflineStore};
use datafusion::prelude::SessionContext;
use serde_json::{Value, json};

use crate::server::TestServer;
use crate::streams::project;
use crate::support::{run, run_json};

const DEFINITIONS: &str = r#"
entities:
  - {name: key, join_keys: [{name: key, type: int64}]}
sources:
  - name: taps
    schema: [{name: id, type: string}, {name: key, type: int64}, {name: at, type: timestamp}, {name: n, type: int64}]
    event_timestamp: at
    event_id: id
    stream: {type: push, allowed_lateness: 1h, max_ahead: 36500d}
  - name: knocks
    schema: [{name: key, type: int64}, {name: at, type: timestamp}]
    event_timestamp: at
    stream: {type: push}
feature_views:
  - name: stats
    entities: [key]
    source: taps
    aggregations: [{function: count, windows: [lifetime]}, {input: n, function: sum, windows: [lifetime]}]
  - name: knocking
    entities: [key]
    source: knocks
    aggregations: [{function: count, windows: [lifetime]}]
"#;

const SHARES: &str = r#"
  - name: shares
    entities: [key]
    source: taps
    aggregations:
      - {function: count, windows: [lifetime], name: events}
      - {input: "100 / n", function: sum, windows: [lifetime], name: share}
"#;

/// Events of key 1: `n` is zero for every fourth.
fn taps(numbers: std::ops::Range<i64>) -> Vec<Value> {
    let event = |number: i64| json!({"id": number.to_string(), "key": 1, "at": second(number), "n": number % 4});
    numbers.map(event).collect()
}

fn second(number: i64) -> String {
    chrono::DateTime::from_timestamp(1_714_521_600 + number, 0).unwrap().to_rfc3339()
}

fn push(server: &TestServer, source: &str, rows: &[Value]) -> (u16, Value) {
    let body = json!({"source": source, "acknowledge": "visible", "rows": rows});
    let (status, answer) = server.http("POST", "/v1/push", &body.to_string());
    (status, serde_json::from_str(&answer).unwrap())
}

/// Value and status of a feature of key 1, online.
fn online(folder: &Path, feature: &str) -> (Value, String) {
    let answer = run_json(folder, &["get-online-features", "--features", feature, "--entity", "key=1"]);
    let column = &answer["columns"][1];
    (column["values"][0].clone(), column["statuses"][0].as_str().unwrap().to_owned())
}

/// The same, as a training set has it.
fn batch(folder: &Path, feature: &str) -> Value {
    std::fs::write(folder.join("spine.csv"), "key,event_timestamp\n1,2024-06-01\n").unwrap();
    run_json(folder, &["get-batch-features", "--features", feature, "--entities", "spine.csv", "--out", "out.ndjson"]);
    let row: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("out.ndjson")).unwrap()).unwrap();
    row[feature.split_once(':').unwrap().1].clone()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn apply(folder: &Path, definitions: &str) {
    std::fs::write(folder.join("feature_defs/taps.yaml"), definitions).unwrap();
    run_json(folder, &["apply", "--yes"]);
}

/// View and reason of each dead letter of `taps`.
fn letters(folder: &Path) -> Vec<(Option<String>, String)> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rows: Vec<RecordBatch> = runtime.block_on(async {
        let store = OfflineStore::open(folder.join("state/offline").to_str().unwrap()).unwrap();
        let table = store.event_table(EventKind::DeadLetters, &SourceName::new("taps")).await.unwrap();
        let Some(table) = table else { return Vec::new() };
        let context = SessionContext::new();
        let rows = context.read_table(table.provider(&context).await.unwrap()).unwrap();
        rows.select_columns(&["view", "reason"]).unwrap().collect().await.unwrap()
    });
    let texts = |batch: &RecordBatch, column: usize| {
        let texts = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8).unwrap();
        let texts = texts.as_string::<i32>();
        (0..texts.len()).map(|row| texts.is_valid(row).then(|| texts.value(row).to_owned())).collect::<Vec<_>>()
    };
    let of_batch = |batch: &RecordBatch| {
        texts(batch, 0).into_iter().zip(texts(batch, 1).into_iter().map(Option::unwrap)).collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_batch).collect()
}

fn stream_status(folder: &Path, source: &str) -> Value {
    let status = run_json(folder, &["status"]);
    status["streams"].as_array().unwrap().iter().find(|stream| stream["source"] == source).unwrap().clone()
}

/// Both stores agree on `shares`, and its dead letters are as many.
fn check_shares(folder: &Path, events: i64, dead: usize) {
    assert_eq!(online(folder, "shares:events_lifetime"), (json!(events), "PRESENT".to_owned()));
    for feature in ["shares:events_lifetime", "shares:share_lifetime", "stats:count_lifetime"] {
        assert_eq!(online(folder, feature).0, batch(folder, feature), "{feature}");
    }
    assert_eq!(stream_status(folder, "taps")["dead_letters"], dead);
    let letters = letters(folder);
    assert_eq!(letters.len(), dead);
    for (view, reason) in letters {
        assert!(view.as_deref() == Some("shares") && reason.contains("`100 / n`"), "{view:?}: {reason}");
        assert!(reason.contains("Divide by zero"), "{reason}");
    }
}

#[test]
fn an_event_that_a_view_cannot_take_is_its_dead_letter_once_and_an_event_of_the_others() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let mut server = TestServer::start(folder, &[]);
    assert_eq!(push(&server, "taps", &taps(0..40)).0, 200);
    run_json(folder, &["status"]);
    assert_eq!(push(&server, "taps", &taps(40..80)).0, 200);
    apply(folder, &format!("{DEFINITIONS}{SHARES}"));
    until("the view is fed", || online(folder, "shares:events_lifetime").0 == 60);
    check_shares(folder, 60, 20);
    // One that comes in is told of at once, and taken all the same.
    let (status, answer) = push(&server, "taps", &taps(80..84));
    assert_eq!((status, &answer["accepted"], &answer["dead_letters"]), (200, &json!(4), &json!(1)), "{answer:#}");
    assert_eq!(answer["problems"][0]["row"], 0);
    assert!(answer["problems"][0]["reason"].as_str().unwrap().contains("`shares`"), "{answer:#}");
    assert_eq!(online(folder, "stats:count_lifetime").0, 84);
    check_shares(folder, 63, 21);

    for round in 0..3 {
        // Before it is archived, and after.
        assert_eq!(push(&server, "taps", &taps(84 + round * 4..88 + round * 4)).0, 200);
        server.kill();
        server = TestServer::start(folder, &[]);
        check_shares(folder, 66 + round * 3, 22 + round as usize);
    }
    let rebuilt = run_json(folder, &["rebuild-online"]);
    let of = |view: &str| rebuilt["views"].as_array().unwrap().iter().find(|found| found["name"] == view).unwrap();
    assert_eq!((&of("shares")["events"], &of("stats")["events"]), (&json!(72), &json!(96)), "{rebuilt:#}");
    check_shares(folder, 72, 24);
    drop(server);
    // A store that is gone, and then its log, too: nothing is told again.
    for gone in [vec!["online"], vec!["online", "online.push"]] {
        gone.iter().for_each(|name| std::fs::remove_dir_all(folder.join("state").join(name)).unwrap());
        let server = TestServer::start(folder, &[]);
        check_shares(folder, 72, 24);
        drop(server);
    }
    // Defined anew it can take them.
    let server = TestServer::start(folder, &[]);
    apply(folder, &format!("{DEFINITIONS}{}", SHARES.replace("100 / n", "100.0 / (n + 1.0)")));
    until("the view is fed anew", || online(folder, "shares:events_lifetime").0 == 96);
    assert_eq!(push(&server, "taps", &taps(96..100)).1["dead_letters"], 0);
    assert_eq!(online(folder, "shares:share_lifetime").0, batch(folder, "shares:share_lifetime"));
    assert_eq!(stream_status(folder, "taps")["dead_letters"], 0);
}

#[test]
fn a_type_that_the_event_table_does_not_have_is_refused_before_it_is_applied() {
    let folder = project(&DEFINITIONS.replace("{name: n, type: int64}", "{name: n, type: int32}"));
    let folder = folder.path();
    let server = TestServer::start(folder, &[]);
    assert_eq!(push(&server, "taps", &taps(0..8)).0, 200);
    std::fs::write(folder.join("feature_defs/taps.yaml"), DEFINITIONS).unwrap();
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let (status, _, stderr) = run(folder, command);
        let place = DEFINITIONS.lines().position(|line| line.contains("{name: n, type: int64}]")).unwrap() + 1;
        assert!(status == 2 && stderr.contains(&format!("taps.yaml:{place}:")), "{command:?}: {status} {stderr}");
        assert!(stderr.contains("event table holds int32") && stderr.contains("`n_2`"), "{stderr}");
    }
    assert_eq!(push(&server, "taps", &taps(8..12)).1["accepted"], 4);
    // A column that is new to the table may have any type.
    let more = DEFINITIONS.replace("{name: n, type: int64}", "{name: n, type: int32}, {name: n_2, type: int64}");
    apply(folder, &more);
    until("the new column is known", || {
        let row = json!({"id": "new", "key": 1, "at": second(20), "n": 1, "n_2": 5_000_000_000_i64});
        push(&server, "taps", &[row]).1["accepted"] == 1
    });
    assert_eq!(online(folder, "stats:count_lifetime").0, batch(folder, "stats:count_lifetime"));
}

#[test]
fn an_event_table_that_is_gone_is_not_made_anew_and_closes_no_other_source() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let (table, away) = (folder.join("state/offline/sources/taps"), folder.join("away"));
    let server = TestServer::start(folder, &[]);
    assert_eq!(push(&server, "taps", &taps(0..8)).0, 200);
    run_json(folder, &["status"]);
    drop(server);
    std::fs::rename(&table, &away).unwrap();

    let server = TestServer::start(folder, &[]);
    let (status, answer) = push(&server, "taps", &taps(8..9));
    let said = answer["error"].as_str().unwrap();
    assert!(status == 503 && said.contains("offline/sources/taps") && said.contains("new-table taps"), "{answer}");
    let knock = json!({"key": 1, "at": second(0)});
    assert_eq!(push(&server, "knocks", &[knock.clone()]).0, 200);
    let (status, ready) = server.http("GET", "/ready", "");
    assert!(status == 200 && ready.contains("taps") && ready.contains("is not at"), "{ready}");
    assert!(stream_status(folder, "taps")["fault"].as_str().unwrap().contains("is not at"));
    assert_eq!(stream_status(folder, "knocks")["fault"], Value::Null);
    // What is known goes on being answered; a view that cannot be fed says so.
    assert_eq!(online(folder, "stats:count_lifetime").0, 8);
    apply(folder, &format!("{DEFINITIONS}{SHARES}"));
    until("the new view is known", || {
        run(folder, &["get-online-features", "--features", "shares:events_lifetime", "--entity", "key=1"]).0 == 0
    });
    assert_eq!(online(folder, "shares:events_lifetime"), (Value::Null, "NOT_FOUND".to_owned()));
    let (status, _, stderr) = run(folder, &["rebuild-online", "stats"]);
    assert!(status == 1 && stderr.contains("is not at"), "{status} {stderr}");
    assert!(!table.exists());

    std::fs::rename(&away, &table).unwrap();
    until("the source is taken again", || push(&server, "taps", &taps(8..12)).0 == 200);
    until("the view is fed", || online(folder, "shares:events_lifetime").0 == 9);
    // While it is being written, too.
    run_json(folder, &["status"]);
    std::fs::rename(&table, &away).unwrap();
    assert_eq!(push(&server, "taps", &taps(12..16)).0, 200);
    until("the fault is seen", || {
        run_json(folder, &["status"]);
        push(&server, "taps", &taps(16..17)).0 == 503
    });
    assert!(!table.exists());
    std::fs::rename(&away, &table).unwrap();
    until("the source is taken again", || push(&server, "taps", &taps(16..20)).0 == 200);
    let taken = online(folder, "stats:count_lifetime").0;
    assert_eq!((&taken, &batch(folder, "stats:count_lifetime")), (&json!(20), &json!(20)));

    // Gone for good: who says so begins anew, and keeps what was not archived.
    std::fs::rename(&table, &away).unwrap();
    assert_eq!(push(&server, "taps", &taps(20..23)).0, 200);
    until("the fault is seen", || {
        run_json(folder, &["status"]);
        push(&server, "taps", &taps(23..24)).0 == 503
    });
    let (status, _, stderr) = run(folder, &["stream", "new-table", "knocks"]);
    assert!(status != 0 && stderr.contains("is there"), "{stderr}");
    run_json(folder, &["stream", "new-table", "taps"]);
    until("the source is taken again", || push(&server, "taps", &taps(23..24)).0 == 200);
    assert_eq!(online(folder, "stats:count_lifetime").0, 4);
    assert_eq!(batch(folder, "stats:count_lifetime"), 4);
    assert_eq!(online(folder, "shares:events_lifetime").0, batch(folder, "shares:events_lifetime"));
}

#[test]
fn a_watermark_is_bounded_by_the_clock_and_can_be_set_back() {
    let bounded = DEFINITIONS.replace(", max_ahead: 36500d", "");
    let folder = project(&bounded);
    let folder = folder.path();
    let mut server = TestServer::start(folder, &[]);
    let at = |id: &str, at: &str| json!({"id": id, "key": 1, "at": at, "n": 1});
    assert_eq!(push(&server, "taps", &[at("now", &second(7200))]).1["accepted"], 1);
    let (_, answer) =
        push(&server, "taps", &[at("far", "2999-01-01T00:00:00Z"), at("late", &second(0)), at("a", &second(3700))]);
    assert_eq!((&answer["accepted"], &answer["dead_letters"], &answer["late"]), (&json!(1), &json!(2), &json!(1)));
    assert!(answer["problems"][0]["reason"].as_str().unwrap().contains("max_ahead"), "{answer:#}");

    // Where it was let in, its watermark is set back.
    apply(folder, &DEFINITIONS.replace("36500d", "36500000d"));
    until("the change is known", || push(&server, "taps", &[at("far", "2999-01-01T00:00:00Z")]).1["accepted"] == 1);
    assert_eq!(push(&server, "taps", &[at("b", &second(7200))]).1["late"], 1);
    let set = run_json(folder, &["stream", "set-watermark", "taps", &second(7200)]);
    assert_eq!(set["before"], "2999-01-01T00:00:00.000000Z");
    assert_eq!(push(&server, "taps", &[at("b", &second(7200)), at("c", &second(3599))]).1["late"], 1);
    let (status, _, stderr) = run(folder, &["stream", "set-watermark", "tap", "2024-01-01"]);
    assert!(status == 2 && stderr.contains("`taps`"), "{stderr}");
    assert_ne!(run(folder, &["stream", "set-watermark", "taps", "yesterday"]).0, 0);
    server.kill();
    // Set again by a command that has the stores, and the counts of rows go on over both ends.
    run_json(folder, &["stream", "set-watermark", "taps", &second(9000)]);
    server = TestServer::start(folder, &[]);
    assert_eq!(stream_status(folder, "taps")["watermark"], "2024-05-01T02:30:00.000000Z");
    let (_, answer) =
        push(&server, "taps", &[at("d", &second(5399)), at("now", &second(7200)), at("e", &second(5400))]);
    assert_eq!((&answer["accepted"], &answer["duplicates"], &answer["late"]), (&json!(1), &json!(1), &json!(1)));
    server.kill();
    let _server = TestServer::start(folder, &[]);
    let status = stream_status(folder, "taps");
    assert_eq!((&status["late"], &status["duplicates"]), (&json!(4), &json!(1)));
    assert_eq!(online(folder, "stats:count_lifetime").0, batch(folder, "stats:count_lifetime"));
}
