//! Stored values to Arrow columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, ListArray, MapArray, NullBufferBuilder, PrimitiveBuilder,
    StringBuilder, StructArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};

use super::{END_LEN, Layout, SchemaVersion, Slot, VERSION_LEN, bit, bitmap_len, fixed_width};
use crate::arrow_types::{UTC, arrow_type};
use crate::definition::{Field, ValueType};
use crate::online_store::Schemas;
use crate::online_store::error::DecodeError;

/// Gathers some features of stored values into columns.
///
/// A feature that the schema of a value does not have, or has with another type, is null.
#[derive(Debug)]
pub struct RowDecoder {
    plans: Vec<Plan>,
    columns: Vec<Column>,
}

/// Where values of one schema version have the wanted features.
#[derive(Debug)]
struct Plan {
    version: SchemaVersion,
    layout: Layout,
    /// For each wanted feature its place in the schema.
    places: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Column {
    feature: Field,
    builder: Builder,
}

impl RowDecoder {
    /// `schemas` are those of the view; `wanted` become columns in this order.
    pub fn new(schemas: &Schemas, wanted: &[Field]) -> Self {
        let place = |stored: &[Field], feature: &Field| {
            stored.iter().position(|other| other.name == feature.name && other.value_type == feature.value_type)
        };
        let plan = |(version, stored): (&SchemaVersion, &Vec<Field>)| Plan {
            version: *version,
            layout: Layout::new(stored),
            places: wanted.iter().map(|feature| place(stored, feature)).collect(),
        };
        // Newest first, because most values have the newest schema.
        RowDecoder {
            plans: schemas.iter().rev().map(plan).collect(),
            columns: wanted
                .iter()
                .map(|feature| Column { feature: feature.clone(), builder: Builder::new(&feature.value_type) })
                .collect(),
        }
    }

    /// Appends the wanted features of one stored value.
    ///
    /// # Errors
    /// [`DecodeError`]; the columns may then differ in length, and the decoder is good for nothing but to be dropped.
    pub fn append(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let version = SchemaVersion(read_u32(value, 0).ok_or(too_short(value, VERSION_LEN))?);
        let plan = self.plans.iter().find(|plan| plan.version == version);
        let plan = plan.ok_or(DecodeError::UnknownSchemaVersion { version })?;
        plan.layout.check_length(value)?;
        for (column, place) in self.columns.iter_mut().zip(&plan.places) {
            match place.filter(|place| bit(&value[VERSION_LEN..], *place)) {
                Some(place) => {
                    let bytes = plan.layout.bytes(value, place).ok_or_else(|| column.flaw(Flaw::Malformed))?;
                    column.builder.append(bytes).map_err(|flaw| column.flaw(flaw))?;
                }
                None => column.builder.append_null(),
            }
        }
        Ok(())
    }

    /// Appends a row of nulls.
    pub fn append_null_row(&mut self) {
        self.columns.iter_mut().for_each(|column| column.builder.append_null());
    }

    /// The columns, one for each wanted feature, of its [`arrow_type`].
    pub fn finish(self) -> Vec<ArrayRef> {
        self.columns.into_iter().map(|column| column.builder.finish()).collect()
    }
}

impl Column {
    fn flaw(&self, flaw: Flaw) -> DecodeError {
        let feature = self.feature.name.clone();
        match flaw {
            Flaw::Malformed => DecodeError::Feature { feature, value_type: self.feature.value_type.clone() },
            Flaw::TooLarge => DecodeError::ColumnTooLarge { feature },
        }
    }
}

impl Layout {
    /// Checks that the value is as long as its fixed part and the last of its ends say.
    fn check_length(&self, value: &[u8]) -> Result<(), DecodeError> {
        if value.len() < self.data_start {
            return Err(too_short(value, self.data_start));
        }
        let data_len = if self.data_start > self.ends_start {
            read_u32(value, self.data_start - END_LEN).unwrap_or_default()
        } else {
            0
        };
        let expected = self.data_start as u64 + u64::from(data_len);
        if value.len() as u64 == expected { Ok(()) } else { Err(DecodeError::Length { expected, found: value.len() }) }
    }

    /// The bytes of one feature of a value of the right length.
    fn bytes<'a>(&self, value: &'a [u8], place: usize) -> Option<&'a [u8]> {
        match self.slots[place] {
            Slot::Fixed { start, width } => value.get(start..start + width),
            Slot::Variable { index } => slice_at(&value[self.ends_start..], self.data_start - self.ends_start, index),
        }
    }
}

/// The bytes of the variable-width value number `index`; `bytes` are the ends, `ends_len` of them, and then the data.
fn slice_at(bytes: &[u8], ends_len: usize, index: usize) -> Option<&[u8]> {
    let start = if index == 0 { 0 } else { read_u32(bytes, (index - 1) * END_LEN)? as usize };
    let end = read_u32(bytes, index * END_LEN)? as usize;
    bytes.get(ends_len..)?.get(start..end)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}

fn too_short(value: &[u8], expected: usize) -> DecodeError {
    DecodeError::Length { expected: expected as u64, found: value.len() }
}

enum Flaw {
    Malformed,
    TooLarge,
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
    List(Box<ListBuilder>),
    Map(Box<MapBuilder>),
}

impl Builder {
    fn new(value_type: &ValueType) -> Self {
        match value_type {
            ValueType::Bool => Builder::Bool(BooleanBuilder::new()),
            ValueType::Int32 => Builder::Int32(PrimitiveBuilder::new()),
            ValueType::Int64 => Builder::Int64(PrimitiveBuilder::new()),
            ValueType::Float32 => Builder::Float32(PrimitiveBuilder::new()),
            ValueType::Float64 => Builder::Float64(PrimitiveBuilder::new()),
            ValueType::String => Builder::String(StringBuilder::new()),
            ValueType::Bytes => Builder::Bytes(BinaryBuilder::new()),
            ValueType::Timestamp => Builder::Timestamp(PrimitiveBuilder::new().with_timezone(UTC)),
            ValueType::Date => Builder::Date(PrimitiveBuilder::new()),
            ValueType::List(item) => {
                Builder::List(Box::new(ListBuilder { items: Items::new(item), lists: Lists::new(value_type) }))
            }
            ValueType::Map(key, value) => Builder::Map(Box::new(MapBuilder {
                keys: Items::new(key),
                values: Items::new(value),
                maps: Lists::new(value_type),
            })),
        }
    }

    /// Appends the value that exactly these bytes stand for.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        match self {
            Builder::Bool(builder) => match bytes {
                [0] => builder.append_value(false),
                [1] => builder.append_value(true),
                _ => return Err(Flaw::Malformed),
            },
            Builder::Int32(builder) => append_fixed(builder, bytes, i32::from_le_bytes)?,
            Builder::Int64(builder) => append_fixed(builder, bytes, i64::from_le_bytes)?,
            Builder::Float32(builder) => append_fixed(builder, bytes, f32::from_le_bytes)?,
            Builder::Float64(builder) => append_fixed(builder, bytes, f64::from_le_bytes)?,
            Builder::Timestamp(builder) => append_fixed(builder, bytes, i64::from_le_bytes)?,
            Builder::Date(builder) => append_fixed(builder, bytes, i32::from_le_bytes)?,
            Builder::String(builder) => {
                check_offset(builder.values_slice().len() + bytes.len())?;
                builder.append_value(std::str::from_utf8(bytes).map_err(|_| Flaw::Malformed)?);
            }
            Builder::Bytes(builder) => {
                check_offset(builder.values_slice().len() + bytes.len())?;
                builder.append_value(bytes);
            }
            Builder::List(builder) => builder.append(bytes)?,
            Builder::Map(builder) => builder.append(bytes)?,
        }
        Ok(())
    }

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
            Builder::List(builder) => builder.lists.append_null(),
            Builder::Map(builder) => builder.maps.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Bool(mut builder) => Arc::new(builder.finish()),
            Builder::Int32(mut builder) => Arc::new(builder.finish()),
            Builder::Int64(mut builder) => Arc::new(builder.finish()),
            Builder::Float32(mut builder) => Arc::new(builder.finish()),
            Builder::Float64(mut builder) => Arc::new(builder.finish()),
            Builder::String(mut builder) => Arc::new(builder.finish()),
            Builder::Bytes(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
            Builder::Date(mut builder) => Arc::new(builder.finish()),
            Builder::List(builder) => builder.finish(),
            Builder::Map(builder) => builder.finish(),
        }
    }
}

fn append_fixed<T: ArrowPrimitiveType, const N: usize>(
    builder: &mut PrimitiveBuilder<T>,
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> T::Native,
) -> Result<(), Flaw> {
    let bytes = <[u8; N]>::try_from(bytes).map_err(|_| Flaw::Malformed)?;
    builder.append_value(decode(bytes));
    Ok(())
}

/// An end of a value in a column, as Arrow counts it.
fn check_offset(end: usize) -> Result<i32, Flaw> {
    i32::try_from(end).map_err(|_| Flaw::TooLarge)
}

/// Which lists a column has: where each ends among the items, and whether it is null.
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
    fn append(&mut self, count: usize) -> Result<(), Flaw> {
        let end = check_offset(self.end() as usize + count)?;
        self.offsets.push(end);
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

#[derive(Debug)]
struct ListBuilder {
    items: Items,
    lists: Lists,
}

impl ListBuilder {
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Flaw> {
        let count = take_u32(&mut bytes)?;
        self.items.append(&mut bytes, count)?;
        expect_end(bytes)?;
        self.lists.append(count)
    }

    fn finish(mut self) -> ArrayRef {
        let (offsets, items) = (self.lists.offset_buffer(), self.items.builder.finish());
        Arc::new(ListArray::new(self.lists.inner_field, offsets, items, self.lists.nulls.finish()))
    }
}

#[derive(Debug)]
struct MapBuilder {
    keys: Items,
    values: Items,
    maps: Lists,
}

impl MapBuilder {
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Flaw> {
        let count = take_u32(&mut bytes)?;
        if bytes.first() != Some(&0) {
            return Err(Flaw::Malformed); // A map has no null keys.
        }
        self.keys.append(&mut bytes, count)?;
        self.values.append(&mut bytes, count)?;
        expect_end(bytes)?;
        self.maps.append(count)
    }

    fn finish(mut self) -> ArrayRef {
        // A value that could not be decoded may have left keys without values.
        let len = self.maps.end() as usize;
        let columns = [self.keys, self.values].map(|items| items.builder.finish().slice(0, len)).to_vec();
        let DataType::Struct(fields) = self.maps.inner_field.data_type() else {
            unreachable!("the entries of a map are structs")
        };
        let entries = StructArray::new(fields.clone(), columns, None);
        let offsets = self.maps.offset_buffer();
        Arc::new(MapArray::new(self.maps.inner_field, offsets, entries, self.maps.nulls.finish(), false))
    }
}

/// The items of all lists of a column.
#[derive(Debug)]
struct Items {
    builder: Box<Builder>,
    width: Option<usize>,
}

impl Items {
    fn new(item_type: &ValueType) -> Self {
        Items { builder: Box::new(Builder::new(item_type)), width: fixed_width(item_type) }
    }

    /// Takes `count` items off the front of `bytes`.
    fn append(&mut self, bytes: &mut &[u8], count: usize) -> Result<(), Flaw> {
        let has_nulls = match take(bytes, 1)? {
            [0] => false,
            [1] => true,
            _ => return Err(Flaw::Malformed),
        };
        let bitmap = if has_nulls { take(bytes, bitmap_len(count))? } else { &[] };
        let is_valid = |item: usize| !has_nulls || bit(bitmap, item);
        // Any item takes a byte at least, so a damaged count ends here and not in a huge loop.
        let fixed = take(bytes, count.checked_mul(self.width.unwrap_or(END_LEN)).ok_or(Flaw::Malformed)?)?;
        if let Some(width) = self.width {
            for (item, bytes) in fixed.chunks_exact(width).enumerate() {
                self.append_item(is_valid(item).then_some(bytes))?;
            }
            return Ok(());
        }
        let mut start = 0;
        for (item, end) in fixed.chunks_exact(END_LEN).enumerate() {
            let end = read_u32(end, 0).ok_or(Flaw::Malformed)?;
            let len = end.checked_sub(start).ok_or(Flaw::Malformed)?;
            let data = take(bytes, len as usize)?;
            self.append_item(is_valid(item).then_some(data))?;
            start = end;
        }
        Ok(())
    }

    fn append_item(&mut self, bytes: Option<&[u8]>) -> Result<(), Flaw> {
        match bytes {
            Some(bytes) => self.builder.append(bytes)?,
            None => self.builder.append_null(),
        }
        Ok(())
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Flaw> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or(Flaw::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Result<usize, Flaw> {
    take(bytes, 4).and_then(|bytes| read_u32(bytes, 0).map(|n| n as usize).ok_or(Flaw::Malformed))
}

fn expect_end(bytes: &[u8]) -> Result<(), Flaw> {
    if bytes.is_empty() { Ok(()) } else { Err(Flaw::Malformed) }
}
