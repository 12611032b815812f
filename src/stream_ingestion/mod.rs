//! Events on their way in: judged, logged, acknowledged, visible online, archived.
//!
//! ```text
//!  push, topic ─► rows ─► admission ─► log (synced, many pushes at a time) ─► acknowledged
//!                 types    late?         │
//!                          repeated?     ▼ in its order
//!                                      applier ─► online store: values, ids of events, position, in one write
//!                                        │
//!                                        ▼ by size, by time, or because a job wants to see them
//!                                      archive ─► sources/NAME, dead_letters/NAME (Delta), position in the commit
//! ```
//!
//! Nothing is judged twice: what the log holds is taken. A crash anywhere is repaired from it: each store says how far
//! it is, in the same step that brought it there. A file of the log goes once both stores have passed it.
//! Knows both stores, and nothing of how callers send their rows.

mod admission;
mod applier;
mod applier_thread;
mod archive;
mod avro;
mod build;
mod dead_letters;
mod door;
mod engine;
mod error;
mod fail_point;
mod faults;
mod intake;
mod kafka;
mod known_tables;
mod log;
mod record;
mod rows;
mod side;
mod view_plan;
mod view_problems;
mod writer;

pub use admission::{PushSummary, RECEIVED_AT};
pub use applier::{SourceNote, Stores, forget_streams};
pub use build::{BuiltView, unstorable};
pub use engine::{Ingestion, SourceStatus};
pub use error::IngestionError;
pub use faults::Faults;
pub use intake::{Acknowledge, PendingPush, PushedRows};
pub use kafka::Topics;
pub use known_tables::KnownTables;
pub use log::{Log, has_records, read_bodies};
pub use record::PassedOver;
pub use rows::EventSchema;
