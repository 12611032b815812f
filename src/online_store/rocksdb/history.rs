//! Forgetting: a compaction filter that drops superseded versions.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::online_store::key::split_version_key;
use crate::time::{Clock, EventTimestamp};

const NAME: &CStr = c"asof.history";

/// Makes a filter for each compaction.
pub(super) struct HistoryFilterFactory {
    pub(super) history: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl CompactionFilterFactory for HistoryFilterFactory {
    type Filter = HistoryFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> HistoryFilter {
        HistoryFilter::new(self.clock.now().saturating_sub(self.history))
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Drops a version if a newer one of the same key has an event timestamp at or before `horizon`: every read at or
/// after the horizon finds that one, or one newer still.
///
/// RocksDB shows the keys of a compaction in order, so the newest version of a key comes first. A compaction that
/// misses the newer version keeps the older one, and a later compaction drops it.
pub(super) struct HistoryFilter {
    horizon: EventTimestamp,
    /// The version key that supersedes all that follow with the same prefix; empty if there is none.
    superseding: Vec<u8>,
}

impl HistoryFilter {
    fn new(horizon: EventTimestamp) -> Self {
        HistoryFilter { horizon, superseding: Vec::new() }
    }

    fn is_superseded(&mut self, key: &[u8]) -> bool {
        let Some((prefix, event_timestamp, _)) = split_version_key(key) else {
            return false;
        };
        let is_newer_known = split_version_key(&self.superseding).is_some_and(|(newer, ..)| newer == prefix);
        if !is_newer_known && event_timestamp <= self.horizon {
            self.superseding.clear();
            self.superseding.extend_from_slice(key);
        }
        // RocksDB may show one key twice, as two writes of it; it does not supersede itself.
        is_newer_known && self.superseding != key
    }
}

impl CompactionFilter for HistoryFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> CompactionDecision {
        if self.is_superseded(key) { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::online_store::key::version_key;

    /// Which versions, written `key event created`, a filter with the horizon at 10 keeps.
    fn check(versions: &[(&str, i64, i64)], kept: &[bool]) {
        let mut filter = HistoryFilter::new(EventTimestamp::from_micros(10));
        let keeps = versions.iter().map(|(key, event, created)| {
            let mut bytes = Vec::new();
            let created = EventTimestamp::from_micros(*created);
            version_key(key.as_bytes(), EventTimestamp::from_micros(*event), Some(created), &mut bytes);
            !filter.is_superseded(&bytes)
        });
        assert_eq!(keeps.collect::<Vec<_>>(), kept, "{versions:?}");
    }

    #[test]
    fn what_an_old_enough_version_supersedes_is_dropped() {
        check(
            &[("aaaa", 12, 0), ("aaaa", 11, 0), ("aaaa", 10, 0), ("aaaa", 9, 0), ("aaaa", 8, 0)],
            &[true, true, true, false, false],
        );
    }

    #[test]
    fn a_lone_old_version_stays() {
        check(&[("aaaa", 1, 0), ("aaab", 2, 0), ("aaac", 20, 0), ("aaac", 1, 0)], &[true, true, true, true]);
    }

    #[test]
    fn the_greatest_created_timestamp_stays() {
        check(&[("aaaa", 10, 3), ("aaaa", 10, 2), ("aaaa", 10, i64::MIN)], &[true, false, false]);
    }

    #[test]
    fn a_key_does_not_supersede_itself() {
        check(&[("aaaa", 10, 3), ("aaaa", 10, 3)], &[true, true]);
    }
}
