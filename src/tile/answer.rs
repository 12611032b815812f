//! Answers of aggregates, and the Arrow columns they are gathered into.

use arrow::array::ArrayRef;

use super::TileError;
use super::value::{Value, canonical_float};
use crate::column_builder::{ColumnBuilder, TooLarge, check_room};
use crate::definition::ValueType;

/// What an aggregate makes of its events.
#[derive(Debug, Clone)]
pub enum Answer {
    Null,
    /// A sum that no `int64` is; as a value it is null.
    OutOfRange,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Box<[u8]>),
    List(Vec<Answer>),
    /// Ascending by key.
    Map(Vec<(Value, Answer)>),
}

impl Answer {
    /// How many sums in it are out of range.
    pub fn out_of_range(&self) -> usize {
        match self {
            Answer::OutOfRange => 1,
            Answer::List(items) => items.iter().map(Answer::out_of_range).sum(),
            Answer::Map(entries) => entries.iter().map(|(_, answer)| answer.out_of_range()).sum(),
            _ => 0,
        }
    }
}

impl From<&Value> for Answer {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(value) => Answer::Bool(*value),
            Value::Int(value) => Answer::Int(*value),
            Value::Float(value) => Answer::Float(*value),
            Value::Bytes(value) => Answer::Bytes(value.clone()),
        }
    }
}

/// Floats are equal by their bits.
impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Answer::Null, Answer::Null) | (Answer::OutOfRange, Answer::OutOfRange) => true,
            (Answer::Bool(a), Answer::Bool(b)) => a == b,
            (Answer::Int(a), Answer::Int(b)) => a == b,
            (Answer::Float(a), Answer::Float(b)) => a.to_bits() == b.to_bits(),
            (Answer::Bytes(a), Answer::Bytes(b)) => a == b,
            (Answer::List(a), Answer::List(b)) => a == b,
            (Answer::Map(a), Answer::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Answer {}

/// Gathers answers of one type into a column of its [`arrow_type`](crate::arrow_types::arrow_type).
#[derive(Debug)]
pub struct AnswerBuilder {
    value_type: ValueType,
    column: ColumnBuilder,
}

impl AnswerBuilder {
    pub fn new(value_type: &ValueType) -> Self {
        Self::with_capacity(value_type, 0)
    }

    /// A builder with room for this many answers.
    pub fn with_capacity(value_type: &ValueType, answers: usize) -> Self {
        AnswerBuilder { value_type: value_type.clone(), column: ColumnBuilder::with_capacity(value_type, answers) }
    }

    /// # Errors
    /// [`TileError::AnswerType`] if the answer is no value of the type, [`TileError::ColumnTooLarge`] if Arrow cannot
    /// hold more of them; the builder is then good for nothing but to be dropped.
    pub fn append(&mut self, answer: Answer) -> Result<(), TileError> {
        append_to(&mut self.column, answer).map_err(|misfit| match misfit {
            Misfit::Type => TileError::AnswerType { expected: self.value_type.clone() },
            Misfit::TooLarge => TileError::ColumnTooLarge,
        })
    }

    /// Appends many integers; None is a null.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    #[inline]
    pub fn append_ints(&mut self, mut answers: impl Iterator<Item = Option<i64>>) -> Result<(), TileError> {
        match &mut self.column {
            ColumnBuilder::Int64(builder) => answers.for_each(|answer| builder.append_option(answer)),
            _ => answers.try_for_each(|answer| self.append(answer.map_or(Answer::Null, Answer::Int)))?,
        }
        Ok(())
    }

    /// Appends many floats; None is a null.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    #[inline]
    pub fn append_floats(&mut self, mut answers: impl Iterator<Item = Option<f64>>) -> Result<(), TileError> {
        match &mut self.column {
            ColumnBuilder::Float64(builder) => {
                answers.for_each(|answer| builder.append_option(answer.map(canonical_float)));
            }
            _ => answers.try_for_each(|answer| self.append(answer.map_or(Answer::Null, Answer::Float)))?,
        }
        Ok(())
    }

    /// Appends a list of integers.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    #[inline]
    pub fn append_list_of_ints(&mut self, answers: impl ExactSizeIterator<Item = i64>) -> Result<(), TileError> {
        if let ColumnBuilder::List { items, lists } = &mut self.column
            && let ColumnBuilder::Int64(items) = items.as_mut()
        {
            lists.append(answers.len()).map_err(|TooLarge| TileError::ColumnTooLarge)?;
            answers.for_each(|answer| items.append_value(answer));
            return Ok(());
        }
        self.append(Answer::List(answers.map(Answer::Int).collect()))
    }

    /// Appends a list of floats.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    #[inline]
    pub fn append_list_of_floats(&mut self, answers: impl ExactSizeIterator<Item = f64>) -> Result<(), TileError> {
        if let ColumnBuilder::List { items, lists } = &mut self.column
            && let ColumnBuilder::Float64(items) = items.as_mut()
        {
            lists.append(answers.len()).map_err(|TooLarge| TileError::ColumnTooLarge)?;
            answers.for_each(|answer| items.append_value(canonical_float(answer)));
            return Ok(());
        }
        self.append(Answer::List(answers.map(Answer::Float).collect()))
    }

    /// The column of what was appended.
    pub fn finish(self) -> ArrayRef {
        self.column.finish()
    }
}

/// Why an answer cannot be appended.
enum Misfit {
    Type,
    TooLarge,
}

impl From<TooLarge> for Misfit {
    fn from(_: TooLarge) -> Self {
        Misfit::TooLarge
    }
}

fn append_to(column: &mut ColumnBuilder, answer: Answer) -> Result<(), Misfit> {
    match (column, answer) {
        (column, Answer::Null | Answer::OutOfRange) => column.append_null(),
        (ColumnBuilder::Bool(builder), Answer::Bool(value)) => builder.append_value(value),
        (ColumnBuilder::Int64(builder), Answer::Int(value)) => builder.append_value(value),
        (ColumnBuilder::Timestamp(builder), Answer::Int(value)) => builder.append_value(value),
        (ColumnBuilder::Int32(builder), Answer::Int(value)) => {
            builder.append_value(i32::try_from(value).map_err(|_| Misfit::Type)?);
        }
        (ColumnBuilder::Date(builder), Answer::Int(value)) => {
            builder.append_value(i32::try_from(value).map_err(|_| Misfit::Type)?);
        }
        (ColumnBuilder::Float64(builder), Answer::Float(value)) => builder.append_value(canonical_float(value)),
        (ColumnBuilder::Float32(builder), Answer::Float(value)) => builder.append_value(narrow(value)),
        (ColumnBuilder::String(builder), Answer::Bytes(value)) => {
            check_room(builder.values_slice().len(), value.len())?;
            builder.append_value(std::str::from_utf8(&value).map_err(|_| Misfit::Type)?);
        }
        (ColumnBuilder::Bytes(builder), Answer::Bytes(value)) => {
            check_room(builder.values_slice().len(), value.len())?;
            builder.append_value(value);
        }
        (ColumnBuilder::List { items, lists }, Answer::List(list)) => {
            lists.append(list.len())?;
            list.into_iter().try_for_each(|item| append_to(items, item))?;
        }
        (ColumnBuilder::Map { keys, values, maps }, Answer::Map(entries)) => {
            maps.append(entries.len())?;
            for (key, value) in entries {
                append_to(keys, Answer::from(&key))?;
                append_to(values, value)?;
            }
        }
        _ => return Err(Misfit::Type),
    }
    Ok(())
}

/// A `float32` as it came in, and the one NaN.
fn narrow(value: f64) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value as f32 }
}
