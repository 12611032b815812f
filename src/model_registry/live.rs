//! Models in use that a change of definitions would break.

use std::sync::Arc;

use serde::Serialize;

use super::binding::InputSource;
use super::event::ModelVersion;
use super::models::{ModelReference, Models};
use crate::definition::{Definitions, ValueType};
use crate::registry::{Action, Affects, Change, DefinitionKind, Plan, service_signature};

/// A live model, and why it cannot go on after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenModel {
    pub model: String,
    pub version: u64,
    pub aliases: Vec<String>,
    pub reasons: Vec<String>,
}

impl std::fmt::Display for BrokenModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} version {} ({}): {}", self.model, self.version, self.aliases.join(", "), self.reasons.join("; "))
    }
}

/// The live models that a plan breaks: whose features are no more, are of another type, or are computed differently.
pub fn broken_models(models: &Models, plan: &Plan) -> Vec<BrokenModel> {
    let broken = |(version, aliases): (&Arc<ModelVersion>, Vec<&str>)| {
        let mut reasons = missing_inputs(&plan.definitions, version);
        reasons.extend(changed_views(plan, version));
        (!reasons.is_empty()).then(|| BrokenModel {
            model: version.model.clone(),
            version: version.version,
            aliases: aliases.into_iter().map(str::to_owned).collect(),
            reasons,
        })
    };
    models.live().filter_map(broken).collect()
}

/// The first route that names a model by an alias, or by the digits of a version.
pub(super) fn route_that_names(definitions: &Definitions, model: &str, pointer: &str) -> Option<String> {
    let names =
        |text: &str| text.parse::<ModelReference>().is_ok_and(|named| named.model == model && named.pointer == pointer);
    let mut routes = definitions.prediction_routes.iter();
    let found = routes.find(|route| route.models().iter().any(|text| names(text)));
    found.map(|route| route.name.as_str().to_owned())
}

fn missing_inputs(definitions: &Definitions, version: &ModelVersion) -> Vec<String> {
    let Some(service) = definitions.feature_service(&version.service) else {
        return vec![format!("feature service `{}` is removed", version.service)];
    };
    let signature = service_signature(definitions, service);
    let reason = |view: &str, feature: &str, wanted: &ValueType| {
        let mut outputs = signature.outputs.iter();
        match outputs.find(|column| column.view == view && column.feature == feature) {
            None => Some(format!("`{view}:{feature}` is removed")),
            Some(column) if column.value_type != *wanted => {
                Some(format!("`{view}:{feature}` changes from {wanted} to {}", column.value_type))
            }
            Some(_) => None,
        }
    };
    let inputs = version.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Feature { view, feature, value_type } => reason(view, feature, value_type),
        InputSource::Request { .. } => None,
    });
    inputs.collect()
}

/// Views that the model reads and that would give other values.
fn changed_views(plan: &Plan, version: &ModelVersion) -> Vec<String> {
    let Some(service) = plan.definitions.feature_service(&version.service) else { return Vec::new() };
    let reads = |view: &str| {
        let projections = service.features.iter().filter(|projection| {
            let shown = projection.alias.as_deref().unwrap_or(projection.view.as_str());
            version
                .inputs
                .iter()
                .any(|input| matches!(&input.source, InputSource::Feature { view, .. } if view == shown))
        });
        projections.map(|projection| projection.view.as_str()).any(|name| {
            let on_demand = plan.definitions.on_demand_feature_view(name);
            name == view || on_demand.is_some_and(|on| on.features_from.iter().any(|from| from.view.as_str() == view))
        })
    };
    let is_view = |kind| matches!(kind, DefinitionKind::FeatureView | DefinitionKind::OnDemandFeatureView);
    let changed = plan
        .changes
        .iter()
        .filter(|change| change.action == Action::Changed && is_view(change.kind) && reads(&change.name));
    // A column that comes or goes leaves the others as they are; those that the model reads are looked at one by one.
    let told = |change: &Change| {
        let of_values = change.details.iter().filter(|detail| detail.affects == Affects::Values);
        let details: Vec<&str> = of_values.map(|detail| detail.text.as_str()).collect();
        let is_told = !details.is_empty();
        is_told.then(|| format!("`{}` is computed differently: {}", change.name, details.join(", ")))
    };
    changed.filter_map(told).collect()
}
