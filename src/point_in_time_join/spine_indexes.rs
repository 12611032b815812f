//! The indexes of a step of the spine, one for each set of keys.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;

use super::{JoinError, SpineIndex};

/// Indexes of a step's rows by the keys of views: each is there from the first view that needs it to the last.
pub(crate) struct SpineIndexes<'a> {
    spine: &'a RecordBatch,
    time: usize,
    /// Of each view the columns of the spine that are its keys.
    keys: Vec<&'a [usize]>,
    known: HashMap<&'a [usize], Arc<SpineIndex>>,
}

impl<'a> SpineIndexes<'a> {
    /// `time` is the spine's column of asked times, in microseconds.
    pub fn new(spine: &'a RecordBatch, time: usize, keys: impl Iterator<Item = &'a [usize]>) -> Self {
        SpineIndexes { spine, time, keys: keys.collect(), known: HashMap::new() }
    }

    /// The index for a view; views are asked for in their order.
    ///
    /// # Errors
    /// As of [`SpineIndex::build`].
    pub fn take(&mut self, view: usize) -> Result<Arc<SpineIndex>, JoinError> {
        let keys = self.keys[view];
        let index = match self.known.remove(keys) {
            Some(index) => index,
            None => {
                let times = self.spine.column(self.time).as_primitive::<TimestampMicrosecondType>();
                let columns: Vec<ArrayRef> = keys.iter().map(|key| Arc::clone(self.spine.column(*key))).collect();
                Arc::new(SpineIndex::build(&columns, times)?)
            }
        };
        if self.keys[view + 1..].contains(&keys) {
            self.known.insert(keys, Arc::clone(&index));
        }
        Ok(index)
    }
}
