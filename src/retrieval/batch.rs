//! The batch answer: a spine joined point in time with the views' tables, or with the views computed from source.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray};
use arrow::compute::{concat_batches, max, min};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::prelude::{DataFrame, Expr, SessionContext, ident, lit};

use super::RetrievalError;
use super::answer::{AnswerColumn, RequestColumns, assemble};
use super::resolve::{Catalog, FeatureSelection, ResolvedRequest, ResolvedView};
use crate::arrow_types::arrow_type;
use crate::compile::{CompiledView, Compiler, adapt_array};
use crate::definition::{CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureViewName, Field, ValueType};
use crate::engine::Engine;
use crate::offline_store::{OfflineStore, ViewTable};
use crate::point_in_time_join::{FeatureColumn, JoinedView, SpineIndex, ViewParams, join_streams};
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
#[derive(Debug)]
pub struct BatchAnswer {
    pub rows: RecordBatch,
    pub registry_version: u64,
    /// The tables that were read.
    pub tables: Vec<TableVersion>,
    /// For people.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableVersion {
    pub view: FeatureViewName,
    pub version: u64,
}

/// Where one view's rows are read from.
enum ViewRows {
    Table(Box<ViewTable>),
    Source,
}

impl BatchRetrieval {
    /// # Errors
    /// A request that does not resolve, a spine that does not fit it, a view that is not materialized.
    pub async fn get(&self, catalog: &Catalog, request: &BatchRequest) -> Result<BatchAnswer, RetrievalError> {
        let resolved = catalog.resolve(&request.selection, request.full_feature_names)?;
        let reader = Reader::open(self, catalog, &resolved, request).await?;
        let (sent, times) = match &request.times {
            AskedTimes::Spine { schema, rows, timestamp_column } => {
                let sent = concat_batches(schema, rows)?;
                let times = time_column(&sent, timestamp_column.as_deref())?;
                (sent, times)
            }
            AskedTimes::Range(range) => reader.known_keys(Some(*range), None).await?,
            AskedTimes::AsOf(instant) => reader.known_keys(None, Some(*instant)).await?,
        };
        let columns = RequestColumns::new(&resolved, sent)?;
        let joined = reader.join_all(&columns, &times).await?;
        let answered = assemble(&resolved, &joined, &columns)?;
        Ok(BatchAnswer {
            rows: answer_rows(&columns.sent, answered, request.with_statuses)?,
            registry_version: catalog.registry.version,
            tables: reader.tables(),
            warnings: reader.warnings(&times),
        })
    }
}

/// One request's views, opened.
struct Reader<'a> {
    request: &'a BatchRequest,
    resolved: &'a ResolvedRequest,
    context: SessionContext,
    compiler: Compiler,
    /// One a view of `resolved`.
    rows: Vec<ViewRows>,
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
        let compiler = Compiler::new(definitions, retrieval.project.clone(), context.clone());
        let mut rows = Vec::new();
        for ResolvedView { view, .. } in &resolved.views {
            if request.from_source {
                rows.push(ViewRows::Source);
                continue;
            }
            let id = catalog.registry.views.get(&view.name).map(|state| state.id);
            let table = retrieval.offline_store.view_table(&view.name).await?;
            match table.filter(|table| table.state().view_id == id && id.is_some()) {
                Some(table) => rows.push(ViewRows::Table(Box::new(table))),
                None => return Err(RetrievalError::NotMaterialized { view: view.name.clone() }),
            }
        }
        Ok(Reader { request, resolved, context, compiler, rows })
    }

    /// All rows of one view: join keys, event and created timestamp, and features (of a table, the asked ones).
    async fn view_frame(&self, position: usize) -> Result<CompiledView, RetrievalError> {
        let resolved = &self.resolved.views[position];
        match &self.rows[position] {
            ViewRows::Source => Ok(self.compiler.view(&resolved.view, TimeRange::UNBOUNDED).await?),
            ViewRows::Table(table) => {
                let stored = table.schema()?;
                let frame = self.context.read_table(table.provider(&self.context).await?)?;
                let column = |field: &Field| match stored.field_with_name(&field.name) {
                    Ok(_) => ident(field.name.as_str()),
                    // Added to the view since it was materialized.
                    Err(_) => null_column(&field.value_type).alias(&field.name),
                };
                let keys = resolved.join_keys.iter().map(|(key, _)| ident(key.name.as_str()));
                let times = [ident(EVENT_TIMESTAMP), ident(CREATED_TIMESTAMP)];
                let features = resolved.features.iter().map(column);
                let frame = frame.select(keys.chain(times).chain(features).collect::<Vec<_>>())?;
                Ok(CompiledView { frame, has_created_timestamp: table.state().has_created_timestamp })
            }
        }
    }

    /// The spine of a request without one: keys and times of the views' own rows.
    async fn known_keys(
        &self,
        range: Option<TimeRange>,
        as_of: Option<EventTimestamp>,
    ) -> Result<(RecordBatch, TimestampMicrosecondArray), RetrievalError> {
        if let Some(value) = self.resolved.request_values.first() {
            let problem = format!("`{}` is a value that only the caller knows", value.name);
            return Err(RetrievalError::NoSpine { problem });
        }
        let keys: Vec<&str> = self.resolved.join_keys.iter().map(|key| key.name.as_str()).collect();
        let mut known: Option<DataFrame> = None;
        for (position, view) in self.resolved.views.iter().enumerate() {
            if view.join_keys.len() != keys.len() || (as_of.is_none() && view.is_static) {
                continue;
            }
            let frame = self.keys_of(position, view, range, as_of).await?;
            known = Some(match known {
                Some(others) => others.union(frame)?,
                None => frame,
            });
        }
        let Some(known) = known else {
            let problem = format!("no view with times has all of the join keys {}", keys.join(", "));
            return Err(RetrievalError::NoSpine { problem });
        };
        let mut order: Vec<_> = keys.iter().map(|key| ident(*key).sort(true, true)).collect();
        order.push(ident(EVENT_TIMESTAMP).sort(true, true));
        let known = known.distinct()?.sort(order)?;
        let schema = Arc::clone(known.schema().inner());
        let spine = concat_batches(&schema, &known.collect().await?)?;
        let times = time_column(&spine, Some(EVENT_TIMESTAMP))?;
        Ok((spine, times))
    }

    async fn keys_of(
        &self,
        position: usize,
        view: &ResolvedView,
        range: Option<TimeRange>,
        as_of: Option<EventTimestamp>,
    ) -> Result<DataFrame, RetrievalError> {
        let CompiledView { frame, .. } = self.view_frame(position).await?;
        let time = || ident(EVENT_TIMESTAMP);
        let is_key = view.join_keys.iter().map(|(key, _)| ident(key.name.as_str()).is_not_null());
        let inside = match (range, as_of) {
            (_, Some(instant)) => vec![time().lt_eq(instant_lit(instant)).or(time().is_null())],
            (Some(TimeRange { start, end }), None) => {
                let start = start.map(|start| time().gt_eq(instant_lit(start)));
                let end = end.map(|end| time().lt(instant_lit(end)));
                start.into_iter().chain(end).chain([time().is_not_null()]).collect()
            }
            (None, None) => Vec::new(),
        };
        let frame = match is_key.chain(inside).reduce(Expr::and) {
            Some(filter) => frame.filter(filter)?,
            None => frame,
        };
        // One order of columns for all views, under the request's names.
        let key_column = |wanted: &Field| {
            let (key, _) = view.join_keys.iter().find(|(_, column)| *column == wanted.name).expect("it has every key");
            ident(key.name.as_str()).alias(wanted.name.as_str())
        };
        let mut columns: Vec<Expr> = self.resolved.join_keys.iter().map(key_column).collect();
        columns.push(as_of.map_or_else(time, instant_lit).alias(EVENT_TIMESTAMP));
        Ok(frame.select(columns)?)
    }

    /// Joins every view; views whose keys the same columns carry share one index of the spine.
    async fn join_all(
        &self,
        columns: &RequestColumns,
        times: &TimestampMicrosecondArray,
    ) -> Result<Vec<JoinedView>, RetrievalError> {
        let mut indexes: Vec<(Vec<&str>, Arc<SpineIndex>)> = Vec::new();
        let mut joined = Vec::new();
        for (position, view) in self.resolved.views.iter().enumerate() {
            let names: Vec<&str> = view.join_keys.iter().map(|(_, column)| column.as_str()).collect();
            let index = match indexes.iter().find(|(known, _)| *known == names) {
                Some((_, index)) => Arc::clone(index),
                None => {
                    let keys: Vec<ArrayRef> = names.iter().map(|name| columns.typed(name).clone()).collect();
                    let index = Arc::new(SpineIndex::build(&keys, times)?);
                    indexes.push((names, Arc::clone(&index)));
                    index
                }
            };
            joined.push(self.join_view(position, index, times).await?);
        }
        Ok(joined)
    }

    async fn join_view(
        &self,
        position: usize,
        index: Arc<SpineIndex>,
        times: &TimestampMicrosecondArray,
    ) -> Result<JoinedView, RetrievalError> {
        let view = &self.resolved.views[position];
        let CompiledView { mut frame, has_created_timestamp } = self.view_frame(position).await?;
        if !view.is_static
            && let Some(filter) = self.useful_rows(view, times)
        {
            frame = frame.filter(filter)?;
        }
        let params = Arc::new(self.params(view, frame.schema().inner(), has_created_timestamp));
        let partitions = frame.execute_stream_partitioned().await?;
        Ok(join_streams(index, params, partitions).await?)
    }

    /// Rows that can be an answer: none is later than the last asked time, nor, where nobody asks why a value is
    /// null, older than the TTL allows at the first.
    fn useful_rows(&self, view: &ResolvedView, times: &TimestampMicrosecondArray) -> Option<Expr> {
        let time = || ident(EVENT_TIMESTAMP);
        let last = EventTimestamp::from_micros(max(times)?);
        let useful = time().lt_eq(instant_lit(last));
        match (view.view.ttl, min(times)) {
            (Some(ttl), Some(first)) if !self.request.with_statuses => {
                let oldest = EventTimestamp::from_micros(first).saturating_sub(ttl);
                Some(useful.and(time().gt_eq(instant_lit(oldest))))
            }
            _ => Some(useful),
        }
    }

    fn params(&self, view: &ResolvedView, schema: &SchemaRef, has_created_timestamp: bool) -> ViewParams {
        let keys = view.join_keys.len();
        let features: Vec<FeatureColumn> = (keys + 2..schema.fields().len())
            .map(|column| FeatureColumn { column, field: Arc::clone(&schema.fields()[column]) })
            .collect();
        let position = |wanted: &Field| features.iter().position(|f| f.field.name() == &wanted.name);
        ViewParams {
            name: view.view.name.clone(),
            key_columns: (0..keys).collect(),
            event_timestamp: (!view.is_static).then_some(keys),
            created_timestamp: has_created_timestamp.then_some(keys + 1),
            requested: view.features.iter().filter_map(position).collect(),
            features,
            ttl: view.view.ttl,
            as_known: self.request.as_known,
        }
    }

    fn tables(&self) -> Vec<TableVersion> {
        let mut tables: Vec<TableVersion> = Vec::new();
        for (view, rows) in self.resolved.views.iter().zip(&self.rows) {
            if let ViewRows::Table(table) = rows
                && tables.iter().all(|known| known.view != view.view.name)
            {
                tables.push(TableVersion { view: view.view.name.clone(), version: table.version() });
            }
        }
        tables
    }

    /// Says which views are asked about times past the end of what is materialized.
    fn warnings(&self, times: &TimestampMicrosecondArray) -> Vec<String> {
        let Some(last) = max(times).map(EventTimestamp::from_micros) else { return Vec::new() };
        let mut warnings: Vec<String> = Vec::new();
        for (view, rows) in self.resolved.views.iter().zip(&self.rows) {
            if let ViewRows::Table(table) = rows
                && let Some(until) = table.state().materialized_until
                && last >= until
                && !view.is_static
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

fn instant_lit(instant: EventTimestamp) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(instant.micros()), Some("UTC".into())))
}

fn null_column(value_type: &ValueType) -> Expr {
    datafusion::logical_expr::cast(lit(ScalarValue::Null), arrow_type(value_type))
}

/// The spine's times: the column named, else `event_timestamp`, else its only column of instants.
fn time_column(spine: &RecordBatch, named: Option<&str>) -> Result<TimestampMicrosecondArray, RetrievalError> {
    let schema = spine.schema();
    let is_time = |field: &ArrowField| matches!(field.data_type(), DataType::Timestamp(..));
    let times: Vec<&str> =
        schema.fields().iter().filter(|field| is_time(field)).map(|field| field.name().as_str()).collect();
    let has_default = schema.column_with_name(EVENT_TIMESTAMP).is_some();
    let name = match (named, has_default, times.as_slice()) {
        (Some(name), ..) => name,
        (None, true, _) => EVENT_TIMESTAMP,
        (None, false, [only]) => only,
        (None, false, []) => return Err(no_time_column("it has no column of timestamps".to_owned())),
        (None, false, several) => return Err(no_time_column(format!("it has several: {}", several.join(", ")))),
    };
    let Some(column) = spine.column_by_name(name) else {
        return Err(no_time_column(format!("it has no column `{name}`")));
    };
    let instants = adapt_array(column, &ValueType::Timestamp)
        .map_err(|mismatch| no_time_column(format!("its column `{name}` is {}", mismatch.found)))?;
    Ok(instants.as_primitive::<TimestampMicrosecondType>().clone())
}

fn no_time_column(problem: String) -> RetrievalError {
    RetrievalError::TimeColumn { problem }
}

/// The spine's columns, then each feature, followed by its status where asked for.
fn answer_rows(
    sent: &RecordBatch,
    answered: Vec<AnswerColumn>,
    with_statuses: bool,
) -> Result<RecordBatch, RetrievalError> {
    let mut fields: Vec<ArrowField> = sent.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut arrays = sent.columns().to_vec();
    for column in answered {
        fields.push(ArrowField::new(&column.name, column.values.data_type().clone(), true));
        arrays.push(column.values);
        if with_statuses {
            let name = format!("{}__status", column.name);
            if fields.iter().any(|field| *field.name() == name) {
                return Err(RetrievalError::ColumnClash { column: name });
            }
            fields.push(ArrowField::new(name, DataType::Utf8, true));
            arrays.push(Arc::new(StringArray::from_iter_values(column.statuses.iter().map(|status| status.as_str()))));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}
