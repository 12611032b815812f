//! The server: gRPC services and the HTTP gateway; wire types stop here.
//!
//! ```text
//! gRPC (grpc.rs, admin.rs) ─┐                       ┌─► retrieval::online ─► online store
//!                           ├─► state.rs: catalog ──┼─► retrieval::batch (on its own threads)
//! HTTP (http.rs)  ──────────┘    of the registry    └─► stream_ingestion (push.rs)
//!                                     ▲
//!                            follow.rs: newer versions, removed views
//! ```
//!
//! Holds no feature logic: it checks a request, calls one function, and turns the answer into wire types.

mod access;
pub mod admin;
pub mod calls;
pub mod columns;
mod entrance;
mod follow;
#[cfg(test)]
mod fuzz_targets;
mod grpc;
mod grpc_online;
mod http;
mod http_feast;
mod http_server;
mod in_flight;
mod ipc;
pub mod json;
mod listen;
mod packed;
pub mod prediction;
mod push;
mod record;
mod refusal;
mod server;
mod state;
pub mod status;
mod tls;
pub mod tokens;
mod traces;
mod turns;
mod watched_body;
mod wire;

/// The messages and services of `proto/asof/v1`.
pub mod pb {
    #![allow(clippy::all, missing_docs, reason = "generated from proto/asof/v1")]
    tonic::include_proto!("asof.v1");

    /// For reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/asof_descriptor.bin"));
}

pub use grpc::encode_answer_columns;
pub use packed::PackedCodec;
pub use server::{ServeError, Server, ServerOptions};
pub use state::ServerState;
pub use turns::before_sleep;
