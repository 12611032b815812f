//! `asof tokens`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::CliError;
use super::output::{Output, table};
use super::project::Project;
use crate::serving::tokens::{Role, TokenEntry, TokenFile};
use crate::settings::resolve;
use crate::time::{Clock, SystemClock};

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
    },
    /// List the tokens that there are.
    List,
    /// Make a token worthless; a running server knows within a second.
    Revoke { name: String },
}

pub fn run(project: &Project, arguments: &TokensArguments, output: Output) -> Result<(), CliError> {
    let path = token_file(project)?;
    let mut file = TokenFile::read(&path)?;
    match &arguments.command {
        TokensCommand::Create { name, role, views } => {
            let views = views.as_ref().map(|views| views.iter().cloned().collect::<BTreeSet<String>>());
            let token = file.create(name, *role, views, SystemClock.now())?;
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
                vec![entry.name.clone(), entry.role.as_str().to_owned(), views, entry.created_at.clone()]
            };
            let rows: Vec<Vec<String>> = file.tokens.iter().map(row).collect();
            output.say(table(&["token", "role", "views", "created at"], &rows));
            let documents = file.tokens.iter().map(|entry| {
                json!({
                    "name": entry.name,
                    "role": entry.role,
                    "views": entry.views,
                    "created_at": entry.created_at,
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
/// Settings that ask nobody for a token.
fn token_file(project: &Project) -> Result<PathBuf, CliError> {
    match &project.settings.server.tokens {
        Some(path) => Ok(PathBuf::from(resolve(&project.folder, path))),
        None => Err(CliError::Refused(
            "asof.yaml asks nobody for a token; write `server: {auth: {tokens: tokens.yaml}}`".to_owned(),
        )),
    }
}
