//! The feature rows that may still be answers, as parts of the batches they came in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Batches of feature columns, each with the number of its rows that are candidates of some slot.
///
/// A batch goes when its last candidate does, and [sparse](Self::is_due) ones are copied together,
/// so that what is kept stays in proportion to the candidates, not to the rows that went by.
#[derive(Debug)]
pub(super) struct RetainedBatches {
    batches: Vec<Option<RetainedBatch>>,
    /// Candidates of each batch, and one more until it is settled; apart, because it changes with every candidate.
    live: Vec<u32>,
    /// Numbers of batches that are gone.
    free: Vec<u32>,
    rows: usize,
    rows_live: usize,
    bytes: usize,
    sparse_bytes_max: usize,
}

#[derive(Debug)]
pub(super) struct RetainedBatch {
    pub columns: Vec<ArrayRef>,
    /// The rows that were candidates at first; some may have lost their slots since.
    pub candidates: Vec<RowSlot>,
    rows: usize,
    bytes: usize,
}

/// A row of a batch, and a slot that it is or was a candidate of.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSlot {
    pub row: u32,
    pub slot: u32,
}

/// Below this much memory sparse batches are left as they are.
const SPARSE_BYTES_MAX: usize = 32 << 20;

/// One candidate among so many rows, over all batches, makes the time to copy.
const ROWS_PER_CANDIDATE_MAX: usize = 4;

/// Rows of a batch that is made of sparse ones; keeps the offsets of wide values small.
const COMPACTED_ROWS_MAX: usize = 1 << 16;

impl Default for RetainedBatches {
    fn default() -> Self {
        RetainedBatches {
            batches: Vec::new(),
            live: Vec::new(),
            free: Vec::new(),
            rows: 0,
            rows_live: 0,
            bytes: 0,
            sparse_bytes_max: SPARSE_BYTES_MAX,
        }
    }
}

impl RetainedBatches {
    /// Keeps a batch without candidates yet, at least until it is [settled](Self::settle).
    pub fn add(&mut self, columns: Vec<ArrayRef>, rows: usize) -> u32 {
        let bytes = columns.iter().map(|column| column.get_array_memory_size()).sum();
        self.rows += rows;
        self.bytes += bytes;
        let batch = Some(RetainedBatch { columns, candidates: Vec::new(), rows, bytes });
        if let Some(id) = self.free.pop() {
            self.batches[id as usize] = batch;
            self.live[id as usize] = 1;
            return id;
        }
        self.batches.push(batch);
        self.live.push(1);
        (self.batches.len() - 1) as u32
    }

    /// Ends what [`add`](Self::add) began: the batch stays if any of its rows still is a candidate.
    pub fn settle(&mut self, id: u32, candidates: impl FnOnce() -> Vec<RowSlot>) {
        self.live[id as usize] -= 1;
        match &mut self.batches[id as usize] {
            Some(batch) if self.live[id as usize] > 0 => batch.candidates = candidates(),
            _ => self.remove(id),
        }
    }

    #[inline]
    pub fn acquire(&mut self, id: u32) {
        self.live[id as usize] += 1;
        self.rows_live += 1;
    }

    /// A row of the batch is no candidate any more; with the last one the batch goes.
    #[inline]
    pub fn release(&mut self, id: u32) {
        self.live[id as usize] -= 1;
        self.rows_live -= 1;
        if self.live[id as usize] == 0 {
            self.remove(id);
        }
    }

    #[cold]
    pub fn remove(&mut self, id: u32) {
        if let Some(batch) = self.batches[id as usize].take() {
            self.rows -= batch.rows;
            self.bytes -= batch.bytes;
            self.rows_live -= self.live[id as usize] as usize;
            self.live[id as usize] = 0;
            self.free.push(id);
        }
    }

    /// The columns of a batch that has candidates.
    pub fn columns(&self, id: u32) -> &[ArrayRef] {
        &self.batches[id as usize].as_ref().expect("a batch with candidates stays").columns
    }

    /// What the batch was [settled](Self::settle) with.
    pub fn candidates(&self, id: u32) -> &[RowSlot] {
        self.batches[id as usize].as_ref().map_or(&[], |batch| &batch.candidates)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &RetainedBatch)> {
        let numbered = self.batches.iter().enumerate();
        numbered.filter_map(|(id, batch)| Some((id as u32, batch.as_ref()?)))
    }

    /// Takes over the batches of `other` with their counts; returns their numbers here, by their numbers there.
    pub fn absorb(&mut self, other: RetainedBatches) -> Vec<u32> {
        let mut renumbered = vec![u32::MAX; other.batches.len()];
        for (old, batch) in other.batches.into_iter().enumerate() {
            if let Some(batch) = batch {
                let id = self.add(batch.columns, batch.rows);
                renumbered[old] = id;
                self.live[id as usize] += other.live[old];
                self.rows_live += other.live[old] as usize;
                self.settle(id, || batch.candidates);
            }
        }
        renumbered
    }

    /// Whether so much of the memory holds rows that are no candidates that copying pays.
    pub fn is_due(&self) -> bool {
        self.rows > ROWS_PER_CANDIDATE_MAX * self.rows_live && self.bytes > self.sparse_bytes_max
    }

    #[cfg(test)]
    pub fn leave_sparse(&mut self, bytes_max: usize) {
        self.sparse_bytes_max = bytes_max;
    }

    #[cfg(test)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Batches of which less than half the rows are candidates.
    pub fn sparse(&self) -> Vec<u32> {
        let is_sparse = |(id, batch): &(u32, &RetainedBatch)| self.live[*id as usize] as usize * 2 < batch.rows;
        self.iter().filter(is_sparse).map(|(id, _)| id).collect()
    }

    /// Copies the given candidates, `(batch, row and slot)`, to new batches, in their order.
    ///
    /// Calls `moved(slot, batch, row)` for each; the old batches stay until they are [removed](Self::remove).
    pub fn copy_together(
        &mut self,
        candidates: &[(u32, RowSlot)],
        mut moved: impl FnMut(u32, u32, u32),
    ) -> Result<(), ArrowError> {
        for candidates in candidates.chunks(COMPACTED_ROWS_MAX) {
            let columns = self.copy(candidates)?;
            let id = self.add(columns, candidates.len());
            self.live[id as usize] += candidates.len() as u32;
            self.rows_live += candidates.len();
            let rows = candidates.iter().enumerate();
            let rows = rows.map(|(row, (_, old))| RowSlot { row: row as u32, slot: old.slot }).collect::<Vec<_>>();
            rows.iter().for_each(|row| moved(row.slot, id, row.row));
            self.settle(id, || rows);
        }
        Ok(())
    }

    fn copy(&self, candidates: &[(u32, RowSlot)]) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut ids: Vec<u32> = candidates.iter().map(|(id, _)| *id).collect();
        ids.dedup();
        let mut at = 0;
        let position = |(id, row): &(u32, RowSlot)| {
            if ids[at] != *id {
                at += 1;
            }
            (at, row.row as usize)
        };
        let indices: Vec<(usize, usize)> = candidates.iter().map(position).collect();
        let columns = ids.first().map_or(0, |id| self.columns(*id).len());
        let copy_column = |column: usize| {
            let parts: Vec<&dyn Array> = ids.iter().map(|id| self.columns(*id)[column].as_ref()).collect();
            Ok(without_waste(interleave(&parts, &indices)?))
        };
        (0..columns).map(copy_column).collect()
    }
}

/// Views of texts and bytes keep the whole buffers of all they were made from; copies the bytes out of them.
pub(super) fn without_waste(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array,
    }
}
