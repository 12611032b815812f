//! Durations, file formats and types: texts with a meaning.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::definition::aggregation::{AggregateFunction, Percentiles, Window};
use crate::definition::model::FileFormat;
use crate::definition::stream::EventFormat;
use crate::definition::value_type::ValueType;
use crate::diagnostics::{Reporter, help_with_names, nearest};
use crate::time::{EventTimestamp, parse_duration};
use crate::yaml::{Decode, Kind, Node};

/// A duration as it is written: `3h`.
#[derive(Debug, Clone, Copy)]
pub struct RawDuration(pub Duration);

impl Decode for RawDuration {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        match parse_duration(&text) {
            Ok(duration) => Some(RawDuration(duration)),
            Err(_) => {
                let message = format!("{} is not a duration", node.describe());
                let help = "write a whole number and one of ms, s, m, h, d, w, e.g. `30s`, `12h`, `7d`";
                reporter.error_with_help(node.span, message, help);
                None
            }
        }
    }
}

impl JsonSchema for RawDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d|w)$", "examples": ["30s", "12h", "7d"]})
    }
}

/// An instant as it is written: `2024-05-01T12:30:00Z`.
#[derive(Debug, Clone, Copy)]
pub struct RawInstant(pub EventTimestamp);

impl Decode for RawInstant {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        let instant = EventTimestamp::parse(&text).ok().map(RawInstant);
        if instant.is_none() {
            let help = "write RFC 3339, e.g. `2024-05-01` or `2024-05-01T12:30:00Z`";
            reporter.error_with_help(node.span, format!("{} is not a time", node.describe()), help);
        }
        instant
    }
}

impl JsonSchema for RawInstant {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Instant".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["2024-05-01", "2024-05-01T12:30:00Z"]})
    }
}

/// A window as it is written: `1h`, `lifetime`.
#[derive(Debug, Clone, Copy)]
pub struct RawWindow(pub Window);

impl Decode for RawWindow {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        let window = text.parse().ok().map(RawWindow);
        if window.is_none() {
            let is_zero = parse_duration(&text).is_ok();
            let what = if is_zero { "is an empty window" } else { "is not a window" };
            let help = "write a duration greater than zero such as `30m`, `1h`, `7d`, or `lifetime`";
            reporter.error_with_help(node.span, format!("{} {what}", node.describe()), help);
        }
        window
    }
}

impl JsonSchema for RawWindow {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h|d|w)|lifetime)$",
            "examples": ["1h", "7d", "lifetime"],
        })
    }
}

/// What other systems call our functions.
const FUNCTION_SYNONYMS: [(&str, &str); 20] = [
    ("avg", "mean"),
    ("average", "mean"),
    ("var", "variance"),
    ("var_pop", "variance"),
    ("std", "stddev"),
    ("stdev", "stddev"),
    ("stddev_pop", "stddev"),
    ("skewness", "skew"),
    ("first_k", "first"),
    ("last_k", "last"),
    ("top_k", "top"),
    ("bottom_k", "bottom"),
    ("array_agg", "last"),
    ("nunique", "count_distinct"),
    ("unique_count", "count_distinct"),
    ("approx_unique_count", "approx_count_distinct"),
    ("percentile", "approx_percentile"),
    ("quantile", "approx_percentile"),
    ("value_counts", "histogram"),
    ("every", "all"),
];

impl Decode for AggregateFunction {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        let function = AggregateFunction::ALL.into_iter().find(|function| function.name() == text);
        if function.is_none() {
            let names = AggregateFunction::ALL.map(AggregateFunction::name);
            let lower = text.to_lowercase();
            let synonym = FUNCTION_SYNONYMS.iter().find(|(other, _)| *other == lower).map(|(_, ours)| *ours);
            let help = match synonym.or_else(|| nearest(&text, names)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the functions are {}", names.join(", ")),
            };
            reporter.error_with_help(node.span, format!("{} is not an aggregate function", node.describe()), help);
        }
        function
    }
}

impl JsonSchema for AggregateFunction {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AggregateFunction".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": AggregateFunction::ALL.map(AggregateFunction::name)})
    }
}

/// More percentiles than anyone reads.
const PERCENTILES_MAX: usize = 1_000;

impl Decode for Percentiles {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let Kind::Sequence(items) = &node.kind else {
            return percentile(node, reporter).map(Percentiles::One);
        };
        if items.is_empty() || items.len() > PERCENTILES_MAX {
            let message = format!("expected 1 to {PERCENTILES_MAX} percentiles, found {}", items.len());
            reporter.error_with_help(node.span, message, "write `p: 0.99`, or several, `p: [0.5, 0.99]`");
            return None;
        }
        let percentiles: Vec<Option<f64>> = items.iter().map(|item| percentile(item, reporter)).collect();
        percentiles.into_iter().collect::<Option<_>>().map(Percentiles::Several)
    }
}

fn percentile(node: &Node, reporter: &mut Reporter<'_>) -> Option<f64> {
    let number = f64::decode(node, reporter)?;
    let valid = (0.0..=1.0).contains(&number);
    if !valid {
        let help = "a percentile is between 0 and 1: write 0.99 for the 99th, 0.5 for the median";
        reporter.error_with_help(node.span, format!("{} is not between 0 and 1", node.describe()), help);
    }
    valid.then_some(number)
}

impl JsonSchema for Percentiles {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percentiles".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({"type": "number", "minimum": 0, "maximum": 1});
        json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": PERCENTILES_MAX}]})
    }
}

const FORMATS: [(&str, FileFormat); 5] = [
    ("parquet", FileFormat::Parquet),
    ("csv", FileFormat::Csv),
    ("json", FileFormat::Json),
    ("ndjson", FileFormat::Json),
    ("delta", FileFormat::Delta),
];

impl Decode for FileFormat {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        let format = FORMATS.iter().find(|(name, _)| *name == text).map(|(_, format)| *format);
        if format.is_none() {
            let help = help_with_names(&text, "formats", &FORMATS.map(|(name, _)| name));
            reporter.error_with_help(node.span, format!("{} is not a file format", node.describe()), help);
        }
        format
    }
}

impl JsonSchema for FileFormat {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FileFormat".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": FORMATS.map(|(name, _)| name)})
    }
}

/// What other systems call our types.
const TYPE_SYNONYMS: [(&str, &str); 20] = [
    ("int", "int64"),
    ("integer", "int64"),
    ("bigint", "int64"),
    ("long", "int64"),
    ("short", "int32"),
    ("float", "float64"),
    ("double", "float64"),
    ("real", "float32"),
    ("number", "float64"),
    ("decimal", "float64"),
    ("numeric", "float64"),
    ("str", "string"),
    ("utf8", "string"),
    ("text", "string"),
    ("varchar", "string"),
    ("binary", "bytes"),
    ("datetime", "timestamp"),
    ("array", "list<T>"),
    ("embedding", "list<float32>"),
    ("vector", "list<float32>"),
];

impl Decode for ValueType {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let text = String::decode(node, reporter)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let lower = text.to_lowercase();
            let synonym = TYPE_SYNONYMS.iter().find(|(other, _)| *other == lower).map(|(_, ours)| *ours);
            let meant = synonym.or_else(|| nearest(&text, ValueType::scalar_names()));
            let did_you_mean = meant.map_or_else(String::new, |meant| format!("did you mean `{meant}`? "));
            let help = format!("{did_you_mean}the types are {}", ValueType::CHOICES);
            reporter.error_with_help(node.span, format!("{} is not a type", node.describe()), help);
        }
        parsed
    }
}

impl JsonSchema for ValueType {
    fn schema_name() -> Cow<'static, str> {
        "Type".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let scalar = ValueType::scalar_names().collect::<Vec<_>>().join("|");
        json_schema!({
            "type": "string",
            "description": format!("One of {}.", ValueType::CHOICES),
            "pattern": format!("^\\s*(({scalar})|list<\\s*({scalar})\\s*>|map<\\s*({scalar})\\s*,.+>)\\s*$"),
            "examples": ["int64", "float64", "string", "timestamp", "list<float32>"],
        })
    }
}

/// The types of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawStreamType {
    Push,
    Kafka,
}

const STREAM_TYPES: [(&str, RawStreamType); 2] = [("push", RawStreamType::Push), ("kafka", RawStreamType::Kafka)];
const EVENT_FORMATS: [(&str, EventFormat); 2] = [("json", EventFormat::Json), ("avro", EventFormat::Avro)];

/// The one of `choices` that a node names; reported as no `what` if there is none.
fn choice<T: Copy>(node: &Node, what: &str, choices: &[(&str, T)], reporter: &mut Reporter<'_>) -> Option<T> {
    let text = String::decode(node, reporter)?;
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let help = help_with_names(&text, "choices", &names);
        reporter.error_with_help(node.span, format!("{} is not {what}", node.describe()), help);
    }
    found
}

impl Decode for RawStreamType {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        choice(node, "a type of stream", &STREAM_TYPES, reporter)
    }
}

impl JsonSchema for RawStreamType {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StreamType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": STREAM_TYPES.map(|(name, _)| name)})
    }
}

impl Decode for EventFormat {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        choice(node, "a format of events", &EVENT_FORMATS, reporter)
    }
}

impl JsonSchema for EventFormat {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "EventFormat".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": EVENT_FORMATS.map(|(name, _)| name)})
    }
}
