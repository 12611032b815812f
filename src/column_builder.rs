//! Values of a declared type, gathered into a column of its [`arrow_type`].

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, ListArray, MapArray, NullBufferBuilder, PrimitiveArray, StringBuilder,
    StructArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};

use crate::arrow_types::{UTC, arrow_type};
use crate::definition::ValueType;

/// One variant a type: who has values knows in which form.
#[derive(Debug)]
pub enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int32(Primitives<Int32Type>),
    Int64(Primitives<Int64Type>),
    Float32(Primitives<Float32Type>),
    Float64(Primitives<Float64Type>),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(Primitives<TimestampMicrosecondType>),
    Date(Primitives<Date32Type>),
    List { items: Box<ColumnBuilder>, lists: Lists },
    Map { keys: Box<ColumnBuilder>, values: Box<ColumnBuilder>, maps: Lists },
}

/// Values of one width. Arrow's own builder takes several times as long to finish, which counts where columns are short.
#[derive(Debug)]
pub struct Primitives<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
}

impl<T: ArrowPrimitiveType> Primitives<T> {
    fn with_capacity(values: usize) -> Self {
        Primitives { values: Vec::with_capacity(values), nulls: NullBufferBuilder::new(values) }
    }

    #[inline]
    pub fn append_value(&mut self, value: T::Native) {
        self.values.push(value);
        self.nulls.append_non_null();
    }

    #[inline]
    fn append_null(&mut self) {
        self.values.push(T::Native::default());
        self.nulls.append_null();
    }

    #[inline]
    pub fn append_option(&mut self, value: Option<T::Native>) {
        match value {
            Some(value) => self.append_value(value),
            None => self.append_null(),
        }
    }

    fn finish(mut self) -> PrimitiveArray<T> {
        PrimitiveArray::new(self.values.into(), self.nulls.finish())
    }
}

/// More items or bytes than Arrow's offsets of 32 bits can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl ColumnBuilder {
    /// A builder with room for this many values.
    pub fn with_capacity(value_type: &ValueType, values: usize) -> Self {
        let inner = |value_type: &ValueType| Box::new(ColumnBuilder::with_capacity(value_type, values));
        match value_type {
            ValueType::Bool => ColumnBuilder::Bool(BooleanBuilder::with_capacity(values)),
            ValueType::Int32 => ColumnBuilder::Int32(Primitives::with_capacity(values)),
            ValueType::Int64 => ColumnBuilder::Int64(Primitives::with_capacity(values)),
            ValueType::Float32 => ColumnBuilder::Float32(Primitives::with_capacity(values)),
            ValueType::Float64 => ColumnBuilder::Float64(Primitives::with_capacity(values)),
            ValueType::String => ColumnBuilder::String(StringBuilder::new()),
            ValueType::Bytes => ColumnBuilder::Bytes(BinaryBuilder::new()),
            ValueType::Timestamp => ColumnBuilder::Timestamp(Primitives::with_capacity(values)),
            ValueType::Date => ColumnBuilder::Date(Primitives::with_capacity(values)),
            ValueType::List(item) => ColumnBuilder::List { items: inner(item), lists: Lists::new(value_type) },
            ValueType::Map(key, value) => {
                ColumnBuilder::Map { keys: inner(key), values: inner(value), maps: Lists::new(value_type) }
            }
        }
    }

    pub fn append_null(&mut self) {
        match self {
            ColumnBuilder::Bool(builder) => builder.append_null(),
            ColumnBuilder::Int32(builder) => builder.append_null(),
            ColumnBuilder::Int64(builder) => builder.append_null(),
            ColumnBuilder::Float32(builder) => builder.append_null(),
            ColumnBuilder::Float64(builder) => builder.append_null(),
            ColumnBuilder::String(builder) => builder.append_null(),
            ColumnBuilder::Bytes(builder) => builder.append_null(),
            ColumnBuilder::Timestamp(builder) => builder.append_null(),
            ColumnBuilder::Date(builder) => builder.append_null(),
            ColumnBuilder::List { lists, .. } => lists.append_null(),
            ColumnBuilder::Map { maps, .. } => maps.append_null(),
        }
    }

    /// The column of what was appended.
    pub fn finish(self) -> ArrayRef {
        match self {
            ColumnBuilder::Bool(mut builder) => Arc::new(builder.finish()),
            ColumnBuilder::Int32(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Int64(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Float32(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Float64(builder) => Arc::new(builder.finish()),
            ColumnBuilder::String(mut builder) => Arc::new(builder.finish()),
            ColumnBuilder::Bytes(mut builder) => Arc::new(builder.finish()),
            ColumnBuilder::Timestamp(builder) => Arc::new(builder.finish().with_timezone(UTC)),
            ColumnBuilder::Date(builder) => Arc::new(builder.finish()),
            ColumnBuilder::List { items, mut lists } => {
                let offsets = lists.offset_buffer();
                Arc::new(ListArray::new(lists.inner_field, offsets, items.finish(), lists.nulls.finish()))
            }
            ColumnBuilder::Map { keys, values, mut maps } => {
                // A value that could not be appended may have left keys without values.
                let len = maps.end() as usize;
                let columns = [keys, values].map(|items| items.finish().slice(0, len)).to_vec();
                let DataType::Struct(fields) = maps.inner_field.data_type() else {
                    unreachable!("the entries of a map are structs")
                };
                let entries = StructArray::new(fields.clone(), columns, None);
                let offsets = maps.offset_buffer();
                Arc::new(MapArray::new(maps.inner_field, offsets, entries, maps.nulls.finish(), false))
            }
        }
    }
}

/// Whether a column of text or bytes has room for `more` bytes beside its first `len`.
///
/// # Errors
/// [`TooLarge`] if it has not.
pub fn check_room(len: usize, more: usize) -> Result<(), TooLarge> {
    offset(len + more).map(drop)
}

/// An end of a value in a column, as Arrow counts it.
fn offset(end: usize) -> Result<i32, TooLarge> {
    i32::try_from(end).map_err(|_| TooLarge)
}

/// Where each list or map of a column ends among the items, and whether it is null.
#[derive(Debug)]
pub struct Lists {
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
    ///
    /// # Errors
    /// [`TooLarge`] if there are too many items in all.
    pub fn append(&mut self, count: usize) -> Result<(), TooLarge> {
        self.offsets.push(offset(self.end() as usize + count)?);
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
