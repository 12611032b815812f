//! Rows that a model is asked about, and what it answers.

use serde::{Deserialize, Serialize};

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInput {
    /// As the model's file calls it; None: it has no names.
    pub name: Option<String>,
    pub kind: InputKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// NaN stands for a missing value.
    Number,
    /// A text or a number that is equal to one of those the model was trained with, or not.
    Category,
    /// A text, of ONNX models.
    Text,
}

/// Rows of inputs in a model's order.
///
/// # Shapes
/// `rows` x `width`, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct InputRows {
    rows: usize,
    width: usize,
    /// NaN: missing, or a text.
    numbers: Vec<f64>,
    /// By input, for those that have texts: one a row.
    texts: Vec<(usize, Vec<Option<String>>)>,
}

impl InputRows {
    /// Rows in which every value is missing.
    pub fn missing(rows: usize, width: usize) -> Self {
        InputRows { rows, width, numbers: vec![f64::NAN; rows * width], texts: Vec::new() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Row by row.
    pub fn numbers(&self) -> &[f64] {
        &self.numbers
    }

    pub fn number(&self, row: usize, input: usize) -> f64 {
        self.numbers[row * self.width + input]
    }

    pub fn set_number(&mut self, row: usize, input: usize, value: f64) {
        self.numbers[row * self.width + input] = value;
    }

    /// The texts of an input, one a row; None: it has none.
    pub fn texts(&self, input: usize) -> Option<&[Option<String>]> {
        self.texts.iter().find(|(known, _)| *known == input).map(|(_, texts)| texts.as_slice())
    }

    pub fn set_text(&mut self, row: usize, input: usize, text: String) {
        let position = match self.texts.iter().position(|(known, _)| *known == input) {
            Some(position) => position,
            None => {
                self.texts.push((input, vec![None; self.rows]));
                self.texts.len() - 1
            }
        };
        self.texts[position].1[row] = Some(text);
    }

    pub fn has_texts(&self) -> bool {
        !self.texts.is_empty()
    }
}

/// Answers of a model.
///
/// # Shapes
/// `rows` x `width`, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    pub width: usize,
    pub values: Vec<f64>,
}

impl Predictions {
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}
