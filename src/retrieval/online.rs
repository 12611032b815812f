//! The online answer: each key's row that holds now, out of the online store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondBuilder, new_null_array};

use super::RetrievalError;
use super::answer::{Answer, OnlineAnswer, RequestColumns, evaluate};
use super::online_sides::JOBS;
use super::online_windows::WindowPlan;
use super::resolve::{Catalog, FeatureSelection, ResolvedRequest, ResolvedView};
use super::waiting::Waiting;
use crate::arrow_types::arrow_type;
use crate::definition::{Field, ValueType};
use crate::online_store::{EncodedKeys, KeyEncoder, OnlineStore, OnlineStoreError, RowDecoder, ViewId};
use crate::point_in_time_join::{JoinedView, RowStatus};
use crate::registry::ViewState;
use crate::time::{Clock, EventTimestamp};
use crate::trace;

/// Answers online requests from one store.
#[derive(Debug, Clone)]
pub struct OnlineRetrieval {
    pub store: Arc<dyn OnlineStore>,
    pub clock: Arc<dyn Clock>,
    /// How far back the store keeps superseded rows; None: all of them.
    pub history: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct OnlineRequest {
    pub selection: FeatureSelection,
    pub full_feature_names: bool,
    /// Join keys and columns that are only carried along, then request values.
    pub columns: RecordBatch,
    /// How many of the columns come back in the answer: all but the request values.
    pub entity_columns: usize,
    /// Stands in for the clock.
    pub now: Option<EventTimestamp>,
}

impl OnlineRetrieval {
    /// One column a feature, one row a row of the request: what a point-in-time join at `now` would answer.
    ///
    /// # Errors
    /// A request that does not resolve or whose columns do not fit; a store that cannot be read.
    pub fn get(&self, catalog: &Catalog, request: &OnlineRequest) -> Result<Answer, RetrievalError> {
        self.read(catalog, request).map(OnlineAnswer::into_answer)
    }

    /// As [`Self::get`], with the columns left where they were read.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub fn read(&self, catalog: &Catalog, request: &OnlineRequest) -> Result<OnlineAnswer, RetrievalError> {
        let resolved = catalog.resolve(&request.selection, request.full_feature_names)?;
        let columns = RequestColumns::new(&resolved, request.columns.clone())?;
        self.answer(catalog, resolved, &columns, request.now, &Waiting::default())
    }

    /// As [`Self::read`], for a request that is already resolved; given up once nobody waits.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub fn answer(
        &self,
        catalog: &Catalog,
        resolved: Arc<ResolvedRequest>,
        columns: &RequestColumns,
        now: Option<EventTimestamp>,
        waiting: &Waiting,
    ) -> Result<OnlineAnswer, RetrievalError> {
        let now = self.instant(now)?;
        let mut joined = Vec::with_capacity(resolved.views.len());
        for view in &resolved.views {
            let state = catalog.registry.views.get(&view.view.name);
            let begun = Instant::now();
            joined.push(self.read_view(view, state, columns, now, waiting)?);
            trace::stage_of_view("view", view.view.name.as_str(), begun);
        }
        let computed = evaluate(&resolved, &joined, columns)?;
        let (rows, registry_version) = (columns.rows(), catalog.registry.version);
        Ok(OnlineAnswer { resolved, joined, computed, rows, registry_version })
    }

    fn instant(&self, asked: Option<EventTimestamp>) -> Result<EventTimestamp, RetrievalError> {
        let clock = self.clock.now();
        let Some(now) = asked else { return Ok(clock) };
        match self.history.map(|history| clock.saturating_sub(history)) {
            Some(from) if now < from => Err(RetrievalError::BeforeHistory { now, from }),
            _ => Ok(now),
        }
    }

    fn read_view(
        &self,
        resolved: &ResolvedView,
        state: Option<&ViewState>,
        columns: &RequestColumns,
        now: EventTimestamp,
        waiting: &Waiting,
    ) -> Result<JoinedView, RetrievalError> {
        if waiting.is_over() {
            return Err(OnlineStoreError::Abandoned.into());
        }
        let rows = columns.rows();
        let id = ViewId(state.map_or(0, |state| state.id));
        let keys = encode_keys(resolved, id, columns)?;
        // What its stream wrote stands beside what jobs wrote.
        let side = resolved.streamed.as_ref().and_then(|_| self.store.stream_side(id));
        if resolved.streamed.is_some() && side.is_none() {
            return Ok(unknown_rows(resolved, rows));
        }
        let streamed =
            side.map(|side| Ok::<_, RetrievalError>((side, encode_keys(resolved, side, columns)?))).transpose()?;
        if let Some(windows) = &resolved.windows {
            return self.read_windows(windows, (id, keys), streamed, now, waiting);
        }
        if let Some(streamed) = streamed {
            return self.read_two_sides(resolved, &(id, keys), &streamed, now);
        }
        let schemas = self.store.schemas(id)?;
        let mut decoder = RowDecoder::with_plan(resolved.decode_plan(JOBS, &schemas), rows);
        let mut statuses = Vec::with_capacity(rows);
        let mut event_timestamps = TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC");
        let oldest = resolved.view.ttl.map(|ttl| now.saturating_sub(ttl));
        self.store.read(&keys, now, &mut |row, version| {
            if waiting.is_over_at(row) {
                return Err(OnlineStoreError::Abandoned);
            }
            let Some(version) = version else {
                decoder.append_null_row();
                statuses.push(RowStatus::NotFound);
                event_timestamps.append_null();
                return Ok(());
            };
            let event_timestamp = version.event_timestamp;
            let is_always = event_timestamp == EventTimestamp::ALWAYS;
            if !is_always && oldest.is_some_and(|oldest| event_timestamp < oldest) {
                decoder.append_null_row();
                statuses.push(RowStatus::OutsideMaxAge);
            } else {
                decoder.append(version.value)?;
                statuses.push(RowStatus::Found);
            }
            event_timestamps.append_option((!is_always).then_some(event_timestamp.micros()));
            Ok(())
        })?;
        Ok(JoinedView { features: decoder.finish(), statuses, event_timestamps: event_timestamps.finish() })
    }

    /// A key has its windows, however empty; a null key is not found.
    fn read_windows(
        &self,
        windows: &WindowPlan,
        jobs: (ViewId, EncodedKeys),
        stream: Option<(ViewId, EncodedKeys)>,
        now: EventTimestamp,
        waiting: &Waiting,
    ) -> Result<JoinedView, RetrievalError> {
        let statuses = jobs.1.iter().map(|key| if key.is_some() { RowStatus::Found } else { RowStatus::NotFound });
        let statuses: Vec<RowStatus> = statuses.collect();
        let mut event_timestamps = TimestampMicrosecondBuilder::with_capacity(statuses.len()).with_timezone("UTC");
        event_timestamps.append_nulls(statuses.len());
        let sides: Vec<(ViewId, EncodedKeys)> = std::iter::once(jobs).chain(stream).collect();
        let features = windows.read(self.store.as_ref(), &sides, now, waiting)?;
        Ok(JoinedView { features, statuses, event_timestamps: event_timestamps.finish() })
    }
}

/// What a view answers that its stream does not feed yet: nothing is known of any key.
fn unknown_rows(resolved: &ResolvedView, rows: usize) -> JoinedView {
    let nulls = |field: &Field| new_null_array(&arrow_type(&field.value_type), rows);
    let mut event_timestamps = TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC");
    event_timestamps.append_nulls(rows);
    JoinedView {
        features: resolved.features.iter().map(nulls).collect(),
        statuses: vec![RowStatus::NotFound; rows],
        event_timestamps: event_timestamps.finish(),
    }
}

/// The keys of a request, as they stand under a view's number.
fn encode_keys(resolved: &ResolvedView, id: ViewId, columns: &RequestColumns) -> Result<EncodedKeys, OnlineStoreError> {
    let types: Vec<ValueType> = resolved.join_keys.iter().map(|(key, _)| key.value_type.clone()).collect();
    let keys: Vec<ArrayRef> = resolved.join_keys.iter().map(|(_, column)| columns.typed(column).clone()).collect();
    Ok(KeyEncoder::new(id, &types)?.encode(&keys, columns.rows())?)
}
