use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, MapArray, StringArray, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Float64Type};
use proptest::prelude::*;

use super::*;
use crate::arrow_types::arrow_type;
use crate::online_store::{DecodeError, EncodeError, Schemas};

const VERSION: SchemaVersion = SchemaVersion(3);

fn field(name: &str, value_type: &str) -> Field {
    Field { name: name.to_owned(), value_type: value_type.parse().unwrap(), description: None }
}

fn encode(features: &[Field], columns: &[ArrayRef], row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    ValueEncoder::new(VERSION, features).bind(columns).unwrap().encode(row, &mut out).unwrap();
    out
}

/// Encodes all rows and decodes the wanted features of them.
fn round_trip(features: &[Field], columns: &[ArrayRef], wanted: &[Field]) -> Vec<ArrayRef> {
    let mut decoder = RowDecoder::new(&Schemas::from([(VERSION, features.to_vec())]), wanted);
    (0..columns[0].len()).for_each(|row| decoder.append(&encode(features, columns, row)).unwrap());
    decoder.finish()
}

fn value_type() -> impl Strategy<Value = ValueType> {
    let scalars = ["bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp", "date"];
    let scalar = prop::sample::select(scalars.to_vec()).prop_map(|name| name.parse::<ValueType>().unwrap());
    scalar.prop_recursive(2, 4, 1, |inner| {
        prop_oneof![
            inner.clone().prop_map(ValueType::list_of),
            (prop::sample::select(vec![ValueType::String, ValueType::Int64, ValueType::Date]), inner)
                .prop_map(|(key, value)| ValueType::Map(Box::new(key), Box::new(value))),
        ]
    })
}

/// Any array of the type, with nulls or without.
fn array(value_type: &ValueType, rows: usize, nulls: bool) -> BoxedStrategy<ArrayRef> {
    fn scalars<T: std::fmt::Debug + Clone + 'static, A: Array + From<Vec<Option<T>>> + 'static>(
        value: impl Strategy<Value = T> + 'static,
        rows: usize,
        nulls: bool,
    ) -> BoxedStrategy<ArrayRef> {
        let value = (value, any::<bool>()).prop_map(move |(value, is_null)| (!(nulls && is_null)).then_some(value));
        prop::collection::vec(value, rows).prop_map(|values| Arc::new(A::from(values)) as ArrayRef).boxed()
    }
    match value_type {
        ValueType::Bool => scalars::<_, BooleanArray>(any::<bool>(), rows, nulls),
        ValueType::Int32 => scalars::<_, Int32Array>(any::<i32>(), rows, nulls),
        ValueType::Int64 => scalars::<_, Int64Array>(any::<i64>(), rows, nulls),
        ValueType::Float32 => scalars::<_, Float32Array>(any::<u32>().prop_map(f32::from_bits), rows, nulls),
        ValueType::Float64 => scalars::<_, Float64Array>(any::<u64>().prop_map(f64::from_bits), rows, nulls),
        ValueType::String => scalars::<String, StringArray>(".{0,6}", rows, nulls),
        ValueType::Bytes => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), rows)
            .prop_map(move |values| {
                let is_null = |value: &Vec<u8>| nulls && value.len() == 5;
                let values = values.iter().map(|value| (!is_null(value)).then_some(value.as_slice()));
                Arc::new(values.collect::<BinaryArray>()) as ArrayRef
            })
            .boxed(),
        ValueType::Timestamp => scalars::<_, TimestampMicrosecondArray>(any::<i64>(), rows, nulls)
            .prop_map(|array| {
                let array = array.as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
                Arc::new(array.clone().with_timezone("UTC")) as ArrayRef
            })
            .boxed(),
        ValueType::Date => scalars::<_, Date32Array>(any::<i32>(), rows, nulls),
        ValueType::List(_) | ValueType::Map(..) => nested(value_type.clone(), rows, nulls),
    }
}

fn nested(value_type: ValueType, rows: usize, nulls: bool) -> BoxedStrategy<ArrayRef> {
    let lists = prop::collection::vec((0usize..4, any::<bool>()), rows);
    lists
        .prop_flat_map(move |lists| {
            let items = lists.iter().map(|(len, _)| len).sum();
            let children = match &value_type {
                ValueType::List(item) => vec![array(item, items, true)],
                ValueType::Map(key, value) => vec![array(key, items, false), array(value, items, true)],
                scalar => unreachable!("{scalar} has no items"),
            };
            let arrow_type = arrow_type(&value_type);
            children.prop_map(move |children| {
                let offsets = OffsetBuffer::from_lengths(lists.iter().map(|(len, _)| *len));
                let nulls = nulls.then(|| NullBuffer::from_iter(lists.iter().map(|(_, is_valid)| *is_valid)));
                match &arrow_type {
                    DataType::List(item) => {
                        Arc::new(ListArray::new(item.clone(), offsets, children[0].clone(), nulls)) as ArrayRef
                    }
                    DataType::Map(entries, _) => {
                        let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
                        let columns = StructArray::new(fields.clone(), children, None);
                        Arc::new(MapArray::new(entries.clone(), offsets, columns, nulls, false))
                    }
                    other => unreachable!("{other}"),
                }
            })
        })
        .boxed()
}

/// A schema and some rows of it.
fn table() -> impl Strategy<Value = (Vec<Field>, Vec<ArrayRef>)> {
    (prop::collection::vec(value_type(), 1..12), 1usize..4).prop_flat_map(|(types, rows)| {
        let columns: Vec<_> = types.iter().map(|value_type| array(value_type, rows, true)).collect();
        let named = |(index, value_type): (usize, &ValueType)| Field {
            name: format!("f{index}"),
            value_type: value_type.clone(),
            description: None,
        };
        (Just(types.iter().enumerate().map(named).collect::<Vec<Field>>()), columns)
    })
}

#[derive(Debug, Clone)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Damage::Truncate),
        (index(), 0u8..8).prop_map(|(index, bit)| Damage::Flip(index, bit)),
        (index(), any::<u8>()).prop_map(|(index, byte)| Damage::Insert(index, byte)),
        index().prop_map(Damage::Remove),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    match damage {
        Damage::Truncate(index) => bytes.truncate(index.index(bytes.len())),
        Damage::Flip(index, bit) => {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Insert(index, byte) => bytes.insert(index.index(bytes.len()), *byte),
        Damage::Remove(index) => {
            bytes.remove(index.index(bytes.len()));
        }
    }
}

proptest! {
    #[test]
    fn every_type_round_trips((features, columns) in table()) {
        prop_assert_eq!(round_trip(&features, &columns, &features), columns);
    }

    #[test]
    fn any_feature_is_read_without_the_others((features, columns) in table(), pick in any::<prop::sample::Index>()) {
        let pick = pick.index(features.len());
        let decoded = round_trip(&features, &columns, &features[pick..=pick]);
        prop_assert_eq!(decoded, &columns[pick..=pick]);
    }

    #[test]
    fn slices_of_arrays_are_encoded_as_what_they_show((features, columns) in table()) {
        let last = columns[0].len() - 1;
        let sliced: Vec<ArrayRef> = columns.iter().map(|column| column.slice(last, 1)).collect();
        prop_assert_eq!(encode(&features, &sliced, 0), encode(&features, &columns, last));
    }

    #[test]
    fn damaged_values_are_errors_or_values_but_never_panic(
        (features, columns) in table(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut bytes = encode(&features, &columns, 0);
        damages.iter().for_each(|damage| apply(damage, &mut bytes));
        let mut decoder = RowDecoder::new(&Schemas::from([(VERSION, features.clone())]), &features);
        let is_decoded = decoder.append(&bytes).is_ok();
        decoder.append_null_row();
        let decoded = decoder.finish();
        if is_decoded {
            prop_assert!(decoded.iter().all(|column| column.len() == 2));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(0u8..4, 0..80), (features, _) in table()) {
        let bytes = [&VERSION.0.to_le_bytes()[..], &bytes].concat();
        let mut decoder = RowDecoder::new(&Schemas::from([(VERSION, features.clone())]), &features);
        let _ = decoder.append(&bytes);
        decoder.finish();
    }
}

#[test]
fn float_bits_are_kept() {
    let bits = [f64::NAN.to_bits(), 0x7FF0_0000_0000_0001, 0xFFF8_0000_DEAD_BEEF, (-0.0f64).to_bits(), 1, 0];
    let column: ArrayRef = Arc::new(Float64Array::from_iter_values(bits.map(f64::from_bits)));
    let features = [field("x", "float64")];
    let decoded = round_trip(&features, &[column], &features);
    let decoded = decoded[0].as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits());
    assert_eq!(decoded.collect::<Vec<_>>(), bits);
}

#[test]
fn bytes_are_those_of_the_format() {
    let features = [field("s", "string"), field("i", "int32"), field("b", "bool"), field("l", "list<int32>")];
    let mut lists = arrow::array::ListBuilder::new(arrow::array::Int32Builder::new());
    lists.append_value([Some(7), None]);
    let columns: [ArrayRef; 4] = [
        Arc::new(StringArray::from(vec!["hi"])),
        Arc::new(Int32Array::from(vec![None])),
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(lists.finish()),
    ];
    let expected = [
        &[3, 0, 0, 0][..],          // schema version
        &[0b1101],                  // s, b and l are present
        &[0, 0, 0, 0],              // i
        &[1],                       // b
        &[2, 0, 0, 0, 16, 0, 0, 0], // ends of s and l
        b"hi",                      // s
        &[2, 0, 0, 0, 1, 0b01],     // l: two items, with nulls, the first is present
        &[7, 0, 0, 0, 0, 0, 0, 0],  // its items
    ];
    assert_eq!(encode(&features, &columns, 0), expected.concat());
}

#[test]
fn a_feature_absent_or_of_another_type_is_null() {
    let stored = [field("x", "int64"), field("gone", "string")];
    let wanted = [field("new", "string"), field("x", "int64"), field("x", "float64"), field("gone", "list<string>")];
    let columns: [ArrayRef; 2] = [Arc::new(Int64Array::from(vec![5])), Arc::new(StringArray::from(vec!["a"]))];
    let decoded = round_trip(&stored, &columns, &wanted);
    let nulls = |index: usize| new_null_array(&arrow_type(&wanted[index].value_type), 1);
    assert_eq!(decoded, [nulls(0), columns[0].clone(), nulls(2), nulls(3)]);
}

#[test]
fn values_of_several_schemas_come_into_one_column() {
    let (old, new) = (vec![field("x", "int64")], vec![field("y", "bool"), field("x", "int64")]);
    let schemas = Schemas::from([(SchemaVersion(1), old.clone()), (SchemaVersion(2), new.clone())]);
    let mut decoder = RowDecoder::new(&schemas, &old);
    let (x, y): (ArrayRef, ArrayRef) = (Arc::new(Int64Array::from(vec![4])), Arc::new(BooleanArray::from(vec![true])));
    for (version, features, columns) in [(2, &new, vec![y, x.clone()]), (1, &old, vec![x])] {
        let mut bytes = Vec::new();
        ValueEncoder::new(SchemaVersion(version), features).bind(&columns).unwrap().encode(0, &mut bytes).unwrap();
        decoder.append(&bytes).unwrap();
        decoder.append_null_row();
    }
    let expected: ArrayRef = Arc::new(Int64Array::from(vec![Some(4), None, Some(4), None]));
    assert_eq!(decoder.finish(), [expected]);
}

#[test]
fn an_unknown_schema_version_is_an_error() {
    let features = [field("x", "int64")];
    let mut decoder = RowDecoder::new(&Schemas::from([(VERSION, features.to_vec())]), &features);
    let version = SchemaVersion(4);
    assert_eq!(decoder.append(&[4, 0, 0, 0, 1]), Err(DecodeError::UnknownSchemaVersion { version }));
    assert_eq!(decoder.append(&[3, 0, 0]), Err(DecodeError::Length { expected: 4, found: 3 }));
    assert_eq!(decoder.append(&[3, 0, 0, 0, 1, 0]), Err(DecodeError::Length { expected: 13, found: 6 }));
}

#[test]
fn columns_that_are_not_as_declared_are_refused() {
    let encoder = ValueEncoder::new(VERSION, &[field("x", "int64"), field("l", "list<string>")]);
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let lists = new_null_array(&arrow_type(&"list<string>".parse().unwrap()), 2);
    let other_lists = new_null_array(&arrow_type(&"list<int64>".parse().unwrap()), 1);
    let error = |columns: &[ArrayRef]| encoder.bind(columns).err();
    assert!(matches!(error(std::slice::from_ref(&ints)), Some(EncodeError::ColumnCount { expected: 2, found: 1 })));
    assert!(matches!(error(&[ints.clone(), lists]), Some(EncodeError::ColumnLength { .. })));
    assert!(matches!(error(&[ints.clone(), ints.clone()]), Some(EncodeError::ColumnType { .. })));
    assert!(matches!(error(&[ints, other_lists]), Some(EncodeError::ColumnType { .. })));
}

#[test]
fn a_schema_without_features_has_values() {
    let mut bytes = vec![9];
    ValueEncoder::new(VERSION, &[]).bind(&[]).unwrap().encode(5, &mut bytes).unwrap();
    assert_eq!(bytes, [9, 3, 0, 0, 0]);
    let mut decoder = RowDecoder::new(&Schemas::from([(VERSION, vec![])]), &[field("x", "int64")]);
    decoder.append(&bytes[1..]).unwrap();
    assert_eq!(decoder.finish()[0].null_count(), 1);
}
