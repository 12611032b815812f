//! The project's streams, for commands: what was acknowledged is stored before a command reads.

use std::sync::Arc;

use super::error::CliError;
use super::online_access::OnlineAccess;
use super::project::Project;
use crate::definition::{Definitions, FeatureView, SourceName};
use crate::online_store::{OnlineStore, ViewId};
use crate::registry::RegistryVersion;
use crate::serving::pb::FlushStreamsRequest;
use crate::serving::pb::admin_client::AdminClient;
use crate::stream_ingestion::{Ingestion, KnownTables, Stores, has_records};
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

    /// Returns once everything that the streams of these sources brought and that was acknowledged is in both stores,
    /// whoever has them; of all sources where none is named.
    ///
    /// # Errors
    /// A table that cannot be written, or that is gone.
    pub async fn settle_streams(
        &self,
        registry: &Arc<RegistryVersion>,
        sources: &[SourceName],
    ) -> Result<(), CliError> {
        let is_asked = |source: &SourceName| sources.is_empty() || sources.contains(source);
        if !self.has_unsettled_streams(registry) {
            return self
                .check_event_tables(streamed_sources(&registry.definitions).filter(|name| is_asked(name)))
                .await;
        }
        match self.online_access().await? {
            OnlineAccess::Store(store) => {
                let ingestion = self.open_streams(registry, store).await?;
                let flushed = ingestion.flush_sources(&is_asked).await;
                close_streams(&ingestion).await;
                Ok(flushed?)
            }
            OnlineAccess::Server(channel) => {
                let sources = sources.iter().map(|source| source.as_str().to_owned()).collect();
                AdminClient::new(channel).flush_streams(FlushStreamsRequest { sources }).await?;
                Ok(())
            }
        }
    }

    /// Tables that were there have to be there; they are what a command is about to read.
    async fn check_event_tables(&self, sources: impl Iterator<Item = &SourceName>) -> Result<(), CliError> {
        let folder = self.stream_log_path();
        if !folder.exists() {
            return Ok(());
        }
        let failed = |source| CliError::Io { action: format!("read `{}`", folder.display()), source };
        let (known, store) = (KnownTables::read(&folder).map_err(failed)?, self.offline_store()?);
        for source in sources {
            known.open(&store, source).await?;
        }
        Ok(())
    }

    /// Brings what a killed process left in the log into a store that is open here, and feeds views that no process has
    /// fed yet.
    pub async fn apply_streams(
        &self,
        registry: &Arc<RegistryVersion>,
        store: &Arc<dyn OnlineStore>,
    ) -> Result<(), CliError> {
        let is_unfed = |view: &FeatureView| {
            let id = registry.views.get(&view.name).map(|state| ViewId(state.id));
            registry.definitions.streamed_source(view).is_some() && id.is_some_and(|id| store.stream_side(id).is_none())
        };
        match self.has_unsettled_streams(registry) || registry.definitions.feature_views.iter().any(is_unfed) {
            true => {
                close_streams(&*self.open_streams(registry, Arc::clone(store)).await?).await;
                Ok(())
            }
            false => Ok(()),
        }
    }

    /// Whether the log may hold what the stores lack.
    fn has_unsettled_streams(&self, registry: &RegistryVersion) -> bool {
        streamed_sources(&registry.definitions).next().is_some() && has_records(&self.stream_log_path())
    }
}

/// Closes streams that did what they were opened for; what some table lacks stands in the log.
pub async fn close_streams(ingestion: &Ingestion) {
    if let Err(error) = ingestion.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "streams are not stored to their end");
    }
}

/// The sources whose events are archived.
pub fn streamed_sources(definitions: &Definitions) -> impl Iterator<Item = &SourceName> {
    definitions.sources.iter().filter(|source| source.stream.is_some()).map(|source| &source.name)
}
