//! A project on disk: its settings, its definition files, its stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CliError;
use crate::compile::{Compiler, OnDemandPlan};
use crate::definition::{DefinitionFile, Definitions, parse_definitions};
use crate::engine::Engine;
use crate::materialization::Job;
use crate::offline_store::OfflineStore;
use crate::registry::{Registry, RegistryVersion};
use crate::retrieval::{BatchRetrieval, Catalog};
use crate::settings::{Settings, resolve};
use crate::time::TimeRange;

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
        let text = read(&folder.join(SETTINGS_FILE))?;
        let environment = |name: &str| std::env::var(name).ok();
        let settings = Settings::parse(&text, SETTINGS_FILE, &environment).map_err(CliError::Definitions)?;
        Ok(Project { folder, settings })
    }

    /// What the definition files say.
    pub fn definitions(&self) -> Result<Definitions, CliError> {
        let mut files = Vec::new();
        collect_files(&self.folder, &self.folder.join(DEFINITIONS_FOLDER), &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        parse_definitions(&files).map_err(CliError::Definitions)
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

    /// Checks what definition files cannot tell alone: that sources have the columns and types that are declared,
    /// that queries and expressions compile.
    pub async fn check_sources(&self, definitions: &Definitions) -> Result<(), CliError> {
        let engine = self.engine()?;
        let shared = Arc::new(definitions.clone());
        for view in &definitions.feature_views {
            let compiler = Compiler::new(Arc::clone(&shared), self.folder.clone(), engine.session());
            compiler.view(view, TimeRange::UNBOUNDED).await?;
        }
        for view in &definitions.on_demand_feature_views {
            OnDemandPlan::compile(definitions, view)?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path)
        .map_err(|source| CliError::Io { action: format!("read `{}`", path.display()), source })
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
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            let shown = path.strip_prefix(project).unwrap_or(&path).display().to_string();
            files.push(DefinitionFile { path: shown, text: read(&path)? });
        }
    }
    Ok(())
}
