//! What operators do to a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Mapping;
use crate::error::{ErrorClass, Failure};
use crate::value::{Value, bytes_as_json};
use crate::workflow::Workflow;

/// A change that somebody makes to a run. Steps are named by their paths, as in `build/tests[3]/unit`.
///
/// What it would do is shown by [`RunHandle::preview`](crate::RunHandle::preview); who did it and why
/// is recorded with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Runs steps again that have ended.
    Rerun {
        /// Which.
        steps: Vec<String>,
        /// Whether what follows them runs again, too.
        following: bool,
        /// For a for-each: only the items that did not end well.
        failed_items: bool,
    },
    /// Runs everything in the outermost body again that failed or was stopped, and what follows it; of
    /// a for-each only the items that did not end well.
    RetryFailed,
    /// Leaves steps out. What comes after them goes on.
    Skip {
        /// Which.
        steps: Vec<String>,
    },
    /// Takes a step for done.
    Succeed {
        /// Which.
        step: String,
        /// What it came to.
        output: Value,
    },
    /// Fails a step that has not ended. What deals with its failure goes on.
    Fail {
        /// Which.
        step: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// Changes the definition. Made by [`RunHandle::modification`](crate::RunHandle::modification), which
    /// touches only steps that have not started, or by [`RunHandle::migration`](crate::RunHandle::migration).
    Modify {
        /// The definition from now on.
        workflow: Box<Workflow>,
        /// The workflows that its sub-workflow steps mean.
        linked: Vec<Workflow>,
        /// The revision that it was made from; another is refused.
        revision: u32,
        /// What becomes of the steps that have begun; with none they have to stay as they are.
        mapping: Option<Mapping>,
    },
    /// Stops steps, with everything inside them, as cancelling the run does; the rest goes on.
    Cancel {
        /// Which.
        steps: Vec<String>,
    },
    /// Replaces sealed secrets by the same secrets sealed with another key; see
    /// [`Engine::reseal`](crate::Engine::reseal).
    Reseal {
        /// The new sealed texts by the old ones.
        replaced: BTreeMap<String, String>,
    },
    /// Gives variables new values.
    SetVariables {
        /// A map from their names to their values.
        values: Value,
    },
}

fn paths<S: Into<String>>(steps: impl IntoIterator<Item = S>) -> Vec<String> {
    steps.into_iter().map(Into::into).collect()
}

impl Operation {
    /// Runs a step again, and everything that follows it.
    pub fn rerun(step: impl Into<String>) -> Self {
        Self::Rerun { steps: vec![step.into()], following: true, failed_items: false }
    }

    /// Runs a step again, and nothing else.
    pub fn rerun_alone(step: impl Into<String>) -> Self {
        Self::Rerun { steps: vec![step.into()], following: false, failed_items: false }
    }

    /// Runs those items of a for-each again that did not end well, and everything that follows it.
    pub fn rerun_failed_items(step: impl Into<String>) -> Self {
        Self::Rerun { steps: vec![step.into()], following: true, failed_items: true }
    }

    /// Leaves steps out.
    pub fn skip<S: Into<String>>(steps: impl IntoIterator<Item = S>) -> Self {
        Self::Skip { steps: paths(steps) }
    }

    /// Takes a step for done, with this output.
    pub fn succeed(step: impl Into<String>, output: impl Into<Value>) -> Self {
        Self::Succeed { step: step.into(), output: output.into() }
    }

    /// Fails a step that has not ended, with class [`Rejected`](ErrorClass::Rejected): somebody who was
    /// asked has said no.
    pub fn fail(step: impl Into<String>, message: impl Into<String>) -> Self {
        let failure = Box::new(Failure::new(ErrorClass::Rejected, message));
        Self::Fail { step: step.into(), failure }
    }

    /// Stops steps.
    pub fn cancel<S: Into<String>>(steps: impl IntoIterator<Item = S>) -> Self {
        Self::Cancel { steps: paths(steps) }
    }

    /// Gives a variable a new value.
    pub fn set_variable(name: impl Into<String>, value: impl Into<Value>) -> Self {
        let mut values = serde_json::Map::new();
        values.insert(name.into(), value.into().into_json());
        Self::SetVariables { values: crate::value::Json::Object(values).into() }
    }

    /// Whether it can be done to a run that has ended, which then goes on.
    #[must_use]
    pub const fn reopens(&self) -> bool {
        match self {
            Self::Rerun { .. } | Self::RetryFailed | Self::Skip { .. } | Self::Succeed { .. } => {
                true
            }
            Self::Cancel { .. } | Self::SetVariables { .. } | Self::Reseal { .. } => false,
            Self::Fail { .. } | Self::Modify { .. } => false,
        }
    }

    /// Values that it carries.
    pub(crate) fn value(&self) -> Option<&Value> {
        match self {
            Self::Succeed { output, .. } => Some(output),
            Self::SetVariables { values } => Some(values),
            Self::Rerun { .. }
            | Self::RetryFailed
            | Self::Skip { .. }
            | Self::Fail { .. }
            | Self::Cancel { .. }
            | Self::Reseal { .. }
            | Self::Modify { .. } => None,
        }
    }
}

/// How many bytes sealed texts and those in their place take.
pub(super) fn bytes_of(replaced: &BTreeMap<String, String>) -> usize {
    replaced.iter().map(|(old, new)| old.len() + new.len()).sum()
}

impl Operation {
    /// Calls `f` with every value that it carries.
    pub(super) fn each_value(&self, f: &mut dyn FnMut(&Value)) {
        match self {
            Self::Succeed { output, .. } => f(output),
            Self::SetVariables { values } => f(values),
            Self::Modify { mapping, .. } => mapping.iter().flat_map(Mapping::values).for_each(f),
            Self::Rerun { .. }
            | Self::RetryFailed
            | Self::Skip { .. }
            | Self::Fail { .. }
            | Self::Cancel { .. }
            | Self::Reseal { .. } => {}
        }
    }

    /// How many bytes what it says takes in the journal, about.
    pub(crate) fn bytes(&self) -> usize {
        let mut bytes = self.bytes_beside_values();
        self.each_value(&mut |value| bytes += value.bytes());
        bytes
    }

    pub(super) fn bytes_beside_values(&self) -> usize {
        let all = |steps: &[String]| steps.iter().map(String::len).sum();
        match self {
            Self::Rerun { steps, .. } | Self::Skip { steps } | Self::Cancel { steps } => all(steps),
            Self::RetryFailed | Self::SetVariables { .. } => 0,
            Self::Succeed { step, .. } => step.len(),
            Self::Fail { step, failure } => step.len() + failure.message.len(),
            Self::Modify { workflow, linked, mapping, .. } => {
                let mapping = mapping.as_ref().map_or(0, Mapping::bytes_beside_values);
                bytes_as_json(workflow) + bytes_as_json(linked) + mapping
            }
            Self::Reseal { replaced } => bytes_of(replaced),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rerun { steps, following, failed_items } => {
                write!(f, "rerun {}", steps.join(", "))?;
                f.write_str(if *failed_items { ", failed items only" } else { "" })?;
                f.write_str(if *following { " and what follows" } else { " alone" })
            }
            Self::RetryFailed => f.write_str("retry what failed"),
            Self::Skip { steps } => write!(f, "skip {}", steps.join(", ")),
            Self::Succeed { step, .. } => write!(f, "take {step} for done"),
            Self::Fail { step, failure } => write!(f, "fail {step} ({failure})"),
            Self::Modify { revision, mapping: None, .. } => {
                write!(f, "modify revision {revision}")
            }
            Self::Modify { workflow, revision, .. } => {
                write!(f, "migrate revision {revision} to {}", workflow.reference())
            }
            Self::Cancel { steps } => write!(f, "cancel {}", steps.join(", ")),
            Self::Reseal { replaced } => write!(f, "reseal {} secrets", replaced.len()),
            Self::SetVariables { values } => {
                let names = values.as_object().into_iter().flat_map(|values| values.keys());
                write!(f, "set {}", names.cloned().collect::<Vec<_>>().join(", "))
            }
        }
    }
}
