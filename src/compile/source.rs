//! A source as a DataFusion table: its columns under their names here, instants in microseconds UTC.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::prelude::{DataFrame, Expr, SessionContext, ident};

use super::adapt::adapt_expr;
use super::{CompileError, TypeMismatch};
use crate::arrow_types::arrow_type;
use crate::definition::{Definitions, FileFormat, Source, ValueType, ViewInput, nearest};
use crate::settings::resolve;

/// Compiles one set of definitions; sources are opened when first needed.
pub struct Compiler {
    pub(super) definitions: Arc<Definitions>,
    pub(super) context: SessionContext,
    project: PathBuf,
}

impl Compiler {
    /// `project` is the folder that relative paths start from.
    pub fn new(definitions: Arc<Definitions>, project: impl Into<PathBuf>, context: SessionContext) -> Self {
        Compiler { definitions, context, project: project.into() }
    }

    /// The rows of a source: every column under its name here, its instants in microseconds UTC.
    ///
    /// # Errors
    /// [`CompileError::Unreadable`], or a column that the source names and the files do not have.
    pub async fn source(&self, source: &Source) -> Result<DataFrame, CompileError> {
        let provider = self.open(source).await.map_err(|error| self.unreadable(source, error))?;
        let frame = self.context.read_table(provider)?;
        let file_schema = Arc::clone(frame.schema().inner());
        let names = names_here(source, &file_schema)?;
        let mut columns = Vec::new();
        for (field, name) in file_schema.fields().iter().zip(&names) {
            columns.push(self.source_column(source, field, name)?.alias(name));
        }
        for needed in source.event_timestamp.iter().chain(&source.created_timestamp) {
            require_column(needed, &names, || format!("source `{}`", source.name), || "its data".to_owned())?;
        }
        Ok(frame.select(columns)?)
    }

    fn source_column(&self, source: &Source, field: &Field, name: &str) -> Result<Expr, CompileError> {
        let column = ident(field.name().as_str());
        let is_time = [&source.event_timestamp, &source.created_timestamp].iter().any(|t| t.as_deref() == Some(name));
        let declared = source.schema.iter().find(|declared| declared.name == name).map(|d| d.value_type.clone());
        let wanted = match (is_time, declared, field.data_type()) {
            (true, ..) | (_, None, DataType::Timestamp(..)) => Some(ValueType::Timestamp),
            (_, Some(declared), _) => Some(declared),
            (_, None, DataType::Utf8View | DataType::LargeUtf8) => Some(ValueType::String),
            (_, None, DataType::BinaryView | DataType::LargeBinary) => Some(ValueType::Bytes),
            _ => None,
        };
        let Some(wanted) = wanted else { return Ok(column) };
        adapt_expr(column, field.data_type(), &wanted).map_err(|mismatch| CompileError::Type {
            owner: format!("source `{}`", source.name),
            column: name.to_owned(),
            mismatch: if is_time { time_mismatch(mismatch) } else { mismatch },
        })
    }

    async fn open(&self, source: &Source) -> Result<Arc<dyn TableProvider>, DataFusionError> {
        let Some(batch) = &source.batch else {
            return Err(DataFusionError::Plan("the source has no batch location".to_owned()));
        };
        let location = resolve(&self.project, &batch.path);
        if batch.format == FileFormat::Delta {
            return open_delta(&location).await;
        }
        let url = listing_url(&location)?;
        self.register_store(&url)?;
        let options = listing_options(batch.format, &url);
        let state = self.context.state();
        let found = options.infer_schema(&state, &url).await?;
        let schema = match batch.format {
            FileFormat::Csv | FileFormat::Json => self.typed_as_declared(source, &found),
            _ => found,
        };
        let config = ListingTableConfig::new(url).with_listing_options(options).with_schema(schema);
        Ok(Arc::new(ListingTable::try_new(config)?))
    }

    /// Text formats carry no types: columns are read by the types that definitions declare for them.
    fn typed_as_declared(&self, source: &Source, found: &SchemaRef) -> SchemaRef {
        let declared = self.declared_types(source);
        let here = |field: &Field| source.rename.get(field.name()).unwrap_or(field.name()).clone();
        let fields = found.fields().iter().map(|field| match declared.get(&here(field)) {
            Some(value_type) => Arc::new(Field::new(field.name(), arrow_type(value_type), true)),
            None => Arc::clone(field),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Name here to type, of the columns whose type some definition says.
    fn declared_types(&self, source: &Source) -> BTreeMap<String, ValueType> {
        let mut types = BTreeMap::new();
        for name in source.event_timestamp.iter().chain(&source.created_timestamp) {
            types.insert(name.clone(), ValueType::Timestamp);
        }
        for field in &source.schema {
            types.entry(field.name.clone()).or_insert_with(|| field.value_type.clone());
        }
        for view in &self.definitions.feature_views {
            if matches!(&view.input, ViewInput::Rows { source: name } if *name == source.name) {
                for field in self.definitions.join_keys(view).iter().chain(&view.features) {
                    types.entry(field.name.clone()).or_insert_with(|| field.value_type.clone());
                }
            }
        }
        types
    }

    fn register_store(&self, url: &ListingTableUrl) -> Result<(), DataFusionError> {
        if url.scheme() == "file" {
            return Ok(());
        }
        let (store, _) = object_store::parse_url_opts(url.get_url(), std::env::vars())
            .map_err(|error| DataFusionError::ObjectStore(Box::new(error)))?;
        self.context.register_object_store(url.object_store().as_ref(), Arc::from(store));
        Ok(())
    }

    fn unreadable(&self, source: &Source, error: DataFusionError) -> CompileError {
        match &source.batch {
            Some(batch) => CompileError::Unreadable {
                name: source.name.clone(),
                path: batch.path.clone(),
                source: Box::new(error),
            },
            None => CompileError::NoBatchLocation { name: source.name.clone() },
        }
    }
}

fn time_mismatch(mismatch: TypeMismatch) -> TypeMismatch {
    let remedy = "event and created timestamps are read from timestamps and dates; for numbers use an SQL view with \
                  to_timestamp_seconds, to_timestamp_millis or to_timestamp_micros";
    TypeMismatch { remedy: remedy.to_owned(), ..mismatch }
}

/// The names of the file's columns here; every renamed column has to be there.
fn names_here(source: &Source, schema: &SchemaRef) -> Result<Vec<String>, CompileError> {
    let file_names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    for column in source.rename.keys() {
        require_column(
            column,
            &file_names,
            || format!("`rename` of source `{}`", source.name),
            || "its data".to_owned(),
        )?;
    }
    let names: Vec<String> =
        file_names.into_iter().map(|name| source.rename.get(&name).cloned().unwrap_or(name)).collect();
    let mut seen = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name, index) {
            return Err(CompileError::Plan(Box::new(DataFusionError::Plan(format!(
                "source `{}`: columns {} and {} are both called `{name}`; rename one of them",
                source.name,
                first + 1,
                index + 1
            )))));
        }
    }
    Ok(names)
}

/// # Errors
/// [`CompileError::MissingColumn`] with the nearest name there is.
pub(super) fn require_column(
    column: &str,
    present: &[String],
    owner: impl Fn() -> String,
    place: impl Fn() -> String,
) -> Result<(), CompileError> {
    if present.iter().any(|name| name == column) {
        return Ok(());
    }
    let nearest = nearest(column, present.iter().map(String::as_str)).map(str::to_owned);
    Err(CompileError::MissingColumn { owner: owner(), column: column.to_owned(), place: place(), nearest })
}

fn listing_url(location: &str) -> Result<ListingTableUrl, DataFusionError> {
    if !location.contains("://") && !location.contains(['*', '?', '[']) && !std::path::Path::new(location).exists() {
        return Err(DataFusionError::Plan("there is no such file or folder".to_owned()));
    }
    ListingTableUrl::parse(location)
}

/// A folder's files are chosen by their ending, and a named file is taken whatever its name is.
fn listing_options(format: FileFormat, url: &ListingTableUrl) -> ListingOptions {
    let (options, ending) = match format {
        FileFormat::Csv => (ListingOptions::new(Arc::new(CsvFormat::default().with_has_header(true))), ".csv"),
        FileFormat::Json => (ListingOptions::new(Arc::new(JsonFormat::default())), "json"),
        FileFormat::Parquet | FileFormat::Delta => {
            (ListingOptions::new(Arc::new(ParquetFormat::default().with_force_view_types(false))), ".parquet")
        }
    };
    options.with_file_extension(if url.is_collection() { ending } else { "" })
}

async fn open_delta(location: &str) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let external = |error: deltalake::DeltaTableError| DataFusionError::External(Box::new(error));
    let url = deltalake::ensure_table_uri(location).map_err(external)?;
    let table = deltalake::open_table(url).await.map_err(external)?;
    table.table_provider().await
}
