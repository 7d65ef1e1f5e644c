//! One place that a CI/CD workflow deploys to.

use std::time::Duration;

use super::parts::{Parts, text};
use super::task;
use crate::error::Problems;
use crate::retry::RetryConfig;
use crate::workflow::{Approval, Step};

/// One place that [`CiCd`](super::CiCd) deploys to, as a sequence of these parts:
///
/// | part | inputs | |
/// | --- | --- | --- |
/// | `approval` | | only if asked for: people decide |
/// | `deploy` | `artifact`, `environment` | undone by `rollback` |
/// | `health_check` | `environment`, `deployment` | tried for some minutes |
/// | `rollback` | `environment`, `deployment` | when anything later fails, the last one first; tried 5 times |
///
/// A deployment that fails itself has to leave things as they were: only what has succeeded is rolled
/// back.
///
/// ```
/// use std::time::Duration;
/// use serde_json::json;
/// use stepwell::workflow::Approval;
/// use stepwell::{Step, ready::Environment};
///
/// let production = Environment::new("production")
///     .approval(Approval::by(["ann", "bob", "cem"]).quorum(2))
///     .approval_timeout(Duration::from_secs(3600))
///     .task(Step::task("health_check", "http").config(json!({"url": "https://shop.example/health"})));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Environment {
    name: String,
    approval: Option<Approval>,
    approval_timeout: Duration,
    parts: Parts,
}

impl Environment {
    /// A place of this name, without approval.
    pub fn new(name: impl Into<String>) -> Self {
        let (approval, parts) = (None, Parts::default());
        Self { name: name.into(), approval, approval_timeout: task::DAY, parts }
    }

    /// People decide before something is deployed there. Unless they are shown something else, they
    /// see the artifact.
    pub fn approval(mut self, approval: Approval) -> Self {
        self.approval = Some(approval);
        self
    }

    /// How long they may take; default one day. Then the run fails.
    pub fn approval_timeout(mut self, limit: Duration) -> Self {
        self.approval_timeout = limit;
        self
    }

    /// A step in the place of the part of its id, here only.
    pub fn task(mut self, step: Step) -> Self {
        self.parts.put(step);
        self
    }

    /// Leaves out `health_check` or `rollback`, here only.
    pub fn without(mut self, part: impl Into<String>) -> Self {
        self.parts.leave_out(part.into());
        self
    }

    /// How long its approval may take.
    pub(super) fn waits(&self) -> Duration {
        self.approval.as_ref().map_or(Duration::ZERO, |_| self.approval_timeout)
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let place = format!("environments.{}.", self.name);
        self.parts.check(&place, &["deploy"], &["health_check", "rollback"], problems);
    }

    /// The sequence; `common` holds for all environments.
    pub(super) fn into_step(self, workflow: &str, common: &Parts) -> Step {
        let Self { name, approval, approval_timeout, parts } = self;
        let part = |ready| parts.part(common.part(ready));
        let optional = |ready| parts.optional(common.optional(ready)?);
        let environment = text(&name);
        let mut steps = Vec::new();
        if let Some(mut approval) = approval {
            approval.prompt.get_or_insert_with(|| format!("Deploy {workflow} to {name}?"));
            approval.show.get_or_insert_with(|| "steps.build.output".into());
            steps.push(task::approval_within("approval", approval, approval_timeout));
        }
        let mut deploy = task::deployment("deploy", "deploy")
            .input("artifact", "steps.build.output")
            .input("environment", &environment);
        let rollback = task::deployment("rollback", "rollback")
            .retry(RetryConfig::attempts(5).base_delay(Duration::from_secs(10)))
            .input("environment", &environment)
            .input("deployment", "output");
        if let Some(rollback) = optional(rollback) {
            deploy = deploy.compensate(rollback);
        }
        steps.push(part(deploy));
        let check = task::monitoring("health_check", "health_check")
            .input("environment", &environment)
            .input("deployment", "steps.deploy.output");
        steps.extend(optional(check));
        let description = format!("Deploys to {name}");
        Step::sequence(name, steps).description(description)
    }
}

impl From<&str> for Environment {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}
