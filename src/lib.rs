//! Asof: a feature store whose batch and online answers agree.
//!
//! Definition files say what features are. They are compiled into DataFusion jobs that keep every value with its
//! time in Delta tables and bring it into an online store. The same question is then answered in two ways: what
//! were these features worth at those past moments ([`retrieval`], batch), and what are they worth now (online).
//!
//! Modules in reading order; each uses the ones above it. `ARCHITECTURE.md` draws the whole.

pub mod diagnostics;
pub mod error;
pub mod metrics;
pub mod settings;
pub mod time;
pub mod trace;
mod yaml;

pub mod definition;

pub mod arrow_types;
mod column_builder;
pub mod tile;

pub mod model_runtime;
mod parquet_files;
pub mod point_in_time_join;
mod text_files;
pub mod window_aggregation;

pub mod operators;

pub mod compile;
pub mod engine;
pub mod registry;

pub mod model_registry;
pub mod offline_store;
pub mod online_store;

pub mod materialization;
pub mod retrieval;
pub mod stream_ingestion;

pub mod prediction;

pub mod serving;

pub mod cli;

#[cfg(test)]
pub mod testing;
