//! A project on disk: its settings, its definition files, its stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::prelude::SessionContext;

use super::error::CliError;
use crate::compile::{CompileError, Compiler, OnDemandPlan, Place};
use crate::definition::{DefinitionFile, Definitions, Positions, Source, parse_located};
use crate::diagnostics::Reporter;
use crate::engine::Engine;
use crate::error::{ErrorKind, error_chain};
use crate::materialization::Job;
use crate::offline_store::{EventKind, OfflineStore};
use crate::registry::{Registry, RegistryVersion};
use crate::retrieval::{BatchRetrieval, Catalog};
use crate::settings::{Settings, resolve};
use crate::stream_ingestion::unstorable;

const SETTINGS_FILE: &str = "asof.yaml";
const DEFINITIONS_FOLDER: &str = "feature_defs";

#[derive(Debug, Clone)]
pub struct Project {
    pub folder: PathBuf,
    pub settings: Settings,
}

impl Project {
    /// The project in `folder`, or the nearest one from the working directory upwards.
    pub fn find(folder: Option<&Path>) -> Result<Self, CliError> {
        let start = match folder {
            Some(folder) => std::path::absolute(folder),
            None => std::env::current_dir(),
        };
        let start = start.map_err(|source| CliError::Io { action: "tell the working directory".to_owned(), source })?;
        let candidates: Vec<&Path> = if folder.is_some() { vec![start.as_path()] } else { start.ancestors().collect() };
        let found = candidates.into_iter().find(|candidate| candidate.join(SETTINGS_FILE).is_file());
        let folder = found.map(Path::to_owned).ok_or_else(|| CliError::NoProject { folder: start.clone() })?;
        let text = read(&folder.join(SETTINGS_FILE), SETTINGS_FILE)?;
        let environment = |name: &str| std::env::var(name).ok();
        let settings = Settings::parse(&text, SETTINGS_FILE, &environment).map_err(CliError::Definitions)?;
        Ok(Project { folder, settings })
    }

    /// What the definition files say, before it is known whether their sources agree.
    pub fn definitions(&self) -> Result<Definitions, CliError> {
        Ok(self.written_definitions()?.definitions)
    }

    /// Where definition files are looked for.
    pub fn definitions_folder(&self) -> PathBuf {
        self.folder.join(DEFINITIONS_FOLDER)
    }

    fn written_definitions(&self) -> Result<WrittenDefinitions, CliError> {
        let mut files = Vec::new();
        collect_files(&self.folder, &self.definitions_folder(), &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (definitions, positions) = parse_located(&files).map_err(CliError::Definitions)?;
        Ok(WrittenDefinitions { definitions, positions, files })
    }

    pub fn registry(&self) -> Result<Registry, CliError> {
        Ok(Registry::open(&resolve(&self.folder, &self.settings.registry))?)
    }

    pub async fn applied(&self) -> Result<Arc<RegistryVersion>, CliError> {
        let latest = self.registry()?.latest().await?;
        latest.map(Arc::new).ok_or(CliError::NothingApplied)
    }

    pub async fn catalog(&self) -> Result<Catalog, CliError> {
        Ok(Catalog::new(self.applied().await?)?)
    }

    /// The definitions as they were at an earlier version.
    pub async fn catalog_at(&self, version: u64) -> Result<Catalog, CliError> {
        Ok(Catalog::new(Arc::new(self.registry()?.version(version).await?))?)
    }

    pub fn offline_store(&self) -> Result<OfflineStore, CliError> {
        Ok(OfflineStore::open(&resolve(&self.folder, &self.settings.offline_store))?)
    }

    pub fn engine(&self) -> Result<Engine, CliError> {
        Engine::new(self.settings.engine.memory).map_err(|error| CliError::Engine(Box::new(error)))
    }

    pub fn job(&self, registry: Arc<RegistryVersion>) -> Result<Job, CliError> {
        let offline_store = self.offline_store()?;
        Ok(Job { registry, offline_store, engine: self.engine()?, project: self.folder.clone() })
    }

    pub fn batch_retrieval(&self) -> Result<BatchRetrieval, CliError> {
        Ok(BatchRetrieval {
            offline_store: self.offline_store()?,
            engine: self.engine()?,
            project: self.folder.clone(),
        })
    }

    /// What the definition files say, checked against what they cannot tell alone: that sources have the columns and
    /// types that are declared, that queries and expressions compile.
    ///
    /// # Errors
    /// Everything that is wrong in all files, with its place.
    pub async fn checked_definitions(&self) -> Result<Definitions, CliError> {
        let mut written = self.written_definitions()?;
        let errors = self.compile(&mut written.definitions).await?;
        written.report(errors)?;
        Ok(written.definitions)
    }

    /// As [`Self::checked_definitions`], and that event tables can hold what streams are to bring.
    ///
    /// # Errors
    /// As of [`Self::checked_definitions`].
    pub async fn definitions_to_apply(&self, base: Option<&Arc<RegistryVersion>>) -> Result<Definitions, CliError> {
        let mut written = self.written_definitions()?;
        let mut errors = self.compile(&mut written.definitions).await?;
        errors.extend(self.compare_event_tables(&written.definitions, base).await?);
        written.report(errors)?;
        Ok(written.definitions)
    }

    /// Columns of streams whose event tables hold values of another type.
    async fn compare_event_tables(
        &self,
        definitions: &Definitions,
        base: Option<&Arc<RegistryVersion>>,
    ) -> Result<Vec<CompileError>, CliError> {
        let store = self.offline_store()?;
        let columns = |source: &Source| source.stream.as_ref().map(|stream| stream.columns.clone());
        let is_changed = |base: &RegistryVersion| {
            let before = |source: &Source| base.definitions.source(source.name.as_str()).and_then(columns);
            definitions
                .sources
                .iter()
                .any(|source| before(source).is_some_and(|before| columns(source) != Some(before)))
        };
        if let Some(base) = base.filter(|base| is_changed(base)) {
            // What is acknowledged may be in no table yet.
            self.settle_streams(base, &[]).await?;
        }
        let mut errors = Vec::new();
        for source in &definitions.sources {
            let Some(stream) = &source.stream else { continue };
            let Some(table) = store.event_table(EventKind::Accepted, &source.name).await? else { continue };
            let schema = table.schema()?;
            errors.extend(unstorable(stream, &schema).map(|(column, stored)| CompileError::EventTableType {
                name: source.name.clone(),
                column: column.name.clone(),
                declared: column.value_type.clone(),
                stored,
            }));
        }
        Ok(errors)
    }

    /// Gives streams the columns of their sources, and tells which cannot be.
    pub async fn resolve_streams(&self, definitions: &mut Definitions, context: &SessionContext) -> Vec<CompileError> {
        let compiler = Compiler::new(Arc::new(definitions.clone()), self.folder.clone(), context.clone());
        let mut errors = Vec::new();
        for source in definitions.sources.iter_mut().filter(|source| source.stream.is_some()) {
            match (compiler.stream_columns(source).await, &mut source.stream) {
                (Ok(columns), Some(stream)) => stream.columns = columns,
                (Ok(_), None) => {}
                // The views of the source tell what they cannot read.
                (Err(error @ CompileError::EventId { .. }), _) => errors.push(error),
                (Err(error), _) => {
                    let is_read =
                        definitions.feature_views.iter().any(|view| view.input.sources().contains(&source.name));
                    errors.extend((!is_read).then_some(error));
                }
            }
        }
        errors
    }

    /// Gives the features of aggregation views their types, and tells all that does not compile.
    async fn compile(&self, definitions: &mut Definitions) -> Result<Vec<CompileError>, CliError> {
        let engine = self.engine()?;
        let mut errors = self.resolve_streams(definitions, &engine.session()).await;
        let shared = Arc::new(definitions.clone());
        let compiler = || Compiler::new(Arc::clone(&shared), self.folder.clone(), engine.session());
        for view in &mut definitions.feature_views {
            let compiler = compiler();
            match compiler.resolve(view).await {
                Ok(resolved) => *view = resolved,
                Err(unresolved) => {
                    errors.extend(unresolved);
                    continue;
                }
            }
            errors.extend(compiler.check(view).await);
        }
        // A view's check opens the sources that it reads.
        let is_read =
            |source: &Source| definitions.feature_views.iter().any(|view| view.input.sources().contains(&source.name));
        let is_unread = |source: &&Source| source.batch.is_some() && source.stream.is_none() && !is_read(source);
        for source in definitions.sources.iter().filter(is_unread) {
            errors.extend(compiler().source(source).await.err());
        }
        for view in &definitions.on_demand_feature_views {
            errors.extend(OnDemandPlan::compile_all(definitions, view).err().unwrap_or_default());
        }
        Ok(errors)
    }
}

/// Definitions and the files they stand in.
struct WrittenDefinitions {
    definitions: Definitions,
    positions: Positions,
    files: Vec<DefinitionFile>,
}

impl WrittenDefinitions {
    /// # Errors
    /// The errors with their places in the files; one that is not the definitions' fault only if all are such.
    fn report(&self, errors: Vec<CompileError>) -> Result<(), CliError> {
        let mut reporter = Reporter::default();
        for file in &self.files {
            reporter.add_file(&file.path, &file.text);
        }
        let mut others = Vec::new();
        for error in errors {
            let place = error.place().filter(|_| error.kind() == ErrorKind::Invalid);
            let span = place.and_then(|Place { owner, part, within }| {
                let span = self.positions.span(&owner, &part)?;
                Some(within.map_or(span, |within| reporter.within(span, within)))
            });
            match span {
                Some(span) => reporter.error(span, error_chain(&error)),
                None => others.push(error),
            }
        }
        reporter.finish().map_err(CliError::Definitions)?;
        others.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
    }
}

/// The text of a file; `shown` is its name in messages.
fn read(path: &Path, shown: &str) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(|source| CliError::Io { action: format!("read `{shown}`"), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|byte| *byte == b'\n').count();
        let problem = format!("line {line} is not UTF-8; save the file as UTF-8");
        CliError::Data { file: shown.to_owned(), problem }
    })
}

fn collect_files(project: &Path, folder: &Path, files: &mut Vec<DefinitionFile>) -> Result<(), CliError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CliError::Io { action: format!("read `{}`", folder.display()), source }),
    };
    for entry in entries {
        let entry = entry.map_err(|source| CliError::Io { action: format!("read `{}`", folder.display()), source })?;
        let path = entry.path();
        if path.is_dir() {
            collect_files(project, &path, files)?;
        } else if is_yaml(&path) {
            let shown = path.strip_prefix(project).unwrap_or(&path).display().to_string();
            files.push(DefinitionFile { text: read(&path, &shown)?, path: shown });
        }
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"))
}
