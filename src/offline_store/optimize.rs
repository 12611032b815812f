//! Bringing a table's rows together again after many small runs.

use datafusion::prelude::{SessionContext, ident};
use deltalake::DeltaTableError;
use deltalake::kernel::Action;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::protocol::DeltaOperation;

use super::replace::{is_conflict, write_rows};
use super::table::{COMMIT_INFO, CommittedRange};
use super::{OfflineStore, OfflineStoreError, ViewTable};
use crate::definition::{CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureViewName};
use crate::time::EventTimestamp;

/// What an optimization did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optimized {
    pub table_version: u64,
    pub files_before: usize,
    pub files_after: usize,
    pub rows: u64,
}

/// Bytes of a file, as the Delta operation tells.
const TARGET_BYTES: i64 = 128 << 20;

impl OfflineStore {
    /// Writes all rows of a view's table anew, sorted by its `join_keys` and times, in one commit that changes no row.
    /// Rows from `tail_start` on go into files of their own, which later runs replace. None: there is no table, or it
    /// has nothing to bring together.
    ///
    /// # Errors
    /// [`OfflineStoreError::Conflict`] where a run changed the table meanwhile.
    pub async fn optimize(
        &self,
        view: &FeatureViewName,
        join_keys: &[String],
        tail_start: impl Fn(&ViewTable) -> Option<EventTimestamp>,
        context: &SessionContext,
    ) -> Result<Option<Optimized>, OfflineStoreError> {
        let Some(table) = self.view_table(view).await? else { return Ok(None) };
        let Some(view_id) = table.state().view_id else { return Ok(None) };
        let snapshot = table.table.snapshot().map_err(|source| table.failed("read", source))?.snapshot();
        let files_before = snapshot.log_data().num_files();
        if files_before < 2 {
            return Ok(None);
        }
        let failed = |source| table.rows_failed(source);
        let frame = context.read_table(table.provider(context).await?).map_err(failed)?;
        let order = join_keys.iter().map(String::as_str).chain([EVENT_TIMESTAMP, CREATED_TIMESTAMP]);
        let order = order.map(|column| ident(column).sort(true, true)).collect();
        let rows = frame.sort(order).map_err(failed)?.execute_stream().await.map_err(failed)?;
        let (adds, rows) = write_rows(&table, &table.schema()?, tail_start(&table), rows).await?;
        let files_after = adds.len();
        let moved = |mut add: deltalake::kernel::Add| {
            add.data_change = false;
            Action::Add(add)
        };
        let files = snapshot.log_data();
        let removes = files.iter().map(|file| Action::Remove(file.remove_action(false)));
        let actions = adds.into_iter().map(moved).chain(removes).collect();
        let table_version = commit(&table, view_id, actions).await.map_err(|error| match is_conflict(&error) {
            true => OfflineStoreError::Conflict { view: view.clone() },
            false => table.failed("committed to", error),
        })?;
        Ok(Some(Optimized { table_version, files_before, files_after, rows }))
    }
}

async fn commit(table: &ViewTable, view_id: u32, actions: Vec<Action>) -> Result<u64, DeltaTableError> {
    let info = CommittedRange { view_id, range: None };
    let properties = CommitProperties::default()
        .with_metadata([(COMMIT_INFO.to_owned(), serde_json::to_value(info)?)])
        .with_max_retries(0);
    let operation = DeltaOperation::Optimize { predicate: None, target_size: TARGET_BYTES };
    let snapshot = table.table.snapshot()?.snapshot();
    let builder = CommitBuilder::from(properties).with_actions(actions);
    let finalized = builder.build(Some(snapshot), table.table.log_store(), operation).await?;
    Ok(finalized.version())
}
