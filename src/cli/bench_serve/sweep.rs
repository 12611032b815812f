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

/// A rate, and the cores that it takes.
#[derive(Debug, PartialEq)]
struct Recommendation {
    requests_per_second: f64,
    cores: f64,
}

/// The cores for `plan_for` requests a second, or for the most that met the bound, as many as what was measured on
/// `cores_here` took for its part. What was measured counts up to the first rate that missed the bound: one above that
/// met it by luck.
fn recommend(points: &[Point], p99_us: f64, plan_for: Option<f64>, cores_here: f64) -> Option<Recommendation> {
    let met = points.iter().take_while(|point| point.meets(p99_us)).last()?;
    let requests_per_second = plan_for.unwrap_or(met.rate);
    let cores = (requests_per_second / met.rate * cores_here).ceil().max(1.0);
    Some(Recommendation { requests_per_second, cores })
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
    let recommended = recommend(points, arguments.p99 * 1000.0, arguments.plan_for, cores_here);
    match &recommended {
        Some(Recommendation { requests_per_second, cores }) => output.say(format!(
            "\n{requests_per_second:.0} requests/s of {} entities at p99 < {} ms: {cores} cores like these {cores_here}, \
             callers included",
            arguments.entities, arguments.p99,
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
        "recommendation": recommended.map(|recommended| json!({
            "requests_per_second": recommended.requests_per_second,
            "p99_ms_max": arguments.p99,
            "cores": recommended.cores,
        })),
    });
    arguments.describe(&mut document);
    output.document(&document);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate of which `answered` of 1000 requests were answered, all after so long.
    fn point(rate: f64, latency_us: u64, answered: u64) -> Point {
        let mut measured = Measured::new();
        (0..answered).for_each(|_| measured.latencies.record(latency_us).unwrap());
        measured.requests = answered;
        measured.shed = 1000 - answered;
        measured.seconds = 1.0;
        Point { percent: 0, rate, measured }
    }

    #[test]
    fn cores_follow_from_the_greatest_rate_up_to_which_all_met_the_bound() {
        let points = [
            point(100.0, 900, 1000),
            point(250.0, 1_500, 995),
            // It misses, so the one above it is luck.
            point(500.0, 6_000, 1000),
            point(600.0, 1_600, 1000),
        ];
        let found = |p99_us, plan_for| recommend(&points, p99_us, plan_for, 2.0);
        let expected = |requests_per_second, cores| Some(Recommendation { requests_per_second, cores });
        assert_eq!(found(5_000.0, None), expected(250.0, 2.0));
        assert_eq!(found(5_000.0, Some(1_000.0)), expected(1_000.0, 8.0));
        assert_eq!(found(5_000.0, Some(1_001.0)), expected(1_001.0, 9.0));
        assert_eq!(found(5_000.0, Some(10.0)), expected(10.0, 1.0));
        assert_eq!(found(1_000.0, None), expected(100.0, 2.0));
        assert_eq!(found(10_000.0, None), expected(600.0, 2.0));
        assert_eq!(found(500.0, None), None);
    }

    #[test]
    fn a_rate_that_is_not_answered_meets_no_bound() {
        assert!(point(100.0, 900, 990).meets(1_000.0));
        assert!(!point(100.0, 900, 989).meets(1_000.0));
    }
}
