//! The HTTP/JSON gateway: the same calls for callers without gRPC, and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::access::Access;
use super::calls::{Call, call};
use super::grpc::{FeatureStoreService, encode_answer_columns, request_batch};
use super::http_feast;
use super::in_flight::InFlight;
use super::json::{answer_to_json, column_from_json};
use super::listen::Peer;
use super::push::{PushCall, STREAMS_CLOSED, read_arrow, read_parquet};
use super::record::{Recorder, record_http};
use super::status::{http_status, kind_of};
use super::tokens::Caller;
use super::turns::{RETRY_PUSHBACK, Turns};
use super::watched_body::watched;
use crate::error::error_chain;
use crate::metrics::Metrics;
use crate::retrieval::{FeatureSelection, OnlineRequest};
use crate::stream_ingestion::{Acknowledge, IngestionError, PassedOver, PushSummary, PushedRows};
use crate::text_files::UniqueObject;
use crate::time::EventTimestamp;
use crate::trace;

#[derive(Clone)]
pub(super) struct Gateway {
    pub service: FeatureStoreService,
    metrics: Metrics,
    pub body_bytes_max: usize,
    stopped: watch::Receiver<bool>,
}

/// The gateway's paths.
pub(super) fn router(
    service: FeatureStoreService,
    metrics: Metrics,
    body_bytes_max: usize,
    entrance: HttpEntrance,
    recorder: Arc<Recorder>,
    stopped: watch::Receiver<bool>,
) -> Router {
    Router::new()
        .merge(super::prediction::router(Arc::clone(&service.state)))
        .route("/v1/get-online-features", post(get_online_features))
        .route("/v1/push", post(push))
        .route("/get-online-features", post(http_feast::get_online_features))
        .route("/push", post(http_feast::push))
        .route("/write-to-online-store", post(http_feast::write_to_online_store))
        .route("/openapi.json", get(describe))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/ready", get(ready))
        .route("/metrics", get(render_metrics))
        .route_layer(from_fn_with_state(entrance, enter))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path; see docs/api.md") })
        .method_not_allowed_fallback(refuse_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(recorder, record_http))
        .with_state(Gateway { service, metrics, body_bytes_max, stopped })
}

/// Whom the gateway lets in.
#[derive(Clone)]
pub(super) struct HttpEntrance {
    pub access: Access,
    pub in_flight: InFlight,
    pub turns: Arc<Turns>,
    pub request_time: Duration,
}

/// Admits a request, or answers 401, 403 or 429; ends one that takes too long.
async fn enter(State(entrance): State<HttpEntrance>, mut request: Request, next: Next) -> Response {
    let called = called(&request);
    // First: strangers take nobody's place.
    match entrance.access.admit(called, request.headers(), request.extensions().get::<Peer>()) {
        Ok(caller) => drop(request.extensions_mut().insert(caller)),
        Err(status) => return failed(&status),
    }
    let permit = match called.is_some_and(|call| call.is_bounded).then(|| entrance.in_flight.enter()) {
        Some(Err(_)) => return refuse_for_now(&entrance.in_flight.full()),
        Some(Ok(permit)) => Some(permit),
        None => None,
    };
    if called.is_some_and(|call| call.takes_turn) && entrance.turns.is_crowded() {
        drop(request);
        tokio::time::sleep(entrance.turns.refusal_delay()).await;
        return failed(&entrance.turns.refusal());
    }
    match tokio::time::timeout(entrance.request_time, next.run(request)).await {
        Ok(answer) => match permit {
            Some(permit) => watched(answer, permit),
            None => answer,
        },
        Err(_) => {
            let message =
                format!("the request took longer than the {:?} that the server gives it", entrance.request_time);
            failure(StatusCode::REQUEST_TIMEOUT, &message)
        }
    }
}

/// The call that a request to one of the paths is.
pub(super) fn called(request: &Request) -> Option<&'static Call> {
    let path = request.extensions().get::<MatchedPath>()?;
    // What is asked for its head alone is no other call.
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    call(&format!("{method} {}", path.as_str()))
}

fn refuse_for_now(message: &str) -> Response {
    let mut refused = failure(StatusCode::TOO_MANY_REQUESTS, message);
    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    refused
}

pub(super) fn failed(status: &Status) -> Response {
    let code = http_status(kind_of(status.code()));
    let mut answer = failure(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.message());
    if status.metadata().contains_key(RETRY_PUSHBACK) {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

async fn refuse_method(method: Method, uri: Uri) -> Response {
    let message = format!("`{}` does not take {method}; see docs/api.md", uri.path());
    failure(StatusCode::METHOD_NOT_ALLOWED, &message)
}

/// Whether requests are answered: once definitions are applied and the streams are open, and until the server is to
/// end. What a single source or view is at fault for keeps nobody from the others, and is told beside.
async fn ready(State(gateway): State<Gateway>) -> Response {
    if *gateway.stopped.borrow() {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the server is about to end");
    }
    let state = &gateway.service.state;
    let Some(catalog) = state.catalog() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "no definitions are applied; run `asof apply`");
    };
    if state.is_replica && !state.is_caught_up.load(Ordering::SeqCst) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "online values are brought up to their tables");
    }
    // Nobody is asked for a token here: where others are, names and reasons are for those that have one.
    let is_open = state.settings.server.tokens.is_none();
    if let Some(fault) = state.streams_fault() {
        let reason = if is_open { format!(": {}", error_chain(&*fault)) } else { String::new() };
        return failure(StatusCode::SERVICE_UNAVAILABLE, &format!("{STREAMS_CLOSED}{reason}"));
    }
    let faults = state.ingestion().map(|ingestion| ingestion.all_faults()).unwrap_or_default();
    let mut answer = json!({"status": "ready", "registry_version": catalog.registry.version});
    if !faults.is_empty() && is_open {
        let reasons = |faults: &mut dyn Iterator<Item = (&str, &IngestionError)>| {
            Value::Object(faults.map(|(name, fault)| (name.to_owned(), error_chain(fault).into())).collect())
        };
        answer["faults"] = json!({
            "sources": reasons(&mut faults.sources.iter().map(|(name, fault)| (name.as_str(), fault))),
            "feature_views": reasons(&mut faults.views.iter().map(|(name, fault)| (name.as_str(), fault))),
        });
    } else if !faults.is_empty() {
        answer["faults"] = json!({"sources": faults.sources.len(), "feature_views": faults.views.len()});
    }
    Json(answer).into_response()
}

/// What the gateway answers, for tools that read OpenAPI.
async fn describe() -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], include_str!("openapi.json")).into_response()
}

async fn render_metrics(State(gateway): State<Gateway>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, content_type)], gateway.metrics.render()).into_response()
}

/// The body of `POST /v1/get-online-features`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlineBody {
    feature_service: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    pub entities: UniqueObject,
    #[serde(default)]
    pub request: UniqueObject,
    #[serde(default)]
    full_feature_names: bool,
    #[serde(default)]
    timestamps: bool,
    now: Option<String>,
}

async fn get_online_features(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, gateway.body_bytes_max),
    };
    match answer(&gateway, caller, &body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => failed(&status),
    }
}

pub(super) fn refuse_body(rejection: &BytesRejection, body_bytes_max: usize) -> Response {
    let message = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            format!("the body has more than the {body_bytes_max} bytes that the server takes; send fewer rows at once")
        }
        _ => rejection.body_text(),
    };
    failure(rejection.status(), &message)
}

async fn answer(gateway: &Gateway, caller: Caller, body: &[u8]) -> Result<Value, Status> {
    let begun = Instant::now();
    let invalid = |message: String| Status::new(Code::InvalidArgument, message);
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("the body has to be a JSON object, such as {\"feature_service\": …}".to_owned()));
    }
    let body: OnlineBody =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not a request: {error}")))?;
    let selection = match (body.feature_service, body.features) {
        (Some(service), features) if features.is_empty() => FeatureSelection::Service(service),
        (None, features) if !features.is_empty() => FeatureSelection::References(features),
        _ => return Err(invalid("set `feature_service`, or `features`, and not both".to_owned())),
    };
    let now = body.now.map(|now| EventTimestamp::parse(&now)).transpose();
    let mut columns = Vec::new();
    for (name, values) in body.entities.0.iter().chain(&body.request.0) {
        let Some(values) = values.as_array() else {
            return Err(invalid(format!("`{name}` has to be an array, one value a row")));
        };
        columns.push((name.clone(), column_from_json(name, values).map_err(|error| invalid(error.to_string()))?));
    }
    let request = OnlineRequest {
        entity_columns: body.entities.0.len(),
        selection,
        full_feature_names: body.full_feature_names,
        columns: request_batch(columns)?,
        now: now.map_err(|error| invalid(format!("`now`: {error}")))?,
    };
    trace::stage("decode", begun);
    let timestamps = body.timestamps;
    let answer = gateway.service.online(caller, request, move |request, answer| {
        answer_to_json(&encode_answer_columns(request, &answer.into_answer(), timestamps), timestamps)
    });
    answer.await
}

/// What `POST /v1/push` may say beside a body of rows alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PushParameters {
    source: Option<String>,
    acknowledge: Option<String>,
}

/// The JSON body of `POST /v1/push`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody {
    source: Option<String>,
    acknowledge: Option<String>,
    /// Read one by one: what is wrong with a row is wrong with no other.
    rows: Vec<Box<RawValue>>,
}

async fn push(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    parameters: Result<Query<PushParameters>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parameters = match parameters {
        Ok(Query(parameters)) => parameters,
        Err(rejection) => return failure(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, gateway.body_bytes_max),
    };
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match push_rows(&gateway, &caller, parameters, media_type, body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => {
            let mut answer = failed(&status);
            let millis =
                status.metadata().get("retry-after-ms").and_then(|millis| millis.to_str().ok()?.parse::<u64>().ok());
            if let Some(seconds) = millis.map(|millis| millis.div_ceil(1000)) {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            answer
        }
    }
}

async fn push_rows(
    gateway: &Gateway,
    caller: &Caller,
    parameters: PushParameters,
    media_type: &str,
    body: Bytes,
) -> Result<Value, Status> {
    let invalid = |message: String| Status::new(Code::InvalidArgument, message);
    let PushParameters { mut source, mut acknowledge } = parameters;
    let rows = match media_type.split(';').next().unwrap_or_default().trim() {
        "application/vnd.apache.arrow.stream" => batches(read_arrow(body)?),
        "application/vnd.apache.parquet" | "application/x-parquet" | "application/parquet" => {
            batches(read_parquet(body)?)
        }
        _ if body.trim_ascii().is_empty() => {
            return Err(invalid("the body is empty; send {\"source\": …, \"rows\": [{…}]}".to_owned()));
        }
        _ => {
            let body: PushBody =
                serde_json::from_slice(&body).map_err(|error| invalid(format!("the body is no push: {error}")))?;
            source = body.source.or(source);
            acknowledge = body.acknowledge.or(acknowledge);
            vec![PushedRows::Json(body.rows.into_iter().map(|row| String::from(Box::<str>::from(row))).collect())]
        }
    };
    let acknowledge = match acknowledge.as_deref() {
        None | Some("durable") => Acknowledge::Durable,
        Some("async") => Acknowledge::Accepted,
        Some("visible") => Acknowledge::Visible,
        Some(other) => return Err(invalid(format!("`acknowledge` is `{other}`; it is durable, async or visible"))),
    };
    let Some(source) = source else {
        return Err(invalid(
            "no source is named; send {\"source\": …, \"rows\": [{…}]}, or rows with ?source=".to_owned(),
        ));
    };
    let mut call = PushCall::new(&gateway.service.state, caller, &source, acknowledge).await?;
    for rows in rows {
        call.push(rows).await?;
    }
    let PushSummary { accepted, passed_over, dead_letters, reasons } = call.finish().await?;
    let PassedOver { duplicates, late, ignored } = passed_over;
    let problems: Vec<Value> = reasons.iter().map(|(row, reason)| json!({"row": row, "reason": reason})).collect();
    Ok(json!({
        "accepted": accepted,
        "duplicates": duplicates,
        "ignored": ignored,
        "late": late,
        "dead_letters": dead_letters,
        "problems": problems,
    }))
}

fn batches(batches: Vec<RecordBatch>) -> Vec<PushedRows> {
    batches.into_iter().map(PushedRows::Batch).collect()
}

pub(super) fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}
