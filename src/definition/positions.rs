//! Where definitions stand in their files, for what is found to be wrong after they are parsed.

use std::collections::HashMap;
use std::fmt;

use super::names::{FeatureViewName, SourceName, is_valid_name};
use super::raw::{RawAggregation, RawField, RawFile, Text};
use crate::diagnostics::Span;

/// A definition that reads data or computes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    Source(SourceName),
    FeatureView(FeatureViewName),
    OnDemandFeatureView(FeatureViewName),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Source(name) => write!(f, "source `{name}`"),
            Owner::FeatureView(name) => write!(f, "feature view `{name}`"),
            Owner::OnDemandFeatureView(name) => write!(f, "on-demand feature view `{name}`"),
        }
    }
}

/// A part of a definition that can be pointed at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    Name,
    /// Where rows come from: the path of a source, the source or the query of a feature view.
    Input,
    /// The name of a column, where the definition first says it.
    Column(String),
    ColumnType(String),
    /// The expression of an on-demand feature.
    Expression(String),
    /// The condition of an aggregation view.
    Where,
    /// The input of an aggregation, by its index in the view.
    AggregationInput(usize),
    /// What an aggregation is bucketed by, by its index in the view.
    AggregationBy(usize),
}

impl Part {
    /// What stands for a part that is not written down.
    fn fallback(&self) -> Option<Part> {
        match self {
            Part::ColumnType(column) | Part::Expression(column) => Some(Part::Column(column.clone())),
            Part::Column(_) | Part::Where | Part::AggregationInput(_) | Part::AggregationBy(_) => Some(Part::Input),
            Part::Input => Some(Part::Name),
            Part::Name => None,
        }
    }
}

/// The spans of the definitions that [`parse_located`](super::parse_located) gives with them.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    spans: HashMap<(Owner, Part), Span>,
}

impl Positions {
    pub(super) fn of(raw: &RawFile) -> Self {
        let mut positions = Positions::default();
        positions.add_sources(raw);
        positions.add_feature_views(raw);
        positions.add_on_demand_feature_views(raw);
        positions
    }

    /// The span of the part, or of what is nearest to it; `None` if the definition is not of these files.
    pub fn span(&self, owner: &Owner, part: &Part) -> Option<Span> {
        let mut next = Some(part.clone());
        while let Some(part) = next {
            let fallback = part.fallback();
            if let Some(span) = self.spans.get(&(owner.clone(), part)) {
                return Some(*span);
            }
            next = fallback;
        }
        None
    }

    /// The first of two spans of one part counts.
    fn add(&mut self, owner: &Owner, part: Part, span: Span) {
        self.spans.entry((owner.clone(), part)).or_insert(span);
    }

    fn add_columns(&mut self, owner: &Owner, columns: &[RawField]) {
        for column in columns {
            self.add(owner, Part::Column(column.name.value.clone()), column.name.span);
            self.add(owner, Part::ColumnType(column.name.value.clone()), column.r#type.span);
        }
    }

    fn add_sources(&mut self, raw: &RawFile) {
        for source in &raw.sources.items {
            let owner = Owner::Source(SourceName::new(&source.name.value));
            self.add(&owner, Part::Name, source.name.span);
            if let Some(batch) = &source.batch {
                self.add(&owner, Part::Input, batch.path.span);
            }
            for time in source.event_timestamp.iter().chain(&source.created_timestamp).chain(&source.event_id) {
                self.add(&owner, Part::Column(time.value.clone()), time.span);
            }
            if let Some(schema) = &source.schema {
                self.add_columns(&owner, &schema.value);
            }
            for (column, _) in source.rename.iter().flat_map(|rename| &rename.0) {
                self.add(&owner, Part::Column(column.value.clone()), column.span);
            }
        }
    }

    fn add_feature_views(&mut self, raw: &RawFile) {
        for view in &raw.feature_views.items {
            let owner = Owner::FeatureView(FeatureViewName::new(&view.name.value));
            self.add(&owner, Part::Name, view.name.span);
            if let Some(input) = view.source.as_ref().or(view.sql.as_ref()) {
                self.add(&owner, Part::Input, input.span);
            }
            if let Some(features) = &view.features {
                self.add_columns(&owner, &features.value);
            }
            if let Some(condition) = &view.r#where {
                self.add(&owner, Part::Where, condition.span);
            }
            let aggregations = view.aggregations.iter().flat_map(|aggregations| &aggregations.value);
            for (index, aggregation) in aggregations.enumerate() {
                self.add_aggregation(&owner, index, aggregation);
            }
        }
    }

    fn add_aggregation(&mut self, owner: &Owner, index: usize, raw: &RawAggregation) {
        let input = raw.input.as_ref().map(|input| (input, Part::AggregationInput(index)));
        let by = raw.by.as_ref().map(|by| (by, Part::AggregationBy(index)));
        for (Text { value, span }, part) in input.into_iter().chain(by) {
            self.add(owner, part, *span);
            if is_valid_name(value.trim()) {
                self.add(owner, Part::Column(value.trim().to_owned()), *span);
            }
        }
        let aggregation = raw.to_model();
        let base_name = aggregation.base_name();
        // Names that are not valid may be long, and there is one a window.
        if is_valid_name(&base_name) {
            self.add(owner, Part::Column(base_name), raw.place());
            for feature in aggregation.feature_names() {
                self.add(owner, Part::Column(feature), raw.place());
            }
        }
    }

    fn add_on_demand_feature_views(&mut self, raw: &RawFile) {
        for view in &raw.on_demand_feature_views.items {
            let owner = Owner::OnDemandFeatureView(FeatureViewName::new(&view.name.value));
            self.add(&owner, Part::Name, view.name.span);
            for feature in &view.features.value {
                let name = || feature.name.value.clone();
                self.add(&owner, Part::Column(name()), feature.name.span);
                self.add(&owner, Part::ColumnType(name()), feature.r#type.span);
                self.add(&owner, Part::Expression(name()), feature.expression.span);
            }
        }
    }
}
