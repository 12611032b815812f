//! Raw records to definitions: names are valid and unique, references resolve, every kind keeps its own rules.
//!
//! Kinds are checked in the order in which they refer to each other: entities, sources, feature views, on-demand
//! feature views, feature services. A definition with an error is kept for those that refer to it, as far as it is
//! understood, so that one mistake is told once.

mod aggregations;
mod catalog;
mod fields;
mod on_demand;
mod routes;
mod services;
mod sources;
mod streams;
mod views;

use std::collections::HashSet;

use catalog::Catalog;

use super::model::{Definitions, Entity};
use super::names::EntityName;
use super::raw::{Named, RawEntity, RawFile};
use crate::diagnostics::Reporter;

/// Checks everything; what is returned is only of use if nothing was reported.
pub(super) fn validate(raw: RawFile, reporter: &mut Reporter<'_>) -> Definitions {
    let incomplete = raw.incomplete;
    let mut entities = Catalog::new("entity", "entities", incomplete);
    entities.add_all(&raw.entities, reporter, |raw, reporter| Some(entity(raw, reporter)));
    let mut sources = Catalog::new("source", "sources", incomplete);
    sources.add_all(&raw.sources, reporter, |raw, reporter| Some(sources::source(raw, reporter)));
    let mut feature_views = Catalog::new("feature view", "feature views", incomplete);
    feature_views
        .add_all(&raw.feature_views, reporter, |raw, reporter| views::feature_view(raw, &entities, &sources, reporter));
    let listed = &raw.on_demand_feature_views;
    let on_demand_names: HashSet<&str> = listed
        .items
        .iter()
        .map(|item| item.name().as_str())
        .chain(listed.broken.iter().map(|name| name.as_str()))
        .collect();
    let mut on_demand = Catalog::new("on-demand feature view", "on-demand feature views", incomplete);
    on_demand.forbid_names_of(&feature_views);
    on_demand.add_all(listed, reporter, |raw, reporter| {
        Some(on_demand::on_demand_feature_view(raw, &feature_views, &on_demand_names, reporter))
    });
    let mut feature_services = Catalog::new("feature service", "feature services", incomplete);
    feature_services.add_all(&raw.feature_services, reporter, |raw, reporter| {
        Some(services::feature_service(raw, &feature_views, &on_demand, reporter))
    });
    let mut prediction_routes = Catalog::new("prediction route", "prediction routes", incomplete);
    prediction_routes.add_all(&raw.prediction_routes, reporter, |raw, reporter| {
        routes::prediction_route(raw, &feature_views, &on_demand, reporter)
    });
    Definitions {
        prediction_routes: prediction_routes.into_items(),
        entities: entities.into_items(),
        sources: sources.into_items(),
        feature_views: feature_views.into_items().into_iter().map(|checked| checked.view).collect(),
        on_demand_feature_views: on_demand.into_items().into_iter().map(|checked| checked.view).collect(),
        feature_services: feature_services.into_items(),
    }
}

fn entity(raw: &RawEntity, reporter: &mut Reporter<'_>) -> Entity {
    let join_keys = &raw.join_keys.value;
    if join_keys.is_empty() {
        let message = format!("entity `{}` has no join keys", raw.name.value);
        let help = "name the columns that identify it: `join_keys: [{name: …, type: …}]`";
        reporter.error_with_help(raw.join_keys.span, message, help);
    }
    fields::check_columns("join key", fields::names(join_keys), reporter);
    for key in join_keys.iter().filter(|key| !key.r#type.value.is_join_key()) {
        let message = format!("join key `{}` cannot have type {}", key.name.value, key.r#type.value);
        reporter.error_with_help(key.r#type.span, message, JOIN_KEY_HELP);
    }
    Entity {
        name: EntityName::new(&raw.name.value),
        join_keys: fields::fields(join_keys),
        documentation: raw.documentation(),
    }
}

const JOIN_KEY_HELP: &str = "keys are compared exactly: floats are rounded, NaN equals nothing, and lists and maps are \
    no single value; use bool, int32, int64, string, bytes, timestamp or date";
