//! Callers of a server, and what they measure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};

use super::requests::Requests;
use crate::cli::online_access::Connection;
use crate::serving::PackedCodec;
use crate::serving::pb::{GetOnlineFeaturesResponse, GetStatusRequest, PredictResponse};
use crate::serving::prediction::inference_pb::ModelInferResponse;

const LATENCY_US_MAX: u64 = 60_000_000;
const GET_ONLINE_FEATURES: &str = "/asof.v1.FeatureStore/GetOnlineFeatures";
const PREDICT: &str = "/asof.v1.Prediction/Predict";
const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Requests of one connection that may be under way at once: a server takes few more, and callers that pile up measure
/// themselves.
const CONNECTION_CALLS_MAX: usize = 500;
/// How long answers are waited for after the last request.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server under load: the connections to it, and the requests that are sent in turn, encoded.
#[derive(Clone)]
pub struct Target {
    pub connections: Vec<Connection>,
    pub requests: Arc<Requests>,
}

/// What callers measured, in microseconds.
#[derive(Debug, Clone)]
pub struct Measured {
    pub latencies: Histogram<u64>,
    pub requests: u64,
    /// Refused with RESOURCE_EXHAUSTED.
    pub shed: u64,
    pub errors: u64,
    /// Due and not sent, because too many were under way.
    pub unsent: u64,
    /// What the first error said.
    pub first_error: Option<String>,
    pub seconds: f64,
    /// Of the server, as it says.
    pub cpu_seconds: Option<f64>,
}

impl Measured {
    pub fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants in order");
        Measured {
            latencies,
            requests: 0,
            shed: 0,
            errors: 0,
            unsent: 0,
            first_error: None,
            seconds: 0.0,
            cpu_seconds: None,
        }
    }

    fn record(&mut self, answer: Result<(), Status>, latency: Duration) {
        match answer {
            Ok(()) => {
                let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
                self.latencies.saturating_record(micros.max(1));
                self.requests += 1;
            }
            Err(status) if status.code() == Code::ResourceExhausted => self.shed += 1,
            Err(status) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| status.to_string());
            }
        }
    }

    fn add(&mut self, other: Measured) {
        self.requests += other.requests;
        self.shed += other.shed;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        // Histograms of the same bounds always add.
        let _ = self.latencies.add(other.latencies);
    }

    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    pub fn quantile_us(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile)
    }

    /// CPU time of the server for each answered request, in microseconds.
    pub fn cpu_us_per_request(&self) -> Option<f64> {
        self.cpu_seconds.filter(|_| self.requests > 0).map(|seconds| seconds * 1e6 / self.requests as f64)
    }
}

impl Target {
    async fn call(&self, number: usize) -> Result<(), Status> {
        match self.requests.as_ref() {
            Requests::Features(all) => self.send::<GetOnlineFeaturesResponse>(number, all, GET_ONLINE_FEATURES).await,
            Requests::Predictions(all) => self.send::<PredictResponse>(number, all, PREDICT).await,
            Requests::Inferences(all) => self.send::<ModelInferResponse>(number, all, MODEL_INFER).await,
        }
    }

    /// Sends the next request, and reads its answer.
    async fn send<Answer>(&self, number: usize, requests: &[Bytes], path: &'static str) -> Result<(), Status>
    where
        Answer: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.connections[number % self.connections.len()].clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let request = Request::new(requests[number % requests.len()].clone());
        grpc.unary(request, PathAndQuery::from_static(path), PackedCodec::<Answer>::default()).await?;
        Ok(())
    }

    /// CPU time that the server's process took since it started; None: it does not say.
    async fn cpu_seconds(&self) -> Option<f64> {
        let mut client =
            crate::serving::pb::feature_store_client::FeatureStoreClient::new(self.connections.first()?.clone());
        client.get_status(GetStatusRequest {}).await.ok()?.into_inner().process_cpu_seconds
    }

    /// Each of `concurrency` callers asks again as soon as it is answered.
    pub async fn closed_loop(&self, concurrency: usize, length: Duration) -> Measured {
        let next = Arc::new(AtomicU64::new(0));
        let cpu_before = self.cpu_seconds().await;
        let started = Instant::now();
        let callers = (0..concurrency).map(|_| {
            let (target, next) = (self.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut measured = Measured::new();
                while started.elapsed() < length {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let sent = Instant::now();
                    let answer = target.call(number).await;
                    measured.record(answer, sent.elapsed());
                }
                measured
            })
        });
        let mut all = Measured::new();
        for caller in callers.collect::<Vec<_>>() {
            match caller.await {
                Ok(measured) => all.add(measured),
                Err(_) => all.errors += 1,
            }
        }
        all.seconds = started.elapsed().as_secs_f64();
        all.cpu_seconds = cpu_before.zip(self.cpu_seconds().await).map(|(before, after)| after - before);
        all
    }

    /// Requests are due at fixed times, whether or not earlier ones are answered, and a latency counts from when its
    /// request was due.
    pub async fn open_loop(&self, rate: f64, length: Duration) -> Measured {
        let all = Arc::new(Mutex::new(Measured::new()));
        let cpu_before = self.cpu_seconds().await;
        let started = Instant::now();
        let (target, shared, runtime) = (self.clone(), Arc::clone(&all), Handle::current());
        // A thread of its own: the timers of the runtime are too coarse, and wait for what its threads do.
        let under_way = Arc::new(Semaphore::new(CONNECTION_CALLS_MAX * self.connections.len()));
        let sender = tokio::task::spawn_blocking(move || {
            let mut calls = Vec::new();
            for number in 0_usize.. {
                let due = Duration::from_secs_f64(number as f64 / rate);
                if due >= length {
                    break;
                }
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                let Ok(turn) = Arc::clone(&under_way).try_acquire_owned() else {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).unsent += 1;
                    continue;
                };
                let (target, shared) = (target.clone(), Arc::clone(&shared));
                calls.push(runtime.spawn(async move {
                    let answer = target.call(number).await;
                    drop(turn);
                    let latency = started.elapsed().saturating_sub(due);
                    shared.lock().unwrap_or_else(PoisonError::into_inner).record(answer, latency);
                }));
            }
            calls
        });
        let calls = sender.await.unwrap_or_default();
        let answered = async {
            for call in calls {
                let _ = call.await;
            }
        };
        let is_late = tokio::time::timeout(PATIENCE, answered).await.is_err();
        let mut measured = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        measured.errors += u64::from(is_late);
        measured.seconds = started.elapsed().as_secs_f64();
        measured.cpu_seconds = cpu_before.zip(self.cpu_seconds().await).map(|(before, after)| after - before);
        measured
    }
}
