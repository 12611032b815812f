//! Writing a view's table: one commit replaces the rows of a range of event time.
//!
//! ```text
//! old files   ├── A ──┤├──── B ────┤├── C ──┤        A stays; B is rewritten without the range; C is removed
//! range                     [start ─────────── end)
//! new files   ├── A ──┤├ B' ┤├──── rows of the run ───┤├ tail ┤
//! ```
//!
//! The rows of the last stretch of the range go into files of their own (the tail), because the next run begins
//! before the end of this one to pick up late rows: it then removes those files without rewriting the rest.
//! Each file is sorted by (join keys, event timestamp, created timestamp).

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, LogicalFileView, MetadataExt, StructType, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};
use futures::{StreamExt, TryStreamExt};
use parquet::file::properties::EnabledStatistics;
use parquet::schema::types::ColumnPath;

use super::table::{
    COMMIT_INFO, CommittedRange, DerivedFrom, TRANSACTION_DATA_VERSION, TRANSACTION_HAS_CREATED,
    TRANSACTION_MATERIALIZED_UNTIL, TRANSACTION_SOURCE_TABLE, TRANSACTION_SOURCE_VERSION, TRANSACTION_VIEW_ID,
    TableState, ViewTable,
};
use super::{OfflineStore, OfflineStoreError};
use crate::definition::{CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureViewName};
use crate::parquet_files;
use crate::time::{EventTimestamp, TimeRange};

const FILE_BYTES_TARGET: u64 = 128 << 20;
const ROW_GROUP_ROWS_MAX: usize = 256 * 1024;
/// Rows of a page of a table's files: a row that is asked for costs a page of each column, a page some 30 bytes.
pub const PAGE_ROWS_MAX: usize = 2 * 1024;
/// How often a commit is tried again after disjoint commits of other runs.
const COMMIT_TRIES_MAX: usize = 100;

/// What a run puts in the place of a range.
#[derive(Debug, Clone)]
pub struct Replacement {
    pub view: FeatureViewName,
    pub view_id: u32,
    /// Set by a run from the beginning: the rows now stand for this version of the view's data.
    pub data_version: Option<u64>,
    /// Unbounded for static views, whose every run replaces all rows.
    pub range: TimeRange,
    /// How far the view is materialized after the run; None for static views.
    pub materialized_until: Option<EventTimestamp>,
    /// Where the tail begins; see the module.
    pub tail_start: Option<EventTimestamp>,
    /// Columns of the rows: join keys, event and created timestamp, features.
    pub schema: SchemaRef,
    /// See [`TableState::has_created_timestamp`].
    pub has_created_timestamp: bool,
    /// See [`TableState::derived_from`].
    pub derived_from: Option<DerivedFrom>,
}

/// What a replacement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    pub table_version: u64,
    pub rows_written: u64,
}

impl OfflineStore {
    /// Replaces the rows of the range by `rows`, in one commit; a crash before the commit changes nothing.
    ///
    /// `rows` are sorted by (join keys, event timestamp, created timestamp) and lie in the range.
    ///
    /// # Errors
    /// [`OfflineStoreError::Conflict`] where another run replaced an overlapping range since `rows` were begun to be
    /// computed from `base_version`: compute them again.
    pub async fn replace(
        &self,
        replacement: &Replacement,
        base_version: Option<u64>,
        rows: SendableRecordBatchStream,
    ) -> Result<Replaced, OfflineStoreError> {
        let mut table = self.view_table_or_create(replacement).await?;
        let base_version = base_version.unwrap_or(0);
        let (adds, rows_written) = write_rows(&table, &replacement.schema, replacement.tail_start, rows).await?;
        for _ in 0..COMMIT_TRIES_MAX {
            if table.version() > base_version && overtaken(&table, base_version, replacement).await? {
                return Err(OfflineStoreError::Conflict { view: replacement.view.clone() });
            }
            let actions = plan_actions(&table, replacement, &adds).await?;
            match commit(&table, replacement, actions).await {
                Ok(table_version) => return Ok(Replaced { table_version, rows_written }),
                Err(error) if is_conflict(&error) => {
                    table = self.view_table_or_create(replacement).await?;
                }
                Err(error) => return Err(table.failed("committed to", error)),
            }
        }
        Err(OfflineStoreError::Conflict { view: replacement.view.clone() })
    }

    async fn view_table_or_create(&self, replacement: &Replacement) -> Result<ViewTable, OfflineStoreError> {
        if let Some(table) = self.view_table(&replacement.view).await? {
            return Ok(table);
        }
        let view = &replacement.view;
        let failed =
            |source| OfflineStoreError::Table { view: view.clone(), action: "created", source: Box::new(source) };
        let table = self.unloaded(view).map_err(failed)?;
        create_table(table, view.as_str(), &replacement.schema).await.map_err(failed)?;
        self.view_table(view).await?.ok_or_else(|| failed(DeltaTableError::NotInitialized))
    }
}

pub(super) fn delta_schema(schema: &SchemaRef) -> Result<StructType, DeltaTableError> {
    schema.as_ref().try_into_kernel().map_err(DeltaTableError::from)
}

/// Creates the table where there is none.
pub(super) async fn create_table(table: DeltaTable, name: &str, schema: &SchemaRef) -> Result<(), DeltaTableError> {
    let columns = delta_schema(schema)?;
    if let Ok(folder) = table.table_url().to_file_path() {
        std::fs::create_dir_all(folder).map_err(|source| DeltaTableError::Io { source })?;
    }
    let create =
        table.create().with_table_name(name).with_columns(columns.fields().cloned()).with_save_mode(SaveMode::Ignore);
    match create.await {
        Ok(_) => Ok(()),
        // Another one created it first.
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a commit after `base_version` replaced a part of the replacement's range, or tells nothing of itself.
async fn overtaken(table: &ViewTable, base_version: u64, new: &Replacement) -> Result<bool, OfflineStoreError> {
    let commits = table.commits_since(base_version).await?;
    Ok(commits.is_none_or(|commits| {
        commits
            .iter()
            .any(|commit| commit.view_id != new.view_id || commit.range.is_some_and(|range| range.overlaps(&new.range)))
    }))
}

pub(super) fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::MaxCommitAttempts(_)
                    | TransactionError::CommitConflict(_)
                    | TransactionError::VersionAlreadyExists(_)
            }
    )
}

/// Writes the rows into new files that no commit names yet.
pub(super) async fn write_rows(
    table: &ViewTable,
    schema: &SchemaRef,
    tail_start: Option<EventTimestamp>,
    mut rows: SendableRecordBatchStream,
) -> Result<(Vec<Add>, u64), OfflineStoreError> {
    let failed = |source| table.failed("written", source);
    let mut writers: Option<[RecordBatchWriter; 2]> = None;
    let mut rows_written = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|source| table.rows_failed(source))?;
        rows_written += batch.num_rows() as u64;
        let [body, tail] = match &mut writers {
            Some(writers) => writers,
            None => {
                let new = || new_writer(&table.table, schema, &batch).map_err(failed);
                writers.insert([new()?, new()?])
            }
        };
        let (before, after) = match tail_start {
            Some(tail_start) => split_at(&batch, tail_start).map_err(|source| failed(source.into()))?,
            None => (Some(batch), None),
        };
        if let Some(batch) = before {
            body.write(batch).await.map_err(failed)?;
        }
        if let Some(batch) = after {
            tail.write(batch).await.map_err(failed)?;
        }
    }
    let mut adds = Vec::new();
    for mut writer in writers.into_iter().flatten() {
        adds.extend(writer.flush().await.map_err(failed)?);
    }
    Ok((adds, rows_written))
}

/// A writer of new files, laid out for rows like those of `sample`.
pub(super) fn new_writer(
    table: &DeltaTable,
    schema: &SchemaRef,
    sample: &RecordBatch,
) -> Result<RecordBatchWriter, DeltaTableError> {
    let mut properties = parquet_files::properties(sample)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_write_batch_size(1024)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for name in sorted_columns(schema) {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Page);
    }
    let properties = properties.build();
    let writer = RecordBatchWriter::try_new(table.table_url().as_str(), Arc::clone(schema), None, None)?;
    Ok(writer.with_writer_properties(properties).with_target_file_size(FILE_BYTES_TARGET))
}

/// The columns that rows are sorted by, which are those that pages are looked for by.
fn sorted_columns(schema: &SchemaRef) -> impl Iterator<Item = &str> {
    let is_time = |name: &str| name == EVENT_TIMESTAMP || name == CREATED_TIMESTAMP;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    // Features come last; static rows have no times that part them from the keys.
    let last = names.clone().rposition(is_time).map_or(schema.fields().len(), |time| time + 1);
    names.take(last)
}

type SplitBatch = (Option<RecordBatch>, Option<RecordBatch>);

/// The rows before `instant`, and those from it on.
fn split_at(batch: &RecordBatch, instant: EventTimestamp) -> Result<SplitBatch, arrow::error::ArrowError> {
    let Some(times) = batch.column_by_name(EVENT_TIMESTAMP) else { return Ok((Some(batch.clone()), None)) };
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let is_after: BooleanArray =
        times.iter().map(|time| Some(time.is_some_and(|time| time >= instant.micros()))).collect();
    match is_after.true_count() {
        0 => Ok((Some(batch.clone()), None)),
        count if count == batch.num_rows() => Ok((None, Some(batch.clone()))),
        _ => {
            let before = filter_record_batch(batch, &arrow::compute::not(&is_after)?)?;
            Ok((Some(before), Some(filter_record_batch(batch, &is_after)?)))
        }
    }
}

/// The actions that put `adds` in the place of the range, given the table as it stands.
async fn plan_actions(
    table: &ViewTable,
    replacement: &Replacement,
    adds: &[Add],
) -> Result<Vec<Action>, OfflineStoreError> {
    let failed = |source| table.failed("read", source);
    let snapshot = table.table.snapshot().map_err(failed)?;
    let mut actions: Vec<Action> = adds.iter().cloned().map(Action::Add).collect();
    let starts_empty = table.state().view_id != Some(replacement.view_id);
    let range = if starts_empty { TimeRange::UNBOUNDED } else { replacement.range };

    if let Some(schema) = new_schema(table, replacement, range)? {
        let schema = delta_schema(&schema).map_err(failed)?;
        let metadata = snapshot.metadata().clone().with_schema(&schema);
        actions.push(Action::Metadata(metadata.map_err(|error| failed(error.into()))?));
    }
    for file in snapshot.log_data() {
        match overlap(&file, &range) {
            Overlap::None => continue,
            Overlap::Whole => {}
            Overlap::Part => {
                actions.extend(rewrite_outside(table, &file, &range).await?.into_iter().map(Action::Add));
            }
        }
        actions.push(Action::Remove(file.remove_action(true)));
    }
    Ok(actions)
}

/// The table's schema after the replacement where it changes: a run over everything leaves the view's columns
/// alone; any other adds what is new and keeps what it does not rewrite.
fn new_schema(
    table: &ViewTable,
    replacement: &Replacement,
    range: TimeRange,
) -> Result<Option<SchemaRef>, OfflineStoreError> {
    let current = table.schema()?;
    let same = |a: &SchemaRef, b: &SchemaRef| {
        a.fields().len() == b.fields().len()
            && a.fields().iter().zip(b.fields()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
    };
    let mut fields: Vec<_> = replacement.schema.fields().iter().cloned().collect();
    if range != TimeRange::UNBOUNDED {
        let kept = current.fields().iter().filter(|field| replacement.schema.field_with_name(field.name()).is_err());
        fields.extend(kept.cloned());
    }
    let next = Arc::new(arrow::datatypes::Schema::new(fields));
    Ok((!same(&current, &next)).then_some(next))
}

enum Overlap {
    None,
    Part,
    Whole,
}

/// How much of a file lies in the range, by its statistics; those hold milliseconds, cut to the one below.
fn overlap(file: &LogicalFileView, range: &TimeRange) -> Overlap {
    if *range == TimeRange::UNBOUNDED {
        return Overlap::Whole;
    }
    let Some((min, max)) = event_time_bounds(file) else { return Overlap::Part };
    let file_range = TimeRange { start: Some(min), end: Some(max) };
    if !file_range.overlaps(range) {
        return Overlap::None;
    }
    let inside = range.start.is_none_or(|start| start <= min) && range.end.is_none_or(|end| max <= end);
    if inside { Overlap::Whole } else { Overlap::Part }
}

/// A half-open range in which every row of the file lies.
fn event_time_bounds(file: &LogicalFileView) -> Option<(EventTimestamp, EventTimestamp)> {
    let stats: serde_json::Value = serde_json::from_str(&file.stats()?).ok()?;
    let bound = |side: &str| EventTimestamp::parse(stats.get(side)?.get(EVENT_TIMESTAMP)?.as_str()?).ok();
    let (min, max) = (bound("minValues")?, bound("maxValues")?);
    Some((min, max.saturating_add(std::time::Duration::from_millis(1))))
}

/// Writes the rows of `file` that lie outside of the range into a new file, in the same order.
async fn rewrite_outside(
    table: &ViewTable,
    file: &LogicalFileView,
    range: &TimeRange,
) -> Result<Vec<Add>, OfflineStoreError> {
    let failed = |source| table.failed("written", source);
    // One partition keeps the file's order.
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().execution.parquet.schema_force_view_types = false;
    let context = SessionContext::new_with_config(config);
    let provider = table.provider_of(&context, vec![file.path().into_owned()]).await?;
    let frame = context.read_table(provider).map_err(|source| table.rows_failed(source))?;
    let mut rows = frame.execute_stream().await.map_err(|source| table.rows_failed(source))?;
    let mut writer: Option<RecordBatchWriter> = None;
    while let Some(batch) = rows.try_next().await.map_err(|source| table.rows_failed(source))? {
        let outside = filter_outside(&batch, range).map_err(|source| failed(source.into()))?;
        if outside.num_rows() == 0 {
            continue;
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(new_writer(&table.table, &outside.schema(), &outside).map_err(failed)?),
        };
        writer.write(outside).await.map_err(failed)?;
    }
    match writer {
        Some(mut writer) => writer.flush().await.map_err(failed),
        None => Ok(Vec::new()),
    }
}

fn filter_outside(batch: &RecordBatch, range: &TimeRange) -> Result<RecordBatch, arrow::error::ArrowError> {
    let Some(times) = batch.column_by_name(EVENT_TIMESTAMP) else { return Ok(batch.clone()) };
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let outside: BooleanArray = times
        .iter()
        .map(|time| Some(time.is_none_or(|time| !range.contains(EventTimestamp::from_micros(time)))))
        .collect();
    filter_record_batch(batch, &outside)
}

async fn commit(table: &ViewTable, replacement: &Replacement, actions: Vec<Action>) -> Result<u64, DeltaTableError> {
    let info = CommittedRange { view_id: replacement.view_id, range: Some(replacement.range) };
    let properties = CommitProperties::default()
        .with_metadata([(COMMIT_INFO.to_owned(), serde_json::to_value(info)?)])
        .with_application_transactions(transactions(table.state(), replacement))
        .with_max_retries(0);
    let operation = DeltaOperation::Write {
        mode: SaveMode::Overwrite,
        partition_by: None,
        predicate: Some(format!("{EVENT_TIMESTAMP} in {}", replacement.range)),
    };
    let finalized = CommitBuilder::from(properties)
        .with_actions(actions)
        .build(Some(table.table.snapshot()?.snapshot()), table.table.log_store(), operation)
        .await?;
    Ok(finalized.version())
}

/// What the table stands for after the commit.
fn transactions(state: &TableState, replacement: &Replacement) -> Vec<Transaction> {
    let same_view = state.view_id == Some(replacement.view_id);
    let until = match state.materialized_until.filter(|_| same_view) {
        // What lies between is not there: the next run goes on from where the rows end.
        Some(until) if replacement.range.start.is_some_and(|start| start > until) => Some(until),
        until => until.max(replacement.materialized_until),
    };
    let mut transactions = vec![Transaction::new(TRANSACTION_VIEW_ID, i64::from(replacement.view_id))];
    transactions.push(Transaction::new(TRANSACTION_HAS_CREATED, i64::from(replacement.has_created_timestamp)));
    let data_version = replacement.data_version.or((!same_view).then_some(0));
    transactions.extend(data_version.map(|v| Transaction::new(TRANSACTION_DATA_VERSION, v.cast_signed())));
    transactions.extend(until.map(|until| Transaction::new(TRANSACTION_MATERIALIZED_UNTIL, until.micros())));
    if let Some(DerivedFrom { table, version }) = replacement.derived_from {
        transactions.push(Transaction::new(TRANSACTION_SOURCE_TABLE, table.cast_signed()));
        transactions.push(Transaction::new(TRANSACTION_SOURCE_VERSION, version.cast_signed()));
    }
    transactions
}
