//! Counts every answered request and measures how long its answer took, over gRPC and HTTP alike.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;
use metrics::{Counter, Histogram, counter, histogram};
use tonic::{Code, Status};

use super::calls::{CALLS, Call};
use super::http::called;
use super::traces::{RequestTrace, Tracer};
use super::watched_body::{Watch, watched};
use crate::metrics::{REQUEST_LATENCY_SECONDS, REQUESTS_TOTAL};
use crate::trace::{Trace, within};

/// The label of requests whose path is none of ours: callers may send any.
const UNKNOWN: &str = "unknown";

/// What is recorded of each call, with its labels looked up once.
pub(super) struct Recorder {
    calls: HashMap<&'static str, CallMetrics>,
    tracer: Tracer,
}

#[derive(Clone)]
struct CallMetrics {
    latency: Histogram,
    /// Answers of the usual code.
    answered: Counter,
}

impl Recorder {
    /// After the recorder of the process is installed.
    pub fn new(tracer: Tracer) -> Self {
        let metrics = |call: &Call| {
            let usual = usual_code(call.name);
            let latency = histogram!(REQUEST_LATENCY_SECONDS, "method" => call.name);
            (
                call.name,
                CallMetrics { latency, answered: counter!(REQUESTS_TOTAL, "method" => call.name, "code" => usual) },
            )
        };
        Recorder { calls: CALLS.iter().map(metrics).collect(), tracer }
    }

    /// Of a call that begins; of an unknown one none of its name is kept, because callers may send any.
    pub fn begin(&self, call: Option<&'static Call>, headers: &HeaderMap, arrived: Instant) -> Recording {
        let known = call.and_then(|call| Some((call.name, self.calls.get(call.name)?.clone())));
        // What is answered always, such as probes, is not worth a trace.
        let trace = call.filter(|call| call.is_bounded).and_then(|_| self.tracer.begin(headers, arrived));
        Recording { arrived, known, code: Cow::Borrowed("CANCELLED"), trace }
    }
}

fn usual_code(name: &str) -> &'static str {
    if name.contains(' ') { "200" } else { "OK" }
}

/// Records a request to the gateway: `POST /v1/get-online-features`, and its HTTP status.
pub(super) async fn record_http(State(recorder): State<Arc<Recorder>>, request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let mut recording = recorder.begin(called(&request), request.headers(), arrived);
    let response = within(recording.trace(), next.run(request)).await;
    recording.code = Cow::Owned(response.status().as_u16().to_string());
    watched(response, recording)
}

pub(super) fn grpc_code(headers: &HeaderMap) -> Option<&'static str> {
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
pub(super) struct Recording {
    arrived: Instant,
    known: Option<(&'static str, CallMetrics)>,
    code: Cow<'static, str>,
    trace: Option<RequestTrace>,
}

impl Recording {
    /// What the stages of the request are noted in, if it is traced.
    pub fn trace(&self) -> Option<Arc<Trace>> {
        self.trace.as_ref().map(|trace| Arc::clone(&trace.noted))
    }

    pub fn set_code(&mut self, code: &'static str) {
        self.code = Cow::Borrowed(code);
    }
}

impl Drop for Recording {
    /// The answer has been sent, or whoever asked has gone.
    fn drop(&mut self) {
        let elapsed = self.arrived.elapsed();
        if let (Some(trace), Some((call, _))) = (self.trace.take(), &self.known) {
            trace.finish(call, &self.code);
        }
        match &self.known {
            Some((name, metrics)) => {
                metrics.latency.record(elapsed);
                if self.code == usual_code(name) {
                    metrics.answered.increment(1);
                } else {
                    counter!(REQUESTS_TOTAL, "method" => *name, "code" => self.code.to_string()).increment(1);
                }
            }
            None => {
                histogram!(REQUEST_LATENCY_SECONDS, "method" => UNKNOWN).record(elapsed);
                counter!(REQUESTS_TOTAL, "method" => UNKNOWN, "code" => self.code.to_string()).increment(1);
            }
        }
    }
}

impl Watch for Recording {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(code) = frame.trailers_ref().and_then(grpc_code) {
            self.set_code(code);
        }
    }
}
