//! Who may call what, over which wire, and how much of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use asof::serving::calls::{CALLS, Call, Needs};
use asof::serving::pb;
use asof::serving::pb::admin_client::AdminClient;
use asof::serving::pb::feature_store_client::FeatureStoreClient;
use prost::Message;
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::server::{TestServer, strings};
use crate::support::{flights_project, run, run_json};

const ROLES: [&str; 3] = ["reader", "writer", "admin"];

/// The flights example with its weather, a service of two views, and these settings of the server.
fn project(server: &str) -> tempfile::TempDir {
    let folder = flights_project();
    let path = folder.path();
    let path = &path;
    std::fs::write(path.join("asof.yaml"), format!("project: flights\nserver:\n{server}")).unwrap();
    run_json(path, &["apply", "--yes"]);
    run_json(path, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    folder
}

fn token(folder: &Path, name: &str, role: &str, views: Option<&str>) -> String {
    let views = views.map(|views| ["--views", views]);
    let arguments = [&["tokens", "create", name, "--role", role][..], views.as_ref().map_or(&[], |views| &views[..])];
    run_json(folder, &arguments.concat())["token"].as_str().unwrap().to_owned()
}

fn bearing<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

async fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// The code that a call of any method with an empty message gets.
async fn call_grpc(channel: &Channel, name: &str, token: Option<&str>) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = axum::http::uri::PathAndQuery::try_from(format!("/{name}")).unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    // Streams are called as if they had one message: what matters is whether the call gets in.
    let called = grpc.server_streaming(bearing((), token), path, codec);
    match tokio::time::timeout(Duration::from_secs(20), called).await.expect("the server answers") {
        Ok(answer) => match tokio::time::timeout(Duration::from_millis(500), answer.into_inner().message()).await {
            Ok(Err(status)) => status.code(),
            _ => Code::Ok,
        },
        Err(status) => status.code(),
    }
}

fn call_http(address: &str, name: &str, token: Option<&str>) -> u16 {
    let (method, path) = name.split_once(' ').unwrap();
    let authorization = token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{authorization}");
    write!(stream, "{head}content-length: 2\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Whether a call is let in: anything else that is wrong with it comes later.
async fn gets_in(server: &TestServer, channel: &Channel, call: &Call, token: Option<&str>) -> Result<(), Code> {
    let code = match call.name.contains(' ') {
        true => match call_http(&server.http, call.name, token) {
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            _ => Code::Ok,
        },
        false => call_grpc(channel, call.name, token).await,
    };
    match code {
        Code::Unauthenticated | Code::PermissionDenied => Err(code),
        _ => Ok(()),
    }
}

/// Every method of every service that reflection tells of is in the table of calls; so one that is added has to be.
#[tokio::test]
async fn every_method_is_listed_with_who_may_call_it() {
    let listed: BTreeSet<&str> = CALLS.iter().map(|call| call.name).collect();
    assert_eq!(listed.len(), CALLS.len(), "a call is listed twice");
    let files = [
        pb::DESCRIPTOR,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeSet::new();
    for file in files.iter().flat_map(|set| prost_types::FileDescriptorSet::decode(*set).unwrap().file) {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| format!("{service_name}/{}", method.name())));
        }
    }
    let grpc: BTreeSet<String> =
        listed.iter().filter(|name| !name.contains(' ')).map(|name| (*name).to_owned()).collect();
    assert_eq!(methods, grpc);
    let described: Value = serde_json::from_str(include_str!("../../src/serving/openapi.json")).unwrap();
    let described = described["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let http: BTreeSet<String> =
        listed.iter().filter(|name| name.contains(' ')).map(|name| (*name).to_owned()).collect();
    assert_eq!(described.collect::<BTreeSet<String>>(), http);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_for_the_roles_of_the_table_and_no_other() {
    let folder = project("  auth: {tokens: tokens.yaml}\n");
    let tokens = ROLES.map(|role| (role, token(folder.path(), role, role, None)));
    let server = TestServer::start(folder.path(), &[]);
    let channel = channel(&server.grpc).await;
    for call in CALLS {
        let is_probe = call.needs == Needs::Nothing || call.name == "GET /metrics";
        let without = gets_in(&server, &channel, call, None).await;
        assert_eq!(without, if is_probe { Ok(()) } else { Err(Code::Unauthenticated) }, "{call:?} without a token");
        let with_another = gets_in(&server, &channel, call, Some("asof_nobody")).await;
        assert_eq!(with_another, without, "{call:?} with a token that is none");
        for (role, token) in &tokens {
            let may = match call.needs {
                Needs::Nothing | Needs::Reader => true,
                Needs::Writer => *role != "reader",
                Needs::Admin => *role == "admin",
            };
            let expected = if may { Ok(()) } else { Err(Code::PermissionDenied) };
            assert_eq!(gets_in(&server, &channel, call, Some(token)).await, expected, "{call:?} by {role}");
        }
    }
    // What nobody listed is for admins alone.
    let unlisted = Call { name: "asof.v1.FeatureStore/Later", ..CALLS[0] };
    assert_eq!(gets_in(&server, &channel, &unlisted, Some(&tokens[1].1)).await, Err(Code::PermissionDenied));
}

fn weather(view: &str) -> pb::GetOnlineFeaturesRequest {
    pb::GetOnlineFeaturesRequest {
        features: Some(pb::FeatureSelection { features: vec![view.to_owned()], ..Default::default() }),
        entities: vec![strings("origin", &["JFK"]), strings("dest", &["LAX"]), strings("carrier", &["DL"])],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_some_views_is_for_no_other_and_a_revoked_one_for_none() {
    let folder = project("  auth: {tokens: tokens.yaml}\n");
    let folder = folder.path();
    let server = TestServer::start(folder, &[]);
    // Made while the server runs.
    let scoped = token(folder, "scoped", "reader", Some("origin_weather"));
    let mut client = FeatureStoreClient::new(channel(&server.grpc).await);
    let started = Instant::now();
    while let Err(status) = client.get_online_features(bearing(weather("origin_weather"), Some(&scoped))).await {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(started.elapsed() < Duration::from_secs(10), "a new token is not known");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = client.get_online_features(bearing(weather("carrier_delay"), Some(&scoped))).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    assert!(other.message().contains("`carrier_delay`"), "{other}");
    let listed = client.list_definitions(bearing(pb::ListDefinitionsRequest::default(), Some(&scoped))).await.unwrap();
    let views = listed.into_inner().definitions.into_iter().filter(|definition| definition.kind == "feature_views");
    assert_eq!(views.map(|view| view.name).collect::<Vec<_>>(), ["origin_weather"]);
    let status = client.get_status(bearing(pb::GetStatusRequest {}, Some(&scoped))).await.unwrap().into_inner();
    assert_eq!(status.views.len(), 1);
    let unknown = client.get_online_features(bearing(weather("no_such_view"), Some(&scoped))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    assert!(!unknown.message().contains("carrier"), "{unknown}");

    // An admin of some views manages these.
    let manager = token(folder, "manager", "admin", Some("origin_weather"));
    let mut admin = AdminClient::new(channel(&server.grpc).await);
    let rebuild = |views: &[&str]| {
        let views = views.iter().map(|view| (*view).to_owned()).collect();
        bearing(pb::RebuildOnlineRequest { views }, Some(&manager))
    };
    let started = Instant::now();
    while let Err(status) = admin.rebuild_online(rebuild(&["origin_weather"])).await {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(started.elapsed() < Duration::from_secs(10), "a new token is not known");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for views in [&[][..], &["carrier_delay"], &["origin_weather", "carrier_delay"]] {
        let refused = admin.rebuild_online(rebuild(views)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let copied = admin.checkpoint(bearing(pb::CheckpointRequest {}, Some(&manager))).await.unwrap_err();
    assert_eq!(copied.code(), Code::PermissionDenied, "{copied}");

    // Commands on the same project need no token of a user.
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let shown = run_json(folder, &["status"]);
    assert_eq!(shown["server"]["grpc"], json!(server.grpc));
    assert!(!shown.to_string().contains("asof_"), "{shown}");

    run_json(folder, &["tokens", "revoke", "scoped"]);
    let started = Instant::now();
    let refused = loop {
        match client.get_online_features(bearing(weather("origin_weather"), Some(&scoped))).await {
            Err(status) => break status,
            Ok(_) => assert!(started.elapsed() < Duration::from_secs(10), "a revoked token is taken"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // A file that is damaged leaves the tokens as they are.
    let admin = token(folder, "later", "admin", None);
    tokio::time::sleep(Duration::from_millis(800)).await;
    std::fs::write(folder.join("tokens.yaml"), "tokens: [").unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    client.get_status(bearing(pb::GetStatusRequest {}, Some(&admin))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_in_no_log() {
    let folder = project("  auth: {tokens: tokens.yaml}\n");
    let folder = folder.path();
    let secret = token(folder, "a", "admin", None);
    let log = folder.join("server.log");
    let mut server = crate::support::asof(folder);
    server.args(["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]);
    server.env("ASOF_LOG", "trace").stderr(std::fs::File::create(&log).unwrap());
    let server = TestServer::of(server.stdout(std::process::Stdio::piped()).spawn().unwrap()).unwrap();
    let mut client = FeatureStoreClient::new(channel(&server.grpc).await);
    client.get_online_features(bearing(weather("origin_weather"), Some(&secret))).await.unwrap();
    client.get_status(bearing(pb::GetStatusRequest {}, Some("asof_wrong-secret"))).await.unwrap_err();
    assert_eq!(call_http(&server.http, "POST /v1/get-online-features", Some(&secret)), 400);
    drop(server);
    let log = std::fs::read(log).unwrap();
    assert!(!log.is_empty());
    for secret in [&secret["asof_".len()..], "wrong-secret"] {
        assert!(!log.windows(secret.len()).any(|piece| piece == secret.as_bytes()), "a token is in the log");
    }
}

fn tls_file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)).unwrap()
}

async fn tls_channel(address: &str, ca: &str, with_certificate: bool) -> Result<Channel, tonic::transport::Error> {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(tls_file(ca)));
    let tls = match with_certificate {
        true => tls.identity(Identity::from_pem(tls_file("client.pem"), tls_file("client.key"))),
        false => tls,
    };
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mutual_tls_only_known_callers_are_answered() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(|name| data.join(name).display().to_string());
    let folder =
        project(&format!("  tls: {{cert: {cert}, key: {key}, client_ca: {ca}}}\n  auth: {{tokens: tokens.yaml}}\n"));
    let folder = folder.path();
    let reader = token(folder, "a", "reader", None);
    let server = TestServer::start(folder, &[]);
    let mut client = FeatureStoreClient::new(tls_channel(&server.grpc, "ca.pem", true).await.unwrap());
    client.get_online_features(bearing(weather("origin_weather"), Some(&reader))).await.unwrap();
    let asked = client.get_online_features(weather("origin_weather")).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
    // The handshake may only be found refused by the first call.
    let refused: Result<(), Status> = match tls_channel(&server.grpc, "ca.pem", false).await {
        Err(_) => Err(Status::unavailable("refused")),
        Ok(channel) => {
            let asked = bearing(weather("origin_weather"), Some(&reader));
            FeatureStoreClient::new(channel).get_online_features(asked).await.map(drop)
        }
    };
    assert_ne!(refused.unwrap_err().code(), Code::Unauthenticated);
    // In the clear nobody is answered, over neither wire.
    let mut plain = TcpStream::connect(&server.http).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    write!(plain, "GET /health HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // Commands on the same project go another way.
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let online = ["get-online-features", "--features", "origin_weather:temp", "--entity", "origin=JFK"];
    run_json(folder, &online);
    // And from elsewhere, with what the environment names.
    let mut elsewhere = crate::support::asof(folder);
    elsewhere.args(online).args(["--server", &format!("https://{}", server.grpc)]);
    for (variable, file) in [("ASOF_CA", "ca.pem"), ("ASOF_CERT", "client.pem"), ("ASOF_KEY", "client.key")] {
        elsewhere.env(variable, data.join(file));
    }
    let output = elsewhere.env("ASOF_TOKEN", &reader).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asks until `is_done`, for as long as a server may take to see that a file was changed.
async fn wait_until(what: &str, mut is_done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_done().await {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_use_new_certificates_and_broken_ones_change_nothing() {
    let folder = project("  tls: {cert: server.pem, key: server.key}\n");
    let folder = folder.path();
    let write = |from: &str, to: &str| std::fs::write(folder.join(to), tls_file(from)).unwrap();
    write("server.pem", "server.pem");
    write("server.key", "server.key");
    let server = TestServer::start(folder, &[]);
    let is_trusted = async |ca: &str| match tls_channel(&server.grpc, ca, false).await {
        Ok(channel) => FeatureStoreClient::new(channel).get_online_features(weather("origin_weather")).await.is_ok(),
        Err(_) => false,
    };
    let mut before = FeatureStoreClient::new(tls_channel(&server.grpc, "ca.pem", false).await.unwrap());
    before.get_online_features(weather("origin_weather")).await.unwrap();
    assert!(!is_trusted("other-ca.pem").await);

    // Half a file, and then a certificate whose key is not there yet.
    for certificate in [&b"-----BEGIN CERTIFICATE-----\nMIIB"[..], &tls_file("other-server.pem")] {
        std::fs::write(folder.join("server.pem"), certificate).unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(is_trusted("ca.pem").await && !is_trusted("other-ca.pem").await);
    }
    write("other-server.key", "server.key");
    wait_until("the new certificate is not used", async || is_trusted("other-ca.pem").await).await;
    assert!(!is_trusted("ca.pem").await);
    // Who was connected stays so.
    before.get_online_features(weather("origin_weather")).await.unwrap();
    std::fs::remove_file(folder.join("server.key")).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(is_trusted("other-ca.pem").await, "a file that is gone changes nothing");
}

/// Whether the other side closes the connection, within ten seconds; what it says before does not matter.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_callers_that_are_gone_or_silent_are_closed() {
    let folder = project("  limits: {request_time: 1s}\n");
    let server = TestServer::start(folder.path(), &[]);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let greeting = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    // Over HTTP/2 whoever greets is asked whether it is there, which it would have to answer.
    for (address, said) in [
        (&server.grpc, &b""[..]),
        (&server.grpc, &greeting[..10]),
        (&server.grpc, &greeting),
        (&server.http, b""),
        (&server.http, b"POST /v1/get-online-features HTTP/1.1\r\nhost: te"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(said).unwrap();
        let started = Instant::now();
        assert!(is_closed(&mut stream), "{said:?}");
        assert!(started.elapsed() >= Duration::from_millis(900), "{said:?}: {:?}", started.elapsed());
    }
    // A caller that is idle and says so stays.
    let mut client = server.client().await;
    client.get_online_features(weather("origin_weather")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.get_online_features(weather("origin_weather")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_and_the_others_go_on() {
    let folder = project("  limits: {connections: 3}\n");
    let server = TestServer::start(folder.path(), &[]);
    let mut client = server.client().await;
    client.get_online_features(weather("origin_weather")).await.unwrap();
    let open = || {
        let mut stream = TcpStream::connect(&server.http).unwrap();
        write!(stream, "GET /health HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut status = [0; 12];
        let is_answered = stream.read_exact(&mut status).is_ok();
        is_answered.then_some(stream)
    };
    let [first, second] = [open(), open()];
    assert!(first.is_some() && second.is_some());
    assert!(open().is_none(), "a fourth connection is answered");
    assert!(tls_channel(&server.grpc, "ca.pem", false).await.is_err());
    client.get_online_features(weather("origin_weather")).await.unwrap();
    // A place that is free is taken again.
    drop(second);
    wait_until("no place becomes free", async || open().is_some()).await;
    drop(first);
}

#[test]
fn files_that_are_none_keep_the_server_from_starting_and_say_which() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let file = |name: &str| data.join(name).display().to_string();
    let cases = [
        (format!("  tls: {{cert: nowhere.pem, key: {}}}\n", file("server.key")), "nowhere.pem"),
        (format!("  tls: {{cert: {}, key: {}}}\n", file("server.pem"), file("server.pem")), "no private key"),
        (format!("  tls: {{cert: {}, key: {}}}\n", file("server.pem"), file("client.key")), "server.pem"),
        (
            format!(
                "  tls: {{cert: {}, key: {}, client_ca: {}}}\n",
                file("server.pem"),
                file("server.key"),
                file("server.key")
            ),
            "no certificate",
        ),
        ("  auth: {tokens: feature_defs}\n".to_owned(), "feature_defs"),
    ];
    let folder = flights_project();
    for (server, expected) in cases {
        std::fs::write(folder.path().join("asof.yaml"), format!("project: x\nserver:\n{server}")).unwrap();
        let (status, _, stderr) = run(folder.path(), &["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        assert_ne!(status, 0);
        assert!(stderr.contains(expected) && !stderr.contains("PRIVATE"), "{server}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limits_are_refused_and_silent_ones_ended() {
    let folder = project("  limits: {request_rows: 3, request_features: 2, request_bytes: 4KiB, request_time: 1s}\n");
    let server = TestServer::start(folder.path(), &[]);
    let mut client = server.client().await;
    let asked = |features: usize, rows: usize| pb::GetOnlineFeaturesRequest {
        features: Some(pb::FeatureSelection {
            features: vec!["origin_weather:temp".to_owned(); features],
            ..Default::default()
        }),
        entities: vec![strings("origin", &vec!["JFK"; rows])],
        ..Default::default()
    };
    client.get_online_features(asked(1, 3)).await.unwrap();
    for (request, expected) in
        [(asked(1, 4), "4 rows"), (asked(3, 1), "3 features"), (weather("origin_weather"), "features")]
    {
        let status = client.get_online_features(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
    let large = client.get_online_features(asked(1, 3_000)).await.unwrap_err();
    assert_eq!(large.code(), Code::ResourceExhausted, "{large}");
    assert!(large.message().contains("request_bytes"), "{large}");
    let (status, body) = server.http("POST", "/v1/get-online-features", &" ".repeat(5_000));
    assert_eq!(status, 413, "{body}");

    // A body that does not come.
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let started = Instant::now();
    write!(stream, "POST /v1/get-online-features HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{{").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(started.elapsed() >= Duration::from_millis(900));

    // A spine that does not come, and rows that do not.
    let (_spine, messages) = tokio::sync::mpsc::channel::<pb::GetBatchFeaturesRequest>(1);
    let silent = client.get_batch_features(tokio_stream::wrappers::ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    let (_rows, messages) = tokio::sync::mpsc::channel::<pb::PushRequest>(1);
    let silent = client.push(tokio_stream::wrappers::ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    client.get_online_features(asked(1, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_definitions_and_answers_are_compressed_for_who_compresses() {
    use tonic::codec::CompressionEncoding;

    let folder = flights_project();
    let folder = folder.path();
    let server = TestServer::start(folder, &[]);
    assert_eq!(server.http("GET", "/health", "").0, 200);
    let (status, body) = server.http("GET", "/ready", "");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("asof apply"), "{body}");
    run_json(folder, &["apply", "--yes"]);
    let started = Instant::now();
    while server.http("GET", "/ready", "").0 != 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "the server does not become ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let plain = server.client().await.accept_compressed(CompressionEncoding::Gzip);
    for (mut client, expected) in
        [(plain.clone(), None), (plain.send_compressed(CompressionEncoding::Gzip), Some("gzip"))]
    {
        let answer = client.get_online_features(weather("origin_weather")).await.unwrap();
        let encoding = answer.metadata().get("grpc-encoding").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(encoding.as_deref(), expected);
        assert!(answer.into_inner().columns.len() > 3);
    }
    let value: Value = serde_json::from_str(&server.http("GET", "/ready", "").1).unwrap();
    assert_eq!(value["status"], "ready");
}
