//! Arrow columns to stored values, row by row.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};

use super::{END_LEN, Layout, SchemaVersion, Slot, VERSION_LEN, bitmap_len, fixed_width, set_bit};
use crate::definition::{Field, ValueType};
use crate::online_store::error::EncodeError;

/// Encodes rows of one schema.
#[derive(Debug, Clone)]
pub struct ValueEncoder {
    version: SchemaVersion,
    features: Vec<Field>,
    layout: Layout,
}

/// A batch whose columns were found to be those of the schema: encodes one row after the other without allocating.
pub struct RowEncoder<'a> {
    version: SchemaVersion,
    layout: &'a Layout,
    columns: Vec<Column<'a>>,
    features: &'a [Field],
}

impl ValueEncoder {
    /// `version` is what the store gave to `features`.
    pub fn new(version: SchemaVersion, features: &[Field]) -> Self {
        ValueEncoder { version, features: features.to_vec(), layout: Layout::new(features) }
    }

    /// Takes one array for each feature, in the order of the schema.
    ///
    /// # Errors
    /// [`EncodeError`] if the columns are not as declared, or differ in length.
    pub fn bind<'a>(&'a self, columns: &'a [ArrayRef]) -> Result<RowEncoder<'a>, EncodeError> {
        if columns.len() != self.features.len() {
            return Err(EncodeError::ColumnCount { expected: self.features.len(), found: columns.len() });
        }
        let rows = columns.first().map_or(0, |column| column.len());
        let bind = |(feature, array): (&Field, &'a ArrayRef)| {
            let column = || format!("`{}`", feature.name);
            if array.len() != rows {
                return Err(EncodeError::ColumnLength { column: column(), expected: rows, found: array.len() });
            }
            Column::bind(&feature.value_type, array).ok_or_else(|| EncodeError::ColumnType {
                column: column(),
                expected: feature.value_type.clone(),
                found: array.data_type().clone(),
            })
        };
        let columns = self.features.iter().zip(columns).map(bind).collect::<Result<_, _>>()?;
        Ok(RowEncoder { version: self.version, layout: &self.layout, columns, features: &self.features })
    }
}

impl RowEncoder<'_> {
    /// Appends the stored value of `row` to `out`; on an error `out` is as it was.
    ///
    /// # Errors
    /// [`EncodeError::RowTooLarge`] and [`EncodeError::NullMapKey`].
    ///
    /// # Panics
    /// If the columns have no such row.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&self.version.0.to_le_bytes());
        out.resize(start + self.layout.data_start, 0);
        for (index, (column, slot)) in self.columns.iter().zip(&self.layout.slots).enumerate() {
            if let Err(flaw) = encode_feature(self.layout, index, column, *slot, row, out, start) {
                out.truncate(start);
                return Err(match flaw {
                    Flaw::TooLarge => EncodeError::RowTooLarge { row },
                    Flaw::NullMapKey => EncodeError::NullMapKey { column: self.features[index].name.clone(), row },
                });
            }
        }
        Ok(())
    }
}

/// Writes one feature into the value that begins at `start`, whose fixed part is there already, all zeros.
fn encode_feature(
    layout: &Layout,
    index: usize,
    column: &Column<'_>,
    slot: Slot,
    row: usize,
    out: &mut Vec<u8>,
    start: usize,
) -> Result<(), Flaw> {
    let is_valid = column.is_valid(row);
    if is_valid {
        set_bit(&mut out[start + VERSION_LEN..], index);
    }
    match slot {
        Slot::Fixed { start: offset, width } if is_valid => {
            column.values.write_fixed(row, &mut out[start + offset..start + offset + width]);
        }
        Slot::Fixed { .. } => {}
        Slot::Variable { index: variable } => {
            if is_valid {
                column.values.append_variable(row, out)?;
            }
            write_end(out, start + layout.ends_start + variable * END_LEN, start + layout.data_start)?;
        }
    }
    Ok(())
}

/// Writes, at `at`, where the bytes from `data_start` on end now.
fn write_end(out: &mut [u8], at: usize, data_start: usize) -> Result<(), Flaw> {
    let end = u32::try_from(out.len() - data_start).map_err(|_| Flaw::TooLarge)?;
    out[at..at + END_LEN].copy_from_slice(&end.to_le_bytes());
    Ok(())
}

enum Flaw {
    TooLarge,
    NullMapKey,
}

struct Column<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

/// The values of a column, downcast.
enum Values<'a> {
    Bool(&'a BooleanArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
    List { offsets: &'a [i32], items: Box<Items<'a>> },
    Map { offsets: &'a [i32], keys: Box<Items<'a>>, values: Box<Items<'a>> },
}

/// The items of all lists of a column.
struct Items<'a> {
    column: Column<'a>,
    width: Option<usize>,
}

impl<'a> Column<'a> {
    /// None if the array is not of the type; the names of inner fields do not matter.
    fn bind(value_type: &ValueType, array: &'a ArrayRef) -> Option<Self> {
        let values = match (value_type, array.data_type()) {
            (ValueType::Bool, DataType::Boolean) => Values::Bool(array.as_boolean()),
            (ValueType::Int32, DataType::Int32) => Values::Int32(array.as_primitive::<Int32Type>().values()),
            (ValueType::Date, DataType::Date32) => Values::Int32(array.as_primitive::<Date32Type>().values()),
            (ValueType::Int64, DataType::Int64) => Values::Int64(array.as_primitive::<Int64Type>().values()),
            (ValueType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Values::Int64(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            (ValueType::Float32, DataType::Float32) => Values::Float32(array.as_primitive::<Float32Type>().values()),
            (ValueType::Float64, DataType::Float64) => Values::Float64(array.as_primitive::<Float64Type>().values()),
            (ValueType::String, DataType::Utf8) => Values::String(array.as_string()),
            (ValueType::Bytes, DataType::Binary) => Values::Bytes(array.as_binary()),
            (ValueType::List(item), DataType::List(_)) => {
                let list = array.as_list::<i32>();
                Values::List { offsets: list.value_offsets(), items: Items::bind(item, list.values())? }
            }
            (ValueType::Map(key, value), DataType::Map(..)) => {
                let map = array.as_map();
                Values::Map {
                    offsets: map.value_offsets(),
                    keys: Items::bind(key, map.keys())?,
                    values: Items::bind(value, map.values())?,
                }
            }
            _ => return None,
        };
        Some(Column { values, nulls: array.nulls() })
    }

    fn is_valid(&self, row: usize) -> bool {
        self.nulls.is_none_or(|nulls| nulls.is_valid(row))
    }
}

impl Values<'_> {
    /// Writes a value of fixed width; `out` is as long as the type is wide.
    fn write_fixed(&self, row: usize, out: &mut [u8]) {
        match self {
            Values::Bool(values) => out[0] = u8::from(values.value(row)),
            Values::Int32(values) => out.copy_from_slice(&values[row].to_le_bytes()),
            Values::Int64(values) => out.copy_from_slice(&values[row].to_le_bytes()),
            Values::Float32(values) => out.copy_from_slice(&values[row].to_le_bytes()),
            Values::Float64(values) => out.copy_from_slice(&values[row].to_le_bytes()),
            Values::String(_) | Values::Bytes(_) | Values::List { .. } | Values::Map { .. } => {
                unreachable!("the layout gives these types no fixed slot")
            }
        }
    }

    /// Appends a value of variable width.
    fn append_variable(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Flaw> {
        match self {
            Values::String(values) => out.extend_from_slice(values.value(row).as_bytes()),
            Values::Bytes(values) => out.extend_from_slice(values.value(row)),
            Values::List { offsets, items } => {
                let range = append_count(offsets, row, out);
                items.append(range, out)?;
            }
            Values::Map { offsets, keys, values } => {
                let range = append_count(offsets, row, out);
                if range.clone().any(|item| !keys.column.is_valid(item)) {
                    return Err(Flaw::NullMapKey);
                }
                keys.append(range.clone(), out)?;
                values.append(range, out)?;
            }
            Values::Bool(_) | Values::Int32(_) | Values::Int64(_) | Values::Float32(_) | Values::Float64(_) => {
                unreachable!("the layout gives these types a fixed slot")
            }
        }
        Ok(())
    }
}

/// Appends how many items the list of `row` has, and tells where they are.
fn append_count(offsets: &[i32], row: usize, out: &mut Vec<u8>) -> Range<usize> {
    let (start, end) = (offsets[row], offsets[row + 1]);
    // Offsets ascend from zero, so the count is not negative.
    out.extend_from_slice(&((end - start) as u32).to_le_bytes());
    start as usize..end as usize
}

impl<'a> Items<'a> {
    fn bind(item_type: &ValueType, array: &'a ArrayRef) -> Option<Box<Self>> {
        Some(Box::new(Items { column: Column::bind(item_type, array)?, width: fixed_width(item_type) }))
    }

    fn append(&self, range: Range<usize>, out: &mut Vec<u8>) -> Result<(), Flaw> {
        let has_nulls = range.clone().any(|item| !self.column.is_valid(item));
        out.push(u8::from(has_nulls));
        if has_nulls {
            let bitmap = out.len();
            out.resize(bitmap + bitmap_len(range.len()), 0);
            let valid = range.clone().enumerate().filter(|(_, item)| self.column.is_valid(*item));
            valid.for_each(|(index, _)| set_bit(&mut out[bitmap..], index));
        }
        match self.width {
            Some(width) => self.append_fixed(range, width, out),
            None => self.append_variable(range, out)?,
        }
        Ok(())
    }

    fn append_fixed(&self, range: Range<usize>, width: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + range.len() * width, 0);
        for (item, slot) in range.zip(out[start..].chunks_exact_mut(width)) {
            if self.column.is_valid(item) {
                self.column.values.write_fixed(item, slot);
            }
        }
    }

    fn append_variable(&self, range: Range<usize>, out: &mut Vec<u8>) -> Result<(), Flaw> {
        let ends = out.len();
        let data_start = ends + range.len() * END_LEN;
        out.resize(data_start, 0);
        for (index, item) in range.enumerate() {
            if self.column.is_valid(item) {
                self.column.values.append_variable(item, out)?;
            }
            write_end(out, ends + index * END_LEN, data_start)?;
        }
        Ok(())
    }
}
