//! Models of CatBoost in JSON (`save_model(…, format='json')`).
//!
//! Source: CatBoost's `model_export/json_model_helpers.cpp`; it compares with 32 bits and adds up with 64.

use std::collections::HashMap;

use serde_json::Value;

use super::TreeModel;
use super::builder::{ForestBuilder, SourceNode, SourceOblivious, SourceTree};
use super::categories::Categories;
use super::ctr::{Ctr, CtrKind, CtrTable, Ctrs, Part};
use super::forest::Precision;
use super::json::{array, at, count, number, numbers, text};
use super::slots::{Missing, Slot, Slots};
use super::transform::Transform;
use crate::model_runtime::{InputKind, ModelError, ModelFormat, ModelInput};

const FORMAT: ModelFormat = ModelFormat::CatboostJson;
const FEATURES_MAX: usize = 1 << 20;

pub fn load(bytes: &[u8]) -> Result<TreeModel, ModelError> {
    let malformed = |problem: String| ModelError::Malformed { format: FORMAT, problem };
    let document: Value = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    for (key, what) in [("text_features", "text features"), ("embedding_features", "embedding features")] {
        if array(&document, &["features_info", key]).is_ok_and(|features| !features.is_empty()) {
            let remedy = "train without them";
            return Err(ModelError::Unsupported { format: FORMAT, what: what.to_owned(), remedy });
        }
    }
    let loss = loss(&document);
    let Some(transform) = transform(&loss) else {
        let remedy = "train with another loss function";
        return Err(ModelError::Unsupported { format: FORMAT, what: format!("the loss function {loss}"), remedy });
    };
    read(&document, transform).map_err(malformed)
}

/// The loss function, by which the library chooses what a prediction is.
fn loss(document: &Value) -> String {
    let parameters = at(document, &["model_info", "params"]).cloned().unwrap_or_default();
    let parameters = match parameters {
        Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
        parameters => parameters,
    };
    text(&parameters, &["loss_function", "type"]).unwrap_or_default().to_owned()
}

fn transform(loss: &str) -> Option<Transform> {
    Some(match loss {
        "Logloss" | "CrossEntropy" | "Focal" | "MultiClassOneVsAll" | "MultiLogloss" | "MultiCrossEntropy" => {
            Transform::Sigmoid { scale: 1.0 }
        }
        "MultiClass" => Transform::Softmax,
        "Poisson" | "Tweedie" => Transform::Exp,
        "RMSEWithUncertainty" | "SurvivalAft" | "Cox" => return None,
        _ => Transform::Identity,
    })
}

/// The features of a model, and the questions that its trees ask, by their numbers in the file.
struct Features {
    inputs: Vec<ModelInput>,
    /// Places among the inputs.
    floats: Vec<u32>,
    categoricals: Vec<u32>,
    missing: Vec<Missing>,
}

fn read(document: &Value, transform: Transform) -> Result<TreeModel, String> {
    let features = Features::read(document)?;
    let (ctrs, ctr_borders) = read_ctrs(document, &features)?;
    let is_category = |input: &ModelInput| (input.kind == InputKind::Category).then_some(Categories::Hashes);
    let mut slots = Slots::new(features.inputs.iter().map(is_category).collect(), ctrs);
    let questions = Questions { features: &features, ctrs: numbered_ctr_splits(document, &ctr_borders)? };
    let (scale, bias) = scale_and_bias(document)?;
    let mut builder = ForestBuilder::new(vec![0.0; bias.len()], Precision::Double);
    let outputs = bias.len();
    builder.scaled(scale, bias);
    for (position, tree) in array(document, &["oblivious_trees"]).unwrap_or_default().iter().enumerate() {
        let in_tree = |problem| format!("tree {position}: {problem}");
        let tree = oblivious(tree, &questions, &mut slots).map_err(in_tree)?;
        builder.add_oblivious(&tree).map_err(in_tree)?;
    }
    for (position, tree) in array(document, &["trees"]).unwrap_or_default().iter().enumerate() {
        for output in 0..outputs {
            let in_tree = |problem| format!("tree {position}: {problem}");
            let mut source = SourceTree { nodes: Vec::new(), output };
            unbalanced(tree, &questions, &mut slots, &mut source).map_err(in_tree)?;
            builder.add_tree(&source).map_err(in_tree)?;
        }
    }
    Ok(TreeModel { inputs: features.inputs, forest: builder.build(slots.width()), slots, transform })
}

impl Features {
    fn read(document: &Value) -> Result<Self, String> {
        let listed = |key: &str| array(document, &["features_info", key]).unwrap_or_default();
        let (floats, categoricals) = (listed("float_features"), listed("categorical_features"));
        let place = |feature: &Value| count(feature, &["flat_feature_index"]);
        let places = |features: &[Value]| features.iter().map(place).collect::<Result<Vec<_>, _>>();
        let (float_places, categorical_places) = (places(floats)?, places(categoricals)?);
        let width = float_places.iter().chain(&categorical_places).max().map_or(0, |last| last + 1);
        if width > FEATURES_MAX {
            return Err(format!("it has {width} features"));
        }
        let mut inputs = vec![ModelInput { name: None, kind: InputKind::Number }; width];
        for (feature, place) in floats.iter().chain(categoricals).zip(float_places.iter().chain(&categorical_places)) {
            inputs[*place].name =
                text(feature, &["feature_id"]).ok().filter(|name| !name.is_empty()).map(str::to_owned);
        }
        for place in &categorical_places {
            inputs[*place].kind = InputKind::Category;
        }
        let treatment = |feature: &Value| match text(feature, &["nan_value_treatment"]) {
            Ok("AsTrue") => Missing::High,
            _ => Missing::Low,
        };
        let numbers = |places: Vec<usize>| places.into_iter().map(|place| place as u32).collect();
        Ok(Features {
            inputs,
            floats: numbers(float_places),
            categoricals: numbers(categorical_places),
            missing: floats.iter().map(treatment).collect(),
        })
    }

    fn float(&self, value: &Value) -> Result<(u32, Missing), String> {
        let feature = count(value, &["float_feature_index"])?;
        let found = self.floats.get(feature).zip(self.missing.get(feature));
        found.map(|(input, missing)| (*input, *missing)).ok_or_else(|| format!("there is no float feature {feature}"))
    }

    fn categorical(&self, value: &Value) -> Result<u32, String> {
        let feature = count(value, &["cat_feature_index"])?;
        self.categoricals.get(feature).copied().ok_or_else(|| format!("there is no categorical feature {feature}"))
    }
}

/// The number of a category's hash, which files write with a sign.
fn code(value: &Value) -> Result<u32, String> {
    let hash = at(value, &["value"])?.as_i64().ok_or("the hash of a category is no whole number")?;
    Ok(hash as u32)
}

/// What splits of the file ask.
struct Questions<'f> {
    features: &'f Features,
    /// By split index, the number of the statistic that is compared.
    ctrs: HashMap<usize, u32>,
}

impl Questions<'_> {
    /// The slot of a split, and the threshold above which it is answered with yes.
    fn of(&self, split: &Value, slots: &mut Slots) -> Result<(u32, f64), String> {
        let border = || number(at(split, &["border"])?).ok_or_else(|| "a border is no number".to_owned());
        match text(split, &["split_type"])? {
            "FloatFeature" => {
                let (input, missing) = self.features.float(split)?;
                let slot = Slot::Number { input, missing, zero_is_missing: false, is_single: true };
                Ok((slots.number_of(slot), f64::from(border()? as f32)))
            }
            "OneHotFeature" => {
                let slot = Slot::IsCategory { input: self.features.categorical(split)?, code: code(split)? };
                Ok((slots.number_of(slot), 0.5))
            }
            "OnlineCtr" => {
                let index = count(split, &["split_index"])?;
                let ctr = self.ctrs.get(&index).ok_or_else(|| format!("there is no statistic for split {index}"))?;
                Ok((slots.number_of(Slot::Ctr(*ctr)), f64::from(border()? as f32)))
            }
            other => Err(format!("there is no split type {other}")),
        }
    }
}

fn oblivious(tree: &Value, questions: &Questions<'_>, slots: &mut Slots) -> Result<SourceOblivious, String> {
    // A tree that was never split has no list, or null.
    let splits = array(tree, &["splits"]).unwrap_or_default();
    let splits = splits.iter().map(|split| questions.of(split, slots)).collect::<Result<_, _>>()?;
    Ok(SourceOblivious { splits, leaves: numbers(tree, &["leaf_values"])? })
}

/// Adds the nodes of a tree whose branches differ, with the values of one output.
fn unbalanced(
    tree: &Value,
    questions: &Questions<'_>,
    slots: &mut Slots,
    source: &mut SourceTree,
) -> Result<(), String> {
    source.nodes.push(SourceNode::Leaf(0.0));
    let mut open = vec![(tree, 0)];
    while let Some((node, position)) = open.pop() {
        let Ok(split) = at(node, &["split"]) else {
            let value = at(node, &["value"])?;
            let value = value.as_array().map_or(Some(value), |values| values.get(source.output));
            let value = value.and_then(number).ok_or("a leaf has no value for every output")?;
            source.nodes[position] = SourceNode::Leaf(value);
            continue;
        };
        let (slot, threshold) = questions.of(split, slots)?;
        let left = source.nodes.len();
        source.nodes.extend([SourceNode::Leaf(0.0); 2]);
        source.nodes[position] = SourceNode::Number { slot, threshold, left, right: left + 1 };
        open.extend([(at(node, &["left"])?, left), (at(node, &["right"])?, left + 1)]);
    }
    Ok(())
}

/// The factor of the sums, and what is added to each.
fn scale_and_bias(document: &Value) -> Result<(f64, Vec<f64>), String> {
    let wrong = || "`scale_and_bias` is not [scale, [bias, …]]".to_owned();
    let [scale, bias] = array(document, &["scale_and_bias"])? else { return Err(wrong()) };
    let bias = match bias {
        Value::Array(biases) => biases.iter().map(number).collect::<Option<Vec<f64>>>(),
        bias => number(bias).map(|bias| vec![bias]),
    };
    let (scale, bias) = number(scale).zip(bias).ok_or_else(wrong)?;
    if bias.is_empty() { Err(wrong()) } else { Ok((scale, bias)) }
}

/// Splits are numbered: first those of float features, then those of categories by value, then those of statistics.
fn numbered_ctr_splits(document: &Value, ctr_borders: &[usize]) -> Result<HashMap<usize, u32>, String> {
    let listed = |key: &str| array(document, &["features_info", key]).unwrap_or_default();
    let lengths = |features: &[Value], key: &str| -> usize {
        features.iter().map(|feature| array(feature, &[key]).map_or(0, <[Value]>::len)).sum()
    };
    let mut next = lengths(listed("float_features"), "borders") + lengths(listed("categorical_features"), "values");
    let mut numbered = HashMap::new();
    for (ctr, borders) in ctr_borders.iter().enumerate() {
        numbered.extend((next..next + borders).map(|split| (split, ctr as u32)));
        next += borders;
    }
    Ok(numbered)
}

/// The statistics, and how many borders each has.
fn read_ctrs(document: &Value, features: &Features) -> Result<(Ctrs, Vec<usize>), String> {
    let mut ctrs = Ctrs::default();
    let mut borders = Vec::new();
    let mut tables: HashMap<&str, usize> = HashMap::new();
    for listed in array(document, &["features_info", "ctrs"]).unwrap_or_default() {
        let kind = match text(listed, &["ctr_type"])? {
            "Borders" => CtrKind::Borders,
            "Buckets" => CtrKind::Buckets,
            "BinarizedTargetMeanValue" | "FloatTargetMeanValue" => CtrKind::Mean,
            "Counter" | "FeatureFreq" => CtrKind::Counter,
            other => return Err(format!("there is no statistic {other}")),
        };
        let identifier = text(listed, &["identifier"])?;
        let table = match tables.get(identifier) {
            Some(table) => *table,
            None => {
                ctrs.tables.push(read_table(at(document, &["ctr_data", identifier])?)?);
                tables.insert(identifier, ctrs.tables.len() - 1);
                ctrs.tables.len() - 1
            }
        };
        let real = |key: &str| {
            let found = at(listed, &[key]).ok().and_then(number);
            found.map(|value| value as f32).ok_or_else(|| format!("`{key}` of a statistic is no number"))
        };
        let part = |element: &Value| projected(element, features);
        ctrs.ctrs.push(Ctr {
            table,
            kind,
            projection: array(listed, &["elements"])?.iter().map(part).collect::<Result<_, _>>()?,
            target_border: count(listed, &["target_border_idx"])?,
            prior: real("prior_numerator")?,
            // The library's own spelling.
            prior_denominator: real("prior_denomerator")?,
            shift: real("shift")?,
            scale: real("scale")?,
        });
        borders.push(array(listed, &["borders"])?.len());
    }
    Ok((ctrs, borders))
}

fn projected(element: &Value, features: &Features) -> Result<Part, String> {
    Ok(match text(element, &["combination_element"])? {
        "cat_feature_value" => Part::Category { input: features.categorical(element)? },
        "cat_feature_exact_value" => Part::IsCategory { input: features.categorical(element)?, code: code(element)? },
        "float_feature" => {
            let border = number(at(element, &["border"])?).ok_or("a border is no number")?;
            Part::Above { input: features.float(element)?.0, border: border as f32 }
        }
        other => return Err(format!("there is no element {other} of a statistic")),
    })
}

fn read_table(table: &Value) -> Result<CtrTable, String> {
    let stride = count(table, &["hash_stride"])?;
    let items = array(table, &["hash_map"])?;
    if stride < 2 || items.len() % stride != 0 {
        return Err("a table of a statistic does not have whole rows".to_owned());
    }
    let mut buckets = HashMap::with_capacity(items.len() / stride);
    for row in items.chunks(stride) {
        let hash = row[0].as_str().and_then(|text| text.parse::<u64>().ok()).or_else(|| row[0].as_u64());
        let hash = hash.ok_or("the hash of a bucket is no number")?;
        let counts = row[1..].iter().map(|count| number(count).map(|count| count as f32)).collect::<Option<_>>();
        buckets.insert(hash, counts.ok_or("a count of a bucket is no number")?);
    }
    let denominator = at(table, &["counter_denominator"]).ok().and_then(number).unwrap_or_default();
    Ok(CtrTable { buckets, denominator: denominator as f32 })
}
