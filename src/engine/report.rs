//! A run, looked at.

use std::fmt::{self, Write};
use std::sync::Arc;

use crate::executor::RunContext;
use crate::id::RunId;
use crate::journal::{Outcome, RunStatus, StepStatus};
use crate::run::{AttemptRecord, Progress};
use crate::value::Value;

/// A run, ended or not, to be looked at.
#[derive(Clone)]
pub struct Run(Arc<RunContext>);

impl Run {
    pub(super) fn new(context: Arc<RunContext>) -> Self {
        Self(context)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &RunId {
        &self.0.id
    }

    /// What has become of it.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        self.0.state().status()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.state().outcome().cloned()
    }

    /// Its output, if it ended well.
    #[must_use]
    pub fn output(&self) -> Option<Value> {
        self.0.state().outcome().and_then(|outcome| outcome.output().cloned())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.state().progress(self.0.runtime().now())
    }

    /// What has become of the step at this path.
    #[must_use]
    pub fn step_status(&self, path: &str) -> Option<StepStatus> {
        let state = self.0.state();
        state.step_status(state.find(path)?)
    }

    /// The output of the step at this path; null when it has none.
    #[must_use]
    pub fn step_output(&self, path: &str) -> Option<Value> {
        let state = self.0.state();
        Some(state.output(state.find(path)?))
    }

    /// The failed attempts of all steps, each with its step's path.
    #[must_use]
    pub fn error_history(&self) -> Vec<(String, AttemptRecord)> {
        let state = self.0.state();
        state.failed_attempts().map(|(path, record)| (path, record.clone())).collect()
    }

    /// The outermost steps as Mermaid text, with what has become of them.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.0.state().drawing().to_mermaid()
    }

    /// The outermost steps as Graphviz text, with what has become of them.
    #[must_use]
    pub fn to_dot(&self) -> String {
        self.0.state().drawing().to_dot()
    }

    /// The outermost steps as a picture, with what has become of them.
    #[must_use]
    pub fn to_svg(&self) -> String {
        self.0.state().drawing().to_svg()
    }

    /// A few lines for people: how it ended, and each outermost step with its status.
    #[must_use]
    pub fn summary(&self) -> String {
        let progress = self.progress();
        let state = self.0.state();
        let mut text = format!("run {} {}", self.0.id, progress);
        if let Some(Outcome::Failed { step, failure }) = state.outcome() {
            let _ = write!(text, "\n  step {step} failed: {failure}");
        }
        for (step, status) in state.steps().filter(|(step, _)| step.scope == 0).take(SUMMARY_STEPS)
        {
            let attempts = match state.attempt(step) {
                0 | 1 => String::new(),
                attempts => format!(" after {attempts} attempts"),
            };
            let _ = write!(text, "\n  {:<24} {status}{attempts}", state.path(step));
        }
        text
    }
}

/// Steps that a summary lists.
const SUMMARY_STEPS: usize = 100;

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({}, {})", self.0.id, self.status())
    }
}
