//! Connections as they come in: bounded in number, over TLS where that is asked for, and closed when the other side is
//! gone without saying so.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// How long a caller may take to agree on how to encrypt.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long bytes may wait for a caller that does not take them, before the connection is closed.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long after a failure, such as having no more files to open, connections are taken again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are agreed on and wait to be served.
const READY_MAX: usize = 64;

/// A file that TLS needs.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path} cannot be used: {problem}")]
pub struct TlsError {
    what: &'static str,
    path: String,
    problem: String,
}

/// How to encrypt.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// `protocol`: `h2` or `http/1.1`. With `client_ca` callers have to show a certificate that it signed.
    ///
    /// # Errors
    /// Files that cannot be read, or hold no certificates or key, or a key of another certificate.
    pub fn new(cert: &Path, key: &Path, client_ca: Option<&Path>, protocol: &str) -> Result<Self, TlsError> {
        let error = |what, path: &Path, problem: String| TlsError { what, path: path.display().to_string(), problem };
        let certificates = read_certificates(cert).map_err(|problem| error("the certificate", cert, problem))?;
        // What is wrong with a key is told without any of it.
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|_| error("the key", key, "it holds no private key in PEM, or cannot be read".to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|problem| error("the certificate", cert, problem.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let failed = |problem: String| error("the certificate of those who sign callers'", path, problem);
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(path).map_err(failed)? {
                    roots.add(certificate).map_err(|problem| failed(problem.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|problem| failed(problem.to_string()))?)
            }
        };
        let config = builder.with_single_cert(certificates, secret);
        let mut config = config.map_err(|problem| error("the certificate", cert, problem.to_string()))?;
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(Tls(Arc::new(config)))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(certificates) }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
}

/// One caller's connection; it counts until it is dropped.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections of one or more listeners, as they are agreed on.
pub struct Connections {
    sender: mpsc::Sender<Connection>,
    receiver: mpsc::Receiver<Connection>,
    /// How many may be open.
    permits: Arc<Semaphore>,
}

impl Connections {
    pub fn new(permits: &Arc<Semaphore>) -> Self {
        let (sender, receiver) = mpsc::channel(READY_MAX);
        Connections { sender, receiver, permits: Arc::clone(permits) }
    }

    /// Takes the connections of a listener until nobody receives them.
    pub fn accept(&self, listener: TcpListener, tls: Option<Tls>) {
        tokio::spawn(accept(listener, tls, self.sender.clone(), Arc::clone(&self.permits)));
    }

    pub fn into_receiver(self) -> mpsc::Receiver<Connection> {
        self.receiver
    }
}

async fn accept(listener: TcpListener, tls: Option<Tls>, sender: mpsc::Sender<Connection>, permits: Arc<Semaphore>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed at once, which tells its caller more than silence.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        prepare(&stream);
        let peer = Peer { address };
        let Some(Tls(config)) = tls.clone() else {
            let connection = Connection { stream: Stream::Plain(stream), peer, _permit: permit };
            if sender.send(connection).await.is_err() {
                return;
            }
            continue;
        };
        let sender = sender.clone();
        // Agreeing on encryption holds up no other connection.
        tokio::spawn(async move {
            let agreed = TlsAcceptor::from(config).accept(stream);
            // Whoever does not speak TLS, or shows no certificate that is asked for, has been told so by it.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_PATIENCE, agreed).await {
                let stream = Stream::Tls(Box::new(stream));
                let _ = sender.send(Connection { stream, peer, _permit: permit }).await;
            }
        });
    }
}

/// Small answers go out at once, and a caller that is gone without a word is found out.
fn prepare(stream: &TcpStream) {
    // A connection without them works as well.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let set = |level, name, value: libc::c_int| {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the descriptor is open, and the option is one number of this size.
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size) }
        };
        set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, UNREAD_PATIENCE.as_secs() as libc::c_int);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5);
        set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, UNREAD_PATIENCE.as_millis() as libc::c_int);
    }
}

impl Connection {
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
