//! Models of LightGBM in its text format (`save_model`).
//!
//! Source: LightGBM's `tree.h` (`NumericalDecision`, `CategoricalDecision`) and its objectives' `ConvertOutput`.

use std::collections::HashMap;

use serde_json::Value;

use super::TreeModel;
use super::builder::{ForestBuilder, SourceNode, SourceTree};
use super::categories::Categories;
use super::ctr::Ctrs;
use super::forest::{CategorySet, Precision};
use super::slots::{Missing, Slot, Slots};
use super::transform::Transform;
use crate::model_runtime::{InputKind, ModelError, ModelFormat, ModelInput};

const FORMAT: ModelFormat = ModelFormat::LightgbmText;

/// Bits of a node's `decision_type`.
const CATEGORICAL: u32 = 1;
const DEFAULT_LEFT: u32 = 2;

/// What a model of LightGBM may have at most, so that a file cannot ask for more memory than it is worth.
const FEATURES_MAX: usize = 1 << 20;
const CLASSES_MAX: usize = 1 << 16;

pub fn load(bytes: &[u8]) -> Result<TreeModel, ModelError> {
    let malformed = |problem: String| ModelError::Malformed { format: FORMAT, problem };
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let file = File::read(text).map_err(malformed)?;
    if let Some(what) = file.unsupported() {
        let remedy = "train without it, or convert the model to ONNX";
        return Err(ModelError::Unsupported { format: FORMAT, what, remedy });
    }
    file.model().map_err(malformed)
}

/// The parts of the text.
struct File<'t> {
    header: HashMap<&'t str, &'t str>,
    trees: Vec<HashMap<&'t str, &'t str>>,
    /// By order of the categorical inputs, their categories.
    pandas_categorical: Vec<Vec<Value>>,
}

impl<'t> File<'t> {
    fn read(text: &'t str) -> Result<Self, String> {
        let mut file = File { header: HashMap::new(), trees: Vec::new(), pandas_categorical: Vec::new() };
        let mut has_ended = false;
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(json) = line.strip_prefix("pandas_categorical:") {
                let parsed = serde_json::from_str::<Option<Vec<Vec<Value>>>>(json);
                file.pandas_categorical =
                    parsed.map_err(|error| format!("pandas_categorical: {error}"))?.unwrap_or_default();
            } else if line == "end of trees" {
                has_ended = true;
            } else if line.starts_with("Tree=") && !has_ended {
                file.trees.push(HashMap::new());
            } else if !has_ended {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                file.trees.last_mut().unwrap_or(&mut file.header).insert(key, value);
            }
        }
        match has_ended {
            true => Ok(file),
            false => Err("it has no line `end of trees`; it may be cut off".to_owned()),
        }
    }

    fn unsupported(&self) -> Option<String> {
        let is_linear = self.trees.iter().any(|tree| tree.get("is_linear").is_some_and(|value| *value != "0"));
        is_linear.then(|| "linear trees".to_owned())
    }

    fn model(&self) -> Result<TreeModel, String> {
        let features = count(&self.header, "max_feature_idx")? + 1;
        let classes = count(&self.header, "num_tree_per_iteration")?;
        if features > FEATURES_MAX || !(1..=CLASSES_MAX).contains(&classes) {
            return Err(format!("it has {features} features and {classes} trees an iteration"));
        }
        let names: Vec<&str> = self.header.get("feature_names").map_or(Vec::new(), |names| names.split(' ').collect());
        if names.len() != features {
            return Err(format!("it names {} features and has {features}", names.len()));
        }
        let categorical = self.categorical(features)?;
        let mut builder = ForestBuilder::new(vec![0.0; classes], Precision::Double);
        let mut slots = Slots::new(self.categories(&categorical), Ctrs::default());
        for (number, tree) in self.trees.iter().enumerate() {
            let in_tree = |problem| format!("tree {number}: {problem}");
            let tree = read_tree(tree, number % classes, features, &mut builder, &mut slots).map_err(in_tree)?;
            builder.add_tree(&tree).map_err(in_tree)?;
        }
        if self.header.contains_key("average_output") {
            let iterations = (self.trees.len() / classes).max(1);
            builder.scaled(1.0 / iterations as f64, vec![0.0; classes]);
        }
        let input = |(name, is_categorical): (&&str, &bool)| ModelInput {
            name: Some((*name).to_owned()),
            kind: if *is_categorical { InputKind::Category } else { InputKind::Number },
        };
        let inputs = names.iter().zip(&categorical).map(input).collect();
        let transform = transform(self.header.get("objective").copied().unwrap_or_default())?;
        Ok(TreeModel { inputs, forest: builder.build(slots.width()), slots, transform })
    }

    /// Which features are categories: those that a split takes for such, and those whose values are listed.
    fn categorical(&self, features: usize) -> Result<Vec<bool>, String> {
        let mut categorical = vec![false; features];
        let infos = self.header.get("feature_infos").map_or(Vec::new(), |infos| infos.split(' ').collect());
        for (feature, info) in infos.iter().enumerate().take(features) {
            // Ranges of numbers are in brackets; a feature that is not used is `none`.
            categorical[feature] = !info.starts_with('[') && *info != "none";
        }
        for tree in &self.trees {
            let (features, kinds) = (list::<usize>(tree, "split_feature")?, list::<u32>(tree, "decision_type")?);
            for (feature, kind) in features.into_iter().zip(kinds) {
                if kind & CATEGORICAL != 0
                    && let Some(known) = categorical.get_mut(feature)
                {
                    *known = true;
                }
            }
        }
        Ok(categorical)
    }

    /// Columns that pandas knows as categories come in their order; others are codes already.
    fn categories(&self, categorical: &[bool]) -> Vec<Option<Categories>> {
        let known = categorical.iter().filter(|is| **is).count();
        let mut listed = self.pandas_categorical.iter();
        let of = |is_categorical: &bool| {
            is_categorical.then(|| match listed.next().filter(|_| self.pandas_categorical.len() == known) {
                Some(values) if values.iter().all(Value::is_number) => {
                    Categories::of_numbers(values.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)))
                }
                Some(values) => {
                    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    Categories::of_texts(values.iter().map(text))
                }
                None => Categories::Codes,
            })
        };
        categorical.iter().map(of).collect()
    }
}

fn read_tree(
    tree: &HashMap<&str, &str>,
    output: usize,
    feature_count: usize,
    builder: &mut ForestBuilder,
    slots: &mut Slots,
) -> Result<SourceTree, String> {
    let leaves = list::<f64>(tree, "leaf_value")?;
    let splits = leaves.len().checked_sub(1).ok_or("it has no leaves")?;
    let features = list::<usize>(tree, "split_feature")?;
    let (thresholds, kinds) = (list::<f64>(tree, "threshold")?, list::<u32>(tree, "decision_type")?);
    let (lefts, rights) = (list::<i64>(tree, "left_child")?, list::<i64>(tree, "right_child")?);
    if [features.len(), thresholds.len(), kinds.len(), lefts.len(), rights.len()] != [splits; 5] {
        return Err(format!("its lists do not have {splits} items each"));
    }
    let boundaries = list::<usize>(tree, "cat_boundaries")?;
    let words = list::<u32>(tree, "cat_threshold")?;
    // Leaves follow the splits; a file numbers them from -1 downwards.
    let child = |number: i64| match usize::try_from(number) {
        Ok(split) => split,
        Err(_) => splits + usize::try_from(-1 - number).unwrap_or(usize::MAX / 2),
    };
    let mut source = SourceTree { nodes: Vec::with_capacity(splits + leaves.len()), output };
    for split in 0..splits {
        let (input, left, right) = (features[split] as u32, child(lefts[split]), child(rights[split]));
        if features[split] >= feature_count {
            return Err(format!("split {split} reads feature {}", features[split]));
        }
        source.nodes.push(match kinds[split] & CATEGORICAL {
            0 => {
                let slot = slots.number_of(number_slot(input, kinds[split])?);
                SourceNode::Number { slot, threshold: thresholds[split], left, right }
            }
            _ => {
                let set = category_set(thresholds[split], &boundaries, &words)
                    .ok_or_else(|| format!("split {split} names categories that are not there"))?;
                let slot = slots.number_of(Slot::Category { input });
                SourceNode::Category { slot, set: builder.add_set(set), left, right }
            }
        });
    }
    source.nodes.extend(leaves.into_iter().map(SourceNode::Leaf));
    Ok(source)
}

fn number_slot(input: u32, kind: u32) -> Result<Slot, String> {
    let side = if kind & DEFAULT_LEFT != 0 { Missing::Low } else { Missing::High };
    let (missing, zero_is_missing) = match kind >> 2 & 3 {
        0 => (Missing::Zero, false),
        1 => (side, true),
        2 => (side, false),
        other => return Err(format!("there is no missing type {other}")),
    };
    Ok(Slot::Number { input, missing, zero_is_missing, is_single: false })
}

/// The categories of a split, whose threshold is their number; a missing one is not among them.
fn category_set(threshold: f64, boundaries: &[usize], words: &[u32]) -> Option<CategorySet> {
    let number = (0.0..1e9).contains(&threshold).then_some(threshold as usize)?;
    let words = words.get(*boundaries.get(number)?..*boundaries.get(number + 1)?)?;
    let bits = words.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(*pair.get(1).unwrap_or(&0)) << 32);
    Some(CategorySet::of_bits(bits.collect()))
}

fn transform(objective: &str) -> Result<Transform, String> {
    let mut words = objective.split(' ');
    let name = words.next().unwrap_or_default();
    let parameters: Vec<&str> = words.collect();
    let sigmoid = || {
        let given = parameters.iter().find_map(|word| word.strip_prefix("sigmoid:"));
        let scale = given.map_or(Ok(1.0), str::parse).map_err(|_| "its sigmoid is no number".to_owned())?;
        Ok::<_, String>(Transform::Sigmoid { scale })
    };
    Ok(match name {
        "regression" | "regression_l2" if parameters.contains(&"sqrt") => Transform::SignedSquare,
        "binary" | "multiclassova" => sigmoid()?,
        "cross_entropy" | "xentropy" => Transform::Sigmoid { scale: 1.0 },
        "cross_entropy_lambda" | "xentlambda" => Transform::LogOnePlusExp,
        "multiclass" => Transform::Softmax,
        "poisson" | "gamma" | "tweedie" => Transform::Exp,
        "regression" | "regression_l1" | "regression_l2" | "huber" | "fair" | "quantile" | "mape" | "lambdarank"
        | "rank_xendcg" | "custom" | "none" | "" => Transform::Identity,
        other => return Err(format!("its objective `{other}` is not known")),
    })
}

fn count(values: &HashMap<&str, &str>, key: &str) -> Result<usize, String> {
    let text = values.get(key).ok_or_else(|| format!("`{key}` is not there"))?;
    text.parse::<u32>().map(|count| count as usize).map_err(|_| format!("`{key}` is no count"))
}

/// Values with blanks between them; none where the key is not there.
fn list<T: std::str::FromStr>(values: &HashMap<&str, &str>, key: &str) -> Result<Vec<T>, String> {
    let items = values.get(key).map_or("", |text| *text).split_ascii_whitespace();
    items.map(|item| item.parse().map_err(|_| format!("`{key}` holds `{item}`"))).collect()
}
