//! Answers of aggregates, and the Arrow columns they are gathered into.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, ListArray, MapArray, NullBufferBuilder, PrimitiveBuilder, StringBuilder,
    StructArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};

use super::TileError;
use super::value::{Value, canonical_float};
use crate::arrow_types::{UTC, arrow_type};
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

/// Gathers answers of one type into a column of its [`arrow_type`].
#[derive(Debug)]
pub struct AnswerBuilder {
    value_type: ValueType,
    builder: Builder,
}

#[derive(Debug)]
enum Builder {
    Bool(BooleanBuilder),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Date(PrimitiveBuilder<Date32Type>),
    List { items: Box<AnswerBuilder>, lists: Lists },
    Map { keys: Box<AnswerBuilder>, values: Box<AnswerBuilder>, maps: Lists },
}

impl Builder {
    fn append_null(&mut self) {
        match self {
            Builder::Bool(builder) => builder.append_null(),
            Builder::Int32(builder) => builder.append_null(),
            Builder::Int64(builder) => builder.append_null(),
            Builder::Float32(builder) => builder.append_null(),
            Builder::Float64(builder) => builder.append_null(),
            Builder::String(builder) => builder.append_null(),
            Builder::Bytes(builder) => builder.append_null(),
            Builder::Timestamp(builder) => builder.append_null(),
            Builder::Date(builder) => builder.append_null(),
            Builder::List { lists, .. } => lists.append_null(),
            Builder::Map { maps, .. } => maps.append_null(),
        }
    }
}

impl AnswerBuilder {
    pub fn new(value_type: &ValueType) -> Self {
        Self::with_capacity(value_type, 0)
    }

    /// A builder with room for this many answers.
    pub fn with_capacity(value_type: &ValueType, answers: usize) -> Self {
        let inner = |value_type: &ValueType| Box::new(AnswerBuilder::with_capacity(value_type, answers));
        let builder = match value_type {
            ValueType::Bool => Builder::Bool(BooleanBuilder::with_capacity(answers)),
            ValueType::Int32 => Builder::Int32(PrimitiveBuilder::with_capacity(answers)),
            ValueType::Int64 => Builder::Int64(PrimitiveBuilder::with_capacity(answers)),
            ValueType::Float32 => Builder::Float32(PrimitiveBuilder::with_capacity(answers)),
            ValueType::Float64 => Builder::Float64(PrimitiveBuilder::with_capacity(answers)),
            ValueType::String => Builder::String(StringBuilder::new()),
            ValueType::Bytes => Builder::Bytes(BinaryBuilder::new()),
            ValueType::Timestamp => Builder::Timestamp(PrimitiveBuilder::with_capacity(answers).with_timezone(UTC)),
            ValueType::Date => Builder::Date(PrimitiveBuilder::with_capacity(answers)),
            ValueType::List(item) => Builder::List { items: inner(item), lists: Lists::new(value_type) },
            ValueType::Map(key, value) => {
                Builder::Map { keys: inner(key), values: inner(value), maps: Lists::new(value_type) }
            }
        };
        AnswerBuilder { value_type: value_type.clone(), builder }
    }

    /// # Errors
    /// [`TileError::AnswerType`] if the answer is no value of the type, [`TileError::ColumnTooLarge`] if Arrow cannot
    /// hold more of them; the builder is then good for nothing but to be dropped.
    #[inline]
    pub fn append(&mut self, answer: Answer) -> Result<(), TileError> {
        // What most answers are.
        match (&mut self.builder, &answer) {
            (Builder::Float64(builder), Answer::Float(value)) => builder.append_value(canonical_float(*value)),
            (Builder::Int64(builder), Answer::Int(value)) => builder.append_value(*value),
            _ => return self.append_any(answer),
        }
        Ok(())
    }

    fn append_any(&mut self, answer: Answer) -> Result<(), TileError> {
        let AnswerBuilder { value_type, builder } = self;
        let wrong = || TileError::AnswerType { expected: value_type.clone() };
        match (builder, answer) {
            (builder, Answer::Null | Answer::OutOfRange) => builder.append_null(),
            (Builder::Bool(builder), Answer::Bool(value)) => builder.append_value(value),
            (Builder::Timestamp(builder), Answer::Int(value)) => builder.append_value(value),
            (Builder::Int32(builder), Answer::Int(value)) => {
                builder.append_value(i32::try_from(value).map_err(|_| wrong())?);
            }
            (Builder::Date(builder), Answer::Int(value)) => {
                builder.append_value(i32::try_from(value).map_err(|_| wrong())?);
            }
            (Builder::Float32(builder), Answer::Float(value)) => {
                builder.append_value(narrow(value));
            }
            (Builder::String(builder), Answer::Bytes(value)) => {
                check_offset(builder.values_slice().len() + value.len())?;
                builder.append_value(std::str::from_utf8(&value).map_err(|_| wrong())?);
            }
            (Builder::Bytes(builder), Answer::Bytes(value)) => {
                check_offset(builder.values_slice().len() + value.len())?;
                builder.append_value(value);
            }
            (Builder::List { items, lists }, Answer::List(list)) => {
                lists.append(list.len())?;
                list.into_iter().try_for_each(|item| items.append(item))?;
            }
            (Builder::Map { keys, values, maps }, Answer::Map(entries)) => {
                maps.append(entries.len())?;
                for (key, value) in entries {
                    keys.append(Answer::from(&key))?;
                    values.append(value)?;
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The column of what was appended.
    pub fn finish(self) -> ArrayRef {
        match self.builder {
            Builder::Bool(mut builder) => Arc::new(builder.finish()),
            Builder::Int32(mut builder) => Arc::new(builder.finish()),
            Builder::Int64(mut builder) => Arc::new(builder.finish()),
            Builder::Float32(mut builder) => Arc::new(builder.finish()),
            Builder::Float64(mut builder) => Arc::new(builder.finish()),
            Builder::String(mut builder) => Arc::new(builder.finish()),
            Builder::Bytes(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
            Builder::Date(mut builder) => Arc::new(builder.finish()),
            Builder::List { items, mut lists } => {
                let offsets = lists.offset_buffer();
                Arc::new(ListArray::new(lists.inner_field, offsets, items.finish(), lists.nulls.finish()))
            }
            Builder::Map { keys, values, mut maps } => {
                let DataType::Struct(fields) = maps.inner_field.data_type() else {
                    unreachable!("the entries of a map are structs")
                };
                let entries = StructArray::new(fields.clone(), vec![keys.finish(), values.finish()], None);
                let offsets = maps.offset_buffer();
                Arc::new(MapArray::new(maps.inner_field, offsets, entries, maps.nulls.finish(), false))
            }
        }
    }
}

/// A `float32` as it came in, and the one NaN.
fn narrow(value: f64) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value as f32 }
}

/// An end of a value in a column, as Arrow counts it.
fn check_offset(end: usize) -> Result<i32, TileError> {
    i32::try_from(end).map_err(|_| TileError::ColumnTooLarge)
}

/// Where each list or map ends among the items, and whether it is null.
#[derive(Debug)]
struct Lists {
    inner_field: FieldRef,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Lists {
    fn new(value_type: &ValueType) -> Self {
        let (DataType::List(inner_field) | DataType::Map(inner_field, _)) = arrow_type(value_type) else {
            unreachable!("only lists and maps have items")
        };
        Lists { inner_field, offsets: vec![0], nulls: NullBufferBuilder::new(0) }
    }

    fn end(&self) -> i32 {
        self.offsets.last().copied().unwrap_or_default()
    }

    /// Adds a list of the next `count` items.
    fn append(&mut self, count: usize) -> Result<(), TileError> {
        self.offsets.push(check_offset(self.end() as usize + count)?);
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_null(&mut self) {
        self.offsets.push(self.end());
        self.nulls.append_null();
    }

    fn offset_buffer(&mut self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(ScalarBuffer::from(std::mem::take(&mut self.offsets)))
    }
}
