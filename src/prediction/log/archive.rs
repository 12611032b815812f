//! From the spool to the Delta table.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::{Map, Value};

use super::codec::decode;
use super::row::{LogRecord, RecordRow, RecordValue};
use super::spool::{lock_spool, spool_folders};
use crate::definition::SourceName;
use crate::offline_store::{EventKind, OfflineStore, Places, Reach};
use crate::point_in_time_join::FeatureStatus;
use crate::prediction::PredictionError;
use crate::prediction::inputs::Origin;
use crate::stream_ingestion::{Log, read_bodies};

/// The table's name, in the folder `predictions` of the offline store.
pub const PREDICTION_LOG: &str = "log";
/// Rows of one commit.
const COMMIT_ROWS_MAX: usize = 50_000;

/// Columns of the table.
pub fn log_schema() -> SchemaRef {
    let text = |name: &str, is_nullable| Field::new(name, DataType::Utf8, is_nullable);
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let list = |name: &str, item: DataType| Field::new(name, DataType::List(item_field(item)), false);
    Arc::new(Schema::new(vec![
        Field::new("sent_at", instant(), false),
        text("prediction_id", false),
        text("route", false),
        text("model", false),
        number("model_version"),
        text("role", false),
        text("experiment", true),
        text("entity_keys", false),
        list("features", DataType::Struct(feature_fields())),
        list("prediction", DataType::Float64),
        list("defaults_used", DataType::Utf8),
        number("latency_us"),
        number("registry_version"),
    ]))
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", item, true))
}

fn feature_fields() -> Fields {
    Fields::from(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("number", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("event_timestamp", instant(), true),
    ])
}

/// Brings what servers that are gone left in their spools into the table.
///
/// # Errors
/// A spool that cannot be read, a table that cannot be written.
pub async fn archive_left(folder: &Path, store: &OfflineStore) -> Result<(), PredictionError> {
    for folder in spool_folders(folder).filter(|folder| folder.exists()) {
        // A server that runs brings its own there.
        let Some(_lock) = lock_spool(&folder).map_err(PredictionError::Log)? else { continue };
        let mut log = Log::open(&folder).map_err(PredictionError::Log)?;
        let (id, through) = (log.id().to_owned(), log.last());
        while !archive_next(&folder, &id, through, store).await?.is_all {}
        log.remove_through(through).map_err(PredictionError::Log)?;
    }
    Ok(())
}

/// What a commit brought into the table.
pub(super) struct Archived {
    /// The table has the records up to here.
    pub reach: u64,
    /// Whether there were any.
    pub is_new: bool,
    /// Whether no more are to be brought there.
    pub is_all: bool,
}

/// Brings records up to `through` into the table that are not there yet, as many as one commit takes.
pub(super) async fn archive_next(
    folder: &Path,
    id: &str,
    through: u64,
    store: &OfflineStore,
) -> Result<Archived, PredictionError> {
    let name = SourceName::new(PREDICTION_LOG);
    let known = match store.event_table(EventKind::Predictions, &name).await? {
        Some(table) => table.position(id).await?.unwrap_or(0),
        None => 0,
    };
    if known >= through {
        return Ok(Archived { reach: known, is_new: false, is_all: true });
    }
    let (records, position) = read(folder, known, through)?;
    if !records.is_empty() {
        let rows = to_rows(&records)?;
        let reach = Reach { log: id.to_owned(), position, topics: Default::default() };
        store.append_events(EventKind::Predictions, &name, &rows, &Places::default(), &reach).await?;
    }
    let is_all = position >= through;
    if is_all {
        store.compact_events(EventKind::Predictions, &name).await?;
    }
    Ok(Archived { reach: position, is_new: true, is_all })
}

/// Records after `after`, up to `through` or as many as one commit takes, and how far they reach.
fn read(folder: &Path, after: u64, through: u64) -> Result<(Vec<LogRecord>, u64), PredictionError> {
    let (mut records, mut rows, mut reach) = (Vec::new(), 0, through);
    let mut inputs = Arc::default();
    read_bodies(folder, after, |sequence, body| {
        if sequence > through {
            return Ok(ControlFlow::Break(()));
        }
        let damaged = || std::io::Error::new(std::io::ErrorKind::InvalidData, format!("record {sequence} is damaged"));
        let record = decode(body, &inputs).ok_or_else(damaged)?;
        inputs = Arc::clone(&record.inputs);
        rows += record.rows.len();
        records.push(record);
        if rows >= COMMIT_ROWS_MAX {
            reach = sequence;
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })
    .map_err(PredictionError::Log)?;
    Ok((records, reach))
}

/// The rows of the table.
pub(super) fn to_rows(records: &[LogRecord]) -> Result<RecordBatch, PredictionError> {
    let rows: Vec<(&LogRecord, &RecordRow)> =
        records.iter().flat_map(|record| record.rows.iter().map(move |row| (record, row))).collect();
    fn texts<'r, T: AsRef<str>>(
        rows: &[(&'r LogRecord, &'r RecordRow)],
        of: impl Fn(&'r LogRecord, &'r RecordRow) -> T,
    ) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(record, row)| of(record, row))))
    }
    let numbers = |of: &dyn Fn(&LogRecord) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(record, _)| of(record) as i64)))
    };
    let sent_at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(record, _)| record.sent_at));
    let experiments = rows.iter().map(|(record, _)| record.experiment.as_deref()).collect::<StringArray>();
    let predictions = rows.iter().flat_map(|(_, row)| row.prediction.iter().copied());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(sent_at.with_timezone("UTC")),
        texts(&rows, |_, row| row.prediction_id.as_str()),
        texts(&rows, |record, _| record.route.as_str()),
        texts(&rows, |record, _| record.model.as_str()),
        numbers(&|record| record.version),
        texts(&rows, |record, _| record.role.as_str()),
        Arc::new(experiments),
        texts(&rows, keys_text),
        features(&rows)?,
        list(rows.iter().map(|(_, row)| row.prediction.len()), Arc::new(Float64Array::from_iter_values(predictions)))?,
        defaults(&rows)?,
        numbers(&|record| record.latency_us),
        numbers(&|record| record.registry_version),
    ];
    Ok(RecordBatch::try_new(log_schema(), columns)?)
}

/// A JSON object of the join keys.
fn keys_text(record: &LogRecord, row: &RecordRow) -> String {
    let key =
        |(name, value): (&String, &Option<String>)| (name.clone(), value.clone().map_or(Value::Null, Value::from));
    Value::Object(record.keys.iter().zip(&row.keys).map(key).collect::<Map<_, _>>()).to_string()
}

fn list(lengths: impl Iterator<Item = usize>, items: ArrayRef) -> Result<ArrayRef, PredictionError> {
    let field = item_field(items.data_type().clone());
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, None)?))
}

fn features(rows: &[(&LogRecord, &RecordRow)]) -> Result<ArrayRef, PredictionError> {
    let values = || rows.iter().flat_map(|(record, row)| record.inputs.iter().zip(&row.values));
    let texts = |of: &dyn Fn(&RecordValue) -> Option<&str>| -> ArrayRef {
        Arc::new(values().map(|(_, value)| of(value)).collect::<StringArray>())
    };
    let names: ArrayRef = Arc::new(values().map(|(name, _)| Some(name.as_str())).collect::<StringArray>());
    let numbers = values().map(|(_, value)| (!value.number.is_nan()).then_some(value.number));
    let times = values().map(|(_, value)| value.event_timestamp).collect::<TimestampMicrosecondArray>();
    let columns: Vec<ArrayRef> = vec![
        names,
        Arc::new(numbers.collect::<Float64Array>()),
        texts(&|value| value.text.as_deref()),
        texts(&|value| value.status.map(FeatureStatus::as_str)),
        texts(&|value| Some(value.origin.as_str())),
        Arc::new(times.with_timezone("UTC")),
    ];
    let items = StructArray::try_new(feature_fields(), columns, None)?;
    list(rows.iter().map(|(_, row)| row.values.len()), Arc::new(items))
}

fn defaults(rows: &[(&LogRecord, &RecordRow)]) -> Result<ArrayRef, PredictionError> {
    let of = |record: &'_ LogRecord, row: &RecordRow| -> Vec<String> {
        let values = record.inputs.iter().zip(&row.values);
        values.filter(|(_, value)| value.origin == Origin::Default).map(|(name, _)| name.clone()).collect()
    };
    let names: Vec<Vec<String>> = rows.iter().map(|(record, row)| of(record, row)).collect();
    let items = names.iter().flatten().map(Some).collect::<StringArray>();
    list(names.iter().map(Vec::len), Arc::new(items))
}
