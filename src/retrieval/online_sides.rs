//! Row views that a stream feeds beside jobs: of what both wrote, the row that a point-in-time join would choose.

use std::cmp::Ordering;

use arrow::array::{ArrayRef, TimestampMicrosecondBuilder};
use arrow::compute::interleave;

use super::RetrievalError;
use super::online::OnlineRetrieval;
use super::resolve::ResolvedView;
use crate::definition::Field;
use crate::online_store::{EncodedKeys, OnlineStoreError, RowDecoder, Schemas, ViewId, decode_rows};
use crate::point_in_time_join::{ContentOrder, JoinedView, RowStatus};
use crate::time::EventTimestamp;

/// Who wrote a row, by position among the sides.
pub(super) const JOBS: usize = 0;
const STREAM: usize = 1;

/// The rows of one key that are newest: one, but where several share key and times.
#[derive(Debug, Default)]
struct Newest {
    times: Option<(EventTimestamp, Option<EventTimestamp>)>,
    /// The side and the stored value of each.
    rows: Vec<(usize, Vec<u8>)>,
}

impl Newest {
    fn add(&mut self, times: (EventTimestamp, Option<EventTimestamp>), side: usize, row: &[u8]) {
        match self.times.map_or(Ordering::Greater, |known| times.cmp(&known)) {
            Ordering::Less => return,
            Ordering::Greater => self.rows.clear(),
            Ordering::Equal => {}
        }
        self.times = Some(times);
        self.rows.push((side, row.to_vec()));
    }
}

impl OnlineRetrieval {
    /// Each key's newest row of both sides.
    pub(super) fn read_two_sides(
        &self,
        resolved: &ResolvedView,
        jobs: &(ViewId, EncodedKeys),
        stream: &(ViewId, EncodedKeys),
        now: EventTimestamp,
    ) -> Result<JoinedView, RetrievalError> {
        let mut newest: Vec<Newest> = std::iter::repeat_with(Newest::default).take(jobs.1.len()).collect();
        self.store.read(&jobs.1, now, &mut |row, version| {
            if let Some(version) = version {
                newest[row].add((version.event_timestamp, version.created_timestamp), JOBS, version.value);
            }
            Ok(())
        })?;
        self.store.read(&stream.1, now, &mut |row, version| {
            let Some(version) = version else { return Ok(()) };
            for value in decode_rows(version.value)? {
                newest[row].add((version.event_timestamp, version.created_timestamp), STREAM, value?);
            }
            Ok(())
        })?;
        let schemas = [self.store.schemas(jobs.0)?, self.store.schemas(stream.0)?];
        let oldest = resolved.view.ttl.map(|ttl| now.saturating_sub(ttl));
        let decoder = |side: usize| RowDecoder::with_plan(resolved.decode_plan(side, &schemas[side]), newest.len());
        let mut decoders = [JOBS, STREAM].map(decoder);
        let mut decoded = [0, 0];
        let (mut places, mut statuses) = (Vec::new(), Vec::new());
        let mut event_timestamps = TimestampMicrosecondBuilder::with_capacity(newest.len()).with_timezone("UTC");
        for key in &newest {
            let time = key.times.map(|(event, _)| event);
            let chosen = greatest(&key.rows, [&schemas[JOBS], &schemas[STREAM]], &resolved.view.stored_fields())?;
            let (status, side) = match (time, chosen) {
                (Some(time), Some((side, _))) if oldest.is_some_and(|oldest| time < oldest) => {
                    decoders[side].append_null_row();
                    (RowStatus::OutsideMaxAge, side)
                }
                (Some(_), Some((side, row))) => {
                    decoders[side].append(row).map_err(OnlineStoreError::from)?;
                    (RowStatus::Found, side)
                }
                _ => {
                    decoders[JOBS].append_null_row();
                    (RowStatus::NotFound, JOBS)
                }
            };
            places.push((side, decoded[side]));
            decoded[side] += 1;
            statuses.push(status);
            event_timestamps.append_option(time.map(EventTimestamp::micros));
        }
        let [jobs, stream] = decoders.map(RowDecoder::finish);
        let features =
            jobs.iter().zip(&stream).map(|(jobs, stream)| Ok(interleave(&[jobs.as_ref(), stream.as_ref()], &places)?));
        let features: Vec<ArrayRef> = features.collect::<Result<_, RetrievalError>>()?;
        Ok(JoinedView { features, statuses, event_timestamps: event_timestamps.finish() })
    }
}

/// Of rows that share key and times, the one with the greatest content, as in every other path.
fn greatest<'r>(
    rows: &'r [(usize, Vec<u8>)],
    schemas: [&Schemas; 2],
    fields: &[Field],
) -> Result<Option<(usize, &'r [u8])>, OnlineStoreError> {
    if rows.len() < 2 {
        return Ok(rows.first().map(|(side, row)| (*side, row.as_slice())));
    }
    let decode = |(side, row): &(usize, Vec<u8>)| {
        let mut decoder = RowDecoder::new(schemas[*side], fields);
        decoder.append(row)?;
        Ok::<_, OnlineStoreError>(decoder.finish())
    };
    let contents = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let by_content = |a: &usize, b: &usize| ContentOrder::compare(&contents[*a], 0, &contents[*b], 0);
    let chosen = (0..rows.len()).max_by(by_content);
    Ok(chosen.map(|chosen| (rows[chosen].0, rows[chosen].1.as_slice())))
}
