//! The order of feature rows that nothing but their values tells apart.

use std::cmp::Ordering;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, OffsetSizeTrait, downcast_dictionary_array, downcast_primitive,
};
use arrow::datatypes::DataType;

/// Orders feature rows by their values, so that of rows equal in key, event and created timestamp every
/// path picks the same one: the greatest.
///
/// Columns compare one after the other, in the order given, which has to be the features' declared order.
/// A null is less than any value; floats are in IEEE 754's total order (`-0.0 < 0.0`, NaN greatest);
/// texts and bytes compare bytewise; lists item by item, a prefix being less; maps as the list of
/// their entries, in the order in which they are stored. Rows that compare equal have the same values.
#[derive(Debug, Clone, Copy)]
pub struct ContentOrder;

impl ContentOrder {
    /// Whether values of this type can be ordered, and joined: all types that a feature may have can,
    /// in any of Arrow's layouts for them.
    pub fn supports(data_type: &DataType) -> bool {
        match data_type {
            DataType::Dictionary(_, values) => Self::supports(values),
            DataType::List(item) | DataType::LargeList(item) => Self::supports(item.data_type()),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) => fields.iter().all(|field| Self::supports(field.data_type())),
                _ => false,
            },
            scalar => scalar.is_primitive() || scalar == &DataType::Boolean || is_bytes(scalar),
        }
    }

    /// Compares a row of `left` with a row of `right`: the same features, in declared order.
    ///
    /// Allocates nothing.
    ///
    /// # Panics
    /// If the two sides have columns of different types, or of a type that is not [supported](Self::supports).
    pub fn compare(left: &[ArrayRef], left_row: usize, right: &[ArrayRef], right_row: usize) -> Ordering {
        let columns = left.iter().zip(right);
        let mut orders =
            columns.map(|(left, right)| compare_values(left.as_ref(), left_row, right.as_ref(), right_row));
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}

fn compare_values(left: &dyn Array, i: usize, right: &dyn Array, j: usize) -> Ordering {
    match (left.is_null(i), right.is_null(j)) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Less,
        (false, true) => return Ordering::Greater,
        (false, false) => {}
    }
    macro_rules! primitive {
        ($type:ty) => {
            left.as_primitive::<$type>().value(i).compare(right.as_primitive::<$type>().value(j))
        };
    }
    downcast_primitive! {
        left.data_type() => (primitive),
        DataType::Boolean => left.as_boolean().value(i).cmp(&right.as_boolean().value(j)),
        DataType::Utf8 => left.as_string::<i32>().value(i).cmp(right.as_string::<i32>().value(j)),
        DataType::LargeUtf8 => left.as_string::<i64>().value(i).cmp(right.as_string::<i64>().value(j)),
        DataType::Utf8View => left.as_string_view().value(i).cmp(right.as_string_view().value(j)),
        DataType::Binary => left.as_binary::<i32>().value(i).cmp(right.as_binary::<i32>().value(j)),
        DataType::LargeBinary => left.as_binary::<i64>().value(i).cmp(right.as_binary::<i64>().value(j)),
        DataType::BinaryView => left.as_binary_view().value(i).cmp(right.as_binary_view().value(j)),
        DataType::List(_) => compare_lists::<i32>(left, i, right, j),
        DataType::LargeList(_) => compare_lists::<i64>(left, i, right, j),
        DataType::Map(..) => compare_maps(left, i, right, j),
        DataType::Dictionary(..) => compare_dictionaries(left, i, right, j),
        unsupported => unreachable!("values of type {unsupported} are refused before they are compared"),
    }
}

fn compare_lists<O: OffsetSizeTrait>(left: &dyn Array, i: usize, right: &dyn Array, j: usize) -> Ordering {
    let (left, right) = (left.as_list::<O>(), right.as_list::<O>());
    let range = |offsets: &[O], row: usize| offsets[row].as_usize()..offsets[row + 1].as_usize();
    let (left_items, right_items) = (range(left.value_offsets(), i), range(right.value_offsets(), j));
    let by_length = left_items.len().cmp(&right_items.len());
    let mut orders = left_items.zip(right_items).map(|(i, j)| compare_values(left.values(), i, right.values(), j));
    orders.find(|order| order.is_ne()).unwrap_or(by_length)
}

fn compare_maps(left: &dyn Array, i: usize, right: &dyn Array, j: usize) -> Ordering {
    let (left, right) = (left.as_map(), right.as_map());
    let range = |offsets: &[i32], row: usize| offsets[row] as usize..offsets[row + 1] as usize;
    let (left_entries, right_entries) = (range(left.value_offsets(), i), range(right.value_offsets(), j));
    let by_length = left_entries.len().cmp(&right_entries.len());
    let mut orders = left_entries.zip(right_entries).map(|(i, j)| {
        let by_key = compare_values(left.keys(), i, right.keys(), j);
        by_key.then_with(|| compare_values(left.values(), i, right.values(), j))
    });
    orders.find(|order| order.is_ne()).unwrap_or(by_length)
}

fn compare_dictionaries(left: &dyn Array, i: usize, right: &dyn Array, j: usize) -> Ordering {
    let value = |array: &dyn Array, row: usize| {
        downcast_dictionary_array! {
            array => array.key(row).map(|key| (ArrayRef::clone(array.values()), key)),
            other => unreachable!("{other} is not a dictionary")
        }
    };
    match (value(left, i), value(right, j)) {
        (Some((left, i)), Some((right, j))) => compare_values(&left, i, &right, j),
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}
