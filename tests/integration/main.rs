//! Tests across modules and of the command, one module a boundary. One binary, since each would link everything.

mod agreement;
mod changes;
mod command;
mod crash;
mod files;
mod refusals;
mod server;
mod support;
