//! Printing for people and for programs.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::error::CliError;
use crate::error::{ErrorKind, error_chain};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: OutputFormat,
}

impl Output {
    pub fn new(format: OutputFormat) -> Self {
        Output { format }
    }

    pub fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints a line for people; programs do not get it.
    pub fn say(self, text: impl std::fmt::Display) {
        if !self.is_json() {
            print_line(&text.to_string());
        }
    }

    /// Prints the one document for programs; people do not get it.
    pub fn document(self, document: &serde_json::Value) {
        if self.is_json() {
            print_line(&format!("{document:#}"));
        }
    }

    /// Prints what went wrong: on standard error, and as a document where one is asked for. Gives the exit status.
    pub fn fail(self, error: &CliError) -> u8 {
        let text = error_chain(error);
        match error {
            CliError::Definitions(_) => eprintln!("{text}"),
            _ => eprintln!("error: {text}"),
        }
        let diagnostics = match error {
            CliError::Definitions(errors) => json!(errors.iter().collect::<Vec<_>>()),
            _ => json!([]),
        };
        self.document(&error_document(error.kind(), &text, diagnostics));
        error.kind().exit_status()
    }
}

fn error_document(kind: ErrorKind, message: &str, diagnostics: Value) -> Value {
    json!({"error": {"kind": kind.name(), "message": message, "diagnostics": diagnostics}})
}

/// Prints why the arguments are not understood, or the help that they ask for.
///
/// The format is looked for in the arguments as they are, because nothing says what they mean.
pub fn refuse_arguments(error: &clap::Error, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if asks_for_json(arguments) {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        Output::new(OutputFormat::Json).document(&error_document(ErrorKind::Invalid, message, json!([])));
    }
    ExitCode::from(ErrorKind::Invalid.exit_status())
}

fn asks_for_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_pair = |pair: &[OsString]| pair[0] == "--output" && pair[1] == "json";
    arguments.windows(2).any(is_pair) || arguments.iter().any(|argument| argument == "--output=json")
}

/// Prints; whoever reads may have gone away, as `head` does.
fn print_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Columns of texts, aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(body).collect::<Vec<_>>().join("\n")
}
