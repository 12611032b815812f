//! DataFusion sessions within the project's limits.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

/// Makes sessions that share one memory limit and one set of object stores.
#[derive(Debug, Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
}

impl Engine {
    /// `memory_bytes`: what sorts and joins may hold before they spill to disk; None: no limit.
    ///
    /// # Errors
    /// No folder for what is spilled.
    pub fn new(memory_bytes: Option<u64>) -> Result<Self, DataFusionError> {
        let mut builder = RuntimeEnvBuilder::new();
        if let Some(bytes) = memory_bytes {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            builder = builder.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
        }
        Ok(Engine { runtime: builder.build_arc()? })
    }

    /// A session of its own: tables registered in it are seen by nobody else.
    pub fn session(&self) -> SessionContext {
        let mut config = SessionConfig::new().with_information_schema(false);
        let options = config.options_mut();
        options.execution.parquet.schema_force_view_types = false;
        options.execution.parquet.pushdown_filters = true;
        // A time without an offset is UTC.
        options.execution.time_zone = Some("UTC".to_owned());
        SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime))
    }
}
