//! The Open Inference Protocol over HTTP, with Triton's extension for binary data.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tonic::Status;

use super::inference::{
    self, OUTPUT, Output, OutputValues, PLATFORM, Tensor, answered_version, check_datatype, check_plan, decode_raw,
    elements, info_json, plan, route_name,
};
use super::inference_grpc::check_outputs;
use super::state::predict_one;
use crate::prediction::PredictAnswer;
use crate::serving::http::{failed, refuse_body};
use crate::serving::json::column_from_json;
use crate::serving::state::ServerState;

/// How many bytes of a body are JSON; the values of tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

type AppState = State<Arc<ServerState>>;
type Body = Result<Bytes, BytesRejection>;

pub async fn server_metadata() -> Response {
    let extensions = ["binary_tensor_data"];
    Json(json!({"name": PLATFORM, "version": env!("CARGO_PKG_VERSION"), "extensions": extensions})).into_response()
}

pub async fn server_live() -> Response {
    Json(json!({"live": true})).into_response()
}

pub async fn server_ready(State(state): AppState) -> Response {
    let is_ready = state.prediction.service.catalog().is_some();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": is_ready}))).into_response()
}

pub async fn ready(state: AppState, Path(name): Path<String>) -> Response {
    ready_of_version(state, Path((name, String::new()))).await
}

pub async fn ready_of_version(State(state): AppState, Path((name, version)): Path<(String, String)>) -> Response {
    match plan(&state, &name, &version).await {
        Ok(_) => Json(json!({"name": name, "ready": true})).into_response(),
        Err(status) => failed(&status),
    }
}

pub async fn metadata(state: AppState, Path(name): Path<String>) -> Response {
    metadata_of_version(state, Path((name, String::new()))).await
}

pub async fn metadata_of_version(State(state): AppState, Path((name, version)): Path<(String, String)>) -> Response {
    let plan = match plan(&state, &name, &version).await {
        Ok(plan) => plan,
        Err(status) => return failed(&status),
    };
    let (inputs, outputs) = inference::tensors(&plan);
    Json(json!({
        "name": name,
        "versions": inference::versions(&plan, &name),
        "platform": PLATFORM,
        "inputs": info_json(&inputs),
        "outputs": info_json(&outputs),
    }))
    .into_response()
}

pub async fn infer(state: AppState, Path(name): Path<String>, headers: HeaderMap, body: Body) -> Response {
    infer_version(state, Path((name, String::new())), headers, body).await
}

pub async fn infer_version(
    State(state): AppState,
    Path((name, version)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse_body(&rejection, state.settings.server.limits.request_bytes),
    };
    match answer(&state, &name, &version, &headers, &body).await {
        Ok(response) => response,
        Err(status) => failed(&status),
    }
}

async fn answer(
    state: &ServerState,
    name: &str,
    version: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Status> {
    let invalid = |message: String| Status::invalid_argument(message);
    let length = headers.get(JSON_LENGTH).map(|value| value.to_str().ok().and_then(|text| text.parse::<usize>().ok()));
    let (head, binary) = match length {
        None => (body, &[][..]),
        Some(length) => length
            .and_then(|length| body.split_at_checked(length))
            .ok_or_else(|| invalid(format!("the header {JSON_LENGTH} is not how many bytes of the body are JSON")))?,
    };
    let document: Value =
        serde_json::from_slice(head).map_err(|error| invalid(format!("the body is not a request: {error}")))?;
    let plan = plan(state, name, version).await?;
    check_plan(&plan)?;
    let inputs =
        document.get("inputs").and_then(Value::as_array).ok_or_else(|| invalid("there are no `inputs`".to_owned()))?;
    let mut binary = binary;
    let tensors = inputs.iter().map(|input| tensor(input, &mut binary)).collect::<Result<Vec<_>, _>>()?;
    let outputs = document.get("outputs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    check_outputs(outputs.iter().filter_map(|output| output.get("name")?.as_str()))?;
    let id = document.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let asked = inference::request(&plan, route_name(name, version), id.clone(), tensors)?;
    let answer = predict_one(state, asked).await?;
    let output = inference::output(&answer)?;
    let parameter = |value: &Value, key: &str| value.get("parameters").and_then(|of| of.get(key)?.as_bool());
    let is_binary = outputs.first().and_then(|output| parameter(output, "binary_data"));
    let is_binary = is_binary.or_else(|| parameter(&document, "binary_data_output")).unwrap_or(false);
    Ok(response(name, id, &answer, &output, is_binary))
}

fn tensor(input: &Value, binary: &mut &[u8]) -> Result<Tensor, Status> {
    let invalid = |message: String| Status::invalid_argument(message);
    let text =
        |key: &str| input.get(key).and_then(Value::as_str).ok_or_else(|| invalid(format!("an input has no `{key}`")));
    let (name, datatype) = (text("name")?.to_owned(), text("datatype")?);
    let shape = input.get("shape").and_then(Value::as_array).map(|shape| shape.iter().map(Value::as_i64).collect());
    let shape: Option<Option<Vec<i64>>> = shape;
    let shape = shape.flatten().ok_or_else(|| invalid(format!("tensor `{name}` has no shape")))?;
    let size = input.get("parameters").and_then(|parameters| parameters.get("binary_data_size")?.as_u64());
    if let Some(size) = size {
        let taken = usize::try_from(size).ok().and_then(|size| binary.split_at_checked(size));
        let (values, rest) = taken.ok_or_else(|| invalid(format!("tensor `{name}`: the body ends too early")))?;
        *binary = rest;
        let values = decode_raw(&name, datatype, &shape, values)?;
        return Ok(Tensor { name, shape, values });
    }
    let data =
        input.get("data").and_then(Value::as_array).ok_or_else(|| invalid(format!("tensor `{name}` has no data")))?;
    let mut flat = Vec::new();
    flatten(data, &mut flat);
    let count = elements(&name, &shape)?;
    if flat.len() != count {
        return Err(invalid(format!("tensor `{name}` has {} values of {count}", flat.len())));
    }
    let values = column_from_json(&name, &flat).map_err(|error| invalid(error.to_string()))?;
    check_datatype(&name, datatype, &values)?;
    Ok(Tensor { name, shape, values })
}

/// Lists in lists, row by row.
fn flatten(values: &[Value], flat: &mut Vec<Value>) {
    for value in values {
        match value {
            Value::Array(values) => flatten(values, flat),
            value => flat.push(value.clone()),
        }
    }
}

fn response(name: &str, id: String, answer: &PredictAnswer, output: &Output, is_binary: bool) -> Response {
    let bytes = if is_binary { output.values.raw() } else { Vec::new() };
    let mut tensor = json!({"name": OUTPUT, "datatype": output.values.datatype(), "shape": output.shape});
    match &output.values {
        _ if is_binary => tensor["parameters"] = json!({"binary_data_size": bytes.len()}),
        OutputValues::Numbers(numbers) => tensor["data"] = json!(numbers),
        OutputValues::Texts(texts) => tensor["data"] = json!(texts),
    }
    let mut document = json!({
        "model_name": name,
        "model_version": answered_version(answer, name),
        "outputs": [tensor],
    });
    if !id.is_empty() {
        document["id"] = Value::from(id);
    }
    if !is_binary {
        return Json(document).into_response();
    }
    let mut body = document.to_string().into_bytes();
    let length = HeaderValue::from(body.len());
    body.extend_from_slice(&bytes);
    let media_type = HeaderValue::from_static("application/octet-stream");
    ([(JSON_LENGTH, length), (header::CONTENT_TYPE, media_type)], body).into_response()
}
