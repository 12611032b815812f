//! `asof_attempt`: an expression that fails for no query, and tells of each row why it cannot be computed.
//!
//! Events that came by a stream are there for good, and views change: one event that an expression fails for is no
//! event of that view, in every path alike, and keeps no other from it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder, StructArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, Result};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{Expr, SessionContext};

use super::message::SqlProblem;

const VALUE: &str = "value";
const PROBLEM: &str = "problem";

/// An expression in two: neither fails for any row.
pub(super) struct Attempted {
    /// Null where it fails.
    pub value: Expr,
    pub value_type: DataType,
    /// Why it fails; null where it does not.
    pub problem: Expr,
}

/// The expression over rows of `schema`; `said` begins what is said of a failure.
pub(super) fn attempt(context: &SessionContext, expr: Expr, schema: &DFSchema, said: &str) -> Result<Attempted> {
    let (attempt, columns) = Attempt::new(context, expr, schema, said)?;
    let value_type = attempt.value_type.clone();
    let call = ScalarUDF::new_from_impl(attempt).call(columns);
    Ok(Attempted { value: get_field(call.clone(), VALUE), value_type, problem: get_field(call, PROBLEM) })
}

#[derive(Debug)]
struct Attempt {
    /// Over columns that are called by their positions among the arguments.
    expr: Arc<dyn PhysicalExpr>,
    value_type: DataType,
    inputs: Arc<Schema>,
    said: String,
    signature: Signature,
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        *self.expr == *other.expr && self.inputs == other.inputs && self.said == other.said
    }
}

impl Eq for Attempt {}

impl Hash for Attempt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
        self.said.hash(state);
    }
}

impl Attempt {
    fn new(context: &SessionContext, expr: Expr, schema: &DFSchema, said: &str) -> Result<(Self, Vec<Expr>)> {
        let mut columns: Vec<Column> = Vec::new();
        let positional = expr.transform_up(|expr| {
            let Expr::Column(column) = expr else { return Ok(Transformed::no(expr)) };
            let position = columns.iter().position(|known| *known == column).unwrap_or_else(|| {
                columns.push(column);
                columns.len() - 1
            });
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(position.to_string()))))
        })?;
        let input = |(position, column): (usize, &Column)| {
            let field = schema.field_from_column(column)?;
            Ok(Field::new(position.to_string(), field.data_type().clone(), true))
        };
        let inputs = columns.iter().enumerate().map(input).collect::<Result<Vec<_>>>()?;
        let inputs = Arc::new(Schema::new(inputs));
        let schema = Arc::new(DFSchema::try_from(Arc::clone(&inputs))?);
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&schema)).build());
        let simple = simplifier.simplify(simplifier.coerce(positional.data, &schema)?)?;
        let expr = context.create_physical_expr(simple, &schema)?;
        let arguments = if columns.is_empty() { TypeSignature::Nullary } else { TypeSignature::Any(columns.len()) };
        let attempt = Attempt {
            value_type: expr.data_type(&inputs)?,
            expr,
            inputs,
            said: said.to_owned(),
            signature: Signature::new(arguments, Volatility::Immutable),
        };
        Ok((attempt, columns.into_iter().map(Expr::Column).collect()))
    }

    fn fields(&self) -> Fields {
        [Field::new(VALUE, self.value_type.clone(), true), Field::new(PROBLEM, DataType::Utf8, true)]
            .into_iter()
            .collect()
    }

    /// Evaluates the whole batch; where that fails, its halves, down to the rows that fail alone.
    fn evaluate(&self, batch: &RecordBatch, problems: &mut StringBuilder) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        match self.expr.evaluate(batch).and_then(|value| value.into_array(rows)) {
            Ok(values) => {
                (0..rows).for_each(|_| problems.append_null());
                Ok(values)
            }
            Err(_) if rows == 0 => Ok(new_null_array(&self.value_type, 0)),
            Err(error) if rows == 1 => {
                problems.append_value(format!("{} cannot be computed: {}", self.said, SqlProblem::of_value(&error)));
                Ok(new_null_array(&self.value_type, 1))
            }
            Err(_) => {
                let half = rows / 2;
                let first = self.evaluate(&batch.slice(0, half), problems)?;
                let second = self.evaluate(&batch.slice(half, rows - half), problems)?;
                Ok(concat(&[first.as_ref() as &dyn Array, second.as_ref()])?)
            }
        }
    }
}

impl ScalarUDFImpl for Attempt {
    fn name(&self) -> &str {
        "asof_attempt"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let columns = args.args.iter().map(|value| value.to_array(rows)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.inputs), columns, &options)?;
        let mut problems = StringBuilder::new();
        let values = self.evaluate(&batch, &mut problems)?;
        let columns: Vec<ArrayRef> = vec![values, Arc::new(problems.finish())];
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(self.fields(), columns, None)?)))
    }
}

/// Whether an expression may fail for the values of a row. It is said of too many rather than of too few.
pub(super) fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let type_of = |expr: &Expr| expr.get_type(schema).ok();
    let all_safe = |parts: &[&Expr]| parts.iter().all(|part| !can_fail(part, schema));
    let is_alike = |one: &Expr, other: &Expr| match (type_of(one), type_of(other)) {
        (Some(one), Some(other)) => one == other || (is_number(&one) && is_number(&other)) || is_text(&one, &other),
        _ => false,
    };
    match expr {
        Expr::Column(_) | Expr::Literal(..) => false,
        Expr::Alias(alias) => can_fail(&alias.expr, schema),
        Expr::Not(part)
        | Expr::IsNull(part)
        | Expr::IsNotNull(part)
        | Expr::IsTrue(part)
        | Expr::IsNotTrue(part)
        | Expr::IsFalse(part)
        | Expr::IsNotFalse(part) => can_fail(part, schema),
        Expr::Negative(part) => can_fail(part, schema) || !type_of(expr).is_some_and(|found| is_number(&found)),
        Expr::Between(between) => {
            let (value, low, high) = (&*between.expr, &*between.low, &*between.high);
            !(all_safe(&[value, low, high]) && is_alike(value, low) && is_alike(value, high))
        }
        Expr::InList(list) => {
            can_fail(&list.expr, schema)
                || !list.list.iter().all(|item| !can_fail(item, schema) && is_alike(&list.expr, item))
        }
        Expr::Cast(Cast { expr: part, field }) => {
            let widens = type_of(part).is_some_and(|from| is_number(&from) && field.data_type().is_floating());
            can_fail(part, schema) || !widens
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let found = type_of(expr);
            let is_safe = match op {
                Operator::And | Operator::Or => true,
                Operator::Eq
                | Operator::NotEq
                | Operator::Lt
                | Operator::LtEq
                | Operator::Gt
                | Operator::GtEq
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom => is_alike(left, right),
                Operator::Plus | Operator::Minus | Operator::Multiply => {
                    is_alike(left, right) && found.is_some_and(|found| is_number(&found))
                }
                Operator::Divide | Operator::Modulo => {
                    is_alike(left, right) && found.is_some_and(|found| found.is_floating())
                }
                _ => false,
            };
            !is_safe || !all_safe(&[left, right])
        }
        _ => true,
    }
}

/// Numbers that become each other's without failing.
fn is_number(found: &DataType) -> bool {
    found.is_signed_integer() || matches!(found, DataType::Float32 | DataType::Float64)
}

fn is_text(one: &DataType, other: &DataType) -> bool {
    one.is_string() && other.is_string()
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn schema() -> DFSchema {
        let fields = [("n", DataType::Int64), ("x", DataType::Float64), ("text", DataType::Utf8)];
        let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
        DFSchema::try_from(Schema::new(fields.to_vec())).unwrap()
    }

    #[test]
    fn what_cannot_fail_is_told_from_what_can() {
        let context = SessionContext::new();
        let can_fail = |text: &str| can_fail(&context.parse_sql_expr(text, &schema()).unwrap(), &schema());
        for text in ["n", "n >= 0 AND text = 'a'", "x * 2 + n", "x / 2.0", "n IN (1, 2)", "NOT (x > n)", "n IS NULL"] {
            assert!(!can_fail(text), "{text}");
        }
        for text in ["100 / n", "n % 2", "CAST(text AS BIGINT)", "text > 5", "abs(n)", "n IN (1, 100 / n)"] {
            assert!(can_fail(text), "{text}");
        }
    }

    #[tokio::test]
    async fn rows_that_fail_are_null_and_say_why() {
        let context = SessionContext::new();
        let rows = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![Some(4), Some(0), None, Some(0), Some(-5)])) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec!["1", "2", "x", "", "5"])) as ArrayRef),
        ]);
        let frame = context.read_batch(rows.unwrap()).unwrap();
        let answer = async |text: &str| {
            let expr = frame.parse_sql_expr(text).unwrap();
            let attempted = attempt(&context, expr, frame.schema(), "it").unwrap();
            let columns = vec![attempted.value.alias("value"), attempted.problem.alias("problem")];
            let found = frame.clone().select(columns).unwrap().collect().await.unwrap();
            let values = found[0].column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
            let problems = found[0].column(1).as_string::<i32>();
            let problems = problems.iter().map(|problem| problem.map(str::to_owned)).collect::<Vec<_>>();
            (values, problems)
        };
        let (values, problems) = answer("100 / n").await;
        assert_eq!(values, [Some(25), None, None, None, Some(-20)]);
        let said = Some("it cannot be computed: Divide by zero error".to_owned());
        assert_eq!(problems, [None, said.clone(), None, said, None]);
        let (values, problems) = answer("CAST(text AS BIGINT) + 1").await;
        assert_eq!(values, [Some(2), Some(3), None, None, Some(6)]);
        assert!(problems[2].as_ref().is_some_and(|problem| problem.contains("'x'")), "{problems:?}");
        let (values, problems) = answer("CAST(coalesce(text, 'none') AS BIGINT)").await;
        assert_eq!((values[1], problems[1].is_none()), (Some(2), true));
        let (values, problems) = answer("1 / 0").await;
        assert!(values.iter().all(Option::is_none) && problems.iter().all(Option::is_some), "{values:?} {problems:?}");
    }
}
