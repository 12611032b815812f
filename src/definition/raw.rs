//! Definition files as they are written, before any reference is looked up.

mod values;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::aggregation::{AggregateFunction, Aggregation, Percentiles};
use super::model::{Documentation, FileFormat};
use super::stream::EventFormat;
use super::value_type::ValueType;
use crate::diagnostics::{Located, Reporter, Span};
use crate::yaml::{Decode, Entries, Fields, Kind, Node, record};

pub use prediction::{RawExperiment, RawPredictionLog, RawPredictionRoute, RawShadow, RawStep};
pub use values::{RawDuration, RawInstant, RawStreamType, RawWindow};

/// A definition, which has a name.
pub trait Named {
    fn name(&self) -> &Text;
}

/// A [`record!`] with what every definition has.
macro_rules! definition {
    (
        $(#[$meta:meta])*
        pub struct $record:ident as $what:literal, later $later:expr => {
            $($(#[$field_meta:meta])* pub $field:ident: $field_type:ty,)*
        }
    ) => {
        record! {
            $(#[$meta])*
            pub struct $record as $what, later $later => {
                /// Letters, digits and `_`, without `__`; unique among its kind.
                pub name: Text,
                $($(#[$field_meta])* pub $field: $field_type,)*
                /// For people: what it is.
                pub description: Option<String>,
                /// For people: whom to ask.
                pub owner: Option<String>,
                /// For people and tools: names and values.
                pub tags: Option<Entries<String>>,
            }
        }

        impl Named for $record {
            fn name(&self) -> &Text {
                &self.name
            }
        }

        impl $record {
            pub fn documentation(&self) -> Documentation {
                let tags = self.tags.iter().flat_map(|tags| &tags.0);
                Documentation {
                    description: self.description.clone(),
                    owner: self.owner.clone(),
                    tags: tags.map(|(name, value)| (name.value.clone(), value.clone())).collect(),
                }
            }
        }
    };
}
mod prediction;

/// A text with its place.
pub type Text = Located<String>;

/// Keys of later versions: refused with a message that says so.
mod later {
    pub const FILE: &[&str] = &["models", "monitors"];
    pub const NONE: &[&str] = &[];
}

/// All that definition files may contain; several files add up.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RawFile {
    /// What features describe, identified by join keys.
    #[schemars(default)]
    pub entities: Listed<RawEntity>,
    /// Rows that features are read from.
    #[schemars(default)]
    pub sources: Listed<RawSource>,
    /// Named features of entities.
    #[schemars(default)]
    pub feature_views: Listed<RawFeatureView>,
    /// Features computed from other features and from values of the request, when they are asked for.
    #[schemars(default)]
    pub on_demand_feature_views: Listed<RawOnDemandFeatureView>,
    /// The features that one model reads.
    #[schemars(default)]
    pub feature_services: Listed<RawFeatureService>,
    /// What callers ask for predictions by.
    #[schemars(default)]
    pub prediction_routes: Listed<RawPredictionRoute>,
    /// Some part could not be read, so that a name which is not here may be defined there.
    #[schemars(skip)]
    pub incomplete: bool,
}

impl RawFile {
    const KEYS: [&str; 6] =
        ["entities", "sources", "feature_views", "on_demand_feature_views", "feature_services", "prediction_routes"];

    /// Adds one YAML document, reporting what is wrong with it.
    pub fn add_document(&mut self, document: &Node, reporter: &mut Reporter<'_>) {
        let known = Self::KEYS.to_vec();
        let Some(fields) = Fields::new(document, "definition file", known, later::FILE, reporter) else {
            self.incomplete = true;
            return;
        };
        self.incomplete |= fields.has_unknown_keys();
        let readable = self.entities.add("entities", &fields, reporter)
            & self.sources.add("sources", &fields, reporter)
            & self.feature_views.add("feature_views", &fields, reporter)
            & self.on_demand_feature_views.add("on_demand_feature_views", &fields, reporter)
            & self.feature_services.add("feature_services", &fields, reporter)
            & self.prediction_routes.add("prediction_routes", &fields, reporter);
        self.incomplete |= !readable;
    }
}

/// The definitions of one kind.
#[derive(Debug)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// Names of those that could not be decoded: references to them are not wrong.
    pub broken: Vec<Text>,
    /// There are broken ones without a name.
    pub nameless: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { items: Vec::new(), broken: Vec::new(), nameless: false }
    }
}

impl<T: Decode> Listed<T> {
    /// Returns false if the section is not a list.
    fn add(&mut self, key: &str, fields: &Fields<'_>, reporter: &mut Reporter<'_>) -> bool {
        let Some(section) = fields.value(key) else { return true };
        let items = match &section.kind {
            Kind::Null => return true,
            Kind::Sequence(items) => items,
            _ => {
                let message = format!("expected a list of {key}, found {}", section.describe());
                reporter.error_with_help(section.span, message, format!("write `{key}: [{{name: …}}, …]`"));
                return false;
            }
        };
        for item in items {
            let name = item.get("name").filter(|name| name.scalar().is_some());
            match (T::decode(item, reporter), name) {
                (Some(decoded), _) => self.items.push(decoded),
                (None, Some(name)) => self.broken.extend(Text::decode(name, reporter)),
                (None, None) => self.nameless = true,
            }
        }
        true
    }
}

impl<T: JsonSchema> JsonSchema for Listed<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        <Vec<T>>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <Vec<T>>::json_schema(generator)
    }
}

definition! {
    /// What features describe, identified by one or more join keys.
    pub struct RawEntity as "entity", later later::NONE => {
        /// Columns that identify it together; not floats nor lists.
        pub join_keys: Located<Vec<RawField>>,
    }
}

record! {
    /// A named and typed column.
    pub struct RawField as "column", later later::NONE => {
        /// Name of the column.
        pub name: Text,
        /// Type of its values.
        pub r#type: Located<ValueType>,
        /// For people: what it is.
        pub description: Option<String>,
    }
}

definition! {
    /// Rows that features are read from.
    pub struct RawSource as "source", later later::NONE => {
        /// Where the rows are.
        pub batch: Option<RawBatchLocation>,
        /// Column that says when a row became true, under its name after `rename`; without it the source is static.
        pub event_timestamp: Option<Text>,
        /// Column that says when a row was written down, under its name after `rename`.
        pub created_timestamp: Option<Text>,
        /// Column of the file: name used here.
        pub rename: Option<Entries<Text>>,
        /// Columns under their names after `rename`; required without `batch`.
        pub schema: Option<Located<Vec<RawField>>>,
        /// Where events come from as they happen.
        pub stream: Option<Located<RawStream>>,
        /// Rows of `batch` count before this time, events of `stream` from it on; without it both count in full.
        pub stream_from: Option<Located<RawInstant>>,
        /// Column that tells an event of the stream from all others: what is sent again is dropped.
        pub event_id: Option<Text>,
        /// How long after an event came in another one of its id is dropped; 1d if not given.
        pub deduplicate_for: Option<Located<RawDuration>>,
    }
}

record! {
    /// Events that are pushed, or read from a topic.
    pub struct RawStream as "stream", later later::NONE => {
        /// `push` or `kafka`.
        pub r#type: Located<RawStreamType>,
        /// Of kafka: `host:port`, separated by commas.
        pub brokers: Option<Text>,
        /// Of kafka: the topic that is read.
        pub topic: Option<Text>,
        /// Of kafka: how the values of messages are written.
        pub format: Option<Located<EventFormat>>,
        /// Of kafka: the consumer group that shares out the partitions; without it all are read here.
        pub group: Option<Text>,
        /// Of kafka with `format: avro`: file with the schema that values are written by, relative to the project.
        pub schema_file: Option<Text>,
        /// Of kafka: settings of librdkafka, such as those of TLS and SASL.
        pub settings: Option<Entries<Text>>,
        /// Events further than this before the latest one so far are refused; without it none is too late.
        pub allowed_lateness: Option<Located<RawDuration>>,
        /// Events whose time is further than this after the clock are refused; without it a day where `allowed_lateness` is set, else none is.
        pub max_ahead: Option<Located<RawDuration>>,
    }
}

record! {
    /// Files or a table.
    pub struct RawBatchLocation as "batch location", later later::NONE => {
        /// Format of the files.
        pub format: FileFormat,
        /// File, folder, glob or object-store URL; relative to the project.
        pub path: Text,
    }
}

definition! {
    /// Named features of entities: rows of one source, of a query over several, or aggregates of events.
    #[schemars(extend("anyOf" = [{"required": ["features"]}, {"required": ["aggregations"]}]))]
    pub struct RawFeatureView as "feature view", later later::NONE => {
        /// What the features describe; empty for one global row.
        pub entities: Option<Vec<Text>>,
        /// The source whose rows are read; instead of `sources` and `sql`.
        pub source: Option<Text>,
        /// The sources that `sql` reads.
        pub sources: Option<Located<Vec<Text>>>,
        /// A query whose columns are the join keys, `event_timestamp`, perhaps `created_timestamp`, and the features.
        pub sql: Option<Text>,
        /// Functions over windows of the source's rows that slide with the asked time; instead of `features`.
        pub aggregations: Option<Located<Vec<RawAggregation>>>,
        /// An SQL condition: `aggregations` see the source's rows that meet it.
        pub r#where: Option<Text>,
        /// The lower edges of the windows of `aggregations` move in steps of this length; exact if not given.
        pub resolution: Option<Located<RawDuration>>,
        /// How far before the asked time a value may be used; unlimited if not given; not with `aggregations`.
        pub ttl: Option<Located<RawDuration>>,
        /// How far a run without `--start` goes back, to pick up late rows; 1d if not given.
        pub lookback: Option<Located<RawDuration>>,
        /// Columns that are served; those of `aggregations` follow from them.
        pub features: Option<Located<Vec<RawField>>>,
    }
}

record! {
    /// One function over one input, for each of its windows a feature.
    pub struct RawAggregation as "aggregation", later later::NONE => {
        /// The features are called `{name}_{window}`; without it `{input}_{function}_{window}`.
        pub name: Option<Text>,
        /// A column of the source or an SQL expression over its columns; without it `count` counts rows.
        pub input: Option<Text>,
        /// What is computed of the input's values.
        pub function: Located<AggregateFunction>,
        /// How far before the asked time events count: durations, or `lifetime`.
        pub windows: Located<Vec<Located<RawWindow>>>,
        /// How many values first, last, top and bottom list; one value, not in a list, if not given.
        #[schemars(range(min = 1, max = 10_000))]
        pub n: Option<Located<u32>>,
        /// Of approx_percentile: between 0 and 1; several give a list.
        pub p: Option<Located<Percentiles>>,
        /// A column or expression: the feature is a map from its values to the aggregate of their events.
        pub by: Option<Text>,
    }
}

impl RawAggregation {
    /// Where its features get their names from.
    pub fn place(&self) -> Span {
        self.name.as_ref().or(self.input.as_ref()).map_or(self.function.span, |text| text.span)
    }

    pub fn to_model(&self) -> Aggregation {
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.value.clone());
        Aggregation {
            name: text(&self.name),
            input: text(&self.input),
            function: self.function.value,
            windows: self.windows.value.iter().map(|window| window.value.0).collect(),
            n: self.n.as_ref().map(|n| n.value),
            p: self.p.as_ref().map(|p| p.value.clone()),
            by: text(&self.by),
        }
    }
}

definition! {
    /// Features computed from other features and from values of the request, when they are asked for.
    pub struct RawOnDemandFeatureView as "on-demand feature view", later later::NONE => {
        /// Values that only the caller knows.
        pub request: Option<Vec<RawField>>,
        /// Features that the expressions read by their plain names: `view:feature`, or `view` for all of its features.
        pub features_from: Option<Vec<Text>>,
        /// What is computed.
        pub features: Located<Vec<RawOnDemandFeature>>,
    }
}

record! {
    /// A computed feature.
    pub struct RawOnDemandFeature as "on-demand feature", later later::NONE => {
        /// Name of the feature.
        pub name: Text,
        /// Type to which the expression's value is cast.
        pub r#type: Located<ValueType>,
        /// An SQL expression over the request's values and the features of `features_from`.
        pub expression: Text,
        /// For people: what it is.
        pub description: Option<String>,
    }
}

definition! {
    /// The features that one model reads, in order.
    pub struct RawFeatureService as "feature service", later later::NONE => {
        /// Views and features: `view`, `view:feature`, `view: [features]`, or with `as` and `join_keys`.
        pub features: Located<Vec<RawProjection>>,
    }
}

/// Some or all features of one view, in any of the ways in which it may be written.
#[derive(Debug)]
pub struct RawProjection {
    pub view: Text,
    pub features: Option<Located<Vec<Text>>>,
    pub alias: Option<Text>,
    pub join_keys: Option<Entries<Text>>,
}

record! {
    /// Features of a view, perhaps under another name and for another key.
    pub struct RawLongProjection as "projection", later later::NONE => {
        /// Name of the feature view or on-demand feature view.
        pub view: Text,
        /// Features of the view; all if not given.
        pub features: Option<Located<Vec<Text>>>,
        /// Stands for the view's name in full feature names.
        pub r#as: Option<Text>,
        /// Join key of the view: column of the request that carries it.
        pub join_keys: Option<Entries<Text>>,
    }
}

impl Decode for RawProjection {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(text) => Some(Self::from_reference(&Text::at(node.span, text.clone()))),
            Kind::Mapping(entries) => match entries.as_slice() {
                [entry] if entry.key.value != "view" || matches!(entry.value.kind, Kind::Sequence(_)) => {
                    if entry.value.scalar().is_some() {
                        let message = format!("expected a list of features of `{}`", entry.key.value);
                        let help = "write `view: [feature, …]`, or `view:feature` without a blank";
                        reporter.error_with_help(entry.value.span, message, help);
                        return None;
                    }
                    let features = Decode::decode(&entry.value, reporter)?;
                    Some(Self { view: entry.key.clone(), features: Some(features), alias: None, join_keys: None })
                }
                _ => {
                    let RawLongProjection { view, features, r#as, join_keys } = Decode::decode(node, reporter)?;
                    Some(Self { view, features, alias: r#as, join_keys })
                }
            },
            _ => {
                let message = format!("expected features of a view, found {}", node.describe());
                reporter.error_with_help(node.span, message, PROJECTION_HELP);
                None
            }
        }
    }
}

const PROJECTION_HELP: &str =
    "write `view`, `view:feature`, `view: [feature, …]` or `{view: …, features: […], as: …, join_keys: {…}}`";

impl RawProjection {
    fn from_reference(reference: &Text) -> Self {
        let (view, feature) = split_reference(reference);
        let features = feature.map(|feature| Located::at(reference.span, vec![feature]));
        RawProjection { view, features, alias: None, join_keys: None }
    }
}

/// The view and the feature of `view:feature`, both standing where the reference stands.
pub fn split_reference(reference: &Text) -> (Text, Option<Text>) {
    let here = |text: &str| Text::at(reference.span, text.trim().to_owned());
    match reference.value.split_once(':') {
        Some((view, feature)) => (here(view), Some(here(feature))),
        None => (here(&reference.value), None),
    }
}

impl JsonSchema for RawProjection {
    fn schema_name() -> Cow<'static, str> {
        "Projection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "string", "description": "`view`, or `view:feature`."},
                {
                    "type": "object",
                    "description": "One view and a list of its features.",
                    "additionalProperties": generator.subschema_for::<Vec<String>>(),
                    "minProperties": 1,
                    "maxProperties": 1,
                },
                generator.subschema_for::<RawLongProjection>(),
            ]
        })
    }
}
