//! A source as a DataFusion table: its columns under their names here, instants in microseconds UTC.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::cast;
use datafusion::prelude::{DataFrame, Expr, SessionContext, ident, lit};

use super::adapt::{adapt_expr, declarable};
use super::as_stored::AsStored;
use super::view::instant;
use super::{CompileError, TypeMismatch};
use crate::arrow_types::{arrow_field, arrow_type};
use crate::definition::{
    Definitions, Field as FieldDefinition, FileFormat, Owner, Source, SourceName, ValueType, nearest,
};

/// Compiles one set of definitions; sources are opened when first needed.
pub struct Compiler {
    pub(super) definitions: Arc<Definitions>,
    pub(super) context: SessionContext,
    pub(super) project: PathBuf,
    /// Archived events, by source.
    events: HashMap<SourceName, Arc<dyn TableProvider>>,
    events_only: bool,
}

impl Compiler {
    /// `project` is the folder that relative paths start from.
    pub fn new(definitions: Arc<Definitions>, project: impl Into<PathBuf>, context: SessionContext) -> Self {
        Compiler { definitions, context, project: project.into(), events: HashMap::new(), events_only: false }
    }

    /// Adds the events of streams to the rows of their sources; of sources not named, what lies in files is all.
    pub fn with_events(self, events: HashMap<SourceName, Arc<dyn TableProvider>>) -> Self {
        Compiler { events, ..self }
    }

    /// Takes the events of streams for all rows of their sources.
    pub fn events_only(self) -> Self {
        Compiler { events_only: true, ..self }
    }

    /// The rows of a source: every column under its name here, its instants in microseconds UTC.
    ///
    /// # Errors
    /// [`CompileError::Unreadable`], or a column that the source names and the files do not have.
    pub async fn source(&self, source: &Source) -> Result<DataFrame, CompileError> {
        let (located, events) = (self.located_rows(source).await?, self.event_rows(source)?);
        match (located, events) {
            (Some(located), Some(events)) => {
                let columns = source.stream.iter().flat_map(|stream| &stream.columns);
                let columns = columns.map(|column| ident(column.name.as_str())).collect::<Vec<_>>();
                Ok(located.select(columns)?.union(events)?)
            }
            (Some(rows), None) | (None, Some(rows)) => Ok(rows),
            (None, None) => Err(CompileError::NoBatchLocation { name: source.name.clone() }),
        }
    }

    /// The columns of the events of a source's stream: those of its location, else those that it declares.
    ///
    /// # Errors
    /// As of [`Self::source`]; an event id that is missing, or of a type that tells no event from another.
    pub async fn stream_columns(&self, source: &Source) -> Result<Vec<FieldDefinition>, CompileError> {
        let columns: Vec<FieldDefinition> = match &source.batch {
            None => {
                let is_time = |name: &str| {
                    [&source.event_timestamp, &source.created_timestamp]
                        .iter()
                        .any(|time| time.as_deref() == Some(name))
                };
                let typed = |field: &FieldDefinition| match is_time(&field.name) {
                    true => FieldDefinition { value_type: ValueType::Timestamp, ..field.clone() },
                    false => field.clone(),
                };
                source.schema.iter().map(typed).collect()
            }
            Some(_) => {
                let rows = self.located(source).await?;
                let field = |field: &Arc<Field>| {
                    let value_type = declarable(field.data_type())?;
                    Some(FieldDefinition { name: field.name().clone(), value_type, description: None })
                };
                rows.schema().fields().iter().filter_map(field).collect()
            }
        };
        if let Some(id) = &source.event_id {
            let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
            require_column(id, &names, &Owner::Source(source.name.clone()), "its data")?;
            if let Some(column) = columns.iter().find(|column| column.name == *id && !column.value_type.is_join_key()) {
                let (name, found) = (source.name.clone(), column.value_type.clone());
                return Err(CompileError::EventId { name, column: id.clone(), found });
            }
        }
        Ok(columns)
    }

    /// The rows of the source's location that count; None: it has none, or none is wanted.
    async fn located_rows(&self, source: &Source) -> Result<Option<DataFrame>, CompileError> {
        if source.batch.is_none() || (self.events_only && source.stream.is_some()) {
            return Ok(None);
        }
        let rows = self.located(source).await?;
        match (source.stream_from, &source.event_timestamp) {
            (Some(from), Some(time)) => {
                let time = || ident(time.as_str());
                Ok(Some(rows.filter(time().lt(lit(instant(from.micros()))).or(time().is_null()))?))
            }
            _ => Ok(Some(rows)),
        }
    }

    /// The events of the source's stream that count, in the declared types; None: it has none, or they are not wanted.
    fn event_rows(&self, source: &Source) -> Result<Option<DataFrame>, CompileError> {
        let Some(stream) = &source.stream else { return Ok(None) };
        let provider = match self.events.get(&source.name) {
            Some(provider) => Arc::clone(provider),
            None if source.batch.is_some() && !self.events_only => return Ok(None),
            None => Arc::new(EmptyTable::new(Arc::new(Schema::new(
                stream.columns.iter().map(arrow_field).collect::<Vec<_>>(),
            )))),
        };
        let rows = self.context.read_table(provider)?;
        let schema = Arc::clone(rows.schema().inner());
        let column = |column: &FieldDefinition| {
            let wanted = arrow_type(&column.value_type);
            match schema.field_with_name(&column.name) {
                Ok(field) if *field.data_type() == wanted => ident(column.name.as_str()),
                Ok(_) => cast(ident(column.name.as_str()), wanted).alias(column.name.as_str()),
                // The column is newer than the events.
                Err(_) => cast(lit(ScalarValue::Null), wanted).alias(column.name.as_str()),
            }
        };
        let rows = rows.select(stream.columns.iter().map(column).collect::<Vec<_>>())?;
        match (source.stream_from, &source.event_timestamp) {
            (Some(from), Some(time)) => Ok(Some(rows.filter(ident(time.as_str()).gt_eq(lit(instant(from.micros()))))?)),
            _ => Ok(Some(rows)),
        }
    }

    async fn located(&self, source: &Source) -> Result<DataFrame, CompileError> {
        let provider = self.open(source).await?;
        let frame = self.context.read_table(provider)?;
        let file_schema = Arc::clone(frame.schema().inner());
        let names = names_here(source, &file_schema)?;
        let mut columns = Vec::new();
        for (field, name) in file_schema.fields().iter().zip(&names) {
            columns.push(self.source_column(source, field, name)?.alias(name));
        }
        let in_schema = source.schema.iter().map(|field| &field.name);
        for needed in source.event_timestamp.iter().chain(&source.created_timestamp).chain(in_schema) {
            require_column(needed, &names, &Owner::Source(source.name.clone()), "its data")?;
        }
        Ok(frame.select(columns)?)
    }

    fn source_column(&self, source: &Source, field: &Field, name: &str) -> Result<Expr, CompileError> {
        let column = match ident(field.name().as_str()) {
            column if field.data_type().is_floating() && has_statistics(source) => AsStored::udf().call(vec![column]),
            column => column,
        };
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
            owner: Owner::Source(source.name.clone()),
            column: name.to_owned(),
            mismatch: if is_time { time_mismatch(mismatch) } else { mismatch },
        })
    }
}

/// Whether files say what their least and greatest values are.
fn has_statistics(source: &Source) -> bool {
    let format = source.batch.as_ref().map(|batch| batch.format);
    matches!(format, Some(FileFormat::Parquet | FileFormat::Delta))
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
        require_column(column, &file_names, &Owner::Source(source.name.clone()), "its data")?;
    }
    let name_here = |name: &String| source.rename.get(name).unwrap_or(name).clone();
    let names: Vec<String> = file_names.iter().map(name_here).collect();
    let mut seen = HashMap::new();
    for (file_name, name) in file_names.iter().zip(&names) {
        if let Some(first) = seen.insert(name, file_name) {
            return Err(CompileError::SameColumn {
                name: source.name.clone(),
                column: name.clone(),
                first: first.clone(),
                second: file_name.clone(),
            });
        }
    }
    Ok(names)
}

/// # Errors
/// [`CompileError::MissingColumn`] with the nearest name there is.
pub(super) fn require_column(column: &str, present: &[String], owner: &Owner, place: &str) -> Result<(), CompileError> {
    if present.iter().any(|name| name == column) {
        return Ok(());
    }
    let nearest = nearest(column, present.iter().map(String::as_str)).map(str::to_owned);
    Err(CompileError::MissingColumn {
        owner: owner.clone(),
        column: column.to_owned(),
        place: place.to_owned(),
        nearest,
    })
}
