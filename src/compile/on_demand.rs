//! On-demand views: one compiled expression a feature, evaluated by batch and online requests alike.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, Volatility, cast};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use super::CompileError;
use crate::arrow_types::{arrow_field, arrow_type};
use crate::definition::{Definitions, FeatureViewName, Field, OnDemandFeature, OnDemandFeatureView};

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
    /// An expression that does not compile over the inputs, calls a volatile function, or has a result that cannot
    /// be cast to the declared type.
    pub fn compile(definitions: &Definitions, view: &OnDemandFeatureView) -> Result<Self, CompileError> {
        let inputs = on_demand_inputs(definitions, view);
        let input_schema = Arc::new(Schema::new(inputs.iter().map(arrow_field).collect::<Vec<_>>()));
        let context = SessionContext::new();
        let df_schema = DFSchema::try_from(Arc::clone(&input_schema))?;
        let compile = |feature: &OnDemandFeature| {
            compile_feature(&context, &df_schema, &view.name, feature).map(|expr| (feature.field.clone(), expr))
        };
        let outputs = view.features.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(OnDemandPlan { view: view.name.clone(), input_schema, outputs })
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

fn compile_feature(
    context: &SessionContext,
    schema: &DFSchema,
    view: &FeatureViewName,
    feature: &OnDemandFeature,
) -> Result<Arc<dyn PhysicalExpr>, CompileError> {
    let name = &feature.field.name;
    let failed =
        |source| CompileError::Expression { view: view.clone(), feature: name.clone(), source: Box::new(source) };
    let expr = context.parse_sql_expr(&feature.expression, schema).map_err(failed)?;
    if let Some(function) = changing_function(&expr) {
        return Err(CompileError::Volatile { view: view.clone(), feature: name.clone(), function });
    }
    let compiled = context.create_physical_expr(expr.clone(), schema).map_err(failed)?;
    let found = compiled.data_type(schema.as_arrow()).map_err(failed)?;
    let declared = arrow_type(&feature.field.value_type);
    if found == declared {
        return Ok(compiled);
    }
    if !may_cast(&found, &declared) {
        return Err(CompileError::ExpressionType {
            view: view.clone(),
            feature: name.clone(),
            found: found.to_string().to_lowercase(),
            declared: feature.field.value_type.clone(),
        });
    }
    context.create_physical_expr(cast(expr, declared), schema).map_err(failed)
}

/// Numbers cast among themselves and strings among their forms; a number is no text and no instant.
fn may_cast(found: &DataType, declared: &DataType) -> bool {
    let is_number = |t: &DataType| t.is_numeric();
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_list = |t: &DataType| matches!(t, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..));
    let alike = [&is_number as &dyn Fn(&DataType) -> bool, &is_time, &is_text, &is_list]
        .iter()
        .any(|is| is(found) && is(declared));
    (alike || *found == DataType::Null) && arrow::compute::can_cast_types(found, declared)
}

/// The first function that may give another result for the same arguments.
fn changing_function(expr: &Expr) -> Option<String> {
    let mut function = None;
    let _ = expr.exists(|expr| {
        if let Expr::ScalarFunction(call) = expr
            && call.func.signature().volatility != Volatility::Immutable
        {
            function = Some(call.func.name().to_owned());
        }
        Ok(function.is_some())
    });
    function
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
