//! What happens to a job's rows between plan and table: incomplete ones are left out, repeated ones kept once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{and, concat_batches, filter_record_batch, is_not_null};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};

use crate::point_in_time_join::ContentOrder;

/// Counts of a run, to be read while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    rows_read: AtomicU64,
    rows_skipped: AtomicU64,
    rows_repeated: AtomicU64,
    rows_sorted: AtomicU64,
}

impl Progress {
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    pub fn rows_skipped(&self) -> u64 {
        self.rows_skipped.load(Ordering::Relaxed)
    }

    pub fn rows_repeated(&self) -> u64 {
        self.rows_repeated.load(Ordering::Relaxed)
    }

    /// Rows that have left the sort and are being written.
    pub fn rows_sorted(&self) -> u64 {
        self.rows_sorted.load(Ordering::Relaxed)
    }

    pub(super) fn reset(&self) {
        for count in [&self.rows_read, &self.rows_skipped, &self.rows_repeated, &self.rows_sorted] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// The frame's rows that have every join key and, where needed, an event timestamp; the others are counted.
///
/// The first `keys` columns are the join keys, the next one is the event timestamp.
pub(super) async fn complete_rows(
    frame: DataFrame,
    keys: usize,
    needs_time: bool,
    progress: Arc<Progress>,
) -> Result<Arc<StreamingTable>> {
    let plan = frame.create_physical_plan().await?;
    let schema = plan.schema();
    let required = keys + usize::from(needs_time);
    let partitions = (0..plan.output_partitioning().partition_count())
        .map(|partition| {
            let plan = Arc::clone(&plan);
            let progress = Arc::clone(&progress);
            Arc::new(CompleteRows { plan, partition, schema: Arc::clone(&schema), required, progress })
                as Arc<dyn PartitionStream>
        })
        .collect();
    Ok(Arc::new(StreamingTable::try_new(schema, partitions)?))
}

/// One partition of a plan without its incomplete rows.
struct CompleteRows {
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    schema: SchemaRef,
    /// How many of the first columns must hold a value.
    required: usize,
    progress: Arc<Progress>,
}

impl fmt::Debug for CompleteRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompleteRows(partition {})", self.partition)
    }
}

impl PartitionStream for CompleteRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let (required, progress) = (self.required, Arc::clone(&self.progress));
        let rows = match self.plan.execute(self.partition, context) {
            Ok(rows) => rows,
            Err(error) => {
                let failed = futures::stream::once(async { Err(error) });
                return Box::pin(RecordBatchStreamAdapter::new(schema, failed));
            }
        };
        let complete = rows.map(move |batch| {
            let batch = batch?;
            let complete = without_nulls(&batch, required)?;
            progress.rows_read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            progress.rows_skipped.fetch_add((batch.num_rows() - complete.num_rows()) as u64, Ordering::Relaxed);
            Ok(complete)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, complete))
    }
}

fn without_nulls(batch: &RecordBatch, required: usize) -> Result<RecordBatch> {
    let mut complete: Option<BooleanArray> = None;
    for column in &batch.columns()[..required] {
        if column.logical_null_count() > 0 {
            let present = is_not_null(column)?;
            complete = Some(match complete {
                Some(others) => and(&others, &present)?,
                None => present,
            });
        }
    }
    match complete {
        Some(complete) => Ok(filter_record_batch(batch, &complete)?),
        None => Ok(batch.clone()),
    }
}

/// Of rows that share join keys, event and created timestamp, the one with the greatest content.
///
/// `rows` are sorted by these columns, which come first; so is the result.
pub(super) fn each_once(
    rows: SendableRecordBatchStream,
    keys: usize,
    progress: Arc<Progress>,
) -> Result<SendableRecordBatchStream> {
    let schema = rows.schema();
    let identity = keys + 2;
    let sort_fields = schema.fields()[..identity].iter().map(|field| SortField::new(field.data_type().clone()));
    let filter = RepeatFilter {
        converter: RowConverter::new(sort_fields.collect())?,
        identity,
        pending: None,
        progress,
        schema: Arc::clone(&schema),
    };
    let once = futures::stream::try_unfold((rows, Some(filter)), |(mut rows, filter)| async move {
        let Some(mut filter) = filter else { return Ok(None) };
        loop {
            match rows.try_next().await? {
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => {
                    let done = filter.push(batch)?;
                    if done.num_rows() > 0 {
                        return Ok(Some((done, (rows, Some(filter)))));
                    }
                }
                None => return Ok(filter.pending.map(|last| (last, (rows, None)))),
            }
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, once)))
}

struct RepeatFilter {
    converter: RowConverter,
    /// How many of the first columns identify a row.
    identity: usize,
    /// The last row so far, which the next batch may repeat.
    pending: Option<RecordBatch>,
    progress: Arc<Progress>,
    schema: SchemaRef,
}

impl RepeatFilter {
    /// The rows that nothing after them can repeat.
    fn push(&mut self, batch: RecordBatch) -> Result<RecordBatch, DataFusionError> {
        self.progress.rows_sorted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        let batch = match self.pending.take() {
            Some(pending) => concat_batches(&self.schema, [&pending, &batch])?,
            None => batch,
        };
        let identities = self.converter.convert_columns(&batch.columns()[..self.identity])?;
        let kept = keep_greatest(&identities, &batch.columns()[self.identity..]);
        let once = match kept {
            Some(kept) => {
                self.progress.rows_repeated.fetch_add((batch.num_rows() - kept.true_count()) as u64, Ordering::Relaxed);
                filter_record_batch(&batch, &kept)?
            }
            None => batch,
        };
        let last = once.num_rows() - 1;
        // A copy, so that one row does not keep its whole batch.
        let index = arrow::array::UInt32Array::from(vec![u32::try_from(last).unwrap_or(u32::MAX)]);
        self.pending = Some(arrow::compute::take_record_batch(&once, &index)?);
        Ok(once.slice(0, last))
    }
}

/// Marks of each run of equal identities the row with the greatest content; None where no two are equal.
fn keep_greatest(identities: &Rows, features: &[ArrayRef]) -> Option<BooleanArray> {
    let rows = identities.num_rows();
    let is_repeat = |row: usize| identities.row(row) == identities.row(row - 1);
    if !(1..rows).any(is_repeat) {
        return None;
    }
    let mut kept = vec![true; rows];
    let mut greatest = 0;
    for row in 1..rows {
        if !is_repeat(row) {
            greatest = row;
        } else if ContentOrder::compare(features, row, features, greatest).is_gt() {
            kept[greatest] = false;
            greatest = row;
        } else {
            kept[row] = false;
        }
    }
    Some(BooleanArray::from(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    /// Rows of (key, event, created, feature), the middle two as plain integers; gives the kept (key, feature) pairs.
    async fn check(rows: &[(&str, i64, i64, i64)], expected: &[(&str, i64)]) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("event", DataType::Int64, true),
            Field::new("created", DataType::Int64, true),
            Field::new("feature", DataType::Int64, true),
        ]));
        let numbers = |pick: fn(&(&str, i64, i64, i64)) -> i64| Int64Array::from_iter_values(rows.iter().map(pick));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(numbers(|row| row.1)),
            Arc::new(numbers(|row| row.2)),
            Arc::new(numbers(|row| row.3)),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        for size in [1, 2, 3, rows.len().max(1)] {
            let parts: Vec<_> = (0..rows.len())
                .step_by(size)
                .map(|start| Ok(batch.slice(start, size.min(rows.len() - start))))
                .collect();
            let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), futures::stream::iter(parts));
            let progress = Arc::new(Progress::default());
            let once = each_once(Box::pin(stream), 1, Arc::clone(&progress)).unwrap();
            let batches: Vec<RecordBatch> = once.try_collect().await.unwrap();
            let once = concat_batches(&schema, &batches).unwrap();
            let keys = once.column(0).as_string::<i32>().iter().flatten();
            let found: Vec<_> = keys.zip(once.column(3).as_primitive::<Int64Type>().values().iter().copied()).collect();
            assert_eq!(found, expected, "in batches of {size}");
            assert_eq!(progress.rows_repeated(), (rows.len() - expected.len()) as u64);
        }
    }

    #[tokio::test]
    async fn of_repeated_rows_the_greatest_content_stays() {
        check(&[], &[]).await;
        check(&[("a", 1, 0, 5)], &[("a", 5)]).await;
        check(&[("a", 1, 0, 5), ("a", 1, 0, 7), ("a", 1, 0, 6)], &[("a", 7)]).await;
        check(&[("a", 1, 0, 9), ("a", 1, 0, 7), ("a", 1, 0, 8), ("a", 1, 1, 1)], &[("a", 9), ("a", 1)]).await;
        let rows = [
            ("a", 1, 0, 1),
            ("a", 1, 0, 2),
            ("b", 1, 0, 4),
            ("b", 1, 0, 3),
            ("b", 2, 0, 0),
            ("c", 1, 0, 1),
            ("c", 1, 0, 1),
        ];
        check(&rows, &[("a", 2), ("b", 4), ("b", 0), ("c", 1)]).await;
    }
}
