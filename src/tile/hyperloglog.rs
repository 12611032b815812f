//! How many distinct values there are, approximately.
//!
//! A value's hash chooses one of 4096 registers, and the register keeps the greatest rank seen: the number of zeros
//! that the rest of the hash begins with, and one. The estimate is a function of how many registers have each rank,
//! so it does not depend on order, grouping or repeats. Its standard error is 1.04 / sqrt(4096) = 1.6 %.
//!
//! # Source
//! Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog", 2007; the estimator, good from none to 2^64 without a
//! switch to linear counting: Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017,
//! algorithm 6.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::codec::{Flaw, put_varint, take, take_byte, take_varint};
use super::value::Value;

const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The bits of a hash that do not choose the register; ranks go one further.
const RANK_BITS: u32 = 64 - INDEX_BITS;
const RANKS: usize = RANK_BITS as usize + 2;
/// With more registers in use than this all of them are kept.
const SPARSE_MAX: usize = 1024;
const PACKED_BITS: usize = 6;
const PACKED_BYTES: usize = REGISTERS * PACKED_BITS / 8;

/// Registers that take values in, and others' registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HyperLogLog {
    registers: Registers,
}

/// Which form it is follows from how many registers are in use, so equal registers have one form.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Registers {
    /// Indexes, ascending, with ranks.
    Sparse(Vec<(u16, u8)>),
    Dense(Box<[u8]>),
}

impl Default for HyperLogLog {
    fn default() -> Self {
        HyperLogLog { registers: Registers::Sparse(Vec::new()) }
    }
}

impl HyperLogLog {
    pub fn add(&mut self, value: &Value) {
        let (index, rank) = index_and_rank(hash(value));
        self.raise(index, rank);
    }

    pub fn merge(&mut self, other: &HyperLogLog) {
        match &other.registers {
            Registers::Sparse(entries) => entries.iter().for_each(|(index, rank)| self.raise(*index, *rank)),
            Registers::Dense(others) => {
                let ranks = self.make_dense();
                ranks.iter_mut().zip(others).for_each(|(rank, other)| *rank = (*rank).max(*other));
            }
        }
    }

    /// How many distinct values were added, approximately.
    pub fn estimate(&self) -> i64 {
        let mut counts = [0; RANKS];
        match &self.registers {
            Registers::Sparse(entries) => {
                counts[0] = REGISTERS - entries.len();
                entries.iter().for_each(|(_, rank)| counts[usize::from(*rank)] += 1);
            }
            Registers::Dense(ranks) => ranks.iter().for_each(|rank| counts[usize::from(*rank)] += 1),
        }
        estimate(&counts)
    }

    fn raise(&mut self, index: u16, rank: u8) {
        match &mut self.registers {
            Registers::Dense(ranks) => {
                let held = &mut ranks[usize::from(index)];
                *held = (*held).max(rank);
            }
            Registers::Sparse(entries) => match entries.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(place) => entries[place].1 = entries[place].1.max(rank),
                Err(place) => {
                    entries.insert(place, (index, rank));
                    if entries.len() > SPARSE_MAX {
                        self.make_dense();
                    }
                }
            },
        }
    }

    fn make_dense(&mut self) -> &mut [u8] {
        if let Registers::Sparse(entries) = &self.registers {
            let mut ranks = vec![0; REGISTERS].into_boxed_slice();
            entries.iter().for_each(|(index, rank)| ranks[usize::from(*index)] = *rank);
            self.registers = Registers::Dense(ranks);
        }
        match &mut self.registers {
            Registers::Dense(ranks) => ranks,
            Registers::Sparse(_) => &mut [],
        }
    }

    /// Writes how many registers are in use; then the gap to each from the one before, and its rank, or, of more than
    /// 1024, every rank in six bits, the first in the lowest.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match &self.registers {
            Registers::Sparse(entries) => {
                put_varint(bytes, entries.len() as u128);
                let mut next = 0;
                for (index, rank) in entries {
                    put_varint(bytes, *index - next);
                    bytes.push(*rank);
                    next = index + 1;
                }
            }
            Registers::Dense(ranks) => {
                put_varint(bytes, used(ranks) as u128);
                for ranks in ranks.chunks_exact(4) {
                    let packed = ranks.iter().rev().fold(0, |high, rank| high << PACKED_BITS | u32::from(*rank));
                    bytes.extend_from_slice(&packed.to_le_bytes()[..3]);
                }
            }
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Self, Flaw> {
        let len: usize = take_varint(bytes)?;
        let registers = if len <= SPARSE_MAX { decode_sparse(bytes, len)? } else { decode_dense(bytes, len)? };
        Ok(HyperLogLog { registers })
    }
}

fn decode_sparse(bytes: &mut &[u8], len: usize) -> Result<Registers, Flaw> {
    let mut entries = Vec::with_capacity(len);
    let mut next = 0_u16;
    for _ in 0..len {
        let gap: u16 = take_varint(bytes)?;
        let index = next.checked_add(gap).filter(|index| usize::from(*index) < REGISTERS).ok_or(Flaw::Malformed)?;
        let rank = take_byte(bytes)?;
        if rank == 0 || usize::from(rank) >= RANKS {
            return Err(Flaw::Malformed);
        }
        entries.push((index, rank));
        next = index + 1;
    }
    Ok(Registers::Sparse(entries))
}

fn decode_dense(bytes: &mut &[u8], len: usize) -> Result<Registers, Flaw> {
    let packed = take(bytes, PACKED_BYTES)?;
    let unpack = |group: &[u8]| {
        let group = group.iter().rev().fold(0, |high, byte| high << 8 | u32::from(*byte));
        [0, 1, 2, 3].map(|place| (group >> (place * PACKED_BITS)) as u8 & ((1 << PACKED_BITS) - 1))
    };
    let ranks: Box<[u8]> = packed.chunks_exact(3).flat_map(unpack).collect();
    let is_sound = ranks.iter().all(|rank| usize::from(*rank) < RANKS) && used(&ranks) == len;
    if is_sound { Ok(Registers::Dense(ranks)) } else { Err(Flaw::Malformed) }
}

fn used(ranks: &[u8]) -> usize {
    ranks.iter().filter(|rank| **rank > 0).count()
}

/// Registers that values can also be taken away from; the estimate is that of a [`HyperLogLog`] of what is left.
///
/// Memory is in proportion to the distinct values at first, and then to the logarithm of their number.
#[derive(Debug, Clone)]
pub struct SlidingDistinct {
    /// How many values were added for each register and rank, ordered by both; none is zero.
    cells: BTreeMap<(u16, u8), u64>,
    /// How many registers have each rank.
    counts: [usize; RANKS],
}

impl Default for SlidingDistinct {
    fn default() -> Self {
        let mut counts = [0; RANKS];
        counts[0] = REGISTERS;
        SlidingDistinct { cells: BTreeMap::new(), counts }
    }
}

impl SlidingDistinct {
    pub fn add(&mut self, value: &Value) {
        let (index, rank) = index_and_rank(hash(value));
        let cell = self.cells.entry((index, rank)).or_default();
        *cell += 1;
        if *cell == 1 {
            let below = self.greatest(index, rank);
            if self.greatest(index, u8::MAX) == rank {
                self.counts[usize::from(below)] -= 1;
                self.counts[usize::from(rank)] += 1;
            }
        }
    }

    /// Takes away a value that was added.
    pub fn remove(&mut self, value: &Value) {
        let (index, rank) = index_and_rank(hash(value));
        let Some(cell) = self.cells.get_mut(&(index, rank)) else { return };
        *cell -= 1;
        if *cell == 0 {
            let was_greatest = self.greatest(index, u8::MAX) == rank;
            self.cells.remove(&(index, rank));
            if was_greatest {
                self.counts[usize::from(rank)] -= 1;
                self.counts[usize::from(self.greatest(index, rank))] += 1;
            }
        }
    }

    /// How many distinct values are left, approximately.
    pub fn estimate(&self) -> i64 {
        estimate(&self.counts)
    }

    /// The greatest rank below `end` that the register has seen; zero: none.
    fn greatest(&self, index: u16, end: u8) -> u8 {
        self.cells.range((index, 0)..(index, end)).next_back().map_or(0, |((_, rank), _)| *rank)
    }
}

/// A hash that is the same everywhere and in every version; types of values begin with different seeds.
fn hash(value: &Value) -> u64 {
    match value.as_key().as_ref() {
        Value::Bool(value) => xxh3_64_with_seed(&[u8::from(*value)], 0),
        Value::Int(value) => xxh3_64_with_seed(&value.to_le_bytes(), 1),
        Value::Float(value) => xxh3_64_with_seed(&value.to_bits().to_le_bytes(), 2),
        Value::Bytes(value) => xxh3_64_with_seed(value, 3),
    }
}

fn index_and_rank(hash: u64) -> (u16, u8) {
    let index = (hash >> RANK_BITS) as u16;
    let rank = (hash << INDEX_BITS).leading_zeros().min(RANK_BITS) + 1;
    (index, rank as u8)
}

/// The estimate from how many registers have each rank.
fn estimate(counts: &[usize; RANKS]) -> i64 {
    const M: f64 = REGISTERS as f64;
    let last = RANKS - 1;
    let mut z = M * tau(1.0 - counts[last] as f64 / M);
    for count in counts[1..last].iter().rev() {
        z = 0.5 * (z + *count as f64);
    }
    z += M * sigma(counts[0] as f64 / M);
    (M * M / (2.0 * std::f64::consts::LN_2 * z)).round() as i64
}

/// `x + sum of x^(2^k) 2^(k - 1)` over `k >= 1`.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// `(1 - x - sum of (1 - x^(2^-k))^2 2^-k) / 3` over `k >= 1`.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
