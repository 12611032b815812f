//! What callers ask, and what they are answered.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};

use super::rows::as_numbers;
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
    /// One column of all predictions: float64, or list<float64> where there are several numbers a row; of lookups the
    /// feature's own type, unless a fallback answered some rows.
    pub fn predictions(&self) -> ArrayRef {
        let rows = &self.rows;
        if let Some(looked_up) = self.looked_up.as_ref().filter(|_| rows.iter().all(|row| row.prediction.is_empty())) {
            return Arc::clone(looked_up);
        }
        let numbers: Vec<Vec<f64>> = (0..rows.len()).map(|row| self.numbers(row).unwrap_or_default()).collect();
        if numbers.iter().all(|numbers| numbers.len() <= 1) {
            return Arc::new(numbers.iter().map(|numbers| numbers.first().copied()).collect::<Float64Array>());
        }
        let offsets = OffsetBuffer::from_lengths(numbers.iter().map(Vec::len));
        let nulls = NullBuffer::from_iter(numbers.iter().map(|numbers| !numbers.is_empty()));
        let item = Arc::new(Field::new_list_field(DataType::Float64, true));
        let values = Float64Array::from_iter_values(numbers.iter().flatten().copied());
        Arc::new(ListArray::new(item, offsets, Arc::new(values), Some(nulls)))
    }

    /// The numbers of a row, predicted or looked up; None: what was looked up is no number.
    pub fn numbers(&self, row: usize) -> Option<Vec<f64>> {
        let prediction = &self.rows[row].prediction;
        match &self.looked_up {
            Some(looked_up) if prediction.is_empty() => looked_up_numbers(looked_up, row),
            _ => Some(prediction.clone()),
        }
    }
}

/// The number or the numbers that a row holds; none where it is null.
fn looked_up_numbers(values: &ArrayRef, row: usize) -> Option<Vec<f64>> {
    if let Some(list) = values.as_list_opt::<i32>() {
        let items = if list.is_valid(row) { list.value(row) } else { list.values().slice(0, 0) };
        return as_numbers(&items).map(|items| items.iter().flatten().collect());
    }
    let numbers = as_numbers(&values.slice(row, 1))?;
    Some(numbers.iter().flatten().collect())
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
