//! Rules of sources.

use std::collections::{BTreeMap, HashMap};

use super::super::model::{BatchLocation, Field, Source};
use super::super::names::SourceName;
use super::super::raw::{RawField, RawSource, Text};
use super::super::value_type::ValueType;
use super::{fields, streams};
use crate::diagnostics::{Located, Reporter};

pub fn source(raw: &RawSource, reporter: &mut Reporter<'_>) -> Source {
    let schema = check_schema(raw, reporter);
    let rename = check_rename(raw, reporter);
    let event_timestamp = check_time_column("event_timestamp", raw.event_timestamp.as_ref(), raw, reporter);
    let created_timestamp = check_time_column("created_timestamp", raw.created_timestamp.as_ref(), raw, reporter);
    if let (Some(event), Some(created)) = (&raw.event_timestamp, &raw.created_timestamp)
        && event.value == created.value
    {
        let message = format!("`{}` is both the event timestamp and the created timestamp", created.value);
        let help = "the event timestamp is when a fact became true, the created timestamp when it was written down: \
            leave `created_timestamp` out if there is one column";
        reporter.error_with_help(created.span, message, help);
    }
    streams::check(raw, reporter);
    Source {
        name: SourceName::new(&raw.name.value),
        batch: check_batch(raw, reporter),
        event_timestamp,
        created_timestamp,
        rename,
        stream: raw.stream.as_ref().and_then(|stream| streams::stream(&stream.value, &schema, reporter)),
        stream_from: raw.stream_from.as_ref().map(|from| from.value.0),
        event_id: raw.event_id.as_ref().map(|column| column.value.clone()),
        deduplicate_for: raw.deduplicate_for.as_ref().map(|duration| duration.value.0),
        schema,
        documentation: raw.documentation(),
    }
}

fn check_batch(raw: &RawSource, reporter: &mut Reporter<'_>) -> Option<BatchLocation> {
    let Some(batch) = &raw.batch else {
        if raw.schema.is_none() {
            let message = format!("source `{}` has neither a `batch` location nor a `schema`", raw.name.value);
            let help = "add `batch: {format: parquet, path: …}`, \
                or name the columns that are pushed: `schema: [{name: …, type: …}]`";
            reporter.error_with_help(raw.name.span, message, help);
        }
        return None;
    };
    if batch.path.value.trim().is_empty() {
        reporter.error_with_help(batch.path.span, "the path is empty", "name a file, a folder, a glob or a URL");
    }
    Some(BatchLocation { format: batch.format, path: batch.path.value.clone() })
}

fn check_schema(raw: &RawSource, reporter: &mut Reporter<'_>) -> Vec<Field> {
    let Some(Located { value: columns, span }) = &raw.schema else { return Vec::new() };
    if columns.is_empty() {
        let help = "name its columns, `schema: [{name: …, type: …}]`, or leave `schema` out";
        reporter.error_with_help(*span, "the schema is empty", help);
    }
    let mut seen = HashMap::new();
    for column in columns {
        if column.name.value.is_empty() {
            reporter.error_with_help(column.name.span, "the name of a column is empty", "name the column");
        }
        fields::check_repeated("column", &column.name, &mut seen, reporter);
    }
    fields::fields(columns)
}

fn check_rename(raw: &RawSource, reporter: &mut Reporter<'_>) -> BTreeMap<String, String> {
    let Some(entries) = &raw.rename else { return BTreeMap::new() };
    let mut targets: HashMap<&str, &str> = HashMap::new();
    for (column, name) in &entries.0 {
        if name.value.is_empty() {
            reporter.error_with_help(name.span, "the new name is empty", "write `column of the file: name used here`");
        }
        if let Some(other) = targets.insert(name.as_str(), column.as_str()) {
            let message = format!("`{other}` and `{}` are both renamed to `{}`", column.value, name.value);
            reporter.error_with_help(name.span, message, "give one of them another name");
        }
    }
    entries.0.iter().map(|(column, name)| (column.value.clone(), name.value.clone())).collect()
}

/// Checks that a time column is named as it is called after `rename`, and is in the schema as a time.
fn check_time_column(key: &str, column: Option<&Text>, raw: &RawSource, reporter: &mut Reporter<'_>) -> Option<String> {
    let column = column?;
    let renames = raw.rename.iter().flat_map(|rename| &rename.0);
    let renamed_to = renames.clone().find(|(from, _)| from.value == column.value).map(|(_, to)| to);
    let is_a_target = renames.clone().any(|(_, to)| to.value == column.value);
    if column.value.is_empty() {
        let help = format!("name a column, or leave `{key}` out");
        reporter.error_with_help(column.span, format!("`{key}` is empty"), help);
    } else if let (Some(to), false) = (renamed_to, is_a_target) {
        let message = format!("column `{}` is renamed to `{}`", column.value, to.value);
        reporter.error_with_help(column.span, message, format!("write `{key}: {}`", to.value));
    } else if let Some(schema) = &raw.schema {
        check_in_schema(key, column, &schema.value, reporter);
    }
    Some(column.value.clone())
}

fn check_in_schema(key: &str, column: &Text, schema: &[RawField], reporter: &mut Reporter<'_>) {
    match schema.iter().find(|field| field.name.value == column.value) {
        None => {
            let message = format!("`{key}` names `{}`, which is not in the schema", column.value);
            let help = format!("add `{{name: {}, type: timestamp}}` to the schema", column.value);
            reporter.error_with_help(column.span, message, help);
        }
        Some(field) if !matches!(field.r#type.value, ValueType::Timestamp | ValueType::Date) => {
            let Located { value, span } = &field.r#type;
            let message = format!("`{}` is the `{key}`, and cannot have type {value}", column.value);
            reporter.error_with_help(*span, message, "its type is `timestamp` or `date`");
        }
        Some(_) => {}
    }
}
