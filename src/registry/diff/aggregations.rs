//! Differences between the aggregations of two views of one name.

use std::collections::BTreeMap;

use super::{Affects, Detail, difference, field_names, marked, or_none, reordered, texts, typed_field_details};
use crate::definition::{Aggregation, FeatureView, Percentiles, ViewInput};
use crate::time::format_duration;

/// What counts and how it is computed, of features that both views have.
///
/// Where no column of events changes, the stored events could stay, and online values alone be made anew from them.
/// They are computed again all the same: the two are one step.
pub(super) fn details(old: &FeatureView, new: &FeatureView) -> Vec<Detail> {
    let (
        ViewInput::Aggregations { filter: old_filter, resolution: old_resolution, .. },
        ViewInput::Aggregations { filter: new_filter, resolution: new_resolution, .. },
    ) = (&old.input, &new.input)
    else {
        return Vec::new();
    };
    let mut details = Vec::new();
    let condition = |filter: &Option<String>| or_none(filter.as_deref().map(str::trim)).to_owned();
    details.extend(difference("where", &condition(old_filter), &condition(new_filter)));
    let (old_steps, new_steps) = (old_resolution.map(format_duration), new_resolution.map(format_duration));
    details.extend(difference("resolution", or_none(old_steps.as_deref()), or_none(new_steps.as_deref())));
    let computed_before = computations(old);
    let mut details = marked(&Affects::Values, details);
    for (feature, now) in computations(new) {
        let before = computed_before.get(&feature);
        let changed = before.and_then(|before| difference(&format!("`{feature}`"), before, &now));
        details.extend(marked(&Affects::Feature(feature), changed));
    }
    // What is kept online may go by the order.
    let order = reordered("features", &field_names(&old.features), &field_names(&new.features));
    details.extend(marked(&Affects::Nothing, order));
    details
}

/// What the table keeps of each event. What features make of it is told feature by feature.
pub(super) fn event_column_details(old: &FeatureView, new: &FeatureView) -> Vec<Detail> {
    if !old.is_aggregation() || !new.is_aggregation() {
        return Vec::new();
    }
    let columns = typed_field_details("column of events", &old.stored_fields(), &new.stored_fields());
    let mut details: Vec<String> = texts(columns).collect();
    for column in &new.event_columns {
        let name = &column.field.name;
        let before = old.event_columns.iter().find(|before| before.field.name == *name);
        let label = format!("column of events `{name}`");
        details.extend(before.and_then(|before| difference(&label, &before.expression, &column.expression)));
    }
    marked(&Affects::Nothing, details)
}

/// How each feature is computed, in words.
fn computations(view: &FeatureView) -> BTreeMap<String, String> {
    let aggregations = view.aggregations().iter();
    let features = aggregations.flat_map(|aggregation| {
        let computation = computation(aggregation);
        aggregation.feature_names().map(move |feature| (feature, computation.clone()))
    });
    features.collect()
}

fn computation(aggregation: &Aggregation) -> String {
    let input = aggregation.input.as_deref().map_or("rows", str::trim);
    let mut text = format!("{} of {input}", aggregation.function);
    if let Some(n) = aggregation.n {
        text.push_str(&format!(", n {n}"));
    }
    match &aggregation.p {
        None => {}
        Some(Percentiles::One(p)) => text.push_str(&format!(", p {p}")),
        Some(Percentiles::Several(several)) => text.push_str(&format!(", p {several:?}")),
    }
    if let Some(by) = &aggregation.by {
        text.push_str(&format!(", by {}", by.trim()));
    }
    text
}
