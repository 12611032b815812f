//! `asof init`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::error::CliError;
use super::output::Output;

#[derive(Debug, Args)]
pub struct InitArguments {
    /// The new project's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    #[arg(long, value_enum, default_value_t = Template::Empty)]
    template: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Settings, and a definition file to fill in.
    Empty,
    /// The flights that left New York in 2013, with their data.
    Flights,
}

/// A file's path in the project, and its content.
type TemplateFile = (&'static str, &'static [u8]);

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path)))),*]
    };
}

/// The repository's own example: its files keep their places.
const FLIGHTS: &[TemplateFile] = embedded![
    "asof.yaml",
    "feature_defs/flights/entities.yaml",
    "feature_defs/flights/sources.yaml",
    "feature_defs/flights/feature_views.yaml",
    "feature_defs/flights/feature_services.yaml",
    "examples/flights/departures.sql",
    "examples/flights/train.py",
    "examples/flights/train.ipynb",
    "data/nycflights13/README.md",
    "data/nycflights13/airports.parquet",
    "data/nycflights13/arrivals.parquet",
    "data/nycflights13/flights.parquet",
    "data/nycflights13/planes.parquet",
    "data/nycflights13/weather.parquet",
];

const EMPTY_DEFINITIONS: &str = "\
# Entities, sources, feature views and feature services; see `asof schema` for every key.
#
# entities:
#   - {name: customer, join_keys: [{name: customer_id, type: int64}]}
# sources:
#   - name: orders
#     batch: {format: parquet, path: data/orders.parquet}
#     event_timestamp: ordered_at
# feature_views:
#   - name: last_order
#     entities: [customer]
#     source: orders
#     ttl: 30d
#     features: [{name: amount, type: float64}]
# feature_services:
#   - name: churn_v1
#     features: [last_order]
";

pub fn run(arguments: &InitArguments, output: Output) -> Result<(), CliError> {
    let folder = &arguments.folder;
    let files = match arguments.template {
        Template::Flights => FLIGHTS.iter().map(|(path, content)| (*path, content.to_vec())).collect(),
        Template::Empty => vec![
            ("asof.yaml", format!("project: {}\n", project_name(folder)).into_bytes()),
            ("feature_defs/definitions.yaml", EMPTY_DEFINITIONS.as_bytes().to_vec()),
        ],
    };
    if let Some((path, _)) = files.iter().find(|(path, _)| folder.join(path).exists()) {
        let shown = folder.join(path).display().to_string();
        return Err(CliError::Usage(format!("`{shown}` is already there; choose another folder")));
    }
    for (path, content) in &files {
        write(&folder.join(path), content)?;
    }
    let paths: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
    output.say(format!("made {}\n\nnext: asof --project {} apply", paths.join(", "), folder.display()));
    output.document(&json!({"folder": folder, "files": paths}));
    Ok(())
}

/// The folder's name as a project's: what cannot stand in a name becomes `_`.
fn project_name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = name.trim_matches('_').replace("__", "_");
    match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => name,
        _ => format!("project_{name}"),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::Io { action: format!("write `{}`", path.display()), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, content).map_err(failed)
}
