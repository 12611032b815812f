//! Files of sources, spines and answers: every value arrives as it was written, or is refused where it stands.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use serde_json::{Value, json};

use crate::support::{run, run_json, write_parquet};

const DAY: i64 = 86_400_000_000;

/// A project with one source `s` at `batch` and one view `v` of it with these features, keyed by `k`.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(batch: &str, features: &str) -> Self {
        Files::with(&format!(
            "entities: [{{name: e, join_keys: [{{name: k, type: string}}]}}]\n\
             sources: [{{name: s, batch: {{{batch}}}, event_timestamp: at}}]\n\
             feature_views: [{{name: v, entities: [e], source: s, features: [{features}]}}]\n"
        ))
    }

    fn with(definitions: &str) -> Self {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        files.write("asof.yaml", "project: x\n").write("feature_defs/all.yaml", definitions);
        files
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// The lines of an answer, as JSON.
    fn answer(&self, arguments: &[&str]) -> Vec<Value> {
        let out = ["get-batch-features", "--features", "v", "--out", "out.ndjson"];
        run_json(self.path(), &[&out, arguments].concat());
        let text = std::fs::read_to_string(self.path().join("out.ndjson")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every row of the view, from the source and from its table: both are the same.
    fn rows(&self) -> Vec<Value> {
        let range = ["--start", "1970-01-01", "--end", "2100-01-01"];
        let from_source = self.answer(&[&range[..], &["--from-source"]].concat());
        run_json(self.path(), &["apply", "--yes"]);
        run_json(self.path(), &["materialize", "--end", "2100-01-01"]);
        assert_eq!(self.answer(&range), from_source);
        from_source
    }

    /// The values of feature `x` in every row.
    fn values(&self) -> Vec<Value> {
        run_json(self.path(), &["apply", "--yes"]);
        self.rows().into_iter().map(|row| row["x"].clone()).collect()
    }

    /// Whether `apply` refuses the project, saying all of this.
    fn check_refused(&self, said: &[&str]) {
        let (status, _, stderr) = run(self.path(), &["apply", "--yes"]);
        assert_eq!(status, 2, "{said:?}: {stderr}");
        for text in said {
            assert!(stderr.contains(text), "does not say `{text}`: {stderr}");
        }
    }
}

fn rows_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn instants(micros: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("UTC"))
}

/// Rows `a`, `b`, … at one day after the other, with these floats.
fn floats(values: &[f64]) -> RecordBatch {
    let keys = &["a", "b", "c"][..values.len()];
    let days: Vec<i64> = (1..=values.len() as i64).map(|day| day * DAY).collect();
    rows_of(vec![("k", texts(keys)), ("at", instants(&days)), ("x", Arc::new(Float64Array::from(values.to_vec())))])
}

#[test]
fn nan_is_no_other_value_of_its_column() {
    for (values, expected) in [
        (&[f64::NAN, 0.5, 0.5][..], json!(["NaN", 0.5, 0.5])),
        (&[f64::NAN, f64::INFINITY], json!(["NaN", "Infinity"])),
        (&[0.5, 0.5], json!([0.5, 0.5])),
    ] {
        let files = Files::new("format: parquet, path: x.parquet", "{name: x, type: float64}");
        write_parquet(&files.path().join("x.parquet"), &floats(values));
        assert_eq!(Value::from(files.values()), expected);
        // A range is a filter on the table, so that statistics are at hand.
        let later = files.answer(&["--start", "1970-01-01T12:00:00Z", "--end", "2100-01-01"]);
        assert_eq!(later.into_iter().map(|row| row["x"].clone()).collect::<Value>(), expected);
    }
}

#[test]
fn a_query_sees_nan_as_the_greatest_number() {
    for (format, condition, expected) in [
        ("parquet", "x > 1", json!(["NaN"])),
        ("parquet", "x < 1", json!([0.5, 0.5])),
        ("parquet", "x = 'NaN'::double", json!(["NaN"])),
        ("parquet", "x = (SELECT max(x) FROM s)", json!(["NaN"])),
        ("delta", "x > 1", json!(["NaN"])),
        ("delta", "x = 0.5 OR x > 0.7", json!(["NaN", 0.5, 0.5])),
    ] {
        let files = Files::with(&format!(
            "entities: [{{name: e, join_keys: [{{name: k, type: string}}]}}]\n\
             sources: [{{name: s, batch: {{format: {format}, path: x.{format}}}, event_timestamp: at}}]\n\
             feature_views:\n  \
               - {{name: v, entities: [e], sources: [s], features: [{{name: x, type: float64}}],\n      \
                   sql: \"SELECT k, at AS event_timestamp, x FROM s WHERE {condition}\"}}\n"
        ));
        let parquet = files.path().join("x.parquet");
        write_parquet(&parquet, &floats(&[f64::NAN, 0.5, 0.5]));
        if format == "delta" {
            copy_to_delta(&files);
        }
        assert_eq!(Value::from(files.values()), expected, "{format}, {condition}");
    }
}

/// Makes the Delta table `x.delta` of `x.parquet`, as an answer of another project.
fn copy_to_delta(files: &Files) {
    let copy = Files::new("format: parquet, path: x.parquet", "{name: x, type: float64}");
    std::fs::copy(files.path().join("x.parquet"), copy.path().join("x.parquet")).unwrap();
    run_json(copy.path(), &["apply", "--yes"]);
    let target = format!("delta:{}", files.path().join("x.delta").display());
    let range = ["--start", "1970-01-01", "--end", "2100-01-01", "--from-source", "--out", &target];
    run_json(copy.path(), &[&["get-batch-features", "--features", "v"][..], &range].concat());
    let definitions = std::fs::read_to_string(files.path().join("feature_defs/all.yaml")).unwrap();
    let renamed = definitions
        .replace("event_timestamp: at", "event_timestamp: event_timestamp")
        .replace("at AS event_timestamp", "event_timestamp");
    files.write("feature_defs/all.yaml", &renamed);
}

#[test]
fn an_instant_keeps_its_microseconds_through_the_table_of_its_view() {
    let files = Files::new("format: parquet, path: x.parquet", "{name: x, type: float64}");
    let at = DAY + 123_456;
    let row =
        rows_of(vec![("k", texts(&["a"])), ("at", instants(&[at])), ("x", Arc::new(Float64Array::from(vec![1.5])))]);
    write_parquet(&files.path().join("x.parquet"), &row);
    run_json(files.path(), &["apply", "--yes"]);
    run_json(files.path(), &["materialize", "--start", "1970-01-01", "--end", "1970-01-03"]);
    // Delta notes the least and the greatest instant of a file in milliseconds.
    for (range, expected) in [
        (["--start", "1970-01-02T00:00:00.1234Z", "--end", "1970-01-03"], 1),
        (["--start", "1970-01-02T00:00:00.123457Z", "--end", "1970-01-03"], 0),
        (["--start", "1970-01-01", "--end", "1970-01-02T00:00:00.1234Z"], 0),
    ] {
        let rows = files.answer(&range);
        assert_eq!(rows.len(), expected, "{range:?}");
        assert!(rows.iter().all(|row| row["event_timestamp"] == "1970-01-02T00:00:00.123456Z"), "{rows:?}");
    }
    let online = |now: &str| {
        run_json(
            files.path(),
            &["get-online-features", "--features", "v", "--entity", "k=a", "--timestamps", "--now", now],
        )["columns"][1]
            .clone()
    };
    assert_eq!(online("1970-01-02T00:00:00.123455Z")["statuses"][0], "NOT_FOUND");
    assert_eq!(online("1970-01-03")["event_timestamps"][0], "1970-01-02T00:00:00.123456Z");
}

#[test]
fn columns_of_csv_go_by_their_names() {
    let files = Files::new("format: csv, path: data", "{name: x, type: string}");
    files
        .write("data/1.csv", "k,at,x\na,2024-01-01,first\n")
        .write("data/2.csv", "x,more,at,k\nsecond,1,2024-01-02,b\n");
    let rows = files.values();
    assert_eq!(rows, ["first", "second"]);
    files.write("data/3.csv", "k,at,y\na,2024-01-01,1\n");
    files.check_refused(&["`data/3.csv:1`", "has no column `x`, which `data/1.csv` has", "`k`, `at`, `y`"]);
}

#[test]
fn json_values_are_of_the_declared_type_or_refused() {
    for (value, value_type, said) in [
        ("2.5", "int64", "holds 2.5, declared int64; write a whole number of 64 bits, or declare float64"),
        ("2.5", "int32", "declare float64"),
        ("2147483648", "int32", "declare int64"),
        (
            "[1, 2.5]",
            "list<int64>",
            "holds 2.5, declared list<int64>; write a whole number of 64 bits, or declare list<float64>",
        ),
        ("19000.7", "date", "write a date such as `2024-05-01`, or declare float64"),
        ("5", "string", "write a text, or declare int64"),
        ("9007199254740993", "float64", "declare int64"),
        ("\"00ff0\"", "bytes", "write base64"),
        ("1700000000", "timestamp", "to_timestamp_seconds"),
        ("\"x\"", "bool", "write true or false, or declare string"),
    ] {
        let files = Files::new("format: json, path: x.ndjson", &format!("{{name: x, type: '{value_type}'}}"));
        let lines = "{\"k\": \"a\", \"at\": \"2024-01-01\"}\n".repeat(3000);
        files.write("x.ndjson", &format!("{lines}{{\"k\": \"a\", \"at\": \"2024-01-01\", \"x\": {value}}}\n"));
        files.check_refused(&["`x.ndjson:3001`", "column `x`", said]);
    }
    let key = Files::new("format: json, path: x.ndjson", "{name: x, type: int64}");
    key.write("x.ndjson", "{\"k\": \"a\", \"at\": 5, \"x\": 1}\n");
    key.check_refused(&["`x.ndjson:1`", "column `at` holds 5, declared timestamp", "RFC 3339"]);
    key.write("x.ndjson", "{\"k\": 1.5, \"at\": \"2024-01-01\", \"x\": 1}\n");
    key.check_refused(&["`x.ndjson:1`", "column `k` holds 1.5, declared string"]);
    key.write("x.ndjson", "{\"k\": \"a\", \"at\": \"2024-01-01\", \"x\": 9007199254740993}\n");
    assert_eq!(key.values(), [9_007_199_254_740_993_i64]);
}

#[test]
fn a_column_of_json_may_begin_late() {
    let files = Files::new("format: json, path: x.ndjson", "{name: x, type: 'list<string>'}");
    let lines = "{\"k\": \"a\", \"at\": \"2024-01-01\"}\n".repeat(3000);
    files.write("x.ndjson", &format!("{lines}{{\"k\": \"b\", \"at\": \"2024-01-02\", \"x\": [\"y\", null]}}\n"));
    assert_eq!(files.values().last(), Some(&json!(["y", null])));
    let definitions = "entities: [{name: e, join_keys: [{name: k, type: string}]}]\n\
         sources: [{name: s, batch: {format: json, path: x.ndjson}, event_timestamp: at}]\n\
         feature_views:\n  \
           - {name: v, entities: [e], sources: [s], features: [{name: x, type: int64}],\n      \
               sql: \"SELECT k, at AS event_timestamp, count(x) AS x FROM s GROUP BY 1, 2\"}\n";
    files.write("feature_defs/all.yaml", definitions);
    assert_eq!(files.values(), [0, 1]);
}

#[test]
fn a_query_reads_the_parts_of_json_objects() {
    let files = Files::with(
        "entities: [{name: e, join_keys: [{name: k, type: string}]}]\n\
         sources: [{name: s, batch: {format: json, path: x.ndjson}, event_timestamp: at, rename: {p: payload}}]\n\
         feature_views:\n  \
           - {name: v, entities: [e], sources: [s], features: [{name: x, type: string}],\n      \
               sql: \"SELECT k, at AS event_timestamp, payload['city'] AS x FROM s\"}\n",
    );
    files.write(
        "x.ndjson",
        "{\"k\": \"a\", \"at\": \"2024-01-01\"}\n\
         {\"k\": \"b\", \"at\": \"2024-01-02\", \"p\": {\"n\": 1}}\n\
         {\"k\": \"c\", \"at\": \"2024-01-03\", \"p\": {\"city\": \"Rome\"}}\n",
    );
    assert_eq!(Value::from(files.values()), json!([null, null, "Rome"]));
}

#[test]
fn what_a_cell_cannot_hold_is_refused_with_its_line() {
    let int = "{name: x, type: int64}";
    for (features, text, said) in [
        (
            int,
            "k,at,x\na,2024-01-01,1\n\n\"b\n\",2024-01-01,2.5\n",
            "`data/1.csv:4`: column `x` holds `2.5`, declared int64",
        ),
        (int, "k,at,x\na,soon,1\n", "`data/1.csv:2`: column `at` holds `soon`, declared timestamp"),
        (int, "k,at,x\na,2024-01-01\n", "`data/1.csv:2`: 2 cells, and the header has 3"),
        (int, "k,at,x\n\"a,2024-01-01\n", "`data/1.csv:2`: a quoted cell does not end"),
        (int, "", "`data/1.csv:1`: there is no header"),
        (int, "k,k,at,x\na,a,2024-01-01,1\n", "`data/1.csv:1`: the header has `k` twice"),
        (int, "k,at,y\na,2024-01-01,1\n", "the header has no column `x`, which `data/0.csv` has"),
        ("{name: x, type: 'list<int64>'}", "k,at,x\na,2024-01-01,[1]\n", "a cell of a CSV file holds one value"),
        ("{name: x, type: bytes}", "k,at,x\na,2024-01-01,00f\n", "write base64"),
    ] {
        let files = Files::new("format: csv, path: data/*.csv", features);
        files.write("data/0.csv", "k,at,x\n").write("data/1.csv", text);
        files.check_refused(&[said]);
    }
    let files = Files::with(
        "sources: [{name: s, batch: {format: csv, path: x.csv}, schema: [{name: a, type: int64}, {name: b, type: int64}]}]\n\
         feature_views: [{name: v, source: s, features: [{name: a, type: int64}]}]\n",
    );
    files.write("x.csv", "a\n1\n");
    files.check_refused(&["source `s` needs column `b`"]);
}

#[test]
fn a_bad_file_among_others_is_named() {
    let files = Files::new("format: parquet, path: data", "{name: x, type: float64}");
    std::fs::create_dir(files.path().join("data")).unwrap();
    write_parquet(&files.path().join("data/1.parquet"), &floats(&[0.5]));
    files.write("data/2.parquet", "not parquet");
    files.check_refused(&["`data/2.parquet` is no Parquet file"]);
    // What is hidden is nobody's data.
    std::fs::rename(files.path().join("data/2.parquet"), files.path().join("data/.2.parquet")).unwrap();
    files.write("data/_SUCCESS", "").write("data/deep/3.parquet", "not read");
    assert_eq!(files.values(), [0.5]);
    let json = Files::new("format: json, path: x.json", "{name: x, type: float64}");
    json.write("x.json", "{\"k\": \"a\", \"at\": \"2024-01-01\", \"x\": 1}\n{\"k\": \"a\", \"k\": \"b\"}\n");
    json.check_refused(&["`x.json:2`: `k` is given twice"]);
    json.write("x.json", "{\"k\": \"a\", \"at\": \"2024-01-01\", \"x\": 1}\n\n[1]\n");
    json.check_refused(&["`x.json:3`: not a JSON object"]);
}

#[test]
fn bytes_and_nan_and_empty_texts_come_back_from_every_text_format() {
    let features = "{name: x, type: bytes}, {name: f, type: float64}, {name: s, type: string}";
    let json = Files::new("format: json, path: x.ndjson", features);
    json.write(
        "x.ndjson",
        "{\"k\": \"a\", \"at\": \"2024-01-01\", \"x\": \"AP8=\", \"f\": \"NaN\", \"s\": \"\"}\n\
         {\"k\": \"b\", \"at\": \"2024-01-02\", \"x\": null, \"f\": 1.5}\n\
         {\"k\": \"c\", \"at\": \"2024-01-03\", \"x\": \"\", \"f\": \"-Infinity\", \"s\": \"a,b\"}\n",
    );
    let expected = [json!(["AP8=", "NaN", ""]), json!([null, 1.5, null]), json!(["", "-Infinity", "a,b"])];
    let shown = |rows: &[Value]| rows.iter().map(|row| json!([row["x"], row["f"], row["s"]])).collect::<Vec<_>>();
    run_json(json.path(), &["apply", "--yes"]);
    assert_eq!(shown(&json.rows()), expected);

    let range = ["--start", "2024-01-01", "--end", "2025-01-01", "--from-source", "--out"];
    for (format, name) in [("csv", "y.csv"), ("json", "y.ndjson"), ("parquet", "y.parquet")] {
        run_json(json.path(), &[&["get-batch-features", "--features", "v"], &range[..], &[name]].concat());
        let copy = Files::new(&format!("format: {format}, path: {name}"), features);
        let definitions = std::fs::read_to_string(copy.path().join("feature_defs/all.yaml")).unwrap();
        copy.write(
            "feature_defs/all.yaml",
            &definitions.replace("event_timestamp: at", "event_timestamp: event_timestamp"),
        );
        std::fs::copy(json.path().join(name), copy.path().join(name)).unwrap();
        run_json(copy.path(), &["apply", "--yes"]);
        assert_eq!(shown(&copy.rows()), expected, "{format}");
    }
}

/// An empty quoted cell is the empty string, and null where the type has none, in sources and spines alike.
#[test]
fn an_empty_quoted_cell_is_the_same_in_sources_and_spines() {
    let files = Files::with(
        "entities: [{name: e, join_keys: [{name: k, type: int64}, {name: t, type: string}]}]\n\
         sources: [{name: s, batch: {format: csv, path: x.csv}, event_timestamp: at}]\n\
         feature_views: [{name: v, entities: [e], source: s, features: [{name: x, type: int64}]}]\n\
         on_demand_feature_views:\n  \
           - name: o\n    \
             request: [{name: n, type: float64}, {name: b, type: bool}, {name: d, type: date}, {name: u, type: string}]\n    \
             features_from: [v]\n    \
             features:\n      \
               - {name: nulls, type: string, expression: \"concat(n IS NULL, b IS NULL, d IS NULL, u IS NULL)\"}\n",
    );
    files.write("x.csv", "k,t,at,x\n1,\"\",2024-01-01,\"\"\n2,\"\",2024-01-01,7\n\"\",\"\",2024-01-01,8\n");
    files.write(
        "spine.csv",
        "k,t,event_timestamp,n,b,d,u\n\
         2,\"\",2024-01-02,\"\",\"\",\"\",\"\"\n\
         1,\"\",2024-01-02,,,,\n\
         \"\",\"\",2024-01-02,1,true,2024-01-01,x\n\
         2,,2024-01-02,,,,\n\
         2,\"\",\"\",,,,\n",
    );
    run_json(files.path(), &["apply", "--yes"]);
    let out = ["--features", "v,o", "--out", "out.ndjson", "--entities", "spine.csv", "--from-source"];
    run_json(files.path(), &[&["get-batch-features"], &out[..]].concat());
    let text = std::fs::read_to_string(files.path().join("out.ndjson")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<Value> = rows.iter().map(|row| json!([row["k"], row["t"], row["x"], row["nulls"]])).collect();
    assert_eq!(
        shown,
        [
            json!([2, "", 7, "truetruetruefalse"]),
            json!([1, "", null, "truetruetruetrue"]),
            json!([null, "", null, "falsefalsefalsefalse"]),
            json!([2, null, null, "truetruetruetrue"]),
            json!([2, "", null, "truetruetruetrue"]),
        ]
    );
}

#[test]
fn carried_columns_come_back_untouched() {
    let files = Files::new("format: csv, path: x.csv", "{name: x, type: int64}");
    files.write("x.csv", "k,at,x\n007,2024-01-01,1\n");
    files.write(
        "spine.csv",
        "k,event_timestamp,zip,mixed,sign,n,f,text\n\
         007,2024-01-02,05,9007199254740993,+5,9007199254740993,1.5,\"\"\n\
         007,2024-01-02,10,1.5,5,,NaN,\n",
    );
    run_json(files.path(), &["apply", "--yes"]);
    let carried =
        |row: &Value| json!([row["k"], row["zip"], row["mixed"], row["sign"], row["n"], row["f"], row["text"]]);
    let rows = files.answer(&["--entities", "spine.csv", "--from-source"]);
    assert_eq!(
        rows.iter().map(carried).collect::<Vec<_>>(),
        [
            json!(["007", "05", "9007199254740993", "+5", 9_007_199_254_740_993_i64, 1.5, ""]),
            json!(["007", "10", "1.5", "5", null, "NaN", null])
        ]
    );
    let out = ["get-batch-features", "--features", "v", "--entities", "spine.csv", "--from-source", "--out", "out.csv"];
    run_json(files.path(), &out);
    assert_eq!(
        std::fs::read_to_string(files.path().join("out.csv")).unwrap(),
        "k,event_timestamp,zip,mixed,sign,n,f,text,x\n\
         007,2024-01-02T00:00:00Z,05,9007199254740993,+5,9007199254740993,1.5,\"\",1\n\
         007,2024-01-02T00:00:00Z,10,1.5,5,,NaN,,1\n"
    );
    // The answer is a spine again, in each of its forms.
    for spine in ["out.csv", "out.ndjson"] {
        let out = ["--full-feature-names", "--entities", spine, "--from-source", "--out", "again.ndjson"];
        run_json(files.path(), &[&["get-batch-features", "--features", "v"][..], &out].concat());
        let text = std::fs::read_to_string(files.path().join("again.ndjson")).unwrap();
        let again: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(again.iter().map(carried).collect::<Vec<_>>(), rows.iter().map(carried).collect::<Vec<_>>());
    }
}

#[test]
fn a_column_that_is_sent_twice_is_refused() {
    let files = Files::new("format: csv, path: x.csv", "{name: x, type: int64}");
    files.write("x.csv", "k,at,x\na,2024-01-01,1\n");
    run_json(files.path(), &["apply", "--yes"]);
    let twice = |name: &str, first: &str, second: &str| {
        let ones = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let rows =
            rows_of(vec![("t", instants(&[DAY])), (first, texts(&["a"])), (second, texts(&["b"])), ("y", ones())]);
        write_parquet(&files.path().join(name), &rows);
    };
    twice("keys.parquet", "k", "k");
    twice("others.parquet", "k", "y");
    files.write("twice.ndjson", "{\"k\": \"a\", \"event_timestamp\": \"2024-01-02\", \"k\": \"b\"}\n");
    for (spine, said) in [
        ("keys.parquet", "has the column `k` twice"),
        ("others.parquet", "has the column `y` twice"),
        ("twice.ndjson", "twice.ndjson:1`: `k` is given twice"),
    ] {
        let arguments =
            ["get-batch-features", "--features", "v", "--entities", spine, "--from-source", "--out", "o.csv"];
        let (status, _, stderr) = run(files.path(), &arguments);
        assert_eq!(status, 2, "{spine}: {stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    for entity in ["k=a,k=zz", "{\"k\": \"a\", \"k\": \"zz\"}"] {
        let (status, _, stderr) = run(files.path(), &["get-online-features", "--features", "v", "--entity", entity]);
        assert_eq!(status, 2, "{stderr}");
        assert!(stderr.contains("`k` is given twice"), "{stderr}");
    }
}
