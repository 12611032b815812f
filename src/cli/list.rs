//! `asof list` and `asof describe`.

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::output::{Output, table};
use super::project::Project;
use crate::definition::{KINDS, ListedDefinition, listed, nearest};
use crate::diagnostics::help_with_names;

#[derive(Debug, Args)]
pub struct ListArguments {
    /// entities, sources, feature_views, on_demand_feature_views, feature_services, prediction_routes, or versions.
    kind: Option<String>,
}

#[derive(Debug, Args)]
pub struct DescribeArguments {
    /// entity, source, feature_view, on_demand_feature_view, feature_service or prediction_route.
    kind: String,
    name: String,
}

pub async fn run(project: &Project, arguments: &ListArguments, output: Output) -> Result<(), CliError> {
    if arguments.kind.as_deref() == Some("versions") {
        return versions(project, output).await;
    }
    let kind = arguments.kind.as_deref().map(plural).transpose()?;
    let applied = project.applied().await?;
    let chosen: Vec<ListedDefinition> = listed(&applied.definitions)
        .into_iter()
        .filter(|definition| kind.is_none_or(|kind| kind == definition.kind))
        .collect();
    let rows: Vec<Vec<String>> = chosen
        .iter()
        .map(|d| vec![d.kind.to_owned(), d.name.clone(), d.description.clone().unwrap_or_default()])
        .collect();
    output.say(table(&["kind", "name", "description"], &rows));
    let documents: Vec<_> =
        chosen.iter().map(|d| json!({"kind": d.kind, "name": d.name, "description": d.description})).collect();
    output.document(&json!({"registry_version": applied.version, "definitions": documents}));
    Ok(())
}

async fn versions(project: &Project, output: Output) -> Result<(), CliError> {
    let history = project.registry()?.history().await?;
    let rows: Vec<Vec<String>> = history
        .iter()
        .map(|version| vec![version.version.to_string(), version.applied_at.to_string(), version.summary.to_string()])
        .collect();
    output.say(table(&["version", "applied at", "changes"], &rows));
    output.document(&json!({"versions": history}));
    Ok(())
}

pub async fn describe(project: &Project, arguments: &DescribeArguments, output: Output) -> Result<(), CliError> {
    let kind = plural(&arguments.kind)?;
    let applied = project.applied().await?;
    let all: Vec<ListedDefinition> =
        listed(&applied.definitions).into_iter().filter(|definition| definition.kind == kind).collect();
    let Some(definition) = all.iter().find(|definition| definition.name == arguments.name) else {
        let hint = match nearest(&arguments.name, all.iter().map(|definition| definition.name.as_str())) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("`asof list {kind}` shows what there is"),
        };
        return Err(CliError::NotFound(format!("there is no `{}` among the {kind}; {hint}", arguments.name)));
    };
    output.say(format!("{:#}", definition.document));
    output.document(&definition.document);
    Ok(())
}

/// The kind that a singular or plural word means.
fn plural(word: &str) -> Result<&'static str, CliError> {
    let word = word.replace('-', "_");
    let is_meant = |kind: &&&str| {
        **kind == word || kind.strip_suffix('s') == Some(word.as_str()) || (**kind == "entities" && word == "entity")
    };
    KINDS.iter().find(is_meant).copied().ok_or_else(|| {
        CliError::Usage(format!("there is no kind `{word}`; {}", help_with_names(&word, "kinds", &KINDS)))
    })
}
