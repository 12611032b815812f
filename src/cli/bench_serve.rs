//! `asof bench-serve`: load on a running server.
//!
//! With `--concurrency` each of C callers asks again as soon as it is answered. With `--rate` requests are due at
//! fixed times, and a latency counts from the time a request was due, so that a slow answer is not hidden by the
//! requests that it kept from being sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::error::CliError;
use super::online_access::connect;
use super::output::Output;
use super::project::Project;
use crate::definition::{Field, ValueType};
use crate::retrieval::{AskedTimes, BatchRequest, Catalog, FeatureSelection, ResolvedRequest};
use crate::serving::columns::encode_column;
use crate::serving::pb;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::time::{Clock, SystemClock};

/// Different requests that are sent in turn.
const REQUESTS: usize = 256;
const LATENCY_US_MAX: u64 = 60_000_000;

#[derive(Debug, Args)]
pub struct BenchServeArguments {
    /// The feature service to ask for.
    #[arg(long)]
    service: String,
    /// Entities of each request.
    #[arg(long, default_value_t = 1)]
    entities: usize,
    /// Callers that ask again as soon as they are answered.
    #[arg(long, default_value_t = 16, conflicts_with = "rate")]
    concurrency: usize,
    /// Requests a second, sent whether or not earlier ones are answered.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The server; without it, the one that runs on the project.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
}

/// What callers measured, in microseconds.
struct Measured {
    latencies: Histogram<u64>,
    requests: u64,
    errors: u64,
}

pub async fn run(project: &Project, arguments: &BenchServeArguments, output: Output) -> Result<(), CliError> {
    if arguments.entities == 0 || arguments.concurrency == 0 || arguments.rate.is_some_and(|rate| rate <= 0.0) {
        return Err(CliError::Usage("--entities, --concurrency and --rate have to be greater than 0".to_owned()));
    }
    let address = match (&arguments.server, project.server_address()) {
        (Some(address), _) => address.clone(),
        (None, Some(running)) => running.grpc,
        (None, None) => project.settings.server.grpc.to_string(),
    };
    let catalog = project.catalog().await?;
    let selection = FeatureSelection::Service(arguments.service.clone());
    let resolved = catalog.resolve(&selection, false)?;
    let requests = Arc::new(make_requests(project, &catalog, &resolved, arguments).await?);
    let channel = connect(&address).await?;
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(arguments.seconds);
    let measured = match arguments.rate {
        Some(rate) => open_loop(&channel, &requests, started, until, rate).await,
        None => closed_loop(&channel, &requests, until, arguments.concurrency).await,
    };
    let seconds = started.elapsed().as_secs_f64();
    report(arguments, &resolved, &measured, seconds, output);
    Ok(())
}

fn report(
    arguments: &BenchServeArguments,
    resolved: &ResolvedRequest,
    measured: &Measured,
    seconds: f64,
    output: Output,
) {
    let requests_per_second = measured.requests as f64 / seconds;
    let values_per_second = requests_per_second * (arguments.entities * resolved.outputs.len()) as f64;
    let quantile = |q: f64| measured.latencies.value_at_quantile(q);
    let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
    output.say(format!(
        "{requests_per_second:.0} requests/s, {values_per_second:.0} values/s\n\
         latency: p50 {p50} us, p99 {p99} us, p99.9 {p999} us; {} errors",
        measured.errors
    ));
    output.document(&json!({
        "service": arguments.service,
        "entities": arguments.entities,
        "seconds": seconds,
        "requests": measured.requests,
        "requests_per_second": requests_per_second,
        "values_per_second": values_per_second,
        "p50_us": p50,
        "p99_us": p99,
        "p999_us": p999,
        "errors": measured.errors,
    }));
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants in order")
}

async fn closed_loop(
    channel: &Channel,
    requests: &Arc<Vec<pb::GetOnlineFeaturesRequest>>,
    until: Instant,
    concurrency: usize,
) -> Measured {
    let next = Arc::new(AtomicU64::new(0));
    let callers = (0..concurrency).map(|_| {
        let (mut client, requests, next) =
            (FeatureStoreClient::new(channel.clone()), Arc::clone(requests), Arc::clone(&next));
        tokio::spawn(async move {
            let mut measured = Measured { latencies: new_histogram(), requests: 0, errors: 0 };
            while Instant::now() < until {
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                let sent = Instant::now();
                let answer = client.get_online_features(requests[number % requests.len()].clone()).await;
                measured.count(answer.is_ok(), sent);
            }
            measured
        })
    });
    gather(callers.collect()).await
}

async fn open_loop(
    channel: &Channel,
    requests: &Arc<Vec<pb::GetOnlineFeaturesRequest>>,
    started: Instant,
    until: Instant,
    rate: f64,
) -> Measured {
    let mut calls = Vec::new();
    for number in 0_usize.. {
        let due = started + Duration::from_secs_f64(number as f64 / rate);
        if due >= until {
            break;
        }
        tokio::time::sleep_until(due).await;
        let (mut client, requests) = (FeatureStoreClient::new(channel.clone()), Arc::clone(requests));
        calls.push(tokio::spawn(async move {
            let answer = client.get_online_features(requests[number % requests.len()].clone()).await;
            (answer.is_ok(), due.elapsed())
        }));
    }
    let mut measured = Measured { latencies: new_histogram(), requests: 0, errors: 0 };
    for call in calls {
        match call.await {
            Ok((is_ok, latency)) => measured.record(is_ok, latency),
            Err(_) => measured.errors += 1,
        }
    }
    measured
}

async fn gather(callers: Vec<tokio::task::JoinHandle<Measured>>) -> Measured {
    let mut all = Measured { latencies: new_histogram(), requests: 0, errors: 0 };
    for caller in callers {
        match caller.await {
            Ok(one) => {
                all.requests += one.requests;
                all.errors += one.errors;
                // Histograms of the same bounds always add.
                let _ = all.latencies.add(one.latencies);
            }
            Err(_) => all.errors += 1,
        }
    }
    all
}

impl Measured {
    fn count(&mut self, is_ok: bool, sent: Instant) {
        self.record(is_ok, sent.elapsed());
    }

    fn record(&mut self, is_ok: bool, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.latencies.saturating_record(micros.max(1));
        if is_ok {
            self.requests += 1;
        } else {
            self.errors += 1;
        }
    }
}

/// Requests for keys that the views know, in a pseudo-random order that is the same every time.
async fn make_requests(
    project: &Project,
    catalog: &Catalog,
    resolved: &ResolvedRequest,
    arguments: &BenchServeArguments,
) -> Result<Vec<pb::GetOnlineFeaturesRequest>, CliError> {
    let known = known_keys(project, catalog, resolved).await?;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut requests = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let entities = known
            .iter()
            .flat_map(|keys| {
                let rows = keys.num_rows().max(1) as u64;
                let picked = (0..arguments.entities).map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) % rows
                });
                let picked = UInt64Array::from_iter_values(picked);
                take_columns(keys, &picked)
            })
            .collect();
        let request = resolved.request_values.iter().map(|field| constant_column(field, arguments.entities)).collect();
        requests.push(pb::GetOnlineFeaturesRequest {
            features: Some(pb::FeatureSelection { feature_service: arguments.service.clone(), features: Vec::new() }),
            entities,
            request,
            ..Default::default()
        });
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
