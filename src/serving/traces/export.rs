//! Sending traces to a collector: OTLP over HTTP, in binary Protobuf.

use std::time::Duration;

use metrics::counter;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans, Span,
};
use crate::error::error_chain;
use crate::metrics::TRACE_SPANS_TOTAL;
use crate::settings::TracesSettings;

/// Spans of one message, about.
const MESSAGE_SPANS: usize = 512;
/// How long a span waits for others to be sent with.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before what a collector had no time for is sent again.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Where traces go at a collector.
const PATH: &str = "/v1/traces";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SHARE: &str = "OTEL_TRACES_SAMPLER_ARG";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Share of requests that are traced where neither settings nor caller say it.
const SAMPLE_DEFAULT: f64 = 0.01;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    #[error("{variable} cannot be used: {problem}")]
    Variable { variable: &'static str, problem: &'static str },
    #[error("a collector cannot be called")]
    Client(#[source] reqwest::Error),
}

/// Where traces go, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    url: Url,
    headers: HeaderMap,
    service: String,
    /// Share of the requests that no caller has made part of a trace.
    pub sample: f64,
}

impl Target {
    /// What settings say, and where they say nothing, OpenTelemetry's own variables; None: nobody asks for traces.
    ///
    /// # Errors
    /// Addresses, headers and shares that are none, and protocols other than `http/protobuf`.
    pub fn new(
        settings: &TracesSettings,
        environment: &dyn Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, TracesError> {
        let variable = |name| environment(name).filter(|value| !value.trim().is_empty());
        let wrong = |variable, problem| TracesError::Variable { variable, problem };
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let (name, endpoint) = match (&settings.endpoint, variable(TRACES_ENDPOINT), variable(ENDPOINT)) {
            (Some(base), _, _) => ("`traces` of the settings", format!("{}{PATH}", base.trim_end_matches('/'))),
            (None, Some(whole), _) => (TRACES_ENDPOINT, whole),
            (None, None, Some(base)) => (ENDPOINT, format!("{}{PATH}", base.trim_end_matches('/'))),
            (None, None, None) => return Ok(None),
        };
        let url = Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or(wrong(name, "write an address such as http://127.0.0.1:4318"))?;
        let is_other = variable(PROTOCOL).is_some_and(|protocol| protocol != "http/protobuf");
        if settings.endpoint.is_none() && is_other {
            return Err(wrong(PROTOCOL, "only `http/protobuf` is spoken here"));
        }
        let sample = match (settings.sample, variable(SHARE)) {
            (Some(sample), _) => sample,
            (None, Some(text)) => parse_share(&text).ok_or(wrong(SHARE, "write a share from 0 to 1, e.g. 0.1"))?,
            (None, None) => SAMPLE_DEFAULT,
        };
        let headers = parse_headers(&variable(HEADERS).unwrap_or_default());
        let headers = headers.ok_or(wrong(HEADERS, "write `name=value,name=value`"))?;
        let service = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| "asof".to_owned());
        Ok(Some(Target { url, headers, service, sample }))
    }
}

/// Parses a share from 0 to 1.
fn parse_share(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

/// `name=value,name=value`, with values as in a URL.
fn parse_headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        // A plus is a plus here, other than in forms.
        let form = format!("v={}", value.trim().replace('+', "%2B").replace('&', "%26"));
        let (_, value) = url::form_urlencoded::parse(form.as_bytes()).next()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value);
    }
    Some(headers)
}

pub(super) fn count_dropped(spans: usize) {
    counter!(TRACE_SPANS_TOTAL, "outcome" => "dropped").increment(spans as u64);
}

pub(super) struct Exporter {
    client: Client,
    target: Target,
    resource: Resource,
    /// Whether the last message was lost.
    is_failing: bool,
}

/// What a collector did with a message.
enum Sent {
    Taken,
    Later(String),
    Refused(String),
}

impl Exporter {
    pub fn new(target: Target, project: &str) -> Result<Self, TracesError> {
        let client = Client::builder().no_proxy().timeout(ANSWER_PATIENCE).build().map_err(TracesError::Client)?;
        let attributes = vec![
            KeyValue::text("service.name", &target.service),
            KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::text("asof.project", project),
        ];
        Ok(Exporter { client, target, resource: Resource { attributes }, is_failing: false })
    }

    /// Sends what comes in until nobody can send any more.
    pub async fn run(mut self, mut traces: mpsc::Receiver<Vec<Span>>) {
        while let Some(mut spans) = traces.recv().await {
            let until = Instant::now() + MESSAGE_PATIENCE;
            while spans.len() < MESSAGE_SPANS {
                match tokio::time::timeout_at(until, traces.recv()).await {
                    Ok(Some(more)) => spans.extend(more),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(spans).await;
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len();
        let scope = InstrumentationScope { name: "asof".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        let body = bytes::Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let mut sent = self.post(body.clone()).await;
        for pause in PAUSES {
            if !matches!(sent, Sent::Later(_)) {
                break;
            }
            tokio::time::sleep(pause).await;
            sent = self.post(body.clone()).await;
        }
        match sent {
            Sent::Taken => {
                self.is_failing = false;
                counter!(TRACE_SPANS_TOTAL, "outcome" => "sent").increment(count as u64);
            }
            Sent::Later(problem) | Sent::Refused(problem) => {
                if !self.is_failing {
                    tracing::warn!(
                        collector = self.target.url.host_str(),
                        problem,
                        "traces are lost: the collector takes none"
                    );
                }
                self.is_failing = true;
                count_dropped(count);
            }
        }
    }

    async fn post(&self, body: bytes::Bytes) -> Sent {
        let request = self.client.post(self.target.url.clone()).headers(self.target.headers.clone());
        let answered = request.header(CONTENT_TYPE, "application/x-protobuf").body(body).send().await;
        match answered.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Sent::Taken,
            // The codes after which OTLP has a client try again.
            Ok(
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT),
            ) => Sent::Later(status.to_string()),
            Ok(status) => Sent::Refused(status.to_string()),
            // Its address may hold a password.
            Err(error) => Sent::Later(error_chain(&error.without_url())),
        }
    }
}
