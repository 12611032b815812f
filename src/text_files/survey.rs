//! What columns files have: those that are declared, each with its values as declared, and what the others hold.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use futures::TryStreamExt;
use serde_json::{Map, Value};

use super::blocks::{Block, Blocks, blocks, csv_blocks};
use super::cells::{CellKinds, parse_cells};
use super::csv::{Cell, Records};
use super::json::{BadValue, Found, JsonValue, Texts, json_array, merge_fields, parse_object};
use super::{TextFile, TextFileError, TextFiles, TextFormat, TextProblem, remedy, shown};
use crate::arrow_types::{arrow_type, type_name};
use crate::definition::ValueType;

/// A column of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    /// Else its type is that of its values.
    pub is_declared: bool,
}

impl Column {
    pub fn declared(name: &str, value_type: &ValueType) -> Column {
        Column { name: name.to_owned(), data_type: arrow_type(value_type), is_declared: true }
    }
}

/// Types by the name of the column in the files.
pub type DeclaredTypes = BTreeMap<String, ValueType>;

impl TextFiles {
    /// The columns of all files, in the order they appear in. Reads every row.
    ///
    /// # Errors
    /// A file that cannot be read, a value that a declared type does not have, a declared column that only some CSV
    /// files have.
    pub async fn survey(&self, declared: &DeclaredTypes) -> Result<Vec<Column>, DataFusionError> {
        match self.format {
            TextFormat::Csv => self.survey_csv(declared).await,
            TextFormat::Json => self.survey_json(declared).await,
        }
    }

    async fn survey_csv(&self, declared: &DeclaredTypes) -> Result<Vec<Column>, DataFusionError> {
        let mut names: Vec<String> = Vec::new();
        let mut kinds: BTreeMap<String, CellKinds> = BTreeMap::new();
        let mut headers: Vec<(&TextFile, Vec<String>)> = Vec::new();
        for file in &self.files {
            let (header, found) = self.survey_csv_file(file, declared).await?;
            for (name, found) in header.iter().zip(found) {
                kinds.entry(name.clone()).or_default().merge(found);
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            headers.push((file, header));
        }
        check_headers(&headers, declared)?;
        // Columns without a name cannot be asked for.
        let column = |name: &String| match declared.get(name) {
            Some(value_type) => Column::declared(name, value_type),
            None => Column { name: name.clone(), data_type: arrow_type(&kinds[name].value_type()), is_declared: false },
        };
        Ok(names.iter().filter(|name| !name.is_empty()).map(column).collect())
    }

    /// The header, and what the cells of each column look like that is not declared.
    async fn survey_csv_file(
        &self,
        file: &TextFile,
        declared: &DeclaredTypes,
    ) -> Result<(Vec<String>, Vec<CellKinds>), DataFusionError> {
        let (header, blocks) = csv_blocks(&self.store, file).await?;
        let column = |name: &String| declared.get(name).map(|value_type| Column::declared(name, value_type));
        let columns: Vec<Option<Column>> = header.iter().map(column).collect();
        check_scalar(file, &columns, declared)?;
        let (shown, width) = (file.shown.clone(), header.len());
        let none = vec![CellKinds::default(); width];
        let found = decoded(blocks, move |block| cell_kinds(&shown, &block, width, &columns));
        let merge = async |mut all: Vec<CellKinds>, block: Vec<CellKinds>| {
            all.iter_mut().zip(block).for_each(|(known, kinds)| known.merge(kinds));
            Ok(all)
        };
        Ok((header, found.try_fold(none, merge).await?))
    }

    async fn survey_json(&self, declared: &DeclaredTypes) -> Result<Vec<Column>, DataFusionError> {
        let columns: Vec<Column> = declared.iter().map(|(name, ty)| Column::declared(name, ty)).collect();
        let columns: Arc<[Column]> = columns.into();
        let mut fields: Vec<(String, Found)> = Vec::new();
        for file in &self.files {
            let (shown, columns) = (file.shown.clone(), Arc::clone(&columns));
            let found = decoded(blocks(&self.store, file, TextFormat::Json), move |block| {
                found_fields(&shown, &block, &columns)
            });
            fields = found.try_fold(fields, async |all, block| Ok(merge_fields(all, block))).await?;
        }
        let column = |(name, found): &(String, Found)| match declared.get(name) {
            Some(value_type) => Column::declared(name, value_type),
            None => Column { name: name.clone(), data_type: found.data_type(), is_declared: false },
        };
        Ok(fields.iter().map(column).collect())
    }
}

/// What `decode` makes of each block, in order; several are decoded at once.
pub(super) fn decoded<T: Send + 'static>(
    blocks: Blocks,
    decode: impl Fn(Block) -> Result<T, TextFileError> + Clone + Send + Sync + 'static,
) -> impl futures::Stream<Item = Result<T, DataFusionError>> + Send {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    blocks.map_ok(move |block| spawned(decode.clone(), block)).try_buffered(at_once)
}

fn spawned<T: Send + 'static>(
    decode: impl Fn(Block) -> Result<T, TextFileError> + Send + 'static,
    block: Block,
) -> impl Future<Output = Result<T, DataFusionError>> + Send {
    let decoded = tokio::task::spawn_blocking(move || decode(block));
    async { Ok(decoded.await.map_err(|error| DataFusionError::External(Box::new(error)))??) }
}

fn check_scalar(file: &TextFile, columns: &[Option<Column>], declared: &DeclaredTypes) -> Result<(), TextFileError> {
    let is_nested = |column: &&Column| column.data_type.is_nested();
    match columns.iter().flatten().find(is_nested) {
        None => Ok(()),
        Some(Column { name, .. }) => {
            let problem = TextProblem::Nested { column: name.clone(), declared: declared[name].to_string() };
            Err(TextFileError::new(&file.shown, 1, problem))
        }
    }
}

/// Checks that a declared column of one file is in all of them.
fn check_headers(headers: &[(&TextFile, Vec<String>)], declared: &DeclaredTypes) -> Result<(), TextFileError> {
    for column in declared.keys() {
        let Some((having, _)) = headers.iter().find(|(_, header)| header.contains(column)) else { continue };
        if let Some((file, header)) = headers.iter().find(|(_, header)| !header.contains(column)) {
            let (column, other, header) = (column.clone(), having.shown.clone(), header.clone());
            let problem = TextProblem::MissingColumn { column, other, header };
            return Err(TextFileError::new(&file.shown, 1, problem));
        }
    }
    Ok(())
}

fn cell_kinds(
    file: &str,
    block: &Block,
    width: usize,
    columns: &[Option<Column>],
) -> Result<Vec<CellKinds>, TextFileError> {
    let (lines, texts) = csv_texts(file, block, width, &(0..width).collect::<Vec<_>>())?;
    let mut kinds = vec![CellKinds::default(); width];
    for ((column, texts), kinds) in columns.iter().zip(&texts).zip(&mut kinds) {
        match column {
            Some(column) => drop(csv_array(file, &lines, texts, column)?),
            None => texts.iter().flatten().for_each(|cell| kinds.add(cell)),
        }
    }
    Ok(kinds)
}

/// The line of each record, and the cells of the wanted columns.
pub(super) fn csv_texts(
    file: &str,
    block: &Block,
    width: usize,
    wanted: &[usize],
) -> Result<(Vec<usize>, Vec<StringArray>), TextFileError> {
    let failed = |line, problem| TextFileError::new(file, line, problem);
    let mut records = Records::new(&block.text, block.line);
    let mut cells: Vec<Cell<'_>> = Vec::with_capacity(width);
    let mut lines = Vec::new();
    let mut columns: Vec<StringBuilder> = wanted.iter().map(|_| StringBuilder::new()).collect();
    while let Some(line) = records.read(&mut cells).map_err(|quote| failed(quote.line, TextProblem::OpenQuote))? {
        if cells.len() != width {
            return Err(failed(line, TextProblem::CellCount { cells: cells.len(), header: width }));
        }
        for (position, column) in wanted.iter().zip(&mut columns) {
            column.append_option(cells[*position].as_deref());
        }
        lines.push(line);
    }
    Ok((lines, columns.into_iter().map(|mut column| column.finish()).collect()))
}

/// The values of a column's cells, each read as the column's type.
///
/// # Errors
/// The first cell that cannot be read so, with its line.
pub fn csv_array(file: &str, lines: &[usize], cells: &StringArray, column: &Column) -> Result<ArrayRef, TextFileError> {
    parse_cells(cells, &column.data_type).map_err(|row| {
        let mut kinds = CellKinds::default();
        kinds.add(cells.value(row));
        let is = arrow_type(&kinds.value_type());
        let problem = TextProblem::Value {
            column: column.name.clone(),
            found: format!("`{}`", shown(cells.value(row))),
            declared: type_name(&column.data_type),
            remedy: remedy(&column.data_type, &is, false),
        };
        TextFileError::new(file, lines[row], problem)
    })
}

fn found_fields(file: &str, block: &Block, columns: &[Column]) -> Result<Vec<(String, Found)>, TextFileError> {
    let (lines, objects) = json_objects(file, block)?;
    for column in columns {
        json_column(file, &lines, &objects, column)?;
    }
    let is_declared = |name: &str| columns.iter().any(|column| column.name == name);
    let mut fields: Vec<(String, Found)> = Vec::new();
    for object in &objects {
        for (name, value) in object {
            let known = fields.iter().position(|(known, _)| known == name);
            match known {
                Some(_) if is_declared(name) => {}
                Some(known) => {
                    let field = &mut fields[known].1;
                    *field = std::mem::replace(field, Found::Null).merge(Found::of(value));
                }
                None => fields.push((name.clone(), Found::of(value))),
            }
        }
    }
    Ok(fields)
}

/// The line of each object, and the objects.
type JsonObjects = (Vec<usize>, Vec<Map<String, Value>>);

pub(super) fn json_objects(file: &str, block: &Block) -> Result<JsonObjects, TextFileError> {
    let mut lines = Vec::new();
    let mut objects = Vec::new();
    for (position, text) in block.text.split('\n').enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line = block.line + position;
        objects.push(parse_object(text).map_err(|problem| {
            let problem = TextProblem::NotAnObject { problem };
            TextFileError::new(file, line, problem)
        })?);
        lines.push(line);
    }
    Ok((lines, objects))
}

/// The values that the objects have for a column.
pub(super) fn json_column(
    file: &str,
    lines: &[usize],
    objects: &[Map<String, Value>],
    column: &Column,
) -> Result<ArrayRef, TextFileError> {
    let values: Vec<JsonValue<'_>> = objects.iter().map(|object| object.get(&column.name)).collect();
    let texts = if column.is_declared { Texts::Only } else { Texts::OfAnything };
    let read = json_array(&values, &column.data_type, texts);
    read.map_err(|bad| TextFileError::new(file, lines[bad.row], bad_value(&column.name, &column.data_type, &bad)))
}

/// Values of JSON as a column of a declared type; a value that is not there is null.
///
/// # Errors
/// The first row whose value the type does not have, and what is wrong with it.
pub fn json_values(
    name: &str,
    values: &[Option<&Value>],
    data_type: &DataType,
) -> Result<ArrayRef, (usize, TextProblem)> {
    json_array(values, data_type, Texts::Only).map_err(|bad| (bad.row, bad_value(name, data_type, &bad)))
}

fn bad_value(column: &str, column_type: &DataType, bad: &BadValue) -> TextProblem {
    let BadValue { value, data_type, .. } = bad;
    let in_list = matches!(column_type, DataType::List(_)) && data_type != column_type;
    TextProblem::Value {
        column: column.to_owned(),
        found: shown(&value.to_string()),
        declared: type_name(column_type),
        remedy: remedy(data_type, &Found::of(value).data_type(), in_list),
    }
}
