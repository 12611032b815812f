//! Window aggregation as a node of a DataFusion plan: one spine, all aggregation views of a request.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use serde::{Deserialize, Serialize};

use crate::arrow_types::arrow_type;
use crate::definition::{AggregateFunction, FeatureViewName, Percentiles, ValueType, Window};
use crate::point_in_time_join::TableFiles;
use crate::tile::{Aggregate, PartialKind, TileError};

/// What a window aggregation does, but for its inputs: the spine, and those that hold the events of views.
///
/// # Shapes
/// - spine: any columns; `time` and the views' keys are among them.
/// - an input: the columns that its views say, in any order of rows.
/// - returns, in the order of the spine's rows: the spine's columns, then for each view its features, and
///   [`with_times`](Self::with_times) a status and an event timestamp, which is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowAggregationSpec {
    /// The spine's column of asked times, in microseconds.
    pub time: usize,
    pub views: Vec<AggregatedViewSpec>,
    /// Answer also what became of each row, as a point-in-time join does.
    pub with_times: bool,
}

/// Where the events of a view are. Views that share an input are answered in one pass over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInput {
    /// Position among the inputs behind the spine.
    pub input: usize,
    /// Its columns: join keys, event timestamp, created timestamp, event columns.
    pub columns: Vec<usize>,
    /// The column that says which rows are events of the view; None: all are.
    pub condition: Option<usize>,
}

impl EventInput {
    /// All rows and columns of an input, in their order.
    pub fn whole(input: usize, columns: usize) -> Self {
        EventInput { input, columns: (0..columns).collect(), condition: None }
    }
}

/// One view of a window aggregation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregatedViewSpec {
    pub name: FeatureViewName,
    pub events: EventInput,
    /// Columns of the spine that carry the view's join keys, in the order of these.
    pub spine_keys: Vec<usize>,
    pub has_created_timestamp: bool,
    /// Look only at events that had been written down at the asked time.
    pub as_known: bool,
    /// The lower edges of windows move in steps of this length.
    pub resolution: Option<Duration>,
    pub features: Vec<WindowFeature>,
    /// The files that hold the rows of the view's input, to be read instead of it.
    pub files: Option<TableFiles>,
    pub tiles: Option<TableTiles>,
}

/// What the events of a view add up to, day by day or hour by hour, to be read in place of the events in the middle of
/// windows that are long.
///
/// Their table has the join keys, the tile's start as event timestamp, and the tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableTiles {
    pub files: TableFiles,
    /// Microseconds; tiles start at multiples of it.
    pub width: i64,
    /// The column of the tiles.
    pub column: String,
    /// A tile is one partial of each of these kinds.
    pub kinds: Vec<PartialKind>,
    /// For each feature of the view, which of the partials it is finished from.
    pub parts: Vec<usize>,
}

/// One function over one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowFeature {
    pub name: String,
    pub function: AggregateFunction,
    pub n: Option<u32>,
    pub percentiles: Option<Percentiles>,
    /// Position and type of an event column.
    pub input: Option<(usize, ValueType)>,
    pub by: Option<(usize, ValueType)>,
    pub window: Window,
    pub value_type: ValueType,
}

impl WindowFeature {
    /// Whether the other feature is the same but for its name and its window.
    pub(super) fn differs_in_window(&self, other: &WindowFeature) -> bool {
        *self == WindowFeature { name: self.name.clone(), window: self.window, ..other.clone() }
    }

    /// # Errors
    /// A function that does not take such an input.
    pub fn aggregate(&self) -> std::result::Result<Aggregate, TileError> {
        self.aggregate_by(self.by.as_ref().map(|(_, value_type)| value_type.clone()))
    }

    /// The aggregate of one bucket.
    ///
    /// # Errors
    /// As of [`aggregate`](Self::aggregate).
    pub fn aggregate_of_bucket(&self) -> std::result::Result<Aggregate, TileError> {
        self.aggregate_by(None)
    }

    fn aggregate_by(&self, by: Option<ValueType>) -> std::result::Result<Aggregate, TileError> {
        let input = self.input.as_ref().map(|(_, value_type)| value_type.clone());
        Aggregate::new(self.function, self.n, self.percentiles.clone(), input, by)
    }
}

impl AggregatedViewSpec {
    /// The windows that features ask for, ascending.
    pub(super) fn distinct_windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = self.features.iter().map(|feature| feature.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    fn check(&self, spine: &Schema, inputs: &[&Schema]) -> Result<()> {
        let columns = self.events.columns.len().saturating_sub(self.spine_keys.len() + 2);
        let fields = inputs.get(self.events.input).map_or(0, |input| input.fields().len());
        if self.events.columns.iter().chain(&self.events.condition).any(|column| *column >= fields) {
            return plan_err!("feature view `{}`: its input has {fields} columns", self.name);
        }
        let is_missing = |column: &Option<(usize, ValueType)>| column.as_ref().is_some_and(|(at, _)| *at >= columns);
        if self.features.iter().any(|feature| is_missing(&feature.input) || is_missing(&feature.by)) {
            return plan_err!("feature view `{}`: its events have {columns} columns", self.name);
        }
        if self.spine_keys.iter().any(|column| *column >= spine.fields().len()) {
            return plan_err!("feature view `{}`: the spine has {} columns", self.name, spine.fields().len());
        }
        Ok(())
    }
}

impl WindowAggregationSpec {
    /// The schema of the answer.
    ///
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn schema(&self, spine: &Schema, inputs: &[&Schema]) -> Result<SchemaRef> {
        if self.time >= spine.fields().len() {
            return plan_err!("the spine of an aggregation has {} columns", spine.fields().len());
        }
        if !matches!(spine.field(self.time).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return plan_err!("the asked times are {}, not microseconds", spine.field(self.time).data_type());
        }
        let mut fields: Vec<FieldRef> = spine.fields().to_vec();
        for (number, view) in self.views.iter().enumerate() {
            view.check(spine, inputs)?;
            let name = |what: &str| format!("windows.{number}.{}.{what}", view.name);
            for feature in &view.features {
                fields.push(Arc::new(Field::new(name(&feature.name), arrow_type(&feature.value_type), true)));
            }
            if self.with_times {
                fields.push(Arc::new(Field::new(name("status"), DataType::UInt8, false)));
                let instant = arrow_type(&ValueType::Timestamp);
                fields.push(Arc::new(Field::new(name("event_timestamp"), instant, true)));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// As it travels: one text a specification.
    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for WindowAggregationSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "views=[")?;
        for (number, view) in self.views.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{}(input={}, features={}", view.name, view.events.input, view.features.len())?;
            if let Some(resolution) = view.resolution {
                write!(f, ", resolution={resolution:?}")?;
            }
            if view.as_known {
                write!(f, ", as_known")?;
            }
            if let Some(tiles) = &view.tiles {
                write!(f, ", tiles={:?}", Duration::from_micros(tiles.width.unsigned_abs()))?;
            }
            write!(f, ")")?;
        }
        write!(f, "]")
    }
}

/// Answers for each row of the spine the windows that end at its time; see [`WindowAggregationSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAggregationNode {
    spec: WindowAggregationSpec,
    /// The spine, then where the events are.
    inputs: Vec<LogicalPlan>,
    schema: DFSchemaRef,
}

impl WindowAggregationNode {
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn try_new(spec: WindowAggregationSpec, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some((spine, events)) = inputs.split_first() else { return plan_err!("an aggregation has a spine") };
        let events: Vec<&Schema> = events.iter().map(|input| input.schema().as_arrow()).collect();
        let schema = spec.schema(spine.schema().as_arrow(), &events)?;
        let schema = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        Ok(WindowAggregationNode { spec, inputs, schema })
    }

    pub fn spec(&self) -> &WindowAggregationSpec {
        &self.spec
    }
}

impl Hash for WindowAggregationNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.spec.text(), &self.inputs).hash(state);
    }
}

impl PartialOrd for WindowAggregationNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.spec.text(), &self.inputs).partial_cmp(&(other.spec.text(), &other.inputs))
    }
}

impl UserDefinedLogicalNodeCore for WindowAggregationNode {
    fn name(&self) -> &str {
        "WindowAggregation"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowAggregation: {}", self.spec)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        Self::try_new(self.spec.clone(), inputs)
    }
}
