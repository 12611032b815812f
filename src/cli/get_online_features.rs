//! `asof get-online-features`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Args;
use serde_json::{Map, Value};

use super::error::CliError;
use super::get_batch_features::SelectionArguments;
use super::online_access::{Connection, OnlineAccess, connect};
use super::output::{Output, table};
use super::project::Project;
use crate::retrieval::{FeatureSelection, OnlineRequest, OnlineRetrieval};
use crate::serving::columns::{decode_column, encode_column};
use crate::serving::encode_answer_columns;
use crate::serving::json::{answer_to_json, column_from_json};
use crate::serving::pb;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::settings::OnlineStoreSettings;
use crate::text_files::parse_object;
use crate::time::{EventTimestamp, SystemClock};

#[derive(Debug, Args)]
pub struct GetOnlineFeaturesArguments {
    #[command(flatten)]
    selection: SelectionArguments,
    /// A row's join keys as k=v,k=v, or as a JSON object; once a row. Request values may stand here too.
    #[arg(long = "entity", value_name = "KEYS")]
    entities: Vec<String>,
    /// A value for on-demand features, name=value; the same for every row.
    #[arg(long = "request", value_name = "NAME=VALUE")]
    request: Vec<String>,
    /// Name columns view__feature.
    #[arg(long)]
    full_feature_names: bool,
    /// Print each value's event timestamp.
    #[arg(long)]
    timestamps: bool,
    /// Ask as of this time.
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
    /// Ask this server instead of the project's store.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
}

pub async fn run(
    folder: Option<&Path>,
    arguments: &GetOnlineFeaturesArguments,
    output: Output,
) -> Result<(), CliError> {
    let now = arguments.now.as_deref().map(EventTimestamp::parse).transpose()?;
    let (columns, entity_columns) = request_columns(&arguments.entities, &arguments.request)?;
    let request = OnlineRequest {
        selection: arguments.selection.selection(),
        full_feature_names: arguments.full_feature_names,
        columns,
        entity_columns,
        now,
    };
    let answer = match &arguments.server {
        Some(address) => ask_server(connect(address).await?, &request, arguments.timestamps).await?,
        None => {
            let project = Project::find(folder)?;
            match project.online_access().await? {
                OnlineAccess::Server(channel) => ask_server(channel, &request, arguments.timestamps).await?,
                OnlineAccess::Store(store) => {
                    // A server that was killed may have left events in the log.
                    let catalog = project.catalog().await?;
                    project.apply_streams(&catalog.registry, &store).await?;
                    let OnlineStoreSettings::Rocksdb { history, .. } = project.settings.online_store;
                    let retrieval = OnlineRetrieval { store, clock: Arc::new(SystemClock), history };
                    let answer = retrieval.get(&catalog, &request)?;
                    encode_answer_columns(&request, &answer, arguments.timestamps)
                }
            }
        }
    };
    output.say(as_table(&answer, arguments.timestamps)?);
    output.document(&answer_to_json(&answer, arguments.timestamps));
    Ok(())
}

async fn ask_server(
    channel: Connection,
    asked: &OnlineRequest,
    event_timestamps: bool,
) -> Result<pb::GetOnlineFeaturesResponse, CliError> {
    let features = match asked.selection.clone() {
        FeatureSelection::Service(feature_service) => pb::FeatureSelection { feature_service, features: Vec::new() },
        FeatureSelection::References(features) => pb::FeatureSelection { features, ..Default::default() },
    };
    let schema = asked.columns.schema();
    let columns = schema.fields().iter().zip(asked.columns.columns());
    let mut entities: Vec<_> = columns.map(|(field, array)| encode_column(field.name(), array)).collect();
    let values = entities.split_off(asked.entity_columns);
    let request = pb::GetOnlineFeaturesRequest {
        features: Some(features),
        entities,
        request: values,
        full_feature_names: asked.full_feature_names,
        event_timestamps,
        now: asked.now.map(EventTimestamp::micros),
    };
    Ok(FeatureStoreClient::new(channel).get_online_features(request).await?.into_inner())
}

/// One column a name, one row an entity; what a row does not have is null. And how many columns the entities have.
fn request_columns(entities: &[String], request: &[String]) -> Result<(RecordBatch, usize), CliError> {
    let mut rows = entities.iter().map(|text| parse_entity(text)).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        // Features without a key are asked for once.
        rows.push(Map::new());
    }
    let mut names: Vec<String> = Vec::new();
    for name in rows.iter().flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let entity_columns = names.len();
    for text in request {
        let (name, value) = split_pair(text)?;
        if names.iter().any(|known| known == name) {
            return Err(CliError::Usage(format!("`{name}` is given twice, in --request and before")));
        }
        names.push(name.to_owned());
        for row in &mut rows {
            row.insert(name.to_owned(), Value::from(value));
        }
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for name in &names {
        let values: Vec<Value> = rows.iter().map(|row| row.get(name).cloned().unwrap_or(Value::Null)).collect();
        let column = column_from_json(name, &values).map_err(|error| CliError::Usage(error.to_string()))?;
        // The wire has no columns of nothing but nulls: texts can stand for any type.
        let column = match column.data_type() {
            arrow::datatypes::DataType::Null => {
                arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, column.len())
            }
            _ => column,
        };
        columns.push((name.clone(), column));
    }
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| arrow::datatypes::Field::new(name, array.data_type().clone(), true))
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::new(fields)), arrays, &options);
    Ok((batch.map_err(|error| CliError::Usage(error.to_string()))?, entity_columns))
}

fn parse_entity(text: &str) -> Result<Map<String, Value>, CliError> {
    if text.trim_start().starts_with('{') {
        return parse_object(text).map_err(|problem| {
            CliError::Usage(format!("--entity `{text}` is not a JSON object with each key once: {problem}"))
        });
    }
    let mut entity = Map::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = split_pair(pair)?;
        if entity.insert(name.to_owned(), Value::from(value)).is_some() {
            return Err(CliError::Usage(format!("`{name}` is given twice in --entity `{text}`")));
        }
    }
    Ok(entity)
}

fn split_pair(text: &str) -> Result<(&str, &str), CliError> {
    let pair = text.split_once('=').map(|(name, value)| (name.trim(), value));
    pair.ok_or_else(|| CliError::Usage(format!("`{text}` has to be name=value")))
}

/// Features down, entities across: an answer has more columns than a terminal is wide.
fn as_table(answer: &pb::GetOnlineFeaturesResponse, timestamps: bool) -> Result<String, CliError> {
    let options = FormatOptions::default().with_null("null");
    let rows = answer
        .columns
        .iter()
        .filter_map(|column| column.values.as_ref())
        .map(super::super::serving::columns::row_count);
    let entities = rows.max().unwrap_or(0);
    let mut lines = Vec::new();
    for column in &answer.columns {
        let array = decode_column(column).map_err(|error| CliError::Failed(error.to_string()))?;
        let formatter =
            ArrayFormatter::try_new(&array, &options).map_err(|error| CliError::Failed(error.to_string()))?;
        let mut line = vec![column.name.clone()];
        for row in 0..entities {
            let mut cell = if row < array.len() { formatter.value(row).to_string() } else { String::new() };
            match column.statuses.get(row).and_then(|status| pb::Status::try_from(*status).ok()) {
                Some(pb::Status::NotFound) => cell = "(not found)".to_owned(),
                Some(pb::Status::OutsideMaxAge) => cell = "(outside max age)".to_owned(),
                _ => {}
            }
            if timestamps && let Some(instant) = event_timestamp(column, row) {
                cell.push_str(&format!(" @ {instant}"));
            }
            line.push(cell);
        }
        lines.push(line);
    }
    let names: Vec<String> = (1..=entities).map(|row| format!("row {row}")).collect();
    let header: Vec<&str> = std::iter::once("column").chain(names.iter().map(String::as_str)).collect();
    Ok(table(&header, &lines))
}

fn event_timestamp(column: &pb::Column, row: usize) -> Option<EventTimestamp> {
    let validity = &column.event_timestamps_validity;
    let is_valid = validity.is_empty() || validity.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
    column.event_timestamps.get(row).filter(|_| is_valid).map(|micros| EventTimestamp::from_micros(*micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_have_different_keys() {
        let entities = ["a=1,b=x", "{\"a\": \"2\", \"c\": null}"].map(str::to_owned);
        let (columns, entity_columns) = request_columns(&entities, &["d=5".to_owned()]).unwrap();
        let names: Vec<String> = columns.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!((names.join(" "), entity_columns), ("a b c d".to_owned(), 3));
        assert_eq!(columns.column(1).null_count(), 1);
        assert!(request_columns(&["a".to_owned()], &[]).is_err());
        assert!(request_columns(&["{".to_owned()], &[]).is_err());
    }

    #[test]
    fn a_key_is_given_once() {
        for entity in ["k=a,k=zz", "{\"k\": \"a\", \"k\": \"zz\"}"] {
            let error = request_columns(&[entity.to_owned()], &[]).unwrap_err().to_string();
            assert!(error.contains("`k` is given twice"), "{error}");
        }
    }
}
