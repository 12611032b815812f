//! Versions of models, the features that each one reads, and the aliases by which they are asked for.
//!
//! ```text
//! <registry>/models/artefacts/<SHA-256>                  a model's bytes, or golden rows
//! <registry>/models/log/00000000000000000001.json        what happened, one event a file, never changed
//! <registry>/models/log/00000000000000000002.json        created only if absent: the compare-and-swap
//! ```
//!
//! What holds is the sum of the events, so the history of every alias is there, and following costs one look for the
//! next file. Knows no store and no server.

mod binding;
mod error;
mod event;
mod golden;
mod live;
mod mlflow;
mod models;
mod register;
mod store;

pub use binding::{BoundInput, InputSource, Scalar, SignatureRequest, bind};
pub use error::ModelRegistryError;
pub use event::{AliasMove, Golden, ModelVersion};
pub use golden::{GOLDEN_TOLERANCE, GoldenRow, check_golden};
pub use live::{BrokenModel, broken_models};
pub use mlflow::{MlflowModel, read_mlflow};
pub use models::{ModelReference, Models, RegisteredModel};
pub use register::{Registration, prepare};
pub use store::{ModelRegistry, NewModel, check_fit};

/// The alias that the first version of a model gets, and that a reference without one means.
pub const CHAMPION: &str = "champion";

#[cfg(test)]
mod tests;
