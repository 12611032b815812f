//! The rows of dead-letter tables: what was refused as a whole, and events that some view cannot take.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema};

use crate::arrow_types::UTC;
use crate::definition::FeatureViewName;

/// Where a row of a topic comes from.
#[derive(Debug, Clone)]
pub struct MessagePlace {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// When it came in, in microseconds.
    pub received_at: i64,
    pub reason: String,
    /// As it was sent; an event that was accepted as JSON.
    pub raw: Vec<u8>,
    /// The view that cannot take it; None: it was refused.
    pub view: Option<FeatureViewName>,
    pub place: Option<MessagePlace>,
}

/// One row a letter.
pub fn dead_letter_rows(letters: &[DeadLetter]) -> RecordBatch {
    let place = |letter: &DeadLetter| letter.place.clone();
    let received_at = letters.iter().map(|letter| letter.received_at);
    let topics = letters.iter().map(|letter| place(letter).map(|place| place.topic.to_string()));
    let partitions = letters.iter().map(|letter| place(letter).map(|place| place.partition));
    let offsets = letters.iter().map(|letter| place(letter).map(|place| place.offset));
    let views = letters.iter().map(|letter| letter.view.as_ref().map(FeatureViewName::as_str));
    let columns: [(&str, ArrayRef); 7] = [
        ("received_at", Arc::new(TimestampMicrosecondArray::from_iter_values(received_at).with_timezone(UTC))),
        ("reason", Arc::new(StringArray::from_iter_values(letters.iter().map(|letter| &letter.reason)))),
        ("raw", Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.raw)))),
        ("topic", Arc::new(topics.collect::<StringArray>())),
        ("partition", Arc::new(partitions.collect::<Int32Array>())),
        ("offset", Arc::new(offsets.collect::<Int64Array>())),
        ("view", Arc::new(views.collect::<StringArray>())),
    ];
    let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect())
        .expect("all columns have a value a letter")
}

/// One row of a batch as a JSON object.
pub fn as_json(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
    let written = writer.write(&batch.slice(row, 1)).and_then(|()| writer.finish());
    match written {
        Ok(()) => text.trim_ascii_end().to_vec(),
        Err(error) => format!("a row that JSON cannot write: {error}").into_bytes(),
    }
}
