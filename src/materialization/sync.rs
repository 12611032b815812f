//! The online values of a view, brought to the newest version of its table.
//!
//! The online store knows the version of the table that its values stand for. What lies between that version and
//! the newest one is found by merging the rows of both, in the order of the online store's keys: rows that are new or
//! differ are put, rows that are gone are deleted. Where the old version cannot be read any more, the stored values
//! themselves take its place.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::cast;
use datafusion::prelude::{Expr, ident, lit};
use futures::TryStreamExt;
use serde::Serialize;

use super::MaterializationError;
use super::events::EncodedEvents;
use crate::arrow_types::arrow_type;
use crate::definition::{CREATED_TIMESTAMP, Definitions, EVENT_TIMESTAMP, FeatureView, FeatureViewName, Field};
use crate::engine::Engine;
use crate::offline_store::{Changed, OfflineStore, ViewTable};
use crate::online_store::{
    BulkSummary, BulkWriter, Entry, KeyEncoder, OnlineStore, OnlineStoreError, Scan, TileLayout, ValueEncoder, ViewId,
    tile_start, version_key,
};
use crate::registry::{RegistryVersion, ViewState};
use crate::tile::TileError;
use crate::time::{EventTimestamp, TimeRange};

/// What bringing one view up to its table did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyncedView {
    pub view: FeatureViewName,
    /// Version of the table that the online values now stand for; None: the view was never materialized.
    pub table_version: Option<u64>,
    pub rows_put: u64,
    pub rows_deleted: u64,
}

/// Deletes the values of views that the registry does not know any more.
///
/// Views that only a later version of the registry knows are left alone.
pub fn remove_unknown_views(
    store: &dyn OnlineStore,
    registry: &RegistryVersion,
) -> Result<Vec<ViewId>, OnlineStoreError> {
    let is_known = |id: ViewId| registry.views.values().any(|state| state.id == id.base().0);
    let unknown: Vec<ViewId> =
        store.views()?.into_iter().filter(|id| id.base().0 < registry.next_view_id && !is_known(*id)).collect();
    for id in &unknown {
        store.delete_view(*id)?;
    }
    Ok(unknown)
}

/// Makes the next [`sync_view`] compare every online value of a view with its table.
pub fn forget_position(
    registry: &RegistryVersion,
    view: &FeatureView,
    store: &dyn OnlineStore,
) -> Result<(), OnlineStoreError> {
    let Some(state) = registry.views.get(&view.name) else { return Ok(()) };
    let id = ViewId(state.id);
    if store.position(id)?.is_some() {
        store.bulk_writer(id)?.finish(UNKNOWN_POSITION)?;
    }
    Ok(())
}

/// Brings the online values of `view` to the newest version of its table; does nothing where they are there.
///
/// Must not run twice at once for one view.
///
/// # Errors
/// A table or store that cannot be read or written; the values then are as they were.
pub async fn sync_view(
    registry: &RegistryVersion,
    view: &FeatureView,
    offline_store: &OfflineStore,
    online_store: &dyn OnlineStore,
    engine: &Engine,
) -> Result<SyncedView, MaterializationError> {
    let nothing = |table_version| SyncedView { view: view.name.clone(), table_version, rows_put: 0, rows_deleted: 0 };
    let Some(state) = registry.views.get(&view.name).copied() else { return Ok(nothing(None)) };
    let table = offline_store.view_table(&view.name).await?;
    let Some(table) = table.filter(|table| table.state().view_id == Some(state.id)) else {
        return Ok(nothing(None));
    };
    let layout = view.is_aggregation().then(|| TileLayout::of(view)).transpose();
    let misfit =
        |problem: TileError| MaterializationError::Schema { view: view.name.clone(), problem: problem.to_string() };
    let layout = layout.map_err(misfit)?;
    let stored = layout.as_ref().map_or_else(|| view.stored_fields(), |layout| layout.stored_fields(view));
    let sync = Sync { definitions: &registry.definitions, view, state, stored, layout, online_store, engine };
    sync.set_retention()?;
    let position = sync.position(&table)?;
    if position == Some(table.version()) {
        return Ok(nothing(position));
    }
    let has_new_schema = sync.forget_position_under_new_schema(position)?;
    let old = match position {
        Some(position) if !has_new_schema && position != UNKNOWN_POSITION => match table.changed_since(position).await?
        {
            Changed::Nothing => return sync.advance(&table),
            Changed::Range(range) => sync.old_version(offline_store, position, range).await?,
            Changed::Unknown => None,
        },
        _ => None,
    };
    match old {
        Some((old, range)) => sync.merge_with_table(&table, &old, range).await,
        None => sync.merge_with_stored_values(&table).await,
    }
}

struct Sync<'a> {
    definitions: &'a Definitions,
    view: &'a FeatureView,
    state: ViewState,
    /// The fields of the view's stored values.
    stored: Vec<Field>,
    /// Of an aggregation view.
    layout: Option<TileLayout>,
    online_store: &'a dyn OnlineStore,
    engine: &'a Engine,
}

/// Stands for no version of any table: the stored values themselves have to be looked at.
const UNKNOWN_POSITION: u64 = u64::MAX;

impl Sync<'_> {
    /// The version of this table that the stored values stand for; those of another one stand for nothing known.
    ///
    /// The position goes before the origin does, so that a crash between the two leaves no version of a wrong table.
    fn position(&self, table: &ViewTable) -> Result<Option<u64>, MaterializationError> {
        let id = ViewId(self.state.id);
        let table_id = table.id()?;
        let position = self.online_store.position(id)?;
        if self.online_store.origin(id)?.as_deref() == Some(table_id.as_str()) {
            return Ok(position);
        }
        if position.is_some() {
            self.online_store.bulk_writer(id)?.finish(UNKNOWN_POSITION)?;
        }
        self.online_store.set_origin(id, &table_id)?;
        Ok(position.map(|_| UNKNOWN_POSITION))
    }

    /// Says how long entries of an aggregation view are read.
    ///
    /// If that is longer than before, entries that are read now may have been forgotten. So every stored value is
    /// looked at, also if this run does not live to the end: the position goes first.
    fn set_retention(&self) -> Result<(), OnlineStoreError> {
        let Some(layout) = &self.layout else { return Ok(()) };
        let id = ViewId(self.state.id);
        let levels = layout.retention(self.view);
        let known = self.online_store.retention(id)?;
        let is_longer = |(old, new): (&Option<i64>, &Option<i64>)| match (old, new) {
            (Some(old), Some(new)) => old < new,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let grows = known.is_some_and(|known| known.len() != levels.len() || known.iter().zip(&levels).any(is_longer));
        if grows && self.online_store.position(id)?.is_some() {
            self.online_store.bulk_writer(id)?.finish(UNKNOWN_POSITION)?;
        }
        self.online_store.set_retention(id, &levels)
    }

    /// Whether values are to be written under another schema than the last ones were.
    ///
    /// Rows that are equal under the new schema may differ in what they hold under the old one, such as a feature
    /// that was removed and may come back. So every stored value is looked at, also if this run does not live to
    /// the end: the position goes first.
    fn forget_position_under_new_schema(&self, position: Option<u64>) -> Result<bool, OnlineStoreError> {
        let id = ViewId(self.state.id);
        let is_same = |stored: &Vec<Field>| {
            let names =
                |fields: &[Field]| fields.iter().map(|f| (f.name.clone(), f.value_type.clone())).collect::<Vec<_>>();
            names(stored) == names(&self.stored)
        };
        if self.online_store.schemas(id)?.values().next_back().is_some_and(is_same) {
            return Ok(position == Some(UNKNOWN_POSITION));
        }
        if position.is_some() {
            self.online_store.bulk_writer(id)?.finish(UNKNOWN_POSITION)?;
        }
        Ok(true)
    }

    /// The stored values stand for this version of the table, too.
    fn advance(&self, table: &ViewTable) -> Result<SyncedView, MaterializationError> {
        let writer = self.online_store.bulk_writer(ViewId(self.state.id))?;
        let summary = writer.finish(table.version())?;
        Ok(self.synced(table, summary))
    }

    fn synced(&self, table: &ViewTable, summary: BulkSummary) -> SyncedView {
        SyncedView {
            view: self.view.name.clone(),
            table_version: Some(table.version()),
            rows_put: summary.rows_put,
            rows_deleted: summary.rows_deleted,
        }
    }

    /// The table that the stored values stand for, and the range outside of which it equals the newest one.
    async fn old_version(
        &self,
        offline_store: &OfflineStore,
        position: u64,
        range: TimeRange,
    ) -> Result<Option<(ViewTable, TimeRange)>, MaterializationError> {
        let old = offline_store.view_table_at(&self.view.name, position).await?;
        let old = old.filter(|old| old.state().view_id == Some(self.state.id));
        Ok(old.map(|old| (old, range)))
    }

    async fn merge_with_table(
        &self,
        table: &ViewTable,
        old: &ViewTable,
        range: TimeRange,
    ) -> Result<SyncedView, MaterializationError> {
        let range = self.whole_tiles(range);
        let old_rows = self.encoded_rows(old, range).await?;
        match self.merge(table, range, OldRows::Table(Box::new(old_rows))).await {
            // Files of the old version may be gone.
            Err(MaterializationError::Rows { .. }) => self.merge_with_stored_values(table).await,
            done => done,
        }
    }

    /// The range with the whole of each tile that it touches.
    fn whole_tiles(&self, range: TimeRange) -> TimeRange {
        let Some(width) = self.layout.as_ref().and_then(|layout| layout.widths.last().copied()) else { return range };
        let start = |instant: EventTimestamp| tile_start(instant.micros(), width);
        let end = |instant: EventTimestamp| start(instant).saturating_add(width);
        TimeRange {
            start: range.start.map(|instant| EventTimestamp::from_micros(start(instant))),
            end: range.end.map(|instant| EventTimestamp::from_micros(end(instant))),
        }
    }

    async fn merge_with_stored_values(&self, table: &ViewTable) -> Result<SyncedView, MaterializationError> {
        let stored = Scan::new(self.online_store, ViewId(self.state.id));
        self.merge(table, TimeRange::UNBOUNDED, OldRows::Store(stored)).await
    }

    async fn merge(
        &self,
        table: &ViewTable,
        range: TimeRange,
        mut old: OldRows<'_>,
    ) -> Result<SyncedView, MaterializationError> {
        let mut new = self.encoded_rows(table, range).await?;
        let mut writer = self.online_store.bulk_writer(ViewId(self.state.id))?;
        let mut old_row = old.next().await?;
        while new.advance().await? {
            let (key, value) = new.row();
            while let Some((old_key, _)) = old_row.as_ref().filter(|(old_key, _)| **old_key < *key) {
                writer.delete(old_key)?;
                old_row = old.next().await?;
            }
            match old_row.as_ref().map(|(old_key, old_value)| (old_key.as_ref().cmp(key), old_value)) {
                Some((Ordering::Equal, old_value)) => {
                    if **old_value != *value {
                        writer.put(key, value)?;
                    }
                    old_row = old.next().await?;
                }
                _ => writer.put(key, value)?,
            }
        }
        self.delete_rest(&mut writer, &mut old, old_row).await?;
        let summary = writer.finish(table.version())?;
        Ok(self.synced(table, summary))
    }

    async fn delete_rest(
        &self,
        writer: &mut Box<dyn BulkWriter + '_>,
        old: &mut OldRows<'_>,
        mut old_row: Option<Entry>,
    ) -> Result<(), MaterializationError> {
        while let Some((key, _)) = old_row {
            writer.delete(&key)?;
            old_row = old.next().await?;
        }
        Ok(())
    }

    /// The table's rows in the range, in the order of the online store's keys, as it stores them.
    async fn encoded_rows(&self, table: &ViewTable, range: TimeRange) -> Result<Encoded<'_>, MaterializationError> {
        let keys = self.definitions.join_keys(self.view);
        let key_types: Vec<_> = keys.iter().map(|key| key.value_type.clone()).collect();
        let id = ViewId(self.state.id);
        let version = self.online_store.register_schema(id, &self.stored)?;
        let rows = self.sorted_rows(table, &keys, range).await?;
        let encoder = KeyEncoder::new(id, &key_types).map_err(OnlineStoreError::from)?;
        if let Some(layout) = &self.layout {
            let events = EncodedEvents::new(self.view, layout.clone(), rows, encoder, keys.len(), version);
            return Ok(Encoded::Events(Box::new(events)));
        }
        Ok(Encoded::Rows(EncodedRows {
            view: &self.view.name,
            rows,
            keys: encoder,
            key_count: keys.len(),
            values: ValueEncoder::new(version, &self.stored),
            buffer: Vec::new(),
            bounds: Vec::new(),
            next: 0,
        }))
    }

    async fn sorted_rows(
        &self,
        table: &ViewTable,
        keys: &[Field],
        range: TimeRange,
    ) -> Result<SendableRecordBatchStream, MaterializationError> {
        let failed = |source| rows_failed(&self.view.name, source);
        let schema = table.schema()?;
        let column = |field: &Field| match schema.field_with_name(&field.name) {
            Ok(_) => ident(field.name.as_str()),
            Err(_) => cast(lit(ScalarValue::Null), arrow_type(&field.value_type)).alias(&field.name),
        };
        let mut columns: Vec<Expr> = keys.iter().map(|key| ident(key.name.as_str())).collect();
        columns.extend([ident(EVENT_TIMESTAMP), ident(CREATED_TIMESTAMP)]);
        let stored = self.view.stored_fields();
        columns.extend(stored.iter().map(column));
        let mut order: Vec<_> = keys.iter().map(|key| ident(key.name.as_str()).sort(true, true)).collect();
        order.extend([EVENT_TIMESTAMP, CREATED_TIMESTAMP].map(|time| ident(time).sort(false, false)));
        order.extend(self.view.event_columns.iter().map(|column| ident(column.field.name.as_str()).sort(true, true)));

        let context = self.engine.session();
        let mut frame = context.read_table(table.provider(&context).await?).map_err(failed)?;
        if let Some(filter) = range_filter(range) {
            frame = frame.filter(filter).map_err(failed)?;
        }
        let frame = frame.select(columns).and_then(|frame| frame.sort(order)).map_err(failed)?;
        frame.execute_stream().await.map_err(failed)
    }
}

fn range_filter(range: TimeRange) -> Option<Expr> {
    let instant = |at: EventTimestamp| lit(ScalarValue::TimestampMicrosecond(Some(at.micros()), Some("UTC".into())));
    let start = range.start.map(|start| ident(EVENT_TIMESTAMP).gt_eq(instant(start)));
    let end = range.end.map(|end| ident(EVENT_TIMESTAMP).lt(instant(end)));
    start.into_iter().chain(end).reduce(Expr::and)
}

pub(super) fn rows_failed(view: &FeatureViewName, source: datafusion::error::DataFusionError) -> MaterializationError {
    MaterializationError::Rows { view: view.clone(), source: Box::new(source) }
}

/// What the stored values are compared with, in key order.
enum OldRows<'a> {
    Table(Box<Encoded<'a>>),
    Store(Scan<'a>),
}

impl OldRows<'_> {
    async fn next(&mut self) -> Result<Option<Entry>, MaterializationError> {
        match self {
            OldRows::Table(rows) => {
                let is_there = rows.advance().await?;
                Ok(is_there.then(|| {
                    let (key, value) = rows.row();
                    (key.into(), value.into())
                }))
            }
            OldRows::Store(rows) => Ok(rows.next().transpose()?),
        }
    }
}

/// A table's rows in the order of the online store's keys, as it stores them.
enum Encoded<'a> {
    Rows(EncodedRows<'a>),
    Events(Box<EncodedEvents<'a>>),
}

impl Encoded<'_> {
    /// Goes to the next entry; false after the last.
    async fn advance(&mut self) -> Result<bool, MaterializationError> {
        match self {
            Encoded::Rows(rows) => rows.advance().await,
            Encoded::Events(events) => events.advance().await,
        }
    }

    /// Key and value of the current entry.
    fn row(&self) -> (&[u8], &[u8]) {
        match self {
            Encoded::Rows(rows) => rows.row(),
            Encoded::Events(events) => events.row(),
        }
    }
}

/// A stream of table rows as the online store keeps them; one batch is encoded at a time.
struct EncodedRows<'a> {
    view: &'a FeatureViewName,
    rows: SendableRecordBatchStream,
    keys: KeyEncoder,
    key_count: usize,
    values: ValueEncoder,
    /// Keys and values of the current batch, one after the other.
    buffer: Vec<u8>,
    /// Of each row: where its key ends, and where its value ends.
    bounds: Vec<(usize, usize)>,
    /// One past the current row.
    next: usize,
}

impl EncodedRows<'_> {
    /// Goes to the next row; false after the last.
    async fn advance(&mut self) -> Result<bool, MaterializationError> {
        self.next += 1;
        while self.next > self.bounds.len() {
            let batch = self.rows.try_next().await.map_err(|source| rows_failed(self.view, source))?;
            let Some(batch) = batch else { return Ok(false) };
            self.encode(&batch)?;
            self.next = 1;
        }
        Ok(true)
    }

    /// Key and value of the current row.
    fn row(&self) -> (&[u8], &[u8]) {
        let row = self.next - 1;
        let start = if row == 0 { 0 } else { self.bounds[row - 1].1 };
        let (key_end, value_end) = self.bounds[row];
        (&self.buffer[start..key_end], &self.buffer[key_end..value_end])
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), MaterializationError> {
        self.buffer.clear();
        self.bounds.clear();
        let (keys, rest) = batch.columns().split_at(self.key_count);
        let prefixes = self.keys.encode(keys, batch.num_rows()).map_err(OnlineStoreError::from)?;
        let (events, created) = match (instants(&rest[0]), instants(&rest[1])) {
            (Some(events), Some(created)) => (events, created),
            _ => {
                let problem = "its table's time columns are no instants in microseconds".to_owned();
                return Err(MaterializationError::Schema { view: self.view.clone(), problem });
            }
        };
        let values = self.values.bind(&rest[2..]).map_err(OnlineStoreError::from)?;
        for row in 0..batch.num_rows() {
            // A job writes no row without its keys.
            let Some(prefix) = prefixes.get(row) else { continue };
            let event = if events.is_null(row) { EventTimestamp::ALWAYS } else { instant(events, row) };
            let created = created.is_valid(row).then(|| instant(created, row));
            version_key(prefix, event, created, &mut self.buffer);
            let key_end = self.buffer.len();
            values.encode(row, &mut self.buffer).map_err(OnlineStoreError::from)?;
            self.bounds.push((key_end, self.buffer.len()));
        }
        Ok(())
    }
}

type Instants = arrow::array::PrimitiveArray<TimestampMicrosecondType>;

fn instants(array: &Arc<dyn Array>) -> Option<&Instants> {
    array.as_primitive_opt::<TimestampMicrosecondType>()
}

fn instant(array: &Instants, row: usize) -> EventTimestamp {
    EventTimestamp::from_micros(array.value(row))
}
