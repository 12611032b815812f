//! YAML text to a tree of nodes with positions.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, NonFiniteFloatPolicy, Spanned};

use crate::diagnostics::{Located, Reporter, Span};

/// A YAML value and where it stands; aliases and merges are resolved and stand where they are anchored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Null,
    /// Text, number or truth value: as it was written, without quotes.
    Scalar(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Located<String>,
    pub value: Node,
}

impl Node {
    pub fn scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Mapping(entries) => entries.iter().find(|entry| entry.key.value == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// What it is, for "expected …, found …".
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Scalar(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Larger files are not written by people.
const TEXT_BYTES_MAX: usize = 4 << 20;
const DEPTH_MAX: usize = 32;
/// Nodes of one file, those that aliases repeat included: a few long lists may be shared, a bomb may not.
const NODES_MAX: usize = 100_000;

/// Parses the documents of a file of the reporter; a file with comments alone has none.
///
/// Keys that stand twice in a mapping, or that are no scalars, are reported and left out.
///
/// Returns `None`, having reported it, if the text is not YAML or is too large, too deep or grows too much by aliases.
pub fn parse_documents(file: usize, reporter: &mut Reporter<'_>) -> Option<Vec<Node>> {
    let text = reporter.text(file);
    let start = Span { file, offset: 0, length: 0, line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the file has {} bytes, more than the {TEXT_BYTES_MAX} that are read", text.len());
        reporter.error_with_help(start, message, "split it into several files");
        return None;
    }
    match serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options()) {
        Ok(documents) => Some(documents.into_iter().map(|raw| Converter { file, text }.node(raw, reporter)).collect()),
        Err(error) => {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let span = Converter { file, text }.span(location);
            reporter.error_with_help(span, message_of(&error), "the rest of this file was not read");
            None
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX + 1,
            max_nodes: NODES_MAX,
            max_documents: 64,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        // Repeated keys are reported here, all of them.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `no` is an airport, not a truth value.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

fn message_of(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter};
    let mut inner = error;
    while let Error::AliasError { error, .. } | Error::WithSnippet { error, .. } = inner {
        inner = error;
    }
    let message = DefaultMessageFormatter.format_message(inner);
    match inner {
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("the file is too large, nested too deep, or grows too much by aliases: {message}")
        }
        _ => format!("this YAML cannot be read: {message}"),
    }
}

/// What serde is told; numbers and truth values become text again in [`Converter`].
enum Raw {
    Null,
    Text(String),
    /// A plain scalar that YAML takes for a number or a truth value, as serde wrote it.
    Typed(String),
    Sequence(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Raw::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

/// Turns what serde was told into nodes of one file.
#[derive(Clone, Copy)]
struct Converter<'a> {
    file: usize,
    text: &'a str,
}

impl Converter<'_> {
    fn node(self, raw: Spanned<Raw>, reporter: &mut Reporter<'_>) -> Node {
        let mut span = self.span(raw.defined);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Text(text) => Kind::Scalar(text),
            Raw::Typed(text) => Kind::Scalar(self.as_written(span).unwrap_or(text)),
            Raw::Sequence(items) => Kind::Sequence(items.into_iter().map(|item| self.node(item, reporter)).collect()),
            Raw::Mapping(entries) => {
                let entries = self.entries(entries, reporter);
                // A block mapping starts nowhere to be seen: its first key stands for it.
                if let (Some(first), false) = (entries.first(), self.text[span.offset..].starts_with('{')) {
                    span = first.key.span;
                }
                Kind::Mapping(entries)
            }
        };
        Node { kind, span }
    }

    fn entries(self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>, reporter: &mut Reporter<'_>) -> Vec<Entry> {
        let mut seen = HashSet::with_capacity(raw.len());
        let mut entries = Vec::with_capacity(raw.len());
        for (key, value) in raw {
            let key = self.node(key, reporter);
            let Kind::Scalar(name) = key.kind else {
                let message = format!("a key has to be text, found {}", key.describe());
                reporter.error_with_help(key.span, message, "put text that is meant as a value in quotes");
                continue;
            };
            let value = self.node(value, reporter);
            if seen.insert(name.clone()) {
                entries.push(Entry { key: Located { value: name, span: key.span }, value });
            } else {
                let message = format!("key `{name}` stands twice in this mapping");
                reporter.error_with_help(key.span, message, "remove one of them, or join their values");
            }
        }
        entries
    }

    /// The source of a plain scalar, as which `007`, `1_000` and `1.50` stay what they are.
    fn as_written(self, span: Span) -> Option<String> {
        let source = self.text.get(span.offset..span.offset + span.length)?.trim();
        (!source.is_empty() && !source.starts_with(['"', '\'', '!', '&', '*', '|', '>'])).then(|| source.to_owned())
    }

    fn span(self, location: Location) -> Span {
        let (line, column) = (location.line().max(1) as usize, location.column().max(1) as usize);
        let offset = location.span().byte_offset().map_or_else(|| self.offset_of(line, column), |at| at as usize);
        let length = location.span().byte_len().unwrap_or(0) as usize;
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        Span { file: self.file, offset, length, line, column }
    }

    fn offset_of(self, line: usize, column: usize) -> usize {
        let lines = self.text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
        let rest = self.text.get(lines..).unwrap_or_default();
        lines + rest.chars().take(column - 1).map(char::len_utf8).sum::<usize>()
    }
}
