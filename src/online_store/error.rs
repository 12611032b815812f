//! What can go wrong in the online store.

use std::path::PathBuf;

use arrow::datatypes::DataType;

use super::{SchemaVersion, ViewId};
use crate::definition::ValueType;
use crate::error::ErrorKind;

/// Why the online store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnlineStoreError {
    #[error("the online store {} is in use by another process", .path.display())]
    Locked { path: PathBuf },
    #[error(
        "the online store {} has format version {found}, this program reads version {supported}; \
         move it away and materialize again",
        .path.display()
    )]
    FormatVersion { path: PathBuf, found: u32, supported: u32 },
    #[error("{} holds a RocksDB database that is not an online store; give the online store a folder of its own", .path.display())]
    NotAnOnlineStore { path: PathBuf },
    #[error("the online store {} is damaged; move it away and materialize again", .path.display())]
    CorruptStore { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "the {entry} of view {view} cannot be read from the online store; move the store away and materialize again"
    )]
    CorruptEntry { entry: &'static str, view: ViewId },
    #[error("a stored key of {} bytes is shorter than any key can be", .key.len())]
    CorruptKey { key: Vec<u8> },
    #[error("a stored value cannot be decoded")]
    CorruptValue(#[from] DecodeError),
    #[error("the rows cannot be stored")]
    Encode(#[from] EncodeError),
    #[error("the online store {} could not {action}", .path.display())]
    Storage { path: PathBuf, action: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("keys of a bulk write have to ascend, each stored once; key {} of view {view} does not follow its predecessor", .rows + 1)]
    UnsortedKeys { view: ViewId, rows: u64 },
    #[error("a key given to a bulk write of view {view} is not a version key of that view")]
    ForeignKey { view: ViewId },
    #[error("a store in memory has no files that a checkpoint could hold")]
    NoFiles,
    #[error("nobody waits for what is read any more")]
    Abandoned,
    #[error("view {view} is past the last number a view may have")]
    ReservedView { view: ViewId },
}

impl OnlineStoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            OnlineStoreError::Locked { .. } | OnlineStoreError::Storage { .. } | OnlineStoreError::Abandoned => {
                ErrorKind::Unavailable
            }
            OnlineStoreError::FormatVersion { .. } | OnlineStoreError::NotAnOnlineStore { .. } => {
                ErrorKind::Precondition
            }
            OnlineStoreError::CorruptStore { .. }
            | OnlineStoreError::CorruptEntry { .. }
            | OnlineStoreError::CorruptKey { .. } => ErrorKind::Corrupt,
            OnlineStoreError::CorruptValue(source) => source.kind(),
            OnlineStoreError::Encode(source) => source.kind(),
            OnlineStoreError::NoFiles
            | OnlineStoreError::UnsortedKeys { .. }
            | OnlineStoreError::ForeignKey { .. }
            | OnlineStoreError::ReservedView { .. } => ErrorKind::Internal,
        }
    }
}

/// Why columns cannot be encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    #[error("{found} columns were given, {expected} are declared")]
    ColumnCount { expected: usize, found: usize },
    #[error("column {column} has {found} rows, {expected} were expected")]
    ColumnLength { column: String, expected: usize, found: usize },
    #[error("column {column} is declared {expected} but its Arrow type is {found}")]
    ColumnType { column: String, expected: ValueType, found: DataType },
    #[error("a join key cannot be of type {value_type}")]
    NotAJoinKey { value_type: ValueType },
    #[error("row {}: a map of column {column} has a null key", row + 1)]
    NullMapKey { column: String, row: usize },
    #[error("row {}: the values take more than 4 GiB", row + 1)]
    RowTooLarge { row: usize },
}

impl EncodeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            EncodeError::NotAJoinKey { .. } | EncodeError::NullMapKey { .. } | EncodeError::RowTooLarge { .. } => {
                ErrorKind::Invalid
            }
            EncodeError::ColumnCount { .. } | EncodeError::ColumnLength { .. } | EncodeError::ColumnType { .. } => {
                ErrorKind::Internal
            }
        }
    }
}

/// Why stored bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("the bytes are no tile or events of an aggregation view")]
    Tile,
    #[error("its schema version {version} is not known")]
    UnknownSchemaVersion { version: SchemaVersion },
    #[error("it has {found} bytes where its schema makes {expected}")]
    Length { expected: u64, found: usize },
    #[error("its bytes for `{feature}` are not a {value_type}")]
    Feature { feature: String, value_type: ValueType },
    #[error("the values of `{feature}` take more than 2 GiB; ask for fewer rows")]
    ColumnTooLarge { feature: String },
    #[error("its key does not consist of the declared join keys")]
    Key,
}

impl DecodeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            DecodeError::ColumnTooLarge { .. } => ErrorKind::Exhausted,
            _ => ErrorKind::Corrupt,
        }
    }
}
