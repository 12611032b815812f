//! Reading a view's table: its state, its rows at one version, what changed since another version.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use deltalake::kernel::LogicalFileView;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Position;
use xxhash_rust::xxh3::xxh3_64;

use super::{OfflineStoreError, PAGE_ROWS_MAX};
use crate::definition::FeatureViewName;
use crate::point_in_time_join::{TableFile, TableFiles};
use crate::time::{EventTimestamp, TimeRange};

/// What a table's rows stand for; committed with the rows as application transactions `asof.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableState {
    /// Id of the view in the registry; a table of another id is left over from a removed view.
    pub view_id: Option<u32>,
    /// Version of the view's data that the last run from the beginning computed.
    pub data_version: u64,
    /// Greatest end of the ranges that were materialized; None for static views.
    pub materialized_until: Option<EventTimestamp>,
    /// Whether rows say when they were written down, so that `as_known` concerns them.
    pub has_created_timestamp: bool,
    /// Of a table of tiles: what they are tiles of.
    pub derived_from: Option<DerivedFrom>,
}

/// A version of another table, from which a table's rows follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DerivedFrom {
    /// Hash of the table's id.
    pub table: u64,
    pub version: u64,
}

pub(super) const TRANSACTION_VIEW_ID: &str = "asof.view_id";
pub(super) const TRANSACTION_DATA_VERSION: &str = "asof.data_version";
pub(super) const TRANSACTION_MATERIALIZED_UNTIL: &str = "asof.materialized_until";
pub(super) const TRANSACTION_HAS_CREATED: &str = "asof.has_created_timestamp";
pub(super) const TRANSACTION_SOURCE_TABLE: &str = "asof.source_table";
pub(super) const TRANSACTION_SOURCE_VERSION: &str = "asof.source_version";
/// Key of the commit information that holds a [`CommittedRange`].
pub(super) const COMMIT_INFO: &str = "asof";

/// The greatest reader version of the Delta protocol under which files hold plain rows in plain columns.
const READER_VERSION_PLAIN: i32 = 1;

/// The range of event time that one commit replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedRange {
    pub view_id: u32,
    /// None: the same rows lie in other files.
    pub range: Option<TimeRange>,
}

/// What may differ between two versions of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Nothing,
    Range(TimeRange),
    /// Some of the commits between them cannot be read or are not ours.
    Unknown,
}

/// One version of a view's table.
#[derive(Debug, Clone)]
pub struct ViewTable {
    view: FeatureViewName,
    pub(super) table: DeltaTable,
    version: u64,
    state: TableState,
}

impl ViewTable {
    pub(super) async fn new(view: FeatureViewName, table: DeltaTable) -> Result<Self, DeltaTableError> {
        let snapshot = table.snapshot()?;
        let log_store = table.log_store();
        let transaction = async |name: &str| snapshot.transaction_version(log_store.as_ref(), name).await;
        let source_table = transaction(TRANSACTION_SOURCE_TABLE).await?;
        let source_version = transaction(TRANSACTION_SOURCE_VERSION).await?;
        let derived_from = source_table
            .zip(source_version)
            .map(|(table, version)| DerivedFrom { table: table.cast_unsigned(), version: version.cast_unsigned() });
        let state = TableState {
            derived_from,
            view_id: transaction(TRANSACTION_VIEW_ID).await?.and_then(|id| u32::try_from(id).ok()),
            data_version: transaction(TRANSACTION_DATA_VERSION).await?.map_or(0, i64::cast_unsigned),
            materialized_until: transaction(TRANSACTION_MATERIALIZED_UNTIL).await?.map(EventTimestamp::from_micros),
            has_created_timestamp: transaction(TRANSACTION_HAS_CREATED).await? == Some(1),
        };
        let version = snapshot.version();
        Ok(ViewTable { view, table, version, state })
    }

    /// Version of the Delta table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What tells this table from any other one, also at the same place.
    pub fn id(&self) -> Result<String, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        Ok(snapshot.metadata().id().to_owned())
    }

    /// This version, for what is derived from it.
    pub fn as_source(&self) -> Result<DerivedFrom, OfflineStoreError> {
        Ok(DerivedFrom { table: xxh3_64(self.id()?.as_bytes()), version: self.version })
    }

    /// How many rows the table has; None where a file does not say.
    pub fn row_count(&self) -> Result<Option<usize>, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        Ok(snapshot.snapshot().log_data().iter().map(|file| file.num_records()).sum())
    }

    pub fn state(&self) -> &TableState {
        &self.state
    }

    /// Columns of the table: join keys, event and created timestamp, features.
    pub fn schema(&self) -> Result<SchemaRef, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        Ok(snapshot.snapshot().arrow_schema())
    }

    /// The rows of this version, for queries of `context`.
    pub async fn provider(&self, context: &SessionContext) -> Result<Arc<dyn TableProvider>, OfflineStoreError> {
        let builder = self.table.table_provider().with_session(Arc::new(context.state()));
        builder.await.map_err(|source| self.rows_failed(source))
    }

    /// The files of this version, for who reads them without a query; their store is registered with `environment`.
    /// None: another engine has changed the table so that its files alone do not tell its rows (deletion vectors,
    /// mapped columns).
    pub fn files(&self, environment: &RuntimeEnv) -> Result<Option<TableFiles>, OfflineStoreError> {
        let snapshot = self.table.snapshot().map_err(|source| self.failed("read", source))?;
        if snapshot.protocol().min_reader_version() > READER_VERSION_PLAIN {
            return Ok(None);
        }
        let url = self.table.table_url();
        let store = &url[..Position::BeforePath];
        if url.scheme() != "file" {
            let root = url
                .join("/")
                .map_err(|error| self.failed("read", DeltaTableError::InvalidTableLocation(error.to_string())))?;
            environment.register_object_store(&root, self.table.log_store().root_object_store(None));
        }
        let folder = Path::from_url_path(url.path())
            .map_err(|error| self.failed("read", DeltaTableError::InvalidTableLocation(error.to_string())))?;
        let file = |file: LogicalFileView| TableFile {
            path: folder.parts().chain(file.object_store_path().parts()).collect::<Path>().to_string(),
            bytes: u64::try_from(file.size()).unwrap_or(0),
        };
        let files = snapshot.snapshot().log_data().iter().map(file).collect();
        Ok(Some(TableFiles {
            store: format!("{store}/"),
            files,
            page_rows: PAGE_ROWS_MAX,
            renamed: BTreeMap::new(),
            skips_untimed: false,
        }))
    }

    /// The rows of some of this version's files.
    pub(super) async fn provider_of(
        &self,
        context: &SessionContext,
        paths: Vec<String>,
    ) -> Result<Arc<dyn TableProvider>, OfflineStoreError> {
        let builder = self.table.table_provider().with_session(Arc::new(context.state())).with_file_paths(paths);
        builder.await.map_err(|source| self.rows_failed(source))
    }

    /// The range outside of which this version holds the same rows as `since` did: the hull of the ranges that the
    /// commits between them replaced.
    pub async fn changed_since(&self, since: u64) -> Result<Changed, OfflineStoreError> {
        let Some(commits) = self.commits_since(since).await? else { return Ok(Changed::Unknown) };
        let hull = commits.into_iter().filter_map(|commit| commit.range).reduce(|a, b| a.hull(&b));
        Ok(hull.map_or(Changed::Nothing, Changed::Range))
    }

    /// The ranges that the commits after version `since` replaced; None where a commit does not tell.
    pub(super) async fn commits_since(&self, since: u64) -> Result<Option<Vec<CommittedRange>>, OfflineStoreError> {
        let Some(count) = self.version.checked_sub(since) else { return Ok(None) };
        let infos: Vec<_> = self
            .table
            .history(Some(usize::try_from(count).unwrap_or(usize::MAX)))
            .try_collect()
            .await
            .map_err(|source| self.failed("read", source))?;
        if infos.len() as u64 != count {
            return Ok(None);
        }
        let ranges = infos.into_iter().map(|info| {
            info.info.get(COMMIT_INFO).and_then(|value| serde_json::from_value::<CommittedRange>(value.clone()).ok())
        });
        Ok(ranges.collect())
    }

    pub(super) fn failed(&self, action: &'static str, source: DeltaTableError) -> OfflineStoreError {
        OfflineStoreError::Table { view: self.view.clone(), action, source: Box::new(source) }
    }

    pub(super) fn rows_failed(&self, source: DataFusionError) -> OfflineStoreError {
        OfflineStoreError::Rows { view: self.view.clone(), source: Box::new(source) }
    }
}
