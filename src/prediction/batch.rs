//! Scoring a spine point-in-time, with the code of single requests.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::catalog::PredictionCatalog;
use super::error::PredictionError;
use super::plan::{Read, RoutePlan};
use super::request::PredictAnswer;
use super::rows::{KnownRows, service_columns};
use super::service::evaluate_plan;
use crate::definition::EVENT_TIMESTAMP;
use crate::retrieval::{
    Answer, AnswerColumn, AskedTimes, BatchRequest, BatchRetrieval, FeatureSelection, TableVersion,
};

/// The spine's rows with their predictions.
#[derive(Debug)]
pub struct BatchPrediction {
    /// The spine's columns, then `prediction`, `model` and `model_version`.
    pub rows: RecordBatch,
    pub tables: Vec<TableVersion>,
    pub warnings: Vec<String>,
}

/// Predicts for every row of a spine what a request at its time would have been answered. Nothing is logged, and no
/// shadow sees it.
///
/// # Errors
/// As of a request, and of [`BatchRetrieval::get`].
pub async fn predict_batch(
    catalog: &PredictionCatalog,
    retrieval: &BatchRetrieval,
    route: &str,
    spine: &RecordBatch,
    timestamp_column: Option<String>,
) -> Result<BatchPrediction, PredictionError> {
    let plan = catalog.route(route)?;
    let mut known = KnownRows::new(spine);
    let (mut tables, mut warnings) = (Vec::new(), Vec::new());
    for read in &plan.reads {
        let (answer, read_tables, read_warnings) =
            read_spine(catalog, retrieval, &plan, read, spine, timestamp_column.as_deref()).await?;
        known.add_fetched(read, answer);
        tables.extend(read_tables);
        warnings.extend(read_warnings);
    }
    let ids: Vec<String> = (0..spine.num_rows()).map(|row| row.to_string()).collect();
    let answer = match spine.num_rows() {
        0 => PredictAnswer { rows: Vec::new(), looked_up: None, registry_version: catalog.features.registry.version },
        _ => evaluate_plan(&plan, &ids, known, catalog.features.registry.version)?.answer,
    };
    Ok(BatchPrediction { rows: with_predictions(spine, &answer)?, tables, warnings })
}

/// The features of one service at the times of the spine, with their statuses.
async fn read_spine(
    catalog: &PredictionCatalog,
    retrieval: &BatchRetrieval,
    plan: &RoutePlan,
    read: &Read,
    spine: &RecordBatch,
    timestamp_column: Option<&str>,
) -> Result<(Answer, Vec<TableVersion>, Vec<String>), PredictionError> {
    let is_lookup = plan.lookup.as_ref().is_some_and(|lookup| lookup.to_string() == read.name);
    let selection = match is_lookup {
        true => FeatureSelection::References(vec![read.name.clone()]),
        false => FeatureSelection::Service(read.name.clone()),
    };
    let needed = service_columns(spine, &read.resolved)?;
    let (time_name, times) = time_column(spine, timestamp_column)?;
    let fields: Vec<_> = needed.schema().fields().iter().filter(|field| *field.name() != time_name).cloned().collect();
    let arrays = fields.iter().filter_map(|field| needed.column_by_name(field.name()).cloned());
    let arrays: Vec<ArrayRef> = arrays.chain([Arc::clone(&times)]).collect();
    let time_field = Arc::new(Field::new(&time_name, times.data_type().clone(), true));
    let schema: SchemaRef = Arc::new(Schema::new(fields.into_iter().chain([time_field]).collect::<Vec<_>>()));
    let rows = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    let request = BatchRequest {
        selection,
        full_feature_names: true,
        with_statuses: true,
        as_known: false,
        from_source: false,
        table_versions: Vec::new(),
        times: AskedTimes::Spine { schema, rows: vec![rows], timestamp_column: Some(time_name) },
    };
    let answer = retrieval.get(&catalog.features, &request).await?;
    let (tables, warnings, registry_version) =
        (answer.tables.clone(), answer.warnings.clone(), answer.registry_version);
    let rows = answer.collect().await?;
    let column = |output: &crate::retrieval::OutputColumn| {
        let values = rows.column_by_name(&output.name).cloned();
        let values = values.ok_or_else(|| PredictionError::Rows(format!("`{}` is not answered", output.name)))?;
        Ok::<_, PredictionError>(AnswerColumn {
            name: output.name.clone(),
            value_type: output.field.value_type.clone(),
            values,
            statuses: Vec::new(),
            event_timestamps: TimestampMicrosecondArray::from(Vec::<Option<i64>>::new()).with_timezone("UTC"),
        })
    };
    let columns = read.resolved.outputs.iter().map(column).collect::<Result<_, _>>()?;
    Ok((Answer { columns, registry_version }, tables, warnings))
}

/// The one named, else `event_timestamp`, else the only one of instants.
fn time_column(spine: &RecordBatch, named: Option<&str>) -> Result<(String, ArrayRef), PredictionError> {
    let schema = spine.schema();
    let instants: Vec<&str> = schema
        .fields()
        .iter()
        .filter(|field| matches!(field.data_type(), DataType::Timestamp(..)))
        .map(|field| field.name().as_str())
        .collect();
    let name = match (named, instants.as_slice()) {
        (Some(named), _) => named,
        (None, _) if spine.column_by_name(EVENT_TIMESTAMP).is_some() => EVENT_TIMESTAMP,
        (None, [only]) => only,
        (None, _) => {
            let problem = format!("it has {} columns of instants", instants.len());
            return Err(crate::retrieval::RetrievalError::TimeColumn { problem }.into());
        }
    };
    let problem = || crate::retrieval::RetrievalError::TimeColumn { problem: format!("there is no column `{name}`") };
    let column = spine.column_by_name(name).ok_or_else(problem)?;
    Ok((name.to_owned(), Arc::clone(column)))
}

fn with_predictions(spine: &RecordBatch, answer: &PredictAnswer) -> Result<RecordBatch, PredictionError> {
    let rows = &answer.rows;
    let prediction = answer.predictions();
    let models = rows.iter().map(|row| (!row.model.is_empty()).then_some(row.model.as_str())).collect::<StringArray>();
    let versions = rows.iter().map(|row| (row.version > 0).then_some(row.version as i64));
    let versions = versions.collect::<arrow::array::Int64Array>();
    let added: [(&str, ArrayRef); 3] =
        [("prediction", prediction), ("model", Arc::new(models)), ("model_version", Arc::new(versions))];
    let schema = spine.schema();
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = spine.columns().to_vec();
    for (name, array) in added {
        if spine.column_by_name(name).is_some() {
            return Err(PredictionError::UnknownColumn {
                column: format!("{name} (the answer has a column of that name; rename the spine's)"),
                nearest: None,
            });
        }
        fields.push(Field::new(name, array.data_type().clone(), true));
        columns.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
