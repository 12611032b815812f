//! `asof optimize`.

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::explain::unknown_view;
use super::output::Output;
use super::project::Project;
use crate::compile::view_join_keys;
use crate::definition::LOOKBACK_DEFAULT;
use crate::offline_store::ViewTable;

#[derive(Debug, Args)]
pub struct OptimizeArguments {
    /// Feature views whose tables are written anew; all, if none is named.
    views: Vec<String>,
}

pub async fn run(project: &Project, arguments: &OptimizeArguments, output: Output) -> Result<(), CliError> {
    let applied = project.applied().await?;
    let definitions = &applied.definitions;
    let names = || definitions.feature_views.iter().map(|view| view.name.as_str());
    if let Some(name) = arguments.views.iter().find(|name| definitions.feature_view(name).is_none()) {
        return Err(unknown_view(name, names()));
    }
    let (offline_store, engine) = (project.offline_store()?, project.engine()?);
    let mut documents = Vec::new();
    for view in &definitions.feature_views {
        if !arguments.views.is_empty() && !arguments.views.iter().any(|name| name == view.name.as_str()) {
            continue;
        }
        let keys = view_join_keys(definitions, view);
        let lookback = view.lookback.unwrap_or(LOOKBACK_DEFAULT);
        // The next run replaces what comes from here on.
        let tail_start =
            |table: &ViewTable| table.state().materialized_until.map(|until| until.saturating_sub(lookback));
        let optimized = offline_store.optimize(&view.name, &keys, tail_start, &engine.session()).await?;
        offline_store.tiles().optimize(&view.name, &keys, |_| None, &engine.session()).await?;
        let Some(optimized) = optimized else {
            output.say(format!("{}: nothing to do", view.name));
            continue;
        };
        output.say(format!(
            "{}: {} rows from {} files in {}, version {}",
            view.name, optimized.rows, optimized.files_before, optimized.files_after, optimized.table_version
        ));
        documents.push(json!({
            "view": view.name.as_str(),
            "rows": optimized.rows,
            "files_before": optimized.files_before,
            "files_after": optimized.files_after,
            "table_version": optimized.table_version,
        }));
    }
    output.document(&json!({ "views": documents }));
    Ok(())
}
