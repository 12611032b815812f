//! Answers as columns of the wire and as JSON.

use serde_json::{Value, json};

use crate::prediction::{PredictAnswer, RowAnswer};
use crate::serving::columns::encode_column;
use crate::serving::json::values_to_json;
use crate::serving::pb;

pub fn to_wire(answer: &PredictAnswer) -> pb::PredictResponse {
    let rows = &answer.rows;
    let first = rows.first();
    let is_one =
        rows.iter().all(|row| first.is_some_and(|first| row.model == first.model && row.version == first.version));
    let told = if is_one { &rows[..rows.len().min(1)] } else { &rows[..] };
    let defaults = rows.iter().map(|row| pb::DefaultsUsed { inputs: row.defaults_used.clone() });
    let has_defaults = rows.iter().any(|row| !row.defaults_used.is_empty());
    pb::PredictResponse {
        predictions: Some(encode_column("prediction", &answer.predictions())),
        models: told.iter().map(|row| row.model.clone()).collect(),
        model_versions: told.iter().map(|row| row.version).collect(),
        prediction_ids: rows.iter().map(|row| row.prediction_id.clone()).collect(),
        defaults_used: if has_defaults { defaults.collect() } else { Vec::new() },
        registry_version: answer.registry_version,
        others: Vec::new(),
    }
}

/// The document of `POST /predict`: one model and version where all rows have the same, else one a row.
pub fn to_json(answer: &PredictAnswer) -> Value {
    let rows = &answer.rows;
    let each = |of: &dyn Fn(&RowAnswer) -> Value| -> Value {
        let values: Vec<Value> = rows.iter().map(of).collect();
        match values.first() {
            Some(first) if values.iter().all(|value| value == first) => first.clone(),
            _ => Value::Array(values),
        }
    };
    let name = |row: &RowAnswer| if row.model.is_empty() { Value::Null } else { json!(row.model) };
    let version = |row: &RowAnswer| if row.version == 0 { Value::Null } else { json!(row.version) };
    json!({
        "predictions": values(answer),
        "model": each(&name),
        "model_version": each(&version),
        "prediction_ids": rows.iter().map(|row| &row.prediction_id).collect::<Vec<_>>(),
        "defaults_used": rows.iter().map(|row| &row.defaults_used).collect::<Vec<_>>(),
        "registry_version": answer.registry_version,
    })
}

/// One JSON value a row. A lookup whose fallback answered some rows has values of both.
pub fn values(answer: &PredictAnswer) -> Vec<Value> {
    let looked_up = answer.looked_up.as_ref().map(|array| values_to_json(&encode_column("prediction", array)));
    let own = |(position, row): (usize, &RowAnswer)| match (row.prediction.as_slice(), &looked_up) {
        ([], Some(values)) => values.get(position).cloned().unwrap_or(Value::Null),
        ([], None) => Value::Null,
        ([number], _) => number_value(*number),
        (numbers, _) => numbers.iter().map(|number| number_value(*number)).collect(),
    };
    answer.rows.iter().enumerate().map(own).collect()
}

fn number_value(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}
