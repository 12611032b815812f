//! What holds after all events: models, their versions, their aliases.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::CHAMPION;
use super::error::ModelRegistryError;
use super::event::{AliasMove, Event, ModelVersion};
use crate::definition::nearest;
use crate::time::EventTimestamp;

/// All models after the events up to one.
#[derive(Debug, Clone, Default)]
pub struct Models {
    /// The last event; 0: none.
    pub position: u64,
    pub models: BTreeMap<String, RegisteredModel>,
}

#[derive(Debug, Clone, Default)]
pub struct RegisteredModel {
    /// Version `n` at `n - 1`.
    pub versions: Vec<Arc<ModelVersion>>,
    pub registered_at: Vec<EventTimestamp>,
    pub retired: Vec<u64>,
    pub aliases: BTreeMap<String, u64>,
    /// Every move of every alias, oldest first.
    pub history: Vec<(String, AliasMove)>,
}

/// `name@alias` or `name@version`; `name` alone means its champion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelReference {
    pub model: String,
    /// An alias, or the digits of a version.
    pub pointer: String,
}

impl FromStr for ModelReference {
    type Err = ModelRegistryError;

    fn from_str(text: &str) -> Result<Self, ModelRegistryError> {
        let (model, pointer) = text.split_once('@').unwrap_or((text, CHAMPION));
        if model.is_empty() || pointer.is_empty() {
            return Err(ModelRegistryError::Reference { text: text.to_owned() });
        }
        Ok(ModelReference { model: model.to_owned(), pointer: pointer.to_owned() })
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.pointer)
    }
}

impl Models {
    pub(super) fn apply(&mut self, at: EventTimestamp, event: Event) {
        match event {
            Event::Registered(version) => {
                let model = self.models.entry(version.model.clone()).or_default();
                model.registered_at.push(at);
                model.versions.push(Arc::new(*version));
            }
            Event::AliasMoved { model, alias, from, to } => {
                let model = self.models.entry(model).or_default();
                match to {
                    Some(version) => model.aliases.insert(alias.clone(), version),
                    None => model.aliases.remove(&alias),
                };
                model.history.push((alias, AliasMove { at, from, to }));
            }
            Event::Retired { model, version } => self.models.entry(model).or_default().retired.push(version),
        }
        self.position += 1;
    }

    /// # Errors
    /// [`ModelRegistryError::UnknownModel`], with the nearest known one.
    pub fn model(&self, name: &str) -> Result<&RegisteredModel, ModelRegistryError> {
        self.models.get(name).ok_or_else(|| ModelRegistryError::UnknownModel {
            name: name.to_owned(),
            nearest: nearest(name, self.models.keys().map(String::as_str)).map(str::to_owned),
            known: self.models.keys().cloned().collect(),
        })
    }

    /// # Errors
    /// A model, version or alias that does not exist; a version that is retired.
    pub fn resolve(&self, reference: &ModelReference) -> Result<&Arc<ModelVersion>, ModelRegistryError> {
        let model = self.model(&reference.model)?;
        let number = match reference.pointer.parse::<u64>() {
            Ok(number) => number,
            Err(_) => *model.aliases.get(&reference.pointer).ok_or_else(|| ModelRegistryError::UnknownAlias {
                model: reference.model.clone(),
                alias: reference.pointer.clone(),
                known: model.aliases.keys().cloned().collect(),
            })?,
        };
        if model.retired.contains(&number) {
            return Err(ModelRegistryError::Retired { model: reference.model.clone(), version: number });
        }
        model.version(&reference.model, number)
    }

    /// Every version that an alias stands for, with its aliases.
    pub fn live(&self) -> impl Iterator<Item = (&Arc<ModelVersion>, Vec<&str>)> {
        self.models.values().flat_map(|model| {
            let of = |version: &Arc<ModelVersion>| model.aliases_of(version.version);
            model.versions.iter().map(move |version| (version, of(version))).filter(|(_, aliases)| !aliases.is_empty())
        })
    }
}

impl RegisteredModel {
    /// # Errors
    /// [`ModelRegistryError::UnknownVersion`].
    pub fn version(&self, model: &str, number: u64) -> Result<&Arc<ModelVersion>, ModelRegistryError> {
        let found = usize::try_from(number).ok().and_then(|number| self.versions.get(number.checked_sub(1)?));
        found.ok_or_else(|| ModelRegistryError::UnknownVersion {
            model: model.to_owned(),
            version: number,
            latest: self.versions.len() as u64,
        })
    }

    pub fn aliases_of(&self, version: u64) -> Vec<&str> {
        self.aliases.iter().filter(|(_, to)| **to == version).map(|(alias, _)| alias.as_str()).collect()
    }
}
