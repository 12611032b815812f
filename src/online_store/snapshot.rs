//! Snapshots of an online store: the files of one moment, in a folder or at an object store.
//!
//! ```text
//! LOCATION/snapshot.json      what it is, and each file with its length; written last
//! LOCATION/db/NAME            a file of the database
//! ```
//!
//! In a folder of the same file system files that never change are links to the store's own: a snapshot takes no time
//! and no space until the store moves on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::buffered::BufWriter;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, BufReader};
use url::Url;

use crate::error::ErrorKind;

const FORMAT: u32 = 1;
const DESCRIPTION: &str = "snapshot.json";
const DATABASE: &str = "db";

/// A folder for a checkpoint beside the store in `path`, on the same file system; none that is there.
pub fn checkpoint_path(path: &Path) -> PathBuf {
    let number = |number: u32| path.with_extension(format!("checkpoint-{}-{number}", std::process::id()));
    (0..).map(number).find(|path| !path.exists()).expect("there are more numbers than folders")
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    pub project: String,
    pub created_at: String,
    files: Vec<SnapshotFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotFile {
    name: String,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    #[error("there is no snapshot at {location}, or it was never finished")]
    None { location: String },
    #[error("{location} holds something already; take another place, so that no snapshot is lost")]
    Taken { location: String },
    #[error("the snapshot at {location} has format {found}, this program reads {FORMAT}")]
    Format { location: String, found: u32 },
    #[error("the snapshot at {location} is of project `{found}`, and this is project `{project}`")]
    OtherProject { location: String, found: String, project: String },
    #[error("the snapshot at {location} is damaged: {problem}")]
    Damaged { location: String, problem: String },
    #[error("{location} is no place for a snapshot: {problem}")]
    Location { location: String, problem: String },
    #[error("cannot {action} {location}")]
    Io { action: &'static str, location: String, source: std::io::Error },
    #[error("the object store cannot {action} {location}")]
    Store { action: &'static str, location: String, source: object_store::Error },
}

impl SnapshotError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            SnapshotError::None { .. } => ErrorKind::NotFound,
            SnapshotError::Taken { .. } | SnapshotError::Location { .. } | SnapshotError::OtherProject { .. } => {
                ErrorKind::Invalid
            }
            SnapshotError::Format { .. } => ErrorKind::Precondition,
            SnapshotError::Damaged { .. } => ErrorKind::Corrupt,
            SnapshotError::Io { .. } | SnapshotError::Store { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Snapshot {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Makes a snapshot at `location` out of the files of a checkpoint, which may be moved there.
    ///
    /// # Errors
    /// A place that holds something, or cannot be written.
    pub async fn publish(
        checkpoint: &Path,
        location: &str,
        project: &str,
        created_at: String,
    ) -> Result<Snapshot, SnapshotError> {
        let files = list_files(checkpoint)?;
        let snapshot = Snapshot { format: FORMAT, project: project.to_owned(), created_at, files };
        match Place::parse(location)? {
            Place::Folder(folder) => snapshot.publish_in_folder(checkpoint, &folder)?,
            Place::Objects { store, prefix } => snapshot.publish_objects(checkpoint, store, &prefix, location).await?,
        }
        Ok(snapshot)
    }

    /// Brings the files of the snapshot at `location` into `folder`, which must not exist.
    ///
    /// # Errors
    /// No snapshot there, one of another project, or one whose files are not as it says.
    pub async fn fetch(location: &str, folder: &Path, project: &str) -> Result<Snapshot, SnapshotError> {
        let place = Place::parse(location)?;
        let snapshot = place.read_description(location).await?;
        if snapshot.format != FORMAT {
            return Err(SnapshotError::Format { location: location.to_owned(), found: snapshot.format });
        }
        if snapshot.project != project {
            let (location, project) = (location.to_owned(), project.to_owned());
            return Err(SnapshotError::OtherProject { location, found: snapshot.project, project });
        }
        let damaged = |problem: String| SnapshotError::Damaged { location: location.to_owned(), problem };
        let io = |action, path: &Path| {
            let location = path.display().to_string();
            move |source| SnapshotError::Io { action, location, source }
        };
        std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        for SnapshotFile { name, bytes } in &snapshot.files {
            // A description from elsewhere names files of the snapshot, and no others.
            if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(damaged(format!("`{name}` is no file of a snapshot")));
            }
            let target = folder.join(name);
            match &place {
                Place::Folder(source) => {
                    let source = source.join(DATABASE).join(name);
                    link_or_copy(&source, &target).map_err(|error| match error.kind() {
                        std::io::ErrorKind::NotFound => damaged(format!("`{name}` is missing")),
                        _ => io("read", &source)(error),
                    })?;
                }
                Place::Objects { store, prefix } => {
                    let path = prefix.clone().join(DATABASE).join(name.as_str());
                    let failed = |source| match source {
                        object_store::Error::NotFound { .. } => damaged(format!("`{name}` is missing")),
                        source => SnapshotError::Store { action: "read", location: path.to_string(), source },
                    };
                    let mut pieces = store.get(&path).await.map_err(failed)?.into_stream();
                    let mut file = tokio::fs::File::create(&target).await.map_err(io("write", &target))?;
                    while let Some(piece) = futures::StreamExt::next(&mut pieces).await {
                        file.write_all(&piece.map_err(failed)?).await.map_err(io("write", &target))?;
                    }
                    file.sync_all().await.map_err(io("write", &target))?;
                }
            }
            let found = std::fs::metadata(&target).map_err(io("read", &target))?.len();
            if found != *bytes {
                return Err(damaged(format!("`{name}` has {found} bytes instead of {bytes}")));
            }
        }
        Ok(snapshot)
    }

    fn publish_in_folder(&self, checkpoint: &Path, folder: &Path) -> Result<(), SnapshotError> {
        let io = |action| {
            let location = folder.display().to_string();
            move |source| SnapshotError::Io { action, location, source }
        };
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(SnapshotError::Taken { location: folder.display().to_string() });
        }
        let database = folder.join(DATABASE);
        std::fs::create_dir_all(&database).map_err(io("make"))?;
        for file in &self.files {
            link_or_copy(&checkpoint.join(&file.name), &database.join(&file.name)).map_err(io("write"))?;
        }
        let described = self.describe();
        // Last, and in one step: what lacks it is no snapshot.
        let new = folder.join("snapshot.json.new");
        std::fs::write(&new, described).map_err(io("write"))?;
        for path in [&new, &database, folder] {
            std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(io("write"))?;
        }
        std::fs::rename(&new, folder.join(DESCRIPTION)).map_err(io("write"))
    }

    async fn publish_objects(
        &self,
        checkpoint: &Path,
        store: Arc<dyn ObjectStore>,
        prefix: &ObjectPath,
        location: &str,
    ) -> Result<(), SnapshotError> {
        let failed = |action| {
            let location = location.to_owned();
            move |source| SnapshotError::Store { action, location, source }
        };
        match store.head(&prefix.clone().join(DESCRIPTION)).await {
            Ok(_) => return Err(SnapshotError::Taken { location: location.to_owned() }),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed("read")(error)),
        }
        for SnapshotFile { name, .. } in &self.files {
            let io = |source| SnapshotError::Io { action: "copy", location: name.clone(), source };
            let file = tokio::fs::File::open(checkpoint.join(name)).await.map_err(io)?;
            let path = prefix.clone().join(DATABASE).join(name.as_str());
            let mut writer = BufWriter::new(Arc::clone(&store), path);
            tokio::io::copy_buf(&mut BufReader::with_capacity(1 << 20, file), &mut writer).await.map_err(io)?;
            writer.shutdown().await.map_err(io)?;
        }
        let description = prefix.clone().join(DESCRIPTION);
        store.put(&description, self.describe().into()).await.map(drop).map_err(failed("write"))
    }

    fn describe(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names and numbers are what JSON can write")
    }
}

/// Where a snapshot lies.
enum Place {
    Folder(PathBuf),
    Objects { store: Arc<dyn ObjectStore>, prefix: ObjectPath },
}

impl Place {
    fn parse(location: &str) -> Result<Self, SnapshotError> {
        let wrong = |problem: String| SnapshotError::Location { location: location.to_owned(), problem };
        if !location.contains("://") {
            return Ok(Place::Folder(PathBuf::from(location)));
        }
        let url = Url::parse(location).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() == "file" {
            return url.to_file_path().map(Place::Folder).map_err(|()| wrong("it is no folder".to_owned()));
        }
        let options = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let opened = object_store::parse_url_opts(&url, options);
        let (store, prefix) = opened.map_err(|error| wrong(error.to_string()))?;
        Ok(Place::Objects { store: Arc::from(store), prefix })
    }

    async fn read_description(&self, location: &str) -> Result<Snapshot, SnapshotError> {
        let none = || SnapshotError::None { location: location.to_owned() };
        let text = match self {
            Place::Folder(folder) => std::fs::read(folder.join(DESCRIPTION)).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => none(),
                _ => SnapshotError::Io { action: "read", location: location.to_owned(), source },
            })?,
            Place::Objects { store, prefix } => {
                let failed = |source| match source {
                    object_store::Error::NotFound { .. } => none(),
                    source => SnapshotError::Store { action: "read", location: location.to_owned(), source },
                };
                let found = store.get(&prefix.clone().join(DESCRIPTION)).await.map_err(failed)?;
                found.bytes().await.map_err(failed)?.to_vec()
            }
        };
        let damaged = |problem: String| SnapshotError::Damaged { location: location.to_owned(), problem };
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
    }
}

fn list_files(folder: &Path) -> Result<Vec<SnapshotFile>, SnapshotError> {
    let io = |source| SnapshotError::Io { action: "read", location: folder.display().to_string(), source };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok(SnapshotFile { name: entry.file_name().to_string_lossy().into_owned(), bytes: entry.metadata()?.len() })
    };
    let mut files: Vec<SnapshotFile> =
        std::fs::read_dir(folder).map_err(io)?.map(file).collect::<std::io::Result<_>>().map_err(io)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A second name for a file that never changes, where the file system has that; a copy of any other.
fn link_or_copy(source: &Path, target: &Path) -> std::io::Result<()> {
    let is_constant = source.extension().is_some_and(|extension| extension == "sst");
    if is_constant && std::fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    std::fs::copy(source, target)?;
    std::fs::File::open(target)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
        folder
    }

    async fn publish(location: &str) -> Result<Snapshot, SnapshotError> {
        let checkpoint = checkpoint(&[("000001.sst", "values"), ("CURRENT", "MANIFEST-1")]);
        Snapshot::publish(checkpoint.path(), location, "p", "2026-01-01T00:00:00Z".to_owned()).await
    }

    #[tokio::test]
    async fn a_snapshot_is_fetched_as_it_was_published() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("a").display().to_string();
        let published = publish(&location).await.unwrap();
        assert_eq!((published.files(), published.bytes()), (2, 16));
        let target = folder.path().join("fetched");
        assert_eq!(Snapshot::fetch(&location, &target, "p").await.unwrap(), published);
        assert_eq!(std::fs::read_to_string(target.join("000001.sst")).unwrap(), "values");
        assert!(matches!(publish(&location).await, Err(SnapshotError::Taken { .. })));
    }

    #[tokio::test]
    async fn what_is_no_snapshot_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let fetch = async |name: &str| {
            let target = at(&format!("{name}.fetched"));
            Snapshot::fetch(at(name).to_str().unwrap(), &target, "p").await.unwrap_err()
        };
        assert!(matches!(fetch("nowhere").await, SnapshotError::None { .. }));
        // One that was killed before it was finished has no description.
        publish(at("killed").to_str().unwrap()).await.unwrap();
        std::fs::remove_file(at("killed").join(DESCRIPTION)).unwrap();
        assert!(matches!(fetch("killed").await, SnapshotError::None { .. }));
        publish(at("cut").to_str().unwrap()).await.unwrap();
        std::fs::write(at("cut").join(DATABASE).join("CURRENT"), "M").unwrap();
        assert!(matches!(fetch("cut").await, SnapshotError::Damaged { .. }));
        std::fs::remove_dir_all(at("cut.fetched")).unwrap();
        std::fs::remove_file(at("cut").join(DATABASE).join("CURRENT")).unwrap();
        assert!(fetch("cut").await.to_string().contains("`CURRENT` is missing"));
        publish(at("other").to_str().unwrap()).await.unwrap();
        let other = Snapshot::fetch(at("other").to_str().unwrap(), &at("other.fetched"), "q").await.unwrap_err();
        assert!(matches!(other, SnapshotError::OtherProject { .. }));
        for description in ["{", r#"{"format":1,"project":"p","created_at":"","files":[{"name":"../x","bytes":1}]}"#] {
            std::fs::create_dir_all(at("foreign")).unwrap();
            std::fs::write(at("foreign").join(DESCRIPTION), description).unwrap();
            assert!(matches!(fetch("foreign").await, SnapshotError::Damaged { .. }), "{description}");
        }
        let format = r#"{"format":2,"project":"p","created_at":"","files":[]}"#;
        std::fs::write(at("foreign").join(DESCRIPTION), format).unwrap();
        assert!(matches!(fetch("foreign").await, SnapshotError::Format { found: 2, .. }));
    }

    #[tokio::test]
    async fn an_object_store_takes_a_snapshot() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let checkpoint = checkpoint(&[("000001.sst", "values")]);
        let files = list_files(checkpoint.path()).unwrap();
        let snapshot = Snapshot { format: FORMAT, project: "p".to_owned(), created_at: String::new(), files };
        let prefix = ObjectPath::from("backups/1");
        snapshot.publish_objects(checkpoint.path(), Arc::clone(&store), &prefix, "x").await.unwrap();
        let again = snapshot.publish_objects(checkpoint.path(), Arc::clone(&store), &prefix, "x").await;
        assert!(matches!(again, Err(SnapshotError::Taken { .. })));
        let place = Place::Objects { store: Arc::clone(&store), prefix: prefix.clone() };
        assert_eq!(place.read_description("x").await.unwrap(), snapshot);
        let value = store.get(&prefix.join(DATABASE).join("000001.sst")).await.unwrap().bytes().await.unwrap();
        assert_eq!(&value[..], b"values");
    }
}
