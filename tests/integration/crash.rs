//! A materialization killed at any moment, or run twice at once, and then run to its end, leaves what an
//! undisturbed one leaves.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{asof, flights_project, run, run_json};

/// Everything that both stores answer: the tables' rows, and the online values of every airport and route.
fn answers(folder: &Path) -> Vec<String> {
    let mut answers = Vec::new();
    for view in VIEWS {
        let out = folder.join("answer.ndjson");
        let times: &[&str] = match view {
            "plane_profile" | "origin_delay" => &["--as-of", "2013-09-01"],
            _ => &["--start", "2013-01-01", "--end", "2014-02-01"],
        };
        let arguments = [&["get-batch-features", "--features", view, "--out", out.to_str().unwrap()], times].concat();
        run_json(folder, &arguments);
        answers.push(std::fs::read_to_string(out).unwrap());
    }
    let entities = ["EWR", "JFK", "LGA"].map(|origin| format!("origin={origin},dest=BOS,carrier=B6,tailnum=N10156"));
    let features = VIEWS.join(",");
    let mut arguments = vec!["get-online-features", "--features", &features];
    for entity in &entities {
        arguments.extend(["--entity", entity]);
    }
    arguments.push("--timestamps");
    for now in ["2013-03-01", "2013-09-01", "2014-02-01"] {
        let document: Value = run_json(folder, &[arguments.as_slice(), &["--now", now]].concat());
        answers.push(document["columns"].to_string());
    }
    answers
}

fn applied_project() -> tempfile::TempDir {
    let folder = flights_project();
    run_json(folder.path(), &["apply", "--yes"]);
    folder
}

/// Of every kind one: rows, queries, static rows, windows.
const VIEWS: [&str; 4] = ["origin_weather", "route_day", "plane_profile", "origin_delay"];
const MATERIALIZE: [&str; 7] =
    ["materialize", "origin_weather", "route_day", "plane_profile", "origin_delay", "--end", "2014-02-01"];

#[test]
fn a_killed_materialization_is_repaired_by_the_next_one() {
    let undisturbed = applied_project();
    let started = std::time::Instant::now();
    run_json(undisturbed.path(), &MATERIALIZE);
    let whole = started.elapsed();
    let expected = answers(undisturbed.path());

    let killed = applied_project();
    let rounds: u32 = std::env::var("ASOF_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    for round in 0..rounds {
        let mut child =
            asof(killed.path()).args(MATERIALIZE).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Moments spread over the whole run, another set of them each round.
        let moment = whole.mul_f64(f64::from(round * 37 % 100) / 100.0) + Duration::from_millis(u64::from(round * 7));
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run_json(killed.path(), &MATERIALIZE);
    assert_eq!(answers(killed.path()), expected);
}

#[test]
fn two_materializations_at_once_leave_what_one_leaves() {
    let alone = applied_project();
    run_json(alone.path(), &MATERIALIZE);
    let expected = answers(alone.path());

    let both = applied_project();
    let start = || asof(both.path()).args(MATERIALIZE).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let children = [start(), start()];
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(answers(both.path()), expected);
}

#[test]
fn a_run_after_the_first_does_only_what_is_left() {
    let project = applied_project();
    run_json(project.path(), &MATERIALIZE);
    let again = run_json(project.path(), &MATERIALIZE);
    let uploaded: Vec<&Value> = again["views"].as_array().unwrap().iter().map(|view| &view["rows_uploaded"]).collect();
    assert!(uploaded.iter().all(|rows| **rows == 0), "{again:#}");
    let (status, _, stderr) = run(project.path(), &["materialize", "--start", "2013-02-01", "--end", "2013-01-01"]);
    assert_eq!(status, 2, "{stderr}");
}
