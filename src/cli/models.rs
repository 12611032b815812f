//! `asof models`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use clap::{Args, Subcommand};
use datafusion::error::DataFusionError;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions};
use serde_json::{Value, json};

use super::error::CliError;
use super::output::{Output, table};
use super::project::Project;
use crate::definition::Definitions;
use crate::model_registry::{
    ModelRegistry, ModelRegistryError, Registration, Scalar, SignatureRequest, prepare, read_mlflow,
};
use crate::model_runtime::{InputKind, InputRows, LoadOptions, Model, ModelFormat};
use crate::serving::columns::encode_column;
use crate::serving::json::values_to_json;
use crate::serving::prediction::model_document;
use crate::settings::resolve;
use crate::time::SystemClock;

/// Bytes of a model's file.
const MODEL_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct ModelsArguments {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Add a version of a model: its file, or the folder of an MLflow model.
    Register(Box<RegisterArguments>),
    /// List models, their versions and aliases.
    List,
    /// Print a model in full: versions, signature, metrics, and every move of its aliases.
    Show(ShowArguments),
    /// Move an alias to a version, or remove it.
    Alias(AliasArguments),
    /// Take a version out of use that no alias stands for.
    Retire(RetireArguments),
    /// Ask a model's file about rows, without registering it.
    Evaluate(EvaluateArguments),
    /// Measure how long a model's file takes for a call, on one thread.
    Bench(BenchArguments),
}

#[derive(Debug, Args)]
struct RegisterArguments {
    name: String,
    /// LightGBM text, XGBoost JSON or UBJSON, CatBoost JSON, ONNX, or an MLflow model's folder.
    file: PathBuf,
    /// The feature service whose features the model reads.
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The format; without it the file tells.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Features of the inputs in the model's order; without it the names in the file.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    inputs: Vec<String>,
    /// Inputs that callers send with the request.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    request: Vec<String>,
    /// Value of an input where neither the request nor the store has one, name=value.
    #[arg(long = "default", value_name = "NAME=VALUE")]
    defaults: Vec<String>,
    /// Metrics of the training, name=number.
    #[arg(long, num_args = 1.., value_name = "NAME=NUMBER")]
    metrics: Vec<String>,
    /// Rows with inputs and `prediction` (.ndjson, .csv or .parquet): the model has to answer so.
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// What the model was trained on, as JSON: such as the FILE.asof.json of its training set.
    #[arg(long, value_name = "FILE")]
    training: Option<PathBuf>,
    /// Of ONNX: the output that is the prediction.
    #[arg(long, value_name = "NAME")]
    prediction_output: Option<String>,
    /// Callers of the Open Inference Protocol send one matrix instead of a tensor an input.
    #[arg(long)]
    matrix: bool,
    #[arg(long)]
    owner: Option<String>,
    #[arg(long)]
    description: Option<String>,
}

#[derive(Debug, Args)]
struct ShowArguments {
    name: String,
}

#[derive(Debug, Args)]
struct AliasArguments {
    model: String,
    alias: String,
    /// The version that the alias is to stand for.
    #[arg(required_unless_present = "remove")]
    version: Option<u64>,
    /// Remove the alias.
    #[arg(long, conflicts_with = "version")]
    remove: bool,
    /// Move it only if it stands for this version now; 0: for none.
    #[arg(long, value_name = "VERSION")]
    expected: Option<u64>,
}

#[derive(Debug, Args)]
struct RetireArguments {
    model: String,
    version: u64,
}

#[derive(Debug, Args)]
struct EvaluateArguments {
    file: PathBuf,
    /// Lines of JSON: lists of values in the model's order, or objects by the names of its inputs.
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// Of ONNX: the output that is the prediction.
    #[arg(long, value_name = "NAME")]
    prediction_output: Option<String>,
}

#[derive(Debug, Args)]
struct BenchArguments {
    file: PathBuf,
    /// Lines of JSON as of `evaluate`; a call takes those after each other, from the first again after the last.
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// Rows of one call.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl Project {
    pub fn model_registry(&self) -> Result<ModelRegistry, CliError> {
        Ok(ModelRegistry::open(&resolve(&self.folder, &self.settings.registry))?)
    }

    /// Those that are applied, none before the first.
    async fn definitions_or_none(&self) -> Result<Definitions, CliError> {
        Ok(self.registry()?.latest().await?.map(|applied| applied.definitions).unwrap_or_default())
    }
}

pub async fn run(project: Option<&Path>, arguments: ModelsArguments, output: Output) -> Result<(), CliError> {
    let project = || Project::find(project);
    match arguments.command {
        ModelsCommand::Register(arguments) => register(&project()?, *arguments, output).await,
        ModelsCommand::List => list(&project()?, output).await,
        ModelsCommand::Show(arguments) => show(&project()?, &arguments, output).await,
        ModelsCommand::Alias(arguments) => alias(&project()?, &arguments, output).await,
        ModelsCommand::Retire(arguments) => retire(&project()?, &arguments, output).await,
        ModelsCommand::Evaluate(arguments) => evaluate(&arguments, output),
        ModelsCommand::Bench(arguments) => bench(&arguments, output),
    }
}

async fn register(project: &Project, arguments: RegisterArguments, output: Output) -> Result<(), CliError> {
    let mut inputs = arguments.inputs;
    let mut file = arguments.file;
    if file.is_dir() {
        let model = read_mlflow(&file)?;
        file = model.file;
        if inputs.is_empty() {
            inputs = model.inputs;
        }
    }
    let bytes = read_model(&file)?;
    let format = arguments.format.map(|text| text.parse::<ModelFormat>()).transpose();
    let defaults = arguments.defaults.iter().map(|text| default(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let metrics = arguments.metrics.iter().map(|text| metric(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let training = arguments.training.map(|path| {
        let text = read_text(&path)?;
        let wrong = |error: serde_json::Error| data(&path, error.to_string());
        serde_json::from_str::<Value>(&text).map_err(wrong)
    });
    let golden = match &arguments.golden {
        Some(path) => Some(golden_lines(project, path).await?),
        None => None,
    };
    let asked = Registration {
        name: arguments.name,
        service: arguments.service,
        format: format.map_err(|error| CliError::Usage(error.to_string()))?,
        signature: SignatureRequest { inputs, request: arguments.request, defaults },
        output: arguments.prediction_output,
        takes_matrix: arguments.matrix,
        metrics,
        training: training.transpose()?,
        golden,
        owner: arguments.owner,
        description: arguments.description,
    };
    let registry = project.applied().await?;
    let prepared = prepare(bytes, asked, &registry)?;
    let registered = project.model_registry()?.register(prepared, &SystemClock).await?;
    output.say(format!("Registered {} version {}.", registered.model, registered.version));
    output.document(&json!({"model": registered.model, "version": registered.version, "sha256": registered.sha256,
        "format": registered.format, "inputs": registered.inputs, "golden": registered.golden.as_ref().map(|g| g.rows)}));
    Ok(())
}

/// Golden rows as lines of JSON.
async fn golden_lines(project: &Project, path: &Path) -> Result<String, CliError> {
    let wrong = |error: DataFusionError| data(path, error.strip_backtrace());
    let (context, text) = (project.engine()?.session(), path.to_string_lossy());
    let frame = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => context.read_csv(text.as_ref(), CsvReadOptions::new()).await,
        Some("parquet") => context.read_parquet(text.as_ref(), ParquetReadOptions::default()).await,
        _ => return read_text(path),
    };
    let mut lines = String::new();
    for batch in frame.map_err(wrong)?.collect().await.map_err(wrong)? {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
            let array = plain(array).map_err(|error| data(path, error.to_string()))?;
            let values = values_to_json(&encode_column(field.name(), &array));
            let wrong = || data(path, format!("column `{}` is {}", field.name(), field.data_type()));
            (values.len() == batch.num_rows()).then_some((field.name(), values)).ok_or_else(wrong)
        });
        let columns = columns.collect::<Result<Vec<_>, CliError>>()?;
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|(name, values)| ((*name).clone(), values[row].clone()));
            lines.push_str(&Value::Object(values.collect()).to_string());
            lines.push('\n');
        }
    }
    Ok(lines)
}

/// Texts without views and dictionaries, and whole numbers of one size.
fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(..) => cast(array, &DataType::Utf8),
        kind if kind.is_integer() => cast(array, &DataType::Int64),
        _ => Ok(Arc::clone(array)),
    }
}

async fn list(project: &Project, output: Output) -> Result<(), CliError> {
    let models = project.model_registry()?.models().await?;
    let mut rows = Vec::new();
    for (name, model) in &models.models {
        for (version, at) in model.versions.iter().zip(&model.registered_at) {
            let state = if model.retired.contains(&version.version) { "retired" } else { "" };
            let aliases = model.aliases_of(version.version).join(", ");
            rows.push(vec![
                name.clone(),
                version.version.to_string(),
                if state.is_empty() { aliases } else { state.to_owned() },
                version.format.as_str().to_owned(),
                version.service.clone(),
                at.to_string(),
            ]);
        }
    }
    output.say(table(&["model", "version", "aliases", "format", "service", "registered at"], &rows));
    let documents: Vec<Value> = models.models.iter().map(|(name, model)| model_document(name, model)).collect();
    output.document(&json!({"models": documents}));
    Ok(())
}

async fn show(project: &Project, arguments: &ShowArguments, output: Output) -> Result<(), CliError> {
    let models = project.model_registry()?.models().await?;
    let document = model_document(&arguments.name, models.model(&arguments.name)?);
    output.say(format!("{document:#}"));
    output.document(&document);
    Ok(())
}

async fn alias(project: &Project, arguments: &AliasArguments, output: Output) -> Result<(), CliError> {
    let AliasArguments { model, alias, version, remove: _, expected } = arguments;
    let expected = expected.map(|version| (version > 0).then_some(version));
    let (registry, definitions) = (project.model_registry()?, project.definitions_or_none().await?);
    let moved = match version {
        Some(version) => registry.set_alias(model, alias, *version, expected, &definitions, &SystemClock).await?,
        None => registry.remove_alias(model, alias, expected, &definitions, &SystemClock).await?,
    };
    let from = moved.model(model)?.history.last().and_then(|(_, moved)| moved.from);
    output.say(match version {
        Some(version) => format!("{model}@{alias} is version {version}."),
        None => format!("{model}@{alias} is removed."),
    });
    output.document(&json!({"model": model, "alias": alias, "from": from, "to": version}));
    Ok(())
}

async fn retire(project: &Project, arguments: &RetireArguments, output: Output) -> Result<(), CliError> {
    let RetireArguments { model, version } = arguments;
    let definitions = project.definitions_or_none().await?;
    project.model_registry()?.retire(model, *version, &definitions, &SystemClock).await?;
    output.say(format!("{model} version {version} is retired."));
    output.document(&json!({"model": model, "retired": version}));
    Ok(())
}

fn evaluate(arguments: &EvaluateArguments, output: Output) -> Result<(), CliError> {
    let model = load_file(&arguments.file, arguments.prediction_output.clone())?;
    let lines = read_text(&arguments.rows)?;
    let lines: Vec<&str> = lines.lines().filter(|line| !line.trim().is_empty()).collect();
    let rows = input_rows(&lines, &arguments.rows, &model)?;
    let predictions = model.predict(&rows).map_err(ModelRegistryError::from)?;
    let values: Vec<Value> = (0..predictions.rows())
        .map(|row| match predictions.row(row) {
            [number] => json!(number),
            numbers => json!(numbers),
        })
        .collect();
    values.iter().for_each(|value| output.say(value));
    output.document(&json!({"format": model.format(), "inputs": model.inputs(), "predictions": values}));
    Ok(())
}

/// Times calls after a tenth of as many that are not counted.
fn bench(arguments: &BenchArguments, output: Output) -> Result<(), CliError> {
    let model = load_file(&arguments.file, None)?;
    let text = read_text(&arguments.rows)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if arguments.batch == 0 || lines.len() < arguments.batch {
        return Err(CliError::Usage(format!("a call has {} rows, and the file {}", arguments.batch, lines.len())));
    }
    let calls = lines.chunks_exact(arguments.batch).map(|lines| input_rows(lines, &arguments.rows, &model));
    let calls: Vec<InputRows> = calls.collect::<Result<_, _>>()?;
    let mut nanos: Vec<u64> = Vec::new();
    let limit = std::time::Duration::try_from_secs_f64(arguments.seconds);
    let limit = limit.map_err(|error| CliError::Usage(format!("--seconds: {error}")))?;
    let started = std::time::Instant::now();
    for rows in calls.iter().cycle() {
        let begun = std::time::Instant::now();
        std::hint::black_box(model.predict(rows).map_err(ModelRegistryError::from)?);
        let elapsed = started.elapsed();
        if elapsed > limit {
            break;
        }
        if elapsed * 10 > limit {
            nanos.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    nanos.sort_unstable();
    let quantile = |share: f64| nanos.get((nanos.len() as f64 * share) as usize).map(|nanos| *nanos as f64 / 1e3);
    let document =
        json!({"calls": nanos.len(), "rows": arguments.batch, "p50_us": quantile(0.5), "p99_us": quantile(0.99)});
    output.say(format!("{document:#}"));
    output.document(&document);
    Ok(())
}

fn load_file(file: &Path, prediction_output: Option<String>) -> Result<Model, CliError> {
    let bytes = read_model(file)?;
    let format = ModelFormat::detect(&bytes).map_err(ModelRegistryError::from)?;
    let model = Model::load(format, &bytes, &LoadOptions { output: prediction_output });
    Ok(model.map_err(ModelRegistryError::from)?)
}

/// Rows of a file of JSON lines.
fn input_rows(lines: &[&str], file: &Path, model: &Model) -> Result<InputRows, CliError> {
    let mut rows = InputRows::missing(lines.len(), model.inputs().len());
    for (row, line) in lines.iter().enumerate() {
        let wrong = |problem: String| data(file, format!("line {}: {problem}", row + 1));
        let values = row_values(line, model).map_err(wrong)?;
        for (input, value) in values.iter().enumerate() {
            match value {
                Value::Null => {}
                Value::String(text) if model.inputs()[input].kind != InputKind::Number => {
                    rows.set_text(row, input, text.clone());
                }
                Value::Bool(is_true) => rows.set_number(row, input, f64::from(u8::from(*is_true))),
                value => {
                    let number = crate::text_files::float64(value);
                    rows.set_number(row, input, number.ok_or_else(|| wrong(format!("{value} is no number")))?);
                }
            }
        }
    }
    Ok(rows)
}

/// The values of a row in the model's order.
fn row_values(line: &str, model: &Model) -> Result<Vec<Value>, String> {
    let inputs = model.inputs();
    match serde_json::from_str::<Value>(line).map_err(|error| error.to_string())? {
        Value::Array(values) if values.len() == inputs.len() => Ok(values),
        Value::Array(values) => Err(format!("it has {} values, and the model takes {}", values.len(), inputs.len())),
        Value::Object(values) => {
            let names: Vec<&str> = inputs.iter().filter_map(|input| input.name.as_deref()).collect();
            match values.keys().find(|key| !names.contains(&key.as_str())) {
                Some(key) => Err(format!("`{key}` is no input of the model")),
                None => Ok(inputs
                    .iter()
                    .map(|input| input.name.as_ref().and_then(|name| values.get(name).cloned()).unwrap_or_default())
                    .collect()),
            }
        }
        _ => Err("it is neither a list nor an object".to_owned()),
    }
}

fn default(text: &str) -> Result<(String, Scalar), CliError> {
    let (name, value) = pair(text)?;
    let value = value.parse().map_or_else(|_| Scalar::Text(value.to_owned()), Scalar::Number);
    Ok((name.to_owned(), value))
}

fn metric(text: &str) -> Result<(String, f64), CliError> {
    let (name, value) = pair(text)?;
    let value = value.parse::<f64>().ok().filter(|value| value.is_finite());
    let value = value.ok_or_else(|| CliError::Usage(format!("`{text}` has to be name=number")))?;
    Ok((name.to_owned(), value))
}

fn pair(text: &str) -> Result<(&str, &str), CliError> {
    text.split_once('=').ok_or_else(|| CliError::Usage(format!("`{text}` has to be name=value")))
}

fn read_model(file: &Path) -> Result<Vec<u8>, CliError> {
    let found = std::fs::metadata(file).map_err(|source| read_error(file, source))?;
    if !found.is_file() || found.len() > MODEL_BYTES_MAX {
        let problem = if found.is_file() { "it is larger than 1 GiB" } else { "it is no file" };
        return Err(data(file, problem.to_owned()));
    }
    std::fs::read(file).map_err(|source| read_error(file, source))
}

fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| read_error(path, source))
}

fn read_error(path: &Path, source: std::io::Error) -> CliError {
    if source.kind() == std::io::ErrorKind::NotFound {
        return CliError::Usage(format!("there is no file `{}`", path.display()));
    }
    CliError::Io { action: format!("read `{}`", path.display()), source }
}

fn data(path: &Path, problem: String) -> CliError {
    CliError::Data { file: path.display().to_string(), problem }
}
