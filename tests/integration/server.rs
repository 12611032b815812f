//! A running server: over gRPC and HTTP, following the registry, next to commands.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use asof::serving::pb;
use asof::serving::pb::feature_store_client::FeatureStoreClient;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::streams::spawn_server;
use crate::support::{flights_project, run, run_json};

/// A server on free ports of the loopback; killed when dropped.
pub struct TestServer {
    process: Child,
    pub grpc: String,
    pub http: String,
}

impl TestServer {
    pub fn start(folder: &Path, flags: &[&str]) -> Self {
        Self::try_start(folder, flags, &[]).expect("the server starts")
    }

    /// A server that may end before it listens.
    pub fn try_start(folder: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        Self::of(spawn_server(folder, flags, environment))
    }

    /// The server that a process is, whose standard output nobody reads yet.
    pub fn of(mut process: Child) -> Option<Self> {
        let mut text = String::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        let Ok(address) = serde_json::from_str::<Value>(&text) else {
            process.wait().unwrap();
            return None;
        };
        let text = |name: &str| address[name].as_str().unwrap().to_owned();
        Some(TestServer { grpc: text("grpc"), http: text("http"), process })
    }

    /// CPU time of the process, user and system.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // In hundredths, as Linux tells them to programs.
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Memory that the process has.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    pub fn signal(&self, name: &str) {
        let process = self.process.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &process]).status().unwrap().success());
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub async fn client(&self) -> FeatureStoreClient<Channel> {
        FeatureStoreClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }

    /// Status and body of a request.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.http_with("", method, path, body).expect("the server answers")
    }

    /// None: the server is gone.
    pub fn try_http(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        self.http_with("", method, path, body)
    }

    /// With these lines in the head, too.
    pub fn http_with(&self, head: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: test\r\n{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub fn post(&self, body: &Value) -> (u16, Value) {
        let (status, body) = self.http("POST", "/v1/get-online-features", &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}")))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn online(features: &[&str], key: &str, values: &[&str]) -> pb::GetOnlineFeaturesRequest {
    pb::GetOnlineFeaturesRequest {
        features: Some(pb::FeatureSelection {
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }),
        entities: vec![strings(key, values)],
        ..Default::default()
    }
}

pub fn strings(name: &str, values: &[&str]) -> pb::Column {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    pb::Column {
        name: name.to_owned(),
        values: Some(pb::column::Values::Strings(pb::StringValues { values })),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_while_commands_work_on_its_project() {
    let folder = flights_project();
    let folder = folder.path();
    let server = TestServer::start(folder, &["--allow-request-time"]);
    let mut client = server.client().await;

    let nothing = client.get_online_features(online(&["origin_weather"], "origin", &["JFK"])).await.unwrap_err();
    assert_eq!(nothing.code(), Code::FailedPrecondition, "{nothing}");

    // The server owns the online store; the commands reach it through the server.
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "airport_profile", "--end", "2014-02-01"]);
    let mut request = online(&["origin_weather:temp", "origin_weather:wind_gust"], "origin", &["JFK", "XXX", "JFK"]);
    request.now = Some(1_370_088_000_000_000);
    request.event_timestamps = true;
    let answer = client.get_online_features(request.clone()).await.unwrap().into_inner();
    let statuses: Vec<Vec<pb::Status>> = answer.columns.iter().map(|column| column.statuses().collect()).collect();
    assert_eq!(statuses[1], [pb::Status::Present, pb::Status::NotFound, pb::Status::Present]);
    assert_eq!(
        answer.columns[0],
        pb::Column { r#type: "string".to_owned(), ..strings("origin", &["JFK", "XXX", "JFK"]) }
    );
    assert_eq!(answer.columns[1].event_timestamps[0], 1_370_088_000_000_000, "2013-06-01T12:00:00Z");

    let same = run_json(
        folder,
        &[
            "get-online-features",
            "--features",
            "origin_weather:temp",
            "--entity",
            "origin=JFK",
            "--now",
            "2013-06-01T12:00:00Z",
        ],
    );
    let (status, over_http) = server.post(&json!({
        "features": ["origin_weather:temp"], "entities": {"origin": ["JFK"]}, "now": "2013-06-01T12:00:00Z"
    }));
    assert_eq!((status, &over_http["columns"]), (200, &same["columns"]));

    // A changed TTL is answered by within a second, and no request fails meanwhile.
    let views = folder.join("feature_defs/flights/feature_views.yaml");
    let text = std::fs::read_to_string(&views).unwrap();
    std::fs::write(&views, text.replace("ttl: 3h", "ttl: 30m")).unwrap();
    run_json(folder, &["apply", "--yes"]);
    request.now = Some(1_370_088_000_000_000 + 59 * 60_000_000);
    let changed = Instant::now();
    loop {
        let answer = client.get_online_features(request.clone()).await.unwrap().into_inner();
        if answer.registry_version == 2 {
            assert_eq!(answer.columns[1].statuses().next(), Some(pb::Status::OutsideMaxAge));
            break;
        }
        assert!(changed.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.project.as_str(), status.registry_version), ("flights", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_is_counted_and_described() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::{v1, v1alpha};

    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let server = TestServer::start(folder, &[]);
    let mut client = server.client().await;
    client.get_online_features(online(&["origin_weather"], "origin", &["JFK", "LGA"])).await.unwrap();
    client.get_online_features(online(&["origin_wether"], "origin", &["JFK"])).await.unwrap_err();
    server.post(&json!({"features": ["origin_weather"], "entities": {"origin": ["JFK"]}}));
    server.http("GET", "/nothing", "");
    let (code, metrics) = server.http("GET", "/metrics", "");
    assert_eq!(code, 200, "{metrics}");
    for line in [
        r#"asof_requests_total{method="asof.v1.FeatureStore/GetOnlineFeatures",code="OK"} 1"#,
        r#"asof_requests_total{method="asof.v1.FeatureStore/GetOnlineFeatures",code="NOT_FOUND"} 1"#,
        r#"asof_requests_total{method="POST /v1/get-online-features",code="200"} 1"#,
        r#"asof_requests_total{method="unknown",code="404"} 1"#,
        r#"asof_request_latency_seconds_count{method="asof.v1.FeatureStore/GetOnlineFeatures"} 2"#,
        "asof_online_request_rows_sum 4",
        concat!(r#"asof_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        "process_start_time_seconds ",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "no `{line}` in {metrics}");
    }

    let channel = Channel::from_shared(format!("http://{}", server.grpc)).unwrap().connect().await.unwrap();
    for service in ["", "asof.v1.FeatureStore", "asof.v1.Admin"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await;
        assert_eq!(answer.unwrap().into_inner().status, 1, "{service}");
    }
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answer = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    assert!(format!("{:?}", answer.into_inner().message().await.unwrap()).contains("asof.v1.Admin"));
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answer = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    assert!(format!("{:?}", answer.into_inner().message().await.unwrap()).contains("asof.v1.FeatureStore"));
}

#[test]
fn a_server_that_does_not_answer_holds_up_no_command() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    let mut server = TestServer::start(folder, &[]);
    assert_eq!(run_json(folder, &["status"])["server"]["grpc"], json!(server.grpc));

    server.signal("-STOP");
    let started = Instant::now();
    for arguments in [
        ["status"].as_slice(),
        &["get-online-features", "--features", "origin_weather", "--entity", "origin=JFK", "--server", &server.grpc],
    ] {
        let (status, _, stderr) = run(folder, arguments);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains(&server.grpc) && stderr.contains("does not answer"), "{stderr}");
    }
    // What is applied is applied, and the server removes values when it follows.
    std::fs::write(folder.join("feature_defs/more.yaml"), "entities: [{name: e, join_keys: [{name: k, type: int64}]}]")
        .unwrap();
    let (status, stdout, stderr) = run(folder, &["apply", "--yes"]);
    assert!(status == 0 && stdout.contains("version 2") && stderr.contains("does not answer"), "{stdout}{stderr}");
    assert!(started.elapsed() < Duration::from_secs(40));
    server.signal("-CONT");
    assert_eq!(run_json(folder, &["status"])["server"]["grpc"], json!(server.grpc));

    // Killed, it leaves its address behind.
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert_eq!(run_json(folder, &["status"])["server"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_request_streams_the_spine_and_the_answer() {
    use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let server = TestServer::start(folder, &[]);
    let rows = 40_000_i64;
    let start = 1_357_000_000_000_000_i64;
    let origins = StringArray::from_iter_values((0..rows).map(|row| ["EWR", "JFK", "LGA"][row as usize % 3]));
    let times = TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| start + row * 780_000_000));
    let spine = arrow::array::RecordBatch::try_from_iter([
        ("origin", Arc::new(origins) as ArrayRef),
        ("event_timestamp", Arc::new(times.with_timezone("UTC")) as ArrayRef),
    ])
    .unwrap();
    let mut encoded = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &spine.schema()).unwrap();
    encoded.write(&spine).unwrap();
    let encoded = encoded.into_inner().unwrap();
    let header = |features: &str| pb::BatchHeader {
        features: Some(pb::FeatureSelection { features: vec![features.to_owned()], ..Default::default() }),
        times: Some(pb::batch_header::Times::Spine(pb::Spine::default())),
        ..Default::default()
    };
    let messages = |header: pb::BatchHeader, spine: &[u8]| {
        use pb::get_batch_features_request::Part;
        let header = std::iter::once(Part::Header(header));
        let pieces = spine.chunks(100_000).map(|piece| Part::Spine(piece.to_vec().into())).collect::<Vec<_>>();
        let messages = header.chain(pieces).map(|part| pb::GetBatchFeaturesRequest { part: Some(part) });
        tokio_stream::iter(messages.collect::<Vec<_>>())
    };
    let mut client = server.client().await;
    let mut answer =
        client.get_batch_features(messages(header("origin_weather"), &encoded)).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    let mut tables = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        match message.part.unwrap() {
            pb::get_batch_features_response::Part::Metadata(metadata) => tables = metadata.tables,
            pb::get_batch_features_response::Part::ArrowIpc(piece) => bytes.extend_from_slice(&piece),
        }
    }
    assert_eq!(tables.len(), 1);
    let reader = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
    let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    let whole = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!((whole.num_rows() as i64, whole.num_columns()), (rows, 9));
    assert_eq!(whole.column(0), spine.column(0));
    assert!(whole.column_by_name("temp").unwrap().null_count() < rows as usize / 2);

    for (wrong, spine, code) in [
        (header("origin_wether"), encoded.as_slice(), Code::NotFound),
        (header("origin_weather"), b"nonsense".as_slice(), Code::InvalidArgument),
        (pb::BatchHeader { times: None, ..header("origin_weather") }, encoded.as_slice(), Code::InvalidArgument),
        (header("carrier_day"), encoded.as_slice(), Code::FailedPrecondition),
    ] {
        let status = client.get_batch_features(messages(wrong, spine)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_what_is_worked_on_at_once_are_refused_over_grpc_and_http() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    let folder = flights_project();
    let folder = folder.path();
    std::fs::write(folder.join("asof.yaml"), "project: flights\nserver: {limits: {in_flight: 2}}\n").unwrap();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let server = TestServer::start(folder, &[]);
    let asked = || online(&["origin_weather"], "origin", &["JFK"]);
    let over_http = || server.post(&json!({"features": ["origin_weather"], "entities": {"origin": ["JFK"]}}));

    // Spines that do not end, each over a connection of its own.
    let unending = async || {
        let (spine, messages) = tokio::sync::mpsc::channel::<pb::GetBatchFeaturesRequest>(1);
        let mut client = server.client().await;
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        (spine, tokio::spawn(async move { client.get_batch_features(messages).await.map(drop) }))
    };
    let mut under_way = vec![unending().await, unending().await];
    let mut client = server.client().await;
    let started = Instant::now();
    let refused = loop {
        if let Err(status) = client.get_online_features(asked()).await {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "nothing is refused");
        // One that came while the question above was answered was itself refused.
        for call in &mut under_way {
            if call.1.is_finished() {
                *call = unending().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("works on 2 requests"), "{refused}");
    let (status, answer) = over_http();
    assert_eq!(status, 429, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("works on 2 requests"), "{answer}");

    // What tells that the server lives is answered, and so are commands.
    assert_eq!(server.http("GET", "/health", "").0, 200);
    let (status, metrics) = server.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    for line in [
        r#"asof_requests_total{method="asof.v1.FeatureStore/GetOnlineFeatures",code="RESOURCE_EXHAUSTED"} 1"#,
        r#"asof_requests_total{method="POST /v1/get-online-features",code="429"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "no `{line}` in {metrics}");
    }
    let channel = Channel::from_shared(format!("http://{}", server.grpc)).unwrap().connect().await.unwrap();
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);

    for (spine, call) in under_way {
        drop(spine);
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::InvalidArgument);
    }
    client.get_online_features(asked()).await.unwrap();
    assert_eq!(over_http().0, 200);
}

#[test]
fn a_server_that_others_could_reach_wants_to_be_told_so() {
    let folder = flights_project();
    let (status, _, stderr) = run(folder.path(), &["serve", "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("--insecure"), "{stderr}");
}
