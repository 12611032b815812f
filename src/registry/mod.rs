//! Versions of a project's definitions: [`plan`] is the difference to the newest, [`Registry::apply`] commits the next.
//!
//! ```text
//! <location>/versions/00000000000000000001.json     never changed once written
//! <location>/versions/00000000000000000002.json     created only if absent: the compare-and-swap
//! ```
//!
//! In go validated [`Definitions`](crate::definition::Definitions); out come numbered versions of them, with an
//! identity for what each feature view stores. Knows no table and no online store: a plan says what they will have
//! to do, and their own modules do it when they see the new version.

mod compare;
mod diff;
mod display;
mod error;
mod folder;
mod identity;
mod location;
mod plan;
mod signature;
mod store;
mod version;

#[cfg(test)]
mod tests;

pub use compare::plan;
pub use error::RegistryError;
pub use folder::RegistryFolder;
pub use plan::{Action, Affects, Change, Cost, DefinitionKind, Detail, Plan};
pub use signature::{BreakingChange, BreakingReason, OutputColumn, ServiceSignature, service_signature};
pub use store::Registry;
pub use version::{ChangeCounts, RegistryVersion, RemovedView, VersionSummary, ViewState};
