//! Feature vectors and models to predictions.
//!
//! ```text
//! request ─► plan (route, variant) ─► fetch, once a service ─► inputs, each with its origin ─► model ─► answer
//!                                                                    │                           │
//!                                                                    └── shadows, behind it ─────┴─► log ─► Delta
//! ```
//!
//! A request is answered from one catalog of compiled routes and loaded models, which is replaced whole: no answer
//! mixes two versions. Batches over a spine are scored by the same code. Knows no wire.

mod batch;
mod catalog;
mod condition;
mod error;
mod hash;
mod inputs;
mod log;
mod plan;
mod priority;
mod record;
mod replay;
mod request;
mod rows;
mod service;
mod shadow;

pub use batch::{BatchPrediction, predict_batch};
pub use catalog::{LoadedModel, PredictionCatalog, Scope};
pub use error::PredictionError;
pub use hash::share;
pub use log::{LogRow, LogValue, PREDICTION_LOG, PredictionLogger, Role, archive_left, log_schema};
pub use plan::{PlannedStep, Read, RoutePlan, RouteProblem};
pub use replay::{Difference, LoggedRows, ReplayReport, read_log, replay, scan_log};
pub use request::{PredictAnswer, PredictRequest, RowAnswer};
pub use service::PredictionService;
pub use shadow::SHADOW_QUEUE_MAX;

#[cfg(test)]
mod tests;
