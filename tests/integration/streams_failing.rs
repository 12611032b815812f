//! Disks that are full and tables that cannot be written: what was acknowledged stays, what was refused is told, and
//! everything goes on when there is room again.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::streams::{DEFINITIONS, answers, event, project, same};
use crate::support::{asof, run, run_json};

/// A server none of whose files may grow beyond so many KiB.
fn start_with_small_files(folder: &Path, kib: u64) -> TestServer {
    let server = asof(folder);
    let limited = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &limited]).arg(server.get_program());
    command.args(["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]);
    let process = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    TestServer::of(process.unwrap()).expect("the server starts")
}

fn push(server: &TestServer, numbers: std::ops::Range<i64>) -> (u16, Value) {
    let body = json!({"source": "taps", "rows": numbers.map(event).collect::<Vec<_>>()});
    let (status, answer) = server.http("POST", "/v1/push", &body.to_string());
    (status, serde_json::from_str(&answer).unwrap())
}

#[test]
fn what_a_full_disk_refuses_is_told_and_what_was_acknowledged_is_there() {
    const EVENTS: i64 = 6_000;
    let pushed = project(DEFINITIONS);
    let server = TestServer::start(pushed.path(), &[]);
    (0..EVENTS).step_by(500).for_each(|first| assert_eq!(push(&server, first..first + 500).0, 200));
    drop(server);
    let expected = answers(pushed.path());

    let full = project(DEFINITIONS);
    let folder = full.path();
    let server = start_with_small_files(folder, 200);
    let mut taken = Vec::new();
    let mut refused = 0;
    for first in (0..EVENTS).step_by(500) {
        let (status, answer) = push(&server, first..first + 500);
        match status {
            200 => taken.push(first),
            503 => refused += 1,
            _ => panic!("{status}: {answer}"),
        }
    }
    assert!(!taken.is_empty() && refused > 0, "{} taken, {refused} refused", taken.len());
    drop(server);

    // Room again: the rest is taken, and nothing of before is lost or there twice.
    let server = TestServer::start(folder, &["--allow-request-time"]);
    assert_eq!(run_json(folder, &["status"])["streams"][0]["accepted"], taken.len() * 500);
    for first in (0..EVENTS).step_by(500) {
        let (status, answer) = push(&server, first..first + 500);
        let known = if taken.contains(&first) { 500 } else { 0 };
        assert_eq!((status, &answer["duplicates"]), (200, &json!(known)), "{answer}");
    }
    let (batch, online) = answers(folder);
    same(&batch, &expected.0);
    same(&online, &expected.1);
}

#[test]
fn tables_that_cannot_be_written_hold_up_nobody_but_those_who_read_them() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let tables = folder.join("state/offline/sources");
    std::fs::create_dir_all(tables.parent().unwrap()).unwrap();
    std::fs::write(&tables, "in the way of the tables").unwrap();
    let ask = ["get-online-features", "--features", "stats:count_lifetime", "--entity", "key=1"];
    let batch = ["get-batch-features", "--features", "stats", "--as-of", "2024-06-01", "--out", "out.csv"];
    for round in 0..2 {
        let server = TestServer::start(folder, &["--allow-request-time"]);
        let (status, answer) = push(&server, round * 70..round * 70 + 70);
        assert_eq!((status, &answer["accepted"]), (200, &json!(70)), "{answer}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while run_json(folder, &ask)["columns"][1]["values"][0] != json!([9, 19][round as usize]) {
            assert!(Instant::now() < deadline, "round {round} is not visible");
        }
        let (status, _, stderr) = run(folder, &batch);
        assert!(status == 1 && stderr.contains("event table of source `taps`"), "{status}: {stderr}");
    }
    let server = TestServer::start(folder, &["--allow-request-time"]);
    std::fs::remove_file(&tables).unwrap();
    run_json(folder, &batch);
    assert_eq!(push(&server, 140..210).0, 200);
    let (batch, online) = answers(folder);
    same(&batch, &online);
    assert_eq!(run_json(folder, &["status"])["streams"][0]["offline_lag_records"], 0);
}
