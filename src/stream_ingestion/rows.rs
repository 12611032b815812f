//! What callers send, as rows of a source: columns under their names here, in their types.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::{Map, Value};

use super::IngestionError;
use crate::arrow_types::{arrow_field, arrow_type};
use crate::compile::adapt_values;
use crate::definition::{Field, Source, SourceName, nearest};
use crate::text_files::{BadObject, json_values, parse_values};

/// What becomes of keys that the source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// The row is refused: its sender meant something by them.
    Refuse,
    /// A topic is written for others, too.
    Ignore,
}

/// A row that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its place among the rows sent, from 0.
    pub row: usize,
    pub reason: String,
    /// As it was sent.
    pub raw: Vec<u8>,
}

/// The rows that can be taken, their places among those sent, and the others.
#[derive(Debug)]
pub struct ReadRows {
    pub rows: RecordBatch,
    pub places: Vec<usize>,
    pub refused: Vec<Refused>,
}

/// The values of an event by the position of their columns; what was not sent is None.
type Row = Vec<Option<Value>>;

/// The columns of a source's events.
#[derive(Debug, Clone)]
pub struct EventSchema {
    pub source: SourceName,
    pub columns: Vec<Field>,
    pub schema: SchemaRef,
    /// Positions among the columns.
    pub event_timestamp: usize,
    pub event_id: Option<usize>,
    /// Names that callers may use, to positions.
    names: HashMap<String, usize>,
    rename: BTreeMap<String, String>,
}

impl EventSchema {
    /// None: the source has no stream.
    pub fn new(source: &Source) -> Option<Self> {
        let columns = source.stream.as_ref()?.columns.clone();
        let position = |name: &Option<String>| columns.iter().position(|column| Some(&column.name) == name.as_ref());
        let fields: Vec<_> = columns.iter().map(arrow_field).collect();
        let mut names: HashMap<String, usize> =
            columns.iter().enumerate().map(|(position, column)| (column.name.clone(), position)).collect();
        for (theirs, ours) in &source.rename {
            if let Some(column) = columns.iter().position(|column| column.name == *ours) {
                names.insert(theirs.clone(), column);
            }
        }
        Some(EventSchema {
            source: source.name.clone(),
            event_timestamp: position(&source.event_timestamp)?,
            event_id: position(&source.event_id),
            schema: Arc::new(Schema::new(fields)),
            columns,
            names,
            rename: source.rename.clone(),
        })
    }

    /// Rows of a caller's columns, under the names of the source's files or those used here; `raw` tells a row as it
    /// was sent.
    ///
    /// # Errors
    /// A column that is missing, unknown, sent twice, or of a type whose values cannot become the declared one's.
    pub fn read_batch(&self, batch: &RecordBatch, raw: &dyn Fn(usize) -> Vec<u8>) -> Result<ReadRows, IngestionError> {
        if batch.num_rows() == 0 && batch.num_columns() == 0 {
            let rows = RecordBatch::new_empty(Arc::clone(&self.schema));
            return Ok(ReadRows { rows, places: Vec::new(), refused: Vec::new() });
        }
        // Without rows: what is wrong then is wrong with all of them.
        self.adapted(&batch.slice(0, 0))?;
        if let Ok(rows) = self.adapted(batch) {
            return Ok(ReadRows { places: (0..rows.num_rows()).collect(), rows, refused: Vec::new() });
        }
        // Some value does not fit: each row by itself tells which.
        let (mut rows, mut places, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            match self.adapted(&batch.slice(row, 1)) {
                Ok(read) => {
                    rows.push(read);
                    places.push(row);
                }
                Err(error) => refused.push(Refused { row, reason: error.to_string(), raw: raw(row) }),
            }
        }
        let rows = concat_batches(&self.schema, &rows);
        let rows = rows.map_err(|error| IngestionError::Encode { problem: error.to_string() })?;
        Ok(ReadRows { rows, places, refused })
    }

    fn adapted(&self, batch: &RecordBatch) -> Result<RecordBatch, IngestionError> {
        let mut found: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let Some(position) = self.names.get(field.name()) else {
                return Err(self.unknown_column(field.name()));
            };
            let column = &self.columns[*position];
            let adapted = adapt_values(array, &column.value_type).map_err(|mismatch| IngestionError::ColumnType {
                source_name: self.source.clone(),
                column: field.name().clone(),
                found: mismatch.found,
                declared: mismatch.declared,
                remedy: mismatch.remedy,
            })?;
            if found[*position].replace(adapted).is_some() {
                return Err(IngestionError::ColumnTwice {
                    source_name: self.source.clone(),
                    column: column.name.clone(),
                });
            }
        }
        let complete = found.into_iter().zip(&self.columns).map(|(array, column)| {
            array.ok_or_else(|| IngestionError::MissingColumn {
                source_name: self.source.clone(),
                column: self.name_of_sender(&column.name),
            })
        });
        let complete: Vec<ArrayRef> = complete.collect::<Result<_, _>>()?;
        Ok(self.batch(complete, batch.num_rows()))
    }

    /// Rows of JSON objects; a key that is not there is null.
    pub fn read_json(&self, texts: &[impl AsRef<str>], unknown: UnknownKeys) -> ReadRows {
        let rows = texts.iter().map(|text| self.parse(text.as_ref().as_bytes(), unknown));
        self.read_rows(rows, &|row| texts[row].as_ref().as_bytes().to_vec())
    }

    /// As [`Self::read_json`], of the values of messages.
    pub fn read_messages(&self, values: &BinaryArray, unknown: UnknownKeys) -> ReadRows {
        let rows = values.iter().map(|value| self.parse(value.ok_or("the message has no value")?, unknown));
        self.read_rows(rows, &|row| message_bytes(values, row))
    }

    /// As [`Self::read_json`], of objects that are read already; `raw` tells a row as it was sent.
    pub fn read_objects(
        &self,
        sent: impl Iterator<Item = Result<Map<String, Value>, String>>,
        unknown: UnknownKeys,
        raw: &dyn Fn(usize) -> Vec<u8>,
    ) -> ReadRows {
        self.read_rows(sent.map(|object| object.and_then(|object| self.known_keys(object, unknown))), raw)
    }

    fn read_rows(&self, sent: impl Iterator<Item = Result<Row, String>>, raw: &dyn Fn(usize) -> Vec<u8>) -> ReadRows {
        let mut refused = Vec::new();
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (place, row) in sent.enumerate() {
            match row {
                Ok(row) => {
                    rows.push(row);
                    places.push(place);
                }
                Err(reason) => refused.push(Refused { row: place, reason, raw: raw(place) }),
            }
        }
        if let Ok(rows) = self.columns_of(&rows) {
            return ReadRows { rows, places, refused };
        }
        // Some value cannot be read: each row by itself tells which.
        let (mut good, mut good_places) = (Vec::new(), Vec::new());
        for (row, place) in rows.into_iter().zip(places) {
            match self.columns_of(std::slice::from_ref(&row)) {
                Ok(_) => {
                    good.push(row);
                    good_places.push(place);
                }
                Err(reason) => refused.push(Refused { row: place, reason, raw: raw(place) }),
            }
        }
        refused.sort_by_key(|refused| refused.row);
        let rows = self.columns_of(&good).unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(&self.schema)));
        ReadRows { rows, places: good_places, refused }
    }

    fn parse(&self, text: &[u8], unknown: UnknownKeys) -> Result<Row, String> {
        let place = |key: &str| match (self.names.get(key), unknown) {
            (Some(position), _) => Ok(Some(*position)),
            (None, UnknownKeys::Ignore) => Ok(None),
            (None, UnknownKeys::Refuse) => Err(self.unknown_column(key).to_string()),
        };
        parse_values(text, self.columns.len(), &place).map_err(|bad| match bad {
            BadObject::Text(problem) => problem,
            BadObject::Twice(column) => self.sent_twice(column),
        })
    }

    /// The object's values by the names used here.
    fn known_keys(&self, object: Map<String, Value>, unknown: UnknownKeys) -> Result<Row, String> {
        let mut values: Row = vec![None; self.columns.len()];
        for (key, value) in object {
            match self.names.get(&key) {
                Some(position) if values[*position].is_some() => return Err(self.sent_twice(*position)),
                Some(position) => values[*position] = Some(value),
                None if unknown == UnknownKeys::Ignore => {}
                None => return Err(self.unknown_column(&key).to_string()),
            }
        }
        Ok(values)
    }

    fn sent_twice(&self, column: usize) -> String {
        format!("column `{}` is sent twice", self.columns[column].name)
    }

    /// # Errors
    /// What is wrong with the first value that cannot be read.
    fn columns_of(&self, rows: &[Row]) -> Result<RecordBatch, String> {
        let array = |(position, column): (usize, &Field)| {
            let values: Vec<Option<&Value>> = rows.iter().map(|row| row[position].as_ref()).collect();
            let read = json_values(&column.name, &values, &arrow_type(&column.value_type));
            read.map_err(|(_, problem)| problem.to_string())
        };
        let arrays = self.columns.iter().enumerate().map(array).collect::<Result<_, _>>()?;
        Ok(self.batch(arrays, rows.len()))
    }

    pub(super) fn batch(&self, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .expect("each column is read by its type")
    }

    fn unknown_column(&self, column: &str) -> IngestionError {
        IngestionError::UnknownColumn {
            source_name: self.source.clone(),
            column: column.to_owned(),
            nearest: nearest(column, self.names.keys().map(String::as_str)).map(str::to_owned),
        }
    }

    fn name_of_sender(&self, column: &str) -> String {
        self.rename.iter().find(|(_, ours)| *ours == column).map_or(column, |(theirs, _)| theirs).to_owned()
    }
}

/// What a message holds; of one without value, nothing.
pub fn message_bytes(values: &BinaryArray, row: usize) -> Vec<u8> {
    if values.is_valid(row) { values.value(row).to_vec() } else { Vec::new() }
}
