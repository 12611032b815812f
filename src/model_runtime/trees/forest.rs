//! Trees laid out to be walked, several at a time.
//!
//! The children of a node stand side by side, so that a step is `left + (slot > threshold)`, without a branch. A leaf
//! compares the lowest slot, and so leads to itself; its threshold is its value. Walks do not wait for each other:
//! sixteen trees of one row, or sixteen rows of one tree, are under way at once. Trees whose levels all ask one question
//! each are not walked: their answers are the bits of a leaf's number.

use super::slots::LOWEST;

/// Walks that are under way at once.
const LANES: usize = 16;

/// One node, or one leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Of a leaf its value; of a node that asks for a category, the number of its set.
    pub threshold: f64,
    /// Where the left child stands, and right after it the right one.
    pub left: u32,
    /// The slot that is compared; with [`IN_SET`], whose category is looked for.
    pub slot: u32,
}

/// Marks nodes that ask whether a category is in a set, and lead to the left if so.
pub(super) const IN_SET: u32 = 1 << 31;

/// Categories by code.
#[derive(Debug, Clone)]
pub(super) struct CategorySet {
    codes: Codes,
    /// Whether one that is missing or unknown leads to the left.
    pub has_missing: bool,
}

#[derive(Debug, Clone)]
enum Codes {
    /// One bit a code.
    Dense(Vec<u64>),
    /// Ascending.
    Sparse(Vec<u32>),
}

impl CategorySet {
    pub fn of_bits(bits: Vec<u64>) -> Self {
        CategorySet { codes: Codes::Dense(bits), has_missing: false }
    }

    pub fn of_codes(mut codes: Vec<u32>) -> Self {
        codes.sort_unstable();
        let words = codes.last().map_or(0, |last| *last as usize / 64 + 1);
        // Bits may take as much memory as the list, and a little.
        if words > codes.len() + 16 {
            return CategorySet { codes: Codes::Sparse(codes), has_missing: false };
        }
        let mut bits = vec![0; words];
        for code in codes {
            bits[code as usize / 64] |= 1 << (code % 64);
        }
        CategorySet::of_bits(bits)
    }

    fn contains(&self, code: f64) -> bool {
        if code < 0.0 {
            return self.has_missing;
        }
        let code = code as u32;
        match &self.codes {
            Codes::Dense(bits) => bits.get(code as usize / 64).is_some_and(|word| word >> (code % 64) & 1 == 1),
            Codes::Sparse(codes) => codes.binary_search(&code).is_ok(),
        }
    }
}

/// A tree by its first node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walked {
    pub root: u32,
    /// Steps that lead to a leaf from the root, at most and at least.
    pub depth: u32,
    pub depth_min: u32,
    /// Which of the sums its leaves add to.
    pub output: u32,
    pub has_sets: bool,
}

/// A tree whose levels ask one question each; the first decides the last bit of the leaf's number.
#[derive(Debug, Clone)]
pub(super) struct Oblivious {
    pub splits: std::ops::Range<u32>,
    /// Where its leaves begin, each with a value for every output.
    pub leaves: u32,
}

/// How the library adds up, which its results show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Single,
    Double,
}

#[derive(Debug)]
pub struct Forest {
    pub(super) outputs: usize,
    pub(super) precision: Precision,
    /// What the sums begin with, one an output.
    pub(super) start: Vec<f64>,
    pub(super) nodes: Vec<Node>,
    pub(super) sets: Vec<CategorySet>,
    pub(super) walked: Vec<Walked>,
    /// (slot, threshold) by level.
    pub(super) splits: Vec<(u32, f64)>,
    pub(super) oblivious: Vec<Oblivious>,
    pub(super) leaves: Vec<f64>,
    /// Applied to the sums at the end: factor, and what is added, one an output.
    pub(super) scale: f64,
    pub(super) bias: Vec<f64>,
}

impl Forest {
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Sets `sums`, for each row one an output, to the values of the leaves that the rows lead to.
    pub fn sum(&self, slots: &[f64], width: usize, sums: &mut [f64]) {
        for sums in sums.chunks_mut(self.outputs) {
            sums.copy_from_slice(&self.start);
        }
        let rows = sums.len() / self.outputs;
        match rows {
            1 => self.walk_row(slots, sums),
            _ => self.walk_rows(slots, width, sums),
        }
        for (slots, sums) in slots.chunks(width).zip(sums.chunks_mut(self.outputs)) {
            self.add_oblivious(slots, sums);
            for (sum, bias) in sums.iter_mut().zip(&self.bias) {
                *sum = *sum * self.scale + bias;
            }
        }
    }

    /// Some trees at a time.
    fn walk_row(&self, slots: &[f64], sums: &mut [f64]) {
        let mut chunks = self.walked.chunks_exact(LANES);
        for trees in &mut chunks {
            let mut at: [u32; LANES] = std::array::from_fn(|lane| trees[lane].root);
            if trees.iter().any(|tree| tree.has_sets) {
                for (at, tree) in at.iter_mut().zip(trees) {
                    *at = self.leaf(*at, tree, slots);
                }
            } else {
                let depth_min = trees.iter().map(|tree| tree.depth_min).min().unwrap_or(0);
                let depth = trees.iter().map(|tree| tree.depth).max().unwrap_or(0);
                self.walk(&mut at, depth_min, depth, |_| slots);
            }
            for (at, tree) in at.into_iter().zip(trees) {
                self.add(&mut sums[tree.output as usize], self.nodes[at as usize].threshold);
            }
        }
        for tree in chunks.remainder() {
            let leaf = self.leaf(tree.root, tree, slots);
            self.add(&mut sums[tree.output as usize], self.nodes[leaf as usize].threshold);
        }
    }

    /// Some rows of one tree at a time.
    fn walk_rows(&self, slots: &[f64], width: usize, sums: &mut [f64]) {
        let outputs = self.outputs;
        for tree in &self.walked {
            let output = tree.output as usize;
            let mut rows = slots.chunks_exact(width * LANES);
            let mut done = 0;
            if !tree.has_sets {
                for rows in &mut rows {
                    let mut at = [tree.root; LANES];
                    self.walk(&mut at, tree.depth_min, tree.depth, |lane| &rows[lane * width..(lane + 1) * width]);
                    for at in at {
                        self.add(&mut sums[done * outputs + output], self.nodes[at as usize].threshold);
                        done += 1;
                    }
                }
            }
            for (row, slots) in slots.chunks(width).enumerate().skip(done) {
                let leaf = self.leaf(tree.root, tree, slots);
                self.add(&mut sums[row * outputs + output], self.nodes[leaf as usize].threshold);
            }
        }
    }

    /// Leads every lane from its node to a leaf.
    #[inline(always)]
    fn walk<'s>(&self, at: &mut [u32; LANES], depth_min: u32, depth: u32, slots: impl Fn(usize) -> &'s [f64]) {
        for _ in 0..depth_min {
            for (lane, at) in at.iter_mut().enumerate() {
                *at = self.step(*at, slots(lane));
            }
        }
        for _ in depth_min..depth {
            let mut moved = 0;
            for (lane, at) in at.iter_mut().enumerate() {
                let next = self.step(*at, slots(lane));
                moved |= next ^ *at;
                *at = next;
            }
            if moved == 0 {
                return;
            }
        }
    }

    #[inline(always)]
    fn step(&self, at: u32, slots: &[f64]) -> u32 {
        let node = &self.nodes[at as usize];
        node.left + u32::from(slots[node.slot as usize] > node.threshold)
    }

    /// The leaf that one row leads to.
    fn leaf(&self, mut at: u32, tree: &Walked, slots: &[f64]) -> u32 {
        for _ in 0..tree.depth {
            let node = &self.nodes[at as usize];
            at = match node.slot & IN_SET {
                0 => node.left + u32::from(slots[node.slot as usize] > node.threshold),
                _ => {
                    let code = slots[(node.slot & !IN_SET) as usize];
                    node.left + u32::from(!self.sets[node.threshold as usize].contains(code))
                }
            };
            if node.slot == LOWEST {
                break;
            }
        }
        at
    }

    #[inline(always)]
    fn add(&self, sum: &mut f64, value: f64) {
        *sum = match self.precision {
            Precision::Double => *sum + value,
            Precision::Single => f64::from(*sum as f32 + value as f32),
        };
    }

    fn add_oblivious(&self, slots: &[f64], sums: &mut [f64]) {
        for tree in &self.oblivious {
            let splits = &self.splits[tree.splits.start as usize..tree.splits.end as usize];
            let mut leaf = 0;
            for (bit, (slot, threshold)) in splits.iter().enumerate() {
                leaf |= usize::from(slots[*slot as usize] > *threshold) << bit;
            }
            let first = tree.leaves as usize + leaf * self.outputs;
            for (sum, value) in sums.iter_mut().zip(&self.leaves[first..]) {
                *sum += value;
            }
        }
    }
}
