//! The HTTP/JSON gateway: the same calls for callers without gRPC, and `/metrics`.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::grpc::{FeatureStoreService, request_batch};
use super::json::{answer_to_json, column_from_json};
use super::status::{http_status, kind_of};
use crate::retrieval::{FeatureSelection, OnlineRequest};
use crate::time::EventTimestamp;

#[derive(Clone)]
struct Gateway {
    service: FeatureStoreService,
    metrics: PrometheusHandle,
}

/// The gateway's paths.
pub fn router(service: FeatureStoreService, metrics: PrometheusHandle, body_bytes_max: usize) -> Router {
    Router::new()
        .route("/v1/get-online-features", post(get_online_features))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(render_metrics))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path; see docs/api.md") })
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(Gateway { service, metrics })
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
    entities: Map<String, Value>,
    #[serde(default)]
    request: Map<String, Value>,
    #[serde(default)]
    full_feature_names: bool,
    #[serde(default)]
    timestamps: bool,
    now: Option<String>,
}

async fn get_online_features(State(gateway): State<Gateway>, body: Bytes) -> Response {
    match answer(&gateway, &body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => {
            let code = http_status(kind_of(status.code()));
            failure(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.message())
        }
    }
}

async fn answer(gateway: &Gateway, body: &[u8]) -> Result<Value, Status> {
    let invalid = |message: String| Status::new(Code::InvalidArgument, message);
    let body: OnlineBody =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not a request: {error}")))?;
    let selection = match (body.feature_service, body.features) {
        (Some(service), features) if features.is_empty() => FeatureSelection::Service(service),
        (None, features) if !features.is_empty() => FeatureSelection::References(features),
        _ => return Err(invalid("set `feature_service`, or `features`, and not both".to_owned())),
    };
    let now = body.now.map(|now| EventTimestamp::parse(&now)).transpose();
    let mut columns = Vec::new();
    for (name, values) in body.entities.iter().chain(&body.request) {
        let Some(values) = values.as_array() else {
            return Err(invalid(format!("`{name}` has to be an array, one value a row")));
        };
        columns.push((name.clone(), column_from_json(name, values).map_err(|error| invalid(error.to_string()))?));
    }
    let request = OnlineRequest {
        entity_columns: body.entities.len(),
        selection,
        full_feature_names: body.full_feature_names,
        columns: request_batch(columns)?,
        now: now.map_err(|error| invalid(format!("`now`: {error}")))?,
    };
    let answer = gateway.service.online(request, body.timestamps).await?;
    Ok(answer_to_json(&answer, body.timestamps))
}

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}
