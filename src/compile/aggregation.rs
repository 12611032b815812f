//! Aggregation views: the events that their windows cover, with inputs and buckets evaluated.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ExprSchemable;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{DataFrame, Expr, when};

use super::CompileError;
use super::adapt::{adapt_expr, declarable};
use super::attempt::{Attempted, attempt, can_fail};
use super::expression::{changing_function, needs_more_rows};
use super::message::SqlProblem;
use super::source::Compiler;
use crate::arrow_types::type_name;
use crate::definition::{
    Aggregation, EVENT_TIMESTAMP, FeatureView, FeatureViewName, Owner, Part, ValueType, ViewInput,
};

impl Compiler {
    /// The view with the types of its event columns and features as the source gives them; other views as they are.
    ///
    /// # Errors
    /// Everything that keeps the types from being told; never empty.
    pub async fn resolve(&self, view: &FeatureView) -> Result<FeatureView, Vec<CompileError>> {
        let ViewInput::Aggregations { source, aggregations, .. } = &view.input else { return Ok(view.clone()) };
        let frame = self.source_rows(source).await.map_err(|error| vec![error])?.frame;
        let mut resolved = view.clone();
        let mut errors = Vec::new();
        for column in &mut resolved.event_columns {
            let found = event_expr(view, &frame, &column.expression);
            match found.and_then(|(_, found)| event_type(view, &column.expression, &found)) {
                Ok(value_type) => column.field.value_type = value_type,
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut types = Vec::new();
        for (position, aggregation) in aggregations.iter().enumerate() {
            match answer_type(&resolved, aggregation) {
                Ok(value_type) => types.extend(aggregation.windows.iter().map(|_| value_type.clone())),
                Err(problem) => errors.push(CompileError::AggregateInput {
                    view: view.name.clone(),
                    aggregate: aggregation.base_name(),
                    part: Part::AggregationInput(position),
                    problem,
                }),
            }
        }
        for (feature, value_type) in resolved.features.iter_mut().zip(types) {
            feature.value_type = value_type;
        }
        if errors.is_empty() { Ok(resolved) } else { Err(errors) }
    }
}

fn answer_type(view: &FeatureView, aggregation: &Aggregation) -> Result<ValueType, String> {
    let type_of = |expression: &String| Some(&view.event_columns[view.event_column(expression)?].field.value_type);
    let (input, by) = (aggregation.input.as_ref().and_then(type_of), aggregation.by.as_ref().and_then(type_of));
    aggregation.value_type(input, by)
}

/// The expressions of a view over the rows of its source.
#[derive(Default)]
pub(super) struct EventRow {
    /// Which rows are events of the view; None: all are.
    pub condition: Option<Expr>,
    /// The event columns, in their types.
    pub columns: Vec<Expr>,
    /// Why a row is no event, though it may meet the condition; None: an expression that fails ends the query.
    pub problem: Option<Expr>,
}

/// Why rows of a source can be no events of one view.
#[derive(Debug)]
pub struct RowProblems {
    problem: Arc<dyn PhysicalExpr>,
}

impl RowProblems {
    /// Of each row that fails, its position and why.
    ///
    /// `rows`: columns as [`Compiler::source`] has them.
    ///
    /// # Errors
    /// Rows with other columns.
    pub fn of(&self, rows: &RecordBatch) -> Result<Vec<(usize, String)>, DataFusionError> {
        let problems = self.problem.evaluate(rows)?.into_array(rows.num_rows())?;
        let Some(problems) = problems.as_string_opt::<i32>().filter(|problems| problems.null_count() < rows.num_rows())
        else {
            return Ok(Vec::new());
        };
        let found = problems.iter().enumerate();
        Ok(found.filter_map(|(row, problem)| Some((row, problem?.to_owned()))).collect())
    }
}

impl Compiler {
    /// Why rows of its source can be no events of a view; None: they all can.
    ///
    /// # Errors
    /// As of [`Compiler::view`].
    pub async fn row_problems(&self, view: &FeatureView) -> Result<Option<RowProblems>, CompileError> {
        let ViewInput::Aggregations { source, .. } = &view.input else { return Ok(None) };
        let frame = self.source_rows(source).await?.frame;
        let row = self.event_row(view, &frame).map_err(|mut errors| errors.swap_remove(0))?;
        let problem = row.problem.map(|problem| self.context.create_physical_expr(problem, frame.schema()));
        Ok(problem.transpose()?.map(|problem| RowProblems { problem }))
    }

    /// The expressions of an aggregation view; of another one none.
    ///
    /// Where its source has a stream, none of them fails: a row that one would fail for has a problem.
    ///
    /// # Errors
    /// Everything that is wrong; never empty.
    pub(super) fn event_row(&self, view: &FeatureView, frame: &DataFrame) -> Result<EventRow, Vec<CompileError>> {
        let ViewInput::Aggregations { source, filter, .. } = &view.input else { return Ok(EventRow::default()) };
        let source = self.definitions.source(source.as_str());
        let is_lenient = source.is_some_and(|source| source.stream.is_some());
        let said = |what: &str, text: &str| format!("{what} `{text}` of feature view `{}`", view.name);
        let lenient = |expr: Expr, said: String| -> Result<Option<Attempted>, CompileError> {
            match is_lenient && can_fail(&expr, frame.schema()) {
                true => Ok(Some(attempt(&self.context, expr, frame.schema(), &said)?)),
                false => Ok(None),
            }
        };
        let mut row = EventRow::default();
        let mut errors = Vec::new();
        let judged = filter.as_ref().map(|text| {
            let condition = condition(view, frame, text)?;
            Ok((lenient(condition.clone(), said("`where`", text))?, condition))
        });
        match judged.transpose() {
            Ok(Some((Some(Attempted { value, problem, .. }), _))) => {
                (row.condition, row.problem) = (Some(value), Some(problem));
            }
            Ok(judged) => row.condition = judged.map(|(_, condition)| condition),
            Err(error) => errors.push(error),
        }
        for column in &view.event_columns {
            let text = &column.expression;
            let expr = event_expr(view, frame, text).and_then(|(expr, found)| {
                let of_events = match &row.condition {
                    Some(condition) if is_lenient && can_fail(&expr, frame.schema()) => {
                        when(condition.clone(), expr).end()?
                    }
                    _ => expr,
                };
                let (value, found) = match lenient(of_events.clone(), said("the expression", text))? {
                    Some(Attempted { value, value_type, problem }) => {
                        row.problem = Some(match row.problem.take() {
                            Some(first) => when(first.clone().is_not_null(), first).otherwise(problem)?,
                            None => problem,
                        });
                        (value, value_type)
                    }
                    None => (of_events, found),
                };
                adapt_expr(value, &found, &column.field.value_type).map_err(|mismatch| CompileError::Type {
                    owner: Owner::FeatureView(view.name.clone()),
                    column: column.field.name.clone(),
                    mismatch,
                })
            });
            match expr {
                Ok(expr) => row.columns.push(expr.alias(&column.field.name)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(row) } else { Err(errors) }
    }
}

/// The view's condition, over the rows of its source.
fn condition(view: &FeatureView, frame: &DataFrame, text: &str) -> Result<Expr, CompileError> {
    let (expr, found) = row_expr(view, frame, text, Part::Where)?;
    if found != DataType::Boolean {
        return Err(CompileError::Condition { view: view.name.clone(), found: type_name(&found) });
    }
    Ok(expr)
}

/// The events of several aggregation views over one source, in one plan.
pub struct SharedEvents {
    /// Has one column for what several views have in common; that of the event timestamp has its name.
    pub frame: DataFrame,
    pub has_created_timestamp: bool,
    /// Of each view, in their order.
    pub places: Vec<EventPlaces>,
}

/// Where the events of a view stand in a plan.
pub struct EventPlaces {
    /// The columns of [`table_schema`](super::table_schema), in its order.
    pub columns: Vec<usize>,
    /// The column that says which rows are events of the view; None: all are.
    pub condition: Option<usize>,
}

impl Compiler {
    /// The events of aggregation views that share a source; None: they do not, or there is none of them.
    ///
    /// # Errors
    /// As of [`Compiler::view`].
    pub async fn shared_events(&self, views: &[&FeatureView]) -> Result<Option<SharedEvents>, CompileError> {
        let source = |view: &&FeatureView| match &view.input {
            ViewInput::Aggregations { source, .. } => Some(source.clone()),
            ViewInput::Rows { .. } | ViewInput::Sql { .. } => None,
        };
        let Some(name) = views.first().and_then(source) else { return Ok(None) };
        if !views.iter().all(|view| source(view).as_ref() == Some(&name)) {
            return Ok(None);
        }
        let rows = self.source_rows(&name).await?;
        let mut columns: Vec<Expr> = Vec::new();
        let mut place = |expr: Expr| {
            let expr = expr.unalias();
            columns.iter().position(|known| *known == expr).unwrap_or_else(|| {
                columns.push(expr);
                columns.len() - 1
            })
        };
        let mut places = Vec::with_capacity(views.len());
        let mut conditions = Vec::new();
        for view in views {
            let first = |mut errors: Vec<CompileError>| errors.swap_remove(0);
            let row = self.event_row(view, &rows.frame).map_err(first)?;
            let found = self.view_columns(view, &rows).map_err(first)?;
            let mut columns: Vec<usize> = found.into_iter().map(&mut place).collect();
            for input in row.columns {
                // It may fail for rows that are no events of the view.
                columns.push(place(match &row.condition {
                    Some(condition) if row.problem.is_none() => when(condition.clone(), input.unalias()).end()?,
                    _ => input,
                }));
            }
            let is_sound = row.problem.map(Expr::is_null);
            let condition = row.condition.into_iter().chain(is_sound).reduce(Expr::and);
            conditions.push(condition.clone());
            places.push(EventPlaces { columns, condition: condition.map(&mut place) });
        }
        let event_timestamp = places[0].columns[self.definitions.join_keys(views[0]).len()];
        let named = columns.into_iter().enumerate().map(|(at, expr)| match at == event_timestamp {
            true => expr.alias(EVENT_TIMESTAMP),
            false => expr.alias(format!("column_{at}")),
        });
        let has_created_timestamp = rows.created_timestamp.is_some();
        let any =
            conditions.into_iter().collect::<Option<Vec<Expr>>>().and_then(|all| all.into_iter().reduce(Expr::or));
        let frame = match any {
            Some(any) => rows.frame.filter(any)?,
            None => rows.frame,
        };
        Ok(Some(SharedEvents { frame: frame.select(named.collect::<Vec<_>>())?, has_created_timestamp, places }))
    }
}

fn event_expr(view: &FeatureView, frame: &DataFrame, text: &str) -> Result<(Expr, DataType), CompileError> {
    row_expr(view, frame, text, event_part(view, text))
}

/// Where the view first says the expression.
fn event_part(view: &FeatureView, text: &str) -> Part {
    let says = |written: &Option<String>| written.as_ref().is_some_and(|written| written.trim() == text);
    let parts = view.aggregations().iter().enumerate().find_map(|(position, aggregation)| {
        let by = says(&aggregation.by).then_some(Part::AggregationBy(position));
        says(&aggregation.input).then_some(Part::AggregationInput(position)).or(by)
    });
    parts.unwrap_or(Part::Input)
}

/// An expression over one row of the source, and the type of its values.
fn row_expr(view: &FeatureView, frame: &DataFrame, text: &str, part: Part) -> Result<(Expr, DataType), CompileError> {
    let name: &FeatureViewName = &view.name;
    let failed = |error: DataFusionError| CompileError::AggregationExpression {
        view: name.clone(),
        part: part.clone(),
        problem: SqlProblem::new(&error, "tables", &[]),
    };
    let expr = frame.parse_sql_expr(text).map_err(failed)?;
    let refused = |text: String| {
        let problem = SqlProblem { text, at: None };
        CompileError::AggregationExpression { view: name.clone(), part: part.clone(), problem }
    };
    if let Some(function) = changing_function(&expr) {
        return Err(refused(format!("it calls `{function}`, whose result changes from call to call")));
    }
    if let Some(what) = needs_more_rows(&expr) {
        return Err(refused(format!("it has {what}, and it sees one row; compute that in a view with `sql`")));
    }
    let schema: SchemaRef = Arc::clone(frame.schema().inner());
    let found = match &expr {
        Expr::Column(column) => schema.field_with_name(&column.name).ok().map(|field| field.data_type().clone()),
        _ => None,
    };
    let found = match found {
        Some(found) => found,
        None => expr.get_type(frame.schema()).map_err(failed)?,
    };
    Ok((expr, found))
}

fn event_type(view: &FeatureView, text: &str, found: &DataType) -> Result<ValueType, CompileError> {
    declarable(found).ok_or_else(|| CompileError::AggregationExpression {
        view: view.name.clone(),
        part: event_part(view, text),
        problem: SqlProblem {
            text: format!(
                "`{text}` is {}, which no feature can be; cast it, as in `CAST({text} AS DOUBLE)`",
                type_name(found)
            ),
            at: None,
        },
    })
}
