//! Keys and values of the `meta` column family: what the store knows about itself and about each view.
//!
//! ```text
//! 0x00                                                   format version (u32 BE)
//! 0x01 | view (u32 BE)                                   position (u64 BE)
//! 0x02 | view (u32 BE) | schema version (u32 BE)         JSON: [{"name": …, "type": …}, …]
//! 0x03 | view (u32 BE)                                   origin: id of the offline table (UTF-8)
//! 0x04 | view (u32 BE)                                   retention of an aggregation view: JSON: [microseconds or null, …]
//! 0x05 | view (u32 BE)                                   number of the view's stream side (u32 BE)
//! 0x06 | name (UTF-8)                                    a note of stream ingestion
//! ```

use crate::definition::Field;
use crate::online_store::SchemaVersion;
use crate::online_store::key::ViewId;

/// Name of the column family.
pub(super) const META: &str = "meta";

/// Version of the stored bytes that this program reads and writes.
pub(super) const FORMAT_VERSION: u32 = 1;

const TAG_FORMAT_VERSION: u8 = 0x00;
const TAG_POSITION: u8 = 0x01;
const TAG_SCHEMA: u8 = 0x02;
const TAG_ORIGIN: u8 = 0x03;
const TAG_RETENTION: u8 = 0x04;
const TAG_STREAM_SIDE: u8 = 0x05;
const TAG_NOTE: u8 = 0x06;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetaKey {
    FormatVersion,
    Position(ViewId),
    Schema(ViewId, SchemaVersion),
    Origin(ViewId),
    Retention(ViewId),
    StreamSide(ViewId),
}

impl MetaKey {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            MetaKey::FormatVersion => vec![TAG_FORMAT_VERSION],
            MetaKey::Position(view) => [&[TAG_POSITION][..], &view.0.to_be_bytes()].concat(),
            MetaKey::Schema(view, version) => {
                [&[TAG_SCHEMA][..], &view.0.to_be_bytes(), &version.0.to_be_bytes()].concat()
            }
            MetaKey::Origin(view) => [&[TAG_ORIGIN][..], &view.0.to_be_bytes()].concat(),
            MetaKey::Retention(view) => [&[TAG_RETENTION][..], &view.0.to_be_bytes()].concat(),
            MetaKey::StreamSide(view) => [&[TAG_STREAM_SIDE][..], &view.0.to_be_bytes()].concat(),
        }
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (tag, rest) = key.split_first()?;
        let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        match (*tag, rest.len()) {
            (TAG_FORMAT_VERSION, 0) => Some(MetaKey::FormatVersion),
            (TAG_POSITION, 4) => Some(MetaKey::Position(ViewId(number(rest)?))),
            (TAG_SCHEMA, 8) => Some(MetaKey::Schema(ViewId(number(&rest[..4])?), SchemaVersion(number(&rest[4..])?))),
            (TAG_ORIGIN, 4) => Some(MetaKey::Origin(ViewId(number(rest)?))),
            (TAG_RETENTION, 4) => Some(MetaKey::Retention(ViewId(number(rest)?))),
            (TAG_STREAM_SIDE, 4) => Some(MetaKey::StreamSide(ViewId(number(rest)?))),
            _ => None,
        }
    }

    pub(super) fn view(self) -> Option<ViewId> {
        match self {
            MetaKey::FormatVersion => None,
            MetaKey::Position(view)
            | MetaKey::Schema(view, _)
            | MetaKey::Origin(view)
            | MetaKey::Retention(view)
            | MetaKey::StreamSide(view) => Some(view),
        }
    }

    /// What every schema key of the view begins with.
    pub(super) fn schemas_of(view: ViewId) -> Vec<u8> {
        [&[TAG_SCHEMA][..], &view.0.to_be_bytes()].concat()
    }
}

/// The key of a note of stream ingestion.
pub(super) fn note_key(name: &str) -> Vec<u8> {
    [&[TAG_NOTE][..], name.as_bytes()].concat()
}

pub(super) fn encode_schema(features: &[Field]) -> Vec<u8> {
    serde_json::to_vec(features).expect("fields are names and types, which JSON can write")
}

pub(super) fn decode_schema(value: &[u8]) -> Option<Vec<Field>> {
    serde_json::from_slice(value).ok()
}

pub(super) fn encode_retention(levels: &[Option<i64>]) -> Vec<u8> {
    serde_json::to_vec(levels).expect("numbers and nulls are what JSON can write")
}

pub(super) fn decode_retention(value: &[u8]) -> Option<Vec<Option<i64>>> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_nothing_else_is_one() {
        for key in [
            MetaKey::FormatVersion,
            MetaKey::Position(ViewId(7)),
            MetaKey::Origin(ViewId(8)),
            MetaKey::Retention(ViewId(9)),
            MetaKey::StreamSide(ViewId(10)),
            MetaKey::Schema(ViewId(u32::MAX), SchemaVersion(0x0102_0304)),
        ] {
            assert_eq!(MetaKey::decode(&key.encode()), Some(key));
        }
        for bytes in [&[][..], &[7], &[0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 0]] {
            assert_eq!(MetaKey::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn schemas_round_trip() {
        let features = ["float64", "list<string>", "map<string, int64>"].map(|name| Field {
            name: name.to_owned(),
            value_type: name.parse().unwrap(),
            description: None,
        });
        assert_eq!(decode_schema(&encode_schema(&features)).as_deref(), Some(&features[..]));
        assert_eq!(decode_schema(b"{"), None);
    }
}
