//! From winners to columns in the spine's order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray, UInt32Array, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::spawn_blocking;

use super::retained::without_waste;
use super::{JoinError, JoinedView, RowStatus};
use crate::definition::FeatureViewName;
use crate::time::EventTimestamp;

/// Where the winners' values are.
#[derive(Debug)]
pub(super) enum Winners {
    /// For each winner the part of a column, and the row in it. Sorted by part.
    Chosen(Vec<(usize, usize)>),
    /// All rows of all parts, in their order.
    All,
}

/// A view's answer but for the values, and which winner each row of the spine takes them from.
#[derive(Debug)]
pub(super) struct Answer {
    view: FeatureViewName,
    winners: Winners,
    statuses: Vec<RowStatus>,
    /// Microseconds; [`EventTimestamp::ALWAYS`] where there is none.
    events: Vec<i64>,
    /// For each spine row its position in `winners`, or [`NO_WINNER`].
    places: Vec<u32>,
}

/// A column to be built: the winners' batches, and only this column of them.
#[derive(Debug)]
pub(super) struct AnswerColumn {
    pub data_type: DataType,
    pub parts: Vec<ArrayRef>,
}

const NO_WINNER: u32 = u32::MAX;
const NO_EVENT: i64 = EventTimestamp::ALWAYS.micros();

impl Answer {
    /// Nothing found, for any row.
    pub fn new(view: FeatureViewName, rows: usize, winners: Winners) -> Self {
        Answer {
            view,
            winners,
            statuses: vec![RowStatus::NotFound; rows],
            events: vec![NO_EVENT; rows],
            places: vec![NO_WINNER; rows],
        }
    }

    /// Says what became of a spine row. `place` counts only if the row is found; then it has to be there.
    #[inline]
    pub fn set(&mut self, row: usize, status: RowStatus, event: i64, place: Option<u32>) {
        self.statuses[row] = status;
        self.events[row] = event;
        if status == RowStatus::Found {
            self.places[row] = place.unwrap_or(NO_WINNER);
        }
    }

    /// Builds one column; columns do not depend on each other.
    pub fn column(&self, column: AnswerColumn) -> Result<ArrayRef, JoinError> {
        let AnswerColumn { data_type, parts } = column;
        let is_found = |place: &u32| *place != NO_WINNER;
        let built = if !self.places.iter().any(is_found) {
            Ok(new_null_array(&data_type, self.places.len()))
        } else if data_type.is_primitive() || data_type == DataType::Boolean {
            self.gather_small(parts)
        } else {
            self.gather_any(&data_type, parts)
        };
        built.map_err(|source| JoinError::Values { view: self.view.clone(), source })
    }

    pub fn into_joined(self, features: Vec<ArrayRef>) -> JoinedView {
        let has_event = BooleanBuffer::collect_bool(self.events.len(), |row| self.events[row] != NO_EVENT);
        let nulls = Some(NullBuffer::new(has_event)).filter(|nulls| nulls.null_count() > 0);
        let event_timestamps = TimestampMicrosecondArray::new(self.events.into(), nulls).with_timezone_utc();
        JoinedView { features, statuses: self.statuses, event_timestamps }
    }

    /// In two steps, each near in memory: the winners together first, in the order they lie in, then to their places.
    fn gather_small(&self, parts: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
        let together = match &self.winners {
            Winners::Chosen(winners) => interleave(&slices(&parts), winners)?,
            Winners::All => concat(&slices(&parts))?,
        };
        drop(parts);
        let nulls = BooleanBuffer::collect_bool(self.places.len(), |row| self.places[row] != NO_WINNER);
        let nulls = Some(NullBuffer::new(nulls)).filter(|nulls| nulls.null_count() > 0);
        let places = self.places.iter().map(|place| if *place == NO_WINNER { 0 } else { *place }).collect();
        take(&together, &UInt32Array::new(places, nulls), None)
    }

    /// In one step, so that wide values are copied once; and an answer too long for its type is an error.
    fn gather_any(&self, data_type: &DataType, mut parts: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
        let null = (parts.len(), 0);
        parts.push(new_null_array(data_type, 1));
        let end = |end: &mut usize, part: &ArrayRef| {
            *end += part.len();
            Some(*end)
        };
        let ends: Vec<usize> = parts.iter().scan(0, end).collect();
        let winner = |place: usize| match &self.winners {
            Winners::Chosen(winners) => winners[place],
            Winners::All => {
                let part = ends.partition_point(|end| *end <= place);
                (part, place + parts[part].len() - ends[part])
            }
        };
        let place = |place: &u32| if *place == NO_WINNER { null } else { winner(*place as usize) };
        let places: Vec<(usize, usize)> = self.places.iter().map(place).collect();
        Ok(without_waste(interleave(&slices(&parts), &places)?))
    }
}

/// Builds the columns, as many at a time as there are `workers`.
pub(super) async fn build(answer: Answer, columns: Vec<AnswerColumn>, workers: usize) -> Result<JoinedView, JoinError> {
    let answer = Arc::new(answer);
    let building = columns.into_iter().map(|column| {
        let answer = Arc::clone(&answer);
        async move {
            let view = answer.view.clone();
            let built = spawn_blocking(move || answer.column(column));
            built.await.map_err(|source| JoinError::Stopped { view, source })?
        }
    });
    let features = stream::iter(building).buffered(workers).try_collect().await?;
    Ok(Arc::into_inner(answer).expect("every task that shared it has ended").into_joined(features))
}

fn slices(parts: &[ArrayRef]) -> Vec<&dyn Array> {
    parts.iter().map(ArrayRef::as_ref).collect()
}
