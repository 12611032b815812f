//! Rules for named columns: join keys, features, values of the request.

use std::collections::{HashMap, HashSet};

use super::super::model::{CREATED_TIMESTAMP, EVENT_TIMESTAMP, Field};
use super::super::raw::{RawField, Text};
use super::catalog::check_name;
use crate::diagnostics::{Reporter, Span};

/// Whether a name is one of the columns that every table has for itself.
pub fn is_reserved(name: &str) -> bool {
    name == EVENT_TIMESTAMP || name == CREATED_TIMESTAMP
}

/// Reports names that are invalid, repeated, or those of the columns that every table has.
///
/// `noun` says what the columns are: "feature", "join key".
pub fn check_columns<'a>(noun: &str, names: impl Iterator<Item = &'a Text>, reporter: &mut Reporter<'_>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for name in names {
        if !check_name(noun, name, reporter) {
            continue;
        }
        if is_reserved(&name.value) {
            let message = format!("{noun} `{}` has the name of a column that every table has", name.value);
            reporter.error_with_help(name.span, message, RESERVED_HELP);
        }
        check_repeated(noun, name, &mut seen, reporter);
    }
}

const RESERVED_HELP: &str = "choose another name; `rename` in the source gives its column another name, too";

/// Reports a name that was seen before, with the place where.
pub fn check_repeated<'a>(noun: &str, name: &'a Text, seen: &mut HashMap<&'a str, Span>, reporter: &mut Reporter<'_>) {
    match seen.get(name.as_str()) {
        Some(first) => {
            let message = format!("{noun} `{}` stands here twice", name.value);
            let help = format!("remove one of them; the first is at {}", reporter.place(*first));
            reporter.error_with_help(name.span, message, help);
        }
        None => {
            seen.insert(name.as_str(), name.span);
        }
    }
}

/// Reports features named like a join key, whose column they would hide in answers.
pub fn check_against_join_keys<'a>(
    names: impl Iterator<Item = &'a Text>,
    join_keys: impl Iterator<Item = &'a str>,
    reporter: &mut Reporter<'_>,
) {
    let join_keys: HashSet<&str> = join_keys.collect();
    for name in names.filter(|name| join_keys.contains(name.as_str())) {
        let message = format!("feature `{}` has the name of a join key", name.value);
        let help = "answers carry the join keys already: remove the feature, or give it another name";
        reporter.error_with_help(name.span, message, help);
    }
}

/// The columns as the model has them.
pub fn fields(raw: &[RawField]) -> Vec<Field> {
    let field = |raw: &RawField| Field {
        name: raw.name.value.clone(),
        value_type: raw.r#type.value.clone(),
        description: raw.description.clone(),
    };
    raw.iter().map(field).collect()
}

pub fn names(raw: &[RawField]) -> impl Iterator<Item = &Text> {
    raw.iter().map(|raw| &raw.name)
}
