//! Names of things, one type each, so that they cannot be swapped.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::diagnostics::nearest;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(name: impl AsRef<str>) -> Self {
                $name(Arc::from(name.as_ref()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                $name::new(name)
            }
        }
    };
}

name_type!(
    /// Name of an entity.
    EntityName
);
name_type!(
    /// Name of a source.
    SourceName
);
name_type!(
    /// Name of a feature view or of an on-demand feature view: they share one namespace,
    /// because a reference `view:feature` may name either.
    FeatureViewName
);
name_type!(
    /// Name of a feature service.
    FeatureServiceName
);
name_type!(
    /// Name of a prediction route.
    RouteName
);

/// Whether `name` may name a thing or a column: a letter or `_`, then letters, digits and `_`,
/// 128 at most, without the `__` that separates view and feature in full feature names.
pub fn is_valid_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 128
        && !name.contains("__")
}
