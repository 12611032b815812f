//! A route, ready to be asked: its models loaded, its conditions compiled.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::catalog::LoadedModel;
use super::condition::Condition;
use super::error::PredictionError;
use crate::definition::{
    Experiment, FeatureReference, Field, PredictionLog, PredictionRoute, RouteAnswer, Shadow, Step, ValueType,
};
use crate::error::error_chain;
use crate::model_registry::{InputSource, ModelReference, check_fit};
use crate::model_runtime::InputKind;
use crate::retrieval::{Catalog, FeatureSelection, ResolvedRequest};

#[derive(Debug)]
pub struct RoutePlan {
    pub name: String,
    pub lookup: Option<FeatureReference>,
    /// One for a route of a single model; with a lookup, the fallback or none.
    pub steps: Vec<PlannedStep>,
    pub experiment: Option<PlannedExperiment>,
    pub shadows: Vec<PlannedShadow>,
    /// Shadows that cannot be asked: the route answers without them.
    pub left_out: Vec<RouteProblem>,
    pub log: PredictionLog,
    /// What is read of the store for an answer, each once.
    pub reads: Vec<Arc<Read>>,
    /// Columns that a request may carry.
    pub columns: HashSet<String>,
    /// Those of them that are join keys.
    pub join_keys: Vec<String>,
}

/// Why a route, or a part of it, cannot answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteProblem {
    pub route: String,
    pub problem: String,
    /// Whether it stays until the definitions are changed; else a model is missing, which may come.
    pub is_of_definitions: bool,
}

impl RouteProblem {
    pub fn new(route: &str, error: &PredictionError) -> Self {
        use PredictionError::{Condition, Fallback, StepWidth};
        let is_of_definitions = matches!(error, Condition { .. } | Fallback { .. } | StepWidth { .. });
        RouteProblem { route: route.to_owned(), problem: error_chain(error), is_of_definitions }
    }

    fn of_shadow(route: &PredictionRoute, shadow: &Shadow, error: &PredictionError) -> Self {
        let problem = format!("shadow `{}` is left out: {}", shadow.model, error_chain(error));
        RouteProblem { problem, ..RouteProblem::new(route.name.as_str(), error) }
    }
}

impl fmt::Display for RouteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route `{}`: {}", self.route, self.problem)
    }
}

/// Features that are read together.
#[derive(Debug)]
pub struct Read {
    /// The feature service, or the reference of a lookup.
    pub name: String,
    pub resolved: Arc<ResolvedRequest>,
    /// Positions among the outputs by full name.
    pub positions: HashMap<String, usize>,
}

impl Read {
    /// Whether a key, a request value or a feature of it has this name.
    fn has_column(&self, name: &str) -> bool {
        let mut sent = self.resolved.join_keys.iter().chain(&self.resolved.request_values);
        sent.any(|field| field.name == name) || self.resolved.outputs.iter().any(|output| output.field.name == name)
    }

    fn new(name: String, resolved: Arc<ResolvedRequest>) -> Self {
        let names = resolved.outputs.iter().enumerate();
        let positions = names.map(|(position, output)| (output.name.clone(), position)).collect();
        Read { name, resolved, positions }
    }
}

#[derive(Debug)]
pub struct PlannedStep {
    pub model: Arc<LoadedModel>,
    pub alias: Option<String>,
    pub when: Option<Condition>,
    pub otherwise: Option<Arc<LoadedModel>>,
}

#[derive(Debug)]
pub struct PlannedExperiment {
    pub name: String,
    pub unit: String,
    /// Where in `[0, 1)` the share of each variant ends.
    pub variants: Vec<(f64, Arc<LoadedModel>)>,
}

#[derive(Debug)]
pub struct PlannedShadow {
    /// As the route writes it: by it and the prediction the share is chosen.
    pub reference: String,
    pub model: Arc<LoadedModel>,
    pub percent: f64,
    pub filter: Option<Condition>,
    pub read: Arc<Read>,
}

impl RoutePlan {
    /// Every model that may answer, those of shadows left out.
    pub fn models(&self) -> impl Iterator<Item = &Arc<LoadedModel>> {
        let steps = self.steps.iter().flat_map(|step| std::iter::once(&step.model).chain(&step.otherwise));
        let variants = self.experiment.iter().flat_map(|experiment| &experiment.variants);
        steps.chain(variants.map(|(_, model)| model))
    }

    /// Those whose predictions are answers: of steps the last one's.
    pub fn answering(&self) -> impl Iterator<Item = &Arc<LoadedModel>> {
        let last = self.steps.last().into_iter().flat_map(|step| std::iter::once(&step.model).chain(&step.otherwise));
        let variants = self.experiment.iter().flat_map(|experiment| &experiment.variants);
        last.chain(variants.map(|(_, model)| model))
    }

    /// Whether a request may carry a column of this name; `view:feature` stands for `view__feature`.
    pub fn has_column(&self, name: &str) -> bool {
        let in_full = || name.split_once(':').map(|(view, feature)| format!("{view}__{feature}"));
        self.columns.contains(name) || in_full().is_some_and(|name| self.columns.contains(&name))
    }
}

/// Plans the routes of one catalog.
pub struct Planner<'a> {
    pub features: &'a Catalog,
    pub load: &'a dyn Fn(&ModelReference) -> Result<Arc<LoadedModel>, PredictionError>,
}

impl Planner<'_> {
    pub fn plan(&self, route: &PredictionRoute) -> Result<RoutePlan, PredictionError> {
        let (lookup, steps) = match &route.answer {
            RouteAnswer::Model { model } => {
                (None, vec![Step { model: model.clone(), alias: None, when: None, otherwise: None }])
            }
            RouteAnswer::Steps { steps } => (None, steps.clone()),
            RouteAnswer::Lookup { lookup, fallback } => {
                let step = |model: &String| Step { model: model.clone(), alias: None, when: None, otherwise: None };
                (Some(lookup.clone()), fallback.iter().map(step).collect())
            }
        };
        let load = |text: &str| {
            let model = (self.load)(&text.parse()?)?;
            check_fit(&self.features.registry.definitions, &model.version)?;
            Ok::<_, PredictionError>(model)
        };
        let mut models: Vec<Arc<LoadedModel>> = Vec::new();
        for step in &steps {
            models.push(load(&step.model)?);
            models.extend(step.otherwise.as_deref().map(load).transpose()?);
        }
        let experiment = route.experiment.as_ref().map(|experiment| self.experiment(experiment, &load)).transpose()?;
        models
            .extend(experiment.iter().flat_map(|experiment| &experiment.variants).map(|(_, model)| Arc::clone(model)));
        let mut reads = lookup.iter().map(|reference| self.read_lookup(reference)).collect::<Result<Vec<_>, _>>()?;
        let mut looked_up = reads.iter().flat_map(|read| &read.resolved.outputs);
        if let Some(output) = looked_up.find(|output| !steps.is_empty() && !output.field.value_type.is_prediction()) {
            let (lookup, value_type) = (output.name.clone(), output.field.value_type.clone());
            return Err(PredictionError::Fallback { lookup, value_type });
        }
        for model in &models {
            self.add_read(&model.version.service, &mut reads)?;
        }
        let mut all_reads = reads.clone();
        let (mut shadows, mut left_out) = (Vec::new(), Vec::new());
        for shadow in &route.shadows {
            let planned = load(&shadow.model)
                .and_then(|model| Ok((self.add_read(&model.version.service, &mut all_reads)?, model)));
            match planned {
                Ok((read, model)) => shadows.push((shadow, model, read)),
                Err(error) => left_out.push(RouteProblem::of_shadow(route, shadow, &error)),
            }
        }
        models.extend(shadows.iter().map(|(_, model, _)| Arc::clone(model)));
        let fields = known_fields(&all_reads, &models, &steps);
        let mut planned_shadows = Vec::new();
        for (shadow, model, read) in shadows {
            let (reference, percent) = (shadow.model.clone(), shadow.percent);
            match shadow.filter.as_deref().map(|text| Condition::compile(text, &fields)).transpose() {
                Ok(filter) => planned_shadows.push(PlannedShadow { reference, model, percent, filter, read }),
                Err(error) => left_out.push(RouteProblem::of_shadow(route, shadow, &error)),
            }
        }
        let planned = |step: &Step| {
            Ok::<_, PredictionError>(PlannedStep {
                model: load(&step.model)?,
                alias: step.alias.clone(),
                when: step.when.as_deref().map(|text| Condition::compile(text, &fields)).transpose()?,
                otherwise: step.otherwise.as_deref().map(load).transpose()?,
            })
        };
        let steps = steps.iter().map(planned).collect::<Result<Vec<_>, _>>()?;
        check_widths(&steps)?;
        let mut columns: HashSet<String> = fields.iter().map(|field| field.name.clone()).collect();
        // Nobody can send what a step predicts, unless a feature is called so, too.
        for alias in steps.iter().filter_map(|step| step.alias.as_ref()) {
            if all_reads.iter().all(|read| !read.has_column(alias)) {
                columns.remove(alias);
            }
        }
        columns.extend(experiment.iter().map(|experiment| experiment.unit.clone()));
        let mut join_keys: Vec<String> = Vec::new();
        for key in all_reads.iter().flat_map(|read| &read.resolved.join_keys) {
            if !join_keys.contains(&key.name) {
                join_keys.push(key.name.clone());
            }
        }
        let name = route.name.as_str().to_owned();
        Ok(RoutePlan {
            name,
            lookup,
            steps,
            experiment,
            shadows: planned_shadows,
            left_out,
            log: route.log.clone(),
            reads,
            columns,
            join_keys,
        })
    }

    fn experiment(
        &self,
        experiment: &Experiment,
        load: &dyn Fn(&str) -> Result<Arc<LoadedModel>, PredictionError>,
    ) -> Result<PlannedExperiment, PredictionError> {
        let total: f64 = experiment.variants.iter().map(|variant| variant.weight).sum();
        let mut end = 0.0;
        let mut variants = Vec::new();
        for variant in &experiment.variants {
            end += variant.weight / total;
            variants.push((end, load(&variant.model)?));
        }
        Ok(PlannedExperiment { name: experiment.name.clone(), unit: experiment.unit.clone(), variants })
    }

    fn read_lookup(&self, reference: &FeatureReference) -> Result<Arc<Read>, PredictionError> {
        let selection = FeatureSelection::References(vec![reference.to_string()]);
        Ok(Arc::new(Read::new(reference.to_string(), self.features.resolve(&selection, true)?)))
    }

    fn add_read(&self, service: &str, reads: &mut Vec<Arc<Read>>) -> Result<Arc<Read>, PredictionError> {
        if let Some(known) = reads.iter().find(|read| read.name == service) {
            return Ok(Arc::clone(known));
        }
        let resolved = self.features.resolve(&FeatureSelection::Service(service.to_owned()), true)?;
        let read = Arc::new(Read::new(service.to_owned(), resolved));
        reads.push(Arc::clone(&read));
        Ok(read)
    }
}

/// # Errors
/// A step that others read, and whose model answers several numbers.
fn check_widths(steps: &[PlannedStep]) -> Result<(), PredictionError> {
    for step in steps.iter().filter(|step| step.alias.is_some()) {
        for model in std::iter::once(&step.model).chain(&step.otherwise) {
            if let Some(width) = model.version.prediction_width.filter(|width| *width != 1) {
                return Err(PredictionError::StepWidth { model: model.version.model.clone(), width });
            }
        }
    }
    Ok(())
}

/// What conditions may name, each once: keys, request values, features by short and full name, inputs, steps.
fn known_fields(reads: &[Arc<Read>], models: &[Arc<LoadedModel>], steps: &[Step]) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    let mut add = |name: &str, value_type: ValueType| {
        if fields.iter().all(|known| known.name != name) {
            fields.push(Field { name: name.to_owned(), value_type, description: None });
        }
    };
    for step in steps.iter().filter_map(|step| step.alias.as_deref()) {
        add(step, ValueType::Float64);
    }
    for read in reads {
        for field in read.resolved.join_keys.iter().chain(&read.resolved.request_values) {
            add(&field.name, field.value_type.clone());
        }
        for output in &read.resolved.outputs {
            add(&output.name, output.field.value_type.clone());
            add(&output.field.name, output.field.value_type.clone());
        }
    }
    for input in models.iter().flat_map(|model| &model.version.inputs) {
        let value_type = match &input.source {
            InputSource::Request { value_type: Some(value_type) } => value_type.clone(),
            InputSource::Feature { value_type, .. } => value_type.clone(),
            InputSource::Request { value_type: None } => match input.kind {
                InputKind::Number => ValueType::Float64,
                InputKind::Category | InputKind::Text => ValueType::String,
            },
        };
        add(&input.name, value_type);
    }
    fields
}
