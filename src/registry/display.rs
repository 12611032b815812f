//! A plan as people read it: `+` added, `~` changed, `-` removed, with what is different below.

use std::fmt;

use super::plan::{Action, Change, Cost, DefinitionKind, Plan};
use super::version::ChangeCounts;

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Added => "+",
            Action::Changed => "~",
            Action::Removed => "-",
        })
    }
}

impl fmt::Display for DefinitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DefinitionKind::Entity => "entity",
            DefinitionKind::Source => "source",
            DefinitionKind::FeatureView => "feature view",
            DefinitionKind::OnDemandFeatureView => "on-demand feature view",
            DefinitionKind::FeatureService => "feature service",
            DefinitionKind::PredictionRoute => "prediction route",
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cost::Rewrite => "its table is rewritten and its online values are emptied",
            Cost::Backfill => "to be materialized from the beginning",
            Cost::DeleteOnline => "its online values are deleted; its table stays until `asof vacuum`",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.action, self.kind, self.name)?;
        for detail in &self.details {
            writeln!(f, "    {}", detail.text)?;
        }
        if let Some(cost) = self.cost {
            writeln!(f, "    cost: {cost}")?;
        }
        for reason in &self.breaking {
            writeln!(f, "    breaks: {}", reason.change)?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            write!(f, "{change}")?;
        }
        if self.is_empty() {
            return write!(f, "No changes: the registry is up to date (version {}).", self.base_version);
        }
        let ChangeCounts { added, changed, removed } = self.counts();
        write!(f, "\nPlan: {added} to add, {changed} to change, {removed} to remove.")
    }
}
