use std::path::Path;
use std::time::Duration;

use super::*;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("10.0.0.1".to_owned()),
        "BUCKET" => Some("s3://flights: {a}".to_owned()),
        "ROWS" => Some("5".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Settings, Diagnostics> {
    Settings::parse(text, "asof.yaml", &environment)
}

/// Everything that is wrong, one `line:column: message` a line.
fn check_errors(text: &str, expected: &[&str]) {
    let errors = parse(text).expect_err("it is malformed");
    let found: Vec<_> = errors.iter().map(|e| format!("{}:{}: {}", e.line, e.column, e.message)).collect();
    assert_eq!(found, expected, "{errors}");
}

#[test]
fn a_project_of_one_line_has_the_embedded_defaults() {
    let settings = parse("project: x").unwrap();
    assert_eq!(settings, Settings::of_project("x"));
    assert_eq!(settings.registry, "state/registry");
    assert_eq!(settings.offline_store, "state/offline");
    assert_eq!(settings.online_store, OnlineStoreSettings::default());
    assert_eq!(settings.server.grpc.to_string(), "127.0.0.1:6566");
    assert_eq!(settings.server.http.to_string(), "127.0.0.1:6567");
    assert_eq!(settings.server.limits, Limits::default());
    assert_eq!(settings.engine.memory, None);
}

#[test]
fn everything_can_be_set() {
    let settings = parse(
        r#"
project: flights-2
registry: gs://bucket/registry
offline_store: ../offline
online_store: {type: rocksdb, path: /var/online, history: 30d, block_cache: 64MiB, row_cache: 1GiB}
engine: {type: local, memory: 4GiB}
server:
  grpc: "0.0.0.0:0"
  http: localhost:80
  tls: {cert: a.pem, key: a.key, client_ca: ca.pem}
  auth: {tokens: tokens.yaml}
  traces: {endpoint: "http://collector:4318", sample: 0.25}
  limits:
    {request_rows: 1_000, request_bytes: 1MB, request_features: 100, request_time: 5s, in_flight: 2, queue_time: 7ms, connections: 3, drain_time: 4s}
"#,
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let history = Some(Duration::from_secs(30 * 86_400));
    let traces = TracesSettings { endpoint: Some("http://collector:4318".to_owned()), sample: Some(0.25) };
    let expected = Settings {
        project: "flights-2".to_owned(),
        registry: "gs://bucket/registry".to_owned(),
        offline_store: "../offline".to_owned(),
        online_store: OnlineStoreSettings::Rocksdb {
            path: "/var/online".to_owned(),
            history,
            block_cache: 64 << 20,
            row_cache: 1 << 30,
        },
        engine: EngineSettings { memory: Some(4 << 30) },
        server: ServerSettings {
            grpc: "0.0.0.0:0".parse().unwrap(),
            http: "127.0.0.1:80".parse().unwrap(),
            tls: Some(TlsSettings {
                cert: "a.pem".to_owned(),
                key: "a.key".to_owned(),
                client_ca: Some("ca.pem".to_owned()),
            }),
            tokens: Some("tokens.yaml".to_owned()),
            limits: Limits {
                request_rows: 1000,
                request_bytes: 1_000_000,
                request_features: 100,
                request_time: Duration::from_secs(5),
                in_flight: 2,
                queue_time: Duration::from_millis(7),
                connections: 3,
                drain_time: Duration::from_secs(4),
            },
            traces,
        },
    };
    assert_eq!(settings, expected);
}

#[test]
fn variables_are_replaced_in_values_and_stay_text() {
    let settings = parse(
        r#"
project: ${NOBODY:-fallback}
registry: ${BUCKET}/${EMPTY:-x}${EMPTY}
offline_store: "$HOME/$${HOST}/5$"
online_store: {path: "${NOBODY:-a/b}"}
server: {grpc: "${HOST}:6566", limits: {request_rows: "${ROWS}"}}
"#,
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.project, "fallback");
    assert_eq!(settings.registry, "s3://flights: {a}/x");
    assert_eq!(settings.offline_store, "$HOME/${HOST}/5$");
    let OnlineStoreSettings::Rocksdb { path, .. } = settings.online_store;
    assert_eq!(path, "a/b");
    assert_eq!(settings.server.grpc.to_string(), "10.0.0.1:6566");
    assert_eq!(settings.server.limits.request_rows, 5);
}

#[test]
fn errors_say_where() {
    check_errors("", &["1:1: settings file has no `project`"]);
    check_errors("# nothing\n", &["1:1: settings file has no `project`"]);
    check_errors("projet: x\n", &["1:1: unknown key `projet` in settings file"]);
    check_errors("project: [x]\n", &["1:10: expected text, found a list"]);
    check_errors(
        "project: a b\n---\nproject: c\n",
        &["3:1: the settings are one YAML document, and this is a second one"],
    );
    check_errors("project: a b\n", &["1:10: `a b` cannot be the name of a project"]);
    check_errors(
        "project: x\nregistry: 'é ${NOBODY}'\noffline_store: ${1}\nonline_store: {path: '${'}\n",
        &[
            "2:14: environment variable `NOBODY` is not set",
            "3:16: `1` is not the name of an environment variable",
            "4:23: `${` is not closed by `}`",
        ],
    );
    check_errors(
        "project: x\nregistry: ''\nengine: {memory: 4 gigs}\n",
        &["2:11: the location is empty", "3:18: `4 gigs` cannot be this limit"],
    );
    check_errors(
        "project: x\nonline_store: {type: redis, url: 'redis://x'}\nengine: {type: ballista, scheduler: x}\n",
        &[
            "2:22: online store `redis` is not supported yet in this version (0.1.0)",
            "3:16: engine `ballista` is not supported yet in this version (0.1.0)",
        ],
    );
    check_errors(
        "project: x\nonline_store: {type: rockdb}\nengine: {type: local, scheduler: x}\n",
        &["2:22: there is no online store `rockdb`", "3:34: `scheduler` does not belong here"],
    );
    check_errors(
        "project: x\nonline_store: {history: 0d}\nserver: {grpc: '6566', http: 'localhost:99999'}\n",
        &[
            "2:25: `0d` is not a duration to keep values for",
            "3:16: `6566` is not an address to listen on",
            "3:30: `localhost:99999` is not an address to listen on",
        ],
    );
    check_errors(
        "project: x\nserver:\n  tls: {cert: a}\n  auth: {tokens: b}\n  grcp: a\n",
        &["3:8: tls has no `key`", "5:3: unknown key `grcp` in server"],
    );
    check_errors(
        "project: x\nserver: {http: '127.0.0.1:6566', limits: {in_flight: 0, request_rows: -1}}\n",
        &[
            "2:16: gRPC and HTTP both listen on 127.0.0.1:6566",
            "2:54: `0` cannot be this limit",
            "2:71: `-1` cannot be this limit",
        ],
    );
}

#[test]
fn an_unset_variable_is_named_where_it_stands() {
    let errors = parse("project: x\nregistry: s3://${BUKET}/registry\n").unwrap_err();
    insta::assert_snapshot!(errors, @r"
    error: environment variable `BUKET` is not set
     --> asof.yaml:2:16
      |
    2 | registry: s3://${BUKET}/registry
      |                ^^^^^^^^
      = help: set it, or give a default: `${BUKET:-default}`
    ");
}

#[test]
fn relative_locations_are_relative_to_the_project() {
    let base = Path::new("/projects/flights");
    for (location, resolved) in [
        ("state/online", "/projects/flights/state/online"),
        ("/var/online", "/var/online"),
        ("../other/./state", "/projects/other/state"),
        ("../../../../etc", "/etc"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("file:///a", "file:///a"),
        ("data/*.csv", "/projects/flights/data/*.csv"),
        ("odd dir://x", "/projects/flights/odd dir://x"),
    ] {
        assert_eq!(resolve(base, location), resolved);
    }
}
