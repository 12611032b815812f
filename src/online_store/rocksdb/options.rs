//! How RocksDB is set up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, SliceTransform};

use super::history::{HistoryFilterFactory, Retentions};
use crate::online_store::key::VERSION_SUFFIX_LEN;
use crate::online_store::stream::merge_rows;
use crate::time::Clock;

/// Settings of a [`RocksDbOnlineStore`](super::RocksDbOnlineStore).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksDbOptions {
    /// Folder of the store, made where there is none; nothing else may live in it.
    pub path: PathBuf,
    /// How long a version may be asked for after a newer one took its place; None: for ever.
    pub history: Option<Duration>,
    /// Memory for blocks of values. Indexes and filters, about two bytes for each key, come on top.
    pub block_cache_bytes: usize,
}

impl RocksDbOptions {
    pub const BLOCK_CACHE_BYTES_DEFAULT: usize = 256 << 20;

    pub fn new(path: impl Into<PathBuf>) -> Self {
        RocksDbOptions {
            path: path.into(),
            history: None,
            block_cache_bytes: RocksDbOptions::BLOCK_CACHE_BYTES_DEFAULT,
        }
    }
}

/// Length of the files of a bulk write: that of the files compaction writes, so that it never has much to rewrite at a time.
pub(super) const BULK_FILE_BYTES: u64 = 64 << 20;

/// Bytes of RocksDB's log: what a start after a kill has to read of it.
const WAL_BYTES_MAX: u64 = 96 << 20;

/// Options of the database as a whole.
pub(super) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.increase_parallelism(std::thread::available_parallelism().map_or(2, |n| n.get().min(8) as i32));
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(16 << 20);
    // RocksDB's own log is kept for the family that was written to its files least, and is read again after a kill.
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options
}

/// Options of the column family of values.
pub(super) fn timeline_options(settings: &RocksDbOptions, clock: &Arc<dyn Clock>, retentions: &Retentions) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(settings.block_cache_bytes));
    table.set_block_size(8 << 10);
    // Reads seek by prefix and never look up a whole key.
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(false);
    options.set_block_based_table_factory(&table);
    options.set_prefix_extractor(SliceTransform::create("asof.key", prefix, Some(has_prefix)));
    options.set_memtable_prefix_bloom_ratio(0.02);
    // What streams write lies here until it is full, and is read from RocksDB's log after a kill.
    options.set_write_buffer_size(32 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_merge_operator_associative(ROWS_OPERATOR, |_, stored, operands| {
        merge_rows(stored.into_iter().chain(operands.iter()))
    });
    if let Some(history) = settings.history {
        options.set_compaction_filter_factory(HistoryFilterFactory {
            history,
            clock: Arc::clone(clock),
            retentions: retentions.clone(),
        });
    }
    options
}

/// Name of the operator that puts together the rows of streams.
const ROWS_OPERATOR: &str = "asof.rows";

/// Options of the column family of event ids, which are looked up whole.
pub(super) fn event_ids_options() -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_write_buffer_size(32 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

/// Options of the files of a bulk write: those of the column family, compressed for speed. Compaction to the last
/// level compresses them better.
pub(super) fn bulk_file_options(timeline: &Options) -> Options {
    let mut options = timeline.clone();
    options.set_bottommost_compression_type(DBCompressionType::Lz4);
    options
}

/// A version key without its timestamps. All versions of a key are neighbours, which is what RocksDB asks of it.
fn prefix(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(VERSION_SUFFIX_LEN)]
}

fn has_prefix(key: &[u8]) -> bool {
    key.len() > VERSION_SUFFIX_LEN
}
