//! The join as a node of a DataFusion plan: one spine, all views of a request.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use serde::{Deserialize, Serialize};

use super::{FeatureColumn, TableFiles, ViewParams};
use crate::definition::FeatureViewName;

/// What a join does, but for its inputs: the spine, and one input a view.
///
/// # Shapes
/// - spine: the columns to carry along, then any others; `time` and the views' keys are among them.
/// - a view's input: join keys, event timestamp, created timestamp, all features.
/// - returns, in the order of the spine's rows: the carried columns, then for each view its requested features, and
///   [`with_times`](Self::with_times) its row's status and event timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct JoinSpec {
    /// How many of the spine's columns come back: the first ones.
    pub carried: usize,
    /// The spine's column of asked times, in microseconds.
    pub time: usize,
    pub views: Vec<JoinedViewSpec>,
    /// Answer also what became of each row: a [`RowStatus`](super::RowStatus) as a number, and the event timestamp.
    pub with_times: bool,
}

/// One view of a join.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct JoinedViewSpec {
    pub name: FeatureViewName,
    /// Columns of the spine that carry the view's join keys, in the order of these.
    pub spine_keys: Vec<usize>,
    /// Rows of a static view hold at every time.
    pub is_static: bool,
    pub has_created_timestamp: bool,
    /// Positions among the features of the view's input.
    pub requested: Vec<usize>,
    pub ttl: Option<Duration>,
    /// Look only at rows that had been written down at the asked time.
    pub as_known: bool,
    /// The files that hold the rows of the view's input, to be read instead of it as far as they suffice.
    pub files: Option<TableFiles>,
}

impl JoinedViewSpec {
    /// The view's side of the join, given the schema of its input.
    pub(super) fn params(&self, input: &SchemaRef) -> ViewParams {
        let keys = self.spine_keys.len();
        ViewParams {
            name: self.name.clone(),
            key_columns: (0..keys).collect(),
            event_timestamp: (!self.is_static).then_some(keys),
            created_timestamp: self.has_created_timestamp.then_some(keys + 1),
            features: (keys + 2..input.fields().len())
                .map(|column| FeatureColumn { column, field: Arc::clone(&input.fields()[column]) })
                .collect(),
            requested: self.requested.clone(),
            ttl: self.ttl,
            as_known: self.as_known,
        }
    }

    fn check(&self, spine: &Schema, input: &Schema) -> Result<()> {
        let first_feature = self.spine_keys.len() + 2;
        let features = input.fields().len().saturating_sub(first_feature);
        if input.fields().len() < first_feature || self.requested.iter().any(|position| *position >= features) {
            return plan_err!("feature view `{}`: its input has {} columns", self.name, input.fields().len());
        }
        if self.spine_keys.iter().any(|column| *column >= spine.fields().len()) {
            return plan_err!("feature view `{}`: the spine has {} columns", self.name, spine.fields().len());
        }
        Ok(())
    }
}

impl JoinSpec {
    /// The schema of the answer.
    ///
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn schema(&self, spine: &Schema, views: &[&Schema]) -> Result<SchemaRef> {
        if views.len() != self.views.len() || self.carried.max(self.time + 1) > spine.fields().len() {
            return plan_err!("a join of {} views has {} inputs for them", self.views.len(), views.len());
        }
        if !matches!(spine.field(self.time).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return plan_err!("the asked times are {}, not microseconds", spine.field(self.time).data_type());
        }
        let mut fields: Vec<FieldRef> = spine.fields()[..self.carried].to_vec();
        for (number, (view, input)) in self.views.iter().zip(views).enumerate() {
            view.check(spine, input)?;
            let name = |what: &str| format!("{number}.{}.{what}", view.name);
            for position in &view.requested {
                let feature = input.field(view.spine_keys.len() + 2 + position);
                fields.push(Arc::new(Field::new(name(feature.name()), feature.data_type().clone(), true)));
            }
            if self.with_times {
                let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                fields.push(Arc::new(Field::new(name("status"), DataType::UInt8, false)));
                fields.push(Arc::new(Field::new(name("event_timestamp"), instant, true)));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl fmt::Display for JoinSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "views=[")?;
        for (number, view) in self.views.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{}(features={}", view.name, view.requested.len())?;
            if let Some(ttl) = view.ttl {
                write!(f, ", ttl={ttl:?}")?;
            }
            if view.as_known {
                write!(f, ", as_known")?;
            }
            if let Some(files) = &view.files {
                write!(f, ", files={}", files.files.len())?;
            }
            write!(f, ")")?;
        }
        write!(f, "]")
    }
}

/// Joins each row of the spine with the row of each view that held at its time; see [`JoinSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointInTimeJoinNode {
    spec: JoinSpec,
    /// The spine, then the views.
    inputs: Vec<LogicalPlan>,
    schema: DFSchemaRef,
}

impl PointInTimeJoinNode {
    /// # Errors
    /// Inputs that the spec does not fit.
    pub fn try_new(spec: JoinSpec, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some((spine, views)) = inputs.split_first() else { return plan_err!("a join has a spine") };
        let views: Vec<&Schema> = views.iter().map(|view| view.schema().as_arrow()).collect();
        let schema = spec.schema(spine.schema().as_arrow(), &views)?;
        let schema = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        Ok(PointInTimeJoinNode { spec, inputs, schema })
    }

    pub fn spec(&self) -> &JoinSpec {
        &self.spec
    }
}

impl Hash for PointInTimeJoinNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.spec, &self.inputs).hash(state);
    }
}

impl PartialOrd for PointInTimeJoinNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.spec, &self.inputs).partial_cmp(&(&other.spec, &other.inputs))
    }
}

impl UserDefinedLogicalNodeCore for PointInTimeJoinNode {
    fn name(&self) -> &str {
        "PointInTimeJoin"
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
        write!(f, "PointInTimeJoin: {}", self.spec)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        Self::try_new(self.spec.clone(), inputs)
    }
}
