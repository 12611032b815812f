//! Backups, restores and replicas of a store that is served.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::streams::{DEFINITIONS, event, project};
use crate::support::{run, run_json};

const NOW: &str = "2024-05-01T00:02:00Z";

fn push(server: &TestServer, numbers: std::ops::Range<i64>) {
    let rows: Vec<Value> = numbers.map(event).collect();
    let body = json!({"source": "taps", "acknowledge": "visible", "rows": rows});
    let (status, answer) = server.http("POST", "/v1/push", &body.to_string());
    assert_eq!(status, 200, "{answer}");
}

/// Every feature of every key.
fn answers(server: &TestServer) -> Value {
    let (status, mut answer) = server
        .post(&json!({"features": ["newest", "stats"], "entities": {"key": [0, 1, 2, 3, 4, 5, 6, 7]}, "now": NOW}));
    assert_eq!(status, 200, "{answer}");
    answer["columns"].take()
}

/// Writes a copy of a snapshot with one bit of a value changed.
fn copy_damaged(snapshot: &Path, copy: &Path) {
    std::fs::create_dir_all(copy.join("db")).unwrap();
    std::fs::copy(snapshot.join("snapshot.json"), copy.join("snapshot.json")).unwrap();
    let files = std::fs::read_dir(snapshot.join("db")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.collect();
    for file in &files {
        std::fs::copy(file, copy.join("db").join(file.file_name().unwrap())).unwrap();
    }
    let is_values = |file: &&std::path::PathBuf| file.extension().is_some_and(|extension| extension == "sst");
    let largest = files.iter().filter(is_values).max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let largest = copy.join("db").join(largest.file_name().unwrap());
    let mut bytes = std::fs::read(&largest).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
}

#[test]
fn a_restored_store_answers_as_the_lost_one_did() {
    let folder = project(DEFINITIONS);
    let folder = folder.path();
    let server = TestServer::start(folder, &["--allow-request-time"]);
    push(&server, 0..60);
    let snapshot = folder.join("snapshot").display().to_string();
    let made = run_json(folder, &["backup", &snapshot]);
    assert!(made["files"].as_u64().unwrap() > 0, "{made}");
    let (status, _, stderr) = run(folder, &["backup", &snapshot]);
    assert_eq!(status, 2);
    assert!(stderr.contains("holds something already"), "{stderr}");
    // What comes after the snapshot is in the tables, or in the log.
    push(&server, 60..100);
    let expected = answers(&server);
    let (status, _, stderr) = run(folder, &["restore", &snapshot]);
    assert_ne!(status, 0);
    assert!(stderr.contains("in use"), "{stderr}");
    drop(server);

    let (status, _, stderr) = run(folder, &["restore", &snapshot]);
    assert_ne!(status, 0);
    assert!(stderr.contains("--replace"), "{stderr}");
    // A snapshot that is damaged takes nobody's place.
    let damaged = folder.join("damaged");
    copy_damaged(Path::new(&snapshot), &damaged);
    let (status, _, stderr) = run(folder, &["restore", &damaged.display().to_string(), "--replace"]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("damaged"), "{stderr}");
    assert!(!folder.join("state/online.before-restore").exists());
    run_json(folder, &["restore", &snapshot, "--replace"]);
    assert!(folder.join("state/online.before-restore").exists());
    let server = TestServer::start(folder, &["--allow-request-time"]);
    assert_eq!(answers(&server), expected);
    // Events that came after the snapshot are known by their ids.
    push(&server, 50..100);
    assert_eq!(answers(&server), expected);
    // It goes on from there.
    push(&server, 100..120);
    let newer = answers(&server);
    assert_ne!(newer, expected);
    drop(server);
    let replica = TestServer::start(folder, &["--allow-request-time", "--replica"]);
    assert_eq!(answers(&replica), newer);
    let (status, refused) =
        replica.http("POST", "/v1/push", &json!({"source": "taps", "rows": [event(1)]}).to_string());
    assert_eq!(status, 412, "{refused}");
    assert!(refused.contains("replica"), "{refused}");
    drop(replica);

    // Nothing is left behind on the way, and what is no snapshot changes nothing.
    let left = std::fs::read_dir(folder.join("state")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.contains("checkpoint") || name.contains("restoring")), "{left:?}");
    std::fs::remove_dir_all(folder.join("state/online.before-restore")).unwrap();
    let (status, _, stderr) = run(folder, &["restore", "nowhere", "--replace"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("no snapshot"), "{stderr}");
    assert!(folder.join("state/online").exists());
}
