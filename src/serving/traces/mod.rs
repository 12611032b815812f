//! Traces of requests for an OpenTelemetry collector.
//!
//! ```text
//! request ──► Tracer::begin: part of the caller's trace, or of one of our own for a share of requests
//!                │ stages are noted on the way (crate::trace)
//!                ▼
//!             RequestTrace::finish ──► queue of a fixed length ──► export.rs ──► OTLP over HTTP
//! ```
//!
//! A request never waits for a collector: what the queue has no place for is dropped, and counted.

mod context;
mod export;
mod otlp;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_128_with_seed;

pub use self::export::{Target, TracesError};

use self::context::ParentContext;
use self::export::{Exporter, count_dropped};
use self::otlp::{KeyValue, Span, SpanKind, Status, StatusCode};
use crate::time::{Clock, EventTimestamp};
use crate::trace::{Stage, Trace};

/// Traces that wait to be sent.
const QUEUE_TRACES: usize = 2048;
/// How long the last traces may take to be sent, once the server ends.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// The caller's trace is known to come from elsewhere: `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE` and `…_IS_REMOTE`, sampled.
const FLAGS_OF_REMOTE_PARENT: u32 = 0x301;
const FLAGS_SAMPLED: u32 = 1;

/// Begins traces, and sends them.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Sampler>>);

struct Sampler {
    /// A trace of our own is one whose id ends in a number below this, of 2^63.
    sampled_below: u64,
    seed: u64,
    begun: AtomicU64,
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<Vec<Span>>,
}

/// One request that is traced.
pub struct RequestTrace {
    pub noted: Arc<Trace>,
    parent: Option<ParentContext>,
    trace_id: u128,
    span_id: u64,
    arrived: Instant,
    arrived_at: EventTimestamp,
    sampler: Arc<Sampler>,
}

/// Sends what is queued; ends when nobody traces any more.
pub struct Sending(Option<JoinHandle<()>>);

impl Sending {
    /// Waits for the last traces, for a moment.
    pub async fn end(self) {
        if let Some(sending) = self.0 {
            let abort = sending.abort_handle();
            if tokio::time::timeout(END_PATIENCE, sending).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Tracer {
    /// Traces requests for a collector, on threads that answer none.
    ///
    /// # Errors
    /// A collector that cannot be called, whatever its state.
    pub fn start(
        target: Target,
        project: &str,
        clock: Arc<dyn Clock>,
        workers: &Handle,
    ) -> Result<(Self, Sending), TracesError> {
        let (queue, waiting) = mpsc::channel(QUEUE_TRACES);
        let sampled_below = (target.sample * (1_u64 << 63) as f64) as u64;
        let exporter = Exporter::new(target, project)?;
        let sending = workers.spawn(exporter.run(waiting));
        let seed = RandomState::new().hash_one(0_u8);
        let sampler = Sampler { sampled_below, seed, begun: AtomicU64::new(0), clock, queue };
        Ok((Tracer(Some(Arc::new(sampler))), Sending(Some(sending))))
    }

    /// No request is traced.
    pub fn none() -> (Self, Sending) {
        (Tracer(None), Sending(None))
    }

    /// The trace of a request; None: it has none.
    ///
    /// Where the caller says which trace the request is part of, it says whether that is sampled, too.
    pub fn begin(&self, headers: &HeaderMap, arrived: Instant) -> Option<RequestTrace> {
        let sampler = self.0.as_ref()?;
        let parent = ParentContext::of(headers);
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        let own = sampler.random();
        if parent.is_none() && (own as u64) >> 1 >= sampler.sampled_below {
            return None;
        }
        Some(RequestTrace {
            noted: Arc::default(),
            trace_id: parent.as_ref().map_or(own, |parent| parent.trace_id),
            parent,
            span_id: sampler.span_id(),
            arrived,
            arrived_at: sampler.clock.now(),
            sampler: Arc::clone(sampler),
        })
    }
}

impl Sampler {
    /// A number that is like no other, and never zero.
    fn random(&self) -> u128 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        xxh3_128_with_seed(&number.to_le_bytes(), self.seed).max(1)
    }

    fn span_id(&self) -> u64 {
        (self.random() as u64).max(1)
    }
}

impl RequestTrace {
    /// Hands the request's trace over to be sent. `call` is one of the table of calls, `code` what it was answered.
    pub fn finish(self, call: &str, code: &str) {
        let noted = self.noted.take();
        let mut spans = Vec::with_capacity(1 + noted.stages.len());
        let mut attributes = request_attributes(call, code);
        attributes.extend(noted.rows.map(|rows| KeyValue::number("asof.rows", rows as i64)));
        spans.push(Span {
            parent_span_id: self.parent.as_ref().map_or_else(Vec::new, |parent| parent.span_id.to_be_bytes().to_vec()),
            name: call.to_owned(),
            attributes,
            status: is_servers_fault(code).then_some(Status { code: StatusCode::Error.into() }),
            flags: if self.parent.is_some() { FLAGS_OF_REMOTE_PARENT } else { FLAGS_SAMPLED },
            ..self.span(self.span_id, SpanKind::Server, self.arrived, Instant::now())
        });
        spans.extend(noted.stages.iter().map(|stage| self.stage_span(stage)));
        let count = spans.len();
        if self.sampler.queue.try_send(spans).is_err() {
            count_dropped(count);
        }
    }

    fn stage_span(&self, stage: &Stage) -> Span {
        Span {
            parent_span_id: self.span_id.to_be_bytes().to_vec(),
            name: stage.name.to_owned(),
            attributes: stage.view.iter().map(|view| KeyValue::text("asof.feature_view", view)).collect(),
            flags: FLAGS_SAMPLED,
            ..self.span(self.sampler.span_id(), SpanKind::Internal, stage.from, stage.to)
        }
    }

    fn span(&self, span_id: u64, kind: SpanKind, from: Instant, to: Instant) -> Span {
        let arrived = u64::try_from(self.arrived_at.micros()).unwrap_or(0).saturating_mul(1000);
        let nanos = |instant: Instant| {
            arrived.saturating_add(instant.saturating_duration_since(self.arrived).as_nanos() as u64)
        };
        Span {
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            span_id: span_id.to_be_bytes().to_vec(),
            trace_state: self.parent.as_ref().map_or_else(String::new, |parent| parent.state.clone()),
            kind: kind.into(),
            start_time_unix_nano: nanos(from),
            end_time_unix_nano: nanos(to),
            ..Span::default()
        }
    }
}

/// As OpenTelemetry's conventions for RPC and HTTP name them.
fn request_attributes(call: &str, code: &str) -> Vec<KeyValue> {
    match call.split_once(' ') {
        Some((method, route)) => vec![
            KeyValue::text("http.request.method", method),
            KeyValue::text("http.route", route),
            KeyValue::number("http.response.status_code", code.parse().unwrap_or_default()),
        ],
        None => vec![
            KeyValue::text("rpc.system.name", "grpc"),
            KeyValue::text("rpc.method", call),
            KeyValue::text("rpc.response.status_code", code),
        ],
    }
}

/// The codes that OpenTelemetry's conventions count as errors of a server.
fn is_servers_fault(code: &str) -> bool {
    let of_grpc = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
    of_grpc.contains(&code) || code.len() == 3 && code.starts_with('5')
}
