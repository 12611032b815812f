//! Predictions as JSON over HTTP.

use std::sync::Arc;

use arrow::array::ArrayRef;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::answer::{to_json, values};
use super::inference;
use super::inference_http as v2;
use super::state::{predict, predict_one};
use crate::prediction::{PredictAnswer, PredictRequest, PredictionError, RoutePlan};
use crate::serving::grpc::request_batch;
use crate::serving::http::{failed, failure, refuse_body};
use crate::serving::json::column_from_json;
use crate::serving::state::ServerState;
use crate::text_files::UniqueObject;
use crate::time::EventTimestamp;

type Body = Result<Bytes, BytesRejection>;

/// The paths of predictions, to be merged into the gateway's.
pub fn router<S: Clone + Send + Sync + 'static>(state: Arc<ServerState>) -> Router<S> {
    Router::new()
        .route("/predict", post(predict_json))
        .route("/invocations", post(invocations))
        .route("/v2", get(v2::server_metadata))
        .route("/v2/health/live", get(v2::server_live))
        .route("/v2/health/ready", get(v2::server_ready))
        .route("/v2/models/{name}", get(v2::metadata))
        .route("/v2/models/{name}/ready", get(v2::ready))
        .route("/v2/models/{name}/infer", post(v2::infer))
        .route("/v2/models/{name}/versions/{version}", get(v2::metadata_of_version))
        .route("/v2/models/{name}/versions/{version}/ready", get(v2::ready_of_version))
        .route("/v2/models/{name}/versions/{version}/infer", post(v2::infer_version))
        .with_state(state)
}

/// The body of `POST /predict`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PredictBody {
    route: Option<String>,
    routes: Option<Vec<String>>,
    #[serde(default)]
    entities: UniqueObject,
    #[serde(default)]
    request: UniqueObject,
    #[serde(default)]
    prediction_ids: Vec<String>,
    now: Option<String>,
}

async fn predict_json(State(state): State<Arc<ServerState>>, body: Body) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, state.settings.server.limits.request_bytes),
    };
    match answer_predict(&state, &body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => failed(&status),
    }
}

async fn answer_predict(state: &ServerState, body: &[u8]) -> Result<Value, Status> {
    let invalid = |message: String| Status::invalid_argument(message);
    let body: PredictBody =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not a request: {error}")))?;
    let mut columns = Vec::new();
    for (name, values) in body.entities.0.iter().chain(&body.request.0) {
        let Some(values) = values.as_array() else {
            return Err(invalid(format!("`{name}` has to be an array, one value a row")));
        };
        columns.push((name.clone(), column_from_json(name, values).map_err(|error| invalid(error.to_string()))?));
    }
    let now = body.now.map(|now| EventTimestamp::parse(&now)).transpose();
    let (routes, is_one) = match (body.route, body.routes) {
        (Some(route), None) => (vec![route], true),
        (None, Some(routes)) if !routes.is_empty() => (routes, false),
        _ => return Err(invalid("name a `route`, or several in the list `routes`".to_owned())),
    };
    let request = PredictRequest {
        routes: routes.clone(),
        columns: request_batch(columns)?,
        prediction_ids: body.prediction_ids,
        now: now.map_err(|error| invalid(format!("`now`: {error}")))?,
    };
    if is_one {
        return Ok(to_json(&predict_one(state, request).await?));
    }
    let answers = predict(state, request).await?;
    let answer = |(route, answer): (String, &PredictAnswer)| {
        let mut document = to_json(answer);
        document["route"] = Value::from(route);
        document
    };
    Ok(json!({"answers": routes.into_iter().zip(&answers).map(answer).collect::<Vec<_>>()}))
}

/// MLflow's scoring call: `{"dataframe_split": …}`, `{"dataframe_records": …}` or `{"inputs": {…}}`, with the route
/// under `params`, or the only one there is.
async fn invocations(State(state): State<Arc<ServerState>>, headers: HeaderMap, body: Body) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, state.settings.server.limits.request_bytes),
    };
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.is_empty() && !media_type.starts_with("application/json") {
        let message = format!("`{media_type}` is not read here; send application/json");
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
    }
    match answer_invocation(&state, &body).await {
        Ok(document) => Json(document).into_response(),
        Err(status) => failed(&status),
    }
}

async fn answer_invocation(state: &ServerState, body: &[u8]) -> Result<Value, Status> {
    let invalid = |message: String| Status::invalid_argument(message);
    let document: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body is no JSON object: {error}")))?;
    let route = match document.get("params").and_then(|params| params.get("route")).and_then(Value::as_str) {
        Some(route) => route.to_owned(),
        None => only_route(state)?,
    };
    let plan = inference::plan(state, &route, "").await?;
    let rows = if let Some(split) = document.get("dataframe_split") {
        split_columns(split)
    } else if let Some(records) = document.get("dataframe_records") {
        record_columns(records, &plan)
    } else if let Some(inputs) = document.get("inputs").or_else(|| document.get("instances")) {
        match inputs.as_array() {
            Some(rows) if rows.first().is_some_and(Value::is_array) => matrix_columns(rows, &plan),
            Some(_) => record_columns(inputs, &plan),
            None => input_columns(inputs),
        }
    } else {
        Err("send `dataframe_split`, `dataframe_records`, `inputs` or `instances`".to_owned())
    };
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (name, values) in rows.map_err(invalid)? {
        let column = column_from_json(&name, &values).map_err(|error| invalid(error.to_string()))?;
        columns.push((name, column));
    }
    let columns = request_batch(columns)?;
    let request = PredictRequest { routes: vec![route], columns, prediction_ids: Vec::new(), now: None };
    Ok(json!({"predictions": values(&predict_one(state, request).await?)}))
}

fn only_route(state: &ServerState) -> Result<String, Status> {
    let catalog = state.prediction.service.catalog();
    let names: Vec<String> = catalog.iter().flat_map(|catalog| catalog.route_names()).map(str::to_owned).collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Status::invalid_argument("name the route: {\"params\": {\"route\": …}, …}")),
    }
}

type Columns = Vec<(String, Vec<Value>)>;

fn split_columns(split: &Value) -> Result<Columns, String> {
    let list =
        |key: &str| split.get(key).and_then(Value::as_array).ok_or(format!("`dataframe_split` has no list `{key}`"));
    let names: Vec<String> = list("columns")?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut columns: Columns = names.into_iter().map(|name| (name, Vec::new())).collect();
    for (position, row) in list("data")?.iter().enumerate() {
        let row = row.as_array().filter(|row| row.len() == columns.len());
        let row = row.ok_or_else(|| format!("row {} of `data` does not have a value for each column", position + 1))?;
        for ((_, values), value) in columns.iter_mut().zip(row) {
            values.push(value.clone());
        }
    }
    Ok(columns)
}

/// A column that the route does not have ends it: there may be as many as values.
fn record_columns(records: &Value, plan: &RoutePlan) -> Result<Columns, String> {
    let records = records.as_array().ok_or("records have to be a list of objects")?;
    if records.is_empty() {
        return Err(PredictionError::NoRows.to_string());
    }
    let mut columns: Columns = Vec::new();
    for (position, record) in records.iter().enumerate() {
        let record = record.as_object().ok_or_else(|| format!("record {} is no object", position + 1))?;
        for (name, value) in record {
            let at = match columns.iter().position(|(known, _)| known == name) {
                Some(at) => at,
                None if !plan.has_column(name) => {
                    return Err(PredictionError::unknown_column(name, plan.columns.iter()).to_string());
                }
                None => {
                    columns.push((name.clone(), vec![Value::Null; position]));
                    columns.len() - 1
                }
            };
            columns[at].1.push(value.clone());
        }
        columns.iter_mut().for_each(|(_, values)| values.resize(position + 1, Value::Null));
    }
    Ok(columns)
}

/// Rows of values in the model's order.
fn matrix_columns(rows: &[Value], plan: &RoutePlan) -> Result<Columns, String> {
    let width = rows.first().and_then(Value::as_array).map_or(0, Vec::len);
    let names = inference::matrix_names(plan, width);
    let names = names.ok_or_else(|| format!("a row has {width} values, and no model of the route takes so many"))?;
    let mut columns: Columns = names.iter().map(|name| (name.clone(), Vec::with_capacity(rows.len()))).collect();
    for (position, row) in rows.iter().enumerate() {
        let row = row.as_array().filter(|row| row.len() == width);
        let row = row.ok_or_else(|| format!("row {} has not as many values as the first", position + 1))?;
        columns.iter_mut().zip(row).for_each(|((_, values), value)| values.push(value.clone()));
    }
    Ok(columns)
}

fn input_columns(inputs: &Value) -> Result<Columns, String> {
    let inputs = inputs.as_object().ok_or("`inputs` has to be an object of lists")?;
    let column = |(name, values): (&String, &Value)| {
        let values = values.as_array().ok_or_else(|| format!("`{name}` has to be a list, one value a row"))?;
        Ok((name.clone(), values.clone()))
    };
    inputs.iter().map(column).collect()
}
