//! What becomes of a run's steps in another definition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// What becomes of the steps of a run that goes over to another definition.
///
/// Steps are named by their paths without the numbers of items and turns, as in `build/tests/unit`:
/// what is said of a step of a body holds for all that are open. A step that is not named stays what it
/// is, with everything inside it, and one inside a step that was renamed goes along.
///
/// ```
/// use stepwell::journal::Mapping;
///
/// let mapping = Mapping::new()
///     .rename("lint", "check")
///     .rename("build/unit", "build/tests")
///     .remove("announce")
///     .succeed("scan", "scanned by hand")
///     .skip("survey");
/// # assert!(!mapping.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mapping {
    /// The new paths by the old ones; none for a step that is not carried over.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    steps: BTreeMap<String, Option<String>>,
    /// New outermost steps that do not run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ends: BTreeMap<String, End>,
}

/// What becomes of a new step that does not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Succeeded(Value),
    Skipped,
}

impl Mapping {
    /// Every step stays what it is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A step has another path. It keeps what has become of it: its output, its attempts, what it waits
    /// for and until when, and its idempotency key. Only its last part may differ from what the path of
    /// the step around it has become.
    #[must_use]
    pub fn rename(mut self, old: impl Into<String>, new: impl Into<String>) -> Self {
        self.steps.insert(old.into(), Some(new.into()));
        self
    }

    /// A step is not carried over: what it came to is forgotten; if it runs or waits, it is stopped at
    /// once, with all inside it. What it has done is still undone if the run fails. If the new
    /// definition has a step of this path, that begins anew.
    #[must_use]
    pub fn remove(mut self, old: impl Into<String>) -> Self {
        self.steps.insert(old.into(), None);
        self
    }

    /// An outermost step of the new definition is taken for done, with this output.
    #[must_use]
    pub fn succeed(mut self, new: impl Into<String>, output: impl Into<Value>) -> Self {
        self.ends.insert(new.into(), End::Succeeded(output.into()));
        self
    }

    /// An outermost step of the new definition is left out; what comes after it goes on.
    #[must_use]
    pub fn skip(mut self, new: impl Into<String>) -> Self {
        self.ends.insert(new.into(), End::Skipped);
        self
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.ends.is_empty()
    }

    /// What becomes of the step of this path, if anything is said.
    pub(crate) fn of(&self, old: &str) -> Option<Option<&str>> {
        self.steps.get(old).map(Option::as_deref)
    }

    /// The paths of which something is said.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        self.steps.keys().map(String::as_str)
    }

    /// New steps that do not run.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&str, &End)> {
        self.ends.iter().map(|(step, end)| (step.as_str(), end))
    }

    /// Values that it carries.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.ends.values().filter_map(|end| match end {
            End::Succeeded(output) => Some(output),
            End::Skipped => None,
        })
    }

    /// How many bytes it takes in the journal, about, but for its values.
    pub(super) fn bytes_beside_values(&self) -> usize {
        let paths =
            self.steps.iter().map(|(old, new)| old.len() + new.as_ref().map_or(0, String::len));
        let ends = self.ends.keys().map(String::len);
        paths.chain(ends).sum()
    }
}
