//! From the join keys of a row to the group of spine rows that have them.
//!
//! Open addressing with linear probing, at most half full. The secrets are drawn per table, so that
//! nobody can choose keys that collide; no answer depends on them.

use std::hash::{BuildHasher, Hasher, RandomState};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType as MicrosecondType,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Slots of one group, `[start, end)`; empty: no such group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotRange {
    pub start: u32,
    pub end: u32,
}

impl SlotRange {
    pub const EMPTY: SlotRange = SlotRange { start: 0, end: 0 };

    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// While groups have no slots yet, and where a table keeps numbers: the group itself.
    fn of_group(group: u32) -> Self {
        SlotRange { start: group, end: group + 1 }
    }
}

/// Keys to groups, in the way that suits the types of the keys.
#[derive(Debug)]
pub(super) enum KeyTable {
    /// No key at all: every row belongs to the one group.
    Global { range: SlotRange },
    /// One key of fixed width: compared as the number it is.
    Fixed(Buckets),
    /// One key of text or bytes.
    Bytes(BytesTable),
    /// Anything else: rows are first written as bytes that are equal where the values are.
    Rows { converter: RowConverter, table: BytesTable },
}

impl KeyTable {
    pub fn new(key_types: &[DataType]) -> Result<Self, ArrowError> {
        Ok(match key_types {
            [] => KeyTable::Global { range: SlotRange::EMPTY },
            [key] if is_fixed(key) => KeyTable::Fixed(Buckets::new()),
            [key] if is_bytes(key) => KeyTable::Bytes(BytesTable::new()),
            keys => {
                let fields = keys.iter().cloned().map(SortField::new).collect();
                KeyTable::Rows { converter: RowConverter::new(fields)?, table: BytesTable::new() }
            }
        })
    }

    /// Calls `member(row, group)` for each row that `is_valid`; groups are numbered as they are first seen.
    pub fn insert_all(
        &mut self,
        keys: &[ArrayRef],
        rows: usize,
        is_valid: impl Fn(usize) -> bool,
        mut member: impl FnMut(usize, u32),
    ) -> Result<(), ArrowError> {
        match self {
            KeyTable::Global { .. } => (0..rows).filter(|row| is_valid(*row)).for_each(|row| member(row, 0)),
            KeyTable::Fixed(buckets) => for_each_fixed(&keys[0], |row, key| {
                if is_valid(row) {
                    member(row, buckets.insert(key));
                }
            }),
            KeyTable::Bytes(table) => for_each_bytes(&keys[0], |row, key| {
                if is_valid(row) {
                    member(row, table.insert(key));
                }
            }),
            KeyTable::Rows { converter, table } => {
                let rows = converter.convert_columns(keys)?;
                for (row, key) in rows.iter().enumerate().filter(|(row, _)| is_valid(*row)) {
                    member(row, table.insert(key.data()));
                }
            }
        }
        Ok(())
    }

    /// Ends the inserting: group `g` has the slots from `group_starts[g]` to `group_starts[g + 1]`.
    pub fn assign_slots(&mut self, group_starts: &[u32]) {
        let range = |group: usize| SlotRange { start: group_starts[group], end: group_starts[group + 1] };
        match self {
            KeyTable::Global { range: only } => *only = range(0),
            KeyTable::Fixed(buckets) => {
                for entry in buckets.entries.iter_mut().filter(|entry| !entry.range.is_empty()) {
                    entry.range = range(entry.range.start as usize);
                }
            }
            KeyTable::Bytes(table) | KeyTable::Rows { table, .. } => {
                table.ranges = (0..group_starts.len() - 1).map(range).collect();
            }
        }
    }

    /// Writes the slots of each row's group to `ranges`; what it says about rows with a null key means nothing.
    pub fn find_all(&self, keys: &[ArrayRef], rows: usize, ranges: &mut Vec<SlotRange>) -> Result<(), ArrowError> {
        ranges.clear();
        match self {
            KeyTable::Global { range } => ranges.resize(rows, *range),
            KeyTable::Fixed(buckets) => for_each_fixed(&keys[0], |_, key| ranges.push(buckets.find(key))),
            KeyTable::Bytes(table) => for_each_bytes(&keys[0], |_, key| ranges.push(table.find(key))),
            KeyTable::Rows { converter, table } => {
                let rows = converter.convert_columns(keys)?;
                ranges.extend(rows.iter().map(|key| table.find(key.data())));
            }
        }
        Ok(())
    }
}

/// A number for each key; [`BytesTable`] puts hashes in their place.
#[derive(Debug)]
pub(super) struct Buckets {
    entries: Vec<Entry>,
    /// The bucket is the hash's highest bits.
    shift: u32,
    len: u32,
    secrets: [u64; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: u64,
    range: SlotRange,
}

impl Buckets {
    const BITS_MIN: u32 = 6;

    fn new() -> Self {
        let secret = || RandomState::new().build_hasher().finish();
        Buckets {
            entries: vec![Entry::default(); 1 << Self::BITS_MIN],
            shift: u64::BITS - Self::BITS_MIN,
            len: 0,
            secrets: [secret(), secret() | 1],
        }
    }

    fn find(&self, key: u64) -> SlotRange {
        self.entries[self.bucket(key, |_| true)].range
    }

    fn insert(&mut self, key: u64) -> u32 {
        let bucket = self.bucket(key, |_| true);
        if self.entries[bucket].range.is_empty() { self.occupy(bucket, key) } else { self.entries[bucket].range.start }
    }

    /// The bucket that has `key` and `is_same`, or the free one where it belongs.
    #[inline]
    fn bucket(&self, key: u64, is_same: impl Fn(SlotRange) -> bool) -> usize {
        let product = u128::from(key ^ self.secrets[0]) * u128::from(self.secrets[1]);
        let hash = (product >> 64) as u64 ^ product as u64;
        let mask = self.entries.len() - 1;
        let mut bucket = (hash >> self.shift) as usize & mask;
        loop {
            let entry = &self.entries[bucket];
            if entry.range.is_empty() || (entry.key == key && is_same(entry.range)) {
                return bucket;
            }
            bucket = (bucket + 1) & mask;
        }
    }

    /// Puts a new group into a free bucket.
    fn occupy(&mut self, bucket: usize, key: u64) -> u32 {
        let group = self.len;
        self.entries[bucket] = Entry { key, range: SlotRange::of_group(group) };
        self.len += 1;
        if self.len as usize * 2 > self.entries.len() {
            self.grow();
        }
        group
    }

    fn grow(&mut self) {
        let capacity = self.entries.len() * 2;
        let entries = std::mem::replace(&mut self.entries, vec![Entry::default(); capacity]);
        self.shift -= 1;
        for entry in entries.into_iter().filter(|entry| !entry.range.is_empty()) {
            let bucket = self.bucket(entry.key, |_| false);
            self.entries[bucket] = entry;
        }
    }
}

/// A group for each string of bytes.
#[derive(Debug)]
pub(super) struct BytesTable {
    /// Hashes to groups.
    buckets: Buckets,
    /// The keys, one group after the other.
    bytes: Vec<u8>,
    /// Where each group's key ends.
    ends: Vec<usize>,
    ranges: Vec<SlotRange>,
}

impl BytesTable {
    fn new() -> Self {
        BytesTable { buckets: Buckets::new(), bytes: Vec::new(), ends: vec![0], ranges: Vec::new() }
    }

    fn find(&self, key: &[u8]) -> SlotRange {
        let group = self.buckets.entries[self.bucket(self.hash(key), key)].range;
        if group.is_empty() { SlotRange::EMPTY } else { self.ranges[group.start as usize] }
    }

    fn insert(&mut self, key: &[u8]) -> u32 {
        let hash = self.hash(key);
        let bucket = self.bucket(hash, key);
        let group = self.buckets.entries[bucket].range;
        if !group.is_empty() {
            return group.start;
        }
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        self.buckets.occupy(bucket, hash)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.buckets.secrets[0])
    }

    fn bucket(&self, hash: u64, key: &[u8]) -> usize {
        self.buckets.bucket(hash, |group| {
            let group = group.start as usize;
            &self.bytes[self.ends[group]..self.ends[group + 1]] == key
        })
    }
}

fn is_fixed(key: &DataType) -> bool {
    use DataType::{Boolean, Date32, Int32, Int64, Timestamp};
    matches!(key, Int64 | Int32 | Date32 | Boolean | Timestamp(TimeUnit::Microsecond, _))
}

fn is_bytes(key: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(key, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}

/// Visits every row, nulls too, of a column that [`is_fixed`].
fn for_each_fixed(column: &ArrayRef, mut visit: impl FnMut(usize, u64)) {
    let mut each_i64 = |values: &[i64]| values.iter().enumerate().for_each(|(row, key)| visit(row, *key as u64));
    match column.data_type() {
        DataType::Int64 => each_i64(column.as_primitive::<Int64Type>().values()),
        DataType::Timestamp(..) => each_i64(column.as_primitive::<MicrosecondType>().values()),
        DataType::Int32 => column
            .as_primitive::<Int32Type>()
            .values()
            .iter()
            .enumerate()
            .for_each(|(row, key)| visit(row, *key as u64)),
        DataType::Date32 => column
            .as_primitive::<Date32Type>()
            .values()
            .iter()
            .enumerate()
            .for_each(|(row, key)| visit(row, *key as u64)),
        _ => column.as_boolean().values().iter().enumerate().for_each(|(row, key)| visit(row, u64::from(key))),
    }
}

/// Visits every row, nulls too, of a column that [`is_bytes`].
fn for_each_bytes(column: &ArrayRef, mut visit: impl FnMut(usize, &[u8])) {
    macro_rules! visit_all {
        ($array:expr) => {{
            let array = $array;
            (0..array.len()).for_each(|row| visit(row, array.value(row).as_ref()))
        }};
    }
    match column.data_type() {
        DataType::Utf8 => visit_all!(column.as_string::<i32>()),
        DataType::LargeUtf8 => visit_all!(column.as_string::<i64>()),
        DataType::Utf8View => visit_all!(column.as_string_view()),
        DataType::Binary => visit_all!(column.as_binary::<i32>()),
        DataType::LargeBinary => visit_all!(column.as_binary::<i64>()),
        _ => visit_all!(column.as_binary_view()),
    }
}
