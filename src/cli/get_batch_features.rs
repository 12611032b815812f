//! `asof get-batch-features`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::files::{check_target, write_rows};
use super::output::Output;
use super::project::Project;
use super::spine::read_spine;
use crate::definition::{FeatureViewName, SourceName};
use crate::retrieval::{AskedTimes, BatchRequest, FeatureSelection, TableVersion};
use crate::settings::resolve;
use crate::time::{EventTimestamp, TimeRange};

#[derive(Debug, Args)]
pub struct GetBatchFeaturesArguments {
    #[command(flatten)]
    pub selection: SelectionArguments,
    /// The spine: a .parquet, .csv or .ndjson file, a Delta table, or a .sql file with a query over the sources.
    #[arg(long, value_name = "SPINE", required_unless_present_any = ["start", "end", "as_of"], conflicts_with_all = ["start", "end", "as_of"])]
    entities: Option<String>,
    /// Where to write: a .parquet, .csv or .ndjson file, or delta:PATH.
    #[arg(long, value_name = "FILE")]
    out: String,
    /// The spine's column of times; without it `event_timestamp`, else its only one.
    #[arg(long, value_name = "COLUMN", requires = "entities")]
    timestamp_column: Option<String>,
    /// Look only at rows that had been written down at the asked time.
    #[arg(long)]
    as_known: bool,
    /// Name columns view__feature.
    #[arg(long)]
    full_feature_names: bool,
    /// Compute from the sources, without materialized tables.
    #[arg(long)]
    from_source: bool,
    /// Add a column feature__status after each feature.
    #[arg(long)]
    with_statuses: bool,
    /// Instead of a spine: every (key, event timestamp) of the views from here on.
    #[arg(long, requires = "end", conflicts_with = "as_of")]
    start: Option<String>,
    /// Before this.
    #[arg(long, requires = "start", conflicts_with = "as_of")]
    end: Option<String>,
    /// Instead of a spine: every known key at this time.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Read tables at these versions: VIEW=VERSION, or the record that an earlier answer left beside its file
    /// (FILE.asof.json), which names those of all views and of the definitions.
    #[arg(long, value_delimiter = ',', value_name = "VERSIONS", conflicts_with = "from_source")]
    at_version: Vec<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SelectionArguments {
    /// A feature service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Features as view:feature, or view for all of its features.
    #[arg(long, value_delimiter = ',', value_name = "REFERENCES")]
    pub features: Vec<String>,
}

impl SelectionArguments {
    pub fn selection(&self) -> FeatureSelection {
        match &self.service {
            Some(service) => FeatureSelection::Service(service.clone()),
            None => FeatureSelection::References(self.features.clone()),
        }
    }
}

pub async fn run(project: &Project, arguments: &GetBatchFeaturesArguments, output: Output) -> Result<(), CliError> {
    let started = Instant::now();
    check_target(&arguments.out)?;
    check_outside_store(project, &arguments.out)?;
    let asked = AskedVersions::read(&arguments.at_version)?;
    let catalog = match asked.registry {
        Some(version) => project.catalog_at(version).await?,
        None => project.catalog().await?,
    };
    let selection = arguments.selection.selection();
    let sources: Vec<SourceName> = catalog.resolve(&selection, true)?.sources().cloned().collect();
    project.settle_streams(&catalog.registry, &sources).await?;
    let request = BatchRequest {
        times: asked_times(project, &catalog, &selection, arguments).await?,
        selection,
        full_feature_names: arguments.full_feature_names,
        with_statuses: arguments.with_statuses,
        as_known: arguments.as_known,
        from_source: arguments.from_source,
        table_versions: asked.tables,
    };
    let answer = project.batch_retrieval()?.get(&catalog, &request).await?;
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    let tables: serde_json::Map<_, _> =
        answer.tables.iter().map(|table| (table.view.as_str().to_owned(), json!(table.version))).collect();
    let columns: Vec<String> = answer.schema.fields().iter().map(|field| field.name().clone()).collect();
    let (registry_version, warnings) = (answer.registry_version, answer.warnings.clone());
    let rows = write_rows(answer, &arguments.out).await?;
    let seconds = started.elapsed().as_secs_f64();
    output.say(format!("{rows} rows x {} columns written to {} in {seconds:.2} s", columns.len(), arguments.out));
    let document = json!({
        "file": arguments.out,
        "rows": rows,
        "columns": columns,
        "registry_version": registry_version,
        "table_versions": tables,
        "warnings": warnings,
        "seconds": seconds,
    });
    write_record(arguments, &document)?;
    output.document(&document);
    Ok(())
}

/// # Errors
/// A Delta table among those of the feature views: writing there would destroy what was materialized.
fn check_outside_store(project: &Project, target: &str) -> Result<(), CliError> {
    let Some(table) = target.strip_prefix("delta:") else { return Ok(()) };
    let store = resolve(&project.folder, &project.settings.offline_store);
    let is_inside = match table.contains("://") {
        true => table.starts_with(&store),
        false => whole_path(table).starts_with(whole_path(&store)),
    };
    if is_inside {
        return Err(CliError::Usage(format!(
            "`{table}` lies in the offline store `{store}`; write the answer elsewhere"
        )));
    }
    Ok(())
}

/// A path without links and relative parts, as far as it exists.
fn whole_path(path: &str) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let existing = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    match existing {
        Some((folder, whole)) => whole.join(absolute.strip_prefix(folder).unwrap_or(Path::new(""))),
        None => absolute,
    }
}

async fn asked_times(
    project: &Project,
    catalog: &crate::retrieval::Catalog,
    selection: &FeatureSelection,
    arguments: &GetBatchFeaturesArguments,
) -> Result<AskedTimes, CliError> {
    let parse = |text: &Option<String>| text.as_deref().map(EventTimestamp::parse).transpose();
    if let Some(instant) = parse(&arguments.as_of)? {
        return Ok(AskedTimes::AsOf(instant));
    }
    let Some(spine) = &arguments.entities else {
        return Ok(AskedTimes::Range(TimeRange::new(parse(&arguments.start)?, parse(&arguments.end)?)?));
    };
    let resolved = catalog.resolve(selection, arguments.full_feature_names)?;
    let timestamp_column = arguments.timestamp_column.clone();
    let rows = read_spine(project, catalog, &resolved, spine, timestamp_column.as_deref()).await?;
    let schema = rows.schema();
    Ok(AskedTimes::Spine { schema, rows: vec![rows], timestamp_column })
}

/// Versions that a caller asks for.
#[derive(Default)]
struct AskedVersions {
    tables: Vec<TableVersion>,
    registry: Option<u64>,
}

impl AskedVersions {
    /// `VIEW=VERSION` each, or a file that [`write_record`] wrote.
    fn read(arguments: &[String]) -> Result<Self, CliError> {
        let mut asked = AskedVersions::default();
        for argument in arguments {
            match argument.split_once('=') {
                Some((view, version)) => {
                    let wrong = |_| CliError::Usage(format!("`{version}` in `--at-version {argument}` is no version"));
                    let version = version.parse().map_err(wrong)?;
                    asked.tables.push(TableVersion { view: FeatureViewName::from(view), version });
                }
                None => asked.read_record(argument)?,
            }
        }
        Ok(asked)
    }

    fn read_record(&mut self, file: &str) -> Result<(), CliError> {
        let wrong = |problem: String| {
            CliError::Usage(format!(
                "`--at-version {file}` is neither VIEW=VERSION nor the record of an answer: {problem}"
            ))
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let record: Record = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let tables = record.table_versions.into_iter();
        self.tables.extend(tables.map(|(view, version)| TableVersion { view: FeatureViewName::new(&view), version }));
        self.registry = Some(record.registry_version);
        Ok(())
    }
}

/// What of a record makes its answer anew.
#[derive(serde::Deserialize)]
struct Record {
    registry_version: u64,
    table_versions: BTreeMap<String, u64>,
}

/// Writes beside an answer's file what it was made from: `FILE.asof.json`.
fn write_record(arguments: &GetBatchFeaturesArguments, document: &serde_json::Value) -> Result<(), CliError> {
    let target = arguments.out.strip_prefix("delta:").unwrap_or(&arguments.out).trim_end_matches('/');
    let file = format!("{target}.asof.json");
    let record = json!({
        "asof": env!("CARGO_PKG_VERSION"),
        "service": arguments.selection.service,
        "features": arguments.selection.features,
        "entities": arguments.entities,
        "timestamp_column": arguments.timestamp_column,
        "start": arguments.start,
        "end": arguments.end,
        "as_of": arguments.as_of,
        "as_known": arguments.as_known,
        "full_feature_names": arguments.full_feature_names,
        "from_source": arguments.from_source,
        "with_statuses": arguments.with_statuses,
        "registry_version": document["registry_version"],
        "table_versions": document["table_versions"],
        "rows": document["rows"],
        "columns": document["columns"],
    });
    std::fs::write(&file, format!("{record:#}\n"))
        .map_err(|source| CliError::Io { action: format!("write `{file}`"), source })
}
