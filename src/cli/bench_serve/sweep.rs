//! Latency against rate, and what follows from it for the size of a server.

use std::time::Duration;

use serde_json::json;

use super::load::{Measured, Target};
use super::{BenchServeArguments, numbers};
use crate::cli::output::{Output, table};

/// Parts of the greatest rate, in percent.
const PERCENTS: [u32; 8] = [10, 25, 50, 60, 70, 80, 90, 100];
/// Callers that find out the greatest rate.
const CALLERS: usize = 64;
/// A rate counts as answered if at least this part of its requests is.
const ANSWERED_MIN: f64 = 0.99;

pub struct Point {
    pub percent: u32,
    pub rate: f64,
    pub measured: Measured,
}

pub async fn measure(target: &Target, length: Duration) -> Vec<Point> {
    let greatest = target.closed_loop(CALLERS, length).await.requests_per_second();
    let mut points = Vec::with_capacity(PERCENTS.len());
    for percent in PERCENTS {
        let rate = greatest * f64::from(percent) / 100.0;
        points.push(Point { percent, rate, measured: target.open_loop(rate.max(1.0), length).await });
    }
    points
}

impl Point {
    /// Whether the server kept up, with a p99 latency of at most this.
    fn meets(&self, p99_us: f64) -> bool {
        let measured = &self.measured;
        let asked = measured.requests + measured.shed + measured.errors + measured.unsent;
        let answered = measured.requests as f64 >= asked as f64 * ANSWERED_MIN;
        answered && measured.quantile_us(0.99) as f64 <= p99_us
    }
}

/// The cores for a rate, out of the greatest measured rate that met the bound, on as many cores as there are here.
fn cores(rate: f64, met: &Point, cores_here: f64) -> f64 {
    (rate / met.rate * cores_here).max(1.0)
}

pub fn report(arguments: &BenchServeArguments, points: &[Point], values: usize, output: Output) {
    let row = |point: &Point| {
        let measured = &point.measured;
        let quantile = |quantile: f64| measured.quantile_us(quantile).to_string();
        let cpu = measured.cpu_us_per_request().map_or("-".to_owned(), |cpu| format!("{cpu:.0}"));
        vec![
            format!("{} %", point.percent),
            format!("{:.0}", point.rate),
            format!("{:.0}", measured.requests_per_second()),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            cpu,
            (measured.shed + measured.errors + measured.unsent).to_string(),
        ]
    };
    let header =
        ["load", "asked/s", "answered/s", "p50 us", "p99 us", "p99.9 us", "server CPU us/request", "not answered"];
    output.say(table(&header, &points.iter().map(row).collect::<Vec<_>>()));
    let cores_here = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let met = points.iter().rfind(|point| point.meets(arguments.p99 * 1000.0));
    let planned = met.map(|met| {
        let rate = arguments.plan_for.unwrap_or(met.rate);
        (rate, cores(rate, met, cores_here))
    });
    match planned {
        Some((rate, cores)) => output.say(format!(
            "\n{rate:.0} requests/s of {} entities at p99 < {} ms: {} cores like these {cores_here}, callers included",
            arguments.entities,
            arguments.p99,
            cores.ceil(),
        )),
        None => output.say(format!("\nno rate has a p99 below {} ms", arguments.p99)),
    }
    let points = points.iter().map(|point| {
        let mut document = numbers(&point.measured, values);
        document["rate"] = json!(point.rate);
        document
    });
    let mut document = json!({
        "rates": points.collect::<Vec<_>>(),
        "recommendation": planned.map(|(rate, cores)| json!({
            "requests_per_second": rate,
            "p99_ms_max": arguments.p99,
            "cores": cores.ceil(),
        })),
    });
    arguments.describe(&mut document);
    output.document(&document);
}
