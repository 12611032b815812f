//! The decoders of what comes over a wire.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use prost::Message;

use super::columns::{decode_column, encode_column};
use super::grpc::{online_request, request_batch};
use super::http::OnlineBody;
use super::http_feast::{FeastOnlineBody, FeastPushBody, FeastWriteBody, rows_of};
use super::json::column_from_json;
use super::pb::push_request::Rows;
use super::pb::{self, PushColumns, PushRequest, RowMessages};
use super::push::{read_arrow, read_parquet};
use crate::testing::fuzz::fuzz;

fn arrays() -> Vec<(&'static str, ArrayRef)> {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
    vec![
        ("t", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(-1), None]))),
        ("l", Arc::new(lists)),
    ]
}

fn columns() -> Vec<pb::Column> {
    arrays().iter().map(|(name, array)| encode_column(name, array)).collect()
}

#[test]
fn online_requests() {
    let request = pb::GetOnlineFeaturesRequest {
        features: Some(pb::FeatureSelection { feature_service: "m".to_owned(), features: Vec::new() }),
        entities: columns(),
        request: columns(),
        event_timestamps: true,
        now: Some(5),
        ..Default::default()
    };
    fuzz("online_requests", vec![request.encode_to_vec()], |bytes| {
        if let Ok(request) = pb::GetOnlineFeaturesRequest::decode(bytes) {
            let _ = online_request(request);
        }
    });
}

#[test]
fn pushes() {
    let rows = [
        Rows::Json(RowMessages { rows: vec![r#"{"a": 1}"#.to_owned()] }),
        Rows::Columns(PushColumns { columns: columns() }),
        Rows::ArrowIpc(arrow_stream().into()),
    ];
    let push = |rows: &Rows| PushRequest { source: "s".to_owned(), acknowledge: 1, rows: Some(rows.clone()) };
    fuzz("pushes", rows.iter().map(|rows| push(rows).encode_to_vec()).collect(), |bytes| {
        match PushRequest::decode(bytes).ok().and_then(|push| push.rows) {
            Some(Rows::ArrowIpc(bytes)) => drop(read_arrow(bytes)),
            Some(Rows::Columns(PushColumns { columns })) => {
                let decoded = columns.iter().map(|column| Ok((column.name.clone(), decode_column(column)?)));
                let decoded = decoded.collect::<Result<Vec<_>, super::columns::ColumnError>>();
                let _ = decoded.map(request_batch);
            }
            _ => {}
        }
    });
}

fn arrow_stream() -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(arrays()).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn arrow_streams() {
    fuzz("arrow_ipc", vec![arrow_stream()], |bytes| drop(read_arrow(Bytes::copy_from_slice(bytes))));
}

#[test]
fn parquet_files() {
    let batch = RecordBatch::try_from_iter(arrays()).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let file = writer.into_inner().unwrap();
    fuzz("parquet", vec![file], |bytes| drop(read_parquet(Bytes::copy_from_slice(bytes))));
}

#[test]
fn bodies_of_http() {
    let online = r#"{"features": ["v:f"], "entities": {"a": ["x", null], "l": [[1, 2.5], []]}, "request": {"r": [1, "NaN"]}, "now": "2026-01-01"}"#;
    let feast = r#"{"feature_service": "m", "entities": {"a": [1, 2]}, "full_feature_names": true}"#;
    let push = r#"{"push_source_name": "s", "df": {"a": [1, 2], "b": ["x", null]}, "to": "online"}"#;
    let write = r#"{"feature_view_name": "v", "df": {"a": ["x"], "event_timestamp": ["2024-05-01T12:00:00"], "created": [null]}}"#;
    let seeds = [online, feast, push, write].map(|text| text.as_bytes().to_vec()).to_vec();
    fuzz("http_bodies", seeds, |bytes| {
        if let Ok(body) = serde_json::from_slice::<OnlineBody>(bytes) {
            for (name, values) in body.entities.0.iter().chain(&body.request.0) {
                let _ = values.as_array().map(|values| column_from_json(name, values));
            }
        }
        let _ = serde_json::from_slice::<FeastOnlineBody>(bytes);
        if let Ok(body) = serde_json::from_slice::<FeastWriteBody>(bytes) {
            let _ = rows_of(&body.df);
        }
        if let Ok(body) = serde_json::from_slice::<FeastPushBody>(bytes) {
            let _ = rows_of(&body.df);
        }
    });
}
