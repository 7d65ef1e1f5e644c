//! The workflows of the simulation, and what each comes to.

use std::sync::OnceLock;
use std::time::Duration;

use stepwell::workflow::{Approval, Limits, Lock, OnTimeout, Timeout};
use stepwell::{Outcome, RetryConfig, Step, Wait, Workflow};

use super::world::SECOND;

/// Locks that a shape wants, and how many steps may hold each.
pub(crate) const LOCKS: [(&str, u32); 5] =
    [("one", 1), ("pool", 2), ("tenant[1]", 1), ("tenant[2]", 1), ("section", 1)];

pub(crate) fn work(id: &str) -> Step {
    Step::task(id, "work")
}

fn failing(id: &str, attempts: u32) -> Step {
    work(id).input("fails", "9").retry(RetryConfig::attempts(attempts))
}

/// All of them, compiled once.
pub(crate) fn shapes() -> &'static [Workflow] {
    static SHAPES: OnceLock<Vec<Workflow>> = OnceLock::new();
    SHAPES.get_or_init(build)
}

fn build() -> Vec<Workflow> {
    let patient = Limits { max_duration: Duration::MAX, ..Limits::default() };
    let flow = |name: &str, steps: Vec<Step>| {
        Workflow::builder(name).limits(patient.clone()).steps(steps).build().unwrap()
    };
    let never = Wait::signal("never")
        .timeout_with(Timeout { after: 40 * SECOND, then: OnTimeout::Continue });
    vec![
        flow("chain", vec![work("a"), work("b").after("a"), work("c").after("b")]),
        flow(
            "diamond",
            vec![
                work("a"),
                work("b").after("a"),
                work("c").after("a"),
                work("d").after_all(["b", "c"]),
            ],
        ),
        flow(
            "each",
            vec![
                Step::for_each("all", "[1, 2, 3, 4]", [work("x"), work("y").after("x")])
                    .concurrency(2),
            ],
        ),
        flow(
            "loop",
            vec![
                Step::until_loop("again", "turn == 3", [work("x"), work("y").after("x")]),
                work("b").after("again"),
            ],
        ),
        flow(
            "retry",
            vec![
                work("a").input("fails", "2").retry(RetryConfig::attempts(5)),
                work("b").after("a"),
            ],
        ),
        flow(
            "timer",
            vec![
                work("a"),
                Step::wait("w", Wait::For(90 * SECOND)).after("a"),
                Step::wait("v", never).after("a"),
                work("b").after_all(["w", "v"]),
            ],
        ),
        flow(
            "signal",
            vec![work("a"), Step::wait("go", Wait::signal("go")).after("a"), work("b").after("go")],
        ),
        flow(
            "approval",
            vec![Step::wait("ok", Wait::approval(Approval::by(["ann"]))), work("b").after("ok")],
        ),
        flow(
            "quorum",
            vec![
                work("a"),
                Step::wait("ok", Wait::approval(Approval::by(["ann", "bob", "cid"]).quorum(2))),
                work("b").after_all(["a", "ok"]),
            ],
        ),
        flow("undo", vec![work("a").compensate(work("unmake")), failing("b", 2).after("a")]),
        flow("finally", vec![work("a"), failing("b", 1).after("a"), work("last").finally()]),
        flow("rare", vec![work("a"), Step::task("b", "rare").after("a"), work("c").after("b")]),
        flow(
            "mutex",
            vec![
                work("a").lock(Lock::new("one")),
                work("b").lock(Lock::new("one")),
                work("c").lock(Lock::new("one")).lock(Lock::new("pool").max(2)).after("a"),
            ],
        ),
        flow(
            "pool",
            vec![Step::for_each(
                "all",
                "[1, 2, 1, 2, 1]",
                [
                    work("x").lock(Lock::new("pool").max(2)),
                    work("y").lock(Lock::new("tenant").key("item")).after("x"),
                ],
            )],
        ),
        flow(
            "section",
            vec![
                Step::sequence("in", [work("x"), work("y")]).lock(Lock::new("section")),
                work("b").after("in"),
            ],
        ),
        flow(
            "rate",
            vec![Step::for_each(
                "all",
                "[1, 2, 3, 4, 5, 6, 7]",
                [work("x").lock(Lock::rate("api", 2, 10 * SECOND))],
            )],
        ),
    ]
}

/// What a run of this shape comes to if nobody meddles.
pub(crate) fn expected(shape: &str) -> fn(&Outcome) -> bool {
    match shape {
        "undo" | "finally" => {
            |outcome| matches!(outcome, Outcome::Failed { step, .. } if step == "b")
        }
        _ => |outcome| matches!(outcome, Outcome::Succeeded(_)),
    }
}

/// Whether it waits for nothing from outside, so that it can be run again as a whole.
pub(crate) fn needs_nobody(shape: &str) -> bool {
    !["signal", "approval", "quorum"].contains(&shape)
}
