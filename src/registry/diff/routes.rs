//! Differences between two prediction routes, in words.

use super::{difference, documentation_details};
use crate::definition::{Experiment, PredictionRoute, RouteAnswer, Shadow, Step};
use crate::time::format_duration;

pub fn route_details(old: &PredictionRoute, new: &PredictionRoute) -> Vec<String> {
    let mut details = Vec::new();
    details.extend(difference("answer", &answer(&old.answer), &answer(&new.answer)));
    details.extend(difference("shadows", &shadows(&old.shadows), &shadows(&new.shadows)));
    details.extend(difference(
        "experiment",
        &experiment(old.experiment.as_ref()),
        &experiment(new.experiment.as_ref()),
    ));
    details.extend(difference("log", &log(old), &log(new)));
    details.extend(documentation_details(&old.documentation, &new.documentation));
    details
}

fn answer(answer: &RouteAnswer) -> String {
    match answer {
        RouteAnswer::Model { model } => model.clone(),
        RouteAnswer::Lookup { lookup, fallback } => match fallback {
            Some(fallback) => format!("{lookup}, else {fallback}"),
            None => lookup.to_string(),
        },
        RouteAnswer::Steps { steps } => steps.iter().map(step).collect::<Vec<_>>().join(", then "),
    }
}

fn step(step: &Step) -> String {
    let mut text = step.model.clone();
    text.extend(step.alias.iter().map(|alias| format!(" as {alias}")));
    text.extend(step.when.iter().map(|when| format!(" when {when}")));
    text.extend(step.otherwise.iter().map(|model| format!(" else {model}")));
    text
}

fn shadows(shadows: &[Shadow]) -> String {
    let shadow = |shadow: &Shadow| {
        let filter = shadow.filter.iter().map(|filter| format!(" where {filter}")).collect::<String>();
        format!("{} {} %{filter}", shadow.model, shadow.percent)
    };
    if shadows.is_empty() { "none".to_owned() } else { shadows.iter().map(shadow).collect::<Vec<_>>().join(", ") }
}

fn experiment(experiment: Option<&Experiment>) -> String {
    let Some(Experiment { name, unit, variants }) = experiment else { return "none".to_owned() };
    let variants: Vec<String> =
        variants.iter().map(|variant| format!("{} {}", variant.model, variant.weight)).collect();
    format!("{name} by {unit}: {}", variants.join(", "))
}

fn log(route: &PredictionRoute) -> String {
    let kept = route.log.retention.map_or("for ever".to_owned(), format_duration);
    format!("sample {}, durability {:?}, kept {kept}", route.log.sample, route.log.durability).to_lowercase()
}
