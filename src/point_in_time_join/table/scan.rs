//! The rows of a table that the groups of a spine may need, for operators that look at all of them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::errors::ParquetError;
use tokio::task::yield_now;

use super::read::{self, RowGroup};
use super::{NeededTimes, TableReads, TableView, prune, workers};
use crate::point_in_time_join::{JoinError, SpineIndex};

struct Scan {
    view: Arc<TableView>,
    schema: SchemaRef,
    key_types: Vec<DataType>,
    groups: Vec<RowGroup>,
    /// The first group that no stream has taken yet.
    next: AtomicUsize,
    reads: Arc<TableReads>,
}

/// The rows of the pages that may hold what `needed` says, and of no others, in streams that share the row groups.
///
/// `schema`: join keys of the spine's types, event timestamp, created timestamp, and the view's features.
///
/// # Errors
/// [`JoinError::File`] if a file cannot be read.
pub(crate) async fn scan_table(
    index: &SpineIndex,
    view: Arc<TableView>,
    schema: SchemaRef,
    needed: &NeededTimes,
    store: &Arc<dyn ObjectStore>,
    reads: Arc<TableReads>,
) -> Result<Vec<SendableRecordBatchStream>, JoinError> {
    let files = read::open(&view, store).await?;
    let groups = prune::row_groups(index, &view, needed, files, &reads).await?;
    let streams = workers().min(groups.len());
    let key_types = index.key_types().to_vec();
    let scan = Arc::new(Scan { view, schema, key_types, groups, next: AtomicUsize::new(0), reads });
    Ok((0..streams).map(|_| Arc::clone(&scan).stream()).collect())
}

impl Scan {
    fn stream(self: Arc<Self>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let batches = stream::try_unfold((self, None), |(scan, mut batches)| async move {
            // Decoding that never waits would keep the worker from everything else.
            yield_now().await;
            let batch = scan.next(&mut batches).await;
            let batch = batch.map_err(|source| DataFusionError::External(read::failed(&scan.view, source).into()))?;
            Ok(batch.map(|batch| (batch, (scan, batches))))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }

    async fn next(&self, batches: &mut Option<ParquetRecordBatchReader>) -> Result<Option<RecordBatch>, ParquetError> {
        loop {
            if let Some(batch) = batches.as_mut().and_then(Iterator::next) {
                let batch = batch?;
                self.reads.rows_matched.fetch_add(batch.num_rows(), Relaxed);
                return self.columns(&batch).map(Some);
            }
            let Some(group) = self.groups.get(self.next.fetch_add(1, Relaxed)) else { return Ok(None) };
            let view = &self.view;
            let features = view.features.iter().map(|field| field.name());
            let names = view.keys.iter().chain(&view.event_timestamp).chain(&view.created_timestamp).chain(features);
            let names: Vec<&str> = names.map(String::as_str).collect();
            *batches = group.read(&names, group.selection.as_deref()).await?;
        }
    }

    fn columns(&self, batch: &RecordBatch) -> Result<RecordBatch, ParquetError> {
        let view = &self.view;
        let instants = |name: &Option<String>| match name {
            Some(name) => read::column(batch, name, &read::instant_type()),
            None => Ok(new_null_array(&read::instant_type(), batch.num_rows())),
        };
        let keys = view.keys.iter().zip(&self.key_types).map(|(name, data_type)| read::column(batch, name, data_type));
        let mut columns = keys.collect::<Result<Vec<ArrayRef>, _>>()?;
        columns.extend([instants(&view.event_timestamp)?, instants(&view.created_timestamp)?]);
        for field in &view.features {
            columns.push(read::column(batch, field.name(), field.data_type())?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
