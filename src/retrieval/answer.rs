//! What both answers share: the request's columns checked and typed, and the answer's columns put together.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type};

use base64::Engine;

use super::RetrievalError;
use super::resolve::{OnDemandInput, Origin, OutputColumn, ResolvedOnDemand, ResolvedRequest};
use crate::arrow_types::arrow_type;
use crate::compile::{TypeMismatch, adapt_array, adapt_values};
use crate::definition::{Field, ValueType, nearest};
use crate::point_in_time_join::{FeatureStatus, JoinedView, RowStatus, feature_statuses};
use crate::time::EventTimestamp;

/// The columns that a request sends, checked against what it asks for.
#[derive(Debug, Clone)]
pub struct RequestColumns {
    /// As sent: they come back in the answer untouched.
    pub sent: RecordBatch,
    /// Join keys and request values by name, in their declared types.
    typed: Vec<(String, ArrayRef)>,
}

/// One answered column, one value a row of the request.
#[derive(Debug, Clone)]
pub struct AnswerColumn {
    pub name: String,
    pub value_type: ValueType,
    pub values: ArrayRef,
    /// Empty where nobody asked for them.
    pub statuses: Vec<FeatureStatus>,
    /// Null where there is none: static rows, computed features, keys that are not found. Empty as the statuses are.
    pub event_timestamps: TimestampMicrosecondArray,
}

/// The features of every row of the request, in its order.
#[derive(Debug, Clone)]
pub struct Answer {
    pub columns: Vec<AnswerColumn>,
    pub registry_version: u64,
}

impl RequestColumns {
    /// # Errors
    /// A missing column, one sent twice or named like an asked feature, one whose type does not fit.
    pub fn new(resolved: &ResolvedRequest, sent: RecordBatch) -> Result<Self, RetrievalError> {
        let schema = sent.schema();
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        for (position, name) in names.iter().enumerate() {
            if names[..position].contains(name) {
                return Err(RetrievalError::ColumnTwice { column: name.clone() });
            }
            if resolved.outputs.iter().any(|output| output.name == *name) {
                return Err(RetrievalError::ColumnClash { column: name.clone() });
            }
        }
        let column = |field: &Field, role: &'static str| match names.iter().position(|name| *name == field.name) {
            Some(position) => Ok(sent.column(position)),
            None => Err(RetrievalError::MissingColumn {
                column: field.name.clone(),
                role,
                nearest: nearest(&field.name, names.iter().map(String::as_str)).map(str::to_owned),
                sent: names.clone(),
            }),
        };
        let mut typed = Vec::new();
        for field in &resolved.join_keys {
            typed.push((field.name.clone(), key_array(column(field, "join key")?, field)?));
        }
        for field in &resolved.request_values {
            if resolved.join_keys.iter().all(|key| key.name != field.name) {
                typed.push((field.name.clone(), value_array(column(field, "request value")?, field)?));
            }
        }
        Ok(RequestColumns { sent, typed })
    }

    pub fn rows(&self) -> usize {
        self.sent.num_rows()
    }

    /// A join key or request value that the request was resolved to need.
    pub fn typed(&self, name: &str) -> &ArrayRef {
        let found = self.typed.iter().find(|(known, _)| known == name);
        &found.expect("every column that the resolved request needs was typed").1
    }
}

/// A column of keys in its declared type; a whole number that the type cannot hold is an unknown key: null.
///
/// # Errors
/// [`RetrievalError::ColumnType`].
pub fn key_array(array: &ArrayRef, field: &Field) -> Result<ArrayRef, RetrievalError> {
    let array = &decoded(array)?;
    let is_integer = matches!(field.value_type, ValueType::Int32 | ValueType::Int64);
    if let Some(texts) = array.as_string_opt::<i32>().filter(|_| field.value_type != ValueType::String) {
        return parse_texts(texts, field, |text| is_integer && is_whole(text));
    }
    if is_integer && (array.data_type().is_integer() || array.data_type() == &DataType::Float64) {
        check_whole(array, field)?;
        return Ok(cast_with_options(array, &arrow_type(&field.value_type), &CastOptions::default())?);
    }
    let failed = |mismatch: TypeMismatch| column_type(field, mismatch.found, "; cast it to that, or send it as text");
    adapt_array(array, &field.value_type).map_err(failed)
}

/// A column of request values in its declared type; numbers may change type where every value stays the same.
fn value_array(array: &ArrayRef, field: &Field) -> Result<ArrayRef, RetrievalError> {
    let array = &decoded(array)?;
    if let Some(texts) = array.as_string_opt::<i32>().filter(|_| field.value_type.is_scalar()) {
        let is_text = field.value_type == ValueType::String;
        return if is_text { Ok(array.clone()) } else { parse_texts(texts, field, |_| false) };
    }
    let failed = |mismatch: TypeMismatch| column_type(field, mismatch.found, "; send values that it can hold");
    adapt_values(array, &field.value_type).map_err(failed)
}

/// The same values without a dictionary, and texts in their usual form.
fn decoded(array: &ArrayRef) -> Result<ArrayRef, RetrievalError> {
    let array = match array.data_type() {
        DataType::Dictionary(_, values) => &cast_with_options(array, values, &CastOptions::default())?,
        _ => array,
    };
    Ok(match array.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => cast_with_options(array, &DataType::Utf8, &CastOptions::default())?,
        _ => Arc::clone(array),
    })
}

/// Whether a text is a whole number, however great.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Texts read as what is needed, as JSON and command lines send instants, dates and bytes (in base64); null where one
/// `may_be_unknown`.
fn parse_texts(
    texts: &StringArray,
    field: &Field,
    may_be_unknown: impl Fn(&str) -> bool,
) -> Result<ArrayRef, RetrievalError> {
    let wrong = |row: usize| {
        let problem = format!("holds `{}`, which cannot be read as {}", texts.value(row), field.value_type);
        column_value(field, row, problem)
    };
    let parsed: ArrayRef = match field.value_type {
        ValueType::Timestamp => {
            let instants = texts.iter().map(|text| EventTimestamp::parse(text?).ok().map(EventTimestamp::micros));
            Arc::new(TimestampMicrosecondArray::from_iter(instants).with_timezone("UTC"))
        }
        ValueType::Bytes => {
            let decode = |text: Option<&str>| base64::engine::general_purpose::STANDARD.decode(text?).ok();
            Arc::new(texts.iter().map(decode).collect::<BinaryArray>())
        }
        _ => cast_with_options(texts, &arrow_type(&field.value_type), &CastOptions::default())?,
    };
    let is_wrong = |row: &usize| texts.is_valid(*row) && parsed.is_null(*row) && !may_be_unknown(texts.value(*row));
    match (0..texts.len()).find(is_wrong) {
        Some(row) => Err(wrong(row)),
        None => Ok(parsed),
    }
}

/// Keys that arrive as floats, as pandas makes of integers beside nulls, have to be whole and exact.
fn check_whole(array: &ArrayRef, field: &Field) -> Result<(), RetrievalError> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let Some(floats) = array.as_primitive_opt::<Float64Type>() else { return Ok(()) };
    let inexact = |value: Option<f64>| value.is_some_and(|v| v.fract() != 0.0 || v.abs() > EXACT_MAX || !v.is_finite());
    match floats.iter().position(inexact) {
        None => Ok(()),
        Some(row) => {
            let problem = format!("holds {}, which is no exact whole number", floats.value(row));
            Err(column_value(field, row, problem))
        }
    }
}

fn column_type(field: &Field, found: String, remedy: &'static str) -> RetrievalError {
    RetrievalError::ColumnType { column: field.name.clone(), found, wanted: field.value_type.clone(), remedy }
}

fn column_value(field: &Field, row: usize, problem: String) -> RetrievalError {
    RetrievalError::ColumnValue { column: field.name.clone(), row, problem }
}

/// The outputs of each on-demand view, by position.
pub(super) type Computed = Vec<Vec<ArrayRef>>;

/// Evaluates on-demand features.
///
/// # Shapes
/// `joined`: one a view of `resolved`, each with its features and as many rows as the request.
pub(super) fn evaluate(
    resolved: &ResolvedRequest,
    joined: &[JoinedView],
    request: &RequestColumns,
) -> Result<Computed, RetrievalError> {
    let evaluate = |on_demand: &ResolvedOnDemand| {
        let input = |input: &OnDemandInput| match input {
            OnDemandInput::Request(name) => request.typed(name).clone(),
            OnDemandInput::Feature { view, feature } => joined[*view].features[*feature].clone(),
        };
        Ok(on_demand.plan.evaluate(on_demand.inputs.iter().map(input).collect(), request.rows())?)
    };
    resolved.on_demand.iter().map(evaluate).collect()
}

/// Puts the answer's columns together, in the order asked; evaluates on-demand features.
///
/// # Shapes
/// As of [`evaluate`].
pub(super) fn assemble(
    resolved: &ResolvedRequest,
    joined: &[JoinedView],
    request: &RequestColumns,
) -> Result<Vec<AnswerColumn>, RetrievalError> {
    let computed = evaluate(resolved, joined, request)?;
    Ok(resolved.outputs.iter().map(|output| column(output, joined, &computed, request.rows())).collect())
}

fn column(output: &OutputColumn, joined: &[JoinedView], computed: &Computed, rows: usize) -> AnswerColumn {
    // Where nobody asks, the views tell no statuses.
    let with_statuses = joined.iter().all(|view| view.statuses.len() == rows);
    let (values, statuses, event_timestamps) = match output.origin {
        Origin::View { view, feature } => (
            joined[view].features[feature].clone(),
            feature_statuses(&joined[view], feature),
            joined[view].event_timestamps.clone(),
        ),
        Origin::OnDemand { on_demand, output } => {
            let values = computed[on_demand][output].clone();
            let (statuses, instants) = match with_statuses {
                true => (computed_statuses(&values), no_instants(rows)),
                false => (Vec::new(), no_instants(0)),
            };
            (values, statuses, instants)
        }
    };
    let value_type = output.field.value_type.clone();
    AnswerColumn { name: output.name.clone(), value_type, values, statuses, event_timestamps }
}

/// An online answer as it was read: its columns are looked at where they stand.
#[derive(Debug)]
pub struct OnlineAnswer {
    pub(super) resolved: Arc<ResolvedRequest>,
    pub(super) joined: Vec<JoinedView>,
    pub(super) computed: Computed,
    pub(super) rows: usize,
    pub registry_version: u64,
}

/// A column of an [`OnlineAnswer`].
#[derive(Debug, Clone, Copy)]
pub struct AnswerRef<'a> {
    pub name: &'a str,
    pub value_type: &'a ValueType,
    pub values: &'a ArrayRef,
    pub statuses: StatusesRef<'a>,
    /// None: a computed feature has none.
    pub event_timestamps: Option<&'a TimestampMicrosecondArray>,
}

/// What the statuses of a column follow from, together with its nulls.
#[derive(Debug, Clone, Copy)]
pub enum StatusesRef<'a> {
    /// Those of the view's rows.
    Rows(&'a [RowStatus]),
    /// A computed value is there or null.
    Computed { rows: usize },
}

impl OnlineAnswer {
    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.resolved.outputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resolved.outputs.is_empty()
    }

    /// In the order asked.
    pub fn columns(&self) -> impl Iterator<Item = AnswerRef<'_>> {
        self.resolved.outputs.iter().map(|output| {
            let (values, statuses, event_timestamps) = match output.origin {
                Origin::View { view, feature } => {
                    let joined = &self.joined[view];
                    let statuses = StatusesRef::Rows(&joined.statuses);
                    (&joined.features[feature], statuses, Some(&joined.event_timestamps))
                }
                Origin::OnDemand { on_demand, output } => {
                    (&self.computed[on_demand][output], StatusesRef::Computed { rows: self.rows }, None)
                }
            };
            let (name, value_type) = (&output.name, &output.field.value_type);
            AnswerRef { name, value_type, values, statuses, event_timestamps }
        })
    }

    /// When what holds of the first row became true, for each view that tells.
    pub fn first_event_timestamps(&self) -> impl Iterator<Item = (&str, EventTimestamp)> {
        self.resolved.views.iter().zip(&self.joined).filter_map(|(view, joined)| {
            let instants = &joined.event_timestamps;
            let micros = (!instants.is_empty() && instants.is_valid(0)).then(|| instants.value(0))?;
            Some((view.view.name.as_str(), EventTimestamp::from_micros(micros)))
        })
    }

    /// The columns on their own.
    pub fn into_answer(self) -> Answer {
        let column = |output: &OutputColumn| column(output, &self.joined, &self.computed, self.rows);
        let columns = self.resolved.outputs.iter().map(column).collect();
        Answer { columns, registry_version: self.registry_version }
    }
}

fn computed_statuses(values: &ArrayRef) -> Vec<FeatureStatus> {
    let nulls = values.logical_nulls();
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    (0..values.len()).map(|row| if is_null(row) { FeatureStatus::NullValue } else { FeatureStatus::Present }).collect()
}

fn no_instants(rows: usize) -> TimestampMicrosecondArray {
    Int64Array::new_null(rows).reinterpret_cast::<arrow::datatypes::TimestampMicrosecondType>().with_timezone("UTC")
}
