//! Rules of on-demand feature views.

use std::collections::{HashMap, HashSet};

use super::super::model::{FeatureReference, Field, OnDemandFeature, OnDemandFeatureView};
use super::super::names::FeatureViewName;
use super::super::raw::{RawField, RawOnDemandFeatureView, Text, split_reference};
use super::catalog::{Catalog, check_name, report_unknown_feature};
use super::fields;
use super::views::CheckedView;
use crate::diagnostics::{Located, Reporter};

/// An on-demand feature view with what others ask of it.
pub struct CheckedOnDemandView {
    pub view: OnDemandFeatureView,
    /// Join keys of the feature views that it reads, once each.
    pub join_keys: Vec<Field>,
}

pub fn on_demand_feature_view(
    raw: &RawOnDemandFeatureView,
    feature_views: &Catalog<CheckedView>,
    on_demand_names: &HashSet<&str>,
    reporter: &mut Reporter<'_>,
) -> CheckedOnDemandView {
    let mut inputs = Inputs::default();
    for reference in raw.features_from.iter().flatten() {
        inputs.add(reference, feature_views, on_demand_names, reporter);
    }
    let request = raw.request.as_deref().unwrap_or_default();
    check_request(request, &inputs, reporter);
    check_features(raw, request, &inputs, reporter);
    let view = OnDemandFeatureView {
        name: FeatureViewName::new(&raw.name.value),
        request: fields::fields(request),
        features_from: inputs.references,
        features: features(raw),
        documentation: raw.documentation(),
    };
    CheckedOnDemandView { view, join_keys: inputs.join_keys }
}

/// What `features_from` names.
#[derive(Default)]
struct Inputs {
    references: Vec<FeatureReference>,
    /// Plain name of each feature to its view.
    views_by_feature: HashMap<String, String>,
    join_keys: Vec<Field>,
}

impl Inputs {
    fn add(
        &mut self,
        reference: &Text,
        feature_views: &Catalog<CheckedView>,
        on_demand_names: &HashSet<&str>,
        reporter: &mut Reporter<'_>,
    ) {
        self.references.push(FeatureReference::parse(&reference.value));
        let (view_name, feature) = split_reference(reference);
        if feature_views.get(&view_name.value).is_none() && on_demand_names.contains(view_name.as_str()) {
            let message = format!("`{}` is an on-demand feature view itself", view_name.value);
            let help = "on-demand feature views read features of feature views only: \
                repeat its expression here, with the same inputs";
            return reporter.error_with_help(reference.span, message, help);
        }
        let Some(CheckedView { view, join_keys }) = feature_views.resolve(&view_name, reporter) else { return };
        let names: Vec<&str> = view.features.iter().map(|feature| feature.name.as_str()).collect();
        match &feature {
            Some(feature) if !names.contains(&feature.as_str()) => {
                return report_unknown_feature(&view_name.value, feature, &names, reporter);
            }
            Some(feature) => self.add_feature(&view_name, feature.as_str(), reporter),
            None => names.iter().for_each(|name| self.add_feature(&view_name, name, reporter)),
        }
        for key in join_keys {
            if !self.join_keys.iter().any(|known| known.name == key.name) {
                self.join_keys.push(key.clone());
            }
        }
    }

    fn add_feature(&mut self, view: &Text, feature: &str, reporter: &mut Reporter<'_>) {
        let Some(other) = self.views_by_feature.insert(feature.to_owned(), view.value.clone()) else { return };
        if other == view.value {
            let message = format!("feature `{other}:{feature}` stands here twice");
            reporter.error_with_help(view.span, message, "remove one of them");
        } else {
            let message = format!("`{other}:{feature}` and `{}:{feature}` have the same plain name", view.value);
            let help = "expressions read features by their plain names: take one of them, \
                or give the feature another name in its view";
            reporter.error_with_help(view.span, message, help);
        }
    }
}

fn check_request(request: &[RawField], inputs: &Inputs, reporter: &mut Reporter<'_>) {
    let mut seen = HashMap::new();
    for RawField { name, r#type: value_type, .. } in request {
        check_name("request value", name, reporter);
        fields::check_repeated("request value", name, &mut seen, reporter);
        if let Some(view) = inputs.views_by_feature.get(name.as_str()) {
            let message = format!("request value `{0}` has the name of feature `{view}:{0}`", name.value);
            reporter.error_with_help(name.span, message, "an expression could mean either: give it another name");
        }
        let same_column = inputs.join_keys.iter().find(|key| key.name == name.value);
        if let Some(key) = same_column.filter(|key| key.value_type != value_type.value) {
            let (asked, is) = (&value_type.value, &key.value_type);
            let message =
                format!("request value `{}` has type {asked}, but the join key of that name has type {is}", key.name);
            let help = format!("give it type {is} to read the join key, or another name");
            reporter.error_with_help(value_type.span, message, help);
        }
    }
}

fn check_features(raw: &RawOnDemandFeatureView, request: &[RawField], inputs: &Inputs, reporter: &mut Reporter<'_>) {
    let Located { value: features, span } = &raw.features;
    if features.is_empty() {
        let message = format!("on-demand feature view `{}` has no features", raw.name.value);
        reporter.error_with_help(*span, message, "compute some: `features: [{name: …, type: …, expression: …}]`");
    }
    let names = || features.iter().map(|feature| &feature.name);
    fields::check_columns("feature", names(), reporter);
    fields::check_against_join_keys(names(), inputs.join_keys.iter().map(|key| key.name.as_str()), reporter);
    let request: HashSet<&str> = request.iter().map(|field| field.name.as_str()).collect();
    for name in names().filter(|name| request.contains(name.as_str())) {
        let message = format!("feature `{}` has the name of a request value", name.value);
        reporter.error_with_help(name.span, message, "answers carry both: give one of them another name");
    }
    for expression in features.iter().map(|feature| &feature.expression) {
        if expression.value.trim().is_empty() {
            let help = "write SQL over the request's values and the features of `features_from`";
            reporter.error_with_help(expression.span, "the expression is empty", help);
        }
    }
}

fn features(raw: &RawOnDemandFeatureView) -> Vec<OnDemandFeature> {
    let features = raw.features.value.iter();
    features
        .map(|feature| OnDemandFeature {
            field: Field {
                name: feature.name.value.clone(),
                value_type: feature.r#type.value.clone(),
                description: feature.description.clone(),
            },
            expression: feature.expression.value.clone(),
        })
        .collect()
}
