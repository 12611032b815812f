//! Starting, running and ending the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::gauge;
use metrics_exporter_prometheus::BuildError;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server as GrpcServer;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::access::Access;
use super::admin::AdminService;
use super::entrance::EntranceLayer;
use super::grpc::FeatureStoreService;
use super::grpc_online::{GET_ONLINE_FEATURES, OnlineService};
use super::http::HttpEntrance;
use super::in_flight::InFlight;
use super::listen::{Connection, Connections};
use super::pb::admin_server::AdminServer;
use super::pb::feature_store_server::FeatureStoreServer;
use super::record::Recorder;
use super::state::ServerState;
use super::tls::{Protocol, Tls, TlsError, TlsFiles};
use super::tokens::{TokenError, random_token};
use super::traces::{Sending, Target, Tracer, TracesError};
use super::{follow, http, http_server, pb, prediction};
use crate::error::ErrorKind;
use crate::metrics::{Metrics, ONLINE_STORE, UPKEEP_INTERVAL};
use crate::settings::resolve;

/// Bytes of a message that carries a piece of a spine, or rows of a push.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long after values could not be brought up to their tables it is tried again.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(2);
/// How long requests under way may take once the server is to end.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Requests of one connection at once; more wait at the caller's side.
const CONNECTION_REQUESTS_MAX: u32 = 1024;
/// Bytes of requests that a connection may have sent and nobody has read: with less, requests wait at the caller's side
/// that are let in already.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How long a connection may be silent before it is asked whether it is there, or closed: at most this, and no longer than
/// a request may take.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const READINESS_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Port 0 takes any free one.
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Listen where others can call, though nobody is asked for a token.
    pub insecure: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "{address} is no loopback address; without tokens the server listens on loopback addresses only (`auth` of the settings asks for tokens, --insecure overrides)"
    )]
    Exposed { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Tokens(#[from] TokenError),
    #[error("requests cannot be traced")]
    Traces(#[from] TracesError),
    #[error("metrics cannot be recorded")]
    Metrics(#[from] BuildError),
    #[error("reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    #[error("the HTTP server failed")]
    Http(#[source] std::io::Error),
}

impl ServeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ServeError::Exposed { .. } | ServeError::Tls(_) | ServeError::Traces(_) => ErrorKind::Invalid,
            ServeError::Tokens(error) => error.kind(),
            ServeError::Listen { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

/// A server that listens and does not answer yet.
pub struct Server {
    state: Arc<ServerState>,
    grpc: TcpListener,
    http: TcpListener,
    /// Where commands on the same project call, without TLS; None: at `grpc`.
    own: Option<TcpListener>,
    tls: Option<Tls>,
    access: Access,
    /// The token of commands on the same project.
    own_token: Option<String>,
    metrics: Metrics,
    traces: (Tracer, Sending),
}

impl Server {
    /// # Errors
    /// An address that cannot be listened on, or that others could reach while nobody is asked for a token; files of
    /// certificates or tokens that are none.
    pub async fn bind(state: Arc<ServerState>, options: ServerOptions) -> Result<Self, ServeError> {
        let settings = &state.settings.server;
        for address in [options.grpc, options.http] {
            if address.ip().is_loopback() || options.insecure {
                continue;
            }
            if settings.tokens.is_none() {
                return Err(ServeError::Exposed { address });
            }
            if settings.tls.is_none() {
                tracing::warn!(%address, "tokens travel in the clear: set `tls`, or have something in front that does");
            }
        }
        let path = |text: &String| PathBuf::from(resolve(&state.batch.project, text));
        let tls = settings.tls.as_ref().map(|tls| {
            let (cert, key, client_ca) = (path(&tls.cert), path(&tls.key), tls.client_ca.as_ref().map(path));
            Tls::new(TlsFiles { cert, key, client_ca })
        });
        let tls = tls.transpose()?;
        let own_token = settings.tokens.as_ref().map(|_| random_token()).transpose()?;
        let access = match (&settings.tokens, &own_token) {
            (Some(tokens), Some(own)) => Access::by_tokens(path(tokens), own)?,
            _ => Access::open(),
        };
        let grpc = listen(options.grpc).await?;
        let http = listen(options.http).await?;
        let own = match tls {
            Some(_) => Some(listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?),
            None => None,
        };
        let metrics = Metrics::install(state.online.clock.now())?;
        let traces = tracer(&state)?;
        Ok(Server { state, grpc, http, own, tls, access, own_token, metrics, traces })
    }

    /// Where callers find the gRPC services.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where commands on the same project find the gRPC services, and the token that they send.
    pub fn own_address(&self) -> std::io::Result<(SocketAddr, Option<String>)> {
        let listener = self.own.as_ref().unwrap_or(&self.grpc);
        let mut address = listener.local_addr()?;
        if address.ip().is_unspecified() {
            // What listens everywhere is found on this machine, too.
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok((address, self.own_token.clone()))
    }

    /// Answers until `stop` resolves, then finishes the requests under way.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Server { state, grpc, http, own, tls, access, own_token: _, metrics, traces: (tracer, sending) } = self;
        if let Err(error) = follow::follow_once(&state).await {
            tracing::warn!(error = error.as_ref(), "the registry cannot be followed");
        }
        let (draining, is_draining) = watch::channel(false);
        let (stopping, stopped) = watch::channel(false);
        let drain_time = state.settings.server.limits.drain_time;
        tokio::spawn(async move {
            stop.await;
            let _ = draining.send(true);
            // Whoever sends callers here finds out meanwhile that the server is not ready.
            tokio::time::sleep(drain_time).await;
            let _ = stopping.send(true);
        });
        let following_tls = tls.clone().map(|tls| tokio::spawn(tls.follow()));
        let background = [
            tokio::spawn(follow::follow(Arc::clone(&state))),
            prediction::start_following(&state).await,
            tokio::spawn(access.clone().follow()),
            tokio::spawn(keep_up(metrics.clone(), Arc::clone(&state))),
        ];
        let repair = Arc::clone(&state);
        state.workers.spawn(async move {
            // What a job committed and did not live to upload, and what a replica's snapshot did not have.
            while repair.is_replica && repair.catalog().is_none() {
                tokio::time::sleep(CATCH_UP_INTERVAL).await;
            }
            while let Err(error) = repair.sync_online_store(&[]).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "online values are not up to their tables");
                if !repair.is_replica {
                    return;
                }
                tokio::time::sleep(CATCH_UP_INTERVAL).await;
            }
            repair.is_caught_up.store(true, Ordering::SeqCst);
        });
        let limits = &state.settings.server.limits;
        let connections = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let silence = limits.request_time.min(SILENCE_MAX);
        let connections = |protocol| Connections::new(&connections, protocol, silence);
        let (grpc_connections, http_connections) = (connections(Protocol::Http2), connections(Protocol::Http1));
        grpc_connections.accept(grpc, tls.clone());
        own.into_iter().for_each(|own| grpc_connections.accept(own, None));
        http_connections.accept(http, tls);

        let service = FeatureStoreService::new(Arc::clone(&state));
        let (in_flight, recorder, request_time) =
            (InFlight::new(limits), Arc::new(Recorder::new(tracer)), limits.request_time);
        let entrance = EntranceLayer {
            access: access.clone(),
            in_flight: in_flight.clone(),
            turns: Arc::clone(&state.turns),
            recorder: Arc::clone(&recorder),
            request_time,
        };
        let router = http::router(
            service.clone(),
            metrics,
            limits.request_bytes,
            HttpEntrance { access, in_flight, turns: Arc::clone(&state.turns), request_time },
            recorder,
            is_draining.clone(),
        );
        let gateway =
            tokio::spawn(http_server::serve(http_connections.into_receiver(), router, silence, stopped.clone()));
        let serving =
            serve_grpc(grpc_connections.into_receiver(), service, entrance, silence, is_draining, stopped.clone());
        let ended = async {
            until(stopped).await;
            tokio::time::sleep(END_PATIENCE).await;
        };
        tokio::select! {
            served = async { serving.await.map(|()| gateway) } => match served {
                Ok(gateway) => drop(tokio::time::timeout(END_PATIENCE, gateway).await),
                Err(error) => return Err(error),
            },
            () = ended => tracing::warn!("requests under way are cut off: they take longer than {END_PATIENCE:?}"),
        }
        background.iter().chain(&following_tls).for_each(tokio::task::JoinHandle::abort);
        sending.end().await;
        state.prediction.close().await;
        Ok(())
    }
}

/// Traces requests where settings or environment name a collector.
fn tracer(state: &ServerState) -> Result<(Tracer, Sending), ServeError> {
    let settings = &state.settings.server.traces;
    let target = match Target::new(settings, &|name| std::env::var(name).ok()) {
        Ok(target) => target,
        // Variables are set for many programs at once, and are no reason not to serve.
        Err(error) if settings.endpoint.is_none() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "requests are not traced");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let Some(target) = target else { return Ok(Tracer::none()) };
    Ok(Tracer::start(target, &state.settings.project, Arc::clone(&state.online.clock), &state.workers)?)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn serve_grpc(
    connections: mpsc::Receiver<Connection>,
    service: FeatureStoreService,
    entrance: EntranceLayer,
    silence: Duration,
    is_draining: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let routes = grpc_routes(service, is_draining).await?.prepare();
    GrpcServer::builder()
        .max_concurrent_streams(CONNECTION_REQUESTS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // Many callers of one connection may give up at once.
        .http2_max_pending_accept_reset_streams(Some(CONNECTION_REQUESTS_MAX as usize))
        .http2_keepalive_interval(Some(silence))
        .http2_keepalive_timeout(Some(silence))
        .layer(entrance)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections).map(Ok::<_, std::io::Error>), until(stopped))
        .await?;
    Ok(())
}

/// Tells probes whether requests are answered: from when definitions are applied until the server is to end.
async fn report_readiness(reporter: HealthReporter, state: Arc<ServerState>, stopped: watch::Receiver<bool>) {
    loop {
        let status = match state.catalog().is_some() && !*stopped.borrow() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status(<FeatureStoreServer<FeatureStoreService> as NamedService>::NAME, status).await;
        if *stopped.borrow() {
            reporter.set_service_status("", ServingStatus::NotServing).await;
            return;
        }
        let _ = tokio::time::timeout(READINESS_INTERVAL, until(stopped.clone())).await;
    }
}

/// The services of the gRPC port.
async fn grpc_routes(service: FeatureStoreService, stopped: watch::Receiver<bool>) -> Result<Routes, ServeError> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<AdminServer<AdminService>>().await;
    tokio::spawn(report_readiness(health_reporter, Arc::clone(&service.state), stopped));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let admin = AdminServer::new(AdminService { state: Arc::clone(&service.state) });
    let (prediction, inference) = prediction::grpc_services(&service.state);
    let message_bytes_max = service.state.settings.server.limits.request_bytes;
    let online = OnlineService { feature_store: service.clone(), message_bytes_max };
    let feature_store = FeatureStoreServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let mut routes = Routes::new(health)
        .add_service(reflection().build_v1()?)
        // Older clients know the service by this version only.
        .add_service(reflection().build_v1alpha()?)
        .add_service(admin)
        .add_service(prediction)
        .add_service(inference)
        .add_service(feature_store);
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route_service(GET_ONLINE_FEATURES, online);
    Ok(routes)
}

/// Keeps what is recorded small, and records what the store tells, until the server ends.
async fn keep_up(metrics: Metrics, state: Arc<ServerState>) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
        for (what, number) in state.online.store.numbers() {
            gauge!(ONLINE_STORE, "what" => what).set(number as f64);
        }
    }
}

async fn until(mut stopped: tokio::sync::watch::Receiver<bool>) {
    // An error means that the sender is gone, which only happens when the server ends.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
