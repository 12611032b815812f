//! Definitions one by one, for lists and descriptions.

use serde::Serialize;
use serde_json::Value;

use super::model::{Definitions, Documentation};

/// The kinds of definition, named as the keys of definition files.
pub const KINDS: [&str; 6] =
    ["entities", "sources", "feature_views", "on_demand_feature_views", "feature_services", "prediction_routes"];

/// One definition.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedDefinition {
    /// One of [`KINDS`].
    pub kind: &'static str,
    pub name: String,
    pub description: Option<String>,
    /// In full, with the keys of definition files.
    pub document: Value,
}

/// Every definition, kind by kind.
pub fn listed(definitions: &Definitions) -> Vec<ListedDefinition> {
    let [entities, sources, views, on_demand, services, routes] = KINDS;
    let mut all = Vec::new();
    all.extend(definitions.entities.iter().map(|d| list(entities, d.name.as_str(), &d.documentation, d)));
    all.extend(definitions.sources.iter().map(|d| list(sources, d.name.as_str(), &d.documentation, d)));
    all.extend(definitions.feature_views.iter().map(|d| list(views, d.name.as_str(), &d.documentation, d)));
    let on_demand_views = definitions.on_demand_feature_views.iter();
    all.extend(on_demand_views.map(|d| list(on_demand, d.name.as_str(), &d.documentation, d)));
    all.extend(definitions.feature_services.iter().map(|d| list(services, d.name.as_str(), &d.documentation, d)));
    all.extend(definitions.prediction_routes.iter().map(|d| list(routes, d.name.as_str(), &d.documentation, d)));
    all
}

fn list(
    kind: &'static str,
    name: &str,
    documentation: &Documentation,
    definition: &impl Serialize,
) -> ListedDefinition {
    ListedDefinition {
        kind,
        name: name.to_owned(),
        description: documentation.description.clone(),
        document: serde_json::to_value(definition).unwrap_or_default(),
    }
}
