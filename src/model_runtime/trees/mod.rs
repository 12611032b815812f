//! Models of decision trees.
//!
//! ```text
//! row of inputs ── slots.rs ──► row of slots ── forest.rs ──► sums ── transform.rs ──► prediction
//! ```
//!
//! A slot is an input made ready to be compared: rounded to what the library computes with, a missing value replaced
//! by an infinity on the side to which it goes. So a node is one comparison whatever library it comes from:
//! `slot > threshold` goes right. The loaders, one a library, translate into that.

pub mod catboost;
pub mod lightgbm;
pub mod xgboost;

mod builder;
mod categories;
mod city_hash;
mod ctr;
mod forest;
mod json;
mod slots;
mod transform;
mod ubjson;

use forest::Forest;
use slots::Slots;
use transform::Transform;

use super::{InputRows, ModelInput, Predictions};

/// Rows whose slots are filled before their trees are walked: those of so many rows stay in the nearest cache.
const BLOCK_ROWS: usize = 32;

#[derive(Debug)]
pub struct TreeModel {
    inputs: Vec<ModelInput>,
    slots: Slots,
    forest: Forest,
    transform: Transform,
}

impl TreeModel {
    pub fn inputs(&self) -> &[ModelInput] {
        &self.inputs
    }

    pub fn outputs(&self) -> usize {
        self.transform.outputs(self.forest.outputs())
    }

    pub fn predict(&self, rows: &InputRows) -> Predictions {
        let (width, outputs) = (self.slots.width(), self.forest.outputs());
        let mut sums = vec![0.0; rows.rows() * outputs];
        let mut slots = vec![0.0; width * rows.rows().min(BLOCK_ROWS)];
        for (block, sums) in sums.chunks_mut(BLOCK_ROWS * outputs).enumerate() {
            let first = block * BLOCK_ROWS;
            let count = sums.len() / outputs;
            for (row, slots) in slots.chunks_mut(width).take(count).enumerate() {
                self.slots.fill(rows, first + row, slots);
            }
            self.forest.sum(&slots[..count * width], width, sums);
        }
        Predictions { width: self.outputs(), values: self.transform.apply(sums, outputs) }
    }
}
