//! `${NAME}` and `${NAME:-default}` in the values of a tree.

use crate::diagnostics::{Reporter, Span};
use crate::yaml::{Kind, Node};

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces variables in every value; keys stay as they are. What a variable holds is text, never YAML.
pub fn interpolate(node: &mut Node, environment: Environment<'_>, reporter: &mut Reporter<'_>) {
    match &mut node.kind {
        Kind::Null => {}
        Kind::Scalar(text) => {
            if text.contains("${") {
                *text = replaced(text, node.span, environment, reporter);
            }
        }
        Kind::Sequence(items) => items.iter_mut().for_each(|item| interpolate(item, environment, reporter)),
        Kind::Mapping(entries) => {
            entries.iter_mut().for_each(|entry| interpolate(&mut entry.value, environment, reporter));
        }
    }
}

fn replaced(text: &str, span: Span, environment: Environment<'_>, reporter: &mut Reporter<'_>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &from[2..];
            continue;
        }
        result.push_str(before);
        let Some(end) = from.find('}') else {
            let help = "write `${NAME}` or `${NAME:-default}`; `$${` stands for the characters `${`";
            reporter.error_with_help(place(from, span, reporter), "`${` is not closed by `}`", help);
            return result;
        };
        let (reference, after) = from.split_at(end + 1);
        result.push_str(&value(reference, span, environment, reporter));
        rest = after;
    }
    result.push_str(rest);
    result
}

/// The value of one `${…}`; empty, having reported it, if there is none.
fn value(reference: &str, span: Span, environment: Environment<'_>, reporter: &mut Reporter<'_>) -> String {
    let inside = &reference[2..reference.len() - 1];
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let message = format!("`{name}` is not the name of an environment variable");
        reporter.error_with_help(place(reference, span, reporter), message, "write `${NAME}` or `${NAME:-default}`");
        return String::new();
    }
    match (environment(name), default) {
        (Some(value), None) => value,
        (Some(value), Some(_)) if !value.is_empty() => value,
        (_, Some(default)) => default.to_owned(),
        (None, None) => {
            let message = format!("environment variable `{name}` is not set");
            let help = format!("set it, or give a default: `${{{name}:-default}}`");
            reporter.error_with_help(place(reference, span, reporter), message, help);
            String::new()
        }
    }
}

/// Where the reference stands, if the value is written in one line as it is; else the value.
fn place(reference: &str, span: Span, reporter: &Reporter<'_>) -> Span {
    let source = reporter.text(span.file).get(span.offset..span.offset + span.length).unwrap_or_default();
    match source.find(reference) {
        Some(start) if !source[..start].contains('\n') => Span {
            offset: span.offset + start,
            length: reference.len(),
            column: span.column + source[..start].chars().count(),
            ..span
        },
        _ => span,
    }
}
