//! Joins that do not wait for everything, and joins that fire again and again.

use serde_json::json;
use stepwell::{RunStatus, Step, StepStatus, Trigger, Wait};

use crate::world::{counting, done, run, run_with, signal, stopped, work, work_item, workflow};

#[test]
fn wcp_09_structured_discriminator() {
    let rescue = [
        work("breathing", 2),
        work("pulse", 5),
        work("triage", 1).after_all(["breathing", "pulse"]).trigger(Trigger::AnySucceeded),
    ];
    let story = run(&workflow([Step::until_loop("twice", "turn == 2", rescue)]), json!(null));
    // Once for the first branch; the other goes on and triggers nothing. When it is done, too, the
    // join is as new.
    assert_eq!(story.of("triage"), [done(2, 3), done(7, 8)]);
    assert_eq!(story.of("pulse"), [done(0, 5), done(5, 10)]);
}

#[test]
fn wcp_28_blocking_discriminator() {
    let body = [
        signal("a"),
        signal("b"),
        work("join", 1).after_all(["a", "b"]).trigger(Trigger::AnySucceeded),
    ];
    let workflow = workflow([Step::until_loop("twice", "turn == 2", body)]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.signal(1, "a").await;
        // The same branch again: kept back, since the other has not come.
        outside.signal(2, "a").await;
        outside.at(4).await;
        assert_eq!(outside.status("twice[0]/b"), StepStatus::Waiting);
        // That resets the join, and what was kept back fires it.
        outside.signal(5, "b").await;
        outside.signal(9, "b").await;
    });
    assert_eq!(story.of("join"), [done(1, 2), done(5, 6)]);
    assert_eq!(story.end, (RunStatus::Succeeded, 9));
}

#[test]
fn wcp_29_cancelling_discriminator() {
    let workflow = workflow([
        work("a", 2),
        work("b", 5),
        Step::sequence("c", [work("c1", 3), work("c2", 3)]),
        Step::wait("d", Wait::signal("never")),
        work("join", 1)
            .after_all(["a", "b", "c", "d"])
            .trigger(Trigger::AnySucceeded)
            .cancel_rest(),
    ]);
    let story = run(&workflow, json!(null));
    assert_eq!(story.of("join"), [done(2, 3)]);
    // Whatever the others were at, it is over.
    assert_eq!((story.of("b"), story.of("c1")), (vec![stopped(0)], vec![stopped(0)]));
    assert_eq!((story.of("c2"), story.status("d")), (vec![], StepStatus::Cancelled));
    assert_eq!(story.end, (RunStatus::Succeeded, 3));
}

#[test]
fn wcp_30_structured_partial_join() {
    let body = [
        work("a", 2),
        work("b", 5),
        work("c", 9),
        work("join", 1).after_all(["a", "b", "c"]).trigger(Trigger::at_least(2)),
    ];
    let story = run(&workflow([Step::until_loop("twice", "turn == 2", body)]), json!(null));
    // Once, with the second; the third goes on, and only then can the join fire again.
    assert_eq!(story.of("join"), [done(5, 6), done(14, 15)]);
    assert_eq!(story.of("c"), [done(0, 9), done(9, 18)]);
}

#[test]
fn wcp_31_blocking_partial_join() {
    let body = [
        signal("a"),
        signal("b"),
        signal("c"),
        work("join", 1).after_all(["a", "b", "c"]).trigger(Trigger::at_least(2)),
    ];
    let workflow = workflow([Step::until_loop("twice", "turn == 2", body)]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.signal(1, "a").await;
        outside.signal(2, "a").await;
        outside.signal(3, "b").await;
        // Two of three once more, and all the same kept back until `c` resets the join.
        outside.signal(4, "b").await;
        outside.signal(7, "c").await;
        outside.signal(9, "c").await;
    });
    assert_eq!(story.of("join"), [done(3, 4), done(7, 8)]);
    assert_eq!(story.end, (RunStatus::Succeeded, 9));
}

#[test]
fn wcp_32_cancelling_partial_join() {
    let workflow = workflow([
        work("a", 2),
        work("b", 5),
        work("c", 9),
        work("join", 1).after_all(["a", "b", "c"]).trigger(Trigger::at_least(2)).cancel_rest(),
    ]);
    let story = run(&workflow, json!(null));
    assert_eq!((story.of("join"), story.of("c")), (vec![done(5, 6)], vec![stopped(0)]));
    assert_eq!(story.end, (RunStatus::Succeeded, 6));
}

#[test]
fn wcp_33_generalised_and_join() {
    // Two production lines of their own pace, and a car for each pair of what they make.
    let line = |id: &str, part: &str, takes, made: &str| {
        let make = work(part, takes).set(made, format!("vars.{made} + 1"));
        Step::while_loop(id, "turn < 3", [make])
    };
    let both = Wait::condition("vars.engines > index and vars.bodies > index");
    let cars = [Step::wait("both", both), work("car", 8).after("both")];
    let workflow = counting(
        ["engines", "bodies"],
        [
            line("engine_line", "engine", 1, "engines"),
            line("body_line", "body", 5, "bodies"),
            Step::for_each("cars", "[1, 2, 3]", cars),
        ],
    );
    let story = run(&workflow, json!(null));
    // All engines are there before the first body, and none is lost: the join fires with each body,
    // while what it fired before is still at work.
    assert_eq!(story.began("engine"), [0, 1, 2]);
    assert_eq!(story.of("car"), [done(5, 13), done(10, 18), done(15, 23)]);
}

#[test]
fn wcp_41_thread_merge() {
    let threads = Step::for_each(
        "threads",
        "input",
        [work_item("register").set("registered", "vars.registered + 1")],
    );
    let three = Wait::condition("vars.registered >= 3 * (turn + 1)");
    let batches = Step::until_loop(
        "batches",
        "turn == 2",
        [Step::wait("three", three), work("batch", 1).after("three")],
    );
    let story = run(&counting(["registered"], [threads, batches]), json!([9, 1, 4, 2, 6, 8]));
    // Six threads of one branch become two: every third that arrives makes one.
    assert_eq!(story.of("batch"), [done(4, 5), done(9, 10)]);
    assert_eq!(story.of("register").len(), 6);
}
