//! What callers ask, and what they are answered.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

use crate::time::EventTimestamp;

#[derive(Debug, Clone)]
pub struct PredictRequest {
    /// Routes, or models as `name`, `name@alias` or `name@version`: each answers every row.
    pub routes: Vec<String>,
    /// Join keys, request values, and features that the caller knows better.
    pub columns: RecordBatch,
    /// One a row, or none: then they are made.
    pub prediction_ids: Vec<String>,
    /// Stands in for the clock.
    pub now: Option<EventTimestamp>,
}

/// One answer a row of the request, in its order.
#[derive(Debug, Clone)]
pub struct PredictAnswer {
    pub rows: Vec<RowAnswer>,
    /// Of lookups: the values of the feature, where it had one.
    pub looked_up: Option<ArrayRef>,
    pub registry_version: u64,
}

impl PredictAnswer {
    /// One column of all predictions: float64, or list<float64> where models have several outputs; of lookups the
    /// feature's own type, unless a fallback answered some rows.
    pub fn predictions(&self) -> ArrayRef {
        let rows = &self.rows;
        match &self.looked_up {
            Some(looked_up) if rows.iter().all(|row| row.prediction.is_empty()) => Arc::clone(looked_up),
            _ if rows.iter().all(|row| row.prediction.len() <= 1) => {
                Arc::new(rows.iter().map(|row| row.prediction.first().copied()).collect::<Float64Array>())
            }
            _ => {
                let values: Vec<f64> = rows.iter().flat_map(|row| row.prediction.iter().copied()).collect();
                let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.prediction.len()));
                let item = Arc::new(Field::new_list_field(DataType::Float64, true));
                Arc::new(ListArray::new(item, offsets, Arc::new(Float64Array::from(values)), None))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RowAnswer {
    pub prediction_id: String,
    /// Empty: the row was looked up.
    pub prediction: Vec<f64>,
    /// The model that answered; empty: the row was looked up.
    pub model: String,
    pub version: u64,
    pub defaults_used: Vec<String>,
}

/// Ids that no other process makes.
pub(super) fn new_ids(rows: usize) -> Vec<String> {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // The standard library's hashers begin with random numbers of the system.
    let process = *PROCESS.get_or_init(|| RandomState::new().build_hasher().finish());
    let first = NEXT.fetch_add(rows as u64, Ordering::Relaxed);
    (first..first + rows as u64).map(|number| format!("{process:016x}{number:016x}")).collect()
}
