//! A cache in front of a store answers as the store does, whatever is written in between.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::online_store::key::version_key;
use crate::online_store::{KeyEncoder, MemoryOnlineStore};
use crate::testing::online_store::{delete, online_store_conformance, put, read};

const VIEW: ViewId = ViewId(7);

fn small() -> RowCache {
    // So little that rows are dropped all the time.
    RowCache::new(Arc::new(MemoryOnlineStore::new()), SHARDS * 600)
}

fn large() -> RowCache {
    RowCache::new(Arc::new(MemoryOnlineStore::new()), 1 << 20)
}

mod conformance_of_a_small_cache {
    use super::*;
    online_store_conformance!(((), small()));
}

mod conformance_of_a_large_cache {
    use super::*;
    online_store_conformance!(((), large()));
}

fn key_of(view: ViewId, key: u8) -> Vec<u8> {
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![format!("k{key}")]));
    let keys = KeyEncoder::new(view, &[crate::definition::ValueType::String]).unwrap().encode(&[column], 1).unwrap();
    keys.get(0).unwrap().to_vec()
}

fn stream_put(store: &dyn OnlineStore, view: ViewId, keys: &[u8], event: i64, value: i64) {
    let mut changes = StreamChanges::default();
    for key in keys {
        let mut bytes = Vec::new();
        version_key(&key_of(view, *key), EventTimestamp::from_micros(event), None, &mut bytes);
        changes.puts.push(&bytes, |out| out.extend(value.to_le_bytes()));
    }
    store.write_stream(&changes).unwrap();
}

/// Event timestamp and value of each key at `now`, as the store or the cache gives them.
fn raw(store: &dyn OnlineStore, view: ViewId, keys: &[u8], now: i64) -> Vec<Option<(i64, Vec<u8>)>> {
    let texts: Vec<String> = keys.iter().map(|key| format!("k{key}")).collect();
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(texts));
    let encoder = KeyEncoder::new(view, &[crate::definition::ValueType::String]).unwrap();
    let mut answers = Vec::new();
    let encoded = encoder.encode(&[column], keys.len()).unwrap();
    let answer = &mut |_, version: Option<VersionRef<'_>>| {
        answers.push(version.map(|version| (version.event_timestamp.micros(), version.value.to_vec())));
        Ok(())
    };
    store.read(&encoded, EventTimestamp::from_micros(now), answer).unwrap();
    answers
}

#[derive(Debug, Clone)]
enum Step {
    Bulk { view: u32, key: u8, event: i64, value: i64 },
    Delete { view: u32, key: u8, event: i64 },
    Stream { view: u32, keys: Vec<u8>, event: i64, value: i64 },
    DeleteView { view: u32 },
    Read { view: u32, keys: Vec<u8>, now: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let view = || 1_u32..3;
    let key = || 0_u8..6;
    let time = || prop_oneof![Just(i64::MIN), -3i64..6, Just(i64::MAX)];
    let keys = || prop::collection::vec(0_u8..6, 1..8);
    prop_oneof![
        3 => (view(), key(), time(), any::<i64>()).prop_map(|(view, key, event, value)| Step::Bulk { view, key, event, value }),
        1 => (view(), key(), time()).prop_map(|(view, key, event)| Step::Delete { view, key, event }),
        3 => (view(), keys(), time(), any::<i64>())
            .prop_map(|(view, keys, event, value)| Step::Stream { view, keys, event, value }),
        1 => view().prop_map(|view| Step::DeleteView { view }),
        8 => (view(), keys(), time()).prop_map(|(view, keys, now)| Step::Read { view, keys, now }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_answers_as_its_store_does(steps in prop::collection::vec(step(), 1..80), is_small in any::<bool>()) {
        let cache = if is_small { small() } else { large() };
        for step in steps {
            match step {
                Step::Bulk { view, key, event, value } => {
                    put(&cache, ViewId(view), &[(format!("k{key}").as_str(), event, None, value)]);
                }
                Step::Delete { view, key, event } => {
                    delete(&cache, ViewId(view), &[(format!("k{key}").as_str(), event, None, 0)]);
                }
                Step::Stream { view, keys, event, value } => stream_put(&cache, ViewId(view), &keys, event, value),
                Step::DeleteView { view } => cache.delete_view(ViewId(view)).unwrap(),
                Step::Read { view, keys, now } => {
                    let expected = raw(cache.store.as_ref(), ViewId(view), &keys, now);
                    prop_assert_eq!(raw(&cache, ViewId(view), &keys, now), expected);
                }
            }
        }
    }
}

#[test]
fn a_bulk_write_drops_the_rows_that_it_writes_and_no_others() {
    let cache = large();
    let rows = |keys: &[u8]| keys.iter().map(|key| (format!("k{key}"), *key)).collect::<Vec<_>>();
    let write = |keys: &[u8], event: i64| {
        let rows = rows(keys);
        let rows: Vec<_> = rows.iter().map(|(key, value)| (key.as_str(), event, None, i64::from(*value))).collect();
        put(&cache, VIEW, &rows);
    };
    let is_kept = |key: u8| {
        let key = key_of(VIEW, key);
        let hash = cache.hash(&key);
        cache.shard(hash).get(hash, &key, cache.shard_bytes_max).is_some()
    };
    write(&[0, 1, 2, 3], 1);
    raw(&cache, VIEW, &[0, 1, 2, 3, 4], 9);
    assert!((0..5).all(is_kept));
    write(&[1, 4], 2);
    assert_eq!((0..5).map(is_kept).collect::<Vec<_>>(), [true, false, true, true, false]);
    delete(&cache, VIEW, &[("k2", 1, None, 0)]);
    assert!(!is_kept(2) && is_kept(3));
}

/// Writers change two keys together while readers look at both, in both orders.
#[test]
fn readers_see_both_keys_of_a_write_or_neither_and_never_go_back() {
    let cache = large();
    stream_put(&cache, VIEW, &[1, 2], 0, 0);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for keys in [[1, 2], [2, 1]] {
            let (cache, is_done) = (&cache, &is_done);
            scope.spawn(move || {
                let mut newest = i64::MIN;
                while !is_done.load(Ordering::Relaxed) {
                    let answers = raw(cache, VIEW, &keys, i64::MAX);
                    assert_eq!(answers[0], answers[1]);
                    let (event, _) = answers[0].clone().unwrap();
                    assert!(newest <= event, "{newest} was seen before {event}");
                    newest = event;
                }
            });
        }
        for event in 1..20_000 {
            stream_put(&cache, VIEW, &[1, 2], event, event);
            // A write that has returned is seen.
            let (seen, _) = raw(&cache, VIEW, &[1], i64::MAX)[0].clone().unwrap();
            assert_eq!(seen, event);
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_asked_again_is_not_read_again() {
    let cache = large();
    stream_put(&cache, VIEW, &[1], 5, 50);
    raw(&cache, VIEW, &[1, 2], 10);
    let hash = cache.hash(&key_of(VIEW, 1));
    let kept = cache.shard(hash).get(hash, &key_of(VIEW, 1), cache.shard_bytes_max);
    assert_eq!(kept.unwrap().unwrap().event_timestamp.micros(), 5);
    let hash = cache.hash(&key_of(VIEW, 2));
    let kept = cache.shard(hash).get(hash, &key_of(VIEW, 2), cache.shard_bytes_max);
    assert!(kept.unwrap().is_none(), "that a key has no version is kept, too");
    // A question about the time before goes past it.
    assert_eq!(raw(&cache, VIEW, &[1], 4), [None]);
}

#[test]
fn a_cache_stays_within_its_bytes() {
    let cache = RowCache::new(Arc::new(MemoryOnlineStore::new()), 1 << 20);
    let rows: Vec<(String, i64, Option<i64>, i64)> =
        (0..20_000).map(|key| (format!("{key:06}"), 1, None, key)).collect();
    let rows: Vec<_> =
        rows.iter().map(|(key, event, created, value)| (key.as_str(), *event, *created, *value)).collect();
    put(&cache, VIEW, &rows);
    for chunk in rows.chunks(100) {
        let keys: Vec<Option<&str>> = chunk.iter().map(|(key, ..)| Some(*key)).collect();
        read(&cache, VIEW, &keys, 10);
    }
    let bytes = cache.shards.iter().map(|shard| {
        let shard = shard.lock().unwrap();
        let counted = [&shard.young, &shard.old].map(|generation| {
            let rows = generation.rows.values();
            let bytes = rows.map(|(key, row)| ROW_OVERHEAD + key.len() + row.as_ref().map_or(0, |row| row.value.len()));
            assert_eq!(bytes.sum::<usize>(), generation.bytes);
            generation.bytes
        });
        counted.iter().sum::<usize>()
    });
    let bytes: usize = bytes.sum();
    assert!((1 << 18..=1 << 20).contains(&bytes), "{bytes}");
}
