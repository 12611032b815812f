//! The batch answer: a spine joined point in time with the views' tables, or with the views computed from source.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, UInt8Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::prelude::{DataFrame, Expr, SessionContext, ident, lit};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};

use super::RetrievalError;
use super::answer::{RequestColumns, assemble};
use super::resolve::{Catalog, FeatureSelection, ResolvedRequest, ResolvedView};
use super::spine::Spine;
use crate::arrow_types::arrow_type;
use crate::compile::{CompiledView, Compiler};
use crate::definition::{
    CREATED_TIMESTAMP, Definitions, EVENT_TIMESTAMP, FeatureViewName, Field, SourceName, ValueType,
};
use crate::engine::Engine;
use crate::offline_store::{Changed, EventKind, EventTable, OfflineStore, ViewTable, event_providers};
use crate::point_in_time_join::{JoinSpec, JoinedView, JoinedViewSpec, PointInTimeJoinNode, RowStatus, TableFiles};
use crate::time::{EventTimestamp, TimeRange};

/// Answers batch requests from one offline store.
#[derive(Debug, Clone)]
pub struct BatchRetrieval {
    pub offline_store: OfflineStore,
    pub engine: Engine,
    /// The folder that relative paths of sources start from.
    pub project: PathBuf,
}

#[derive(Debug, Clone)]
pub struct BatchRequest {
    pub selection: FeatureSelection,
    pub full_feature_names: bool,
    /// Adds a column `feature__status` after each feature.
    pub with_statuses: bool,
    /// Looks only at rows whose created timestamp is not after the asked time.
    pub as_known: bool,
    /// Computes from the sources, without materialized tables.
    pub from_source: bool,
    /// Versions of tables to read; of those not named the newest.
    pub table_versions: Vec<TableVersion>,
    pub times: AskedTimes,
}

/// The keys and times asked about.
#[derive(Debug, Clone)]
pub enum AskedTimes {
    /// Those of the caller's rows; without a column named, `event_timestamp`, else the only one of instants.
    Spine { schema: SchemaRef, rows: Vec<RecordBatch>, timestamp_column: Option<String> },
    /// Every (key, event timestamp) of the views in the range.
    Range(TimeRange),
    /// Every key that the views know at this instant, at this instant.
    AsOf(EventTimestamp),
}

/// The spine's rows in their order, each with its features.
pub struct BatchAnswer {
    pub schema: SchemaRef,
    /// The rows, as they are joined.
    pub rows: BoxStream<'static, Result<RecordBatch, RetrievalError>>,
    pub registry_version: u64,
    /// The tables that are read.
    pub tables: Vec<TableVersion>,
    /// For people.
    pub warnings: Vec<String>,
}

impl BatchAnswer {
    /// All rows at once.
    ///
    /// # Errors
    /// Those of the rows.
    pub async fn collect(self) -> Result<RecordBatch, RetrievalError> {
        let rows: Vec<RecordBatch> = self.rows.try_collect().await?;
        Ok(concat_batches(&self.schema, &rows)?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableVersion {
    pub view: FeatureViewName,
    pub version: u64,
}

/// Where one view's rows are read from.
pub(super) enum ViewRows {
    Table(Arc<OpenTable>),
    /// What its stream brought is all there is.
    Events,
    Source,
}

/// A view's table at one version.
pub(super) struct OpenTable {
    pub rows: ViewTable,
    /// Of an aggregation view the table of the tiles of just these rows, where there is one.
    pub tiles: Option<ViewTable>,
    /// Whether some of its rows may be missing, or be of an earlier definition.
    pub is_changed: bool,
}

impl BatchRetrieval {
    /// # Errors
    /// A request that does not resolve, a spine that does not fit it, a view that is not materialized.
    pub async fn get(&self, catalog: &Catalog, request: &BatchRequest) -> Result<BatchAnswer, RetrievalError> {
        let plan = self.plan(catalog, request).await?;
        let joined = plan.frame.execute_stream().await?;
        let answer = plan.answer;
        let schema = answer.rows(&RecordBatch::new_empty(joined.schema()))?.schema();
        let rows = joined.map(move |batch| answer.rows(&batch?));
        Ok(BatchAnswer {
            schema,
            rows: rows.boxed(),
            registry_version: catalog.registry.version,
            tables: plan.tables,
            warnings: plan.warnings,
        })
    }

    /// The plan that answers a request, but for the on-demand features.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn plan(&self, catalog: &Catalog, request: &BatchRequest) -> Result<BatchPlan, RetrievalError> {
        let resolved = catalog.resolve(&request.selection, request.full_feature_names)?;
        let reader = Reader::open(self, catalog, &resolved, request).await?;
        let spine = reader.spine().boxed().await?;
        let frame = reader.join(&spine).boxed().await?;
        let (tables, warnings) = (reader.tables(), reader.warnings(spine.bounds));
        let answer = AnswerColumns {
            carried: spine.carried,
            starts: reader.column_starts(&spine),
            with_statuses: request.with_statuses,
            resolved: Arc::clone(&resolved),
        };
        Ok(BatchPlan { frame, tables, warnings, answer })
    }
}

/// A request, planned.
pub struct BatchPlan {
    /// The spine's columns, then for each view its features.
    pub frame: DataFrame,
    pub tables: Vec<TableVersion>,
    pub warnings: Vec<String>,
    answer: AnswerColumns,
}

/// What the columns of a plan's rows are.
struct AnswerColumns {
    /// How many columns are the caller's.
    carried: usize,
    /// Where the columns of each view begin: its features, and its status and event timestamp where asked for.
    starts: Vec<usize>,
    with_statuses: bool,
    resolved: Arc<ResolvedRequest>,
}

/// One request's views, opened.
pub(super) struct Reader<'a> {
    pub request: &'a BatchRequest,
    pub resolved: &'a ResolvedRequest,
    pub context: SessionContext,
    pub(super) compiler: Compiler,
    /// Of views that streams feed: their rows out of archived events.
    pub(super) event_compiler: Compiler,
    /// The tables of archived events that are read.
    events: Vec<EventTable>,
    /// One a view of `resolved`.
    pub(super) rows: Vec<ViewRows>,
}

/// The tables of a request's views. A view that is asked twice is read at one version.
async fn open_tables(
    retrieval: &BatchRetrieval,
    catalog: &Catalog,
    request: &BatchRequest,
    resolved: &ResolvedRequest,
) -> Result<HashMap<FeatureViewName, Arc<OpenTable>>, RetrievalError> {
    let materialized = resolved.views.iter().filter(|view| view.is_materialized);
    let names: BTreeSet<(FeatureViewName, bool)> =
        materialized.map(|view| (view.view.name.clone(), view.view.is_aggregation())).collect();
    type Opened = (FeatureViewName, Arc<OpenTable>);
    let mut opening: Vec<BoxFuture<'_, Result<Opened, RetrievalError>>> = Vec::new();
    for (name, is_aggregation) in names {
        let table = async move {
            let rows = open_table(retrieval, catalog, &name, request).await?;
            let tiles = if is_aggregation { tiles_of(retrieval, &rows, &name).await? } else { None };
            let defined = catalog.registry.views.get(&name).map(|state| state.data_version);
            let is_changed = defined != Some(rows.state().data_version);
            Ok((name, Arc::new(OpenTable { rows, tiles, is_changed })))
        };
        opening.push(table.boxed());
    }
    futures::stream::iter(opening).buffered(OPEN_AT_ONCE).try_collect().await
}

/// Tables whose logs are read at the same time.
const OPEN_AT_ONCE: usize = 8;

/// The table of a view, at the version that the request names.
async fn open_table(
    retrieval: &BatchRetrieval,
    catalog: &Catalog,
    view: &FeatureViewName,
    request: &BatchRequest,
) -> Result<ViewTable, RetrievalError> {
    let not_materialized = || RetrievalError::NotMaterialized { view: view.clone() };
    let asked = request.table_versions.iter().find(|asked| asked.view == *view);
    let table = match asked {
        Some(TableVersion { version, .. }) => {
            let table = retrieval.offline_store.view_table_at(view, *version).await?;
            table.ok_or_else(|| RetrievalError::NoVersion { view: view.clone(), version: *version })?
        }
        None => retrieval.offline_store.view_table(view).await?.ok_or_else(not_materialized)?,
    };
    let id = catalog.registry.views.get(view).map(|state| state.id);
    if id.is_some() && table.state().view_id == id { Ok(table) } else { Err(not_materialized()) }
}

/// The table of the tiles of these rows.
async fn tiles_of(
    retrieval: &BatchRetrieval,
    rows: &ViewTable,
    view: &FeatureViewName,
) -> Result<Option<ViewTable>, RetrievalError> {
    let Some(tiles) = retrieval.offline_store.tiles().view_table(view).await? else { return Ok(None) };
    let (source, known) = (rows.as_source()?, tiles.state().derived_from);
    let Some(known) = known.filter(|known| known.table == source.table && known.version <= source.version) else {
        return Ok(None);
    };
    let is_of_rows = known == source || rows.changed_since(known.version).await? == Changed::Nothing;
    Ok(is_of_rows.then_some(tiles))
}

/// The archived events that a request's views are made of, at the versions that it names.
async fn open_events(
    retrieval: &BatchRetrieval,
    definitions: &Definitions,
    request: &BatchRequest,
    resolved: &ResolvedRequest,
) -> Result<Vec<EventTable>, RetrievalError> {
    let read = |view: &ResolvedView| match request.from_source {
        true => view.view.input.sources().to_vec(),
        false => view.streamed.iter().cloned().collect(),
    };
    let names: BTreeSet<SourceName> = resolved.views.iter().flat_map(read).collect();
    let has_stream =
        |name: &&SourceName| definitions.source(name.as_str()).is_some_and(|source| source.stream.is_some());
    let mut tables = Vec::new();
    for name in names.iter().filter(has_stream) {
        let asked = request.table_versions.iter().find(|asked| asked.view == event_table_name(name));
        let store = &retrieval.offline_store;
        tables.extend(match asked {
            Some(TableVersion { version, .. }) => {
                let table = store.event_table_at(EventKind::Accepted, name, *version).await?;
                let gone = || RetrievalError::NoEventVersion { name: name.clone(), version: *version };
                Some(table.ok_or_else(gone)?)
            }
            None => store.event_table(EventKind::Accepted, name).await?,
        });
    }
    Ok(tables)
}

/// How an event table is called among the tables of views.
fn event_table_name(source: &SourceName) -> FeatureViewName {
    FeatureViewName::from(format!("sources/{source}").as_str())
}

/// The columns of a view's rows that a request reads: of a view that a stream feeds all, which tell apart what has the
/// same key and times.
fn view_columns(view: &ResolvedView) -> Vec<Field> {
    let time = |name: &str| Field { name: name.to_owned(), value_type: ValueType::Timestamp, description: None };
    let mut columns: Vec<Field> = view.join_keys.iter().map(|(key, _)| key.clone()).collect();
    columns.extend([time(EVENT_TIMESTAMP), time(CREATED_TIMESTAMP)]);
    let all = view.view.is_aggregation() || view.streamed.is_some();
    columns.extend(if all { view.view.stored_fields() } else { view.features.clone() });
    columns
}

impl<'a> Reader<'a> {
    async fn open(
        retrieval: &BatchRetrieval,
        catalog: &Catalog,
        resolved: &'a ResolvedRequest,
        request: &'a BatchRequest,
    ) -> Result<Reader<'a>, RetrievalError> {
        let context = retrieval.engine.session();
        let definitions = Arc::new(catalog.definitions().clone());
        let events = open_events(retrieval, &definitions, request, resolved).await?;
        let providers = event_providers(&events, &context).await?;
        let compiler = || {
            Compiler::new(Arc::clone(&definitions), retrieval.project.clone(), context.clone())
                .with_events(providers.clone())
        };
        let tables = if request.from_source {
            HashMap::new()
        } else {
            open_tables(retrieval, catalog, request, resolved).await?
        };
        let rows_of = |view: &ResolvedView| match tables.get(&view.view.name) {
            Some(table) => ViewRows::Table(Arc::clone(table)),
            None if request.from_source => ViewRows::Source,
            None => ViewRows::Events,
        };
        let rows = resolved.views.iter().map(rows_of).collect();
        let unused = |asked: &&TableVersion| {
            let is_view = resolved.views.iter().any(|known| known.view.name == asked.view);
            !is_view && events.iter().all(|table| event_table_name(table.source()) != asked.view)
        };
        if let Some(TableVersion { view, .. }) = request.table_versions.iter().find(unused) {
            let names = resolved.views.iter().map(|known| known.view.name.as_str());
            return Err(RetrievalError::unknown("feature view of this request", view.as_str(), names));
        }
        let event_compiler = compiler().events_only();
        Ok(Reader { request, resolved, compiler: compiler(), event_compiler, context, events, rows })
    }

    /// All rows of one view: join keys, event and created timestamp, and features (of a table, the asked ones).
    pub(super) async fn view_frame(&self, position: usize) -> Result<CompiledView, RetrievalError> {
        let resolved = &self.resolved.views[position];
        let materialized = match &self.rows[position] {
            ViewRows::Source => return Ok(self.compiler.view(&resolved.view, TimeRange::UNBOUNDED).await?),
            ViewRows::Events => None,
            ViewRows::Table(table) => Some(self.table_rows(resolved, &table.rows).await?),
        };
        let Some(streamed) = self.streamed_rows(resolved).await? else {
            return materialized.ok_or_else(|| RetrievalError::NotMaterialized { view: resolved.view.name.clone() });
        };
        let Some(materialized) = materialized else { return Ok(streamed) };
        Ok(CompiledView {
            frame: materialized.frame.union(streamed.frame)?,
            has_created_timestamp: materialized.has_created_timestamp || streamed.has_created_timestamp,
        })
    }

    /// The rows of a view's table.
    async fn table_rows(&self, resolved: &ResolvedView, table: &ViewTable) -> Result<CompiledView, RetrievalError> {
        let stored = table.schema()?;
        let frame = self.context.read_table(table.provider(&self.context).await?)?;
        let column = |field: &Field| match stored.field_with_name(&field.name) {
            Ok(stored) if resolved.streamed.is_some() && *stored.data_type() != arrow_type(&field.value_type) => {
                datafusion::logical_expr::cast(ident(field.name.as_str()), arrow_type(&field.value_type))
                    .alias(&field.name)
            }
            Ok(_) => ident(field.name.as_str()),
            // Added to the view since it was materialized.
            Err(_) => null_column(&field.value_type).alias(&field.name),
        };
        let frame = frame.select(view_columns(resolved).iter().map(column).collect::<Vec<_>>())?;
        Ok(CompiledView { frame, has_created_timestamp: table.state().has_created_timestamp })
    }

    /// The rows of a view out of what its stream brought; None: no stream feeds it.
    async fn streamed_rows(&self, resolved: &ResolvedView) -> Result<Option<CompiledView>, RetrievalError> {
        if resolved.streamed.is_none() {
            return Ok(None);
        }
        let compiled = self.event_compiler.view(&resolved.view, TimeRange::UNBOUNDED).await?;
        let columns = view_columns(resolved).iter().map(|field| ident(field.name.as_str())).collect::<Vec<_>>();
        Ok(Some(CompiledView { frame: compiled.frame.select(columns)?, ..compiled }))
    }

    /// The spine with every view: one join with the row views, one aggregation with the others.
    async fn join(&self, spine: &Spine) -> Result<DataFrame, RetrievalError> {
        let (state, spine_plan) = spine.frame.clone().into_parts();
        let mut inputs = vec![spine_plan];
        let mut views = Vec::with_capacity(self.resolved.views.len());
        for (position, view) in self.resolved.views.iter().enumerate() {
            if view.view.is_aggregation() {
                continue;
            }
            let CompiledView { mut frame, has_created_timestamp } = self.view_frame(position).await?;
            if !view.is_static
                && let Some(filter) = self.useful_rows(view, spine.bounds)
            {
                frame = frame.filter(filter)?;
            }
            if let Some(filter) = self.useful_keys(view, spine) {
                frame = frame.filter(filter)?;
            }
            let files = self.files(position).await?;
            views.push(self.view_spec(position, spine, frame.schema().as_arrow(), has_created_timestamp, files));
            inputs.push(frame.into_unoptimized_plan());
        }
        let joined = if views.is_empty() && self.has_windows() {
            inputs.swap_remove(0)
        } else {
            let (carried, with_times) = (self.joined_columns(spine), self.request.with_statuses);
            let spec = JoinSpec { carried, time: spine.time, views, with_times };
            let node = Arc::new(PointInTimeJoinNode::try_new(spec, inputs)?);
            LogicalPlan::Extension(Extension { node })
        };
        Ok(DataFrame::new(state, self.with_windows(joined, spine).boxed().await?))
    }

    fn has_windows(&self) -> bool {
        self.resolved.views.iter().any(|view| view.view.is_aggregation())
    }

    /// How many columns of the spine stand before those of the views: windows need its keys and times, too.
    fn joined_columns(&self, spine: &Spine) -> usize {
        if self.has_windows() { spine.frame.schema().fields().len() } else { spine.carried }
    }

    /// Where the columns of each view begin in the plan's rows: those of row views, then those of the others.
    fn column_starts(&self, spine: &Spine) -> Vec<usize> {
        let mut starts = vec![0; self.resolved.views.len()];
        let mut next = self.joined_columns(spine);
        for is_aggregation in [false, true] {
            let views = self.resolved.views.iter().zip(&mut starts);
            for (view, start) in views.filter(|(view, _)| view.view.is_aggregation() == is_aggregation) {
                *start = next;
                next += view.features.len() + if self.request.with_statuses { 2 } else { 0 };
            }
        }
        starts
    }

    /// The spine's column of each join key of the view.
    pub(super) fn spine_keys(&self, view: &ResolvedView, spine: &Spine) -> Vec<usize> {
        let spine_key = |(_, column): &(Field, String)| {
            let key = self.resolved.join_keys.iter().position(|key| key.name == *column);
            spine.keys[key.expect("every key of a view is a key of the request")]
        };
        view.join_keys.iter().map(spine_key).collect()
    }

    fn view_spec(
        &self,
        position: usize,
        spine: &Spine,
        rows: &Schema,
        has_created_timestamp: bool,
        files: Option<TableFiles>,
    ) -> JoinedViewSpec {
        let view = &self.resolved.views[position];
        let features = &rows.fields()[view.join_keys.len() + 2..];
        let requested = |wanted: &Field| features.iter().position(|feature| *feature.name() == wanted.name);
        JoinedViewSpec {
            name: view.view.name.clone(),
            spine_keys: self.spine_keys(view, spine),
            is_static: view.is_static,
            has_created_timestamp,
            requested: view.features.iter().filter_map(requested).collect(),
            ttl: view.view.ttl,
            as_known: self.request.as_known,
            files,
        }
    }

    pub(super) fn table(&self, position: usize) -> Option<&OpenTable> {
        match &self.rows[position] {
            ViewRows::Table(table) => Some(table),
            ViewRows::Events | ViewRows::Source => None,
        }
    }

    /// The files that hold the view's rows as they are, if any do.
    pub(super) async fn files(&self, position: usize) -> Result<Option<TableFiles>, RetrievalError> {
        let view = &self.resolved.views[position];
        Ok(match &self.rows[position] {
            _ if view.streamed.is_some() => None,
            ViewRows::Table(table) => table.rows.files(&self.context.runtime_env())?,
            ViewRows::Events => None,
            ViewRows::Source => self.compiler.row_files(&view.view).await?,
        })
    }

    /// Rows that can be an answer: none is later than the last asked time, nor, where nobody asks why a value is
    /// null, older than the TTL allows at the first.
    fn useful_rows(&self, view: &ResolvedView, bounds: Option<(EventTimestamp, EventTimestamp)>) -> Option<Expr> {
        let time = || ident(EVENT_TIMESTAMP);
        let (first, last) = bounds?;
        let useful = time().lt_eq(instant_lit(last));
        match view.view.ttl {
            Some(ttl) if !self.request.with_statuses => {
                Some(useful.and(time().gt_eq(instant_lit(first.saturating_sub(ttl)))))
            }
            _ => Some(useful),
        }
    }

    /// Rows of a view that a stream feeds that may be of asked keys: they come by way of plans, which leave out the
    /// files and pages whose statistics say that they have none. Operators that read files look for keys themselves.
    pub(super) fn useful_keys(&self, view: &ResolvedView, spine: &Spine) -> Option<Expr> {
        view.streamed.as_ref()?;
        let asked = |(key, column): &(Field, String)| {
            let position = self.resolved.join_keys.iter().position(|known| known.name == *column)?;
            Some(spine.key_values[position].as_ref()?.filter(&key.name))
        };
        view.join_keys.iter().filter_map(asked).reduce(Expr::and)
    }

    fn tables(&self) -> Vec<TableVersion> {
        let mut tables: Vec<TableVersion> = Vec::new();
        for table in &self.events {
            tables.push(TableVersion { view: event_table_name(table.source()), version: table.version() });
        }
        for (view, rows) in self.resolved.views.iter().zip(&self.rows) {
            if let ViewRows::Table(table) = rows
                && tables.iter().all(|known| known.view != view.view.name)
            {
                tables.push(TableVersion { view: view.view.name.clone(), version: table.rows.version() });
            }
        }
        tables
    }

    /// Says which views are not materialized as they are defined, or asked about times past the end of what is.
    fn warnings(&self, bounds: Option<(EventTimestamp, EventTimestamp)>) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for (view, rows) in self.resolved.views.iter().zip(&self.rows) {
            if matches!(rows, ViewRows::Table(table) if table.is_changed) {
                let warning = format!(
                    "feature view `{0}` was not materialized from its beginning since it was defined as it is now; run \
                     `asof materialize {0}`",
                    view.view.name
                );
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        let AskedTimes::Spine { .. } = self.request.times else { return warnings };
        let Some((_, last)) = bounds else { return warnings };
        for (view, rows) in self.resolved.views.iter().zip(&self.rows) {
            if let ViewRows::Table(table) = rows
                && let Some(until) = table.rows.state().materialized_until
                && last >= until
                && !view.is_static
                && view.streamed.is_none()
            {
                let warning = format!(
                    "feature view `{}` is materialized until {until}, and the spine asks about times up to {last}; \
                     later rows are answered from what there is",
                    view.view.name
                );
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        warnings
    }
}

pub(super) fn instant_lit(instant: EventTimestamp) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(instant.micros()), Some("UTC".into())))
}

fn null_column(value_type: &ValueType) -> Expr {
    datafusion::logical_expr::cast(lit(ScalarValue::Null), arrow_type(value_type))
}

impl AnswerColumns {
    /// The caller's columns, then each feature, followed by its status where asked for: of some joined rows.
    fn rows(&self, joined: &RecordBatch) -> Result<RecordBatch, RetrievalError> {
        let sent = joined.project(&(0..self.carried).collect::<Vec<_>>())?;
        let views = self.views(joined.columns())?;
        let answered = assemble(&self.resolved, &views, &RequestColumns::new(&self.resolved, sent.clone())?)?;
        let mut fields: Vec<ArrowField> = sent.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut arrays = sent.columns().to_vec();
        for column in answered {
            fields.push(ArrowField::new(&column.name, column.values.data_type().clone(), true));
            arrays.push(column.values);
            if self.with_statuses {
                let name = format!("{}__status", column.name);
                if fields.iter().any(|field| *field.name() == name) {
                    return Err(RetrievalError::ColumnClash { column: name });
                }
                fields.push(ArrowField::new(name, DataType::Utf8, true));
                let statuses = column.statuses.iter().map(|status| status.as_str());
                arrays.push(Arc::new(StringArray::from_iter_values(statuses)));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
    }

    /// The joined columns, view by view, in their declared types; without statuses where nobody asks for them.
    fn views(&self, columns: &[ArrayRef]) -> Result<Vec<JoinedView>, RetrievalError> {
        let mut views = Vec::with_capacity(self.resolved.views.len());
        for (view, start) in self.resolved.views.iter().zip(&self.starts) {
            let (features, times) = columns[*start..].split_at(view.features.len());
            // Tables name the items of lists in their own way.
            let typed = |(field, column): (&Field, &ArrayRef)| match arrow_type(&field.value_type) {
                wanted if *column.data_type() == wanted => Ok(Arc::clone(column)),
                wanted => cast(column, &wanted),
            };
            let features = view.features.iter().zip(features).map(typed).collect::<Result<_, _>>()?;
            let (statuses, event_timestamps) = match times {
                [statuses, times, ..] if self.with_statuses => {
                    let statuses = statuses.as_primitive::<UInt8Type>().values().iter();
                    (statuses.map(|status| RowStatus::from_number(*status)).collect(), times.as_primitive().clone())
                }
                _ => (Vec::new(), TimestampMicrosecondArray::new_null(0).with_timezone_utc()),
            };
            views.push(JoinedView { features, statuses, event_timestamps });
        }
        Ok(views)
    }
}
