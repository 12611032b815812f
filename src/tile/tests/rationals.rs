//! Real numbers as quotients of integers, rounded once by search: what sums and moments have to be.

use num_bigint::BigInt;

/// The exponent of the unit in which every float is an integer.
const UNIT: u32 = 1074;
const INFINITE_BITS: u64 = 0x7ff0_0000_0000_0000;

/// A finite float in units of `2^-1074`.
pub fn integer(value: f64) -> BigInt {
    let magnitude = integer_of_bits(value.abs().to_bits());
    if value.is_sign_negative() { -magnitude } else { magnitude }
}

/// As if infinity were `2^1024`.
fn integer_of_bits(bits: u64) -> BigInt {
    let (exponent, fraction) = (bits >> 52, bits & ((1 << 52) - 1));
    match exponent {
        0 => BigInt::from(fraction),
        _ => BigInt::from(fraction + (1 << 52)) << (exponent - 1),
    }
}

/// The float nearest to `numerator / denominator` in units of `2^(-1074 * degree)`; of two the even one.
pub fn nearest(numerator: &BigInt, denominator: &BigInt, degree: i32) -> f64 {
    let (mut numerator, mut denominator) = (numerator.clone(), denominator.clone());
    match degree {
        0 => numerator <<= UNIT,
        _ => denominator <<= UNIT * (degree as u32 - 1),
    }
    if numerator < BigInt::ZERO {
        return -nearest_magnitude(&-numerator, &denominator);
    }
    nearest_magnitude(&numerator, &denominator)
}

fn nearest_magnitude(numerator: &BigInt, denominator: &BigInt) -> f64 {
    let (mut low, mut high) = (0, INFINITE_BITS + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if integer_of_bits(middle) * denominator <= *numerator { low = middle } else { high = middle }
    }
    if low == INFINITE_BITS {
        return f64::INFINITY;
    }
    let between: BigInt = (integer_of_bits(low) + integer_of_bits(low + 1)) * denominator;
    let twice: BigInt = 2 * numerator;
    let up = twice > between || (twice == between && low % 2 == 1);
    f64::from_bits(low + u64::from(up))
}

/// Moments of values that are integers in the unit `2^(-1074 * degree)`, by their definition.
pub struct Population {
    values: Vec<BigInt>,
    n: BigInt,
    degree: i32,
}

impl Population {
    pub fn of_floats(values: &[f64]) -> Self {
        let values: Vec<BigInt> = values.iter().map(|value| integer(*value)).collect();
        Population { n: values.len().into(), values, degree: 1 }
    }

    pub fn of_ints(values: &[i64]) -> Self {
        Population { n: values.len().into(), values: values.iter().map(|value| (*value).into()).collect(), degree: 0 }
    }

    fn sum(&self) -> BigInt {
        self.values.iter().sum()
    }

    pub fn rounded_sum(&self) -> f64 {
        nearest(&self.sum(), &1.into(), self.degree)
    }

    pub fn mean(&self) -> f64 {
        nearest(&self.sum(), &self.n, self.degree)
    }

    /// The sum of the powers of `n` times the distance from the mean.
    fn deviations(&self, power: u32) -> BigInt {
        let sum = self.sum();
        self.values.iter().map(|value| (value * &self.n - &sum).pow(power)).sum()
    }

    pub fn moment(&self, power: u32) -> f64 {
        nearest(&self.deviations(power), &self.n.pow(power + 1), self.degree * power as i32)
    }

    /// None: all values are the same, or there are none.
    pub fn kurtosis(&self) -> Option<f64> {
        let square = self.deviations(2).pow(2);
        let numerator = self.deviations(4) * &self.n - 3 * &square;
        (square != BigInt::ZERO).then(|| nearest(&numerator, &square, 0))
    }
}
