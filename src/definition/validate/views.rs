//! Rules of feature views.

use std::collections::HashMap;
use std::time::Duration;

use super::super::model::{Entity, EventColumn, FeatureView, Field, Source, ViewInput};
use super::super::names::{EntityName, FeatureViewName, SourceName};
use super::super::raw::{RawDuration, RawFeatureView, Text};
use super::catalog::Catalog;
use super::{aggregations, fields};
use crate::diagnostics::{Located, Reporter, Span};

/// A feature view with what others ask of it.
pub struct CheckedView {
    pub view: FeatureView,
    pub join_keys: Vec<Field>,
}

/// What a feature view reads and serves.
pub struct Content {
    pub input: ViewInput,
    pub features: Vec<Field>,
    pub event_columns: Vec<EventColumn>,
}

pub fn feature_view(
    raw: &RawFeatureView,
    entities: &Catalog<Entity>,
    sources: &Catalog<Source>,
    reporter: &mut Reporter<'_>,
) -> Option<CheckedView> {
    let names = raw.entities.as_deref().unwrap_or_default();
    let join_keys = check_entities(names, entities, reporter);
    let ttl = check_duration("ttl", raw.ttl.as_ref(), reporter);
    let lookback = check_duration("lookback", raw.lookback.as_ref(), reporter);
    let content = match &raw.aggregations {
        Some(listed) => aggregations::content(raw, listed, &join_keys, sources, reporter),
        None => row_content(raw, &join_keys, sources, reporter),
    };
    let Content { input, features, event_columns } = content?;
    let view = FeatureView {
        name: FeatureViewName::new(&raw.name.value),
        entities: names.iter().map(|name| EntityName::new(&name.value)).collect(),
        input,
        ttl,
        lookback,
        features,
        event_columns,
        documentation: raw.documentation(),
    };
    Some(CheckedView { view, join_keys })
}

/// The content of a row view or an SQL view.
fn row_content(
    raw: &RawFeatureView,
    join_keys: &[Field],
    sources: &Catalog<Source>,
    reporter: &mut Reporter<'_>,
) -> Option<Content> {
    if let Some(condition) = &raw.r#where {
        let help = "`where` chooses the events that `aggregations` see: add those, \
            or choose rows in a query, with `sources` and `sql`";
        reporter.error_with_help(condition.span, "`where` without `aggregations`", help);
    }
    if let Some(resolution) = &raw.resolution {
        let help = "`resolution` is of the windows of `aggregations`: add those, or remove `resolution`";
        reporter.error_with_help(resolution.span, "`resolution` without `aggregations`", help);
    }
    let features = check_features(raw, join_keys, reporter);
    let input = check_input(raw, reporter);
    if input.is_some() {
        check_sources(raw, sources, reporter);
    }
    Some(Content { input: input?, features: features?, event_columns: Vec::new() })
}

/// The join keys of the entities, which may not share one.
fn check_entities(names: &[Text], entities: &Catalog<Entity>, reporter: &mut Reporter<'_>) -> Vec<Field> {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    let mut owners: HashMap<&str, &str> = HashMap::new();
    let mut join_keys = Vec::new();
    for name in names {
        let repeated = seen.contains_key(name.as_str());
        fields::check_repeated("entity", name, &mut seen, reporter);
        let Some(entity) = entities.resolve(name, reporter).filter(|_| !repeated) else { continue };
        for key in &entity.join_keys {
            match owners.insert(&key.name, name.as_str()) {
                Some(owner) if owner != name.as_str() => {
                    let message = format!("entities `{owner}` and `{}` both have join key `{}`", name.value, key.name);
                    reporter.error_with_help(name.span, message, "give the join key of one of them another name");
                }
                _ => join_keys.push(key.clone()),
            }
        }
    }
    join_keys
}

fn check_features(raw: &RawFeatureView, join_keys: &[Field], reporter: &mut Reporter<'_>) -> Option<Vec<Field>> {
    let Some(Located { value: features, span }) = &raw.features else {
        let message = format!("feature view `{}` has neither `features` nor `aggregations`", raw.name.value);
        let help = "name the columns that are served, `features: [{name: …, type: …}]`, \
            or aggregate events, `aggregations: [{input: …, function: …, windows: [1h, 7d]}]`";
        reporter.error_with_help(raw.name.span, message, help);
        return None;
    };
    if features.is_empty() {
        let message = format!("feature view `{}` has no features", raw.name.value);
        reporter.error_with_help(*span, message, "name its columns: `features: [{name: …, type: …}]`");
    }
    fields::check_columns("feature", fields::names(features), reporter);
    let join_keys = join_keys.iter().map(|key| key.name.as_str());
    fields::check_against_join_keys(fields::names(features), join_keys, reporter);
    Some(fields::fields(features))
}

/// Either `source`, or `sources` and `sql`.
fn check_input(raw: &RawFeatureView, reporter: &mut Reporter<'_>) -> Option<ViewInput> {
    const EITHER: &str = "a view has either `source: name`, or `sources: [name, …]` and `sql: query`";
    let name = &raw.name.value;
    match (&raw.source, &raw.sources, &raw.sql) {
        (Some(source), None, None) => Some(ViewInput::Rows { source: SourceName::new(&source.value) }),
        (None, Some(sources), Some(sql)) => Some(check_sql(sources, sql, reporter)),
        (None, None, None) => {
            reporter.error_with_help(raw.name.span, format!("feature view `{name}` has no source"), EITHER);
            None
        }
        (Some(source), _, sql) => {
            let other = if sql.is_some() { "sql" } else { "sources" };
            reporter.error_with_help(source.span, format!("`source` does not go with `{other}`"), EITHER);
            None
        }
        (None, Some(sources), None) => {
            let help = "add `sql: query`, or write `source: name` to read the rows of one source";
            reporter.error_with_help(sources.span, "`sources` without `sql`", help);
            None
        }
        (None, None, Some(sql)) => {
            let help = "add `sources: [name, …]`, the sources that the query reads";
            reporter.error_with_help(sql.span, "`sql` without `sources`", help);
            None
        }
    }
}

fn check_sql(sources: &Located<Vec<Text>>, sql: &Text, reporter: &mut Reporter<'_>) -> ViewInput {
    if sources.value.is_empty() {
        let help = "name the sources that the query reads: `sources: [name, …]`";
        reporter.error_with_help(sources.span, "`sources` is empty", help);
    }
    if sql.value.trim().is_empty() {
        let help = "write a query whose columns are the join keys, `event_timestamp` and the features";
        reporter.error_with_help(sql.span, "the query is empty", help);
    }
    let mut seen = HashMap::new();
    for source in &sources.value {
        fields::check_repeated("source", source, &mut seen, reporter);
    }
    ViewInput::Sql {
        sources: sources.value.iter().map(|name| SourceName::new(&name.value)).collect(),
        sql: sql.value.clone(),
    }
}

/// Sources exist and have rows; a view of static sources alone has no times to limit.
fn check_sources(raw: &RawFeatureView, sources: &Catalog<Source>, reporter: &mut Reporter<'_>) {
    let listed = raw.sources.iter().flat_map(|sources| &sources.value);
    let mut is_static = true;
    for name in raw.source.iter().chain(listed) {
        let Some(source) = sources.resolve(name, reporter) else {
            is_static = false;
            continue;
        };
        is_static &= source.event_timestamp.is_none();
        check_rows(name, source, reporter);
    }
    if let (true, Some(ttl)) = (is_static, &raw.ttl) {
        let message = format!("`ttl` on feature view `{}`, whose rows have no time and hold always", raw.name.value);
        reporter.error_with_help(ttl.span, message, "remove `ttl`, or give the source an `event_timestamp`");
    }
}

/// `name` is where the view names the source.
pub fn check_rows(name: &Text, source: &Source, reporter: &mut Reporter<'_>) {
    if source.batch.is_none() && source.stream.is_none() {
        let message = format!("source `{}` has neither a `batch` location nor a `stream`", name.value);
        let help = "add `batch: {format: …, path: …}` or `stream: {type: push}` to the source";
        reporter.error_with_help(name.span, message, help);
    }
}

pub fn check_duration(
    key: &str,
    duration: Option<&Located<RawDuration>>,
    reporter: &mut Reporter<'_>,
) -> Option<Duration> {
    let Located { value: RawDuration(duration), span } = duration?;
    if duration.is_zero() {
        let unlimited = if key == "ttl" { "; without `ttl` there is no limit" } else { "" };
        let help = format!("write a duration greater than zero, or leave `{key}` out{unlimited}");
        reporter.error_with_help(*span, format!("`{key}` is zero"), help);
    }
    Some(*duration)
}
