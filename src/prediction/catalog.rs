//! What predictions are made from: one version of the definitions and of the models, compiled and loaded.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::PredictionError;
use super::inputs::InputNames;
use super::plan::{Planner, RoutePlan};
use crate::definition::{PredictionRoute, RouteAnswer, RouteName};
use crate::error::error_chain;
use crate::model_registry::{ModelReference, ModelRegistry, ModelVersion, Models, RegisteredModel};
use crate::model_runtime::{LoadOptions, Model};
use crate::retrieval::Catalog;

/// A version of a model that is ready to be asked.
#[derive(Debug)]
pub struct LoadedModel {
    pub version: Arc<ModelVersion>,
    pub model: Model,
    pub names: InputNames,
}

type Key = (String, u64);
type Loaded = HashMap<Key, Result<Arc<LoadedModel>, String>>;

#[derive(Debug)]
pub struct PredictionCatalog {
    pub features: Arc<Catalog>,
    pub models: Arc<Models>,
    loaded: Loaded,
    /// By name; why one cannot answer is told to those who ask it.
    routes: HashMap<String, Result<Arc<RoutePlan>, String>>,
    /// Those of models by `name@alias` and `name@version`.
    references: HashMap<String, Arc<RoutePlan>>,
}

impl PredictionCatalog {
    /// Compiles all routes, and loads every model that has an alias or is named by a route; those that `previous` has
    /// are taken over. A route or a model that cannot be used disturbs no other.
    pub async fn build(
        features: Arc<Catalog>,
        models: Arc<Models>,
        registry: &ModelRegistry,
        previous: Option<&PredictionCatalog>,
    ) -> Self {
        let mut loaded = Loaded::new();
        for version in needed(&features, &models) {
            let key = (version.model.clone(), version.version);
            let known = previous.and_then(|previous| previous.loaded.get(&key)?.as_ref().ok());
            let model = match known {
                Some(known) => Ok(Arc::clone(known)),
                None => load(registry, &version).await.map_err(|error| error_chain(&error)),
            };
            if let Err(problem) = &model {
                tracing::error!(model = version.model, version = version.version, problem, "a model cannot be loaded");
            }
            loaded.insert(key, model);
        }
        let (routes, references) = (HashMap::new(), HashMap::new());
        let mut catalog = PredictionCatalog { features, models, loaded, routes, references };
        let routes = catalog.features.definitions().prediction_routes.iter().map(|route| catalog.planned(route));
        let mut routes: HashMap<_, _> = routes.collect();
        for name in catalog.models.models.keys().filter(|name| !routes.contains_key(*name)).cloned().collect::<Vec<_>>()
        {
            // A model goes by its own name, too.
            routes.extend([catalog.planned(&route_of_model(&name, &name))]);
        }
        catalog.routes = routes;
        catalog.references = catalog.planned_references();
        catalog
    }

    fn planned_references(&self) -> HashMap<String, Arc<RoutePlan>> {
        let versions = self.loaded.keys().map(|(model, version)| format!("{model}@{version}"));
        let alias = |(name, model): (&String, &RegisteredModel)| -> Vec<String> {
            model.aliases.keys().map(|alias| format!("{name}@{alias}")).collect()
        };
        let references = versions.chain(self.models.models.iter().flat_map(alias));
        // Why one cannot be asked, whoever asks it is told.
        references
            .filter_map(|name| self.plan(&route_of_model(&name, &name)).ok().map(|plan| (name, Arc::new(plan))))
            .collect()
    }

    fn planned(&self, route: &PredictionRoute) -> (String, Result<Arc<RoutePlan>, String>) {
        let name = route.name.as_str().to_owned();
        let planned = self.plan(route).map(Arc::new).map_err(|error| error_chain(&error));
        if let Err(problem) = &planned {
            tracing::warn!(route = name, problem, "a route cannot answer");
        }
        (name, planned)
    }

    fn plan(&self, route: &PredictionRoute) -> Result<RoutePlan, PredictionError> {
        Planner { features: &self.features, load: &|reference| self.loaded(reference) }.plan(route)
    }

    fn loaded(&self, reference: &ModelReference) -> Result<Arc<LoadedModel>, PredictionError> {
        let version = self.models.resolve(reference)?;
        let unavailable = |problem: String| PredictionError::RouteUnavailable { route: reference.to_string(), problem };
        match self.loaded.get(&(version.model.clone(), version.version)) {
            Some(Ok(model)) => Ok(Arc::clone(model)),
            Some(Err(problem)) => Err(unavailable(problem.clone())),
            None => Err(unavailable("no alias and no route names it, so it is not loaded".to_owned())),
        }
    }

    /// The plan of a route, or of a model by reference.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one; a route that cannot answer, with the reason.
    pub fn route(&self, name: &str) -> Result<Arc<RoutePlan>, PredictionError> {
        match self.routes.get(name) {
            Some(Ok(plan)) => Ok(Arc::clone(plan)),
            Some(Err(problem)) => {
                Err(PredictionError::RouteUnavailable { route: name.to_owned(), problem: problem.clone() })
            }
            None if name.contains('@') => match self.references.get(name) {
                Some(plan) => Ok(Arc::clone(plan)),
                None => self.plan(&route_of_model(name, name)).map(Arc::new),
            },
            None => Err(PredictionError::unknown_route(name, self.routes.keys().map(String::as_str))),
        }
    }

    /// Names of all routes, those of models among them.
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.routes.keys().map(String::as_str)
    }

    /// All that can be asked.
    pub fn plans(&self) -> impl Iterator<Item = &Arc<RoutePlan>> {
        self.routes.values().flatten().chain(self.references.values())
    }

    /// Whether it is of these versions.
    pub fn is_of(&self, features: &Arc<Catalog>, models: &Models) -> bool {
        Arc::ptr_eq(&self.features, features) && self.models.position == models.position
    }
}

fn route_of_model(name: &str, reference: &str) -> PredictionRoute {
    PredictionRoute {
        name: RouteName::new(name),
        answer: RouteAnswer::Model { model: reference.to_owned() },
        shadows: Vec::new(),
        experiment: None,
        log: Default::default(),
        documentation: Default::default(),
    }
}

/// Versions with an alias, and those that routes name.
fn needed(features: &Catalog, models: &Models) -> Vec<Arc<ModelVersion>> {
    let mut needed: Vec<Arc<ModelVersion>> = models.live().map(|(version, _)| Arc::clone(version)).collect();
    let references = features.definitions().prediction_routes.iter().flat_map(PredictionRoute::models);
    for reference in references.filter_map(|text| text.parse::<ModelReference>().ok()) {
        if let Ok(version) = models.resolve(&reference)
            && needed.iter().all(|known| !Arc::ptr_eq(known, version))
        {
            needed.push(Arc::clone(version));
        }
    }
    needed
}

pub(super) async fn load(
    registry: &ModelRegistry,
    version: &Arc<ModelVersion>,
) -> Result<Arc<LoadedModel>, PredictionError> {
    let bytes = registry.artefact(version).await?;
    let options = LoadOptions { output: version.output.clone() };
    let format = version.format;
    let loading = tokio::task::spawn_blocking(move || Model::load(format, &bytes, &options));
    let model = loading.await.map_err(|error| PredictionError::Rows(error.to_string()))??;
    Ok(Arc::new(LoadedModel { version: Arc::clone(version), model, names: InputNames::of(version) }))
}
