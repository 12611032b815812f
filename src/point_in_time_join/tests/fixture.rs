//! From plain rows to Arrow and back, and the one door through which every test goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Float32Type, Schema, TimeUnit};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::super::*;
use super::oracle::{self, FeatureRow, Nullable, Rules, SpineRow, Value, values_order};
use crate::definition::FeatureViewName;

/// A join to be checked: all rows, their types, the rules.
#[derive(Debug, Clone)]
pub struct Case {
    pub key_types: Vec<DataType>,
    pub value_types: Vec<DataType>,
    pub spine: Vec<SpineRow>,
    pub features: Vec<FeatureRow>,
    pub rules: Rules,
}

/// One row of an answer.
#[derive(Debug, Clone)]
pub struct Row {
    pub status: RowStatus,
    pub event: Option<i64>,
    pub values: Vec<Nullable>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        let same_values = values_order(&self.values, &other.values).is_eq();
        (self.status, self.event) == (other.status, other.event) && same_values
    }
}

impl Case {
    /// What the oracle answers.
    pub fn expected(&self) -> Vec<Row> {
        let nulls = || vec![None; self.value_types.len()];
        let row = |asked: &SpineRow| match oracle::answer(asked, &self.features, self.rules) {
            oracle::Answer::NotFound => Row { status: RowStatus::NotFound, event: None, values: nulls() },
            oracle::Answer::OutsideMaxAge { event } => {
                Row { status: RowStatus::OutsideMaxAge, event: Some(event), values: nulls() }
            }
            oracle::Answer::Found(found) => {
                Row { status: RowStatus::Found, event: found.event, values: found.values.clone() }
            }
        };
        self.spine.iter().map(row).collect()
    }

    pub fn index(&self) -> Arc<SpineIndex> {
        let keys: Vec<_> = (0..self.key_types.len())
            .map(|i| column(&self.key_types[i], &self.spine, |row| row.keys[i].clone()))
            .collect();
        let times: TimestampMicrosecondArray = self.spine.iter().map(|row| row.time).collect();
        Arc::new(SpineIndex::build(&keys, &times.with_timezone_utc()).unwrap())
    }

    /// Columns lie in an order of their own: values, created, event, keys.
    pub fn params(&self) -> Arc<ViewParams> {
        let values = self.value_types.len();
        let field = |i: usize| Arc::new(Field::new(format!("value_{i}"), self.value_types[i].clone(), true));
        Arc::new(ViewParams {
            name: FeatureViewName::from("view"),
            key_columns: (0..self.key_types.len()).map(|i| values + 2 + i).collect(),
            event_timestamp: Some(values + 1),
            created_timestamp: self.rules.has_created.then_some(values),
            features: (0..values).map(|i| FeatureColumn { column: i, field: field(i) }).collect(),
            requested: (0..values).collect(),
            ttl: self.rules.ttl_micros.map(Duration::from_micros),
            as_known: self.rules.as_known,
        })
    }

    /// Some of the feature rows, as the batch that [`Case::params`] tells of.
    pub fn batch(&self, rows: &[FeatureRow]) -> RecordBatch {
        let instants = |get: fn(&FeatureRow) -> Option<i64>| {
            let instants: TimestampMicrosecondArray = rows.iter().map(get).collect();
            Arc::new(instants.with_timezone_utc()) as ArrayRef
        };
        let values = self.value_types.iter().enumerate();
        let mut columns: Vec<_> = values.map(|(i, ty)| column(ty, rows, |row| row.values[i].clone())).collect();
        columns.push(instants(|row| row.created));
        columns.push(instants(|row| row.event));
        let keys = self.key_types.iter().enumerate();
        columns.extend(keys.map(|(i, ty)| column(ty, rows, |row| row.keys[i].clone())));
        let field = |(i, column): (usize, &ArrayRef)| Field::new(format!("c{i}"), column.data_type().clone(), true);
        let fields: Vec<_> = columns.iter().enumerate().map(field).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    /// Joins through accumulators: batches of `batch_rows`, dealt out to `accumulators`, then merged.
    /// `eager` copies sparse batches together at every chance.
    pub fn join(&self, batch_rows: usize, accumulators: usize, eager: bool) -> Vec<Row> {
        let (index, params) = (self.index(), self.params());
        let new = || {
            let mut accumulator = ViewAccumulator::new(Arc::clone(&index), Arc::clone(&params)).unwrap();
            if eager {
                accumulator.compact_always();
            }
            accumulator
        };
        let mut accumulators: Vec<_> = (0..accumulators).map(|_| new()).collect();
        let count = accumulators.len();
        for (number, rows) in self.features.chunks(batch_rows).enumerate() {
            accumulators[number % count].push(&self.batch(rows)).unwrap();
        }
        let mut all = accumulators.pop().unwrap();
        accumulators.into_iter().for_each(|one| all.merge(one).unwrap());
        rows_of(&all.finish().unwrap())
    }

    /// Joins through streams, of which each has every `partitions`-th row, in batches of two.
    pub fn join_streamed(&self, partitions: usize) -> Vec<Row> {
        let stream = |partition: usize| {
            let rows: Vec<_> = self.features.iter().skip(partition).step_by(partitions).cloned().collect();
            let batches: Vec<_> = rows.chunks(2).map(|rows| Ok(self.batch(rows))).collect();
            let schema = self.batch(&[]).schema();
            Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches))) as SendableRecordBatchStream
        };
        let joining = join_streams(self.index(), self.params(), (0..partitions).map(stream).collect());
        rows_of(&runtime().block_on(joining).unwrap())
    }
}

/// How the files of a table are written.
#[derive(Debug, Clone, Copy)]
pub struct FileLayout {
    pub rows_per_file: usize,
    pub rows_per_group: usize,
    pub rows_per_page: usize,
}

impl Case {
    /// Joins with a table of files, in the order of the feature rows. None: some of them are tied.
    pub fn join_table(&self, layout: FileLayout) -> Option<Vec<Row>> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let name = |column: usize| format!("c{column}");
        let params = self.params();
        let joining = async {
            let mut files = Vec::new();
            for (number, rows) in self.features.chunks(layout.rows_per_file).enumerate() {
                let bytes = self.parquet(rows, layout);
                let path = Path::from(format!("{number}.parquet"));
                files.push(TableFile { path: path.to_string(), bytes: bytes.len() as u64 });
                store.put(&path, bytes.into()).await.unwrap();
            }
            let renamed = |i: usize| Field::new(name(i), self.value_types[i].clone(), true);
            let view = TableView {
                name: params.name.clone(),
                files: TableFiles {
                    store: "memory:///".to_owned(),
                    files,
                    page_rows: layout.rows_per_page,
                    renamed: BTreeMap::new(),
                    skips_untimed: false,
                },
                keys: params.key_columns.iter().map(|column| name(*column)).collect(),
                event_timestamp: params.event_timestamp.map(name),
                created_timestamp: params.created_timestamp.map(name),
                features: (0..self.value_types.len()).map(|i| Arc::new(renamed(i))).collect(),
                ttl: params.ttl,
                as_known: params.as_known,
                tell_aged: true,
            };
            join_table(self.index(), Arc::new(view), Arc::clone(&store), Arc::default()).await.unwrap()
        };
        runtime().block_on(joining).map(|joined| rows_of(&joined))
    }

    fn parquet(&self, rows: &[FeatureRow], layout: FileLayout) -> Vec<u8> {
        let batch = self.batch(rows);
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(layout.rows_per_group))
            .set_data_page_row_count_limit(layout.rows_per_page)
            .set_write_batch_size(1)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    /// Whether rows share keys, event and created timestamp.
    pub fn has_ties(&self) -> bool {
        let created = |row: &FeatureRow| row.created.filter(|_| self.rules.has_created);
        let is_tie = |a: &FeatureRow, b: &FeatureRow| {
            values_order(&a.keys, &b.keys).is_eq() && (a.event, created(a)) == (b.event, created(b))
        };
        let rows = self.features.iter().enumerate();
        rows.clone().any(|(i, a)| self.features[..i].iter().any(|b| is_tie(a, b)))
    }

    /// The rows in the order that tables are written in: by keys, event and created timestamp.
    pub fn sort(&mut self) {
        self.features
            .sort_by(|a, b| values_order(&a.keys, &b.keys).then(a.event.cmp(&b.event)).then(a.created.cmp(&b.created)));
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The one door: whatever the way the feature rows come in, the answer is the `expected` one.
pub fn check(case: &Case, expected: &[Row]) {
    let mut case = case.clone();
    let all = case.features.len().max(1);
    for round in 0..3 {
        for (batch_rows, accumulators) in [(1, 1), (2, 3), (3, 2), (2, 1), (1, 4), (all, 1)] {
            for eager in [false, true] {
                let rows = case.join(batch_rows, accumulators, eager);
                assert_eq!(
                    rows, expected,
                    "{batch_rows} rows a batch, {accumulators} accumulators, {eager}: {case:#?}"
                );
            }
        }
        shuffle(&mut case.features, round);
    }
}

/// A fixed shuffle; what matters is that it is another order.
fn shuffle(rows: &mut [FeatureRow], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for last in (1..rows.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.swap(last, (state >> 33) as usize % (last + 1));
    }
}

pub fn rows_of(joined: &JoinedView) -> Vec<Row> {
    assert_eq!(joined.event_timestamps.timezone(), Some("+00:00"));
    let row = |row: usize| Row {
        status: joined.statuses[row],
        event: joined.event_timestamps.is_valid(row).then(|| joined.event_timestamps.value(row)),
        values: joined.features.iter().map(|feature| value(feature, row)).collect(),
    };
    (0..joined.statuses.len()).map(row).collect()
}

/// Builds a column of `data_type`; numbers and texts go into whatever type can hold them.
fn column<R>(data_type: &DataType, rows: &[R], get: impl Fn(&R) -> Nullable) -> ArrayRef {
    let ints = || rows.iter().map(|row| get(row).map(|value| int(&value)));
    let texts = || rows.iter().map(|row| get(row).map(|value| text(&value))).collect::<Vec<_>>();
    match data_type {
        DataType::Int64 => Arc::new(ints().collect::<Int64Array>()),
        DataType::Int32 => Arc::new(ints().map(|int| int.map(|int| int as i32)).collect::<Int32Array>()),
        DataType::Int16 => Arc::new(ints().map(|int| int.map(|int| int as i16)).collect::<Int16Array>()),
        DataType::Date32 => Arc::new(ints().map(|int| int.map(|int| int as i32)).collect::<Date32Array>()),
        DataType::Boolean => Arc::new(ints().map(|int| int.map(|int| int % 2 == 1)).collect::<BooleanArray>()),
        DataType::Timestamp(TimeUnit::Microsecond, None) => Arc::new(ints().collect::<TimestampMicrosecondArray>()),
        DataType::Float64 => {
            let floats = rows.iter().map(|row| get(row).map(|value| float(&value)));
            Arc::new(floats.collect::<Float64Array>())
        }
        DataType::Utf8 => Arc::new(StringArray::from_iter(texts())),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from_iter(texts())),
        DataType::Utf8View => Arc::new(StringViewArray::from_iter(texts())),
        DataType::Binary => Arc::new(BinaryArray::from_iter(texts())),
        DataType::LargeBinary => Arc::new(LargeBinaryArray::from_iter(texts())),
        DataType::BinaryView => Arc::new(BinaryViewArray::from_iter(texts())),
        DataType::List(_) => {
            let lists = rows.iter().map(|row| {
                let list = get(row).map(|value| match value {
                    Value::List(items) => items,
                    other => panic!("{other:?} is not a list"),
                });
                list.map(|items| {
                    items.iter().map(|item| item.as_ref().map(|item| float(item) as f32)).collect::<Vec<_>>()
                })
            });
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
        }
        other => panic!("no column of {other}"),
    }
}

fn value(column: &ArrayRef, row: usize) -> Nullable {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Int64 => Value::Int(column.as_primitive::<arrow::datatypes::Int64Type>().value(row)),
        DataType::Boolean => Value::Int(i64::from(column.as_boolean().value(row))),
        DataType::Float32 => Value::Float(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Value::Float(column.as_primitive::<arrow::datatypes::Float64Type>().value(row)),
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Utf8View => Value::Text(column.as_string_view().value(row).to_owned()),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value(&items, item)).collect())
        }
        other => panic!("no value of {other}"),
    })
}

fn int(value: &Value) -> i64 {
    match value {
        Value::Int(int) => *int,
        other => panic!("{other:?} is not a whole number"),
    }
}

fn float(value: &Value) -> f64 {
    match value {
        Value::Float(float) => *float,
        other => panic!("{other:?} is not a float"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(int) => int.to_string(),
        other => panic!("{other:?} is not a text"),
    }
}
