//! Durations, file formats and types: texts with a meaning.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::definition::model::FileFormat;
use crate::definition::value_type::ValueType;
use crate::diagnostics::{Reporter, help_with_names, nearest};
use crate::time::parse_duration;
use crate::yaml::{Decode, Node};

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
