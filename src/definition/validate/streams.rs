//! Rules of streams.

use super::super::model::Field;
use super::super::raw::{RawSource, RawStream, RawStreamType, Text};
use super::super::stream::{EventFormat, KafkaTopic, Stream, StreamInput};
use crate::diagnostics::{Reporter, Span};

/// Checks that the keys of a source that concern its stream fit each other.
pub fn check(raw: &RawSource, reporter: &mut Reporter<'_>) {
    let Some(stream) = &raw.stream else {
        let needs_stream: [(&str, Option<Span>); 3] = [
            ("stream_from", raw.stream_from.as_ref().map(|value| value.span)),
            ("event_id", raw.event_id.as_ref().map(|value| value.span)),
            ("deduplicate_for", raw.deduplicate_for.as_ref().map(|value| value.span)),
        ];
        for (key, span) in needs_stream {
            if let Some(span) = span {
                let message =
                    format!("`{key}` concerns the events of a `stream`, and source `{}` has none", raw.name.value);
                reporter.error_with_help(span, message, format!("add `stream: {{type: push}}`, or remove `{key}`"));
            }
        }
        return;
    };
    if raw.event_timestamp.is_none() {
        let message = format!("source `{}` has a `stream` and no `event_timestamp`", raw.name.value);
        reporter.error_with_help(stream.span, message, "name the column that says when an event became true");
    }
    if let (Some(from), None) = (&raw.stream_from, &raw.batch) {
        let message = "`stream_from` says where `batch` ends and `stream` begins, and there is no `batch`";
        reporter.error_with_help(from.span, message, "remove `stream_from`");
    }
    match (&raw.event_id, &raw.deduplicate_for) {
        (None, Some(duration)) => {
            let help = "add `event_id: column`, or remove `deduplicate_for`";
            reporter.error_with_help(duration.span, "`deduplicate_for` needs an `event_id`", help);
        }
        (Some(id), _) => check_event_id(raw, id, reporter),
        (None, None) => {}
    }
}

fn check_event_id(raw: &RawSource, id: &Text, reporter: &mut Reporter<'_>) {
    if let Some(schema) = &raw.schema
        && schema.value.iter().all(|field| field.name.value != id.value)
    {
        let message = format!("`event_id` names `{}`, which is not in the schema", id.value);
        reporter.error_with_help(id.span, message, format!("add `{{name: {}, type: string}}` to the schema", id.value));
    }
    if raw.batch.is_some() && raw.stream_from.is_none() {
        let message = "a source with `batch`, `stream` and `event_id` needs `stream_from`";
        let help = "ids are remembered for events of the stream; `stream_from: TIME` says from when on the stream \
            counts, so that no event is in both";
        reporter.error_with_help(id.span, message, help);
    }
}

/// `schema`: the columns that the source declares.
pub fn stream(raw: &RawStream, schema: &[Field], reporter: &mut Reporter<'_>) -> Option<Stream> {
    let input = match raw.r#type.value {
        RawStreamType::Push => {
            refuse_keys_of_kafka(raw, reporter);
            StreamInput::Push {}
        }
        RawStreamType::Kafka => StreamInput::Kafka(kafka_topic(raw, reporter)?),
    };
    let allowed_lateness = raw.allowed_lateness.as_ref().map(|duration| duration.value.0);
    let max_ahead = raw.max_ahead.as_ref().map(|duration| duration.value.0);
    Some(Stream { input, allowed_lateness, max_ahead, columns: schema.to_vec() })
}

fn refuse_keys_of_kafka(raw: &RawStream, reporter: &mut Reporter<'_>) {
    let texts =
        [("brokers", &raw.brokers), ("topic", &raw.topic), ("group", &raw.group), ("schema_file", &raw.schema_file)];
    let spans = texts.map(|(key, text)| (key, text.as_ref().map(|text| text.span))).into_iter();
    let format = ("format", raw.format.as_ref().map(|format| format.span));
    let settings =
        raw.settings.iter().flat_map(|entries| entries.0.first()).map(|(key, _)| ("settings", Some(key.span)));
    for (key, span) in spans.chain([format]).chain(settings) {
        if let Some(span) = span {
            let message = format!("`{key}` is a key of streams of type kafka");
            reporter.error_with_help(span, message, format!("remove `{key}`, or write `type: kafka`"));
        }
    }
}

fn kafka_topic(raw: &RawStream, reporter: &mut Reporter<'_>) -> Option<KafkaTopic> {
    let place = raw.r#type.span;
    let mut needed = |key: &str, example: &str, text: &Option<Text>| match text {
        Some(text) if !text.value.trim().is_empty() => Some(text.value.trim().to_owned()),
        found => {
            let span = found.as_ref().map_or(place, |text| text.span);
            reporter.error_with_help(
                span,
                format!("a stream of type kafka has no `{key}`"),
                format!("add `{key}: {example}`"),
            );
            None
        }
    };
    let brokers = needed("brokers", "\"localhost:9092\"", &raw.brokers);
    let topic = needed("topic", "…", &raw.topic);
    let format = raw.format.as_ref().map_or(EventFormat::Json, |format| format.value);
    let schema_file = match format {
        EventFormat::Avro => needed("schema_file", "arrivals.avsc", &raw.schema_file).map(Some),
        EventFormat::Json => {
            if let Some(file) = &raw.schema_file {
                let help = "remove `schema_file`, or write `format: avro`";
                reporter.error_with_help(file.span, "`schema_file` is the schema of Avro values", help);
            }
            Some(None)
        }
    };
    let settings = raw.settings.iter().flat_map(|entries| &entries.0);
    Some(KafkaTopic {
        brokers: brokers?,
        topic: topic?,
        format,
        group: raw.group.as_ref().map(|group| group.value.clone()),
        schema_file: schema_file?,
        settings: settings.map(|(key, value)| (key.value.clone(), value.value.clone())).collect(),
    })
}
