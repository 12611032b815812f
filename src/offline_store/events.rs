//! Tables of streams: the events of a source as they were accepted, and those that were refused.
//!
//! Rows are only ever added. Each commit carries, as a Delta application transaction, the position in the log that
//! its rows reach up to: what was committed already is told from what was not, however often it is tried.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::prelude::{Expr, SessionConfig, SessionContext};
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, LogicalFileView, MetadataExt, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::DeltaWriter;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt;
use url::Url;

use super::replace::{create_table, delta_schema, is_conflict, new_writer};
use super::{OfflineStore, OfflineStoreError, table_exists};
use crate::definition::SourceName;

/// For how long a commit is tried again that others were faster than.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
/// Files smaller than this are brought together once there are so many.
const SMALL_FILE_BYTES: i64 = 16 << 20;
const SMALL_FILES_MAX: usize = 32;
const FILE_BYTES_TARGET: i64 = 128 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// What was accepted: the columns of the stream, and when each came in.
    Accepted,
    /// What was not: when it came in, why it was refused, its bytes.
    DeadLetters,
    /// What was predicted of what.
    Predictions,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventKind::Accepted => "event table",
            EventKind::DeadLetters => "dead-letter table",
            EventKind::Predictions => "prediction log",
        })
    }
}

impl EventKind {
    fn folder(self) -> &'static str {
        match self {
            EventKind::Accepted => "sources",
            EventKind::DeadLetters => "dead_letters",
            EventKind::Predictions => "predictions",
        }
    }
}

/// One version of a table of events.
#[derive(Debug, Clone)]
pub struct EventTable {
    kind: EventKind,
    name: SourceName,
    table: DeltaTable,
    version: u64,
}

/// How far rows reach, once they are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The log that they come through.
    pub log: String,
    pub position: u64,
    /// The next offset of each partition of a topic that they come from.
    pub topics: BTreeMap<(String, i32), i64>,
}

impl Reach {
    fn transactions(&self) -> Vec<Transaction> {
        let position = i64::try_from(self.position).unwrap_or(i64::MAX);
        let topics = self.topics.iter();
        let topics =
            topics.map(|((topic, partition), offset)| Transaction::new(topic_application(topic, *partition), *offset));
        std::iter::once(Transaction::new(application(&self.log), position)).chain(topics).collect()
    }
}

/// A message of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    pub partition: i32,
    pub offset: i64,
}

/// The messages that rows come from; none where they are pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub topic: String,
    /// One a row, or empty.
    pub rows: Vec<RowPlace>,
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub table_version: u64,
    /// False: what it was given is there since an earlier one.
    pub is_new: bool,
}

/// The rows of event tables by source, for queries of `context`.
///
/// # Errors
/// A table that cannot be read.
pub async fn event_providers(
    tables: &[EventTable],
    context: &SessionContext,
) -> Result<HashMap<SourceName, Arc<dyn TableProvider>>, OfflineStoreError> {
    let mut providers = HashMap::new();
    for table in tables {
        providers.insert(table.name.clone(), table.provider(context).await?);
    }
    Ok(providers)
}

impl EventTable {
    /// The source whose events it holds.
    pub fn source(&self) -> &SourceName {
        &self.name
    }

    /// Version of the Delta table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What tells the table from any other one.
    ///
    /// # Errors
    /// A table that is not read.
    pub fn id(&self) -> Result<String, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        Ok(snapshot.metadata().id().to_owned())
    }

    /// How far the rows of this version reach in a log; None: it has none of that log.
    pub async fn position(&self, log: &str) -> Result<Option<u64>, OfflineStoreError> {
        let version = self.mark(&application(log)).await?;
        Ok(version.and_then(|version| u64::try_from(version).ok()))
    }

    /// The number of a mark that commits up to this version carry; None: none does.
    pub async fn mark(&self, name: &str) -> Result<Option<i64>, OfflineStoreError> {
        let failed = |source| self.failed("read", source);
        let snapshot = self.table.snapshot().map_err(failed)?;
        let log_store = self.table.log_store();
        snapshot.transaction_version(log_store.as_ref(), name).await.map_err(failed)
    }

    /// The offset of a partition that comes after the rows of this version; None: it has none of that partition.
    pub async fn next_offset(&self, topic: &str, partition: i32) -> Result<Option<i64>, OfflineStoreError> {
        self.mark(&topic_application(topic, partition)).await
    }

    /// The offsets of partitions that rows reach, or those that this version reaches where it is farther.
    async fn farthest(
        &self,
        topics: &BTreeMap<(String, i32), i64>,
    ) -> Result<BTreeMap<(String, i32), i64>, OfflineStoreError> {
        let mut farthest = topics.clone();
        for ((topic, partition), offset) in &mut farthest {
            *offset = self.next_offset(topic, *partition).await?.map_or(*offset, |known| known.max(*offset));
        }
        Ok(farthest)
    }

    /// The rows whose messages this version does not hold. Whoever read them: a partition's messages are added in
    /// their order, so it holds those before its next offset.
    async fn not_there(&self, rows: &RecordBatch, places: &Places) -> Result<RecordBatch, OfflineStoreError> {
        let mut held: HashMap<i32, i64> = HashMap::new();
        for place in &places.rows {
            if let Entry::Vacant(partition) = held.entry(place.partition) {
                partition.insert(self.next_offset(&places.topic, place.partition).await?.unwrap_or(0));
            }
        }
        let is_new = |place: &RowPlace| place.offset >= held[&place.partition];
        if places.rows.iter().all(is_new) {
            return Ok(rows.clone());
        }
        let is_new: BooleanArray = places.rows.iter().map(|place| Some(is_new(place))).collect();
        let new = arrow::compute::filter_record_batch(rows, &is_new);
        new.map_err(|error| self.failed("written", error.into()))
    }

    /// Columns of the table.
    pub fn schema(&self) -> Result<SchemaRef, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        Ok(snapshot.snapshot().arrow_schema())
    }

    /// The rows of this version, for queries of `context`.
    pub async fn provider(&self, context: &SessionContext) -> Result<Arc<dyn TableProvider>, OfflineStoreError> {
        let builder = self.table.table_provider().with_session(Arc::new(context.state()));
        builder.await.map_err(|source| self.failed("read", DeltaTableError::generic(source.to_string())))
    }

    /// The rows of some files, in their order.
    async fn rows_of(&self, paths: Vec<String>) -> Result<Vec<RecordBatch>, DeltaTableError> {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let context = SessionContext::new_with_config(config);
        let builder = self.table.table_provider().with_session(Arc::new(context.state())).with_file_paths(paths);
        let rows = async { context.read_table(builder.await?)?.execute_stream().await?.try_collect().await };
        rows.await.map_err(|error: datafusion::error::DataFusionError| DeltaTableError::generic(error.to_string()))
    }

    /// Reads what others have committed since.
    async fn update(&mut self) -> Result<(), OfflineStoreError> {
        let updated = self.table.update_state().await.and_then(|()| Ok(self.table.snapshot()?.version()));
        self.version = updated.map_err(|source| self.failed("read", source))?;
        Ok(())
    }

    fn failed(&self, action: &'static str, source: DeltaTableError) -> OfflineStoreError {
        failed(self.kind, &self.name, action)(source)
    }
}

impl OfflineStore {
    /// The newest version of a source's table; None where nothing was written yet.
    pub async fn event_table(
        &self,
        kind: EventKind,
        name: &SourceName,
    ) -> Result<Option<EventTable>, OfflineStoreError> {
        let failed = |source| failed(kind, name, "read")(source);
        let mut table = self.unloaded_events(kind, name).map_err(failed)?;
        if !table_exists(&table).await.map_err(failed)? {
            return Ok(None);
        }
        table.load().await.map_err(failed)?;
        self.loaded(kind, name, table).map(Some).map_err(failed)
    }

    /// The table as it was at `version`; None where that cannot be read any more.
    pub async fn event_table_at(
        &self,
        kind: EventKind,
        name: &SourceName,
        version: u64,
    ) -> Result<Option<EventTable>, OfflineStoreError> {
        let failed = |source| failed(kind, name, "read")(source);
        let mut table = self.unloaded_events(kind, name).map_err(failed)?;
        match table.load_version(version).await {
            Ok(()) => self.loaded(kind, name, table).map(Some).map_err(failed),
            Err(_) => Ok(None),
        }
    }

    /// The event tables of these sources that there are.
    pub async fn event_tables(
        &self,
        names: impl IntoIterator<Item = &SourceName>,
    ) -> Result<Vec<EventTable>, OfflineStoreError> {
        let mut tables = Vec::new();
        for name in names {
            tables.extend(self.event_table(EventKind::Accepted, name).await?);
        }
        Ok(tables)
    }

    /// Adds rows in one commit; nothing where those that reach as far are there already, and no row whose message
    /// another process has brought.
    ///
    /// # Errors
    /// A table that cannot be written; it is as it was.
    pub async fn append_events(
        &self,
        kind: EventKind,
        name: &SourceName,
        rows: &RecordBatch,
        places: &Places,
        reach: &Reach,
    ) -> Result<Appended, OfflineStoreError> {
        let mut table = self.event_table_or_create(kind, name, &rows.schema()).await?;
        let mut written: Option<(usize, Vec<Add>)> = None;
        let began = Instant::now();
        loop {
            if table.position(&reach.log).await?.is_some_and(|known| known >= reach.position) {
                return Ok(Appended { table_version: table.version, is_new: false });
            }
            let failed = |source| table.failed("written", source);
            let reach = Reach { topics: table.farthest(&reach.topics).await?, ..reach.clone() };
            let rows = &table.not_there(rows, places).await?;
            if rows.num_rows() == 0 {
                return Ok(Appended { table_version: table.version, is_new: false });
            }
            let files = match written.take_if(|(count, _)| *count == rows.num_rows()) {
                Some((_, files)) => files,
                None => write(&table.table, rows).await.map_err(failed)?,
            };
            let committed = commit_append(&table, rows, &files, reach.transactions()).await;
            written = Some((rows.num_rows(), files));
            match committed {
                Ok(table_version) => return Ok(Appended { table_version, is_new: true }),
                Err(error) if is_conflict(&error) && began.elapsed() < COMMIT_PATIENCE => table.update().await?,
                Err(error) => return Err(table.failed("committed to", error)),
            }
        }
    }

    /// Adds rows, perhaps none, with marks, in one commit; nothing where the first of the marks is there already.
    ///
    /// # Errors
    /// A table that cannot be written; it is as it was.
    pub async fn append_once(
        &self,
        kind: EventKind,
        name: &SourceName,
        rows: &RecordBatch,
        marks: &[(String, i64)],
    ) -> Result<(), OfflineStoreError> {
        let mut table = self.event_table_or_create(kind, name, &rows.schema()).await?;
        let mut written: Option<Vec<Add>> = None;
        let began = Instant::now();
        loop {
            if let Some((first, _)) = marks.first()
                && table.mark(first).await?.is_some()
            {
                return Ok(());
            }
            let files = match written.take() {
                Some(files) => files,
                None if rows.num_rows() == 0 => Vec::new(),
                None => write(&table.table, rows).await.map_err(|source| table.failed("written", source))?,
            };
            let transactions = marks.iter().map(|(name, number)| Transaction::new(name.clone(), *number)).collect();
            let committed = commit_append(&table, rows, &files, transactions).await;
            written = Some(files);
            match committed {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) && began.elapsed() < COMMIT_PATIENCE => table.update().await?,
                Err(error) => return Err(table.failed("committed to", error)),
            }
        }
    }

    /// Makes a table whose rows will come after a position in a log.
    ///
    /// # Errors
    /// A table that cannot be written.
    pub async fn begin_events(
        &self,
        kind: EventKind,
        name: &SourceName,
        columns: &RecordBatch,
        log: &str,
        position: u64,
    ) -> Result<(), OfflineStoreError> {
        let marks = [(application(log), i64::try_from(position).unwrap_or(i64::MAX))];
        self.append_once(kind, name, columns, &marks).await
    }

    /// Deletes the rows that meet a condition. Gives how many there were.
    ///
    /// # Errors
    /// A table that cannot be read or written, or to which somebody else commits meanwhile; it is as it was.
    pub async fn delete_events(
        &self,
        kind: EventKind,
        name: &SourceName,
        condition: Expr,
    ) -> Result<usize, OfflineStoreError> {
        let Some(table) = self.event_table(kind, name).await? else { return Ok(0) };
        let deleted = table.table.clone().delete().with_predicate(condition).await;
        let (_, metrics) = deleted.map_err(|source| table.failed("cleaned", source))?;
        Ok(metrics.num_deleted_rows.unwrap_or_default())
    }

    /// Brings small files together once there are many, in a commit that changes no row. Gives how many there were.
    ///
    /// # Errors
    /// A table that cannot be read or written; it is as it was.
    pub async fn compact_events(&self, kind: EventKind, name: &SourceName) -> Result<usize, OfflineStoreError> {
        let Some(table) = self.event_table(kind, name).await? else { return Ok(0) };
        let failed = |source| table.failed("compacted", source);
        let snapshot = table.table.snapshot().map_err(failed)?.snapshot();
        let mut bytes = 0;
        let mut small: Vec<LogicalFileView> = Vec::new();
        let files = snapshot.log_data();
        for file in files.iter().filter(|file| file.size() < SMALL_FILE_BYTES) {
            bytes += file.size();
            if bytes > FILE_BYTES_TARGET {
                break;
            }
            small.push(file);
        }
        if small.len() < SMALL_FILES_MAX {
            return Ok(0);
        }
        let paths = small.iter().map(|file| file.path().into_owned()).collect();
        let rows = table.rows_of(paths).await.map_err(failed)?;
        let Some(first) = rows.first() else { return Ok(0) };
        let rows = arrow::compute::concat_batches(&first.schema(), &rows).map_err(|error| failed(error.into()))?;
        let adds = write(&table.table, &rows).await.map_err(failed)?;
        let moved = |mut add: Add| {
            add.data_change = false;
            Action::Add(add)
        };
        let removes = small.iter().map(|file| Action::Remove(file.remove_action(false)));
        let actions = adds.into_iter().map(moved).chain(removes).collect();
        let operation = DeltaOperation::Optimize { predicate: None, target_size: FILE_BYTES_TARGET };
        let builder = CommitBuilder::from(CommitProperties::default().with_max_retries(0)).with_actions(actions);
        match builder.build(Some(snapshot), table.table.log_store(), operation).await {
            Ok(_) => Ok(small.len()),
            // Another time.
            Err(error) if is_conflict(&error) => Ok(0),
            Err(error) => Err(failed(error)),
        }
    }

    /// Deletes the files that no version of the table younger than `retention` needs; gives their number.
    ///
    /// # Errors
    /// A table that cannot be read, or files that cannot be deleted.
    pub async fn vacuum_event_table(
        &self,
        kind: EventKind,
        name: &SourceName,
        retention: chrono::Duration,
        dry_run: bool,
    ) -> Result<usize, OfflineStoreError> {
        let Some(table) = self.event_table(kind, name).await? else { return Ok(0) };
        let vacuum = table.table.vacuum().with_retention_period(retention).with_enforce_retention_duration(false);
        let vacuumed = vacuum.with_dry_run(dry_run).await;
        vacuumed.map(|(_, metrics)| metrics.files_deleted.len()).map_err(failed(kind, name, "cleaned"))
    }

    fn unloaded_events(&self, kind: EventKind, name: &SourceName) -> Result<DeltaTable, DeltaTableError> {
        DeltaTableBuilder::from_url(self.event_url(kind, name))?.build()
    }

    /// Where a source's table of events stands.
    pub fn event_url(&self, kind: EventKind, name: &SourceName) -> Url {
        self.root.join(&format!("{}/{name}/", kind.folder())).expect("a valid name is a valid path segment")
    }

    fn loaded(&self, kind: EventKind, name: &SourceName, table: DeltaTable) -> Result<EventTable, DeltaTableError> {
        let version = table.snapshot()?.version();
        Ok(EventTable { kind, name: name.clone(), table, version })
    }

    async fn event_table_or_create(
        &self,
        kind: EventKind,
        name: &SourceName,
        schema: &SchemaRef,
    ) -> Result<EventTable, OfflineStoreError> {
        if let Some(table) = self.event_table(kind, name).await? {
            return Ok(table);
        }
        let failed = |source| failed(kind, name, "created")(source);
        let table = self.unloaded_events(kind, name).map_err(failed)?;
        create_table(table, name.as_str(), schema).await.map_err(failed)?;
        self.event_table(kind, name).await?.ok_or_else(|| failed(DeltaTableError::NotInitialized))
    }
}

fn application(log: &str) -> String {
    format!("asof.log.{log}")
}

fn topic_application(topic: &str, partition: i32) -> String {
    format!("asof.topic.{topic}/{partition}")
}

fn failed<'a>(
    kind: EventKind,
    name: &'a SourceName,
    action: &'static str,
) -> impl Fn(DeltaTableError) -> OfflineStoreError + 'a {
    move |source| OfflineStoreError::Events { kind, name: name.clone(), action, source: Box::new(source) }
}

/// Writes rows into new files that no commit names yet.
async fn write(table: &DeltaTable, rows: &RecordBatch) -> Result<Vec<Add>, DeltaTableError> {
    let mut writer = new_writer(table, &rows.schema(), rows)?;
    writer.write(rows.clone()).await?;
    writer.flush().await
}

async fn commit_append(
    table: &EventTable,
    rows: &RecordBatch,
    adds: &[Add],
    transactions: Vec<Transaction>,
) -> Result<u64, DeltaTableError> {
    let snapshot = table.table.snapshot()?;
    let mut actions: Vec<Action> = adds.iter().cloned().map(Action::Add).collect();
    if let Some(schema) = wider_schema(&snapshot.snapshot().arrow_schema(), &rows.schema()) {
        let metadata = snapshot.metadata().clone().with_schema(&delta_schema(&schema)?);
        actions.push(Action::Metadata(metadata?));
    }
    let properties = CommitProperties::default().with_application_transactions(transactions).with_max_retries(0);
    let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    let builder = CommitBuilder::from(properties).with_actions(actions);
    let finalized = builder.build(Some(snapshot.snapshot()), table.table.log_store(), operation).await?;
    Ok(finalized.version())
}

/// The table's columns and those that are new in the rows; None where none is.
fn wider_schema(table: &SchemaRef, rows: &SchemaRef) -> Option<SchemaRef> {
    let new: Vec<_> =
        rows.fields().iter().filter(|field| table.field_with_name(field.name()).is_err()).cloned().collect();
    (!new.is_empty()).then(|| Arc::new(Schema::new(table.fields().iter().cloned().chain(new).collect::<Vec<_>>())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use deltalake::operations::update_table_metadata::TableMetadataUpdate;

    use super::*;
    use crate::error::ErrorKind;

    fn rows(values: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    fn source() -> SourceName {
        SourceName::from("orders")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_come_in_once_beside_another_one_that_commits_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = OfflineStore::open(folder.path().to_str().unwrap()).unwrap();
        let (kind, name) = (EventKind::Accepted, source());
        store.begin_events(kind, &name, &rows(0..0), "log", 0).await.unwrap();
        let table = store.event_table(kind, &name).await.unwrap().unwrap().table;
        let changes = Arc::new(AtomicU64::new(0));
        let changed = Arc::clone(&changes);
        let other = tokio::spawn(async move {
            let mut table = table;
            loop {
                let description = Some(format!("described {} times", changed.load(Ordering::Relaxed)));
                let update = TableMetadataUpdate { name: None, description };
                match table.clone().update_table_metadata().with_update(update).await {
                    Ok(new) => table = new,
                    Err(error) if is_conflict(&error) => {
                        table.update_state().await.unwrap();
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
                changed.fetch_add(1, Ordering::Relaxed);
            }
        });
        for position in 1..=20 {
            while changes.load(Ordering::Relaxed) < position && !other.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let reach = Reach { log: "log".to_owned(), position, topics: BTreeMap::new() };
            let new = rows(position as i64..position as i64 + 1);
            for is_new in [true, false] {
                let appended = store.append_events(kind, &name, &new, &Places::default(), &reach).await.unwrap();
                assert_eq!(appended.is_new, is_new);
            }
        }
        assert!(!other.is_finished());
        other.abort();
        let table = store.event_table(kind, &name).await.unwrap().unwrap();
        let context = SessionContext::new();
        let rows = context.read_table(table.provider(&context).await.unwrap()).unwrap();
        let sorted = rows.sort_by(vec![datafusion::prelude::col("value")]).unwrap().collect().await.unwrap();
        let values: Vec<i64> = sorted
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec())
            .collect();
        assert_eq!(values, (1..=20).collect::<Vec<i64>>());
    }

    #[tokio::test]
    async fn storage_that_refuses_is_told_from_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sources"), "in the way").unwrap();
        let store = OfflineStore::open(folder.path().to_str().unwrap()).unwrap();
        let begun = store.begin_events(EventKind::Accepted, &source(), &rows(0..0), "log", 0).await;
        assert_eq!(begun.unwrap_err().kind(), ErrorKind::Unavailable);
        std::fs::remove_file(folder.path().join("sources")).unwrap();
        store.begin_events(EventKind::Accepted, &source(), &rows(0..0), "log", 0).await.unwrap();
        let log = folder.path().join("sources/orders/_delta_log/00000000000000000000.json");
        std::fs::write(log, "{").unwrap();
        let damaged = store.event_table(EventKind::Accepted, &source()).await;
        assert_eq!(damaged.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
