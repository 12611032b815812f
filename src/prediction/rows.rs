//! The columns of a request and what was fetched for it: where the values of inputs and conditions come from.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};

use super::error::PredictionError;
use super::plan::Read;
use crate::retrieval::{Answer, AnswerColumn, ResolvedRequest};

/// All that is known of a request's rows.
#[derive(Debug, Clone)]
pub struct KnownRows {
    pub rows: usize,
    pub sent: RecordBatch,
    pub fetched: Vec<Fetched>,
    /// Predictions of earlier steps by their names; null where a step did not run.
    pub steps: Vec<(String, ArrayRef)>,
}

/// What was read of the store together.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub read: Arc<Read>,
    /// As the outputs of the read.
    pub columns: Arc<[AnswerColumn]>,
}

impl KnownRows {
    pub fn new(columns: &RecordBatch) -> Self {
        KnownRows { rows: columns.num_rows(), sent: columns.clone(), fetched: Vec::new(), steps: Vec::new() }
    }

    pub fn add_fetched(&mut self, read: &Arc<Read>, answer: Answer) {
        self.fetched.push(Fetched { read: Arc::clone(read), columns: answer.columns.into() });
    }

    /// What was read under the name of a service or a lookup.
    pub fn fetched(&self, name: &str) -> Option<&Fetched> {
        self.fetched.iter().find(|fetched| fetched.read.name == name)
    }

    pub fn step(&self, name: &str) -> Option<&ArrayRef> {
        self.steps.iter().find(|(known, _)| known == name).map(|(_, values)| values)
    }

    /// A column by name, for conditions: of the request, of a step, or a feature by its short or full name.
    pub fn column(&self, name: &str) -> Option<ArrayRef> {
        if let Some(array) = self.step(name).or_else(|| self.sent.column_by_name(name)) {
            return Some(Arc::clone(array));
        }
        let mut columns = self.fetched.iter().flat_map(|fetched| fetched.columns.iter());
        let found = columns.find(|column| column.name == name || short_name(&column.name) == name);
        found.map(|column| Arc::clone(&column.values))
    }

    /// The text of each row's value of a sent column; None: null, or not sent.
    pub fn texts(&self, name: &str) -> Vec<Option<String>> {
        let Some(array) = self.sent.column_by_name(name) else { return vec![None; self.rows] };
        (0..self.rows).map(|row| cell_text(array, row)).collect()
    }
}

impl Fetched {
    /// A feature by its full name.
    pub fn column(&self, full_name: &str) -> Option<&AnswerColumn> {
        self.columns.get(*self.read.positions.get(full_name)?)
    }
}

/// `feature` of `view__feature`.
pub fn short_name(full: &str) -> &str {
    full.split_once("__").map_or(full, |(_, feature)| feature)
}

/// The columns of a request that the service needs; what stands for a feature is left out.
pub fn service_columns(columns: &RecordBatch, resolved: &ResolvedRequest) -> Result<RecordBatch, PredictionError> {
    let schema = columns.schema();
    let is_needed = |name: &str| resolved.join_keys.iter().chain(&resolved.request_values).any(|f| f.name == name);
    let kept: Vec<usize> = (0..columns.num_columns()).filter(|at| is_needed(schema.field(*at).name())).collect();
    let fields: Vec<_> = kept.iter().map(|at| schema.field(*at).clone()).collect();
    let arrays = kept.iter().map(|at| Arc::clone(columns.column(*at))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(columns.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

/// One value as a text; None: null.
pub fn cell_text(array: &ArrayRef, row: usize) -> Option<String> {
    if array.is_null(row) || array.data_type() == &DataType::Null {
        return None;
    }
    if let Some(texts) = array.as_string_opt::<i32>() {
        return Some(texts.value(row).to_owned());
    }
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        let number = numbers.value(row);
        // As an integer that came as a float, beside nulls.
        return Some(if number.fract() == 0.0 && number.abs() < 9e15 {
            format!("{}", number as i64)
        } else {
            number.to_string()
        });
    }
    arrow::util::display::array_value_to_string(array, row).ok()
}

/// Numbers of any type as float64; None: the column is not of numbers.
pub fn as_numbers(array: &ArrayRef) -> Option<arrow::array::Float64Array> {
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        return Some(numbers.clone());
    }
    let is_number = array.data_type().is_numeric() || matches!(array.data_type(), DataType::Boolean | DataType::Null);
    let numbers = cast(array, &DataType::Float64).ok().filter(|_| is_number)?;
    numbers.as_primitive_opt::<Float64Type>().cloned()
}
