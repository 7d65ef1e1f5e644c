//! Join rules: when a step with dependencies may start.

use crate::error::ErrorClass;
use crate::journal::{SkipReason, StepStatus};
use crate::plan::{EdgeKind, End, Link, Meaning};
use crate::workflow::{Body, Trigger};

/// How a step has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It failed, with an error of this class.
    Badly(ErrorClass),
    /// With this status, which is not `Failed`.
    As(StepStatus),
}

impl Ended {
    pub(super) const fn status(self) -> StepStatus {
        match self {
            Self::Badly(_) => StepStatus::Failed,
            Self::As(status) => status,
        }
    }
}

/// What a step of a body that has ended like this means across an edge to one that waits for it.
pub(super) fn meaning(body: &Body, from: u32, link: Link, end: Ended) -> Meaning {
    if link.kind == EdgeKind::OnFailure
        && let Ended::Badly(class) = end
    {
        let node = body.node(link.step);
        if !node.catches(from, class) {
            return Meaning::Missed;
        }
        if node.trigger.catches_failure() {
            return link.kind.counted().meaning(End::Failed);
        }
    }
    link.kind.meaning(match end {
        Ended::Badly(_) => End::Failed,
        Ended::As(StepStatus::Succeeded) => End::Succeeded,
        Ended::As(StepStatus::Skipped(SkipReason::Condition)) => End::ConditionFalse,
        Ended::As(StepStatus::Skipped(SkipReason::Operator)) => End::Waived,
        Ended::As(_) => End::NotTaken,
    })
}

/// What a join rule says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Start,
    Skip,
    Wait,
}

/// The verdict over `total` dependencies of which so many have ended, by what that means.
pub(super) const fn verdict(
    rule: Trigger,
    total: u32,
    met: u32,
    failed: u32,
    missed: u32,
) -> Verdict {
    let open = total - met - failed - missed;
    let (start, skip) = match rule {
        // Nothing to wait for.
        _ if total == 0 => (true, false),
        Trigger::AllSucceeded => (met == total, failed + missed > 0),
        Trigger::AnySucceeded => (met > 0, open == 0),
        Trigger::AtLeast(amount) => {
            let needed = amount.at_least(total);
            (met >= needed, met + open < needed)
        }
        Trigger::AllDone | Trigger::Always => (open == 0, false),
        Trigger::AllFailed => (failed == total, met + missed > 0),
        Trigger::AnyFailed => (failed > 0, open == 0),
        Trigger::NoneFailed => (open == 0 && failed == 0, failed > 0),
        Trigger::Tolerates(amount) => {
            let tolerated = amount.at_most(total);
            (open == 0 && failed <= tolerated, failed > tolerated)
        }
    };
    if start {
        Verdict::Start
    } else if skip {
        Verdict::Skip
    } else {
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Amount;

    /// Every rule over every way that up to four dependencies can have ended.
    #[test]
    fn a_verdict_never_changes_its_mind() {
        let rules = [
            Trigger::AllSucceeded,
            Trigger::AnySucceeded,
            Trigger::at_least(2),
            Trigger::AtLeast(Amount::Percent(60)),
            Trigger::tolerates(1),
            Trigger::Tolerates(Amount::Percent(50)),
            Trigger::AllDone,
            Trigger::AllFailed,
            Trigger::AnyFailed,
            Trigger::NoneFailed,
            Trigger::Always,
        ];
        for rule in rules {
            for total in 0..=4 {
                for met in 0..=total {
                    for failed in 0..=total - met {
                        for missed in 0..=total - met - failed {
                            let now = verdict(rule, total, met, failed, missed);
                            let open = total - met - failed - missed;
                            if open == 0 {
                                assert_ne!(now, Verdict::Wait, "{rule:?} waits for nothing");
                                continue;
                            }
                            for next in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
                                let (m, f, x) = (met + next.0, failed + next.1, missed + next.2);
                                let later = verdict(rule, total, m, f, x);
                                assert!(now == Verdict::Wait || now == later, "{rule:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
