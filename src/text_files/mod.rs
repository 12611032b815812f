//! CSV and JSON files: rows of cells and values, read each with its file and line, and written (write.rs).
//!
//! ```text
//! file ──► blocks of whole records ──► cells or values of a column ──► an array     (blocks.rs; csv.rs, json.rs)
//!   once for the columns' names and types, and whether every declared value is there     (survey.rs)
//!   and once for the rows                                                                (table.rs)
//! ```
//!
//! Text carries no types. A declared column is read by its type, and what cannot be read so is refused where it
//! stands; any other column is what all of its cells or values are. Knows no source and no view.

mod blocks;
mod cells;
mod csv;
mod json;
mod survey;
mod table;
mod write;

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::arrow_types::type_name;

pub use cells::{CellKinds, parse_cells};
pub use csv::{Cell, Records};
pub use json::{BadObject, UniqueObject, float64, parse_object, parse_values};
pub use survey::{Column, DeclaredTypes, csv_array, json_values};
pub use table::TextTable;
pub use write::{JsonForms, write_csv, write_csv_header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    Csv,
    /// One object a line.
    Json,
}

/// Files of one format that hold rows of one table.
#[derive(Debug, Clone)]
pub struct TextFiles {
    pub format: TextFormat,
    pub store: Arc<dyn ObjectStore>,
    pub files: Vec<TextFile>,
}

#[derive(Debug, Clone)]
pub struct TextFile {
    /// How messages name it.
    pub shown: String,
    pub location: Path,
    pub bytes: u64,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{file}:{line}`: {problem}")]
pub struct TextFileError {
    pub file: String,
    /// From 1; the header of a CSV file is the first.
    pub line: usize,
    pub problem: Box<TextProblem>,
}

impl TextFileError {
    fn new(file: &str, line: usize, problem: TextProblem) -> Self {
        TextFileError { file: file.to_owned(), line, problem: Box::new(problem) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextProblem {
    #[error("not UTF-8; save the file as UTF-8")]
    NotUtf8,
    #[error("there is no header line")]
    NoHeader,
    #[error("the header has `{column}` twice; give one of them another name")]
    ColumnTwice { column: String },
    #[error("the header has no column `{column}`, which `{other}` has; its columns are `{}`", header.join("`, `"))]
    MissingColumn { column: String, other: String, header: Vec<String> },
    #[error("{cells} cells, and the header has {header}")]
    CellCount { cells: usize, header: usize },
    #[error("a quoted cell does not end")]
    OpenQuote,
    #[error("a record of more than {} MiB; is a quote or an end of line missing?", bytes_max >> 20)]
    LongRecord { bytes_max: usize },
    #[error("{problem}")]
    NotAnObject { problem: String },
    #[error(
        "column `{column}` is declared {declared}, and a cell of a CSV file holds one value; keep lists and maps in JSON or Parquet"
    )]
    Nested { column: String, declared: String },
    #[error("column `{column}` holds {found}, declared {declared}; {remedy}")]
    Value { column: String, found: String, declared: String, remedy: String },
}

impl From<TextFileError> for DataFusionError {
    fn from(error: TextFileError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

/// What to write, or to declare, where a value of type `found` stands for one of type `declared`: that of the column,
/// or of the items of its lists.
fn remedy(declared: &DataType, found: &DataType, in_list: bool) -> String {
    let form = match declared {
        DataType::Boolean => "write true or false",
        DataType::Int32 => "write a whole number from -2147483648 to 2147483647",
        DataType::Int64 => "write a whole number of 64 bits",
        DataType::Float32 | DataType::Float64 => "write a number that it can hold",
        DataType::Binary => "write base64",
        DataType::Date32 => "write a date such as `2024-05-01`",
        DataType::Timestamp(..) if found.is_numeric() => {
            return "write RFC 3339 such as `2024-05-01T12:30:00Z`; for numbers use an SQL view with \
                    to_timestamp_seconds, to_timestamp_millis or to_timestamp_micros"
                .to_owned();
        }
        DataType::Timestamp(..) => return "write RFC 3339 such as `2024-05-01T12:30:00Z`".to_owned(),
        DataType::List(_) => "write an array",
        DataType::Map(..) => "write an object",
        _ => "write a text",
    };
    match found {
        DataType::Null | DataType::Struct(_) => form.to_owned(),
        same if same == declared => form.to_owned(),
        other if in_list => format!("{form}, or declare list<{}>", type_name(other)),
        other => format!("{form}, or declare {}", type_name(other)),
    }
}

/// `text`, shortened for a message.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
