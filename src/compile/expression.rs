//! The text of an on-demand feature to an expression over one row.
//!
//! ```text
//! text ── parse ──> logical ── refuse, simplify, cast ──> physical ── check overflow, try out ──> expression
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ExprSchemable, Operator, Volatility, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Literal, NegativeExpr};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::CompileError;
use super::adapt::adapt_expr;
use super::message::SqlProblem;
use crate::arrow_types::{arrow_type, type_name};
use crate::definition::{FeatureViewName, OnDemandFeature, ValueType};

/// Compiles the expressions of one view over the columns of one schema.
pub(super) struct ExpressionCompiler<'a> {
    context: SessionContext,
    schema: DFSchema,
    view: &'a FeatureViewName,
}

impl<'a> ExpressionCompiler<'a> {
    pub(super) fn new(schema: DFSchema, view: &'a FeatureViewName) -> Self {
        let mut config = SessionConfig::new();
        config.options_mut().sql_parser.collect_spans = true;
        ExpressionCompiler { context: SessionContext::new_with_config(config), schema, view }
    }

    /// The feature's expression, which gives values of the declared type.
    pub(super) fn compile(&self, feature: &OnDemandFeature) -> Result<Arc<dyn PhysicalExpr>, CompileError> {
        let failed = |error: DataFusionError| CompileError::Expression {
            view: self.view.clone(),
            feature: feature.field.name.clone(),
            problem: SqlProblem::new(&error, "tables", &[]),
        };
        let expr = self.context.parse_sql_expr(&feature.expression, &self.schema).map_err(failed)?;
        self.check_calls(feature, &expr)?;
        let expr = self.simplify(expr).map_err(failed)?;
        let found = expr.get_type(&self.schema).map_err(failed)?;
        let declared = &feature.field.value_type;
        let expr = to_declared(expr, &found, declared).ok_or_else(|| CompileError::ExpressionType {
            view: self.view.clone(),
            feature: feature.field.name.clone(),
            found: type_name(&found),
            declared: declared.clone(),
        })?;
        let compiled = self.context.create_physical_expr(expr, &self.schema).map_err(failed)?;
        let compiled = read_constants(compiled).map_err(failed)?;
        let compiled = overflow_checked(compiled, self.schema.as_arrow()).map_err(failed)?;
        match refusal(&compiled, self.schema.inner()) {
            Some(error) => Err(failed(error)),
            None => Ok(compiled),
        }
    }

    /// Refuses what gives another result at another time, and what needs more than one row.
    fn check_calls(&self, feature: &OnDemandFeature, expr: &Expr) -> Result<(), CompileError> {
        let names = || (self.view.clone(), feature.field.name.clone());
        if let Some(function) = changing_function(expr) {
            let (view, feature) = names();
            return Err(CompileError::Volatile { view, feature, function });
        }
        if let Some(what) = needs_more_rows(expr) {
            let (view, feature) = names();
            return Err(CompileError::NotOfOneRow { view, feature, what });
        }
        Ok(())
    }

    /// Replaces calls that only exist to be replaced, such as `coalesce` by a `CASE`.
    ///
    /// Constants stay as they are written: folding them would wrap where they overflow.
    fn simplify(&self, expr: Expr) -> Result<Expr, DataFusionError> {
        let state = self.context.state();
        let options = Arc::clone(state.config_options());
        let simplification =
            SimplifyContext::builder().with_schema(Arc::new(self.schema.clone())).with_config_options(options).build();
        let expr = ExprSimplifier::new(simplification.clone()).coerce(expr, &self.schema)?;
        let replaced = expr.transform_up(|expr| match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) => match func.simplify(args, &simplification)? {
                ExprSimplifyResult::Simplified(expr) => Ok(Transformed::yes(expr)),
                ExprSimplifyResult::Original(args) => {
                    Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })))
                }
            },
            other => Ok(Transformed::no(other)),
        })?;
        Ok(replaced.data)
    }
}

/// The expression with its values in the declared type; None where they are not of its kind.
fn to_declared(expr: Expr, found: &DataType, declared: &ValueType) -> Option<Expr> {
    if let Ok(adapted) = adapt_expr(expr.clone(), found, declared) {
        return Some(adapted);
    }
    let declared = arrow_type(declared);
    may_cast(found, &declared).then(|| cast(expr, declared))
}

/// Numbers cast among themselves and strings among their forms; a number is no text and no instant.
fn may_cast(found: &DataType, declared: &DataType) -> bool {
    let is_number = |t: &DataType| t.is_numeric();
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let is_list = |t: &DataType| matches!(t, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..));
    let kinds = [&is_number as &dyn Fn(&DataType) -> bool, &is_time, &is_list];
    kinds.iter().any(|is| is(found) && is(declared)) && arrow::compute::can_cast_types(found, declared)
}

/// The first function that may give another result for the same arguments.
pub(super) fn changing_function(expr: &Expr) -> Option<String> {
    find_in(expr, |expr| match expr {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(call.func.name().to_owned())
        }
        Expr::HigherOrderFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(call.func.name().to_owned())
        }
        _ => None,
    })
}

/// The first part of the expression that a row alone cannot answer.
pub(super) fn needs_more_rows(expr: &Expr) -> Option<String> {
    find_in(expr, |expr| match expr {
        Expr::AggregateFunction(call) => Some(format!("the aggregate function `{}`", call.func.name())),
        Expr::WindowFunction(call) => Some(format!("the window function `{}`", call.fun.name())),
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
            Some("a subquery".to_owned())
        }
        Expr::Unnest(_) => Some("`unnest`, which gives several rows".to_owned()),
        _ => None,
    })
}

fn find_in(expr: &Expr, find: impl Fn(&Expr) -> Option<String>) -> Option<String> {
    let mut found = None;
    let _ = expr.exists(|expr| {
        found = find(expr);
        Ok(found.is_some())
    });
    found
}

/// The expression with its cast constants in their types.
///
/// # Errors
/// A constant that is none of its type, such as the date `2024-02-30`.
fn read_constants(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let no_rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let read = expr.transform_up(|expr| {
        let is_constant = expr.downcast_ref::<CastExpr>().is_some_and(|cast| cast.expr().is::<Literal>());
        if is_constant && let ColumnarValue::Scalar(value) = expr.evaluate(&no_rows)? {
            return Ok(Transformed::yes(Arc::new(Literal::new(value)) as Arc<dyn PhysicalExpr>));
        }
        Ok(Transformed::no(expr))
    })?;
    Ok(read.data)
}

/// The expression with integer arithmetic that fails where its result does not fit, rather than wrap around.
fn overflow_checked(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let checked = expr.transform_up(|expr| {
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
            let checked = binary.clone().with_fail_on_overflow(true);
            return Ok(Transformed::yes(Arc::new(checked) as Arc<dyn PhysicalExpr>));
        }
        let Some(negative) = expr.downcast_ref::<NegativeExpr>() else { return Ok(Transformed::no(expr)) };
        let data_type = negative.data_type(schema)?;
        if !data_type.is_signed_integer() {
            return Ok(Transformed::no(expr));
        }
        let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
        let difference = BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()));
        Ok(Transformed::yes(Arc::new(difference.with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(checked.data)
}

/// Why the expression can never be evaluated, whatever its inputs are: the engine lacks what a row of nulls or one of
/// plain values meets.
fn refusal(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Option<DataFusionError> {
    let rows = [null_row(schema), plain_row(schema)];
    rows.iter().flatten().find_map(|row| {
        let error = expr.evaluate(row).and_then(|value| value.into_array(1)).err()?;
        is_never_possible(error.find_root()).then_some(error)
    })
}

fn is_never_possible(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::NotImplemented(_) | DataFusionError::Internal(_) => true,
        DataFusionError::ArrowError(error, _) => matches!(error.as_ref(), ArrowError::NotYetImplemented(_)),
        _ => false,
    }
}

fn null_row(schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    one_row(schema, columns)
}

/// A row of ones, empty texts and empty lists.
fn plain_row(schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let value = |field: &Arc<ArrowField>| {
        let data_type = field.data_type();
        let plain = ScalarValue::new_one(data_type).or_else(|_| ScalarValue::new_default(data_type));
        plain.or_else(|_| ScalarValue::try_from(data_type))?.to_array()
    };
    one_row(schema, schema.fields().iter().map(value).collect::<Result<_, _>>()?)
}

fn one_row(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, DataFusionError> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
