//! What the join has to know about one view: which column is what, and the rules of time.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};

use super::{ContentOrder, JoinError, SpineIndex};
use crate::definition::FeatureViewName;

/// One view's side of a join. Columns are ordinals of the feature batches.
#[derive(Debug, Clone)]
pub struct ViewParams {
    /// For messages.
    pub name: FeatureViewName,
    /// The join keys, in the order of the spine's key columns and of equal types.
    pub key_columns: Vec<usize>,
    /// Microseconds; a null is a static row, which holds always. `None`: all rows are static.
    pub event_timestamp: Option<usize>,
    /// Microseconds; `None`: the view has no created timestamp, and `as_known` does not concern it.
    pub created_timestamp: Option<usize>,
    /// All features of the view, in declared order: rows equal in key, event and created timestamp are
    /// ordered by these values. A caller that leaves some out gets an answer that may differ, in such
    /// ties, from that of a caller that does not.
    pub features: Vec<FeatureColumn>,
    /// What to answer: positions in `features`, in the order of the answer.
    pub requested: Vec<usize>,
    /// How old a row may be at the asked time; `None`: any age.
    pub ttl: Option<Duration>,
    /// Look only at rows that had been written down at the asked time.
    pub as_known: bool,
}

/// A feature: where its column is, its name and its exact Arrow type.
#[derive(Debug, Clone)]
pub struct FeatureColumn {
    pub column: usize,
    pub field: FieldRef,
}

impl ViewParams {
    /// Whether this view can be joined on the keys of `index` at all.
    pub(super) fn check(&self, index: &SpineIndex) -> Result<(), JoinError> {
        if self.key_columns.len() != index.key_types().len() {
            return Err(self.key_types_error(index, vec![DataType::Null; self.key_columns.len()]));
        }
        if let Some(&column) = self.requested.iter().find(|position| **position >= self.features.len()) {
            return Err(self.missing(column, self.features.len()));
        }
        match self.features.iter().find(|feature| !ContentOrder::supports(feature.field.data_type())) {
            Some(FeatureColumn { field, .. }) => Err(JoinError::UnsupportedType {
                view: self.name.clone(),
                feature: field.name().clone(),
                data_type: field.data_type().clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn keys(&self, batch: &RecordBatch, index: &SpineIndex) -> Result<Vec<ArrayRef>, JoinError> {
        let columns = self.key_columns.iter().map(|column| self.column(batch, *column));
        let keys = columns.map(|column| column.map(Arc::clone)).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<_> = keys.iter().map(|key| key.data_type().clone()).collect();
        if types == index.key_types() { Ok(keys) } else { Err(self.key_types_error(index, types)) }
    }

    /// The features' columns, in declared order.
    pub(super) fn values(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, JoinError> {
        let value = |feature: &FeatureColumn| {
            let column = self.column(batch, feature.column)?;
            if column.data_type() == feature.field.data_type() {
                return Ok(Arc::clone(column));
            }
            Err(JoinError::ColumnType {
                view: self.name.clone(),
                column: feature.field.name().clone(),
                expected: feature.field.data_type().to_string(),
                actual: column.data_type().clone(),
            })
        };
        self.features.iter().map(value).collect()
    }

    /// A column of instants; checked to be in microseconds, in whatever zone.
    pub(super) fn instants<'a>(&self, batch: &'a RecordBatch, ordinal: usize) -> Result<&'a ArrayRef, JoinError> {
        let column = self.column(batch, ordinal)?;
        if matches!(column.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return Ok(column);
        }
        Err(JoinError::ColumnType {
            view: self.name.clone(),
            column: batch.schema_ref().field(ordinal).name().clone(),
            expected: "Timestamp(µs)".to_owned(),
            actual: column.data_type().clone(),
        })
    }

    fn column<'a>(&self, batch: &'a RecordBatch, column: usize) -> Result<&'a ArrayRef, JoinError> {
        batch.columns().get(column).ok_or_else(|| self.missing(column, batch.num_columns()))
    }

    fn missing(&self, column: usize, columns: usize) -> JoinError {
        JoinError::ColumnMissing { view: self.name.clone(), column, columns }
    }

    fn key_types_error(&self, index: &SpineIndex, features: Vec<DataType>) -> JoinError {
        JoinError::KeyTypes { view: self.name.clone(), spine: index.key_types().to_vec(), features }
    }
}
