//! How an aggregation view lies in the online store: its events, and tiles of several widths over them.
//!
//! ```text
//! key of an entry  = view | key parts | level (1) | instant (8) | created timestamp (8)
//!                    └────────── prefix ────────┘   └────── newest first ──────┘
//!
//! level 0          the events of one event and created timestamp: count, then each as a row value with its length
//! level 1, 2, …    a tile: what the events of [instant, instant + width) add up to; one where there is any event
//! ```
//!
//! A window is read from few entries, however many events it has: events and narrow tiles at its edges, wide tiles
//! between them. Every part is exact, and `tile` adds them up to the same bits however they are cut.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::error::{DecodeError, OnlineStoreError};
use super::value::SchemaVersion;
use crate::definition::{Aggregation, FeatureView, Field, ValueType, ViewInput, Window};
use crate::tile::{Aggregate, Column, Event, Partial, PartialKind, TileError};
use crate::time::duration_micros;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// Widths that tiles may have, in microseconds; each divides the next one.
const WIDTHS: [i64; 6] = [2 * SECOND, 20 * SECOND, 300 * SECOND, HOUR, DAY, 30 * DAY];
/// The edges of windows are read event by event, within a narrowest tile: that is no longer than one of these parts of
/// the shortest window, of which the first counts for windows of up to an hour.
const EDGES_OF_SHORT_WINDOWS: i64 = 12;
const EDGES_OF_LONG_WINDOWS: i64 = 100;

/// How many tiles of a table the longest window has at least.
const TABLE_TILES_MIN: i64 = 6;

/// One partial aggregate of every tile of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TilePart {
    pub kind: PartialKind,
    /// Positions among the view's event columns.
    pub input: Option<usize>,
    pub by: Option<usize>,
}

/// What the tiles of a view hold and how wide they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileLayout {
    /// Microseconds, of level 1, 2, …; each divides the next one.
    pub widths: Vec<i64>,
    pub parts: Vec<TilePart>,
    /// What stored values of the view have beside its event columns: names what its tiles are.
    pub mark: Field,
}

/// The aggregate of an aggregation, without its windows.
///
/// # Errors
/// A function that does not take such an input.
pub fn aggregate_of(view: &FeatureView, aggregation: &Aggregation) -> Result<Aggregate, TileError> {
    let value_type = |expression: &Option<String>| {
        let position = view.event_column(expression.as_ref()?)?;
        Some(&view.event_columns[position].field.value_type)
    };
    Aggregate::of(aggregation, value_type(&aggregation.input), value_type(&aggregation.by))
}

impl TilePart {
    /// # Errors
    /// As of [`aggregate_of`].
    pub fn of(view: &FeatureView, aggregation: &Aggregation) -> Result<Self, TileError> {
        let column = |expression: &Option<String>| view.event_column(expression.as_ref()?);
        Ok(TilePart {
            kind: aggregate_of(view, aggregation)?.kind().clone(),
            input: column(&aggregation.input),
            by: column(&aggregation.by),
        })
    }

    /// What the partial is told of a row of the view's event columns; `instants` are its event and created timestamp, in
    /// microseconds.
    pub fn event(&self, columns: &[Column], row: usize, instants: (i64, Option<i64>)) -> Event {
        let value = |column: Option<usize>| column.and_then(|column| columns[column].value(row));
        Event {
            event_timestamp: instants.0,
            created_timestamp: instants.1,
            value: value(self.input),
            bucket: value(self.by),
        }
    }
}

impl TileLayout {
    /// The layout that follows from the definition of an aggregation view.
    ///
    /// # Errors
    /// As of [`aggregate_of`].
    pub fn of(view: &FeatureView) -> Result<Self, TileError> {
        let mut parts: Vec<TilePart> = Vec::new();
        for aggregation in view.aggregations() {
            let part = TilePart::of(view, aggregation)?;
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        let widths = widths(view.aggregations().iter().flat_map(|aggregation| aggregation.windows.iter().copied()));
        let described: Vec<String> = parts
            .iter()
            .map(|part| {
                let column = |at: Option<usize>| at.map(|at| format!("{:?}", view.event_columns[at]));
                format!("{:?} {:?} {:?}", part.kind, column(part.input), column(part.by))
            })
            .collect();
        let described = format!("{widths:?} {described:?}");
        let name = format!("tiles:{:016x}", xxh3_64(described.as_bytes()));
        Ok(TileLayout { widths, parts, mark: Field { name, value_type: ValueType::Bool, description: None } })
    }

    /// The fields of the view's stored values.
    pub fn stored_fields(&self, view: &FeatureView) -> Vec<Field> {
        let mut fields = view.stored_fields();
        fields.push(self.mark.clone());
        fields
    }

    /// The tiles of the view's table of tiles: their width in microseconds, and the column that holds them, which is
    /// named for what they are. None: no window is long enough for them.
    pub fn of_table(&self, view: &FeatureView) -> Option<(i64, String)> {
        let lengths = view.aggregations().iter().flat_map(|aggregation| &aggregation.windows);
        let longest = lengths.map(|window| match window {
            Window::Sliding(duration) => duration_micros(*duration),
            Window::Lifetime => i64::MAX,
        });
        let longest = longest.max()?;
        let width = [DAY, HOUR].into_iter().find(|width| longest / width >= TABLE_TILES_MIN)?;
        Some((width, format!("{}:{}s", self.mark.name, width / SECOND)))
    }

    pub fn part(&self, part: &TilePart) -> Option<usize> {
        self.parts.iter().position(|known| known == part)
    }

    pub fn empty_tile(&self) -> Vec<Partial> {
        self.parts.iter().map(|part| part.kind.empty()).collect()
    }

    /// How long before the asked time an entry of each level may still be read, in microseconds; None: for ever.
    pub fn retention(&self, view: &FeatureView) -> Vec<Option<i64>> {
        let windows = || view.aggregations().iter().flat_map(|aggregation| &aggregation.windows);
        let lengths = windows().filter_map(|window| match window {
            Window::Sliding(duration) => Some(duration_micros(*duration)),
            Window::Lifetime => None,
        });
        let step = match view.input {
            ViewInput::Aggregations { resolution, .. } => resolution.map_or(0, duration_micros),
            ViewInput::Sql { .. } | ViewInput::Rows { .. } => 0,
        };
        let longest = lengths.max().unwrap_or(0).saturating_add(step);
        let has_lifetime = windows().any(|window| *window == Window::Lifetime);
        (0..=self.widths.len())
            .map(|level| match (has_lifetime, self.widths.get(level)) {
                (false, _) => Some(longest),
                // What is older is read from the next level, but for what the asked time's own tile there covers.
                (true, Some(wider)) => Some(longest.saturating_add(*wider)),
                (true, None) => None,
            })
            .collect()
    }

    /// Appends the stored value of a tile.
    pub fn encode_tile(&self, version: SchemaVersion, partials: &[Partial], out: &mut Vec<u8>) {
        out.extend_from_slice(&version.0.to_le_bytes());
        partials.iter().for_each(|partial| partial.encode(out));
    }

    /// The parts of a stored tile that was written under `version`; None: it was written under another one.
    ///
    /// # Errors
    /// Bytes that are no such tile.
    pub fn decode_tile(&self, version: SchemaVersion, value: &[u8]) -> Result<Option<Vec<Partial>>, OnlineStoreError> {
        let Some((found, mut rest)) = value.split_first_chunk::<4>() else {
            return Err(DecodeError::Tile.into());
        };
        if u32::from_le_bytes(*found) != version.0 {
            return Ok(None);
        }
        let partials = self.parts.iter().map(|part| part.kind.decode(&mut rest)).collect::<Result<Vec<_>, _>>();
        match partials {
            Ok(partials) if rest.is_empty() => Ok(Some(partials)),
            _ => Err(DecodeError::Tile.into()),
        }
    }
}

/// The widths of tiles that serve the windows.
fn widths(windows: impl Iterator<Item = Window>) -> Vec<i64> {
    let (mut shortest, mut longest) = (i64::MAX, 0);
    for window in windows {
        let length = match window {
            Window::Sliding(duration) => duration_micros(duration),
            Window::Lifetime => {
                longest = i64::MAX;
                continue;
            }
        };
        shortest = shortest.min(length);
        longest = longest.max(length);
    }
    let narrowest = match shortest {
        // Only windows without end: their one moving edge is the asked time.
        i64::MAX => HOUR,
        _ => {
            (shortest / EDGES_OF_SHORT_WINDOWS).min(HOUR / EDGES_OF_SHORT_WINDOWS).max(shortest / EDGES_OF_LONG_WINDOWS)
        }
    };
    let narrowest = WIDTHS.into_iter().rfind(|width| *width <= narrowest).unwrap_or(WIDTHS[0]);
    WIDTHS.into_iter().filter(|width| *width >= narrowest && *width <= longest / 2).collect()
}

/// Appends one event to the value of its entry.
pub fn append_event(row: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(row.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(row);
}

/// The row values of an entry of events.
pub fn events_of(value: &[u8]) -> impl Iterator<Item = Result<&[u8], OnlineStoreError>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let row = rest
            .split_first_chunk::<4>()
            .and_then(|(len, tail)| tail.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?));
        match row {
            Some((row, tail)) => {
                rest = tail;
                Some(Ok(row))
            }
            None => {
                rest = &[];
                Some(Err(DecodeError::Tile.into()))
            }
        }
    })
}

/// The start of the tile of this width that an instant lies in, in microseconds.
pub fn tile_start(instant: i64, width: i64) -> i64 {
    instant.saturating_sub(instant.rem_euclid(width))
}

/// A part of what a read needs: entries of one level with `from <= instant < until`, for some of the windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub level: usize,
    pub range: Range<i64>,
    /// Positions among the windows.
    pub windows: Vec<usize>,
}

/// The entries that windows are made of: each window ends before `now` and begins at its lower edge, if it has one.
///
/// Segments of one level do not overlap; they go by level, and within a level newest first.
pub fn segments(now: i64, lower_edges: &[Option<i64>], widths: &[i64]) -> Vec<Segment> {
    let mut levels: Vec<Vec<(Range<i64>, usize)>> = vec![Vec::new(); widths.len() + 1];
    for (window, edge) in lower_edges.iter().enumerate() {
        cover(now, *edge, widths, |level, range| levels[level].push((range, window)));
    }
    let mut segments = Vec::new();
    for (level, ranges) in levels.iter().enumerate() {
        let mut bounds: Vec<i64> = ranges.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        for pair in bounds.windows(2).rev() {
            let range = pair[0]..pair[1];
            let covers = |(whole, _): &&(Range<i64>, usize)| whole.start <= range.start && range.end <= whole.end;
            let windows: Vec<usize> = ranges.iter().filter(covers).map(|(_, window)| *window).collect();
            if !windows.is_empty() {
                segments.push(Segment { level, range, windows });
            }
        }
    }
    segments
}

/// Cuts `[edge, now)` into ranges of levels: whole tiles as wide as there are, and narrower ones at both ends.
fn cover(now: i64, edge: Option<i64>, widths: &[i64], mut add: impl FnMut(usize, Range<i64>)) {
    let (mut from, mut until) = (edge, now);
    for (level, width) in widths.iter().enumerate() {
        let first = from.map(|from| tile_start(from.saturating_add(width - 1), *width));
        let end = tile_start(until, *width);
        if first.is_some_and(|first| first >= end) {
            break;
        }
        if let (Some(from), Some(first)) = (from, first)
            && from < first
        {
            add(level, from..first);
        }
        if end < until {
            add(level, end..until);
        }
        (from, until) = (first, end);
        if level + 1 == widths.len() {
            add(level + 1, from.unwrap_or(i64::MIN)..until);
            return;
        }
        // The next level goes on with what is left, unless no tile of it fits.
        let next = widths[level + 1];
        let fits = from.is_none_or(|from| tile_start(from.saturating_add(next - 1), next) < tile_start(until, next));
        if !fits {
            add(level + 1, from.unwrap_or(i64::MIN)..until);
            return;
        }
    }
    if from.unwrap_or(i64::MIN) < until {
        add(0, from.unwrap_or(i64::MIN)..until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which instants of `[from, now)` the segments cover, each counted.
    fn covered(now: i64, edge: Option<i64>, widths: &[i64]) -> Vec<(usize, Range<i64>)> {
        let mut ranges = Vec::new();
        cover(now, edge, widths, |level, range| ranges.push((level, range)));
        ranges.sort_by_key(|(_, range)| range.start);
        ranges
    }

    #[test]
    fn a_window_is_covered_once_by_whole_tiles() {
        let widths = [10, 50, 200];
        for now in -450..450 {
            for length in [1, 5, 9, 10, 11, 30, 49, 50, 99, 101, 250, 399, 400, 401, 430] {
                let ranges = covered(now, Some(now - length), &widths);
                let mut at = now - length;
                for (level, range) in ranges {
                    assert_eq!(range.start, at, "now {now}, length {length}");
                    assert!(range.start < range.end);
                    if level > 0 {
                        let width = widths[level - 1];
                        assert_eq!((range.start.rem_euclid(width), range.end.rem_euclid(width)), (0, 0));
                    }
                    at = range.end;
                }
                assert_eq!(at, now, "length {length}");
            }
        }
        assert_eq!(covered(7, None, &widths).first().map(|(level, range)| (*level, range.start)), Some((3, i64::MIN)));
        assert_eq!(covered(7, None, &[]), [(0, i64::MIN..7)]);
    }

    #[test]
    fn windows_share_what_they_have_in_common() {
        let segments = |edges: &[Option<i64>]| {
            let segments = segments(104, edges, &[10]).into_iter();
            segments.map(|segment| (segment.level, segment.range, segment.windows)).collect::<Vec<_>>()
        };
        // The events since the last whole tile are those of both windows.
        let expected = [
            (0, 100..104, vec![0, 1]),
            (0, 75..80, vec![0]),
            (0, 42..50, vec![1]),
            (1, 80..100, vec![0, 1]),
            (1, 50..80, vec![1]),
        ];
        assert_eq!(segments(&[Some(75), Some(42)]), expected);
        // A window without a whole tile is read event by event, beside the tile that the other one reads.
        assert_eq!(segments(&[Some(101)]), [(0, 101..104, vec![0])]);
    }

    #[test]
    fn tiles_are_as_wide_as_the_windows_ask_for() {
        let of = |texts: &[&str]| widths(texts.iter().map(|text| text.parse::<Window>().unwrap()));
        assert_eq!(of(&["1h", "1d", "7d", "30d"]), WIDTHS[2..5]);
        assert_eq!(of(&["30d"]), WIDTHS[3..5]);
        assert_eq!(of(&["1m"]), WIDTHS[..2]);
        assert_eq!(of(&["lifetime"]), WIDTHS[3..]);
        assert_eq!(of(&["500ms"]), Vec::<i64>::new());
    }
}
