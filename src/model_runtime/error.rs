//! Why a model cannot be loaded or asked.

use super::ModelFormat;
use crate::error::ErrorKind;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("the file is no model of {format}: {problem}")]
    Malformed { format: ModelFormat, problem: String },
    #[error("a model of {format} with {what} is not supported; {remedy}")]
    Unsupported { format: ModelFormat, what: String, remedy: &'static str },
    #[error(
        "the format of the model is not recognized; known are LightGBM text (save_model), XGBoost JSON and UBJSON, CatBoost JSON (format='json') and ONNX; pickles are never read"
    )]
    UnknownFormat,
    #[error(
        "there is no ONNX Runtime: {problem}; install the Python package `onnxruntime`, or name its library with ORT_DYLIB_PATH"
    )]
    NoOnnxRuntime { problem: String },
    #[error("ONNX Runtime cannot load the model: {problem}")]
    OnnxLoad { problem: String },
    #[error("ONNX Runtime failed: {problem}")]
    OnnxRun { problem: String },
    #[error("a row has {found} values, and the model takes {wanted}")]
    Inputs { found: usize, wanted: usize },
    #[error("input `{input}` of the model is a number, and row {} has the text `{text}`", row + 1)]
    Text { input: String, row: usize, text: String },
}

impl ModelError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ModelError::NoOnnxRuntime { .. } => ErrorKind::Precondition,
            ModelError::OnnxRun { .. } => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }
}
