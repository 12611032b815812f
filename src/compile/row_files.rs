//! Row views whose rows stand in Parquet files as they are, so that whoever needs few of them can leave the rest unread.

use std::collections::BTreeMap;

use object_store::ObjectMeta;

use super::adapt::is_readable_as;
use super::files::SourceFiles;
use super::open::name_in_files;
use super::source::Compiler;
use super::{CompileError, SourceFilesError};
use crate::definition::{
    BatchLocation, CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView, FileFormat, Source, ValueType, ViewInput,
};
use crate::point_in_time_join::{TableFile, TableFiles};
use crate::settings::resolve;

/// Rows of a page of other people's files, about: what most writers have for a default.
const PAGE_ROWS: usize = 20_000;

impl Compiler {
    /// The files that hold the rows of [`Compiler::view`], their columns by other names at most.
    /// None: the rows are computed, or are no Parquet.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub async fn row_files(&self, view: &FeatureView) -> Result<Option<TableFiles>, CompileError> {
        let ViewInput::Rows { source } = &view.input else { return Ok(None) };
        let Some(source) = self.definitions.source(source.as_str()) else { return Ok(None) };
        if source.stream.is_some() {
            return Ok(None);
        }
        let Some(BatchLocation { format: FileFormat::Parquet, path }) = &source.batch else { return Ok(None) };
        let columns = self.columns_in_files(view, source);
        let schema = self.open(source).await?.schema();
        let stands = |(_, in_files, value_type): &(String, String, ValueType)| {
            schema.field_with_name(in_files).is_ok_and(|field| is_readable_as(field.data_type(), value_type))
        };
        if !columns.iter().all(stands) {
            return Ok(None);
        }
        let failed = |error: SourceFilesError| CompileError::Unreadable {
            name: source.name.clone(),
            path: path.clone(),
            source: Box::new(error),
        };
        let location = resolve(&self.project, path);
        let found = SourceFiles::find(&self.context, &location, FileFormat::Parquet).await.map_err(failed)?;
        let file = |file: &ObjectMeta| TableFile { path: file.location.to_string(), bytes: file.size };
        let renamed: BTreeMap<String, String> = columns
            .into_iter()
            .map(|(name, in_files, _)| (name, in_files))
            .filter(|(name, in_files)| name != in_files)
            .collect();
        Ok(Some(TableFiles {
            store: found.store_url.as_str().to_owned(),
            files: found.files.iter().map(file).collect(),
            page_rows: PAGE_ROWS,
            renamed,
            skips_untimed: true,
        }))
    }

    /// The view's columns: name, name in the source's files, type.
    fn columns_in_files(&self, view: &FeatureView, source: &Source) -> Vec<(String, String, ValueType)> {
        let times = [(EVENT_TIMESTAMP, &source.event_timestamp), (CREATED_TIMESTAMP, &source.created_timestamp)];
        let times = times.into_iter().filter_map(|(name, column)| {
            let column = column.as_ref()?;
            Some((name.to_owned(), name_in_files(source, column), ValueType::Timestamp))
        });
        let fields = self.definitions.join_keys(view).into_iter().chain(view.features.iter().cloned());
        let fields = fields.map(|field| {
            let in_files = name_in_files(source, &field.name);
            (field.name, in_files, field.value_type)
        });
        times.chain(fields).collect()
    }
}
