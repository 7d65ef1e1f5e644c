//! Many instances of one step.

use serde_json::json;
use stepwell::workflow::Amount;
use stepwell::{RunStatus, SkipReason, Step, StepStatus, Trigger, Wait};

use crate::world::{counting, done, run, run_with, signal, stopped, work, work_item, workflow};

#[test]
fn wcp_12_multiple_instances_without_synchronization() {
    let instance = Step::task("instance", "work")
        .input("takes", "item.takes")
        .input("fails", "default(item.fails, false)");
    let instances =
        Step::for_each("instances", "input", [instance]).tolerates(Amount::Percent(100));
    let workflow = workflow([
        work("begin", 1),
        instances.after("begin"),
        work("next", 1).after("begin"),
        work("last", 1).after("next"),
    ]);
    let story = run(&workflow, json!([{"takes": 5}, {"takes": 2, "fails": true}, {"takes": 9}]));
    // All at once, each for itself; what comes next does not wait for any.
    assert_eq!(story.of("instance"), [done(1, 6), done(1, 3), done(1, 10)]);
    assert_eq!((story.of("next"), story.of("last")), (vec![done(1, 2)], vec![done(2, 3)]));
    assert_eq!(story.end, (RunStatus::Succeeded, 10));
}

#[test]
fn wcp_13_multiple_instances_with_a_priori_design_time_knowledge() {
    let instances = Step::for_each("instances", "[3, 1, 7]", [work_item("instance")]);
    let story = run(&workflow([instances, work("next", 1).after("instances")]), json!(null));
    // As many as the definition says, all at once, and the next step after the last of them.
    assert_eq!(story.of("instance"), [done(0, 3), done(0, 1), done(0, 7)]);
    assert_eq!(story.of("next"), [done(7, 8)]);
}

#[test]
fn wcp_14_multiple_instances_with_a_priori_run_time_knowledge() {
    let workflow = workflow([
        work("find", 1).input("sizes", "input"),
        Step::for_each("instances", "find.sizes", [work_item("instance")]),
        work("next", 1).after("instances"),
    ]);
    // Another number in each run, known when an earlier step has ended.
    for sizes in [vec![2, 6], vec![4, 1, 3, 2], vec![]] {
        let story = run(&workflow, json!(sizes));
        let expected: Vec<_> = sizes.iter().map(|size| done(1, 1 + size)).collect();
        assert_eq!(story.of("instance"), expected);
        assert_eq!(story.began("next"), [1 + sizes.iter().max().unwrap_or(&0)]);
    }
}

#[test]
fn wcp_26_cancel_multiple_instance_activity() {
    let workflow = workflow([
        Step::for_each("instances", "[2, 4, 9]", [work_item("instance")]).concurrency(2),
        signal("stop"),
        // Whichever comes first ends the other.
        work("over", 0)
            .after_all(["instances", "stop"])
            .trigger(Trigger::AnySucceeded)
            .cancel_rest(),
        work("next", 1).after("instances"),
    ]);
    let story = run_with(&workflow, json!(null), async |outside| outside.signal(3, "stop").await);
    // What was done stays done, what runs is stopped, what was to come never begins; and nothing
    // comes after it.
    assert_eq!(story.of("instance"), [done(0, 2), stopped(0), stopped(2)]);
    assert_eq!(story.status("instances"), StepStatus::Cancelled);
    assert_eq!(story.status("next"), StepStatus::Skipped(SkipReason::Upstream));
    assert_eq!(story.end, (RunStatus::Succeeded, 3));

    let story = run_with(&workflow, json!(null), async |outside| outside.signal(1, "stop").await);
    assert_eq!(story.of("instance"), [stopped(0), stopped(0)]);

    let story = run(&workflow, json!(null));
    assert_eq!((story.of("instance").len(), story.of("next")), (3, vec![done(11, 12)]));
}

#[test]
fn wcp_27_complete_multiple_instance_activity() {
    let instance = work_item("instance").set("done", "vars.done + 1");
    let workflow = counting(
        ["done"],
        [
            Step::for_each("instances", "[2, 4, 9]", [instance]).concurrency(2),
            signal("stop"),
            work("next", 1)
                .input("done", "vars.done")
                .after_all(["instances", "stop"])
                .trigger(Trigger::AnySucceeded)
                .cancel_rest(),
        ],
    );
    let story = run_with(&workflow, json!(null), async |outside| outside.signal(3, "stop").await);
    // As with a cancel, but the next step begins at once, with what is there.
    assert_eq!(story.of("instance"), [done(0, 2), stopped(0), stopped(2)]);
    assert_eq!(
        (story.of("next"), story.output("next")),
        (vec![done(3, 4)], json!({"done": 1}).into())
    );
    assert_eq!(story.end, (RunStatus::Succeeded, 4));

    let story = run(&workflow, json!(null));
    assert_eq!((story.began("next"), story.output("next")), (vec![11], json!({"done": 3}).into()));
}

#[test]
fn wcp_34_static_partial_join_for_multiple_instances() {
    let instance = work_item("instance").set("done", "vars.done + 1");
    let workflow = counting(
        ["done"],
        [
            Step::for_each("instances", "input", [instance]),
            Step::wait("enough", Wait::condition("vars.done >= 2")),
            work("next", 1).after("enough"),
        ],
    );
    let story = run(&workflow, json!([9, 2, 5, 7]));
    // Once, with the second that is done; the others go on, and change nothing.
    assert_eq!(story.of("next"), [done(5, 6)]);
    assert_eq!(story.of("instance"), [done(0, 9), done(0, 2), done(0, 5), done(0, 7)]);
    assert_eq!(story.end, (RunStatus::Succeeded, 9));
}

#[test]
fn wcp_35_cancelling_partial_join_for_multiple_instances() {
    let instances = Step::for_each("instances", "input", [work_item("instance")]).enough(2);
    let story =
        run(&workflow([instances, work("next", 1).after("instances")]), json!([9, 2, 5, 7]));
    assert_eq!(story.of("next"), [done(5, 6)]);
    assert_eq!(story.of("instance"), [stopped(0), done(0, 2), done(0, 5), stopped(0)]);
    assert_eq!(story.end, (RunStatus::Succeeded, 6));
}
