//! Rows whose predictions are known: a model that answers otherwise is not registered.

use std::collections::BTreeMap;

use super::binding::{BoundInput, Scalar};
use super::error::ModelRegistryError;
use crate::model_runtime::{InputKind, InputRows, Model};

/// How far a prediction may be from what is expected, of its size.
pub const GOLDEN_TOLERANCE: f64 = 1e-6;

/// The values of the inputs by their names, and what is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenRow {
    /// What is not here is missing.
    pub inputs: BTreeMap<String, Scalar>,
    pub prediction: Vec<f64>,
}

/// # Errors
/// The first row whose prediction differs, or that names what is no input.
pub fn check_golden(model: &Model, inputs: &[BoundInput], rows: &[GoldenRow]) -> Result<(), ModelRegistryError> {
    let mut values = InputRows::missing(rows.len(), inputs.len());
    for (position, row) in rows.iter().enumerate() {
        let wrong =
            |problem: String| ModelRegistryError::GoldenRows { problem: format!("row {}: {problem}", position + 1) };
        for (name, value) in &row.inputs {
            let Some(input) = inputs.iter().position(|input| input.name == *name) else {
                return Err(wrong(format!("`{name}` is no input of the model")));
            };
            match value {
                Scalar::Number(number) => values.set_number(position, input, *number),
                Scalar::Text(text) if inputs[input].kind != InputKind::Number => {
                    values.set_text(position, input, text.clone());
                }
                Scalar::Text(text) => return Err(wrong(format!("`{name}` is a number, and the row has `{text}`"))),
            }
        }
    }
    let predictions = model.predict(&values)?;
    for (position, row) in rows.iter().enumerate() {
        let found = predictions.row(position);
        let is_near = |(found, expected): (&f64, &f64)| {
            found == expected || (found - expected).abs() <= GOLDEN_TOLERANCE * expected.abs().max(f64::MIN_POSITIVE)
        };
        if found.len() != row.prediction.len() || !found.iter().zip(&row.prediction).all(is_near) {
            let (found, expected) = (found.to_vec(), row.prediction.clone());
            return Err(ModelRegistryError::Golden { row: position + 1, found, expected });
        }
    }
    Ok(())
}
