//! One version of the registry and the file that holds it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::RegistryError;
use crate::definition::{Definitions, FeatureViewName};
use crate::time::EventTimestamp;

/// Format of version files. Raise it with every change that an older reader would misunderstand,
/// a new key of a definition that changes answers included.
const FORMAT_VERSION: u64 = 4;

/// The definitions as they were applied at one moment, and the identity of what their feature views store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryVersion {
    /// From 1, without gaps.
    pub version: u64,
    #[serde(with = "instant_text")]
    pub applied_at: EventTimestamp,
    /// What this version changed.
    pub summary: ChangeCounts,
    /// One entry for each feature view of `definitions`; on-demand feature views store nothing.
    pub views: BTreeMap<FeatureViewName, ViewState>,
    /// Greater than every id that was ever given.
    pub next_view_id: u32,
    /// Ids whose values nobody reads any more. A name may stand in `views` too: made again, or rebuilt, with another id.
    pub removed_views: Vec<RemovedView>,
    pub definitions: Definitions,
}

/// Identity of what a feature view stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewState {
    /// Never given twice in a registry. A view gets a new one when its stored rows cannot be kept: its join keys, the
    /// type of a stored column, or whether it has times changed, or it was removed and made again.
    pub id: u32,
    /// Raised when the rows would be computed differently, or hold other features: a materialization without
    /// bounds then starts from the beginning, and what is stored is served until it has run.
    pub data_version: u64,
}

/// A view id that is out of use, and since which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    pub name: FeatureViewName,
    pub id: u32,
    pub removed_in: u64,
}

/// One line of the registry's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionSummary {
    pub version: u64,
    #[serde(with = "instant_text")]
    pub applied_at: EventTimestamp,
    pub summary: ChangeCounts,
}

/// How many definitions were added, changed and removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
}

impl fmt::Display for ChangeCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} added, {} changed, {} removed", self.added, self.changed, self.removed)
    }
}

impl RegistryVersion {
    pub fn summary(&self) -> VersionSummary {
        VersionSummary { version: self.version, applied_at: self.applied_at, summary: self.summary }
    }

    /// Name of the file that holds `version`, below the registry's location; sorts by number.
    pub(super) fn file_name(version: u64) -> String {
        format!("{version:020}.json")
    }

    /// The version that a file of this name holds; None: no version file.
    pub(super) fn number_of(file_name: &str) -> Option<u64> {
        let digits = file_name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, RegistryError> {
        let file = VersionFileRef { format_version: FORMAT_VERSION, version: self };
        let mut bytes = serde_json::to_vec_pretty(&file)
            .map_err(|source| RegistryError::Encode { version: self.version, source })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the file of version `number`; `file` is its place, for messages.
    pub(super) fn decode(bytes: &[u8], number: u64, file: &str) -> Result<Self, RegistryError> {
        let corrupt = |source| RegistryError::Corrupt { file: file.to_owned(), source };
        // The format comes first: the rest of a later format may not parse.
        let head: VersionFileHead = serde_json::from_slice(bytes).map_err(corrupt)?;
        if head.format_version > FORMAT_VERSION {
            let found = head.format_version;
            return Err(RegistryError::FutureFormat { file: file.to_owned(), found, supported: FORMAT_VERSION });
        }
        let version: RegistryVersion = serde_json::from_slice(bytes).map_err(corrupt)?;
        if version.version != number {
            return Err(RegistryError::Misplaced { file: file.to_owned(), found: version.version });
        }
        Ok(version)
    }
}

#[derive(Serialize)]
struct VersionFileRef<'a> {
    format_version: u64,
    #[serde(flatten)]
    version: &'a RegistryVersion,
}

#[derive(Deserialize)]
struct VersionFileHead {
    format_version: u64,
}

/// Instants as RFC 3339, so that the files and the history read well.
mod instant_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::time::EventTimestamp;

    pub fn serialize<S: Serializer>(instant: &EventTimestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(instant)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventTimestamp, D::Error> {
        EventTimestamp::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
