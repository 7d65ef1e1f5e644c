//! Why a step is where it is: one answer for every state that it can be in.

use std::fmt;

use super::scope::More;
use super::wait::wait_of;
use super::{RunState, join};
use crate::id::StepKey;
use crate::journal::{CancelReason, OpenApproval, SkipReason, StepStatus, Waiting};
use crate::plan::{EdgeKind, Link, Meaning};
use crate::time::Timestamp;
use crate::workflow::{Trigger, WaitFor};

/// Why a step does not run, or that it does, or how it ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Explanation {
    /// The run has not begun.
    RunNotStarted,
    /// The run ended before the step did.
    RunEnded,
    /// Dependencies have not ended.
    WaitsFor {
        /// The join rule.
        trigger: Trigger,
        /// Those that have not ended, and where they are.
        dependencies: Vec<Dependency>,
    },
    /// It runs finally, and what was done is being undone first.
    WaitsForCompensation,
    /// It may start, but the run is paused.
    Paused {
        /// Since when.
        since: Timestamp,
    },
    /// It may start, and waits for room.
    Ready {
        /// Since when.
        since: Timestamp,
        /// The limit that is reached, as far as somebody knows it.
        limit: Option<String>,
    },
    /// It runs.
    Running {
        /// Which attempt.
        attempt: u32,
        /// Since when.
        since: Timestamp,
        /// Whether it was asked to stop.
        cancelling: bool,
    },
    /// An attempt failed; the next begins at this time.
    RetryDue {
        /// When.
        at: Timestamp,
        /// Attempts so far.
        attempts: u32,
        /// Why the last one failed.
        failure: String,
    },
    /// Nobody knows what an attempt has done, and it must not be begun twice. Somebody has to say what
    /// became of it, by an [operation](crate::journal::Operation): take it for done, fail it, leave it
    /// out, or run it again.
    OutcomeUnknown {
        /// Which attempt.
        attempt: u32,
        /// Since when.
        since: Timestamp,
        /// What is known.
        failure: String,
    },
    /// It waits for a time.
    WaitsUntil {
        /// Which.
        at: Timestamp,
    },
    /// It waits for a signal.
    WaitsForSignal {
        /// Its name.
        name: String,
        /// When it has waited for too long.
        until: Option<Timestamp>,
    },
    /// It waits for a condition.
    WaitsForCondition {
        /// The condition.
        condition: String,
        /// When it has waited for too long.
        until: Option<Timestamp>,
    },
    /// It waits for a decision of people.
    WaitsForApproval(Box<OpenApproval>),
    /// It waits for whichever comes first.
    WaitsForFirst {
        /// What for, each under its label.
        ways: Vec<String>,
    },
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed {
        /// Why.
        failure: String,
    },
    /// Its own condition was false.
    ConditionFalse {
        /// The condition.
        condition: String,
    },
    /// An operator left it out.
    SkippedByOperator,
    /// Its join rule can no longer be met.
    NotReached {
        /// The join rule.
        trigger: Trigger,
        /// The dependencies that are the reason.
        dependencies: Vec<Dependency>,
    },
    /// It was stopped, or will not be started.
    Cancelled {
        /// Why.
        reason: CancelReason,
    },
}

/// A step that another waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dependency {
    /// Its path.
    pub step: String,
    /// What has become of it.
    pub status: StepStatus,
}

impl RunState {
    /// Why a step is where it is; none when it does not exist, or not yet.
    ///
    /// Which limit of the engine a ready step waits for is known to the engine only; see
    /// [`RunHandle::explain`](crate::RunHandle::explain).
    #[must_use]
    pub fn explain(&self, step: StepKey) -> Option<Explanation> {
        let cell = self.cell(step)?;
        let node = self.node(step)?;
        let more = cell.more.as_deref();
        Some(match cell.status {
            StepStatus::Pending if self.started.is_none() => Explanation::RunNotStarted,
            StepStatus::Pending if node.finally && self.scope(step.scope)?.ending.is_some() => {
                Explanation::WaitsForCompensation
            }
            StepStatus::Pending => {
                let open = |dependency: StepKey, _| !self.has_ended(dependency);
                let dependencies = self.dependencies(step, open);
                Explanation::WaitsFor { trigger: node.trigger, dependencies }
            }
            StepStatus::Ready => match self.paused {
                Some(since) => Explanation::Paused { since },
                None => Explanation::Ready { since: cell.since, limit: None },
            },
            StepStatus::Running => Explanation::Running {
                attempt: cell.attempt,
                since: cell.since,
                cancelling: self.is_cancelling(step),
            },
            StepStatus::Retrying => Explanation::RetryDue {
                at: more.and_then(|more| more.retry_at()).unwrap_or_default(),
                attempts: cell.attempt,
                failure: last_failure(more),
            },
            StepStatus::OutcomeUnknown => Explanation::OutcomeUnknown {
                attempt: cell.attempt,
                since: cell.since,
                failure: last_failure(more),
            },
            StepStatus::Waiting => waits(cell.waiting()?, wait_of(self, step)),
            StepStatus::Succeeded => Explanation::Succeeded,
            StepStatus::Failed => Explanation::Failed {
                failure: more
                    .and_then(|more| more.failure.as_ref())
                    .map_or_else(String::new, ToString::to_string),
            },
            StepStatus::Skipped(SkipReason::Condition) => {
                let condition = node
                    .when
                    .as_ref()
                    .map_or_else(|| "no case of the choice held".to_string(), ToString::to_string);
                Explanation::ConditionFalse { condition }
            }
            StepStatus::Skipped(SkipReason::Operator) => Explanation::SkippedByOperator,
            StepStatus::Skipped(SkipReason::Upstream) => {
                let body = &self.scope(step.scope)?.body;
                let spoils = |dependency: StepKey, kind| {
                    let link = Link { step: step.step, kind };
                    let means = |end| join::meaning(body, dependency.step, link, end);
                    let means = self.end_of(dependency).map(means);
                    means.is_some_and(|means| !matches!(means, Meaning::Met | Meaning::Over))
                };
                let dependencies = self.dependencies(step, spoils);
                Explanation::NotReached { trigger: node.trigger, dependencies }
            }
            StepStatus::Cancelled => match more.and_then(|more| more.cancel) {
                Some(reason) => Explanation::Cancelled { reason },
                // The end of the run is what ended it.
                None => Explanation::RunEnded,
            },
        })
    }

    fn dependencies(
        &self,
        step: StepKey,
        which: impl Fn(StepKey, EdgeKind) -> bool,
    ) -> Vec<Dependency> {
        let Some(scope) = self.scope(step.scope) else {
            return Vec::new();
        };
        let before = scope.body.plan.predecessors(step.step);
        let of = |link: &Link| {
            let key = StepKey { scope: step.scope, step: link.step };
            let status = self.step_status(key)?;
            which(key, link.kind).then(|| Dependency { step: self.path(key), status })
        };
        before.iter().filter_map(of).collect()
    }
}

fn last_failure(more: Option<&More>) -> String {
    let last = more.and_then(|more| more.history.last());
    last.map_or_else(String::new, |record| record.failure.to_string())
}

/// What a step waits for; the definition knows the conditions.
fn waits(wait: &Waiting, of: Option<&WaitFor>) -> Explanation {
    match (wait, of) {
        (Waiting::Until(at), _) => Explanation::WaitsUntil { at: *at },
        (Waiting::Signal(name, until), _) => {
            Explanation::WaitsForSignal { name: name.clone(), until: *until }
        }
        (Waiting::Condition(until), of) => {
            let condition = match of {
                Some(WaitFor::Condition(expr, _)) => expr.to_string(),
                _ => String::new(),
            };
            Explanation::WaitsForCondition { condition, until: *until }
        }
        (Waiting::Approval(open), _) => Explanation::WaitsForApproval(open.clone()),
        (Waiting::First(ways), of) => {
            let defined: &[_] = match of {
                Some(WaitFor::First(defined)) => defined,
                _ => &[],
            };
            let way = |(at, (label, wait)): (usize, &(String, Waiting))| {
                let of = defined.get(at).map(|(_, of)| of);
                format!("{label}: {}", waits(wait, of))
            };
            Explanation::WaitsForFirst { ways: ways.iter().enumerate().map(way).collect() }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |dependencies: &[Dependency]| {
            let texts = dependencies.iter().map(|d| format!("{} ({})", d.step, d.status));
            texts.collect::<Vec<_>>().join(", ")
        };
        let until =
            |at: &Option<Timestamp>| at.map_or_else(String::new, |at| format!(", until {at}"));
        match self {
            Self::RunNotStarted => f.write_str("the run has not begun"),
            Self::RunEnded => f.write_str("the run ended before it did"),
            Self::WaitsFor { dependencies, .. } => write!(f, "waits for {}", list(dependencies)),
            Self::WaitsForCompensation => f.write_str("waits until what was done is undone"),
            Self::Paused { since } => write!(f, "the run is paused since {since}"),
            Self::Ready { since, limit: None } => write!(f, "ready since {since}"),
            Self::Ready { since, limit: Some(limit) } => {
                write!(f, "ready since {since}, waits for room: {limit}")
            }
            Self::Running { attempt, since, cancelling } => {
                write!(f, "attempt {attempt} runs since {since}")?;
                if *cancelling { f.write_str(" and was asked to stop") } else { Ok(()) }
            }
            Self::RetryDue { at, attempts, failure } => {
                write!(f, "attempt {attempts} failed ({failure}); the next begins at {at}")
            }
            Self::OutcomeUnknown { attempt, since, failure } => write!(
                f,
                "nobody knows since {since} what attempt {attempt} has done ({failure}); take the step \
                 for done, fail it, skip it or run it again"
            ),
            Self::WaitsUntil { at } => write!(f, "waits until {at}"),
            Self::WaitsForSignal { name, until: at } => {
                write!(f, "waits for signal {name}{}", until(at))
            }
            Self::WaitsForCondition { condition, until: at } => {
                write!(f, "waits for `{condition}`{}", until(at))
            }
            Self::WaitsForApproval(open) => {
                let OpenApproval { approvers, quorum, votes, until: at, .. } = &**open;
                let (so_far, has_voted) =
                    (open.approvals(), |name: &&String| votes.iter().any(|vote| vote.by == **name));
                let left: Vec<&str> =
                    approvers.iter().filter(|name| !has_voted(name)).map(String::as_str).collect();
                let who = if left.is_empty() { "anybody".to_string() } else { left.join(", ") };
                write!(f, "waits for {} more of {quorum} approvals", quorum - so_far.min(*quorum))?;
                write!(f, " by {who}{}", until(at))
            }
            Self::WaitsForFirst { ways } => {
                write!(f, "waits for the first of: {}", ways.join("; "))
            }
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { failure } => write!(f, "failed: {failure}"),
            Self::ConditionFalse { condition } => {
                write!(f, "skipped: its condition is false: {condition}")
            }
            Self::SkippedByOperator => f.write_str("skipped: an operator wanted it so"),
            Self::NotReached { dependencies, .. } => {
                write!(f, "skipped because of {}", list(dependencies))
            }
            Self::Cancelled { reason } => write!(f, "cancelled: {reason}"),
        }
    }
}
