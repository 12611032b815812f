//! The Open Inference Protocol, whatever it comes over: tensors to a request, an answer to a tensor.
//!
//! A model goes by its registered name, or a route by its own. Each feature and each join key is a tensor, of rows or of
//! rows by one, all optional: what is not sent is fetched. One tensor of rows by inputs is a matrix with the inputs in
//! the model's order.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use serde_json::{Value, json};
use tonic::Status;

use crate::definition::ValueType;
use crate::model_registry::{InputSource, ModelVersion};
use crate::model_runtime::InputKind;
use crate::prediction::{LoadedModel, PredictAnswer, PredictRequest, PredictionCatalog, RoutePlan, RowAnswer};
use crate::serving::grpc::request_batch;
use crate::serving::state::ServerState;
use crate::serving::status::to_status;

pub const OUTPUT: &str = "prediction";
pub const MATRIX: &str = "input";
pub const PLATFORM: &str = "asof";

/// One tensor that a caller sends: its values one after the other.
#[derive(Debug)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<i64>,
    pub values: ArrayRef,
}

/// What the metadata says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub datatype: &'static str,
    pub shape: Vec<i64>,
}

/// The prediction as a tensor.
#[derive(Debug)]
pub struct Output {
    pub shape: Vec<i64>,
    pub values: OutputValues,
}

#[derive(Debug)]
pub enum OutputValues {
    Numbers(Vec<f64>),
    /// Of lookups.
    Texts(Vec<String>),
}

impl OutputValues {
    pub fn datatype(&self) -> &'static str {
        match self {
            OutputValues::Numbers(_) => "FP64",
            OutputValues::Texts(_) => "BYTES",
        }
    }

    /// Little-endian numbers, or texts after their lengths.
    pub fn raw(&self) -> Vec<u8> {
        match self {
            OutputValues::Numbers(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            OutputValues::Texts(texts) => {
                let raw = |text: &String| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
                texts.iter().flat_map(raw).collect()
            }
        }
    }
}

/// The name under which a model or a version of it is asked.
pub fn route_name(name: &str, version: &str) -> String {
    if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") }
}

pub fn catalog(state: &ServerState) -> Result<Arc<PredictionCatalog>, Status> {
    let catalog = state.prediction.service.catalog();
    catalog.ok_or_else(|| Status::failed_precondition("nothing is applied yet; run `asof apply`"))
}

pub async fn plan(state: &ServerState, name: &str, version: &str) -> Result<Arc<RoutePlan>, Status> {
    let route = route_name(name, version);
    state.prediction.make_ready(&route).await;
    catalog(state)?.route(&route).map_err(|error| to_status(error.kind(), &error))
}

/// Of a model, the versions that answer under its name; a route has none.
pub fn versions(plan: &RoutePlan, name: &str) -> Vec<String> {
    let versions = plan.models().map(|model| &model.version).filter(|version| version.model == name);
    let mut versions: Vec<u64> = versions.map(|version| version.version).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.iter().map(u64::to_string).collect()
}

/// The version that answered all rows of a model; empty for routes of other models, and where there were several.
pub fn answered_version(answer: &PredictAnswer, name: &str) -> String {
    let mut rows = answer.rows.iter();
    let Some(first) = rows.next().filter(|first| first.model == name) else { return String::new() };
    let is_same = |row: &RowAnswer| row.model == first.model && row.version == first.version;
    if rows.all(is_same) { first.version.to_string() } else { String::new() }
}

/// # Errors
/// FAILED_PRECONDITION for a route whose predictions make no tensor: its models answer different numbers of values.
pub fn check_plan(plan: &RoutePlan) -> Result<(), Status> {
    let mut widths = plan.answering().filter_map(|model| model.version.prediction_width);
    let Some(first) = widths.next() else { return Ok(()) };
    match widths.find(|width| *width != first) {
        Some(other) => Err(Status::failed_precondition(format!(
            "models of route `{}` answer {first} and {other} numbers a row, which make no tensor; ask with POST /predict",
            plan.name
        ))),
        None => Ok(()),
    }
}

/// # Errors
/// Tensors whose shapes do not fit each other or the model.
pub fn request(plan: &RoutePlan, route: String, id: String, tensors: Vec<Tensor>) -> Result<PredictRequest, Status> {
    let columns = match tensors.as_slice() {
        [tensor] if let Some(model) = matrix_model(plan, tensor)? => {
            RecordBatch::try_new(Arc::clone(&model.names.matrix), matrix_columns(tensor)?)
                .map_err(|error| Status::invalid_argument(error.to_string()))?
        }
        _ => {
            let mut columns: Vec<(String, ArrayRef)> = Vec::new();
            for tensor in tensors {
                match matrix_model(plan, &tensor)? {
                    Some(model) => columns.extend(model.names.names.iter().cloned().zip(matrix_columns(&tensor)?)),
                    None => columns.push((tensor.name, tensor.values)),
                }
            }
            request_batch(columns)?
        }
    };
    let prediction_ids = match columns.num_rows() {
        _ if id.is_empty() => Vec::new(),
        1 => vec![id],
        rows => (1..=rows).map(|row| format!("{id}/{row}")).collect(),
    };
    Ok(PredictRequest { routes: vec![route], columns, prediction_ids, now: None })
}

fn takes_matrix(plan: &RoutePlan) -> bool {
    plan.models().next().is_some_and(|model| model.version.takes_matrix)
}

/// The model whose inputs a tensor has, row by row; None: it has one value a row, and is a column.
fn matrix_model<'p>(plan: &'p RoutePlan, tensor: &Tensor) -> Result<Option<&'p LoadedModel>, Status> {
    let Tensor { name, shape, .. } = tensor;
    let width = match shape.as_slice() {
        [_, 1] if name == MATRIX && takes_matrix(plan) => 1,
        [_] | [_, 1] => return Ok(None),
        [rows, width] if *rows >= 0 && *width > 1 => *width as usize,
        _ => {
            let message = format!("tensor `{name}` has the shape {shape:?}; send rows, or rows by values");
            return Err(Status::invalid_argument(message));
        }
    };
    let model = model_of_width(plan, width).ok_or_else(|| {
        let values = if width == 1 { "value" } else { "values" };
        let message = format!("tensor `{name}` has {width} {values} a row, and no model of the route takes so many");
        Status::invalid_argument(message)
    });
    model.map(Some)
}

fn model_of_width(plan: &RoutePlan, width: usize) -> Option<&LoadedModel> {
    plan.models().find(|model| model.version.inputs.len() == width).map(Arc::as_ref)
}

/// The inputs of the model that takes a matrix of this width.
pub fn matrix_names(plan: &RoutePlan, width: usize) -> Option<&[String]> {
    model_of_width(plan, width).map(|model| &*model.names.names)
}

/// The columns of a tensor of rows by values.
fn matrix_columns(tensor: &Tensor) -> Result<Vec<ArrayRef>, Status> {
    let size = |at: usize| usize::try_from(tensor.shape[at]).unwrap_or(0);
    let (rows, width) = (size(0), size(1));
    // A text that is no number ends it.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let numbers = cast_with_options(&tensor.values, &DataType::Float64, &options);
    let numbers = numbers.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let numbers = numbers.as_primitive::<Float64Type>();
    // One column after the other, all of them in one buffer.
    let columns = if rows == 1 {
        numbers.clone()
    } else {
        let places = (0..width).flat_map(|column| (0..rows).map(move |row| row * width + column));
        match numbers.null_count() {
            0 => places.map(|at| numbers.value(at)).collect::<Vec<f64>>().into(),
            _ => places.map(|at| numbers.is_valid(at).then(|| numbers.value(at))).collect::<Float64Array>(),
        }
    };
    Ok((0..width).map(|column| Arc::new(columns.slice(column * rows, rows)) as ArrayRef).collect())
}

/// A value that a lookup does not have is NaN, or an empty text.
///
/// # Errors
/// Predictions that make no tensor: rows of different lengths, or of neither numbers nor texts.
pub fn output(answer: &PredictAnswer) -> Result<Output, Status> {
    let unfit = || Status::failed_precondition("the predictions make no tensor; ask with POST /predict");
    let rows: Option<Vec<Vec<f64>>> = (0..answer.rows.len()).map(|row| answer.numbers(row)).collect();
    if let Some(rows) = rows {
        let (width, values) = even(rows, f64::NAN).ok_or_else(unfit)?;
        return Ok(Output { shape: shape(answer, width), values: OutputValues::Numbers(values) });
    }
    let looked_up = answer.looked_up.as_ref().ok_or_else(unfit)?;
    let texts = |array: &ArrayRef| -> Option<Vec<String>> {
        Some(array.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect())
    };
    let row = |row: usize| match looked_up.as_list_opt::<i32>() {
        Some(list) if list.is_valid(row) => texts(&list.value(row)),
        Some(_) => Some(Vec::new()),
        None => texts(&looked_up.slice(row, 1)),
    };
    let rows: Vec<Vec<String>> = (0..answer.rows.len()).map(row).collect::<Option<_>>().ok_or_else(unfit)?;
    let (width, values) = even(rows, String::new()).ok_or_else(unfit)?;
    Ok(Output { shape: shape(answer, width), values: OutputValues::Texts(values) })
}

fn shape(answer: &PredictAnswer, width: usize) -> Vec<i64> {
    let rows = answer.rows.len() as i64;
    if width == 1 { vec![rows] } else { vec![rows, width as i64] }
}

/// The values of rows of one width, one after the other; an empty row is filled. None: their widths differ.
fn even<T: Clone>(rows: Vec<Vec<T>>, missing: T) -> Option<(usize, Vec<T>)> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(1).max(1);
    if rows.iter().any(|row| !row.is_empty() && row.len() != width) {
        return None;
    }
    let filled = |row: Vec<T>| if row.is_empty() { vec![missing.clone(); width] } else { row };
    Some((width, rows.into_iter().flat_map(filled).collect()))
}

/// The tensors of a route: those of its models' inputs and join keys, and the prediction.
pub fn tensors(plan: &RoutePlan) -> (Vec<TensorInfo>, Vec<TensorInfo>) {
    let models: Vec<&Arc<ModelVersion>> = plan.models().map(|model| &model.version).collect();
    let mut inputs: Vec<TensorInfo> = Vec::new();
    if let [version, ..] = models.as_slice()
        && version.takes_matrix
    {
        let shape = vec![-1, version.inputs.len() as i64];
        inputs.push(TensorInfo { name: MATRIX.to_owned(), datatype: "FP64", shape });
    } else {
        for input in models.iter().flat_map(|version| &version.inputs) {
            let datatype = match (&input.source, input.kind) {
                (InputSource::Feature { value_type, .. }, _) => datatype(value_type),
                (InputSource::Request { value_type: Some(value_type) }, _) => datatype(value_type),
                (InputSource::Request { value_type: None }, InputKind::Number) => "FP64",
                (InputSource::Request { value_type: None }, _) => "BYTES",
            };
            if inputs.iter().all(|known| known.name != input.name) {
                inputs.push(TensorInfo { name: input.name.clone(), datatype, shape: vec![-1] });
            }
        }
    }
    for read in &plan.reads {
        for field in read.resolved.join_keys.iter().chain(&read.resolved.request_values) {
            if inputs.iter().all(|known| known.name != field.name) {
                let datatype = datatype(&field.value_type);
                inputs.push(TensorInfo { name: field.name.clone(), datatype, shape: vec![-1] });
            }
        }
    }
    let width = plan.answering().next().and_then(|model| model.version.prediction_width);
    let mut shape = vec![-1];
    shape.extend(width.filter(|width| *width != 1).map(|width| width as i64));
    let looked_up = plan.reads.iter().filter(|_| plan.lookup.is_some()).flat_map(|read| &read.resolved.outputs).next();
    let datatype = match looked_up.map(|output| &output.field.value_type) {
        Some(value_type) if !value_type.is_prediction() => "BYTES",
        _ => "FP64",
    };
    if looked_up.is_some_and(|output| !output.field.value_type.is_scalar()) {
        shape = vec![-1, -1];
    }
    (inputs, vec![TensorInfo { name: OUTPUT.to_owned(), datatype, shape }])
}

fn datatype(value_type: &ValueType) -> &'static str {
    match value_type {
        ValueType::Bool => "BOOL",
        ValueType::Int32 => "INT32",
        ValueType::Int64 => "INT64",
        ValueType::Float32 => "FP32",
        ValueType::Float64 => "FP64",
        _ => "BYTES",
    }
}

/// # Errors
/// Values that the datatype does not have.
pub fn check_datatype(name: &str, datatype: &str, values: &ArrayRef) -> Result<(), Status> {
    let range = match datatype {
        "INT8" => Some((i64::from(i8::MIN), i64::from(i8::MAX))),
        "INT16" => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
        "INT32" => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        "INT64" => Some((i64::MIN, i64::MAX)),
        "UINT8" => Some((0, i64::from(u8::MAX))),
        "UINT16" => Some((0, i64::from(u16::MAX))),
        "UINT32" => Some((0, i64::from(u32::MAX))),
        "BOOL" | "UINT64" | "FP32" | "FP64" | "BYTES" => None,
        other => {
            return Err(Status::invalid_argument(format!(
                "tensor `{name}` has the datatype {other}, which is not read"
            )));
        }
    };
    let kind = values.data_type();
    let is_kind = match datatype {
        "BOOL" => *kind == DataType::Boolean,
        "BYTES" => matches!(kind, DataType::Utf8 | DataType::Binary),
        "FP32" | "FP64" => kind.is_numeric(),
        _ => kind.is_integer(),
    };
    let is_within = |(low, high): (i64, i64)| {
        let integers = cast(values, &DataType::Int64).ok();
        integers.is_some_and(|integers| {
            let integers = integers.as_primitive::<Int64Type>();
            integers.null_count() == values.null_count() && integers.iter().flatten().all(|v| low <= v && v <= high)
        })
    };
    let is_unsigned =
        datatype != "UINT64" || cast(values, &DataType::UInt64).is_ok_and(|v| v.null_count() == values.null_count());
    if *kind == DataType::Null || (is_kind && range.is_none_or(is_within) && is_unsigned) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("tensor `{name}` of {datatype} has values that are none")))
}

/// Values of a tensor as bytes: little-endian numbers, texts after their lengths of four bytes.
///
/// # Errors
/// Bytes that are not as many as the shape says.
pub fn decode_raw(name: &str, datatype: &str, shape: &[i64], bytes: &[u8]) -> Result<ArrayRef, Status> {
    let count = elements(name, shape)?;
    let wrong = || {
        Status::invalid_argument(format!("tensor `{name}` of {datatype} has {} bytes for {count} values", bytes.len()))
    };
    fn numbers<const N: usize, T>(bytes: &[u8], count: usize, of: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        (chunks.len() == count && rest.is_empty()).then(|| chunks.iter().map(|chunk| of(*chunk)).collect())
    }
    let ints = |values: Option<Vec<i64>>| -> Option<ArrayRef> { Some(Arc::new(Int64Array::from(values?))) };
    let reals = |values: Option<Vec<f64>>| -> Option<ArrayRef> { Some(Arc::new(Float64Array::from(values?))) };
    let array = match datatype {
        "BOOL" => numbers(bytes, count, |[byte]| byte != 0).map(|v| Arc::new(BooleanArray::from(v)) as ArrayRef),
        "INT8" => ints(numbers(bytes, count, |b| i64::from(i8::from_le_bytes(b)))),
        "INT16" => ints(numbers(bytes, count, |b| i64::from(i16::from_le_bytes(b)))),
        "INT32" => ints(numbers(bytes, count, |b| i64::from(i32::from_le_bytes(b)))),
        "INT64" => ints(numbers(bytes, count, i64::from_le_bytes)),
        "UINT8" => ints(numbers(bytes, count, |b| i64::from(u8::from_le_bytes(b)))),
        "UINT16" => ints(numbers(bytes, count, |b| i64::from(u16::from_le_bytes(b)))),
        "UINT32" => ints(numbers(bytes, count, |b| i64::from(u32::from_le_bytes(b)))),
        "UINT64" => numbers(bytes, count, u64::from_le_bytes).map(|v| Arc::new(UInt64Array::from(v)) as ArrayRef),
        "FP32" => reals(numbers(bytes, count, |b| f64::from(f32::from_le_bytes(b)))),
        "FP64" => reals(numbers(bytes, count, f64::from_le_bytes)),
        "BYTES" => decode_texts(bytes, count),
        other => {
            return Err(Status::invalid_argument(format!(
                "tensor `{name}` has the datatype {other}, which is not read"
            )));
        }
    };
    array.ok_or_else(wrong)
}

fn decode_texts(mut bytes: &[u8], count: usize) -> Option<ArrayRef> {
    // Each takes its length at least.
    let mut texts = Vec::with_capacity(count.min(bytes.len() / 4));
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        texts.push(text);
        bytes = rest;
    }
    bytes.is_empty().then(|| text_array(texts))
}

/// Texts, or bytes where one is not UTF-8.
pub fn text_array(values: Vec<&[u8]>) -> ArrayRef {
    match values.iter().map(|value| std::str::from_utf8(value).ok()).collect::<Option<Vec<&str>>>() {
        Some(texts) => Arc::new(StringArray::from(texts)),
        None => Arc::new(BinaryArray::from(values)),
    }
}

/// The number of values of a shape.
pub fn elements(name: &str, shape: &[i64]) -> Result<usize, Status> {
    let product = shape.iter().try_fold(1_usize, |all, size| all.checked_mul(usize::try_from(*size).ok()?));
    product.ok_or_else(|| Status::invalid_argument(format!("tensor `{name}` has the shape {shape:?}")))
}

pub fn info_json(infos: &[TensorInfo]) -> Value {
    infos.iter().map(|info| json!({"name": info.name, "datatype": info.datatype, "shape": info.shape})).collect()
}
