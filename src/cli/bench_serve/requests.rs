//! The requests that are sent: for keys that the views know, in a pseudo-random order that is the same every time.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use bytes::Bytes;
use prost::Message;

use super::{Asked, BenchServeArguments};
use crate::cli::error::CliError;
use crate::cli::project::Project;
use crate::definition::{Field, ValueType};
use crate::model_registry::InputSource;
use crate::prediction::RoutePlan;
use crate::retrieval::{AskedTimes, BatchRequest, Catalog, FeatureSelection, ResolvedRequest};
use crate::serving::columns::encode_column;
use crate::serving::pb;
use crate::serving::prediction::MATRIX;
use crate::serving::prediction::inference_pb::ModelInferRequest;
use crate::serving::prediction::inference_pb::model_infer_request::InferInputTensor;
use crate::time::{Clock, SystemClock};

/// Rows of all the requests that are sent in turn: more than stay in a processor's caches.
const ROWS: usize = 100_000;
const REQUESTS_MAX: usize = 10_000;

/// Encoded requests of one call.
pub enum Requests {
    Features(Vec<Bytes>),
    Predictions(Vec<Bytes>),
    Inferences(Vec<Bytes>),
}

/// Requests as they are asked for, and how many values the answer to a row stands for.
pub async fn make_requests(project: &Project, arguments: &BenchServeArguments) -> Result<(Requests, usize), CliError> {
    let (rows, Asked { service, route, inference }) = (arguments.entities, &arguments.asked);
    let count = (ROWS / rows).clamp(1, REQUESTS_MAX);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    if let Some(model) = inference {
        let request = |_| infer_request(model, rows, arguments.width, &mut random);
        return Ok((Requests::Inferences((0..count).map(request).collect()), arguments.width));
    }
    if let Some(name) = route {
        let catalog = project.prediction_catalog(name).await?;
        let plan = catalog.route(name)?;
        let mut known = Vec::new();
        for read in &plan.reads {
            known_keys(project, &catalog.features, &read.resolved, &mut known).await?;
        }
        let sent: Vec<Field> = sent_inputs(&plan).collect();
        let request = |_| {
            let (entities, request) = (random.columns(&known, rows), sent.iter());
            let request = request.map(|field| constant_column(field, rows)).collect();
            let request = pb::PredictRequest { route: name.clone(), entities, request, ..Default::default() };
            Bytes::from(request.encode_to_vec())
        };
        let inputs = plan.models().map(|model| model.version.inputs.len()).sum();
        return Ok((Requests::Predictions((0..count).map(request).collect()), inputs));
    }
    let service = service.clone().unwrap_or_default();
    let catalog = project.catalog().await?;
    let resolved = catalog.resolve(&FeatureSelection::Service(service.clone()), false)?;
    let mut known = Vec::new();
    known_keys(project, &catalog, &resolved, &mut known).await?;
    let request = |_| {
        let entities = random.columns(&known, rows);
        let request = resolved.request_values.iter().map(|field| constant_column(field, rows)).collect();
        let features = pb::FeatureSelection { feature_service: service.clone(), features: Vec::new() };
        let request =
            pb::GetOnlineFeaturesRequest { features: Some(features), entities, request, ..Default::default() };
        Bytes::from(request.encode_to_vec())
    };
    Ok((Requests::Features((0..count).map(request).collect()), resolved.outputs.len()))
}

/// What a request to a route has to carry beside keys.
fn sent_inputs(plan: &RoutePlan) -> impl Iterator<Item = Field> {
    let values = plan.reads.iter().flat_map(|read| read.resolved.request_values.iter().cloned());
    let inputs = plan.models().flat_map(|model| &model.version.inputs).filter_map(|input| match &input.source {
        InputSource::Request { value_type } if input.default.is_none() => {
            let value_type = value_type.clone().unwrap_or(ValueType::Float64);
            Some(Field { name: input.name.clone(), value_type, description: None })
        }
        _ => None,
    });
    let mut seen = HashSet::new();
    let keys = plan.reads.iter().flat_map(|read| &read.resolved.join_keys);
    seen.extend(keys.map(|key| key.name.clone()));
    values.chain(inputs).filter(move |field| seen.insert(field.name.clone()))
}

/// Numbers that are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Some rows of each set of keys.
    fn columns(&mut self, known: &[RecordBatch], rows: usize) -> Vec<pb::Column> {
        let pick = |keys: &RecordBatch| {
            let among = keys.num_rows().max(1) as u64;
            take_columns(keys, &UInt64Array::from_iter_values((0..rows).map(|_| self.next() % among)))
        };
        known.iter().flat_map(pick).collect()
    }
}

/// A matrix of numbers between 0 and 1.
fn infer_request(model: &str, rows: usize, width: usize, random: &mut Random) -> Bytes {
    let numbers = (0..rows * width).flat_map(|_| (random.next() as f64 / 2_f64.powi(31)).to_le_bytes());
    let tensor = InferInputTensor {
        name: MATRIX.to_owned(),
        datatype: "FP64".to_owned(),
        shape: vec![rows as i64, width as i64],
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: model.to_owned(),
        raw_input_contents: vec![numbers.collect()],
        inputs: vec![tensor],
        ..Default::default()
    };
    Bytes::from(request.encode_to_vec())
}

fn take_columns(keys: &RecordBatch, picked: &UInt64Array) -> Vec<pb::Column> {
    let schema = keys.schema();
    let fields = schema.fields().iter().zip(keys.columns());
    fields
        .map(|(field, column)| {
            let taken = arrow::compute::take(column, picked, None).expect("picked below the number of rows");
            encode_column(field.name(), &taken)
        })
        .collect()
}

/// Adds known keys, one batch for each set of request columns that one view's keys come in.
async fn known_keys(
    project: &Project,
    catalog: &Catalog,
    resolved: &ResolvedRequest,
    sets: &mut Vec<RecordBatch>,
) -> Result<(), CliError> {
    let retrieval = project.batch_retrieval()?;
    for view in &resolved.views {
        let has = |column: &str| sets.iter().any(|keys| keys.column_by_name(column).is_some());
        if view.join_keys.is_empty() || view.join_keys.iter().any(|(_, column)| has(column)) {
            continue;
        }
        let Some(feature) = view.features.first() else { continue };
        let request = BatchRequest {
            selection: FeatureSelection::References(vec![format!("{}:{}", view.view.name, feature.name)]),
            full_feature_names: true,
            with_statuses: false,
            as_known: false,
            from_source: false,
            table_versions: Vec::new(),
            times: AskedTimes::AsOf(SystemClock.now()),
        };
        let rows = retrieval.get(catalog, &request).await?.collect().await?;
        if rows.num_rows() == 0 {
            return Err(CliError::Refused(format!("feature view `{}` holds no rows; materialize it", view.view.name)));
        }
        let renamed = view.join_keys.iter().map(|(key, column)| {
            let values = rows.column_by_name(&key.name).cloned();
            values.map(|values| (column.clone(), values))
        });
        let columns: Vec<(String, ArrayRef)> = renamed.flatten().collect();
        sets.push(RecordBatch::try_from_iter(columns).map_err(|error| CliError::Failed(error.to_string()))?);
    }
    Ok(())
}

/// A request value that is the same in every row.
fn constant_column(field: &Field, rows: usize) -> pb::Column {
    let text = match field.value_type {
        ValueType::Bool => "true",
        ValueType::Timestamp | ValueType::Date => "2024-01-01",
        _ => "1",
    };
    let texts: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![text; rows]));
    encode_column(&field.name, &texts)
}
