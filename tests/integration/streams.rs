//! Pushed events: the same state whatever their order and whatever is killed when, online as in batch.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{asof, run, run_json};

pub const DEFINITIONS: &str = r#"
entities:
  - {name: key, join_keys: [{name: key, type: int64}]}
sources:
  - name: taps
    schema: [{name: id, type: string}, {name: key, type: int64}, {name: at, type: timestamp}, {name: n, type: int64}, {name: x, type: float64}]
    event_timestamp: at
    event_id: id
    rename: {theirs: x}
    stream: {type: push}
feature_views:
  - {name: newest, entities: [key], source: taps, features: [{name: n, type: int64}, {name: id, type: string}]}
  - name: stats
    entities: [key]
    source: taps
    where: "n >= 0"
    aggregations:
      - {function: count, windows: [1m, 1h, lifetime]}
      - {input: n, function: sum, windows: [10m, lifetime]}
      - {input: "x * 2", function: mean, windows: [1h], name: doubled}
      - {input: id, function: last, n: 3, windows: [1h]}
"#;

pub fn project(definitions: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("feature_defs")).unwrap();
    std::fs::write(folder.path().join("asof.yaml"), "project: streams\n").unwrap();
    std::fs::write(folder.path().join("feature_defs/taps.yaml"), definitions).unwrap();
    run_json(folder.path(), &["apply", "--yes"]);
    folder
}

const KEYS: i64 = 7;
/// 2024-05-01T00:00:00Z
const START: i64 = 1_714_521_600;

/// The event of a number: keys in turn, times out of order, one a second.
pub fn event(number: i64) -> Value {
    let second = START + number / 10 * 10 + (number * 7) % 10;
    let at = chrono::DateTime::from_timestamp(second, 0).unwrap().to_rfc3339();
    json!({"id": format!("event{number:06}"), "key": number % KEYS, "at": at, "n": number % 100 - 5, "theirs": number as f64 / 8.0})
}

fn push(server: &TestServer, numbers: std::ops::Range<i64>) -> Result<Value, String> {
    let body = json!({"source": "taps", "acknowledge": "visible", "rows": numbers.map(event).collect::<Vec<_>>()});
    match server.try_http("POST", "/v1/push", &body.to_string()) {
        Some((200, answer)) => Ok(serde_json::from_str(&answer).unwrap()),
        Some((status, answer)) => Err(format!("{status}: {answer}")),
        None => Err("the server is gone".to_owned()),
    }
}

/// What both stores answer for every key, at some instants.
pub fn answers(folder: &Path) -> (Vec<String>, Vec<String>) {
    let mut batch = Vec::new();
    let mut online = Vec::new();
    for (position, minutes) in [3, 20, 400].into_iter().enumerate() {
        let now = chrono::DateTime::from_timestamp(START + minutes * 60, 0).unwrap().to_rfc3339();
        let mut spine = "key,event_timestamp\n".to_owned();
        (0..KEYS + 1).for_each(|key| spine.push_str(&format!("{key},{now}\n")));
        std::fs::write(folder.join("spine.csv"), spine).unwrap();
        let out = format!("out{position}.ndjson");
        let asked = ["--features", "newest,stats", "--full-feature-names"];
        run_json(folder, &[&["get-batch-features", "--entities", "spine.csv", "--out", &out][..], &asked].concat());
        for line in std::fs::read_to_string(folder.join(&out)).unwrap().lines() {
            let mut row: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
            row.remove("event_timestamp");
            row.remove("key");
            batch.push(format!("{row:?}"));
        }
        let entities: Vec<String> = (0..KEYS + 1).map(|key| format!("key={key}")).collect();
        let mut arguments = [&["get-online-features", "--now", &now][..], &asked].concat();
        entities.iter().for_each(|entity| arguments.extend(["--entity", entity]));
        let answer = run_json(folder, &arguments);
        for row in 0..(KEYS + 1) as usize {
            let columns = answer["columns"].as_array().unwrap().iter().filter(|column| column["name"] != "key");
            let values =
                columns.map(|column| (column["name"].as_str().unwrap().to_owned(), column["values"][row].clone()));
            online.push(format!("{:?}", values.collect::<BTreeMap<String, Value>>()));
        }
    }
    (batch, online)
}

/// Tells the first row that differs.
pub fn same(left: &[String], right: &[String]) {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).for_each(|(left, right)| assert_eq!(left, right));
}

#[test]
fn pushed_events_are_seen_online_and_in_batch() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let server = TestServer::start(folder, &["--allow-request-time"]);
    let answer = push(&server, 0..500).unwrap();
    assert_eq!(answer["accepted"], 500, "{answer}");
    let (batch, online) = answers(folder);
    same(&batch, &online);
    assert!(batch.iter().any(|row| row.contains("\"stats__count_lifetime\": Number(68)")), "{batch:#?}");

    // Once more: everything is known.
    let answer = push(&server, 400..600).unwrap();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(100), &json!(100)), "{answer}");
    let bad = json!({"source": "taps", "rows": [
        {"id": "a", "key": 1, "at": "2024-05-01", "n": 1},
        {"id": "b", "key": "one", "at": "2024-05-01", "n": 1},
        {"id": "c", "key": 1, "n": 1},
        {"id": "d", "kye": 1, "at": "2024-05-01", "n": 1},
        {"key": 1, "at": "2024-05-01", "n": 1},
    ]});
    let (status, answer) = server.http("POST", "/v1/push", &bad.to_string());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["accepted"], &answer["dead_letters"]), (200, &json!(1), &json!(4)), "{answer:#}");
    let reasons: Vec<&str> =
        answer["problems"].as_array().unwrap().iter().map(|p| p["reason"].as_str().unwrap()).collect();
    assert!(reasons[0].contains("`key`") && reasons[0].contains("\"one\""), "{reasons:?}");
    assert!(reasons[1].contains("`at` is null"), "{reasons:?}");
    assert!(reasons[2].contains("did you mean `key`?"), "{reasons:?}");
    assert!(reasons[3].contains("`id` is null"), "{reasons:?}");
    for (body, code, message) in [
        (json!({"source": "tabs", "rows": []}), 404, "did you mean `taps`?"),
        (json!({"rows": []}), 400, "no source"),
        (json!({"source": "taps", "rows": {}}), 400, "no push"),
        (json!({"source": "x", "rows": []}), 404, "there is only `taps`"),
        (json!({"source": "taps", "rows": [], "acknowledge": "soon"}), 400, "visible"),
    ] {
        let (status, answer) = server.http("POST", "/v1/push", &body.to_string());
        assert!(status == code && answer.contains(message), "{body}: {status} {answer}");
    }
    let status = run_json(folder, &["status"]);
    let stream = &status["streams"][0];
    assert_eq!((&stream["accepted"], &stream["dead_letters"]), (&json!(601), &json!(4)), "{status:#}");
    assert_eq!(stream["offline_lag_records"], 0);
    drop(server);

    // Without a server, too: the command has the stores.
    std::fs::write(
        folder.join("more.csv"),
        "id,key,at,n,theirs\nevent000001,1,2024-05-01,1,1.5\nnew,3,2024-05-01T00:01:30,42,0.25\n",
    )
    .unwrap();
    let answer = run_json(folder, &["push", "taps", "more.csv"]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)), "{answer}");
    let (batch, online) = answers(folder);
    same(&batch, &online);
    // What is wrong with a row of a file is wrong with no other, as over HTTP; a float64 takes whole numbers there, too.
    std::fs::write(folder.join("bad.csv"), "id,key,at,n,theirs\nx,one,2024-05-01,1,1.5\ny,2,2024-05-01,1,2\n").unwrap();
    let line = |id: &str, theirs: &str| {
        format!("{{\"id\": \"{id}\", \"key\": 2, \"at\": \"2024-05-01\", \"theirs\": {theirs}}}\n")
    };
    std::fs::write(folder.join("bad.ndjson"), [line("z", "3"), line("v", "1e400"), "[1]\n".to_owned()].concat())
        .unwrap();
    for (file, dead_letters, row, reason) in [("bad.csv", 1, 0, "\"one\""), ("bad.ndjson", 2, 1, "out of range")] {
        let answer = run_json(folder, &["push", "taps", file]);
        assert_eq!((&answer["accepted"], &answer["dead_letters"]), (&json!(1), &json!(dead_letters)), "{answer:#}");
        assert_eq!(answer["problems"][0]["row"], row);
        assert!(answer["problems"][0]["reason"].as_str().unwrap().contains(reason), "{answer:#}");
    }
    let (batch, online) = answers(folder);
    same(&batch, &online);
    let said = run_json(folder, &["materialize"]);
    assert_eq!(said["views"], json!([]));
}

/// Pushes all events to one server after the other, each killed: by its fail point, or by us after a while.
fn push_through_kills(folder: &Path, events: i64, kills: &[Kill]) {
    let mut kills = kills.iter();
    let mut next = 0;
    while next < events {
        let kill = kills.next();
        let mut server = match kill {
            Some(Kill::At(point)) => TestServer::try_start(folder, &[], &[("ASOF_FAIL_POINT", point)]),
            _ => TestServer::try_start(folder, &[], &[]),
        };
        let Some(server) = &mut server else { continue };
        let started = Instant::now();
        while next < events {
            // What was not acknowledged is sent again; its ids tell what was taken all the same.
            match push(server, next..(next + 40).min(events)) {
                Ok(_) => next = (next + 40).min(events),
                Err(error) => {
                    assert!(kill.is_some(), "{error}");
                    break;
                }
            }
            if next % 120 == 0 {
                // It makes the server write its tables; where that kills it, the push after it tells.
                let _ = run(folder, &["status"]);
            }
            if let Some(Kill::After(wait)) = kill
                && started.elapsed() > *wait
            {
                server.kill();
                break;
            }
        }
    }
}

enum Kill {
    At(String),
    After(Duration),
}

#[test]
fn whatever_is_killed_when_nothing_is_lost_and_nothing_counted_twice() {
    let undisturbed = project(DEFINITIONS);
    push_through_kills(undisturbed.path(), 1200, &[]);
    let expected = answers(undisturbed.path());
    same(&expected.0, &expected.1);

    let killed = project(DEFINITIONS);
    let points = [
        "log.written",
        "log.synced",
        "online.prepared",
        "online.written",
        "archive.begun",
        "archive.committed",
        "side.built",
    ];
    let rounds: u64 = std::env::var("ASOF_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let at = |round: u64| points.iter().map(move |point| Kill::At(format!("{point}:{}", round % 5 + 1)));
    let after =
        |round: u64| (0..2).map(move |kill| Kill::After(Duration::from_millis((round * 131 + kill * 57) % 400)));
    let kills: Vec<Kill> = (0..rounds).flat_map(|round| at(round).chain(after(round))).collect();
    push_through_kills(killed.path(), 1200.max(rounds as i64 * 1200), &kills);
    if rounds == 1 {
        same(&answers(killed.path()).0, &expected.0);
    }
    let (batch, online) = answers(killed.path());
    same(&batch, &online);
    let status = run_json(killed.path(), &["status"]);
    assert_eq!(status["streams"][0]["accepted"], 1200.max(rounds as i64 * 1200));

    // A store that is gone is made anew from the tables, ids and all.
    let folder = killed.path();
    std::fs::remove_dir_all(folder.join("state/online")).unwrap();
    let server = TestServer::start(folder, &[]);
    let again = push(&server, 0..1200).unwrap();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(1200)));
    drop(server);
    let again = answers(folder);
    same(&again.0, &batch);
    same(&again.1, &batch);
}

#[test]
fn definitions_that_change_are_fed_from_what_is_archived() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let server = TestServer::start(folder, &["--allow-request-time"]);
    push(&server, 0..300).unwrap();
    let changed = DEFINITIONS.replace("where: \"n >= 0\"", "where: \"n >= 50\"").replace(
        "  - name: stats",
        "  - {name: oldest, entities: [key], source: taps, features: [{name: x, type: float64}]}\n  - name: stats",
    );
    std::fs::write(folder.join("feature_defs/taps.yaml"), changed).unwrap();
    run_json(folder, &["apply", "--yes"]);
    push(&server, 300..600).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (batch, online) = answers(folder);
        if batch == online {
            break;
        }
        if Instant::now() > deadline {
            same(&batch, &online);
        }
    }
    let x = run_json(folder, &["get-online-features", "--features", "oldest:x", "--entity", "key=1"]);
    assert_eq!(x["columns"][1]["statuses"][0], "PRESENT", "{x:#}");
    run_json(folder, &["rebuild-online"]);
    let (batch, online) = answers(folder);
    same(&batch, &online);
}

/// The process of a server that may end by itself.
pub fn spawn_server(folder: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Child {
    let arguments = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"];
    let mut command = asof(folder);
    command.args(arguments).args(flags).envs(environment.iter().copied());
    if !environment.is_empty() {
        command.stderr(std::env::var("ASOF_TEST_STDERR").map_or(Stdio::null(), |_| Stdio::inherit()));
    }
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn rows_come_over_grpc_in_every_form() {
    use asof::serving::pb::{self, push_request::Rows};

    let folder = project(DEFINITIONS);
    let server = TestServer::start(folder.path(), &[]);
    let mut client = server.client().await;
    let message = |source: &str, rows: Rows| pb::PushRequest {
        source: source.to_owned(),
        acknowledge: pb::Acknowledge::Visible.into(),
        rows: Some(rows),
    };
    let json = |numbers: std::ops::Range<i64>| {
        Rows::Json(pb::RowMessages { rows: numbers.map(|number| event(number).to_string()).collect() })
    };
    let column = |name: &str, values: pb::column::Values| pb::Column {
        name: name.to_owned(),
        values: Some(values),
        ..pb::Column::default()
    };
    let columns = |ids: [&str; 2]| {
        use pb::column::Values;
        Rows::Columns(pb::PushColumns {
            columns: vec![
                column("id", Values::Strings(pb::StringValues { values: ids.map(str::to_owned).to_vec() })),
                column("key", Values::Int64s(pb::Int64Values { values: vec![1, 2] })),
                pb::Column {
                    r#type: "timestamp".to_owned(),
                    ..column("at", Values::Int64s(pb::Int64Values { values: vec![START * 1_000_000; 2] }))
                },
                column("n", Values::Int64s(pb::Int64Values { values: vec![1, 2] })),
                column("theirs", Values::Doubles(pb::DoubleValues { values: vec![0.5, 1.5] })),
            ],
        })
    };
    let good = vec![message("taps", json(0..10)), message("", columns(["a", "b"])), message("taps", json(5..12))];
    let answer = client.push(tokio_stream::iter(good)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.duplicates), (14, 5));
    let bad_row =
        vec![message("taps", json(20..22)), message("", Rows::Json(pb::RowMessages { rows: vec!["{".to_owned()] }))];
    let answer = client.push(tokio_stream::iter(bad_row)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.dead_letters, answer.problems[0].row), (2, 1, 2));

    let unnamed = || message("", json(0..1));
    let other = vec![message("taps", json(30..31)), message("tabs", json(0..1))];
    let no_stream = vec![message("taps", json(40..43)), message("", Rows::ArrowIpc(vec![1, 2, 3].into()))];
    let cases = [
        (vec![unnamed()], tonic::Code::InvalidArgument, "name the `source`"),
        (vec![], tonic::Code::InvalidArgument, "no rows are pushed"),
        (other, tonic::Code::InvalidArgument, "a call of its own"),
        (no_stream, tonic::Code::InvalidArgument, "the 3 rows of the messages before are taken"),
        (vec![message("tap", json(0..1))], tonic::Code::NotFound, "did you mean `taps`?"),
    ];
    for (messages, code, text) in cases {
        let status = client.push(tokio_stream::iter(messages)).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(text), "{status}");
    }
}
