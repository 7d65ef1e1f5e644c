//! States as text: the form itself, what is shared, and what cannot be read.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stepwell::journal::{Operation, Reason, Signal, Snapshot, Vote};
use stepwell::run::{
    ATTEMPTS_KEPT_MAX, Command, Rejection, Report, RetryAllowance, RunState, SIGNAL_ID_BYTES_MAX,
};
use stepwell::workflow::{Approval, Limits, Lock, Program, Variable, VariableType};
use stepwell::{
    ErrorClass, Event, Failure, RetryConfig, RunId, Step, StepKey, Timestamp, Value, Wait, Workflow,
};

fn id() -> RunId {
    RunId::new("r").unwrap()
}

fn at(second: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(second)
}

fn start(input: impl Into<Value>) -> Command {
    let (input, variables) = (input.into(), json!({"secret": {"$sealed": "abc"}}).into());
    Command::Start { input, variables, seed: 5, grace: Duration::from_secs(10) }
}

fn program(workflow: &Workflow) -> Arc<Program> {
    Program::link(workflow, |_| None, Vec::new).unwrap()
}

fn path(state: &RunState, path: &str) -> StepKey {
    state.find(path).unwrap_or_else(|| panic!("there is no {path}"))
}

fn report(state: &mut RunState, step: &str, result: Report, now: Timestamp) -> Vec<Event> {
    let step = path(state, step);
    state.decide(Command::Dispatch { step }, now).unwrap();
    let attempt = state.attempt(step);
    state.decide(Command::Report { step, attempt, result }, now).unwrap()
}

fn failed(message: &str) -> Report {
    let failure = Box::new(Failure::new(ErrorClass::Unknown, message));
    Report::Failed { failure, retry: RetryAllowance::Allowed }
}

/// A run with something of everything: open bodies, waits, steps that were made, another definition,
/// failures, compensations, locks, a secret.
fn full() -> (Arc<Program>, RunState) {
    let each = [
        Step::task("work", "t").compensate(Step::task("undo", "t")),
        Step::wait("go", Wait::signal("go").key("item").timeout(Duration::from_secs(60)))
            .after("work"),
    ];
    let workflow = Workflow::builder("w")
        .variable("secret", Variable::of(VariableType::Secret).required())
        .variable("count", Variable::of(VariableType::Integer).default_value(0))
        .steps([
            Step::for_each("each", "input.items", each).concurrency(2),
            Step::while_loop(
                "loop",
                "turn < 9",
                [Step::task("turn", "t")
                    .retry(RetryConfig::attempts(3))
                    .attempt_timeout(Duration::from_secs(5))],
            ),
            Step::dynamic("made", "input.plan"),
            Step::wait("ask", Wait::approval(Approval::by(["ann", "bob"]).quorum(2).show("input"))),
            Step::task("locked", "t").lock(Lock::new("l")),
            Step::task("later", "t").after("locked"),
        ])
        .build()
        .unwrap();
    let program = program(&workflow);
    let mut state = RunState::new(id(), Arc::clone(&program));
    let plan = json!([{"id": "a", "task": "t", "config": {"x": 1}}]);
    state.decide(start(json!({"items": [1, "two", 3], "plan": plan})), at(0)).unwrap();
    let well = |value: serde_json::Value| Report::Succeeded(value.into());
    report(&mut state, "each[0]/work", well(json!({"one": [1.5, null]})), at(1));
    report(
        &mut state,
        "loop[0]/turn",
        well(json!("a text that is long enough to be shared")),
        at(2),
    );
    report(&mut state, "loop[1]/turn", failed("no"), at(3));
    report(&mut state, "made/a", well(json!(true)), at(4));
    let vote = Box::new(Vote::approve("ann").comment("fine").payload(json!({"by": "hand"})));
    state.decide(Command::Vote { approval: "ask".into(), vote }, at(5)).unwrap();
    state.decide(Command::Signal(Signal::new("kept", json!({"a": "b"}))), at(6)).unwrap();
    let mut definition = (**state.definition().unwrap()).clone();
    definition.steps.insert(0, Step::task("new", "t"));
    let changed = Workflow::from_definition(definition).unwrap();
    let (workflow, linked, mapping) = (changed.into(), Vec::new(), None);
    let operation = Operation::Modify { workflow, linked, revision: 0, mapping };
    let by = Reason::new("ann", "one more").into();
    state.decide(Command::Operate { operation: operation.into(), by }, at(7)).unwrap();
    let locked = path(&state, "locked");
    state.decide(Command::Dispatch { step: locked }, at(8)).unwrap();
    state.decide(Command::Pause(Reason::new("bob", "lunch").into()), at(9)).unwrap();
    (program, state)
}

#[test]
fn the_form_is_the_one_that_is_stored_out_there() {
    let (program, mut state) = full();
    let snapshot = state.snapshot(50).unwrap();
    let restored = RunState::restore(&id(), program, &snapshot);
    assert!(restored.is_ok(), "{restored:?}");
    let found: serde_json::Value = serde_json::from_str(&snapshot.state).unwrap();
    let kept: serde_json::Value = serde_json::from_str(include_str!("snapshot.json")).unwrap();
    // Who changes the form counts `SNAPSHOT_FORMAT` on, and has the old one read as well.
    assert!(found == kept, "the form has changed; now it is\n{found:#}");
}

#[test]
fn what_was_stored_out_there_can_be_read() {
    let (program, state) = full();
    let kept: serde_json::Value = serde_json::from_str(include_str!("snapshot.json")).unwrap();
    let snapshot = Snapshot { events: state.version(), forget: 0, state: kept.to_string() };
    assert_eq!(RunState::restore(&id(), program, &snapshot).unwrap(), state);
}

#[test]
fn a_state_that_was_read_goes_on_as_the_other() {
    let (program, mut state) = full();
    let snapshot = state.snapshot(50).unwrap();
    let mut read = RunState::restore(&id(), program, &snapshot).unwrap();
    assert_eq!(read, state);
    let vote = Command::Vote { approval: "ask".into(), vote: Vote::approve("bob").into() };
    let resume = Command::Resume(Box::default());
    let tick = Command::Tick { retry: RetryAllowance::Allowed };
    let signal = Command::Signal(Signal::keyed("go", 1, ()));
    for (command, second) in [(vote, 10), (resume, 11), (tick, 1_000), (signal, 1_001)] {
        let (ours, theirs) =
            (state.decide(command.clone(), at(second)), read.decide(command, at(second)));
        assert_eq!(ours, theirs);
        assert_eq!(state, read);
    }
}

#[test]
fn a_value_that_many_places_share_is_written_once() {
    let undo = Step::task("undo", "t");
    let steps: Vec<Step> =
        (0..50).map(|at| Step::task(format!("s{at}"), "t").compensate(undo.clone())).collect();
    let workflow = Workflow::builder("w").steps(steps).build().unwrap();
    let program = program(&workflow);
    let mut state = RunState::new(id(), Arc::clone(&program));
    let input: Value = json!({"text": "x".repeat(10_000)}).into();
    let (variables, grace) = (Value::NULL, Duration::ZERO);
    state.decide(Command::Start { input, variables, seed: 5, grace }, at(0)).unwrap();
    for step in 0..49 {
        report(&mut state, &format!("s{step}"), Report::Succeeded(step.into()), at(1));
    }
    // All of them would read the input if they had to be undone.
    let snapshot = state.snapshot(50).unwrap();
    assert!(snapshot.state.len() < 30_000, "{} bytes", snapshot.state.len());
    assert_eq!(RunState::restore(&id(), program, &snapshot).unwrap(), state);
}

#[test]
fn values_that_look_like_places_of_values_stay_what_they_are() {
    let workflow = Workflow::builder("w").step(Step::task("a", "t")).build().unwrap();
    let program = program(&workflow);
    let mut state = RunState::new(id(), Arc::clone(&program));
    let mut deep = json!({"$value": 1});
    for _ in 0..96 {
        deep = json!([deep]);
    }
    let input: Value = json!([{"$value": 0}, deep]).into();
    assert!(!input.nests_too_deep());
    let (variables, grace) = (json!({"$value": 7}).into(), Duration::ZERO);
    state.decide(Command::Start { input, variables, seed: 5, grace }, at(0)).unwrap();
    let snapshot = state.snapshot(50).unwrap();
    assert_eq!(RunState::restore(&id(), program, &snapshot).unwrap(), state);
}

#[test]
fn what_cannot_be_read_says_why() {
    let (program, mut state) = full();
    let good = state.snapshot(50).unwrap();
    let wrong = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        RunState::restore(&id(), Arc::clone(&program), &snapshot).unwrap_err()
    };
    let replaced = |from: &'static str, to: &'static str| {
        move |it: &mut Snapshot| it.state = it.state.replacen(from, to, 1)
    };
    assert!(wrong(&|it| it.state.truncate(500)).contains("damaged"));
    assert!(wrong(&|it| it.state.clear()).contains("damaged"));
    assert!(wrong(&replaced("\"format\":1", "\"format\":2")).contains("form 2"));
    assert!(wrong(&replaced("\"$value\":0", "\"$value\":900")).contains("no value"));
    assert!(wrong(&replaced("\"id\":\"r\"", "\"id\":\"s\"")).contains("another run"));
    assert!(wrong(&|it| it.events += 1).contains("another time"));
    let other = Workflow::builder("w").step(Step::task("a", "t")).build().unwrap();
    let other = RunState::restore(&id(), Arc::clone(other.program()), &good).unwrap_err();
    assert!(other.contains("another definition"), "{other}");
}

/// A loop of so many turns, of which each fails once.
fn looped(turns: u64) -> (Arc<Program>, RunState) {
    let step = Step::task("a", "t").retry(RetryConfig::attempts(2));
    let limits = Limits { max_duration: Duration::from_secs(1 << 40), ..Limits::default() };
    let workflow = Workflow::builder("w")
        .step(Step::while_loop("loop", "true", [step]).max_turns(u32::MAX))
        .limits(limits)
        .build()
        .unwrap();
    let program = program(&workflow);
    let mut state = RunState::new(id(), Arc::clone(&program));
    let (input, variables, grace) = (Value::NULL, Value::NULL, Duration::ZERO);
    state.decide(Command::Start { input, variables, seed: 5, grace }, at(0)).unwrap();
    for turn in 0..turns {
        let (step, now) = (format!("loop[{turn}]/a"), at(turn * 1_000));
        report(&mut state, &step, failed("not yet"), now);
        state
            .decide(
                Command::Tick { retry: RetryAllowance::Allowed },
                now + Duration::from_secs(999),
            )
            .unwrap();
        report(&mut state, &step, Report::Succeeded(turn.into()), now);
    }
    (program, state)
}

#[test]
fn a_loop_s_state_does_not_grow_with_its_turns() {
    let length = |turns| looped(turns).1.snapshot(50).unwrap().state.len();
    // The failures of the first thousand turns are kept.
    let (some, more) = (length(1_000), length(5_000));
    assert!(more < some + 100, "{some} bytes after 1,000 turns, {more} after 5,000");
}

#[test]
fn a_step_s_failed_attempts_are_kept_up_to_a_number() {
    let attempts = u32::try_from(ATTEMPTS_KEPT_MAX).unwrap() + 10;
    let limits = Limits { max_duration: Duration::from_secs(1 << 40), ..Limits::default() };
    let step = Step::task("a", "t").retry(RetryConfig::attempts(attempts));
    let workflow = Workflow::builder("w").step(step).limits(limits).build().unwrap();
    let mut state = RunState::new(id(), program(&workflow));
    let (input, variables, grace) = (Value::NULL, Value::NULL, Duration::ZERO);
    state.decide(Command::Start { input, variables, seed: 5, grace }, at(0)).unwrap();
    for attempt in 1..attempts {
        let now = at(u64::from(attempt) * 100_000);
        report(&mut state, "a", failed("no"), now);
        let tick = Command::Tick { retry: RetryAllowance::Allowed };
        state.decide(tick, now + Duration::from_secs(99_000)).unwrap();
    }
    let history = state.error_history(StepKey::root(0));
    assert_eq!(history.len(), ATTEMPTS_KEPT_MAX);
    assert_eq!(history.last().unwrap().attempt, attempts - 1, "the last ones");
}

#[test]
fn bytes_count_only_as_long_as_they_are_kept() {
    let (_, mut state) = looped(10);
    let before = state.clone();
    assert_eq!(state.forgotten(), 0);
    let (first, length) = (state.snapshot(0).unwrap(), state.version());
    assert_eq!((first.events, first.forget), (length, length), "nothing more is wanted");
    assert_eq!(state.forgotten(), length);
    assert_eq!(state, before, "nothing else has changed");
    let again = state.snapshot(0).unwrap();
    assert_eq!((again.events, again.forget), (length, length));
}

#[test]
fn each_snapshot_forgets_no_more_than_twice_what_has_come() {
    let (_, mut state) = looped(100);
    let all = state.version();
    // Somebody has asked for a shorter history.
    assert_eq!(state.snapshot(u64::MAX).unwrap().forget, 0);
    let step = path(&state, "loop[100]/a");
    state.decide(Command::Dispatch { step }, at(200_000)).unwrap();
    assert_eq!(state.snapshot(1).unwrap().forget, 2 * (state.version() - all));
}

#[test]
fn a_signal_of_an_id_comes_once_over_a_snapshot_and_the_end() {
    let wait = |id| Step::wait(id, Wait::signal("go"));
    let program = program(&Workflow::builder("w").steps([wait("a"), wait("b")]).build().unwrap());
    let mut state = RunState::new(id(), Arc::clone(&program));
    state.decide(start(()), at(0)).unwrap();
    let go = |id: &str| Command::Signal(Signal::new("go", 1).id(id));
    assert!(!state.decide(go("x"), at(1)).unwrap().is_empty());
    assert_eq!(state.decide(go("x"), at(2)), Ok(Vec::new()));
    let snapshot = state.snapshot(0).unwrap();
    let mut state = RunState::restore(&id(), program, &snapshot).unwrap();
    assert_eq!(state.decide(go("x"), at(3)), Ok(Vec::new()));
    assert!(!state.status().is_end());
    state.decide(go("y"), at(4)).unwrap();
    assert!(state.status().is_end());
    assert_eq!(state.decide(go("x"), at(5)), Ok(Vec::new()));
    assert_eq!(state.decide(go("z"), at(5)), Err(Rejection::Finished));
}

#[test]
fn an_id_of_a_signal_has_a_length() {
    let workflow = Workflow::builder("w").step(Step::wait("a", Wait::signal("go"))).build();
    let mut state = RunState::new(id(), program(&workflow.unwrap()));
    state.decide(start(()), at(0)).unwrap();
    let go = |length| Command::Signal(Signal::new("go", 1).id("x".repeat(length)));
    let refused = state.decide(go(SIGNAL_ID_BYTES_MAX + 1), at(1)).unwrap_err();
    assert!(refused.to_string().contains("id"), "{refused}");
    state.decide(go(SIGNAL_ID_BYTES_MAX), at(1)).unwrap();
}
