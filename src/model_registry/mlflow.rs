//! Folders that MLflow wrote: their `MLmodel` names the file of the model and its inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ModelRegistryError;

/// What an MLflow folder holds for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlflowModel {
    /// The model's own file.
    pub file: PathBuf,
    /// The inputs' names, where a signature has them.
    pub inputs: Vec<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(default)]
    flavors: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    signature: Option<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    inputs: Option<String>,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
}

/// Flavors that are read, and the keys under which they name their file.
const FLAVORS: [(&str, [&str; 2]); 4] = [
    ("lightgbm", ["lgb_model", "data"]),
    ("xgboost", ["xgb_model", "data"]),
    ("catboost", ["data", "model"]),
    ("onnx", ["data", "onnx_model"]),
];

/// Reads the `MLmodel` of a folder; opens no model.
///
/// # Errors
/// [`ModelRegistryError::Mlflow`] for a folder without one, or with flavors that are not read, such as pickles.
pub fn read_mlflow(folder: &Path) -> Result<MlflowModel, ModelRegistryError> {
    let path = folder.join("MLmodel");
    let failed = |problem: String| ModelRegistryError::Mlflow { file: path.display().to_string(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    let descriptor: Descriptor = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let found = FLAVORS.iter().find_map(|(flavor, keys)| Some((flavor, keys, descriptor.flavors.get(*flavor)?)));
    let Some((flavor, keys, settings)) = found else {
        let names: Vec<&str> = descriptor.flavors.keys().map(String::as_str).collect();
        return Err(failed(format!(
            "its flavors are {}; those that are read are lightgbm, xgboost, catboost (as JSON) and onnx: pickles are never read, so log the model as one of them",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )));
    };
    let name = keys.iter().find_map(|key| settings.get(*key)?.as_str());
    let name = name.ok_or_else(|| failed(format!("its flavor {flavor} names no file")))?;
    let is_inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !is_inside {
        return Err(failed(format!("its file `{name}` lies outside of the folder")));
    }
    let inputs = descriptor.signature.and_then(|signature| signature.inputs);
    let inputs: Vec<Input> = match inputs {
        Some(json) => serde_json::from_str(&json).map_err(|error| failed(format!("its signature: {error}")))?,
        None => Vec::new(),
    };
    let names: Option<Vec<String>> = inputs.into_iter().map(|input| input.name).collect();
    Ok(MlflowModel { file: folder.join(name), inputs: names.unwrap_or_default() })
}
