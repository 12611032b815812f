//! Conditions of routes, compiled once and evaluated a request.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::cast;

use super::error::PredictionError;
use crate::compile::OnDemandPlan;
use crate::definition::{Definitions, FeatureViewName, Field, OnDemandFeature, OnDemandFeatureView, ValueType};
use crate::error::error_chain;

/// A condition over named columns.
#[derive(Debug, Clone)]
pub struct Condition {
    plan: Arc<OnDemandPlan>,
    /// What it reads, in the order of the plan.
    pub columns: Vec<String>,
}

impl Condition {
    /// Compiles an SQL condition over those of the columns that it names.
    ///
    /// # Errors
    /// [`PredictionError::Condition`].
    pub fn compile(text: &str, known: &[Field]) -> Result<Self, PredictionError> {
        let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let request: Vec<Field> = known.iter().filter(|field| words.contains(&field.name.as_str())).cloned().collect();
        let columns = request.iter().map(|field| field.name.clone()).collect();
        let field = Field { name: "condition".to_owned(), value_type: ValueType::Bool, description: None };
        let view = OnDemandFeatureView {
            name: FeatureViewName::new("condition"),
            request,
            features_from: Vec::new(),
            features: vec![OnDemandFeature { field, expression: text.to_owned() }],
            documentation: Default::default(),
        };
        let plan = OnDemandPlan::compile(&Definitions::default(), &view);
        let problem = |error| PredictionError::Condition { text: text.to_owned(), problem: error_chain(&error) };
        Ok(Condition { plan: Arc::new(plan.map_err(problem)?), columns })
    }

    /// The columns that it reads, in its types; one that is not known is null.
    ///
    /// # Errors
    /// A column that cannot be read as its type.
    pub fn inputs(
        &self,
        column: impl Fn(&str) -> Option<ArrayRef>,
        rows: usize,
    ) -> Result<Vec<ArrayRef>, PredictionError> {
        let fields = self.plan.input_schema().fields().iter();
        let read = |(name, field): (&String, &arrow::datatypes::FieldRef)| match column(name) {
            Some(array) => Ok(cast(&array, field.data_type())?),
            None => Ok(new_null_array(field.data_type(), rows)),
        };
        self.columns.iter().zip(fields).map(read).collect()
    }

    /// Which rows meet it; a null meets nothing.
    pub fn rows(&self, inputs: Vec<ArrayRef>, rows: usize) -> Result<Vec<bool>, PredictionError> {
        let found = self.plan.evaluate(inputs, rows);
        let found = found.map_err(|error| PredictionError::Rows(error.to_string()))?;
        let column = found[0].as_boolean();
        Ok((0..rows).map(|row| column.is_valid(row) && column.value(row)).collect())
    }
}
