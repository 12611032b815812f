//! Nodes to records: every unknown key, missing key and misshapen value is reported, and decoding goes on.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::tree::{Entry, Kind, Node};
use crate::diagnostics::{Located, Reporter, Span, help_with_names, nearest};

/// What a node can be decoded to.
pub trait Decode: Sized {
    /// Returns `None` having reported why.
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self>;

    /// The value of a key that is not there; `None` if it has to be.
    fn absent() -> Option<Self> {
        None
    }
}

impl Decode for String {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        match node.scalar() {
            Some(text) => Some(text.to_owned()),
            None => {
                expected("text", "write a value here, in quotes if YAML takes it for something else", node, reporter)
            }
        }
    }
}

impl Decode for u32 {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let number = node.scalar().and_then(|text| text.trim().parse().ok());
        number.or_else(|| expected("a positive whole number", "write a number such as 5", node, reporter))
    }
}

impl Decode for f64 {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let number = node.scalar().and_then(|text| text.trim().parse().ok());
        number.or_else(|| expected("a number", "write a number such as 0.5", node, reporter))
    }
}

impl<T: Decode> Decode for Located<T> {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        Some(Located { value: T::decode(node, reporter)?, span: node.span })
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        if node.kind == Kind::Null { Some(None) } else { T::decode(node, reporter).map(Some) }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Vec<T> {
    /// All items are decoded, so that all of their errors are told.
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let Kind::Sequence(items) = &node.kind else {
            return expected("a list", "write `[…]`, or one item a line, each after `- `", node, reporter);
        };
        let decoded: Vec<Option<T>> = items.iter().map(|item| T::decode(item, reporter)).collect();
        decoded.into_iter().collect()
    }
}

/// A mapping with keys of the user's choice, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries<T>(pub Vec<(Located<String>, T)>);

impl<T: Decode> Decode for Entries<T> {
    fn decode(node: &Node, reporter: &mut Reporter<'_>) -> Option<Self> {
        let Kind::Mapping(entries) = &node.kind else {
            return expected("a mapping", "write `{key: value, …}`", node, reporter);
        };
        let mut decode = |entry: &Entry| Some((entry.key.clone(), T::decode(&entry.value, reporter)?));
        let decoded: Vec<Option<_>> = entries.iter().map(&mut decode).collect();
        decoded.into_iter().collect::<Option<_>>().map(Entries)
    }
}

/// Reports that a node is not of the expected shape.
fn expected<T>(what: &str, help: &str, node: &Node, reporter: &mut Reporter<'_>) -> Option<T> {
    reporter.error_with_help(node.span, format!("expected {what}, found {}", node.describe()), help);
    None
}

/// The keys of a mapping that is a record: the known ones are taken, all others are errors.
pub struct Fields<'n> {
    node: &'n Node,
    /// What it is and its name, as in "entity `carrier`".
    label: String,
    known: Vec<&'static str>,
    /// Missing keys that an unknown one was probably meant to be: told once is enough.
    misspelt: Vec<&'static str>,
    has_unknown_keys: bool,
    /// It has keys that a later version reads; without them it cannot be judged.
    unfinished: bool,
}

impl<'n> Fields<'n> {
    /// Reports keys that are not among the known ones, and as not supported yet those that a later version reads.
    ///
    /// Returns `None`, having reported it, if the node is no mapping.
    pub fn new(
        node: &'n Node,
        what: &str,
        known: Vec<&'static str>,
        later: &[&'static str],
        reporter: &mut Reporter<'_>,
    ) -> Option<Self> {
        let Kind::Mapping(entries) = &node.kind else {
            reporter.error_with_help(
                node.span,
                format!("expected {} with keys, found {}", with_article(what), node.describe()),
                format!("its keys are {}", known.join(", ")),
            );
            return None;
        };
        let name = node.get("name").and_then(Node::scalar);
        let label = name.map_or_else(|| what.to_owned(), |name| format!("{what} `{name}`"));
        let mut fields =
            Fields { node, label, known, misspelt: Vec::new(), has_unknown_keys: false, unfinished: false };
        for entry in entries {
            fields.check_key(&entry.key, later, reporter);
        }
        Some(fields)
    }

    fn check_key(&mut self, key: &Located<String>, later: &[&'static str], reporter: &mut Reporter<'_>) {
        let Located { value: name, span } = key;
        if self.known.contains(&name.as_str()) {
            return;
        }
        if later.contains(&name.as_str()) {
            self.unfinished = true;
            let version = env!("CARGO_PKG_VERSION");
            let message = format!("`{name}` is not supported yet in this version ({version})");
            return reporter.error_with_help(*span, message, format!("remove `{name}`, or use a later version"));
        }
        self.has_unknown_keys = true;
        self.misspelt.extend(nearest(name, self.known.iter().copied()));
        let message = format!("unknown key `{name}` in {}", self.label);
        reporter.error_with_help(*span, message, help_with_names(name, "keys here", &self.known));
    }

    /// Decodes the value of a known key; reports it if it is missing and has to be there.
    pub fn take<T: Decode>(&self, key: &str, reporter: &mut Reporter<'_>) -> Option<T> {
        if let Some(value) = self.node.get(key) {
            return T::decode(value, reporter);
        }
        let absent = T::absent();
        if absent.is_none() && !self.unfinished && !self.misspelt.contains(&key) {
            let message = format!("{} has no `{key}`", self.label);
            reporter.error_with_help(self.node.span, message, format!("add `{key}: …`"));
        }
        absent
    }

    /// The node of a key, for values that are not decoded by [`Decode`].
    pub fn value(&self, key: &str) -> Option<&'n Node> {
        self.node.get(key)
    }

    pub fn has_unknown_keys(&self) -> bool {
        self.has_unknown_keys
    }

    /// Whether what it lacks may stand under a key that is reported already, so that it is not to be judged further.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished || self.misspelt.iter().any(|meant| self.node.get(meant).is_none())
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// Declares a struct whose fields are the keys of a mapping, decoded with [`Decode`] and described by its JSON Schema.
///
/// `as` says what it is in messages; `later` lists the keys that are refused as not supported yet.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $record:ident as $what:literal, later $later:expr => {
            $($(#[$field_meta:meta])* pub $field:ident: $field_type:ty,)*
        }
    ) => {
        #[derive(Debug, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $(#[$meta])*
        pub struct $record {
            $($(#[$field_meta])* pub $field: $field_type,)*
        }

        impl $crate::yaml::Decode for $record {
            fn decode(
                node: &$crate::yaml::Node,
                reporter: &mut $crate::diagnostics::Reporter<'_>,
            ) -> Option<Self> {
                let known = vec![$(stringify!($field).trim_start_matches("r#")),*];
                let fields = $crate::yaml::Fields::new(node, $what, known, $later, reporter)?;
                $(let $field = fields.take::<$field_type>(stringify!($field).trim_start_matches("r#"), reporter);)*
                if fields.is_unfinished() {
                    return None;
                }
                Some(Self { $($field: $field?,)* })
            }
        }
    };
}
pub(crate) use record;

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        <BTreeMap<String, T>>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <BTreeMap<String, T>>::json_schema(generator)
    }
}

impl Located<String> {
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

impl<T> Located<T> {
    /// The same place, another value.
    pub fn at(span: Span, value: T) -> Self {
        Located { value, span }
    }
}
