//! `asof.yaml` as it is written, and its checks.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::interpolate::interpolate;
use super::{
    BLOCK_CACHE_BYTES, EngineSettings, Limits, OFFLINE_PATH, ONLINE_PATH, OnlineStoreSettings, REGISTRY_PATH,
    ROW_CACHE_BYTES, TlsSettings, TracesSettings,
};
use super::{ServerSettings, Settings};
use crate::diagnostics::{Located, Reporter, Span, help_with_names};
use crate::time::parse_duration;
use crate::yaml::{Decode, parse_documents, record};

/// Keys of later versions: refused with a message that says so.
mod later {
    pub const NONE: &[&str] = &[];
}

/// Stores and engines of later versions.
const ONLINE_STORES_LATER: &[&str] = &["redis"];
const ENGINES_LATER: &[&str] = &["ballista"];

type Text = Located<String>;

record! {
    pub struct RawSettings as "settings file", later later::NONE => {
        pub project: Text,
        pub registry: Option<Text>,
        pub offline_store: Option<Text>,
        pub online_store: Option<RawOnlineStore>,
        pub engine: Option<RawEngine>,
        pub server: Option<RawServer>,
    }
}

record! {
    pub struct RawOnlineStore as "online store", later later::NONE => {
        pub r#type: Option<Text>,
        pub path: Option<Text>,
        pub history: Option<Text>,
        pub block_cache: Option<Text>,
        pub row_cache: Option<Text>,
        pub url: Option<Text>,
    }
}

record! {
    pub struct RawEngine as "engine", later later::NONE => {
        pub r#type: Option<Text>,
        pub memory: Option<Text>,
        pub scheduler: Option<Text>,
    }
}

record! {
    pub struct RawServer as "server", later later::NONE => {
        pub grpc: Option<Text>,
        pub http: Option<Text>,
        pub tls: Option<RawTls>,
        pub auth: Option<RawAuth>,
        pub limits: Option<RawLimits>,
        pub traces: Option<RawTraces>,
    }
}

record! {
    pub struct RawTls as "tls", later later::NONE => {
        pub cert: Text,
        pub key: Text,
        pub client_ca: Option<Text>,
    }
}

record! {
    pub struct RawAuth as "auth", later later::NONE => {
        pub tokens: Text,
    }
}

record! {
    pub struct RawTraces as "traces", later later::NONE => {
        pub endpoint: Option<Text>,
        pub sample: Option<Text>,
    }
}

record! {
    pub struct RawLimits as "limits", later later::NONE => {
        pub request_rows: Option<Text>,
        pub request_bytes: Option<Text>,
        pub request_features: Option<Text>,
        pub request_time: Option<Text>,
        pub in_flight: Option<Text>,
        pub queue_time: Option<Text>,
        pub connections: Option<Text>,
        pub drain_time: Option<Text>,
    }
}

/// Returns `None` only if something was reported.
pub fn parse_settings(
    file: usize,
    environment: &dyn Fn(&str) -> Option<String>,
    reporter: &mut Reporter<'_>,
) -> Option<Settings> {
    let mut documents = parse_documents(file, reporter)?;
    let start = Span { file, offset: 0, length: 0, line: 1, column: 1 };
    if let Some(second) = documents.get(1) {
        let help = "remove the `---` between them";
        reporter.error_with_help(second.span, "the settings are one YAML document, and this is a second one", help);
        return None;
    }
    let Some(document) = documents.first_mut() else {
        reporter.error_with_help(start, "settings file has no `project`", "add `project: name`");
        return None;
    };
    interpolate(document, environment, reporter);
    if reporter.has_errors() {
        // What lacks the value of a variable would be found wrong once more.
        return None;
    }
    RawSettings::decode(document, reporter).map(|raw| settings(&raw, reporter))
}

fn settings(raw: &RawSettings, reporter: &mut Reporter<'_>) -> Settings {
    let project = &raw.project;
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if project.value.is_empty() || project.value.len() > 128 || !project.value.chars().all(is_name_char) {
        let message = format!("`{}` cannot be the name of a project", project.value);
        reporter.error_with_help(project.span, message, "use letters, digits, `_` and `-`, at most 128");
    }
    Settings {
        project: project.value.clone(),
        registry: location(raw.registry.as_ref(), REGISTRY_PATH, reporter),
        offline_store: location(raw.offline_store.as_ref(), OFFLINE_PATH, reporter),
        online_store: raw.online_store.as_ref().map(|raw| online_store(raw, reporter)).unwrap_or_default(),
        engine: raw.engine.as_ref().map(|raw| engine(raw, reporter)).unwrap_or_default(),
        server: raw.server.as_ref().map(|raw| server(raw, reporter)).unwrap_or_default(),
    }
}

fn location(raw: Option<&Text>, default: &str, reporter: &mut Reporter<'_>) -> String {
    let Some(text) = raw else { return default.to_owned() };
    if text.value.trim().is_empty() {
        let help = match default {
            "" => "write a path".to_owned(),
            default => format!("write a path or a URL, or leave it out for `{default}`"),
        };
        reporter.error_with_help(text.span, "the location is empty", help);
    }
    text.value.clone()
}

fn online_store(raw: &RawOnlineStore, reporter: &mut Reporter<'_>) -> OnlineStoreSettings {
    if check_type("online store", raw.r#type.as_ref(), "rocksdb", ONLINE_STORES_LATER, reporter) {
        refuse_key("url", raw.url.as_ref(), "a RocksDB store is in a local folder: write `path: …`", reporter);
    }
    let history = raw.history.as_ref().and_then(|text| history(text, reporter));
    let mut bytes = |text: &Option<Text>, default| {
        let bytes = text.as_ref().and_then(|text| positive(text, parse_bytes, BYTES_HELP, reporter));
        bytes.map_or(default, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    };
    let block_cache = bytes(&raw.block_cache, BLOCK_CACHE_BYTES);
    let row_cache = bytes(&raw.row_cache, ROW_CACHE_BYTES);
    let path = location(raw.path.as_ref(), ONLINE_PATH, reporter);
    OnlineStoreSettings::Rocksdb { path, history, block_cache, row_cache }
}

fn history(text: &Text, reporter: &mut Reporter<'_>) -> Option<Duration> {
    let duration = parse_duration(&text.value).ok().filter(|duration| !duration.is_zero());
    if duration.is_none() {
        let help = "write a whole number greater than zero and one of ms, s, m, h, d, w, e.g. `30d`; \
            without `history` everything is kept";
        reporter.error_with_help(text.span, format!("`{}` is not a duration to keep values for", text.value), help);
    }
    duration
}

fn engine(raw: &RawEngine, reporter: &mut Reporter<'_>) -> EngineSettings {
    if check_type("engine", raw.r#type.as_ref(), "local", ENGINES_LATER, reporter) {
        refuse_key("scheduler", raw.scheduler.as_ref(), "the local engine has none: remove it", reporter);
    }
    let memory = raw.memory.as_ref().and_then(|text| positive(text, parse_bytes, BYTES_HELP, reporter));
    EngineSettings { memory }
}

/// Whether the type is the one that there is, which is also the default.
fn check_type(noun: &str, raw: Option<&Text>, only: &str, later: &[&str], reporter: &mut Reporter<'_>) -> bool {
    let Some(text) = raw.filter(|text| text.value != only) else { return true };
    if later.contains(&text.value.as_str()) {
        let version = env!("CARGO_PKG_VERSION");
        let message = format!("{noun} `{}` is not supported yet in this version ({version})", text.value);
        reporter.error_with_help(text.span, message, format!("use `type: {only}`, or a later version"));
    } else {
        let help = help_with_names(&text.value, &format!("{noun} types"), &[only]);
        reporter.error_with_help(text.span, format!("there is no {noun} `{}`", text.value), help);
    }
    false
}

fn refuse_key(key: &str, raw: Option<&Text>, help: &str, reporter: &mut Reporter<'_>) {
    if let Some(text) = raw {
        reporter.error_with_help(text.span, format!("`{key}` does not belong here"), help);
    }
}

fn server(raw: &RawServer, reporter: &mut Reporter<'_>) -> ServerSettings {
    let default = ServerSettings::default();
    let grpc = raw.grpc.as_ref().and_then(|text| address(text, reporter)).unwrap_or(default.grpc);
    let http = raw.http.as_ref().and_then(|text| address(text, reporter)).unwrap_or(default.http);
    if let (true, Some(text)) = (grpc == http && grpc.port() != 0, raw.http.as_ref().or(raw.grpc.as_ref())) {
        let help = "give one of them another port";
        reporter.error_with_help(text.span, format!("gRPC and HTTP both listen on {grpc}"), help);
    }
    let tls = raw.tls.as_ref().map(|raw| TlsSettings {
        cert: location(Some(&raw.cert), "", reporter),
        key: location(Some(&raw.key), "", reporter),
        client_ca: raw.client_ca.as_ref().map(|text| location(Some(text), "", reporter)),
    });
    let tokens = raw.auth.as_ref().map(|raw| location(Some(&raw.tokens), "", reporter));
    let limits = raw.limits.as_ref().map(|raw| limits(raw, reporter)).unwrap_or_default();
    let traces = raw.traces.as_ref().map(|raw| traces(raw, reporter)).unwrap_or_default();
    ServerSettings { grpc, http, tls, tokens, limits, traces }
}

fn traces(raw: &RawTraces, reporter: &mut Reporter<'_>) -> TracesSettings {
    let is_url =
        |text: &str| url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if let Some(text) = raw.endpoint.as_ref().filter(|text| !is_url(&text.value)) {
        let help = "write its base address, e.g. `http://127.0.0.1:4318`";
        reporter.error_with_help(text.span, format!("`{}` is not the address of a collector", text.value), help);
    }
    let share = |text: &Text| text.value.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    let sample = raw.sample.as_ref().and_then(|text| {
        let sample = share(text);
        if sample.is_none() {
            let help = "write a number from 0 to 1, e.g. `0.01`";
            reporter.error_with_help(text.span, format!("`{}` is not a share of requests", text.value), help);
        }
        sample
    });
    TracesSettings { endpoint: raw.endpoint.as_ref().map(|text| text.value.clone()), sample }
}

/// An address to listen on; `localhost` is 127.0.0.1, other names are not looked up.
fn address(text: &Text, reporter: &mut Reporter<'_>) -> Option<SocketAddr> {
    let localhost = |port: &str| port.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = match text.value.strip_prefix("localhost:") {
        Some(port) => localhost(port),
        None => text.value.parse().ok(),
    };
    if address.is_none() {
        let help = "write an IP address and a port, e.g. `127.0.0.1:6566`, or `0.0.0.0:6566` for all interfaces";
        reporter.error_with_help(text.span, format!("`{}` is not an address to listen on", text.value), help);
    }
    address
}

fn limits(raw: &RawLimits, reporter: &mut Reporter<'_>) -> Limits {
    let default = Limits::default();
    let number = |text: &str| text.replace('_', "").parse().ok();
    let mut limit = |text: &Option<Text>, parse: &dyn Fn(&str) -> Option<u64>, help, default| {
        let limit = text.as_ref().and_then(|text| positive(text, parse, help, reporter));
        limit.map_or(default, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    };
    let request_rows = limit(&raw.request_rows, &number, NUMBER_HELP, default.request_rows);
    let request_bytes = limit(&raw.request_bytes, &parse_bytes, BYTES_HELP, default.request_bytes);
    let request_features = limit(&raw.request_features, &number, NUMBER_HELP, default.request_features);
    let in_flight = limit(&raw.in_flight, &number, NUMBER_HELP, default.in_flight);
    let connections = limit(&raw.connections, &number, NUMBER_HELP, default.connections);
    let mut time = |text: &Option<Text>, default| match text {
        Some(text) => limit_of_time(text, reporter).unwrap_or(default),
        None => default,
    };
    let request_time = time(&raw.request_time, default.request_time);
    let queue_time = time(&raw.queue_time, default.queue_time);
    let drain_time = time(&raw.drain_time, default.drain_time);
    Limits {
        request_rows,
        request_bytes,
        request_features,
        request_time,
        in_flight,
        queue_time,
        connections,
        drain_time,
    }
}

fn limit_of_time(text: &Text, reporter: &mut Reporter<'_>) -> Option<Duration> {
    let duration = parse_duration(&text.value).ok().filter(|duration| !duration.is_zero());
    if duration.is_none() {
        let help = "write a whole number greater than zero and one of ms, s, m, h, d, w, e.g. `30s`";
        reporter.error_with_help(text.span, format!("`{}` cannot be this limit", text.value), help);
    }
    duration
}

const NUMBER_HELP: &str = "write a whole number greater than zero";
const BYTES_HELP: &str = "write a whole number greater than zero and perhaps one of KiB, MiB, GiB, TiB, kB, MB, GB, TB";

fn positive(text: &Text, parse: impl Fn(&str) -> Option<u64>, help: &str, reporter: &mut Reporter<'_>) -> Option<u64> {
    let number = parse(&text.value).filter(|number| *number > 0);
    if number.is_none() {
        reporter.error_with_help(text.span, format!("`{}` cannot be this limit", text.value), help);
    }
    number
}

const BYTE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Parses `4GiB`, `512 MB`, `1024`.
fn parse_bytes(text: &str) -> Option<u64> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(split);
    let factor = BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?.1;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
