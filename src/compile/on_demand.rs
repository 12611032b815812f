//! On-demand views: one compiled expression a feature, evaluated by batch and online requests alike.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use super::CompileError;
use super::expression::ExpressionCompiler;
use crate::arrow_types::{arrow_field, arrow_type};
use crate::definition::{Definitions, FeatureViewName, Field, OnDemandFeatureView};

/// The compiled expressions of one on-demand view.
#[derive(Debug)]
pub struct OnDemandPlan {
    pub view: FeatureViewName,
    input_schema: SchemaRef,
    outputs: Vec<(Field, Arc<dyn PhysicalExpr>)>,
}

/// What the expressions read: the features they name, then the request's values.
pub fn on_demand_inputs(definitions: &Definitions, view: &OnDemandFeatureView) -> Vec<Field> {
    let mut inputs = Vec::new();
    for reference in &view.features_from {
        let Some(from) = definitions.feature_view(reference.view.as_str()) else { continue };
        let wanted = from.features.iter().filter(|f| reference.feature.as_ref().is_none_or(|name| *name == f.name));
        inputs.extend(wanted.cloned());
    }
    inputs.extend(view.request.iter().cloned());
    inputs
}

impl OnDemandPlan {
    /// # Errors
    /// The first of those of [`Self::compile_all`].
    pub fn compile(definitions: &Definitions, view: &OnDemandFeatureView) -> Result<Self, CompileError> {
        Self::compile_all(definitions, view).map_err(|mut errors| errors.swap_remove(0))
    }

    /// # Errors
    /// Every expression that does not compile over the inputs, calls a function whose result changes, can never be
    /// evaluated, or has a result that cannot be cast to the declared type; never empty.
    pub fn compile_all(definitions: &Definitions, view: &OnDemandFeatureView) -> Result<Self, Vec<CompileError>> {
        let inputs = on_demand_inputs(definitions, view);
        let input_schema = Arc::new(Schema::new(inputs.iter().map(arrow_field).collect::<Vec<_>>()));
        let schema = DFSchema::try_from(Arc::clone(&input_schema)).map_err(|error| vec![error.into()])?;
        let compiler = ExpressionCompiler::new(schema, &view.name);
        let mut outputs = Vec::new();
        let mut errors = Vec::new();
        for feature in &view.features {
            match compiler.compile(feature) {
                Ok(expr) => outputs.push((feature.field.clone(), expr)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(OnDemandPlan { view: view.name.clone(), input_schema, outputs })
        } else {
            Err(errors)
        }
    }

    /// The columns [`Self::evaluate`] takes, by name and type.
    pub fn input_schema(&self) -> &SchemaRef {
        &self.input_schema
    }

    pub fn outputs(&self) -> impl Iterator<Item = &Field> {
        self.outputs.iter().map(|(field, _)| field)
    }

    /// One column an output, of the batch's length.
    ///
    /// A row whose evaluation fails (a division by zero, a value that does not fit the declared type) gives null
    /// and disturbs no other row.
    ///
    /// # Shapes
    /// `inputs`: one column a field of [`Self::input_schema`], in order, each of `rows` values.
    pub fn evaluate(&self, inputs: Vec<ArrayRef>, rows: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.input_schema), inputs, &options)?;
        self.outputs.iter().map(|(field, expr)| evaluate_rows(expr, &batch, &arrow_type(&field.value_type))).collect()
    }
}

/// Evaluates the whole batch; where that fails, its halves, down to the rows that fail alone.
fn evaluate_rows(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    data_type: &DataType,
) -> Result<ArrayRef, DataFusionError> {
    let rows = batch.num_rows();
    match expr.evaluate(batch).and_then(|value| value.into_array(rows)) {
        Ok(array) => Ok(array),
        Err(_) if rows <= 1 => Ok(new_null_array(data_type, rows)),
        Err(_) => {
            let half = rows / 2;
            let first = evaluate_rows(expr, &batch.slice(0, half), data_type)?;
            let second = evaluate_rows(expr, &batch.slice(half, rows - half), data_type)?;
            Ok(concat(&[first.as_ref() as &dyn Array, second.as_ref()])?)
        }
    }
}

#[cfg(test)]
mod tests;
