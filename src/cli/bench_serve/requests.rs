//! The requests that are sent: for keys that the views know, in a pseudo-random order that is the same every time.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use bytes::Bytes;
use prost::Message;

use crate::cli::error::CliError;
use crate::cli::project::Project;
use crate::definition::{Field, ValueType};
use crate::retrieval::{AskedTimes, BatchRequest, Catalog, FeatureSelection, ResolvedRequest};
use crate::serving::columns::encode_column;
use crate::serving::pb;
use crate::time::{Clock, SystemClock};

/// Rows of all the requests that are sent in turn: more than stay in a processor's caches.
const ROWS: usize = 100_000;
const REQUESTS_MAX: usize = 10_000;

/// Encoded requests of `entities` rows each.
pub async fn make_requests(
    project: &Project,
    catalog: &Catalog,
    resolved: &ResolvedRequest,
    service: &str,
    entities: usize,
) -> Result<Vec<Bytes>, CliError> {
    let known = known_keys(project, catalog, resolved).await?;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let count = (ROWS / entities).clamp(1, REQUESTS_MAX);
    let mut requests = Vec::with_capacity(count);
    for _ in 0..count {
        let keys = known
            .iter()
            .flat_map(|keys| {
                let rows = keys.num_rows().max(1) as u64;
                let picked = (0..entities).map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) % rows
                });
                let picked = UInt64Array::from_iter_values(picked);
                take_columns(keys, &picked)
            })
            .collect();
        let request = resolved.request_values.iter().map(|field| constant_column(field, entities)).collect();
        let features = pb::FeatureSelection { feature_service: service.to_owned(), features: Vec::new() };
        let request =
            pb::GetOnlineFeaturesRequest { features: Some(features), entities: keys, request, ..Default::default() };
        requests.push(Bytes::from(request.encode_to_vec()));
    }
    Ok(requests)
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

/// Known keys, one batch for each set of request columns that one view's keys come in.
async fn known_keys(
    project: &Project,
    catalog: &Catalog,
    resolved: &ResolvedRequest,
) -> Result<Vec<RecordBatch>, CliError> {
    let retrieval = project.batch_retrieval()?;
    let mut sets: Vec<RecordBatch> = Vec::new();
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
    Ok(sets)
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
