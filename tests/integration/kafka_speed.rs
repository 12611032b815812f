//! How fast a topic is read, and what it costs: `benches/run kafka`.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::server::TestServer;
use crate::streams::project;

/// Many, since the broker in this process keeps no more than a few megabytes of each.
const PARTITIONS: i32 = 32;
const STORES: i64 = 10_000;
/// 2024-05-01T00:00:00Z
const START_MILLIS: i64 = 1_714_521_600_000;

const WINDOWS: &str = "
  - name: sales
    entities: [store]
    source: orders
    aggregations:
      - {function: count, windows: [1h, 1d, 7d]}
      - {input: amount, function: sum, windows: [1h, 1d, 7d]}
      - {input: amount, function: max, windows: [1h, 1d, 7d]}
";
const ROWS: &str = "
  - {name: newest, entities: [store], source: orders, features: [{name: amount, type: float64}]}
";

fn definitions(brokers: &str, views: &str) -> String {
    format!(
        "
entities:
  - {{name: store, join_keys: [{{name: store, type: int64}}]}}
sources:
  - name: orders
    schema: [{{name: order, type: int64}}, {{name: store, type: int64}}, {{name: at, type: timestamp}}, {{name: amount, type: float64}}]
    event_timestamp: at
    stream: {{type: kafka, brokers: \"{brokers}\", topic: orders, format: json}}
feature_views:{views}"
    )
}

/// Two thousand events for each second of event time, up to a minute out of order.
fn produce(brokers: &str, events: i64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "20").set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "2000000").set("queue.buffering.max.kbytes", "2000000");
    let producer: BaseProducer = config.create().unwrap();
    for number in 0..events {
        // A multiplication scatters well enough.
        let chance = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)) as u64 >> 20;
        let at = START_MILLIS + number / 2 - (chance % 60_000) as i64;
        let at =
            chrono::DateTime::from_timestamp_millis(at).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (store, cents) = (chance as i64 % STORES, chance % 10_000);
        let value = format!(
            "{{\"order\": {number}, \"store\": {store}, \"at\": \"{at}\", \"amount\": {}.{:02}}}",
            cents / 100,
            cents % 100
        );
        let record =
            BaseRecord::<(), str>::to("orders").payload(&value).partition((number % i64::from(PARTITIONS)) as i32);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// How many events are visible online.
fn applied(server: &TestServer) -> i64 {
    let (_, metrics) = server.http("GET", "/metrics", "");
    let line = metrics.lines().find(|line| line.starts_with("asof_stream_applied_rows_total"));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
#[ignore = "a measurement: benches/run kafka"]
fn events_a_second_from_json() {
    let events: i64 = std::env::var("ASOF_KAFKA_EVENTS").map_or(1_000_000, |text| text.parse().unwrap());
    let cluster: MockCluster<'static, _> = MockCluster::new(1).unwrap();
    println!("\nA topic of {PARTITIONS} partitions, JSON, {events} events, {STORES} keys\n");
    println!("| view | events/s | events per CPU second of the server | RSS MB |\n| --- | --- | --- | --- |");
    cluster.create_topic("orders", PARTITIONS, 1).unwrap();
    produce(&cluster.bootstrap_servers(), events);
    for (name, views) in [("windows", WINDOWS), ("rows", ROWS)] {
        let folder = project(&definitions(&cluster.bootstrap_servers(), views));
        let began = Instant::now();
        let server = TestServer::start(folder.path(), &[]);
        while applied(&server) < events {
            assert!(began.elapsed() < Duration::from_secs(600), "{} of {events}", applied(&server));
            std::thread::sleep(Duration::from_millis(20));
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), server.cpu_seconds());
        assert_eq!(applied(&server), events);
        let (rate, by_cpu) = (events as f64 / seconds, events as f64 / cpu);
        println!("| {name} | {rate:.0} | {by_cpu:.0} | {:.0} |", server.resident_mib());
    }
}
