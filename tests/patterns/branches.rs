//! Basic control flow, and what can follow from a choice.

use serde_json::json;
use stepwell::workflow::Case;
use stepwell::{RunStatus, SkipReason, Step, StepStatus, Trigger};

use crate::world::{done, run, work, work_item, workflow};

#[test]
fn wcp_01_sequence() {
    // Written in the wrong order: the edges decide.
    let story = run(
        &workflow([work("c", 3).after("b"), work("b", 2).after("a"), work("a", 1)]),
        json!(null),
    );
    assert_eq!((story.of("a"), story.of("b")), (vec![done(0, 1)], vec![done(1, 3)]));
    assert_eq!(story.of("c"), [done(3, 6)]);
}

#[test]
fn wcp_02_parallel_split() {
    let story = run(
        &workflow([work("a", 1), work("b", 2).after("a"), work("c", 3).after("a")]),
        json!(null),
    );
    // Both begin with the end of `a`, and neither waits for the other.
    assert_eq!((story.of("b"), story.of("c")), (vec![done(1, 3)], vec![done(1, 4)]));
}

#[test]
fn wcp_03_synchronization() {
    let story = run(
        &workflow([
            work("a", 2),
            work("b", 5),
            work("c", 1),
            work("d", 1).after_all(["a", "b", "c"]),
        ]),
        json!(null),
    );
    // Once, with the end of the last.
    assert_eq!(story.of("d"), [done(5, 6)]);
}

#[test]
fn wcp_04_exclusive_choice() {
    let choice = Step::choice(
        "choice",
        [
            Case::when("input > 5", [work("big", 1)]),
            Case::when("input > 1", [work("middle", 1)]),
            Case::otherwise([work("small", 1)]),
        ],
    );
    let workflow = workflow([choice]);
    // For 9 two conditions hold, and still one case is taken.
    for (input, taken) in [(9, "big"), (3, "middle"), (0, "small")] {
        let story = run(&workflow, json!(input));
        for case in ["big", "middle", "small"] {
            assert_eq!(story.of(case).len(), usize::from(case == taken), "{case} for {input}");
        }
    }
}

#[test]
fn wcp_05_simple_merge() {
    let workflow = workflow([
        work("left", 2).when("input.left").otherwise("right").on_success("merge"),
        work("right", 3).on_success("merge"),
        work("merge", 1).trigger(Trigger::AnySucceeded),
    ]);
    for (left, at, other) in [(true, 2, "right"), (false, 3, "left")] {
        let story = run(&workflow, json!({"left": left}));
        // Once, after the branch that was taken; nothing is expected of the other.
        assert_eq!(story.began("merge"), [at]);
        assert!(matches!(story.status(other), StepStatus::Skipped(_)));
        assert_eq!(story.end, (RunStatus::Succeeded, at + 1));
    }
}

#[test]
fn wcp_06_multi_choice() {
    let workflow = workflow([
        work("a", 1),
        work("x", 1).after("a").when("input.x"),
        work("y", 1).after("a").when("input.y"),
        work("z", 1).after("a").when("input.z"),
    ]);
    for chosen in 0..8 {
        let wanted = |bit: u32| chosen & (1 << bit) != 0;
        let story = run(&workflow, json!({"x": wanted(0), "y": wanted(1), "z": wanted(2)}));
        // Any number of branches, together.
        for (bit, branch) in ["x", "y", "z"].into_iter().enumerate() {
            let began = if wanted(bit as u32) { vec![1] } else { vec![] };
            assert_eq!(story.began(branch), began, "{branch} of {chosen}");
        }
    }
}

#[test]
fn wcp_07_structured_synchronizing_merge() {
    let lengths = [("x", 2), ("y", 3), ("z", 7)];
    let branches =
        lengths.map(|(id, takes)| work(id, takes).after("a").when(format!("input.{id}")));
    let merge = work("merge", 1).after_all(lengths.map(|(id, _)| id));
    let workflow = workflow([work("a", 1)].into_iter().chain(branches).chain([merge]));
    for chosen in 1..8 {
        let wanted = |bit: usize| chosen & (1 << bit) != 0;
        let story = run(&workflow, json!({"x": wanted(0), "y": wanted(1), "z": wanted(2)}));
        // Once, with the last of those that were chosen: it knows how many to wait for.
        let active = (0..3).filter(|bit| wanted(*bit)).map(|bit| lengths[bit].1);
        assert_eq!(story.began("merge"), [1 + active.max().unwrap()], "{chosen}");
    }
}

#[test]
fn wcp_08_multi_merge() {
    let way = Step::choice(
        "way",
        [
            Case::when("item == 'foundations'", [work("foundations", 2)]),
            Case::when("item == 'materials'", [work("materials", 4)]),
            Case::when("item == 'labourer'", [work("labourer", 7)]),
        ],
    );
    let review = work("review", 1).after("way");
    let file = work("file", 3).after("review");
    let workflow = workflow([Step::for_each("branches", "input", [way, review, file])]);

    let story = run(&workflow, json!(["foundations", "materials", "labourer"]));
    // What follows the merge runs once for each branch, as soon as that one is done, whatever the
    // others and the earlier runs of it are at.
    assert_eq!(story.of("review"), [done(2, 3), done(4, 5), done(7, 8)]);
    assert_eq!(story.of("file"), [done(3, 6), done(5, 8), done(8, 11)]);

    let story = run(&workflow, json!(["labourer", "foundations"]));
    assert_eq!(story.began("review"), [2, 7]);
}

#[test]
fn wcp_37_local_synchronizing_merge() {
    // Not structured: `b` leads into both ways to the end, and what `c` leads into is one of them.
    let (b, c) = ("steps.b.status == 'succeeded'", "steps.c.status == 'succeeded'");
    let (d, e) = ("steps.d.status == 'succeeded'", "steps.e.status == 'succeeded'");
    let merge = |id, takes, left: &str, right: &str| {
        work(id, takes).trigger(Trigger::NoneFailed).when(format!("{left} or {right}"))
    };
    let workflow = workflow([
        work("a", 1),
        work("b", 2).after("a").when("input.b").on_success("d").on_success("e"),
        work("c", 6).after("a").when("input.c").on_success("e"),
        work("d", 3).on_success("f"),
        merge("e", 1, b, c).on_success("f"),
        merge("f", 1, d, e),
    ]);
    let merges = |b: bool, c: bool| {
        let story = run(&workflow, json!({"b": b, "c": c}));
        assert_eq!(story.end.0, RunStatus::Succeeded);
        (story.began("e"), story.began("f"), story)
    };
    let (e, f, _) = merges(true, true);
    assert_eq!((e, f), (vec![7], vec![8]));
    let (e, f, _) = merges(true, false);
    assert_eq!((e, f), (vec![3], vec![6]));
    let (e, f, story) = merges(false, true);
    assert_eq!((e, f), (vec![7], vec![8]));
    assert_eq!(story.status("d"), StepStatus::Skipped(SkipReason::Upstream));
    // That no branch is active is handed on as well.
    let (e, f, _) = merges(false, false);
    assert_eq!((e, f), (vec![], vec![]));
}

#[test]
fn wcp_42_thread_split() {
    let threads = Step::for_each(
        "threads",
        "[4, 1, 2]",
        [work_item("review"), work("publish", 1).after("review")],
    );
    let story = run(&workflow([work("received", 1), threads.after("received")]), json!(null));
    // Three threads in one branch, begun together, each of which goes on for itself.
    assert_eq!(story.began("review"), [1, 1, 1]);
    assert_eq!(story.began("publish"), [2, 3, 5]);
}
