//! Connections as they come in: bounded in number, over TLS where that is asked for, and closed when the other side is
//! gone without saying so.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::tls::{Protocol, Tls};

/// How long a caller may take to agree on how to encrypt.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a caller of HTTP/2 greets with, as RFC 9113 has it.
const GREETING_BYTES: usize = 24;
/// How long bytes may wait for a caller that does not take them, before the connection is closed.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long after a failure, such as having no more files to open, connections are taken again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are agreed on and wait to be served.
const READY_MAX: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
}

/// One caller's connection; it counts until it is dropped.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    greeting: Option<Greeting>,
    _permit: OwnedSemaphorePermit,
}

/// What a caller has to say before it is known to be one: whoever says nothing takes a place from others.
struct Greeting {
    missing: usize,
    until: Pin<Box<Sleep>>,
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
    protocol: Protocol,
    /// How long a caller of HTTP/2 may take to greet; HTTP/1.1 has a bound of its own.
    patience: Duration,
}

impl Connections {
    pub fn new(permits: &Arc<Semaphore>, protocol: Protocol, patience: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(READY_MAX);
        Connections { sender, receiver, permits: Arc::clone(permits), protocol, patience }
    }

    /// Takes the connections of a listener until nobody receives them.
    pub fn accept(&self, listener: TcpListener, tls: Option<Tls>) {
        let taker = Taker {
            tls,
            sender: self.sender.clone(),
            permits: Arc::clone(&self.permits),
            protocol: self.protocol,
            patience: self.patience,
        };
        tokio::spawn(taker.run(listener));
    }

    pub fn into_receiver(self) -> mpsc::Receiver<Connection> {
        self.receiver
    }
}

/// Takes the connections of one listener.
struct Taker {
    tls: Option<Tls>,
    sender: mpsc::Sender<Connection>,
    permits: Arc<Semaphore>,
    protocol: Protocol,
    patience: Duration,
}

impl Taker {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.sender.closed() => return,
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
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { continue };
            prepare(&stream);
            let sender = self.sender.clone();
            let greeting = (self.protocol == Protocol::Http2)
                .then(|| Greeting { missing: GREETING_BYTES, until: Box::pin(tokio::time::sleep(self.patience)) });
            let connection = move |stream| Connection { stream, peer: Peer { address }, greeting, _permit: permit };
            let Some(tls) = &self.tls else {
                if sender.send(connection(Stream::Plain(stream))).await.is_err() {
                    return;
                }
                continue;
            };
            let agreed = TlsAcceptor::from(tls.config(self.protocol)).accept(stream);
            // Agreeing on encryption holds up no other connection.
            tokio::spawn(async move {
                // Whoever does not speak TLS, or shows no certificate that is asked for, has been told so by it.
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_PATIENCE, agreed).await {
                    let _ = sender.send(connection(Stream::Tls(Box::new(stream)))).await;
                }
            });
        }
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
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(greeting) = &mut self.greeting {
            greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
            if greeting.missing == 0 {
                self.greeting = None;
            } else if read.is_pending() && greeting.until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
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
