//! Cells of CSV as values: of the type a column is declared with, or of the one that all its cells have.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Date32Array, NullArray, PrimitiveArray,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;

use crate::arrow_types::{UTC, arrow_type};
use crate::definition::ValueType;
use crate::time::EventTimestamp;

/// The values of a column's cells; `""` is null where the type has no empty value.
///
/// # Errors
/// The first row whose cell cannot be read as `data_type`.
pub fn parse_cells(cells: &StringArray, data_type: &DataType) -> Result<ArrayRef, usize> {
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(cells.len())),
        DataType::Boolean => Arc::new(each(cells, parse_bool)?.collect::<BooleanArray>()),
        DataType::Int32 => numbers::<Int32Type>(cells, |cell| cell.parse().ok())?,
        DataType::Int64 => numbers::<Int64Type>(cells, |cell| cell.parse().ok())?,
        DataType::Float32 => {
            numbers::<Float32Type>(cells, |cell| cell.parse().ok().filter(|v: &f32| is_written(cell, v.is_finite())))?
        }
        DataType::Float64 => numbers::<Float64Type>(cells, parse_float)?,
        DataType::Binary => {
            let decode = |(row, cell): (usize, Option<&str>)| match cell {
                None => Ok(None),
                Some(cell) => STANDARD.decode(cell).map(Some).map_err(|_| row),
            };
            Arc::new(cells.iter().enumerate().map(decode).collect::<Result<BinaryArray, _>>()?)
        }
        DataType::Timestamp(..) => {
            let instants = each(cells, |cell| EventTimestamp::parse(cell).ok().map(EventTimestamp::micros))?;
            Arc::new(instants.collect::<TimestampMicrosecondArray>().with_timezone(UTC))
        }
        DataType::Date32 => Arc::new(each(cells, parse_date)?.collect::<Date32Array>()),
        _ => Arc::new(cells.clone()),
    })
}

fn numbers<T: ArrowPrimitiveType>(cells: &StringArray, parse: impl Fn(&str) -> Option<T::Native>) -> Parsed {
    Ok(Arc::new(each(cells, parse)?.collect::<PrimitiveArray<T>>()))
}

type Parsed = Result<ArrayRef, usize>;

fn each<T>(cells: &StringArray, parse: impl Fn(&str) -> Option<T>) -> Result<impl Iterator<Item = Option<T>>, usize> {
    let parse = |(row, cell): (usize, Option<&str>)| match cell {
        None | Some("") => Ok(None),
        Some(cell) => parse(cell).map(Some).ok_or(row),
    };
    Ok(cells.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?.into_iter())
}

fn parse_bool(cell: &str) -> Option<bool> {
    match cell {
        _ if cell.eq_ignore_ascii_case("true") => Some(true),
        _ if cell.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A number as it is written: one that is too great for a float is none.
fn parse_float(cell: &str) -> Option<f64> {
    cell.parse().ok().filter(|value: &f64| is_written(cell, value.is_finite()))
}

fn is_written(cell: &str, is_finite: bool) -> bool {
    is_finite || !cell.bytes().any(|byte| byte.is_ascii_digit())
}

/// Days since the Unix epoch.
pub(super) fn parse_date(cell: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(cell, "%Y-%m-%d").ok().filter(|_| cell.len() == "2024-05-01".len())?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// What the cells of a column look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellKinds(u16);

impl CellKinds {
    /// A quoted empty cell.
    const EMPTY: u16 = 1;
    /// Whole numbers as a program writes them, that a float64 can hold too.
    const INTEGER: u16 = 1 << 1;
    const GREAT_INTEGER: u16 = 1 << 2;
    const NUMBER: u16 = 1 << 3;
    /// `NaN` and infinities, which are numbers beside numbers.
    const NOT_FINITE: u16 = 1 << 4;
    /// `true` and `false`.
    const BOOL: u16 = 1 << 5;
    /// `True` and `FALSE`.
    const CAPITAL_BOOL: u16 = 1 << 6;
    const DATE: u16 = 1 << 7;
    const INSTANT: u16 = 1 << 8;
    const TEXT: u16 = 1 << 9;

    pub fn add(&mut self, cell: &str) {
        // Nothing makes a column of texts anything else.
        if self.0 & CellKinds::TEXT == 0 {
            self.0 |= kind(cell);
        }
    }

    pub fn merge(&mut self, other: CellKinds) {
        self.0 |= other.0;
    }

    /// The type of a source's column: that of its cells, where all have the same.
    pub fn value_type(self) -> ValueType {
        self.number_type(CellKinds::EMPTY).unwrap_or_else(|| {
            const BOOLS: u16 = CellKinds::BOOL | CellKinds::CAPITAL_BOOL;
            match self.0 & !CellKinds::EMPTY {
                0 => ValueType::String,
                kinds if kinds & !BOOLS == 0 => ValueType::Bool,
                CellKinds::DATE => ValueType::Date,
                kinds if kinds & !(CellKinds::DATE | CellKinds::INSTANT) == 0 => ValueType::Timestamp,
                _ => ValueType::String,
            }
        })
    }

    /// The type of a column that comes back untouched: one under which every cell is written as it was.
    pub fn carried_type(self) -> DataType {
        let exact = self.number_type(0).or_else(|| (self.0 == CellKinds::BOOL).then_some(ValueType::Bool));
        arrow_type(&exact.unwrap_or(ValueType::String))
    }

    /// The type of a column of numbers, beside which `also` may stand.
    fn number_type(self, also: u16) -> Option<ValueType> {
        const INTEGERS: u16 = CellKinds::INTEGER | CellKinds::GREAT_INTEGER;
        const NUMBERS: u16 = CellKinds::INTEGER | CellKinds::NUMBER;
        match self.0 & !also {
            kinds if kinds & INTEGERS != 0 && kinds & !INTEGERS == 0 => Some(ValueType::Int64),
            kinds if kinds & NUMBERS != 0 && kinds & !(NUMBERS | CellKinds::NOT_FINITE) == 0 => {
                Some(ValueType::Float64)
            }
            _ => None,
        }
    }
}

/// The greatest number up to which a float64 holds every whole one.
pub(super) const EXACT_MAX: u64 = 1 << 53;

fn kind(cell: &str) -> u16 {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    match cell {
        "" => CellKinds::EMPTY,
        "NaN" | "Infinity" | "-Infinity" | "inf" | "-inf" => CellKinds::NOT_FINITE,
        "true" | "false" => CellKinds::BOOL,
        _ if is_whole(cell, digits) => match cell.parse::<i64>() {
            Ok(value) if value.unsigned_abs() <= EXACT_MAX => CellKinds::INTEGER,
            Ok(_) => CellKinds::GREAT_INTEGER,
            Err(_) => CellKinds::TEXT,
        },
        _ if is_number(digits) => match parse_float(cell) {
            Some(value) if value.abs() <= EXACT_MAX as f64 || cell.contains(['e', 'E']) => CellKinds::NUMBER,
            _ => CellKinds::TEXT,
        },
        _ if parse_bool(cell).is_some() => CellKinds::CAPITAL_BOOL,
        _ if cell.len() == 10 && parse_date(cell).is_some() => CellKinds::DATE,
        _ if cell.len() > 10 && digits.starts_with(|c: char| c.is_ascii_digit()) => match EventTimestamp::parse(cell) {
            Ok(_) => CellKinds::INSTANT,
            Err(_) => CellKinds::TEXT,
        },
        _ => CellKinds::TEXT,
    }
}

/// Whether digits are those of a whole number that is written so: no leading zero, and no negative zero.
fn is_whole(cell: &str, digits: &str) -> bool {
    let is_canonical = !digits.starts_with('0') || cell == "0";
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && is_canonical
}

/// Whether a text without its sign is a decimal number without leading zeros.
fn is_number(digits: &str) -> bool {
    let (number, exponent) = match digits.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    all_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(all_digits)
        && exponent.is_none_or(all_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(cells: &[&str]) -> CellKinds {
        let mut kinds = CellKinds::default();
        cells.iter().for_each(|cell| kinds.add(cell));
        kinds
    }

    #[test]
    fn a_carried_column_is_numbers_only_where_none_of_them_changes() {
        for (cells, expected) in [
            (&["1", "-2", "0", "9223372036854775807"][..], DataType::Int64),
            (&["1", "2.5"], DataType::Float64),
            (&["1.5", "NaN", "-Infinity", "1e300", "-0.5"], DataType::Float64),
            (&["05"], DataType::Utf8),
            (&["+5"], DataType::Utf8),
            (&["-0"], DataType::Float64),
            (&["9007199254740992", "1.5"], DataType::Float64),
            (&["9007199254740993", "1.5"], DataType::Utf8),
            (&["9007199254740993.5"], DataType::Utf8),
            (&["9223372036854775808"], DataType::Utf8),
            (&["1e999"], DataType::Utf8),
            (&["00.5"], DataType::Utf8),
            (&[".5"], DataType::Utf8),
            (&["1_000"], DataType::Utf8),
            (&["NaN"], DataType::Utf8),
            (&["inf"], DataType::Utf8),
            (&["1", ""], DataType::Utf8),
            (&["true", "false"], DataType::Boolean),
            (&["True"], DataType::Utf8),
            (&["2013-01-01"], DataType::Utf8),
            (&["1", "x"], DataType::Utf8),
            (&[], DataType::Utf8),
        ] {
            assert_eq!(kinds(cells).carried_type(), expected, "{cells:?}");
        }
    }

    #[test]
    fn a_column_of_a_source_is_what_all_of_its_cells_are() {
        for (cells, expected) in [
            (&["1", ""][..], "int64"),
            (&["1", "2.5", "NaN"], "float64"),
            (&["True", "false", ""], "bool"),
            (&["2013-01-01", "2013-01-02"], "date"),
            (&["2013-01-01", "2013-01-02 05:00:00+02:00"], "timestamp"),
            (&["2013-01-01", "1"], "string"),
            (&["007", "1"], "string"),
            (&["a", "1"], "string"),
            (&[], "string"),
        ] {
            assert_eq!(kinds(cells).value_type().to_string(), expected, "{cells:?}");
        }
    }

    /// `expected`: the values as Arrow shows them, or the row that cannot be read.
    fn check(value_type: &str, cells: &[Option<&str>], expected: Result<&[&str], usize>) {
        let data_type = arrow_type(&value_type.parse().unwrap());
        let values = parse_cells(&StringArray::from(cells.to_vec()), &data_type);
        let shown = values.map(|values| {
            assert_eq!(*values.data_type(), data_type);
            let show = |row| arrow::util::display::array_value_to_string(&values, row).unwrap();
            (0..values.len()).map(show).collect::<Vec<_>>()
        });
        assert_eq!(shown, expected.map(|values| values.iter().map(|value| (*value).to_owned()).collect()));
    }

    #[test]
    fn cells_are_read_by_the_declared_type() {
        check(
            "int64",
            &[Some("9007199254740993"), Some("+05"), None, Some("")],
            Ok(&["9007199254740993", "5", "", ""]),
        );
        check("int64", &[Some("1"), Some("2.0")], Err(1));
        check("int32", &[Some("2147483648")], Err(0));
        check("float64", &[Some("1"), Some("NaN"), Some("-inf"), Some("Infinity")], Ok(&["1.0", "NaN", "-inf", "inf"]));
        check("float64", &[Some("1e999")], Err(0));
        check("float32", &[Some("0.1"), Some("x")], Err(1));
        check("bool", &[Some("True"), Some("false")], Ok(&["true", "false"]));
        check("bool", &[Some("1")], Err(0));
        check("string", &[Some(""), None, Some(" x")], Ok(&["", "", " x"]));
        check("bytes", &[Some("AP8="), None, Some("")], Ok(&["00ff", "", ""]));
        check("bytes", &[Some("00ff!")], Err(0));
        check("date", &[Some("1969-12-31")], Ok(&["1969-12-31"]));
        check("date", &[Some("1969-12-31T00:00:00")], Err(0));
        check("timestamp", &[Some("1969-12-31T23:59:59.9999999Z")], Ok(&["1969-12-31T23:59:59.999999Z"]));
        check("timestamp", &[Some("0")], Err(0));
    }
}
