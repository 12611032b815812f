//! Answering requests.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};

use super::catalog::{LoadedModel, PredictionCatalog};
use super::error::PredictionError;
use super::hash::share;
use super::inputs::{BoundRows, bind_rows};
use super::log::{LogRecord, PredictionLogger, Role};
use super::plan::{PlannedStep, Read, RoutePlan};
use super::record::{RecordHead, lookup_record, record};
use super::request::{PredictAnswer, PredictRequest, RowAnswer};
use super::rows::{KnownRows, service_columns};
use super::shadow::{ShadowJob, Shadows};
use crate::definition::nearest;
use crate::metrics::PREDICTIONS_TOTAL;
use crate::model_runtime::Predictions;
use crate::retrieval::{OnlineRetrieval, RequestColumns, RetrievalError, Waiting};
use crate::time::EventTimestamp;
use crate::trace;

/// An id is written down with each prediction.
const ID_BYTES_MAX: usize = 1_024;

/// Answers from one online store; the catalog is replaced whole.
#[derive(Debug)]
pub struct PredictionService {
    online: OnlineRetrieval,
    catalog: ArcSwapOption<PredictionCatalog>,
    logger: Option<Arc<PredictionLogger>>,
    shadows: Shadows,
}

/// One model's answers to some rows.
#[derive(Debug)]
pub struct Evaluation {
    pub model: Arc<LoadedModel>,
    pub role: Role,
    pub experiment: Option<String>,
    pub rows: Vec<usize>,
    pub bound: BoundRows,
    pub predictions: Predictions,
}

/// A request that is answered, and not remembered yet.
#[derive(Debug)]
pub struct Answered {
    catalog: Arc<PredictionCatalog>,
    plans: Vec<Arc<RoutePlan>>,
    request: PredictRequest,
    now: EventTimestamp,
    evaluated: Vec<Evaluated>,
    records: Vec<LogRecord>,
}

/// What all rows of a request were answered, and how.
#[derive(Debug)]
pub struct Evaluated {
    pub answer: PredictAnswer,
    pub evaluations: Vec<Evaluation>,
    pub known: KnownRows,
}

impl PredictionService {
    /// Without a logger, nothing is remembered.
    pub fn new(online: OnlineRetrieval, logger: Option<Arc<PredictionLogger>>) -> Self {
        let shadows = Shadows::new(online.clone(), logger.clone());
        PredictionService { online, catalog: ArcSwapOption::empty(), logger, shadows }
    }

    pub fn catalog(&self) -> Option<Arc<PredictionCatalog>> {
        self.catalog.load_full()
    }

    /// Requests that come from now on are answered from this catalog; shadows that it does not have any more end.
    pub fn use_catalog(&self, catalog: Arc<PredictionCatalog>) {
        self.shadows.keep(&catalog);
        self.catalog.store(Some(catalog));
    }

    pub fn logger(&self) -> Option<&Arc<PredictionLogger>> {
        self.logger.as_ref()
    }

    /// Computes the answer to each row of a request, once a route. What several routes read of a service is fetched
    /// once.
    ///
    /// # Errors
    /// A request that does not fit its routes, a model or a store that fails: nothing is answered then.
    pub fn answer(&self, request: PredictRequest, arrived: Instant) -> Result<Answered, PredictionError> {
        let catalog = self.catalog().ok_or_else(|| PredictionError::RouteUnavailable {
            route: request.routes.join(", "),
            problem: "nothing is applied yet; run `asof apply`".to_owned(),
        })?;
        let plans = request.routes.iter().map(|route| catalog.route(route)).collect::<Result<Vec<_>, _>>()?;
        let now = request.now.unwrap_or_else(|| self.online.clock.now());
        let evaluated = self.evaluate(&catalog, &plans, &request, now)?;
        trace::rows(request.columns.num_rows());
        let latency_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        let registry_version = catalog.features.registry.version;
        let head = RecordHead { sent_at: self.online.clock.now().micros(), registry_version, latency_us };
        let records = match self.logger {
            Some(_) => records(&head, &plans, &evaluated),
            None => Vec::new(),
        };
        Ok(Answered { catalog, plans, request, now, evaluated, records })
    }

    /// Gives the answers, in the order of the routes, once they are as durable as the routes say: all of a request as
    /// the strictest of them.
    ///
    /// # Errors
    /// A log that cannot be written: nobody is answered then.
    pub async fn remember(&self, answered: Answered) -> Result<Vec<PredictAnswer>, PredictionError> {
        let Answered { catalog, plans, request, now, evaluated, records } = answered;
        let logging = Instant::now();
        if let Some(logger) = &self.logger {
            let durability = plans.iter().map(|plan| plan.log.durability).min().unwrap_or_default();
            logger.append(&records, durability).await?;
        }
        trace::stage("log", logging);
        let mut answers = Vec::with_capacity(plans.len());
        for (plan, evaluated) in plans.iter().zip(evaluated) {
            count(plan, &evaluated);
            answers.push(self.start_shadows(&catalog, plan, evaluated, &request, now));
        }
        Ok(answers)
    }

    /// Fetches what the routes read, and asks their models.
    fn evaluate(
        &self,
        catalog: &PredictionCatalog,
        plans: &[Arc<RoutePlan>],
        request: &PredictRequest,
        now: EventTimestamp,
    ) -> Result<Vec<Evaluated>, PredictionError> {
        check_request(plans, request)?;
        let reading = Instant::now();
        let mut known = KnownRows::new(&request.columns);
        for plan in plans {
            for read in &plan.reads {
                if known.fetched(&read.name).is_none() && needs_read(plan, read, &known.sent)? {
                    fetch(&self.online, catalog, read, now, &mut known)?;
                }
            }
        }
        trace::stage("read", reading);
        let (evaluating, ids) = (Instant::now(), &request.prediction_ids);
        let evaluate =
            |plan: &Arc<RoutePlan>| evaluate_plan(plan, ids, known.clone(), catalog.features.registry.version);
        let evaluated = plans.iter().map(evaluate).collect();
        trace::stage("evaluate", evaluating);
        evaluated
    }

    /// Shows the request to the shadows of its route; gives the answer back.
    fn start_shadows(
        &self,
        catalog: &Arc<PredictionCatalog>,
        plan: &Arc<RoutePlan>,
        evaluated: Evaluated,
        request: &PredictRequest,
        now: EventTimestamp,
    ) -> PredictAnswer {
        let Evaluated { answer, known, .. } = evaluated;
        if plan.shadows.is_empty() {
            return answer;
        }
        let keys: Vec<String> = match request.prediction_ids.is_empty() {
            false => answer.rows.iter().map(|row| row.prediction_id.clone()).collect(),
            true => entity_keys(plan, &known),
        };
        let ids: Arc<[String]> = answer.rows.iter().map(|row| row.prediction_id.clone()).collect();
        let known = Arc::new(known);
        for (position, shadow) in plan.shadows.iter().enumerate() {
            let is_chosen =
                |key: &String| share(&["shadow", &plan.name, &shadow.reference], key) * 100.0 < shadow.percent;
            let rows: Vec<usize> =
                keys.iter().enumerate().filter(|(_, key)| is_chosen(key)).map(|(row, _)| row).collect();
            if rows.is_empty() {
                continue;
            }
            self.shadows.offer(ShadowJob {
                catalog: Arc::clone(catalog),
                plan: Arc::clone(plan),
                position,
                known: Arc::clone(&known),
                rows,
                ids: Arc::clone(&ids),
                now,
            });
        }
        answer
    }
}

/// What is remembered of the answers: a share of them, by the prediction's id, where a route samples.
fn records(head: &RecordHead, plans: &[Arc<RoutePlan>], evaluated: &[Evaluated]) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for (plan, evaluated) in plans.iter().zip(evaluated) {
        let ids: Vec<&str> = evaluated.answer.rows.iter().map(|row| row.prediction_id.as_str()).collect();
        let evaluations = evaluated.evaluations.iter();
        records.extend(evaluations.filter_map(|evaluation| record(head, plan, evaluation, &ids, &evaluated.known)));
        records.extend(lookup_record(head, plan, &evaluated.answer, &evaluated.known));
    }
    records
}

fn count(plan: &RoutePlan, evaluated: &Evaluated) {
    for evaluation in &evaluated.evaluations {
        metrics::counter!(
            PREDICTIONS_TOTAL,
            "route" => plan.name.clone(),
            "model" => format!("{}@{}", evaluation.model.version.model, evaluation.model.version.version),
            "role" => evaluation.role.as_str(),
        )
        .increment(evaluation.rows.len() as u64);
    }
    let looked_up = evaluated.answer.rows.iter().filter(|row| row.model.is_empty()).count();
    if looked_up > 0 {
        let (route, role) = (plan.name.clone(), Role::Lookup.as_str());
        metrics::counter!(PREDICTIONS_TOTAL, "route" => route, "model" => "", "role" => role)
            .increment(looked_up as u64);
    }
}

/// # Errors
/// Rows and ids that do not fit, columns that nothing reads, a route that is asked twice.
fn check_request(plans: &[Arc<RoutePlan>], request: &PredictRequest) -> Result<(), PredictionError> {
    let rows = request.columns.num_rows();
    if rows == 0 {
        return Err(PredictionError::NoRows);
    }
    for (position, plan) in plans.iter().enumerate() {
        if plans[..position].iter().any(|known| known.name == plan.name) {
            return Err(PredictionError::RouteTwice { route: plan.name.clone() });
        }
    }
    let ids = &request.prediction_ids;
    if !ids.is_empty() && ids.len() != rows {
        return Err(PredictionError::PredictionIds { rows, ids: ids.len() });
    }
    if let Some(row) = ids.iter().position(String::is_empty) {
        return Err(PredictionError::EmptyId { row });
    }
    if let Some(row) = ids.iter().position(|id| id.len() > ID_BYTES_MAX) {
        return Err(PredictionError::LongId { row, bytes: ids[row].len(), max: ID_BYTES_MAX });
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(id) = ids.iter().find(|id| !seen.insert(*id)) {
        return Err(PredictionError::SameId { id: id.clone() });
    }
    if plans.iter().flat_map(|plan| plan.models()).any(|model| model.names.is_matrix(&request.columns)) {
        return Ok(());
    }
    let columns = request.columns.schema_ref().fields();
    match columns.iter().find(|field| !plans.iter().any(|plan| plan.has_column(field.name()))) {
        Some(field) => Err(PredictionError::unknown_column(field.name(), plans.iter().flat_map(|plan| &plan.columns))),
        None => Ok(()),
    }
}

/// Whether the store has to be asked: not where the request carries a value for every feature of every row.
fn needs_read(plan: &RoutePlan, read: &Read, sent: &RecordBatch) -> Result<bool, PredictionError> {
    let is_lookup = plan.lookup.as_ref().is_some_and(|lookup| lookup.to_string() == read.name);
    let has_keys = read.resolved.join_keys.iter().all(|key| sent.column_by_name(&key.name).is_some());
    // Conditions may name any feature.
    let has_conditions = plan.steps.iter().any(|step| step.when.is_some()) || !plan.shadows.is_empty();
    let mut needed = is_lookup || (has_keys && has_conditions);
    for model in plan.models().filter(|model| model.version.service == read.name) {
        needed |= model.names.needs_store(sent)?;
    }
    Ok(needed)
}

/// Reads the features of one service at an instant.
pub fn fetch(
    online: &OnlineRetrieval,
    catalog: &PredictionCatalog,
    read: &Arc<Read>,
    now: EventTimestamp,
    known: &mut KnownRows,
) -> Result<(), PredictionError> {
    let columns = RequestColumns::new(&read.resolved, service_columns(&known.sent, &read.resolved)?);
    let columns = columns.map_err(|error| with_all_columns(error, &known.sent))?;
    let answer =
        online.answer(&catalog.features, Arc::clone(&read.resolved), &columns, Some(now), &Waiting::default())?;
    known.add_fetched(read, answer.into_answer());
    Ok(())
}

/// Tells of all columns of a request, not of those alone that a service needs.
fn with_all_columns(error: RetrievalError, request: &RecordBatch) -> RetrievalError {
    let RetrievalError::MissingColumn { column, role, .. } = error else { return error };
    let sent: Vec<String> = request.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    let nearest = nearest(&column, sent.iter().map(String::as_str)).map(str::to_owned);
    RetrievalError::MissingColumn { column, role, nearest, sent }
}

/// Asks the models of a plan about rows whose features are known. Without `ids`, they are made.
pub fn evaluate_plan(
    plan: &RoutePlan,
    ids: &[String],
    mut known: KnownRows,
    registry_version: u64,
) -> Result<Evaluated, PredictionError> {
    let rows = known.rows;
    let mut evaluations = Vec::new();
    let looked_up = plan.lookup.as_ref().and_then(|lookup| looked_up(&known, &lookup.to_string()));
    let is_open = |row: usize| looked_up.as_ref().is_none_or(|array: &ArrayRef| array.is_null(row));
    let mut open: Vec<usize> = (0..rows).filter(|row| is_open(*row)).collect();
    if let Some(experiment) = &plan.experiment {
        let units = known.texts(&experiment.unit);
        if known.sent.column_by_name(&experiment.unit).is_none() {
            return Err(PredictionError::NoUnit { unit: experiment.unit.clone() });
        }
        let variant_of = |row: usize| {
            let at = share(&["experiment", &experiment.name], units[row].as_deref()?);
            experiment.variants.iter().position(|(end, _)| at < *end).or(experiment.variants.len().checked_sub(1))
        };
        for (position, (_, model)) in experiment.variants.iter().enumerate() {
            let chosen: Vec<usize> = open.iter().copied().filter(|row| variant_of(*row) == Some(position)).collect();
            let name = Some(experiment.name.clone());
            ask(model, Role::Variant, name, chosen, &known, &mut evaluations)?;
        }
        open.retain(|row| variant_of(*row).is_none());
    }
    let last = plan.steps.len().saturating_sub(1);
    for (position, step) in plan.steps.iter().enumerate() {
        let role = if position == last { Role::Primary } else { Role::Step };
        let first = evaluations.len();
        run_step(step, role, &open, &known, &mut evaluations)?;
        if let Some(alias) = &step.alias {
            known.steps.push((alias.clone(), step_column(&evaluations[first..], rows)?));
        }
    }
    let answer = answer(plan, ids, &evaluations, looked_up, rows, registry_version)?;
    Ok(Evaluated { answer, evaluations, known })
}

fn run_step(
    step: &PlannedStep,
    role: Role,
    open: &[usize],
    known: &KnownRows,
    evaluations: &mut Vec<Evaluation>,
) -> Result<(), PredictionError> {
    let Some(condition) = &step.when else {
        return ask(&step.model, role, None, open.to_vec(), known, evaluations);
    };
    let meets = condition_rows(condition, known)?;
    let (chosen, others): (Vec<usize>, Vec<usize>) = open.iter().partition(|row| meets[**row]);
    ask(&step.model, role, None, chosen, known, evaluations)?;
    match &step.otherwise {
        Some(model) => ask(model, role, None, others, known, evaluations),
        None => Ok(()),
    }
}

/// Which rows meet a condition; columns that are not known are null.
pub(super) fn condition_rows(
    condition: &super::condition::Condition,
    known: &KnownRows,
) -> Result<Vec<bool>, PredictionError> {
    let inputs = condition.inputs(|name| known.column(name), known.rows)?;
    condition.rows(inputs, known.rows)
}

fn ask(
    model: &Arc<LoadedModel>,
    role: Role,
    experiment: Option<String>,
    rows: Vec<usize>,
    known: &KnownRows,
    evaluations: &mut Vec<Evaluation>,
) -> Result<(), PredictionError> {
    if rows.is_empty() {
        return Ok(());
    }
    let bound = bind_rows(model, known, &rows)?;
    let predictions = model.model.predict(&bound.values)?;
    evaluations.push(Evaluation { model: Arc::clone(model), role, experiment, rows, bound, predictions });
    Ok(())
}

/// The predictions of a step as a column; null where it did not run.
fn step_column(evaluations: &[Evaluation], rows: usize) -> Result<ArrayRef, PredictionError> {
    let mut values = vec![None; rows];
    for evaluation in evaluations {
        let width = evaluation.predictions.width;
        if width != 1 {
            return Err(PredictionError::StepWidth { model: evaluation.model.version.model.clone(), width });
        }
        for (at, row) in evaluation.rows.iter().enumerate() {
            values[*row] = Some(evaluation.predictions.row(at)[0]);
        }
    }
    Ok(Arc::new(Float64Array::from(values)))
}

fn looked_up(known: &KnownRows, reference: &str) -> Option<ArrayRef> {
    known.fetched(reference)?.columns.first().map(|column| Arc::clone(&column.values))
}

fn answer(
    plan: &RoutePlan,
    ids: &[String],
    evaluations: &[Evaluation],
    looked_up: Option<ArrayRef>,
    rows: usize,
    registry_version: u64,
) -> Result<PredictAnswer, PredictionError> {
    let ids = if ids.is_empty() { super::request::new_ids(rows) } else { ids.to_vec() };
    let empty = |prediction_id: String| RowAnswer {
        prediction_id,
        prediction: Vec::new(),
        model: String::new(),
        version: 0,
        defaults_used: Vec::new(),
    };
    let mut answers: Vec<RowAnswer> = ids.into_iter().map(empty).collect();
    for evaluation in evaluations.iter().filter(|evaluation| evaluation.role != Role::Step) {
        let version = &evaluation.model.version;
        for (at, row) in evaluation.rows.iter().enumerate() {
            let answer = &mut answers[*row];
            answer.prediction = evaluation.predictions.row(at).to_vec();
            answer.model.clone_from(&version.model);
            answer.version = version.version;
            answer.defaults_used = evaluation.bound.defaults_used(at, version).map(str::to_owned).collect();
        }
    }
    let is_looked_up = |row: usize| looked_up.as_ref().is_some_and(|array| array.is_valid(row));
    if let (None, Some(row)) =
        (&plan.lookup, (0..rows).find(|row| answers[*row].model.is_empty() && !is_looked_up(*row)))
    {
        return Err(PredictionError::RouteUnavailable {
            route: plan.name.clone(),
            problem: format!("no model answers row {}", row + 1),
        });
    }
    Ok(PredictAnswer { rows: answers, looked_up, registry_version })
}

/// The join keys of each row as one text.
fn entity_keys(plan: &RoutePlan, known: &KnownRows) -> Vec<String> {
    let keys: Vec<Vec<Option<String>>> = plan.join_keys.iter().map(|key| known.texts(key)).collect();
    (0..known.rows)
        .map(|row| keys.iter().map(|texts| texts[row].as_deref().unwrap_or("\u{0}")).collect::<Vec<_>>().join("\u{1f}"))
        .collect()
}
