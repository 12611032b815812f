//! Reads and commits versions.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::error::RegistryError;
use super::location::{Location, create_durably};
use super::plan::Plan;
use super::version::{RegistryVersion, VersionSummary};
use crate::time::Clock;

/// How many version files [`Registry::history`] reads at once.
const READS_IN_FLIGHT: usize = 16;

/// The versions of a project's definitions in a folder or object store.
///
/// Cheap to ask again: the newest version seen is remembered, and only what follows it is looked for.
#[derive(Debug)]
pub struct Registry {
    location: Location,
    newest_seen: Mutex<Option<Arc<RegistryVersion>>>,
}

impl Registry {
    /// A registry in an absolute folder or at an object-store URL; neither disk nor network is touched yet.
    ///
    /// A folder is made by the first [`apply`](Self::apply); until then it reads as having no versions.
    /// URLs take credentials and endpoints from the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    ///
    /// # Errors
    /// [`RegistryError::InvalidLocation`], [`RegistryError::FeatureOff`], [`RegistryError::Open`].
    pub fn open(location: &str) -> Result<Self, RegistryError> {
        Ok(Self::at(Location::parse(location)?))
    }

    /// A registry below `prefix` of a store that is at hand; the store has to support [`PutMode::Create`].
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self::at(Location::in_store(store, prefix))
    }

    fn at(location: Location) -> Self {
        Registry { location, newest_seen: Mutex::new(None) }
    }

    /// The newest version; None: nothing was applied yet.
    ///
    /// Lists the registry once; later calls cost one request when nothing is new.
    pub async fn latest(&self) -> Result<Option<RegistryVersion>, RegistryError> {
        Ok(self.newest().await?.map(|version| RegistryVersion::clone(&version)))
    }

    /// # Errors
    /// [`RegistryError::UnknownVersion`] names the versions that exist.
    pub async fn version(&self, number: u64) -> Result<RegistryVersion, RegistryError> {
        match self.read_if_exists(number).await? {
            Some(version) => Ok(version),
            None => {
                let latest = self.newest().await?.map(|version| version.version);
                Err(RegistryError::UnknownVersion { version: number, latest })
            }
        }
    }

    /// Every version, oldest first.
    pub async fn history(&self) -> Result<Vec<VersionSummary>, RegistryError> {
        let mut numbers = self.list().await?;
        numbers.sort_unstable();
        stream::iter(numbers)
            .map(|number| async move { Ok(self.read(number).await?.summary()) })
            .buffered(READS_IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Commits the plan as the version after its base.
    ///
    /// An empty plan is committed too; callers that want no version without a change ask [`Plan::is_empty`] first.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if the base is no longer the newest version: of concurrent applies one wins.
    /// [`RegistryError::Breaking`] if the plan breaks feature services and was not [allowed](Plan::allow_breaking) to.
    pub async fn apply(&self, plan: &Plan, clock: &dyn Clock) -> Result<RegistryVersion, RegistryError> {
        let reasons = plan.breaking();
        if !reasons.is_empty() && !plan.is_breaking_allowed() {
            return Err(RegistryError::Breaking { reasons });
        }
        let next = plan.next_version(clock.now());
        let name = RegistryVersion::file_name(next.version);
        match self.create(name.clone(), next.encode()?).await {
            Ok(()) => {
                self.remember(Arc::new(next.clone()));
                Ok(next)
            }
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Err(RegistryError::Conflict { version: next.version })
            }
            Err(source) => Err(RegistryError::Unreachable { file: self.location.shown(&name), source }),
        }
    }

    async fn newest(&self) -> Result<Option<Arc<RegistryVersion>>, RegistryError> {
        let mut newest = match self.newest_seen() {
            Some(version) => version,
            None => match self.list().await?.into_iter().max() {
                Some(number) => Arc::new(self.read(number).await?),
                None => return Ok(None),
            },
        };
        while let Some(next) = self.read_if_exists(newest.version.saturating_add(1)).await? {
            newest = Arc::new(next);
        }
        self.remember(Arc::clone(&newest));
        Ok(Some(newest))
    }

    fn newest_seen(&self) -> Option<Arc<RegistryVersion>> {
        self.newest_seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, version: Arc<RegistryVersion>) {
        let mut seen = self.newest_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_none_or(|seen| seen.version < version.version) {
            *seen = Some(version);
        }
    }

    /// Numbers of the version files, in no order; other files are not the registry's.
    async fn list(&self) -> Result<Vec<u64>, RegistryError> {
        let files = self.location.store.list(Some(&self.location.versions()));
        let numbers = files.try_filter_map(|file| {
            let number = file.location.filename().and_then(RegistryVersion::number_of);
            std::future::ready(Ok(number))
        });
        numbers
            .try_collect()
            .await
            .map_err(|source| RegistryError::Unreachable { file: self.location.shown(""), source })
    }

    async fn read_if_exists(&self, number: u64) -> Result<Option<RegistryVersion>, RegistryError> {
        match self.read(number).await {
            Ok(version) => Ok(Some(version)),
            Err(RegistryError::Unreachable { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, number: u64) -> Result<RegistryVersion, RegistryError> {
        let name = RegistryVersion::file_name(number);
        let file = self.location.shown(&name);
        let path = self.location.versions().join(name);
        let found = self.location.store.get(&path).and_then(|found| found.bytes()).await;
        match found {
            Ok(bytes) => RegistryVersion::decode(&bytes, number, &file),
            Err(source) => Err(RegistryError::Unreachable { file, source }),
        }
    }

    async fn create(&self, name: String, bytes: Vec<u8>) -> Result<(), object_store::Error> {
        if let Some(folder) = self.location.versions_folder() {
            return tokio::task::spawn_blocking(move || create_durably(&folder, &name, &bytes)).await?;
        }
        let path = self.location.versions().join(name);
        self.location.store.put_opts(&path, bytes.into(), PutOptions::from(PutMode::Create)).await.map(|_| ())
    }
}
