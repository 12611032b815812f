//! Codec of stored values: the features of one row, each readable without the others.
//!
//! ```text
//! schema version (u32) | presence bitmap | fixed-width features | ends of variable-width features (u32 each) | their bytes
//!
//! bool                   1 byte, 0 or 1
//! int32, float32, date   4 bytes
//! int64, float64, timestamp   8 bytes
//! string, bytes          the bytes
//! list<T>                count (u32) | items
//! map<K, V>              count (u32) | items of the keys | items of the values
//! items                  0, or 1 and a presence bitmap | fixed-width items, or ends (u32 each) and the items' bytes
//! ```
//!
//! Everything is little-endian. Bitmaps hold one bit for each feature or item, lowest bit first, set if it is not
//! null; a null takes zeros where it has a fixed width and nothing where it has not.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fmt;

pub use decode::{DecodePlan, RowDecoder};
pub use encode::{RowEncoder, ValueEncoder};

use crate::definition::{Field, ValueType};

/// Number of a schema within its view; stored values name the one they were encoded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaVersion(pub u32);

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const VERSION_LEN: usize = 4;
const END_LEN: usize = 4;

/// Where the features of one schema stand in a value.
#[derive(Debug, Clone)]
struct Layout {
    slots: Vec<Slot>,
    /// Start of the ends of variable-width features.
    ends_start: usize,
    /// Start of the bytes of variable-width features.
    data_start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Fixed { start: usize, width: usize },
    Variable { index: usize },
}

impl Layout {
    fn new(features: &[Field]) -> Self {
        let mut ends_start = VERSION_LEN + bitmap_len(features.len());
        let mut variables = 0;
        let mut slot = |feature: &Field| match fixed_width(&feature.value_type) {
            Some(width) => {
                ends_start += width;
                Slot::Fixed { start: ends_start - width, width }
            }
            None => {
                variables += 1;
                Slot::Variable { index: variables - 1 }
            }
        };
        let slots = features.iter().map(&mut slot).collect();
        Layout { slots, ends_start, data_start: ends_start + variables * END_LEN }
    }
}

/// Bytes a value of this type takes; None if that depends on the value.
fn fixed_width(value_type: &ValueType) -> Option<usize> {
    match value_type {
        ValueType::Bool => Some(1),
        ValueType::Int32 | ValueType::Float32 | ValueType::Date => Some(4),
        ValueType::Int64 | ValueType::Float64 | ValueType::Timestamp => Some(8),
        ValueType::String | ValueType::Bytes | ValueType::List(_) | ValueType::Map(..) => None,
    }
}

fn bitmap_len(bits: usize) -> usize {
    bits.div_ceil(8)
}

fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] & (1 << (index % 8)) != 0
}

fn set_bit(bitmap: &mut [u8], index: usize) {
    bitmap[index / 8] |= 1 << (index % 8);
}
