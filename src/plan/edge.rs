//! Edges between steps.

use serde::{Deserialize, Serialize};

/// What must become of the step that an edge leaves, for the step that it enters to count it as met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// It succeeded, or was skipped because its own condition was false.
    After,
    /// It really succeeded.
    OnSuccess,
    /// It failed.
    OnFailure,
    /// It was skipped because its own condition was false.
    Otherwise,
    /// It ended, whichever way.
    Always,
    /// It ended, whichever way, and no join rule counts it: it is only read.
    Reads,
}

impl EdgeKind {
    /// The word that documents and drawings use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::OnSuccess => "on_success",
            Self::OnFailure => "on_failure",
            Self::Otherwise => "otherwise",
            Self::Always => "always",
            Self::Reads => "reads",
        }
    }
}

/// An edge by the places of its two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The step that comes first.
    pub from: u32,
    /// The step that waits for it.
    pub to: u32,
    /// What it waits for.
    pub kind: EdgeKind,
}

/// One end of an edge, seen from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// The step at that end.
    pub step: u32,
    /// The edge's kind.
    pub kind: EdgeKind,
}

/// An `on_failure` edge to a step whose join rule is about failures is there for the failure to be
/// counted, like any other.
impl EdgeKind {
    pub(crate) const fn counted(self) -> Self {
        match self {
            Self::OnFailure => Self::After,
            other => other,
        }
    }
}

/// How a step can end, as far as edges care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed,
    /// Left out because its own condition was false.
    ConditionFalse,
    /// Left out by an operator: done, as far as what comes after is concerned.
    Waived,
    /// Left out, or stopped, for any other reason.
    NotTaken,
}

/// What the end of one step means to one that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Met,
    Failed,
    /// It was not taken, or the edge was for another end.
    Missed,
    /// It is over, and does not count.
    Over,
}

impl EdgeKind {
    /// What this end means across an edge of this kind.
    pub(crate) const fn meaning(self, end: End) -> Meaning {
        match (self, end) {
            (Self::Reads, _) => Meaning::Over,
            (Self::Always, _)
            | (Self::After | Self::OnSuccess, End::Succeeded)
            | (Self::After | Self::Otherwise, End::ConditionFalse)
            | (Self::After, End::Waived)
            | (Self::OnFailure, End::Failed) => Meaning::Met,
            (Self::After | Self::OnSuccess, End::Failed) => Meaning::Failed,
            _ => Meaning::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_skip_is_done_for_after_and_a_way_for_otherwise() {
        let skipped = End::ConditionFalse;
        assert_eq!(EdgeKind::After.meaning(skipped), Meaning::Met);
        assert_eq!(EdgeKind::OnSuccess.meaning(skipped), Meaning::Missed);
        assert_eq!(EdgeKind::Otherwise.meaning(skipped), Meaning::Met);
        assert_eq!(EdgeKind::After.meaning(End::NotTaken), Meaning::Missed);
        assert_eq!(EdgeKind::Otherwise.meaning(End::NotTaken), Meaning::Missed);
    }
}
