//! Iteration, ends, states, triggers from outside, cancelling.

use std::time::Duration;

use serde_json::json;
use stepwell::journal::{Operation, Reason, Signal};
use stepwell::workflow::{Limits, Lock, Variable, VariableType};
use stepwell::{ErrorKind, RunStatus, Step, StepStatus, Trigger, Wait, Workflow};

use crate::world::{Span, done, run, run_with, signal, stopped, work, workflow};

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn wcp_11_implicit_termination() {
    // No step is the last one by its place.
    let workflow = workflow([
        work("a", 1),
        work("b", 2).after("a"),
        work("c", 7),
        work("d", 1).after("c").when("false"),
        signal("e"),
    ]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.at(8).await;
        assert_eq!(outside.handle.status(), RunStatus::Running);
        outside.signal(9, "e").await;
    });
    assert_eq!(story.end, (RunStatus::Succeeded, 9));
    assert_eq!((story.of("b"), story.of("c")), (vec![done(1, 3)], vec![done(0, 7)]));
}

#[test]
fn wcp_16_deferred_choice() {
    let ask = Wait::first([("paid", Wait::signal("paid")), ("late", Wait::For(seconds(10)))]);
    let workflow = workflow([
        Step::wait("ask", ask),
        work("ship", 1).when("ask.first == 'paid'"),
        work("remind", 5).when("ask.first == 'late'"),
    ]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.at(3).await;
        // Nothing is decided before the world outside does something.
        assert_eq!(outside.status("ask"), StepStatus::Waiting);
        outside.signal(4, "paid").await;
    });
    // With it the other way is gone: the run does not wait for ten seconds.
    assert_eq!((story.of("ship"), story.of("remind")), (vec![done(4, 5)], vec![]));
    assert_eq!(story.end, (RunStatus::Succeeded, 5));

    // Too late: the other way was taken.
    let story = run_with(&workflow, json!(null), async |outside| outside.signal(12, "paid").await);
    assert_eq!((story.of("ship"), story.of("remind")), (vec![], vec![done(10, 15)]));
}

#[test]
fn wcp_18_milestone() {
    // Orders can be changed from when they are `placed` until `grace` is over.
    let now = "steps.placed.status == 'succeeded' and steps.grace.status == 'waiting'";
    let gate = Wait::first([
        ("open", Wait::condition(now)),
        ("past", Wait::condition("steps.grace.status == 'succeeded'")),
    ]);
    let workflow = workflow([
        work("placed", 2),
        Step::wait("grace", Wait::For(seconds(5))).after("placed"),
        work("ship", 1).after("grace"),
        signal("wish"),
        Step::wait("gate", gate).after("wish"),
        work("change", 9).when("gate.first == 'open'"),
    ]);
    // Before the milestone it waits, at it it runs, past it it never does.
    for (wish, change) in [(1, vec![2]), (4, vec![4]), (8, vec![])] {
        let story = run_with(&workflow, json!(null), async |outside| {
            outside.signal(wish, "wish").await;
        });
        assert_eq!(story.began("change"), change, "wished at {wish}");
        // It only looks: what has the milestone goes its way.
        assert_eq!(story.of("ship"), [done(7, 8)]);
    }
}

#[test]
fn wcp_19_cancel_activity() {
    let next = work("next", 1)
        .after_all(["assess", "withdraw"])
        .trigger(Trigger::AnySucceeded)
        .cancel_rest();
    let steps = [work("other", 10), work("assess", 50), signal("withdraw"), next];
    let withdraw = async |outside: crate::world::Outside| outside.signal(3, "withdraw").await;

    // While it runs: stopped.
    let story = run_with(&workflow(steps.clone()), json!(null), withdraw);
    assert_eq!((story.of("assess"), story.of("next")), (vec![stopped(0)], vec![done(3, 4)]));
    assert_eq!(story.of("other"), [done(0, 10)]);

    // Enabled but not begun, as there is room for one step only: it never begins.
    let limits = Limits { max_concurrent_steps: 1, ..Limits::default() };
    let one = Workflow::builder("w").limits(limits).steps(steps).build().unwrap();
    let story = run_with(&one, json!(null), async |outside| {
        outside.at(2).await;
        assert_eq!(outside.status("assess"), StepStatus::Ready);
        outside.signal(3, "withdraw").await;
    });
    assert_eq!((story.of("assess"), story.of("next")), (vec![], vec![done(10, 11)]));
    assert_eq!(story.status("assess"), StepStatus::Cancelled);
}

#[test]
fn wcp_20_cancel_case() {
    let workflow = Workflow::builder("w")
        .step(work("a", 50).when("input"))
        .step(Step::workflow("sub", "w").workflow_input("false").when("input"))
        .step(signal("b"))
        .step(work("c", 50).when("not input"))
        .step(work("d", 1).after("b"))
        .build()
        .unwrap();
    let story = run_with(&workflow, json!(true), async |outside| {
        outside.at(3).await;
        outside.handle.cancel(Reason::new("ann", "withdrawn")).await.unwrap();
    });
    // All of it: what runs, also in the sub-workflow, what waits, and what was to come.
    assert_eq!(story.end, (RunStatus::Cancelled, 3));
    assert_eq!((story.of("a"), story.of("c")), (vec![stopped(0)], vec![stopped(0)]));
    assert!(story.of("d").is_empty());
    assert_eq!(story.status("b"), StepStatus::Cancelled);
}

#[test]
fn wcp_21_structured_loop() {
    let workflow = workflow([
        Step::while_loop("while", "turn < input", [work("a", 1), work("b", 1).after("a")]),
        Step::until_loop("until", "turn >= input", [work("c", 1)]),
    ]);
    // Tested before each turn, or after it.
    for (turns, a, c) in [(0, vec![], vec![0]), (3, vec![0, 2, 4], vec![0, 1, 2])] {
        let story = run(&workflow, json!(turns));
        assert_eq!((story.began("a"), story.began("c")), (a, c), "{turns} turns");
    }
}

#[test]
fn wcp_22_recursion() {
    // The workflow runs itself, in another instance, for each child.
    let down = Step::workflow("down", "w").workflow_input("item");
    let workflow = workflow([
        work("visit", 1),
        Step::for_each("children", "default(input.children, [])", [down]).after("visit"),
    ]);
    let leaf = json!({});
    let tree = json!({"children": [leaf, {"children": [leaf, leaf, {"children": [leaf]}]}]});
    let story = run(&workflow, tree);
    // One second for each level.
    assert_eq!(story.began("visit"), [0, 1, 1, 2, 2, 2, 3]);
    assert_eq!(story.end, (RunStatus::Succeeded, 4));
}

#[test]
fn wcp_23_transient_trigger() {
    let workflow =
        workflow([work("warm", 2), signal("alarm").after("warm"), work("check", 1).after("alarm")]);
    let story = run_with(&workflow, json!(null), async |outside| {
        let alarm = || outside.handle.signal_with(Signal::new("alarm", ()).transient());
        outside.at(1).await;
        // Nobody waits for it yet: lost.
        assert_eq!(alarm().await.unwrap_err().kind(), ErrorKind::Rejected);
        outside.at(3).await;
        assert_eq!(outside.status("alarm"), StepStatus::Waiting);
        outside.at(4).await;
        alarm().await.unwrap();
    });
    assert_eq!(story.of("check"), [done(4, 5)]);
}

#[test]
fn wcp_24_persistent_trigger() {
    let workflow =
        workflow([work("warm", 2), signal("alarm").after("warm"), work("check", 1).after("alarm")]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.at(1).await;
        outside.handle.signal("alarm", 7).await.unwrap();
        assert_eq!(outside.status("alarm"), StepStatus::Pending);
    });
    // Kept until the step came to wait for it.
    assert_eq!((story.of("check"), story.output("alarm")), (vec![done(2, 3)], 7.into()));
}

#[test]
fn wcp_43_explicit_termination() {
    // Somewhere deep inside it is found that all is said.
    let search = Step::until_loop(
        "search",
        "false",
        [work("look", 2), work("found", 0).after("look").when("turn == 2").set("over", "true")],
    );
    let rest = [search, work("long", 500), work("report", 1).after("search")];
    let workflow = Workflow::builder("w")
        .variable("over", Variable::of(VariableType::Boolean).default_value(false))
        .step(Step::parallel("all", rest))
        .step(Step::wait("over", Wait::condition("vars.over")))
        .step(
            work("end", 0).after_all(["all", "over"]).trigger(Trigger::AnySucceeded).cancel_rest(),
        )
        .build()
        .unwrap();
    let story = run(&workflow, json!(null));
    // The run is over with the end step, and well, whatever there was left to do.
    assert_eq!(story.end, (RunStatus::Succeeded, 6));
    assert_eq!((story.of("look").len(), story.of("long")), (3, vec![stopped(0)]));
    assert!(story.of("report").is_empty());
    assert_eq!(story.of("end"), [done(6, 6)]);
}

#[test]
fn wcp_25_cancel_region() {
    let workflow = workflow([
        work("runs", 20),
        signal("waits"),
        work("a", 2),
        work("later", 1).after("a"),
        work("stays", 5),
        work("end", 1).after("stays"),
    ]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.at(1).await;
        let region = Operation::cancel(["runs", "waits", "later"]);
        outside.handle.operate(region, Reason::new("ann", "not wanted")).await.unwrap();
    });
    // They stand in branches that have nothing to do with each other, and nobody misses them.
    for path in ["runs", "waits", "later"] {
        assert_eq!(story.status(path), StepStatus::Cancelled, "{path}");
    }
    assert_eq!((story.of("a"), story.of("later")), (vec![done(0, 2)], vec![]));
    assert_eq!((story.of("stays"), story.of("end")), (vec![done(0, 5)], vec![done(5, 6)]));
    assert_eq!(story.end.0, RunStatus::Succeeded);
}

fn locked(id: &str, takes: u64) -> Step {
    work(id, takes).lock(Lock::new("one at a time"))
}

/// Whether no two of these overlap.
fn apart(mut spans: Vec<Span>) -> bool {
    spans.sort_unstable();
    spans.windows(2).all(|pair| pair[0].1.is_some_and(|end| end <= pair[1].0))
}

#[test]
fn wcp_17_interleaved_parallel_routing() {
    let workflow = workflow([locked("a", 2), locked("b", 3).after("a"), locked("c", 4)]);
    let story = run(&workflow, json!(null));
    let all: Vec<Span> = ["a", "b", "c"].iter().flat_map(|id| story.of(id)).collect();
    assert_eq!(all.len(), 3);
    assert!(apart(all.clone()), "{all:?}");
    assert!(story.began("b")[0] >= 2 + story.began("a")[0]);
    assert_eq!(story.end, (RunStatus::Succeeded, 9));
}

#[test]
fn wcp_39_critical_section() {
    let section = |id: &str, first: Step, second: Step| {
        Step::sequence(id, [first, second]).lock(Lock::new("ledger"))
    };
    let workflow = workflow([
        section("one", work("a", 2), work("b", 2)),
        section("two", work("c", 2), work("d", 2)),
        work("beside", 8),
    ]);
    let story = run(&workflow, json!(null));
    let (one, two) = (story.began("a")[0], story.began("c")[0]);
    // Whichever comes second begins when the whole of the other is over.
    assert_eq!(one.abs_diff(two), 4);
    assert_eq!((story.of("beside"), story.end), (vec![done(0, 8)], (RunStatus::Succeeded, 8)));
}

#[test]
fn wcp_40_interleaved_routing() {
    let ids = ["a", "b", "c", "d"];
    let steps = ids.iter().map(|id| locked(id, 2));
    let workflow = workflow(steps.chain([work("end", 1).after_all(ids)]));
    let story = run(&workflow, json!(null));
    let all: Vec<Span> = ids.iter().flat_map(|id| story.of(id)).collect();
    assert!(all.len() == 4 && apart(all.clone()), "{all:?}");
    assert_eq!((story.of("end"), story.end), (vec![done(8, 9)], (RunStatus::Succeeded, 9)));
}

#[test]
fn wcp_15_multiple_instances_without_a_priori_run_time_knowledge() {
    // An instance, and beside it, if somebody asks for more, the same once more.
    let ask = Wait::first([("more", Wait::signal("more")), ("enough", Wait::signal("enough"))]);
    let more = Step::workflow("again", "w").workflow_input("'inner'").when("ask.first == 'more'");
    let workflow = workflow([
        Step::parallel(
            "all",
            [work("instance", 6), Step::sequence("rest", [Step::wait("ask", ask), more])],
        ),
        work("next", 1).after("all").when("input != 'inner'"),
    ]);
    let story = run_with(&workflow, json!(null), async |outside| {
        outside.signal(2, "more").await;
        outside.signal(4, "more").await;
        outside.signal(5, "enough").await;
    });
    // They come while others run, and what follows waits for all, once.
    assert_eq!(story.of("instance"), [done(0, 6), done(2, 8), done(4, 10)]);
    assert_eq!((story.of("next"), story.end), (vec![done(10, 11)], (RunStatus::Succeeded, 11)));
}
