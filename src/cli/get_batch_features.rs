//! `asof get-batch-features`.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::files::{check_target, write_rows};
use super::output::Output;
use super::project::Project;
use super::spine::read_spine;
use crate::retrieval::{AskedTimes, BatchRequest, FeatureSelection};
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
    let catalog = project.catalog().await?;
    let selection = arguments.selection.selection();
    let request = BatchRequest {
        times: asked_times(project, &catalog, &selection, arguments).await?,
        selection,
        full_feature_names: arguments.full_feature_names,
        with_statuses: arguments.with_statuses,
        as_known: arguments.as_known,
        from_source: arguments.from_source,
    };
    let answer = project.batch_retrieval()?.get(&catalog, &request).await?;
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    write_rows(&answer.rows, &arguments.out).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (rows, columns) = (answer.rows.num_rows(), answer.rows.num_columns());
    output.say(format!("{rows} rows x {columns} columns written to {} in {seconds:.2} s", arguments.out));
    let tables: serde_json::Map<_, _> =
        answer.tables.iter().map(|table| (table.view.as_str().to_owned(), json!(table.version))).collect();
    output.document(&json!({
        "file": arguments.out,
        "rows": rows,
        "columns": answer.rows.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>(),
        "registry_version": answer.registry_version,
        "table_versions": tables,
        "warnings": answer.warnings,
        "seconds": seconds,
    }));
    Ok(())
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
