//! A definition as plain data, valid or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Step;
use super::Variable;
use super::settings::{FailurePolicy, Limits, Metadata};
use crate::retry::RetryConfig;
use crate::value::Json;

/// A workflow as its author wrote it: the document, in JSON or YAML, is this type.
///
/// [`Workflow::from_definition`](super::Workflow::from_definition) checks it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Definition {
    /// What runs, schedules and sub-workflow steps name.
    pub id: String,
    /// What people read instead of the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The author's version, from 1: sub-workflow steps can name it, and it stands for one content.
    /// Without one, definitions are told apart by content alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of the input: lets expressions be checked when the workflow is built, and every
    /// input when a run is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Json>,
    /// What runs can be started with besides the input; read as `vars.name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Variable>,
    /// The steps.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// An expression for the output; none is the output of the only last step, or else a map from
    /// the ids of all last steps to their outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What one run may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What becomes of the rest when a step has failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: FailurePolicy,
    /// How often and when steps are tried again that do not say it themselves; none is once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryConfig>,
    /// Short texts to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

impl Definition {
    /// An empty definition with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
