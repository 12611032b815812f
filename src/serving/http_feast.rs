//! The calls of Feast's feature server, in its shapes, so that its SDK reads from here as from its own server.
//!
//! Where Feast's words differ: a push source is a source with a stream, a timestamp is a number of whole seconds, and
//! rows that are pushed are always in both stores: `to` says in which of them they are once the push is answered.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, body::Bytes};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::grpc::{encode_answer_columns, request_batch};
use super::http::{Gateway, failed, refuse_body};
use super::json::{column_from_json, values_to_json};
use super::pb::{self, column::Values};
use super::push::PushCall;
use super::status::to_status;
use super::tokens::Caller;
use crate::definition::SourceName;
use crate::retrieval::{FeatureSelection, OnlineRequest};
use crate::stream_ingestion::{Acknowledge, PushSummary, PushedRows};
use crate::text_files::UniqueObject;
use crate::time::EventTimestamp;

/// The body of `POST /get-online-features`; what later versions of Feast add is left to them.
#[derive(Debug, Deserialize)]
pub(super) struct FeastOnlineBody {
    entities: UniqueObject,
    feature_service: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    full_feature_names: bool,
}

/// The body of `POST /push`.
#[derive(Debug, Deserialize)]
pub(super) struct FeastPushBody {
    push_source_name: String,
    pub df: UniqueObject,
    to: Option<String>,
}

/// The body of `POST /write-to-online-store`.
#[derive(Debug, Deserialize)]
pub(super) struct FeastWriteBody {
    feature_view_name: String,
    pub df: UniqueObject,
}

/// What Feast calls the times of a row, whatever a source does.
const EVENT_TIMESTAMP: &str = "event_timestamp";
const CREATED: &str = "created";

pub(super) async fn get_online_features(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body {
        Ok(body) => match answer(&gateway, caller, &body).await {
            Ok(document) => Json(document).into_response(),
            Err(status) => failed(&status),
        },
        Err(rejection) => refuse_body(&rejection, gateway.body_bytes_max),
    }
}

async fn answer(gateway: &Gateway, caller: Caller, body: &[u8]) -> Result<Value, Status> {
    let body: FeastOnlineBody = read(body)?;
    let selection = match (body.feature_service, body.features) {
        (Some(service), features) if features.is_empty() => FeatureSelection::Service(service),
        (None, features) if !features.is_empty() => FeatureSelection::References(features),
        _ => return Err(Status::invalid_argument("set `feature_service`, or `features`, and not both")),
    };
    let mut columns = Vec::new();
    for (name, values) in &body.entities.0 {
        let array = column_from_json(name, as_array(name, values)?);
        columns.push((name.clone(), array.map_err(|error| Status::invalid_argument(error.to_string()))?));
    }
    let request = OnlineRequest {
        entity_columns: columns.len(),
        selection,
        full_feature_names: body.full_feature_names,
        columns: request_batch(columns)?,
        now: None,
    };
    let answer = gateway.service.online(caller, request, |request, answer| {
        let rows = request.columns.num_rows();
        document(&encode_answer_columns(request, &answer.into_answer(), true), rows)
    });
    answer.await
}

/// The names of all columns, and a vector of each.
fn document(answer: &pb::GetOnlineFeaturesResponse, rows: usize) -> Value {
    let names: Vec<&str> = answer.columns.iter().map(|column| column.name.as_str()).collect();
    let results: Vec<Value> = answer.columns.iter().map(|column| vector(column, rows)).collect();
    json!({"metadata": {"feature_names": names}, "results": results})
}

fn vector(column: &pb::Column, rows: usize) -> Value {
    let values = match (&column.values, column.r#type.as_str()) {
        (Some(Values::Int64s(instants)), "timestamp") => {
            let plain = values_to_json(column);
            let seconds = instants.values.iter().map(|micros| Value::from(micros.div_euclid(1_000_000)));
            plain
                .iter()
                .zip(seconds)
                .map(|(value, second)| if value.is_null() { Value::Null } else { second })
                .collect()
        }
        _ => values_to_json(column),
    };
    // Keys have neither statuses nor times.
    let status = |row: usize| match column.statuses.get(row).map(|status| pb::Status::try_from(*status)) {
        Some(Ok(status)) => status.as_str_name(),
        _ => pb::Status::Present.as_str_name(),
    };
    let instant = |row: usize| column.event_timestamps.get(row).copied().unwrap_or_default();
    let statuses: Vec<&str> = (0..rows).map(status).collect();
    let instants: Vec<String> = (0..rows).map(|row| EventTimestamp::from_micros(instant(row)).to_string()).collect();
    json!({"values": values, "statuses": statuses, "event_timestamps": instants})
}

pub(super) async fn push(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body {
        Ok(body) => match push_columns(&gateway, &caller, &body).await {
            Ok(()) => Json(Value::Null).into_response(),
            Err(status) => failed(&status),
        },
        Err(rejection) => refuse_body(&rejection, gateway.body_bytes_max),
    }
}

/// # Errors
/// As of [`refuse_dead_letters`].
async fn push_columns(gateway: &Gateway, caller: &Caller, body: &[u8]) -> Result<(), Status> {
    let body: FeastPushBody = read(body)?;
    let (acknowledge, is_stored) = match body.to.as_deref() {
        None | Some("online") => (Acknowledge::Visible, false),
        Some("offline") => (Acknowledge::Durable, true),
        Some("online_and_offline") => (Acknowledge::Visible, true),
        Some(other) => {
            let message = format!("`to` is `{other}`; it is online, offline or online_and_offline");
            return Err(Status::invalid_argument(message));
        }
    };
    let rows = rows_of(&body.df)?;
    let sent = rows.len() as u64;
    let mut call = PushCall::new(&gateway.service.state, caller, &body.push_source_name, acknowledge).await?;
    call.push(PushedRows::Objects(rows)).await?;
    let summary = call.finish().await?;
    if is_stored {
        let source = [SourceName::new(&body.push_source_name)];
        gateway.service.state.flush_streams(&source).await.map_err(|error| to_status(error.kind(), &error))?;
    }
    refuse_dead_letters(&summary, sent)
}

/// Takes the rows of a feature view, as Feast's SDK pushes and materializes them.
pub(super) async fn write_to_online_store(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body {
        Ok(body) => match write_rows(&gateway, &caller, &body).await {
            Ok(()) => Json(Value::Null).into_response(),
            Err(status) => failed(&status),
        },
        Err(rejection) => refuse_body(&rejection, gateway.body_bytes_max),
    }
}

/// # Errors
/// A view that no stream feeds, and rows that are refused.
async fn write_rows(gateway: &Gateway, caller: &Caller, body: &[u8]) -> Result<(), Status> {
    let FeastWriteBody { feature_view_name, df } = read(body)?;
    let catalog = gateway.service.catalog()?;
    let asked = FeatureSelection::References(vec![feature_view_name.clone()]);
    let resolved = catalog.resolve(&asked, true).map_err(|error| to_status(error.kind(), &error))?;
    caller.check_request(&resolved)?;
    let view = catalog.definitions().feature_view(&feature_view_name);
    let source = view.and_then(|view| catalog.definitions().streamed_source(view)).ok_or_else(|| {
        Status::failed_precondition(format!(
            "feature view `{feature_view_name}` takes no rows: its source has no stream; add `stream: {{type: push}}`, or materialize"
        ))
    })?;
    let mut rows = rows_of(&df)?;
    for row in &mut rows {
        rename(row, EVENT_TIMESTAMP, source.event_timestamp.as_deref());
        rename(row, CREATED, source.created_timestamp.as_deref());
    }
    let source = source.name.as_str().to_owned();
    let sent = rows.len() as u64;
    let mut call = PushCall::new(&gateway.service.state, caller, &source, Acknowledge::Visible).await?;
    call.push(PushedRows::Objects(rows)).await?;
    refuse_dead_letters(&call.finish().await?, sent)
}

/// Gives a column the name that the source has for it; one that the source has not is left out.
fn rename(row: &mut Map<String, Value>, from: &str, to: Option<&str>) {
    if to == Some(from) {
        return;
    }
    if let (Some(value), Some(to)) = (row.remove(from), to) {
        row.insert(to.to_owned(), value);
    }
}

/// # Errors
/// Feast's answers have no place to tell that some of the rows sent are refused.
fn refuse_dead_letters(summary: &PushSummary, sent: u64) -> Result<(), Status> {
    let refused = sent - summary.accepted - summary.passed_over.duplicates - summary.passed_over.ignored;
    match summary.reasons.first().filter(|_| refused > 0) {
        Some((row, reason)) => Err(Status::invalid_argument(format!(
            "{refused} of the rows are refused and among the dead letters; row {row}, from 0: {reason}"
        ))),
        None => Ok(()),
    }
}

/// Columns turned into rows.
pub(super) fn rows_of(columns: &UniqueObject) -> Result<Vec<Map<String, Value>>, Status> {
    let mut rows: Option<Vec<Map<String, Value>>> = None;
    for (name, values) in &columns.0 {
        let values = as_array(name, values)?;
        let rows = rows.get_or_insert_with(|| vec![Map::new(); values.len()]);
        if rows.len() != values.len() {
            let message = format!(
                "`{name}` has {} rows and others have {}; send columns of one length",
                values.len(),
                rows.len()
            );
            return Err(Status::invalid_argument(message));
        }
        for (row, value) in rows.iter_mut().zip(values) {
            row.insert(name.clone(), value.clone());
        }
    }
    Ok(rows.unwrap_or_default())
}

fn as_array<'v>(name: &str, values: &'v Value) -> Result<&'v Vec<Value>, Status> {
    let wrong = || Status::invalid_argument(format!("`{name}` has to be an array, one value a row"));
    values.as_array().ok_or_else(wrong)
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::invalid_argument(format!("the body is not a request: {error}")))
}
