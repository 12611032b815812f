//! Fixtures and conformance suites, for tests only.

pub mod fuzz;
mod fuzz_targets;
pub mod online_store;
