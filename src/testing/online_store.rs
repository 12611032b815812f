//! What every online store has to do, as one suite that runs against each of them.
//!
//! Rows are written as tables of (key, event timestamp, created timestamp, value); [`put`] and [`read`] are the only
//! callers of the store's rows.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::definition::{Field, ValueType};
use crate::online_store::{
    BulkSummary, EncodedKeys, KeyEncoder, KeyPart, KeyValues, OnlineStore, OnlineStoreError, RowDecoder, SCAN_ENTRIES,
    Scan, Schemas, StreamChanges, Together, ValueEncoder, ViewId, encode_rows, split_version_key, version_key,
};
use crate::time::EventTimestamp;

/// Makes one test of each case of the suite; `$make` gives whatever has to outlive the store, and a new empty store.
macro_rules! online_store_conformance {
    ($make:expr) => {
        $crate::testing::online_store::online_store_conformance!(
            $make;
            the_newest_version_at_now_is_read,
            a_row_stamped_in_the_future_is_held_back,
            the_order_of_arrival_does_not_matter,
            among_equal_event_timestamps_the_greatest_created_timestamp_wins,
            static_rows_hold_always,
            far_times_are_ordered,
            the_same_write_again_changes_nothing,
            a_version_put_again_is_replaced,
            deleting_a_version_brings_the_one_before_back,
            answers_keep_the_order_of_the_keys,
            keys_that_begin_alike_are_different_keys,
            a_view_without_join_keys_has_one_row,
            an_error_of_the_reader_ends_the_read,
            nothing_shows_before_the_bulk_write_is_finished,
            a_dropped_bulk_write_leaves_nothing,
            keys_of_a_bulk_write_have_to_ascend,
            keys_of_other_views_are_refused,
            a_bulk_write_without_rows_records_its_position,
            a_bulk_write_tells_what_it_did,
            an_origin_is_kept_until_the_view_is_deleted,
            views_do_not_see_each_other,
            deleting_a_view_leaves_its_neighbours,
            a_deleted_view_starts_empty,
            schemas_are_numbered_and_found_again,
            values_of_an_older_schema_are_read_by_name,
            a_scan_shows_all_versions_in_key_order,
            a_scan_in_pieces_misses_and_repeats_nothing,
            readers_see_all_of_a_bulk_write_or_nothing,
            random_timelines_answer_like_a_naive_search,
            what_a_stream_writes_is_merged_and_read_beside_the_rest,
            ids_of_events_are_found_until_they_are_forgotten,
        );
    };
    ($make:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                // The guard comes first, so that it is dropped last.
                let (_guard, store) = $make;
                $crate::testing::online_store::$case(&store);
            }
        )*
    };
}
pub(crate) use online_store_conformance;

/// key, event timestamp, created timestamp, value
type Row<'a> = (&'a str, i64, Option<i64>, i64);

/// event timestamp, created timestamp, value
type Answer = Option<(i64, Option<i64>, i64)>;

const VIEW: ViewId = ViewId(7);
const FIRST: ViewId = ViewId(0);
const ALWAYS: i64 = EventTimestamp::ALWAYS.micros();

fn micros(micros: i64) -> EventTimestamp {
    EventTimestamp::from_micros(micros)
}

fn field(name: &str, value_type: &str) -> Field {
    Field { name: name.to_owned(), value_type: value_type.parse().unwrap(), description: None }
}

fn features() -> Vec<Field> {
    vec![field("value", "int64")]
}

fn encode_keys(view: ViewId, keys: &[Option<&str>]) -> EncodedKeys {
    let column: ArrayRef = Arc::new(StringArray::from(keys.to_vec()));
    KeyEncoder::new(view, &[ValueType::String]).unwrap().encode(&[column], keys.len()).unwrap()
}

fn encode_version_key(view: ViewId, (key, event, created, _): Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    let keys = encode_keys(view, &[Some(key)]);
    version_key(keys.get(0).unwrap(), micros(event), created.map(micros), &mut bytes);
    bytes
}

/// Puts some rows and deletes others in one bulk write, sorting them first.
fn change(store: &dyn OnlineStore, view: ViewId, position: u64, puts: &[Row<'_>], deletes: &[Row<'_>]) -> BulkSummary {
    let version = store.register_schema(view, &features()).unwrap();
    let encoder = ValueEncoder::new(version, &features());
    let mut changes: Vec<(Vec<u8>, Option<i64>)> =
        puts.iter().map(|row| (encode_version_key(view, *row), Some(row.3))).collect();
    changes.extend(deletes.iter().map(|row| (encode_version_key(view, *row), None)));
    changes.sort();
    let mut writer = store.bulk_writer(view).unwrap();
    for (key, value) in changes {
        match value {
            Some(value) => {
                let mut bytes = Vec::new();
                let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
                encoder.bind(&[column]).unwrap().encode(0, &mut bytes).unwrap();
                writer.put(&key, &bytes).unwrap();
            }
            None => writer.delete(&key).unwrap(),
        }
    }
    writer.finish(position).unwrap()
}

/// Deletes versions of rows.
pub fn delete(store: &dyn OnlineStore, view: ViewId, rows: &[Row<'_>]) {
    change(store, view, 1, &[], rows);
}

/// Puts rows into a view of one string join key and one int64 feature.
pub fn put(store: &dyn OnlineStore, view: ViewId, rows: &[Row<'_>]) {
    change(store, view, 1, rows, &[]);
}

/// Reads what [`put`] wrote.
pub fn read(store: &dyn OnlineStore, view: ViewId, keys: &[Option<&str>], now: i64) -> Vec<Answer> {
    let mut decoder = RowDecoder::new(&store.schemas(view).unwrap(), &features());
    let mut times = Vec::new();
    store
        .read(&encode_keys(view, keys), micros(now), &mut |row, version| {
            assert_eq!(row, times.len());
            match version {
                Some(version) => decoder.append(version.value)?,
                None => decoder.append_null_row(),
            }
            times.push(version.map(|version| (version.event_timestamp, version.created_timestamp)));
            Ok(())
        })
        .unwrap();
    assert_eq!(times.len(), keys.len());
    let columns = decoder.finish();
    let values = columns[0].as_primitive::<Int64Type>();
    let answer = |(row, time): (usize, Option<(EventTimestamp, Option<EventTimestamp>)>)| {
        time.map(|(event, created)| (event.micros(), created.map(EventTimestamp::micros), values.value(row)))
    };
    times.into_iter().enumerate().map(answer).collect()
}

/// The value of one key, if it has any.
pub fn value(store: &dyn OnlineStore, view: ViewId, key: &str, now: i64) -> Option<i64> {
    read(store, view, &[Some(key)], now)[0].map(|(.., value)| value)
}

pub fn the_newest_version_at_now_is_read(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, None, 1), ("a", 20, None, 2), ("a", 30, None, 3)]);
    let values = [9, 10, 19, 20, 29, 30, i64::MAX].map(|now| value(store, VIEW, "a", now));
    assert_eq!(values, [None, Some(1), Some(1), Some(2), Some(2), Some(3), Some(3)]);
}

pub fn a_row_stamped_in_the_future_is_held_back(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, None, 1)]);
    put(store, VIEW, &[("a", 1_000, None, 2), ("b", 1_000, None, 3)]);
    assert_eq!(read(store, VIEW, &[Some("a"), Some("b")], 999), [Some((10, None, 1)), None]);
    assert_eq!(read(store, VIEW, &[Some("a"), Some("b")], 1_000), [Some((1_000, None, 2)), Some((1_000, None, 3))]);
}

pub fn the_order_of_arrival_does_not_matter(store: &dyn OnlineStore) {
    let rows = [("a", 10, None, 1), ("a", 20, Some(5), 2), ("a", 20, Some(9), 3)];
    for (view, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate() {
        let view = ViewId(view as u32);
        order.iter().for_each(|row| put(store, view, &rows[*row..=*row]));
        assert_eq!([15, 25].map(|now| value(store, view, "a", now)), [Some(1), Some(3)], "{order:?}");
    }
}

pub fn among_equal_event_timestamps_the_greatest_created_timestamp_wins(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, Some(-5), 1), ("a", 10, None, 2), ("b", 10, Some(7), 3), ("b", 10, Some(8), 4)]);
    assert_eq!(read(store, VIEW, &[Some("a"), Some("b")], 10), [Some((10, Some(-5), 1)), Some((10, Some(8), 4))]);
}

pub fn static_rows_hold_always(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", ALWAYS, None, 1), ("b", ALWAYS, Some(3), 2), ("b", ALWAYS, None, 3)]);
    for now in [ALWAYS, -1, 0, i64::MAX] {
        let answers = read(store, VIEW, &[Some("a"), Some("b")], now);
        assert_eq!(answers, [Some((ALWAYS, None, 1)), Some((ALWAYS, Some(3), 2))], "{now}");
    }
}

pub fn far_times_are_ordered(store: &dyn OnlineStore) {
    let times = [ALWAYS + 1, -1, 0, 1, i64::MAX];
    let rows: Vec<Row> = times.iter().map(|time| ("a", *time, None, *time)).collect();
    put(store, VIEW, &rows);
    assert_eq!(value(store, VIEW, "a", ALWAYS), None);
    times.iter().for_each(|time| assert_eq!(value(store, VIEW, "a", *time), Some(*time)));
}

pub fn the_same_write_again_changes_nothing(store: &dyn OnlineStore) {
    let rows = [("a", 10, None, 1), ("b", 20, Some(1), 2)];
    put(store, VIEW, &rows);
    let before: Vec<_> = Scan::new(store, VIEW).map(Result::unwrap).collect();
    put(store, VIEW, &rows);
    let after: Vec<_> = Scan::new(store, VIEW).map(Result::unwrap).collect();
    assert_eq!(before, after);
    assert_eq!(after.len(), 2);
}

pub fn a_version_put_again_is_replaced(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, Some(1), 1)]);
    put(store, VIEW, &[("a", 10, Some(1), 2)]);
    assert_eq!(value(store, VIEW, "a", 10), Some(2));
}

pub fn deleting_a_version_brings_the_one_before_back(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, None, 1), ("a", 20, None, 2), ("b", 20, None, 3)]);
    let summary = change(store, VIEW, 2, &[("c", 5, None, 4)], &[("a", 20, None, 0), ("never", 1, None, 0)]);
    assert_eq!((summary.rows_put, summary.rows_deleted), (1, 2));
    let answers = read(store, VIEW, &[Some("a"), Some("b"), Some("c"), Some("never")], 30);
    assert_eq!(answers, [Some((10, None, 1)), Some((20, None, 3)), Some((5, None, 4)), None]);
}

pub fn answers_keep_the_order_of_the_keys(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 1, None, 1), ("b", 2, None, 2), ("", 3, None, 3)]);
    let keys = ["b", "b", "x", "a", "", "b"].map(Some);
    let mut keys = keys.to_vec();
    keys.insert(2, None);
    keys.insert(0, None);
    let values: Vec<_> = read(store, VIEW, &keys, 9).into_iter().map(|answer| answer.map(|(.., v)| v)).collect();
    assert_eq!(values, [None, Some(2), Some(2), None, None, Some(1), Some(3), Some(2)]);
    assert!(read(store, VIEW, &[], 9).is_empty());
}

pub fn keys_that_begin_alike_are_different_keys(store: &dyn OnlineStore) {
    let keys = ["", "\0", "\0\0", "a", "a\0", "a\0\0", "a\u{1}", "ab", "b"];
    let rows: Vec<Row> = keys.iter().zip(0..).map(|(key, value)| (*key, 10, None, value)).collect();
    for row in &rows {
        assert_eq!(value(store, VIEW, row.0, 10), None, "{:?} before it is put", row.0);
        put(store, VIEW, &[*row]);
    }
    rows.iter().for_each(|row| assert_eq!(value(store, VIEW, row.0, 10), Some(row.3)));
    rows.iter().for_each(|row| assert_eq!(value(store, VIEW, row.0, 9), None));
}

pub fn a_view_without_join_keys_has_one_row(store: &dyn OnlineStore) {
    put(store, ViewId(VIEW.0 + 1), &[("a", 10, None, 1)]);
    let version = store.register_schema(VIEW, &features()).unwrap();
    let keys = KeyEncoder::new(VIEW, &[]).unwrap().encode(&[], 3).unwrap();
    let mut key = Vec::new();
    version_key(keys.get(2).unwrap(), micros(10), None, &mut key);
    let mut bytes = Vec::new();
    let column: ArrayRef = Arc::new(Int64Array::from(vec![5]));
    ValueEncoder::new(version, &features()).bind(&[column]).unwrap().encode(0, &mut bytes).unwrap();
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&key, &bytes).unwrap();
    writer.finish(1).unwrap();
    for (now, found) in [(9, false), (10, true)] {
        let mut rows = Vec::new();
        store
            .read(&keys, micros(now), &mut |row, version| {
                rows.push(row);
                assert_eq!(version.map(|version| version.value == bytes), found.then_some(true));
                Ok(())
            })
            .unwrap();
        assert_eq!(rows, [0, 1, 2]);
    }
}

pub fn an_error_of_the_reader_ends_the_read(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 1, None, 1)]);
    let mut decoder = RowDecoder::new(&Schemas::new(), &features());
    let mut calls = 0;
    let result = store.read(&encode_keys(VIEW, &[Some("x"), Some("a"), Some("a")]), micros(1), &mut |_, version| {
        calls += 1;
        version.map_or(Ok(()), |version| Ok(decoder.append(version.value)?))
    });
    assert!(matches!(result, Err(OnlineStoreError::CorruptValue(_))), "{result:?}");
    assert_eq!(calls, 2);
}

pub fn nothing_shows_before_the_bulk_write_is_finished(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 1, None, 1)]);
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&encode_version_key(VIEW, ("a", 2, None, 0)), b"unseen").unwrap();
    writer.delete(&encode_version_key(VIEW, ("a", 1, None, 0))).unwrap();
    assert_eq!(value(store, VIEW, "a", 9), Some(1));
    assert_eq!(store.position(VIEW).unwrap(), Some(1));
    writer.finish(2).unwrap();
    assert_eq!(Scan::new(store, VIEW).count(), 1);
    assert_eq!(store.position(VIEW).unwrap(), Some(2));
}

pub fn a_dropped_bulk_write_leaves_nothing(store: &dyn OnlineStore) {
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&encode_version_key(VIEW, ("a", 2, None, 0)), b"unseen").unwrap();
    drop(writer);
    assert_eq!(Scan::new(store, VIEW).count(), 0);
    assert_eq!(store.position(VIEW).unwrap(), None);
    assert!(store.views().unwrap().is_empty());
}

pub fn keys_of_a_bulk_write_have_to_ascend(store: &dyn OnlineStore) {
    // Of one key the newest version comes first.
    let (newer, older) = (encode_version_key(VIEW, ("a", 2, None, 0)), encode_version_key(VIEW, ("a", 1, None, 0)));
    for (first, second) in [(&older, &newer), (&newer, &newer)] {
        let mut writer = store.bulk_writer(VIEW).unwrap();
        writer.put(first, b"").unwrap();
        assert!(matches!(writer.delete(second), Err(OnlineStoreError::UnsortedKeys { view: VIEW, rows: 1 })));
        assert!(matches!(writer.put(second, b""), Err(OnlineStoreError::UnsortedKeys { .. })));
    }
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&newer, b"").unwrap();
    writer.put(&older, b"").unwrap();
}

pub fn keys_of_other_views_are_refused(store: &dyn OnlineStore) {
    let mut writer = store.bulk_writer(VIEW).unwrap();
    let foreign = encode_version_key(ViewId(VIEW.0 + 1), ("a", 2, None, 0));
    for key in [&foreign[..], &VIEW.0.to_be_bytes(), &[]] {
        assert!(matches!(writer.put(key, b""), Err(OnlineStoreError::ForeignKey { view: VIEW })));
    }
    assert!(matches!(store.bulk_writer(ViewId(u32::MAX)).err(), Some(OnlineStoreError::ReservedView { .. })));
}

pub fn a_bulk_write_without_rows_records_its_position(store: &dyn OnlineStore) {
    assert_eq!(store.position(VIEW).unwrap(), None);
    assert_eq!(store.bulk_writer(VIEW).unwrap().finish(12).unwrap(), BulkSummary::default());
    assert_eq!(store.position(VIEW).unwrap(), Some(12));
    assert_eq!(store.views().unwrap(), [VIEW]);
}

pub fn an_origin_is_kept_until_the_view_is_deleted(store: &dyn OnlineStore) {
    assert_eq!(store.origin(VIEW).unwrap(), None);
    store.set_origin(VIEW, "a").unwrap();
    store.set_origin(VIEW, "b").unwrap();
    assert_eq!(store.origin(VIEW).unwrap().as_deref(), Some("b"));
    assert_eq!(store.views().unwrap(), [VIEW]);
    store.delete_view(VIEW).unwrap();
    assert_eq!(store.origin(VIEW).unwrap(), None);
    assert_eq!(store.views().unwrap(), []);
}

pub fn a_bulk_write_tells_what_it_did(store: &dyn OnlineStore) {
    let key = encode_version_key(VIEW, ("a", 2, None, 0));
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&key, b"12345").unwrap();
    writer.delete(&encode_version_key(VIEW, ("b", 2, None, 0))).unwrap();
    let bytes = 2 * key.len() as u64 + 5;
    assert_eq!(writer.finish(1).unwrap(), BulkSummary { rows_put: 1, rows_deleted: 1, bytes });
}

/// Puts a row of key `a` into each view; its value is the view's number.
fn put_each(store: &dyn OnlineStore, views: &[ViewId]) {
    for view in views {
        change(store, *view, u64::from(view.0), &[("a", 10, None, i64::from(view.0))], &[]);
    }
}

const NEIGHBOURS: [ViewId; 7] =
    [FIRST, ViewId(6), VIEW, ViewId(8), ViewId(0x07_00), ViewId(0x0700_0000), ViewId(u32::MAX - 1)];

pub fn views_do_not_see_each_other(store: &dyn OnlineStore) {
    put_each(store, &NEIGHBOURS);
    assert_eq!(store.views().unwrap(), NEIGHBOURS);
    for view in NEIGHBOURS {
        assert_eq!(value(store, view, "a", 10), Some(i64::from(view.0)));
        assert_eq!(value(store, view, "a", 9), None, "what stands behind in the next view must not show");
        assert_eq!(value(store, view, "b", 10), None);
        assert_eq!(store.position(view).unwrap(), Some(u64::from(view.0)));
        assert_eq!(Scan::new(store, view).count(), 1);
    }
    assert_eq!(value(store, ViewId(5), "a", 10), None);
}

pub fn deleting_a_view_leaves_its_neighbours(store: &dyn OnlineStore) {
    put_each(store, &NEIGHBOURS);
    store.delete_view(VIEW).unwrap();
    store.delete_view(ViewId(5)).unwrap();
    for view in NEIGHBOURS.into_iter().filter(|view| *view != VIEW) {
        assert_eq!(value(store, view, "a", 10), Some(i64::from(view.0)));
        assert_eq!(store.schemas(view).unwrap().len(), 1);
        assert_eq!(store.position(view).unwrap(), Some(u64::from(view.0)));
    }
    assert_eq!(value(store, VIEW, "a", 10), None);
    assert!(store.schemas(VIEW).unwrap().is_empty());
    assert_eq!(store.position(VIEW).unwrap(), None);
    assert_eq!(Scan::new(store, VIEW).count(), 0);
    assert!(!store.views().unwrap().contains(&VIEW));
}

pub fn a_deleted_view_starts_empty(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, None, 1), ("a", 20, None, 2), ("b", 20, None, 3)]);
    store.delete_view(VIEW).unwrap();
    put(store, VIEW, &[("a", 10, None, 4)]);
    assert_eq!(read(store, VIEW, &[Some("a"), Some("b")], 30), [Some((10, None, 4)), None]);
}

pub fn schemas_are_numbered_and_found_again(store: &dyn OnlineStore) {
    let (a, b) = (field("a", "int64"), field("b", "map<string, list<float32>>"));
    let first = store.register_schema(VIEW, &[a.clone(), b.clone()]).unwrap();
    let described = Field { description: Some("for people".to_owned()), ..a.clone() };
    assert_eq!(store.register_schema(VIEW, &[described, b.clone()]).unwrap(), first);
    let second = store.register_schema(VIEW, &[b.clone(), a.clone()]).unwrap();
    let third = store.register_schema(VIEW, &[field("a", "int32")]).unwrap();
    assert!(first < second && second < third);
    let fourth = store.register_schema(VIEW, &[a.clone(), b.clone()]).unwrap();
    assert!(fourth > third, "going back is a change too: the newest is what values are written under");
    let expected = [
        (first, vec![a.clone(), b.clone()]),
        (second, vec![b.clone(), a.clone()]),
        (third, vec![field("a", "int32")]),
        (fourth, vec![a, b]),
    ];
    assert_eq!(*store.schemas(VIEW).unwrap(), Schemas::from(expected));
    assert!(store.schemas(ViewId(VIEW.0 + 1)).unwrap().is_empty());
    assert_eq!(store.views().unwrap(), [VIEW]);
}

pub fn values_of_an_older_schema_are_read_by_name(store: &dyn OnlineStore) {
    put(store, VIEW, &[("a", 10, None, 1)]);
    let newer = [field("other", "string"), field("value", "int64")];
    let version = store.register_schema(VIEW, &newer).unwrap();
    let columns: [ArrayRef; 2] = [Arc::new(StringArray::from(vec!["x"])), Arc::new(Int64Array::from(vec![2]))];
    let mut bytes = Vec::new();
    ValueEncoder::new(version, &newer).bind(&columns).unwrap().encode(0, &mut bytes).unwrap();
    let mut writer = store.bulk_writer(VIEW).unwrap();
    writer.put(&encode_version_key(VIEW, ("b", 10, None, 0)), &bytes).unwrap();
    writer.finish(2).unwrap();

    let wanted = [field("value", "int64"), field("other", "string"), field("value", "int32")];
    let mut decoder = RowDecoder::new(&store.schemas(VIEW).unwrap(), &wanted);
    store
        .read(&encode_keys(VIEW, &[Some("a"), Some("b")]), micros(10), &mut |_, version| {
            Ok(decoder.append(version.unwrap().value)?)
        })
        .unwrap();
    let columns = decoder.finish();
    let expected: [ArrayRef; 2] =
        [Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec![None, Some("x")]))];
    assert_eq!(&columns[..2], &expected[..]);
    assert_eq!(columns[2].null_count(), 2);
}

pub fn a_scan_shows_all_versions_in_key_order(store: &dyn OnlineStore) {
    put(store, VIEW, &[("b", 1, None, 0), ("a", 1, None, 0), ("a", 2, Some(7), 0), ("a", 2, None, 0)]);
    put(store, ViewId(VIEW.0 + 1), &[("a", 1, None, 0)]);
    put(store, ViewId(VIEW.0 - 1), &[("z", 1, None, 0)]);
    let keys = KeyEncoder::new(VIEW, &[ValueType::String]).unwrap();
    let versions: Vec<_> = Scan::new(store, VIEW)
        .map(|entry| {
            let (key, _) = entry.unwrap();
            let (prefix, event, created) = split_version_key(&key).unwrap();
            (keys.decode_parts(prefix).unwrap(), event.micros(), created.map(EventTimestamp::micros))
        })
        .collect();
    let part = |key: &str| vec![KeyPart::String(key.to_owned())];
    let expected = [(part("a"), 2, Some(7)), (part("a"), 2, None), (part("a"), 1, None), (part("b"), 1, None)];
    assert_eq!(versions, expected);
}

pub fn a_scan_in_pieces_misses_and_repeats_nothing(store: &dyn OnlineStore) {
    put(store, ViewId(VIEW.0 + 1), &[("a", 1, None, 0)]);
    // Two pieces to the last row, so that a third is asked for.
    let keys: Vec<String> = (0..2 * SCAN_ENTRIES).map(|key| format!("key{key:06}")).collect();
    let rows: Vec<Row> = keys.iter().map(|key| (key.as_str(), 1, None, 0)).collect();
    put(store, VIEW, &rows);
    let all: Vec<_> = Scan::new(store, VIEW).map(Result::unwrap).collect();
    let expected = rows.iter().map(|row| encode_version_key(VIEW, *row));
    assert!(all.iter().map(|(key, _)| key.to_vec()).eq(expected));
    let last = all.len() - 1;
    for (after, entries_max, expected) in [
        (None, 3, &all[..3]),
        (Some(all[2].0.as_ref()), 2, &all[3..5]),
        // A key between two of them.
        (Some(&all[2].0[..all[2].0.len() - 1]), 1, &all[2..3]),
        (Some(all[last - 1].0.as_ref()), 2, &all[last..]),
        (Some(all[last].0.as_ref()), 2, &[]),
    ] {
        assert_eq!(store.scan_after(VIEW, after, entries_max).unwrap(), expected);
    }
}

pub fn readers_see_all_of_a_bulk_write_or_nothing(store: &dyn OnlineStore) {
    let keys: Vec<String> = (0..200).map(|key| format!("key{key:04}")).collect();
    let write = |generation: i64| {
        let rows: Vec<Row> = keys.iter().map(|key| (key.as_str(), generation, None, generation)).collect();
        put(store, VIEW, &rows);
    };
    write(0);
    let asked: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut newest = 0;
            while !is_done.load(Ordering::Relaxed) {
                let answers = read(store, VIEW, &asked, i64::MAX);
                assert!(answers.iter().all(|answer| *answer == answers[0]));
                let (.., generation) = answers[0].unwrap();
                assert!(newest <= generation);
                newest = generation;
            }
        });
        (1..20).for_each(write);
        is_done.store(true, Ordering::Relaxed);
    });
}

pub fn random_timelines_answer_like_a_naive_search(store: &dyn OnlineStore) {
    let time = || prop_oneof![Just(ALWAYS), -3i64..3, Just(i64::MAX)];
    let created = prop_oneof![Just(None), (-3i64..3).prop_map(Some)];
    let row = ("[ab\0]{0,2}", time(), created, any::<i64>());
    let writes = prop::collection::vec(prop::collection::vec(row, 0..12), 1..4);
    let views = Cell::new(0);
    let config = ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(writes, prop::collection::vec("[ab\0]{0,2}", 0..8), time()), |(writes, asked, now)| {
            let view = ViewId(views.get());
            views.set(view.0 + 1);
            store.register_schema(view, &features()).unwrap();
            let mut model = std::collections::BTreeMap::new();
            for rows in &writes {
                let rows: std::collections::BTreeMap<_, _> = rows
                    .iter()
                    .map(|(key, event, created, value)| ((key.as_str(), *event, *created), *value))
                    .collect();
                let rows: Vec<Row> =
                    rows.into_iter().map(|((key, event, created), v)| (key, event, created, v)).collect();
                put(store, view, &rows);
                model.extend(rows.iter().map(|(key, event, created, v)| ((*key, *event, *created), *v)));
            }
            let naive = |asked: &String| {
                let mut versions = model.iter().filter(|((key, event, _), _)| key == asked && *event <= now);
                // A map is in order and None is less than Some, so the last one found is the greatest.
                versions.next_back().map(|((_, event, created), v)| (*event, *created, *v))
            };
            let keys: Vec<Option<&str>> = asked.iter().map(|key| Some(key.as_str())).collect();
            prop_assert_eq!(read(store, view, &keys, now), asked.iter().map(naive).collect::<Vec<_>>());
            Ok(())
        })
        .unwrap();
}

pub fn what_a_stream_writes_is_merged_and_read_beside_the_rest(store: &dyn OnlineStore) {
    let view = ViewId(7);
    put(store, view, &[("a", 10, None, 1)]);
    let side = view.stream_side(false);
    let key = encode_version_key(side, ("a", 10, None, 0));
    let value = |rows: &[&[u8]]| {
        let mut value = Vec::new();
        encode_rows(Together::Versions, rows.iter().copied(), &mut value);
        value
    };
    assert_eq!(store.stream_side(view), None);
    for row in [&b"two"[..], b"one", b"two"] {
        let mut merges = KeyValues::default();
        merges.push(&key, |out| out.extend(value(&[row])));
        let changes = StreamChanges {
            merges,
            notes: vec![("a note".to_owned(), row.to_vec())],
            sides: vec![(view, side)],
            ..StreamChanges::default()
        };
        store.write_stream(&changes).unwrap();
    }
    store.persist().unwrap();
    assert_eq!(store.stream_side(view), Some(side));
    assert_eq!(store.note("a note").unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(store.note("another").unwrap(), None);
    let mut found = Vec::new();
    store
        .read(&encode_keys(side, &[Some("a"), Some("b")]), micros(10), &mut |_, version| {
            found.push(version.map(|version| version.value.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [Some(value(&[b"one", b"two"])), None]);
    assert_eq!(store.get(&[b"no such key".to_vec(), key]).unwrap(), [None, Some(value(&[b"one", b"two"]))]);
    // What jobs wrote is as it was, and goes by itself.
    assert_eq!(read(store, view, &[Some("a")], 10), [Some((10, None, 1))]);
    store.delete_view(side).unwrap();
    assert_eq!(Scan::new(store, side).count(), 0);
    assert_eq!(read(store, view, &[Some("a")], 10), [Some((10, None, 1))]);
    store.delete_view(view).unwrap();
    assert_eq!(store.stream_side(view), None);
}

pub fn ids_of_events_are_found_until_they_are_forgotten(store: &dyn OnlineStore) {
    let ids = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let event_ids = ids(&["s\0a", "s\0b", "t\0a"]).into_iter().zip(1..).collect();
    store.write_stream(&StreamChanges { event_ids, ..StreamChanges::default() }).unwrap();
    let asked = ids(&["t\0a", "s\0c", "s\0b"]);
    assert_eq!(store.event_ids(&asked).unwrap(), [Some(3), None, Some(2)]);
    let scanned = |after: Option<&[u8]>, ids_max| store.scan_event_ids(b"s\0", after, ids_max).unwrap();
    assert_eq!(scanned(None, 10).iter().map(|(_, at)| *at).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(scanned(None, 1).len(), 1);
    assert_eq!(scanned(Some(b"s\0a"), 10).iter().map(|(_, at)| *at).collect::<Vec<_>>(), [2]);
    let forgotten_ids = ids(&["s\0a", "s\0b"]);
    store.write_stream(&StreamChanges { forgotten_ids, ..StreamChanges::default() }).unwrap();
    assert_eq!(store.event_ids(&asked).unwrap(), [Some(3), None, None]);
}
