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

use forest::{Forest, LANES};
use slots::Slots;
use transform::Transform;

use super::{InputRows, ModelInput, Predictions};

/// Rows whose slots are filled before their trees are walked, some groups of lanes: they stay in the nearest cache.
const BLOCK_ROWS: usize = 4 * LANES;

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
        let in_lanes = rows.rows() / LANES * LANES;
        let (grouped, single) = sums.split_at_mut(in_lanes * outputs);
        let mut slots = vec![0.0; width * in_lanes.clamp(1, BLOCK_ROWS)];
        for (block, sums) in grouped.chunks_mut(BLOCK_ROWS * outputs).enumerate() {
            let slots = &mut slots[..width * sums.len() / outputs];
            for (group, slots) in slots.chunks_mut(width * LANES).enumerate() {
                let first = block * BLOCK_ROWS + group * LANES;
                (0..LANES).for_each(|lane| self.slots.fill(rows, first + lane, slots, LANES, lane));
            }
            self.forest.sum_lanes(slots, sums);
        }
        for (row, sums) in single.chunks_mut(outputs).enumerate() {
            self.slots.fill(rows, in_lanes + row, &mut slots[..width], 1, 0);
            self.forest.sum_row(&slots[..width], sums);
        }
        Predictions { width: self.outputs(), values: self.transform.apply(sums, outputs) }
    }
}
