//! Formats of model files.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ModelError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFormat {
    LightgbmText,
    XgboostJson,
    XgboostUbj,
    CatboostJson,
    Onnx,
}

impl ModelFormat {
    pub const ALL: [ModelFormat; 5] = [
        ModelFormat::LightgbmText,
        ModelFormat::XgboostJson,
        ModelFormat::XgboostUbj,
        ModelFormat::CatboostJson,
        ModelFormat::Onnx,
    ];

    /// As the registry and the command line write it.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelFormat::LightgbmText => "lightgbm_text",
            ModelFormat::XgboostJson => "xgboost_json",
            ModelFormat::XgboostUbj => "xgboost_ubj",
            ModelFormat::CatboostJson => "catboost_json",
            ModelFormat::Onnx => "onnx",
        }
    }

    /// Tells a file's format by how it begins.
    ///
    /// # Errors
    /// [`ModelError::UnknownFormat`].
    pub fn detect(bytes: &[u8]) -> Result<Self, ModelError> {
        let has = |words: &str| bytes.windows(words.len()).any(|window| window == words.as_bytes());
        let text = bytes.trim_ascii_start();
        match text.first() {
            Some(b't') if text.starts_with(b"tree") => Ok(ModelFormat::LightgbmText),
            Some(b'{') if is_ubjson(text) && has("learner") => Ok(ModelFormat::XgboostUbj),
            Some(b'{') if has("\"learner\"") => Ok(ModelFormat::XgboostJson),
            Some(b'{') if has("\"features_info\"") || has("\"oblivious_trees\"") => Ok(ModelFormat::CatboostJson),
            // The version of the format, the first field of an ONNX message.
            Some(8) => Ok(ModelFormat::Onnx),
            _ => Err(ModelError::UnknownFormat),
        }
    }
}

/// Whether an object begins with a length or a counted container instead of a text.
fn is_ubjson(bytes: &[u8]) -> bool {
    matches!(bytes.get(1), Some(b'L' | b'i' | b'U' | b'I' | b'l' | b'$' | b'#'))
}

impl fmt::Display for ModelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModelFormat::LightgbmText => "LightGBM",
            ModelFormat::XgboostJson => "XGBoost (JSON)",
            ModelFormat::XgboostUbj => "XGBoost (UBJSON)",
            ModelFormat::CatboostJson => "CatBoost (JSON)",
            ModelFormat::Onnx => "ONNX",
        })
    }
}

impl FromStr for ModelFormat {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or(ModelError::UnknownFormat)
    }
}
