//! `asof bench-serve`: load on a running server.
//!
//! With `--concurrency` each of C callers asks again as soon as it is answered. With `--rate` requests are due at
//! fixed times, and a latency counts from the time a request was due, so that a slow answer is not hidden by the
//! requests that it kept from being sent. With `--sweep` rates rise to the most that the server answers, and what was
//! measured says how many cores a rate takes.

mod load;
mod requests;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use self::load::{Measured, Target};
use self::requests::make_requests;
use super::error::CliError;
use super::output::Output;
use super::project::Project;

#[derive(Debug, Args)]
pub struct BenchServeArguments {
    #[command(flatten)]
    asked: Asked,
    /// Numbers of a row, with --inference.
    #[arg(long, default_value_t = 1, value_name = "NUMBERS")]
    width: usize,
    /// Entities, or rows, of each request.
    #[arg(long, default_value_t = 1)]
    entities: usize,
    /// Callers that ask again as soon as they are answered.
    #[arg(long, default_value_t = 16, conflicts_with_all = ["rate", "sweep"])]
    concurrency: usize,
    /// Requests a second, sent whether or not earlier ones are answered.
    #[arg(long, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Rates from a tenth of what the server can do up to all of it, and how many cores a rate takes.
    #[arg(long, conflicts_with = "rate")]
    sweep: bool,
    /// Of a sweep: the greatest p99 latency to plan for, in milliseconds.
    #[arg(long, default_value_t = 10.0, value_name = "MILLISECONDS", allow_negative_numbers = true)]
    p99: f64,
    /// Of a sweep: the requests a second to plan for, instead of what was measured.
    #[arg(long, value_name = "REQUESTS", allow_negative_numbers = true)]
    plan_for: Option<f64>,
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true)]
    seconds: f64,
    /// Before anything is measured.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", allow_negative_numbers = true)]
    warm_up: f64,
    /// Connections that the requests are spread over.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Threads of the callers; without it, one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// The server; without it, the one that runs on the project.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
}

/// What is asked for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Asked {
    /// The features of a feature service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The predictions of a route; its features come from the store.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// The predictions of a model over the Open Inference Protocol; its inputs go with the request, as one matrix.
    #[arg(long, value_name = "MODEL")]
    inference: Option<String>,
}

pub async fn run(project: &Project, arguments: &BenchServeArguments, output: Output) -> Result<(), CliError> {
    check(arguments)?;
    let (requests, features) = make_requests(project, arguments).await?;
    let requests = Arc::new(requests);
    // Threads of their own, that nothing but the load runs on.
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.thread_name("asof-load").enable_all();
    if let Some(count) = arguments.threads {
        threads.worker_threads(count);
    }
    let failed = |source| CliError::Io { action: "start threads".to_owned(), source };
    let runtime = threads.build().map_err(failed)?;
    let (connections, plan) = (arguments.connections, Plan::of(arguments));
    let connect = project.server_to_call(arguments.server.as_deref());
    let measured = runtime.spawn(async move {
        let mut channels = Vec::with_capacity(connections);
        for _ in 0..connections {
            channels.push(connect.connect().await?);
        }
        plan.measure(&Target { connections: channels, requests }).await
    });
    let measured = measured.await.map_err(|error| CliError::Failed(error.to_string()))?;
    runtime.shutdown_background();
    let values = arguments.entities * features;
    match measured? {
        Found::One(measured) => report(arguments, &measured, values, output),
        Found::Sweep(points) => sweep::report(arguments, &points, values, output),
    }
    Ok(())
}

impl BenchServeArguments {
    /// Adds what was asked to a document of what was measured.
    fn describe(&self, document: &mut Value) {
        let Asked { service, route, inference } = &self.asked;
        for (key, name) in [("service", service), ("route", route), ("inference", inference)] {
            if let Some(name) = name {
                document[key] = json!(name);
            }
        }
        document["entities"] = json!(self.entities);
    }
}

fn check(arguments: &BenchServeArguments) -> Result<(), CliError> {
    let bounded = [
        ("--entities", arguments.entities as f64, 1.0, 1e6),
        ("--width", arguments.width as f64, 1.0, 1e6),
        ("--concurrency", arguments.concurrency as f64, 1.0, 1e5),
        ("--connections", arguments.connections as f64, 1.0, 1e4),
        ("--threads", arguments.threads.unwrap_or(1) as f64, 1.0, 1024.0),
        ("--rate", arguments.rate.unwrap_or(1.0), 0.001, 1e6),
        ("--seconds", arguments.seconds, 0.001, 86_400.0),
        ("--warm-up", arguments.warm_up, 0.0, 86_400.0),
        ("--p99", arguments.p99, 0.001, 60_000.0),
        ("--plan-for", arguments.plan_for.unwrap_or(1.0), 0.001, 1e12),
    ];
    match bounded.into_iter().find(|(_, given, least, most)| !(least..=most).contains(&given)) {
        Some((name, given, least, most)) => {
            Err(CliError::Usage(format!("{name} is {given}, and has to be a number from {least} to {most}")))
        }
        None => Ok(()),
    }
}

/// What to measure.
enum Plan {
    Closed { concurrency: usize },
    Open { rate: f64 },
    Sweep,
}

enum Found {
    One(Box<Measured>),
    Sweep(Vec<sweep::Point>),
}

struct Timed {
    plan: Plan,
    warm_up: Duration,
    length: Duration,
}

impl Plan {
    fn of(arguments: &BenchServeArguments) -> Timed {
        let plan = match arguments.rate {
            _ if arguments.sweep => Plan::Sweep,
            Some(rate) => Plan::Open { rate },
            None => Plan::Closed { concurrency: arguments.concurrency },
        };
        let [warm_up, length] = [arguments.warm_up, arguments.seconds].map(Duration::from_secs_f64);
        Timed { plan, warm_up, length }
    }
}

impl Timed {
    async fn measure(&self, target: &Target) -> Result<Found, CliError> {
        let warm = target.closed_loop(4, self.warm_up).await;
        if let Some(error) = warm.first_error.filter(|_| warm.requests == 0) {
            return Err(CliError::Refused(format!("the server does not answer the requests: {error}")));
        }
        Ok(match self.plan {
            Plan::Closed { concurrency } => Found::One(Box::new(target.closed_loop(concurrency, self.length).await)),
            Plan::Open { rate } => Found::One(Box::new(target.open_loop(rate, self.length).await)),
            Plan::Sweep => Found::Sweep(sweep::measure(target, self.length).await),
        })
    }
}

fn report(arguments: &BenchServeArguments, measured: &Measured, values: usize, output: Output) {
    let rate = measured.requests_per_second();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| measured.quantile_us(quantile));
    let cpu = measured.cpu_us_per_request();
    let cpu_text = cpu.map_or(String::new(), |cpu| format!("; {cpu:.0} us of CPU of the server a request"));
    output.say(format!(
        "{rate:.0} requests/s, {:.0} values/s{cpu_text}\n\
         latency: p50 {p50} us, p99 {p99} us, p99.9 {p999} us; {} refused, {} errors, {} not sent",
        rate * values as f64,
        measured.shed,
        measured.errors,
        measured.unsent
    ));
    if let Some(error) = &measured.first_error {
        output.say(format!("first error: {error}"));
    }
    let mut document = numbers(measured, values);
    arguments.describe(&mut document);
    output.document(&document);
}

/// What was measured, for programs.
fn numbers(measured: &Measured, values: usize) -> Value {
    json!({
        "seconds": measured.seconds,
        "requests": measured.requests,
        "requests_per_second": measured.requests_per_second(),
        "values_per_second": measured.requests_per_second() * values as f64,
        "p50_us": measured.quantile_us(0.5),
        "p99_us": measured.quantile_us(0.99),
        "p999_us": measured.quantile_us(0.999),
        "server_cpu_us_per_request": measured.cpu_us_per_request(),
        "refused": measured.shed,
        "errors": measured.errors,
        "unsent": measured.unsent,
        "first_error": measured.first_error,
    })
}
