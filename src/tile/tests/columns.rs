use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float32Array, Int32Array, StringArray, TimestampMicrosecondArray};

use super::fixture::{cases, floats, partial_of, rows};
use crate::arrow_types::arrow_type;
use crate::definition::ValueType;
use crate::tile::{Answer, AnswerBuilder, Event, TileError, Value, values};
use proptest::prelude::*;

fn column_of(ty: &str, answers: Vec<Answer>) -> Result<ArrayRef, TileError> {
    let mut builder = AnswerBuilder::new(&ty.parse().unwrap());
    answers.into_iter().try_for_each(|answer| builder.append(answer))?;
    Ok(builder.finish())
}

#[test]
fn columns_are_read_as_values() {
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(-3), None]));
    let column = values(&ints, &ValueType::Int32).unwrap();
    assert_eq!((column.len(), column.value(0), column.value(1)), (2, Some(Value::Int(-3)), None));
    assert_eq!(column.as_ints().map(|ints| ints[0]), Some(-3));
    assert!(column.as_floats().is_none() && column.as_bools().is_none());

    let floats: ArrayRef = Arc::new(Float32Array::from(vec![0.1]));
    let column = values(&floats, &ValueType::Float32).unwrap();
    assert_eq!(column.as_floats(), Some([f64::from(0.1_f32)].as_slice()));

    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let column = values(&texts, &ValueType::String).unwrap();
    assert_eq!((column.bytes(0), column.bytes(1)), (Some(b"a".as_slice()), None));

    let slice = values(&ints.slice(1, 1), &ValueType::Int32).unwrap();
    assert_eq!((slice.len(), slice.value(0)), (1, None));
}

#[test]
fn columns_of_another_type_are_refused() {
    let local: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    assert!(matches!(values(&local, &ValueType::Timestamp), Err(TileError::ColumnType { .. })));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert!(values(&texts, &ValueType::Int64).is_err());
    assert!(values(&texts, &ValueType::list_of(ValueType::String)).is_err());
}

#[test]
fn answers_of_another_type_are_refused() {
    assert!(column_of("int32", vec![Answer::Int(1 << 40)]).is_err());
    assert!(column_of("int64", vec![Answer::Float(1.0)]).is_err());
    assert!(column_of("string", vec![Answer::Bytes(vec![0xff].into())]).is_err());
    assert!(column_of("list<int64>", vec![Answer::Int(1)]).is_err());
}

#[test]
fn lists_and_maps_of_nulls_and_values() {
    let list = Answer::List(vec![Answer::Int(1), Answer::Null]);
    let column = column_of(
        "map<string, list<int64>>",
        vec![
            Answer::Null,
            Answer::Map(vec![
                (Value::Bytes(b"a".as_slice().into()), list),
                (Value::Bytes(b"b".as_slice().into()), Answer::Null),
            ]),
            Answer::OutOfRange,
        ],
    );
    let column = column.unwrap();
    assert_eq!((column.len(), column.null_count()), (3, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_answer_fits_the_column_of_its_type(rows in rows(floats(), 12)) {
        for case in cases() {
            let events: Vec<Event> = rows.iter().map(|row| row.event(&case)).collect();
            let ty = case.aggregate.value_type();
            let mut builder = AnswerBuilder::new(ty);
            builder.append(case.aggregate.finish(&partial_of(&case.aggregate, []))).unwrap();
            builder.append(case.aggregate.finish(&partial_of(&case.aggregate, &events))).unwrap();
            let column = builder.finish();
            prop_assert_eq!(column.data_type(), &arrow_type(ty));
            prop_assert_eq!(column.len(), 2);
            if let Ok(read) = values(&column, ty) {
                let answer = read.value(1).map_or(Answer::Null, |value| Answer::from(&value));
                let expected = case.aggregate.finish(&partial_of(&case.aggregate, &events));
                prop_assert!(answer == expected || expected.out_of_range() == 1, "{:?}", case);
            }
        }
    }
}
