//! The stream of a source: events that are pushed, or read from a topic, as they happen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Field, Source};
use crate::time::duration_text;

/// Default of [`Source::deduplicate_for`].
pub const DEDUPLICATE_FOR_DEFAULT: Duration = Duration::from_secs(86_400);

/// Default of [`Stream::max_ahead`] where lateness is bounded, and so a watermark decides over later events.
pub const MAX_AHEAD_DEFAULT: Duration = Duration::from_secs(86_400);

/// Where a source's events come from, and which of them are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    #[serde(flatten)]
    pub input: StreamInput,
    /// An event whose event timestamp is further than this before the source's watermark is refused; None: no limit.
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub allowed_lateness: Option<Duration>,
    /// An event whose event timestamp is further than this after the clock is refused.
    #[serde(default, with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub max_ahead: Option<Duration>,
    /// The columns of an event, under their names after `rename`: those of the source's schema, else those of its
    /// batch location, provisional until `compile` has read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum StreamInput {
    /// Callers send rows.
    Push {},
    Kafka(KafkaTopic),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaTopic {
    /// `host:port`, separated by commas.
    pub brokers: String,
    pub topic: String,
    pub format: EventFormat,
    /// Consumer group that shares out the partitions; None: all are read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// File with the Avro schema that values are written by, relative to the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_file: Option<String>,
    /// Settings of librdkafka, such as those of TLS and SASL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// One JSON object a message.
    Json,
    /// One Avro record a message, bare or after the five bytes of a schema registry.
    Avro,
}

impl Stream {
    /// How far after the clock the time of an event may lie; None: as far as it likes.
    pub fn max_ahead(&self) -> Option<Duration> {
        self.max_ahead.or(self.allowed_lateness.map(|_| MAX_AHEAD_DEFAULT))
    }
}

impl Source {
    /// How long an event's id is remembered; None: events have none.
    pub fn remembers_ids_for(&self) -> Option<Duration> {
        self.event_id.as_ref().map(|_| self.deduplicate_for.unwrap_or(DEDUPLICATE_FOR_DEFAULT))
    }
}
