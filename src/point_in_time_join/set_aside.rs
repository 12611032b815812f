//! Answers of views that wait for those of the others.

use arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::common::{Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::SpillManager;
use futures::TryStreamExt;

/// A view's columns of the answer, read from the first row to the last.
pub(super) enum SetAside {
    Memory { columns: Vec<ArrayRef>, next_row: usize },
    Disk(SendableRecordBatchStream),
}

impl SetAside {
    pub fn in_memory(columns: Vec<ArrayRef>) -> Self {
        SetAside::Memory { columns, next_row: 0 }
    }

    /// Writes at least one column to a temporary file, to be read back `rows` at a time.
    pub fn on_disk(columns: Vec<ArrayRef>, rows: usize, spills: &SpillManager) -> Result<Self> {
        let all = RecordBatch::try_new(spills.schema().clone(), columns)?;
        let mut file = spills.create_in_progress_file("setting a view's answer aside")?;
        for first in (0..all.num_rows()).step_by(rows) {
            file.append_batch(&all.slice(first, rows.min(all.num_rows() - first)))?;
        }
        match file.finish()? {
            Some(file) => Ok(SetAside::Disk(spills.read_spill_as_stream_unbuffered(file, None)?)),
            None => Ok(SetAside::in_memory(all.columns().to_vec())),
        }
    }

    /// The next `rows` rows, which are those of one call of [`SetAside::on_disk`] or what is left of them.
    pub async fn next(&mut self, rows: usize) -> Result<Vec<ArrayRef>> {
        match self {
            SetAside::Memory { columns, next_row } => {
                let first = *next_row;
                *next_row += rows;
                Ok(columns.iter().map(|column| column.slice(first, rows)).collect())
            }
            SetAside::Disk(batches) => match batches.try_next().await? {
                Some(batch) if batch.num_rows() == rows => Ok(batch.columns().to_vec()),
                _ => internal_err!("what was set aside on disk ends before its last row"),
            },
        }
    }
}
