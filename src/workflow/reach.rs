//! Steps that can never start, whatever becomes of the steps before them.

use super::Amount;
use super::program::{Node, NodeKind};
use super::settings::Trigger;
use crate::plan::{EdgeKind, End, ExecutionPlan, Link, Meaning};

/// Each step that can never start though every step before it can, and why.
pub(super) fn never_started(plan: &ExecutionPlan, nodes: &[Node]) -> Vec<(u32, String)> {
    let mut reached = vec![true; nodes.len()];
    let mut found = Vec::new();
    for &step in plan.order() {
        let before = counted(plan.predecessors(step));
        let before = before.as_slice();
        let ends = |source: u32| ends(&nodes[source as usize], reached[source as usize]);
        let trigger = nodes[step as usize].trigger;
        if before.is_empty() || can_start(trigger, before, ends) {
            continue;
        }
        // What follows from another step that cannot start is that step's problem.
        if before.iter().all(|link| reached[link.step as usize]) {
            found.push((step, reason(plan, nodes, step)));
        }
        reached[step as usize] = false;
    }
    found
}

/// How a step can end.
fn ends(node: &Node, reached: bool) -> Vec<End> {
    if !reached {
        return vec![End::NotTaken];
    }
    if node.when.as_ref().is_some_and(|when| when.to_string() == "false") {
        return vec![End::ConditionFalse, End::NotTaken];
    }
    let mut all = vec![End::Succeeded, End::Failed, End::NotTaken];
    if may_be_false(node) {
        all.push(End::ConditionFalse);
    }
    all
}

/// Whether a step can be left out because of its own condition.
fn may_be_false(node: &Node) -> bool {
    let no_case = |cases: &[(Option<_>, u32)]| cases.iter().all(|(when, _)| when.is_some());
    node.when.is_some() || matches!(&node.kind, NodeKind::Choice(cases) if no_case(cases))
}

fn can_start(trigger: Trigger, before: &[Link], ends: impl Fn(u32) -> Vec<End>) -> bool {
    // All edges from one step see the same end of it.
    let mut sources = before.chunk_by(|a, b| a.step == b.step);
    let best = |links: &[Link], counts: fn(Meaning) -> bool| {
        let kind = |link: &Link| match trigger.catches_failure() {
            true => link.kind.counted(),
            false => link.kind,
        };
        let of = |end| links.iter().filter(|link| counts(kind(link).meaning(end))).count();
        ends(links[0].step).into_iter().map(of).max().unwrap_or(0)
    };
    let met = |meaning| meaning == Meaning::Met;
    let failed = |meaning| meaning == Meaning::Failed;
    match trigger {
        Trigger::AllSucceeded => sources.all(|links| best(links, met) == links.len()),
        Trigger::AnySucceeded => sources.any(|links| best(links, met) > 0),
        Trigger::AtLeast(amount) => {
            let needed = amount.at_least(before.len() as u32) as usize;
            sources.map(|links| best(links, met)).sum::<usize>() >= needed
        }
        Trigger::AllDone | Trigger::Always | Trigger::Tolerates(_) => true,
        Trigger::AllFailed => sources.all(|links| best(links, failed) == links.len()),
        Trigger::AnyFailed => sources.any(|links| best(links, failed) > 0),
        Trigger::NoneFailed => {
            sources.all(|links| best(links, |meaning| meaning != Meaning::Failed) == links.len())
        }
    }
}

/// The dependencies that join rules count.
fn counted(before: &[Link]) -> Vec<Link> {
    before.iter().filter(|link| link.kind != EdgeKind::Reads).copied().collect()
}

fn reason(plan: &ExecutionPlan, nodes: &[Node], step: u32) -> String {
    let before = counted(plan.predecessors(step));
    if let Trigger::AtLeast(Amount::Count(n)) = nodes[step as usize].trigger
        && n as usize > before.len()
    {
        return format!("it waits for {n} dependencies and has {}", before.len());
    }
    let unconditional = before
        .iter()
        .find(|link| link.kind == EdgeKind::Otherwise && !may_be_false(&nodes[link.step as usize]));
    match unconditional {
        Some(link) => format!("`{}` has no condition that could be false", plan.id(link.step)),
        None => "nothing that can become of the steps before it meets its join rule".into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::workflow::{Case, Step, Trigger, When, Workflow};

    /// The warnings of these steps that say "never".
    fn never(steps: impl IntoIterator<Item = Step>) -> Vec<String> {
        let workflow = Workflow::builder("w").steps(steps).build().unwrap();
        let text = workflow.warnings().to_string();
        text.lines().filter(|line| line.contains("never start")).map(str::to_string).collect()
    }

    fn task(id: &str) -> Step {
        Step::task(id, "t")
    }

    #[test]
    fn a_join_that_nothing_meets_is_named_once() {
        let at_least = task("c").after("a").trigger(Trigger::at_least(2));
        let found = never([task("a"), at_least, task("d").after("c")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("steps.c: it can never start: it waits for 2 dependencies and has 1")
        );

        let both =
            [task("a").on_success("b").on_failure("b"), task("b").trigger(Trigger::AllSucceeded)];
        assert!(never(both)[0].contains("steps.b: it can never start: nothing that can become"));
        // A rule about failures counts them over edges for failures, too.
        let failed = [task("a").on_failure("b"), task("b").trigger(Trigger::AllFailed)];
        assert!(never(failed).is_empty());
    }

    #[test]
    fn otherwise_needs_a_condition() {
        let found = never([task("a").otherwise("b"), task("b")]);
        assert!(
            found[0].contains("steps.b: it can never start: `a` has no condition"),
            "{found:?}"
        );
        assert!(never([task("a").when("input.x").otherwise("b"), task("b")]).is_empty());
        let case = Case { when: Some(When::from("input.x")), steps: vec![task("x")] };
        assert!(never([Step::choice("a", [case]).otherwise("b"), task("b")]).is_empty());
    }

    #[test]
    fn a_step_that_is_switched_off_is_no_mistake() {
        let off = task("a").when("false");
        assert!(never([off.clone(), task("b").after("a")]).is_empty());
        assert_eq!(never([off.on_success("b"), task("b")]).len(), 1);
    }

    #[test]
    fn every_rule_can_be_met_by_what_it_is_for() {
        for (rule, edges) in [
            (Trigger::AnySucceeded, [false, true]),
            (Trigger::AllDone, [false, false]),
            (Trigger::AllFailed, [false, false]),
            (Trigger::AnyFailed, [false, true]),
            (Trigger::NoneFailed, [true, true]),
            (Trigger::Always, [true, false]),
            (Trigger::at_least(2), [true, false]),
            (Trigger::tolerates(1), [true, false]),
        ] {
            let edge = |id: &str, failure| {
                if failure { task(id).on_failure("c") } else { task(id).on_success("c") }
            };
            let steps = [edge("a", edges[0]), edge("b", edges[1]), task("c").trigger(rule)];
            assert!(never(steps).is_empty(), "{rule:?}");
        }
    }
}
