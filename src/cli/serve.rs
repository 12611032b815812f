//! `asof serve`.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::online_access::ServerAddress;
use super::output::Output;
use super::project::Project;
use super::stream::Purpose;
use crate::retrieval::OnlineRetrieval;
use crate::serving::prediction::PredictionState;
use crate::serving::{Server, ServerOptions, ServerState};
use crate::settings::OnlineStoreSettings;
use crate::time::SystemClock;

/// How long unfinished work may take to let go.
pub(super) const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Where to listen for gRPC, instead of what asof.yaml says; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where to listen for HTTP, instead of what asof.yaml says.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Take a `now` in requests, which stands in for the clock: for tests and replays.
    #[arg(long)]
    allow_request_time: bool,
    /// Listen on addresses that others can reach, though nobody is asked for a token.
    #[arg(long)]
    insecure: bool,
    /// Leave the streams to another server: answer from what the store holds, take no events.
    #[arg(long)]
    replica: bool,
    /// End when standard input does, as it does when the program is gone that started the server with a pipe.
    #[arg(long)]
    stop_with_stdin: bool,
}

pub async fn run(project: Project, arguments: &ServeArguments, output: Output) -> Result<(), CliError> {
    let options = ServerOptions {
        grpc: arguments.grpc.unwrap_or(project.settings.server.grpc),
        http: arguments.http.unwrap_or(project.settings.server.http),
        insecure: arguments.insecure,
    };
    let ServeArguments { allow_request_time, replica, stop_with_stdin, .. } = *arguments;
    serve(project, options, allow_request_time, replica, stop_with_stdin, Purpose::Server, output).await
}

/// Serves at these addresses until the process is asked to end.
pub(super) async fn serve(
    project: Project,
    options: ServerOptions,
    allow_request_time: bool,
    is_replica: bool,
    stop_with_stdin: bool,
    purpose: Purpose,
    output: Output,
) -> Result<(), CliError> {
    raise_descriptors(project.settings.server.limits.connections);
    let workers = Workers::start()?;
    // What is wrong with these is found before there is a store.
    let (registry, offline_store, engine) = (project.registry()?, project.offline_store()?, project.engine()?);
    let online_store = project.serving_store()?;
    let OnlineStoreSettings::Rocksdb { history, .. } = project.settings.online_store;
    let online = OnlineRetrieval { store: Arc::clone(&online_store), clock: Arc::new(SystemClock), history };
    let spool = project.prediction_spool_path();
    let prediction = PredictionState::open(project.model_registry()?, online, project.offline_store()?, &spool);
    let prediction = prediction.map_err(|source| CliError::Io {
        action: format!("open the spool of predictions `{}`", spool.display()),
        source,
    })?;
    let mut state = ServerState::new(
        project.settings.clone(),
        project.folder.clone(),
        registry,
        offline_store,
        online_store,
        engine,
        Arc::new(SystemClock),
        allow_request_time,
        workers.handle(),
        project.stream_log_path(),
        prediction,
    );
    state.is_replica = is_replica;
    let state = Arc::new(state);
    let streams = Arc::clone(&state);
    let server = Server::bind(state, options).await?;
    let failed = |source| CliError::Io { action: "tell where the server listens".to_owned(), source };
    let (own, token) = server.own_address().map_err(failed)?;
    let address = ServerAddress {
        grpc: server.grpc_address().map_err(failed)?.to_string(),
        http: server.http_address().map_err(failed)?.to_string(),
        own: own.to_string(),
        token,
        process: std::process::id(),
    };
    project.write_server_address(&address).map_err(failed)?;
    output.say(match purpose {
        Purpose::Server => {
            format!("serving {} on grpc {} and http {}", project.settings.project, address.grpc, address.http)
        }
        Purpose::Worker => format!("taking in the streams of {}", project.settings.project),
    });
    output.document(&json!({"project": project.settings.project, "grpc": address.grpc, "http": address.http}));
    let served = server.run(stop_signal(stop_with_stdin)).await;
    if let Err(error) = streams.close_streams().await {
        // What the stores lack stands in the log, from which the next server takes it.
        tracing::warn!(error = &error as &dyn std::error::Error, "streams are not stored to their end");
    }
    project.remove_server_address();
    workers.stop().await;
    Ok(served?)
}

/// Files that are open beside connections, about.
const FILES_OPEN: usize = 1024;

/// Lets the process have as many files and connections open as the system lets it, which may be more than at its start.
fn raise_descriptors(connections: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointers are to a structure of this type, which outlives the calls.
        let raised = unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
            }
        };
        let descriptors = usize::try_from(limit.rlim_max).unwrap_or(usize::MAX);
        if raised && descriptors < connections.saturating_add(FILES_OPEN) {
            tracing::warn!(
                descriptors,
                connections,
                "the system allows fewer open files than `connections` and the store need; raise one (`ulimit -n`), or lower the other"
            );
        }
    }
}

/// The threads of jobs and joins; they do not hold up the end of the command, however it ends.
struct Workers(Option<tokio::runtime::Runtime>);

impl Workers {
    fn start() -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("asof-worker").enable_all().build();
        let failed = |source| CliError::Io { action: "start threads".to_owned(), source };
        Ok(Workers(Some(runtime.map_err(failed)?)))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.0.as_ref().expect("the threads are there until they are dropped").handle().clone()
    }
}

impl Workers {
    /// Lets go of what unfinished work holds, the online store among it, before the process ends.
    async fn stop(mut self) {
        if let Some(runtime) = self.0.take() {
            // It waits for threads, which an asynchronous thread must not. A failure means that it did not.
            let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP_PATIENCE)).await;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Resolves when the process is asked to end.
async fn stop_signal(with_stdin: bool) {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
        () = end_of_stdin(), if with_stdin => {}
    }
}

/// Resolves when nobody can write to standard input any more.
async fn end_of_stdin() {
    let (ended, end) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for one of its threads, which only the other side can end.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}
