//! Counts every answered request and measures how long its answer took, over gRPC and HTTP alike.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;
use metrics::{counter, histogram};
use tonic::{Code, Status};

use super::watched_body::{Watch, watched};
use crate::metrics::{REQUEST_LATENCY_SECONDS, REQUESTS_TOTAL};

/// The label of requests whose path is none of ours: callers may send any.
const UNKNOWN: &str = "unknown";

/// Records a request to the gateway: `POST /v1/get-online-features`, and its HTTP status.
pub(super) async fn record_http(request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = path.map_or_else(|| UNKNOWN.to_owned(), |path| format!("{} {path}", request.method()));
    let response = next.run(request).await;
    let code = response.status().as_u16().to_string();
    watched(response, Recording { arrived, method, code })
}

/// Records a gRPC call: `asof.v1.FeatureStore/GetOnlineFeatures`, and the name of its status code.
pub(super) async fn record_grpc(request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let response = next.run(request).await;
    // A status among the headers is all there is; else it follows the messages.
    let code = grpc_code(response.headers()).unwrap_or("CANCELLED");
    let method = if code == "UNIMPLEMENTED" { UNKNOWN.to_owned() } else { method };
    watched(response, Recording { arrived, method, code: code.to_owned() })
}

fn grpc_code(headers: &HeaderMap) -> Option<&'static str> {
    Status::from_header_map(headers).map(|status| code_name(status.code()))
}

/// What the gRPC specification calls a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A request whose answer is under way.
struct Recording {
    arrived: Instant,
    method: String,
    code: String,
}

impl Drop for Recording {
    /// The answer has been sent, or whoever asked has gone.
    fn drop(&mut self) {
        let (method, code) = (std::mem::take(&mut self.method), std::mem::take(&mut self.code));
        histogram!(REQUEST_LATENCY_SECONDS, "method" => method.clone()).record(self.arrived.elapsed());
        counter!(REQUESTS_TOTAL, "method" => method, "code" => code).increment(1);
    }
}

impl Watch for Recording {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(code) = frame.trailers_ref().and_then(grpc_code) {
            code.clone_into(&mut self.code);
        }
    }
}
