//! Rules of feature services.

use std::collections::{HashMap, HashSet};

use super::super::model::{FeatureService, Field, ViewProjection};
use super::super::names::{FeatureServiceName, FeatureViewName};
use super::super::raw::{RawFeatureService, RawProjection, Text};
use super::super::value_type::ValueType;
use super::catalog::{Catalog, check_name, report_unknown, report_unknown_feature};
use super::on_demand::CheckedOnDemandView;
use super::views::CheckedView;
use crate::diagnostics::{Reporter, Span, help_with_names};

pub fn feature_service(
    raw: &RawFeatureService,
    feature_views: &Catalog<CheckedView>,
    on_demand: &Catalog<CheckedOnDemandView>,
    reporter: &mut Reporter<'_>,
) -> FeatureService {
    if raw.features.value.is_empty() {
        let message = format!("feature service `{}` has no features", raw.name.value);
        reporter.error_with_help(
            raw.features.span,
            message,
            "name views and features: `features: [view, view:feature]`",
        );
    }
    let mut service = ServiceColumns::default();
    for projection in &raw.features.value {
        if let Some(view) = resolve(&projection.view, feature_views, on_demand, reporter) {
            check_projection(projection, view, &mut service, reporter);
        }
        if let Some(alias) = &projection.alias {
            check_name("projection", alias, reporter);
        }
    }
    FeatureService {
        name: FeatureServiceName::new(&raw.name.value),
        features: raw.features.value.iter().map(view_projection).collect(),
        documentation: raw.documentation(),
    }
}

/// A view of either kind.
#[derive(Clone, Copy)]
enum AnyView<'a> {
    Stored(&'a CheckedView),
    OnDemand(&'a CheckedOnDemandView),
}

impl<'a> AnyView<'a> {
    fn features(self) -> Vec<&'a str> {
        match self {
            AnyView::Stored(checked) => checked.view.features.iter().map(|field| field.name.as_str()).collect(),
            AnyView::OnDemand(checked) => {
                checked.view.features.iter().map(|feature| feature.field.name.as_str()).collect()
            }
        }
    }

    /// Columns that a request has to carry, before they are renamed.
    fn request_columns(self) -> Vec<&'a Field> {
        match self {
            AnyView::Stored(checked) => checked.join_keys.iter().collect(),
            AnyView::OnDemand(checked) => checked.join_keys.iter().chain(&checked.view.request).collect(),
        }
    }
}

/// What the projections of a service amount to, to find where two of them cannot go together.
#[derive(Default)]
struct ServiceColumns {
    /// Full feature names and where they come from.
    full_names: HashMap<String, Span>,
    /// Columns that a request has to carry: type, and the view that asks for it.
    request: HashMap<String, (ValueType, String)>,
}

fn resolve<'a>(
    name: &Text,
    feature_views: &'a Catalog<CheckedView>,
    on_demand: &'a Catalog<CheckedOnDemandView>,
    reporter: &mut Reporter<'_>,
) -> Option<AnyView<'a>> {
    let stored = feature_views.get(&name.value).map(AnyView::Stored);
    let found = stored.or_else(|| on_demand.get(&name.value).map(AnyView::OnDemand));
    if found.is_none() && !feature_views.may_have(&name.value) && !on_demand.may_have(&name.value) {
        let known = feature_views.names().chain(on_demand.names());
        report_unknown("feature view", "feature views", name, known, reporter);
    }
    found
}

fn check_projection(
    projection: &RawProjection,
    view: AnyView<'_>,
    service: &mut ServiceColumns,
    reporter: &mut Reporter<'_>,
) {
    let known = view.features();
    match &projection.features {
        None => {
            for feature in &known {
                service.add_feature(projection, feature, projection.view.span, reporter);
            }
        }
        Some(features) => {
            if features.value.is_empty() {
                let help = "name features of the view, or leave the list out to take all";
                reporter.error_with_help(features.span, "the list of features is empty", help);
            }
            let existing: HashSet<&str> = known.iter().copied().collect();
            for feature in &features.value {
                if existing.contains(feature.as_str()) {
                    service.add_feature(projection, feature.as_str(), feature.span, reporter);
                } else {
                    report_unknown_feature(&projection.view.value, feature, &known, reporter);
                }
            }
        }
    }
    match view {
        AnyView::Stored(checked) => check_join_keys(projection, checked, reporter),
        AnyView::OnDemand(_) => check_on_demand_projection(projection, reporter),
    }
    for column in view.request_columns() {
        service.add_request_column(projection, column, reporter);
    }
}

/// Renamed join keys are join keys of the view.
fn check_join_keys(projection: &RawProjection, checked: &CheckedView, reporter: &mut Reporter<'_>) {
    let known: Vec<&str> = checked.join_keys.iter().map(|key| key.name.as_str()).collect();
    for (join_key, column) in projection.join_keys.iter().flat_map(|entries| &entries.0) {
        if !known.contains(&join_key.as_str()) {
            let message = format!("`{}` is not a join key of `{}`", join_key.value, projection.view.value);
            let plural = format!("join keys of `{}`", projection.view.value);
            let help = help_with_names(&join_key.value, &plural, &known);
            let help = format!("{help}; write `join_keys: {{join key of the view: column of the request}}`");
            reporter.error_with_help(join_key.span, message, help);
        }
        check_name("column of the request", column, reporter);
    }
}

/// The inputs of an on-demand feature view are the plain views with their own join keys.
fn check_on_demand_projection(projection: &RawProjection, reporter: &mut Reporter<'_>) {
    let on_demand = format!("on-demand feature view `{}`", projection.view.value);
    let help = "its inputs are always read under their own names and join keys: remove it";
    if let Some(alias) = &projection.alias {
        reporter.error_with_help(alias.span, format!("`as` on {on_demand}"), help);
    }
    if let Some((join_key, _)) = projection.join_keys.as_ref().and_then(|entries| entries.0.first()) {
        reporter.error_with_help(join_key.span, format!("`join_keys` on {on_demand}"), help);
    }
}

impl ServiceColumns {
    fn add_feature(&mut self, projection: &RawProjection, feature: &str, span: Span, reporter: &mut Reporter<'_>) {
        let shown_as = projection.alias.as_ref().unwrap_or(&projection.view).as_str();
        let full_name = format!("{shown_as}__{feature}");
        if let Some(first) = self.full_names.get(&full_name) {
            let message = format!("two features of this service have the full name `{full_name}`");
            let help = format!(
                "remove one of them, or give its projection another name with `as: …`; the first is at {}",
                reporter.place(*first)
            );
            reporter.error_with_help(span, message, help);
        } else {
            self.full_names.insert(full_name, span);
        }
    }

    fn add_request_column(&mut self, projection: &RawProjection, column: &Field, reporter: &mut Reporter<'_>) {
        let renames = projection.join_keys.iter().flat_map(|entries| &entries.0);
        let renamed = renames.clone().find(|(join_key, _)| join_key.value == column.name).map(|(_, to)| to);
        let name = renamed.map_or(column.name.as_str(), |to| to.as_str());
        let asked = || (column.value_type.clone(), projection.view.value.clone());
        let (known_type, view) = self.request.entry(name.to_owned()).or_insert_with(asked);
        if *known_type != column.value_type {
            let message = format!(
                "`{}` reads column `{name}` of the request as {}, but `{view}` reads it as {known_type}",
                projection.view.value, column.value_type
            );
            let help = "one of them cannot get its values: read another column with `join_keys: {join key: column}`, \
                or rename the request value";
            reporter.error_with_help(renamed.map_or(projection.view.span, |to| to.span), message, help);
        }
    }
}

fn view_projection(raw: &RawProjection) -> ViewProjection {
    let features = raw.features.as_ref();
    let join_keys = raw.join_keys.iter().flat_map(|entries| &entries.0);
    ViewProjection {
        view: FeatureViewName::new(&raw.view.value),
        features: features.map(|features| features.value.iter().map(|feature| feature.value.clone()).collect()),
        alias: raw.alias.as_ref().map(|alias| alias.value.clone()),
        join_keys: join_keys.map(|(key, column)| (key.value.clone(), column.value.clone())).collect(),
    }
}
