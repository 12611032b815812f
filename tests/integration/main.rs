//! Tests across modules and of the command, one module a boundary. One binary, since each would link everything.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, also in its helpers")]

mod agreement;
mod bench_serve;
mod changes;
mod command;
mod crash;
mod files;
mod kafka;
mod kafka_group;
mod kafka_speed;
mod operations;
mod overload;
mod refusals;
mod security;
mod server;
mod stream_state;
mod streams;
mod streams_failing;
mod streams_faults;
mod support;
mod traces;
