//! What streams write: the changes of many events in one step, with the positions of the streams that they come from.
//!
//! A view that a stream feeds has a *side* of its own for what came by it, beside what jobs wrote: the same keys under
//! another view number. So neither flow ever overwrites what the other one wrote, and each is exact by itself; reads
//! put the two together.
//!
//! ```text
//! stored on the side of a stream
//!   event or row    tag (1) | (length (u32) | row value)*, ascending by bytes      merged, whatever the order of arrival
//!   tile            as everywhere                                                 replaced, by one writer
//! ```

use super::error::{DecodeError, OnlineStoreError};
use super::key::ViewId;
use super::tiles::{append_event, events_of};

/// Views have numbers below this one; the highest bits tell sides.
const STREAM: u32 = 1 << 31;
const SECOND: u32 = 1 << 30;

impl ViewId {
    /// One of the two numbers that the stream side of this view may have; the other one is for building it anew.
    pub fn stream_side(self, is_second: bool) -> ViewId {
        ViewId(self.base().0 | STREAM | if is_second { SECOND } else { 0 })
    }

    /// The view, of which this may be a side.
    pub fn base(self) -> ViewId {
        ViewId(self.0 & !(STREAM | SECOND))
    }

    /// Whether this is the second one of [`Self::stream_side`].
    pub fn is_second_side(self) -> bool {
        self.0 & (STREAM | SECOND) == STREAM | SECOND
    }
}

/// What rows of one key and time are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// Each counts, also one that is like another.
    Events = 0,
    /// Equal ones are one.
    Versions = 1,
}

/// The id of an event as the store keeps it, and when the event came in, in microseconds.
pub type EventId = (Box<[u8]>, i64);

/// Keys with a value each, in one piece of memory: streams bring many, and short ones.
#[derive(Debug, Default)]
pub struct KeyValues {
    bytes: Vec<u8>,
    /// Where each key ends, and its value after it.
    ends: Vec<(usize, usize)>,
}

impl KeyValues {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a key with what `append_value` appends to the bytes that it is given.
    pub fn push(&mut self, key: &[u8], append_value: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        append_value(&mut self.bytes);
        self.ends.push((key_end, self.bytes.len()));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, end)| {
            let key = &self.bytes[start..key_end];
            start = end;
            (key, &self.bytes[key_end..end])
        })
    }
}

/// Changes that become visible, and durable, together.
#[derive(Debug, Default)]
pub struct StreamChanges {
    /// Rows by key, in the form of [`encode_rows`].
    pub merges: KeyValues,
    /// Tiles by key.
    pub puts: KeyValues,
    /// Ids of events by key, and when they came in, in microseconds.
    pub event_ids: Vec<(Vec<u8>, i64)>,
    /// Ids whose time has passed.
    pub forgotten_ids: Vec<Vec<u8>>,
    /// Small texts by name: positions, and what else has to change with them.
    pub notes: Vec<(String, Vec<u8>)>,
    /// The number of the side that is read from now on, by view.
    pub sides: Vec<(ViewId, ViewId)>,
}

/// Appends rows that stand for one key and time.
pub fn encode_rows<'a>(together: Together, rows: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.push(together as u8);
    rows.into_iter().for_each(|row| append_event(row, out));
}

/// The rows of a stored value, or None for a value of another form.
///
/// # Errors
/// Bytes that [`encode_rows`] would not have written.
pub fn decode_rows(value: &[u8]) -> Result<impl Iterator<Item = Result<&[u8], OnlineStoreError>>, OnlineStoreError> {
    match value.split_first() {
        Some((0 | 1, rows)) => Ok(events_of(rows)),
        _ => Err(DecodeError::Tile.into()),
    }
}

/// The value that several ones of a key make together, in whatever order they came; None: one of them is damaged.
pub(super) fn merge_rows<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut rows: Vec<&[u8]> = Vec::new();
    let mut tag = None;
    for value in values {
        tag = tag.or(value.first().copied());
        for row in decode_rows(value).ok()? {
            rows.push(row.ok()?);
        }
    }
    let together = if tag? == Together::Versions as u8 { Together::Versions } else { Together::Events };
    rows.sort_unstable();
    if together == Together::Versions {
        rows.dedup();
    }
    let mut merged = Vec::with_capacity(1 + rows.iter().map(|row| row.len() + 4).sum::<usize>());
    encode_rows(together, rows, &mut merged);
    Some(merged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sides_tell_their_view() {
        let view = ViewId(7);
        let sides = [false, true].map(|second| view.stream_side(second));
        assert_eq!(sides.map(ViewId::base), [view, view]);
        assert_eq!(sides.map(ViewId::is_second_side), [false, true]);
        assert!(!view.is_second_side() && sides[0] != sides[1] && sides[0] != view);
    }

    fn value(together: Together, rows: &[Vec<u8>]) -> Vec<u8> {
        let mut value = Vec::new();
        encode_rows(together, rows.iter().map(Vec::as_slice), &mut value);
        value
    }

    proptest! {
        #[test]
        fn rows_merge_alike_in_any_order_and_grouping(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 1..12),
            order in any::<u64>(),
            cut in any::<prop::sample::Index>(),
            versions in any::<bool>(),
        ) {
            let together = if versions { Together::Versions } else { Together::Events };
            let singles: Vec<Vec<u8>> = rows.iter().map(|row| value(together, std::slice::from_ref(row))).collect();
            let whole = merge_rows(singles.iter().map(Vec::as_slice)).unwrap();
            let mut shuffled = singles.clone();
            shuffled.rotate_left((order % rows.len() as u64) as usize);
            let (first, second) = shuffled.split_at(cut.index(rows.len()));
            let parts: Vec<Vec<u8>> =
                [first, second].iter().filter_map(|part| merge_rows(part.iter().map(Vec::as_slice))).collect();
            prop_assert_eq!(merge_rows(parts.iter().rev().map(Vec::as_slice)).unwrap(), whole.clone());
            let mut expected = rows.clone();
            expected.sort();
            if versions {
                expected.dedup();
            }
            prop_assert_eq!(whole, value(together, &expected));
        }
    }

    #[test]
    fn damaged_values_are_told() {
        assert!(merge_rows([&b"\x00\x05\x00\x00\x00a"[..]].into_iter()).is_none());
        assert!(merge_rows([&b"\x07"[..]].into_iter()).is_none());
        assert!(decode_rows(b"").is_err());
    }
}
