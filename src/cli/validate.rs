//! `asof validate` and `asof schema`.

use serde_json::json;

use super::error::CliError;
use super::output::Output;
use super::project::Project;
use crate::definition::json_schema;

pub fn schema() -> Result<(), CliError> {
    let schema = json_schema();
    println!("{schema:#}");
    Ok(())
}

pub async fn run(project: &Project, output: Output) -> Result<(), CliError> {
    let definitions = project.checked_definitions().await?;
    let counts = [
        ("entities", definitions.entities.len()),
        ("sources", definitions.sources.len()),
        ("feature_views", definitions.feature_views.len()),
        ("on_demand_feature_views", definitions.on_demand_feature_views.len()),
        ("feature_services", definitions.feature_services.len()),
    ];
    let said: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
    output.say(format!("valid: {}", said.join(", ")));
    let counts: serde_json::Map<_, _> = counts.iter().map(|(kind, count)| ((*kind).to_owned(), json!(count))).collect();
    output.document(&json!({"valid": true, "definitions": counts}));
    Ok(())
}
