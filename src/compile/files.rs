//! The files of a source: a file, the files of a folder, or those that a glob matches, on disk or in an object store.
//!
//! `*`, `?` and `[…]` stand for characters of one name, `**` for any number of folders. Names that begin with `.` or
//! `_` are left out, unless the glob spells the character.

use std::sync::Arc;

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::SessionContext;
use glob::Pattern;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::SourceFilesError;
use crate::definition::FileFormat;

/// The files of one source, in the order of their names; at least one.
pub(super) struct SourceFiles {
    pub store: Arc<dyn ObjectStore>,
    pub store_url: ObjectStoreUrl,
    pub files: Vec<ObjectMeta>,
}

impl SourceFiles {
    /// `location`: an absolute path or a URL.
    pub async fn find(context: &SessionContext, location: &str, format: FileFormat) -> Result<Self, SourceFilesError> {
        let place = Place::parse(location)?;
        let store = place.store(context)?;
        let mut files = match &place.glob {
            Some(glob) => matching(store.as_ref(), &place.path, glob, endings(format)).await?,
            None => named(store.as_ref(), &place.path, format).await?,
        };
        if files.is_empty() {
            return Err(SourceFilesError::NoMatch);
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        files.dedup_by(|a, b| a.location == b.location);
        Ok(SourceFiles { store, store_url: place.store_url, files })
    }

    /// One URL a file.
    pub fn urls(&self) -> Result<Vec<ListingTableUrl>, DataFusionError> {
        let url = |file: &ObjectMeta| {
            let mut url =
                Url::parse(self.store_url.as_str()).map_err(|error| DataFusionError::External(error.into()))?;
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.clear().extend(file.location.parts().map(|part| part.as_ref().to_owned()));
            }
            ListingTableUrl::try_new(url, None)
        };
        self.files.iter().map(url).collect()
    }

    /// How messages name a file: below `project` without its path.
    pub fn shown(&self, file: &ObjectMeta, project: &std::path::Path) -> String {
        if self.store_url != ObjectStoreUrl::local_filesystem() {
            return format!("{}{}", self.store_url.as_str(), file.location);
        }
        let path = std::path::PathBuf::from(format!("/{}", file.location));
        path.strip_prefix(project).unwrap_or(&path).display().to_string()
    }
}

/// A location, parsed.
struct Place {
    store_url: ObjectStoreUrl,
    url: Url,
    /// The file, or the folder that the glob starts from.
    path: Path,
    glob: Option<Vec<Part>>,
}

/// A part of a glob, between slashes.
enum Part {
    Name { pattern: Pattern, text: String },
    AnyFolders,
}

impl Place {
    fn parse(location: &str) -> Result<Self, SourceFilesError> {
        let is_glob = location.contains(['*', '?', '[']);
        let is_url = location.contains("://");
        // A file may be called as a glob is written.
        if !is_glob || (!is_url && std::path::Path::new(location).exists()) {
            return Place::new(location, None);
        }
        let parts: Vec<&str> = location.split('/').collect();
        let first = parts.iter().position(|part| part.contains(['*', '?', '['])).unwrap_or(parts.len());
        let mut glob = parts[first..].iter().map(|part| Part::parse(part)).collect::<Result<Vec<_>, _>>()?;
        if matches!(glob.last(), Some(Part::AnyFolders)) {
            glob.push(Part::parse("*")?);
        }
        Place::new(&format!("{}/", parts[..first].join("/")), Some(glob))
    }

    fn new(location: &str, glob: Option<Vec<Part>>) -> Result<Self, SourceFilesError> {
        let invalid = |problem: String| SourceFilesError::Location { problem };
        let url = match location.contains("://") {
            true => Url::parse(location).map_err(|error| invalid(error.to_string()))?,
            false => {
                let path = std::path::absolute(location).map_err(|error| invalid(error.to_string()))?;
                let url = Url::from_file_path(path).map_err(|()| invalid("it is no path of a file".to_owned()))?;
                // Parsing takes `..` out.
                Url::parse(url.as_str()).map_err(|error| invalid(error.to_string()))?
            }
        };
        let path = Path::from_url_path(url.path()).map_err(|error| invalid(error.to_string()))?;
        let store_url = ObjectStoreUrl::parse(&url[..url::Position::BeforePath])?;
        Ok(Place { store_url, url, path, glob })
    }

    fn store(&self, context: &SessionContext) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        if self.url.scheme() != "file" {
            let (store, _) = object_store::parse_url_opts(&self.url, std::env::vars())?;
            context.register_object_store(self.store_url.as_ref(), Arc::from(store));
        }
        context.runtime_env().object_store(&self.store_url)
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, SourceFilesError> {
        if text == "**" {
            return Ok(Part::AnyFolders);
        }
        let pattern = Pattern::new(text)
            .map_err(|error| SourceFilesError::Location { problem: format!("`{text}` is no glob: {}", error.msg) })?;
        Ok(Part::Name { pattern, text: text.to_owned() })
    }
}

/// Whether a glob sees a name: those that begin with `.` or `_` only where `pattern` begins so too.
fn is_seen(name: &str, pattern: &str) -> bool {
    !name.starts_with(['.', '_']) || pattern.chars().next() == name.chars().next()
}

/// What the names of a format's files end in.
fn endings(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Csv => &[".csv"],
        FileFormat::Json => &[".json", ".ndjson", ".jsonl"],
        FileFormat::Parquet | FileFormat::Delta => &[".parquet"],
    }
}

fn has_ending(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The file of this name, or those of the folder.
async fn named(store: &dyn ObjectStore, path: &Path, format: FileFormat) -> Result<Vec<ObjectMeta>, SourceFilesError> {
    match store.head(path).await {
        Ok(file) => return Ok(vec![file]),
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let listed = match store.list_with_delimiter(Some(path)).await {
        Ok(listed) => listed,
        Err(object_store::Error::NotFound { .. }) => return Err(SourceFilesError::Missing),
        Err(error) => return Err(error.into()),
    };
    if listed.objects.is_empty() && listed.common_prefixes.is_empty() {
        return Err(SourceFilesError::Missing);
    }
    let is_wanted = |file: &ObjectMeta| {
        file.location.filename().is_some_and(|name| is_seen(name, "*") && has_ending(name, endings(format)))
    };
    let files: Vec<ObjectMeta> = listed.objects.into_iter().filter(is_wanted).collect();
    if files.is_empty() {
        return Err(SourceFilesError::EmptyFolder { endings: endings(format).join(", "), ending: endings(format)[0] });
    }
    Ok(files)
}

/// The files below `folder` that `glob` matches. Where its last part ends in `*`, those of the format.
async fn matching(
    store: &dyn ObjectStore,
    folder: &Path,
    glob: &[Part],
    endings: &[&str],
) -> Result<Vec<ObjectMeta>, SourceFilesError> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.clone(), glob)];
    while let Some((folder, glob)) = folders.pop() {
        let Some((part, rest)) = glob.split_first() else { continue };
        let listed = match store.list_with_delimiter(Some(&folder)).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match part {
            Part::AnyFolders => {
                let seen = listed.common_prefixes.into_iter();
                let seen = seen.filter(|below| below.filename().is_some_and(|name| is_seen(name, "*")));
                folders.extend(seen.map(|below| (below, glob)));
                folders.push((folder, rest));
            }
            Part::Name { pattern, text } => {
                let matches =
                    |path: &Path| path.filename().is_some_and(|name| is_seen(name, text) && pattern.matches(name));
                if rest.is_empty() {
                    let is_wanted = |file: &ObjectMeta| {
                        matches(&file.location) && (!text.ends_with('*') || has_ending(file.location.as_ref(), endings))
                    };
                    found.extend(listed.objects.into_iter().filter(is_wanted));
                } else {
                    let below = listed.common_prefixes.into_iter().filter(matches);
                    folders.extend(below.map(|below| (below, rest)));
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files whose names `glob` matches, of all these.
    async fn check(glob: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "1.parquet",
            ".hidden.parquet",
            "_temporary.parquet",
            "[x].parquet",
            "a b%20.parquet",
            "readme.txt",
            "deep/2.parquet",
            "deep/er/3.parquet",
            "deep/_delta/4.parquet",
            ".git/5.parquet",
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let location = format!("{}/{glob}", folder.path().display());
        let found = match SourceFiles::find(&SessionContext::new(), &location, FileFormat::Parquet).await {
            Ok(found) => found,
            Err(error) => {
                assert_eq!(expected, [error.to_string()], "{glob}");
                return;
            }
        };
        let shown: Vec<String> = found.files.iter().map(|file| found.shown(file, folder.path())).collect();
        assert_eq!(shown, expected, "{glob}");
        for (url, file) in found.urls().unwrap().iter().zip(&found.files) {
            assert_eq!(*url.prefix(), file.location);
        }
    }

    #[tokio::test]
    async fn a_star_stays_in_its_folder_and_two_cross_them() {
        let top = ["1.parquet", "[x].parquet", "a b%20.parquet"];
        check("*", &top).await;
        check("*.parquet", &top).await;
        check("", &top).await;
        check("?.parquet", &["1.parquet"]).await;
        check("[0-9].parquet", &["1.parquet"]).await;
        check("*/*.parquet", &["deep/2.parquet"]).await;
        check("deep/**", &["deep/2.parquet", "deep/er/3.parquet"]).await;
        check("**/[23].parquet", &["deep/2.parquet", "deep/er/3.parquet"]).await;
        check("**/**/3.parquet", &["deep/er/3.parquet"]).await;
        check("*.txt", &["readme.txt"]).await;
    }

    #[tokio::test]
    async fn hidden_names_are_read_where_they_are_spelled() {
        check("_*", &["_temporary.parquet"]).await;
        check(".hidden.parquet", &[".hidden.parquet"]).await;
        check("**/_delta/*", &["deep/_delta/4.parquet"]).await;
        check("[x].parquet", &["[x].parquet"]).await;
        check("a b%20.parquet", &["a b%20.parquet"]).await;
    }

    #[tokio::test]
    async fn what_is_not_there_is_told() {
        check("nothing.parquet", &["there is no such file, nor a folder with files"]).await;
        check("no*.parquet", &["no file matches; `*` matches within one folder, `**` crosses folders"]).await;
        check("[.parquet", &["`[.parquet` is no glob: invalid range pattern"]).await;
        check("deep/er/../_delta/..", &["deep/2.parquet"]).await;
    }
}
