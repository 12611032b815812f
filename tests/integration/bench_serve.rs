//! `asof bench-serve` on a running server.

use serde_json::Value;

use crate::server::TestServer;
use crate::support::{flights_project, run, run_json};

#[test]
fn load_is_measured_at_a_fixed_concurrency_at_a_fixed_rate_and_in_a_sweep() {
    let folder = flights_project();
    let folder = folder.path();
    let service = "\nfeature_services: [{name: weather, features: [origin_weather]}]\n";
    std::fs::write(folder.join("feature_defs/weather.yaml"), service).unwrap();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let _server = TestServer::start(folder, &[]);
    let bench = ["bench-serve", "--service", "weather", "--entities", "3", "--warm-up", "0.1", "--seconds", "0.4"];
    let measure = |options: &[&str]| run_json(folder, &[&bench[..], options].concat());
    let number = |found: &Value, name: &str| found[name].as_f64().unwrap_or_else(|| panic!("no {name}: {found}"));

    let closed = measure(&["--concurrency", "2"]);
    assert!(number(&closed, "requests") > 0.0 && number(&closed, "errors") == 0.0, "{closed}");
    let values = number(&closed, "values_per_second") / number(&closed, "requests_per_second");
    assert_eq!(values.round() as usize % 3, 0, "three entities: {closed}");
    assert!(number(&closed, "p50_us") <= number(&closed, "p99_us"), "{closed}");
    assert!(number(&closed, "p99_us") <= number(&closed, "p999_us"), "{closed}");

    let open = measure(&["--rate", "50"]);
    let asked: f64 = ["requests", "refused", "errors", "unsent"].iter().map(|name| number(&open, name)).sum();
    assert_eq!(asked, 20.0, "one is due every 20 ms for 0.4 s: {open}");

    let sweep = measure(&["--sweep", "--p99", "60000", "--plan-for", "1000000"]);
    let rates = sweep["rates"].as_array().unwrap();
    assert_eq!(rates.len(), 8);
    assert!(rates.windows(2).all(|pair| number(&pair[0], "rate") < number(&pair[1], "rate")), "{sweep}");
    assert!(number(&sweep["recommendation"], "cores") > 2.0, "{sweep}");
    let (status, stdout, _) = run(folder, &[&bench[..], &["--sweep", "--p99", "0.001"]].concat());
    assert_eq!(status, 0);
    assert!(stdout.contains("asked/s") && stdout.contains("no rate has a p99 below 0.001 ms"), "{stdout}");
}

#[test]
fn numbers_that_cannot_be_are_refused_by_name() {
    let folder = flights_project();
    run_json(folder.path(), &["apply", "--yes"]);
    for (option, number) in [
        ("--seconds", "1e300"),
        ("--rate", "1e12"),
        ("--rate", "-1"),
        ("--rate", "nan"),
        ("--entities", "0"),
        ("--p99", "-5"),
    ] {
        let (status, _, stderr) = run(folder.path(), &["bench-serve", "--service", "x", option, number]);
        assert_eq!(status, 2, "{option} {number}: {stderr}");
        assert!(stderr.contains(option) && stderr.contains("has to be a number from"), "{option} {number}: {stderr}");
    }
}
