//! The join with a table of Parquet files, which reads no more of it than the answer needs.
//!
//! ```text
//!  files ──► row groups and pages that a spine row may match, by their statistics      prune
//!              │ join keys and times of these
//!              ▼
//!            the row that each slot of the spine holds on to                           choose
//!              │ features of exactly these rows
//!              ▼
//!            columns in the spine's order                                              gather
//! ```
//!
//! Files written in the order of keys and times take the fewest lookups and leave the most out; the answer is the
//! same whatever their order.

mod choose;
mod file_reader;
mod gather;
mod needed;
mod prune;
mod read;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(crate) use self::needed::NeededTimes;
pub(crate) use self::scan::scan_table;

use self::choose::Choices;
use self::read::RowGroup;
use super::{JoinError, JoinedView, SpineIndex, ViewParams};
use crate::definition::FeatureViewName;

/// Parquet files that hold the rows of a view, and the store that they are in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct TableFiles {
    /// Root of the object store, as it is registered with the session: `file:///`, `s3://bucket/`.
    pub store: String,
    pub files: Vec<TableFile>,
    /// Rows of a page, about: where there are fewer keys than pages, their statistics are looked at.
    pub page_rows: usize,
    /// Columns of the view that the files call otherwise, and how.
    #[serde(default)]
    pub renamed: BTreeMap<String, String>,
    /// Leave out rows that have no event timestamp, which otherwise hold at every time.
    #[serde(default)]
    pub skips_untimed: bool,
}

/// A Parquet file of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableFile {
    /// From the root of the object store.
    pub path: String,
    pub bytes: u64,
}

impl TableFiles {
    /// # Errors
    /// A store that nobody has registered.
    pub fn object_store(&self, environment: Arc<RuntimeEnv>) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        environment.object_store(ObjectStoreUrl::parse(&self.store)?)
    }
}

/// One view's side of a join with its table.
#[derive(Debug, Clone)]
pub struct TableView {
    /// For messages.
    pub name: FeatureViewName,
    pub files: TableFiles,
    /// Columns of the join keys, in the order of the spine's key columns and of equal types.
    pub keys: Vec<String>,
    /// Column of event timestamps; None: the rows are static.
    pub event_timestamp: Option<String>,
    /// Column of created timestamps; None: the view has none.
    pub created_timestamp: Option<String>,
    /// The features to answer, with their exact types; null where a file has no such column.
    pub features: Vec<FieldRef>,
    /// How old a row may be at the asked time; None: any age.
    pub ttl: Option<Duration>,
    /// Look only at rows that had been written down at the asked time.
    pub as_known: bool,
    /// Tell keys whose rows are all too old from keys that have none, which takes reading those rows' times.
    pub tell_aged: bool,
}

impl TableView {
    /// The files that hold the view's rows, which have the columns of `rows`.
    pub(super) fn new(params: &ViewParams, rows: &Schema, files: TableFiles, tell_aged: bool) -> Self {
        let in_files = |name: &String| files.renamed.get(name).unwrap_or(name).clone();
        let name = |column: usize| in_files(rows.field(column).name());
        let feature = |position: &usize| {
            let field = &params.features[*position].field;
            Arc::new(field.as_ref().clone().with_name(in_files(field.name())))
        };
        TableView {
            name: params.name.clone(),
            keys: params.key_columns.iter().map(|column| name(*column)).collect(),
            event_timestamp: params.event_timestamp.map(name),
            created_timestamp: params.created_timestamp.map(name),
            features: params.requested.iter().map(feature).collect(),
            ttl: params.ttl,
            as_known: params.as_known,
            tell_aged,
            files,
        }
    }
}

impl TableView {
    /// A view whose rows are looked at whole; `rows` has join keys, event and created timestamp, and features.
    pub(crate) fn whole(
        name: FeatureViewName,
        rows: &Schema,
        keys: usize,
        has_created_timestamp: bool,
        files: TableFiles,
    ) -> Self {
        let in_files = |name: &String| files.renamed.get(name).unwrap_or(name).clone();
        let column = |column: usize| in_files(rows.field(column).name());
        let feature = |field: &FieldRef| Arc::new(field.as_ref().clone().with_name(in_files(field.name())));
        TableView {
            name,
            keys: (0..keys).map(column).collect(),
            event_timestamp: Some(column(keys)),
            created_timestamp: has_created_timestamp.then(|| column(keys + 1)),
            features: rows.fields()[keys + 2..].iter().map(feature).collect(),
            ttl: None,
            as_known: false,
            tell_aged: false,
            files,
        }
    }
}

/// What a join has read of its tables.
#[derive(Debug, Default)]
pub struct TableReads {
    pub row_groups: AtomicUsize,
    /// Row groups left out by their statistics.
    pub row_groups_pruned: AtomicUsize,
    /// Rows whose keys and times were looked at.
    pub rows_matched: AtomicUsize,
    /// Rows whose features were decoded.
    pub rows_decoded: AtomicUsize,
    /// Rows that are an answer.
    pub rows_chosen: AtomicUsize,
}

/// What all tasks of a join share.
#[derive(Debug)]
struct TableJoin {
    index: Arc<SpineIndex>,
    view: Arc<TableView>,
    groups: Vec<RowGroup>,
    /// The first group that no task has taken yet.
    next: AtomicUsize,
    reads: Arc<TableReads>,
}

impl TableJoin {
    /// The next group for a task to read, and its number.
    fn take(&self) -> Option<(usize, &RowGroup)> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some((number, self.groups.get(number)?))
    }

    fn stopped(&self, source: tokio::task::JoinError) -> JoinError {
        JoinError::Stopped { view: self.view.name.clone(), source }
    }
}

/// Joins a view's table to the spine, on the current tokio runtime. None: rows of the table are tied on keys, event
/// and created timestamp, and only [`ViewAccumulator`](super::ViewAccumulator), which compares the values of whole
/// rows, can tell which of them holds.
///
/// # Errors
/// [`JoinError::File`] if a file cannot be read; [`JoinError::KeyTypes`] if the view has more or fewer keys than the
/// spine.
pub async fn join_table(
    index: Arc<SpineIndex>,
    view: Arc<TableView>,
    store: Arc<dyn ObjectStore>,
    reads: Arc<TableReads>,
) -> Result<Option<JoinedView>, JoinError> {
    if view.keys.len() != index.key_types().len() {
        let features = vec![arrow::datatypes::DataType::Null; view.keys.len()];
        return Err(JoinError::KeyTypes { view: view.name.clone(), spine: index.key_types().to_vec(), features });
    }
    let files = read::open(&view, &store).await?;
    let needed = NeededTimes::of_join(&index, &view);
    let groups = prune::row_groups(&index, &view, &needed, files, &reads).await?;
    let join = Arc::new(TableJoin { index, view, groups, next: AtomicUsize::new(0), reads });
    let Some(chosen) = choose_rows(&join).await? else { return Ok(None) };
    gather::answer(&join, chosen).await.map(Some)
}

/// The rows that the slots hold on to; None where some are tied.
async fn choose_rows(join: &Arc<TableJoin>) -> Result<Option<Choices>, JoinError> {
    let mut tasks = JoinSet::new();
    for _ in 0..workers().min(join.groups.len()) {
        tasks.spawn(choose::choose(Arc::clone(join)));
    }
    let mut all: Option<Choices> = None;
    while let Some(done) = tasks.join_next().await {
        let choices = done.map_err(|source| join.stopped(source))??;
        all = Some(match all {
            None => choices,
            Some(others) => others.merge(choices),
        });
    }
    let all = all.unwrap_or_else(|| Choices::new(&join.index, &join.view));
    Ok((!all.is_tied()).then_some(all))
}

/// Tasks that have something to compute at the same time.
fn workers() -> usize {
    Handle::current().metrics().num_workers().max(1)
}
