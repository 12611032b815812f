//! The inputs of a model for some rows, each value with where it came from.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::catalog::LoadedModel;
use super::error::PredictionError;
use super::log::RecordValue;
use super::rows::{KnownRows, as_numbers, cell_text};
use crate::model_registry::{BoundInput, InputSource, ModelVersion, Scalar};
use crate::model_runtime::{InputKind, InputRows};
use crate::point_in_time_join::FeatureStatus;
use crate::retrieval::AnswerColumn;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Request = 1,
    Store = 2,
    Default = 3,
    /// An earlier step's prediction.
    Step = 4,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Request => "request",
            Origin::Store => "store",
            Origin::Default => "default",
            Origin::Step => "step",
        }
    }

    pub fn of_number(number: u8) -> Option<Self> {
        [Origin::Request, Origin::Store, Origin::Default, Origin::Step].into_iter().find(|o| *o as u8 == number)
    }
}

/// One value's story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    pub origin: Origin,
    /// Of the store, where it was asked.
    pub status: Option<FeatureStatus>,
    /// Microseconds since the Unix epoch.
    pub event_timestamp: Option<i64>,
}

/// Rows for a model, with the provenance of every value.
///
/// # Shapes
/// `provenance`: rows x inputs, row by row.
#[derive(Debug, Clone)]
pub struct BoundRows {
    pub values: InputRows,
    pub provenance: Vec<Provenance>,
}

impl BoundRows {
    /// The values of a row, for the log.
    pub fn record_values(&self, row: usize) -> Vec<RecordValue> {
        let width = self.values.width();
        let value = |input: usize| {
            let Provenance { origin, status, event_timestamp } = self.provenance[row * width + input];
            let text = self.values.texts(input).and_then(|texts| texts[row].clone());
            RecordValue { number: self.values.number(row, input), text, origin, status, event_timestamp }
        };
        (0..width).map(value).collect()
    }

    /// The inputs of a row that got their defaults.
    pub fn defaults_used<'v>(&'v self, row: usize, version: &'v ModelVersion) -> impl Iterator<Item = &'v str> {
        let width = version.inputs.len();
        let of_row = self.provenance[row * width..(row + 1) * width].iter();
        let inputs = version.inputs.iter().zip(of_row);
        inputs.filter(|(_, from)| from.origin == Origin::Default).map(|(input, _)| input.name.as_str())
    }
}

/// The names under which requests and services have the inputs of a model.
#[derive(Debug)]
pub struct InputNames {
    /// In the model's order.
    pub names: Arc<[String]>,
    /// Of a request that has a number for each of them and nothing else.
    pub matrix: SchemaRef,
    /// Inputs by what requests may call them: the input's name, or the feature's, in full or not.
    sent: HashMap<String, Vec<usize>>,
    /// Of each input, the full name of its feature; None: only requests have it.
    stored: Vec<Option<String>>,
}

impl InputNames {
    pub fn of(version: &ModelVersion) -> Self {
        let mut sent: HashMap<String, Vec<usize>> = HashMap::new();
        let mut stored = Vec::with_capacity(version.inputs.len());
        for (position, input) in version.inputs.iter().enumerate() {
            let mut names = vec![input.name.clone()];
            stored.push(match &input.source {
                InputSource::Request { .. } => None,
                InputSource::Feature { view, feature, .. } => {
                    let full = format!("{view}__{feature}");
                    names.extend([feature.clone(), full.clone(), format!("{view}:{feature}")]);
                    Some(full)
                }
            });
            for name in names {
                let positions = sent.entry(name).or_default();
                if positions.last() != Some(&position) {
                    positions.push(position);
                }
            }
        }
        let names = version.inputs.iter().map(|input| input.name.clone()).collect();
        let number = |input: &BoundInput| Field::new(&input.name, DataType::Float64, true);
        let matrix = Arc::new(Schema::new(version.inputs.iter().map(number).collect::<Vec<_>>()));
        InputNames { names, matrix, sent, stored }
    }

    /// Whether a request has the inputs themselves, in their order.
    pub fn is_matrix(&self, request: &RecordBatch) -> bool {
        Arc::ptr_eq(request.schema_ref(), &self.matrix)
    }

    /// Of each input, the column of the request that has its values.
    ///
    /// # Errors
    /// [`PredictionError::SentTwice`].
    pub fn sent_columns<'r>(&self, request: &'r RecordBatch) -> Result<Vec<Option<&'r ArrayRef>>, PredictionError> {
        if self.is_matrix(request) {
            return Ok(request.columns().iter().map(Some).collect());
        }
        let mut found: Vec<Option<usize>> = vec![None; self.stored.len()];
        let fields = request.schema_ref().fields();
        for (column, field) in fields.iter().enumerate() {
            for position in self.sent.get(field.name()).into_iter().flatten() {
                if let Some(other) = found[*position].replace(column) {
                    let name = |column: usize| fields[column].name().clone();
                    let (first, second) = (name(other), name(column));
                    return Err(PredictionError::SentTwice { input: self.names[*position].clone(), first, second });
                }
            }
        }
        Ok(found.into_iter().map(|column| column.map(|column| request.column(column))).collect())
    }

    /// Whether some value of the store is needed, because the request does not carry every one.
    pub fn needs_store(&self, request: &RecordBatch) -> Result<bool, PredictionError> {
        let is_missing = |sent: Option<&ArrayRef>| sent.is_none_or(|array| array.logical_null_count() > 0);
        let sent = self.sent_columns(request)?;
        Ok(self.stored.iter().zip(sent).any(|(stored, sent)| stored.is_some() && is_missing(sent)))
    }
}

/// For each of `rows`: a value of the request wins, else the store's, else the default; a null is no value.
///
/// # Errors
/// A value that the model cannot take, an input of the request that is not there.
pub fn bind_rows(model: &LoadedModel, known: &KnownRows, rows: &[usize]) -> Result<BoundRows, PredictionError> {
    let version = &model.version;
    let width = version.inputs.len();
    let missing = Provenance { origin: Origin::Store, status: None, event_timestamp: None };
    let mut bound =
        BoundRows { values: InputRows::missing(rows.len(), width), provenance: vec![missing; rows.len() * width] };
    let fetched = known.fetched(&version.service);
    let sent = model.names.sent_columns(&known.sent)?;
    for (position, sent) in sent.into_iter().enumerate() {
        let stored = model.names.stored[position].as_deref().and_then(|name| fetched?.column(name));
        let sources = Sources { step: known.step(&version.inputs[position].name), sent, stored };
        bind_input(version, position, &sources, rows, &mut bound)?;
    }
    Ok(bound)
}

/// Where the values of one input may come from.
struct Sources<'k> {
    step: Option<&'k ArrayRef>,
    sent: Option<&'k ArrayRef>,
    stored: Option<&'k AnswerColumn>,
}

/// A column of values, and what reads numbers out of it.
struct Values {
    array: ArrayRef,
    numbers: Option<arrow::array::Float64Array>,
}

impl Values {
    fn of(array: &ArrayRef) -> Self {
        Values { array: array.clone(), numbers: as_numbers(array) }
    }

    fn is_null(&self, row: usize) -> bool {
        match &self.numbers {
            Some(numbers) => numbers.is_null(row),
            None => self.array.is_null(row),
        }
    }

    /// Sets the row's value.
    fn set(
        &self,
        row: usize,
        at: usize,
        position: usize,
        kind: InputKind,
        values: &mut InputRows,
    ) -> Result<(), String> {
        if let Some(numbers) = &self.numbers {
            values.set_number(at, position, numbers.value(row));
            return Ok(());
        }
        let text = match self.array.as_string_opt::<i32>() {
            Some(texts) => texts.value(row).to_owned(),
            None => cell_text(&self.array, row).unwrap_or_default(),
        };
        match kind {
            InputKind::Number => match text.parse::<f64>() {
                // As callers without numbers send them.
                Ok(number) => values.set_number(at, position, number),
                Err(_) => return Err(format!("`{text}`")),
            },
            InputKind::Category | InputKind::Text => values.set_text(at, position, text),
        }
        Ok(())
    }
}

fn bind_input(
    version: &ModelVersion,
    position: usize,
    sources: &Sources<'_>,
    rows: &[usize],
    bound: &mut BoundRows,
) -> Result<(), PredictionError> {
    let input = &version.inputs[position];
    let Sources { step, sent, stored } = *sources;
    let is_asked = matches!(input.source, InputSource::Request { .. });
    if is_asked && sent.is_none() && step.is_none() && input.default.is_none() {
        let (model, input) = (version.model.clone(), input.name.clone());
        return Err(PredictionError::MissingInput { model, input });
    }
    let (step, sent) = (step.map(Values::of), sent.map(Values::of));
    let values = stored.map(|column| Values::of(&column.values));
    let width = version.inputs.len();
    for (at, row) in rows.iter().copied().enumerate() {
        let wrong = |found: String| PredictionError::InputType {
            model: version.model.clone(),
            input: input.name.clone(),
            row,
            found,
            wanted: "a number",
        };
        let status = stored.and_then(|column| column.statuses.get(row).copied());
        let event_timestamp = stored.and_then(|column| {
            let times = &column.event_timestamps;
            (row < times.len() && times.is_valid(row)).then(|| times.value(row))
        });
        let choices = [(&step, Origin::Step), (&sent, Origin::Request), (&values, Origin::Store)];
        let found = choices.into_iter().find_map(|(values, origin)| {
            values.as_ref().filter(|values| !values.is_null(row)).map(|values| (values, origin))
        });
        let origin = match (found, &input.default) {
            (Some((values, origin)), _) => {
                values.set(row, at, position, input.kind, &mut bound.values).map_err(wrong)?;
                origin
            }
            (None, Some(Scalar::Number(number))) => {
                bound.values.set_number(at, position, *number);
                Origin::Default
            }
            (None, Some(Scalar::Text(text))) => {
                bound.values.set_text(at, position, text.clone());
                Origin::Default
            }
            (None, None) if is_asked => Origin::Request,
            (None, None) => Origin::Store,
        };
        bound.provenance[at * width + position] = Provenance { origin, status, event_timestamp };
    }
    Ok(())
}
