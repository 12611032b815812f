use prost::Message;

use super::export::{Target, TracesError};
use super::otlp::{ExportTraceServiceRequest, InstrumentationScope, Resource, ResourceSpans, ScopeSpans};
use super::*;
use crate::settings::TracesSettings;
use crate::testing::fuzz::fuzz;
use crate::time::FixedClock;

/// Written by the Python package `opentelemetry-proto`, from the protocol's own files.
const WRITTEN_ELSEWHERE: &str = "\
0abc010a180a160a0c736572766963652e6e616d6512060a0461736f66129f010a0d0a0461736f661205302e312e30126b0a\
10000102030405060708090a0b0c0d0e0f120800010203040506071a03613d31220808090a0b0c0d0e0f2a04726561643002\
3901002a36fe9c971741e7032a36fe9c97174a080a016112030a01624a100a0163120b18ffffffffffffffffff017a021802\
85010103000012210a10000102030405060708090a0b0c0d0e0f120801020304050607082a01783001\
";

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn messages_are_those_of_the_protocol() {
    let traced = Span { trace_id: (0..16).collect(), ..Span::default() };
    let spans = vec![
        Span {
            span_id: (0..8).collect(),
            trace_state: "a=1".to_owned(),
            parent_span_id: (8..16).collect(),
            name: "read".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: 1_700_000_000_000_000_001,
            end_time_unix_nano: 1_700_000_000_000_000_999,
            attributes: vec![KeyValue::text("a", "b"), KeyValue::number("c", -1)],
            status: Some(Status { code: StatusCode::Error.into() }),
            flags: FLAGS_OF_REMOTE_PARENT,
            ..traced.clone()
        },
        Span { span_id: (1..9).collect(), name: "x".to_owned(), kind: SpanKind::Internal.into(), ..traced },
    ];
    let scope = InstrumentationScope { name: "asof".to_owned(), version: "0.1.0".to_owned() };
    let resource = Resource { attributes: vec![KeyValue::text("service.name", "asof")] };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] };
    assert_eq!(request.encode_to_vec(), bytes(WRITTEN_ELSEWHERE));
}

fn target(settings: &[(&'static str, &str)], endpoint: Option<&str>) -> Result<Option<Target>, TracesError> {
    let settings: std::collections::HashMap<_, _> =
        settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let named = TracesSettings { endpoint: endpoint.map(str::to_owned), sample: None };
    Target::new(&named, &|name| settings.get(name).cloned())
}

#[test]
fn a_collector_is_that_of_the_settings_or_of_the_environment() {
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/");
    let shown = |target: Option<Target>| target.map(|target| format!("{target:?}")).unwrap_or_default();
    assert_eq!(target(&[], None).unwrap(), None);
    assert!(shown(target(&[base], None).unwrap()).contains("/v1/traces"));
    let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/here");
    let found = shown(target(&[base, whole], None).unwrap());
    assert!(found.contains("/here") && !found.contains("/v1/traces"), "{found}");
    let secret = ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b+c&d,y = z ");
    let found = shown(target(&[whole, secret], Some("https://c")).unwrap());
    assert!(found.contains("\"c\"") && found.contains("x-key") && !found.contains("a b"), "{found}");
    assert_eq!(target(&[base, ("OTEL_SDK_DISABLED", "TRUE")], None).unwrap(), None);
    for wrong in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no value"),
    ] {
        let error = target(&[base, wrong], None).unwrap_err();
        assert!(error.to_string().contains(wrong.0), "{error}");
    }
}

#[tokio::test]
async fn a_share_of_requests_is_traced_and_every_one_that_a_caller_traces() {
    let share = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
    let target = target(&[share], Some("http://127.0.0.1:1")).unwrap().unwrap();
    let clock = Arc::new(FixedClock::at(EventTimestamp::from_micros(5)));
    let (tracer, _sending) = Tracer::start(target, "p", clock, &Handle::current()).unwrap();
    let with = |parent: Option<&str>| {
        let mut headers = HeaderMap::new();
        parent.map(|parent| headers.insert("traceparent", parent.parse().unwrap()));
        let traces = (0..4000).filter_map(|_| tracer.begin(&headers, Instant::now()));
        traces.map(|trace| (trace.trace_id, trace.span_id)).collect::<Vec<_>>()
    };
    let mut own = with(None);
    assert!((800..1200).contains(&own.len()), "{}", own.len());
    let begun = own.len();
    own.sort_unstable();
    own.dedup_by_key(|(trace_id, _)| *trace_id);
    assert_eq!(own.len(), begun, "an id is given twice");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(with(Some(&format!("00-{trace}-b7ad6b7169203331-00"))).len(), 0);
    let continued = with(Some(&format!("00-{trace}-b7ad6b7169203331-01")));
    assert_eq!(continued.len(), 4000);
    assert!(continued.iter().all(|(trace_id, _)| *trace_id == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c));
    assert!((800..1200).contains(&with(Some("00-nonsense-01")).len()), "what cannot be understood says nothing");
}

#[test]
fn whatever_a_caller_says_of_its_trace_is_understood_or_not() {
    let seeds = [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x",
    ];
    fuzz("traceparent", seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), |bytes| {
        if let Ok(value) = axum::http::HeaderValue::from_bytes(bytes) {
            ParentContext::of(&HeaderMap::from_iter([(axum::http::HeaderName::from_static("traceparent"), value)]));
        }
    });
}
