//! Forgetting: a compaction filter that drops superseded versions of rows, and events and tiles that no window sees.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::online_store::key::{ViewId, split_version_key, view_of};
use crate::time::{Clock, EventTimestamp};

const NAME: &CStr = c"asof.history";

/// How long the entries of each level of the aggregation views are read, in microseconds; None: for ever.
type Levels = HashMap<ViewId, Vec<Option<i64>>>;

/// The retention of all aggregation views, shared with compactions; None: not read yet, so that nothing may be dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Retentions(Arc<RwLock<Option<Arc<Levels>>>>);

impl Retentions {
    pub(super) fn load(&self, levels: Levels) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(levels));
    }

    /// Sets or, with None, removes the retention of one view.
    pub(super) fn set(&self, view: ViewId, levels: Option<Vec<Option<i64>>>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = known.as_deref().cloned().unwrap_or_default();
        match levels {
            Some(levels) => changed.insert(view, levels),
            None => changed.remove(&view),
        };
        *known = Some(Arc::new(changed));
    }

    fn known(&self) -> Option<Arc<Levels>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes a filter for each compaction.
pub(super) struct HistoryFilterFactory {
    pub(super) history: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retentions: Retentions,
}

impl CompactionFilterFactory for HistoryFilterFactory {
    type Filter = HistoryFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> HistoryFilter {
        HistoryFilter::new(self.clock.now().saturating_sub(self.history), self.retentions.known())
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
///
/// Of aggregation views it drops an event or tile once no window that ends at or after the horizon can see it.
pub(super) struct HistoryFilter {
    horizon: EventTimestamp,
    /// The version key that supersedes all that follow with the same prefix; empty if there is none.
    superseding: Vec<u8>,
    retentions: Option<Arc<Levels>>,
}

impl HistoryFilter {
    fn new(horizon: EventTimestamp, retentions: Option<Arc<Levels>>) -> Self {
        HistoryFilter { horizon, superseding: Vec::new(), retentions }
    }

    fn is_forgotten(&mut self, key: &[u8]) -> bool {
        let Some(retentions) = &self.retentions else { return false };
        match view_of(key).and_then(|view| retentions.get(&view)) {
            Some(levels) => self.is_out_of_sight(levels, key),
            None => self.is_superseded(key),
        }
    }

    /// Of an aggregation view: the last byte before the timestamps is the level.
    fn is_out_of_sight(&self, levels: &[Option<i64>], key: &[u8]) -> bool {
        let Some((prefix, instant, _)) = split_version_key(key) else { return false };
        let kept = prefix.last().and_then(|level| levels.get(usize::from(*level)).copied()).flatten();
        kept.is_some_and(|kept| instant.micros() < self.horizon.micros().saturating_sub(kept))
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
        if self.is_forgotten(key) { CompactionDecision::Remove } else { CompactionDecision::Keep }
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
        let mut filter = HistoryFilter::new(EventTimestamp::from_micros(10), Some(Arc::default()));
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
