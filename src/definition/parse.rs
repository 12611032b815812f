//! The way in: files to definitions, and the JSON Schema of a file.

use super::model::Definitions;
use super::positions::Positions;
use super::raw::RawFile;
use super::validate::validate;
use crate::diagnostics::{Diagnostics, Reporter};
use crate::yaml::parse_documents;

/// The text of a definition file and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionFile {
    /// For messages; relative to the project.
    pub path: String,
    pub text: String,
}

/// Everything that is wrong in the definition files; never empty.
pub type DefinitionErrors = Diagnostics;

/// Parses and validates the definitions of a project, which may be split between files in any way.
///
/// # Errors
/// All that is wrong in all files. What follows from an error that is told already (a name that is defined in a file
/// that cannot be read) is not told again.
pub fn parse_definitions(files: &[DefinitionFile]) -> Result<Definitions, DefinitionErrors> {
    parse_located(files).map(|(definitions, _)| definitions)
}

/// As [`parse_definitions`], with the places of the definitions; a span's file is an index into `files`.
///
/// # Errors
/// Those of [`parse_definitions`].
pub fn parse_located(files: &[DefinitionFile]) -> Result<(Definitions, Positions), DefinitionErrors> {
    let mut reporter = Reporter::default();
    let mut raw = RawFile::default();
    for file in files {
        let index = reporter.add_file(&file.path, &file.text);
        match parse_documents(index, &mut reporter) {
            Some(documents) => documents.iter().for_each(|document| raw.add_document(document, &mut reporter)),
            None => raw.incomplete = true,
        }
    }
    let positions = Positions::of(&raw);
    let definitions = validate(raw, &mut reporter);
    reporter.finish()?;
    Ok((definitions, positions))
}

/// The JSON Schema of a definition file, for editors.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(RawFile);
    schema.insert("title".to_owned(), "Asof feature definitions".into());
    schema.to_value()
}
