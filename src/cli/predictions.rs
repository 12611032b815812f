//! `asof predictions`, `asof predict-batch` and `asof training-set`.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use clap::{Args, Subcommand};
use datafusion::prelude::{Expr, col, lit};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use super::error::CliError;
use super::files::{check_target, write_rows};
use super::online_access::OnlineAccess;
use super::output::Output;
use super::project::Project;
use super::spine::read_spine;
use crate::prediction::{
    LogRow, LoggedRows, PredictionCatalog, PredictionError, Role, Scope, archive_left, predict_batch, read_log, replay,
    scan_log,
};
use crate::retrieval::BatchAnswer;
use crate::serving::pb::FlushPredictionsRequest;
use crate::serving::pb::prediction_client::PredictionClient;
use crate::time::EventTimestamp;

/// Columns of a training set that come after the inputs.
const LAST_COLUMNS: [&str; 3] = ["prediction", "model", "model_version"];

#[derive(Debug, Args)]
pub struct PredictionsArguments {
    #[command(subcommand)]
    command: PredictionsCommand,
}

#[derive(Debug, Subcommand)]
enum PredictionsCommand {
    /// Make logged predictions again and compare them to the last bit; exit status 1 where one differs.
    Replay(ReplayArguments),
    /// Print a prediction with everything that went into it.
    Explain(ExplainArguments),
}

#[derive(Debug, Args)]
struct ReplayArguments {
    /// The route; all if not given.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Predictions sent from here on.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Predictions sent before this.
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
}

#[derive(Debug, Args)]
struct ExplainArguments {
    prediction_id: String,
}

#[derive(Debug, Args)]
pub struct PredictBatchArguments {
    /// A route, or a model as name, name@alias or name@version.
    route: String,
    /// The spine: a .parquet, .csv or .ndjson file, a Delta table, or a .sql file with a query over the sources.
    #[arg(long, value_name = "SPINE")]
    entities: String,
    /// Where to write: a .parquet, .csv or .ndjson file, or delta:PATH.
    #[arg(long, value_name = "FILE")]
    out: String,
    /// The spine's column of times; without it `event_timestamp`, else its only one.
    #[arg(long, value_name = "COLUMN")]
    timestamp_column: Option<String>,
}

#[derive(Debug, Args)]
pub struct TrainingSetArguments {
    /// The route whose logged predictions make the set: one row a prediction of its primary model, with the values
    /// that the model saw.
    #[arg(long, value_name = "ROUTE")]
    from_log: String,
    /// Where to write: a .parquet, .csv or .ndjson file, or delta:PATH.
    #[arg(long, value_name = "FILE")]
    out: String,
}

impl Project {
    /// The folder where predictions are written down before they are in the table.
    pub fn prediction_spool_path(&self) -> PathBuf {
        self.stream_log_path().with_extension("predictions")
    }

    /// Brings into the prediction log what servers that run or ran have not yet.
    async fn bring_up_log(&self) -> Result<(), CliError> {
        if self.prediction_spool_path().exists() {
            match self.online_access().await? {
                OnlineAccess::Server(channel) => {
                    PredictionClient::new(channel).flush_predictions(FlushPredictionsRequest {}).await?;
                }
                OnlineAccess::Store(_) => {}
            }
            archive_left(&self.prediction_spool_path(), &self.offline_store()?).await?;
        }
        Ok(())
    }

    /// Rows of the prediction log in the order of their time.
    async fn logged(&self, condition: Expr) -> Result<LoggedRows, CliError> {
        self.bring_up_log().await?;
        Ok(read_log(&self.offline_store()?, &self.engine()?, Some(condition)).await?)
    }

    /// What one route, or one model by reference, is asked from.
    pub async fn prediction_catalog(&self, route: &str) -> Result<PredictionCatalog, CliError> {
        let registry = self.model_registry()?;
        let models = registry.models().await?;
        let features = Arc::new(self.catalog().await?);
        Ok(PredictionCatalog::build(features, models, &registry, None, Scope::One(route)).await)
    }
}

pub async fn run(project: &Project, arguments: PredictionsArguments, output: Output) -> Result<(), CliError> {
    match arguments.command {
        PredictionsCommand::Replay(arguments) => replay_logged(project, &arguments, output).await,
        PredictionsCommand::Explain(arguments) => explain(project, &arguments, output).await,
    }
}

async fn replay_logged(project: &Project, arguments: &ReplayArguments, output: Output) -> Result<(), CliError> {
    let instant = |text: &Option<String>| text.as_deref().map(EventTimestamp::parse).transpose();
    let time = |instant: EventTimestamp| {
        lit(datafusion::common::ScalarValue::TimestampMicrosecond(Some(instant.micros()), Some("UTC".into())))
    };
    let mut conditions: Vec<Expr> = Vec::new();
    conditions.extend(arguments.route.as_ref().map(|route| col("route").eq(lit(route.as_str()))));
    conditions.extend(instant(&arguments.start)?.map(|start| col("sent_at").gt_eq(time(start))));
    conditions.extend(instant(&arguments.end)?.map(|end| col("sent_at").lt(time(end))));
    project.bring_up_log().await?;
    let rows =
        scan_log(&project.offline_store()?, &project.engine()?, conditions.into_iter().reduce(Expr::and)).await?;
    let report = replay(&project.model_registry()?, rows).await?;
    if let (Some(route), 0) = (&arguments.route, report.rows) {
        // It may be a name that never was.
        project.prediction_catalog(route).await?.check_name(route)?;
    }
    for difference in &report.differences {
        output.say(format!(
            "{}: {} version {} answered {:?}, and now {:?}",
            difference.prediction_id, difference.model, difference.version, difference.logged, difference.replayed
        ));
    }
    let differing = report.differing;
    output.say(format!("{} predictions replayed, {differing} differ", report.rows));
    let differences: Vec<Value> = report
        .differences
        .iter()
        .map(|difference| {
            json!({
                "prediction_id": difference.prediction_id,
                "model": difference.model,
                "model_version": difference.version,
                "logged": difference.logged,
                "replayed": difference.replayed,
            })
        })
        .collect();
    if differing > 0 {
        return Err(CliError::Failed(format!(
            "{differing} of {} predictions come out otherwise: {}",
            report.rows,
            json!(differences)
        )));
    }
    output.document(&json!({"replayed": report.rows, "differences": differences}));
    Ok(())
}

async fn explain(project: &Project, arguments: &ExplainArguments, output: Output) -> Result<(), CliError> {
    let id = &arguments.prediction_id;
    let rows: Vec<Vec<LogRow>> = project.logged(col("prediction_id").eq(lit(id.as_str()))).await?.try_collect().await?;
    let documents: Vec<Value> = rows.iter().flatten().map(row_document).collect();
    if documents.is_empty() {
        return Err(PredictionError::UnknownPrediction { id: id.clone() }.into());
    }
    for document in &documents {
        output.say(format!("{document:#}"));
    }
    output.document(&json!({"prediction_id": id, "evaluations": documents}));
    Ok(())
}

fn row_document(row: &LogRow) -> Value {
    let instant = |micros: i64| EventTimestamp::from_micros(micros).to_string();
    let feature = |value: &crate::prediction::LogValue| {
        json!({
            "name": value.name,
            "value": value.text.clone().map_or_else(|| json!(value.number), Value::from),
            "origin": value.origin,
            "status": value.status,
            "event_timestamp": value.event_timestamp.map(instant),
        })
    };
    json!({
        "sent_at": instant(row.sent_at),
        "route": row.route,
        "model": row.model,
        "model_version": row.version,
        "role": row.role,
        "experiment": row.experiment,
        "entity_keys": serde_json::from_str::<Value>(&row.entity_keys).unwrap_or_default(),
        "features": row.features.iter().map(feature).collect::<Vec<_>>(),
        "prediction": if let [number] = row.prediction.as_slice() { json!(number) } else { json!(row.prediction) },
        "defaults_used": row.defaults_used,
        "latency_us": row.latency_us,
        "registry_version": row.registry_version,
    })
}

pub async fn run_batch(project: &Project, arguments: &PredictBatchArguments, output: Output) -> Result<(), CliError> {
    let started = std::time::Instant::now();
    check_target(&arguments.out)?;
    let catalog = project.prediction_catalog(&arguments.route).await?;
    project.settle_streams(&catalog.features.registry, &[]).await?;
    let plan = catalog.route(&arguments.route)?;
    let Some(read) = plan.reads.first() else {
        return Err(CliError::Usage(format!("route `{}` reads no features", arguments.route)));
    };
    let named = arguments.timestamp_column.as_deref();
    let spine = read_spine(project, &catalog.features, &read.resolved, &arguments.entities, named).await?;
    let retrieval = project.batch_retrieval()?;
    let scored =
        predict_batch(&catalog, &retrieval, &arguments.route, &spine, arguments.timestamp_column.clone()).await?;
    for warning in &scored.warnings {
        eprintln!("warning: {warning}");
    }
    let tables: Map<_, _> =
        scored.tables.iter().map(|table| (table.view.as_str().to_owned(), json!(table.version))).collect();
    let (warnings, registry_version) = (scored.warnings.clone(), catalog.features.registry.version);
    let rows = write_rows(answer_of(vec![scored.rows], registry_version), &arguments.out).await?;
    let seconds = started.elapsed().as_secs_f64();
    output.say(format!("{rows} rows predicted and written to {} in {seconds:.2} s", arguments.out));
    output.document(&json!({
        "file": arguments.out,
        "rows": rows,
        "registry_version": registry_version,
        "table_versions": tables,
        "warnings": warnings,
        "seconds": seconds,
    }));
    Ok(())
}

fn answer_of(rows: Vec<RecordBatch>, registry_version: u64) -> BatchAnswer {
    BatchAnswer {
        schema: rows.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema),
        rows: futures::stream::iter(rows.into_iter().map(Ok)).boxed(),
        registry_version,
        tables: Vec::new(),
        warnings: Vec::new(),
    }
}

pub async fn training_set(project: &Project, arguments: &TrainingSetArguments, output: Output) -> Result<(), CliError> {
    check_target(&arguments.out)?;
    let route = arguments.from_log.as_str();
    let roles = [Role::Primary, Role::Variant, Role::Lookup].map(|role| lit(role.as_str()));
    let condition = col("route").eq(lit(route)).and(col("role").in_list(roles.to_vec(), false));
    let mut rows = project.logged(condition).await?;
    let (mut sets, mut looked_up) = (Vec::new(), 0);
    while let Some(rows) = rows.try_next().await? {
        let all = rows.len();
        let rows: Vec<LogRow> = rows.into_iter().filter(|row| row.role != Role::Lookup.as_str()).collect();
        looked_up += all - rows.len();
        if !rows.is_empty() {
            sets.push(training_rows(&rows).map_err(|error| CliError::Failed(error.to_string()))?);
        }
    }
    if sets.is_empty() {
        let others =
            if looked_up > 0 { format!("; {looked_up} were looked up, which no model did") } else { String::new() };
        return Err(CliError::Refused(format!("the log has no predictions of route `{route}`{others}")));
    }
    let set = one_schema(sets).map_err(|error| CliError::Failed(error.to_string()))?;
    let written = write_rows(answer_of(set, 0), &arguments.out).await?;
    output.say(format!("{written} rows written to {}", arguments.out));
    if looked_up > 0 {
        output.say(format!("{looked_up} predictions are left out, which no model made: they were looked up"));
    }
    output.document(&json!({"file": arguments.out, "rows": written, "looked_up": looked_up}));
    Ok(())
}

/// Brings batches to the columns that any of them has, in the order of [`training_rows`]: what one does not have is null
/// there, and texts beside numbers make texts, lists beside numbers lists.
fn one_schema(sets: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut fields: Vec<Field> = Vec::new();
    for field in sets.iter().flat_map(|set| set.schema_ref().fields().iter()) {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            None => fields.push(field.as_ref().clone()),
            // What there is beside numbers.
            Some(known) if *known.data_type() == DataType::Float64 => *known = field.as_ref().clone(),
            Some(_) => {}
        }
    }
    // These come last, whatever inputs later batches have.
    let is_last = |field: &Field| LAST_COLUMNS.iter().position(|name| name == field.name());
    fields.sort_by_key(is_last);
    let schema = Arc::new(Schema::new(fields));
    let fit = |set: RecordBatch| {
        let columns = schema.fields().iter().map(|field| match set.column_by_name(field.name()) {
            Some(array) => cast(array, field.data_type()),
            None => Ok(new_null_array(field.data_type(), set.num_rows())),
        });
        RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_, _>>()?)
    };
    sets.into_iter().map(fit).collect()
}

/// One row a prediction: its id and time, the join keys, what the model saw, what it said, and which one it was.
fn training_rows(rows: &[LogRow]) -> Result<RecordBatch, ArrowError> {
    let keys: Vec<Map<String, Value>> =
        rows.iter().map(|row| serde_json::from_str(&row.entity_keys).unwrap_or_default()).collect();
    let mut columns: Vec<(String, ArrayRef)> = vec![
        (
            "prediction_id".to_owned(),
            Arc::new(rows.iter().map(|row| Some(row.prediction_id.as_str())).collect::<StringArray>()),
        ),
        (
            "event_timestamp".to_owned(),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.sent_at)).with_timezone("UTC"),
            ),
        ),
    ];
    let mut names: Vec<&String> = Vec::new();
    for name in keys.iter().flat_map(Map::keys) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let texts = keys.iter().map(|keys| keys.get(name).and_then(Value::as_str)).collect::<StringArray>();
        columns.push((name.clone(), Arc::new(texts)));
    }
    let mut inputs: Vec<&str> = Vec::new();
    for value in rows.iter().flat_map(|row| &row.features) {
        let is_key = columns.iter().any(|(name, _)| *name == value.name);
        if !is_key && !inputs.contains(&value.name.as_str()) {
            inputs.push(&value.name);
        }
    }
    for name in inputs {
        let values: Vec<_> = rows.iter().map(|row| row.features.iter().find(|value| value.name == name)).collect();
        let array: ArrayRef = match values.iter().flatten().any(|value| value.text.is_some()) {
            true => Arc::new(
                values.iter().map(|value| value.and_then(|value| value.text.as_deref())).collect::<StringArray>(),
            ),
            false => {
                Arc::new(values.iter().map(|value| value.and_then(|value| value.number)).collect::<Float64Array>())
            }
        };
        columns.push((name.to_owned(), array));
    }
    let models = rows.iter().map(|row| Some(row.model.as_str())).collect::<StringArray>();
    let versions = Int64Array::from_iter_values(rows.iter().map(|row| row.version as i64));
    let last: [ArrayRef; 3] = [predictions(rows), Arc::new(models), Arc::new(versions)];
    columns.extend(LAST_COLUMNS.iter().map(|name| (*name).to_owned()).zip(last));
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect())
}

/// float64, or list<float64> where there are several numbers a row.
fn predictions(rows: &[LogRow]) -> ArrayRef {
    let numbers = rows.iter().flat_map(|row| row.prediction.iter().copied());
    if rows.iter().all(|row| row.prediction.len() == 1) {
        return Arc::new(Float64Array::from_iter_values(numbers));
    }
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.prediction.len()));
    let item = Arc::new(Field::new_list_field(DataType::Float64, true));
    Arc::new(ListArray::new(item, offsets, Arc::new(Float64Array::from_iter_values(numbers)), None))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;

    use super::*;

    #[test]
    fn batches_of_other_inputs_make_one_table() {
        let batch = |columns: Vec<(&str, ArrayRef)>| {
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        };
        let number = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(1.0), Some(2.0)])]);
        let first = batch(vec![("a", number(1.0)), ("prediction", number(0.5)), ("model", text("m"))]).unwrap();
        let second =
            batch(vec![("b", text("x")), ("a", text("y")), ("prediction", Arc::new(list)), ("model", text("m"))]);
        let sets = one_schema(vec![first, second.unwrap()]).unwrap();
        let schema = sets[0].schema();
        let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        assert_eq!(names, ["a", "b", "prediction", "model"]);
        let all = arrow::compute::concat_batches(&schema, &sets).unwrap();
        let texts =
            |name: &str| all[name].as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(texts("a"), [Some("1.0".to_owned()), Some("y".to_owned())]);
        assert_eq!(texts("b"), [None, Some("x".to_owned())]);
        let predictions = all["prediction"].as_list::<i32>();
        let numbers = |row: usize| predictions.value(row).as_primitive::<Float64Type>().values().to_vec();
        assert_eq!([numbers(0), numbers(1)], [vec![0.5], vec![1.0, 2.0]]);
    }
}
