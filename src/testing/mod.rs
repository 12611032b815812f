//! Fixtures and conformance suites, for tests only.

pub mod online_store;
