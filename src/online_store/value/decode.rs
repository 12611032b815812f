//! Stored values to Arrow columns.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::ArrowPrimitiveType;

use super::{END_LEN, Layout, SchemaVersion, Slot, VERSION_LEN, bit, bitmap_len, fixed_width};
use crate::column_builder::{ColumnBuilder, Primitives, TooLarge, check_room};
use crate::definition::{Field, ValueType};
use crate::online_store::Schemas;
use crate::online_store::error::DecodeError;

/// Which features of stored values to read, and where values of each schema have them: made once for many reads.
///
/// A feature that the schema of a value does not have, or has with another type, is null.
#[derive(Debug)]
pub struct DecodePlan {
    /// Newest first, because most values have the newest schema.
    versions: Vec<VersionPlan>,
    features: Vec<Field>,
}

/// Where values of one schema version have the wanted features.
#[derive(Debug)]
struct VersionPlan {
    version: SchemaVersion,
    layout: Layout,
    /// For each wanted feature its place in the schema.
    places: Vec<Option<usize>>,
}

impl DecodePlan {
    /// `schemas` are those of the view; `wanted` become columns in this order.
    pub fn new(schemas: &Schemas, wanted: &[Field]) -> Self {
        let place = |stored: &[Field], feature: &Field| {
            stored.iter().position(|other| other.name == feature.name && other.value_type == feature.value_type)
        };
        let plan = |(version, stored): (&SchemaVersion, &Vec<Field>)| VersionPlan {
            version: *version,
            layout: Layout::new(stored),
            places: wanted.iter().map(|feature| place(stored, feature)).collect(),
        };
        DecodePlan { versions: schemas.iter().rev().map(plan).collect(), features: wanted.to_vec() }
    }

    fn flaw(&self, feature: usize, flaw: Flaw) -> DecodeError {
        let Field { name, value_type, .. } = &self.features[feature];
        match flaw {
            Flaw::Malformed => DecodeError::Feature { feature: name.clone(), value_type: value_type.clone() },
            Flaw::TooLarge => DecodeError::ColumnTooLarge { feature: name.clone() },
        }
    }
}

/// Gathers some features of stored values into columns.
#[derive(Debug)]
pub struct RowDecoder {
    plan: Arc<DecodePlan>,
    columns: Vec<ColumnBuilder>,
}

impl RowDecoder {
    /// As of [`DecodePlan::new`].
    pub fn new(schemas: &Schemas, wanted: &[Field]) -> Self {
        RowDecoder::with_plan(Arc::new(DecodePlan::new(schemas, wanted)), 0)
    }

    /// With room for this many rows.
    pub fn with_plan(plan: Arc<DecodePlan>, rows: usize) -> Self {
        let column = |feature: &Field| ColumnBuilder::with_capacity(&feature.value_type, rows);
        RowDecoder { columns: plan.features.iter().map(column).collect(), plan }
    }

    /// Appends the wanted features of one stored value.
    ///
    /// # Errors
    /// [`DecodeError`]; the columns may then differ in length, and the decoder is good for nothing but to be dropped.
    pub fn append(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let version = SchemaVersion(read_u32(value, 0).ok_or(too_short(value, VERSION_LEN))?);
        let plan = self.plan.versions.iter().find(|plan| plan.version == version);
        let plan = plan.ok_or(DecodeError::UnknownSchemaVersion { version })?;
        plan.layout.check_length(value)?;
        for (feature, (column, place)) in self.columns.iter_mut().zip(&plan.places).enumerate() {
            match place.filter(|place| bit(&value[VERSION_LEN..], *place)) {
                Some(place) => {
                    let bytes = plan.layout.bytes(value, place);
                    let bytes = bytes.ok_or_else(|| self.plan.flaw(feature, Flaw::Malformed))?;
                    append(column, &self.plan.features[feature].value_type, bytes)
                        .map_err(|flaw| self.plan.flaw(feature, flaw))?;
                }
                None => column.append_null(),
            }
        }
        Ok(())
    }

    /// Appends a row of nulls.
    pub fn append_null_row(&mut self) {
        self.columns.iter_mut().for_each(ColumnBuilder::append_null);
    }

    /// The columns, one for each wanted feature, of its [`arrow_type`](crate::arrow_types::arrow_type).
    pub fn finish(self) -> Vec<ArrayRef> {
        self.columns.into_iter().map(ColumnBuilder::finish).collect()
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

impl From<TooLarge> for Flaw {
    fn from(_: TooLarge) -> Self {
        Flaw::TooLarge
    }
}

/// Appends the value of the type that exactly these bytes stand for.
fn append(column: &mut ColumnBuilder, value_type: &ValueType, bytes: &[u8]) -> Result<(), Flaw> {
    match (column, value_type) {
        (ColumnBuilder::Bool(builder), _) => match bytes {
            [0] => builder.append_value(false),
            [1] => builder.append_value(true),
            _ => return Err(Flaw::Malformed),
        },
        (ColumnBuilder::Int32(builder), _) => append_fixed(builder, bytes, i32::from_le_bytes)?,
        (ColumnBuilder::Int64(builder), _) => append_fixed(builder, bytes, i64::from_le_bytes)?,
        (ColumnBuilder::Float32(builder), _) => append_fixed(builder, bytes, f32::from_le_bytes)?,
        (ColumnBuilder::Float64(builder), _) => append_fixed(builder, bytes, f64::from_le_bytes)?,
        (ColumnBuilder::Timestamp(builder), _) => append_fixed(builder, bytes, i64::from_le_bytes)?,
        (ColumnBuilder::Date(builder), _) => append_fixed(builder, bytes, i32::from_le_bytes)?,
        (ColumnBuilder::String(builder), _) => {
            check_room(builder.values_slice().len(), bytes.len())?;
            builder.append_value(std::str::from_utf8(bytes).map_err(|_| Flaw::Malformed)?);
        }
        (ColumnBuilder::Bytes(builder), _) => {
            check_room(builder.values_slice().len(), bytes.len())?;
            builder.append_value(bytes);
        }
        (ColumnBuilder::List { items, lists }, ValueType::List(item)) => {
            let mut rest = bytes;
            let count = take_u32(&mut rest)?;
            append_items(items, item, &mut rest, count)?;
            expect_end(rest)?;
            lists.append(count)?;
        }
        (ColumnBuilder::Map { keys, values, maps }, ValueType::Map(key, value)) => {
            let mut rest = bytes;
            let count = take_u32(&mut rest)?;
            if rest.first() != Some(&0) {
                return Err(Flaw::Malformed); // A map has no null keys.
            }
            append_items(keys, key, &mut rest, count)?;
            append_items(values, value, &mut rest, count)?;
            expect_end(rest)?;
            maps.append(count)?;
        }
        (ColumnBuilder::List { .. } | ColumnBuilder::Map { .. }, _) => return Err(Flaw::Malformed),
    }
    Ok(())
}

/// Takes `count` items of a list or map off the front of `bytes`.
fn append_items(items: &mut ColumnBuilder, item_type: &ValueType, bytes: &mut &[u8], count: usize) -> Result<(), Flaw> {
    let has_nulls = match take(bytes, 1)? {
        [0] => false,
        [1] => true,
        _ => return Err(Flaw::Malformed),
    };
    let bitmap = if has_nulls { take(bytes, bitmap_len(count))? } else { &[] };
    let mut append_item = |item: usize, bytes: &[u8]| match !has_nulls || bit(bitmap, item) {
        true => append(items, item_type, bytes),
        false => {
            items.append_null();
            Ok(())
        }
    };
    let width = fixed_width(item_type);
    // Any item takes a byte at least, so a damaged count ends here and not in a huge loop.
    let fixed = take(bytes, count.checked_mul(width.unwrap_or(END_LEN)).ok_or(Flaw::Malformed)?)?;
    if let Some(width) = width {
        return fixed.chunks_exact(width).enumerate().try_for_each(|(item, bytes)| append_item(item, bytes));
    }
    let mut start = 0;
    for (item, end) in fixed.chunks_exact(END_LEN).enumerate() {
        let end = read_u32(end, 0).ok_or(Flaw::Malformed)?;
        let len = end.checked_sub(start).ok_or(Flaw::Malformed)?;
        append_item(item, take(bytes, len as usize)?)?;
        start = end;
    }
    Ok(())
}

fn append_fixed<T: ArrowPrimitiveType, const N: usize>(
    builder: &mut Primitives<T>,
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> T::Native,
) -> Result<(), Flaw> {
    let bytes = <[u8; N]>::try_from(bytes).map_err(|_| Flaw::Malformed)?;
    builder.append_value(decode(bytes));
    Ok(())
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
