//! Which id and data version each feature view has in the version being made.

use std::collections::BTreeMap;

use super::diff::Effect;
use super::version::{RegistryVersion, RemovedView, ViewState};
use crate::definition::FeatureViewName;

/// The identities of stored views, on their way from the base to the next version.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Identities {
    before: BTreeMap<FeatureViewName, ViewState>,
    pub views: BTreeMap<FeatureViewName, ViewState>,
    pub next_view_id: u32,
    pub removed_views: Vec<RemovedView>,
    /// The version being made.
    version: u64,
}

impl Identities {
    pub fn after(base: Option<&RegistryVersion>) -> Self {
        Identities {
            before: base.map(|base| base.views.clone()).unwrap_or_default(),
            views: BTreeMap::new(),
            next_view_id: base.map_or(1, |base| base.next_view_id),
            removed_views: base.map(|base| base.removed_views.clone()).unwrap_or_default(),
            version: base.map_or(0, |base| base.version).saturating_add(1),
        }
    }

    /// Carries a view over, its identity changed as its rows are.
    pub fn keep(&mut self, name: &FeatureViewName, effect: Effect) {
        match (self.before.get(name).copied(), effect) {
            (Some(state), Effect::Nothing) => {
                self.views.insert(name.clone(), state);
            }
            (Some(state), Effect::Recompute) => {
                self.views
                    .insert(name.clone(), ViewState { data_version: state.data_version.saturating_add(1), ..state });
            }
            (Some(_), Effect::Rebuild) => {
                self.remove(name);
                self.add(name);
            }
            (None, _) => self.add(name),
        }
    }

    pub fn add(&mut self, name: &FeatureViewName) {
        self.views.insert(name.clone(), ViewState { id: self.next_view_id, data_version: 1 });
        self.next_view_id = self.next_view_id.saturating_add(1);
    }

    pub fn remove(&mut self, name: &FeatureViewName) {
        if let Some(ViewState { id, .. }) = self.before.get(name).copied() {
            self.removed_views.push(RemovedView { name: name.clone(), id, removed_in: self.version });
        }
    }
}
