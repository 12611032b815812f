//! From the sums of trees to predictions, as the libraries do by default.

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transform {
    Identity,
    /// 1 / (1 + exp(-scale x)), each output for itself.
    Sigmoid {
        scale: f64,
    },
    Exp,
    /// Over all outputs.
    Softmax,
    /// The number of the greatest output.
    ArgMax,
    /// The square, with the sign kept.
    SignedSquare,
    /// ln(1 + exp(x))
    LogOnePlusExp,
    /// 1 above zero, else 0.
    Step,
}

impl Transform {
    /// Numbers of a prediction that is made of so many sums.
    pub fn outputs(self, sums: usize) -> usize {
        if self == Transform::ArgMax { 1 } else { sums }
    }

    pub fn apply(self, mut sums: Vec<f64>, outputs: usize) -> Vec<f64> {
        let each = |mut sums: Vec<f64>, of: &dyn Fn(f64) -> f64| {
            sums.iter_mut().for_each(|sum| *sum = of(*sum));
            sums
        };
        match self {
            Transform::Identity => sums,
            Transform::Sigmoid { scale } => each(sums, &|x| 1.0 / (1.0 + (-scale * x).exp())),
            Transform::Exp => each(sums, &f64::exp),
            Transform::SignedSquare => each(sums, &|x| x.abs() * x),
            Transform::LogOnePlusExp => each(sums, &|x| x.exp().ln_1p()),
            Transform::Step => each(sums, &|x| f64::from(u8::from(x > 0.0))),
            Transform::Softmax => {
                sums.chunks_mut(outputs).for_each(softmax);
                sums
            }
            Transform::ArgMax => sums.chunks(outputs).map(greatest).collect(),
        }
    }
}

fn softmax(row: &mut [f64]) {
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - highest).exp());
    let total: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= total);
}

/// The first of the greatest.
fn greatest(row: &[f64]) -> f64 {
    let mut best = 0;
    for (position, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = position;
        }
    }
    best as f64
}
