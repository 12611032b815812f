//! Asof: a feature store whose batch and online answers agree.

pub mod definition;
pub mod error;
pub mod time;
