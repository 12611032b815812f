//! A source as a DataFusion table: its columns under their names here, instants in microseconds UTC.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::prelude::{DataFrame, Expr, SessionContext, ident};

use super::adapt::adapt_expr;
use super::as_stored::AsStored;
use super::{CompileError, TypeMismatch};
use crate::definition::{Definitions, FileFormat, Owner, Source, ValueType, nearest};

/// Compiles one set of definitions; sources are opened when first needed.
pub struct Compiler {
    pub(super) definitions: Arc<Definitions>,
    pub(super) context: SessionContext,
    pub(super) project: PathBuf,
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
