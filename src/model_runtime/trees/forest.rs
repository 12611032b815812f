//! Trees laid out to be walked, several at a time.
//!
//! The children of a node stand side by side, so that a step is `left + (slot > threshold)`, without a branch. A leaf
//! compares the lowest slot, and so leads to itself; its threshold is its value. Walks do not wait for each other:
//! sixteen trees of one row, or sixteen rows of one tree, are under way at once; the slots of sixteen rows stand side by
//! side, slot by slot. Trees whose levels all ask one question each are not walked: their answers are the bits of a
//! leaf's number.

use super::slots::LOWEST;

/// Walks that are under way at once.
pub const LANES: usize = 16;

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
    /// Slots of a row.
    pub(super) width: usize,
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

    /// Sets `sums`, one an output, to the values of the leaves that a row leads to.
    pub fn sum_row(&self, slots: &[f64], sums: &mut [f64]) {
        assert_eq!(slots.len(), self.width, "a row has its slots");
        sums.copy_from_slice(&self.start);
        self.walk_row(slots, sums);
        self.add_oblivious::<1>(slots, sums);
        self.finish(sums);
    }

    /// As [`Self::sum_row`], for groups of [`LANES`] rows.
    pub fn sum_lanes(&self, slots: &[f64], sums: &mut [f64]) {
        let (width, outputs) = (self.width * LANES, self.outputs);
        for sums in sums.chunks_mut(outputs) {
            sums.copy_from_slice(&self.start);
        }
        // Tree by tree, while its nodes are near.
        for tree in &self.walked {
            for (slots, sums) in slots.chunks_exact(width).zip(sums.chunks_exact_mut(LANES * outputs)) {
                self.walk_lanes(tree, slots, sums);
            }
        }
        for (slots, sums) in slots.chunks_exact(width).zip(sums.chunks_exact_mut(LANES * outputs)) {
            self.add_oblivious::<LANES>(slots, sums);
        }
        sums.chunks_mut(outputs).for_each(|sums| self.finish(sums));
    }

    fn finish(&self, sums: &mut [f64]) {
        for (sum, bias) in sums.iter_mut().zip(&self.bias) {
            *sum = *sum * self.scale + bias;
        }
    }

    /// Some trees at a time.
    fn walk_row(&self, slots: &[f64], sums: &mut [f64]) {
        let mut chunks = self.walked.chunks_exact(LANES);
        for trees in &mut chunks {
            let mut at: [u32; LANES] = std::array::from_fn(|lane| trees[lane].root);
            if trees.iter().any(|tree| tree.has_sets) {
                for (at, tree) in at.iter_mut().zip(trees) {
                    *at = self.leaf(*at, tree, slots, 1, 0);
                }
            } else {
                let depth_min = trees.iter().map(|tree| tree.depth_min).min().unwrap_or(0);
                let depth = trees.iter().map(|tree| tree.depth).max().unwrap_or(0);
                self.walk(&mut at, depth_min, depth, |_, slot| slot_at(slots, slot));
            }
            for (at, tree) in at.into_iter().zip(trees) {
                self.add(&mut sums[tree.output as usize], self.nodes[at as usize].threshold);
            }
        }
        for tree in chunks.remainder() {
            let leaf = self.leaf(tree.root, tree, slots, 1, 0);
            self.add(&mut sums[tree.output as usize], self.nodes[leaf as usize].threshold);
        }
    }

    /// Some rows of one tree at a time.
    fn walk_lanes(&self, tree: &Walked, slots: &[f64], sums: &mut [f64]) {
        let mut at = [tree.root; LANES];
        if tree.has_sets {
            for (lane, at) in at.iter_mut().enumerate() {
                *at = self.leaf(*at, tree, slots, LANES, lane);
            }
        } else {
            self.walk(&mut at, tree.depth_min, tree.depth, |lane, slot| slot_at(slots, slot * LANES + lane));
        }
        for (lane, at) in at.into_iter().enumerate() {
            self.add(&mut sums[lane * self.outputs + tree.output as usize], self.nodes[at as usize].threshold);
        }
    }

    /// Leads every lane from its node to a leaf; `slot` gives the value of a lane's slot.
    #[inline(always)]
    fn walk(&self, at: &mut [u32; LANES], depth_min: u32, depth: u32, slot: impl Fn(usize, usize) -> f64) {
        for _ in 0..depth_min {
            for (lane, at) in at.iter_mut().enumerate() {
                *at = self.step(*at, |number| slot(lane, number));
            }
        }
        for _ in depth_min..depth {
            let mut moved = 0;
            for (lane, at) in at.iter_mut().enumerate() {
                let next = self.step(*at, |number| slot(lane, number));
                moved |= next ^ *at;
                *at = next;
            }
            if moved == 0 {
                return;
            }
        }
    }

    #[inline(always)]
    fn step(&self, at: u32, slot: impl Fn(usize) -> f64) -> u32 {
        // SAFETY: the builder saw that every node leads to nodes, and a walk begins at one.
        let node = unsafe { self.nodes.get_unchecked(at as usize) };
        node.left + u32::from(slot(node.slot as usize) > node.threshold)
    }

    /// The leaf that one row leads to, whose slots stand `stride` apart from `lane` on.
    fn leaf(&self, mut at: u32, tree: &Walked, slots: &[f64], stride: usize, lane: usize) -> u32 {
        for _ in 0..tree.depth {
            let node = &self.nodes[at as usize];
            at = match node.slot & IN_SET {
                0 => node.left + u32::from(slots[node.slot as usize * stride + lane] > node.threshold),
                _ => {
                    let code = slots[(node.slot & !IN_SET) as usize * stride + lane];
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

    /// Adds what trees whose levels ask one question each say about some rows.
    fn add_oblivious<const ROWS: usize>(&self, slots: &[f64], sums: &mut [f64]) {
        let (slots, _) = slots.as_chunks::<ROWS>();
        for tree in &self.oblivious {
            let splits = &self.splits[tree.splits.start as usize..tree.splits.end as usize];
            let mut leaves = [0_u32; ROWS];
            for (bit, (slot, threshold)) in splits.iter().enumerate() {
                let slots = &slots[*slot as usize];
                for (leaf, slot) in leaves.iter_mut().zip(slots) {
                    *leaf |= u32::from(slot > threshold) << bit;
                }
            }
            for (leaf, sums) in leaves.into_iter().zip(sums.chunks_mut(self.outputs)) {
                let first = tree.leaves as usize + leaf as usize * self.outputs;
                for (sum, value) in sums.iter_mut().zip(&self.leaves[first..]) {
                    *sum += value;
                }
            }
        }
    }
}

#[inline(always)]
fn slot_at(slots: &[f64], at: usize) -> f64 {
    debug_assert!(at < slots.len());
    // SAFETY: the builder saw that every node reads a slot below the width, and the slots here are of whole rows.
    unsafe { *slots.get_unchecked(at) }
}
