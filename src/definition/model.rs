//! Definitions after parsing and validation: what the registry keeps and everything else reads.
//!
//! The serialized form is the YAML form written out in full, so a registry version reads like a definition file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::aggregation::Aggregation;
use super::names::{EntityName, FeatureServiceName, FeatureViewName, SourceName};
use super::prediction::PredictionRoute;
use super::stream::Stream;
use super::value_type::ValueType;
use crate::time::{EventTimestamp, duration_text, instant_text};

/// Every definition of a project, in the order of the files; names are unique per kind and every reference resolves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Definitions {
    pub entities: Vec<Entity>,
    pub sources: Vec<Source>,
    pub feature_views: Vec<FeatureView>,
    pub on_demand_feature_views: Vec<OnDemandFeatureView>,
    pub feature_services: Vec<FeatureService>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prediction_routes: Vec<PredictionRoute>,
}

/// What any definition may carry for people; never changes an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documentation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A named and typed column: a join key, a feature, a request value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub value_type: ValueType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What features describe, identified by one or more join keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub name: EntityName,
    pub join_keys: Vec<Field>,
    #[serde(flatten)]
    pub documentation: Documentation,
}

/// Rows that features are read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub name: SourceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchLocation>,
    /// Column of the event timestamp, under its name after `rename`. None: the source is static, its rows hold always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_timestamp: Option<String>,
    /// Column of the file to the name used here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Columns, under their names after `rename`; required without a `batch` location.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schema: Vec<Field>,
    /// Events that come in as they happen; they count beside the rows of the batch location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Rows of the batch location count before this instant, events of the stream from it on; None: both in full.
    #[serde(default, with = "instant_text", skip_serializing_if = "Option::is_none")]
    pub stream_from: Option<EventTimestamp>,
    /// Column that tells an event from all others: what is sent again under the same id is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// How long after an event came in another one of its id is dropped; None: the default of one day.
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub deduplicate_for: Option<Duration>,
    #[serde(flatten)]
    pub documentation: Documentation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLocation {
    pub format: FileFormat,
    /// File, folder, glob or object-store URL; relative paths are relative to the project.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Parquet,
    Csv,
    /// One JSON object a line.
    Json,
    Delta,
}

/// Named features of the entities, each row holding from its event timestamp on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureView {
    pub name: FeatureViewName,
    /// In order: the view's join keys are theirs, one after the other. Empty: one global row.
    #[serde(default)]
    pub entities: Vec<EntityName>,
    #[serde(flatten)]
    pub input: ViewInput,
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// How far before where it stands a run without `--start` begins again; None: the default of one day.
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub lookback: Option<Duration>,
    /// What is served. Those of an aggregation view follow from its aggregations; their types, as far as they depend
    /// on those of the inputs, are provisional until `compile` has read the source.
    pub features: Vec<Field>,
    /// Of an aggregation view: what its table keeps of each event, the distinct inputs and buckets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_columns: Vec<EventColumn>,
    #[serde(flatten)]
    pub documentation: Documentation,
}

/// An input or a bucket of aggregations, in the table of their view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventColumn {
    #[serde(flatten)]
    pub field: Field,
    /// As the aggregations write it, without blanks around it.
    pub expression: String,
}

/// Where a feature view's rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ViewInput {
    /// The result rows of a query; its columns are the join keys, `event_timestamp` (unless every source is
    /// static), `created_timestamp` if it likes, and the features.
    Sql { sources: Vec<SourceName>, sql: String },
    /// Windows over the rows of one source that slide with the asked time.
    Aggregations {
        source: SourceName,
        /// Rows that count meet this condition.
        #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
        aggregations: Vec<Aggregation>,
        /// The lower edges of windows move in steps of this length.
        #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
        resolution: Option<Duration>,
    },
    /// The rows of one source.
    Rows { source: SourceName },
}

impl ViewInput {
    pub fn sources(&self) -> &[SourceName] {
        match self {
            ViewInput::Sql { sources, .. } => sources,
            ViewInput::Rows { source } | ViewInput::Aggregations { source, .. } => std::slice::from_ref(source),
        }
    }
}

impl FeatureView {
    /// Empty but for aggregation views.
    pub fn aggregations(&self) -> &[Aggregation] {
        match &self.input {
            ViewInput::Aggregations { aggregations, .. } => aggregations,
            ViewInput::Sql { .. } | ViewInput::Rows { .. } => &[],
        }
    }

    pub fn is_aggregation(&self) -> bool {
        matches!(self.input, ViewInput::Aggregations { .. })
    }

    /// The columns that a row of the view's table holds beside keys and times.
    pub fn stored_fields(&self) -> Vec<Field> {
        match self.is_aggregation() {
            true => self.event_columns.iter().map(|column| column.field.clone()).collect(),
            false => self.features.clone(),
        }
    }

    /// The column of the view's table that an input or a bucket of an aggregation is kept in.
    pub fn event_column(&self, expression: &str) -> Option<usize> {
        self.event_columns.iter().position(|column| column.expression == expression.trim())
    }
}

/// Features computed from other features and from values of the request, when they are asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnDemandFeatureView {
    pub name: FeatureViewName,
    /// Values that only the caller knows.
    #[serde(default)]
    pub request: Vec<Field>,
    /// Features the expressions read, by their plain names.
    #[serde(default)]
    pub features_from: Vec<FeatureReference>,
    pub features: Vec<OnDemandFeature>,
    #[serde(flatten)]
    pub documentation: Documentation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemandFeature {
    #[serde(flatten)]
    pub field: Field,
    /// A DataFusion SQL expression without side effects or volatile functions.
    pub expression: String,
}

/// The features that one model reads, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureService {
    pub name: FeatureServiceName,
    pub features: Vec<ViewProjection>,
    #[serde(flatten)]
    pub documentation: Documentation,
}

/// Some or all features of one view, perhaps under another name and for another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewProjection {
    pub view: FeatureViewName,
    /// None: all of the view's, in its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Stands for the view's name in full feature names.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Join key of the view to the column of the request that carries it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub join_keys: BTreeMap<String, String>,
}

/// `view:feature`, or `view` for all of its features.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureReference {
    pub view: FeatureViewName,
    pub feature: Option<String>,
}

impl FeatureReference {
    /// Splits at the first `:`; whether the names exist is for [`Definitions`] to say.
    pub fn parse(text: &str) -> Self {
        match text.trim().split_once(':') {
            Some((view, feature)) => {
                FeatureReference { view: view.trim().into(), feature: Some(feature.trim().to_owned()) }
            }
            None => FeatureReference { view: text.trim().into(), feature: None },
        }
    }
}

impl std::fmt::Display for FeatureReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.feature {
            Some(feature) => write!(f, "{}:{feature}", self.view),
            None => write!(f, "{}", self.view),
        }
    }
}

impl Serialize for FeatureReference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FeatureReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(FeatureReference::parse(&String::deserialize(deserializer)?))
    }
}

/// Default of [`FeatureView::lookback`].
pub const LOOKBACK_DEFAULT: Duration = Duration::from_secs(86_400);

/// Column names that tables and answers use for themselves.
pub const EVENT_TIMESTAMP: &str = "event_timestamp";
pub const CREATED_TIMESTAMP: &str = "created_timestamp";

impl Definitions {
    pub fn is_empty(&self) -> bool {
        let Definitions {
            entities,
            sources,
            feature_views,
            on_demand_feature_views,
            feature_services,
            prediction_routes,
        } = self;
        entities.is_empty()
            && sources.is_empty()
            && feature_views.is_empty()
            && on_demand_feature_views.is_empty()
            && feature_services.is_empty()
            && prediction_routes.is_empty()
    }

    pub fn entity(&self, name: &str) -> Option<&Entity> {
        self.entities.iter().find(|entity| entity.name.as_str() == name)
    }

    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    pub fn feature_view(&self, name: &str) -> Option<&FeatureView> {
        self.feature_views.iter().find(|view| view.name.as_str() == name)
    }

    pub fn on_demand_feature_view(&self, name: &str) -> Option<&OnDemandFeatureView> {
        self.on_demand_feature_views.iter().find(|view| view.name.as_str() == name)
    }

    pub fn feature_service(&self, name: &str) -> Option<&FeatureService> {
        self.feature_services.iter().find(|service| service.name.as_str() == name)
    }

    pub fn prediction_route(&self, name: &str) -> Option<&PredictionRoute> {
        self.prediction_routes.iter().find(|route| route.name.as_str() == name)
    }

    /// The join keys of a view: those of its entities, one after the other.
    pub fn join_keys(&self, view: &FeatureView) -> Vec<Field> {
        let entities = view.entities.iter().filter_map(|name| self.entity(name.as_str()));
        entities.flat_map(|entity| entity.join_keys.iter().cloned()).collect()
    }

    /// The source whose events feed the view as they come in; None: the view is computed by jobs alone.
    pub fn streamed_source(&self, view: &FeatureView) -> Option<&Source> {
        match &view.input {
            ViewInput::Sql { .. } => None,
            ViewInput::Rows { source } | ViewInput::Aggregations { source, .. } => {
                self.source(source.as_str()).filter(|source| source.stream.is_some())
            }
        }
    }

    /// The views that events of the source feed as they come in.
    pub fn views_fed_by<'a>(&'a self, source: &'a SourceName) -> impl Iterator<Item = &'a FeatureView> {
        let is_fed = |view: &&FeatureView| self.streamed_source(view).is_some_and(|fed| fed.name == *source);
        self.feature_views.iter().filter(is_fed)
    }

    /// Whether jobs have rows to compute for the view: they lie in files, or its query reads what streams archived.
    pub fn is_materialized(&self, view: &FeatureView) -> bool {
        let mut sources = view.input.sources().iter().filter_map(|name| self.source(name.as_str()));
        match &view.input {
            ViewInput::Sql { .. } => sources.all(|source| source.batch.is_some() || source.stream.is_some()),
            _ => sources.all(|source| source.batch.is_some()),
        }
    }

    /// Whether every source of the view is static, so that its rows hold at every time.
    pub fn is_static(&self, view: &FeatureView) -> bool {
        let mut sources = view.input.sources().iter().filter_map(|name| self.source(name.as_str()));
        sources.all(|source| source.event_timestamp.is_none())
    }
}
