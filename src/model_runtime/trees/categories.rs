//! Categories of an input, as its model knows them.

use std::collections::HashMap;

use super::city_hash::city_hash64;

#[derive(Debug)]
pub enum Categories {
    /// The values are the codes.
    Codes,
    /// The code of a value is its place among those of the training.
    Texts(HashMap<String, u32>),
    /// As `Texts`, by the bits of the number.
    Numbers(HashMap<u64, u32>),
    /// The code is the hash of the text, as CatBoost has it.
    Hashes,
}

impl Categories {
    pub fn of_texts(texts: impl IntoIterator<Item = String>) -> Self {
        Categories::Texts(texts.into_iter().zip(0..).collect())
    }

    pub fn of_numbers(numbers: impl IntoIterator<Item = f64>) -> Self {
        Categories::Numbers(numbers.into_iter().map(bits).zip(0..).collect())
    }

    /// None: the model does not know the category.
    pub fn code_of_text(&self, text: &str) -> Option<u32> {
        match self {
            Categories::Texts(codes) => codes.get(text).copied(),
            Categories::Hashes => Some(city_hash64(text.as_bytes()) as u32),
            Categories::Codes | Categories::Numbers(_) => self.code_of_number(text.parse().ok()?),
        }
    }

    /// None: the number is missing, or the model does not know the category.
    pub fn code_of_number(&self, number: f64) -> Option<u32> {
        match self {
            _ if number.is_nan() => None,
            // Fractions are cut off, as the libraries do.
            Categories::Codes => (number > -1.0 && number < f64::from(u32::MAX)).then_some(number as u32),
            Categories::Numbers(codes) => codes.get(&bits(number)).copied(),
            Categories::Texts(_) | Categories::Hashes => self.code_of_text(&text_of(number)),
        }
    }
}

/// The same for -0 and 0.
fn bits(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

/// A number as the text of a category: whole numbers without a point.
fn text_of(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 9e15 { format!("{}", number as i64) } else { format!("{number}") }
}
