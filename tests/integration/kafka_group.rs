//! Workers of one consumer group, killed and started at will, and brokers that come and go: the event table holds each
//! message once.

use std::path::Path;
use std::time::{Duration, Instant};

use asof::definition::SourceName;
use asof::offline_store::{EventKind, OfflineStore};
use datafusion::prelude::SessionContext;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::BaseProducer;
use serde_json::json;

use crate::kafka::{PARTITIONS, TOPIC, produce};
use crate::server::TestServer;
use crate::streams::{DEFINITIONS, answers, event, project, same};
use crate::support::run_json;

/// Events have no ids here: nothing but their places in the topic tells one from its repeat.
fn definitions(brokers: &str) -> String {
    let settings = "{session.timeout.ms: \"1500\", heartbeat.interval.ms: \"200\", reconnect.backoff.max.ms: \"500\"}";
    let stream = format!(
        "{{type: kafka, brokers: \"{brokers}\", topic: {TOPIC}, format: json, group: workers, settings: {settings}}}"
    );
    DEFINITIONS.replace("{type: push}", &stream).replace("    event_id: id\n", "")
}

/// A project folder of its own online store, which shares registry and tables with `first`.
fn worker(first: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let state = first.join("state");
    let settings = format!(
        "project: streams\nregistry: {}\noffline_store: {}\n",
        state.join("registry").display(),
        state.join("offline").display()
    );
    std::fs::write(folder.path().join("asof.yaml"), settings).unwrap();
    folder
}

/// Rows of the event table, and how many different ones.
async fn stored(folder: &Path) -> (usize, usize) {
    let store = OfflineStore::open(folder.join("state/offline").to_str().unwrap()).unwrap();
    let Some(table) = store.event_table(EventKind::Accepted, &SourceName::new("taps")).await.unwrap() else {
        return (0, 0);
    };
    let context = SessionContext::new();
    let rows = context.read_table(table.provider(&context).await.unwrap()).unwrap();
    let rows = rows.select_columns(&["id"]).unwrap();
    (rows.clone().count().await.unwrap(), rows.distinct().unwrap().count().await.unwrap())
}

#[tokio::test]
async fn whoever_of_a_group_reads_a_message_it_is_stored_once() {
    let rounds: i64 = std::env::var("ASOF_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let cluster: MockCluster<'static, _> = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let first = project(&definitions(&cluster.bootstrap_servers()));
    let second = worker(first.path());
    let folders = [first.path(), second.path()];
    let mut workers: [Option<TestServer>; 2] = [None, None];
    let mut next = 0;
    for round in 0..rounds {
        // Whoever runs is killed, is told to write its tables first, or goes on; so events stay behind in its log.
        let (changed, kept) = ((round % 2) as usize, ((round + 1) % 2) as usize);
        if workers[changed].is_some() && round % 3 == 0 {
            let _ = crate::support::run(folders[changed], &["status"]);
        }
        workers[changed] = None;
        for place in [changed, kept] {
            if workers[place].is_none() && (place == kept || round % 4 != 3) {
                workers[place] = TestServer::try_start(folders[place], &["--allow-request-time"], &[]);
            }
        }
        if round % 2 == 1 {
            cluster.broker_down(1).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            cluster.broker_up(1).unwrap();
        }
        // A new one: those of before may wait long until they look for a broker again.
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        produce(&producer, next..next + 100);
        next += 100;
        std::thread::sleep(Duration::from_millis(400 + (round as u64 * 613) % 1500));
    }
    for place in 0..2 {
        if workers[place].is_none() {
            workers[place] = Some(TestServer::start(folders[place], &["--allow-request-time"]));
        }
    }
    let events = next as usize;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        folders.iter().for_each(|folder| drop(run_json(folder, &["status"])));
        let found = stored(first.path()).await;
        assert!(found.0 == found.1 && found.0 <= events && Instant::now() < deadline, "{found:?} of {events}");
        if found == (events, events) {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }

    let pushed = project(DEFINITIONS);
    let server = TestServer::start(pushed.path(), &[]);
    let body = json!({"source": "taps", "rows": (0..next).map(event).collect::<Vec<_>>()});
    assert_eq!(server.http("POST", "/v1/push", &body.to_string()).0, 200);
    drop(server);
    let expected = answers(pushed.path());
    // Each worker answers online from what it read itself, until it is built anew from what all of them stored.
    run_json(second.path(), &["rebuild-online"]);
    let (batch, online) = answers(second.path());
    same(&batch, &expected.0);
    same(&online, &expected.1);
    assert_eq!(stored(first.path()).await, (events, events));
}

#[test]
fn a_topic_that_cannot_be_opened_is_tried_again() {
    const SCHEMA: &str = r#"{"type": "record", "name": "Tap", "fields": [{"name": "id", "type": "string"},
        {"name": "key", "type": "long"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;
    let cluster: MockCluster<'static, _> = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let topic = format!("type: kafka, brokers: \"{brokers}\", topic: {TOPIC}");
    let read = project(DEFINITIONS);
    let folder = read.path();
    std::fs::write(folder.join("tap.avsc"), SCHEMA).unwrap();
    let stream = format!("{{{topic}, format: avro, schema_file: tap.avsc}}");
    std::fs::write(folder.join("feature_defs/taps.yaml"), DEFINITIONS.replace("{type: push}", &stream)).unwrap();
    run_json(folder, &["apply", "--yes"]);
    std::fs::remove_file(folder.join("tap.avsc")).unwrap();
    // Neither the schema is there when the server starts, nor the broker.
    cluster.broker_down(1).unwrap();
    let server = TestServer::start(folder, &[]);
    assert_eq!(server.http("GET", "/health", "").0, 200);
    std::fs::write(folder.join("tap.avsc"), SCHEMA).unwrap();
    cluster.broker_up(1).unwrap();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    // id "x", key 1, at 1 s.
    let value: [u8; 5] = [0x02, b'x', 0x02, 0xD0, 0x0F];
    let record = rdkafka::producer::BaseRecord::<(), [u8]>::to(TOPIC).payload(&value[..]).partition(0);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    rdkafka::producer::Producer::flush(&producer, Duration::from_secs(10)).unwrap();
    crate::kafka::wait_for(folder, 1);
}
