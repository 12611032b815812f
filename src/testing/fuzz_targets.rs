//! The decoders of files and of stored bytes.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use super::fuzz::fuzz;
use crate::definition::{DefinitionFile, Definitions, Field, ValueType, parse_definitions};
use crate::online_store::{
    KeyEncoder, RowDecoder, SchemaVersion, Schemas, Snapshot, TileLayout, Together, ValueEncoder, ViewId, decode_rows,
    encode_rows, events_of, split_version_key, version_key,
};
use crate::serving::tokens::TokenFile;
use crate::settings::Settings;
use crate::time::EventTimestamp;

const DEFINITIONS: &str = r#"
entities: [{name: a, join_keys: [{name: a, type: string}]}]
sources: [{name: s, batch: {format: parquet, path: s.parquet}, event_timestamp: t, rename: {x: y}}]
feature_views:
  - {name: v, entities: [a], source: s, ttl: 3h, features: [{name: f, type: "list<float32>"}]}
  - name: w
    entities: [a]
    source: s
    where: "y > 1"
    aggregations: [{input: f, function: mean, windows: [1h, 30d]}, {function: count, windows: [lifetime]}]
on_demand_feature_views:
  - name: o
    request: [{name: r, type: float64}]
    features_from: ["v:f"]
    features: [{name: g, type: float64, expression: "r + 1"}]
feature_services: [{name: m, features: [v, {view: w, as: other, join_keys: {a: b}}, o]}]
"#;

fn definitions(text: String) -> Option<Definitions> {
    parse_definitions(&[DefinitionFile { path: "feature_defs/fuzz.yaml".to_owned(), text }]).ok()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn definition_files() {
    let flights = include_str!("../../feature_defs/flights/feature_views.yaml");
    fuzz("definitions", texts(&[DEFINITIONS, flights]), |bytes| {
        let parsed = definitions(String::from_utf8_lossy(bytes).into_owned());
        // What is taken can be laid out.
        for view in parsed.iter().flat_map(|parsed| &parsed.feature_views).filter(|view| view.is_aggregation()) {
            let _ = TileLayout::of(view);
        }
    });
}

#[test]
fn settings_files() {
    let text = "project: x\nregistry: ${A:-b}/c\nonline_store: {type: rocksdb, history: 30d, row_cache: 1GiB}\n\
        server: {grpc: \"127.0.0.1:0\", tls: {cert: a, key: b}, auth: {tokens: c}, limits: {queue_time: 20ms}}\n";
    fuzz("settings", texts(&[text]), |bytes| {
        let _ = Settings::parse(&String::from_utf8_lossy(bytes), "asof.yaml", &|_| None);
    });
}

#[test]
fn token_files() {
    let mut file = TokenFile::default();
    let role = crate::serving::tokens::Role::Reader;
    file.create("a", role, Some(["v".to_owned()].into()), EventTimestamp::from_micros(0), None).unwrap();
    let text = serde_saphyr::to_string(&file).unwrap();
    fuzz("tokens", texts(&[&text]), |bytes| {
        let _ = TokenFile::parse(&String::from_utf8_lossy(bytes), Path::new("tokens.yaml"));
    });
}

#[test]
fn snapshot_descriptions() {
    let text = r#"{"format":1,"project":"p","created_at":"2026","files":[{"name":"a.sst","bytes":5}]}"#;
    fuzz("snapshots", texts(&[text]), |bytes| drop(serde_json::from_slice::<Snapshot>(bytes)));
}

#[test]
fn stored_keys() {
    let types = [ValueType::String, ValueType::Int64];
    let encoder = KeyEncoder::new(ViewId(1), &types).unwrap();
    let columns: [ArrayRef; 2] =
        [Arc::new(StringArray::from(vec!["a\0b", ""])), Arc::new(Int64Array::from(vec![-1, i64::MAX]))];
    let keys = encoder.encode(&columns, 2).unwrap();
    let seed = |key: &[u8]| {
        let mut bytes = Vec::new();
        version_key(key, EventTimestamp::from_micros(5), None, &mut bytes);
        bytes
    };
    fuzz("keys", keys.iter().flatten().map(seed).collect(), |bytes| {
        if let Some((prefix, ..)) = split_version_key(bytes) {
            let _ = encoder.decode_parts(prefix);
        }
    });
}

#[test]
fn stored_values() {
    let field = |name: &str, value_type: &str| Field {
        name: name.to_owned(),
        value_type: value_type.parse().unwrap(),
        description: None,
    };
    let fields = [field("f", "float64"), field("t", "string")];
    let encoder = ValueEncoder::new(SchemaVersion(1), &fields);
    let columns: [ArrayRef; 2] =
        [Arc::new(Float64Array::from(vec![Some(0.5), None])), Arc::new(StringArray::from(vec!["text", ""]))];
    let seed = |row: usize| {
        let mut bytes = Vec::new();
        encoder.bind(&columns).unwrap().encode(row, &mut bytes).unwrap();
        bytes
    };
    // The same bytes under types that are read in other ways.
    let lists = [field("f", "list<string>"), field("t", "map<string, int64>")];
    let schemas: Schemas = [(SchemaVersion(1), fields.to_vec()), (SchemaVersion(2), lists.to_vec())].into();
    let wanted = [&fields[..], &lists[..]].concat();
    let mut seeds = vec![seed(0), seed(1)];
    seeds.push([&2_u32.to_le_bytes()[..], &seed(0)[4..]].concat());
    fuzz("values", seeds, |bytes| {
        let mut decoder = RowDecoder::new(&schemas, &wanted);
        if decoder.append(bytes).is_ok() {
            decoder.finish();
        }
    });
}

#[test]
fn stored_tiles_and_rows_of_streams() {
    let parsed = definitions(DEFINITIONS.to_owned()).unwrap();
    let layout = TileLayout::of(parsed.feature_view("w").unwrap()).unwrap();
    let (mut tile, mut rows) = (Vec::new(), Vec::new());
    layout.encode_tile(SchemaVersion(1), &layout.empty_tile(), &mut tile);
    encode_rows(Together::Versions, [&b"one"[..], b"two"], &mut rows);
    fuzz("tiles", vec![tile, rows], |bytes| {
        let _ = layout.decode_tile(SchemaVersion(1), bytes);
        events_of(bytes).for_each(drop);
        if let Ok(rows) = decode_rows(bytes) {
            rows.for_each(drop);
        }
    });
}
