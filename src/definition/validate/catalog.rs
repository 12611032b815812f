//! The definitions of one kind by their names.

use std::collections::HashMap;

use super::super::names::is_valid_name;
use super::super::raw::{Listed, Named, Text};
use crate::diagnostics::{Reporter, Span, help_with_names};

/// Checked definitions of one kind, in the order of the files, and what is known of those that could not be read.
pub struct Catalog<T> {
    noun: &'static str,
    plural: &'static str,
    /// Names that are not here may be defined in a part that could not be read.
    incomplete: bool,
    items: Vec<T>,
    by_name: HashMap<String, Slot>,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Checked {
        index: usize,
        defined_at: Span,
    },
    /// It is defined, but not well enough to look at.
    Broken {
        defined_at: Span,
    },
    /// It names something of another kind with which the namespace is shared.
    OtherKind {
        noun: &'static str,
        defined_at: Span,
    },
}

impl Slot {
    fn defined_at(self) -> Span {
        match self {
            Slot::Checked { defined_at, .. } | Slot::Broken { defined_at } | Slot::OtherKind { defined_at, .. } => {
                defined_at
            }
        }
    }
}

impl<T> Catalog<T> {
    pub fn new(noun: &'static str, plural: &'static str, incomplete: bool) -> Self {
        Catalog { noun, plural, incomplete, items: Vec::new(), by_name: HashMap::new() }
    }

    /// Makes the names of another catalog unusable in this one.
    pub fn forbid_names_of<U>(&mut self, other: &Catalog<U>) {
        for (name, slot) in &other.by_name {
            let slot = Slot::OtherKind { noun: other.noun, defined_at: slot.defined_at() };
            self.by_name.insert(name.clone(), slot);
        }
    }

    /// Checks names, and each definition with `check`.
    pub fn add_all<R: Named>(
        &mut self,
        raw: &Listed<R>,
        reporter: &mut Reporter<'_>,
        mut check: impl FnMut(&R, &mut Reporter<'_>) -> Option<T>,
    ) {
        self.incomplete |= raw.nameless;
        for item in &raw.items {
            let name = item.name();
            check_name(self.noun, name, reporter);
            match (check(item, reporter), self.by_name.get(&name.value).copied()) {
                (_, Some(taken)) => self.report_taken(name, taken, reporter),
                (Some(checked), None) => {
                    self.items.push(checked);
                    let slot = Slot::Checked { index: self.items.len() - 1, defined_at: name.span };
                    self.by_name.insert(name.value.clone(), slot);
                }
                (None, None) => self.add_broken(name),
            }
        }
        for name in &raw.broken {
            check_name(self.noun, name, reporter);
            match self.by_name.get(&name.value).copied() {
                Some(taken) => self.report_taken(name, taken, reporter),
                None => self.add_broken(name),
            }
        }
    }

    fn add_broken(&mut self, name: &Text) {
        self.by_name.insert(name.value.clone(), Slot::Broken { defined_at: name.span });
    }

    fn report_taken(&self, name: &Text, taken: Slot, reporter: &mut Reporter<'_>) {
        let message = match taken {
            Slot::Checked { .. } | Slot::Broken { .. } => format!("{} `{}` is defined twice", self.noun, name.value),
            Slot::OtherKind { noun, .. } => {
                format!("`{}` is already the name of a {noun}, and references may name either", name.value)
            }
        };
        let place = reporter.place(taken.defined_at());
        reporter.error_with_help(name.span, message, format!("rename one of them; the other is at {place}"));
    }

    /// The definition of a name, if it can be looked at.
    pub fn get(&self, name: &str) -> Option<&T> {
        match self.by_name.get(name) {
            Some(Slot::Checked { index, .. }) => self.items.get(*index),
            _ => None,
        }
    }

    /// Whether the name is, or may be, defined.
    pub fn may_have(&self, name: &str) -> bool {
        self.incomplete || matches!(self.by_name.get(name), Some(Slot::Checked { .. } | Slot::Broken { .. }))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = |slot: &Slot| !matches!(slot, Slot::OtherKind { .. });
        self.by_name.iter().filter(move |(_, slot)| own(slot)).map(|(name, _)| name.as_str())
    }

    /// The definition that is referred to; a name that is not defined is reported.
    ///
    /// `None` if it is not defined or cannot be looked at.
    pub fn resolve(&self, name: &Text, reporter: &mut Reporter<'_>) -> Option<&T> {
        let found = self.get(&name.value);
        if found.is_none() && !self.may_have(&name.value) {
            report_unknown(self.noun, self.plural, name, self.names(), reporter);
        }
        found
    }

    pub fn into_items(self) -> Vec<T> {
        self.items
    }
}

/// Reports a name that is not defined, with the nearest that is.
pub fn report_unknown<'n>(
    noun: &str,
    plural: &str,
    name: &Text,
    known: impl Iterator<Item = &'n str>,
    reporter: &mut Reporter<'_>,
) {
    let message = format!("there is no {noun} `{}`", name.value);
    report_with_known(message, plural, name, known, reporter);
}

/// Reports a feature that its view does not have, with the nearest that it has.
pub fn report_unknown_feature(view: &str, feature: &Text, known: &[&str], reporter: &mut Reporter<'_>) {
    let message = format!("`{view}` has no feature `{}`", feature.value);
    report_with_known(message, &format!("features of `{view}`"), feature, known.iter().copied(), reporter);
}

fn report_with_known<'n>(
    message: String,
    plural: &str,
    name: &Text,
    known: impl Iterator<Item = &'n str>,
    reporter: &mut Reporter<'_>,
) {
    if reporter.is_full() {
        return reporter.error(name.span, message);
    }
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    reporter.error_with_help(name.span, message, help_with_names(&name.value, plural, &known));
}

/// Reports a name that may not be one. `noun` says of what.
pub fn check_name(noun: &str, name: &Text, reporter: &mut Reporter<'_>) -> bool {
    let valid = is_valid_name(&name.value);
    if !valid {
        let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
        let message = format!("`{}` cannot be the name of {article} {noun}", name.value);
        reporter.error_with_help(name.span, message, NAME_HELP);
    }
    valid
}

const NAME_HELP: &str = "a name is a letter or `_`, then letters, digits and `_`, at most 128; \
    not `__`, which separates view and feature in full feature names";
