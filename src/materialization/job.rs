//! One view, one range of event time, one Delta commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use datafusion::prelude::ident;
use serde::Serialize;

use super::MaterializationError;
use super::rows::{Progress, complete_rows, each_once};
use crate::compile::{Compiler, table_schema, view_join_keys};
use crate::definition::{
    CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView, FeatureViewName, LOOKBACK_DEFAULT, SourceName, ViewInput,
};
use crate::engine::Engine;
use crate::offline_store::{EventTable, OfflineStore, OfflineStoreError, Replacement, TableState, event_providers};
use crate::registry::{RegistryVersion, ViewState};
use crate::time::{EventTimestamp, TimeRange};

/// How often a job is computed again because another one replaced a part of its range meanwhile.
pub(super) const TRIES_MAX: usize = 10;

/// What jobs need to run.
#[derive(Debug, Clone)]
pub struct Job {
    pub registry: Arc<RegistryVersion>,
    pub offline_store: OfflineStore,
    pub engine: Engine,
    /// The folder that relative paths of sources start from.
    pub project: PathBuf,
}

/// The bounds a caller gives; where one is missing, the view's own state decides.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// None: from where the view stands, less its lookback; the first time from the beginning.
    pub start: Option<EventTimestamp>,
    /// Exclusive.
    pub end: EventTimestamp,
    /// The clock when the run begins: what happens later is not materialized, however far the run goes.
    pub now: EventTimestamp,
}

/// What a job did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaterializedView {
    pub view: FeatureViewName,
    /// The range that was computed; None for static views.
    #[serde(serialize_with = "range_text")]
    pub range: Option<TimeRange>,
    pub rows_read: u64,
    /// Rows without join key or event timestamp, and, of a source with a stream, those that an expression fails for.
    pub rows_skipped: u64,
    /// Rows that repeat the join keys, event and created timestamp of another one.
    pub rows_repeated: u64,
    pub rows_written: u64,
    pub table_version: u64,
    pub seconds: f64,
}

fn range_text<S: serde::Serializer>(range: &Option<TimeRange>, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let Some(range) = range else { return serializer.serialize_none() };
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("start", &range.start.map(|instant| instant.to_string()))?;
    map.serialize_entry("end", &range.end.map(|instant| instant.to_string()))?;
    map.end()
}

impl Job {
    /// Computes the view's rows and commits them to its table. `None` where the bounds leave nothing to do.
    ///
    /// # Errors
    /// A view without batch source, a source that cannot be read, a table that cannot be written; nothing is changed.
    pub async fn run(
        &self,
        view: &FeatureView,
        bounds: Bounds,
        progress: &Arc<Progress>,
    ) -> Result<Option<MaterializedView>, MaterializationError> {
        let state = *self
            .registry
            .views
            .get(&view.name)
            .ok_or_else(|| MaterializationError::NotApplied { view: view.name.clone() })?;
        let mut tries = 0;
        let done = loop {
            match self.try_run(view, state, bounds, progress).await {
                Err(error) if error.is_conflict() && tries < TRIES_MAX => progress.reset(),
                Err(error) if error.is_conflict() => {
                    return Err(MaterializationError::Busy { view: view.name.clone() });
                }
                done => break done?,
            }
            tries += 1;
        };
        self.update_tiles(view, state).await?;
        Ok(done)
    }

    async fn try_run(
        &self,
        view: &FeatureView,
        state: ViewState,
        bounds: Bounds,
        progress: &Arc<Progress>,
    ) -> Result<Option<MaterializedView>, MaterializationError> {
        let started = Instant::now();
        let table = self.offline_store.view_table(&view.name).await?;
        let is_static = self.registry.definitions.is_static(view);
        let table_state = table.as_ref().map(|table| *table.state()).filter(|known| known.view_id == Some(state.id));
        let range = match is_static {
            true => TimeRange::UNBOUNDED,
            false => match range_to_run(view, state, table_state.as_ref(), bounds) {
                Some(range) => range,
                None => return Ok(None),
            },
        };
        let rows_failed = |source| MaterializationError::Rows { view: view.name.clone(), source: Box::new(source) };
        let (rows, has_created_timestamp) = self.sorted_rows(view, range, progress).await?;
        // Every event counts, also those that are alike.
        let rows = if view.is_aggregation() {
            rows
        } else {
            let keys = view_join_keys(&self.registry.definitions, view).len();
            each_once(rows, keys, Arc::clone(progress)).map_err(rows_failed)?
        };
        let until = range.end.filter(|_| !is_static).map(|end| end.min(bounds.now));
        let replacement = Replacement {
            view: view.name.clone(),
            view_id: state.id,
            data_version: range.start.is_none().then_some(state.data_version),
            range,
            materialized_until: until,
            tail_start: until.map(|until| until.saturating_sub(lookback(view))),
            schema: table_schema(&self.registry.definitions, view),
            has_created_timestamp,
            derived_from: None,
        };
        let base_version = table.map(|table| table.version());
        let replaced = self.offline_store.replace(&replacement, base_version, rows).await?;
        Ok(Some(MaterializedView {
            view: view.name.clone(),
            range: (!is_static).then_some(range),
            rows_read: progress.rows_read(),
            rows_skipped: progress.rows_skipped(),
            rows_repeated: progress.rows_repeated(),
            rows_written: replaced.rows_written,
            table_version: replaced.table_version,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    /// The event tables that a query reads; what streams bring to other views is beside their tables.
    async fn archived_events(&self, view: &FeatureView) -> Result<Vec<EventTable>, OfflineStoreError> {
        let ViewInput::Sql { sources, .. } = &view.input else { return Ok(Vec::new()) };
        let definitions = &self.registry.definitions;
        let has_stream =
            |name: &&SourceName| definitions.source(name.as_str()).is_some_and(|source| source.stream.is_some());
        self.offline_store.event_tables(sources.iter().filter(has_stream)).await
    }

    /// The view's complete rows in the table's order.
    async fn sorted_rows(
        &self,
        view: &FeatureView,
        range: TimeRange,
        progress: &Arc<Progress>,
    ) -> Result<(datafusion::execution::SendableRecordBatchStream, bool), MaterializationError> {
        let definitions = Arc::new(self.registry.definitions.clone());
        let context = self.engine.session();
        let events = self.archived_events(view).await?;
        let events = event_providers(&events, &context).await?;
        let compiler = Compiler::new(Arc::clone(&definitions), self.project.clone(), context.clone());
        let compiler = compiler.with_events(events);
        let compiled = compiler
            .view(view, range)
            .await
            .map_err(|source| MaterializationError::Compile { view: view.name.clone(), source: Box::new(source) })?;
        let failed = |source| MaterializationError::Rows { view: view.name.clone(), source: Box::new(source) };
        let keys = view_join_keys(&definitions, view);
        let needs_time = !definitions.is_static(view);
        let complete = complete_rows(compiled.frame, keys.len(), needs_time, Arc::clone(progress)).await;
        let frame = context.read_table(complete.map_err(failed)?).map_err(failed)?;
        let mut order: Vec<_> = keys.iter().map(|key| ident(key.as_str()).sort(true, true)).collect();
        order.extend([EVENT_TIMESTAMP, CREATED_TIMESTAMP].map(|time| ident(time).sort(true, true)));
        // Events that are alike in all but their content stand in its order, so that a run again writes the same.
        order.extend(view.event_columns.iter().map(|column| ident(column.field.name.as_str()).sort(true, true)));
        let rows = frame.sort(order).map_err(failed)?.execute_stream().await.map_err(failed)?;
        Ok((rows, compiled.has_created_timestamp))
    }
}

/// The range a run computes, given how far the view's table goes; None where it would be empty.
fn range_to_run(view: &FeatureView, state: ViewState, table: Option<&TableState>, bounds: Bounds) -> Option<TimeRange> {
    let stands = table.filter(|table| table.data_version == state.data_version);
    let continued = stands.and_then(|table| table.materialized_until).map(|until| until.saturating_sub(lookback(view)));
    TimeRange::new(bounds.start.or(continued), Some(bounds.end)).ok()
}

fn lookback(view: &FeatureView) -> std::time::Duration {
    view.lookback.unwrap_or(LOOKBACK_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> EventTimestamp {
        EventTimestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_run_continues_where_the_view_stands_less_its_lookback() {
        let yaml = r#"{"name": "v", "source": "s", "lookback": "10s", "features": []}"#;
        let view: FeatureView = serde_json::from_str(yaml).unwrap();
        let state = ViewState { id: 1, data_version: 2 };
        let table = |data_version| TableState {
            view_id: Some(1),
            data_version,
            materialized_until: Some(at(100)),
            ..TableState::default()
        };
        let run = |table: Option<&TableState>, start: Option<i64>, end: i64| {
            let bounds = Bounds { start: start.map(at), end: at(end), now: at(end) };
            range_to_run(&view, state, table, bounds).map(|range| (range.start, range.end))
        };
        let range = |start: Option<i64>, end: i64| Some((start.map(at), Some(at(end))));
        assert_eq!(run(None, None, 200), range(None, 200), "the first time from the beginning");
        assert_eq!(run(Some(&table(2)), None, 200), range(Some(90), 200));
        assert_eq!(run(Some(&table(1)), None, 200), range(None, 200), "changed: from the beginning");
        assert_eq!(run(Some(&table(2)), Some(5), 50), range(Some(5), 50), "as the caller says");
        assert_eq!(run(Some(&table(2)), None, 80), None, "nothing to do");
    }
}
