//! The command on the flights example, as a user types it.

use serde_json::{Value, json};

use crate::support::{flights_project, run, run_json};

fn column<'d>(document: &'d Value, name: &str) -> &'d Value {
    let columns = document["columns"].as_array().unwrap();
    columns.iter().find(|column| column["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {document:#}"))
}

#[test]
fn from_files_to_answers() {
    let folder = flights_project();
    let folder = folder.path();
    let plan = run_json(folder, &["plan"]);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 21, "{plan:#}");
    assert_eq!(run_json(folder, &["apply", "--yes"])["version"], 1);
    assert_eq!(run_json(folder, &["apply", "--yes"])["applied"], false);

    let (status, _, stderr) =
        run(folder, &["get-batch-features", "--features", "origin_weather", "--as-of", "2013-06-01", "--out", "x.csv"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("asof materialize origin_weather"), "{stderr}");

    let materialized = run_json(folder, &["materialize", "--end", "2014-02-01"]);
    let weather = &materialized["views"][0];
    assert_eq!((&weather["view"], &weather["rows_read"]), (&json!("origin_weather"), &json!(26115)));
    assert_eq!(weather["rows_uploaded"], weather["rows_written"]);

    std::fs::write(
        folder.join("spine.csv"),
        "origin,dest,carrier,tailnum,distance,note,event_timestamp\n\
         JFK,LAX,DL,N703TW,2475,\"a, b\",2013-06-01 12:15:00\n\
         ,LAX,DL,,2475,,2013-06-01T12:15:00Z\n\
         JFK,LAX,DL,N703TW,2475,\"\",2015-06-01T14:15:00+02:00\n",
    )
    .unwrap();
    let answer = run_json(
        folder,
        &[
            "get-batch-features",
            "--service",
            "arrival_delay_v1",
            "--entities",
            "spine.csv",
            "--out",
            "out.ndjson",
            "--with-statuses",
        ],
    );
    assert_eq!(answer["rows"], 3);
    assert!(answer["warnings"][0].as_str().unwrap().contains("materialized until"), "{answer:#}");
    let text = std::fs::read_to_string(folder.join("out.ndjson")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&rows[0]["note"], &rows[1]["note"], &rows[2]["note"]], [&json!("a, b"), &json!(null), &json!("")]);
    assert_eq!(
        [&rows[0]["temp__status"], &rows[1]["temp__status"], &rows[2]["temp__status"]],
        ["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
    );

    let online = run_json(
        folder,
        &[
            "get-online-features",
            "--service",
            "arrival_delay_v1",
            "--entity",
            "origin=JFK,dest=LAX,carrier=DL,tailnum=N703TW",
            "--request",
            "distance=2475",
            "--now",
            "2013-06-01T12:15:00Z",
        ],
    );
    for name in ["temp", "seats", "mean_air_time", "carrier_late_share", "lat", "wind_chill", "miles_per_minute"] {
        assert_eq!(column(&online, name)["values"][0], rows[0][name], "{name}");
    }
}

#[test]
fn what_is_applied_can_be_listed_and_described() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    let views = run_json(folder, &["list", "feature_views"]);
    assert_eq!(views["definitions"].as_array().unwrap().len(), 9);
    assert_eq!(run_json(folder, &["describe", "feature_view", "origin_weather"])["ttl"], "3h");
    assert_eq!(run_json(folder, &["list", "versions"])["versions"][0]["version"], 1);
    let status = run_json(folder, &["status"]);
    assert_eq!(status["views"][0]["table_version"], Value::Null);
    assert!(run_json(folder, &["explain", "route_day"])["physical_plan"].as_str().unwrap().contains("Aggregate"));
    assert_eq!(run_json(folder, &["validate"])["valid"], true);
    let (status, schema, _) = run(folder, &["schema"]);
    assert_eq!(status, 0);
    assert!(serde_json::from_str::<Value>(&schema).unwrap()["properties"]["feature_views"].is_object());
}

#[test]
fn every_output_format_holds_the_same_rows() {
    let folder = flights_project();
    let folder = folder.path();
    run_json(folder, &["apply", "--yes"]);
    run_json(folder, &["materialize", "carrier_day", "--end", "2014-02-01"]);
    let get = |out: &str| {
        run_json(
            folder,
            &[
                "get-batch-features",
                "--features",
                "carrier_day",
                "--start",
                "2013-02-01",
                "--end",
                "2013-03-01",
                "--out",
                out,
            ],
        )
    };
    let rows: Vec<Value> =
        ["a.parquet", "a.csv", "a.ndjson", "delta:a_table"].map(|out| get(out)["rows"].clone()).into();
    assert!(rows[0].as_u64().unwrap() > 300);
    assert!(rows.iter().all(|count| *count == rows[0]), "{rows:?}");
    assert_eq!(
        std::fs::read_to_string(folder.join("a.ndjson")).unwrap().lines().count() as u64,
        rows[0].as_u64().unwrap()
    );
    assert_eq!(
        std::fs::read_to_string(folder.join("a.csv")).unwrap().lines().count() as u64,
        rows[0].as_u64().unwrap() + 1
    );
    // Each can be a spine again.
    for spine in ["a.parquet", "a.csv", "a.ndjson", "a_table"] {
        let again = run_json(
            folder,
            &[
                "get-batch-features",
                "--features",
                "carrier_day",
                "--full-feature-names",
                "--entities",
                spine,
                "--out",
                "again.ndjson",
            ],
        );
        assert_eq!(again["rows"], rows[0], "{spine}");
        let text = std::fs::read_to_string(folder.join("again.ndjson")).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let near = |a: &Value, b: &Value| a == b || (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
            assert!(near(&row["carrier_arr_delay"], &row["carrier_day__carrier_arr_delay"]), "{spine}: {row}");
        }
    }
}
