//! Reads and adds events.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::CHAMPION;
use super::error::ModelRegistryError;
use super::event::{Event, EventFile, FORMAT_VERSION, Golden, ModelVersion};
use super::live::{missing_inputs, route_that_names};
use super::models::Models;
use crate::definition::{Definitions, is_valid_name};
use crate::registry::RegistryFolder;
use crate::time::{Clock, EventTimestamp};

/// How often an event is tried again after events of others.
const TRIES_MAX: usize = 100;

/// The models of a project, beside the versions of its definitions.
#[derive(Debug)]
pub struct ModelRegistry {
    log: RegistryFolder,
    artefacts: RegistryFolder,
    known: Mutex<Arc<Models>>,
}

/// What is registered: a version without its number, and its bytes.
#[derive(Debug, Clone)]
pub struct NewModel {
    /// `version`, `sha256`, `bytes` and `golden` are filled in.
    pub version: ModelVersion,
    pub bytes: Vec<u8>,
    /// The golden rows that were checked, and their number.
    pub golden: Option<(usize, Vec<u8>)>,
}

impl ModelRegistry {
    /// The models of the registry at a location; neither disk nor network is touched.
    ///
    /// # Errors
    /// As of [`crate::registry::Registry::open`].
    pub fn open(location: &str) -> Result<Self, ModelRegistryError> {
        let log = RegistryFolder::open(location, "models/log")?;
        let artefacts = RegistryFolder::open(location, "models/artefacts")?;
        Ok(ModelRegistry { log, artefacts, known: Mutex::default() })
    }

    /// What holds now. Costs one look for the next event when nothing is new.
    ///
    /// # Errors
    /// A registry that cannot be read, or is damaged.
    pub async fn models(&self) -> Result<Arc<Models>, ModelRegistryError> {
        let mut models = Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(bytes) = self.log.read(&file_name(models.position + 1)).await? {
            let EventFile { at, event, .. } = self.decode(models.position + 1, &bytes)?;
            Arc::make_mut(&mut models).apply(EventTimestamp::from_micros(at), event);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.position < models.position {
            *known = Arc::clone(&models);
        }
        Ok(models)
    }

    /// Adds a version; the first of a model is its champion.
    ///
    /// # Errors
    /// A name that cannot be one; a registry that cannot be written: then nothing is registered.
    pub async fn register(&self, new: NewModel, clock: &dyn Clock) -> Result<Arc<ModelVersion>, ModelRegistryError> {
        let NewModel { mut version, bytes, golden } = new;
        check_name("a model", &version.model)?;
        version.bytes = bytes.len() as u64;
        version.sha256 = self.keep(bytes).await?;
        if let Some((rows, bytes)) = golden {
            version.golden = Some(Golden { rows, sha256: self.keep(bytes).await? });
        }
        let name = version.model.clone();
        let next = |models: &Models| {
            let mut version = version.clone();
            version.version = models.models.get(&name).map_or(0, |model| model.versions.len() as u64) + 1;
            Ok(Event::Registered(Box::new(version)))
        };
        let (event, models) = self.add(next, clock).await?;
        // Others may have registered theirs since.
        let number = if let Event::Registered(version) = event { version.version } else { 0 };
        let model = models.model(&name)?;
        let registered = Arc::clone(model.version(&name, number)?);
        // Whoever was killed before this left a model without a champion; the next version mends that.
        if model.history.is_empty() {
            match self.move_alias(&name, CHAMPION, Some(1), Some(None), clock).await {
                // Somebody else did it.
                Ok(_) | Err(ModelRegistryError::Moved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(registered)
    }

    /// Removes an alias; with `expected`, only if that is what it stands for.
    ///
    /// # Errors
    /// As of [`Self::set_alias`]; [`ModelRegistryError::Named`] while a route of the definitions names it.
    pub async fn remove_alias(
        &self,
        model: &str,
        alias: &str,
        expected: Option<Option<u64>>,
        definitions: &Definitions,
        clock: &dyn Clock,
    ) -> Result<Arc<Models>, ModelRegistryError> {
        check_unnamed(definitions, model, alias)?;
        self.move_alias(model, alias, None, expected, clock).await
    }

    /// Moves an alias to a version; with `expected`, only if that is what it stands for.
    ///
    /// # Errors
    /// A version that does not exist or is retired; [`ModelRegistryError::Unfit`] where the definitions have no more
    /// what it reads; [`ModelRegistryError::Moved`].
    pub async fn set_alias(
        &self,
        model: &str,
        alias: &str,
        to: u64,
        expected: Option<Option<u64>>,
        definitions: &Definitions,
        clock: &dyn Clock,
    ) -> Result<Arc<Models>, ModelRegistryError> {
        check_fit(definitions, self.models().await?.model(model)?.version(model, to)?)?;
        self.move_alias(model, alias, Some(to), expected, clock).await
    }

    async fn move_alias(
        &self,
        model: &str,
        alias: &str,
        to: Option<u64>,
        expected: Option<Option<u64>>,
        clock: &dyn Clock,
    ) -> Result<Arc<Models>, ModelRegistryError> {
        check_name("an alias", alias)?;
        let next = |models: &Models| {
            let registered = models.model(model)?;
            let from = registered.aliases.get(alias).copied();
            if let Some(version) = to {
                registered.version(model, version)?;
                if registered.retired.contains(&version) {
                    return Err(ModelRegistryError::Retired { model: model.to_owned(), version });
                }
            }
            if let Some(expected) = expected.filter(|expected| *expected != from) {
                let expected = expected.map_or("nothing".to_owned(), |version| format!("version {version}"));
                let (model, alias) = (model.to_owned(), alias.to_owned());
                return Err(ModelRegistryError::Moved { model, alias, found: from, expected });
            }
            if to.is_none() && from.is_none() {
                let known = registered.aliases.keys().cloned().collect();
                return Err(ModelRegistryError::UnknownAlias {
                    model: model.to_owned(),
                    alias: alias.to_owned(),
                    known,
                });
            }
            Ok(Event::AliasMoved { model: model.to_owned(), alias: alias.to_owned(), from, to })
        };
        Ok(self.add(next, clock).await?.1)
    }

    /// Takes a version out of use for good.
    ///
    /// # Errors
    /// [`ModelRegistryError::InUse`] while an alias stands for it, [`ModelRegistryError::Named`] while a route of the
    /// definitions names it.
    pub async fn retire(
        &self,
        model: &str,
        version: u64,
        definitions: &Definitions,
        clock: &dyn Clock,
    ) -> Result<Arc<Models>, ModelRegistryError> {
        check_unnamed(definitions, model, &version.to_string())?;
        let next = |models: &Models| {
            let registered = models.model(model)?;
            registered.version(model, version)?;
            let aliases = registered.aliases_of(version);
            if !aliases.is_empty() {
                let aliases = aliases.into_iter().map(str::to_owned).collect();
                return Err(ModelRegistryError::InUse { model: model.to_owned(), version, aliases });
            }
            if registered.retired.contains(&version) {
                return Err(ModelRegistryError::Retired { model: model.to_owned(), version });
            }
            Ok(Event::Retired { model: model.to_owned(), version })
        };
        Ok(self.add(next, clock).await?.1)
    }

    /// The bytes of a version, checked against its SHA-256.
    ///
    /// # Errors
    /// [`ModelRegistryError::Artefact`] where they are not what they were.
    pub async fn artefact(&self, version: &ModelVersion) -> Result<Vec<u8>, ModelRegistryError> {
        let what = format!("model `{}` version {}", version.model, version.version);
        let bytes = self.artefacts.read(&version.sha256).await?.filter(|bytes| sha256(bytes) == version.sha256);
        bytes.ok_or_else(|| ModelRegistryError::Artefact { what, file: self.artefacts.shown(&version.sha256) })
    }

    /// Adds the event that `next` makes of what holds; of two callers at once one makes its event anew. Gives the event
    /// that was added, and what holds after it.
    async fn add(
        &self,
        next: impl Fn(&Models) -> Result<Event, ModelRegistryError>,
        clock: &dyn Clock,
    ) -> Result<(Event, Arc<Models>), ModelRegistryError> {
        for _ in 0..TRIES_MAX {
            let models = self.models().await?;
            let name = file_name(models.position + 1);
            let event = next(&models)?;
            let at = clock.now().micros();
            let file = EventFile { format_version: FORMAT_VERSION, at, event: event.clone() };
            let mut bytes = serde_json::to_vec_pretty(&file)
                .map_err(|source| ModelRegistryError::Corrupt { file: self.log.shown(&name), source })?;
            bytes.push(b'\n');
            if self.log.create(&name, bytes).await? {
                return Ok((event, self.models().await?));
            }
        }
        Err(ModelRegistryError::Busy)
    }

    /// Stores bytes under their SHA-256, and gives it.
    async fn keep(&self, bytes: Vec<u8>) -> Result<String, ModelRegistryError> {
        let name = sha256(&bytes);
        // Where there is one of the name, it has the same bytes.
        self.artefacts.create(&name, bytes).await?;
        Ok(name)
    }

    fn decode(&self, number: u64, bytes: &[u8]) -> Result<EventFile, ModelRegistryError> {
        let file = || self.log.shown(&file_name(number));
        let corrupt = |source| ModelRegistryError::Corrupt { file: file(), source };
        let head: Head = serde_json::from_slice(bytes).map_err(corrupt)?;
        if head.format_version > FORMAT_VERSION {
            let (found, supported) = (head.format_version, FORMAT_VERSION);
            return Err(ModelRegistryError::FutureFormat { file: file(), found, supported });
        }
        serde_json::from_slice(bytes).map_err(corrupt)
    }
}

#[derive(serde::Deserialize)]
struct Head {
    format_version: u64,
}

/// # Errors
/// [`ModelRegistryError::Unfit`].
pub fn check_fit(definitions: &Definitions, version: &ModelVersion) -> Result<(), ModelRegistryError> {
    let reasons = missing_inputs(definitions, version);
    if reasons.is_empty() {
        return Ok(());
    }
    let (model, version) = (version.model.clone(), version.version);
    Err(ModelRegistryError::Unfit { model, version, reasons: reasons.join("; ") })
}

fn check_unnamed(definitions: &Definitions, model: &str, pointer: &str) -> Result<(), ModelRegistryError> {
    match route_that_names(definitions, model, pointer) {
        Some(route) => Err(ModelRegistryError::Named { reference: format!("{model}@{pointer}"), route }),
        None => Ok(()),
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), ModelRegistryError> {
    match is_valid_name(name) {
        true => Ok(()),
        false => Err(ModelRegistryError::Name { what, name: name.to_owned() }),
    }
}

fn file_name(number: u64) -> String {
    format!("{number:020}.json")
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
