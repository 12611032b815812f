//! Parquet files, row group by row group.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowSelection, RowSelectionPolicy,
};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::file_reader::FileReader;
use super::{TableFile, TableView};
use crate::point_in_time_join::JoinError;

/// Rows of a batch: their keys and times stay in the cache while they are looked at.
const BATCH_ROWS: usize = 8192;
/// Files whose footers or page indexes are read at the same time.
pub const OPEN_AT_ONCE: usize = 8;

/// A file whose footer has been read.
#[derive(Debug, Clone)]
pub struct OpenFile {
    reader: FileReader,
    pub metadata: ArrowReaderMetadata,
}

/// The part of a row group that may hold an answer.
#[derive(Debug)]
pub struct RowGroup {
    pub file: OpenFile,
    pub row_group: usize,
    /// Rows of the whole group.
    pub rows: usize,
    /// Rows to look at; None: all.
    pub selection: Option<Vec<Range<usize>>>,
}

/// Reads the footers of a view's files.
pub async fn open(view: &TableView, store: &Arc<dyn ObjectStore>) -> Result<Vec<OpenFile>, JoinError> {
    let opening = view.files.files.clone().into_iter().map(|file: TableFile| {
        let store = Arc::clone(store);
        async move {
            let path =
                Path::parse(&file.path).map_err(|error| failed(view, ParquetError::External(Box::new(error))))?;
            let reader = FileReader { store, path, bytes: file.bytes };
            OpenFile::load(reader).await.map_err(|source| failed(view, source))
        }
    });
    futures::stream::iter(opening).buffered(OPEN_AT_ONCE).try_collect().await
}

pub fn failed(view: &TableView, source: ParquetError) -> JoinError {
    JoinError::File { view: view.name.clone(), source }
}

impl OpenFile {
    async fn load(mut reader: FileReader) -> Result<Self, ParquetError> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
        let metadata = ArrowReaderMetadata::load_async(&mut reader, options).await?;
        Ok(OpenFile { reader, metadata })
    }

    /// The same file with the statistics of its pages, if it has them.
    pub async fn with_page_index(mut self) -> Result<Self, ParquetError> {
        let footer = self.metadata.metadata().as_ref().clone();
        let mut reader =
            ParquetMetaDataReader::new_with_metadata(footer).with_page_index_policy(PageIndexPolicy::Optional);
        reader.load_page_index(&mut self.reader).await?;
        let metadata = Arc::new(reader.finish()?);
        let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
        Ok(OpenFile { reader: self.reader, metadata })
    }
}

impl RowGroup {
    /// Reads the columns of these names that the file has, of the given rows (None: all).
    pub async fn read(
        &self,
        columns: &[&str],
        rows: Option<&[Range<usize>]>,
    ) -> Result<Option<ParquetRecordBatchReader>, ParquetError> {
        let parquet_schema = self.file.metadata.parquet_schema();
        let roots = parquet_schema.root_schema().get_fields().iter().enumerate();
        let wanted = roots.filter(|(_, field)| columns.contains(&field.name())).map(|(position, _)| position);
        let projection = ProjectionMask::roots(parquet_schema, wanted);
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(self.file.reader.clone(), self.file.metadata.clone())
                .with_batch_size(BATCH_ROWS)
                .with_projection(projection)
                .with_row_groups(vec![self.row_group]);
        if let Some(rows) = rows {
            let selection = RowSelection::from_consecutive_ranges(rows.iter().cloned(), self.rows);
            builder = builder.with_row_selection(selection).with_row_selection_policy(RowSelectionPolicy::Selectors);
        }
        builder.build()?.next_row_group().await
    }
}

/// A column of a batch in the type that is expected of it: other engines that rewrite files may store equal values
/// otherwise. Null where the file has no such column.
pub fn column(batch: &RecordBatch, name: &str, expected: &DataType) -> Result<ArrayRef, ParquetError> {
    match batch.column_by_name(name) {
        Some(column) if column.data_type() == expected => Ok(Arc::clone(column)),
        Some(column) => Ok(cast(column, expected)?),
        None => Ok(new_null_array(expected, batch.num_rows())),
    }
}

/// The type of instants, as tables hold them.
pub fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}
