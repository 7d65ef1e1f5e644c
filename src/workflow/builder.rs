//! Defining a workflow in Rust.

use super::Variable;
use super::settings::{FailurePolicy, Limits};
use super::{Definition, Step, Workflow};
use crate::error::Result;
use crate::retry::RetryConfig;
use crate::value::Json;

/// Collects a definition; [`build`](Self::build) checks it as a whole.
#[derive(Clone, Debug)]
#[must_use]
pub struct WorkflowBuilder(Definition);

impl WorkflowBuilder {
    pub(super) fn new(id: impl Into<String>) -> Self {
        Self(Definition::new(id))
    }

    /// Adds a step. Order matters only where nothing else decides: the earlier one goes first.
    pub fn step(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }

    /// Adds steps.
    pub fn steps(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.0.steps.extend(steps);
        self
    }

    /// What people read instead of the id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = Some(name.into());
        self
    }

    /// The author's version, from 1. It stands for one content: what is changed is given the next.
    pub const fn version(mut self, version: u32) -> Self {
        self.0.version = Some(version);
        self
    }

    /// What it is for.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.0.description = Some(text.into());
        self
    }

    /// JSON Schema of the input.
    pub fn input_schema(mut self, schema: Json) -> Self {
        self.0.input_schema = Some(schema);
        self
    }

    /// A variable that runs can be started with.
    pub fn variable(mut self, name: impl Into<String>, variable: Variable) -> Self {
        self.0.variables.insert(name.into(), variable);
        self
    }

    /// An expression for the output.
    pub fn output(mut self, expression: impl Into<String>) -> Self {
        self.0.output = Some(expression.into());
        self
    }

    /// What one run may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.0.limits = limits;
        self
    }

    /// What becomes of the rest when a step has failed.
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.0.on_failure = policy;
        self
    }

    /// How often and when steps are tried again that do not say it themselves.
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.0.retry = Some(retry);
        self
    }

    /// A short text to find it by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    /// Free data.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// The definition as collected so far, unchecked.
    #[must_use]
    pub fn into_definition(self) -> Definition {
        self.0
    }

    /// Checks the definition.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems: unknown
    /// and repeated ids, cycles, expressions that do not parse or whose types do not fit, settings
    /// out of their limits.
    pub fn build(self) -> Result<Workflow> {
        Workflow::from_definition(self.0)
    }
}
