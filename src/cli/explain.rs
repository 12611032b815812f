//! `asof explain`.

use std::sync::Arc;

use clap::Args;
use datafusion::physical_plan::displayable;
use serde_json::json;

use super::error::CliError;
use super::output::Output;
use super::project::Project;
use crate::compile::Compiler;
use crate::definition::nearest;
use crate::time::{EventTimestamp, TimeRange};

#[derive(Debug, Args)]
pub struct ExplainArguments {
    view: String,
    /// Event times from here on.
    #[arg(long)]
    start: Option<String>,
    /// Event times before this.
    #[arg(long)]
    end: Option<String>,
}

pub async fn run(project: &Project, arguments: &ExplainArguments, output: Output) -> Result<(), CliError> {
    let definitions = project.definitions()?;
    let Some(view) = definitions.feature_view(&arguments.view) else {
        return Err(unknown_view(&arguments.view, definitions.feature_views.iter().map(|view| view.name.as_str())));
    };
    let [start, end] = [&arguments.start, &arguments.end].map(|bound| bound.as_deref().map(EventTimestamp::parse));
    let range = TimeRange::new(start.transpose()?, end.transpose()?)?;
    let compiler = Compiler::new(Arc::new(definitions.clone()), project.folder.clone(), project.engine()?.session());
    let frame = compiler.view(view, range).await?.frame;
    let failed = |error| CliError::Engine(Box::new(error));
    let logical = frame.clone().into_optimized_plan().map_err(failed)?;
    let physical = frame.create_physical_plan().await.map_err(failed)?;
    let physical = displayable(physical.as_ref()).indent(false).to_string();
    output.say(format!("logical plan\n{}\n\nphysical plan\n{physical}", logical.display_indent()));
    output.document(&json!({
        "view": arguments.view,
        "logical_plan": logical.display_indent().to_string(),
        "physical_plan": physical,
    }));
    Ok(())
}

/// # Returns
/// The error for a view that is not there, with the nearest one that is.
pub fn unknown_view<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> CliError {
    let known: Vec<&str> = known.collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    CliError::Usage(format!("there is no feature view `{name}`; {hint}"))
}
