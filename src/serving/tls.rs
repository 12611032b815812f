//! How connections are encrypted, by files that may be replaced while the server runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

/// How soon a file that was changed is read again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// A file that TLS needs.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path} cannot be used: {problem}")]
pub struct TlsError {
    what: &'static str,
    path: String,
    problem: String,
}

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates of callers; None: they need none.
    pub client_ca: Option<PathBuf>,
}

/// How to encrypt connections that begin now.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// Files that cannot be read, or hold no certificates or key, or a key of another certificate.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let config = Arc::new(ArcSwap::from_pointee(files.read()?));
        Ok(Tls { files: Arc::new(files), config })
    }

    pub fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config.load());
        let name: &[u8] = match protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        config.alpn_protocols = vec![name.to_vec()];
        Arc::new(config)
    }

    /// Reads the files again whenever one changes. What is wrong leaves the connections that begin as they were, and is
    /// tried again: a certificate may be there before its key.
    pub async fn follow(self) {
        // What changed while the server started is read, too.
        let (mut known, mut is_used) = (None, false);
        loop {
            let found = self.files.changed_at();
            let is_new = known.as_ref() != Some(&found);
            if is_new || !is_used {
                match self.files.read() {
                    Ok(config) => {
                        self.config.store(Arc::new(config));
                        if known.is_some() {
                            tracing::info!(cert = %self.files.cert.display(), "new connections use new certificates");
                        }
                        is_used = true;
                    }
                    Err(error) => {
                        if is_new {
                            tracing::error!(error = &error as &dyn std::error::Error, "certificates stay as they were");
                        }
                        is_used = false;
                    }
                }
                known = Some(found);
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

impl TlsFiles {
    /// When each file was changed, and its length; None: it is not there.
    fn changed_at(&self) -> Vec<Option<(SystemTime, u64)>> {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok();
        paths.into_iter().flatten().map(changed).collect()
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let TlsFiles { cert, key, client_ca } = self;
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
        config.map_err(|problem| error("the certificate", cert, problem.to_string()))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(certificates) }
}
