//! What is wrong gets an error that says what, where and what to do, changes nothing, and never a panic.

use std::path::Path;

use asof::serving::pb;
use serde_json::json;
use tonic::Code;

use crate::server::{TestServer, strings};
use crate::support::{flights_project, run, run_json};

/// Files below `folder`, to see that a refused call leaves none behind.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.display().to_string());
        found.extend(files(&path));
    }
    found.sort();
    found
}

#[test]
fn calls_that_are_wrong_are_refused() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "plane_profile", "--end", "2014-02-01"]);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("ok.csv", "origin,event_timestamp\nJFK,2013-01-01\n");
    write("no_key.csv", "orgin,event_timestamp\nJFK,2013-01-01\n");
    write("no_time.csv", "origin\nJFK\n");
    write("bad_time.csv", "origin,event_timestamp\nJFK,2013-01-01\nJFK,soon\n");
    write("ragged.csv", "origin,event_timestamp\nJFK\n");
    write("open_quote.csv", "origin,event_timestamp\n\"JFK,2013-01-01\n");
    write("clash.csv", "origin,temp,event_timestamp\nJFK,1,2013-01-01\n");
    write("twice.csv", "origin,origin,event_timestamp\nJFK,JFK,2013-01-01\n");
    write("two_times.csv", "origin,a,b\nJFK,2013-01-01T00:00,2013-01-01T00:00\n");
    write("bad.ndjson", "{\"origin\": \"JFK\"}\nnot json\n");
    write(
        "bad_time.ndjson",
        "{\"origin\": \"JFK\", \"event_timestamp\": \"2013-01-01\"}\n\n{\"origin\": \"JFK\", \"event_timestamp\": \"soon\"}\n",
    );
    write("mixed.ndjson", "{\"origin\": \"JFK\", \"x\": 1}\n{\"origin\": \"JFK\", \"x\": \"a\"}\n");
    write("bad.parquet", "not parquet");
    write("bad.sql", "SELECT * FROM nothing");
    write("ddl.sql", "CREATE TABLE x AS SELECT 1");
    write("empty.csv", "");
    let batch = |spine: &'static str, features: &'static str| {
        vec!["get-batch-features", "--features", features, "--entities", spine, "--out", "out.parquet"]
    };
    let online = |features: &'static str, entity: &'static str| {
        vec!["get-online-features", "--features", features, "--entity", entity]
    };
    let cases: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["materialise"], 2, "materialize"),
        (vec!["materialize", "origin_wether"], 2, "origin_weather"),
        (vec!["materialize", "--start", "soon"], 2, "is not a time"),
        (vec!["materialize", "--start", "2013-02-01", "--end", "2013-02-01"], 2, "before"),
        (vec!["explain", "nothing"], 2, "there is no feature view"),
        (vec!["describe", "feature_view", "plane_profil"], 2, "plane_profile"),
        (vec!["describe", "fature_view", "plane_profile"], 2, "feature_views"),
        (vec!["list", "nothings"], 2, "there is no kind `nothings`; the kinds are `entities`"),
        (vec!["init", ".", "--template", "flights"], 2, "already there"),
        (batch("ok.csv", "origin_weather:tmp"), 2, "origin_weather:temp"),
        (batch("ok.csv", "origin_weather,origin_weather:temp"), 2, "`origin_weather:temp` is asked for twice"),
        (batch("ok.csv", "plane_profile"), 2, "`tailnum` is missing"),
        (batch("ok.csv", "trip"), 1, "asof materialize route_day"),
        (batch("missing.csv", "origin_weather"), 2, "no such file"),
        (batch("no_key.csv", "origin_weather"), 2, "did you mean `orgin`"),
        (batch("no_time.csv", "origin_weather"), 2, "no column of timestamps"),
        (batch("bad_time.csv", "origin_weather"), 2, "bad_time.csv:3`: column `event_timestamp` holds `soon`"),
        (batch("bad_time.ndjson", "origin_weather"), 2, "bad_time.ndjson:3`: column `event_timestamp` holds `soon`"),
        (batch("ragged.csv", "origin_weather"), 2, "ragged.csv:2"),
        (batch("open_quote.csv", "origin_weather"), 2, "open_quote.csv:2"),
        (batch("clash.csv", "origin_weather"), 2, "`temp` is sent and asked for"),
        (batch("twice.csv", "origin_weather"), 2, "`origin` is sent twice"),
        (batch("two_times.csv", "origin_weather"), 2, "several: a, b"),
        (batch("bad.ndjson", "origin_weather"), 2, "bad.ndjson:2"),
        (
            batch("mixed.ndjson", "origin_weather"),
            2,
            "mixed.ndjson:2`: column `x` holds a text, and a number before it",
        ),
        (batch("bad.parquet", "origin_weather"), 2, "bad.parquet"),
        (batch("bad.sql", "origin_weather"), 2, "nothing"),
        (batch("ddl.sql", "origin_weather"), 2, "DDL"),
        (batch("empty.csv", "origin_weather"), 2, "header"),
        (batch("ok.txt", "origin_weather"), 2, "no such file"),
        (
            vec!["get-batch-features", "--features", "origin_weather", "--entities", "ok.csv", "--out", "out.xls"],
            2,
            ".ndjson",
        ),
        (
            vec!["get-batch-features", "--features", "origin_weather", "--entities", "ok.csv", "--out", "no/out.csv"],
            2,
            "does not exist",
        ),
        (vec!["get-batch-features", "--features", "origin_weather", "--out", "out.csv"], 2, "--entities"),
        (vec!["get-batch-features", "--entities", "ok.csv", "--out", "out.csv"], 2, "--service"),
        (
            vec!["get-batch-features", "--service", "arrival_delay_v2", "--entities", "ok.csv", "--out", "out.csv"],
            2,
            "arrival_delay_v1",
        ),
        (
            vec![
                "get-batch-features",
                "--features",
                "plane_profile",
                "--start",
                "2013-01-01",
                "--end",
                "2014-01-01",
                "--out",
                "o.csv",
            ],
            2,
            "ask with a spine",
        ),
        (online("origin_weather", "origin"), 2, "name=value"),
        (online("origin_weather", "{"), 2, "JSON object"),
        (online("origin_weather", "orgin=JFK"), 2, "did you mean `orgin`"),
        (online("nothing", "origin=JFK"), 2, "there is no feature view `nothing`"),
        (
            vec!["get-online-features", "--service", "origin_weather", "--entity", "origin=JFK"],
            2,
            "there is no feature service `origin_weather`: it is a feature view",
        ),
        (online("trip", "origin=JFK,dest=LAX,distance=far"), 2, "row 1: column `distance` holds `far`"),
        (
            vec!["get-online-features", "--features", "origin_weather", "--now", "soon", "--entity", "origin=JFK"],
            2,
            "is not a time",
        ),
        (vec!["bench-serve", "--service", "arrival_delay_v1", "--entities", "0"], 2, "has to be a number from 1"),
        (vec!["status", "--project", "/nonexistent"], 2, "asof.yaml"),
    ];
    let before = files(folder);
    for (arguments, expected, text) in &cases {
        let (status, stdout, stderr) = run(folder, arguments);
        assert_eq!(status, *expected, "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(text), "{arguments:?} does not say `{text}`: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    let log = |name: &String| name.contains("/state/online/");
    let after: Vec<String> = files(folder).into_iter().filter(|name| !log(name)).collect();
    assert_eq!(after, before.into_iter().filter(|name| !log(name)).collect::<Vec<_>>(), "nothing is left behind");
}

#[test]
fn a_document_says_what_went_wrong() {
    let folder = flights_project();
    std::fs::write(folder.path().join("feature_defs/bad.yaml"), "entities:\n  - {nam: x}\n").unwrap();
    let (status, stdout, stderr) = run(folder.path(), &["validate", "--output", "json"]);
    assert_eq!(status, 2);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let diagnostic = &document["error"]["diagnostics"][0];
    assert_eq!(diagnostic["file"], json!("feature_defs/bad.yaml"));
    assert_eq!(diagnostic["line"], json!(2));
    assert!(stderr.contains("feature_defs/bad.yaml:2:"), "{stderr}");
}

#[test]
fn what_sources_tell_is_told_with_its_place_all_in_one_run() {
    let folder = flights_project();
    let folder = folder.path();
    let change = |file: &str, from: &str, to: &str| {
        let path = folder.join("feature_defs/flights").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    change("feature_views.yaml", "{name: temp, type: float64", "{name: temp, type: int64");
    change("feature_views.yaml", "{name: humid, type: float64", "{name: humd, type: float64");
    change("feature_views.yaml", "        FROM flights\n", "        FROM flight\n");
    change("feature_views.yaml", "      GROUP BY 1, 2\n", "      GROUP BY 1, 2 ORDER\n");
    change("feature_views.yaml", "distance > 1500", "distnce > 1500");
    change("feature_views.yaml", "distance / mean_air_time", "sum(distance)");
    change("sources.yaml", "{year: built_in}", "{year: seats}");
    let expected = [
        (8, "column `temp` is float64, declared int64: declare float64"),
        (9, "needs column `humd`, which source `weather` does not have; did you mean `humid`?"),
        (47, "there is no `flight` among its sources; did you mean `flights`?"),
        (71, "Expected: end of statement, found: ORDER"),
        (120, "the aggregate function `sum`"),
        (121, "there is no column `distnce`; did you mean `distance`?"),
        (11, "its columns `year` and `seats` are both called `seats`"),
    ];
    for command in ["validate", "plan", "apply"] {
        let (status, stdout, stderr) = run(folder, &[command, "--output", "json"]);
        assert_eq!(status, 2, "{stderr}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let diagnostics = document["error"]["diagnostics"].as_array().unwrap();
        let shown = format!("{document:#}");
        for (line, message) in &expected {
            let found = diagnostics.iter().find(|found| found["message"].as_str().unwrap().contains(message));
            let found = found.unwrap_or_else(|| panic!("nothing says `{message}`: {shown}"));
            assert_eq!(found["line"], json!(line), "{found:#}");
            assert_ne!(found["source_line"], json!(""), "{found:#}");
        }
        assert_eq!(diagnostics.len(), expected.len(), "{shown}");
        assert!(stderr.contains("--> feature_defs/flights/feature_views.yaml:71:21"), "{stderr}");
    }
    assert!(!folder.join("state/registry").exists(), "nothing is applied");
}

#[test]
fn a_source_that_no_view_reads_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("feature_defs")).unwrap();
    std::fs::write(folder.join("asof.yaml"), "project: x\n").unwrap();
    std::fs::write(folder.join("x.csv"), "k,at,n\na,2024-01-01,1\n").unwrap();
    for (source, pointed_at, said) in [
        ("batch: {format: csv, path: y.csv}", "y.csv", "cannot be read from `y.csv`: there is no such file"),
        ("batch: {format: csv, path: x.csv}, event_timestamp: att", "att", "did you mean `at`?"),
        ("batch: {format: csv, path: x.csv}, created_timestamp: made", "made", "needs column `made`"),
        ("batch: {format: csv, path: x.csv}, rename: {m: n}", "m: n", "needs column `m`"),
        ("batch: {format: csv, path: x.csv}, schema: [{name: m, type: int64}]", "m, type", "needs column `m`"),
        (
            "batch: {format: csv, path: x.csv}, schema: [{name: k, type: int64}]",
            "x.csv",
            "`x.csv:2`: column `k` holds `a`",
        ),
    ] {
        let text = format!("sources:\n  - {{name: s, {source}}}\n");
        std::fs::write(folder.join("feature_defs/s.yaml"), &text).unwrap();
        let (status, stdout, stderr) = run(folder, &["validate", "--output", "json"]);
        assert_eq!(status, 2, "{source}: {stderr}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let diagnostics = document["error"]["diagnostics"].as_array().unwrap();
        assert_eq!(diagnostics.len(), 1, "{document:#}");
        assert!(diagnostics[0]["message"].as_str().unwrap().contains(said), "{document:#}");
        let column = text.lines().nth(1).unwrap().find(pointed_at).unwrap() + 1;
        assert_eq!(diagnostics[0]["line"], 2);
        assert_eq!(diagnostics[0]["column"], column, "{source}: {document:#}");
    }
    let pushed = "sources:\n  - {name: s, schema: [{name: k, type: int64}]}\n";
    std::fs::write(folder.join("feature_defs/s.yaml"), pushed).unwrap();
    assert_eq!(run_json(folder, &["validate"])["valid"], true);
}

#[test]
fn a_query_that_gives_other_values_each_run_is_refused() {
    let folder = flights_project();
    let folder = folder.path();
    let path = folder.join("feature_defs/flights/feature_views.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (expression, function) in [
        ("avg(air_time * random())", "random"),
        ("avg(date_part('epoch', now()))", "now"),
        ("avg(CASE WHEN current_date > scheduled_hour THEN air_time END)", "current_date"),
        ("avg((SELECT max(random()) FROM flights))", "random"),
    ] {
        std::fs::write(&path, text.replace("avg(air_time)", expression)).unwrap();
        let (status, _, stderr) = run(folder, &["validate"]);
        assert_eq!(status, 2, "{expression}: {stderr}");
        assert!(stderr.contains(&format!("its SQL calls `{function}`")), "{expression}: {stderr}");
        assert!(stderr.contains("--> feature_defs/flights/feature_views.yaml:"), "{stderr}");
    }
}

#[test]
fn definition_files_are_found_and_read_or_refused() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    let definitions = folder.join("feature_defs");
    let bytes = b"entities:\n  - {name: caf\xe9, join_keys: [{name: k, type: int64}]}\n";
    std::fs::write(definitions.join("latin.yaml"), bytes).unwrap();
    let (status, _, stderr) = run(folder, &["validate"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("feature_defs/latin.yaml`: line 2 is not UTF-8"), "{stderr}");
    std::fs::remove_file(definitions.join("latin.yaml")).unwrap();

    std::fs::write(definitions.join("MORE.YAML"), "entities: [{name: more, join_keys: [{name: k, type: int64}]}]\n")
        .unwrap();
    std::fs::write(definitions.join("most.Yml"), "entities: [{name: most, join_keys: [{name: k, type: int64}]}]\n")
        .unwrap();
    assert_eq!(run_json(folder, &["validate"])["definitions"]["entities"], 7);
    run_json(folder, &["apply", "--yes"]);

    std::fs::rename(&definitions, folder.join("elsewhere")).unwrap();
    for arguments in [["apply", "--yes"].as_slice(), &["apply", "--yes", "--allow-breaking"]] {
        let (status, _, stderr) = run(folder, arguments);
        assert_eq!(status, 2, "{stderr}");
        assert!(stderr.contains("--allow-empty"), "{stderr}");
    }
    assert_eq!(run_json(folder, &["list", "versions"])["versions"].as_array().unwrap().len(), 2);
    assert_eq!(run_json(folder, &["apply", "--yes", "--allow-breaking", "--allow-empty"])["version"], 3);
    assert_eq!(run_json(folder, &["apply", "--yes"])["applied"], false, "there is nothing to remove any more");
}

#[test]
fn arguments_that_are_not_understood_are_told_as_a_document() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (["materialise", "--output", "json"].as_slice(), "materialize"),
        (&["--output=json", "status", "--fast"], "--fast"),
        (&["get-batch-features", "--out", "x.csv", "--output", "json"], "--service"),
        (&["list", "--output", "json"], "asof.yaml"),
    ] {
        let (status, stdout, stderr) = run(folder.path(), arguments);
        assert_eq!(status, 2, "{stderr}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}"));
        assert_eq!(document["error"]["kind"], "invalid");
        assert!(document["error"]["message"].as_str().unwrap().contains(said), "{document:#}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let (status, stdout, _) = run(folder.path(), &["materialise"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    let (status, stdout, _) = run(folder.path(), &["--help", "--output", "json"]);
    assert!(status == 0 && stdout.contains("Usage"), "{stdout}");
}

#[test]
fn a_change_that_breaks_a_service_is_refused() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    let path = folder.join("feature_defs/flights/feature_views.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let without = text.replace("      - {name: visib, type: float64, description: miles}\n", "");
    assert_ne!(text, without);
    std::fs::write(&path, without).unwrap();
    let (status, _, stderr) = run(folder, &["apply", "--yes"]);
    assert_ne!(status, 0);
    assert!(stderr.contains("arrival_delay_v1") && stderr.contains("--allow-breaking"), "{stderr}");
    assert_eq!(run_json(folder, &["list", "versions"])["versions"].as_array().unwrap().len(), 1);
    assert_eq!(run_json(folder, &["apply", "--yes", "--allow-breaking"])["version"], 2);
}

#[test]
fn types_that_do_not_fit_are_refused_at_apply() {
    let folder = flights_project();
    let folder = folder.path();
    let path = folder.join("feature_defs/flights/feature_views.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, said) in [
        ("{name: temp, type: float64", "{name: temp, type: int64", "declare float64"),
        ("{name: visib, type: float64", "{name: visb, type: float64", "did you mean `visib`"),
        ("{name: seats, type: int64}", "{name: seats, type: int32}", "declare int64"),
        ("avg(air_time) AS mean_air_time", "avg(air_tme) AS mean_air_time", "air_tme"),
        ("expression: \"distance > 1500\"", "expression: \"distance > random()\"", "random"),
        ("expression: \"distance > 1500\"", "expression: \"now() > to_timestamp(distance)\"", "now"),
        ("expression: \"distance > 1500\"", "expression: \"distnce > 1500\"", "distnce"),
        ("expression: \"distance > 1500\"", "expression: \"distance + 1500\"", "declared bool"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(text, changed);
        std::fs::write(&path, changed).unwrap();
        let (status, _, stderr) = run(folder, &["apply", "--yes"]);
        assert_eq!(status, 2, "{to}: {stderr}");
        assert!(stderr.contains(said), "{to} does not say `{said}`: {stderr}");
    }
    assert!(!folder.join("state/registry").exists(), "nothing is applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_are_refused() {
    let folder = flights_project();
    let folder = folder.path();
    let limits = "project: flights\nserver: {limits: {request_bytes: 100KiB}}\n";
    std::fs::write(folder.join("asof.yaml"), limits).unwrap();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "origin_weather", "--end", "2014-02-01"]);
    let server = TestServer::start(folder, &[]);
    let mut client = server.client().await;
    let selection = |features: &[&str], service: &str| {
        Some(pb::FeatureSelection {
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            feature_service: service.to_owned(),
        })
    };
    let request =
        |features, entities: Vec<pb::Column>| pb::GetOnlineFeaturesRequest { features, entities, ..Default::default() };
    let origin = || strings("origin", &["JFK"]);
    let weather = || selection(&["origin_weather"], "");
    let long = "a".repeat(20_000);
    let cases = [
        (request(None, vec![origin()]), Code::InvalidArgument, "no features are asked for"),
        (request(selection(&["origin_weather"], "arrival_delay_v1"), vec![]), Code::InvalidArgument, "both set"),
        (request(selection(&["origin_wether"], ""), vec![origin()]), Code::NotFound, "origin_weather"),
        (request(selection(&[], "arrival"), vec![origin()]), Code::NotFound, "arrival_delay_v1"),
        (request(weather(), vec![]), Code::InvalidArgument, "`origin` is missing"),
        (request(weather(), vec![strings("orign", &["JFK"])]), Code::InvalidArgument, "did you mean `orign`"),
        (request(weather(), vec![origin(), strings("temp", &["1"])]), Code::InvalidArgument, "`temp` is sent"),
        (request(weather(), vec![origin(), strings("x", &["1", "2"])]), Code::InvalidArgument, "one length"),
        (request(weather(), vec![origin(), origin()]), Code::InvalidArgument, "sent twice"),
        (
            request(weather(), vec![pb::Column { name: "origin".into(), ..Default::default() }]),
            Code::InvalidArgument,
            "no values",
        ),
        (
            request(weather(), vec![pb::Column { r#type: "int64".into(), ..origin() }]),
            Code::InvalidArgument,
            "another kind",
        ),
        (
            pb::GetOnlineFeaturesRequest { now: Some(0), ..request(weather(), vec![origin()]) },
            Code::InvalidArgument,
            "--allow-request-time",
        ),
        (request(weather(), vec![strings("origin", &["JFK"; 10_001])]), Code::InvalidArgument, "10000"),
        (
            request(selection(&[&long], ""), vec![strings("origin", &["JFK"])]),
            Code::NotFound,
            "there is no feature view `aaa",
        ),
    ];
    for (request, code, text) in cases {
        let status = client.get_online_features(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "`{}` does not say `{text}`", status.message());
    }
    for (body, code) in [
        (json!({}), 400),
        (json!({"features": ["origin_weather"], "entitys": {}}), 400),
        (json!({"features": ["origin_weather"], "entities": {"origin": "JFK"}}), 400),
        (json!({"features": ["origin_weather"], "entities": {"origin": [1]}}), 400),
        (json!({"features": ["origin_weather"], "entities": {"origin": [{"a": 1}]}}), 400),
        (json!({"features": ["nothing"], "entities": {"origin": ["JFK"]}}), 404),
        (json!({"features": ["origin_weather"], "entities": {"origin": ["JFK"]}, "now": "2013-01-01"}), 400),
        (json!({"features": ["origin_weather"], "entities": {"origin": vec!["JFK"; 10_001]}}), 400),
    ] {
        let (status, answer) = server.post(&body);
        assert_eq!(status, code, "{answer}");
        assert!(answer["error"].is_string());
    }
    let huge = format!("{{\"features\": [\"{}\"]}}", "x".repeat(110 << 10));
    for (method, path, body, code, said) in [
        ("POST", "/v1/get-online-features", "not json", 400, "a JSON object"),
        ("POST", "/v1/get-online-features", "[]", 400, "a JSON object"),
        ("POST", "/v1/get-online-features", " {", 400, "the body is not a request"),
        ("GET", "/nothing", "", 404, "no such path"),
        ("GET", "/v1/get-online-features", "", 405, "does not take GET"),
        ("POST", "/health", "", 405, "does not take POST"),
        ("POST", "/v1/get-online-features", &huge, 413, "102400 bytes"),
    ] {
        let (status, answer) = server.http(method, path, body);
        assert_eq!(status, code, "{answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        assert!(answer["error"].as_str().unwrap().contains(said), "{answer}");
    }
    // It answers still.
    assert_eq!(server.post(&json!({"features": ["origin_weather"], "entities": {"origin": ["JFK", null]}})).0, 200);
}
