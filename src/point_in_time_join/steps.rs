//! The spine in steps that fit in memory.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

/// What a text or list takes, about.
const VARIABLE_WIDTH_BYTES: usize = 48;

/// What a value of the field takes, about.
pub(crate) fn value_bytes(field: &Field) -> usize {
    field.data_type().primitive_width().unwrap_or(match field.data_type() {
        DataType::Boolean => 1,
        _ => VARIABLE_WIDTH_BYTES,
    })
}

/// The spine, cut into steps.
pub(crate) struct Steps {
    spine: SendableRecordBatchStream,
    schema: SchemaRef,
    /// Rows of a step.
    rows: usize,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    is_done: bool,
}

impl Steps {
    pub(crate) fn new(spine: SendableRecordBatchStream, schema: SchemaRef, rows: usize) -> Self {
        Steps { spine, schema, rows, pending: Vec::new(), pending_rows: 0, is_done: false }
    }

    /// The next rows of the spine, as many as a step has, fewer only at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.pending_rows < self.rows && !self.is_done {
            match self.spine.try_next().await? {
                Some(batch) => {
                    self.pending_rows += batch.num_rows();
                    self.pending.push(batch);
                }
                None => self.is_done = true,
            }
        }
        if self.pending_rows == 0 {
            return Ok(None);
        }
        let rows = match self.pending.as_slice() {
            [only] => only.clone(),
            several => concat_batches(&self.schema, several)?,
        };
        let taken = self.rows.min(rows.num_rows());
        let rest = rows.slice(taken, rows.num_rows() - taken);
        self.pending_rows = rest.num_rows();
        self.pending = if self.pending_rows > 0 { vec![rest] } else { Vec::new() };
        Ok(Some(rows.slice(0, taken)))
    }
}
