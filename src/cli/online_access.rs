//! The online store belongs to the server while one runs; else to whoever opens it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::error::CliError;
use super::project::Project;
use crate::online_store::{
    OnlineStore, OnlineStoreError, RocksDbOnlineStore, RocksDbOptions, RowCache, checkpoint_path,
};
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
    Server(Connection),
}

/// A server, and the token that calls of it carry.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Adds the caller's token to each call.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// # Errors
    /// A text that cannot travel in a header.
    fn new(token: Option<&str>) -> Result<Self, CliError> {
        let value = token.map(|token| MetadataValue::try_from(format!("Bearer {token}"))).transpose();
        let mut value = value.map_err(|_| CliError::Usage("the token has characters that none has".to_owned()))?;
        // It is not to be seen where calls are printed.
        value.iter_mut().for_each(|value| value.set_sensitive(true));
        Ok(Bearer(value))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The token of callers that name a server.
const TOKEN_VARIABLE: &str = "ASOF_TOKEN";
/// Certificates in PEM of who signs the server's, for addresses that begin with https.
const CA_VARIABLE: &str = "ASOF_CA";
/// The caller's own certificate and key, for a server that asks for one.
const CERT_VARIABLE: &str = "ASOF_CERT";
const KEY_VARIABLE: &str = "ASOF_KEY";

/// Where the running server listens; written beside the store it owns.
#[derive(Clone, Serialize, Deserialize)]
pub struct ServerAddress {
    pub grpc: String,
    pub http: String,
    /// Where commands on the same project call, with this token.
    pub own: String,
    pub token: Option<String>,
    pub process: u32,
}

/// A server, and the token to call it with; None: that of the environment.
pub struct ServerToCall {
    address: String,
    token: Option<String>,
}

impl ServerToCall {
    /// # Errors
    /// As of [`connect`].
    pub async fn connect(&self) -> Result<Connection, CliError> {
        match &self.token {
            Some(token) => connect_with(&self.address, Some(token)).await,
            None => connect(&self.address).await,
        }
    }
}

impl Project {
    pub fn new_checkpoint_path(&self) -> PathBuf {
        checkpoint_path(&self.online_store_path())
    }

    pub fn online_store_path(&self) -> PathBuf {
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
        Ok(Arc::new(self.open_online_store_at(self.online_store_path())?))
    }

    /// A store in another place, with the project's settings.
    ///
    /// # Errors
    /// As of [`Self::open_online_store`].
    pub fn open_online_store_at(&self, path: PathBuf) -> Result<RocksDbOnlineStore, OnlineStoreError> {
        let OnlineStoreSettings::Rocksdb { history, block_cache, .. } = self.settings.online_store;
        let options = RocksDbOptions { path, history, block_cache_bytes: block_cache };
        RocksDbOnlineStore::open(&options, Arc::new(SystemClock))
    }

    /// The store with what is asked for often kept in memory, for a server.
    ///
    /// # Errors
    /// As of [`Self::open_online_store`].
    pub fn serving_store(&self) -> Result<Arc<dyn OnlineStore>, OnlineStoreError> {
        let OnlineStoreSettings::Rocksdb { row_cache, .. } = self.settings.online_store;
        Ok(Arc::new(RowCache::new(self.open_online_store()?, row_cache)))
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
                match connect_with(&address.own, address.token.as_deref()).await {
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

    /// The server at an address, or without one that which runs on the project.
    pub fn server_to_call(&self, address: Option<&str>) -> ServerToCall {
        match (address, self.server_address()) {
            (Some(address), _) => ServerToCall { address: address.to_owned(), token: None },
            (None, Some(running)) => ServerToCall { address: running.own, token: running.token },
            (None, None) => ServerToCall { address: self.settings.server.grpc.to_string(), token: None },
        }
    }

    /// What a server wrote that may or may not run any more.
    pub fn server_address(&self) -> Option<ServerAddress> {
        let text = std::fs::read_to_string(self.server_address_path()).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Nobody but the owner of the store may read it: it holds a token.
    pub fn write_server_address(&self, address: &ServerAddress) -> std::io::Result<()> {
        let path = self.server_address_path();
        // One that is there keeps who may read it.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?.write_all(&serde_json::to_vec_pretty(address)?)
    }

    pub fn remove_server_address(&self) {
        // A file left behind names a server that does not answer, which is what a crash leaves too.
        let _ = std::fs::remove_file(self.server_address_path());
    }
}

/// Connects to a server's gRPC port, and hears from it; calls carry the token of the environment.
///
/// # Errors
/// [`CliError::Unreachable`], or [`CliError::NoAnswer`]: the system takes connections for a process that is stopped.
pub async fn connect(address: &str) -> Result<Connection, CliError> {
    let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
    connect_with(address, token.as_deref()).await
}

async fn connect_with(address: &str, token: Option<&str>) -> Result<Connection, CliError> {
    let bearer = Bearer::new(token)?;
    let unreachable = |source| CliError::Unreachable { address: address.to_owned(), source };
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let is_encrypted = url.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(url)
        .map_err(unreachable)?
        .connect_timeout(CONNECT_PATIENCE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if is_encrypted {
        endpoint = endpoint.tls_config(client_tls()?).map_err(unreachable)?;
    }
    let channel = endpoint.connect().await.map_err(unreachable)?;
    let mut health = HealthClient::with_interceptor(channel.clone(), bearer.clone());
    match tokio::time::timeout(ANSWER_PATIENCE, health.check(HealthCheckRequest::default())).await {
        // Any answer is one: what it serves is for the call to find out.
        Ok(_) => Ok(InterceptedService::new(channel, bearer)),
        Err(_) => Err(CliError::NoAnswer { address: address.to_owned(), patience: ANSWER_PATIENCE }),
    }
}

/// # Errors
/// Files of the environment's variables that cannot be read.
fn client_tls() -> Result<ClientTlsConfig, CliError> {
    // Several are built in, of which this is ours; an error says that one was chosen before.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let read = |variable: &str| match std::env::var(variable) {
        Ok(path) if !path.is_empty() => {
            let failed = |source| CliError::Io { action: format!("read {path} ({variable})"), source };
            std::fs::read(&path).map(Some).map_err(failed)
        }
        _ => Ok(None),
    };
    let mut tls = ClientTlsConfig::new();
    if let Some(authorities) = read(CA_VARIABLE)? {
        tls = tls.ca_certificate(Certificate::from_pem(authorities));
    }
    if let (Some(cert), Some(key)) = (read(CERT_VARIABLE)?, read(KEY_VARIABLE)?) {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Ok(tls)
}

/// A request that is given up when it takes longer than reading takes.
pub fn read_request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(READ_DEADLINE);
    request
}
