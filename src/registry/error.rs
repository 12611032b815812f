//! What can go wrong with the registry.

use super::signature::BreakingReason;
use crate::error::ErrorKind;

/// Why the registry could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    #[error("registry location `{location}` {problem}; write an absolute folder or a URL such as `s3://bucket/folder`")]
    InvalidLocation { location: String, problem: &'static str },
    #[error(
        "registry location `{location}` needs asof built with `--features {feature}`; rebuild it, or use a local folder"
    )]
    FeatureOff { location: String, feature: &'static str },
    #[error("registry location `{location}` cannot be opened; check its URL and the credentials in the environment")]
    Open { location: String, source: object_store::Error },
    #[error("registry file `{file}` cannot be reached; check that `{file}` can be read and written, then try again")]
    Unreachable { file: String, source: object_store::Error },
    #[error("registry file `{file}` is damaged; restore it from a copy, or delete it and apply again")]
    Corrupt { file: String, source: serde_json::Error },
    #[error(
        "registry file `{file}` says that it is version {found}; it was copied or renamed: put the right file back"
    )]
    Misplaced { file: String, found: u64 },
    #[error("registry file `{file}` has format {found}, and this asof reads formats up to {supported}; upgrade asof")]
    FutureFormat { file: String, found: u64, supported: u64 },
    #[error("registry version {version} does not exist; {}", existing(*.latest))]
    UnknownVersion { version: u64, latest: Option<u64> },
    #[error("registry version {version} was applied by somebody else meanwhile; plan again")]
    Conflict { version: u64 },
    #[error(
        "the plan breaks feature services in use:{}\nadd a new feature service for the change and remove the old one when nobody asks for it any more, or apply with `--allow-breaking`",
        list(.reasons)
    )]
    Breaking { reasons: Vec<BreakingReason> },
    #[error("registry version {version} cannot be written as JSON")]
    Encode { version: u64, source: serde_json::Error },
}

impl RegistryError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            RegistryError::InvalidLocation { .. } | RegistryError::FeatureOff { .. } | RegistryError::Open { .. } => {
                ErrorKind::Invalid
            }
            RegistryError::Unreachable { .. } => ErrorKind::Unavailable,
            RegistryError::Corrupt { .. } | RegistryError::Misplaced { .. } => ErrorKind::Corrupt,
            RegistryError::FutureFormat { .. } | RegistryError::Breaking { .. } => ErrorKind::Precondition,
            RegistryError::UnknownVersion { .. } => ErrorKind::NotFound,
            RegistryError::Conflict { .. } => ErrorKind::Conflict,
            RegistryError::Encode { .. } => ErrorKind::Internal,
        }
    }
}

fn existing(latest: Option<u64>) -> String {
    match latest {
        Some(latest) => format!("the versions are 1 to {latest}"),
        None => "nothing was applied yet: run `asof apply`".to_owned(),
    }
}

fn list(reasons: &[BreakingReason]) -> String {
    reasons.iter().map(|reason| format!("\n  - {reason}")).collect()
}
