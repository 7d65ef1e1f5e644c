//! Steps with retries and time limits that fit what they do, for workflows of your own.
//!
//! Each is an ordinary [`Step`]; everything can be set again. `metadata.type` says what it is for.
//!
//! | | attempts, first delay | one attempt takes | priority |
//! | --- | --- | --- | --- |
//! | [`code_analysis`] | 2, 1 s | 15 min | normal |
//! | [`code_generation`], [`code_review`] | 4, 5 s | 10 min | normal |
//! | [`testing`] | 2, 1 s | 30 min | normal |
//! | [`deployment`] | 2, 10 s, only if not reached or temporary | 30 min | high |
//! | [`monitoring`] | 6, 10 s | 30 s | high |
//! | [`notification`] | 5, 5 s | 30 s | normal |
//! | [`approval`] | none: it waits | 1 day | high |
//! | [`http_check`] | as [`monitoring`] | 15 s | high |
//! | [`shell`] | 1 | 10 min | normal |
//! | [`custom`] | 3, 1 s | 10 min | normal |
//!
//! ```
//! use stepwell::workflow::Approval;
//! use stepwell::{Workflow, ready::task};
//!
//! let workflow = Workflow::builder("nightly")
//!     .step(task::shell("fetch", ["git", "pull", "--ff-only"]))
//!     .step(task::testing("tests", "run_tests").after("fetch"))
//!     .step(task::approval("release", Approval::by(["ann", "bob"])).after("tests"))
//!     .step(task::deployment("deploy", "kubernetes").after("release"))
//!     .step(task::http_check("alive", "https://shop.example/health").after("deploy"))
//!     .build()?;
//! assert_eq!(workflow.definition().steps[1].metadata["type"], "testing");
//! # Ok::<(), stepwell::Error>(())
//! ```

use std::time::Duration;

use serde_json::json;

use crate::error::ErrorClass;
use crate::id::StepId;
use crate::retry::RetryConfig;
use crate::workflow::{Approval, Priority, Step, Wait};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Looks at code without running it: linters, type checks, scanners.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::code_analysis("lint", "clippy").after("checkout");
/// assert_eq!(step.metadata["type"], "code_analysis");
/// ```
pub fn code_analysis(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    typed(Step::task(id, executor), "code_analysis")
        .retry(RetryConfig::attempts(2))
        .attempt_timeout(minutes(15))
}

/// Has a model write code; patient with rate limits.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::code_generation("draft", "ai").input("issue", "input.issue");
/// assert_eq!(step.retry.map(|retry| retry.max_attempts), Some(4));
/// ```
pub fn code_generation(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    by_model(Step::task(id, executor), "code_generation")
}

/// Has a model review code; patient with rate limits.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::code_review("opinion", "ai").input("change", "input.diff");
/// assert_eq!(step.metadata["type"], "code_review");
/// ```
pub fn code_review(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    by_model(Step::task(id, executor), "code_review")
}

/// Runs tests. They are tried twice, since what fails may be the test machine; a test that fails for
/// good should be reported as [`fatal`](crate::StepError::fatal).
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::testing("tests", "cargo_test").after("build");
/// assert_eq!(step.metadata["type"], "testing");
/// ```
pub fn testing(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    typed(Step::task(id, executor), "testing")
        .retry(RetryConfig::attempts(2))
        .attempt_timeout(minutes(30))
}

/// Puts something into use. Tried again only where it is plain that nothing has happened yet.
///
/// ```
/// # use stepwell::{Step, ready::task};
/// let step = task::deployment("deploy", "kubernetes")
///     .compensate(Step::task("rollback", "kubernetes_undo").input("release", "output"));
/// assert_eq!(step.priority, stepwell::Priority::High);
/// ```
pub fn deployment(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    let classes = [ErrorClass::Connection, ErrorClass::Temporary];
    typed(Step::task(id, executor), "deployment")
        .retry(RetryConfig::attempts(2).base_delay(seconds(10)).retryable(classes))
        .attempt_timeout(minutes(30))
        .priority(Priority::High)
}

/// Looks whether something works; tries for some minutes before it says no.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::monitoring("health", "probe").after("deploy");
/// assert_eq!(step.retry.map(|retry| retry.max_attempts), Some(6));
/// ```
pub fn monitoring(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    typed(Step::task(id, executor), "monitoring")
        .retry(RetryConfig::attempts(6).base_delay(seconds(10)))
        .attempt_timeout(seconds(30))
        .priority(Priority::High)
}

/// Tells somebody.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::notification("tell", "chat").input("error", "steps.deploy.error").finally();
/// assert_eq!(step.metadata["type"], "notification");
/// ```
pub fn notification(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    typed(Step::task(id, executor), "notification")
        .retry(RetryConfig::attempts(5).base_delay(seconds(5)))
        .attempt_timeout(seconds(30))
}

/// Waits for people to decide, and fails after a day without a decision.
///
/// ```
/// # use stepwell::{ready::task, workflow::Approval};
/// let two = Approval::by(["ann", "bob", "cem"]).quorum(2).prompt("Release?");
/// let step = task::approval("release", two);
/// assert_eq!(step.metadata["type"], "approval");
/// ```
pub fn approval(id: impl Into<StepId>, approval: Approval) -> Step {
    approval_within(id, approval, DAY)
}

pub(super) fn approval_within(id: impl Into<StepId>, approval: Approval, limit: Duration) -> Step {
    typed(Step::wait(id, Wait::approval(approval).timeout(limit)), "approval")
        .priority(Priority::High)
}

/// Sends a `GET` to this address, and fails when it does not answer well: needs the executor
/// `HttpRequest` (feature `request`) registered as `http`.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::http_check("alive", "https://shop.example/health");
/// assert_eq!(step.metadata["type"], "monitoring");
/// ```
pub fn http_check(id: impl Into<StepId>, url: impl Into<String>) -> Step {
    monitoring(id, "http")
        .config(json!({"url": url.into(), "timeout": "10s"}))
        .attempt_timeout(seconds(15))
}

/// Runs a program: needs the executor `Shell` (feature `shell`) registered as `shell`. Tried once,
/// since nobody knows what a program has done before it failed.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::shell("format", ["cargo", "fmt", "--check"]);
/// assert_eq!(step.metadata["type"], "custom");
/// ```
pub fn shell<S: Into<String>>(id: impl Into<StepId>, command: impl IntoIterator<Item = S>) -> Step {
    let command: Vec<String> = command.into_iter().map(Into::into).collect();
    custom(id, "shell").config(json!({"command": command})).retry(RetryConfig::none())
}

/// Any other work.
///
/// ```
/// # use stepwell::ready::task;
/// let step = task::custom("build", "make").after("tests");
/// assert_eq!(step.metadata["type"], "custom");
/// ```
pub fn custom(id: impl Into<StepId>, executor: impl Into<String>) -> Step {
    typed(Step::task(id, executor), "custom")
        .retry(RetryConfig::attempts(3))
        .attempt_timeout(minutes(10))
}

fn by_model(step: Step, of: &str) -> Step {
    typed(step, of)
        .retry(RetryConfig::attempts(4).base_delay(seconds(5)))
        .attempt_timeout(minutes(10))
}

fn typed(step: Step, of: &str) -> Step {
    step.metadata("type", of)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

#[cfg(test)]
mod tests {
    use crate::workflow::Workflow;

    use super::*;

    #[test]
    fn all_can_stand_in_one_workflow() {
        let steps = [
            code_analysis("a", "x"),
            code_generation("b", "x"),
            code_review("c", "x"),
            testing("d", "x"),
            deployment("e", "x"),
            monitoring("f", "x"),
            notification("g", "x"),
            approval("h", Approval::new()),
            http_check("i", "https://example.org"),
            shell("j", ["true"]),
            custom("k", "x"),
        ];
        let workflow = Workflow::builder("all").steps(steps).build().unwrap();
        assert!(workflow.warnings().is_empty(), "{}", workflow.warnings());
        assert_eq!(Workflow::from_json(&workflow.to_json().unwrap()).unwrap(), workflow);
    }
}
