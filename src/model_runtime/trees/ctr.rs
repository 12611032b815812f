//! Statistics of categories, which CatBoost compares instead of the categories.
//!
//! Source: CatBoost's `ctr_provider` and `TModelCtr::Calc`; it computes with 32 bits.

use std::collections::HashMap;

/// Multiplies hashes that are put together.
const MULTIPLIER: u64 = 0x4906_ba49_4954_cb65;

#[derive(Debug, Default)]
pub struct Ctrs {
    pub ctrs: Vec<Ctr>,
    pub tables: Vec<CtrTable>,
}

/// One statistic.
#[derive(Debug)]
pub struct Ctr {
    pub table: usize,
    pub kind: CtrKind,
    pub projection: Vec<Part>,
    /// Which border of the target it is about.
    pub target_border: usize,
    pub prior: f32,
    pub prior_denominator: f32,
    pub shift: f32,
    pub scale: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtrKind {
    Borders,
    Buckets,
    /// A sum and a count.
    Mean,
    /// How often the category came, of a fixed number of rows.
    Counter,
}

/// What of a row makes its bucket.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Category { input: u32 },
    Above { input: u32, border: f32 },
    IsCategory { input: u32, code: u32 },
}

/// What was counted in training, by the hash of a bucket.
#[derive(Debug)]
pub struct CtrTable {
    pub buckets: HashMap<u64, Vec<f32>>,
    pub denominator: f32,
}

impl Ctrs {
    pub fn value(&self, number: u32, inputs: &[f64], code: &dyn Fn(u32) -> Option<u32>) -> f64 {
        let ctr = &self.ctrs[number as usize];
        let table = &self.tables[ctr.table];
        let bucket = table.buckets.get(&ctr.bucket(inputs, code));
        let (good, total) = bucket.map_or((0.0, 0.0), |counts| ctr.counts(counts, table.denominator));
        f64::from(((good + ctr.prior) / (total + ctr.prior_denominator) + ctr.shift) * ctr.scale)
    }
}

impl Ctr {
    fn bucket(&self, inputs: &[f64], code: &dyn Fn(u32) -> Option<u32>) -> u64 {
        let hash = |part: &Part| match *part {
            // Hashes are signed where they are put together.
            Part::Category { input } => code(input).unwrap_or_default() as i32 as i64 as u64,
            Part::Above { input, border } => u64::from(inputs[input as usize] as f32 > border),
            Part::IsCategory { input, code: wanted } => u64::from(code(input) == Some(wanted)),
        };
        self.projection
            .iter()
            .fold(0_u64, |all, part| all.wrapping_add(MULTIPLIER.wrapping_mul(hash(part))).wrapping_mul(MULTIPLIER))
    }

    /// How often the target was what is asked about, and of how many.
    fn counts(&self, counts: &[f32], denominator: f32) -> (f32, f32) {
        let first = counts.first().copied().unwrap_or_default();
        match self.kind {
            CtrKind::Counter => (first, denominator),
            CtrKind::Mean => (first, counts.get(1).copied().unwrap_or_default()),
            CtrKind::Buckets => (counts.get(self.target_border).copied().unwrap_or_default(), counts.iter().sum()),
            CtrKind::Borders => (counts.iter().skip(self.target_border + 1).sum(), counts.iter().sum()),
        }
    }
}
