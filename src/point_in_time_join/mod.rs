//! The point-in-time join of row views: what was each feature worth at each moment the spine asks about?
//!
//! The spine is indexed once; feature rows stream past it in any order and in any number of partitions,
//! and each one leaves its mark, if any, on the one slot of the spine where it first counts:
//!
//! ```text
//!  spine (keys, times) ──► SpineIndex ─────────────┐ shared by views with the same keys, and by threads
//!                                                  ▼
//!  feature batches ───────► ViewAccumulator::push: key ─► group ─► first slot with t >= event timestamp
//!  (one accumulator a partition)                   │      the greatest row of each slot stays
//!                                                  ▼
//!                           merge, finish: prefix maximum along each group, TTL, gather ──► JoinedView
//! ```
//!
//! Plain functions over Arrow arrays, and a driver for streams. It has not heard of definitions, tables
//! or requests: whoever calls it says which column is what ([`ViewParams`]).

mod algo;
mod answer;
mod candidate;
mod content_order;
mod exec;
mod joining;
mod key_table;
mod matching;
mod node;
mod params;
mod retained;
mod set_aside;
mod spine_index;
mod spine_indexes;
mod steps;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

pub use algo::ViewAccumulator;
pub use content_order::ContentOrder;
pub use exec::PointInTimeJoinExec;
pub(crate) use key_table::SlotRange;
pub use node::{JoinSpec, JoinedViewSpec, PointInTimeJoinNode};
pub use params::{FeatureColumn, ViewParams};
pub use spine_index::SpineIndex;
pub(crate) use spine_indexes::SpineIndexes;
pub(crate) use steps::{Steps, value_bytes};
pub use stream::join_streams;
pub(crate) use table::{NeededTimes, scan_table};
pub use table::{TableFile, TableFiles, TableReads, TableView, join_table};

use crate::definition::FeatureViewName;
use crate::error::ErrorKind;

/// What the join says about one spine row and one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RowStatus {
    /// A feature row holds; its values, nulls included, are the answer.
    Found,
    /// No feature row of this key holds at this time, or the key has a null.
    NotFound,
    /// The row that holds is older than the TTL allows.
    OutsideMaxAge,
}

impl RowStatus {
    /// The status that a plan's column of statuses holds as this number.
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => RowStatus::Found,
            1 => RowStatus::NotFound,
            _ => RowStatus::OutsideMaxAge,
        }
    }
}

/// What an answer says about one value; the numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeatureStatus {
    Present = 1,
    NullValue = 2,
    NotFound = 3,
    OutsideMaxAge = 4,
}

impl FeatureStatus {
    /// The name in answers: `PRESENT`, `NULL_VALUE`, `NOT_FOUND`, `OUTSIDE_MAX_AGE`.
    pub fn as_str(self) -> &'static str {
        match self {
            FeatureStatus::Present => "PRESENT",
            FeatureStatus::NullValue => "NULL_VALUE",
            FeatureStatus::NotFound => "NOT_FOUND",
            FeatureStatus::OutsideMaxAge => "OUTSIDE_MAX_AGE",
        }
    }
}

/// One view's answer: as many rows as the spine, in its order.
#[derive(Debug, Clone)]
pub struct JoinedView {
    /// The requested features, in the order of [`ViewParams::requested`]; null unless the row is found.
    pub features: Vec<ArrayRef>,
    /// Empty where nobody asks for them.
    pub statuses: Vec<RowStatus>,
    /// UTC; the event timestamp of the row that holds, also where it is too old; null for static rows.
    pub event_timestamps: TimestampMicrosecondArray,
}

/// The status of each value of the requested feature at position `feature` of [`JoinedView::features`].
///
/// # Panics
/// If there is no such feature.
pub fn feature_statuses(joined: &JoinedView, feature: usize) -> Vec<FeatureStatus> {
    let nulls = joined.features[feature].logical_nulls();
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let status = |(row, status): (usize, &RowStatus)| match status {
        RowStatus::Found if is_null(row) => FeatureStatus::NullValue,
        RowStatus::Found => FeatureStatus::Present,
        RowStatus::NotFound => FeatureStatus::NotFound,
        RowStatus::OutsideMaxAge => FeatureStatus::OutsideMaxAge,
    };
    joined.statuses.iter().enumerate().map(status).collect()
}

/// Why a join has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    #[error(
        "feature view `{view}` has join keys of types ({}), the spine has ({}); cast the columns of the spine",
        type_list(.features), type_list(.spine)
    )]
    KeyTypes { view: FeatureViewName, spine: Vec<DataType>, features: Vec<DataType> },
    #[error("join keys of type {data_type} cannot be compared; cast the column, e.g. to a string")]
    KeyType { data_type: DataType },
    #[error("the spine's columns have different lengths: {lengths:?}")]
    SpineLengths { lengths: Vec<usize> },
    #[error("{rows} rows are more than the {} that one join takes; split them", u32::MAX - 1)]
    TooManyRows { rows: usize },
    #[error("feature view `{view}`: column {column} is asked of batches of {columns} columns")]
    ColumnMissing { view: FeatureViewName, column: usize, columns: usize },
    #[error("feature view `{view}`: column `{column}` is {actual}, but {expected} is expected")]
    ColumnType { view: FeatureViewName, column: String, expected: String, actual: DataType },
    #[error("feature view `{view}`: values of type {data_type} cannot be joined (`{feature}`)")]
    UnsupportedType { view: FeatureViewName, feature: String, data_type: DataType },
    #[error("feature view `{view}`: accumulators of different joins cannot be merged")]
    DifferentJoins { view: FeatureViewName },
    #[error("feature view `{view}`: the answer cannot be built")]
    Values { view: FeatureViewName, source: ArrowError },
    #[error("the spine's join keys cannot be read")]
    SpineKeys { source: ArrowError },
    #[error("feature view `{view}`: rows cannot be read")]
    Read { view: FeatureViewName, source: DataFusionError },
    #[error("feature view `{view}`: a file of its table cannot be read")]
    File { view: FeatureViewName, source: ParquetError },
    #[error("feature view `{view}`: the join stopped")]
    Stopped { view: FeatureViewName, source: tokio::task::JoinError },
}

impl JoinError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            JoinError::KeyTypes { .. } | JoinError::KeyType { .. } | JoinError::UnsupportedType { .. } => {
                ErrorKind::Invalid
            }
            JoinError::TooManyRows { .. } => ErrorKind::Exhausted,
            JoinError::Values { source: ArrowError::OffsetOverflowError(_), .. } => ErrorKind::Exhausted,
            JoinError::Read { source, .. } => match source.find_root() {
                DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
                DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            _ => ErrorKind::Internal,
        }
    }
}

fn type_list(types: &[DataType]) -> String {
    types.iter().map(DataType::to_string).collect::<Vec<_>>().join(", ")
}
