//! The files of a source as a table, columns under the names they have there.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig};
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;

use super::files::SourceFiles;
use super::source::Compiler;
use super::{CompileError, SourceFilesError};
use crate::definition::{BatchLocation, FileFormat, Source, ValueType, ViewInput};
use crate::settings::resolve;
use crate::text_files::{Column, DeclaredTypes, TextFile, TextFiles, TextFormat, TextTable};

/// Parquet files whose columns are looked at at once.
const FILES_AT_ONCE: usize = 32;

impl Compiler {
    /// # Errors
    /// No batch location, or [`CompileError::Unreadable`].
    pub(super) async fn open(&self, source: &Source) -> Result<Arc<dyn TableProvider>, CompileError> {
        let Some(BatchLocation { format, path }) = &source.batch else {
            return Err(CompileError::NoBatchLocation { name: source.name.clone() });
        };
        let location = resolve(&self.project, path);
        let opened = match format {
            FileFormat::Delta => open_delta(&location).await.map_err(SourceFilesError::from),
            FileFormat::Parquet => parquet_table(&self.context, &self.project, &location).await,
            FileFormat::Csv => self.open_text(source, &location, TextFormat::Csv).await,
            FileFormat::Json => self.open_text(source, &location, TextFormat::Json).await,
        };
        opened.map_err(|error| CompileError::Unreadable {
            name: source.name.clone(),
            path: path.clone(),
            source: Box::new(error),
        })
    }

    /// Text carries no types: columns are read by those that definitions declare for them.
    async fn open_text(
        &self,
        source: &Source,
        location: &str,
        format: TextFormat,
    ) -> Result<Arc<dyn TableProvider>, SourceFilesError> {
        let file_format = match format {
            TextFormat::Csv => FileFormat::Csv,
            TextFormat::Json => FileFormat::Json,
        };
        let found = SourceFiles::find(&self.context, location, file_format).await?;
        let file = |file: &ObjectMeta| TextFile {
            shown: found.shown(file, &self.project),
            location: file.location.clone(),
            bytes: file.size,
        };
        let files =
            TextFiles { format, store: Arc::clone(&found.store), files: found.files.iter().map(file).collect() };
        let mut columns = files.survey(&self.declared_types(source)).await?;
        if format == TextFormat::Json {
            add_columns_of_schema(source, &mut columns);
        }
        Ok(Arc::new(TextTable::new(files, columns)))
    }

    /// Name in the files to type, of the columns whose type some definition says.
    fn declared_types(&self, source: &Source) -> DeclaredTypes {
        let mut types = DeclaredTypes::new();
        for name in source.event_timestamp.iter().chain(&source.created_timestamp) {
            types.insert(name_in_files(source, name), ValueType::Timestamp);
        }
        for field in &source.schema {
            types.entry(name_in_files(source, &field.name)).or_insert_with(|| field.value_type.clone());
        }
        for view in &self.definitions.feature_views {
            if matches!(&view.input, ViewInput::Rows { source: name } if *name == source.name) {
                for field in self.definitions.join_keys(view).iter().chain(&view.features) {
                    types.entry(name_in_files(source, &field.name)).or_insert_with(|| field.value_type.clone());
                }
            }
        }
        types
    }
}

/// The rows of the Parquet files at `location`; a column that some of them do not have is null there.
///
/// `project`: messages name the files below it without its path.
///
/// # Errors
/// A file that is none, or that has a column twice; files whose columns have different types, which differ in more than
/// how values are encoded.
pub async fn parquet_table(
    context: &SessionContext,
    project: &Path,
    location: &str,
) -> Result<Arc<dyn TableProvider>, SourceFilesError> {
    let found = SourceFiles::find(context, location, FileFormat::Parquet).await?;
    let cache = context.runtime_env().cache_manager.get_file_metadata_cache();
    let mut reading: Vec<BoxFuture<'_, Result<(String, Schema), SourceFilesError>>> = Vec::new();
    for file in &found.files {
        reading.push(parquet_schema(&found, file, project, Arc::clone(&cache)).boxed());
    }
    let schemas: Vec<(String, Schema)> = stream::iter(reading).buffered(FILES_AT_ONCE).try_collect().await?;
    let mut all = Schema::empty();
    for (file, schema) in schemas {
        let schemas = [in_one_encoding(&all, &schema), in_one_encoding(&schema, &all)];
        all = Schema::try_merge(schemas).map_err(|source| SourceFilesError::Types { file, source })?;
    }
    let format = ParquetFormat::default().with_force_view_types(false);
    let options = ListingOptions::new(Arc::new(format)).with_file_extension("");
    let config = ListingTableConfig::new_with_multi_paths(found.urls()?);
    Ok(Arc::new(ListingTable::try_new(config.with_listing_options(options).with_schema(Arc::new(all)))?))
}

async fn parquet_schema(
    found: &SourceFiles,
    file: &ObjectMeta,
    project: &Path,
    cache: Arc<FileMetadataCache>,
) -> Result<(String, Schema), SourceFilesError> {
    let shown = found.shown(file, project);
    let metadata = DFParquetMetadata::new(found.store.as_ref(), file).with_file_metadata_cache(Some(cache));
    match metadata.fetch_schema().await {
        Err(source) => Err(SourceFilesError::Parquet { file: shown, source: Box::new(source) }),
        Ok(schema) => match repeated_column(&schema) {
            Some(column) => Err(SourceFilesError::ColumnTwice { file: shown, column }),
            None => Ok((shown, without_metadata(&schema))),
        },
    }
}

/// A line of JSON leaves out what is null, and all lines may.
fn add_columns_of_schema(source: &Source, columns: &mut Vec<Column>) {
    for field in &source.schema {
        let name = name_in_files(source, &field.name);
        if columns.iter().all(|column| column.name != name) {
            columns.push(Column::declared(&name, &field.value_type));
        }
    }
}

/// The name of a column before `rename`.
pub(super) fn name_in_files(source: &Source, name: &str) -> String {
    source.rename.iter().find(|(_, here)| *here == name).map_or(name, |(file, _)| file).to_owned()
}

fn repeated_column(schema: &Schema) -> Option<String> {
    let mut seen = HashSet::new();
    schema.fields().iter().find(|field| !seen.insert(field.name())).map(|field| field.name().clone())
}

/// The columns of `schema`; one that `other` has as well, and that differs from it in how values are encoded at most,
/// plainly encoded.
fn in_one_encoding(schema: &Schema, other: &Schema) -> Schema {
    let field = |field: &Arc<Field>| match other.field_with_name(field.name()) {
        Ok(same) if same.data_type() != field.data_type() && plain(same.data_type()) == plain(field.data_type()) => {
            field.as_ref().clone().with_data_type(plain(field.data_type()))
        }
        _ => field.as_ref().clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

/// The type of the same values without dictionaries, long offsets or views.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::new_list(plain(item.data_type()), true),
        other => other.clone(),
    }
}

/// What a writer notes about its columns differs from file to file.
fn without_metadata(schema: &Schema) -> Schema {
    let plain = |field: &Arc<Field>| field.as_ref().clone().with_metadata(HashMap::new());
    Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>())
}

async fn open_delta(location: &str) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let external = |error: deltalake::DeltaTableError| DataFusionError::External(Box::new(error));
    let url = deltalake::ensure_table_uri(location).map_err(external)?;
    let table = deltalake::open_table(url).await.map_err(external)?;
    table.table_provider().await
}
