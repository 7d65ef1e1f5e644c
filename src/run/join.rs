//! Join rules: when a step with dependencies may start.

use crate::journal::{SkipReason, StepStatus};
use crate::plan::{EdgeKind, End, Meaning};
use crate::workflow::Trigger;

/// What a step that has ended like this means to one that waits for it.
/// Whether that one's rule is about failures is only asked where it matters.
pub(super) fn meaning(
    edge: EdgeKind,
    status: StepStatus,
    counts_failures: impl FnOnce() -> bool,
) -> Meaning {
    let counted = edge == EdgeKind::OnFailure && counts_failures();
    let edge = if counted { edge.counted() } else { edge };
    edge.meaning(match status {
        StepStatus::Succeeded => End::Succeeded,
        StepStatus::Failed => End::Failed,
        StepStatus::Skipped(SkipReason::Condition) => End::ConditionFalse,
        _ => End::NotTaken,
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
        Trigger::AtLeast(n) => (met >= n, met + open < n),
        Trigger::AllDone | Trigger::Always => (open == 0, false),
        Trigger::AllFailed => (failed == total, met + missed > 0),
        Trigger::AnyFailed => (failed > 0, open == 0),
        Trigger::NoneFailed => (open == 0 && failed == 0, failed > 0),
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

    /// Every rule over every way that up to four dependencies can have ended.
    #[test]
    fn a_verdict_never_changes_its_mind() {
        let rules = [
            Trigger::AllSucceeded,
            Trigger::AnySucceeded,
            Trigger::AtLeast(2),
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

    #[test]
    fn a_condition_skip_is_done_for_after_and_a_way_for_otherwise() {
        let skipped = StepStatus::Skipped(SkipReason::Condition);
        assert_eq!(meaning(EdgeKind::After, skipped, || false), Meaning::Met);
        assert_eq!(meaning(EdgeKind::OnSuccess, skipped, || false), Meaning::Missed);
        assert_eq!(meaning(EdgeKind::Otherwise, skipped, || false), Meaning::Met);
        let upstream = StepStatus::Skipped(SkipReason::Upstream);
        assert_eq!(meaning(EdgeKind::After, upstream, || false), Meaning::Missed);
        assert_eq!(meaning(EdgeKind::Otherwise, upstream, || false), Meaning::Missed);
    }
}
