//! The command line: one file a command. A command reads arguments and a project, calls one function, and prints.

mod apply;
mod backup;
mod bench_echo;
mod bench_serve;
mod error;
mod explain;
mod files;
mod get_batch_features;
mod get_online_features;
mod init;
mod json_log;
mod list;
mod materialize;
mod memory;
mod models;
mod online_access;
mod optimize;
mod output;
mod predictions;
mod project;
mod push;
mod push_file;
mod rebuild_online;
mod serve;
mod spine;
mod status;
mod stream;
mod streams;
mod tokens;
mod vacuum;
mod validate;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use output::{Output, OutputFormat};
use project::Project;

/// A feature store whose batch and online answers agree.
#[derive(Debug, Parser)]
#[command(name = "asof", version, about, max_term_width = 110)]
struct Arguments {
    /// The project's folder; without it, the nearest one with an asof.yaml, upwards from here.
    #[arg(long, global = true, env = "ASOF_PROJECT", value_name = "DIR")]
    project: Option<PathBuf>,
    /// How to print: for people, or one JSON document on standard output.
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new project.
    Init(init::InitArguments),
    /// Check the definition files, and the sources they name.
    Validate,
    /// Print the JSON Schema of definition files, for editors.
    Schema,
    /// Show what applying the definition files would change.
    Plan(apply::PlanArguments),
    /// Make the definition files the registry's newest version.
    Apply(apply::ApplyArguments),
    /// Print the plan that computes a feature view.
    Explain(explain::ExplainArguments),
    /// Compute feature views into the offline and the online store.
    Materialize(materialize::MaterializeArguments),
    /// Join a spine with features as they were at each row's time.
    GetBatchFeatures(get_batch_features::GetBatchFeaturesArguments),
    /// Read features as they are now.
    GetOnlineFeatures(get_online_features::GetOnlineFeaturesArguments),
    /// Push the events of a file to a source.
    Push(push::PushArguments),
    /// Make online values anew from the offline store.
    RebuildOnline(rebuild_online::RebuildOnlineArguments),
    /// Write a snapshot of the online store, which may go on being served.
    Backup(backup::BackupArguments),
    /// Make the online store that of a snapshot, brought up to the offline store.
    Restore(backup::RestoreArguments),
    /// Serve gRPC and HTTP.
    Serve(serve::ServeArguments),
    /// Take in what streams bring, without serving.
    Stream(stream::StreamArguments),
    /// Register models, move their aliases, look at them.
    Models(models::ModelsArguments),
    /// Replay logged predictions, or explain one.
    Predictions(predictions::PredictionsArguments),
    /// Predict for every row of a spine, with features as they were at each row's time.
    PredictBatch(predictions::PredictBatchArguments),
    /// Make a training set of what a route's model saw.
    TrainingSet(predictions::TrainingSetArguments),
    /// List what is applied: entities, sources, feature_views, on_demand_feature_views, feature_services,
    /// prediction_routes, versions.
    List(list::ListArguments),
    /// Print one applied definition in full.
    Describe(list::DescribeArguments),
    /// Show how far each feature view is materialized.
    Status,
    /// Delete the tables of removed views, and files that no table version needs any more.
    Vacuum(vacuum::VacuumArguments),
    /// Bring the rows of tables together again after many small runs
    Optimize(optimize::OptimizeArguments),
    /// Make, list and revoke the tokens that a server asks for.
    Tokens(tokens::TokensArguments),
    /// Load a running server and report its latencies.
    BenchServe(bench_serve::BenchServeArguments),
    /// Answer what a server answered, without its work: a measure for bench-serve
    #[command(hide = true)]
    BenchEcho(bench_echo::BenchEchoArguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::refuse_arguments(&error, std::env::args_os()),
    };
    let goes_on = match &arguments.command {
        Command::Serve(_) | Command::BenchEcho(_) => true,
        Command::Stream(arguments) => arguments.is_worker(),
        _ => false,
    };
    if goes_on {
        memory::give_back();
    } else {
        memory::share_arenas();
    }
    start_tracing();
    let output = Output::new(arguments.output);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .on_thread_park(crate::serving::before_sleep)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(source) => return output.fail(&CliError::Io { action: "start threads".to_owned(), source }).into(),
    };
    let done = runtime.block_on(run(arguments, output));
    runtime.shutdown_timeout(serve::STOP_PATIENCE);
    let status = done.map_or_else(|error| output.fail(&error), |()| 0);
    if goes_on {
        leave_threads(status);
    }
    status.into()
}

/// Ends the process and does not destroy what a thread that cannot be ended, of a model that hangs, may still use.
fn leave_threads(status: u8) {
    let _ = std::io::stdout().flush();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: everything that has to be stored is; nothing else of the process is used any more.
    unsafe {
        libc::_exit(status.into());
    }
}

/// A writer whose failures concern nobody: a log on a disk that is full must not end the thread that writes to it.
struct Careless(std::io::Stderr);

impl Write for Careless {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn start_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ASOF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off,asof=info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Careless(std::io::stderr()));
    match std::env::var("ASOF_LOG_FORMAT").as_deref() {
        Ok("json") => subscriber.with_ansi(false).event_format(json_log::JsonLines).init(),
        _ => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<(), CliError> {
    let folder = arguments.project;
    let project = || Project::find(folder.as_deref());
    match arguments.command {
        Command::Init(arguments) => init::run(&arguments, output),
        Command::Schema => validate::schema(),
        Command::Validate => validate::run(&project()?, output).await,
        Command::Plan(arguments) => apply::plan(&project()?, &arguments, output).await,
        Command::Apply(arguments) => apply::run(&project()?, &arguments, output).await,
        Command::Explain(arguments) => explain::run(&project()?, &arguments, output).await,
        Command::Materialize(arguments) => materialize::run(&project()?, &arguments, output).await,
        Command::GetBatchFeatures(arguments) => get_batch_features::run(&project()?, &arguments, output).await,
        Command::GetOnlineFeatures(arguments) => get_online_features::run(folder.as_deref(), &arguments, output).await,
        Command::Push(arguments) => push::run(&project()?, &arguments, output).await,
        Command::RebuildOnline(arguments) => rebuild_online::run(&project()?, &arguments, output).await,
        Command::Backup(arguments) => backup::backup(&project()?, &arguments, output).await,
        Command::Restore(arguments) => backup::restore(&project()?, &arguments, output).await,
        Command::Serve(arguments) => serve::run(project()?, &arguments, output).await,
        Command::Stream(arguments) => stream::run(project()?, arguments, output).await,
        Command::Models(arguments) => models::run(folder.as_deref(), arguments, output).await,
        Command::Predictions(arguments) => predictions::run(&project()?, arguments, output).await,
        Command::PredictBatch(arguments) => predictions::run_batch(&project()?, &arguments, output).await,
        Command::TrainingSet(arguments) => predictions::training_set(&project()?, &arguments, output).await,
        Command::List(arguments) => list::run(&project()?, &arguments, output).await,
        Command::Describe(arguments) => list::describe(&project()?, &arguments, output).await,
        Command::Status => status::run(&project()?, output).await,
        Command::Optimize(arguments) => optimize::run(&project()?, &arguments, output).await,
        Command::Vacuum(arguments) => vacuum::run(&project()?, &arguments, output).await,
        Command::Tokens(arguments) => tokens::run(&project()?, &arguments, output).await,
        Command::BenchEcho(arguments) => bench_echo::run(&arguments, output).await,
        Command::BenchServe(arguments) => bench_serve::run(&project()?, &arguments, output).await,
    }
}
