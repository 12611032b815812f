//! Models in use that a change of definitions would break.

use std::sync::Arc;

use serde::Serialize;

use super::binding::InputSource;
use super::event::ModelVersion;
use super::models::{ModelReference, Models};
use crate::definition::{Definitions, PredictionRoute, ValueType};
use crate::registry::{Action, DefinitionKind, Plan, service_signature};

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

/// A reference of a route that no model answers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownModel {
    pub route: String,
    pub model: String,
    pub problem: String,
}

impl std::fmt::Display for UnknownModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "route `{}`, `{}`: {}", self.route, self.model, self.problem)
    }
}

/// What routes name and nobody has registered yet: until then a route does not answer, and a shadow sees nothing.
pub fn unknown_models(models: &Models, definitions: &Definitions) -> Vec<UnknownModel> {
    let problem = |text: &str| -> Option<String> {
        let reference = text.parse::<ModelReference>().ok()?;
        models.resolve(&reference).err().map(|error| error.to_string())
    };
    let of_route = |route: &PredictionRoute| {
        let mut seen = Vec::new();
        for model in route.models() {
            let (route, known) = (route.name.as_str().to_owned(), seen.iter().any(|u: &UnknownModel| u.model == model));
            if let Some(problem) = problem(model).filter(|_| !known) {
                seen.push(UnknownModel { route, model: model.to_owned(), problem });
            }
        }
        seen
    };
    definitions.prediction_routes.iter().flat_map(of_route).collect()
}

/// The first route that names a version by its number.
pub(super) fn route_that_names(definitions: &Definitions, model: &str, version: u64) -> Option<String> {
    let names = |text: &&str| {
        text.parse::<ModelReference>().is_ok_and(|named| named.model == model && named.pointer == version.to_string())
    };
    let mut routes = definitions.prediction_routes.iter();
    let found = routes.find(|route| route.models().iter().any(|text| names(&text)));
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
    let changed = plan.changes.iter().filter(|change| {
        let changes_values = change.cost.is_some() || change.details.iter().any(|detail| changes_answers(detail));
        change.action == Action::Changed && is_view(change.kind) && changes_values && reads(&change.name)
    });
    changed.map(|change| format!("`{}` is computed differently: {}", change.name, change.details.join(", "))).collect()
}

/// Whether a difference without cost still changes what is answered.
fn changes_answers(detail: &str) -> bool {
    ["ttl:", "expression of", "features_from:", "request value"].iter().any(|start| detail.starts_with(start))
}
