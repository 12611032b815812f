//! `asof tokens`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::CliError;
use super::output::{Output, table};
use super::project::Project;
use crate::diagnostics::nearest;
use crate::serving::tokens::{Role, TokenEntry, TokenFile};
use crate::settings::resolve;
use crate::time::{Clock, SystemClock, parse_duration};

#[derive(Debug, Args)]
pub struct TokensArguments {
    #[command(subcommand)]
    command: TokensCommand,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    /// Make a token; it is printed once, and kept nowhere.
    Create {
        /// What it is called in the file, and in `asof tokens list`.
        name: String,
        /// reader: get and list; writer: push, too; admin: materialize and manage, too.
        #[arg(long, value_enum)]
        role: Role,
        /// Feature views that it is for; without it, all.
        #[arg(long, value_delimiter = ',', value_name = "VIEWS")]
        views: Option<Vec<String>>,
        /// How long it is worth something, e.g. 90d; without it, until it is revoked.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires_in: Option<Duration>,
    },
    /// List the tokens that there are.
    List,
    /// Make a token worthless; a running server knows within a second.
    Revoke { name: String },
}

pub async fn run(project: &Project, arguments: &TokensArguments, output: Output) -> Result<(), CliError> {
    let path = token_file(project)?;
    let mut file = TokenFile::read(&path)?;
    match &arguments.command {
        TokensCommand::Create { name, role, views, expires_in } => {
            if expires_in.is_some_and(|time| time.is_zero()) {
                return Err(CliError::Usage(
                    "--expires-in is how long the token is valid, and 0 is no time".to_owned(),
                ));
            }
            if let Some(views) = views {
                check_views(project, views).await?;
            }
            let views = views.as_ref().map(|views| views.iter().cloned().collect::<BTreeSet<String>>());
            let token = file.create(name, *role, views, SystemClock.now(), *expires_in)?;
            file.write(&path)?;
            output.say(format!("token `{name}`, {}; keep it, because it is kept nowhere else:", role.as_str()));
            output.say(&token);
            output.document(&json!({"name": name, "role": role, "token": token}));
        }
        TokensCommand::List => {
            let row = |entry: &TokenEntry| {
                let views = entry
                    .views
                    .as_ref()
                    .map_or("all".to_owned(), |views| views.iter().map(String::as_str).collect::<Vec<_>>().join(","));
                let expires_at = entry.expires_at.clone().unwrap_or_else(|| "never".to_owned());
                let role = entry.role.as_str().to_owned();
                vec![entry.name.clone(), role, views, entry.created_at.clone(), expires_at]
            };
            let rows: Vec<Vec<String>> = file.tokens.iter().map(row).collect();
            output.say(table(&["token", "role", "views", "created at", "expires at"], &rows));
            let documents = file.tokens.iter().map(|entry| {
                json!({
                    "name": entry.name,
                    "role": entry.role,
                    "views": entry.views,
                    "created_at": entry.created_at,
                    "expires_at": entry.expires_at,
                })
            });
            output.document(&json!({"tokens": documents.collect::<Vec<_>>()}));
        }
        TokensCommand::Revoke { name } => {
            file.revoke(name)?;
            file.write(&path)?;
            output.say(format!("token `{name}` is revoked"));
            output.document(&json!({"name": name, "revoked": true}));
        }
    }
    Ok(())
}

/// # Errors
/// A view that no applied definition has. Where nothing is applied yet, any name may come to be one.
async fn check_views(project: &Project, views: &[String]) -> Result<(), CliError> {
    let Some(applied) = project.registry()?.latest().await? else { return Ok(()) };
    let known = || applied.definitions.feature_views.iter().map(|view| view.name.as_str());
    let Some(unknown) = views.iter().find(|view| known().all(|name| name != view.as_str())) else { return Ok(()) };
    let advice = nearest(unknown, known()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Err(CliError::Refused(format!("there is no feature view `{unknown}`{advice}")))
}

/// # Errors
/// Settings that ask nobody for a token.
fn token_file(project: &Project) -> Result<PathBuf, CliError> {
    match &project.settings.server.tokens {
        Some(path) => Ok(PathBuf::from(resolve(&project.folder, path))),
        None => Err(CliError::Refused(
            "asof.yaml asks nobody for a token; write `server: {auth: {tokens: tokens.yaml}}`".to_owned(),
        )),
    }
}
