//! The HTTP/JSON gateway: the same calls for callers without gRPC, and `/metrics`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::grpc::{FeatureStoreService, request_batch};
use super::in_flight::{InFlight, bound_http};
use super::json::{answer_to_json, column_from_json};
use super::record::record_http;
use super::status::{http_status, kind_of};
use crate::metrics::Metrics;
use crate::retrieval::{FeatureSelection, OnlineRequest};
use crate::text_files::UniqueObject;
use crate::time::EventTimestamp;

#[derive(Clone)]
struct Gateway {
    service: FeatureStoreService,
    metrics: Metrics,
    body_bytes_max: usize,
}

/// The gateway's paths.
pub(super) fn router(
    service: FeatureStoreService,
    metrics: Metrics,
    body_bytes_max: usize,
    in_flight: InFlight,
) -> Router {
    Router::new()
        .route("/v1/get-online-features", post(get_online_features))
        .route_layer(from_fn_with_state(in_flight, bound_http))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(render_metrics))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path; see docs/api.md") })
        .method_not_allowed_fallback(refuse_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn(record_http))
        .with_state(Gateway { service, metrics, body_bytes_max })
}

async fn refuse_method(method: Method, uri: Uri) -> Response {
    let message = format!("`{}` does not take {method}; see docs/api.md", uri.path());
    failure(StatusCode::METHOD_NOT_ALLOWED, &message)
}

async fn render_metrics(State(gateway): State<Gateway>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, content_type)], gateway.metrics.render()).into_response()
}

/// The body of `POST /v1/get-online-features`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlineBody {
    feature_service: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    entities: UniqueObject,
    #[serde(default)]
    request: UniqueObject,
    #[serde(default)]
    full_feature_names: bool,
    #[serde(default)]
    timestamps: bool,
    now: Option<String>,
}

async fn get_online_features(State(gateway): State<Gateway>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, gateway.body_bytes_max),
    };
    match answer(&gateway, &body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => {
            let code = http_status(kind_of(status.code()));
            failure(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.message())
        }
    }
}

fn refuse_body(rejection: &BytesRejection, body_bytes_max: usize) -> Response {
    let message = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            format!("the body has more than the {body_bytes_max} bytes that the server takes; send fewer rows at once")
        }
        _ => rejection.body_text(),
    };
    failure(rejection.status(), &message)
}

async fn answer(gateway: &Gateway, body: &[u8]) -> Result<Value, Status> {
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
    let answer = gateway.service.online(request, body.timestamps).await?;
    Ok(answer_to_json(&answer, body.timestamps))
}

pub(super) fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}
