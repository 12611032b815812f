//! Rules of aggregation views, and what follows from their aggregations: features and columns of events.

use std::collections::{HashMap, HashSet};

use super::super::aggregation::{AggregateFunction, Aggregation, Window};
use super::super::model::{EventColumn, Field, Source, ViewInput};
use super::super::names::{SourceName, is_valid_name};
use super::super::raw::{RawAggregation, RawFeatureView, Text};
use super::super::value_type::ValueType;
use super::catalog::{Catalog, check_name};
use super::fields;
use super::views::{Content, check_duration, check_rows};
use crate::diagnostics::{Located, Reporter, Span};
use crate::time::format_duration;

/// Features of one view; more are not written by people.
const FEATURES_MAX: usize = 10_000;
/// Values that `n` may list.
const N_MAX: u32 = 10_000;

/// What the view's rows and features are; `None`, having reported why, if its features are not known.
pub fn content(
    raw: &RawFeatureView,
    listed: &Located<Vec<RawAggregation>>,
    join_keys: &[Field],
    sources: &Catalog<Source>,
    reporter: &mut Reporter<'_>,
) -> Option<Content> {
    refuse_other_keys(raw, reporter);
    let source_name = check_source(raw, sources, reporter);
    if let Some(condition) = raw.r#where.as_ref().filter(|condition| condition.value.trim().is_empty()) {
        let help = "write an SQL condition over the source's columns, or leave `where` out to count every row";
        reporter.error_with_help(condition.span, "`where` is empty", help);
    }
    let resolution = check_duration("resolution", raw.resolution.as_ref(), reporter);
    check_resolution(raw, &listed.value, reporter);

    let mut understood = check_count(raw, listed, reporter);
    for aggregation in &listed.value {
        understood &= check_aggregation(aggregation, reporter);
    }
    let source_name = source_name.filter(|_| understood)?;
    let declared = sources.get(&source_name.value).map_or(&[][..], |source| &source.schema);
    let aggregations: Vec<Aggregation> = listed.value.iter().map(RawAggregation::to_model).collect();
    Some(Content {
        features: features(&listed.value, &aggregations, declared, join_keys, reporter),
        event_columns: event_columns(&aggregations, declared, join_keys),
        input: ViewInput::Aggregations {
            source: SourceName::new(&source_name.value),
            filter: raw.r#where.as_ref().map(|condition| condition.value.clone()),
            aggregations,
            resolution,
        },
    })
}

/// Keys of row and SQL views.
fn refuse_other_keys(raw: &RawFeatureView, reporter: &mut Reporter<'_>) {
    const ONE_SOURCE: &str = "aggregations read the rows of one source: write `source: name`, with conditions in \
        `where` and expressions in `input`; or aggregate in the query, and list its columns in `features`";
    let sources = raw.sources.as_ref().map(|sources| ("sources", sources.span));
    let sql = raw.sql.as_ref().map(|sql| ("sql", sql.span));
    for (key, span) in sources.into_iter().chain(sql) {
        reporter.error_with_help(span, format!("`{key}` does not go with `aggregations`"), ONE_SOURCE);
    }
    if let Some(features) = &raw.features {
        let help = "remove `features`: those of an aggregation view follow from its aggregations, and are called \
            `{input}_{function}_{window}`, or `{name}_{window}` where a `name` is given";
        reporter.error_with_help(features.span, "`features` does not go with `aggregations`", help);
    }
    if let Some(ttl) = &raw.ttl {
        let help = "remove `ttl`: the windows say how old an event may be, and an empty window gives null, or 0 for \
            counts";
        reporter.error_with_help(ttl.span, "`ttl` does not go with `aggregations`", help);
    }
}

/// The one source, whose rows have a time.
fn check_source<'a>(
    raw: &'a RawFeatureView,
    sources: &Catalog<Source>,
    reporter: &mut Reporter<'_>,
) -> Option<&'a Text> {
    let Some(name) = &raw.source else {
        // That there is another kind of source has been told.
        if raw.sources.is_none() && raw.sql.is_none() {
            let message = format!("feature view `{}` has no source", raw.name.value);
            reporter.error_with_help(raw.name.span, message, "name the source of its events: `source: name`");
        }
        return None;
    };
    if let Some(source) = sources.resolve(name, reporter) {
        check_rows(name, source, reporter);
        if source.event_timestamp.is_none() {
            let message = format!("source `{}` has no `event_timestamp`, so no window can choose its rows", name.value);
            let help = "give the source an `event_timestamp`, or serve its rows as they are with `features`";
            reporter.error_with_help(name.span, message, help);
        }
    }
    Some(name)
}

/// The lower edge of a window moves by less than the window is long.
fn check_resolution(raw: &RawFeatureView, aggregations: &[RawAggregation], reporter: &mut Reporter<'_>) {
    let Some(resolution) = &raw.resolution else { return };
    let windows = aggregations.iter().flat_map(|aggregation| &aggregation.windows.value);
    let sliding = windows.filter_map(|window| match window.value.0 {
        Window::Sliding(duration) => Some(duration),
        Window::Lifetime => None,
    });
    if let Some(shortest) = sliding.min().filter(|shortest| *shortest < resolution.value.0) {
        let (shortest, length) = (format_duration(shortest), format_duration(resolution.value.0));
        let message = format!("`resolution` is {length}, longer than the window of {shortest}");
        let help = format!("lower edges of windows move in steps of `resolution`: write {shortest} or less");
        reporter.error_with_help(resolution.span, message, help);
    }
}

fn check_count(raw: &RawFeatureView, listed: &Located<Vec<RawAggregation>>, reporter: &mut Reporter<'_>) -> bool {
    let count: usize = listed.value.iter().map(|aggregation| aggregation.windows.value.len()).sum();
    if listed.value.is_empty() {
        let help = "aggregate something: `aggregations: [{input: …, function: …, windows: [1h, 7d]}]`";
        reporter.error_with_help(listed.span, format!("feature view `{}` has no aggregations", raw.name.value), help);
    }
    if count > FEATURES_MAX {
        let message = format!("feature view `{}` has {count} features, more than {FEATURES_MAX}", raw.name.value);
        reporter.error_with_help(listed.span, message, "split it into several feature views");
    }
    count <= FEATURES_MAX
}

/// Returns whether the names of its features are known.
fn check_aggregation(raw: &RawAggregation, reporter: &mut Reporter<'_>) -> bool {
    let input_is_fine = check_input(raw, reporter);
    let by_is_fine = check_expression("by", raw.by.as_ref(), reporter);
    let windows_are_fine = check_windows(raw, reporter);
    check_n(raw, reporter);
    check_p(raw, reporter);
    input_is_fine && by_is_fine && windows_are_fine
}

fn check_input(raw: &RawAggregation, reporter: &mut Reporter<'_>) -> bool {
    let function = raw.function.value;
    if !check_expression("input", raw.input.as_ref(), reporter) {
        return false;
    }
    if raw.input.is_none() && function != AggregateFunction::Count {
        let help = "add `input: …`, a column of the source or an expression over its columns; \
            only `count` works without, and counts rows";
        reporter.error_with_help(raw.function.span, format!("`{function}` has no `input`"), help);
        return false;
    }
    match (&raw.name, &raw.input) {
        (Some(name), _) => check_name("aggregation", name, reporter),
        (None, Some(input)) if !is_valid_name(input.value.trim()) => {
            let message = format!("`{}` gives no name for the features", input.value.trim());
            let help = "add `name: …`: the features are then called `{name}_{window}`; \
                without it `input` is the plain name of a column, without `__`";
            reporter.error_with_help(input.span, message, help);
            false
        }
        _ => true,
    }
}

fn check_expression(key: &str, expression: Option<&Text>, reporter: &mut Reporter<'_>) -> bool {
    let empty = expression.filter(|expression| expression.value.trim().is_empty());
    if let Some(expression) = empty {
        let help = format!("write a column of the source or an expression over its columns, or leave `{key}` out");
        reporter.error_with_help(expression.span, format!("`{key}` is empty"), help);
    }
    empty.is_none()
}

fn check_windows(raw: &RawAggregation, reporter: &mut Reporter<'_>) -> bool {
    let Located { value: windows, span } = &raw.windows;
    if windows.is_empty() {
        let help = "say how far back events count: `windows: [1h, 7d, lifetime]`";
        reporter.error_with_help(*span, "`windows` is empty", help);
    }
    let mut seen: HashMap<Window, Span> = HashMap::new();
    for Located { value, span } in windows {
        if let Some(first) = seen.get(&value.0) {
            let message = format!("window `{}` stands here twice", value.0);
            let help = format!("remove one of them; the first is at {}", reporter.place(*first));
            reporter.error_with_help(*span, message, help);
        } else {
            seen.insert(value.0, *span);
        }
    }
    !windows.is_empty()
}

fn check_n(raw: &RawAggregation, reporter: &mut Reporter<'_>) {
    let Some(Located { value: n, span }) = raw.n else { return };
    let function = raw.function.value;
    if !function.lists_values() {
        let help = "remove `n`: it says how many values `first`, `last`, `top` and `bottom` list";
        reporter.error_with_help(span, format!("`n` does not go with `{function}`"), help);
    } else if !(1..=N_MAX).contains(&n) {
        let help = format!("write a number from 1 to {N_MAX}; without `n` the feature is one value and no list");
        reporter.error_with_help(span, format!("`n` is {n}"), help);
    }
}

fn check_p(raw: &RawAggregation, reporter: &mut Reporter<'_>) {
    let function = raw.function.value;
    match &raw.p {
        Some(p) if function != AggregateFunction::ApproxPercentile => {
            let help = "remove `p`: it says which percentiles `approx_percentile` gives";
            reporter.error_with_help(p.span, format!("`p` does not go with `{function}`"), help);
        }
        None if function == AggregateFunction::ApproxPercentile => {
            let help = "add `p: 0.99`, or several, `p: [0.5, 0.99]`, which give a list";
            reporter.error_with_help(raw.function.span, format!("`{function}` has no `p`"), help);
        }
        _ => {}
    }
}

/// One feature a window, each with a name of its own.
fn features(
    raw: &[RawAggregation],
    aggregations: &[Aggregation],
    declared: &[Field],
    join_keys: &[Field],
    reporter: &mut Reporter<'_>,
) -> Vec<Field> {
    let mut seen: HashMap<String, (usize, Span)> = HashMap::new();
    let mut names: Vec<Text> = Vec::new();
    let mut features = Vec::new();
    for (index, (raw, aggregation)) in raw.iter().zip(aggregations).enumerate() {
        let value_type = feature_type(raw, aggregation, declared, reporter);
        for name in aggregation.feature_names() {
            let place = raw.place();
            match seen.get(&name) {
                // That it has a window twice has been told.
                Some((first, _)) if *first == index => continue,
                Some((_, first)) => report_taken(&name, place, *first, reporter),
                None if !is_valid_name(&name) => report_unusable(&name, place, reporter),
                None => {}
            }
            seen.entry(name.clone()).or_insert((index, place));
            names.push(Text::at(place, name.clone()));
            features.push(Field { name, value_type: value_type.clone(), description: None });
        }
    }
    fields::check_against_join_keys(names.iter(), join_keys.iter().map(|key| key.name.as_str()), reporter);
    features
}

fn report_taken(feature: &str, place: Span, first: Span, reporter: &mut Reporter<'_>) {
    let help = format!("remove one of them, or give it a `name` of its own; the first is at {}", reporter.place(first));
    reporter.error_with_help(place, format!("two features are called `{feature}`"), help);
}

fn report_unusable(feature: &str, place: Span, reporter: &mut Reporter<'_>) {
    let help = "choose a `name` with which it has 128 characters at most, and no `__`, which separates view and \
        feature in full feature names";
    reporter.error_with_help(place, format!("a feature would be called `{feature}`, which is no name"), help);
}

/// The type of the features as far as declarations tell; an aggregation that does not take a declared type is reported.
fn feature_type(
    raw: &RawAggregation,
    aggregation: &Aggregation,
    declared: &[Field],
    reporter: &mut Reporter<'_>,
) -> ValueType {
    let input = aggregation
        .input
        .as_deref()
        .map(|input| declared_type(input, declared).unwrap_or_else(|| provisional_input_type(aggregation.function)));
    let by = aggregation.by.as_deref().map(|by| declared_type(by, declared).unwrap_or(ValueType::String));
    let report = |at: Option<&Text>, problem: String, reporter: &mut Reporter<'_>| {
        let help = "the source's `schema` gives its type; an expression of another type comes with a `name`";
        reporter.error_with_help(at.map_or(raw.function.span, |at| at.span), problem, help);
        ValueType::Float64
    };
    if let Err(problem) = aggregation.value_type(input.as_ref(), None) {
        return report(raw.input.as_ref(), problem, reporter);
    }
    match aggregation.value_type(input.as_ref(), by.as_ref()) {
        Ok(value_type) => value_type,
        Err(problem) => report(raw.by.as_ref(), problem, reporter),
    }
}

/// What is kept of each event: every input and bucket once, in the order of the aggregations.
///
/// A plain column keeps its name, unless a table has another column of that name; what else there is takes the name
/// of the first aggregation that reads it, or a number.
fn event_columns(aggregations: &[Aggregation], declared: &[Field], join_keys: &[Field]) -> Vec<EventColumn> {
    let of_the_table: HashSet<&str> = join_keys.iter().map(|key| key.name.as_str()).collect();
    let keeps_its_name = |expression: &str| {
        is_valid_name(expression) && !fields::is_reserved(expression) && !of_the_table.contains(expression)
    };
    let mut seen: HashSet<&str> = HashSet::new();
    let mut expressions: Vec<(&str, ValueType, &Aggregation)> = Vec::new();
    for aggregation in aggregations {
        let input = aggregation.input.as_deref().map(|input| (input, provisional_input_type(aggregation.function)));
        let by = aggregation.by.as_deref().map(|by| (by, ValueType::String));
        for (expression, provisional) in input.into_iter().chain(by) {
            if seen.insert(expression.trim()) {
                let value_type = declared_type(expression, declared).unwrap_or(provisional);
                expressions.push((expression.trim(), value_type, aggregation));
            }
        }
    }
    // Plain columns come first to their names, wherever they stand.
    let plain = expressions.iter().map(|(expression, ..)| *expression).filter(|expression| keeps_its_name(expression));
    let mut taken: HashSet<String> = plain.chain(of_the_table.iter().copied()).map(str::to_owned).collect();
    let mut number = 0;
    let mut free_name = |aggregation: &Aggregation| {
        let base = aggregation.base_name();
        if is_valid_name(&base) && !fields::is_reserved(&base) && taken.insert(base.clone()) {
            return base;
        }
        loop {
            number += 1;
            let name = format!("input_{number}");
            if taken.insert(name.clone()) {
                return name;
            }
        }
    };
    let column = |(expression, value_type, aggregation): (&str, ValueType, &Aggregation)| EventColumn {
        field: Field {
            name: if keeps_its_name(expression) { expression.to_owned() } else { free_name(aggregation) },
            value_type,
            description: None,
        },
        expression: expression.to_owned(),
    };
    expressions.into_iter().map(column).collect()
}

/// The type of an expression that is a column of the source's schema.
fn declared_type(expression: &str, declared: &[Field]) -> Option<ValueType> {
    declared.iter().find(|field| field.name == expression.trim()).map(|field| field.value_type.clone())
}

/// Stands for the type of an input until the source has been read.
fn provisional_input_type(function: AggregateFunction) -> ValueType {
    match function {
        AggregateFunction::Any | AggregateFunction::All => ValueType::Bool,
        _ => ValueType::Float64,
    }
}
