//! A server that is asked for more than it can answer, and one that works for callers who are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asof::serving::pb;
use tonic::{Code, Request};

use crate::server::{TestServer, online};
use crate::support::{flights_project, run_json};

fn project(limits: &str) -> tempfile::TempDir {
    let folder = flights_project();
    let settings = format!("project: flights\nserver: {{limits: {{{limits}}}}}\n");
    std::fs::write(folder.path().join("asof.yaml"), settings).unwrap();
    run_json(folder.path(), &["apply", "--yes"]);
    run_json(folder.path(), &["materialize", "origin_weather", "--end", "2014-02-01"]);
    folder
}

fn asked(rows: usize) -> pb::GetOnlineFeaturesRequest {
    online(&["origin_weather"], "origin", &vec!["JFK"; rows])
}

/// Of a flood.
const CONNECTIONS: usize = 60;

/// What callers got who each ask again as soon as they have an answer.
#[derive(Debug, Default)]
struct Got {
    answered: u32,
    refused: u32,
    expired: u32,
    latencies: Vec<Duration>,
    seconds: f64,
}

impl Got {
    fn rate(&self) -> f64 {
        f64::from(self.answered) / self.seconds
    }
}

/// Callers for so long, each connection with `callers` of them.
async fn load(server: &TestServer, connections: usize, callers: usize, length: Duration) -> Got {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(server.client().await);
    }
    let started = Instant::now();
    let calls = clients.into_iter().flat_map(|client| vec![client; callers]).map(|mut client| {
        tokio::spawn(async move {
            let mut got = Got::default();
            while started.elapsed() < length {
                let mut request = Request::new(asked(100));
                request.set_timeout(Duration::from_secs(1));
                let sent = Instant::now();
                match client.get_online_features(request).await.map_err(|status| status.code()) {
                    Ok(_) => {
                        got.answered += 1;
                        got.latencies.push(sent.elapsed());
                    }
                    Err(Code::ResourceExhausted) => got.refused += 1,
                    Err(Code::DeadlineExceeded | Code::Cancelled) => got.expired += 1,
                    Err(code) => panic!("{code}"),
                }
            }
            got
        })
    });
    let mut all = Got::default();
    for call in calls.collect::<Vec<_>>() {
        let got = call.await.unwrap();
        all.answered += got.answered;
        all.refused += got.refused;
        all.expired += got.expired;
        all.latencies.extend(got.latencies);
    }
    all.seconds = started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_in_part_answered_as_before_in_part_and_leaves_nothing_behind() {
    // A request is refused after five times that.
    let folder = project("queue_time: 20ms");
    let server = Arc::new(TestServer::start(folder.path(), &[]));
    let calm = load(&server, 4, 1, Duration::from_secs(1)).await;
    assert_eq!((calm.refused, calm.expired), (0, 0), "{calm:?}");
    // So many that each would wait four times as long, however fast this machine is.
    let callers = (calm.rate() * 0.1 * 4.0 / CONNECTIONS as f64).ceil().max(8.0) as usize;

    // Probes are answered meanwhile.
    let is_over = Arc::new(AtomicBool::new(false));
    let probe = {
        let (server, is_over) = (Arc::clone(&server), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(server.http("GET", "/health", "").0, 200);
                slowest = slowest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(50));
            }
            slowest
        })
    };
    let flood = load(&server, CONNECTIONS, callers, Duration::from_secs(3)).await;
    is_over.store(true, Ordering::Relaxed);
    let slowest_probe = probe.join().unwrap();
    let numbers = format!(
        "{:.0}/s before; {:.0}/s, {} refused, {} expired in a flood; half of the answers within {:?}; probes {slowest_probe:?}",
        calm.rate(),
        flood.rate(),
        flood.refused,
        flood.expired,
        flood.latencies.get(flood.latencies.len() / 2),
    );
    println!("{numbers}");
    assert!(flood.refused > 0, "{numbers}");
    // Callers take their part of the same cores.
    assert!(flood.rate() > 0.3 * calm.rate(), "{numbers}");
    assert!(flood.expired < flood.answered / 5, "{numbers}");
    assert!(slowest_probe < Duration::from_secs(2), "{numbers}");
    // What is over is over.
    let after = load(&server, 4, 1, Duration::from_secs(1)).await;
    assert_eq!(after.expired, 0, "{after:?}");
    assert!(after.rate() > 0.5 * calm.rate(), "{:.0}/s after {numbers}", after.rate());
}

#[test]
fn over_http_a_flood_is_refused_too() {
    let folder = project("in_flight: 8");
    let server = TestServer::start(folder.path(), &[]);
    let body =
        serde_json::json!({"features": ["origin_weather"], "entities": {"origin": vec!["JFK"; 100]}}).to_string();
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let call = || (0..10).map(|_| server.http("POST", "/v1/get-online-features", &body)).collect::<Vec<_>>();
        let callers: Vec<_> = (0..60).map(|_| scope.spawn(call)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let count = |wanted: u16| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!(count(200) + count(429), answers.len());
    assert!(count(200) > 0 && count(429) > 0, "{} answered, {} refused", count(200), count(429));
    let refused = answers.iter().find(|(status, _)| *status == 429).unwrap();
    assert!(refused.1.contains("8 requests"), "{}", refused.1);
    assert_eq!(server.http("POST", "/v1/get-online-features", &body).0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_a_caller_that_is_gone_ends() {
    let folder = project("request_rows: 100000");
    let server = TestServer::start(folder.path(), &[]);
    let mut client = server.client().await.max_decoding_message_size(usize::MAX);
    let cost = async |client: &mut _, timeout: Option<Duration>| {
        let client: &mut pb::feature_store_client::FeatureStoreClient<tonic::transport::Channel> = client;
        let before = server.cpu_seconds();
        for _ in 0..5 {
            let mut request = Request::new(asked(100_000));
            timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
            assert_eq!(client.get_online_features(request).await.is_ok(), timeout.is_none());
        }
        // What goes on behind the caller's back counts, too.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.cpu_seconds() - before
    };
    let whole = cost(&mut client, None).await;
    let given_up = cost(&mut client, Some(Duration::from_millis(1))).await;
    assert!(given_up < 0.6 * whole, "{given_up} s of CPU for callers that are gone, {whole} s for others");
}

#[test]
fn a_server_that_drains_answers_and_says_that_it_is_not_ready() {
    let folder = project("drain_time: 2s");
    let mut server = TestServer::start(folder.path(), &[]);
    assert_eq!(server.http("GET", "/ready", "").0, 200);
    server.signal("-TERM");
    let started = Instant::now();
    while server.http("GET", "/ready", "").0 != 503 {
        assert!(started.elapsed() < Duration::from_secs(1), "it is ready still");
        std::thread::sleep(Duration::from_millis(20));
    }
    let body = r#"{"features": ["origin_weather"], "entities": {"origin": ["JFK"]}}"#;
    assert_eq!(server.http("POST", "/v1/get-online-features", body).0, 200);
    while !server.has_ended() {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() >= Duration::from_millis(1900), "{:?}", started.elapsed());
}
