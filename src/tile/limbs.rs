//! Integers times powers of two of any size, added up exactly: what [`ExactSum`](super::ExactSum) and
//! [`Moments`](super::Moments) are made of.
//!
//! ```text
//!  limbs[0]     limbs[1]     limbs[2]          each an i64 that holds a digit of 32 bits
//!  2^(32 base)  2^(32 + …)   2^(64 + …)        and the carries not yet handed on
//! ```
//!
//! An addition touches the few limbs its bits fall into; carries are handed on once in 2^26 additions. Which limbs
//! there are depends on what was added; the value, its bytes and equality do not.

use super::codec::{Flaw, put_signed, put_varint, take, take_signed, take_varint};
use super::rounding::{EXPONENT_LOWEST, divide_rounded, round_far, round_scaled};
use num_bigint::{BigInt, Sign};

/// No limb is more than this many digits large: 58 bits.
const PENDING_MAX: u32 = 1 << 26;
/// So few limbs fit an `i128`.
const SMALL_LIMBS: usize = 3;

#[derive(Debug, Clone, Default)]
pub(super) struct Limbs {
    /// `limbs[i]` counts `2^(32 * (base + i))`.
    base: i32,
    /// Each limb is at most this times `2^32`.
    pending: u32,
    limbs: Vec<i64>,
}

/// A value as sign, digits of 32 bits from the lowest, neither end zero, and the exponent of the lowest.
struct Magnitude {
    negative: bool,
    digits: Vec<u32>,
    exponent: i32,
}

impl Limbs {
    /// Adds `mantissa * 2^exponent`, or subtracts it.
    #[inline]
    pub fn add(&mut self, negative: bool, mantissa: u64, exponent: i32) {
        let shifted = u128::from(mantissa) << (exponent & 31);
        let at = self.reserve(exponent >> 5, SMALL_LIMBS, 1);
        if let Some([low, middle, high]) = self.limbs[at..].first_chunk_mut() {
            *low += with_sign(negative, shifted as u32);
            *middle += with_sign(negative, (shifted >> 32) as u32);
            *high += with_sign(negative, (shifted >> 64) as u32);
        }
    }

    /// Adds an integer given by its words, lowest first, times `2^exponent`, or subtracts it.
    pub fn add_words(&mut self, negative: bool, words: &[u64], exponent: i32) {
        let zeros = words.iter().rev().take_while(|word| **word == 0).count();
        let words = &words[..words.len() - zeros];
        // Two words that follow one another share a limb.
        let at = self.reserve(exponent >> 5, 2 * words.len() + 1, 2);
        for (i, word) in words.iter().enumerate() {
            let shifted = u128::from(*word) << (exponent & 31);
            for (place, limb) in self.limbs[at + 2 * i..][..3].iter_mut().enumerate() {
                *limb += with_sign(negative, (shifted >> (32 * place)) as u32);
            }
        }
    }

    /// Adds another value, or subtracts it.
    pub fn combine(&mut self, other: &Limbs, negative: bool) {
        if other.limbs.is_empty() {
            return;
        }
        if other.pending > PENDING_MAX / 2 {
            let mut other = other.clone();
            other.carry();
            return self.combine(&other, negative);
        }
        let at = self.reserve(other.base, other.limbs.len(), other.pending);
        for (limb, other) in self.limbs[at..].iter_mut().zip(&other.limbs) {
            *limb += if negative { -other } else { *other };
        }
    }

    /// Makes sure that there are limbs for digits `first..first + count` and that each has room for `pending` more
    /// digits; returns the place of the first.
    #[inline]
    fn reserve(&mut self, first: i32, count: usize, pending: u32) -> usize {
        if self.pending + pending > PENDING_MAX {
            self.carry();
        }
        self.pending += pending;
        let at = first.wrapping_sub(self.base) as usize;
        if first >= self.base && at + count <= self.limbs.len() { at } else { self.grow(first, count) }
    }

    #[cold]
    fn grow(&mut self, first: i32, count: usize) -> usize {
        if self.limbs.is_empty() {
            self.base = first;
        }
        let below = (self.base - first).max(0) as usize;
        self.limbs.splice(0..0, std::iter::repeat_n(0, below));
        self.base = self.base.min(first);
        let at = (first - self.base) as usize;
        self.limbs.resize(self.limbs.len().max(at + count), 0);
        at
    }

    /// Hands the carries on: all limbs but the highest become digits, and that one is less than a digit either way.
    #[cold]
    fn carry(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs {
            let sum = *limb + carry;
            (*limb, carry) = (sum & i64::from(u32::MAX), sum >> 32);
        }
        match self.limbs.last_mut() {
            // What is negative ends in a negative limb, not in ever more digits of ones.
            Some(last) if carry == -1 && *last > 0 => *last -= 1 << 32,
            _ if carry != 0 => self.limbs.push(carry),
            _ => {}
        }
        self.pending = 1;
    }

    /// The value as an integer of fewer than 126 bits and an exponent, if its limbs are few.
    #[inline]
    fn small(&self) -> Option<(i128, i32)> {
        let (limbs, base) = self.trimmed();
        if limbs.len() > SMALL_LIMBS {
            return None;
        }
        Some((limbs.iter().rev().fold(0, |high, limb| (high << 32) + i128::from(*limb)), 32 * base))
    }

    /// The limbs without zeros at either end, and the place of the first.
    #[inline]
    fn trimmed(&self) -> (&[i64], i32) {
        let low = self.limbs.iter().take_while(|limb| **limb == 0).count();
        let high = self.limbs[low..].iter().rev().take_while(|limb| **limb == 0).count();
        (&self.limbs[low..self.limbs.len() - high], self.base + low as i32)
    }

    fn magnitude(&self) -> Magnitude {
        let (limbs, base) = self.trimmed();
        let mut digits = Vec::with_capacity(limbs.len() + 1);
        let mut carry = 0;
        for limb in limbs {
            let sum = limb + carry;
            digits.push(sum as u32);
            carry = sum >> 32;
        }
        digits.push(carry as u32);
        let negative = carry < 0;
        if negative {
            let mut borrow = true;
            for digit in &mut digits {
                (*digit, borrow) = (!*digit).overflowing_add(u32::from(borrow));
            }
        }
        let high = digits.iter().rev().take_while(|digit| **digit == 0).count();
        digits.truncate(digits.len() - high);
        let low = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..low);
        Magnitude { negative, digits, exponent: 32 * (base + low as i32) }
    }

    /// The value, rounded once; zero is `+0.0`.
    pub fn to_f64(&self) -> f64 {
        match self.small() {
            Some((mantissa, exponent)) => round_scaled(mantissa, exponent),
            None => self.magnitude().round(false),
        }
    }

    /// The value divided by `n`, rounded once; NaN if `n` is zero.
    pub fn divide(&self, n: u64) -> f64 {
        match self.small() {
            Some((mantissa, exponent)) => divide_rounded(mantissa, exponent, n),
            None if n == 0 => f64::NAN,
            None => self.magnitude().divide(n),
        }
    }

    /// An exponent whose power of two divides the value; None: it has no limb but zeros.
    pub fn exponent(&self) -> Option<i32> {
        let (limbs, base) = self.trimmed();
        limbs.first().map(|limb| 32 * base + limb.trailing_zeros() as i32)
    }

    /// The value divided by `2^unit`, which divides it.
    pub fn integer(&self, unit: i32) -> BigInt {
        let Magnitude { negative, digits, exponent } = self.magnitude();
        let sign = if negative { Sign::Minus } else { Sign::Plus };
        let integer = BigInt::from_slice(sign, &digits);
        let shift = exponent - unit;
        if shift >= 0 { integer << shift as u32 } else { integer >> shift.unsigned_abs() }
    }

    /// The value divided by `2^unit`, which divides it, if it takes fewer than 127 bits.
    pub fn small_integer(&self, unit: i32) -> Option<i128> {
        let (mantissa, exponent) = self.small()?;
        let shift = exponent - unit;
        if shift < 0 {
            return Some(mantissa >> shift.unsigned_abs().min(127));
        }
        let bits = 128 - mantissa.unsigned_abs().leading_zeros();
        (mantissa == 0 || i64::from(bits) + i64::from(shift) < 127).then(|| mantissa << (shift as u32 & 127))
    }

    /// Writes sign and length, and of what is not zero the exponent and the odd integer, lowest byte first.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let (negative, integer, exponent) = match self.small() {
            Some((mantissa, exponent)) => {
                let zeros = mantissa.trailing_zeros() & 127;
                let integer = (mantissa.unsigned_abs() >> zeros).to_le_bytes().to_vec();
                (mantissa < 0, integer, exponent + zeros as i32)
            }
            None => self.magnitude().into_odd(),
        };
        let len = integer.len() - integer.iter().rev().take_while(|byte| **byte == 0).count();
        put_varint(bytes, (len as u128) << 1 | u128::from(negative));
        if len > 0 {
            put_signed(bytes, i128::from(exponent));
            bytes.extend_from_slice(&integer[..len]);
        }
    }

    /// Reads a sum of values that are each the `degree`-th power of an `f64` or an `i64`.
    pub fn decode(bytes: &mut &[u8], degree: i32) -> Result<Self, Flaw> {
        let header: u64 = take_varint(bytes)?;
        let (negative, len) = (header & 1 == 1, header >> 1);
        let mut limbs = Limbs::default();
        if len == 0 {
            return if negative { Err(Flaw::Malformed) } else { Ok(limbs) };
        }
        let exponent: i32 = take_signed(bytes)?;
        let integer = take(bytes, usize::try_from(len).map_err(|_| Flaw::Malformed)?)?;
        let is_odd = integer.first().is_some_and(|byte| byte & 1 == 1) && integer.last() != Some(&0);
        // A sum of 2^64 numbers is no larger; limbs for a larger one could take any amount of memory.
        let end = i64::from(exponent) + 8 * integer.len() as i64;
        if !is_odd || exponent < degree * EXPONENT_LOWEST || end > i64::from(degree * 1024 + 72) {
            return Err(Flaw::Malformed);
        }
        let at = limbs.reserve(exponent >> 5, integer.len() / 4 + 2, 2);
        for (digit, place) in integer.chunks(4).zip(at..) {
            let digit = digit.iter().rev().fold(0, |high, byte| high << 8 | u64::from(*byte));
            let shifted = digit << (exponent & 31);
            limbs.limbs[place] += with_sign(negative, shifted as u32);
            limbs.limbs[place + 1] += with_sign(negative, (shifted >> 32) as u32);
        }
        Ok(limbs)
    }
}

impl Magnitude {
    fn round(&self, sticky: bool) -> f64 {
        let below = self.digits.len().saturating_sub(SMALL_LIMBS);
        let (rest, top) = self.digits.split_at(below);
        let magnitude = top.iter().rev().fold(0, |high, digit| high << 32 | u128::from(*digit));
        // The highest digits have 65 bits at least, so one more can stand for all that follow.
        let sticky = sticky || rest.iter().any(|digit| *digit != 0);
        let exponent = i64::from(self.exponent) + 32 * below as i64 - 1;
        round_far(self.negative, magnitude << 1 | u128::from(sticky), exponent)
    }

    fn divide(mut self, n: u64) -> f64 {
        // So many digits of the quotient follow the point that it has 64 bits at least.
        const FRACTION_DIGITS: usize = 4;
        self.digits.splice(0..0, [0; FRACTION_DIGITS]);
        self.exponent -= 32 * FRACTION_DIGITS as i32;
        let (n, mut rest) = (u128::from(n), 0);
        for digit in self.digits.iter_mut().rev() {
            let dividend = rest << 32 | u128::from(*digit);
            (*digit, rest) = ((dividend / n) as u32, dividend % n);
        }
        let zeros = self.digits.iter().rev().take_while(|digit| **digit == 0).count();
        self.digits.truncate(self.digits.len() - zeros);
        self.round(rest != 0)
    }

    /// The sign, the bytes of an odd integer (or of zero) from the lowest, and its exponent.
    fn into_odd(self) -> (bool, Vec<u8>, i32) {
        let zeros = self.digits.first().map_or(0, |digit| digit.trailing_zeros());
        let mut bytes = Vec::with_capacity(4 * self.digits.len());
        for (place, digit) in self.digits.iter().enumerate() {
            let next = self.digits.get(place + 1).copied().unwrap_or_default();
            let digit = ((u64::from(next) << 32 | u64::from(*digit)) >> zeros) as u32;
            bytes.extend_from_slice(&digit.to_le_bytes());
        }
        (self.negative, bytes, self.exponent + zeros as i32)
    }
}

/// Equal values, whatever limbs they are in.
impl PartialEq for Limbs {
    fn eq(&self, other: &Self) -> bool {
        let mut difference = self.clone();
        difference.combine(other, true);
        difference.magnitude().digits.is_empty()
    }
}

#[inline]
fn with_sign(negative: bool, digit: u32) -> i64 {
    let mask = -i64::from(negative);
    (i64::from(digit) ^ mask) - mask
}
