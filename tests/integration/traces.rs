//! Traces of requests, as a collector gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::Request;

use crate::server::{TestServer, online};
use crate::support::{flights_project, run_json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A message of Protobuf, by the numbers of its fields; a number is its eight bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let length = match tag & 7 {
            0 => {
                found.push((tag >> 3, number(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => number(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

fn field(message: &[u8], number: u64) -> Option<Vec<u8>> {
    fields(message).into_iter().find(|(found, _)| *found == number).map(|(_, bytes)| bytes)
}

/// What the tests look at of a span.
#[derive(Debug, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u8,
    nanos: std::ops::Range<u64>,
    attributes: Vec<(String, String)>,
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(body: &[u8]) -> Vec<Span> {
    let of = |messages: Vec<Vec<u8>>, number: u64| -> Vec<Vec<u8>> {
        let all = messages.iter().flat_map(|message| fields(message));
        all.filter(|(found, _)| *found == number).map(|(_, bytes)| bytes).collect()
    };
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default()).unwrap();
    let hex =
        |bytes: Option<Vec<u8>>| bytes.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let nanos = |bytes: Option<Vec<u8>>| u64::from_le_bytes(bytes.unwrap().try_into().unwrap());
    let attribute = |bytes: Vec<u8>| {
        let value = field(&bytes, 2).unwrap();
        let number = field(&value, 3).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()).to_string());
        (text(field(&bytes, 1)), number.unwrap_or_else(|| text(field(&value, 1))))
    };
    let span = |bytes: Vec<u8>| Span {
        trace: hex(field(&bytes, 1)),
        id: hex(field(&bytes, 2)),
        parent: hex(field(&bytes, 4)),
        name: text(field(&bytes, 5)),
        kind: field(&bytes, 6).unwrap()[0],
        nanos: nanos(field(&bytes, 7))..nanos(field(&bytes, 8)),
        attributes: of(vec![bytes], 9).into_iter().map(attribute).collect(),
    };
    of(of(of(vec![body.to_vec()], 1), 2), 2).into_iter().map(span).collect()
}

/// A collector on the loopback: its address, and the head and body of each request that it gets. The first one it
/// answers with 503, as one that is busy.
fn collector() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(stream.read_line(&mut head).unwrap(), 0);
            }
            let length =
                head.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().to_owned();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let status = if number == 0 { "503 Service Unavailable" } else { "200 OK" };
            write!(stream.get_mut(), "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
            if number > 0 && sender.send((head, body)).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn spans_of_server(server: &TestServer, outcome: &str) -> u64 {
    let name = format!("asof_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let (_, metrics) = server.http("GET", "/metrics", "");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

fn project(settings: &str) -> tempfile::TempDir {
    let folder = flights_project();
    std::fs::write(folder.path().join("asof.yaml"), format!("project: flights\n{settings}")).unwrap();
    run_json(folder.path(), &["apply", "--yes"]);
    run_json(folder.path(), &["materialize", "origin_weather", "--end", "2014-02-01"]);
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_part_of_its_callers_trace_and_shows_its_stages() {
    let (address, requests) = collector();
    let folder = project(&format!("server: {{traces: {{endpoint: \"{address}\", sample: 0}}}}\n"));
    let environment = [("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"), ("OTEL_SERVICE_NAME", "features")];
    let server = TestServer::try_start(folder.path(), &[], &environment).unwrap();
    let parent = |flags: &str| format!("00-{TRACE}-{CALLER}-{flags}");
    let mut client = server.client().await;
    for (flags, rows) in [("00", &["LGA"; 2][..]), ("01", &["JFK"; 3])] {
        let mut asked = Request::new(online(&["origin_weather"], "origin", rows));
        asked.metadata_mut().insert("traceparent", parent(flags).parse().unwrap());
        client.get_online_features(asked).await.unwrap();
    }
    let body = json!({"features": ["origin_weather"], "entities": {"origin": ["EWR"]}}).to_string();
    let traced = format!("traceparent: {}\r\n", parent("01"));
    // Nobody traces the second one, and the share of our own is nothing; a probe is no request.
    for (head, method, path) in [
        (traced.as_str(), "POST", "/v1/get-online-features"),
        ("", "POST", "/v1/get-online-features"),
        (&traced, "GET", "/health"),
    ] {
        assert_eq!(server.http_with(head, method, path, &body).unwrap().0, 200);
    }

    let mut found: Vec<Span> = Vec::new();
    while found.iter().filter(|span| span.kind == 2).count() < 2 {
        let (head, body) = requests.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        assert!(head.contains("content-type: application/x-protobuf") && head.contains("x-key: secret"), "{head}");
        assert!(body.windows(8).any(|piece| piece == b"features"));
        found.extend(spans(&body));
    }
    assert!(found.iter().all(|span| span.trace == TRACE), "{found:?}");
    let mut roots: Vec<&Span> = found.iter().filter(|span| span.kind == 2).collect();
    roots.sort_by(|a, b| b.name.cmp(&a.name));
    let names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
    assert_eq!(names, ["asof.v1.FeatureStore/GetOnlineFeatures", "POST /v1/get-online-features"]);
    for (root, (rows, status)) in
        roots.iter().zip([("3", ("rpc.response.status_code", "OK")), ("1", ("http.response.status_code", "200"))])
    {
        assert_eq!(root.parent, CALLER);
        let has = |key: &str, value: &str| root.attributes.contains(&(key.to_owned(), value.to_owned()));
        assert!(has("asof.rows", rows) && has(status.0, status.1), "{root:?}");
        let stages: Vec<&Span> = found.iter().filter(|span| span.parent == root.id).collect();
        for name in ["wait", "decode", "view", "read", "encode"] {
            let stage = stages.iter().find(|stage| stage.name == name).unwrap_or_else(|| panic!("no {name}"));
            assert!(root.nanos.start <= stage.nanos.start && stage.nanos.start <= stage.nanos.end, "{stage:?}");
            assert!(stage.nanos.end <= root.nanos.end, "{stage:?} of {root:?}");
            if name == "view" {
                let view = ("asof.feature_view".to_owned(), "origin_weather".to_owned());
                assert_eq!(stage.attributes, [view]);
            }
        }
    }
    let asked = Instant::now();
    while spans_of_server(&server, "sent") < found.len() as u64 {
        assert!(asked.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(spans_of_server(&server, "dropped"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_up_no_request() {
    // It takes connections, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let folder = project("");
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()), ("OTEL_TRACES_SAMPLER_ARG", "1")];
    let server = TestServer::try_start(folder.path(), &[], &environment).unwrap();
    let client = server.client().await;
    // More than the queue holds.
    let calls = (0..8).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move {
            for _ in 0..400 {
                client.get_online_features(online(&["origin_weather"], "origin", &["JFK"])).await.unwrap();
            }
        })
    });
    let started = Instant::now();
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert!(spans_of_server(&server, "dropped") > 0);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(spans_of_server(&server, "sent"), 0);
}
