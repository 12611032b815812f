//! Where the rows of each source come in, as a version of the definitions has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::IngestionError;
use super::admission::Admission;
use super::engine::{Ingestion, lock};
use super::view_plan::PlanContext;
use super::view_problems::ViewProblems;
use crate::definition::{Source, SourceName, StreamInput};
use crate::diagnostics::help_with_names;
use crate::registry::RegistryVersion;

/// Where the rows of one source come in, one batch after the other.
#[derive(Debug)]
pub(super) struct SourceDoor {
    pub(super) admission: Admission,
    pub(super) input: StreamInput,
    /// What its views cannot take, for those that cannot take everything.
    pub(super) checks: Vec<ViewProblems>,
}

impl Ingestion {
    pub(super) async fn open_doors(&self, registry: &Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let mut doors = HashMap::new();
        for source in &registry.definitions.sources {
            let Some(stream) = &source.stream else { continue };
            let watermark = self.notes().get(&source.name).and_then(|note| note.watermark);
            let Some(admission) = Admission::new(source, watermark) else { continue };
            let (input, checks) = (stream.input.clone(), self.checks(registry, source).await);
            doors.insert(source.name.clone(), SourceDoor { admission, input, checks });
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let mut opened = HashMap::new();
        for (name, door) in doors {
            let place = match sources.get(&name) {
                Some(place) => {
                    let mut current = lock(place);
                    let earlier = std::mem::replace(&mut *current, door);
                    current.admission.inherit(earlier.admission);
                    Arc::clone(place)
                }
                None => Arc::new(Mutex::new(door)),
            };
            opened.insert(name, place);
        }
        *sources = opened;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(registry));
        Ok(())
    }

    /// Told to those who send events that a view cannot take; a view that does not compile is a fault of its own.
    async fn checks(&self, registry: &RegistryVersion, source: &Source) -> Vec<ViewProblems> {
        let context = PlanContext {
            definitions: Arc::new(registry.definitions.clone()),
            engine: self.stores.engine.clone(),
            project: self.stores.project.clone(),
        };
        let mut checks = Vec::new();
        for view in registry.definitions.views_fed_by(&source.name) {
            checks.extend(ViewProblems::compile(&context, view, source).await.ok().flatten());
        }
        checks
    }

    /// Whether events of the source are taken.
    pub fn takes(&self, source: &str) -> bool {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).contains_key(&SourceName::new(source))
    }

    /// # Errors
    /// A source that is not there, has no stream, or takes no events now.
    pub(super) fn door(&self, name: &str) -> Result<Arc<Mutex<SourceDoor>>, IngestionError> {
        let door = self.known_source(name)?;
        match lock(&self.faults).sources.get(&SourceName::new(name)) {
            Some(fault) => {
                Err(IngestionError::SourceClosed { name: SourceName::new(name), source: Box::new(fault.clone()) })
            }
            None => Ok(door),
        }
    }

    /// As [`Self::door`], though the source may take no events now.
    pub(super) fn known_source(&self, name: &str) -> Result<Arc<Mutex<SourceDoor>>, IngestionError> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = sources.get(&SourceName::new(name)) {
            return Ok(Arc::clone(door));
        }
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let known = registry.iter().flat_map(|registry| &registry.definitions.sources);
        if let Some(source) = known.clone().find(|source| source.name.as_str() == name) {
            let reason = "it has no `stream`; add `stream: {type: push}`";
            return Err(IngestionError::NotPushed { name: source.name.clone(), reason });
        }
        let names: Vec<&str> = known.map(|source| source.name.as_str()).collect();
        Err(IngestionError::UnknownSource { name: name.to_owned(), help: help_with_names(name, "sources", &names) })
    }
}
