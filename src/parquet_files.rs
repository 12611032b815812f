//! Parquet files as Asof writes them: columns encoded by what they hold, on all cores.

use std::collections::HashSet;
use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowLeafColumn, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;

/// Values of a column that are looked at to choose its encoding.
const SAMPLE_VALUES: usize = 2048;
/// Rows that are encoded at once, and about what they take, since as many are held in memory.
const ROW_GROUP_ROWS: usize = 128 * 1024;
const ROW_GROUP_BYTES: usize = 64 << 20;
const ROW_GROUP_ROWS_MIN: usize = 8 * 1024;
/// What a column's value takes, about.
const VALUE_BYTES: usize = 8;

/// Snappy, but for columns that it hardly makes smaller, which are then read without a copy; and no dictionary for those
/// whose values hardly repeat: it would only grow until it is given up.
///
/// `sample`: some of the rows that will be written, in their order.
pub fn properties(sample: &RecordBatch) -> WriterPropertiesBuilder {
    let mut builder = WriterProperties::builder().set_compression(Compression::SNAPPY);
    for (field, column) in sample.schema().fields().iter().zip(sample.columns()) {
        let (path, values) = leaf(field.name(), column);
        let Some(values) = values.filter(|values| !repeats(values)) else { continue };
        builder = builder.set_column_dictionary_enabled(path.clone(), false);
        if !shrinks(&values) {
            builder = builder.set_column_compression(path, Compression::UNCOMPRESSED);
        }
    }
    builder
}

/// Whether Snappy takes a tenth off the first values, as they lie in memory; what is no plain number always does.
fn shrinks(values: &ArrayRef) -> bool {
    let Some(width) = values.data_type().primitive_width() else { return true };
    let data = values.to_data();
    let start = data.offset() * width;
    let bytes = &data.buffers()[0].as_slice()[start..start + values.len().min(SAMPLE_VALUES) * width];
    let compressed = snap::raw::Encoder::new().compress_vec(bytes);
    compressed.is_ok_and(|compressed| compressed.len() * 10 <= bytes.len() * 9)
}

/// The Parquet column that holds a column's values, and these; None for maps and other nested types.
fn leaf(name: &str, column: &ArrayRef) -> (ColumnPath, Option<ArrayRef>) {
    match column.data_type() {
        DataType::List(item) => {
            let path = ColumnPath::new(vec![name.to_owned(), "list".to_owned(), item.name().clone()]);
            let values = column.as_list::<i32>().values();
            (path, (!item.data_type().is_nested()).then(|| values.clone()))
        }
        data_type => (ColumnPath::from(name.to_owned()), (!data_type.is_nested()).then(|| column.clone())),
    }
}

/// Whether less than half of the values are distinct, as far as a sample tells.
fn repeats(values: &ArrayRef) -> bool {
    let step = values.len().div_ceil(SAMPLE_VALUES).max(1);
    let sampled = (0..values.len()).step_by(step).filter(|row| values.is_valid(*row)).map(|row| row as u32);
    let sampled = arrow::array::UInt32Array::from_iter_values(sampled);
    let rows = arrow::compute::take(values, &sampled, None).and_then(|values| {
        RowConverter::new(vec![SortField::new(values.data_type().clone())])?.convert_columns(&[values])
    });
    let Ok(rows) = rows else { return true };
    let distinct: HashSet<&[u8]> = rows.iter().map(|row| row.data()).collect();
    distinct.len() * 2 < rows.num_rows() || rows.num_rows() < 2
}

/// Writes a file row group by row group, the columns of each side by side.
pub struct ParallelWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    row_group_rows: usize,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
}

impl<W: Write + Send> ParallelWriter<W> {
    /// # Errors
    /// A type that Parquet has no counterpart for.
    pub fn try_new(sink: W, schema: SchemaRef, properties: WriterProperties) -> Result<Self, ParquetError> {
        let writer = ArrowWriter::try_new(sink, SchemaRef::clone(&schema), Some(properties))?;
        let (writer, columns) = writer.into_serialized_writer()?;
        let fitting = ROW_GROUP_BYTES / (VALUE_BYTES * schema.fields().len().max(1));
        let row_group_rows = fitting.clamp(ROW_GROUP_ROWS_MIN, ROW_GROUP_ROWS);
        Ok(ParallelWriter { writer, columns, schema, row_group_rows, pending: Vec::new(), pending_rows: 0 })
    }

    /// # Errors
    /// A sink that cannot be written to.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        let mut rest = batch.clone();
        while self.pending_rows + rest.num_rows() >= self.row_group_rows {
            let fitting = self.row_group_rows - self.pending_rows;
            self.pending.push(rest.slice(0, fitting));
            rest = rest.slice(fitting, rest.num_rows() - fitting);
            self.write_row_group()?;
        }
        if rest.num_rows() > 0 {
            self.pending_rows += rest.num_rows();
            self.pending.push(rest);
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// A sink that cannot be written to.
    pub fn close(mut self) -> Result<(), ParquetError> {
        if self.pending_rows > 0 {
            self.write_row_group()?;
        }
        self.writer.close()?;
        Ok(())
    }

    fn write_row_group(&mut self) -> Result<(), ParquetError> {
        let batches = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        let row_group = self.writer.flushed_row_groups().len();
        let mut writers = self.columns.create_column_writers(row_group)?.into_iter();
        let mut jobs: Vec<(Vec<ArrowColumnWriter>, usize)> = Vec::new();
        for (column, field) in self.schema.fields().iter().enumerate() {
            let leaves = leaf_count(field.data_type());
            jobs.push((writers.by_ref().take(leaves).collect(), column));
        }
        let encoded: Result<Vec<Vec<ArrowColumnChunk>>, ParquetError> = jobs
            .into_par_iter()
            .map(|(mut writers, column)| {
                for batch in &batches {
                    let leaves: Vec<ArrowLeafColumn> = compute_leaves(self.schema.field(column), batch.column(column))?;
                    for (writer, leaf) in writers.iter_mut().zip(&leaves) {
                        writer.write(leaf)?;
                    }
                }
                writers.into_iter().map(ArrowColumnWriter::close).collect()
            })
            .collect();
        let mut row_group = self.writer.next_row_group()?;
        for column in encoded?.into_iter().flatten() {
            column.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }
}

/// Parquet columns of a column.
fn leaf_count(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            leaf_count(item.data_type())
        }
        DataType::Map(entries, _) => leaf_count(entries.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| leaf_count(field.data_type())).sum(),
        _ => 1,
    }
}
