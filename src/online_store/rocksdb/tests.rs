//! What holds for this store beyond the conformance suite: durability, exclusiveness, forgetting, and what reads cost.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rocksdb::{PerfContext, PerfMetric, PerfStatsLevel, perf::set_perf_stats};
use tempfile::TempDir;

use super::*;
use crate::error::{ErrorKind, error_chain};
use crate::online_store::Scan;
use crate::online_store::key::version_key;
use crate::testing::online_store::{online_store_conformance, put, read, value};
use crate::time::FixedClock;

const VIEW: ViewId = ViewId(7);

fn open(folder: &TempDir) -> Result<RocksDbOnlineStore, OnlineStoreError> {
    let clock = FixedClock::at(EventTimestamp::from_micros(0));
    RocksDbOnlineStore::open(&RocksDbOptions::new(folder.path()), Arc::new(clock))
}

/// The folder comes first, so that it is dropped last.
fn new_store() -> (TempDir, RocksDbOnlineStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).unwrap();
    (folder, store)
}

mod conformance {
    use super::*;
    online_store_conformance!(new_store());
}

#[test]
fn a_store_opened_again_has_everything() {
    let (folder, store) = new_store();
    put(&store, VIEW, &[("a", 10, None, 1), ("a", 20, Some(1), 2)]);
    let schemas = store.schemas(VIEW).unwrap();
    drop(store);
    let store = open(&folder).unwrap();
    assert_eq!(read(&store, VIEW, &[Some("a"), Some("b")], 15), [Some((10, None, 1)), None]);
    assert_eq!(read(&store, VIEW, &[Some("a")], 20), [Some((20, Some(1), 2))]);
    assert_eq!(store.schemas(VIEW).unwrap(), schemas);
    assert_eq!(store.position(VIEW).unwrap(), Some(1));
    assert_eq!(store.views().unwrap(), [VIEW]);
}

#[test]
fn answers_are_the_same_after_compaction() {
    let (_folder, store) = new_store();
    put(&store, VIEW, &[("a", 10, None, 1), ("b", 10, None, 2)]);
    put(&store, VIEW, &[("a", 20, None, 3)]);
    store.compact();
    let answers = [9, 10, 20].map(|now| [value(&store, VIEW, "a", now), value(&store, VIEW, "b", now)]);
    assert_eq!(answers, [[None, None], [Some(1), Some(2)], [Some(3), Some(2)]]);
}

#[test]
fn a_bulk_write_of_many_files_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder).unwrap();
    store.bulk_file_bytes = 1 << 10;
    let keys: Vec<String> = (0..5_000).map(|key| format!("key{key:06}")).collect();
    let rows: Vec<_> = keys.iter().zip(0..).map(|(key, value)| (key.as_str(), 10, None, value)).collect();
    put(&store, VIEW, &rows);
    assert!(store.db.live_files().unwrap().len() > 2);
    let asked: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let answers = read(&store, VIEW, &asked, 10);
    assert!(answers.iter().zip(0..).all(|(answer, value)| *answer == Some((10, None, value))));
    assert_eq!(Scan::new(&store, VIEW).count(), 5_000);
    store.delete_view(VIEW).unwrap();
    assert_eq!(Scan::new(&store, VIEW).count(), 0);
    let files = store.db.live_files().unwrap();
    let files = files.iter().filter(|file| file.column_family_name == TIMELINE);
    assert!(files.map(|file| file.size).sum::<usize>() < 1 << 12, "the values' files are gone");
}

#[test]
fn a_read_of_an_absent_key_reads_no_block() {
    let (_folder, store) = new_store();
    let keys: Vec<String> = (0..10_000).map(|key| format!("key{key:06}")).collect();
    let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), 10, None, 1)).collect();
    put(&store, VIEW, &rows);
    // Between present keys, so that only the filter can know.
    let absent: Vec<String> = keys.iter().map(|key| format!("{key}x")).take(1_000).collect();
    let blocks = |keys: &[String]| {
        let asked: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut context = PerfContext::default();
        context.reset();
        let found = read(&store, VIEW, &asked, 20).iter().flatten().count();
        let blocks = context.metric(PerfMetric::BlockReadCount) + context.metric(PerfMetric::BlockCacheHitCount);
        set_perf_stats(PerfStatsLevel::Disable);
        (found, blocks)
    };
    let (found, blocks_of_absent) = blocks(&absent);
    assert_eq!(found, 0);
    assert!(blocks_of_absent < 100, "{blocks_of_absent} blocks for 1000 absent keys");
    let (found, blocks_of_present) = blocks(&keys[..1_000]);
    assert_eq!(found, 1_000);
    assert!(blocks_of_present > 0);
}

/// Event timestamps left of the key `a` after a compaction at clock time 100 with a history of 30.
fn kept(events: &[i64], at: i64) -> Vec<i64> {
    let folder = tempfile::tempdir().unwrap();
    let clock = FixedClock::at(EventTimestamp::from_micros(at));
    let options = RocksDbOptions { history: Some(Duration::from_micros(30)), ..RocksDbOptions::new(folder.path()) };
    let store = RocksDbOnlineStore::open(&options, Arc::new(clock)).unwrap();
    for event in events {
        put(&store, VIEW, &[("a", *event, None, *event), ("b", 1, None, 1), ("`", 1, None, 1)]);
    }
    let before: Vec<_> = (at - 30..at + 5).map(|now| value(&store, VIEW, "a", now)).collect();
    store.compact();
    let after: Vec<_> = (at - 30..at + 5).map(|now| value(&store, VIEW, "a", now)).collect();
    assert_eq!(before, after, "no read within the history changes");
    assert_eq!(["`", "b"].map(|key| value(&store, VIEW, key, at)), [Some(1), Some(1)]);
    let mut kept: Vec<i64> = (0..at + 200).filter_map(|now| value(&store, VIEW, "a", now)).collect();
    kept.dedup();
    kept
}

#[test]
fn compaction_forgets_what_is_past_history() {
    assert_eq!(kept(&[10, 20, 60, 70, 80, 120], 100), [70, 80, 120]);
    assert_eq!(kept(&[120, 80, 70, 60, 20, 10], 100), [70, 80, 120]);
    assert_eq!(kept(&[10, 20], 100), [20]);
    assert_eq!(kept(&[10, 71], 100), [10, 71]);
    assert_eq!(kept(&[10], 100), [10]);
    assert_eq!(kept(&[120, 130], 100), [120, 130]);
}

#[test]
fn without_history_nothing_is_forgotten() {
    let (_folder, store) = new_store();
    put(&store, VIEW, &[("a", -20, None, 1), ("a", -10, None, 2)]);
    store.compact();
    assert_eq!(Scan::new(&store, VIEW).count(), 2);
}

const HOUR: i64 = 3_600_000_000;

/// Puts an entry of each level every hour of `[from, until)`.
fn put_hours(store: &RocksDbOnlineStore, levels: u8, from: i64, until: i64) {
    let mut writer = store.bulk_writer(VIEW).unwrap();
    for level in 0..levels {
        for hour in (from / HOUR..until / HOUR).rev() {
            let mut key = Vec::new();
            let prefix = [&VIEW.0.to_be_bytes()[..], b"a\0\0", &[level]].concat();
            version_key(&prefix, EventTimestamp::from_micros(hour * HOUR), None, &mut key);
            writer.put(&key, b"value").unwrap();
        }
    }
    writer.finish(1).unwrap();
}

/// The instants of a level's entries, oldest first.
fn instants(store: &RocksDbOnlineStore, level: u8) -> Vec<i64> {
    let prefix = [&VIEW.0.to_be_bytes()[..], b"a\0\0", &[level]].concat();
    let (from, until) = (EventTimestamp::from_micros(i64::MIN), EventTimestamp::from_micros(i64::MAX));
    let mut instants = Vec::new();
    store
        .read_stretches(&[Stretch { prefix: &prefix, from, until }], &mut |_, entry| {
            instants.push(entry.event_timestamp.micros());
            Ok(())
        })
        .unwrap();
    instants.reverse();
    instants
}

#[test]
fn after_a_year_there_is_what_the_longest_window_needs() {
    let day = 24 * HOUR;
    let folder = tempfile::tempdir().unwrap();
    let clock = FixedClock::at(EventTimestamp::from_micros(0));
    let history = Duration::from_micros(day as u64);
    let options = RocksDbOptions { history: Some(history), ..RocksDbOptions::new(folder.path()) };
    let mut store = RocksDbOnlineStore::open(&options, Arc::new(clock.clone())).unwrap();
    // Windows of 30 days, and one without end that is read from level 2.
    let retention = [Some(30 * day), Some(31 * day), None];
    store.set_retention(VIEW, &retention).unwrap();
    for month in 0..12 {
        put_hours(&store, 3, month * 30 * day, (month + 1) * 30 * day);
        clock.set(EventTimestamp::from_micros((month + 1) * 30 * day));
        store.compact();
        // What it was told outlives the process.
        drop(store);
        store = RocksDbOnlineStore::open(&options, Arc::new(clock.clone())).unwrap();
    }
    let hours = |from: i64| (from / HOUR..360 * 24).map(|hour| hour * HOUR).collect::<Vec<_>>();
    assert_eq!(instants(&store, 0), hours((360 - 31) * day));
    assert_eq!(instants(&store, 1), hours((360 - 32) * day));
    assert_eq!(instants(&store, 2), hours(0));
    assert_eq!(store.retention(VIEW).unwrap().as_deref(), Some(&retention[..]));
}

#[test]
fn a_deleted_view_leaves_no_version_that_the_filter_could_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FixedClock::at(EventTimestamp::from_micros(1_000));
    let options = RocksDbOptions { history: Some(Duration::ZERO), ..RocksDbOptions::new(folder.path()) };
    let store = RocksDbOnlineStore::open(&options, Arc::new(clock)).unwrap();
    put(&store, VIEW, &[("a", 20, None, 1)]);
    store.compact();
    store.delete_view(VIEW).unwrap();
    put(&store, VIEW, &[("a", 10, None, 2)]);
    store.compact();
    assert_eq!(value(&store, VIEW, "a", 1_000), Some(2));
}

#[test]
fn a_store_in_use_is_locked() {
    let (folder, _store) = new_store();
    let error = open(&folder).unwrap_err();
    assert!(matches!(&error, OnlineStoreError::Locked { path } if path == folder.path()), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_store_of_another_format_version_is_refused() {
    let (folder, store) = new_store();
    store.db.put_cf(&store.meta(), MetaKey::FormatVersion.encode(), 99u32.to_be_bytes()).unwrap();
    drop(store);
    let check = || {
        let error = open(&folder).unwrap_err();
        assert!(matches!(error, OnlineStoreError::FormatVersion { found: 99, supported: 1, .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Precondition);
    };
    check();
    // A later format may have more column families; the message is the same.
    let db = DB::open_cf(&Options::default(), database_folder(folder.path()), [META, TIMELINE]).unwrap();
    db.create_cf("later", &Options::default()).unwrap();
    drop(db);
    check();
}

#[test]
fn another_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, database_folder(folder.path())).unwrap();
    db.put(b"key", b"value").unwrap();
    drop(db);
    let error = open(&folder).unwrap_err();
    assert!(matches!(error, OnlineStoreError::NotAnOnlineStore { .. }), "{error:?}");
}

#[test]
fn a_damaged_store_is_corrupt() {
    let (folder, store) = new_store();
    drop(store);
    std::fs::write(database_folder(folder.path()).join("CURRENT"), b"nothing\n").unwrap();
    let error = open(&folder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error_chain(&error));
}

#[test]
fn a_damaged_block_is_an_error_of_the_read() {
    let (folder, store) = new_store();
    put(&store, VIEW, &[("a", 10, None, 1)]);
    let file = store.db.live_files().unwrap().into_iter().find(|file| file.column_family_name == TIMELINE).unwrap();
    drop(store);
    let path = format!("{}{}", database_folder(folder.path()).display(), file.name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = open(&folder).unwrap();
    let keys = crate::online_store::KeyEncoder::new(VIEW, &[crate::definition::ValueType::String]).unwrap();
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["a"]));
    let keys = keys.encode(&[column], 1).unwrap();
    let error = store.read(&keys, EventTimestamp::from_micros(10), &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error_chain(&error));
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let (folder, store) = new_store();
    drop(store);
    let left = ingest_folder(folder.path()).join("0");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("000000.sst"), b"half a file").unwrap();
    let store = open(&folder).unwrap();
    assert!(!left.exists());
    put(&store, VIEW, &[("a", 10, None, 1)]);
    assert_eq!(value(&store, VIEW, "a", 10), Some(1));
    assert_eq!(std::fs::read_dir(ingest_folder(folder.path())).unwrap().count(), 0);
}

/// Name of the variable that tells [`child_process`] which store to write to.
const CHILD_STORE: &str = "ASOF_TEST_ONLINE_STORE";

/// The body of another process: writes generation after generation of the same rows until it is killed.
#[test]
#[ignore = "run by the tests below, as another process"]
fn child_process() {
    let path = std::env::var(CHILD_STORE).unwrap();
    let clock = FixedClock::at(EventTimestamp::from_micros(0));
    let store = RocksDbOnlineStore::open(&RocksDbOptions::new(path), Arc::new(clock)).unwrap();
    let start = store.position(VIEW).unwrap().unwrap_or_default();
    println!("\nopened");
    for generation in start + 1.. {
        let mut writer = store.bulk_writer(VIEW).unwrap();
        for prefix in child_keys() {
            let mut key = Vec::new();
            version_key(&prefix, EventTimestamp::from_micros(generation as i64), None, &mut key);
            writer.put(&key, &generation.to_be_bytes()).unwrap();
        }
        writer.finish(generation).unwrap();
    }
}

fn child_keys() -> impl Iterator<Item = Vec<u8>> {
    (0..500u32).map(|key| [VIEW.0.to_be_bytes(), key.to_be_bytes()].concat())
}

/// Starts [`child_process`] and waits until it has the store open.
fn start_child(folder: &TempDir) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "online_store::rocksdb::tests::child_process", "--ignored", "--nocapture"])
        .env(CHILD_STORE, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "opened"), "the other process could not open the store");
    child
}

#[test]
fn a_store_in_use_by_another_process_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_child(&folder);
    let error = open(&folder).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, OnlineStoreError::Locked { .. }), "{error:?}");
    open(&folder).unwrap();
}

#[test]
fn a_killed_process_leaves_whole_bulk_writes_and_their_position() {
    let folder = tempfile::tempdir().unwrap();
    let mut positions = Vec::new();
    for wait_ms in [0, 10, 40, 100, 300] {
        let mut child = start_child(&folder);
        std::thread::sleep(Duration::from_millis(wait_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&folder).unwrap();
        let position = store.position(VIEW).unwrap().unwrap_or_default();
        let mut newest: Vec<(Vec<u8>, u64)> = Vec::new();
        for entry in Scan::new(&store, VIEW) {
            let (key, _) = entry.unwrap();
            let (prefix, event, _) = split_version_key(&key).unwrap();
            if newest.last().is_none_or(|(last, _)| last != prefix) {
                newest.push((prefix.to_vec(), event.micros() as u64));
            }
        }
        // The rows are taken in before the position is recorded, so they may be ahead by one bulk write.
        let generation = newest.first().map_or(0, |(_, generation)| *generation);
        assert!(generation == position || generation == position + 1, "{generation} at position {position}");
        assert!(newest.iter().all(|(_, other)| *other == generation), "rows of half a bulk write");
        assert!(newest.is_empty() || newest.len() == child_keys().count());
        assert_eq!(std::fs::read_dir(ingest_folder(folder.path())).unwrap().count(), 0);
        positions.push(position);
    }
    assert!(positions.is_sorted(), "{positions:?}");
    assert!(positions.last() > Some(&0), "{positions:?}");
}
