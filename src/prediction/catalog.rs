//! What predictions are made from: one version of the definitions and of the models, compiled and loaded.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::PredictionError;
use super::inputs::InputNames;
use super::plan::{Planner, RoutePlan, RouteProblem};
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

/// Which routes are planned, and which models loaded for them.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'s> {
    /// All routes and models, with the versions that an alias stands for, that routes name, and these.
    Served(&'s [ModelReference]),
    /// The routes of the definitions.
    Routes,
    /// One route, or one model by reference.
    One(&'s str),
}

#[derive(Debug)]
pub struct PredictionCatalog {
    pub features: Arc<Catalog>,
    pub models: Arc<Models>,
    loaded: Loaded,
    /// By name; why one cannot answer is told to those who ask it.
    routes: HashMap<String, Result<Arc<RoutePlan>, RouteProblem>>,
    /// Those of models by `name@alias` and `name@version`.
    references: HashMap<String, Arc<RoutePlan>>,
}

impl PredictionCatalog {
    /// Compiles routes, and loads their models; those that `previous` has are taken over. A route or a model that
    /// cannot be used disturbs no other.
    pub async fn build(
        features: Arc<Catalog>,
        models: Arc<Models>,
        registry: &ModelRegistry,
        previous: Option<&PredictionCatalog>,
        scope: Scope<'_>,
    ) -> Self {
        let mut loaded = Loaded::new();
        for version in needed(&features, &models, scope) {
            let key = (version.model.clone(), version.version);
            let known = previous.and_then(|previous| previous.loaded.get(&key)?.as_ref().ok());
            let model = match known {
                Some(known) => Ok(Arc::clone(known)),
                None => load(registry, &version).await.map_err(|error| error_chain(&error)),
            };
            loaded.insert(key, model);
        }
        let (routes, references) = (HashMap::new(), HashMap::new());
        let mut catalog = PredictionCatalog { features, models, loaded, routes, references };
        let is_asked = |name: &str| !matches!(scope, Scope::One(one) if one != name);
        let defined = catalog.features.definitions().prediction_routes.iter();
        let defined = defined.filter(|route| is_asked(route.name.as_str()));
        let mut routes: HashMap<_, _> = defined.map(|route| catalog.planned(route)).collect();
        if !matches!(scope, Scope::Routes) {
            // A model goes by its own name, too.
            let names = catalog.models.models.keys().filter(|name| is_asked(name) && !catalog.has_route(name));
            routes.extend(names.map(|name| catalog.planned(&route_of_model(name, name))));
        }
        catalog.routes = routes;
        if matches!(scope, Scope::Served(_)) {
            catalog.references = catalog.planned_references();
        }
        catalog
    }

    fn has_route(&self, name: &str) -> bool {
        self.features.definitions().prediction_routes.iter().any(|route| route.name.as_str() == name)
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

    fn planned(&self, route: &PredictionRoute) -> (String, Result<Arc<RoutePlan>, RouteProblem>) {
        let name = route.name.as_str().to_owned();
        let planned = self.plan(route).map(Arc::new).map_err(|error| RouteProblem::new(&name, &error));
        (name, planned)
    }

    /// What keeps routes, shadows and models from being asked, sorted.
    pub fn problems(&self) -> Vec<RouteProblem> {
        let routes = self.routes.values().flat_map(|route| match route {
            Ok(plan) => plan.left_out.clone(),
            Err(problem) => vec![problem.clone()],
        });
        let mut problems: Vec<RouteProblem> = routes.collect();
        problems.sort_unstable_by(|a, b| (&a.route, &a.problem).cmp(&(&b.route, &b.problem)));
        problems
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
                Err(PredictionError::RouteUnavailable { route: name.to_owned(), problem: problem.problem.clone() })
            }
            None if name.contains('@') => match self.references.get(name) {
                Some(plan) => Ok(Arc::clone(plan)),
                None => self.plan(&route_of_model(name, name)).map(Arc::new),
            },
            None => Err(PredictionError::unknown_route(name, self.route_names())),
        }
    }

    /// Names of all routes, those of models among them.
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        let routes = self.features.definitions().prediction_routes.iter().map(|route| route.name.as_str());
        routes.chain(self.models.models.keys().filter(|name| !self.has_route(name)).map(String::as_str))
    }

    /// # Errors
    /// A name that is neither a route's nor a model's.
    pub fn check_name(&self, name: &str) -> Result<(), PredictionError> {
        match name.contains('@') || self.route_names().any(|known| known == name) {
            true => Ok(()),
            false => Err(PredictionError::unknown_route(name, self.route_names())),
        }
    }

    /// The version that a reference stands for, if it could be loaded and nobody tried yet.
    pub fn not_loaded(&self, reference: &str) -> Option<ModelReference> {
        let version = self.models.resolve(&reference.parse().ok()?).ok()?;
        let key = (version.model.clone(), version.version);
        let pointer = version.version.to_string();
        (!self.loaded.contains_key(&key)).then(|| ModelReference { model: version.model.clone(), pointer })
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

/// The versions that are loaded, each once.
fn needed(features: &Catalog, models: &Models, scope: Scope<'_>) -> Vec<Arc<ModelVersion>> {
    let routes = &features.definitions().prediction_routes;
    let named = || routes.iter().flat_map(PredictionRoute::models).filter_map(|text| text.parse().ok());
    let references: Vec<ModelReference> = match scope {
        Scope::Served(also) => named().chain(also.iter().cloned()).collect(),
        Scope::Routes => named().collect(),
        Scope::One(name) => match routes.iter().find(|route| route.name.as_str() == name) {
            Some(route) => route.models().into_iter().filter_map(|text| text.parse().ok()).collect(),
            None => name.parse().into_iter().collect(),
        },
    };
    let live = models.live().map(|(version, _)| version).filter(|_| matches!(scope, Scope::Served(_)));
    let mut needed: Vec<Arc<ModelVersion>> = live.cloned().collect();
    for reference in references {
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
