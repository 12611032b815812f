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

/// What messages call an Arrow type: as definitions do, where one of their types has such values.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytes".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "timestamp".to_owned(),
        DataType::Timestamp(TimeUnit::Second, _) => "timestamp in seconds".to_owned(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => "timestamp in milliseconds".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "timestamp in nanoseconds".to_owned(),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("list<{}>", type_name(item.data_type()))
        }
        DataType::FixedSizeList(item, _) => format!("list<{}>", type_name(item.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let types: Vec<String> = fields.iter().map(|field| type_name(field.data_type())).collect();
                format!("map<{}>", types.join(", "))
            }
            _ => "map".to_owned(),
        },
        DataType::Dictionary(_, values) => type_name(values),
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Time32(_) | DataType::Time64(_) => "time of day".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::Duration(_) => "duration".to_owned(),
        other => other.to_string().to_lowercase(),
    }
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

    #[test]
    fn types_are_called_as_definitions_call_them() {
        for name in ["bool", "int32", "float64", "string", "bytes", "timestamp", "date", "list<string>"] {
            assert_eq!(type_name(&arrow_type(&name.parse().unwrap())), name);
        }
        assert_eq!(type_name(&arrow_type(&"map<string, list<int64>>".parse().unwrap())), "map<string, list<int64>>");
        assert_eq!(type_name(&DataType::Utf8View), "string");
        assert_eq!(type_name(&DataType::new_large_list(DataType::LargeUtf8, true)), "list<string>");
        assert_eq!(type_name(&DataType::UInt64), "uint64");
        assert_eq!(type_name(&DataType::Decimal128(38, 10)), "decimal(38, 10)");
    }
}
