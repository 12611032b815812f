//! Models in use that a change of definitions would break.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::binding::InputSource;
use super::event::ModelVersion;
use super::models::{ModelReference, Models};
use crate::definition::{Definitions, ValueType, ViewProjection};
use crate::registry::{Action, Affects, Change, DefinitionKind, Plan, service_signature};

/// A live model, and why it cannot go on after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenModel {
    pub model: String,
    pub version: u64,
    pub aliases: Vec<String>,
    /// That name the version by its number.
    pub routes: Vec<String>,
    pub reasons: Vec<String>,
}

impl std::fmt::Display for BrokenModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter().map(|route| format!("route `{route}`"));
        let used: Vec<String> = self.aliases.iter().cloned().chain(routes).collect();
        write!(f, "{} version {} ({}): {}", self.model, self.version, used.join(", "), self.reasons.join("; "))
    }
}

/// The live models that a plan breaks: whose features are no more, are of another type, or are computed differently.
/// What was so in `base` is not the plan's doing.
pub fn broken_models(models: &Models, base: &Definitions, plan: &Plan) -> Vec<BrokenModel> {
    let versions = models.models.values().flat_map(|model| &model.versions);
    let broken = |version: &Arc<ModelVersion>| {
        let aliases = models.models.get(&version.model).map(|model| model.aliases_of(version.version));
        let aliases: Vec<String> = aliases.into_iter().flatten().map(str::to_owned).collect();
        let routes = routes_of_version(&plan.definitions, version);
        if aliases.is_empty() && routes.is_empty() {
            return None;
        }
        let known = missing_inputs(base, version);
        let mut reasons = missing_inputs(&plan.definitions, version);
        reasons.retain(|reason| !known.contains(reason));
        reasons.extend(changed_projections(base, &plan.definitions, version));
        reasons.extend(changed_views(plan, version));
        let (model, version) = (version.model.clone(), version.version);
        (!reasons.is_empty()).then_some(BrokenModel { model, version, aliases, routes, reasons })
    };
    versions.filter_map(broken).collect()
}

/// The routes that name a version by its number.
fn routes_of_version(definitions: &Definitions, version: &ModelVersion) -> Vec<String> {
    let names = |text: &str| {
        let named = text.parse::<ModelReference>();
        named.is_ok_and(|named| named.model == version.model && named.pointer.parse() == Ok(version.version))
    };
    let routes = definitions.prediction_routes.iter();
    let naming = routes.filter(|route| route.models().iter().any(|text| names(text)));
    naming.map(|route| route.name.as_str().to_owned()).collect()
}

/// The first route that names a model by an alias, or by the digits of a version.
pub(super) fn route_that_names(definitions: &Definitions, model: &str, pointer: &str) -> Option<String> {
    let names =
        |text: &str| text.parse::<ModelReference>().is_ok_and(|named| named.model == model && named.pointer == pointer);
    let mut routes = definitions.prediction_routes.iter();
    let found = routes.find(|route| route.models().iter().any(|text| names(text)));
    found.map(|route| route.name.as_str().to_owned())
}

/// Why definitions do not have what a version reads.
pub(super) fn missing_inputs(definitions: &Definitions, version: &ModelVersion) -> Vec<String> {
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

/// What the model's service takes from another view than before, or by other keys.
fn changed_projections(base: &Definitions, definitions: &Definitions, version: &ModelVersion) -> Vec<String> {
    let projections = |definitions: &Definitions| -> BTreeMap<String, ViewProjection> {
        let service = definitions.feature_service(&version.service);
        let all = service.iter().flat_map(|service| &service.features);
        all.map(|projection| (shown(projection).to_owned(), projection.clone())).collect()
    };
    let (before, after) = (projections(base), projections(definitions));
    let changed = |name: &&str| {
        let (old, new) = (before.get(*name)?, after.get(*name)?);
        if old.view != new.view {
            return Some(format!(
                "`{name}` of service `{}` was `{}`, and is `{}`",
                version.service, old.view, new.view
            ));
        }
        let is_other = old.join_keys != new.join_keys;
        is_other.then(|| format!("`{name}` of service `{}` is read by other keys", version.service))
    };
    read_names(version).iter().filter_map(changed).collect()
}

/// Views that the model reads and that would give other values.
fn changed_views(plan: &Plan, version: &ModelVersion) -> Vec<String> {
    let read = read_features(&plan.definitions, version);
    let is_view = |kind| matches!(kind, DefinitionKind::FeatureView | DefinitionKind::OnDemandFeatureView);
    let told = |change: &Change| {
        let features = read.get(&change.name).filter(|_| is_view(change.kind))?;
        if change.action == Action::Removed {
            return Some(format!("`{}` is another view", change.name));
        }
        // A column that comes or goes leaves the others as they are; those that the model reads are looked at one by one.
        let is_read = |affects: &Affects| match affects {
            Affects::Nothing | Affects::Column => false,
            Affects::Feature(feature) => features.as_ref().is_none_or(|features| features.contains(feature)),
            Affects::Values => true,
        };
        let details: Vec<&str> = change
            .details
            .iter()
            .filter(|detail| is_read(&detail.affects))
            .map(|detail| detail.text.as_str())
            .collect();
        let is_told = !details.is_empty();
        is_told.then(|| format!("`{}` is computed differently: {}", change.name, details.join(", ")))
    };
    plan.changes.iter().filter(|change| change.action != Action::Added).filter_map(told).collect()
}

/// What a model reads of each view, by itself and through on-demand views; None: all of it.
fn read_features(definitions: &Definitions, version: &ModelVersion) -> HashMap<String, Option<HashSet<String>>> {
    let mut read: HashMap<String, Option<HashSet<String>>> = HashMap::new();
    let mut add = |view: &str, feature: Option<&str>| {
        let features = read.entry(view.to_owned()).or_insert_with(|| Some(HashSet::new()));
        match (feature, features.as_mut()) {
            (Some(feature), Some(features)) => drop(features.insert(feature.to_owned())),
            (None, _) => *features = None,
            (Some(_), None) => {}
        }
    };
    let service = definitions.feature_service(&version.service);
    let projections = || service.iter().flat_map(|service| &service.features);
    for input in &version.inputs {
        let InputSource::Feature { view, feature, .. } = &input.source else { continue };
        for projection in projections().filter(|projection| shown(projection) == view) {
            add(projection.view.as_str(), Some(feature));
            let on_demand = definitions.on_demand_feature_view(projection.view.as_str());
            for reference in on_demand.iter().flat_map(|view| &view.features_from) {
                add(reference.view.as_str(), reference.feature.as_deref());
            }
        }
    }
    read
}

/// The names of views, as the service shows them, that a model reads.
fn read_names(version: &ModelVersion) -> BTreeSet<&str> {
    let names = version.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Feature { view, .. } => Some(view.as_str()),
        InputSource::Request { .. } => None,
    });
    names.collect()
}

fn shown(projection: &ViewProjection) -> &str {
    projection.alias.as_deref().unwrap_or(projection.view.as_str())
}
