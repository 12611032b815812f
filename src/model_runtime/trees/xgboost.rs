//! Models of XGBoost: JSON and UBJSON (`save_model`).
//!
//! Source: XGBoost's schema `doc/model.schema`, `predict_fn.h` (`GetNextNode`) and its objectives' `PredTransform`.
//! XGBoost computes with 32 bits, so sums are rounded after every tree, as its own are.

use std::collections::HashMap;

use serde_json::Value;

use super::TreeModel;
use super::builder::{ForestBuilder, SourceNode, SourceTree};
use super::categories::Categories;
use super::ctr::Ctrs;
use super::forest::{CategorySet, Precision};
use super::json::{array, at, count, number, numbers, text};
use super::slots::{Missing, Slot, Slots};
use super::transform::Transform;
use super::ubjson;
use crate::model_runtime::{InputKind, ModelError, ModelFormat, ModelInput};

/// What a model may have at most, so that a file cannot ask for more memory than it is worth.
const FEATURES_MAX: usize = 1 << 20;
const OUTPUTS_MAX: usize = 1 << 16;
/// Categories have codes below this.
const CATEGORY_MAX: f64 = 16_777_216.0;

pub fn load_json(bytes: &[u8]) -> Result<TreeModel, ModelError> {
    let format = ModelFormat::XgboostJson;
    let document = serde_json::from_slice(bytes)
        .map_err(|error: serde_json::Error| ModelError::Malformed { format, problem: error.to_string() })?;
    model(format, &document)
}

pub fn load_ubjson(bytes: &[u8]) -> Result<TreeModel, ModelError> {
    let format = ModelFormat::XgboostUbj;
    let document = ubjson::parse(bytes).map_err(|problem| ModelError::Malformed { format, problem })?;
    model(format, &document)
}

fn model(format: ModelFormat, document: &Value) -> Result<TreeModel, ModelError> {
    let learner = at(document, &["learner"]).map_err(|problem| ModelError::Malformed { format, problem })?;
    if let Some(what) = unsupported(learner) {
        let remedy = "train with trees and one value a leaf, or convert the model to ONNX";
        return Err(ModelError::Unsupported { format, what, remedy });
    }
    read(learner).map_err(|problem| ModelError::Malformed { format, problem })
}

fn unsupported(learner: &Value) -> Option<String> {
    let booster = text(learner, &["gradient_booster", "name"]).unwrap_or_default();
    if booster == "gblinear" {
        return Some("the booster gblinear".to_owned());
    }
    let trees = trees_of(learner).ok()?.get("trees")?.as_array()?;
    let values = |tree: &Value| count(tree, &["tree_param", "size_leaf_vector"]).unwrap_or(1);
    trees.iter().any(|tree| values(tree) > 1).then(|| "several values a leaf (multi_output_tree)".to_owned())
}

/// The part with the trees, which dart has one level deeper.
fn trees_of(learner: &Value) -> Result<&Value, String> {
    match text(learner, &["gradient_booster", "name"])? {
        "gbtree" => at(learner, &["gradient_booster", "model"]),
        "dart" => at(learner, &["gradient_booster", "gbtree", "model"]),
        other => Err(format!("its booster `{other}` is not known")),
    }
}

fn read(learner: &Value) -> Result<TreeModel, String> {
    let parameters = at(learner, &["learner_model_param"])?;
    let features = count(parameters, &["num_feature"])?;
    let targets = count(parameters, &["num_target"]).unwrap_or(1).max(1);
    let outputs = count(parameters, &["num_class"])?.max(1).saturating_mul(targets);
    if features > FEATURES_MAX || outputs > OUTPUTS_MAX {
        return Err(format!("it has {features} features and {outputs} outputs"));
    }
    let objective = text(learner, &["objective", "name"])?;
    let (transform, link) = objective_of(objective)?;
    let start = base_scores(parameters, outputs)?.into_iter().map(|score| f64::from(link(score as f32))).collect();
    let inputs = inputs(learner, features)?;
    let part = trees_of(learner)?;
    let mut slots = Slots::new(categories(part, &inputs)?, Ctrs::default());
    let mut builder = ForestBuilder::new(start, Precision::Single);
    let groups = numbers(part, &["tree_info"])?;
    let weights = match at(learner, &["gradient_booster", "weight_drop"]) {
        Ok(_) => Some(numbers(learner, &["gradient_booster", "weight_drop"])?),
        Err(_) => None,
    };
    let trees = array(part, &["trees"])?;
    for (position, tree) in trees.iter().enumerate().take(trees_used(learner, part, trees.len())) {
        let in_tree = |problem| format!("tree {position}: {problem}");
        let group = groups.get(position).copied().ok_or_else(|| in_tree("it has no group".to_owned()))?;
        let weight = weights.as_ref().map_or(1.0, |weights| weights.get(position).copied().unwrap_or(1.0));
        let context = TreeContext { features, output: group as usize, weight: weight as f32 };
        let tree = read_tree(tree, &context, &mut builder, &mut slots).map_err(in_tree)?;
        builder.add_tree(&tree).map_err(in_tree)?;
    }
    Ok(TreeModel { inputs, forest: builder.build(slots.width()), slots, transform })
}

/// Models of the scikit-learn interface predict with the trees up to the best iteration, if training found one.
fn trees_used(learner: &Value, part: &Value, all: usize) -> usize {
    let of_sklearn = at(learner, &["attributes", "scikit_learn"]).is_ok();
    let best = at(learner, &["attributes", "best_iteration"]).ok().and_then(number).filter(|_| of_sklearn);
    let ends = numbers(part, &["iteration_indptr"]).unwrap_or_default();
    let end = best.and_then(|best| ends.get(best as usize + 1).copied());
    end.map_or(all, |end| (end as usize).min(all))
}

/// What the base score is before the sums are transformed.
type BaseScore = fn(f32) -> f32;

/// What is done to the sums, and what the base score is before it.
fn objective_of(name: &str) -> Result<(Transform, BaseScore), String> {
    let logit: BaseScore = |score| -(1.0 / score - 1.0).ln();
    let same: BaseScore = |score| score;
    let sigmoid = Transform::Sigmoid { scale: 1.0 };
    Ok(match name {
        "binary:logistic" | "reg:logistic" => (sigmoid, logit),
        "binary:logitraw" => (Transform::Identity, same),
        "binary:hinge" => (Transform::Step, same),
        "count:poisson" | "reg:gamma" | "reg:tweedie" | "survival:cox" | "survival:aft" => (Transform::Exp, f32::ln),
        "multi:softprob" => (Transform::Softmax, same),
        "multi:softmax" => (Transform::ArgMax, same),
        "reg:squarederror"
        | "reg:linear"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:quantileerror"
        | "reg:expectileerror"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map" => (Transform::Identity, same),
        other => return Err(format!("its objective `{other}` is not known")),
    })
}

/// One an output; files of older versions have one number, those of newer ones a list in a text.
fn base_scores(parameters: &Value, outputs: usize) -> Result<Vec<f64>, String> {
    let wrong = || "its base_score is no number".to_owned();
    let text = text(parameters, &["base_score"])?.trim_matches(['[', ']']);
    let scores = text.split(',').map(|score| score.trim().parse::<f64>().map_err(|_| wrong()));
    let scores: Vec<f64> = scores.collect::<Result<_, _>>()?;
    match scores.as_slice() {
        [score] => Ok(vec![*score; outputs]),
        scores if scores.len() == outputs => Ok(scores.to_vec()),
        scores => Err(format!("it has {} base scores for {outputs} outputs", scores.len())),
    }
}

fn inputs(learner: &Value, features: usize) -> Result<Vec<ModelInput>, String> {
    let texts = |key: &str| -> Vec<&str> {
        array(learner, &[key]).map_or(Vec::new(), |items| items.iter().filter_map(Value::as_str).collect())
    };
    let (names, types) = (texts("feature_names"), texts("feature_types"));
    for (what, list) in [("names", &names), ("types", &types)] {
        if !list.is_empty() && list.len() != features {
            return Err(format!("it has {} feature {what} for {features} features", list.len()));
        }
    }
    let input = |position: usize| ModelInput {
        name: names.get(position).map(|name| (*name).to_owned()),
        kind: match types.get(position) {
            Some(&"c") => InputKind::Category,
            _ => InputKind::Number,
        },
    };
    Ok((0..features).map(input).collect())
}

/// The categories that a model was trained with, where its file tells.
fn categories(part: &Value, inputs: &[ModelInput]) -> Result<Vec<Option<Categories>>, String> {
    let known = array(part, &["cats", "enc"]).unwrap_or_default();
    let of = |(position, input): (usize, &ModelInput)| {
        if input.kind != InputKind::Category {
            return Ok(None);
        }
        let Some(listed) = known.get(position) else { return Ok(Some(Categories::Codes)) };
        let values = numbers(listed, &["values"])?;
        if at(listed, &["offsets"]).is_err() {
            return Ok(Some(if values.is_empty() { Categories::Codes } else { Categories::of_numbers(values) }));
        }
        let offsets = numbers(listed, &["offsets"])?;
        let bytes: Vec<u8> = values.iter().map(|value| *value as i64 as u8).collect();
        // XGBoost 3.2 counts the names of pandas in characters, and cuts their bytes by that count; those of Arrow look
        // alike and are whole.
        if !bytes.is_ascii() {
            return Err(
                "its categories have names beyond ASCII, which XGBoost writes cut where they come from pandas; \
                        train it with names in ASCII, or with codes"
                    .to_owned(),
            );
        }
        let text = |bounds: &[f64]| {
            let bytes = bytes.get(bounds[0] as usize..bounds[1] as usize);
            let bytes = bytes.ok_or("its categories do not fit together")?;
            String::from_utf8(bytes.to_vec()).map_err(|_| "a category is not UTF-8".to_owned())
        };
        let texts: Vec<String> = offsets.windows(2).map(text).collect::<Result<_, _>>()?;
        Ok(Some(if texts.is_empty() { Categories::Codes } else { Categories::of_texts(texts) }))
    };
    inputs.iter().enumerate().map(of).collect()
}

struct TreeContext {
    features: usize,
    output: usize,
    weight: f32,
}

fn read_tree(
    tree: &Value,
    context: &TreeContext,
    builder: &mut ForestBuilder,
    slots: &mut Slots,
) -> Result<SourceTree, String> {
    let lefts = numbers(tree, &["left_children"])?;
    let rights = numbers(tree, &["right_children"])?;
    let inputs = numbers(tree, &["split_indices"])?;
    let conditions = numbers(tree, &["split_conditions"])?;
    let defaults = numbers(tree, &["default_left"])?;
    let kinds = numbers(tree, &["split_type"]).unwrap_or_else(|_| vec![0.0; lefts.len()]);
    let nodes = lefts.len();
    if [rights.len(), inputs.len(), conditions.len(), defaults.len(), kinds.len()] != [nodes; 5] {
        return Err(format!("its lists do not have {nodes} items each"));
    }
    let sets = Sets::read(tree)?;
    let mut source = SourceTree { nodes: Vec::with_capacity(nodes), output: context.output };
    for node in 0..nodes {
        if lefts[node] < 0.0 {
            source.nodes.push(SourceNode::Leaf(f64::from(conditions[node] as f32 * context.weight)));
            continue;
        }
        if !(0.0..context.features as f64).contains(&inputs[node]) {
            return Err(format!("node {node} reads feature {}", inputs[node]));
        }
        let (input, left, right) = (inputs[node] as u32, lefts[node] as usize, rights[node].max(0.0) as usize);
        let is_default_left = defaults[node] != 0.0;
        source.nodes.push(if kinds[node] == 1.0 {
            let mut set = sets.of(node)?;
            // The categories of a split go right here; a set of ours goes left.
            set.has_missing = !is_default_left;
            let slot = slots.number_of(Slot::Category { input });
            SourceNode::Category { slot, set: builder.add_set(set), left: right, right: left }
        } else {
            let missing = if is_default_left { Missing::Low } else { Missing::High };
            let slot = slots.number_of(Slot::Number { input, missing, zero_is_missing: false, is_single: true });
            // `x < t` is `x <= the number before t`.
            let threshold = f64::from((conditions[node] as f32).next_down());
            SourceNode::Number { slot, threshold, left, right }
        });
    }
    Ok(source)
}

/// The categories of a tree's splits.
struct Sets {
    /// By node, where its codes begin and how many they are.
    segments: HashMap<usize, (usize, usize)>,
    codes: Vec<f64>,
}

impl Sets {
    fn read(tree: &Value) -> Result<Self, String> {
        let list = |key: &str| if tree.get(key).is_some() { numbers(tree, &[key]) } else { Ok(Vec::new()) };
        let bounds = list("categories_segments")?.into_iter().zip(list("categories_sizes")?);
        let segment = |(node, (start, size)): (f64, (f64, f64))| (node as usize, (start as usize, size as usize));
        let segments = list("categories_nodes")?.into_iter().zip(bounds).map(segment).collect();
        Ok(Sets { segments, codes: list("categories")? })
    }

    fn of(&self, node: usize) -> Result<CategorySet, String> {
        let missing = || format!("node {node} has no categories");
        let (start, size) = *self.segments.get(&node).ok_or_else(missing)?;
        let codes = self.codes.get(start..start.saturating_add(size)).ok_or_else(missing)?;
        match codes.iter().find(|code| !(0.0..CATEGORY_MAX).contains(*code)) {
            Some(code) => Err(format!("node {node} names the category {code}")),
            None => Ok(CategorySet::of_codes(codes.iter().map(|code| *code as u32).collect())),
        }
    }
}
