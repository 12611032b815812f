//! Aggregation views of a batch request: the events that their windows are made of, as inputs of one operator.

use std::sync::Arc;

use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::prelude::{DataFrame, Expr, ident};

use super::RetrievalError;
use super::batch::{OpenTable, Reader, instant_lit};
use super::resolve::ResolvedView;
use super::spine::Spine;
use crate::compile::CompiledView;
use crate::definition::{
    Aggregation, CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView, Field, ValueType, ViewInput, Window,
};
use crate::online_store::{TileLayout, TilePart};
use crate::tile::PartialKind;
use crate::time::EventTimestamp;
use crate::window_aggregation::{
    AggregatedViewSpec, TableTiles, WindowAggregationNode, WindowAggregationSpec, WindowFeature,
};

/// A feature of an aggregation view: its aggregation, and its window.
pub(super) fn aggregation_of<'v>(view: &'v FeatureView, feature: &Field) -> Option<(&'v Aggregation, Window)> {
    let all = view.aggregations().iter().flat_map(|aggregation| {
        aggregation.feature_names().zip(&aggregation.windows).map(move |(name, window)| (name, (aggregation, *window)))
    });
    all.into_iter().find_map(|(name, found)| (name == feature.name).then_some(found))
}

/// An event column by the expression that an aggregation writes.
fn event_column(view: &FeatureView, expression: Option<&String>) -> Option<(usize, ValueType)> {
    let position = view.event_column(expression?)?;
    Some((position, view.event_columns[position].field.value_type.clone()))
}

/// The requested features of an aggregation view, over its event columns.
pub(super) fn window_features(view: &ResolvedView) -> Vec<WindowFeature> {
    let feature = |field: &Field| {
        let (aggregation, window) = aggregation_of(&view.view, field)?;
        Some(WindowFeature {
            name: field.name.clone(),
            function: aggregation.function,
            n: aggregation.n,
            percentiles: aggregation.p.clone(),
            input: event_column(&view.view, aggregation.input.as_ref()),
            by: event_column(&view.view, aggregation.by.as_ref()),
            window,
            value_type: field.value_type.clone(),
        })
    };
    view.features.iter().filter_map(feature).collect()
}

pub(super) fn resolution(view: &FeatureView) -> Option<std::time::Duration> {
    match view.input {
        ViewInput::Aggregations { resolution, .. } => resolution,
        ViewInput::Sql { .. } | ViewInput::Rows { .. } => None,
    }
}

/// Tiles are read in place of events where these are at least so many times as many.
const EVENTS_A_TILE_MIN: usize = 2;

impl Reader<'_> {
    /// The plan with the features of the request's aggregation views after its columns; as it is where it has none.
    ///
    /// `plan` has all columns of the spine, and in their places.
    pub(super) async fn with_windows(&self, plan: LogicalPlan, spine: &Spine) -> Result<LogicalPlan, RetrievalError> {
        let mut inputs = vec![plan];
        let mut views = Vec::new();
        for (position, view) in self.resolved.views.iter().enumerate().filter(|(_, view)| view.view.is_aggregation()) {
            let (spec, events) = self.window_input(position, view, spine).await?;
            views.push(spec);
            inputs.push(events.into_unoptimized_plan());
        }
        if views.is_empty() {
            return Ok(inputs.swap_remove(0));
        }
        let spec = WindowAggregationSpec { time: spine.time, views, with_times: self.request.with_statuses };
        let node = Arc::new(WindowAggregationNode::try_new(spec, inputs)?);
        Ok(LogicalPlan::Extension(Extension { node }))
    }

    async fn window_input(
        &self,
        position: usize,
        view: &ResolvedView,
        spine: &Spine,
    ) -> Result<(AggregatedViewSpec, DataFrame), RetrievalError> {
        let CompiledView { frame, has_created_timestamp } = self.view_frame(position).await?;
        let mut features = window_features(view);
        let mut used: Vec<usize> = Vec::new();
        for (column, _) in features.iter_mut().flat_map(|feature| feature.input.iter_mut().chain(&mut feature.by)) {
            let known = used.iter().position(|known| known == column);
            *column = known.unwrap_or_else(|| {
                used.push(*column);
                used.len() - 1
            });
        }
        let keys = view.join_keys.iter().map(|(key, _)| ident(key.name.as_str()));
        let times = [ident(EVENT_TIMESTAMP), ident(CREATED_TIMESTAMP)];
        let events = used.iter().map(|column| ident(view.view.event_columns[*column].field.name.as_str()));
        let columns: Vec<Expr> = keys.chain(times).chain(events).collect();
        let frame = match visible(&features, resolution(&view.view), spine.bounds) {
            Some(filter) => frame.filter(filter)?,
            None => frame,
        };
        let frame = match self.useful_keys(view, spine) {
            Some(filter) => frame.filter(filter)?,
            None => frame,
        };
        let spec = AggregatedViewSpec {
            name: view.view.name.clone(),
            spine_keys: self.spine_keys(view, spine),
            has_created_timestamp,
            as_known: self.request.as_known,
            resolution: resolution(&view.view),
            features,
            files: self.files(position).await?,
            tiles: self.table_tiles(position, view)?,
        };
        Ok((spec, frame.select(columns)?))
    }

    /// The tiles that windows may be read from; None: there are none, or as many as events.
    fn table_tiles(&self, position: usize, view: &ResolvedView) -> Result<Option<TableTiles>, RetrievalError> {
        let table = self.table(position).filter(|_| view.streamed.is_none());
        let Some(OpenTable { rows, tiles: Some(table) }) = table else { return Ok(None) };
        if table.row_count()?.zip(rows.row_count()?).is_none_or(|(tiles, events)| events < tiles * EVENTS_A_TILE_MIN) {
            return Ok(None);
        }
        let layout = TileLayout::of(&view.view)?;
        let Some((width, column)) = layout.of_table(&view.view) else { return Ok(None) };
        let files = table.files(&self.context.runtime_env())?;
        let Some(files) = files.filter(|_| !self.request.as_known) else { return Ok(None) };
        if table.schema()?.field_with_name(&column).is_err() {
            return Ok(None);
        }
        let part = |field: &Field| {
            let (aggregation, _) = aggregation_of(&view.view, field)?;
            layout.part(&TilePart::of(&view.view, aggregation).ok()?)
        };
        let parts: Option<Vec<usize>> = view.features.iter().map(part).collect();
        let kinds: Vec<PartialKind> = layout.parts.iter().map(|part| part.kind.clone()).collect();
        // Every value with its number takes as long to merge as its events to read, and longer.
        let parts = parts.filter(|parts| parts.iter().all(|part| kinds[*part].is_bounded()));
        Ok(parts.map(|parts| TableTiles { files, width, column, kinds, parts }))
    }
}

/// Events that some window can see: before the last asked time, and not before the longest window of the first.
fn visible(
    features: &[WindowFeature],
    resolution: Option<std::time::Duration>,
    bounds: Option<(EventTimestamp, EventTimestamp)>,
) -> Option<Expr> {
    let (first, last) = bounds?;
    let edge = |window: Window| match window {
        Window::Sliding(duration) => {
            Some(first.saturating_sub(duration).saturating_sub(resolution.unwrap_or_default()))
        }
        Window::Lifetime => None,
    };
    let edges: Option<Vec<EventTimestamp>> = features.iter().map(|feature| edge(feature.window)).collect();
    let seen = ident(EVENT_TIMESTAMP).lt(instant_lit(last));
    Some(match edges.and_then(|edges| edges.into_iter().min()) {
        Some(edge) => seen.and(ident(EVENT_TIMESTAMP).gt_eq(instant_lit(edge))),
        None => seen,
    })
}
