//! Compares definitions, one kind at a time.

use std::collections::BTreeSet;

use super::diff::{self, Effect};
use super::identity::Identities;
use super::plan::{Action, Affects, Change, Cost, DefinitionKind, Detail, Plan};
use super::signature::{BreakingChange, BreakingReason, breaking_changes, compatible_details, service_signature};
use super::version::RegistryVersion;
use crate::definition::{Definitions, FeatureService, FeatureView};

/// Compares validated `definitions` with the version they are to follow; names that do not resolve count as absent.
pub fn plan(base: Option<&RegistryVersion>, definitions: Definitions) -> Plan {
    let nothing = Definitions::default();
    let mut comparison = Comparison {
        base: base.map_or(&nothing, |base| &base.definitions),
        definitions: &definitions,
        changes: Vec::new(),
        identities: Identities::after(base),
    };
    comparison.entities();
    comparison.sources();
    comparison.feature_views();
    comparison.on_demand_feature_views();
    comparison.feature_services();
    comparison.prediction_routes();
    let Comparison { changes, identities, .. } = comparison;
    let base_version = base.map_or(0, |base| base.version);
    Plan { base_version, definitions, changes, identities, breaking_allowed: false }
}

/// The work of [`plan`], one kind of definition at a time.
struct Comparison<'a> {
    base: &'a Definitions,
    definitions: &'a Definitions,
    changes: Vec<Change>,
    identities: Identities,
}

impl Comparison<'_> {
    fn entities(&mut self) {
        for entity in &self.definitions.entities {
            match self.base.entity(entity.name.as_str()) {
                None => self.push(Change::new(Action::Added, DefinitionKind::Entity, &entity.name)),
                Some(old) => {
                    self.push_indirect(DefinitionKind::Entity, &entity.name, diff::entity_details(old, entity))
                }
            }
        }
        for old in self.base.entities.iter().filter(|old| self.definitions.entity(old.name.as_str()).is_none()) {
            self.push(Change::new(Action::Removed, DefinitionKind::Entity, &old.name));
        }
    }

    fn sources(&mut self) {
        for source in &self.definitions.sources {
            match self.base.source(source.name.as_str()) {
                None => self.push(Change::new(Action::Added, DefinitionKind::Source, &source.name)),
                Some(old) => {
                    self.push_indirect(DefinitionKind::Source, &source.name, diff::source_details(old, source))
                }
            }
        }
        for old in self.base.sources.iter().filter(|old| self.definitions.source(old.name.as_str()).is_none()) {
            self.push(Change::new(Action::Removed, DefinitionKind::Source, &old.name));
        }
    }

    fn feature_views(&mut self) {
        for view in &self.definitions.feature_views {
            match self.base.feature_view(view.name.as_str()) {
                None => self.add_feature_view(view),
                Some(old) => self.change_feature_view(old, view),
            }
        }
        for old in &self.base.feature_views {
            if self.definitions.feature_view(old.name.as_str()).is_none() {
                self.identities.remove(&old.name);
                let change = Change::new(Action::Removed, DefinitionKind::FeatureView, &old.name);
                self.push(Change { cost: Some(Cost::DeleteOnline), ..change });
            }
        }
    }

    fn add_feature_view(&mut self, view: &FeatureView) {
        self.identities.add(&view.name);
        // Views of sources without a batch location fill by what is pushed.
        let has_batch = |name: &&str| self.definitions.source(name).is_some_and(|source| source.batch.is_some());
        let mut sources = view.input.sources().iter().map(|name| name.as_str());
        let cost = sources.any(|name| has_batch(&name)).then_some(Cost::Backfill);
        self.push(Change { cost, ..Change::new(Action::Added, DefinitionKind::FeatureView, &view.name) });
    }

    fn change_feature_view(&mut self, old: &FeatureView, view: &FeatureView) {
        let (details, effect) = diff::feature_view_details(self.base, old, self.definitions, view);
        self.identities.keep(&view.name, effect);
        if details.is_empty() {
            return;
        }
        let cost = match effect {
            Effect::Nothing => None,
            Effect::Recompute => Some(Cost::Backfill),
            Effect::Rebuild => Some(Cost::Rewrite),
        };
        let change = Change::new(Action::Changed, DefinitionKind::FeatureView, &view.name);
        self.push(Change { details, cost, ..change });
    }

    fn on_demand_feature_views(&mut self) {
        let kind = DefinitionKind::OnDemandFeatureView;
        for view in &self.definitions.on_demand_feature_views {
            match self.base.on_demand_feature_view(view.name.as_str()) {
                None => self.push(Change::new(Action::Added, kind, &view.name)),
                Some(old) => self.push_changed(kind, &view.name, diff::on_demand_details(old, view)),
            }
        }
        let kept: BTreeSet<_> = self.definitions.on_demand_feature_views.iter().map(|view| &view.name).collect();
        for old in self.base.on_demand_feature_views.iter().filter(|old| !kept.contains(&old.name)) {
            self.push(Change::new(Action::Removed, kind, &old.name));
        }
    }

    fn feature_services(&mut self) {
        for service in &self.definitions.feature_services {
            match self.base.feature_service(service.name.as_str()) {
                None => self.push(Change::new(Action::Added, DefinitionKind::FeatureService, &service.name)),
                Some(old) => self.change_feature_service(old, service),
            }
        }
        for old in &self.base.feature_services {
            if self.definitions.feature_service(old.name.as_str()).is_none() {
                let breaking =
                    vec![BreakingReason { service: old.name.clone(), change: BreakingChange::ServiceRemoved }];
                let change = Change::new(Action::Removed, DefinitionKind::FeatureService, &old.name);
                self.push(Change { breaking, ..change });
            }
        }
    }

    fn prediction_routes(&mut self) {
        let kind = DefinitionKind::PredictionRoute;
        for route in &self.definitions.prediction_routes {
            match self.base.prediction_route(route.name.as_str()) {
                None => self.push(Change::new(Action::Added, kind, &route.name)),
                Some(old) => self.push_indirect(kind, &route.name, diff::route_details(old, route)),
            }
        }
        for old in &self.base.prediction_routes {
            if self.definitions.prediction_route(old.name.as_str()).is_none() {
                self.push(Change::new(Action::Removed, kind, &old.name));
            }
        }
    }

    /// A service changes with the views it reads, its own definition untouched.
    fn change_feature_service(&mut self, old: &FeatureService, service: &FeatureService) {
        let (before, after) = (service_signature(self.base, old), service_signature(self.definitions, service));
        let broken = breaking_changes(&before, &after);
        let mut details = compatible_details(&before, &after);
        let same_columns = broken.is_empty() && details.is_empty();
        details.extend(diff::service_details(old, service, same_columns));
        if broken.is_empty() && details.is_empty() {
            return;
        }
        let reason = |change| BreakingReason { service: service.name.clone(), change };
        let breaking = broken.into_iter().map(reason).collect();
        let change = Change::new(Action::Changed, DefinitionKind::FeatureService, &service.name);
        self.push(Change { details: of_no_feature(details), breaking, ..change });
    }

    fn push_indirect(&mut self, kind: DefinitionKind, name: &impl ToString, details: Vec<String>) {
        self.push_changed(kind, name, of_no_feature(details));
    }

    fn push_changed(&mut self, kind: DefinitionKind, name: &impl ToString, details: Vec<Detail>) {
        if !details.is_empty() {
            self.push(Change { details, ..Change::new(Action::Changed, kind, name) });
        }
    }

    fn push(&mut self, change: Change) {
        self.changes.push(change);
    }
}

fn of_no_feature(details: Vec<String>) -> Vec<Detail> {
    details.into_iter().map(|text| Detail::new(Affects::Nothing, text)).collect()
}

impl Change {
    fn new(action: Action, kind: DefinitionKind, name: &impl ToString) -> Self {
        Change { action, kind, name: name.to_string(), details: Vec::new(), cost: None, breaking: Vec::new() }
    }
}
