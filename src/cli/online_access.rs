//! The online store belongs to the server while one runs; else to whoever opens it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::error::CliError;
use super::project::Project;
use crate::online_store::{OnlineStore, OnlineStoreError, RocksDbOnlineStore, RocksDbOptions};
use crate::settings::{OnlineStoreSettings, resolve};
use crate::time::SystemClock;

/// How long a command waits for another one to let go of the store.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to take a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to say that it is there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How often a server is asked whether it is still there, so that a call without a deadline ends when it is not.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a call may take that only reads what is known.
const READ_DEADLINE: Duration = Duration::from_secs(60);

/// Who reads and writes the online values.
pub enum OnlineAccess {
    Store(Arc<dyn OnlineStore>),
    Server(Channel),
}

/// Where the running server listens; written beside the store it owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerAddress {
    pub grpc: String,
    pub http: String,
    pub process: u32,
}

impl Project {
    fn online_store_path(&self) -> PathBuf {
        let OnlineStoreSettings::Rocksdb { path, .. } = &self.settings.online_store;
        PathBuf::from(resolve(&self.folder, path))
    }

    fn server_address_path(&self) -> PathBuf {
        self.online_store_path().with_extension("server.json")
    }

    /// The folder of the log of streams, beside the store.
    pub fn stream_log_path(&self) -> PathBuf {
        self.online_store_path().with_extension("push")
    }

    /// Whether an online store was ever opened here.
    pub fn has_online_store(&self) -> bool {
        self.online_store_path().exists()
    }

    /// # Errors
    /// [`OnlineStoreError::Locked`] while another process has it.
    pub fn open_online_store(&self) -> Result<Arc<dyn OnlineStore>, OnlineStoreError> {
        let OnlineStoreSettings::Rocksdb { history, .. } = self.settings.online_store;
        let options = RocksDbOptions { history, ..RocksDbOptions::new(self.online_store_path()) };
        Ok(Arc::new(RocksDbOnlineStore::open(&options, Arc::new(SystemClock))?))
    }

    /// The store, or the server that has it; waits for other commands to let go of it.
    pub async fn online_access(&self) -> Result<OnlineAccess, CliError> {
        let started = Instant::now();
        loop {
            let locked = match self.open_online_store() {
                Ok(store) => return Ok(OnlineAccess::Store(store)),
                Err(error @ OnlineStoreError::Locked { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if let Some(address) = self.server_address() {
                match connect(&address.grpc).await {
                    Ok(channel) => return Ok(OnlineAccess::Server(channel)),
                    Err(error @ CliError::NoAnswer { .. }) => return Err(error),
                    // A server that ended without removing its address.
                    Err(_) => {}
                }
            }
            if started.elapsed() > PATIENCE {
                return Err(locked.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a server wrote that may or may not run any more.
    pub fn server_address(&self) -> Option<ServerAddress> {
        let text = std::fs::read_to_string(self.server_address_path()).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub fn write_server_address(&self, address: &ServerAddress) -> std::io::Result<()> {
        std::fs::write(self.server_address_path(), serde_json::to_vec_pretty(address)?)
    }

    pub fn remove_server_address(&self) {
        // A file left behind names a server that does not answer, which is what a crash leaves too.
        let _ = std::fs::remove_file(self.server_address_path());
    }
}

/// Connects to a server's gRPC port, and hears from it.
///
/// # Errors
/// [`CliError::Unreachable`], or [`CliError::NoAnswer`]: the system takes connections for a process that is stopped.
pub async fn connect(address: &str) -> Result<Channel, CliError> {
    let unreachable = |source| CliError::Unreachable { address: address.to_owned(), source };
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)
        .map_err(unreachable)?
        .connect_timeout(CONNECT_PATIENCE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(unreachable)?;
    let mut health = HealthClient::new(channel.clone());
    match tokio::time::timeout(ANSWER_PATIENCE, health.check(HealthCheckRequest::default())).await {
        // Any answer is one: what it serves is for the call to find out.
        Ok(_) => Ok(channel),
        Err(_) => Err(CliError::NoAnswer { address: address.to_owned(), patience: ANSWER_PATIENCE }),
    }
}

/// A request that is given up when it takes longer than reading takes.
pub fn read_request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(READ_DEADLINE);
    request
}
