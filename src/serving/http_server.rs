//! The connections of the HTTP gateway, one task each.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower::Service;

use super::listen::Connection;

/// Serves connections until `stopped`, then lets the requests under way finish.
///
/// `patience`: how long a caller may take to send the head of a request, or the next one on its connection.
pub(super) async fn serve(
    mut connections: mpsc::Receiver<Connection>,
    router: Router,
    patience: Duration,
    stopped: watch::Receiver<bool>,
) {
    let mut open = JoinSet::new();
    let mut stopping = stopped.clone();
    loop {
        tokio::select! {
            connection = connections.recv() => match connection {
                Some(connection) => drop(open.spawn(serve_connection(connection, router.clone(), patience, stopped.clone()))),
                None => break,
            },
            // An error means that the server ends.
            _ = stopping.wait_for(|stopped| *stopped) => break,
            Some(_) = open.join_next() => {}
        }
    }
    drop(connections);
    while open.join_next().await.is_some() {}
}

async fn serve_connection(
    connection: Connection,
    router: Router,
    patience: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    let peer = connection.peer();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    // A connection that breaks has nobody left to tell.
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
