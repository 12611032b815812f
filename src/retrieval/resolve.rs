//! From names to a plan: which views are read by which columns, and where each answered column comes from.
//!
//! Batch and online requests resolve in the same way, which is half of why their answers agree.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use super::RetrievalError;
use super::online_windows::WindowPlan;
use crate::compile::{CompileError, OnDemandPlan};
use crate::definition::{
    Definitions, FeatureReference, FeatureView, Field, OnDemandFeatureView, SourceName, ViewProjection, nearest,
};
use crate::online_store::{DecodePlan, Schemas};
use crate::registry::RegistryVersion;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FeatureSelection {
    /// A feature service by name.
    Service(String),
    /// `view:feature`, or `view` for all of its features.
    References(Vec<String>),
}

/// One version of the registry with its on-demand views compiled: what requests are answered from.
#[derive(Debug)]
pub struct Catalog {
    pub registry: Arc<RegistryVersion>,
    on_demand: HashMap<String, Arc<OnDemandPlan>>,
    /// What was asked for before, under this version of the registry.
    resolved: RwLock<HashMap<(FeatureSelection, bool), Arc<ResolvedRequest>>>,
}

/// Questions that are remembered; few models ask more.
const RESOLVED_MAX: usize = 1024;

/// A request with every name resolved.
#[derive(Debug)]
pub struct ResolvedRequest {
    /// Views to read, each once for each set of request columns that carry its keys.
    pub views: Vec<ResolvedView>,
    pub on_demand: Vec<ResolvedOnDemand>,
    /// Answered columns, in the order asked.
    pub outputs: Vec<OutputColumn>,
    /// Request columns that carry join keys, with their types.
    pub join_keys: Vec<Field>,
    /// Values that only the caller knows.
    pub request_values: Vec<Field>,
}

impl ResolvedRequest {
    /// The sources of the views to read.
    pub fn sources(&self) -> impl Iterator<Item = &SourceName> {
        self.views.iter().flat_map(|view| view.view.input.sources())
    }
}

#[derive(Debug)]
pub struct ResolvedView {
    pub view: Arc<FeatureView>,
    /// The view's join keys, and for each the request column that carries it.
    pub join_keys: Vec<(Field, String)>,
    /// The features to read, in the order they are read.
    pub features: Vec<Field>,
    pub is_static: bool,
    /// The source whose events feed the view as they come in.
    pub streamed: Option<SourceName>,
    /// Whether jobs have rows of the view to compute.
    pub is_materialized: bool,
    /// Of an aggregation view: how its features are read online.
    pub windows: Option<WindowPlan>,
    /// Of what jobs wrote, and of what a stream wrote.
    decode_plans: [DecodePlanOfSchemas; 2],
}

/// How stored values of the view are read online, and the schemas that it is for.
type DecodePlanOfSchemas = ArcSwapOption<(Arc<Schemas>, Arc<DecodePlan>)>;

impl ResolvedView {
    /// How values of these schemas are read: made anew when the schemas are others than before.
    pub(super) fn decode_plan(&self, side: usize, schemas: &Arc<Schemas>) -> Arc<DecodePlan> {
        if let Some(known) = self.decode_plans[side].load().as_ref()
            && Arc::ptr_eq(&known.0, schemas)
        {
            return Arc::clone(&known.1);
        }
        let plan = Arc::new(DecodePlan::new(schemas, &self.features));
        self.decode_plans[side].store(Some(Arc::new((Arc::clone(schemas), Arc::clone(&plan)))));
        plan
    }
}

#[derive(Debug)]
pub struct ResolvedOnDemand {
    pub plan: Arc<OnDemandPlan>,
    pub inputs: Vec<OnDemandInput>,
}

/// Where an input of an on-demand view comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnDemandInput {
    /// A column of the request.
    Request(String),
    /// A feature of [`ResolvedRequest::views`].
    Feature { view: usize, feature: usize },
}

#[derive(Debug)]
pub struct OutputColumn {
    pub name: String,
    pub field: Field,
    pub origin: Origin,
}

/// Where an answered column comes from: positions in [`ResolvedRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    View { view: usize, feature: usize },
    OnDemand { on_demand: usize, output: usize },
}

impl Catalog {
    /// # Errors
    /// An on-demand view that does not compile.
    pub fn new(registry: Arc<RegistryVersion>) -> Result<Self, CompileError> {
        let definitions = &registry.definitions;
        let compile = |view: &OnDemandFeatureView| {
            OnDemandPlan::compile(definitions, view).map(|plan| (view.name.as_str().to_owned(), Arc::new(plan)))
        };
        let on_demand = definitions.on_demand_feature_views.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Catalog { registry, on_demand, resolved: RwLock::default() })
    }

    pub fn definitions(&self) -> &Definitions {
        &self.registry.definitions
    }

    /// # Errors
    /// An unknown name, with the nearest known one; two answered columns of one name, with the remedy.
    pub fn resolve(
        &self,
        selection: &FeatureSelection,
        full_feature_names: bool,
    ) -> Result<Arc<ResolvedRequest>, RetrievalError> {
        let question = (selection.clone(), full_feature_names);
        if let Some(known) = self.resolved.read().unwrap_or_else(PoisonError::into_inner).get(&question) {
            return Ok(Arc::clone(known));
        }
        let resolved = Arc::new(self.resolve_anew(selection, full_feature_names)?);
        let mut known = self.resolved.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= RESOLVED_MAX {
            known.clear();
        }
        known.insert(question, Arc::clone(&resolved));
        Ok(resolved)
    }

    fn resolve_anew(
        &self,
        selection: &FeatureSelection,
        full_feature_names: bool,
    ) -> Result<ResolvedRequest, RetrievalError> {
        let projections = self.projections(selection)?;
        let mut resolver = Resolver { catalog: self, full_feature_names, resolved: ResolvedRequest::empty() };
        for projection in &projections {
            resolver.add(projection)?;
        }
        resolver.finish()
    }

    fn projections(&self, selection: &FeatureSelection) -> Result<Vec<ViewProjection>, RetrievalError> {
        let definitions = self.definitions();
        match selection {
            FeatureSelection::Service(name) => match definitions.feature_service(name) {
                Some(service) => Ok(service.features.clone()),
                None if definitions.feature_view(name).is_some() => {
                    Err(RetrievalError::ViewForService { name: name.clone() })
                }
                None => {
                    let names = definitions.feature_services.iter().map(|service| service.name.as_str());
                    Err(RetrievalError::unknown("feature service", name, names))
                }
            },
            FeatureSelection::References(references) if references.is_empty() => Err(RetrievalError::NoFeatures),
            FeatureSelection::References(references) => Ok(references
                .iter()
                .map(|text| {
                    let FeatureReference { view, feature } = FeatureReference::parse(text);
                    ViewProjection {
                        view,
                        features: feature.map(|f| vec![f]),
                        alias: None,
                        join_keys: Default::default(),
                    }
                })
                .collect()),
        }
    }
}

impl ResolvedRequest {
    fn empty() -> Self {
        ResolvedRequest {
            views: Vec::new(),
            on_demand: Vec::new(),
            outputs: Vec::new(),
            join_keys: Vec::new(),
            request_values: Vec::new(),
        }
    }
}

struct Resolver<'a> {
    catalog: &'a Catalog,
    full_feature_names: bool,
    resolved: ResolvedRequest,
}

impl Resolver<'_> {
    fn add(&mut self, projection: &ViewProjection) -> Result<(), RetrievalError> {
        let definitions = self.catalog.definitions();
        let name = projection.view.as_str();
        if let Some(view) = definitions.feature_view(name) {
            return self.add_view(view, projection);
        }
        if let Some(view) = definitions.on_demand_feature_view(name) {
            return self.add_on_demand(view, projection);
        }
        let views = definitions.feature_views.iter().map(|view| view.name.as_str());
        let on_demand = definitions.on_demand_feature_views.iter().map(|view| view.name.as_str());
        Err(RetrievalError::unknown("feature view", name, views.chain(on_demand)))
    }

    fn add_view(&mut self, view: &FeatureView, projection: &ViewProjection) -> Result<(), RetrievalError> {
        let position = self.view_position(view, projection)?;
        let all: Vec<&Field> = view.features.iter().collect();
        for field in chosen(&all, projection)? {
            let feature = self.feature_position(position, field);
            self.add_output(projection, field, Origin::View { view: position, feature })?;
        }
        Ok(())
    }

    /// Position of the view read by these request columns, added where it is new.
    fn view_position(&mut self, view: &FeatureView, projection: &ViewProjection) -> Result<usize, RetrievalError> {
        let definitions = self.catalog.definitions();
        let mut join_keys = Vec::new();
        for key in definitions.join_keys(view) {
            let column = projection.join_keys.get(&key.name).unwrap_or(&key.name).clone();
            self.require(&column, &key, &projection.view)?;
            join_keys.push((key, column));
        }
        let same = |known: &ResolvedView| known.view.name == view.name && known.join_keys == join_keys;
        if let Some(position) = self.resolved.views.iter().position(same) {
            return Ok(position);
        }
        let is_static = definitions.is_static(view);
        self.resolved.views.push(ResolvedView {
            view: Arc::new(view.clone()),
            join_keys,
            features: Vec::new(),
            is_static,
            streamed: definitions.streamed_source(view).map(|source| source.name.clone()),
            is_materialized: definitions.is_materialized(view),
            windows: None,
            decode_plans: Default::default(),
        });
        Ok(self.resolved.views.len() - 1)
    }

    /// Notes that request column `column` carries `key`.
    fn require(
        &mut self,
        column: &str,
        key: &Field,
        view: &crate::definition::FeatureViewName,
    ) -> Result<(), RetrievalError> {
        match self.resolved.join_keys.iter().find(|known| known.name == column) {
            None => {
                let field = Field { name: column.to_owned(), ..key.clone() };
                self.resolved.join_keys.push(field);
                Ok(())
            }
            Some(known) if known.value_type == key.value_type => Ok(()),
            Some(known) => Err(RetrievalError::KeyTypes {
                column: column.to_owned(),
                view: view.clone(),
                found: known.value_type.clone(),
                wanted: key.value_type.clone(),
            }),
        }
    }

    fn feature_position(&mut self, view: usize, field: &Field) -> usize {
        let features = &mut self.resolved.views[view].features;
        features.iter().position(|known| known.name == field.name).unwrap_or_else(|| {
            features.push(field.clone());
            features.len() - 1
        })
    }

    fn add_on_demand(&mut self, view: &OnDemandFeatureView, projection: &ViewProjection) -> Result<(), RetrievalError> {
        let position = self.on_demand_position(view)?;
        let plan = Arc::clone(&self.resolved.on_demand[position].plan);
        let all: Vec<&Field> = plan.outputs().collect();
        for field in chosen(&all, projection)? {
            let output = all.iter().position(|known| known.name == field.name).expect("chosen out of these");
            self.add_output(projection, field, Origin::OnDemand { on_demand: position, output })?;
        }
        Ok(())
    }

    fn on_demand_position(&mut self, view: &OnDemandFeatureView) -> Result<usize, RetrievalError> {
        let plan = Arc::clone(&self.catalog.on_demand[view.name.as_str()]);
        if let Some(position) = self.resolved.on_demand.iter().position(|known| known.plan.view == view.name) {
            return Ok(position);
        }
        let mut inputs = Vec::new();
        for reference in &view.features_from {
            let Some(from) = self.catalog.definitions().feature_view(reference.view.as_str()) else { continue };
            let projection = ViewProjection {
                view: reference.view.clone(),
                features: None,
                alias: None,
                join_keys: Default::default(),
            };
            let position = self.view_position(from, &projection)?;
            for field in from.features.iter().filter(|f| reference.feature.as_ref().is_none_or(|name| *name == f.name))
            {
                inputs.push(OnDemandInput::Feature { view: position, feature: self.feature_position(position, field) });
            }
        }
        for field in &view.request {
            let known = self.resolved.request_values.iter().find(|known| known.name == field.name);
            match known {
                None => self.resolved.request_values.push(field.clone()),
                Some(known) if known.value_type == field.value_type => {}
                Some(known) => {
                    return Err(RetrievalError::KeyTypes {
                        column: field.name.clone(),
                        view: view.name.clone(),
                        found: known.value_type.clone(),
                        wanted: field.value_type.clone(),
                    });
                }
            }
            inputs.push(OnDemandInput::Request(field.name.clone()));
        }
        self.resolved.on_demand.push(ResolvedOnDemand { plan, inputs });
        Ok(self.resolved.on_demand.len() - 1)
    }

    fn add_output(&mut self, projection: &ViewProjection, field: &Field, origin: Origin) -> Result<(), RetrievalError> {
        let prefix = projection.alias.as_deref().unwrap_or(projection.view.as_str());
        let name = if self.full_feature_names { format!("{prefix}__{}", field.name) } else { field.name.clone() };
        if let Some(first) = self.resolved.outputs.iter().find(|known| known.name == name) {
            return Err(RetrievalError::SameColumn {
                column: name,
                first: self.describe(first),
                second: format!("{prefix}:{}", field.name),
                full_feature_names: self.full_feature_names,
            });
        }
        self.resolved.outputs.push(OutputColumn { name, field: field.clone(), origin });
        Ok(())
    }

    fn describe(&self, output: &OutputColumn) -> String {
        let view = match output.origin {
            Origin::View { view, .. } => self.resolved.views[view].view.name.as_str(),
            Origin::OnDemand { on_demand, .. } => self.resolved.on_demand[on_demand].plan.view.as_str(),
        };
        format!("{view}:{}", output.field.name)
    }

    fn finish(self) -> Result<ResolvedRequest, RetrievalError> {
        let mut resolved = self.resolved;
        for view in resolved.views.iter_mut().filter(|view| view.view.is_aggregation()) {
            view.windows = Some(WindowPlan::new(&view.view, &view.features)?);
        }
        for column in resolved.join_keys.iter().chain(&resolved.request_values) {
            if resolved.outputs.iter().any(|output| output.name == column.name) {
                return Err(RetrievalError::ColumnIsFeature { column: column.name.clone() });
            }
        }
        for key in &resolved.join_keys {
            if let Some(value) = resolved.request_values.iter().find(|value| value.name == key.name)
                && value.value_type != key.value_type
            {
                return Err(RetrievalError::KeyAndValue { column: key.name.clone() });
            }
        }
        Ok(resolved)
    }
}

/// The features that a projection chooses out of a view's.
fn chosen<'f>(all: &[&'f Field], projection: &ViewProjection) -> Result<Vec<&'f Field>, RetrievalError> {
    let Some(names) = &projection.features else { return Ok(all.to_vec()) };
    let find = |name: &String| {
        all.iter().find(|field| field.name == *name).copied().ok_or_else(|| RetrievalError::Unknown {
            kind: "feature",
            name: format!("{}:{name}", projection.view),
            nearest: nearest(name, all.iter().map(|field| field.name.as_str()))
                .map(|nearest| format!("{}:{nearest}", projection.view)),
            known: all.iter().map(|field| field.name.clone()).collect(),
        })
    };
    names.iter().map(find).collect()
}
