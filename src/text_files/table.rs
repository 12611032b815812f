//! The rows of text files as a table of DataFusion.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::TableType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::Expr;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::blocks::{Block, blocks, csv_blocks};
use super::survey::{Column, csv_array, csv_texts, decoded, json_column, json_objects};
use super::{TextFile, TextFileError, TextFiles, TextFormat};

/// Files with the columns that a survey found.
#[derive(Debug)]
pub struct TextTable {
    files: TextFiles,
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl TextTable {
    pub fn new(files: TextFiles, columns: Vec<Column>) -> Self {
        let fields: Vec<Field> =
            columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)).collect();
        TextTable { files, columns, schema: Arc::new(Schema::new(fields)) }
    }
}

#[async_trait]
impl TableProvider for TextTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let wanted = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(wanted)?);
        let columns: Arc<[Column]> = wanted.iter().map(|position| self.columns[*position].clone()).collect();
        let files = &self.files.files;
        let per_partition = files.len().div_ceil(session.config().target_partitions().max(1)).max(1);
        let partition = |files: &[TextFile]| {
            Arc::new(TextPartition {
                files: TextFiles { files: files.to_vec(), ..self.files.clone() },
                columns: Arc::clone(&columns),
                schema: Arc::clone(&schema),
            }) as Arc<dyn PartitionStream>
        };
        let partitions = files.chunks(per_partition).map(partition).collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), partitions, None, [], false, limit)?))
    }
}

/// Files that are read one after the other.
struct TextPartition {
    files: TextFiles,
    columns: Arc<[Column]>,
    schema: SchemaRef,
}

impl fmt::Debug for TextPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&str> = self.files.files.iter().map(|file| file.shown.as_str()).collect();
        write!(f, "TextPartition({})", files.join(", "))
    }
}

impl PartitionStream for TextPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let TextFiles { format, store, files } = self.files.clone();
        let (columns, schema) = (Arc::clone(&self.columns), Arc::clone(&self.schema));
        let rows = stream::iter(files)
            .then(move |file| file_rows(format, Arc::clone(&store), file, Arc::clone(&columns), Arc::clone(&schema)))
            .try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

async fn file_rows(
    format: TextFormat,
    store: Arc<dyn ObjectStore>,
    file: TextFile,
    columns: Arc<[Column]>,
    schema: SchemaRef,
) -> Result<Batches, DataFusionError> {
    let shown = file.shown.clone();
    Ok(match format {
        TextFormat::Csv => {
            let (header, blocks) = csv_blocks(&store, &file).await?;
            decoded(blocks, move |block| csv_rows(&shown, &block, &header, &columns, &schema)).boxed()
        }
        TextFormat::Json => {
            let blocks = blocks(&store, &file, format);
            decoded(blocks, move |block| json_rows(&shown, &block, &columns, &schema)).boxed()
        }
    })
}

fn csv_rows(
    file: &str,
    block: &Block,
    header: &[String],
    columns: &[Column],
    schema: &SchemaRef,
) -> Result<RecordBatch, TextFileError> {
    let positions: Vec<Option<usize>> =
        columns.iter().map(|column| header.iter().position(|name| *name == column.name)).collect();
    let wanted: Vec<usize> = positions.iter().flatten().copied().collect();
    let (lines, texts) = csv_texts(file, block, header.len(), &wanted)?;
    let mut texts = texts.iter();
    let array = |(column, position): (&Column, &Option<usize>)| match position.and_then(|_| texts.next()) {
        Some(texts) => csv_array(file, &lines, texts, column),
        None => Ok(new_null_array(&column.data_type, lines.len())),
    };
    let arrays = columns.iter().zip(&positions).map(array).collect::<Result<_, _>>()?;
    Ok(batch(schema, arrays, lines.len()))
}

fn json_rows(file: &str, block: &Block, columns: &[Column], schema: &SchemaRef) -> Result<RecordBatch, TextFileError> {
    let (lines, objects) = json_objects(file, block)?;
    let arrays = columns.iter().map(|column| json_column(file, &lines, &objects, column)).collect::<Result<_, _>>()?;
    Ok(batch(schema, arrays, lines.len()))
}

fn batch(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).expect("each column is read by its type")
}
