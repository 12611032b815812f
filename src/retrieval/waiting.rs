//! Whether anybody waits for an answer still: callers give up, and work for nobody takes time from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that are read between two looks at whether anybody waits.
const ROWS_BETWEEN_LOOKS: usize = 256;

/// Shared by who works on an answer and, as [`Waiter`], by who waits for it.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    is_over: Arc<AtomicBool>,
}

/// Whoever waits; the wait is over when this is dropped.
#[derive(Debug)]
pub struct Waiter(Arc<AtomicBool>);

impl Waiting {
    pub fn waiter(&self) -> Waiter {
        Waiter(Arc::clone(&self.is_over))
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// As [`Self::is_over`], looked at for a few rows of many.
    pub fn is_over_at(&self, row: usize) -> bool {
        row.is_multiple_of(ROWS_BETWEEN_LOOKS) && self.is_over()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
