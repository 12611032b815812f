//! What can go wrong with the registry of models.

use crate::error::ErrorKind;
use crate::model_runtime::ModelError;
use crate::registry::RegistryError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelRegistryError {
    #[error("`{name}` cannot be the name of {what}; a name is a letter or `_`, then letters, digits and `_`")]
    Name { what: &'static str, name: String },
    #[error("there is no model `{name}`{}", hint(nearest, known))]
    UnknownModel { name: String, nearest: Option<String>, known: Vec<String> },
    #[error("model `{model}` has no version {version}; its versions are 1 to {latest}")]
    UnknownVersion { model: String, version: u64, latest: u64 },
    #[error("model `{model}` has no alias `{alias}`; it has {}", listed(known))]
    UnknownAlias { model: String, alias: String, known: Vec<String> },
    #[error("version {version} of model `{model}` is retired")]
    Retired { model: String, version: u64 },
    #[error("version {version} of model `{model}` reads what the definitions do not have: {reasons}")]
    Unfit { model: String, version: u64, reasons: String },
    #[error("version {version} of model `{model}` is in use as {}; move the alias first", listed(aliases))]
    InUse { model: String, version: u64, aliases: Vec<String> },
    #[error("`{reference}` is named by route `{route}`; change the route first")]
    Named { reference: String, route: String },
    #[error(
        "alias `{alias}` of model `{model}` stands for {}, and not for {expected}; look again",
        found.map_or("nothing".to_owned(), |found| format!("version {found}"))
    )]
    Moved { model: String, alias: String, found: Option<u64>, expected: String },
    #[error("`{text}` is no reference to a model; write `name`, `name@alias` or `name@version`")]
    Reference { text: String },
    #[error("{problem}")]
    Signature { problem: String },
    #[error("golden row {row}: the model answers {found:?}, and {expected:?} is expected")]
    Golden { row: usize, found: Vec<f64>, expected: Vec<f64> },
    #[error("golden rows: {problem}")]
    GoldenRows { problem: String },
    #[error("`{file}`: {problem}")]
    Mlflow { file: String, problem: String },
    #[error("model registry file `{file}` is damaged; restore it from a copy")]
    Corrupt { file: String, source: serde_json::Error },
    #[error(
        "model registry file `{file}` has format {found}, and this asof reads formats up to {supported}; upgrade asof"
    )]
    FutureFormat { file: String, found: u64, supported: u64 },
    #[error("the bytes of {what} are not there, or not what they were: `{file}`; restore the file from a copy")]
    Artefact { what: String, file: String },
    #[error("others change the registry of models all the time; try again")]
    Busy,
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ModelRegistryError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ModelRegistryError::UnknownModel { .. }
            | ModelRegistryError::UnknownVersion { .. }
            | ModelRegistryError::UnknownAlias { .. } => ErrorKind::NotFound,
            ModelRegistryError::Retired { .. }
            | ModelRegistryError::Unfit { .. }
            | ModelRegistryError::InUse { .. }
            | ModelRegistryError::Named { .. } => ErrorKind::Precondition,
            ModelRegistryError::FutureFormat { .. } => ErrorKind::Precondition,
            ModelRegistryError::Moved { .. } | ModelRegistryError::Busy => ErrorKind::Conflict,
            ModelRegistryError::Corrupt { .. } | ModelRegistryError::Artefact { .. } => ErrorKind::Corrupt,
            ModelRegistryError::Model(error) => error.kind(),
            ModelRegistryError::Registry(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

fn hint(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None if known.is_empty() => "; none is registered yet: run `asof models register`".to_owned(),
        None => format!("; there are {}", listed(known)),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
