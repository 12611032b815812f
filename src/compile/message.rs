//! What DataFusion says about a query or an expression, in the words of definition files.

use std::fmt;

use arrow::datatypes::DataType;
use datafusion::common::diagnostic::Diagnostic;
use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::arrow_types::type_name;
use crate::diagnostics::help_with_names;

/// What is wrong with a query or an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlProblem {
    pub text: String,
    /// Line and column of the SQL, both from 1, where it is known what is to be pointed at.
    pub at: Option<(usize, usize)>,
}

impl fmt::Display for SqlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl SqlProblem {
    /// `tables` are those that the SQL may read from, and `noun` says what they are: "sources".
    pub(super) fn new(error: &DataFusionError, noun: &str, tables: &[&str]) -> Self {
        let text = plain_message(error, noun, tables);
        match text.rsplit_once(" at Line: ") {
            Some((before, place)) => SqlProblem { text: before.to_owned(), at: parsed_place(place) },
            None => SqlProblem { text, at: error.diagnostic().and_then(place_of) },
        }
    }

    /// What is wrong with a value that an expression met.
    pub(super) fn of_value(error: &DataFusionError) -> Self {
        SqlProblem { text: plain_message(error.find_root(), "tables", &[]), at: None }
    }
}

/// The place that the parser's messages end with: `3, Column: 14`.
fn parsed_place(place: &str) -> Option<(usize, usize)> {
    let (line, column) = place.split_once(", Column: ")?;
    known_place(line.parse().ok()?, column.parse().ok()?)
}

fn place_of(diagnostic: &Diagnostic) -> Option<(usize, usize)> {
    let start = diagnostic.span?.start;
    known_place(start.line, start.column)
}

/// Zeros stand for no place.
fn known_place(line: u64, column: u64) -> Option<(usize, usize)> {
    let is_known = line > 0 && column > 0;
    is_known.then(|| Some((usize::try_from(line).ok()?, usize::try_from(column).ok()?)))?
}

fn plain_message(error: &DataFusionError, noun: &str, tables: &[&str]) -> String {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            plain_message(inner, noun, tables)
        }
        DataFusionError::Shared(inner) => plain_message(inner, noun, tables),
        DataFusionError::Collection(errors) => {
            let messages: Vec<String> = errors.iter().map(|error| plain_message(error, noun, tables)).collect();
            messages.join("; ")
        }
        DataFusionError::SchemaError(error, _) => schema_message(error),
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => in_our_words(text),
            ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
        },
        DataFusionError::Plan(text) => plan_message(text, noun, tables),
        DataFusionError::NotImplemented(text)
        | DataFusionError::Internal(text)
        | DataFusionError::Execution(text)
        | DataFusionError::Configuration(text) => in_our_words(text),
        DataFusionError::ArrowError(error, _) => in_our_words(&error.to_string()),
        other => in_our_words(&other.to_string()),
    }
}

fn plan_message(text: &str, noun: &str, tables: &[&str]) -> String {
    if let Some(table) = missing_table(text) {
        return format!("there is no `{table}` among its {noun}; {}", help_with_names(table, noun, tables));
    }
    // The signatures that would do are many, and in DataFusion's own words.
    let without_candidates = text.split("Candidate functions:").next().unwrap_or(text);
    match refused_arguments(without_candidates) {
        Some((function, types)) => format!("`{function}` does not take {}", in_our_words(types)),
        None => in_our_words(without_candidates),
    }
}

/// The function and the types of a call that no signature fits.
fn refused_arguments(text: &str) -> Option<(&str, &str)> {
    let (_, call) = text.split_once("to satisfy a call to '")?;
    let (function, rest) = call.split_once("' function: coercion from ")?;
    let (types, _) = rest.split_once(" to the signature ")?;
    Some((function, types))
}

fn schema_message(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = field.name();
            let known: Vec<&str> = valid_fields.iter().map(Column::name).collect();
            let help = match known.iter().find(|other| other.eq_ignore_ascii_case(name)) {
                Some(other) => format!("write `\"{other}\"`, because a name without quotes is read in lower case"),
                None => help_with_names(name, "columns", &known),
            };
            format!("there is no column `{name}`; {help}")
        }
        SchemaError::AmbiguousReference { field } => {
            let name = field.name();
            format!("column `{name}` may be that of several tables; write `table.{name}`")
        }
        other => in_our_words(&other.to_string()),
    }
}

/// The table that DataFusion did not find.
fn missing_table(text: &str) -> Option<&str> {
    let name = text.strip_prefix("table '")?.strip_suffix("' not found")?;
    name.rsplit('.').next()
}

/// The text on one line, with types as definitions call them.
fn in_our_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_uppercase()) {
        let is_inside_a_word = rest[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let (before, from_here) = rest.split_at(start);
        words.push_str(before);
        let (shown, length) = match leading_type(from_here).filter(|_| !is_inside_a_word) {
            Some((data_type, length)) => (type_name(&data_type), length),
            None => (from_here[..1].to_owned(), 1),
        };
        words.push_str(&shown);
        rest = &from_here[length..];
    }
    words.push_str(rest);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The Arrow type that a text begins with, and its length in bytes.
fn leading_type(text: &str) -> Option<(DataType, usize)> {
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let with_parameters = text[word..].starts_with('(').then(|| closing_parenthesis(text)).flatten();
    let lengths = with_parameters.into_iter().chain([word]);
    lengths.filter(|length| text[..*length] != *"Null").find_map(|length| Some((text[..length].parse().ok()?, length)))
}

/// The length of the text up to the parenthesis that closes its first one.
fn closing_parenthesis(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => return None,
        }
        (depth == 0).then_some(at + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: DataFusionError, expected: &str) {
        assert_eq!(SqlProblem::new(&error, "sources", &["weather", "arrivals"]).text, expected);
    }

    #[test]
    fn a_parser_says_where() {
        let error = ParserError::ParserError("Expected: an end, found: ORDER at Line: 10, Column: 15".to_owned());
        let problem = SqlProblem::new(&DataFusionError::SQL(Box::new(error), None), "sources", &[]);
        assert_eq!((problem.text.as_str(), problem.at), ("Expected: an end, found: ORDER", Some((10, 15))));
    }

    #[test]
    fn types_have_the_names_of_definitions() {
        for (text, expected) in [
            ("Cannot coerce Utf8View + Int64", "Cannot coerce string + int64"),
            ("no 'abs(LargeUtf8)'.\n\tCandidate functions:\n\tabs(Numeric(1))", "no 'abs(string)'."),
            (
                "Failed to coerce arguments to satisfy a call to 'f' function: coercion from Utf8, Null to the signature Any(1) failed",
                "`f` does not take string, Null",
            ),
            ("Timestamp(µs, \"UTC\") is not Boolean", "timestamp is not bool"),
            ("List(Int64), MyInt64 and Int64s", "list<int64>, MyInt64 and Int64s"),
            ("Unclosed (Int32", "Unclosed (int32"),
            ("Timestamp(", "Timestamp("),
        ] {
            check(DataFusionError::Plan(text.to_owned()), expected);
        }
    }

    #[test]
    fn a_missing_table_is_answered_with_those_there_are() {
        let error = |name: &str| DataFusionError::Plan(format!("table 'datafusion.public.{name}' not found"));
        check(error("wether"), "there is no `wether` among its sources; did you mean `weather`?");
        check(error("nope"), "there is no `nope` among its sources; the sources are `weather`, `arrivals`");
    }
}
