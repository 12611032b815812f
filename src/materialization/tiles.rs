//! The table of an aggregation view's tiles, brought up to the table of its events.
//!
//! A tile is what the events of one key and one stretch of time add up to. The table of tiles knows the version of the
//! table of events that it follows from. What a run changed since then lies in a range of event time: the tiles that
//! touch the range are computed again from all their events, in one commit. So tiles are as idempotent as the events.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{Expr, ident, lit};
use futures::{TryStreamExt, stream};

use super::MaterializationError;
use super::job::{Job, TRIES_MAX};
use crate::arrow_types::{UTC, arrow_type};
use crate::compile::{table_schema, view_join_keys};
use crate::definition::{CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView, Field as FeatureField, ValueType};
use crate::offline_store::{Changed, Replacement, ViewTable};
use crate::online_store::{TileLayout, tile_start};
use crate::registry::ViewState;
use crate::tile::{Column, Partial, TileError, values};
use crate::time::{EventTimestamp, TimeRange};

impl Job {
    /// Brings the view's table of tiles up to its table of events; does nothing where the view has none.
    ///
    /// # Errors
    /// A table that cannot be read or written; the table of tiles then stays as it was.
    pub(super) async fn update_tiles(&self, view: &FeatureView, state: ViewState) -> Result<(), MaterializationError> {
        if !view.is_aggregation() {
            return Ok(());
        }
        let misfit =
            |error: TileError| MaterializationError::Schema { view: view.name.clone(), problem: error.to_string() };
        let layout = TileLayout::of(view).map_err(misfit)?;
        let Some((width, column)) = layout.of_table(view) else { return Ok(()) };
        let tiling = Tiling { job: self, view, state, layout, width, column };
        for _ in 0..TRIES_MAX {
            match tiling.update().await {
                Err(error) if error.is_conflict() => {}
                done => return done,
            }
        }
        Err(MaterializationError::Busy { view: view.name.clone() })
    }
}

struct Tiling<'a> {
    job: &'a Job,
    view: &'a FeatureView,
    state: ViewState,
    layout: TileLayout,
    /// Microseconds.
    width: i64,
    column: String,
}

impl Tiling<'_> {
    async fn update(&self) -> Result<(), MaterializationError> {
        let Some(events) = self.job.offline_store.view_table(&self.view.name).await? else { return Ok(()) };
        if events.state().view_id != Some(self.state.id) {
            return Ok(());
        }
        let store = self.job.offline_store.tiles();
        let tiles = store.view_table(&self.view.name).await?;
        let Some(range) = self.outdated(&events, tiles.as_ref()).await? else { return Ok(()) };
        let replacement = Replacement {
            view: self.view.name.clone(),
            view_id: self.state.id,
            data_version: None,
            range,
            materialized_until: None,
            tail_start: None,
            schema: self.schema(),
            has_created_timestamp: false,
            derived_from: Some(events.as_source()?),
        };
        let rows = self.rows(&events, range).await.map_err(|source| self.failed(source))?;
        store.replace(&replacement, tiles.map(|tiles| tiles.version()), rows).await?;
        Ok(())
    }

    /// The tiles that may differ from what the events add up to, by where they start; None: all are as they should be.
    async fn outdated(
        &self,
        events: &ViewTable,
        tiles: Option<&ViewTable>,
    ) -> Result<Option<TimeRange>, MaterializationError> {
        let Some(tiles) = tiles else { return Ok(Some(TimeRange::UNBOUNDED)) };
        let source = events.as_source()?;
        let known = tiles.state().derived_from.filter(|known| known.table == source.table);
        let is_laid_out = tiles.schema()?.field_with_name(&self.column).is_ok();
        let Some(known) = known.filter(|_| tiles.state().view_id == Some(self.state.id) && is_laid_out) else {
            return Ok(Some(TimeRange::UNBOUNDED));
        };
        // Another run may have seen a newer version meanwhile.
        if known.version >= source.version {
            return Ok(None);
        }
        Ok(match events.changed_since(known.version).await? {
            Changed::Nothing => None,
            Changed::Unknown => Some(TimeRange::UNBOUNDED),
            Changed::Range(range) => Some(self.whole_tiles(range)),
        })
    }

    fn whole_tiles(&self, range: TimeRange) -> TimeRange {
        let start = |instant: EventTimestamp| tile_start(instant.micros(), self.width);
        TimeRange {
            start: range.start.map(|instant| EventTimestamp::from_micros(start(instant))),
            end: range.end.map(|instant| {
                let before = start(instant.saturating_sub(std::time::Duration::from_micros(1)));
                EventTimestamp::from_micros(before.saturating_add(self.width))
            }),
        }
    }

    /// Join keys, the tile's start as event timestamp, no created timestamp, the tile.
    fn schema(&self) -> SchemaRef {
        let events = table_schema(&self.job.registry.definitions, self.view);
        let mut fields = events.fields()[..self.key_count() + 2].to_vec();
        fields.push(Arc::new(Field::new(&self.column, DataType::Binary, true)));
        Arc::new(Schema::new(fields))
    }

    fn key_count(&self) -> usize {
        view_join_keys(&self.job.registry.definitions, self.view).len()
    }

    /// The tiles that start in the range, by join keys and time.
    async fn rows(&self, events: &ViewTable, range: TimeRange) -> Result<SendableRecordBatchStream, DataFusionError> {
        let context = self.job.engine.session();
        let external = |error| DataFusionError::External(Box::new(error));
        let provider = events.provider(&context).await.map_err(external)?;
        let mut frame = context.read_table(provider)?;
        let time = || ident(EVENT_TIMESTAMP);
        let instant = |at: EventTimestamp| lit(ScalarValue::TimestampMicrosecond(Some(at.micros()), Some(UTC.into())));
        let start = range.start.map(|start| time().gt_eq(instant(start)));
        let end = range.end.map(|end| time().lt(instant(end)));
        if let Some(filter) = start.into_iter().chain(end).reduce(Expr::and) {
            frame = frame.filter(filter)?;
        }
        let keys = view_join_keys(&self.job.registry.definitions, self.view);
        let fields = self.view.stored_fields();
        let names = keys.iter().map(String::as_str).chain([EVENT_TIMESTAMP, CREATED_TIMESTAMP]);
        let names = names.chain(fields.iter().map(|field| field.name.as_str()));
        let order = keys.iter().map(String::as_str).chain([EVENT_TIMESTAMP]);
        let order = order.map(|name| ident(name).sort(true, true)).collect();
        let rows = frame.select(names.map(ident).collect::<Vec<_>>())?.sort(order)?.execute_stream().await?;
        let adding = Adding::new(self, rows)?;
        let schema = self.schema();
        let batches = stream::try_unfold(Some(adding), |adding| async move {
            let Some(mut adding) = adding else { return Ok(None) };
            Ok(match adding.rows.try_next().await? {
                Some(batch) => {
                    adding.add(&batch)?;
                    Some((adding.take_done()?, Some(adding)))
                }
                None => {
                    adding.close();
                    Some((adding.take_done()?, None))
                }
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn failed(&self, source: DataFusionError) -> MaterializationError {
        MaterializationError::Rows { view: self.view.name.clone(), source: Box::new(source) }
    }
}

/// Events to tiles; events come by join keys and time.
struct Adding {
    rows: SendableRecordBatchStream,
    layout: TileLayout,
    width: i64,
    fields: Vec<FeatureField>,
    keys: RowConverter,
    key_count: usize,
    schema: SchemaRef,
    /// The tile that events are added to: its key, its start, its partials.
    open: Option<(Option<OwnedRow>, i64, Vec<Partial>)>,
    done_keys: Vec<OwnedRow>,
    done_starts: Vec<i64>,
    done_tiles: BinaryBuilder,
}

impl Adding {
    fn new(tiling: &Tiling<'_>, rows: SendableRecordBatchStream) -> Result<Self, ArrowError> {
        let schema = tiling.schema();
        let key_count = tiling.key_count();
        let sorts = schema.fields()[..key_count].iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(Adding {
            rows,
            layout: tiling.layout.clone(),
            width: tiling.width,
            fields: tiling.view.stored_fields(),
            keys: RowConverter::new(sorts.collect())?,
            key_count,
            schema,
            open: None,
            done_keys: Vec::new(),
            done_starts: Vec::new(),
            done_tiles: BinaryBuilder::new(),
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), DataFusionError> {
        let (keys, rest) = batch.columns().split_at(self.key_count);
        let external = |error: TileError| DataFusionError::External(Box::new(error));
        let instants = |column: &ArrayRef| column.as_primitive_opt::<TimestampMicrosecondType>().cloned();
        let (Some(times), Some(created)) = (instants(&rest[0]), instants(&rest[1])) else {
            return exec_err!("the time columns of its table are no instants in microseconds");
        };
        // Without keys all events are of one.
        let keys = (self.key_count > 0).then(|| self.keys.convert_columns(keys)).transpose()?;
        let typed = rest[2..].iter().zip(&self.fields).map(|(array, field)| values(array, &field.value_type));
        let columns: Vec<Column> = typed.collect::<Result<_, _>>().map_err(external)?;
        for row in 0..batch.num_rows() {
            let instants = (times.value(row), created.is_valid(row).then(|| created.value(row)));
            let start = tile_start(instants.0, self.width);
            let key = keys.as_ref().map(|keys| keys.row(row));
            let is_of = |(open, from, _): &(Option<OwnedRow>, i64, _)| {
                *from == start && open.as_ref().map(OwnedRow::row) == key
            };
            if !self.open.as_ref().is_some_and(is_of) {
                self.close();
            }
            let new = || (key.map(|key| key.owned()), start, self.layout.empty_tile());
            let (_, _, partials) = self.open.get_or_insert_with(new);
            for (part, partial) in self.layout.parts.iter().zip(partials) {
                partial.update(&part.event(&columns, row, instants));
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some((key, start, partials)) = self.open.take() else { return };
        let mut bytes = Vec::new();
        partials.iter().for_each(|partial| partial.encode(&mut bytes));
        self.done_keys.extend(key);
        self.done_starts.push(start);
        self.done_tiles.append_value(&bytes);
    }

    fn take_done(&mut self) -> Result<RecordBatch, DataFusionError> {
        let keys = std::mem::take(&mut self.done_keys);
        let starts = TimestampMicrosecondArray::from(std::mem::take(&mut self.done_starts)).with_timezone(UTC);
        let count = starts.len();
        let mut columns: Vec<ArrayRef> = match self.key_count {
            0 => Vec::new(),
            _ => self.keys.convert_rows(keys.iter().map(OwnedRow::row))?,
        };
        columns.push(Arc::new(starts));
        columns.push(new_null_array(&arrow_type(&ValueType::Timestamp), count));
        columns.push(Arc::new(self.done_tiles.finish()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
