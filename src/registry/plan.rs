//! A plan: what applying definitions does to the registry, and what it costs.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::identity::Identities;
use super::signature::BreakingReason;
use super::version::{ChangeCounts, RegistryVersion};
use crate::definition::Definitions;
use crate::time::EventTimestamp;

/// What [`Registry::apply`](super::Registry::apply) would commit, and what that means.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The version the plan starts from; 0: none.
    pub base_version: u64,
    pub definitions: Definitions,
    /// By kind; within a kind added and changed definitions in their order, then removed ones.
    pub changes: Vec<Change>,
    pub(super) identities: Identities,
    pub(super) breaking_allowed: bool,
}

/// What happens to one definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub action: Action,
    pub kind: DefinitionKind,
    pub name: String,
    pub details: Vec<Detail>,
    pub cost: Option<Cost>,
    pub breaking: Vec<BreakingReason>,
}

/// One difference between two definitions of one name, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Detail {
    pub text: String,
    #[serde(skip)]
    pub affects: Affects,
}

/// What a difference changes of the features of the view it is of. An entity, a source, a service or a route changes no
/// feature by itself: the views that read it have changes of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affects {
    Nothing,
    /// One column, which comes or goes.
    Column,
    /// The values of one feature that stays.
    Feature(String),
    /// The values of any feature.
    Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Added,
    Changed,
    Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinitionKind {
    Entity,
    Source,
    FeatureView,
    OnDemandFeatureView,
    FeatureService,
    PredictionRoute,
}

/// What a change asks of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// The view starts anew: its table is rewritten, its online values are emptied.
    Rewrite,
    /// The view is to be materialized from the beginning; what is stored is served until then.
    Backfill,
    /// The view's online values are deleted; its table stays until it is vacuumed.
    DeleteOnline,
}

impl Detail {
    pub(super) fn new(affects: Affects, text: String) -> Self {
        Detail { text, affects }
    }
}

impl Plan {
    /// Whether applying changes nothing but the order of definitions.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The plan with the caller's consent to break feature services in use.
    pub fn allow_breaking(self) -> Self {
        Plan { breaking_allowed: true, ..self }
    }

    pub fn is_breaking_allowed(&self) -> bool {
        self.breaking_allowed
    }

    /// Every reason for which the plan needs consent.
    pub fn breaking(&self) -> Vec<BreakingReason> {
        self.changes.iter().flat_map(|change| change.breaking.iter().cloned()).collect()
    }

    pub fn counts(&self) -> ChangeCounts {
        let count = |action| self.changes.iter().filter(|change| change.action == action).count();
        ChangeCounts { added: count(Action::Added), changed: count(Action::Changed), removed: count(Action::Removed) }
    }

    /// The version that the plan makes of its base.
    pub fn next_version(&self, applied_at: EventTimestamp) -> RegistryVersion {
        RegistryVersion {
            version: self.base_version.saturating_add(1),
            applied_at,
            summary: self.counts(),
            views: self.identities.views.clone(),
            next_view_id: self.identities.next_view_id,
            removed_views: self.identities.removed_views.clone(),
            definitions: self.definitions.clone(),
        }
    }
}

/// For `--output json`: the changes and their counts; the definitions are in the files.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("Plan", 4)?;
        plan.serialize_field("base_version", &self.base_version)?;
        plan.serialize_field("changes", &self.changes)?;
        plan.serialize_field("summary", &self.counts())?;
        plan.serialize_field("breaking", &self.breaking())?;
        plan.end()
    }
}
