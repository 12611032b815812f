//! The Arrow form of every value type, the same in tables, stores and answers.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, TimeUnit};

use crate::definition::{Field, ValueType};

/// Time zone of every timestamp column.
pub const UTC: &str = "UTC";

/// The Arrow type that holds values of `value_type`.
///
/// Items of lists and values of maps may be null, keys of maps may not; the inner fields have the names that
/// Arrow's own builders give them.
pub fn arrow_type(value_type: &ValueType) -> DataType {
    match value_type {
        ValueType::Bool => DataType::Boolean,
        ValueType::Int32 => DataType::Int32,
        ValueType::Int64 => DataType::Int64,
        ValueType::Float32 => DataType::Float32,
        ValueType::Float64 => DataType::Float64,
        ValueType::String => DataType::Utf8,
        ValueType::Bytes => DataType::Binary,
        ValueType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ValueType::Date => DataType::Date32,
        ValueType::List(item) => DataType::List(Arc::new(ArrowField::new_list_field(arrow_type(item), true))),
        ValueType::Map(key, value) => {
            let entries = Fields::from(vec![
                ArrowField::new("keys", arrow_type(key), false),
                ArrowField::new("values", arrow_type(value), true),
            ]);
            DataType::Map(Arc::new(ArrowField::new("entries", DataType::Struct(entries), false)), false)
        }
    }
}

/// The Arrow field of a column; nullable, because any value may be missing.
pub fn arrow_field(field: &Field) -> ArrowField {
    ArrowField::new(&field.name, arrow_type(&field.value_type), true)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int64Builder, ListBuilder, MapBuilder, StringBuilder};

    use super::*;

    #[test]
    fn nested_types_are_those_of_the_builders() {
        let list = ListBuilder::new(Int64Builder::new()).finish();
        assert_eq!(arrow_type(&"list<int64>".parse().unwrap()), *list.data_type());
        let map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new()).finish();
        assert_eq!(arrow_type(&"map<string, int64>".parse().unwrap()), *map.data_type());
    }
}
