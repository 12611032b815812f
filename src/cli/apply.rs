//! `asof plan` and `asof apply`.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use crate::error::{ErrorKind, error_chain};
use crate::materialization::remove_unknown_views;
use crate::model_registry::{BrokenModel, broken_models};
use crate::prediction::{PredictionCatalog, RouteProblem, Scope};
use crate::registry::{self, Plan, RegistryVersion};
use crate::retrieval::Catalog;
use crate::serving::pb::SyncOnlineStoreRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::time::{Clock, SystemClock};

#[derive(Debug, Args)]
pub struct PlanArguments {
    /// Plan changes that break feature services in use, too.
    #[arg(long)]
    allow_breaking: bool,
}

#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// Apply without asking.
    #[arg(long, short)]
    yes: bool,
    /// Apply changes that break feature services in use, too.
    #[arg(long)]
    allow_breaking: bool,
    /// Apply definition files that define nothing, which removes everything.
    #[arg(long)]
    allow_empty: bool,
}

pub async fn plan(project: &Project, arguments: &PlanArguments, output: Output) -> Result<(), CliError> {
    let plan = make_plan(project, arguments.allow_breaking).await?;
    let effects = Effects::of(project, &plan).await?;
    effects.say(&plan, output);
    output.document(&effects.document(&plan)?);
    Ok(())
}

pub async fn run(project: &Project, arguments: &ApplyArguments, output: Output) -> Result<(), CliError> {
    let plan = make_plan(project, arguments.allow_breaking).await?;
    let effects = Effects::of(project, &plan).await?;
    effects.say(&plan, output);
    if plan.is_empty() {
        let document = effects.document(&plan)?;
        output.document(&json!({"applied": false, "version": plan.base_version, "plan": document}));
        return Ok(());
    }
    if plan.definitions.is_empty() && !arguments.allow_empty {
        return Err(CliError::Usage(format!(
            "nothing is defined in `{}`, and to apply that would remove everything; add `--allow-empty` if that is meant",
            project.definitions_folder().display()
        )));
    }
    if !effects.broken.is_empty() && !plan.is_breaking_allowed() {
        let listed: String = effects.broken.iter().map(|model| format!("\n  - {model}")).collect();
        return Err(CliError::Refused(format!(
            "the plan changes what models in use depend on:{listed}\nregister versions that were trained on the change and move the aliases, or apply with `--allow-breaking`"
        )));
    }
    let of_definitions = || effects.problems.iter().filter(|problem| problem.is_of_definitions);
    if of_definitions().next().is_some() && !plan.is_breaking_allowed() {
        let listed: String = of_definitions().map(|problem| format!("\n  - {problem}")).collect();
        return Err(CliError::Refused(format!(
            "routes could not answer as they are defined:{listed}\nchange them, or apply with `--allow-breaking`"
        )));
    }
    let is_refused = !plan.breaking().is_empty() && !plan.is_breaking_allowed();
    if !arguments.yes && !is_refused && !confirmed()? {
        return Err(CliError::Refused("nothing is applied".to_owned()));
    }
    let applied = project.registry()?.apply(&plan, &SystemClock).await?;
    output.say(format!("Applied as version {}.", applied.version));
    let emptied = match remove_online_values(project, &applied).await {
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            eprintln!("warning: online values of removed views stay for now: {}", error_chain(&error));
            0
        }
        emptied => emptied?,
    };
    output.document(&json!({
        "applied": true,
        "version": applied.version,
        "plan": effects.document(&plan)?,
        "views_deleted_online": emptied,
    }));
    Ok(())
}

async fn make_plan(project: &Project, allow_breaking: bool) -> Result<Plan, CliError> {
    let base = project.registry()?.latest().await?.map(Arc::new);
    let definitions = project.definitions_to_apply(base.as_ref()).await?;
    let plan = registry::plan(base.as_deref(), definitions);
    Ok(if allow_breaking { plan.allow_breaking() } else { plan })
}

/// What a plan means for models.
struct Effects {
    broken: Vec<BrokenModel>,
    /// What would keep routes and their shadows from being asked.
    problems: Vec<RouteProblem>,
}

impl Effects {
    async fn of(project: &Project, plan: &Plan) -> Result<Self, CliError> {
        let registry = project.model_registry()?;
        let models = registry.models().await?;
        let base = project.registry()?.latest().await?.map(|base| base.definitions).unwrap_or_default();
        let broken = broken_models(&models, &base, plan);
        let mut problems = Vec::new();
        if !plan.definitions.prediction_routes.is_empty() {
            let features = Arc::new(Catalog::new(Arc::new(plan.next_version(SystemClock.now())))?);
            problems = PredictionCatalog::build(features, models, &registry, None, Scope::Routes).await.problems();
        }
        Ok(Effects { broken, problems })
    }

    fn say(&self, plan: &Plan, output: Output) {
        output.say(plan);
        for model in &self.broken {
            output.say(format!("breaks model: {model}"));
        }
        for problem in &self.problems {
            eprintln!("warning: {problem}");
        }
    }

    fn document(&self, plan: &Plan) -> Result<Value, CliError> {
        let failed = |error| CliError::Failed(format!("the plan cannot be written as JSON: {error}"));
        let mut document = serde_json::to_value(plan).map_err(failed)?;
        document["breaking_models"] = json!(self.broken);
        document["route_problems"] = json!(self.problems);
        Ok(document)
    }
}

/// Asks on a terminal; elsewhere `--yes` has to say it.
fn confirmed() -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage("there is no terminal to ask on; apply with --yes".to_owned()));
    }
    let failed = |source| CliError::Io { action: "ask".to_owned(), source };
    eprint!("Apply? [y/N] ");
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Deletes the online values of removed views, here or by the server that has the store.
///
/// What is not reached is deleted when the store is next opened, so a crash before this leaves nothing for good.
async fn remove_online_values(project: &Project, applied: &RegistryVersion) -> Result<usize, CliError> {
    if !project.has_online_store() {
        return Ok(0);
    }
    match project.online_access().await? {
        OnlineAccess::Store(store) => Ok(remove_unknown_views(store.as_ref(), applied)?.len()),
        OnlineAccess::Server(channel) => {
            // The server follows the registry by itself; asking makes it do so before this command ends.
            let no_view = SyncOnlineStoreRequest { views: vec![String::new()] };
            AdminClient::new(channel).sync_online_store(no_view).await?;
            Ok(0)
        }
    }
}
