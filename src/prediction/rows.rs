//! The columns of a request and what was fetched for it: where the values of inputs and conditions come from.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};

use super::error::PredictionError;
use crate::definition::nearest;
use crate::model_registry::{BoundInput, InputSource};
use crate::retrieval::{Answer, AnswerColumn, ResolvedRequest};

/// All that is known of a request's rows.
#[derive(Debug, Default)]
pub struct KnownRows {
    pub rows: usize,
    /// As sent, by name.
    pub sent: HashMap<String, ArrayRef>,
    /// By service, its columns by full name.
    pub fetched: HashMap<String, Arc<HashMap<String, AnswerColumn>>>,
    /// Predictions of earlier steps; NaN where a step did not run.
    pub steps: HashMap<String, ArrayRef>,
}

impl KnownRows {
    pub fn new(columns: &RecordBatch) -> Result<Self, PredictionError> {
        let schema = columns.schema();
        let mut sent = HashMap::new();
        for (field, array) in schema.fields().iter().zip(columns.columns()) {
            sent.insert(field.name().clone(), Arc::clone(array));
        }
        Ok(KnownRows { rows: columns.num_rows(), sent, ..KnownRows::default() })
    }

    pub fn add_fetched(&mut self, service: &str, answer: Answer) {
        let columns = answer.columns.into_iter().map(|column| (column.name.clone(), column)).collect();
        self.fetched.insert(service.to_owned(), Arc::new(columns));
    }

    /// What the request carries for an input of a model: by the input's name, or the feature's, in full or not.
    pub fn sent_for(&self, input: &BoundInput) -> Option<&ArrayRef> {
        let InputSource::Feature { view, feature, .. } = &input.source else { return self.sent.get(&input.name) };
        let of_feature = || self.sent.get(feature);
        let in_full =
            || self.sent.get(&format!("{view}__{feature}")).or_else(|| self.sent.get(&format!("{view}:{feature}")));
        self.sent.get(&input.name).or_else(of_feature).or_else(in_full)
    }

    /// A column by name, for conditions: of the request, of a step, or a feature by its short or full name.
    pub fn column(&self, name: &str) -> Option<ArrayRef> {
        if let Some(array) = self.steps.get(name).or_else(|| self.sent.get(name)) {
            return Some(Arc::clone(array));
        }
        let mut columns = self.fetched.values().flat_map(|columns| columns.values());
        let found = columns.find(|column| column.name == name || short_name(&column.name) == name);
        found.map(|column| Arc::clone(&column.values))
    }

    /// The text of each row's value of a sent column; None: null, or not sent.
    pub fn texts(&self, name: &str) -> Vec<Option<String>> {
        let Some(array) = self.sent.get(name) else { return vec![None; self.rows] };
        (0..self.rows).map(|row| cell_text(array, row)).collect()
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

/// # Errors
/// A sent column that nothing of the route reads.
pub fn check_columns(
    columns: &RecordBatch,
    is_known: impl Fn(&str) -> bool,
    known: &[String],
) -> Result<(), PredictionError> {
    let schema = columns.schema();
    let unknown = schema.fields().iter().find(|field| !is_known(field.name()));
    match unknown {
        None => Ok(()),
        Some(field) => Err(PredictionError::UnknownColumn {
            column: field.name().clone(),
            nearest: nearest(field.name(), known.iter().map(String::as_str)).map(str::to_owned),
        }),
    }
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
