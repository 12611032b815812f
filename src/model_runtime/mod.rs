//! A model's bytes to predictions.
//!
//! ```text
//! bytes ── load ──► Model ── predict(InputRows) ──► Predictions
//!   LightGBM text, XGBoost JSON and UBJSON, CatBoost JSON ──► trees (our own evaluator)
//!   ONNX ──► ONNX Runtime, found when it is needed
//! ```
//!
//! Knows no features, no stores and no registry: a row is numbers and texts in the model's own order. A file is data
//! from strangers: whatever it holds, loading gives a model or an error.

mod detect;
mod error;
mod input;
mod onnx;
mod trees;

pub use detect::ModelFormat;
pub use error::ModelError;
pub use input::{InputKind, InputRows, ModelInput, Predictions};

use onnx::OnnxModel;
use trees::TreeModel;

/// A model that is ready to be asked, by any number of threads at once.
#[derive(Debug)]
pub struct Model {
    format: ModelFormat,
    inputs: Vec<ModelInput>,
    /// Numbers of one prediction; None: known once there is one.
    outputs: Option<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Trees(Box<TreeModel>),
    Onnx(Box<OnnxModel>),
    #[cfg(test)]
    Code(TestCode),
}

/// Stands for a model that does what no file makes one do.
#[cfg(test)]
pub struct TestCode(pub std::sync::Arc<dyn Fn(&InputRows) -> Predictions + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for TestCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCode")
    }
}

/// What a caller chooses about a model whose file leaves it open.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Of ONNX: the output that is the prediction; None: probabilities where there are some, else the first.
    pub output: Option<String>,
}

impl Model {
    /// # Errors
    /// Bytes that are no model of the format, or one of a kind that is not supported, with the reason.
    pub fn load(format: ModelFormat, bytes: &[u8], options: &LoadOptions) -> Result<Self, ModelError> {
        if format == ModelFormat::Onnx {
            let model = OnnxModel::load(bytes, options)?;
            let inputs = model.inputs();
            return Ok(Model { format, inputs, outputs: None, kind: Kind::Onnx(Box::new(model)) });
        }
        let model = match format {
            ModelFormat::LightgbmText => trees::lightgbm::load(bytes),
            ModelFormat::XgboostJson => trees::xgboost::load_json(bytes),
            ModelFormat::XgboostUbj => trees::xgboost::load_ubjson(bytes),
            ModelFormat::CatboostJson | ModelFormat::Onnx => trees::catboost::load(bytes),
        }?;
        let (inputs, outputs) = (model.inputs().to_vec(), Some(model.outputs()));
        Ok(Model { format, inputs, outputs, kind: Kind::Trees(Box::new(model)) })
    }

    #[cfg(test)]
    pub fn of_code(inputs: Vec<ModelInput>, code: TestCode) -> Self {
        Model { format: ModelFormat::Onnx, inputs, outputs: Some(1), kind: Kind::Code(code) }
    }

    pub fn format(&self) -> ModelFormat {
        self.format
    }

    /// What one row consists of, in order.
    pub fn inputs(&self) -> &[ModelInput] {
        &self.inputs
    }

    /// Numbers of one prediction, where that is known before the first.
    pub fn outputs(&self) -> Option<usize> {
        self.outputs
    }

    /// One prediction a row: what the library that made the model answers by default. Of two classes that is the
    /// probability of the second, of more the probability of each.
    ///
    /// # Errors
    /// [`ModelError::Inputs`] unless `rows` is as wide as the model's inputs; a failure of ONNX Runtime.
    pub fn predict(&self, rows: &InputRows) -> Result<Predictions, ModelError> {
        if rows.width() != self.inputs.len() {
            return Err(ModelError::Inputs { found: rows.width(), wanted: self.inputs.len() });
        }
        match &self.kind {
            Kind::Trees(model) => Ok(model.predict(rows)),
            Kind::Onnx(model) => model.predict(rows),
            #[cfg(test)]
            Kind::Code(code) => Ok((code.0)(rows)),
        }
    }
}

#[cfg(test)]
mod tests;
