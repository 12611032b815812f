//! Every prediction as it was made: into a durable log on this machine, and from there into a Delta table.
//!
//! ```text
//! answer ──► queue ──► spool on the disk (a thread, many records a write) ──► table `predictions/log` (another one)
//!              └── the caller waits until the record is as durable as its route says
//! ```
//!
//! The table's commit carries the position in the spool that its rows reach, so that a crash between the two neither
//! loses nor repeats a row.

mod archive;
mod codec;
mod row;
mod spool;

pub use archive::{PREDICTION_LOG, archive_left, log_schema};
pub use row::{LogRow, LogValue, Role};
pub use spool::PredictionLogger;

pub(super) use row::{LogRecord, RecordRow, RecordValue};

#[cfg(test)]
mod tests;
