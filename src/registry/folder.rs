//! A folder below a registry's location, whose files are made once and never changed.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::error::RegistryError;
use super::location::{Location, create_durably};

#[derive(Debug)]
pub struct RegistryFolder {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// As messages show it.
    text: String,
    local: Option<PathBuf>,
}

impl RegistryFolder {
    /// The folder `name`, parts divided by `/`, of the registry at `location`; neither disk nor network is touched.
    ///
    /// # Errors
    /// As of [`Registry::open`](super::Registry::open).
    pub fn open(location: &str, name: &str) -> Result<Self, RegistryError> {
        let Location { store, prefix, text, folder } = Location::parse(location)?;
        let path = name.split('/').fold(prefix, |path, part| path.join(part));
        Ok(RegistryFolder {
            store,
            path,
            text: format!("{text}/{name}"),
            local: folder.map(|folder| folder.join(name)),
        })
    }

    /// Makes a file, whole and durable; false: there is one of that name.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`].
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, RegistryError> {
        let created = match self.local.clone() {
            Some(folder) => {
                let name = name.to_owned();
                let made = tokio::task::spawn_blocking(move || create_durably(&folder, &name, &bytes)).await;
                made.unwrap_or_else(|error| Err(error.into()))
            }
            None => {
                let path = self.path.clone().join(name);
                self.store.put_opts(&path, bytes.into(), PutOptions::from(PutMode::Create)).await.map(|_| ())
            }
        };
        match created {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(self.unreachable(name, source)),
        }
    }

    /// A file's bytes; None: there is none of that name.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`].
    pub async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let read = async { self.store.get(&self.path.clone().join(name)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.unreachable(name, source)),
        }
    }

    /// The names of its files, in no order.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`].
    pub async fn list(&self) -> Result<Vec<String>, RegistryError> {
        let files = self.store.list(Some(&self.path));
        let names = files.try_filter_map(|file| std::future::ready(Ok(file.location.filename().map(str::to_owned))));
        names.try_collect().await.map_err(|source| self.unreachable("", source))
    }

    /// A file's place, for messages.
    pub fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.text)
    }

    fn unreachable(&self, name: &str, source: object_store::Error) -> RegistryError {
        RegistryError::Unreachable { file: self.shown(name), source }
    }
}
