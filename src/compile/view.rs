//! A feature view's rows: join keys, event and created timestamp, features.

use std::sync::Arc;

use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, Expr, ident, lit, when};

use super::adapt::adapt_expr;
use super::expression::changing_function;
use super::message::SqlProblem;
use super::source::{Compiler, require_column};
use super::{CompileError, TypeMismatch};
use crate::arrow_types::{UTC, arrow_field, arrow_type};
use crate::definition::{
    CREATED_TIMESTAMP, Definitions, EVENT_TIMESTAMP, FeatureView, Field, Owner, SourceName, ValueType, ViewInput,
};
use crate::time::{EventTimestamp, TimeRange};

/// Years 1 and 9999, so that a query can still calculate with `$start` and `$end` where the range is open.
const OPEN_START: i64 = -62_135_596_800_000_000;
const OPEN_END: i64 = 253_402_300_799_999_999;

/// The columns of a view's table, in order: join keys, event and created timestamp, features or, of an aggregation
/// view, event columns; all nullable.
pub fn table_schema(definitions: &Definitions, view: &FeatureView) -> SchemaRef {
    let time = |name: &str| ArrowField::new(name, arrow_type(&ValueType::Timestamp), true);
    let mut fields: Vec<ArrowField> = definitions.join_keys(view).iter().map(arrow_field).collect();
    fields.extend([time(EVENT_TIMESTAMP), time(CREATED_TIMESTAMP)]);
    fields.extend(view.stored_fields().iter().map(arrow_field));
    Arc::new(Schema::new(fields))
}

/// The plan of a view's rows.
pub struct CompiledView {
    /// Columns as in [`table_schema`].
    pub frame: DataFrame,
    /// Whether rows say when they were written down, so that `as_known` concerns them.
    pub has_created_timestamp: bool,
}

/// Names of the view's join keys, in order.
pub fn view_join_keys(definitions: &Definitions, view: &FeatureView) -> Vec<String> {
    definitions.join_keys(view).into_iter().map(|key| key.name).collect()
}

impl Compiler {
    /// The view's rows whose event timestamp lies in `range` or is missing, with the columns of [`table_schema`].
    ///
    /// # Errors
    /// A source that cannot be read, a column that is missing or has another type than declared, a query that
    /// does not compile.
    pub async fn view(&self, view: &FeatureView, range: TimeRange) -> Result<CompiledView, CompileError> {
        let mut compiled = self.all_rows(view, range).await.map_err(|mut errors| errors.swap_remove(0))?;
        if let Some(filter) = range_filter(range)
            && !self.definitions.is_static(view)
        {
            compiled.frame = compiled.frame.filter(filter)?;
        }
        Ok(compiled)
    }

    /// Everything that keeps the view from being compiled.
    pub async fn check(&self, view: &FeatureView) -> Vec<CompileError> {
        self.all_rows(view, TimeRange::UNBOUNDED).await.err().unwrap_or_default()
    }

    /// The view's rows; those outside of `range` need not be there.
    ///
    /// # Errors
    /// Everything that is wrong; never empty.
    async fn all_rows(&self, view: &FeatureView, range: TimeRange) -> Result<CompiledView, Vec<CompileError>> {
        let input = match &view.input {
            ViewInput::Rows { source } | ViewInput::Aggregations { source, .. } => self.source_rows(source).await,
            ViewInput::Sql { sources, sql } => self.sql_rows(view, sources, sql, range).await,
        };
        let mut input = input.map_err(|error| vec![error])?;
        let has_created_timestamp = input.created_timestamp.is_some();
        let row = self.event_row(view, &input.frame);
        input.problem = row.as_ref().ok().and_then(|row| row.problem.clone());
        let columns = self.view_columns(view, &input);
        let (mut columns, row) = match (columns, row) {
            (Ok(columns), Ok(row)) => (columns, row),
            (columns, row) => return Err(columns.err().into_iter().chain(row.err()).flatten().collect()),
        };
        columns.extend(row.columns);
        // Rows with a problem have no event timestamp, so that jobs can count them.
        let wanted = match (row.condition, row.problem) {
            (Some(condition), Some(problem)) => Some(condition.or(problem.is_not_null())),
            (condition, _) => condition,
        };
        let frame = match wanted {
            Some(wanted) => input.frame.filter(wanted),
            None => Ok(input.frame),
        };
        let frame = frame.and_then(|frame| frame.select(columns)).map_err(|error| vec![error.into()])?;
        Ok(CompiledView { frame, has_created_timestamp })
    }

    pub(super) async fn source_rows(&self, name: &SourceName) -> Result<InputRows, CompileError> {
        let Some(source) = self.definitions.source(name.as_str()) else {
            return Err(CompileError::NoBatchLocation { name: name.clone() });
        };
        Ok(InputRows {
            frame: self.source(source).await?,
            event_timestamp: source.event_timestamp.clone(),
            created_timestamp: source.created_timestamp.clone(),
            problem: None,
            place: format!("source `{name}`"),
        })
    }

    async fn sql_rows(
        &self,
        view: &FeatureView,
        sources: &[SourceName],
        sql: &str,
        range: TimeRange,
    ) -> Result<InputRows, CompileError> {
        for name in sources {
            if let Some(source) = self.definitions.source(name.as_str())
                && !self.context.table_exist(name.as_str())?
            {
                let frame = self.source(source).await?;
                self.context.register_table(name.as_str(), frame.into_view())?;
            }
        }
        let failed = |error: DataFusionError| {
            let names: Vec<&str> = sources.iter().map(SourceName::as_str).collect();
            CompileError::Sql { view: view.name.clone(), problem: SqlProblem::new(&error, "sources", &names) }
        };
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = self.context.sql_with_options(sql, read_only).await.map_err(failed)?;
        if let Some(function) = changing_function_of_plan(frame.logical_plan()) {
            return Err(CompileError::VolatileSql { view: view.name.clone(), function });
        }
        let frame = frame.with_param_values(range_params(range)).map_err(failed)?;
        let has = |name: &str| frame.schema().fields().iter().any(|field| field.name() == name);
        let created_timestamp = has(CREATED_TIMESTAMP).then(|| CREATED_TIMESTAMP.to_owned());
        let event_timestamp = match (self.definitions.is_static(view), has(EVENT_TIMESTAMP)) {
            (true, true) => return Err(CompileError::StaticWithTimestamp { view: view.name.clone() }),
            (true, false) => None,
            (false, _) => Some(EVENT_TIMESTAMP.to_owned()),
        };
        let place = "its query's result".to_owned();
        Ok(InputRows { frame, event_timestamp, created_timestamp, problem: None, place })
    }

    /// The columns of the view's table over the rows, each in its declared type, but for event columns.
    ///
    /// # Errors
    /// Everything that is wrong; never empty.
    pub(super) fn view_columns(&self, view: &FeatureView, input: &InputRows) -> Result<Vec<Expr>, Vec<CompileError>> {
        let InputRows { frame, event_timestamp, created_timestamp, problem, place } = input;
        let mut wanted: Vec<(Option<String>, Field)> = Vec::new();
        let same_name = |field: Field| (Some(field.name.clone()), field);
        wanted.extend(self.definitions.join_keys(view).into_iter().map(same_name));
        wanted.push((event_timestamp.clone(), time_field(EVENT_TIMESTAMP)));
        wanted.push((created_timestamp.clone(), time_field(CREATED_TIMESTAMP)));
        if !view.is_aggregation() {
            wanted.extend(view.features.iter().cloned().map(same_name));
        }
        let schema = Arc::clone(frame.schema().inner());
        let mut columns = Vec::new();
        let mut errors = Vec::new();
        for (name, field) in &wanted {
            match name.as_ref().map(|name| view_column(view, &schema, place, name, &field.value_type)) {
                Some(Ok(column)) => {
                    let column = match problem {
                        Some(problem) if field.name == EVENT_TIMESTAMP => {
                            when(problem.clone().is_null(), column).end().map_err(|error| vec![error.into()])?
                        }
                        _ => column,
                    };
                    columns.push(column.alias(&field.name));
                }
                Some(Err(error)) => errors.push(error),
                None => columns.push(lit(ScalarValue::TimestampMicrosecond(None, Some(UTC.into()))).alias(&field.name)),
            }
        }
        if errors.is_empty() { Ok(columns) } else { Err(errors) }
    }
}

/// What a view's columns are selected from.
pub(super) struct InputRows {
    pub(super) frame: DataFrame,
    /// The columns that hold the times, by their names in `frame`.
    event_timestamp: Option<String>,
    pub(super) created_timestamp: Option<String>,
    /// Why a row is none of the view; null of those that are.
    problem: Option<Expr>,
    /// What the rows are, for messages.
    place: String,
}

fn time_field(name: &str) -> Field {
    Field { name: name.to_owned(), value_type: ValueType::Timestamp, description: None }
}

fn view_column(
    view: &FeatureView,
    schema: &SchemaRef,
    place: &str,
    name: &str,
    value_type: &ValueType,
) -> Result<Expr, CompileError> {
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let owner = Owner::FeatureView(view.name.clone());
    require_column(name, &names, &owner, place)?;
    let field = schema.field_with_name(name).map_err(DataFusionError::from)?;
    adapt_expr(ident(name), field.data_type(), value_type).map_err(|mismatch: TypeMismatch| CompileError::Type {
        owner,
        column: name.to_owned(),
        mismatch,
    })
}

/// The first function anywhere in the plan that may give another result for the same arguments.
fn changing_function_of_plan(plan: &LogicalPlan) -> Option<String> {
    let mut function = None;
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            function = function.take().or_else(|| changing_function(expr));
            Ok(if function.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    function
}

pub(super) fn instant(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

fn range_params(range: TimeRange) -> ParamValues {
    let bound = |bound: Option<EventTimestamp>, open: i64| instant(bound.map_or(open, EventTimestamp::micros)).into();
    let bounds = [("start", bound(range.start, OPEN_START)), ("end", bound(range.end, OPEN_END))];
    ParamValues::Map(bounds.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Rows without event timestamp pass, so that a job can count them.
fn range_filter(range: TimeRange) -> Option<Expr> {
    let time = || ident(EVENT_TIMESTAMP);
    let start = range.start.map(|start| time().gt_eq(lit(instant(start.micros()))));
    let end = range.end.map(|end| time().lt(lit(instant(end.micros()))));
    let inside = start.into_iter().chain(end).reduce(Expr::and)?;
    Some(inside.or(time().is_null()))
}
