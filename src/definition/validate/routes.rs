//! Rules of prediction routes. Whether a model exists is for its registry to say.

use std::collections::HashMap;

use super::super::model::{FeatureReference, Field};
use super::super::names::{RouteName, is_valid_name};
use super::super::prediction::{
    Experiment, LogDurability, PredictionLog, PredictionRoute, RouteAnswer, Shadow, Step, Variant,
};
use super::super::raw::{
    Named, RawExperiment, RawPredictionLog, RawPredictionRoute, RawShadow, RawStep, Text, split_reference,
};
use super::super::value_type::ValueType;
use super::catalog::{Catalog, check_name, report_unknown, report_unknown_feature};
use super::fields::check_repeated;
use super::on_demand::CheckedOnDemandView;
use super::views::CheckedView;
use crate::diagnostics::{Located, Reporter};

const MODEL_HELP: &str = "write `name`, `name@alias` or `name@version`";

pub fn prediction_route(
    raw: &RawPredictionRoute,
    feature_views: &Catalog<CheckedView>,
    on_demand: &Catalog<CheckedOnDemandView>,
    reporter: &mut Reporter<'_>,
) -> Option<PredictionRoute> {
    let answer = answer(raw, feature_views, on_demand, reporter)?;
    if let (Some(experiment), RouteAnswer::Steps { .. } | RouteAnswer::Lookup { .. }) = (&raw.experiment, &answer) {
        let help = "name the `model` that the variants stand for";
        reporter.error_with_help(experiment.name.span, "an experiment needs a route of one model", help);
    }
    let shadows = raw.shadows.iter().flatten().map(|shadow| self::shadow(shadow, reporter)).collect();
    Some(PredictionRoute {
        name: RouteName::new(&raw.name().value),
        answer,
        shadows,
        experiment: raw.experiment.as_ref().map(|raw| experiment(raw, reporter)),
        log: raw.log.as_ref().map(|raw| log(raw, reporter)).unwrap_or_default(),
        documentation: raw.documentation(),
    })
}

fn answer(
    raw: &RawPredictionRoute,
    feature_views: &Catalog<CheckedView>,
    on_demand: &Catalog<CheckedOnDemandView>,
    reporter: &mut Reporter<'_>,
) -> Option<RouteAnswer> {
    let name = &raw.name;
    if let (Some(fallback), None) = (&raw.fallback, &raw.lookup) {
        reporter.error_with_help(fallback.span, "`fallback` without `lookup`", "it answers where the lookup does not");
    }
    match (&raw.model, &raw.steps, &raw.lookup) {
        (Some(model), None, None) => Some(RouteAnswer::Model { model: model_reference(model, reporter) }),
        (None, Some(listed), None) => Some(RouteAnswer::Steps { steps: steps(listed, reporter) }),
        (None, None, Some(lookup)) => {
            let value_type = check_lookup(lookup, feature_views, on_demand, reporter);
            if let (Some(fallback), Some(value_type)) = (&raw.fallback, value_type)
                && !value_type.is_prediction()
            {
                let message = format!("`{}` has type {value_type}, and a model answers numbers", lookup.value);
                reporter.error_with_help(
                    fallback.span,
                    message,
                    "look up a feature of numbers, or leave the fallback out",
                );
            }
            let fallback = raw.fallback.as_ref().map(|model| model_reference(model, reporter));
            Some(RouteAnswer::Lookup { lookup: FeatureReference::parse(&lookup.value), fallback })
        }
        (None, None, None) => {
            let help = "say which model answers: `model: name@champion`, `steps: […]` or `lookup: view:feature`";
            reporter.error_with_help(name.span, format!("prediction route `{}` has no model", name.value), help);
            None
        }
        _ => {
            let message =
                format!("prediction route `{}` has more than one of `model`, `steps` and `lookup`", name.value);
            reporter.error_with_help(name.span, message, "one of them answers");
            None
        }
    }
}

fn model_reference(text: &Text, reporter: &mut Reporter<'_>) -> String {
    let (name, pointer) = text.value.split_once('@').unwrap_or((&text.value, "champion"));
    let is_version = !pointer.is_empty() && pointer.bytes().all(|byte| byte.is_ascii_digit());
    if !is_valid_name(name) || !(is_version || is_valid_name(pointer)) {
        reporter.error_with_help(text.span, format!("`{}` is no reference to a model", text.value), MODEL_HELP);
    }
    text.value.clone()
}

/// The type of the feature, where there is one.
fn check_lookup(
    lookup: &Text,
    feature_views: &Catalog<CheckedView>,
    on_demand: &Catalog<CheckedOnDemandView>,
    reporter: &mut Reporter<'_>,
) -> Option<ValueType> {
    let (view, feature) = split_reference(lookup);
    let Some(feature) = feature else {
        let message = format!("`{}` names no feature", lookup.value);
        reporter.error_with_help(lookup.span, message, "write `view:feature`");
        return None;
    };
    let known: Option<Vec<&Field>> = match (feature_views.get(&view.value), on_demand.get(&view.value)) {
        (Some(checked), _) => Some(checked.view.features.iter().collect()),
        (None, Some(checked)) => Some(checked.view.features.iter().map(|f| &f.field).collect()),
        (None, None) => None,
    };
    let found = known.as_ref().and_then(|known| known.iter().find(|field| field.name == *feature.as_str()));
    if let Some(found) = found {
        return Some(found.value_type.clone());
    }
    match known {
        Some(known) => {
            let names: Vec<&str> = known.iter().map(|field| field.name.as_str()).collect();
            report_unknown_feature(&view.value, &feature, &names, reporter);
        }
        None if feature_views.may_have(&view.value) || on_demand.may_have(&view.value) => {}
        None => {
            let names = feature_views.names().chain(on_demand.names());
            report_unknown("feature view", "feature views", &view, names, reporter);
        }
    }
    None
}

fn steps(listed: &Located<Vec<RawStep>>, reporter: &mut Reporter<'_>) -> Vec<Step> {
    if listed.value.is_empty() {
        reporter.error_with_help(listed.span, "there are no steps", "write `steps: [{model: …, as: …}, {model: …}]`");
    }
    let mut seen = HashMap::new();
    let last = listed.value.len().saturating_sub(1);
    for (position, step) in listed.value.iter().enumerate() {
        if let Some(alias) = &step.r#as {
            check_name("step", alias, reporter);
            check_repeated("step", alias, &mut seen, reporter);
        } else if position < last {
            let help = "give it a name with `as: …`, by which later steps read its prediction";
            reporter.error_with_help(step.model.span, "nothing reads the prediction of this step", help);
        }
        match (&step.when, &step.r#else) {
            (None, Some(otherwise)) => {
                let help = "say with `when: …` which rows get the model before it";
                reporter.error_with_help(otherwise.span, "`else` without `when`", help);
            }
            (Some(when), None) if position == last => {
                let help = "name the model for the other rows with `else: …`";
                reporter.error_with_help(when.span, "the last step answers only some rows", help);
            }
            _ => {}
        }
    }
    let text = |text: &Option<Text>| text.as_ref().map(|text| text.value.clone());
    let step = |step: &RawStep| Step {
        model: model_reference(&step.model, reporter),
        alias: text(&step.r#as),
        when: text(&step.when),
        otherwise: step.r#else.as_ref().map(|model| model_reference(model, reporter)),
    };
    listed.value.iter().map(step).collect()
}

fn shadow(raw: &RawShadow, reporter: &mut Reporter<'_>) -> Shadow {
    let percent = raw.percent.as_ref();
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(&percent.value)) {
        reporter.error_with_help(percent.span, "`percent` is not between 0 and 100", "write a share such as 10");
    }
    Shadow {
        model: model_reference(&raw.model, reporter),
        percent: percent.map_or(100.0, |percent| percent.value),
        filter: raw.r#where.as_ref().map(|text| text.value.clone()),
    }
}

fn experiment(raw: &RawExperiment, reporter: &mut Reporter<'_>) -> Experiment {
    check_name("experiment", &raw.name, reporter);
    let is_weight = |weight: f64| weight > 0.0 && weight.is_finite();
    if raw.variants.value.is_empty() {
        let help = "write `variants: [{model: name@3, weight: 50}, {model: name@4, weight: 50}]`";
        reporter.error_with_help(raw.variants.span, "the experiment has no variants", help);
    }
    for variant in raw.variants.value.iter().filter(|variant| !is_weight(variant.weight.value)) {
        reporter.error_with_help(variant.weight.span, "a weight is not above zero", "write a number such as 50");
    }
    let variants = raw.variants.value.iter();
    let variants = variants
        .map(|raw| Variant { model: model_reference(&raw.model, reporter), weight: raw.weight.value })
        .collect();
    Experiment { name: raw.name.value.clone(), unit: raw.unit.value.clone(), variants }
}

fn log(raw: &RawPredictionLog, reporter: &mut Reporter<'_>) -> PredictionLog {
    if let Some(sample) = raw.sample.as_ref().filter(|sample| !(0.0..=1.0).contains(&sample.value)) {
        reporter.error_with_help(sample.span, "`sample` is not between 0 and 1", "write a share such as 0.1");
    }
    let durability = match raw.durability.as_ref().map(|text| (text.as_str(), text.span)) {
        None => LogDurability::default(),
        Some(("machine", _)) => LogDurability::Machine,
        Some(("process", _)) => LogDurability::Process,
        Some(("none", _)) => LogDurability::None,
        Some((other, span)) => {
            let help = "write machine, process or none";
            reporter.error_with_help(span, format!("there is no durability `{other}`"), help);
            LogDurability::default()
        }
    };
    if let Some(retention) = raw.retention.as_ref().filter(|retention| retention.value.0.is_zero()) {
        reporter.error_with_help(retention.span, "`retention` is no time at all", "write how long, such as 90d");
    }
    PredictionLog {
        sample: raw.sample.as_ref().map_or(1.0, |sample| sample.value),
        durability,
        retention: raw.retention.as_ref().map(|duration| duration.value.0),
    }
}
