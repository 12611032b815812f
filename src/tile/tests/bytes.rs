use proptest::prelude::*;

use super::fixture::{cases, encoded, finite_floats, floats, partial_of, rows};
use crate::error::ErrorKind;
use crate::tile::{Event, ExactSum, HyperLogLog, PartialKind, Value};

/// Whatever the bytes are, they are refused or are exactly what is written for some partial.
fn check(kind: &PartialKind, bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut left = bytes;
    match kind.decode(&mut left) {
        Ok(partial) => prop_assert_eq!(encoded(&partial), &bytes[..bytes.len() - left.len()], "{:?}", kind),
        Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn truncated_bytes_are_refused(rows in rows(floats(), 6)) {
        for case in cases() {
            let events: Vec<Event> = rows.iter().map(|row| row.event(&case)).collect();
            let bytes = encoded(&partial_of(&case.aggregate, &events));
            for len in 0..bytes.len() {
                prop_assert!(case.aggregate.kind().decode(&mut &bytes[..len]).is_err(), "{:?} {}", case, len);
            }
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_another_partial(
        rows in rows(floats(), 6),
        place in any::<proptest::sample::Index>(),
        damage in 1..=u8::MAX,
    ) {
        for case in cases() {
            let events: Vec<Event> = rows.iter().map(|row| row.event(&case)).collect();
            let mut bytes = encoded(&partial_of(&case.aggregate, &events));
            let place = place.index(bytes.len());
            bytes[place] ^= damage;
            check(case.aggregate.kind(), &bytes)?;
            if let Ok(mut partial) = case.aggregate.kind().decode(&mut bytes.as_slice()) {
                let copy = partial.clone();
                partial.merge(&copy);
                events.iter().for_each(|event| partial.update(event));
                events.iter().for_each(|event| partial.invert(event));
                case.aggregate.finish(&partial);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_a_partial(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        for case in cases() {
            check(case.aggregate.kind(), &bytes)?;
        }
    }
}

proptest! {
    #[test]
    fn sums_round_trip_whatever_their_size(values in proptest::collection::vec(finite_floats(), 0..6)) {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        let mut bytes = Vec::new();
        sum.encode(&mut bytes);
        prop_assert_eq!(ExactSum::decode(&mut bytes.as_slice()).unwrap(), sum);
    }
}

#[test]
fn sums_are_as_long_as_their_digits() {
    let len = |values: &[f64]| {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        let mut bytes = Vec::new();
        sum.encode(&mut bytes);
        bytes.len()
    };
    assert_eq!(len(&[]), 2);
    assert_eq!(len(&[12.5, -3.0, 1e3]), 5);
    assert_eq!(len(&[2_f64.powi(900)]), 5);
}

#[test]
fn exponents_out_of_range_are_refused() {
    // No specials, one byte of a positive integer, an exponent of 2^26.
    let bytes = [1, 0, 2, 0x80, 0x80, 0x80, 0x40, 1];
    assert!(PartialKind::FloatSum.decode(&mut bytes.as_slice()).is_err());
}

#[test]
fn lengths_beyond_the_bytes_are_refused_without_being_allocated() {
    let len = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for case in cases() {
        let mut bytes = len.to_vec();
        bytes.extend_from_slice(&len);
        bytes.extend_from_slice(&len[..8]);
        let _ = case.aggregate.kind().decode(&mut bytes.as_slice());
    }
}

#[test]
fn registers_round_trip_sparse_and_dense() {
    for distinct in [0, 1, 700, 1200, 100_000] {
        let mut registers = HyperLogLog::default();
        (0..distinct).for_each(|value| registers.add(&Value::Int(value)));
        let mut bytes = Vec::new();
        registers.encode(&mut bytes);
        assert!(bytes.len() <= 3 * 1024 + 2, "{}", bytes.len());
        assert_eq!(HyperLogLog::decode(&mut bytes.as_slice()), Ok(registers), "{distinct}");
    }
}
