//! Which event times the groups of a spine need.

use super::TableView;
use crate::point_in_time_join::SpineIndex;

/// For each group of a spine the event times that its answers are made of, as ranges that ascend.
#[derive(Debug, Default)]
pub(crate) struct NeededTimes {
    /// The ranges of group `g` are those from `starts[g]` to `starts[g + 1]`.
    starts: Vec<usize>,
    /// First and last instant, both included, in microseconds.
    ranges: Vec<(i64, i64)>,
}

impl NeededTimes {
    /// One list of ranges a group, in the order of the groups.
    pub fn new<R: IntoIterator<Item = (i64, i64)>>(groups: impl Iterator<Item = R>) -> Self {
        let mut needed = NeededTimes { starts: vec![0], ranges: Vec::new() };
        for ranges in groups {
            needed.ranges.extend(ranges);
            needed.starts.push(needed.ranges.len());
        }
        needed
    }

    /// What each group sees from its asked times, of rows as old as the TTL allows.
    pub(super) fn of_join(index: &SpineIndex, view: &TableView) -> Self {
        let ttl = view.ttl.filter(|_| !view.tell_aged).and_then(|ttl| i64::try_from(ttl.as_micros()).ok());
        Self::new(index.groups().map(|group| {
            let asked = &index.slot_times()[group];
            let range = asked.first().zip(asked.last());
            range.map(|(first, last)| (ttl.map_or(i64::MIN, |ttl| first.saturating_sub(ttl)), *last))
        }))
    }

    pub fn of_group(&self, group: usize) -> &[(i64, i64)] {
        &self.ranges[self.starts[group]..self.starts[group + 1]]
    }

    /// The first and the last time that any group needs.
    pub(super) fn bounds(&self) -> Option<(i64, i64)> {
        self.ranges.iter().copied().reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}
