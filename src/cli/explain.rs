//! `asof explain`.

use std::sync::Arc;

use clap::Args;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{displayable, execute_stream};
use datafusion::prelude::DataFrame;
use futures::TryStreamExt;
use serde_json::json;

use super::error::CliError;
use super::output::Output;
use super::project::Project;
use super::spine::read_spine;
use super::streams::streamed_sources;
use crate::compile::Compiler;
use crate::definition::nearest;
use crate::offline_store::event_providers;
use crate::retrieval::{AskedTimes, BatchRequest, FeatureSelection};
use crate::time::{EventTimestamp, TimeRange};

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The view whose job is planned.
    #[arg(required_unless_present = "entities", conflicts_with = "entities")]
    view: Option<String>,
    /// Event times from here on.
    #[arg(long, requires = "view")]
    start: Option<String>,
    /// Event times before this.
    #[arg(long, requires = "view")]
    end: Option<String>,
    #[command(flatten)]
    request: RequestArguments,
}

/// Instead of a view: a batch request.
#[derive(Debug, Args)]
struct RequestArguments {
    /// A feature service.
    #[arg(long, value_name = "NAME", requires = "entities", conflicts_with = "features")]
    service: Option<String>,
    /// Features as view:feature, or view for all of its features.
    #[arg(long, value_delimiter = ',', value_name = "REFERENCES", requires = "entities")]
    features: Vec<String>,
    /// The spine, as for `get-batch-features`.
    #[arg(long, value_name = "SPINE")]
    entities: Option<String>,
    /// Compute from the sources, without materialized tables.
    #[arg(long, requires = "entities")]
    from_source: bool,
    /// Run the request, and show what each step of the plan did.
    #[arg(long, requires = "entities")]
    analyze: bool,
}

pub async fn run(project: &Project, arguments: &ExplainArguments, output: Output) -> Result<(), CliError> {
    let failed = |error| CliError::Engine(Box::new(error));
    let frame = match (&arguments.view, &arguments.request.entities) {
        (Some(view), _) => view_plan(project, view, arguments).await?,
        (None, Some(spine)) => request_plan(project, &arguments.request, spine).await?,
        (None, None) => {
            return Err(CliError::Usage("name a view, or a request's features and `--entities`".to_owned()));
        }
    };
    let context = frame.task_ctx();
    let logical = frame.clone().into_optimized_plan().map_err(failed)?;
    let physical = frame.create_physical_plan().await.map_err(failed)?;
    let shown = if arguments.request.analyze {
        let mut rows = execute_stream(Arc::clone(&physical), Arc::new(context)).map_err(failed)?;
        while rows.try_next().await.map_err(failed)?.is_some() {}
        DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(false).to_string()
    } else {
        displayable(physical.as_ref()).indent(false).to_string()
    };
    output.say(format!("logical plan\n{}\n\nphysical plan\n{shown}", logical.display_indent()));
    output.document(&json!({
        "view": arguments.view,
        "logical_plan": logical.display_indent().to_string(),
        "physical_plan": shown,
    }));
    Ok(())
}

async fn view_plan(project: &Project, name: &str, arguments: &ExplainArguments) -> Result<DataFrame, CliError> {
    let mut definitions = project.definitions()?;
    let context = project.engine()?.session();
    project.resolve_streams(&mut definitions, &context).await;
    let Some(view) = definitions.feature_view(name) else {
        return Err(unknown_view(name, definitions.feature_views.iter().map(|view| view.name.as_str())));
    };
    let [start, end] = [&arguments.start, &arguments.end].map(|bound| bound.as_deref().map(EventTimestamp::parse));
    let range = TimeRange::new(start.transpose()?, end.transpose()?)?;
    let tables = project.offline_store()?.event_tables(streamed_sources(&definitions)).await?;
    let events = event_providers(&tables, &context).await?;
    let compiler = Compiler::new(Arc::new(definitions.clone()), project.folder.clone(), context).with_events(events);
    let view = compiler.resolve(view).await.map_err(|mut errors| errors.swap_remove(0))?;
    Ok(compiler.view(&view, range).await?.frame)
}

async fn request_plan(project: &Project, arguments: &RequestArguments, spine: &str) -> Result<DataFrame, CliError> {
    let catalog = project.catalog().await?;
    project.settle_streams(&catalog.registry, &[]).await?;
    let selection = match &arguments.service {
        Some(service) => FeatureSelection::Service(service.clone()),
        None => FeatureSelection::References(arguments.features.clone()),
    };
    let resolved = catalog.resolve(&selection, true)?;
    let rows = read_spine(project, &catalog, &resolved, spine, None).await?;
    let request = BatchRequest {
        selection,
        full_feature_names: true,
        with_statuses: false,
        as_known: false,
        from_source: arguments.from_source,
        table_versions: Vec::new(),
        times: AskedTimes::Spine { schema: rows.schema(), rows: vec![rows], timestamp_column: None },
    };
    Ok(project.batch_retrieval()?.plan(&catalog, &request).await?.frame)
}

/// # Returns
/// The error for a view that is not there, with the nearest one that is.
pub fn unknown_view<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> CliError {
    let known: Vec<&str> = known.collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    CliError::NotFound(format!("there is no feature view `{name}`; {hint}"))
}
