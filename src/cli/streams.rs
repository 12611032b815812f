//! The project's streams, for commands: what was acknowledged is stored before a command reads.

use std::sync::Arc;

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::project::Project;
use crate::definition::{Definitions, SourceName};
use crate::online_store::OnlineStore;
use crate::registry::RegistryVersion;
use crate::serving::pb::FlushStreamsRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::stream_ingestion::{Ingestion, Stores, has_records};
use crate::time::SystemClock;

impl Project {
    /// Opens the streams of the project, which nobody else may have open.
    pub async fn open_streams(
        &self,
        registry: &Arc<RegistryVersion>,
        online: Arc<dyn OnlineStore>,
    ) -> Result<Arc<Ingestion>, CliError> {
        let stores = Stores {
            online,
            offline: self.offline_store()?,
            engine: self.engine()?,
            project: self.folder.clone(),
            clock: Arc::new(SystemClock),
        };
        let workers = tokio::runtime::Handle::current();
        Ok(Ingestion::open(stores, &self.stream_log_path(), Arc::clone(registry), workers).await?)
    }

    /// Returns once everything that streams brought and that was acknowledged is in both stores, whoever has them.
    pub async fn settle_streams(&self, registry: &Arc<RegistryVersion>) -> Result<(), CliError> {
        if !self.has_unsettled_streams(registry) {
            return Ok(());
        }
        match self.online_access().await? {
            OnlineAccess::Store(store) => Ok(self.open_streams(registry, store).await?.close().await?),
            OnlineAccess::Server(channel) => {
                AdminClient::new(channel).flush_streams(FlushStreamsRequest {}).await?;
                Ok(())
            }
        }
    }

    /// Brings what a killed process left in the log into a store that is open here.
    pub async fn apply_streams(
        &self,
        registry: &Arc<RegistryVersion>,
        store: &Arc<dyn OnlineStore>,
    ) -> Result<(), CliError> {
        match self.has_unsettled_streams(registry) {
            true => Ok(self.open_streams(registry, Arc::clone(store)).await?.close().await?),
            false => Ok(()),
        }
    }

    /// Whether the log may hold what the stores lack.
    fn has_unsettled_streams(&self, registry: &RegistryVersion) -> bool {
        streamed_sources(&registry.definitions).next().is_some() && has_records(&self.stream_log_path())
    }
}

/// The sources whose events are archived.
pub fn streamed_sources(definitions: &Definitions) -> impl Iterator<Item = &SourceName> {
    definitions.sources.iter().filter(|source| source.stream.is_some()).map(|source| &source.name)
}
