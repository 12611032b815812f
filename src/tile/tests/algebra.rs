use proptest::prelude::*;

use super::fixture::{Case, Row, cases, encoded, floats, partial_of, rows};
use crate::tile::{Event, Partial};

fn events(case: &Case, rows: &[Row]) -> Vec<Event> {
    rows.iter().map(|row| row.event(case)).collect()
}

/// Equal in every way that shows.
fn same(case: &Case, found: &Partial, expected: &Partial) -> Result<(), TestCaseError> {
    prop_assert_eq!(encoded(found), encoded(expected), "{:?}", case);
    prop_assert_eq!(found, expected, "{:?}", case);
    prop_assert_eq!(case.aggregate.finish(found), case.aggregate.finish(expected), "{:?}", case);
    Ok(())
}

/// Rows in two orders, each row with one of five tiles.
fn orders() -> impl Strategy<Value = (Vec<Row>, Vec<(Row, usize)>)> {
    rows(floats(), 24).prop_flat_map(|rows| {
        let tiled: Vec<Row> = rows.clone();
        let tiles = proptest::collection::vec(0_usize..5, rows.len());
        let tiled = tiles.prop_map(move |tiles| tiled.iter().cloned().zip(tiles).collect::<Vec<_>>());
        (Just(rows), tiled.prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn order_and_grouping_do_not_show((rows, tiled) in orders(), tree in any::<bool>()) {
        for case in cases() {
            let expected = partial_of(&case.aggregate, &events(&case, &rows));
            let tile = |wanted: usize| {
                let rows = tiled.iter().filter(|(_, tile)| *tile == wanted);
                let events: Vec<Event> = rows.map(|(row, _)| row.event(&case)).collect();
                partial_of(&case.aggregate, &events)
            };
            let mut tiles: Vec<Partial> = (0..5).map(tile).collect();
            while tiles.len() > 1 {
                let last = tiles.pop().unwrap();
                let into = if tree { tiles.len() / 2 } else { 0 };
                tiles[into].merge(&last);
            }
            same(&case, &tiles[0], &expected)?;
        }
    }

    #[test]
    fn what_is_inverted_has_never_been(kept in rows(floats(), 12), gone in rows(floats(), 12), ahead in any::<bool>()) {
        for case in cases() {
            if !case.aggregate.kind().is_invertible() {
                continue;
            }
            let (kept, gone) = (events(&case, &kept), events(&case, &gone));
            let (first, then) = if ahead { (&gone, &kept) } else { (&kept, &gone) };
            let mut partial = partial_of(&case.aggregate, first.iter().chain(then));
            gone.iter().for_each(|event| partial.invert(event));
            same(&case, &partial, &partial_of(&case.aggregate, &kept))?;
        }
    }

    #[test]
    fn partials_round_trip_through_their_bytes(rows in rows(floats(), 24)) {
        for case in cases() {
            let partial = partial_of(&case.aggregate, &events(&case, &rows));
            let mut bytes = encoded(&partial);
            bytes.extend_from_slice(b"rest");
            let mut left = bytes.as_slice();
            let decoded = case.aggregate.kind().decode(&mut left).unwrap();
            prop_assert_eq!(left, b"rest");
            same(&case, &decoded, &partial)?;
        }
    }
}
