//! The primitives of a partial's bytes: integers of variable length and values.
//!
//! Every value has one form: what another writer could have written otherwise is refused, so equal partials are
//! equal bytes. Lengths are checked against the bytes that are left before anything is allocated.

use super::value::{Scalar, Value, canonical_float, key_float};

/// What is wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the bytes end early")]
    Truncated,
    #[error("the bytes are malformed")]
    Malformed,
}

/// Writes seven bits a byte, lowest first; all bytes but the last have the highest bit set.
#[inline]
pub(super) fn put_varint(bytes: &mut Vec<u8>, value: impl Into<u128>) {
    let mut value = value.into();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Writes a number so that small ones of either sign are short: 0, -1, 1, -2, …
#[inline]
pub(super) fn put_signed(bytes: &mut Vec<u8>, value: i128) {
    put_varint(bytes, (value << 1 ^ value >> 127) as u128);
}

#[inline]
pub(super) fn take_varint<T: TryFrom<u128>>(bytes: &mut &[u8]) -> Result<T, Flaw> {
    let mut value: u128 = 0;
    for shift in (0..).step_by(7) {
        let byte = take_byte(bytes)?;
        let bits = u128::from(byte & 0x7f);
        let is_padding = byte == 0 && shift > 0;
        if is_padding || shift >= 128 || (bits << shift) >> shift != bits {
            return Err(Flaw::Malformed);
        }
        value |= bits << shift;
        if byte < 0x80 {
            break;
        }
    }
    T::try_from(value).map_err(|_| Flaw::Malformed)
}

#[inline]
pub(super) fn take_signed<T: TryFrom<i128>>(bytes: &mut &[u8]) -> Result<T, Flaw> {
    let folded: u128 = take_varint(bytes)?;
    T::try_from((folded >> 1) as i128 ^ -((folded & 1) as i128)).map_err(|_| Flaw::Malformed)
}

/// Reads a count of things that each take a byte at least.
pub(super) fn take_len(bytes: &mut &[u8]) -> Result<usize, Flaw> {
    let len: usize = take_varint(bytes)?;
    if len <= bytes.len() { Ok(len) } else { Err(Flaw::Truncated) }
}

/// Reads a count that is not zero.
pub(super) fn take_positive(bytes: &mut &[u8]) -> Result<u64, Flaw> {
    take_varint(bytes).and_then(|count| if count > 0 { Ok(count) } else { Err(Flaw::Malformed) })
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Flaw> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or(Flaw::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

#[inline]
pub(super) fn take_byte(bytes: &mut &[u8]) -> Result<u8, Flaw> {
    let (first, rest) = bytes.split_first().ok_or(Flaw::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Flaw> {
    let (first, rest) = bytes.split_first_chunk().ok_or(Flaw::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

/// Writes a value of the type.
pub(super) fn put_value(bytes: &mut Vec<u8>, of: Scalar, value: &Value) {
    match value {
        Value::Bool(value) => bytes.push(u8::from(*value)),
        Value::Int(value) => put_signed(bytes, i128::from(*value)),
        Value::Float(value) if of == Scalar::Float32 => {
            // Every NaN is stored as one.
            let value = if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { *value as f32 };
            bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        Value::Float(value) => bytes.extend_from_slice(&canonical_float(*value).to_bits().to_le_bytes()),
        Value::Bytes(value) => {
            put_varint(bytes, value.len() as u128);
            bytes.extend_from_slice(value);
        }
    }
}

/// Reads a value of the type; every value of it is accepted in one form only.
pub(super) fn take_value(bytes: &mut &[u8], of: Scalar) -> Result<Value, Flaw> {
    match of {
        Scalar::Bool => match take_byte(bytes)? {
            0 => Ok(Value::Bool(false)),
            1 => Ok(Value::Bool(true)),
            _ => Err(Flaw::Malformed),
        },
        Scalar::Int32 | Scalar::Date => take_signed::<i32>(bytes).map(|value| Value::Int(value.into())),
        Scalar::Int64 | Scalar::Timestamp => take_signed(bytes).map(Value::Int),
        Scalar::Float32 => {
            let value = f32::from_le_bytes(take_array(bytes)?);
            let is_odd_nan = value.is_nan() && value.to_bits() != 0x7fc0_0000;
            if is_odd_nan { Err(Flaw::Malformed) } else { Ok(Value::Float(canonical_float(value.into()))) }
        }
        Scalar::Float64 => {
            let value = f64::from_le_bytes(take_array(bytes)?);
            let is_odd_nan = canonical_float(value).to_bits() != value.to_bits();
            if is_odd_nan { Err(Flaw::Malformed) } else { Ok(Value::Float(value)) }
        }
        Scalar::String | Scalar::Bytes => {
            let len = take_len(bytes)?;
            let value = take(bytes, len)?;
            let is_text = of == Scalar::Bytes || std::str::from_utf8(value).is_ok();
            if is_text { Ok(Value::Bytes(value.into())) } else { Err(Flaw::Malformed) }
        }
    }
}

/// Reads a value as [`Value::as_key`] gives it.
pub(super) fn take_key(bytes: &mut &[u8], of: Scalar) -> Result<Value, Flaw> {
    match take_value(bytes, of)? {
        Value::Float(value) if key_float(value).to_bits() != value.to_bits() => Err(Flaw::Malformed),
        value => Ok(value),
    }
}
