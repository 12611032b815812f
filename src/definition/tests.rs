//! Whole files through the one door, [`parse_definitions`].

mod aggregations;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn file(path: &str, text: &str) -> DefinitionFile {
    DefinitionFile { path: path.to_owned(), text: text.to_owned() }
}

fn parse(text: &str) -> Result<Definitions, DefinitionErrors> {
    parse_definitions(&[file("a.yaml", text)])
}

/// Everything that is wrong, one `file:line:column: message` a line.
fn check_errors(files: &[(&str, &str)], expected: &[&str]) {
    let files: Vec<_> = files.iter().map(|(path, text)| file(path, text)).collect();
    let errors = parse_definitions(&files).expect_err("it is malformed");
    let found: Vec<_> = errors.iter().map(|e| format!("{}:{}:{}: {}", e.file, e.line, e.column, e.message)).collect();
    assert_eq!(found, expected);
}

/// The flights project of the documentation, without what later versions read.
const FLIGHTS: &str = r#"
entities:
  - {name: carrier, join_keys: [{name: carrier, type: string}]}
  - {name: origin,  join_keys: [{name: origin, type: string}]}
  - {name: airport, join_keys: [{name: airport, type: string}]}
  - {name: route,   join_keys: [{name: origin, type: string}, {name: dest, type: string}]}

sources:
  - name: weather
    description: Hourly observations
    owner: weather-team
    tags: {tier: gold, year: 2013}
    batch: {format: parquet, path: "data/weather/*.parquet"}
    event_timestamp: observed_at
    created_timestamp: loaded_at                            # optional
    rename: {time_hour: observed_at}                        # column of the file: name used here
  - name: airports
    batch: {format: ndjson, path: data/airports.ndjson}
  - name: arrivals
    batch:  {format: delta, path: data/arrivals}
    event_timestamp: arrived_at
  - name: clicks
    schema: [{name: at, type: timestamp}, {name: page, type: string}]
    event_timestamp: at

feature_views:
  - name: origin_weather                # row view: a source row holds from its event timestamp on
    entities: [origin]
    source: weather
    ttl: 3h                             # omitted: no limit
    features: [{name: temp, type: float64}, {name: wind_speed, type: float64}]

  - name: airport_profile
    entities: [airport]
    source: airports
    features: [{name: lat, type: float64}, {name: lon, type: float64}, {name: seen, type: "map<string, int64>"}]

  - name: route_profile                 # SQL view: a row view over a query of one or more sources
    entities: [route]
    sources: [arrivals]
    lookback: 2w
    sql: |
      SELECT origin, dest, date_trunc('day', arrived_at) + INTERVAL '1 day' AS event_timestamp,
             avg(air_time) AS mean_air_time
      FROM arrivals GROUP BY 1, 2, 3
    features: [{name: mean_air_time, type: float64}]

  - name: carrier_delay                 # aggregation view: windows that slide with the question's time
    entities: [carrier]
    source: arrivals
    where: "cancelled = false"
    resolution: 5m
    lookback: 2d
    aggregations:
      - {input: arr_delay,      function: mean,  windows: [1h, 24h, 7d]}
      - {input: "arr_delay > 15", function: mean, windows: [1d], name: late_share}
      - {function: count, windows: [1h, 30d, lifetime]}
      - {input: dest, function: last, n: 5, windows: [7d]}
      - {input: arr_delay, function: approx_percentile, p: [0.5, 0.99], windows: [7d], by: dest}
      - {input: air_time, function: approx_percentile, p: 1, windows: [7d]}

on_demand_feature_views:
  - name: pace
    features_from: ["carrier_delay:arr_delay_mean_1d"]
    features: [{name: is_late, type: bool, expression: "arr_delay_mean_1d > 0"}]
  - name: trip
    request: [{name: distance, type: float64}]        # values that only the caller knows
    features_from: ["route_profile:mean_air_time"]
    features:
      - {name: speed, type: float64, expression: "distance / mean_air_time"}

feature_services:
  - name: arrival_delay_v1
    features:
      - origin_weather                                 # all of a view
      - "route_profile:mean_air_time"
      - airport_profile: [lat]
      - {view: airport_profile, features: [lat, lon], as: destination, join_keys: {airport: dest}}   # same view, other key
      - trip
      - carrier_delay: [arr_delay_mean_1h, late_share_1d]
      - pace
"#;

#[test]
fn the_flights_project_is_understood() {
    let definitions = parse(FLIGHTS).unwrap_or_else(|errors| panic!("{errors}"));
    let weather = definitions.source("weather").unwrap();
    assert_eq!(weather.rename["time_hour"], "observed_at");
    assert_eq!(weather.documentation.tags["year"], "2013");
    assert_eq!(definitions.source("airports").unwrap().batch.as_ref().unwrap().format, FileFormat::Json);

    let view = definitions.feature_view("origin_weather").unwrap();
    assert_eq!(view.ttl, Some(Duration::from_secs(3 * 3600)));
    assert_eq!(view.input, ViewInput::Rows { source: "weather".into() });
    assert!(
        !definitions.is_static(view) && definitions.is_static(definitions.feature_view("airport_profile").unwrap())
    );

    let route = definitions.feature_view("route_profile").unwrap();
    assert_eq!(route.lookback, Some(Duration::from_secs(14 * 86_400)));
    assert!(matches!(&route.input, ViewInput::Sql { sql, .. } if sql.starts_with("SELECT origin, dest")));
    assert_eq!(
        definitions.join_keys(route).iter().map(|key| key.name.as_str()).collect::<Vec<_>>(),
        ["origin", "dest"]
    );

    let trip = definitions.on_demand_feature_view("trip").unwrap();
    assert_eq!(trip.features_from, [FeatureReference::parse("route_profile:mean_air_time")]);

    let service = definitions.feature_service("arrival_delay_v1").unwrap();
    let destination = &service.features[3];
    assert_eq!(destination.alias.as_deref(), Some("destination"));
    assert_eq!(destination.join_keys["airport"], "dest");
    assert_eq!(service.features[1].features, Some(vec!["mean_air_time".to_owned()]));
    assert_eq!(service.features[0].features, None);
}

#[test]
fn definitions_survive_being_stored() {
    let definitions = parse(FLIGHTS).unwrap();
    let stored = serde_json::to_string(&definitions).unwrap();
    assert_eq!(serde_json::from_str::<Definitions>(&stored).unwrap(), definitions);
}

#[test]
fn what_is_stored_reads_like_a_definition_file() {
    let definitions = parse(FLIGHTS).unwrap();
    let mut written_out = serde_json::to_value(&definitions).unwrap();
    // What follows from aggregations is stored with the types that were found, and is not for files.
    for view in written_out["feature_views"].as_array_mut().unwrap() {
        let view = view.as_object_mut().unwrap();
        if view.contains_key("aggregations") {
            assert!(view.remove("features").is_some() && view.remove("event_columns").is_some());
        }
    }
    let written_out = serde_json::to_string_pretty(&written_out).unwrap();
    assert_eq!(parse(&written_out).unwrap_or_else(|errors| panic!("{errors}")), definitions);
}

#[test]
fn files_and_documents_add_up() {
    let files = [
        file("views.yaml", "feature_views: [{name: v, entities: [a], source: s, features: [{name: f, type: bool}]}]"),
        file("empty.yaml", ""),
        file("comment.yaml", "# nothing yet\n"),
        file("null.yaml", "entities:\n"),
        file(
            "rest.yaml",
            "\u{feff}entities: [{name: a, join_keys: [{name: a, type: int64}]}]\r\n---\r\nsources: [{name: s, batch: {format: csv, path: a}}]\r\n",
        ),
    ];
    let definitions = parse_definitions(&files).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(definitions.feature_views.len(), 1);
}

#[test]
fn anchors_and_merges_share_text() {
    let text = "
entities: [{name: a, join_keys: [&key {name: a, type: int64}]}, {name: b, join_keys: [{<<: *key, name: b}]}]
";
    let definitions = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(definitions.entity("b").unwrap().join_keys[0].value_type, ValueType::Int64);
}

#[test]
fn words_that_yaml_takes_for_values_stay_names() {
    let text = "entities: [{name: no, description: 1_000, owner: 0x10, join_keys: [{name: y, type: date}, {name: on, type: bool}]}]";
    let definitions = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let entity = definitions.entity("no").unwrap();
    assert_eq!(entity.documentation.description.as_deref(), Some("1_000"));
    assert_eq!(entity.documentation.owner.as_deref(), Some("0x10"));
}

#[test]
fn a_file_that_cannot_be_read_hides_the_names_it_may_define() {
    check_errors(
        &[
            ("a.yaml", "entities: [\n"),
            ("b.yaml", "feature_views: [{name: v, entities: [e], source: s, ttl: 1x, features: []}]\n"),
        ],
        &["a.yaml:1:11: this YAML cannot be read: unclosed bracket '['", "b.yaml:1:58: `1x` is not a duration"],
    );
}

#[test]
fn a_definition_that_cannot_be_read_hides_no_other() {
    check_errors(
        &[(
            "a.yaml",
            "entities: [{name: a, join_keys: [{name: k, type: text}]}]
sources: [{name: s, batch: {format: csv, path: a}}]
feature_views:
  - {name: v, entities: [a, b], source: s, features: [{name: f, type: bool}]}
",
        )],
        &["a.yaml:1:50: `text` is not a type", "a.yaml:4:29: there is no entity `b`"],
    );
}

#[test]
fn errors_are_told_by_file_and_position_with_the_other_place() {
    let entity = "entities: [{name: a, join_keys: [{name: a, type: string}]}]\n";
    let errors = parse_definitions(&[file("x/1.yaml", entity), file("x/2.yaml", entity)]).unwrap_err();
    assert_eq!(errors.kind(), crate::error::ErrorKind::Invalid);
    insta::assert_snapshot!(errors, @r"
    error: entity `a` is defined twice
     --> x/2.yaml:1:19
      |
    1 | entities: [{name: a, join_keys: [{name: a, type: string}]}]
      |                   ^
      = help: rename one of them; the other is at x/1.yaml:1:19
    ");
    insta::assert_snapshot!(serde_json::to_string_pretty(&errors).unwrap(), @r#"
    [
      {
        "file": "x/2.yaml",
        "line": 1,
        "column": 19,
        "message": "entity `a` is defined twice",
        "help": "rename one of them; the other is at x/1.yaml:1:19",
        "source_line": "entities: [{name: a, join_keys: [{name: a, type: string}]}]"
      }
    ]
    "#);
}

fn malformed_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A malformed file ends in comments `# expect: LINE:COLUMN: MESSAGE`, one for each error, and `# help: HELP`.
///
/// `UPDATE_EXPECT=1` writes them as they are found, to be read in the diff.
#[test]
fn malformed_files_get_the_errors_that_they_name() {
    let files = malformed_files();
    assert!(files.len() >= 40);
    let mut wrong = String::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected: String =
            text.lines().filter(|line| line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
        let found: String = match parse_definitions(&[file(&name, &text)]) {
            Ok(_) => String::new(),
            Err(errors) => errors.iter().map(expectation).collect(),
        };
        if !found.is_empty() && std::env::var_os("UPDATE_EXPECT").is_some() {
            let body: String = text.split_inclusive('\n').filter(|line| !line.starts_with("# ")).collect();
            std::fs::write(&path, body + &found).unwrap();
        } else if found.is_empty() || found != expected {
            wrong.push_str(&format!("== {name}\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "these files get other errors than they name:\n{wrong}");
}

fn expectation(error: &Diagnostic) -> String {
    let help = error.help.as_ref().map_or_else(String::new, |help| format!("# help: {help}\n"));
    format!("# expect: {}:{}: {}\n{help}", error.line, error.column, error.message)
}

#[test]
fn hostile_files_are_refused_in_time() {
    let deep = format!("entities: {}", "[".repeat(100_000));
    let deep_blocks: String = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let huge = format!("# {}", "x".repeat(5 << 20));
    let nested_type = format!(
        "sources: [{{name: s, schema: [{{name: a, type: \"{}int64{}\"}}]}}]",
        "list<".repeat(100_000),
        ">".repeat(100_000)
    );
    let recursive = "entities: &a [*a]".to_owned();
    let many_unknown: String =
        (0..8_000).map(|i| format!("- {{name: v{i}, source: s{i}, features: [{{name: f, type: bool}}]}}\n")).collect();
    let many_unknown = format!("feature_views:\n{many_unknown}");
    let long_name = format!("entities: [{{name: {}, join_keys: [{{name: a, type: bool}}]}}]", "x".repeat(1 << 20));
    let windows: String = (1..50_000).map(|i| format!("{i}m,")).collect();
    let many_windows = format!(
        "feature_views: [{{name: v, source: s, aggregations: [{{name: {}, function: count, windows: [{windows}]}}]}}]",
        "x".repeat(1 << 20)
    );
    for text in [deep, deep_blocks, huge, nested_type, recursive, many_unknown, long_name, many_windows] {
        let started = std::time::Instant::now();
        let errors = parse(&text).unwrap_err().to_string();
        assert!(errors.len() < 1 << 20);
        assert!(started.elapsed() < Duration::from_secs(20), "{}", &text[..20]);
    }
}

#[test]
fn the_json_schema_names_the_keys_that_the_parser_knows() {
    let schema = json_schema();
    let keys =
        |schema: &serde_json::Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&schema),
        ["entities", "sources", "feature_views", "on_demand_feature_views", "feature_services", "prediction_routes"]
    );
    assert_eq!(schema["additionalProperties"], false);
    let entity = &schema["$defs"]["RawEntity"];
    assert_eq!(keys(entity), ["name", "join_keys", "description", "owner", "tags"]);
    assert_eq!(entity["required"], serde_json::json!(["name", "join_keys"]));
    assert_eq!(schema["$defs"]["RawField"]["properties"]["type"]["$ref"], "#/$defs/Type");
    let view = &schema["$defs"]["RawFeatureView"];
    assert_eq!(view["anyOf"], serde_json::json!([{"required": ["features"]}, {"required": ["aggregations"]}]));
    let aggregation = &schema["$defs"]["RawAggregation"];
    assert_eq!(keys(aggregation), ["name", "input", "function", "windows", "n", "p", "by"]);
    assert_eq!(aggregation["required"], serde_json::json!(["function", "windows"]));
    assert_eq!(aggregation["properties"]["function"]["enum"].as_array().unwrap().len(), 19);
    assert_eq!(aggregation["properties"]["n"]["maximum"], 10_000);
}

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        "[ -~\n\t]{1,3}",
        prop::sample::select(vec![
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "|\n",
            "---\n",
            "? ",
            "{",
            "}",
            "[",
            "]",
            ": ",
            "- ",
            "'",
            "\"",
            "\u{1f600}",
            "\u{0}",
            "\u{feff}"
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        (any::<prop::sample::Index>(), 1..12usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (any::<prop::sample::Index>(), piece).prop_map(|(at, text)| Change::Insert(at, text)),
        any::<prop::sample::Index>().prop_map(Change::Cut),
    ]
}

fn changed(text: &str, change: &Change) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: &prop::sample::Index| index.index(chars.len() + 1);
    let collect = |chars: &[char]| chars.iter().collect::<String>();
    match change {
        Change::Remove(index, count) => {
            let at = at(index);
            collect(&chars[..at]) + &collect(&chars[(at + count).min(chars.len())..])
        }
        Change::Insert(index, piece) => collect(&chars[..at(index)]) + piece + &collect(&chars[at(index)..]),
        Change::Cut(index) => collect(&chars[..at(index)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_file_never_panics(changes in prop::collection::vec(change(), 1..5)) {
        let text = changes.iter().fold(FLIGHTS.to_owned(), |text, change| changed(&text, change));
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.iter().count() > 0);
            prop_assert!(errors.to_string().contains("a.yaml:"));
        }
    }
}
