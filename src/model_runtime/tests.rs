//! Small models beside what their libraries answer, and what becomes of damaged ones.

use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::{InputRows, LoadOptions, Model, ModelError, ModelFormat};

/// What the libraries answered: `tests/data/models/predictions.json`.
#[derive(Deserialize)]
struct Known {
    rows: Vec<Vec<Value>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    predictions: Vec<Value>,
}

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name);
    std::fs::read(&path).unwrap()
}

fn known() -> Known {
    serde_json::from_slice(&file("predictions.json")).unwrap()
}

fn load(bytes: &[u8]) -> Result<Model, ModelError> {
    Model::load(ModelFormat::detect(bytes)?, bytes, &LoadOptions::default())
}

fn input_rows(rows: &[Vec<Value>]) -> InputRows {
    let mut inputs = InputRows::missing(rows.len(), rows[0].len());
    for (row, values) in rows.iter().enumerate() {
        for (input, value) in values.iter().enumerate() {
            match value {
                Value::String(text) => inputs.set_text(row, input, text.clone()),
                value => inputs.set_number(row, input, value.as_f64().unwrap_or(f64::NAN)),
            }
        }
    }
    inputs
}

#[test]
fn answers_are_those_of_the_libraries() {
    let Known { rows, cases } = known();
    for case in cases {
        let model = load(&file(&case.file)).unwrap();
        let all = model.predict(&input_rows(&rows)).unwrap();
        for (row, expected) in case.predictions.iter().enumerate() {
            let expected = expected.as_array().cloned().unwrap_or_else(|| vec![expected.clone()]);
            let alone = model.predict(&input_rows(&rows[row..=row])).unwrap();
            assert_eq!(alone.values, all.row(row), "{}: a row alone answers what it does among others", case.file);
            for (found, expected) in all.row(row).iter().zip(&expected) {
                let expected = expected.as_f64().unwrap();
                let error = (found - expected).abs() / expected.abs();
                assert!(error < 1e-6, "{} row {row}: {found} is not {expected}", case.file);
            }
        }
    }
}

#[test]
fn a_missing_value_goes_where_the_split_says_even_past_infinity() {
    let model = |kind: u32| {
        let text = format!(
            "tree\nnum_tree_per_iteration=1\nmax_feature_idx=0\nobjective=regression\nfeature_names=a\n\
             feature_infos=[0:1]\n\nTree=0\nnum_leaves=2\nsplit_feature=0\nthreshold=inf\ndecision_type={kind}\n\
             left_child=-1\nright_child=-2\nleaf_value=1 2\n\nend of trees\n"
        );
        load(text.as_bytes()).unwrap()
    };
    // Missing type NaN, default right and left; missing type zero; none.
    for (kind, value, expected) in [
        (8, f64::NAN, 2.0),
        (8, f64::INFINITY, 1.0),
        (10, f64::NAN, 1.0),
        (4, 0.0, 2.0),
        (4, 0.5, 1.0),
        (6, 0.0, 1.0),
        (0, f64::NAN, 1.0),
    ] {
        let mut rows = InputRows::missing(1, 1);
        rows.set_number(0, 0, value);
        assert_eq!(model(kind).predict(&rows).unwrap().values, [expected], "{kind} {value}");
    }
}

#[test]
fn what_is_not_supported_is_refused_with_the_reason() {
    let text = String::from_utf8(file("lightgbm_binary.txt")).unwrap();
    let xgboost = String::from_utf8(file("xgboost_multiclass.json")).unwrap();
    let catboost = String::from_utf8(file("catboost_poisson.json")).unwrap();
    for (bytes, expected) in [
        (text.replace("is_linear=0", "is_linear=1"), "with linear trees is not supported"),
        (text.replace("objective=binary", "objective=mystery"), "objective `mystery` is not known"),
        (text.replace("end of trees", ""), "it may be cut off"),
        (xgboost.replace("\"gbtree\"", "\"gblinear\""), "the booster gblinear is not supported"),
        (xgboost.replace("multi:softprob", "multi:mystery"), "objective `multi:mystery` is not known"),
        (catboost.replace("\"Poisson\"", "\"RMSEWithUncertainty\""), "the loss function RMSEWithUncertainty"),
        ("\u{80}\u{4}pickle".to_owned(), "pickles are never read"),
    ] {
        let error = load(bytes.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_row_of_another_width_is_refused() {
    let model = load(&file("lightgbm_binary.txt")).unwrap();
    let error = model.predict(&InputRows::missing(1, 3)).unwrap_err();
    assert_eq!(error.to_string(), "a row has 3 values, and the model takes 4");
}

/// Every damaged file is refused, or gives a model that answers.
fn check_damaged(bytes: &[u8], rows: &InputRows) {
    let Ok(model) = load(bytes) else { return };
    if model.inputs().len() == rows.width() {
        let _ = model.predict(rows);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_never_panic(
        which in 0_usize..5,
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::collection::vec(any::<u8>(), 0..9),
            Just(b"-1".to_vec()), Just(b"4294967295".to_vec()), Just(b"1e999".to_vec()), Just(b"nan".to_vec()),
            Just(b"\"\"".to_vec()), Just(b"[]".to_vec()), Just(b"null".to_vec()), Just(b"99999999999999999999".to_vec()),
        ],
        removed in 0_usize..6,
    ) {
        let Known { rows, cases } = known();
        let mut bytes = file(&cases[which].file);
        let at = at.index(bytes.len());
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, damage);
        check_damaged(&bytes, &input_rows(&rows));
    }

    #[test]
    fn numbers_changed_for_others_never_panic(
        which in 0_usize..5,
        at in any::<prop::sample::Index>(),
        number in prop_oneof![Just("-1"), Just("0"), Just("7"), Just("65536"), Just("4294967296"), Just("1e300"), Just("-2147483648")],
    ) {
        let Known { rows, cases } = known();
        let bytes = file(&cases[which].file);
        // The number that stands nearest after some place.
        let start = at.index(bytes.len());
        let digits = |byte: &u8| byte.is_ascii_digit();
        if let Some(first) = bytes[start..].iter().position(digits).map(|found| start + found) {
            let last = bytes[first..].iter().position(|byte| !digits(byte)).map_or(bytes.len(), |found| first + found);
            let mut changed = bytes.clone();
            changed.splice(first..last, number.bytes());
            check_damaged(&changed, &input_rows(&rows));
        }
    }
}
