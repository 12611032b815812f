//! What keeps a source from being taken, or a view from being fed: it concerns nobody else, and is told to who asks.

use std::collections::BTreeMap;

use super::IngestionError;
use crate::definition::{FeatureViewName, SourceName};

#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub sources: BTreeMap<SourceName, IngestionError>,
    pub views: BTreeMap<FeatureViewName, IngestionError>,
}

impl Faults {
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.views.is_empty()
    }

    /// Keeps an error that is the view's own; one of the online store concerns all, and is given back.
    pub(super) fn keep(&mut self, view: &FeatureViewName, error: IngestionError) -> Result<(), IngestionError> {
        if matches!(error, IngestionError::OnlineStore(_)) {
            return Err(error);
        }
        tracing::error!(error = &error as &dyn std::error::Error, %view, "a view is not fed by its stream");
        self.views.insert(view.clone(), error);
        Ok(())
    }

    /// As [`Self::keep`], of a source.
    pub(super) fn keep_source(&mut self, source: &SourceName, error: IngestionError) -> Result<(), IngestionError> {
        if matches!(error, IngestionError::OnlineStore(_)) {
            return Err(error);
        }
        tracing::error!(error = &error as &dyn std::error::Error, %source, "a source takes no events");
        self.sources.insert(source.clone(), error);
        Ok(())
    }
}
