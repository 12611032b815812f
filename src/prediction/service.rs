//! Answering requests.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use arrow::array::{Array, ArrayRef, Float64Array};

use super::catalog::{LoadedModel, PredictionCatalog};
use super::error::PredictionError;
use super::hash::share;
use super::inputs::{BoundRows, bind_rows};
use super::log::{LogRecord, PredictionLogger, Role};
use super::plan::{PlannedStep, Read, RoutePlan};
use super::request::{PredictAnswer, PredictRequest, RowAnswer};
use super::rows::{KnownRows, check_columns, service_columns};
use super::shadow::{ShadowJob, Shadows};
use crate::metrics::PREDICTIONS_TOTAL;
use crate::model_registry::{BoundInput, InputSource};
use crate::model_runtime::Predictions;
use crate::retrieval::{OnlineRetrieval, RequestColumns, Waiting};
use crate::time::EventTimestamp;
use crate::trace;

/// Up to here a request is answered on the thread that received it: handing others over would take longer.
const INLINE_ROWS_MAX: usize = 256;

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
        self.catalog.store(Some(catalog));
    }

    pub fn logger(&self) -> Option<&Arc<PredictionLogger>> {
        self.logger.as_ref()
    }

    /// Answers each row of a request; returns once what was answered is as durable as the route says.
    ///
    /// # Errors
    /// A request that does not fit its route, a model or a store that fails: nothing is answered then.
    pub async fn predict(&self, request: PredictRequest) -> Result<PredictAnswer, PredictionError> {
        let arrived = Instant::now();
        let catalog = self.catalog().ok_or_else(|| PredictionError::RouteUnavailable {
            route: request.route.clone(),
            problem: "nothing is applied yet; run `asof apply`".to_owned(),
        })?;
        let plan = catalog.route(&request.route)?;
        let now = request.now.unwrap_or_else(|| self.online.clock.now());
        let evaluate = || self.evaluate(&catalog, &plan, &request, now);
        let evaluated = match request.columns.num_rows() {
            0..=INLINE_ROWS_MAX => evaluate()?,
            _ => tokio::task::block_in_place(evaluate)?,
        };
        trace::rows(request.columns.num_rows());
        let latency_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        let Evaluated { answer, evaluations, known } = evaluated;
        for evaluation in &evaluations {
            metrics::counter!(
                PREDICTIONS_TOTAL,
                "route" => plan.name.clone(),
                "model" => format!("{}@{}", evaluation.model.version.model, evaluation.model.version.version),
                "role" => evaluation.role.as_str(),
            )
            .increment(evaluation.rows.len() as u64);
        }
        let ids: Vec<&str> = answer.rows.iter().map(|row| row.prediction_id.as_str()).collect();
        let sent_at = self.online.clock.now().micros();
        let head = RecordHead { plan: &plan, sent_at, registry_version: answer.registry_version, latency_us };
        let logging = Instant::now();
        self.log(&head, &evaluations, &ids, &known).await?;
        trace::stage("log", logging);
        self.start_shadows(&catalog, &plan, known, &request, &answer, now);
        Ok(answer)
    }

    /// Fetches what the route reads, and asks its models.
    fn evaluate(
        &self,
        catalog: &PredictionCatalog,
        plan: &RoutePlan,
        request: &PredictRequest,
        now: EventTimestamp,
    ) -> Result<Evaluated, PredictionError> {
        let mut known = KnownRows::new(&request.columns)?;
        check_request(plan, request)?;
        let reading = Instant::now();
        let needed: Vec<&Arc<Read>> = plan.reads.iter().filter(|read| needs_read(plan, read, &known)).collect();
        for read in needed {
            fetch(&self.online, catalog, read, request, now, &mut known)?;
        }
        trace::stage("read", reading);
        let evaluating = Instant::now();
        let evaluated = evaluate_plan(plan, request, known, catalog.features.registry.version);
        trace::stage("evaluate", evaluating);
        evaluated
    }

    /// Remembers what was answered; a share of it, by the prediction's id, where the route samples.
    async fn log(
        &self,
        head: &RecordHead<'_>,
        evaluations: &[Evaluation],
        ids: &[&str],
        known: &KnownRows,
    ) -> Result<(), PredictionError> {
        let Some(logger) = &self.logger else { return Ok(()) };
        let records: Vec<LogRecord> =
            evaluations.iter().filter_map(|evaluation| record(head, evaluation, ids, known)).collect();
        logger.append(&records, head.plan.log.durability).await
    }

    fn start_shadows(
        &self,
        catalog: &Arc<PredictionCatalog>,
        plan: &Arc<RoutePlan>,
        known: KnownRows,
        request: &PredictRequest,
        answer: &PredictAnswer,
        now: EventTimestamp,
    ) {
        if plan.shadows.is_empty() {
            return;
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
                columns: request.columns.clone(),
                rows,
                ids: Arc::clone(&ids),
                now,
            });
        }
    }
}

/// # Errors
/// Rows and ids that do not fit, columns that nothing reads.
pub fn check_request(plan: &RoutePlan, request: &PredictRequest) -> Result<(), PredictionError> {
    let rows = request.columns.num_rows();
    if rows == 0 {
        return Err(PredictionError::NoRows);
    }
    let ids = &request.prediction_ids;
    if !ids.is_empty() && ids.len() != rows {
        return Err(PredictionError::PredictionIds { rows, ids: ids.len() });
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(id) = ids.iter().find(|id| !seen.insert(*id)) {
        return Err(PredictionError::SameId { id: id.clone() });
    }
    let is_known = |name: &str| {
        plan.columns.iter().any(|known| known == name)
            // `view:feature` stands for `view__feature`.
            || name.split_once(':').is_some_and(|(view, feature)| plan.columns.contains(&format!("{view}__{feature}")))
    };
    check_columns(&request.columns, is_known, &plan.columns)
}

/// Whether the store has to be asked: not where the request carries a value for every feature of every row.
fn needs_read(plan: &RoutePlan, read: &Read, known: &KnownRows) -> bool {
    let is_lookup = plan.lookup.as_ref().is_some_and(|lookup| lookup.to_string() == read.name);
    let has_keys = read.resolved.join_keys.iter().all(|key| known.sent.contains_key(&key.name));
    // Conditions may name any feature.
    let has_conditions = plan.steps.iter().any(|step| step.when.is_some()) || !plan.shadows.is_empty();
    let is_missing = |input: &BoundInput| {
        let is_stored = matches!(input.source, InputSource::Feature { .. });
        is_stored && known.sent_for(input).is_none_or(|array| array.logical_null_count() > 0)
    };
    let mut models = plan.models().filter(|model| model.version.service == read.name);
    is_lookup || (has_keys && has_conditions) || models.any(|model| model.version.inputs.iter().any(is_missing))
}

/// Reads the features of one service at an instant.
pub fn fetch(
    online: &OnlineRetrieval,
    catalog: &PredictionCatalog,
    read: &Read,
    request: &PredictRequest,
    now: EventTimestamp,
    known: &mut KnownRows,
) -> Result<(), PredictionError> {
    let columns = service_columns(&request.columns, &read.resolved)?;
    let columns = RequestColumns::new(&read.resolved, columns)?;
    let answer =
        online.answer(&catalog.features, Arc::clone(&read.resolved), &columns, Some(now), &Waiting::default())?;
    known.add_fetched(&read.name, answer.into_answer());
    Ok(())
}

/// Asks the models of a plan about rows whose features are known.
pub fn evaluate_plan(
    plan: &RoutePlan,
    request: &PredictRequest,
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
        if !known.sent.contains_key(&experiment.unit) {
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
            known.steps.insert(alias.clone(), step_column(&evaluations[first..], rows)?);
        }
    }
    let answer = answer(plan, request, &evaluations, looked_up, rows, registry_version)?;
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
    let bound = bind_rows(&model.version, known, &rows)?;
    let predictions = model.model.predict(&bound.values)?;
    evaluations.push(Evaluation { model: Arc::clone(model), role, experiment, rows, bound, predictions });
    Ok(())
}

/// The predictions of a step as a column; null where it did not run.
fn step_column(evaluations: &[Evaluation], rows: usize) -> Result<ArrayRef, PredictionError> {
    let mut values = vec![None; rows];
    for evaluation in evaluations {
        if evaluation.predictions.width != 1 {
            let problem = format!(
                "a step's model has {} outputs, and another one reads one number",
                evaluation.predictions.width
            );
            return Err(PredictionError::RouteUnavailable { route: evaluation.model.version.model.clone(), problem });
        }
        for (at, row) in evaluation.rows.iter().enumerate() {
            values[*row] = Some(evaluation.predictions.row(at)[0]);
        }
    }
    Ok(Arc::new(Float64Array::from(values)))
}

fn looked_up(known: &KnownRows, reference: &str) -> Option<ArrayRef> {
    known.fetched.get(reference)?.values().next().map(|column| Arc::clone(&column.values))
}

fn answer(
    plan: &RoutePlan,
    request: &PredictRequest,
    evaluations: &[Evaluation],
    looked_up: Option<ArrayRef>,
    rows: usize,
    registry_version: u64,
) -> Result<PredictAnswer, PredictionError> {
    let ids = match request.prediction_ids.is_empty() {
        true => super::request::new_ids(rows),
        false => request.prediction_ids.clone(),
    };
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

/// What the records of a request have in common.
pub(super) struct RecordHead<'a> {
    pub plan: &'a RoutePlan,
    pub sent_at: i64,
    pub registry_version: u64,
    pub latency_us: u64,
}

/// The record of an evaluation, without the rows that are not sampled; None: no row is.
pub(super) fn record(
    head: &RecordHead<'_>,
    evaluation: &Evaluation,
    ids: &[impl AsRef<str>],
    known: &KnownRows,
) -> Option<LogRecord> {
    let RecordHead { plan, sent_at, registry_version, latency_us } = *head;
    let version = &evaluation.model.version;
    let is_sampled = |id: &str| plan.log.sample >= 1.0 || share(&["log", &plan.name], id) < plan.log.sample;
    let keys: Vec<Vec<Option<String>>> = plan.join_keys.iter().map(|key| known.texts(key)).collect();
    let sampled = evaluation.rows.iter().enumerate().filter(|(_, row)| is_sampled(ids[**row].as_ref()));
    let rows: Vec<_> = sampled
        .map(|(at, row)| super::log::RecordRow {
            prediction_id: ids[*row].as_ref().to_owned(),
            keys: keys.iter().map(|texts| texts[*row].clone()).collect(),
            values: evaluation.bound.record_values(at),
            prediction: evaluation.predictions.row(at).to_vec(),
        })
        .collect();
    (!rows.is_empty()).then(|| LogRecord {
        sent_at,
        route: plan.name.clone(),
        model: version.model.clone(),
        version: version.version,
        role: evaluation.role,
        experiment: evaluation.experiment.clone(),
        registry_version,
        latency_us,
        keys: plan.join_keys.clone(),
        inputs: version.inputs.iter().map(|input| input.name.clone()).collect(),
        rows,
    })
}

/// The join keys of each row as one text.
fn entity_keys(plan: &RoutePlan, known: &KnownRows) -> Vec<String> {
    let keys: Vec<Vec<Option<String>>> = plan.join_keys.iter().map(|key| known.texts(key)).collect();
    (0..known.rows)
        .map(|row| keys.iter().map(|texts| texts[row].as_deref().unwrap_or("\u{0}")).collect::<Vec<_>>().join("\u{1f}"))
        .collect()
}
