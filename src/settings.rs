//! `asof.yaml`: what a project may tune, read into plain values with the embedded defaults.

mod interpolate;
mod raw;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::diagnostics::{Diagnostics, Reporter};

/// The configuration of a project; paths and URLs are as written, see [`resolve`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub project: String,
    /// Folder or object-store URL.
    pub registry: String,
    /// Folder or object-store URL.
    pub offline_store: String,
    pub online_store: OnlineStoreSettings,
    pub engine: EngineSettings,
    pub server: ServerSettings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnlineStoreSettings {
    Rocksdb {
        path: String,
        /// How long values stay readable after a newer one came; None: for ever.
        history: Option<Duration>,
        /// Bytes of stored blocks that are kept in memory.
        block_cache: usize,
        /// Bytes of rows that a server keeps in memory, in front of the blocks.
        row_cache: usize,
    },
}

/// Where batch jobs run: in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineSettings {
    /// Bytes that a job may hold before it spills to disk; None: the engine's own choice.
    pub memory: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub tls: Option<TlsSettings>,
    /// The file of tokens, as written; None: nobody is asked for one.
    pub tokens: Option<String>,
    pub limits: Limits,
    pub traces: TracesSettings,
}

/// Files of certificates and keys, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert: String,
    pub key: String,
    /// Who signs the certificates of callers; None: callers need none.
    pub client_ca: Option<String>,
}

/// Where traces of requests go, and how many.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TracesSettings {
    /// The base address of an OpenTelemetry collector; None: what the environment says.
    pub endpoint: Option<String>,
    /// Share of the requests that no caller has made part of a trace.
    pub sample: Option<f64>,
}

/// What one request, and all of them together, may ask of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub request_rows: usize,
    pub request_bytes: usize,
    /// Columns of one answer.
    pub request_features: usize,
    /// How long an online request may take, and how long any caller may keep the server waiting for its next bytes.
    pub request_time: Duration,
    /// Requests that are worked on at once.
    pub in_flight: usize,
    /// How long a request waits for its turn before those who come last go before it.
    pub queue_time: Duration,
    /// Connections that are open at once, over gRPC and over HTTP.
    pub connections: usize,
    /// How long a server that is asked to end goes on as before, but for saying that it is not ready.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_rows: 10_000,
            request_bytes: 16 << 20,
            request_features: 10_000,
            request_time: Duration::from_secs(30),
            in_flight: 1024,
            queue_time: Duration::from_millis(20),
            connections: 10_000,
            drain_time: Duration::ZERO,
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        ServerSettings {
            grpc: loopback(6566),
            http: loopback(6567),
            tls: None,
            tokens: None,
            limits: Limits::default(),
            traces: TracesSettings::default(),
        }
    }
}

impl Default for OnlineStoreSettings {
    fn default() -> Self {
        OnlineStoreSettings::Rocksdb {
            path: ONLINE_PATH.to_owned(),
            history: None,
            block_cache: BLOCK_CACHE_BYTES,
            row_cache: ROW_CACHE_BYTES,
        }
    }
}

const BLOCK_CACHE_BYTES: usize = 256 << 20;
const ROW_CACHE_BYTES: usize = 256 << 20;
const REGISTRY_PATH: &str = "state/registry";
const OFFLINE_PATH: &str = "state/offline";
const ONLINE_PATH: &str = "state/online";

impl Settings {
    /// The settings of a file that says nothing but the project's name.
    pub fn of_project(project: &str) -> Self {
        Settings {
            project: project.to_owned(),
            registry: REGISTRY_PATH.to_owned(),
            offline_store: OFFLINE_PATH.to_owned(),
            online_store: OnlineStoreSettings::default(),
            engine: EngineSettings::default(),
            server: ServerSettings::default(),
        }
    }

    /// Parses the text of an `asof.yaml`; `path` is for messages.
    ///
    /// In values, `${NAME}` stands for the variable of that name in `environment`, and `${NAME:-default}` for the
    /// default where it is unset or empty. `$${` stands for `${`; any other `$` for itself.
    ///
    /// # Errors
    /// All that is wrong, with positions.
    pub fn parse(
        text: &str,
        path: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Settings, Diagnostics> {
        let mut reporter = Reporter::default();
        let file = reporter.add_file(path, text);
        let settings = raw::parse_settings(file, environment, &mut reporter);
        reporter.finish()?;
        Ok(settings.expect("what cannot be read is reported"))
    }
}

/// Where a location of the settings or of a source is: relative paths are relative to the project's folder; URLs
/// (`scheme://…`) and absolute paths stay as they are.
pub fn resolve(base: &Path, location: &str) -> String {
    let scheme = location.split_once("://").map(|(scheme, _)| scheme);
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    if scheme.is_some_and(is_scheme) {
        return location.to_owned();
    }
    without_parents(&base.join(location)).to_string_lossy().into_owned()
}

/// The path without `..`, which no object store knows.
fn without_parents(path: &Path) -> PathBuf {
    if !path.components().any(|part| part == Component::ParentDir) {
        return path.to_owned();
    }
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if whole.has_root() || whole.file_name().is_some() => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    whole
}
