//! Events of a topic: read once each, whatever is killed when.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::server::TestServer;
use crate::streams::{DEFINITIONS, answers, event, project, same};
use crate::support::run_json;

pub const TOPIC: &str = "taps";
pub const PARTITIONS: i32 = 3;

fn definitions(brokers: &str) -> String {
    let stream = format!("{{type: kafka, brokers: \"{brokers}\", topic: {TOPIC}, format: json}}");
    DEFINITIONS.replace("{type: push}", &stream)
}

pub fn produce(producer: &BaseProducer, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let mut event = event(number);
        event["not_ours"] = json!({"ignored": true});
        let value = event.to_string();
        let record =
            BaseRecord::<(), str>::to(TOPIC).payload(&value).partition((number % i64::from(PARTITIONS)) as i32);
        producer.send(record).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

fn stream_of(server: &TestServer) -> Value {
    let (status, _) = server.http("GET", "/health", "");
    assert_eq!(status, 200);
    let (_, metrics) = server.http("GET", "/metrics", "");
    json!({"metrics": metrics})
}

pub fn wait_for(folder: &std::path::Path, accepted: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = run_json(folder, &["status"]);
        let found = status["streams"][0]["accepted"].as_u64().unwrap();
        if found == accepted && status["streams"][0]["online_lag_records"] == 0 {
            return;
        }
        assert!(found <= accepted && Instant::now() < deadline, "{status:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_topic_is_read_once_through_kills() {
    let cluster: MockCluster<'static, _> = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();

    let pushed = project(DEFINITIONS);
    let server = TestServer::start(pushed.path(), &[]);
    let body = json!({"source": "taps", "rows": (0..900).map(event).collect::<Vec<_>>()});
    assert_eq!(server.http("POST", "/v1/push", &body.to_string()).0, 200);
    drop(server);
    let expected = answers(pushed.path());

    let read = project(&definitions(&brokers));
    let folder = read.path();
    produce(&producer, 0..300);
    let mut next = 300;
    for point in
        ["log.written", "log.synced", "online.prepared", "online.written", "archive.begun", "archive.committed"]
    {
        if let Some(mut server) = TestServer::try_start(folder, &[], &[("ASOF_FAIL_POINT", point)]) {
            produce(&producer, next..next + 50);
            next += 50;
            let deadline = Instant::now() + Duration::from_secs(20);
            while !server.has_ended() && Instant::now() < deadline {
                if point.starts_with("archive") {
                    let _ = crate::support::run(folder, &["status"]);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(server.has_ended(), "{point} is not reached");
        }
    }
    let server = TestServer::start(folder, &["--allow-request-time"]);
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let compressing: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &brokers).set("compression.type", codec).create().unwrap();
        produce(&compressing, next..next + 50);
        next += 50;
    }
    produce(&producer, next..900);
    // Twice the same event is one, and what is none is told.
    produce(&producer, 880..900);
    producer.send(BaseRecord::<(), str>::to(TOPIC).payload("{\"id\": ").partition(0)).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    wait_for(folder, 900);
    let (batch, online) = answers(folder);
    same(&batch, &expected.0);
    same(&online, &expected.1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while run_json(folder, &["status"])["streams"][0]["dead_letters"] != 1 {
        assert!(Instant::now() < deadline);
    }
    let metrics = stream_of(&server);
    assert!(metrics["metrics"].as_str().unwrap().contains("asof_stream_freshness_seconds_bucket"));
    drop(server);

    // A store that is gone reads on from where the tables stand.
    std::fs::remove_dir_all(folder.join("state/online")).unwrap();
    std::fs::remove_dir_all(folder.join("state/online.push")).unwrap();
    let server = TestServer::start(folder, &["--allow-request-time"]);
    produce(&producer, 900..905);
    wait_for(folder, 905);
    drop(server);
}
