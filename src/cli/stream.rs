//! `asof stream`: the worker, and what is done to the stream of one source.

use std::net::{Ipv4Addr, SocketAddr};

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use super::push::streamed_source;
use super::serve::serve;
use super::streams::close_streams;
use crate::serving::ServerOptions;
use crate::serving::pb::admin_client::AdminClient;
use crate::serving::pb::{NewEventTableRequest, SetWatermarkRequest};
use crate::time::EventTimestamp;

#[derive(Debug, Args)]
pub struct StreamArguments {
    #[command(subcommand)]
    action: Option<StreamAction>,
}

#[derive(Debug, Subcommand)]
enum StreamAction {
    /// Set the watermark of a source, whatever it is: back, where an event of a wrong time moved it too far.
    SetWatermark {
        source: String,
        /// An instant, such as 2024-05-01T12:00:00Z.
        time: String,
    },
    /// Begin a new event table for a source whose own is gone for good, and build its views anew from it.
    NewTable { source: String },
}

impl StreamArguments {
    /// Whether the process goes on until it is ended.
    pub fn is_worker(&self) -> bool {
        self.action.is_none()
    }
}

/// Without an action, takes in what streams bring, as a server does, at addresses that nobody is told: commands on the
/// same project find the worker, which has the stores, beside them.
pub async fn run(project: Project, arguments: StreamArguments, output: Output) -> Result<(), CliError> {
    match arguments.action {
        None => {
            let hidden = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let options = ServerOptions { grpc: hidden, http: hidden, insecure: false };
            serve(project, options, false, false, false, Purpose::Worker, output).await
        }
        Some(StreamAction::SetWatermark { source, time }) => set_watermark(&project, &source, &time, output).await,
        Some(StreamAction::NewTable { source }) => new_table(&project, &source, output).await,
    }
}

/// What a process that has the stores is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Worker,
}

async fn set_watermark(project: &Project, source: &str, time: &str, output: Output) -> Result<(), CliError> {
    let watermark = EventTimestamp::parse(time).map_err(|error| CliError::Usage(error.to_string()))?;
    let registry = project.applied().await?;
    streamed_source(&registry, source)?;
    let before = match project.online_access().await? {
        OnlineAccess::Server(channel) => {
            let request = SetWatermarkRequest { source: source.to_owned(), watermark: watermark.micros() };
            let answer = AdminClient::new(channel).set_watermark(request).await?.into_inner();
            answer.before.map(EventTimestamp::from_micros)
        }
        OnlineAccess::Store(store) => {
            let ingestion = project.open_streams(&registry, store).await?;
            let set = ingestion.set_watermark(source, watermark).await;
            close_streams(&ingestion).await;
            set?
        }
    };
    let was = before.map_or("there was none".to_owned(), |before| format!("it was {before}"));
    output.say(format!("the watermark of `{source}` is {watermark}; {was}"));
    output.document(&json!({
        "source": source,
        "watermark": watermark.to_string(),
        "before": before.map(|before| before.to_string()),
    }));
    Ok(())
}

async fn new_table(project: &Project, source: &str, output: Output) -> Result<(), CliError> {
    let registry = project.applied().await?;
    streamed_source(&registry, source)?;
    match project.online_access().await? {
        OnlineAccess::Server(channel) => {
            let request = NewEventTableRequest { source: source.to_owned() };
            AdminClient::new(channel).new_event_table(request).await?;
        }
        OnlineAccess::Store(store) => {
            let ingestion = project.open_streams(&registry, store).await?;
            let begun = ingestion.new_table(source).await;
            close_streams(&ingestion).await;
            begun?;
        }
    }
    output.say(format!("`{source}` has a new event table; its views are built anew from it"));
    output.document(&json!({"source": source}));
    Ok(())
}
