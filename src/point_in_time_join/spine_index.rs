//! The spine, by key and time.

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use rayon::slice::ParallelSliceMut;

use super::JoinError;
use super::key_table::{KeyTable, SlotRange};

/// The rows of a spine, grouped by join keys and sorted by time: each has a slot in one flat array.
///
/// Built once and shared: by every view that is joined on the same key columns, and by every thread.
/// A row whose time or any key is null belongs to no group, so nothing is ever found for it.
#[derive(Debug)]
pub struct SpineIndex {
    table: KeyTable,
    keys: Vec<ArrayRef>,
    key_types: Vec<DataType>,
    rows: usize,
    /// Group `g` has the slots from `group_starts[g]` to `group_starts[g + 1]`.
    group_starts: Vec<u32>,
    /// Microseconds; ascending within a group.
    slot_times: Vec<i64>,
    /// The row of the spine that each slot stands for.
    slot_rows: Vec<u32>,
}

/// Group of a row that has none.
const NO_GROUP: u32 = u32::MAX;

impl SpineIndex {
    /// Indexes the rows of a spine: its key columns, in the order that the views' keys will have, and its times.
    ///
    /// Without key columns all rows with a time are one group: that of a global view.
    /// Keys compare by value, part by part.
    ///
    /// # Errors
    /// - [`JoinError::SpineLengths`] if the columns have different lengths.
    /// - [`JoinError::TooManyRows`] from 2³² - 1 rows on.
    /// - [`JoinError::KeyType`] if a key has a type that has no equality, like a map.
    pub fn build(keys: &[ArrayRef], times: &TimestampMicrosecondArray) -> Result<Self, JoinError> {
        let rows = times.len();
        if keys.iter().any(|key| key.len() != rows) {
            let lengths = keys.iter().map(|key| key.len()).chain([rows]).collect();
            return Err(JoinError::SpineLengths { lengths });
        }
        if rows >= NO_GROUP as usize {
            return Err(JoinError::TooManyRows { rows });
        }
        let key_types: Vec<_> = keys.iter().map(|key| key.data_type().clone()).collect();
        let mut table = KeyTable::new(&key_types).map_err(|source| key_error(&key_types, source))?;

        let nulls = NullBuffer::union(any_null(keys).as_ref(), times.nulls());
        let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let mut groups = vec![NO_GROUP; rows];
        let mut group_lens = vec![0_u32; usize::from(keys.is_empty())];
        let member = |row: usize, group: u32| {
            groups[row] = group;
            if group as usize == group_lens.len() {
                group_lens.push(0);
            }
            group_lens[group as usize] += 1;
        };
        table.insert_all(keys, rows, is_valid, member).map_err(|source| JoinError::SpineKeys { source })?;

        let group_starts = starts(&group_lens);
        table.assign_slots(&group_starts);
        let (slot_times, slot_rows) = sorted_slots(&groups, &group_starts, times.values());
        Ok(SpineIndex { table, keys: keys.to_vec(), key_types, rows, group_starts, slot_times, slot_rows })
    }

    /// Number of rows of the spine, those without a group included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The types that the join keys of features must have, too.
    pub fn key_types(&self) -> &[DataType] {
        &self.key_types
    }

    /// Number of distinct keys.
    pub(super) fn group_count(&self) -> usize {
        self.group_starts.len() - 1
    }

    /// Each key once: columns as [`key_types`](Self::key_types) says, one row a group.
    pub(super) fn distinct_keys(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let group_rows = self.groups().filter_map(|group| self.slot_rows.get(group.start).copied());
        let group_rows = UInt32Array::from_iter_values(group_rows);
        self.keys.iter().map(|key| take(key, &group_rows, None)).collect()
    }

    /// The asked times, in microseconds: by group, ascending within each.
    pub(crate) fn slot_times(&self) -> &[i64] {
        &self.slot_times
    }

    /// The row of the spine that each slot stands for.
    pub(crate) fn slot_rows(&self) -> &[u32] {
        &self.slot_rows
    }

    /// The slots of each group.
    pub(crate) fn groups(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.group_starts.windows(2).map(|bounds| bounds[0] as usize..bounds[1] as usize)
    }

    /// The number of the group that starts at this slot.
    pub(crate) fn group_at(&self, slot: u32) -> usize {
        self.group_starts.partition_point(|start| *start < slot)
    }

    /// Where a group starts in the middle between two slots, or as near to it as one does; None: no group starts
    /// between them.
    pub(crate) fn group_start_near(&self, from: u32, to: u32) -> Option<u32> {
        let middle = from + (to - from) / 2;
        let at = self.group_starts.partition_point(|start| *start < middle);
        let before = at.checked_sub(1).map(|at| self.group_starts[at]);
        let candidates = [self.group_starts.get(at).copied(), before];
        candidates.into_iter().flatten().find(|start| from < *start && *start < to)
    }

    /// Writes to `ranges`, for each row, the slots of the group that has its keys: none if there is no such group.
    pub(crate) fn find(&self, keys: &[ArrayRef], rows: usize, ranges: &mut Vec<SlotRange>) -> Result<(), ArrowError> {
        self.table.find_all(keys, rows, ranges)?;
        if let Some(nulls) = any_null(keys) {
            for row in (0..rows).filter(|row| nulls.is_null(*row)) {
                ranges[row] = SlotRange::EMPTY;
            }
        }
        Ok(())
    }
}

/// Null where a row has a null in any key; `None` if no row has.
fn any_null(keys: &[ArrayRef]) -> Option<NullBuffer> {
    let nulls = keys
        .iter()
        .fold(None, |all: Option<NullBuffer>, key| NullBuffer::union(all.as_ref(), key.logical_nulls().as_ref()));
    nulls.filter(|nulls| nulls.null_count() > 0)
}

/// Where each group starts if they follow each other, and the end of the last.
fn starts(group_lens: &[u32]) -> Vec<u32> {
    let mut end = 0;
    let ends = group_lens.iter().map(|len| {
        end += len;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

/// Times and rows of the slots: by group, then time, then row.
fn sorted_slots(groups: &[u32], group_starts: &[u32], times: &[i64]) -> (Vec<i64>, Vec<u32>) {
    let slots = group_starts.last().map_or(0, |end| *end as usize);
    let mut next = group_starts.to_vec();
    let mut sorted = vec![(0_i64, 0_u32); slots];
    for (row, group) in groups.iter().enumerate().filter(|(_, group)| **group != NO_GROUP) {
        let slot = &mut next[*group as usize];
        sorted[*slot as usize] = (times[row], row as u32);
        *slot += 1;
    }
    sort_groups(&mut sorted, group_starts);
    sorted.into_iter().unzip()
}

/// Slots that one thread sorts.
const SORT_SLOTS: usize = 64 << 10;

/// Sorts the slots of each group; `starts` are those of the groups of `slots`, and the end of the last.
fn sort_groups(slots: &mut [(i64, u32)], starts: &[u32]) {
    let groups = starts.len() - 1;
    if groups == 1 {
        return slots.par_sort_unstable();
    }
    if slots.len() <= SORT_SLOTS {
        for bounds in starts.windows(2) {
            slots[(bounds[0] - starts[0]) as usize..(bounds[1] - starts[0]) as usize].sort_unstable();
        }
        return;
    }
    let middle = groups / 2;
    let (left, right) = slots.split_at_mut((starts[middle] - starts[0]) as usize);
    rayon::join(|| sort_groups(left, &starts[..=middle]), || sort_groups(right, &starts[middle..]));
}

fn key_error(key_types: &[DataType], source: ArrowError) -> JoinError {
    let refused = |key: &&DataType| KeyTable::new(std::slice::from_ref(*key)).is_err();
    match key_types.iter().find(refused) {
        Some(data_type) => JoinError::KeyType { data_type: data_type.clone() },
        None => JoinError::SpineKeys { source },
    }
}
