//! What callers of a feature service rely on, and which changes break them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::definition::{
    Definitions, FeatureReference, FeatureService, FeatureServiceName, FeatureView, OnDemandFeatureView, ValueType,
    ViewProjection,
};

/// The columns that a request for a feature service has to carry, and those of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSignature {
    /// Columns of the request that carry join keys.
    pub join_keys: BTreeMap<String, ValueType>,
    /// Values that on-demand features take from the request.
    pub request_values: BTreeMap<String, ValueType>,
    /// In the order of the answer.
    pub outputs: Vec<OutputColumn>,
}

/// One feature of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// The view's alias in the service, else its name.
    pub view: String,
    pub feature: String,
    pub value_type: ValueType,
}

/// The signature of a service; what does not resolve is left out.
pub fn service_signature(definitions: &Definitions, service: &FeatureService) -> ServiceSignature {
    let mut signature = ServiceSignature::default();
    for projection in &service.features {
        signature.add(definitions, projection);
    }
    signature
}

impl ServiceSignature {
    fn add(&mut self, definitions: &Definitions, projection: &ViewProjection) {
        let name = projection.view.as_str();
        if let Some(view) = definitions.feature_view(name) {
            self.add_join_keys(definitions, view, &projection.join_keys);
            self.add_outputs(projection, view.features.iter().map(|field| (&field.name, &field.value_type)));
        } else if let Some(view) = definitions.on_demand_feature_view(name) {
            self.add_inputs(definitions, view, &projection.join_keys, &mut BTreeSet::new());
            let fields = view.features.iter().map(|feature| &feature.field);
            self.add_outputs(projection, fields.map(|field| (&field.name, &field.value_type)));
        }
    }

    fn add_outputs<'a>(
        &mut self,
        projection: &ViewProjection,
        fields: impl Iterator<Item = (&'a String, &'a ValueType)>,
    ) {
        let column = |(name, value_type): (&String, &ValueType)| OutputColumn {
            view: projection.alias.clone().unwrap_or_else(|| projection.view.to_string()),
            feature: name.clone(),
            value_type: value_type.clone(),
        };
        match &projection.features {
            None => self.outputs.extend(fields.map(column)),
            Some(chosen) => {
                let fields: BTreeMap<_, _> = fields.collect();
                let known = chosen.iter().filter_map(|name| fields.get_key_value(name));
                self.outputs.extend(known.map(|(name, value_type)| column((name, value_type))));
            }
        }
    }

    fn add_join_keys(&mut self, definitions: &Definitions, view: &FeatureView, renamed: &BTreeMap<String, String>) {
        for key in definitions.join_keys(view) {
            let column = renamed.get(&key.name).cloned().unwrap_or(key.name);
            self.join_keys.insert(column, key.value_type);
        }
    }

    /// What an on-demand view needs, with what the views it reads need; `seen` ends a cycle of such views.
    fn add_inputs<'a>(
        &mut self,
        definitions: &'a Definitions,
        view: &'a OnDemandFeatureView,
        renamed: &BTreeMap<String, String>,
        seen: &mut BTreeSet<&'a str>,
    ) {
        if !seen.insert(view.name.as_str()) {
            return;
        }
        for field in &view.request {
            self.request_values.insert(field.name.clone(), field.value_type.clone());
        }
        for FeatureReference { view: name, .. } in &view.features_from {
            if let Some(read) = definitions.feature_view(name.as_str()) {
                self.add_join_keys(definitions, read, renamed);
            } else if let Some(read) = definitions.on_demand_feature_view(name.as_str()) {
                self.add_inputs(definitions, read, renamed, seen);
            }
        }
    }

    fn output_types(&self) -> BTreeMap<String, ValueType> {
        let column = |column: &OutputColumn| (format!("{}:{}", column.view, column.feature), column.value_type.clone());
        self.outputs.iter().map(column).collect()
    }
}

/// A change after which requests for a feature service that used to work fail, or answer something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakingReason {
    pub service: FeatureServiceName,
    #[serde(flatten)]
    pub change: BreakingChange,
}

/// What about a feature service breaks its callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BreakingChange {
    ServiceRemoved,
    /// `feature` is `view:feature`, by the view's alias if it has one.
    FeatureRemoved {
        feature: String,
    },
    FeatureRetyped {
        feature: String,
        from: ValueType,
        to: ValueType,
    },
    JoinKeyAdded {
        column: String,
        to: ValueType,
    },
    JoinKeyRemoved {
        column: String,
        from: ValueType,
    },
    JoinKeyRetyped {
        column: String,
        from: ValueType,
        to: ValueType,
    },
    RequestValueAdded {
        column: String,
        to: ValueType,
    },
    RequestValueRetyped {
        column: String,
        from: ValueType,
        to: ValueType,
    },
}

impl fmt::Display for BreakingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BreakingChange::ServiceRemoved => write!(f, "it is removed, and callers may still ask for it"),
            BreakingChange::FeatureRemoved { feature } => write!(f, "it no longer answers `{feature}`"),
            BreakingChange::FeatureRetyped { feature, from, to } => {
                write!(f, "type of `{feature}`: {from} -> {to}")
            }
            BreakingChange::JoinKeyAdded { column, to } => write!(f, "it needs join key `{column}` ({to})"),
            BreakingChange::JoinKeyRemoved { column, from } => {
                write!(f, "it no longer takes join key `{column}` ({from})")
            }
            BreakingChange::JoinKeyRetyped { column, from, to } => {
                write!(f, "type of join key `{column}`: {from} -> {to}")
            }
            BreakingChange::RequestValueAdded { column, to } => write!(f, "it needs request value `{column}` ({to})"),
            BreakingChange::RequestValueRetyped { column, from, to } => {
                write!(f, "type of request value `{column}`: {from} -> {to}")
            }
        }
    }
}

impl fmt::Display for BreakingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "feature service `{}`: {}", self.service, self.change)
    }
}

/// What breaks callers when a service's signature goes from `old` to `new`; more features, in any order, do not.
pub(super) fn breaking_changes(old: &ServiceSignature, new: &ServiceSignature) -> Vec<BreakingChange> {
    let output = |(feature, from, to): TypeDifference| match (from, to) {
        (Some(_), None) => Some(BreakingChange::FeatureRemoved { feature }),
        (Some(from), Some(to)) => Some(BreakingChange::FeatureRetyped { feature, from, to }),
        (None, _) => None,
    };
    let join_key = |(column, from, to): TypeDifference| match (from, to) {
        (None, Some(to)) => Some(BreakingChange::JoinKeyAdded { column, to }),
        (Some(from), None) => Some(BreakingChange::JoinKeyRemoved { column, from }),
        (Some(from), Some(to)) => Some(BreakingChange::JoinKeyRetyped { column, from, to }),
        (None, None) => None,
    };
    let request_value = |(column, from, to): TypeDifference| match (from, to) {
        (None, Some(to)) => Some(BreakingChange::RequestValueAdded { column, to }),
        (Some(from), Some(to)) => Some(BreakingChange::RequestValueRetyped { column, from, to }),
        (_, None) => None,
    };
    let outputs = type_differences(&old.output_types(), &new.output_types()).into_iter().filter_map(output);
    let join_keys = type_differences(&old.join_keys, &new.join_keys).into_iter().filter_map(join_key);
    let request = type_differences(&old.request_values, &new.request_values).into_iter().filter_map(request_value);
    outputs.chain(join_keys).chain(request).collect()
}

/// In words, what a signature gains or loses beside [`breaking_changes`].
pub(super) fn compatible_details(old: &ServiceSignature, new: &ServiceSignature) -> Vec<String> {
    let added = |(feature, from, to): TypeDifference| match (from, to) {
        (None, Some(to)) => Some(format!("feature `{feature}` added: {to}")),
        _ => None,
    };
    let dropped = |(column, from, to): TypeDifference| match (from, to) {
        (Some(from), None) => Some(format!("no longer needs request value `{column}` ({from})")),
        _ => None,
    };
    let outputs = type_differences(&old.output_types(), &new.output_types()).into_iter().filter_map(added);
    let request = type_differences(&old.request_values, &new.request_values).into_iter().filter_map(dropped);
    outputs.chain(request).collect()
}

/// A name, and its type before and after; None: it was not there.
type TypeDifference = (String, Option<ValueType>, Option<ValueType>);

fn type_differences(old: &BTreeMap<String, ValueType>, new: &BTreeMap<String, ValueType>) -> Vec<TypeDifference> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), old.get(name).cloned(), new.get(name).cloned()))
        .filter(|(_, old, new)| old != new)
        .collect()
}
