//! The first few of many by an order.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// At most `n` items, the best first, repeats included.
///
/// Items that compare equal are the same, so which of them are kept does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking<T> {
    best: Best,
    n: usize,
    items: Vec<T>,
}

/// Which end of the order comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Best {
    Least,
    Greatest,
}

impl<T: Ord + Clone> Ranking<T> {
    pub(super) fn new(best: Best, n: u32) -> Self {
        Ranking { best, n: n as usize, items: Vec::new() }
    }

    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// Takes an item in if it is among the first.
    ///
    /// # Arguments
    /// `compare`: how the item given compares with another; `item` makes it when it is needed.
    #[inline]
    pub(super) fn offer(&mut self, compare: impl Fn(&T) -> Ordering, item: impl FnOnce() -> T) {
        let comes_before = |held: &T| match self.best {
            Best::Least => compare(held).is_lt(),
            Best::Greatest => compare(held).is_gt(),
        };
        let is_full = self.items.len() >= self.n;
        if is_full && !self.items.last().is_some_and(comes_before) {
            return;
        }
        let place = self.items.partition_point(|held| !comes_before(held));
        self.items.insert(place, item());
        self.items.truncate(self.n);
    }

    pub(super) fn merge(&mut self, other: &Ranking<T>) {
        for item in &other.items {
            self.offer(|held| item.cmp(held), || item.clone());
        }
    }

    /// Takes the next item in, if it comes after those there and there is room.
    pub(super) fn push(&mut self, item: T) -> bool {
        let in_order = self.items.last().is_none_or(|last| match self.best {
            Best::Least => *last <= item,
            Best::Greatest => *last >= item,
        });
        let fits = in_order && self.items.len() < self.n;
        if fits {
            self.items.push(item);
        }
        fits
    }
}
