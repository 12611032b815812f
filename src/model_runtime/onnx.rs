//! ONNX models, by the ONNX Runtime that is installed.
//!
//! The library is loaded when the first such model is: by `ORT_DYLIB_PATH`, else from the Python package
//! `onnxruntime` of the `python3` on the path. A session runs one request at a time on the thread that asks; there are
//! as many as requests were ever under way at once, up to the number of processors.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, DynValueTypeMarker, Tensor, TensorElementType, ValueType};

use super::{InputKind, InputRows, LoadOptions, ModelError, ModelInput, Predictions};

/// Where the library is, for those who have several.
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Values of a row.
const WIDTH_MAX: i64 = 1 << 20;

#[derive(Debug)]
pub struct OnnxModel {
    bytes: Vec<u8>,
    tensors: Vec<InputTensor>,
    output: Output,
    sessions: Mutex<Sessions>,
    returned: Condvar,
}

#[derive(Debug)]
struct Sessions {
    idle: Vec<Session>,
    /// How many more may be made.
    left: usize,
}

/// The output of the graph that is the prediction.
#[derive(Debug)]
struct Output {
    name: String,
    /// Of two probabilities it is the second, as of every other library.
    is_of_classes: bool,
}

/// An input of the graph: some values of a row.
#[derive(Debug)]
struct InputTensor {
    name: String,
    element: TensorElementType,
    width: usize,
    /// Whether its shape is rows alone.
    is_flat: bool,
}

impl OnnxModel {
    pub fn load(bytes: &[u8], options: &LoadOptions) -> Result<Self, ModelError> {
        let session = open(bytes)?;
        let problem = |problem: String| ModelError::OnnxLoad { problem };
        let tensors = session.inputs().iter().map(|input| input_tensor(input.name(), input.dtype()));
        let tensors = tensors.collect::<Result<Vec<_>, _>>().map_err(problem)?;
        let outputs: Vec<(&str, &ValueType)> =
            session.outputs().iter().map(|output| (output.name(), output.dtype())).collect();
        let output = chosen_output(&outputs, options.output.as_deref()).map_err(problem)?;
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let sessions = Mutex::new(Sessions { idle: vec![session], left: most.saturating_sub(1) });
        Ok(OnnxModel { bytes: bytes.to_vec(), tensors, output, sessions, returned: Condvar::new() })
    }

    pub fn inputs(&self) -> Vec<ModelInput> {
        let is_matrix = self.tensors.len() == 1;
        let of = |tensor: &InputTensor| {
            let name = |position: usize| match tensor.width {
                1 => Some(tensor.name.clone()),
                _ if is_matrix => None,
                _ => Some(format!("{}_{position}", tensor.name)),
            };
            let kind = if tensor.element == TensorElementType::String { InputKind::Text } else { InputKind::Number };
            (0..tensor.width).map(|position| ModelInput { name: name(position), kind }).collect::<Vec<_>>()
        };
        self.tensors.iter().flat_map(of).collect()
    }

    /// Row by row: how the runtime adds up, and so the last bits, depends on how many rows it is given.
    pub fn predict(&self, rows: &InputRows) -> Result<Predictions, ModelError> {
        let mut session = self.take_session()?;
        let predictions = (0..rows.rows()).map(|row| self.predict_row(&mut session, rows, row));
        let predictions = predictions.collect::<Result<Vec<Vec<f64>>, _>>();
        self.return_session(session);
        let predictions = predictions?;
        let width = predictions.first().map_or(0, Vec::len);
        if predictions.iter().any(|row| row.len() != width) {
            let problem = format!("output `{}` has other values for some rows than for others", self.output.name);
            return Err(ModelError::OnnxRun { problem });
        }
        Ok(Predictions { width, values: predictions.concat() })
    }

    fn predict_row(&self, session: &mut Session, rows: &InputRows, row: usize) -> Result<Vec<f64>, ModelError> {
        let failed = |error: ort::Error| ModelError::OnnxRun { problem: error.to_string() };
        let mut inputs = Vec::with_capacity(self.tensors.len());
        let mut first = 0;
        for tensor in &self.tensors {
            inputs.push((tensor.name.as_str(), tensor.value(rows, row, first).map_err(failed)?));
            first += tensor.width;
        }
        let values = run(session, inputs, &self.output.name)?;
        Ok(match values.as_slice() {
            [_, second] if self.output.is_of_classes => vec![*second],
            _ => values,
        })
    }

    /// An idle session, or a new one while there may be more, or the next that comes back.
    fn take_session(&self) -> Result<Session, ModelError> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = sessions.idle.pop() {
                return Ok(session);
            }
            if sessions.left > 0 {
                sessions.left -= 1;
                drop(sessions);
                let opened = open(&self.bytes);
                if opened.is_err() {
                    self.sessions.lock().unwrap_or_else(PoisonError::into_inner).left += 1;
                }
                return opened;
            }
            sessions = self.returned.wait(sessions).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn return_session(&self, session: Session) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).idle.push(session);
        self.returned.notify_one();
    }
}

fn run(
    session: &mut Session,
    inputs: Vec<(&str, SessionInputValue<'_>)>,
    output: &str,
) -> Result<Vec<f64>, ModelError> {
    let problem = |problem: String| ModelError::OnnxRun { problem };
    let outputs = session.run(inputs).map_err(|error| problem(error.to_string()))?;
    let value = outputs.get(output).ok_or_else(|| problem(format!("there is no output `{output}`")))?;
    let values = numbers_of(value).map_err(problem)?;
    match values.is_empty() {
        true => Err(problem(format!("output `{output}` has no values"))),
        false => Ok(values),
    }
}

impl InputTensor {
    /// The values of a row, of the inputs from `first` on.
    fn value(&self, rows: &InputRows, row: usize, first: usize) -> Result<SessionInputValue<'static>, ort::Error> {
        let inputs = || first..first + self.width;
        let numbers = || inputs().map(|input| rows.number(row, input));
        let shape: Vec<i64> = if self.is_flat { vec![1] } else { vec![1, self.width as i64] };
        Ok(match self.element {
            TensorElementType::String => {
                let text = |input: usize| match rows.texts(input).and_then(|texts| texts[row].clone()) {
                    Some(text) => text,
                    None if rows.number(row, input).is_nan() => String::new(),
                    None => rows.number(row, input).to_string(),
                };
                let texts: Vec<String> = inputs().map(text).collect();
                Tensor::from_string_array((shape, texts.as_slice()))?.into()
            }
            TensorElementType::Float64 => Tensor::from_array((shape, numbers().collect::<Vec<f64>>()))?.into(),
            TensorElementType::Int64 => {
                Tensor::from_array((shape, numbers().map(|number| number as i64).collect::<Vec<_>>()))?.into()
            }
            TensorElementType::Int32 => {
                Tensor::from_array((shape, numbers().map(|number| number as i32).collect::<Vec<_>>()))?.into()
            }
            TensorElementType::Bool => {
                let bools = numbers().map(|number| number != 0.0 && !number.is_nan());
                Tensor::from_array((shape, bools.collect::<Vec<bool>>()))?.into()
            }
            _ => Tensor::from_array((shape, numbers().map(|number| number as f32).collect::<Vec<_>>()))?.into(),
        })
    }
}

fn input_tensor(name: &str, kind: &ValueType) -> Result<InputTensor, String> {
    let ValueType::Tensor { ty, shape, .. } = kind else {
        return Err(format!("its input `{name}` is no tensor"));
    };
    use TensorElementType::{Bool, Float32, Float64, Int32, Int64, String};
    if !matches!(ty, Float32 | Float64 | Int64 | Int32 | Bool | String) {
        return Err(format!("its input `{name}` has elements of {ty}, which are not supported"));
    }
    let width = match shape.as_ref() {
        [_] => 1,
        [_, width] if (1..=WIDTH_MAX).contains(width) => *width,
        _ => {
            return Err(format!(
                "its input `{name}` has the shape {:?}; export the model with rows of a known width, [None, width]",
                shape.as_ref() as &[i64]
            ));
        }
    };
    Ok(InputTensor { name: name.to_owned(), element: *ty, width: width as usize, is_flat: shape.len() == 1 })
}

/// The output that is the prediction.
fn chosen_output(outputs: &[(&str, &ValueType)], asked: Option<&str>) -> Result<Output, String> {
    let listed = || outputs.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let is_number = |kind: &ValueType| match kind {
        ValueType::Tensor { ty, .. } => *ty != TensorElementType::String,
        ValueType::Sequence(_) => true,
        _ => false,
    };
    let is_whole = |kind: &ValueType| match kind {
        ValueType::Tensor { ty, .. } => matches!(ty, TensorElementType::Int64 | TensorElementType::Int32),
        _ => false,
    };
    let found = match asked {
        Some(asked) => outputs.iter().find(|(name, _)| *name == asked),
        None => outputs
            .iter()
            .find(|(name, kind)| is_probability(name) && is_number(kind))
            .or_else(|| outputs.iter().find(|(_, kind)| is_number(kind))),
    };
    match found {
        // As exporters of classifiers have it, whatever they call the others.
        Some((name, kind))
            if asked.is_none()
                && is_whole(kind)
                && outputs.iter().any(|(_, other)| is_number(other) && !is_whole(other)) =>
        {
            Err(format!(
                "its output `{name}` is a label, and others are numbers; name the prediction with --prediction-output: {}",
                listed()
            ))
        }
        Some((name, kind)) if is_number(kind) => {
            Ok(Output { name: (*name).to_owned(), is_of_classes: asked.is_none() && is_probability(name) })
        }
        Some((name, _)) => Err(format!("its output `{name}` is not of numbers; its outputs are {}", listed())),
        None => Err(format!("it has no output that can be the prediction; its outputs are {}", listed())),
    }
}

/// As exporters of classifiers call the output.
fn is_probability(name: &str) -> bool {
    name.contains("probabilit")
}

/// The numbers of an output; of maps from class to probability by ascending class.
fn numbers_of(value: &DynValue) -> Result<Vec<f64>, String> {
    let text = |error: ort::Error| error.to_string();
    match value.dtype() {
        ValueType::Tensor { ty, .. } => Ok(match ty {
            TensorElementType::Float32 => {
                value.try_extract_tensor::<f32>().map_err(text)?.1.iter().map(|number| f64::from(*number)).collect()
            }
            TensorElementType::Float64 => value.try_extract_tensor::<f64>().map_err(text)?.1.to_vec(),
            TensorElementType::Int64 => {
                value.try_extract_tensor::<i64>().map_err(text)?.1.iter().map(|number| *number as f64).collect()
            }
            TensorElementType::Int32 => {
                value.try_extract_tensor::<i32>().map_err(text)?.1.iter().map(|number| f64::from(*number)).collect()
            }
            TensorElementType::Bool => {
                let bools = value.try_extract_tensor::<bool>().map_err(text)?.1;
                bools.iter().map(|is_true| f64::from(u8::from(*is_true))).collect()
            }
            other => return Err(format!("the output has elements of {other}")),
        }),
        ValueType::Sequence(_) => {
            let maps = value.try_extract_sequence::<DynValueTypeMarker>().map_err(text)?;
            let mut numbers = Vec::new();
            for map in maps {
                numbers.extend(numbers_of_map(&map)?);
            }
            Ok(numbers)
        }
        other => Err(format!("the output is {other}")),
    }
}

fn numbers_of_map(map: &DynValue) -> Result<Vec<f64>, String> {
    let text = |error: ort::Error| error.to_string();
    let ValueType::Map { key, value } = map.dtype() else {
        return Err(format!("the output holds {}", map.dtype()));
    };
    if *value != TensorElementType::Float32 {
        return Err(format!("the output has maps to {value}"));
    }
    if *key == TensorElementType::String {
        let mut entries = map.try_extract_key_values::<String, f32>().map_err(text)?;
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        return Ok(entries.into_iter().map(|(_, number)| f64::from(number)).collect());
    }
    let mut entries = map.try_extract_key_values::<i64, f32>().map_err(text)?;
    entries.sort_by_key(|(class, _)| *class);
    Ok(entries.into_iter().map(|(_, number)| f64::from(number)).collect())
}

fn open(bytes: &[u8]) -> Result<Session, ModelError> {
    let failed = |problem: String| ModelError::OnnxLoad { problem };
    let builder = Session::builder(environment()?).map_err(|error| failed(error.to_string()))?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::Level3);
    let builder = builder.map_err(|error| failed(error.to_string()))?.with_intra_threads(1);
    let builder = builder.map_err(|error| failed(error.to_string()))?.with_inter_threads(1);
    let mut builder = builder.map_err(|error| failed(error.to_string()))?;
    builder.commit_from_memory(bytes).map_err(|error| failed(error.to_string()))
}

/// The library, loaded once a process.
fn environment() -> Result<&'static Environment, ModelError> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let library = library()?;
        let builder = ort::init_from(&library).map_err(|error| error.to_string())?;
        builder.with_name("asof").with_telemetry(false).build().map_err(|error| error.to_string())
    });
    loaded.as_ref().map_err(|problem| ModelError::NoOnnxRuntime { problem: problem.clone() })
}

fn library() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from) {
        let is_there = path.is_file();
        return is_there
            .then_some(path.clone())
            .ok_or_else(|| format!("{LIBRARY_VARIABLE} names `{}`, which is no file", path.display()));
    }
    // It looks for the package without importing it.
    let script = "import importlib.util as u; print(u.find_spec('onnxruntime').origin)";
    let found = Command::new("python3").args(["-c", script]).output();
    let package = found.ok().filter(|found| found.status.success());
    let package = package.and_then(|found| String::from_utf8(found.stdout).ok()).map(|path| PathBuf::from(path.trim()));
    let folder = package.and_then(|path| Some(path.parent()?.join("capi")));
    let folder = folder.ok_or(format!("{LIBRARY_VARIABLE} is not set, and python3 has no package `onnxruntime`"))?;
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let is_library = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("libonnxruntime.") && !name.contains("providers")
    };
    let library = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).find(is_library);
    library.ok_or_else(|| format!("`{}` holds no library", folder.display()))
}
