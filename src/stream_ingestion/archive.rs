//! What waits to be written to the tables of events: rows are gathered until they make files of a sensible size, or
//! somebody wants them there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::IngestionError;
use super::fail_point::fail_point;
use super::faults::Faults;
use super::known_tables::KnownTables;
use super::log::Logged;
use crate::definition::SourceName;
use crate::offline_store::{EventKind, OfflineStore, Places, Reach};

/// Commits of one table between which its small files are looked at.
const COMMITS_BETWEEN_COMPACTIONS: u64 = 16;

#[derive(Debug, Default)]
pub struct Archive {
    known_tables: Arc<KnownTables>,
    waiting: Mutex<Waiting>,
    /// One writer at a time: commits of a table keep the order of the log.
    writing: tokio::sync::Mutex<HashMap<Table, TableState>>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Logged>,
    bytes: usize,
    /// The last record that was given, or needed nothing.
    last: u64,
}

impl Archive {
    pub fn new(last: u64, known_tables: Arc<KnownTables>) -> Self {
        Archive { known_tables, waiting: Mutex::new(Waiting { last, ..Waiting::default() }), ..Archive::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every change is a single step, so a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes records over, in the order of the log. Gives the bytes that wait now.
    pub fn add(&self, records: Vec<Logged>) -> usize {
        let mut waiting = self.waiting();
        waiting.last = waiting.last.max(records.last().map_or(0, |record| record.sequence));
        waiting.bytes += records.iter().map(|record| record.bytes).sum::<usize>();
        waiting.records.extend(records);
        waiting.bytes
    }

    pub fn bytes(&self) -> usize {
        self.waiting().bytes
    }

    /// Records up to here, and none after, are in the tables.
    pub fn archived(&self) -> u64 {
        let waiting = self.waiting();
        waiting.records.first().map_or(waiting.last, |record| record.sequence - 1)
    }

    /// Writes everything that waits when it is called; a table that cannot be written keeps no other from it.
    ///
    /// # Errors
    /// The first table that cannot be written; what waits for it goes on waiting.
    pub async fn write(&self, store: &OfflineStore, log: &str, faults: &Mutex<Faults>) -> Result<(), IngestionError> {
        let mut tables = self.writing.lock().await;
        let records = self.waiting().records.clone();
        let mut left: HashSet<Table> = HashSet::new();
        let mut first = Ok(());
        for rows in by_table(&records, log)? {
            // Rows of a table are in it in the order of the log, or not at all.
            if left.contains(&rows.table) {
                continue;
            }
            let table = rows.table.clone();
            let state = tables.entry(table.clone()).or_default();
            match self.write_table(store, log, &records, rows, state).await {
                Ok(true) => {}
                Ok(false) => drop(left.insert(table)),
                Err(error) => {
                    if let IngestionError::TableGone { .. } = error {
                        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                        faults.sources.insert(table.0.clone(), error.clone());
                    }
                    first = first.and(Err(error));
                    left.insert(table);
                }
            }
        }
        first
    }

    /// Whether a record up to `through`, of a source that is asked about, waits to be written.
    pub fn has_waiting(&self, through: u64, is_asked: &dyn Fn(&SourceName) -> bool) -> bool {
        let waiting = self.waiting();
        waiting.records.iter().any(|logged| logged.sequence <= through && is_asked(&logged.record.source))
    }

    /// Records of a source's event table up to here, and none after, are in it.
    pub fn position_of(&self, source: &SourceName) -> Option<u64> {
        let table = (source.clone(), EventKind::Accepted);
        let waiting = self.waiting();
        waiting.records.iter().find(|record| is_of(record, &table)).map(|record| record.sequence - 1)
    }

    /// Gives false where its rows have to be gathered anew, because some of them do not wait any more.
    async fn write_table(
        &self,
        store: &OfflineStore,
        log: &str,
        records: &[Logged],
        ForTable { table, rows, places, reach }: ForTable,
        state: &mut TableState,
    ) -> Result<bool, IngestionError> {
        let (source, kind) = &table;
        let known = match kind {
            EventKind::Accepted => self.known_tables.open(store, source).await?,
            _ => store.event_table(*kind, source).await?,
        };
        if !state.is_certain {
            // What an earlier attempt wrote, whose end is not known, does not wait any more.
            let position = match &known {
                Some(known) => known.position(log).await?.unwrap_or(0),
                None => 0,
            };
            state.is_certain = true;
            if position > 0 && records.iter().any(|record| is_of(record, &table) && record.sequence <= position) {
                self.remove(&table, position);
                return Ok(false);
            }
        }
        state.is_certain = false;
        if let Some(rows) = rows {
            fail_point("archive.begun");
            store.append_events(*kind, source, &rows, &places, &reach).await?;
            fail_point("archive.committed");
            if known.is_none() && *kind == EventKind::Accepted {
                self.known_tables.open(store, source).await?;
            }
            state.commits += 1;
        }
        state.is_certain = true;
        self.remove(&table, reach.position);
        if state.commits >= COMMITS_BETWEEN_COMPACTIONS {
            state.commits = 0;
            if let Err(error) = store.compact_events(*kind, source).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "small files could not be brought together");
            }
        }
        Ok(true)
    }

    /// Records of a table up to here wait no more.
    fn remove(&self, table: &Table, through: u64) {
        let mut waiting = self.waiting();
        let before = waiting.bytes;
        let mut bytes = 0;
        waiting.records.retain(|record| {
            let is_done = is_of(record, table) && record.sequence <= through;
            bytes += if is_done { record.bytes } else { 0 };
            !is_done
        });
        waiting.bytes = before - bytes;
    }
}

fn is_of(record: &Logged, table: &Table) -> bool {
    record.record.source == table.0 && record.record.kind == table.1
}

type Table = (SourceName, EventKind);

/// What is known of a table that is written to.
#[derive(Debug, Default)]
struct TableState {
    /// Since small files were brought together.
    commits: u64,
    /// Whether it is known which of the rows that wait are in the table.
    is_certain: bool,
}

/// Rows for one table.
struct ForTable {
    table: Table,
    /// None: only positions moved.
    rows: Option<RecordBatch>,
    places: Places,
    reach: Reach,
}

/// The rows for each table, and how far they reach; records of an older schema, or of another topic, come before those
/// of a newer one, in commits of their own.
fn by_table(records: &[Logged], log: &str) -> Result<Vec<ForTable>, IngestionError> {
    struct Group<'a> {
        table: Table,
        rows: Vec<&'a RecordBatch>,
        places: Places,
        reach: Reach,
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for Logged { sequence, record, .. } in records {
        let table = (record.source.clone(), record.kind);
        // The last group of the table: an earlier one has another schema.
        let known = groups.iter().rposition(|group| group.table == table);
        let topic = record.positions.first().map(|position| position.topic.clone());
        let topic = topic.filter(|_| !record.places.is_empty()).unwrap_or_default();
        let is_same = |group: &Group<'_>| {
            group.rows[0].schema() == record.rows.schema()
                && (record.rows.num_rows() == 0 || group.places.topic == topic)
        };
        let known = known.filter(|known| is_same(&groups[*known]));
        let position = known.unwrap_or_else(|| {
            let reach = Reach { log: log.to_owned(), position: 0, topics: BTreeMap::new() };
            let places = Places { topic, rows: Vec::new() };
            groups.push(Group { table, rows: Vec::new(), places, reach });
            groups.len() - 1
        });
        let group = &mut groups[position];
        group.rows.push(&record.rows);
        group.places.rows.extend_from_slice(&record.places);
        group.reach.position = *sequence;
        let topics = record.positions.iter();
        group.reach.topics.extend(topics.map(|p| ((p.topic.clone(), p.partition), p.next_offset)));
    }
    let failed = |error: arrow::error::ArrowError| IngestionError::Encode { problem: error.to_string() };
    let whole = |Group { table, rows, places, reach }: Group<'_>| {
        let rows = concat_batches(&rows[0].schema(), rows).map_err(failed)?;
        Ok(ForTable { table, rows: (rows.num_rows() > 0).then_some(rows), places, reach })
    };
    groups.into_iter().map(whole).collect()
}
