//! Differences between two definitions of one name, in words, and what they mean for stored rows.

mod aggregations;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{Affects, Detail};
use crate::definition::{
    BatchLocation, Definitions, Documentation, Entity, EntityName, FeatureService, FeatureView, Field, FileFormat,
    OnDemandFeatureView, Source, SourceName, Stream, ValueType, ViewInput,
};
use crate::time::format_duration;

pub(super) use routes::route_details;

/// What a change of a feature view does to its stored rows; the greater includes the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Nothing,
    /// The rows stay and are computed again from the beginning.
    Recompute,
    /// The rows cannot stay: they have another key, another type or another notion of time.
    Rebuild,
}

pub(super) fn entity_details(old: &Entity, new: &Entity) -> Vec<String> {
    let mut details = Vec::new();
    details.extend(difference("join keys", &columns(&old.join_keys), &columns(&new.join_keys)));
    details.extend(field_descriptions(&old.join_keys, &new.join_keys));
    details.extend(documentation_details(&old.documentation, &new.documentation));
    details
}

pub(super) fn source_details(old: &Source, new: &Source) -> Vec<String> {
    let mut details: Vec<String> = texts(source_data_details(old, new)).collect();
    details.extend(stream_details(old, new));
    details.extend(field_descriptions(&old.schema, &new.schema));
    details.extend(documentation_details(&old.documentation, &new.documentation));
    details
}

/// The differences of two sources that change what rows they give.
fn source_data_details(old: &Source, new: &Source) -> Vec<Detail> {
    let mut details = Vec::new();
    details.extend(difference("batch", &batch_text(old.batch.as_ref()), &batch_text(new.batch.as_ref())));
    details.extend(difference(
        "event_timestamp",
        or_none(old.event_timestamp.as_deref()),
        or_none(new.event_timestamp.as_deref()),
    ));
    details.extend(difference(
        "created_timestamp",
        or_none(old.created_timestamp.as_deref()),
        or_none(new.created_timestamp.as_deref()),
    ));
    for column in old.rename.keys().chain(new.rename.keys()).collect::<BTreeSet<_>>() {
        let name = |source: &Source| source.rename.get(column).unwrap_or(column).clone();
        details.extend(difference(&format!("rename of `{column}`"), &name(old), &name(new)));
    }
    details.extend(stream_data_details(old, new));
    let mut details = marked(&Affects::Values, details);
    details.extend(typed_field_details("column", &old.schema, &new.schema));
    details
}

/// The differences of two sources that change which events of their streams count.
fn stream_data_details(old: &Source, new: &Source) -> Vec<String> {
    let has_stream = |source: &Source| if source.stream.is_some() { "there" } else { "none" };
    let from = |source: &Source| source.stream_from.map_or("none".to_owned(), |instant| instant.to_string());
    let mut details = Vec::new();
    details.extend(difference("stream", has_stream(old), has_stream(new)));
    details.extend(difference("stream_from", &from(old), &from(new)));
    details
}

/// The differences of two sources that concern events to come.
fn stream_details(old: &Source, new: &Source) -> Vec<String> {
    let mut details = Vec::new();
    if let (Some(old), Some(new)) = (&old.stream, &new.stream) {
        let lateness = |stream: &Stream| stream.allowed_lateness.map_or("no limit".to_owned(), format_duration);
        details.extend((old.input != new.input).then(|| "stream reads from elsewhere".to_owned()));
        let ahead = |stream: &Stream| stream.max_ahead().map_or("no limit".to_owned(), format_duration);
        details.extend(difference("allowed_lateness", &lateness(old), &lateness(new)));
        details.extend(difference("max_ahead", &ahead(old), &ahead(new)));
        details.extend(texts(typed_field_details("column of the stream", &old.columns, &new.columns)));
    }
    details.extend(difference("event_id", or_none(old.event_id.as_deref()), or_none(new.event_id.as_deref())));
    let remembered = |source: &Source| source.remembers_ids_for().map_or("none".to_owned(), format_duration);
    if old.event_id.is_some() && new.event_id.is_some() {
        details.extend(difference("deduplicate_for", &remembered(old), &remembered(new)));
    }
    details
}

/// The differences of a feature view, those that come with its entities and sources included.
pub(super) fn feature_view_details(
    base: &Definitions,
    old: &FeatureView,
    definitions: &Definitions,
    new: &FeatureView,
) -> (Vec<Detail>, Effect) {
    let mut details = Vec::new();
    let mut effect = Effect::Nothing;
    let mut note = |effect_of: Effect, new_details: Vec<Detail>| {
        if !new_details.is_empty() {
            effect = effect.max(effect_of);
            details.extend(new_details);
        }
    };
    note(
        Effect::Nothing,
        marked(&Affects::Nothing, difference("entities", &names(&old.entities), &names(&new.entities))),
    );
    note(Effect::Nothing, marked(&Affects::Nothing, changed_entities(base, old, definitions, new)));
    let (old_keys, new_keys) = (columns(&base.join_keys(old)), columns(&definitions.join_keys(new)));
    note(Effect::Rebuild, marked(&Affects::Values, difference("join keys", &old_keys, &new_keys)));
    note(input_effect(&old.input, &new.input), marked(&Affects::Values, input_details(&old.input, &new.input)));
    note(Effect::Recompute, changed_sources(base, &old.input, definitions, &new.input));
    let kind = |is_static| if is_static { "static" } else { "timed" };
    let (old_kind, new_kind) = (kind(base.is_static(old)), kind(definitions.is_static(new)));
    note(Effect::Rebuild, marked(&Affects::Values, difference("rows", old_kind, new_kind)));
    let effect_of_features = match (old.is_aggregation(), new.is_aggregation()) {
        // What is stored are the columns of events.
        (true, true) => Effect::Recompute,
        _ => field_effect(&old.features, &new.features),
    };
    note(effect_of_features, typed_field_details("feature", &old.features, &new.features));
    note(Effect::Recompute, aggregations::details(old, new));
    note(field_effect(&old.stored_fields(), &new.stored_fields()), aggregations::event_column_details(old, new));
    let duration = |ttl: Option<Duration>| ttl.map_or("no limit".to_owned(), format_duration);
    note(Effect::Nothing, marked(&Affects::Values, difference("ttl", &duration(old.ttl), &duration(new.ttl))));
    note(Effect::Nothing, marked(&Affects::Nothing, feature_view_metadata(old, new)));
    (details, effect)
}

fn feature_view_metadata(old: &FeatureView, new: &FeatureView) -> Vec<String> {
    let lookback = |view: &FeatureView| view.lookback.map_or("default".to_owned(), format_duration);
    let mut details = Vec::new();
    details.extend(difference("lookback", &lookback(old), &lookback(new)));
    if !(old.is_aggregation() && new.is_aggregation()) {
        details.extend(reordered("features", &field_names(&old.features), &field_names(&new.features)));
    }
    details.extend(field_descriptions(&old.features, &new.features));
    details.extend(documentation_details(&old.documentation, &new.documentation));
    details
}

fn input_effect(old: &ViewInput, new: &ViewInput) -> Effect {
    let holds_events = |input: &ViewInput| matches!(input, ViewInput::Aggregations { .. });
    // Events and rows of features do not share a table.
    if holds_events(old) == holds_events(new) { Effect::Recompute } else { Effect::Rebuild }
}

fn input_details(old: &ViewInput, new: &ViewInput) -> Vec<String> {
    let sources = |input: &ViewInput| {
        let mut sources: Vec<&SourceName> = input.sources().iter().collect();
        sources.sort_unstable();
        sources.into_iter().map(SourceName::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut details = Vec::new();
    details.extend(difference("sources", &sources(old), &sources(new)));
    match (old, new) {
        (ViewInput::Sql { sql: old, .. }, ViewInput::Sql { sql: new, .. }) if old.trim() != new.trim() => {
            details.push("sql changed".to_owned());
        }
        (old, new) => {
            let (old, new) = (kind_of_input(old), kind_of_input(new));
            details.extend((old != new).then(|| format!("{old} -> {new}")));
        }
    }
    details
}

fn kind_of_input(input: &ViewInput) -> &'static str {
    match input {
        ViewInput::Rows { .. } => "rows of the source",
        ViewInput::Sql { .. } => "sql",
        ViewInput::Aggregations { .. } => "aggregations",
    }
}

/// Sources that a view had and has, and that give other rows than before. A column that comes to a source without files
/// changes no feature that there is; one of files may have been there, and be read by another type.
fn changed_sources(base: &Definitions, old: &ViewInput, definitions: &Definitions, new: &ViewInput) -> Vec<Detail> {
    let changed = |name: &SourceName| {
        let (old, new) = (base.source(name.as_str())?, definitions.source(name.as_str())?);
        let details = source_data_details(old, new);
        let is_of_columns = new.batch.is_none() && details.iter().all(|detail| detail.affects == Affects::Column);
        let affects = if is_of_columns { Affects::Column } else { Affects::Values };
        (!details.is_empty()).then(|| Detail::new(affects, format!("source `{name}` changed")))
    };
    let kept: BTreeSet<&SourceName> = new.sources().iter().filter(|name| old.sources().contains(name)).collect();
    kept.into_iter().filter_map(changed).collect()
}

/// Entities that a view had and has, and that have other join keys than before.
fn changed_entities(
    base: &Definitions,
    old: &FeatureView,
    definitions: &Definitions,
    new: &FeatureView,
) -> Vec<String> {
    let changed = |name: &&EntityName| match (base.entity(name.as_str()), definitions.entity(name.as_str())) {
        (Some(old), Some(new)) => columns(&old.join_keys) != columns(&new.join_keys),
        _ => false,
    };
    let kept = new.entities.iter().filter(|name| old.entities.contains(name));
    kept.filter(changed).map(|name| format!("entity `{name}` changed")).collect()
}

fn field_effect(old: &[Field], new: &[Field]) -> Effect {
    let retyped = |field: &Field| new.iter().any(|n| n.name == field.name && n.value_type != field.value_type);
    if old.iter().any(retyped) { Effect::Rebuild } else { Effect::Recompute }
}

pub(super) fn on_demand_details(old: &OnDemandFeatureView, new: &OnDemandFeatureView) -> Vec<Detail> {
    let fields = |view: &OnDemandFeatureView| view.features.iter().map(|f| f.field.clone()).collect::<Vec<_>>();
    let (old_fields, new_fields) = (fields(old), fields(new));
    // Expressions read them all by name.
    let request = texts(typed_field_details("request value", &old.request, &new.request));
    let mut details = marked(&Affects::Values, request);
    let features_from = difference("features_from", &names(&old.features_from), &names(&new.features_from));
    details.extend(marked(&Affects::Values, features_from));
    details.extend(typed_field_details("feature", &old_fields, &new_fields));
    for feature in &new.features {
        let before = old.features.iter().find(|before| before.field.name == feature.field.name);
        let label = format!("expression of `{}`", feature.field.name);
        let changed = before.and_then(|before| difference(&label, before.expression.trim(), feature.expression.trim()));
        details.extend(marked(&Affects::Feature(feature.field.name.clone()), changed));
    }
    let mut told = Vec::new();
    told.extend(reordered("features", &field_names(&old_fields), &field_names(&new_fields)));
    told.extend(field_descriptions(&old.request, &new.request));
    told.extend(field_descriptions(&old_fields, &new_fields));
    told.extend(documentation_details(&old.documentation, &new.documentation));
    details.extend(marked(&Affects::Nothing, told));
    details
}

/// What a service's signature does not show: another order, other projections for the same columns, documentation.
pub(super) fn service_details(old: &FeatureService, new: &FeatureService, same_outputs: bool) -> Vec<String> {
    let mut details = Vec::new();
    if old.features != new.features && same_outputs {
        details.push("features are chosen or ordered differently".to_owned());
    }
    details.extend(documentation_details(&old.documentation, &new.documentation));
    details
}

fn documentation_details(old: &Documentation, new: &Documentation) -> Vec<String> {
    let mut details = Vec::new();
    if old.description != new.description {
        details.push("description changed".to_owned());
    }
    details.extend(difference("owner", or_none(old.owner.as_deref()), or_none(new.owner.as_deref())));
    for tag in old.tags.keys().chain(new.tags.keys()).collect::<BTreeSet<_>>() {
        let value = |documentation: &Documentation| documentation.tags.get(tag).cloned();
        let (old, new) = (value(old), value(new));
        details.extend(difference(&format!("tag `{tag}`"), or_none(old.as_deref()), or_none(new.as_deref())));
    }
    details
}

fn typed_field_details(what: &str, old: &[Field], new: &[Field]) -> Vec<Detail> {
    let types = |fields: &[Field]| -> BTreeMap<String, ValueType> {
        fields.iter().map(|field| (field.name.clone(), field.value_type.clone())).collect()
    };
    let (old_types, new_types) = (types(old), types(new));
    let mut details = Vec::new();
    for Field { name, value_type, .. } in old {
        match new_types.get(name) {
            None => details.push(Detail::new(Affects::Column, format!("{what} `{name}` removed: {value_type}"))),
            Some(new) => {
                let retyped = difference(&format!("type of `{name}`"), value_type, new);
                details.extend(marked(&Affects::Feature(name.clone()), retyped));
            }
        }
    }
    let added = new.iter().filter(|field| !old_types.contains_key(&field.name));
    let added = added.map(|field| format!("{what} `{}` added: {}", field.name, field.value_type));
    details.extend(marked(&Affects::Column, added));
    details
}

fn marked(affects: &Affects, texts: impl IntoIterator<Item = String>) -> Vec<Detail> {
    texts.into_iter().map(|text| Detail::new(affects.clone(), text)).collect()
}

fn texts(details: Vec<Detail>) -> impl Iterator<Item = String> {
    details.into_iter().map(|detail| detail.text)
}

fn field_descriptions(old: &[Field], new: &[Field]) -> Vec<String> {
    let redescribed = |field: &&Field| old.iter().any(|o| o.name == field.name && o.description != field.description);
    new.iter().filter(redescribed).map(|field| format!("description of `{}` changed", field.name)).collect()
}

fn reordered(what: &str, old: &[&str], new: &[&str]) -> Option<String> {
    let kept = |names: &[&str], others: &[&str]| -> Vec<String> {
        names.iter().filter(|name| others.contains(name)).map(|name| (*name).to_owned()).collect()
    };
    (kept(old, new) != kept(new, old)).then(|| format!("{what} ordered differently"))
}

fn field_names(fields: &[Field]) -> Vec<&str> {
    fields.iter().map(|field| field.name.as_str()).collect()
}

fn columns(fields: &[Field]) -> String {
    let columns: Vec<String> = fields.iter().map(|field| format!("{} {}", field.name, field.value_type)).collect();
    if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
}

fn names(names: &[impl ToString]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn batch_text(batch: Option<&BatchLocation>) -> String {
    let format = |format| match format {
        FileFormat::Parquet => "parquet",
        FileFormat::Csv => "csv",
        FileFormat::Json => "json",
        FileFormat::Delta => "delta",
    };
    batch.map_or("none".to_owned(), |batch| format!("{} {}", format(batch.format), batch.path))
}

fn or_none(text: Option<&str>) -> &str {
    text.unwrap_or("none")
}

fn difference<T: PartialEq + ToString + ?Sized>(label: &str, old: &T, new: &T) -> Option<String> {
    (old != new).then(|| format!("{label}: {} -> {}", old.to_string(), new.to_string()))
}
