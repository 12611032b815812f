//! Partial aggregates: the arithmetic of aggregation views, the same for batch, stream and serving.
//!
//! ```text
//! events ── update ──> Partial ──┬── merge ──> Partial ── finish ──> Answer ──> AnswerBuilder ──> Arrow
//!            invert <──┘         └── encode ──> bytes ── decode ──> Partial
//! ```
//!
//! A [`Partial`] is a function of which events it stands for and of nothing else: not of their order, not of how they
//! were grouped into partials that were merged, and, where events can be taken away again, not of what was in it
//! before. Sums are exact until they are asked for ([`ExactSum`], [`Moments`]); ties are broken down to the value.
//! So the same events give the same bits, in an answer and in a stored partial alike.
//!
//! Does not know windows, keys or where events come from: who has the events of a window asks here what they amount to.

mod aggregate;
mod answer;
mod codec;
mod column;
mod exact_sum;
mod fixed_scale;
mod hyperloglog;
mod kind;
mod limbs;
mod moments;
mod partial;
mod ranking;
mod rounding;
mod sketch;
mod value;

use arrow::datatypes::DataType;

use crate::definition::{AggregateFunction, ValueType};
use crate::error::ErrorKind;

pub use aggregate::Aggregate;
pub use answer::{Answer, AnswerBuilder};
pub use codec::Flaw;
pub use column::{Column, values};
pub use exact_sum::ExactSum;
pub use fixed_scale::FixedScale;
pub use hyperloglog::{HyperLogLog, SlidingDistinct};
pub use kind::PartialKind;
pub use moments::{Moments, variance_of_sums};
pub use partial::{Buckets, Event, Partial, TimedValue};
pub use ranking::{Best, Ranking};
pub use rounding::{divide_rounded, round_scaled};
pub use sketch::Sketch;
pub use value::{Scalar, Value};

#[cfg(test)]
mod tests;

/// Why something cannot be aggregated, or bytes are no partial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    #[error("{reason}")]
    Unsupported { function: AggregateFunction, reason: String },
    #[error("a column of {found} was given where {expected} was expected")]
    ColumnType { expected: ValueType, found: DataType },
    #[error("an answer is no value of {expected}")]
    AnswerType { expected: ValueType },
    #[error("the answers do not fit one column; ask for fewer rows")]
    ColumnTooLarge,
    #[error("a stored partial cannot be decoded as {kind:?}")]
    Corrupt { kind: PartialKind, source: Flaw },
}

impl TileError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            TileError::Unsupported { .. } => ErrorKind::Invalid,
            TileError::ColumnType { .. } | TileError::AnswerType { .. } => ErrorKind::Internal,
            TileError::ColumnTooLarge => ErrorKind::Exhausted,
            TileError::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}
