//! Where the rows of each source come in, as a version of the definitions has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::IngestionError;
use super::admission::{Admission, is_stored_as};
use super::engine::{Ingestion, lock};
use super::view_plan::{PlanContext, ViewPlan};
use crate::definition::{FeatureView, Source, SourceName, StreamInput, ViewInput, nearest};
use crate::offline_store::EventKind;
use crate::registry::RegistryVersion;

/// Where the rows of one source come in, one batch after the other.
#[derive(Debug)]
pub(super) struct SourceDoor {
    pub(super) admission: Admission,
    pub(super) input: StreamInput,
    /// Plans of views that compute, and may fail on a value.
    pub(super) checks: Vec<ViewPlan>,
    pub(super) duplicates: u64,
    pub(super) late: u64,
    pub(super) ignored: u64,
}

impl Ingestion {
    pub(super) async fn open_doors(&self, registry: &Arc<RegistryVersion>) -> Result<(), IngestionError> {
        let mut doors = HashMap::new();
        for source in &registry.definitions.sources {
            let Some(stream) = &source.stream else { continue };
            self.check_table(&source.name, registry).await?;
            let watermark = self.notes().get(&source.name).and_then(|note| note.watermark);
            let Some(admission) = Admission::new(source, watermark) else { continue };
            let (input, checks) = (stream.input.clone(), self.checks(registry, source).await?);
            let door = SourceDoor { admission, input, checks, duplicates: 0, late: 0, ignored: 0 };
            doors.insert(source.name.clone(), door);
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let mut opened = HashMap::new();
        for (name, mut door) in doors {
            let place = match sources.get(&name) {
                Some(place) => {
                    let mut current = lock(place);
                    (door.duplicates, door.late, door.ignored) = (current.duplicates, current.late, current.ignored);
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

    /// The plans that events have to pass before they are taken: one that fails on a row would fail every job, too.
    async fn checks(&self, registry: &RegistryVersion, source: &Source) -> Result<Vec<ViewPlan>, IngestionError> {
        let context = PlanContext {
            definitions: Arc::new(registry.definitions.clone()),
            engine: self.stores.engine.clone(),
            project: self.stores.project.clone(),
        };
        let mut checks = Vec::new();
        for view in registry.definitions.views_fed_by(&source.name).filter(|view| computes(view, source)) {
            let failed = |error| IngestionError::View { view: view.name.clone(), source: Arc::new(error) };
            checks.push(ViewPlan::compile(&context, view, source).await.map_err(failed)?);
        }
        Ok(checks)
    }

    /// # Errors
    /// A column whose values the source's event table could not hold.
    async fn check_table(&self, name: &SourceName, registry: &RegistryVersion) -> Result<(), IngestionError> {
        let Some(table) = self.stores.offline.event_table(EventKind::Accepted, name).await? else { return Ok(()) };
        let schema = table.schema()?;
        let source = registry.definitions.source(name.as_str()).and_then(|source| source.stream.as_ref());
        for column in source.iter().flat_map(|stream| &stream.columns) {
            if let Ok(field) = schema.field_with_name(&column.name)
                && !is_stored_as(field.data_type(), &column.value_type)
            {
                return Err(IngestionError::TableType {
                    source_name: name.clone(),
                    column: column.name.clone(),
                    found: crate::arrow_types::type_name(field.data_type()),
                    declared: column.value_type.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether events of the source are taken.
    pub fn takes(&self, source: &str) -> bool {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).contains_key(&SourceName::new(source))
    }

    pub(super) fn door(&self, name: &str) -> Result<Arc<Mutex<SourceDoor>>, IngestionError> {
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
        let nearest = nearest(name, known.map(|source| source.name.as_str())).map(str::to_owned);
        Err(IngestionError::UnknownSource { name: name.to_owned(), nearest })
    }
}

/// Whether the plan of a view does more than choose columns.
fn computes(view: &FeatureView, source: &Source) -> bool {
    let is_column = |expression: &String| {
        let columns = source.stream.iter().flat_map(|stream| &stream.columns);
        columns.into_iter().any(|column| column.name == *expression)
    };
    let ViewInput::Aggregations { filter, .. } = &view.input else { return false };
    filter.is_some() || !view.event_columns.iter().all(|column| is_column(&column.expression))
}
