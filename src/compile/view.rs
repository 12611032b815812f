//! A feature view's rows: join keys, event and created timestamp, features.

use std::sync::Arc;

use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{DataFrame, Expr, ident, lit};

use super::adapt::adapt_expr;
use super::source::{Compiler, require_column};
use super::{CompileError, TypeMismatch};
use crate::arrow_types::{arrow_field, arrow_type};
use crate::definition::{
    CREATED_TIMESTAMP, Definitions, EVENT_TIMESTAMP, FeatureView, Field, SourceName, ValueType, ViewInput,
};
use crate::time::{EventTimestamp, TimeRange};

/// Years 1 and 9999, so that a query can still calculate with `$start` and `$end` where the range is open.
const OPEN_START: i64 = -62_135_596_800_000_000;
const OPEN_END: i64 = 253_402_300_799_999_999;

/// The columns of a view's table, in order: join keys, event and created timestamp, features; all nullable.
pub fn table_schema(definitions: &Definitions, view: &FeatureView) -> SchemaRef {
    let time = |name: &str| ArrowField::new(name, arrow_type(&ValueType::Timestamp), true);
    let mut fields: Vec<ArrowField> = definitions.join_keys(view).iter().map(arrow_field).collect();
    fields.extend([time(EVENT_TIMESTAMP), time(CREATED_TIMESTAMP)]);
    fields.extend(view.features.iter().map(arrow_field));
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
        let mut compiled = match &view.input {
            ViewInput::Rows { source } => self.row_view(view, source).await?,
            ViewInput::Sql { sources, sql } => self.sql_view(view, sources, sql, range).await?,
        };
        if let Some(filter) = range_filter(range)
            && !self.definitions.is_static(view)
        {
            compiled.frame = compiled.frame.filter(filter)?;
        }
        Ok(compiled)
    }

    async fn row_view(&self, view: &FeatureView, name: &SourceName) -> Result<CompiledView, CompileError> {
        let Some(source) = self.definitions.source(name.as_str()) else {
            return Err(CompileError::NoBatchLocation { name: name.clone() });
        };
        let frame = self.source(source).await?;
        let place = format!("source `{name}`");
        let event = source.event_timestamp.as_deref();
        self.project(view, frame, event, source.created_timestamp.as_deref(), &place)
    }

    async fn sql_view(
        &self,
        view: &FeatureView,
        sources: &[SourceName],
        sql: &str,
        range: TimeRange,
    ) -> Result<CompiledView, CompileError> {
        for name in sources {
            if let Some(source) = self.definitions.source(name.as_str())
                && !self.context.table_exist(name.as_str())?
            {
                let frame = self.source(source).await?;
                self.context.register_table(name.as_str(), frame.into_view())?;
            }
        }
        let failed = |source| CompileError::Sql { view: view.name.clone(), source: Box::new(source) };
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = self.context.sql_with_options(sql, read_only).await.map_err(failed)?;
        let frame = frame.with_param_values(range_params(range)).map_err(failed)?;
        let has = |name: &str| frame.schema().fields().iter().any(|field| field.name() == name);
        let created = has(CREATED_TIMESTAMP).then_some(CREATED_TIMESTAMP);
        let event = match (self.definitions.is_static(view), has(EVENT_TIMESTAMP)) {
            (true, true) => return Err(CompileError::StaticWithTimestamp { view: view.name.clone() }),
            (true, false) => None,
            (false, _) => Some(EVENT_TIMESTAMP),
        };
        self.project(view, frame, event, created, "its query's result")
    }

    /// Selects the table's columns out of `frame`, each in its declared type.
    fn project(
        &self,
        view: &FeatureView,
        frame: DataFrame,
        event: Option<&str>,
        created: Option<&str>,
        place: &str,
    ) -> Result<CompiledView, CompileError> {
        let schema = Arc::clone(frame.schema().inner());
        let column = |name: &str, as_name: &str, value_type: &ValueType| {
            view_column(view, &schema, place, name, value_type).map(|expr| expr.alias(as_name))
        };
        let time = |name: Option<&str>, as_name: &str| match name {
            Some(name) => column(name, as_name, &ValueType::Timestamp),
            None => Ok(lit(ScalarValue::TimestampMicrosecond(None, Some("UTC".into()))).alias(as_name)),
        };
        let mut columns = Vec::new();
        for key in self.definitions.join_keys(view) {
            columns.push(column(&key.name, &key.name, &key.value_type)?);
        }
        columns.push(time(event, EVENT_TIMESTAMP)?);
        columns.push(time(created, CREATED_TIMESTAMP)?);
        for Field { name, value_type, .. } in &view.features {
            columns.push(column(name, name, value_type)?);
        }
        Ok(CompiledView { frame: frame.select(columns)?, has_created_timestamp: created.is_some() })
    }
}

fn view_column(
    view: &FeatureView,
    schema: &SchemaRef,
    place: &str,
    name: &str,
    value_type: &ValueType,
) -> Result<Expr, CompileError> {
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let owner = || format!("feature view `{}`", view.name);
    require_column(name, &names, owner, || place.to_owned())?;
    let field = schema.field_with_name(name).map_err(|error| datafusion::error::DataFusionError::from(error))?;
    adapt_expr(ident(name), field.data_type(), value_type).map_err(|mismatch: TypeMismatch| CompileError::Type {
        owner: owner(),
        column: name.to_owned(),
        mismatch,
    })
}

fn instant(micros: i64) -> ScalarValue {
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
