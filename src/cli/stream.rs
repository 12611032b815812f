//! `asof stream`.

use std::net::{Ipv4Addr, SocketAddr};

use super::error::CliError;
use super::output::Output;
use super::project::Project;
use super::serve::serve;
use crate::serving::ServerOptions;

/// Takes in what streams bring, as a server does, at addresses that nobody is told: commands on the same project find
/// the worker, which has the stores, beside them.
pub async fn run(project: Project, output: Output) -> Result<(), CliError> {
    let hidden = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    serve(project, ServerOptions { grpc: hidden, http: hidden, insecure: false }, false, false, false, output).await
}
