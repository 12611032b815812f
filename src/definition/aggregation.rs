//! Aggregations: functions over windows of events, as definitions name them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::value_type::ValueType;
use crate::time::{format_duration, parse_duration};

/// One function over one input, for each of its windows a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregation {
    /// Stands for `{input}_{function}` in the names of the features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A column of the source, or an expression over its columns; None: `count` counts rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    pub function: AggregateFunction,
    pub windows: Vec<Window>,
    /// How many values `first`, `last`, `top` and `bottom` list; None: one value, not in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Of `approx_percentile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<Percentiles>,
    /// A column or expression; the feature is then a map from its values to the aggregate of their events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateFunction {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Variance,
    Stddev,
    Skew,
    Kurtosis,
    First,
    Last,
    Top,
    Bottom,
    CountDistinct,
    ApproxCountDistinct,
    ApproxPercentile,
    Histogram,
    Any,
    All,
}

/// One percentile, or several in a list; each between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Percentiles {
    One(f64),
    Several(Vec<f64>),
}

/// Percentiles are finite.
impl Eq for Percentiles {}

/// Which events of the past count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// Those of `[t - duration, t)`.
    Sliding(Duration),
    /// All before `t`.
    Lifetime,
}

impl AggregateFunction {
    pub const ALL: [AggregateFunction; 19] = [
        AggregateFunction::Count,
        AggregateFunction::Sum,
        AggregateFunction::Mean,
        AggregateFunction::Min,
        AggregateFunction::Max,
        AggregateFunction::Variance,
        AggregateFunction::Stddev,
        AggregateFunction::Skew,
        AggregateFunction::Kurtosis,
        AggregateFunction::First,
        AggregateFunction::Last,
        AggregateFunction::Top,
        AggregateFunction::Bottom,
        AggregateFunction::CountDistinct,
        AggregateFunction::ApproxCountDistinct,
        AggregateFunction::ApproxPercentile,
        AggregateFunction::Histogram,
        AggregateFunction::Any,
        AggregateFunction::All,
    ];

    pub fn name(self) -> &'static str {
        match self {
            AggregateFunction::Count => "count",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Mean => "mean",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::Variance => "variance",
            AggregateFunction::Stddev => "stddev",
            AggregateFunction::Skew => "skew",
            AggregateFunction::Kurtosis => "kurtosis",
            AggregateFunction::First => "first",
            AggregateFunction::Last => "last",
            AggregateFunction::Top => "top",
            AggregateFunction::Bottom => "bottom",
            AggregateFunction::CountDistinct => "count_distinct",
            AggregateFunction::ApproxCountDistinct => "approx_count_distinct",
            AggregateFunction::ApproxPercentile => "approx_percentile",
            AggregateFunction::Histogram => "histogram",
            AggregateFunction::Any => "any",
            AggregateFunction::All => "all",
        }
    }

    /// Whether `n` may be given.
    pub fn lists_values(self) -> bool {
        use AggregateFunction::{Bottom, First, Last, Top};
        matches!(self, First | Last | Top | Bottom)
    }

    /// The type of the answer for inputs of the type; None: the function does not take such inputs.
    fn answer_type(self, input: Option<&ValueType>) -> Option<ValueType> {
        use AggregateFunction as F;
        use ValueType as V;
        let Some(input) = input else { return (self == F::Count).then_some(V::Int64) };
        let is_integer = matches!(input, V::Int32 | V::Int64);
        let is_float = matches!(input, V::Float32 | V::Float64);
        let is_number = is_integer || is_float;
        match self {
            F::Count => Some(V::Int64),
            _ if !input.is_scalar() => None,
            F::Sum if is_integer => Some(V::Int64),
            F::Sum if is_float => Some(V::Float64),
            // The mean of a condition is the share of rows that meet it.
            F::Mean if is_number || *input == V::Bool => Some(V::Float64),
            F::Variance | F::Stddev | F::Skew | F::Kurtosis | F::ApproxPercentile if is_number => Some(V::Float64),
            F::Min | F::Max | F::First | F::Last | F::Top | F::Bottom => Some(input.clone()),
            F::CountDistinct | F::ApproxCountDistinct => Some(V::Int64),
            F::Histogram => Some(V::Map(Box::new(input.clone()), Box::new(V::Int64))),
            F::Any | F::All if *input == V::Bool => Some(V::Bool),
            _ => None,
        }
    }
}

impl fmt::Display for AggregateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Aggregation {
    /// What stands before the window in the names of the features.
    pub fn base_name(&self) -> String {
        match (&self.name, &self.input) {
            (Some(name), _) => name.clone(),
            (None, Some(input)) => format!("{}_{}", input.trim(), self.function),
            (None, None) => self.function.to_string(),
        }
    }

    /// The names of the features, one a window.
    pub fn feature_names(&self) -> impl Iterator<Item = String> {
        let base = self.base_name();
        self.windows.iter().map(move |window| format!("{base}_{window}"))
    }

    /// The type of the features, given those of `input` and `by`.
    ///
    /// # Errors
    /// What is wrong and what to write instead, where the function does not take such an input.
    pub fn value_type(&self, input: Option<&ValueType>, by: Option<&ValueType>) -> Result<ValueType, String> {
        let one = self.function.answer_type(input).ok_or_else(|| match input {
            None => format!("`{}` needs an `input`", self.function),
            Some(input) => format!("`{}` does not take {input}; cast its input", self.function),
        })?;
        let several = match &self.p {
            Some(Percentiles::Several(_)) => true,
            _ => self.n.is_some(),
        };
        let answer = if several { ValueType::list_of(one) } else { one };
        match by {
            None => Ok(answer),
            Some(by) if by.is_scalar() => Ok(ValueType::Map(Box::new(by.clone()), Box::new(answer))),
            Some(by) => Err(format!("`by` does not take {by}")),
        }
    }
}

/// As in the names of features: in the largest unit that divides it.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Sliding(duration) => f.write_str(&format_duration(*duration)),
            Window::Lifetime => f.write_str("lifetime"),
        }
    }
}

/// A text that is neither a duration nor `lifetime`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no window; write a duration such as 1h or 7d, or `lifetime`")]
pub struct ParseWindowError {
    pub text: String,
}

impl FromStr for Window {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, ParseWindowError> {
        match text.trim() {
            "lifetime" => Ok(Window::Lifetime),
            duration => {
                let duration = parse_duration(duration).ok().filter(|duration| !duration.is_zero());
                duration.map(Window::Sliding).ok_or_else(|| ParseWindowError { text: text.to_owned() })
            }
        }
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
