//! The feature row that a slot of the spine holds on to.

use std::time::Duration;

use super::matching::NEVER;

/// The greatest row so far that counts from a slot on, but from none before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub event: i64,
    pub created: i64,
    /// Number of what the row is in (a batch, a row group), or [`NO_ROW`], or [`AGED`].
    pub batch: u32,
    /// Where it is in there.
    pub row: u32,
}

/// Batch of a slot without candidate.
pub(super) const NO_ROW: u32 = u32::MAX;
/// Batch of a candidate that is too old already in its own slot: its values will never be asked for.
pub(super) const AGED: u32 = u32::MAX - 1;

impl Candidate {
    pub const NONE: Candidate = Candidate { event: NEVER, created: NEVER, batch: NO_ROW, row: 0 };

    #[inline]
    pub fn is_row(&self) -> bool {
        self.batch != NO_ROW
    }

    #[inline]
    pub fn has_values(&self) -> bool {
        self.batch < AGED
    }

    #[inline]
    pub fn is(&self, batch: u32, row: u32) -> bool {
        self.batch == batch && self.row == row
    }

    #[inline]
    pub fn times(&self) -> (i64, i64) {
        (self.event, self.created)
    }
}

/// How old a row may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgeLimit {
    /// What no age exceeds, if there is no TTL.
    micros_max: u64,
}

impl AgeLimit {
    pub fn new(ttl: Option<Duration>) -> Self {
        AgeLimit { micros_max: ttl.and_then(|ttl| u64::try_from(ttl.as_micros()).ok()).unwrap_or(u64::MAX) }
    }

    /// Whether a row is too old at an asked time, which is not before its event.
    #[inline]
    pub fn is_exceeded(self, event: i64, asked: i64) -> bool {
        event != NEVER && asked.abs_diff(event) > self.micros_max
    }
}
