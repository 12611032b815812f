//! From the inputs of a row to its slots, which trees compare.

use std::collections::HashMap;

use super::categories::Categories;
use super::ctr::Ctrs;
use crate::model_runtime::InputRows;

/// The slot that is smaller than any threshold: what leaves compare, to stay where they are.
pub const LOWEST: u32 = 0;

/// Where a missing value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Below every threshold.
    Low,
    /// Above every threshold.
    High,
    /// It counts as zero.
    Zero,
}

/// How a slot follows from its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    Number {
        input: u32,
        missing: Missing,
        /// Zero is missing, too.
        zero_is_missing: bool,
        /// The library computes with 32 bits.
        is_single: bool,
    },
    /// The code of a category, -1 where there is none.
    Category { input: u32 },
    /// 1 for the category with this code, else 0.
    IsCategory { input: u32, code: u32 },
    /// A statistic of categories, by its number.
    Ctr(u32),
}

/// The largest number that LightGBM takes for zero.
const ZERO_MAX: f64 = 1e-35;

/// What fills the slots of a row.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    known: HashMap<Slot, u32>,
    /// By input; None: a number.
    categories: Vec<Option<Categories>>,
    ctrs: Ctrs,
}

impl Slots {
    pub fn new(categories: Vec<Option<Categories>>, ctrs: Ctrs) -> Self {
        Slots { slots: Vec::new(), known: HashMap::new(), categories, ctrs }
    }

    /// The number of a slot, which is made where there is none yet.
    pub fn number_of(&mut self, slot: Slot) -> u32 {
        let next = self.slots.len() as u32 + 1;
        *self.known.entry(slot).or_insert_with(|| {
            self.slots.push(slot);
            next
        })
    }

    /// Slots of a row, with the one that is always the lowest.
    pub fn width(&self) -> usize {
        self.slots.len() + 1
    }

    /// Fills the slots of one row, each slot so many values after the one before it.
    pub fn fill(&self, rows: &InputRows, row: usize, slots: &mut [f64], stride: usize, lane: usize) {
        slots[LOWEST as usize * stride + lane] = f64::NEG_INFINITY;
        let inputs = &rows.numbers()[row * rows.width()..(row + 1) * rows.width()];
        for (slot, value) in self.slots.iter().zip(slots[stride..].chunks_mut(stride).map(|values| &mut values[lane])) {
            *value = match *slot {
                Slot::Number { input, missing, zero_is_missing, is_single } => {
                    let number = inputs[input as usize];
                    let number = if is_single { f64::from(number as f32) } else { number };
                    let is_missing = number.is_nan() || (zero_is_missing && number.abs() <= ZERO_MAX);
                    let instead = match missing {
                        Missing::Low => f64::NEG_INFINITY,
                        Missing::High => f64::INFINITY,
                        Missing::Zero => 0.0,
                    };
                    // Infinity itself stays below what is missing.
                    if is_missing { instead } else { number.min(f64::MAX) }
                }
                Slot::Category { input } => self.code(rows, row, input).map_or(-1.0, f64::from),
                Slot::IsCategory { input, code } => f64::from(u8::from(self.code(rows, row, input) == Some(code))),
                Slot::Ctr(ctr) => self.ctrs.value(ctr, inputs, &|input| self.code(rows, row, input)),
            };
        }
    }

    fn code(&self, rows: &InputRows, row: usize, input: u32) -> Option<u32> {
        let input = input as usize;
        let categories = self.categories.get(input)?.as_ref()?;
        match rows.texts(input).and_then(|texts| texts[row].as_deref()) {
            Some(text) => categories.code_of_text(text),
            None => categories.code_of_number(rows.number(row, input)),
        }
    }
}
