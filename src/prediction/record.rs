//! From answers to the records that the log has of them.

use std::sync::Arc;

use arrow::array::Array;

use super::hash::share;
use super::inputs::Origin;
use super::log::{LogRecord, RecordRow, RecordValue, Role};
use super::plan::RoutePlan;
use super::request::PredictAnswer;
use super::rows::{KnownRows, as_numbers, cell_text};
use super::service::Evaluation;

/// What the records of a request have in common.
#[derive(Debug, Clone, Copy)]
pub struct RecordHead {
    /// Microseconds since the Unix epoch.
    pub sent_at: i64,
    pub registry_version: u64,
    pub latency_us: u64,
}

/// The record of an evaluation, without the rows that are not sampled; None: no row is.
pub fn record(
    head: &RecordHead,
    plan: &RoutePlan,
    evaluation: &Evaluation,
    ids: &[impl AsRef<str>],
    known: &KnownRows,
) -> Option<LogRecord> {
    let version = &evaluation.model.version;
    let keys = Keys::of(plan, known);
    let sampled = evaluation.rows.iter().enumerate().filter(|(_, row)| is_sampled(plan, ids[**row].as_ref()));
    let rows = sampled.map(|(at, row)| RecordRow {
        prediction_id: ids[*row].as_ref().to_owned(),
        keys: keys.of_row(*row),
        values: evaluation.bound.record_values(at),
        prediction: evaluation.predictions.row(at).to_vec(),
    });
    let rows: Vec<RecordRow> = rows.collect();
    (!rows.is_empty()).then(|| LogRecord {
        model: version.model.clone(),
        version: version.version,
        role: evaluation.role,
        experiment: evaluation.experiment.clone(),
        inputs: Arc::clone(&evaluation.model.names.names),
        rows,
        ..empty(head, plan)
    })
}

/// The record of the rows that a lookup answered: the feature is what the answer was made from.
pub fn lookup_record(
    head: &RecordHead,
    plan: &RoutePlan,
    answer: &PredictAnswer,
    known: &KnownRows,
) -> Option<LogRecord> {
    let reference = plan.lookup.as_ref()?.to_string();
    let column = known.fetched(&reference)?.columns.first()?;
    let numbers = as_numbers(&column.values);
    let keys = Keys::of(plan, known);
    let is_answered = |row: usize| answer.rows[row].model.is_empty() && column.values.is_valid(row);
    let answered = (0..known.rows).filter(|row| is_answered(*row));
    let rows = answered.filter(|row| is_sampled(plan, &answer.rows[*row].prediction_id)).map(|row| {
        let number = numbers.as_ref().map(|numbers| numbers.value(row));
        let text = if number.is_some() { None } else { cell_text(&column.values, row) };
        let times = &column.event_timestamps;
        let value = RecordValue {
            number: number.unwrap_or(f64::NAN),
            text,
            origin: Origin::Store,
            status: column.statuses.get(row).copied(),
            event_timestamp: (row < times.len() && times.is_valid(row)).then(|| times.value(row)),
        };
        RecordRow {
            prediction_id: answer.rows[row].prediction_id.clone(),
            keys: keys.of_row(row),
            values: vec![value],
            prediction: number.into_iter().collect(),
        }
    });
    let rows: Vec<RecordRow> = rows.collect();
    (!rows.is_empty()).then(|| LogRecord { inputs: [reference].into(), rows, ..empty(head, plan) })
}

fn empty(head: &RecordHead, plan: &RoutePlan) -> LogRecord {
    LogRecord {
        sent_at: head.sent_at,
        route: plan.name.clone(),
        model: String::new(),
        version: 0,
        role: Role::Lookup,
        experiment: None,
        registry_version: head.registry_version,
        latency_us: head.latency_us,
        keys: plan.join_keys.clone(),
        inputs: Arc::default(),
        rows: Vec::new(),
    }
}

fn is_sampled(plan: &RoutePlan, id: &str) -> bool {
    plan.log.sample >= 1.0 || share(&["log", &plan.name], id) < plan.log.sample
}

/// The join keys of a request as texts.
struct Keys(Vec<Vec<Option<String>>>);

impl Keys {
    fn of(plan: &RoutePlan, known: &KnownRows) -> Self {
        Keys(plan.join_keys.iter().map(|key| known.texts(key)).collect())
    }

    fn of_row(&self, row: usize) -> Vec<Option<String>> {
        self.0.iter().map(|texts| texts[row].clone()).collect()
    }
}
