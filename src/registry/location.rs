//! Where a registry lives: a folder's path or an object-store URL.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme, parse_url_opts};
use url::Url;

use super::error::RegistryError;

/// A store and where in it the registry begins.
#[derive(Debug)]
pub(super) struct Location {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// The location as messages show it.
    pub text: String,
    /// Set for local folders, where new files are flushed to the disk before they appear.
    pub folder: Option<PathBuf>,
}

const VERSIONS: &str = "versions";

impl Location {
    pub fn in_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let text = prefix.to_string();
        Location { store, prefix, text, folder: None }
    }

    /// Touches neither disk nor network.
    pub fn parse(location: &str) -> Result<Self, RegistryError> {
        if !location.contains("://") {
            return Self::in_folder(location, PathBuf::from(location));
        }
        let problem = |problem| RegistryError::InvalidLocation { location: location.to_owned(), problem };
        let url = Url::parse(location).map_err(|_| problem("is not a URL"))?;
        let (scheme, _) = ObjectStoreScheme::parse(&url).map_err(|_| problem("has an unknown scheme"))?;
        if scheme == ObjectStoreScheme::Local {
            return Self::in_folder(location, url.to_file_path().map_err(|()| problem("is not a folder"))?);
        }
        if let Some(feature) = missing_feature(&scheme) {
            return Err(RegistryError::FeatureOff { location: location.to_owned(), feature });
        }
        let (store, prefix) = parse_url_opts(&url, environment_options())
            .map_err(|source| RegistryError::Open { location: location.to_owned(), source })?;
        Ok(Location { store: Arc::from(store), prefix, text: trimmed(location), folder: None })
    }

    /// The store's root is the file system's, so that the folder need not exist yet.
    fn in_folder(location: &str, folder: PathBuf) -> Result<Self, RegistryError> {
        let problem = |problem| RegistryError::InvalidLocation { location: location.to_owned(), problem };
        if !folder.is_absolute() {
            return Err(problem("is not absolute"));
        }
        let prefix = Path::from_absolute_path(&folder).map_err(|_| problem("cannot be written as an object path"))?;
        Ok(Location { store: Arc::new(LocalFileSystem::new()), prefix, text: trimmed(location), folder: Some(folder) })
    }

    /// The folder of version files, as the store names it.
    pub fn versions(&self) -> Path {
        self.prefix.clone().join(VERSIONS)
    }

    /// The folder of version files on the local disk, if it is there.
    pub fn versions_folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(VERSIONS))
    }

    /// A file, or with no name their folder, as messages show it.
    pub fn shown(&self, file_name: &str) -> String {
        format!("{}/{VERSIONS}/{file_name}", self.text)
    }
}

fn trimmed(location: &str) -> String {
    location.trim_end_matches('/').to_owned()
}

/// The cargo feature that a scheme needs and that this build lacks.
fn missing_feature(scheme: &ObjectStoreScheme) -> Option<&'static str> {
    let (feature, enabled) = match scheme {
        ObjectStoreScheme::AmazonS3 => ("s3", cfg!(feature = "s3")),
        ObjectStoreScheme::GoogleCloudStorage => ("gcs", cfg!(feature = "gcs")),
        ObjectStoreScheme::MicrosoftAzure => ("azure", cfg!(feature = "azure")),
        _ => return None,
    };
    (!enabled).then_some(feature)
}

/// Credentials and endpoints by the clouds' own variables. Others are left alone: a variable
/// named `TOKEN` or `REGION` was not meant for the store.
fn environment_options() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)))
}

/// Creates `folder/versions/name` unless it exists, whole and durable or not at all.
///
/// The bytes reach the disk under a name that no reader looks at before the link makes them visible: after a
/// crash of the machine there is the whole file or none.
pub(super) fn create_durably(versions: &FilePath, name: &str, bytes: &[u8]) -> Result<(), object_store::Error> {
    let target = versions.join(name);
    let staged = versions.join(format!(".{name}.{:016x}", RandomState::new().hash_one(name)));
    let outcome = stage(&staged, bytes).map_err(|error| (error, false)).and_then(|()| {
        std::fs::hard_link(&staged, &target).map_err(|error| {
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            (error, exists)
        })
    });
    // A staged file that stays behind is clutter, not damage.
    let _ = std::fs::remove_file(&staged);
    let path = target.display().to_string();
    match outcome {
        Ok(()) => sync_folder(versions).map_err(generic),
        Err((source, true)) => Err(object_store::Error::AlreadyExists { path, source: source.into() }),
        Err((source, false)) => Err(generic(source)),
    }
}

fn stage(staged: &FilePath, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = staged.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::create_new(staged)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the new names themselves durable: the file's in its folder, and that folder's in the one above.
fn sync_folder(versions: &FilePath) -> io::Result<()> {
    if cfg!(unix) {
        for folder in versions.ancestors().take(2) {
            std::fs::File::open(folder)?.sync_all()?;
        }
    }
    Ok(())
}

fn generic(source: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: source.into() }
}
