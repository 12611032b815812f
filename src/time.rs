//! Instants, ranges and durations. All instants are microseconds since the Unix epoch, UTC.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// An instant in UTC: microseconds since the Unix epoch; may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTimestamp(i64);

/// Why a text is not an instant or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    #[error(
        "`{text}` is not a time; write RFC 3339, e.g. `2024-05-01`, `2024-05-01T12:30:00Z` or `2024-05-01 12:30:00.25+02:00`"
    )]
    NotATime { text: String },
    #[error("`{text}` is not a duration; write a whole number and one of ms, s, m, h, d, w, e.g. `30s`, `12h`, `7d`")]
    NotADuration { text: String },
    #[error("the range starts at {start} and ends at {end}; the start has to come before the end")]
    EmptyRange { start: EventTimestamp, end: EventTimestamp },
}

impl EventTimestamp {
    /// Sorts before every real instant: the time of rows that hold always (static sources).
    pub const ALWAYS: EventTimestamp = EventTimestamp(i64::MIN);

    pub const fn from_micros(micros: i64) -> Self {
        EventTimestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339 and its usual shortenings: `T` or a blank, no seconds, no offset (UTC), a bare date.
    ///
    /// Digits past the microsecond are cut to the microsecond below.
    ///
    /// # Errors
    /// [`TimeError::NotATime`].
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let trimmed = text.trim();
        parse_instant(trimmed).ok_or_else(|| TimeError::NotATime { text: text.to_owned() })
    }

    pub fn saturating_sub(self, duration: Duration) -> Self {
        EventTimestamp(self.0.saturating_sub(duration_micros(duration)))
    }

    pub fn saturating_add(self, duration: Duration) -> Self {
        EventTimestamp(self.0.saturating_add(duration_micros(duration)))
    }
}

/// The form in which programs write instants, `2024-05-01T12:30:00.123456Z`, with any offset; None for all others.
fn parse_usual(text: &str) -> Option<EventTimestamp> {
    let (head, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |sum: u32, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    if [head[4], head[7], head[10], head[13], head[16]] != *b"--T::" {
        return None;
    }
    let year = number(&head[..4]).filter(|year| *year > 0)?;
    let date = NaiveDate::from_ymd_opt(year as i32, number(&head[5..7])?, number(&head[8..10])?)?;
    let time = date.and_hms_opt(number(&head[11..13])?, number(&head[14..16])?, number(&head[17..])?)?;
    let fraction = rest.strip_prefix(b".").map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
    let (fraction, zone) = match fraction {
        0 => (0, rest),
        digits => {
            let kept = digits.min(6);
            (number(&rest[1..=kept])? * 10_u32.pow(6 - kept as u32), &rest[1 + digits..])
        }
    };
    let offset_minutes = match zone {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let minutes = i64::from((hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let micros = time.and_utc().timestamp() * 1_000_000 + i64::from(fraction);
    Some(EventTimestamp(micros - offset_minutes * 60_000_000))
}

fn parse_instant(text: &str) -> Option<EventTimestamp> {
    if let Some(instant) = parse_usual(text) {
        return Some(instant);
    }
    if !begins_with_date(text) || has_leap_second(text) {
        return None;
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(from_naive(date.and_hms_opt(0, 0, 0)?));
    }
    let text = text.replacen(' ', "T", 1);
    if let Ok(instant) = DateTime::parse_from_rfc3339(&text) {
        return Some(EventTimestamp(instant.timestamp_micros()));
    }
    for format in ["%Y-%m-%dT%H:%M%:z", "%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M:%S%.f%#z"] {
        if let Ok(instant) = DateTime::parse_from_str(&text, format) {
            return Some(EventTimestamp(instant.timestamp_micros()));
        }
    }
    let naive = text.strip_suffix(['Z', 'z']).unwrap_or(&text);
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(naive, format).ok())
        .map(from_naive)
}

/// Four digits of a year, which is not 0000, two of a month and two of a day.
fn begins_with_date(text: &str) -> bool {
    let Some(date) = text.as_bytes().first_chunk::<10>() else { return false };
    let is_as_written = |(at, byte): (usize, &u8)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    date.iter().enumerate().all(is_as_written) && date[..4] != *b"0000"
}

/// A second 60, which no instant here is.
fn has_leap_second(text: &str) -> bool {
    text.as_bytes().get(16..19) == Some(b":60")
}

fn from_naive(naive: NaiveDateTime) -> EventTimestamp {
    EventTimestamp(naive.and_utc().timestamp_micros())
}

impl fmt::Display for EventTimestamp {
    /// RFC 3339 with microseconds and `Z`; instants outside the calendar's range as a number of microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(instant) => f.write_str(&instant.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

/// A half-open range of instants, `[start, end)`; a missing bound is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TimeRange {
    pub start: Option<EventTimestamp>,
    pub end: Option<EventTimestamp>,
}

impl TimeRange {
    pub const UNBOUNDED: TimeRange = TimeRange { start: None, end: None };

    /// # Errors
    /// [`TimeError::EmptyRange`] unless `start < end`.
    pub fn new(start: Option<EventTimestamp>, end: Option<EventTimestamp>) -> Result<Self, TimeError> {
        match (start, end) {
            (Some(start), Some(end)) if start >= end => Err(TimeError::EmptyRange { start, end }),
            _ => Ok(TimeRange { start, end }),
        }
    }

    pub fn contains(&self, instant: EventTimestamp) -> bool {
        self.start.is_none_or(|start| start <= instant) && self.end.is_none_or(|end| instant < end)
    }

    pub fn overlaps(&self, other: &TimeRange) -> bool {
        let before = |end: Option<EventTimestamp>, start: Option<EventTimestamp>| matches!((end, start), (Some(end), Some(start)) if end <= start);
        !before(self.end, other.start) && !before(other.end, self.start)
    }

    /// The smallest range that covers both.
    pub fn hull(&self, other: &TimeRange) -> TimeRange {
        TimeRange {
            start: self.start.zip(other.start).map(|(a, b)| a.min(b)),
            end: self.end.zip(other.end).map(|(a, b)| a.max(b)),
        }
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |bound: Option<EventTimestamp>, open: &str| bound.map_or(open.to_owned(), |b| b.to_string());
        write!(f, "[{}, {})", bound(self.start, "beginning"), bound(self.end, "end of time"))
    }
}

/// A duration in whole microseconds; what exceeds an `i64` saturates.
pub fn duration_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

const UNITS: [(&str, u64); 6] = [
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
    ("w", 604_800_000_000),
];

/// Parses `500ms`, `30s`, `5m`, `1h`, `7d`, `2w`; days are 24 hours.
///
/// # Errors
/// [`TimeError::NotADuration`].
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let error = || TimeError::NotADuration { text: text.to_owned() };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (digits, unit) = trimmed.split_at(split);
    let count: u64 = digits.parse().map_err(|_| error())?;
    let micros_per_unit = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1;
    let micros = count.checked_mul(micros_per_unit).filter(|m| i64::try_from(*m).is_ok()).ok_or_else(error)?;
    Ok(Duration::from_micros(micros))
}

/// Writes a duration in the largest of d, h, m, s, ms that divides it: `24h` is `1d`, `2w` is `14d`.
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    UNITS[..5]
        .iter()
        .rev()
        .find(|(_, unit)| micros.is_multiple_of(u128::from(*unit)) && micros >= u128::from(*unit))
        .map_or_else(|| format!("{}ms", micros / 1000), |(name, unit)| format!("{}{name}", micros / u128::from(*unit)))
}

/// `#[serde(with = "crate::time::duration_text")]` for optional durations written as `3h`.
pub mod duration_text {
    use super::{Duration, format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => serializer.serialize_some(&format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_duration(&text).map_err(D::Error::custom)).transpose()
    }
}

/// `#[serde(with = "crate::time::instant_text")]` for optional instants written as RFC 3339.
pub mod instant_text {
    use super::EventTimestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<EventTimestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(instant) => serializer.serialize_some(&instant.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EventTimestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| EventTimestamp::parse(&text).map_err(D::Error::custom)).transpose()
    }
}

/// Tells the time; the only reader of the wall clock.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> EventTimestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> EventTimestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        EventTimestamp(Utc::now().timestamp_micros())
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Default, Clone)]
pub struct FixedClock(Arc<AtomicI64>);

impl FixedClock {
    pub fn at(now: EventTimestamp) -> Self {
        FixedClock(Arc::new(AtomicI64::new(now.micros())))
    }

    pub fn set(&self, now: EventTimestamp) {
        self.0.store(now.micros(), Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> EventTimestamp {
        EventTimestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_with_and_without_offset() {
        for (text, micros) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:01Z", 1_000_000),
            ("1970-01-01 00:00:01", 1_000_000),
            ("1970-01-01T01:00+01:00", 0),
            ("1970-01-01T00:00", 0),
            ("1970-01-01T00:00Z", 0),
            ("1970-01-01 02:00:00.5+02:00", 500_000),
            ("1969-12-31T23:59:59.9999999Z", -1),
        ] {
            assert_eq!(EventTimestamp::parse(text), Ok(EventTimestamp(micros)), "{text}");
        }
        for text in ["", "yesterday", "2024-13-01", "2024-01-01T25:00:00Z", "12"] {
            assert!(EventTimestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_quick_way_reads_what_the_careful_one_does() {
        let times = ["00:00:00", "23:59:59", "12:30:07.5", "12:30:07.123456", "12:30:07.1234569", "12:30:07.999999999"];
        let zones = ["Z", "+00:00", "-00:00", "+05:30", "-23:59"];
        let careful = |text: &str| Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros());
        for date in ["0001-01-01", "1969-12-31", "1970-01-01", "2000-02-29", "2024-05-01", "9999-12-31"] {
            for text in times.iter().flat_map(|time| zones.map(|zone| format!("{date}T{time}{zone}"))) {
                assert_eq!(parse_usual(&text).map(EventTimestamp::micros), careful(&text), "{text}");
                assert!(careful(&text).is_some(), "{text}");
            }
        }
        for text in [
            "2023-02-29T00:00:00Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T00:60:00Z",
            "2024-05-01T00:00:60Z",
            " 2024-05-01T00:00:00Z",
            "0000-05-01T00:00:00Z",
            "+10000-05-01T00:00:00Z",
            "2024-5-1",
            "2024-05-01T00:00:00+10000",
            "2024-05-01T00:00:00+24:00",
            "2024-05-01T00:00:00+01:60",
            "2024-05-01T00:00:00",
            "2024-05-01T00:00:00.Z",
            "2024-05-01T00:00:00ZZ",
            "2024-05-01T00:00:0äZ",
            "+024-05-01T00:00:00Z",
        ] {
            assert_eq!(parse_usual(text), None, "{text}");
        }
    }

    #[test]
    fn instants_are_written_with_microseconds() {
        assert_eq!(EventTimestamp(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn durations_are_written_in_the_largest_unit_that_divides_them() {
        for (text, canonical) in
            [("24h", "1d"), ("2w", "14d"), ("90m", "90m"), ("500ms", "500ms"), ("60s", "1m"), ("0s", "0ms")]
        {
            assert_eq!(format_duration(parse_duration(text).unwrap()), canonical);
        }
        for text in ["", "5", "h", "-1h", "1.5h", "1y", "99999999999999999w", "1 h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_half_open() {
        let range = TimeRange::new(Some(EventTimestamp(1)), Some(EventTimestamp(3))).unwrap();
        assert_eq!([0, 1, 2, 3].map(|t| range.contains(EventTimestamp(t))), [false, true, true, false]);
        let touching = TimeRange::new(Some(EventTimestamp(3)), None).unwrap();
        assert!(!range.overlaps(&touching) && !touching.overlaps(&range));
        assert!(range.overlaps(&TimeRange::UNBOUNDED));
        assert_eq!(range.hull(&touching), TimeRange { start: Some(EventTimestamp(1)), end: None });
        assert!(TimeRange::new(Some(EventTimestamp(3)), Some(EventTimestamp(3))).is_err());
    }
}
