//! Aggregation views of a batch request: the events that their windows are made of, as inputs of one operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::logical_expr::{Extension, LogicalPlan};
use datafusion::prelude::{DataFrame, Expr, ident};

use super::RetrievalError;
use super::batch::{OpenTable, Reader, ViewRows, instant_lit};
use super::resolve::ResolvedView;
use super::spine::Spine;
use crate::compile::{CompiledView, EventPlaces, SharedEvents};
use crate::definition::{Aggregation, EVENT_TIMESTAMP, FeatureView, Field, SourceName, ValueType, ViewInput, Window};
use crate::online_store::{TileLayout, TilePart};
use crate::tile::PartialKind;
use crate::time::EventTimestamp;
use crate::window_aggregation::{
    AggregatedViewSpec, EventInput, TableTiles, WindowAggregationNode, WindowAggregationSpec, WindowFeature,
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

pub(super) fn resolution(view: &FeatureView) -> Option<Duration> {
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
        let mut views: BTreeMap<usize, AggregatedViewSpec> = BTreeMap::new();
        let positions = 0..self.resolved.views.len();
        let mut left: Vec<usize> = positions.filter(|view| self.resolved.views[*view].view.is_aggregation()).collect();
        while let Some(first) = left.first() {
            let together: Vec<usize> = left.iter().copied().filter(|other| self.is_shared(*first, *other)).collect();
            left.retain(|position| !together.contains(position));
            let (specs, events) = self.window_input(inputs.len() - 1, &together, spine).await?;
            views.extend(together.into_iter().zip(specs));
            inputs.push(events.into_unoptimized_plan());
        }
        if views.is_empty() {
            return Ok(inputs.swap_remove(0));
        }
        let views = views.into_values().collect();
        let spec = WindowAggregationSpec { time: spine.time, views, with_times: self.request.with_statuses };
        let node = Arc::new(WindowAggregationNode::try_new(spec, inputs)?);
        Ok(LogicalPlan::Extension(Extension { node }))
    }

    /// Whether the events of two views are read from the same rows of a source.
    fn is_shared(&self, one: usize, other: usize) -> bool {
        one == other || self.read_source(one).is_some_and(|source| self.read_source(other) == Some(source))
    }

    /// The source whose rows are the view's events, and whether only those that its stream brought.
    fn read_source(&self, position: usize) -> Option<(&SourceName, bool)> {
        let view = &self.resolved.views[position];
        let ViewInput::Aggregations { source, .. } = &view.view.input else { return None };
        match self.rows[position] {
            ViewRows::Table(_) => None,
            ViewRows::Events => view.streamed.as_ref().map(|_| (source, true)),
            ViewRows::Source => Some((source, false)),
        }
    }

    /// The events of views that share an input, with all columns of their tables.
    async fn event_rows(&self, together: &[usize]) -> Result<SharedEvents, RetrievalError> {
        if together.len() > 1
            && let Some((_, is_streamed)) = self.read_source(together[0])
        {
            let compiler = if is_streamed { &self.event_compiler } else { &self.compiler };
            let views: Vec<&FeatureView> = together.iter().map(|view| &*self.resolved.views[*view].view).collect();
            if let Some(shared) = compiler.shared_events(&views).await? {
                return Ok(shared);
            }
        }
        let CompiledView { frame, has_created_timestamp } = self.view_frame(together[0]).await?;
        let columns = (0..frame.schema().fields().len()).collect();
        Ok(SharedEvents { frame, has_created_timestamp, places: vec![EventPlaces { columns, condition: None }] })
    }

    /// The specifications of views that share an input, and that input: the columns and rows that they need.
    async fn window_input(
        &self,
        input: usize,
        together: &[usize],
        spine: &Spine,
    ) -> Result<(Vec<AggregatedViewSpec>, DataFrame), RetrievalError> {
        let SharedEvents { mut frame, has_created_timestamp, places } = self.event_rows(together).await?;
        let mut needed: Vec<usize> = Vec::new();
        let mut place = |column: usize| {
            needed.iter().position(|known| *known == column).unwrap_or_else(|| {
                needed.push(column);
                needed.len() - 1
            })
        };
        let mut specs = Vec::with_capacity(together.len());
        for (position, places) in together.iter().zip(places) {
            let view = &self.resolved.views[*position];
            let (features, used) = used_features(view);
            let first_event_column = view.join_keys.len() + 2;
            let columns = (0..first_event_column).chain(used.into_iter().map(|column| first_event_column + column));
            specs.push(AggregatedViewSpec {
                name: view.view.name.clone(),
                events: EventInput {
                    input,
                    columns: columns.map(|column| place(places.columns[column])).collect(),
                    condition: places.condition.map(&mut place),
                },
                spine_keys: self.spine_keys(view, spine),
                has_created_timestamp,
                as_known: self.request.as_known,
                resolution: resolution(&view.view),
                features,
                files: self.files(*position).await?,
                tiles: self.table_tiles(*position, view)?,
            });
        }
        if let Some(filter) = visible(&specs, spine.bounds) {
            frame = frame.filter(filter)?;
        }
        if let [only] = together
            && let Some(filter) = self.useful_keys(&self.resolved.views[*only], spine)
        {
            frame = frame.filter(filter)?;
        }
        let names: Vec<Expr> =
            needed.iter().map(|column| ident(frame.schema().field(*column).name().as_str())).collect();
        Ok((specs, frame.select(names)?))
    }

    /// The tiles that windows may be read from; None: there are none, or as many as events.
    fn table_tiles(&self, position: usize, view: &ResolvedView) -> Result<Option<TableTiles>, RetrievalError> {
        let table = self.table(position).filter(|_| view.streamed.is_none());
        let Some(OpenTable { rows, tiles: Some(table), .. }) = table else { return Ok(None) };
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

/// The requested features of a view over those of its event columns that they need, and these.
fn used_features(view: &ResolvedView) -> (Vec<WindowFeature>, Vec<usize>) {
    let mut features = window_features(view);
    let mut used: Vec<usize> = Vec::new();
    for (column, _) in features.iter_mut().flat_map(|feature| feature.input.iter_mut().chain(&mut feature.by)) {
        let known = used.iter().position(|known| known == column);
        *column = known.unwrap_or_else(|| {
            used.push(*column);
            used.len() - 1
        });
    }
    (features, used)
}

/// Events that some window can see: before the last asked time, and not before the longest window of the first.
fn visible(views: &[AggregatedViewSpec], bounds: Option<(EventTimestamp, EventTimestamp)>) -> Option<Expr> {
    let (first, last) = bounds?;
    let edge = |resolution: Option<Duration>, window: Window| match window {
        Window::Sliding(duration) => {
            Some(first.saturating_sub(duration).saturating_sub(resolution.unwrap_or_default()))
        }
        Window::Lifetime => None,
    };
    let edges =
        views.iter().flat_map(|view| view.features.iter().map(move |feature| edge(view.resolution, feature.window)));
    let edges: Option<Vec<EventTimestamp>> = edges.collect();
    let seen = ident(EVENT_TIMESTAMP).lt(instant_lit(last));
    Some(match edges.and_then(|edges| edges.into_iter().min()) {
        Some(edge) => seen.and(ident(EVENT_TIMESTAMP).gt_eq(instant_lit(edge))),
        None => seen,
    })
}
