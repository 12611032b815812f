//! Starting, running and ending the server.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::BuildError;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::TcpIncoming;

use super::admin::AdminService;
use super::grpc::FeatureStoreService;
use super::in_flight::{InFlight, bound_grpc};
use super::pb::admin_server::AdminServer;
use super::pb::feature_store_server::FeatureStoreServer;
use super::record::record_grpc;
use super::state::ServerState;
use super::{follow, http, pb, prediction};
use crate::error::ErrorKind;
use crate::metrics::{Metrics, UPKEEP_INTERVAL};

/// Bytes of a message that carries a piece of a spine, or an online request.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Port 0 takes any free one.
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "{address} is no loopback address; without tokens the server listens on loopback addresses only (--insecure overrides)"
    )]
    Exposed { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
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
            ServeError::Exposed { .. } => ErrorKind::Invalid,
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
    metrics: Metrics,
}

impl Server {
    /// # Errors
    /// An address that cannot be listened on, or that others could reach while nobody is asked for a token.
    pub async fn bind(state: Arc<ServerState>, options: ServerOptions, insecure: bool) -> Result<Self, ServeError> {
        for address in [options.grpc, options.http] {
            if !insecure && !address.ip().is_loopback() {
                return Err(ServeError::Exposed { address });
            }
        }
        let grpc = listen(options.grpc).await?;
        let http = listen(options.http).await?;
        let metrics = Metrics::install(state.online.clock.now())?;
        Ok(Server { state, grpc, http, metrics })
    }

    /// Where callers find the gRPC services.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Answers until `stop` resolves, then finishes the requests under way.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Server { state, grpc, http, metrics } = self;
        if let Err(error) = follow::follow_once(&state).await {
            tracing::warn!(error = error.as_ref(), "the registry cannot be followed");
        }
        let follower = tokio::spawn(follow::follow(Arc::clone(&state)));
        let model_follower = prediction::start_following(&state).await;
        let repair = Arc::clone(&state);
        state.workers.spawn(async move {
            // What a job committed and did not live to upload.
            if let Err(error) = repair.sync_online_store(&[]).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "online values are not up to their tables");
            }
        });
        let (stopping, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            stop.await;
            let _ = stopping.send(true);
        });
        let upkeep = tokio::spawn(keep_up(metrics.clone()));
        let service = FeatureStoreService { state: Arc::clone(&state) };
        let limits = &state.settings.server.limits;
        let in_flight = InFlight::new(limits.in_flight);
        let router = http::router(service.clone(), metrics, limits.request_bytes, in_flight.clone());
        let gateway = tokio::spawn(serve_http(http, router, stopped.clone()));
        serve_grpc(grpc, service, in_flight, stopped).await?;
        follower.abort();
        model_follower.abort();
        state.prediction.close().await;
        upkeep.abort();
        gateway.await.map_err(|error| ServeError::Http(std::io::Error::other(error)))?
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn serve_http(
    listener: TcpListener,
    router: Router,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<(), ServeError> {
    // Small answers go out at once instead of waiting for more to send.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    axum::serve(listener, router).with_graceful_shutdown(until(stopped)).await.map_err(ServeError::Http)
}

async fn serve_grpc(
    listener: TcpListener,
    service: FeatureStoreService,
    in_flight: InFlight,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let routes = grpc_routes(service).await?.into_axum_router();
    let bounded = routes.layer(from_fn_with_state(in_flight, bound_grpc));
    let recorded = Routes::from(bounded.layer(from_fn(record_grpc)));
    GrpcServer::builder()
        .add_routes(recorded.prepare())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), until(stopped))
        .await?;
    Ok(())
}

/// The services of the gRPC port.
async fn grpc_routes(service: FeatureStoreService) -> Result<Routes, ServeError> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<FeatureStoreServer<FeatureStoreService>>().await;
    health_reporter.set_serving::<AdminServer<AdminService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let admin = AdminServer::new(AdminService { state: Arc::clone(&service.state) });
    let (prediction, inference) = prediction::grpc_services(&service.state);
    let feature_store = FeatureStoreServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    Ok(Routes::new(health)
        .add_service(reflection().build_v1()?)
        // Older clients know the service by this version only.
        .add_service(reflection().build_v1alpha()?)
        .add_service(admin)
        .add_service(prediction)
        .add_service(inference)
        .add_service(feature_store))
}

/// Keeps what is recorded small until the server ends.
async fn keep_up(metrics: Metrics) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

async fn until(mut stopped: tokio::sync::watch::Receiver<bool>) {
    // An error means that the sender is gone, which only happens when the server ends.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
