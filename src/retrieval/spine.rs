//! The spine of a batch request: what the caller sent, or the keys and times that the views know.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::{SortOptions, concat_batches, max, min, sort_to_indices};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{DataFrame, Expr, ident, lit};

use super::RetrievalError;
use super::answer::{RequestColumns, key_array};
use super::batch::{AskedTimes, Reader, instant_lit};
use super::resolve::ResolvedView;
use crate::compile::{CompiledView, adapt_array};
use crate::definition::{EVENT_TIMESTAMP, Field, ValueType};
use crate::time::{EventTimestamp, TimeRange};
/// The keys and times of a request, as the join takes them.
pub(super) struct Spine {
    pub frame: DataFrame,
    /// How many of the columns come back in the answer.
    pub carried: usize,
    pub time: usize,
    /// The column of each of the request's join keys.
    pub keys: Vec<usize>,
    /// The first and the last asked time, as far as they are known; None: there is none.
    pub bounds: Option<(EventTimestamp, EventTimestamp)>,
    /// What is known of each key's values; None: nothing.
    pub key_values: Vec<Option<KeyValues>>,
}

/// Values that hold all of a spine's keys.
#[derive(Debug, Clone)]
pub(super) enum KeyValues {
    Few(Vec<ScalarValue>),
    Between(ScalarValue, ScalarValue),
}

/// Rows of a spine whose keys are looked at one by one.
const FEW_KEYS: usize = 20;

impl KeyValues {
    /// None: all are null, or cannot be compared.
    fn of(keys: &ArrayRef) -> Option<Self> {
        if keys.len() <= FEW_KEYS {
            let values = (0..keys.len()).map(|row| ScalarValue::try_from_array(keys, row).ok());
            let mut values: Vec<ScalarValue> = values.collect::<Option<_>>()?;
            values.retain(|value| !value.is_null());
            return (!values.is_empty()).then_some(KeyValues::Few(values));
        }
        let first = |descending: bool| {
            let order = SortOptions { descending, nulls_first: false };
            let first = sort_to_indices(keys, Some(order), Some(1)).ok()?;
            ScalarValue::try_from_array(keys, first.value(0) as usize).ok().filter(|value| !value.is_null())
        };
        Some(KeyValues::Between(first(false)?, first(true)?))
    }

    /// Whether a column may be one of the keys.
    pub fn filter(&self, column: &str) -> Expr {
        match self {
            KeyValues::Few(values) => ident(column).in_list(values.iter().cloned().map(lit).collect(), false),
            KeyValues::Between(least, greatest) => ident(column).between(lit(least.clone()), lit(greatest.clone())),
        }
    }
}

/// Rows of a spine, in one partition: a plan that read them otherwise would be free to change their order.
#[derive(Debug)]
struct InOrder {
    rows: SpineRows,
    schema: SchemaRef,
}

#[derive(Debug)]
enum SpineRows {
    Sent(RecordBatch),
    Sorted(Arc<dyn ExecutionPlan>),
}

fn in_order(rows: SpineRows, schema: SchemaRef) -> Result<Arc<StreamingTable>, DataFusionError> {
    let partition = Arc::new(InOrder { rows, schema: SchemaRef::clone(&schema) });
    Ok(Arc::new(StreamingTable::try_new(schema, vec![partition])?))
}

impl PartitionStream for InOrder {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let once = |rows| {
            let rows = futures::stream::iter([rows]);
            Box::pin(RecordBatchStreamAdapter::new(SchemaRef::clone(&self.schema), rows))
        };
        match &self.rows {
            SpineRows::Sent(rows) => once(Ok(rows.clone())),
            SpineRows::Sorted(plan) => {
                execute_stream(Arc::clone(plan), context).unwrap_or_else(|error| once(Err(error)))
            }
        }
    }
}

impl Reader<'_> {
    /// The rows that a request asks about.
    pub(super) async fn spine(&self) -> Result<Spine, RetrievalError> {
        match &self.request.times {
            AskedTimes::Spine { schema, rows, timestamp_column } => {
                let sent = concat_batches(schema, rows)?;
                self.sent_spine(sent, timestamp_column.as_deref())
            }
            AskedTimes::Range(range) => self.known_keys(Some(*range), None).await,
            AskedTimes::AsOf(instant) => self.known_keys(None, Some(*instant)).await,
        }
    }

    /// The caller's rows, and after them the join keys and times in their exact types.
    fn sent_spine(&self, sent: RecordBatch, timestamp_column: Option<&str>) -> Result<Spine, RetrievalError> {
        let times = time_column(&sent, timestamp_column)?;
        let bounds = min(&times).zip(max(&times));
        let carried = sent.num_columns();
        let columns = RequestColumns::new(self.resolved, sent)?;
        let mut fields: Vec<_> = columns.sent.schema().fields().iter().cloned().collect();
        let mut arrays = columns.sent.columns().to_vec();
        let mut hide = |name: &str, array: ArrayRef| {
            // Not a name that a file's column has.
            fields.push(Arc::new(ArrowField::new(format!("asof:{name}"), array.data_type().clone(), true)));
            arrays.push(array);
        };
        hide(EVENT_TIMESTAMP, Arc::new(times));
        let mut key_values = Vec::new();
        for key in &self.resolved.join_keys {
            key_values.push(KeyValues::of(columns.typed(&key.name)));
            hide(&key.name, Arc::clone(columns.typed(&key.name)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(columns.rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
        Ok(Spine {
            frame: self.context.read_table(in_order(SpineRows::Sent(rows.clone()), rows.schema())?)?,
            carried,
            time: carried,
            keys: (carried + 1..=carried + self.resolved.join_keys.len()).collect(),
            bounds: bounds.map(|(first, last)| (EventTimestamp::from_micros(first), EventTimestamp::from_micros(last))),
            key_values,
        })
    }

    /// The spine of a request without one: keys and times of the views' own rows.
    async fn known_keys(
        &self,
        range: Option<TimeRange>,
        as_of: Option<EventTimestamp>,
    ) -> Result<Spine, RetrievalError> {
        if let Some(value) = self.resolved.request_values.first() {
            let problem = format!("`{}` is a value that only the caller knows", value.name);
            return Err(RetrievalError::NoSpine { problem });
        }
        let keys: Vec<&str> = self.resolved.join_keys.iter().map(|key| key.name.as_str()).collect();
        let mut known: Option<DataFrame> = None;
        for (position, view) in self.resolved.views.iter().enumerate() {
            if view.join_keys.len() != keys.len() || (as_of.is_none() && view.is_static) {
                continue;
            }
            let frame = self.keys_of(position, view, range, as_of).await?;
            known = Some(match known {
                Some(others) => others.union(frame)?,
                None => frame,
            });
        }
        let Some(known) = known else {
            let problem = format!("no view with times has all of the join keys {}", keys.join(", "));
            return Err(RetrievalError::NoSpine { problem });
        };
        let mut order: Vec<_> = keys.iter().map(|key| ident(*key).sort(true, true)).collect();
        order.push(ident(EVENT_TIMESTAMP).sort(true, true));
        let in_range = range.and_then(|range| range.start.zip(range.end));
        let sorted = known.distinct()?.sort(order)?.create_physical_plan().await?;
        let schema = sorted.schema();
        Ok(Spine {
            frame: self.context.read_table(in_order(SpineRows::Sorted(sorted), schema)?)?,
            carried: keys.len() + 1,
            time: keys.len(),
            keys: (0..keys.len()).collect(),
            bounds: as_of.map(|instant| (instant, instant)).or(in_range),
            key_values: vec![None; keys.len()],
        })
    }

    async fn keys_of(
        &self,
        position: usize,
        view: &ResolvedView,
        range: Option<TimeRange>,
        as_of: Option<EventTimestamp>,
    ) -> Result<DataFrame, RetrievalError> {
        let CompiledView { frame, .. } = self.view_frame(position).await?;
        let time = || ident(EVENT_TIMESTAMP);
        let is_key = view.join_keys.iter().map(|(key, _)| ident(key.name.as_str()).is_not_null());
        let inside = match (range, as_of) {
            (_, Some(_)) if view.is_static => Vec::new(),
            (_, Some(instant)) => vec![time().lt_eq(instant_lit(instant))],
            (Some(TimeRange { start, end }), None) => {
                let start = start.map(|start| time().gt_eq(instant_lit(start)));
                let end = end.map(|end| time().lt(instant_lit(end)));
                start.into_iter().chain(end).chain([time().is_not_null()]).collect()
            }
            (None, None) => Vec::new(),
        };
        let frame = match is_key.chain(inside).reduce(Expr::and) {
            Some(filter) => frame.filter(filter)?,
            None => frame,
        };
        // One order of columns for all views, under the request's names.
        let key_column = |wanted: &Field| {
            let (key, _) = view.join_keys.iter().find(|(_, column)| *column == wanted.name).expect("it has every key");
            ident(key.name.as_str()).alias(wanted.name.as_str())
        };
        let mut columns: Vec<Expr> = self.resolved.join_keys.iter().map(key_column).collect();
        columns.push(as_of.map_or_else(time, instant_lit).alias(EVENT_TIMESTAMP));
        Ok(frame.select(columns)?)
    }
}

/// The spine's times: the column named, else `event_timestamp`, else its only column of instants. One that is named, or
/// has the default name, may hold instants as texts.
fn time_column(spine: &RecordBatch, named: Option<&str>) -> Result<TimestampMicrosecondArray, RetrievalError> {
    let schema = spine.schema();
    let is_time = |field: &ArrowField| matches!(field.data_type(), DataType::Timestamp(..));
    let times: Vec<&str> =
        schema.fields().iter().filter(|field| is_time(field)).map(|field| field.name().as_str()).collect();
    let has_default = schema.column_with_name(EVENT_TIMESTAMP).is_some();
    let name = match (named, has_default, times.as_slice()) {
        (Some(name), ..) => name,
        (None, true, _) => EVENT_TIMESTAMP,
        (None, false, [only]) => only,
        (None, false, []) => return Err(no_time_column("it has no column of timestamps".to_owned())),
        (None, false, several) => return Err(no_time_column(format!("it has several: {}", several.join(", ")))),
    };
    let Some(column) = spine.column_by_name(name) else {
        return Err(no_time_column(format!("it has no column `{name}`")));
    };
    if matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        let instant = Field { name: name.to_owned(), value_type: ValueType::Timestamp, description: None };
        return Ok(key_array(column, &instant)?.as_primitive::<TimestampMicrosecondType>().clone());
    }
    let instants = adapt_array(column, &ValueType::Timestamp).map_err(|mismatch| {
        let is_out_of_range = |row: &usize| adapt_array(&column.slice(*row, 1), &ValueType::Timestamp).is_err();
        match (0..column.len()).find(is_out_of_range).filter(|_| times.contains(&name)) {
            Some(row) => RetrievalError::ColumnValue {
                column: name.to_owned(),
                row,
                problem: "holds a time that is out of range".to_owned(),
            },
            None => no_time_column(format!("its column `{name}` is {}", mismatch.found)),
        }
    })?;
    Ok(instants.as_primitive::<TimestampMicrosecondType>().clone())
}

fn no_time_column(problem: String) -> RetrievalError {
    RetrievalError::TimeColumn { problem }
}
