//! The workflows of the simulation, and what each comes to.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;
use stepwell::workflow::{Approval, Case, Limits, Lock, OnTimeout, OnUnknown, Timeout};
use stepwell::{ErrorClass, Outcome, RetryConfig, Step, Wait, Workflow};

use super::grown::{ATTEMPT_LIMIT, STEP_LIMIT, inner, once, reads};
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

/// However long it takes.
pub(crate) fn patient() -> Limits {
    Limits { max_duration: Duration::MAX, ..Limits::default() }
}

/// Reads what the one before it came to.
fn then(id: &str, before: &str) -> Step {
    reads(work(id).after(before), before)
}

fn flow(name: &str, steps: Vec<Step>) -> Workflow {
    Workflow::builder(name).limits(patient()).steps(steps).build().unwrap()
}

fn build() -> Vec<Workflow> {
    let mut shapes = flat();
    shapes.extend(nested());
    shapes.extend(locked());
    shapes
}

fn flat() -> Vec<Workflow> {
    let never = Wait::signal("never")
        .timeout_with(Timeout { after: 40 * SECOND, then: OnTimeout::Continue });
    vec![
        flow("chain", vec![work("a"), then("b", "a"), then("c", "b")]),
        flow(
            "diamond",
            vec![work("a"), then("b", "a"), then("c", "a"), reads(then("d", "b").after("c"), "c")],
        ),
        flow(
            "each",
            vec![Step::for_each("all", "[1, 2, 3, 4]", [work("x"), then("y", "x")]).concurrency(2)],
        ),
        flow(
            "loop",
            vec![
                Step::until_loop("again", "turn == 3", [work("x"), then("y", "x")]),
                then("b", "again"),
            ],
        ),
        flow(
            "retry",
            vec![work("a").input("fails", "2").retry(RetryConfig::attempts(5)), then("b", "a")],
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
    ]
}

/// Limits of time, bodies in each other, workflows in each other, and what must not be begun twice.
fn nested() -> Vec<Workflow> {
    let choice = Step::choice(
        "which",
        [Case::when("index == 0", [work("y")]), Case::otherwise([work("z")])],
    );
    let planned = json!({"steps": [work("x"), then("y", "x")]});
    let often = RetryConfig::attempts(60).max_delay(5 * SECOND);
    let hangs = work("a").input("hangs", "1").attempt_timeout(ATTEMPT_LIMIT).retry(often);
    let late = work("late").input("hangs", "9").timeout(STEP_LIMIT);
    let unknown =
        once("b").on_unknown(OnUnknown::Fail).on_error(ErrorClass::OutcomeUnknown, "look");
    vec![
        flow("limits", vec![hangs, late.after("a").on_failure("b"), work("b")]),
        flow(
            "nested",
            vec![
                Step::until_loop(
                    "again",
                    "turn == 2",
                    [Step::parallel(
                        "both",
                        [work("x"), Step::for_each("all", "[1, 2]", [choice])],
                    )],
                ),
                then("b", "again"),
            ],
        ),
        flow("inner", vec![Step::workflow("a", inner()[0].workflow.id()), then("b", "a")]),
        flow(
            "planned",
            vec![
                work("a").config(planned),
                Step::dynamic("made", "a.steps").after("a"),
                then("b", "made"),
            ],
        ),
        flow("once", vec![once("a"), unknown.after("a"), work("look")]),
    ]
}

fn locked() -> Vec<Workflow> {
    vec![
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
