//! Reading values that a file may or may not have.

use serde_json::Value;

/// The value behind keys, one below the other.
pub fn at<'v>(value: &'v Value, path: &[&str]) -> Result<&'v Value, String> {
    let mut found = value;
    for key in path {
        found = found.get(key).ok_or_else(|| format!("`{}` is not there", path.join(".")))?;
    }
    Ok(found)
}

pub fn array<'v>(value: &'v Value, path: &[&str]) -> Result<&'v [Value], String> {
    let found = at(value, path)?.as_array();
    found.map(Vec::as_slice).ok_or_else(|| format!("`{}` is no list", path.join(".")))
}

pub fn text<'v>(value: &'v Value, path: &[&str]) -> Result<&'v str, String> {
    at(value, path)?.as_str().ok_or_else(|| format!("`{}` is no text", path.join(".")))
}

/// A number, which may be written as a text.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(is_true) => Some(f64::from(u8::from(*is_true))),
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    }
}

pub fn numbers(value: &Value, path: &[&str]) -> Result<Vec<f64>, String> {
    let wrong = || format!("`{}` holds what is no number", path.join("."));
    array(value, path)?.iter().map(|item| number(item).ok_or_else(wrong)).collect()
}

/// A whole number of no more than 32 bits.
pub fn count(value: &Value, path: &[&str]) -> Result<usize, String> {
    let found = number(at(value, path)?).filter(|number| number.fract() == 0.0 && (0.0..=4e9).contains(number));
    found.map(|number| number as usize).ok_or_else(|| format!("`{}` is no count", path.join(".")))
}
