//! The Open Inference Protocol over gRPC: raw contents in, raw contents out.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, UInt64Array};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::inference::{
    self, OUTPUT, Output, OutputValues, PLATFORM, Tensor, TensorInfo, answered_version, check_datatype, check_plan,
    decode_raw, elements, plan, route_name, text_array, versions,
};
use super::inference_pb::grpc_inference_service_server::GrpcInferenceService;
use super::inference_pb::model_infer_request::InferInputTensor;
use super::inference_pb::model_infer_response::InferOutputTensor;
use super::inference_pb::model_metadata_response::TensorMetadata;
use super::inference_pb::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::state::predict_one;
use crate::serving::state::ServerState;

#[derive(Debug, Clone)]
pub struct InferenceGrpc {
    pub state: Arc<ServerState>,
}

#[tonic::async_trait]
impl GrpcInferenceService for InferenceGrpc {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.state.prediction.service.catalog().is_some() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        Ok(Response::new(ModelReadyResponse { ready: plan(&self.state, &name, &version).await.is_ok() }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: PLATFORM.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let plan = plan(&self.state, &name, &version).await?;
        let (inputs, outputs) = inference::tensors(&plan);
        let info = |info: TensorInfo| TensorMetadata {
            name: info.name,
            datatype: info.datatype.to_owned(),
            shape: info.shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            versions: versions(&plan, &name),
            name,
            platform: PLATFORM.to_owned(),
            inputs: inputs.into_iter().map(info).collect(),
            outputs: outputs.into_iter().map(info).collect(),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let plan = plan(&self.state, &request.model_name, &request.model_version).await?;
        check_plan(&plan)?;
        check_outputs(request.outputs.iter().map(|output| output.name.as_str()))?;
        let is_raw = !request.raw_input_contents.is_empty();
        if is_raw && request.raw_input_contents.len() != request.inputs.len() {
            let (raw, inputs) = (request.raw_input_contents.len(), request.inputs.len());
            return Err(Status::invalid_argument(format!("{raw} raw contents are sent for {inputs} inputs")));
        }
        let mut tensors = Vec::with_capacity(request.inputs.len());
        for (position, input) in request.inputs.into_iter().enumerate() {
            tensors.push(tensor(input, request.raw_input_contents.get(position))?);
        }
        let route = route_name(&request.model_name, &request.model_version);
        let asked = inference::request(&plan, route, request.id.clone(), tensors)?;
        let answer = predict_one(&self.state, asked).await?;
        let output = inference::output(&answer)?;
        let Output { shape, values } = output;
        let (datatype, mut raw) = (values.datatype().to_owned(), Vec::new());
        let contents = match values {
            values if is_raw => {
                raw.push(Bytes::from(values.raw()));
                None
            }
            OutputValues::Numbers(fp64_contents) => Some(InferTensorContents { fp64_contents, ..Default::default() }),
            OutputValues::Texts(texts) => {
                let bytes_contents = texts.into_iter().map(Bytes::from).collect();
                Some(InferTensorContents { bytes_contents, ..Default::default() })
            }
        };
        let parameters = Default::default();
        let output = InferOutputTensor { name: OUTPUT.to_owned(), datatype, shape, parameters, contents };
        Ok(Response::new(ModelInferResponse {
            model_version: answered_version(&answer, &request.model_name),
            model_name: request.model_name,
            id: request.id,
            parameters: Default::default(),
            outputs: vec![output],
            raw_output_contents: raw,
        }))
    }
}

/// # Errors
/// INVALID_ARGUMENT for an output that there is not.
pub fn check_outputs<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), Status> {
    match names.find(|name| *name != OUTPUT) {
        Some(name) => Err(Status::invalid_argument(format!("there is no output `{name}`; there is `{OUTPUT}`"))),
        None => Ok(()),
    }
}

fn tensor(input: InferInputTensor, raw: Option<&Bytes>) -> Result<Tensor, Status> {
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    let values = match (raw, contents) {
        (Some(raw), _) => decode_raw(&name, &datatype, &shape, raw)?,
        (None, Some(contents)) => contents_array(&name, &datatype, &shape, contents)?,
        (None, None) => return Err(Status::invalid_argument(format!("tensor `{name}` has no contents"))),
    };
    Ok(Tensor { name, shape, values })
}

fn contents_array(
    name: &str,
    datatype: &str,
    shape: &[i64],
    contents: InferTensorContents,
) -> Result<ArrayRef, Status> {
    let ints = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let array: ArrayRef = match datatype {
        "BOOL" => Arc::new(BooleanArray::from(contents.bool_contents)),
        "INT8" | "INT16" | "INT32" => ints(contents.int_contents.into_iter().map(i64::from).collect()),
        "INT64" => ints(contents.int64_contents),
        "UINT8" | "UINT16" | "UINT32" => ints(contents.uint_contents.into_iter().map(i64::from).collect()),
        "UINT64" => Arc::new(UInt64Array::from(contents.uint64_contents)),
        "FP32" => Arc::new(contents.fp32_contents.into_iter().map(|v| Some(f64::from(v))).collect::<Float64Array>()),
        "FP64" => Arc::new(Float64Array::from(contents.fp64_contents)),
        "BYTES" => text_array(contents.bytes_contents.iter().map(AsRef::as_ref).collect()),
        other => return Err(Status::invalid_argument(format!("tensor `{name}` has the datatype {other}"))),
    };
    let count = elements(name, shape)?;
    check_datatype(name, datatype, &array)?;
    match array.len() == count {
        true => Ok(array),
        false => Err(Status::invalid_argument(format!("tensor `{name}` has {} values of {count}", array.len()))),
    }
}
