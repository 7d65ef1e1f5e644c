//! Every kind of event, message and definition comes back as it was. What is public here is for the
//! test of what earlier programs have stored, which wants the same kinds.

use std::time::Duration;

use serde_json::json;

pub use super::answers::rejections;
use super::given::{A, at, commit, event, run, started, workflow};
use super::trial::Trial;
use crate::error::{ErrorClass, Failure, StepError, Suspension};
use crate::id::StepKey;
use crate::journal::{
    CancelReason, Event, FailedAttempt, Mapping, Modified, MovedScope, OpenApproval, Operation,
    Outcome, Reason, Recorded, ScopeOpened, Signal, SkipReason, Suspended, Vote, Waiting,
};
use crate::retry::RetryConfig;
use crate::storage::{Commit, Message, NewRun};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{FailurePolicy, Lock, Step, Wait, Workflow};

fn value() -> Value {
    json!({"n": [1, -0.5, "ü\u{0}", null, true], "m": {}}).into()
}

fn failure() -> Failure {
    let cause = std::io::Error::other("the disk is full");
    let mut failure = StepError::from(cause).into_failure().unwrap_or_else(|wait| {
        Failure::new(ErrorClass::Unknown, format!("an error is no wish to wait: {wait:?}"))
    });
    failure.origin = Some("a/b[3]".into());
    failure.causes = vec!["one".into(), String::new()];
    failure.retry_after = Some(Duration::from_micros(1_500_001));
    failure.nothing_done = true;
    failure
}

fn suspension(timeout: Option<Duration>) -> Suspension {
    let prompt = json!({"ask": "go on?"});
    let wish = StepError::wait_for_signal("go", prompt, timeout).into_failure();
    wish.expect_err("it is a wish to wait")
}

fn reason() -> Reason {
    Reason::new("ann 🦀", "it's \"needed\"")
}

/// One of each, so that a new one has to be put here.
fn outcome_place(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Succeeded(_) => 0,
        Outcome::Failed { .. } => 1,
        Outcome::Cancelled => 2,
        Outcome::TimedOut => 3,
    }
}
const OUTCOME_PLACES: usize = 4;

fn outcomes() -> Vec<Outcome> {
    let all = vec![
        Outcome::Succeeded(value()),
        Outcome::Succeeded(Value::NULL),
        Outcome::Failed { step: "a/b".into(), failure: failure() },
        Outcome::Cancelled,
        Outcome::TimedOut,
    ];
    there_is_one_of_each(all.iter().map(outcome_place), OUTCOME_PLACES);
    all
}

fn vote() -> Vote {
    Vote::reject("bob").comment("no\n").payload(value())
}

/// One of each, as above.
fn wait_place(wait: &Waiting) -> usize {
    match wait {
        Waiting::Until(_) => 0,
        Waiting::Signal(..) => 1,
        Waiting::Condition(_) => 2,
        Waiting::Approval(_) => 3,
        Waiting::First(_) => 4,
    }
}
const WAIT_PLACES: usize = 5;

fn waits() -> Vec<Waiting> {
    let mut open = OpenApproval::new("a#2".into(), vec!["ann".into(), "bob".into()], 2);
    open.prompt = Some("deploy?".into());
    open.show = value();
    open.votes = vec![Vote::approve("ann"), vote()];
    open.until = Some(at(9));
    let plain = vec![
        Waiting::Until(Timestamp::MAX),
        Waiting::Signal("go[1]".into(), Some(at(3))),
        Waiting::Signal(String::new(), None),
        Waiting::Condition(None),
        Waiting::Condition(Some(Timestamp::MIN)),
        Waiting::Approval(Box::new(open)),
        Waiting::Approval(Box::new(OpenApproval::new("b".into(), Vec::new(), 1))),
    ];
    let named = |(place, wait): (usize, &Waiting)| (format!("w{place}"), wait.clone());
    let first = Waiting::First(plain.iter().enumerate().map(named).collect());
    let all: Vec<Waiting> = plain.into_iter().chain([first]).collect();
    there_is_one_of_each(all.iter().map(wait_place), WAIT_PLACES);
    all
}

/// One of each, as above.
fn operation_place(operation: &Operation) -> usize {
    match operation {
        Operation::Rerun { .. } => 0,
        Operation::RetryFailed => 1,
        Operation::Skip { .. } => 2,
        Operation::Succeed { .. } => 3,
        Operation::Fail { .. } => 4,
        Operation::Modify { .. } => 5,
        Operation::Cancel { .. } => 6,
        Operation::Reseal { .. } => 7,
        Operation::SetVariables { .. } => 8,
    }
}
const OPERATION_PLACES: usize = 9;

fn operations() -> Vec<Operation> {
    let all = vec![
        Operation::rerun("a"),
        Operation::rerun_alone("a/b[1]/c"),
        Operation::rerun_failed_items("each"),
        Operation::RetryFailed,
        Operation::skip(["a", "b"]),
        Operation::succeed("a", value()),
        Operation::fail("a", "it's \"gone\""),
        Operation::Modify {
            workflow: Box::new(rich("w")),
            linked: vec![workflow("inner")],
            revision: 3,
            mapping: Some(
                Mapping::new().rename("a", "b").remove("c").succeed("d", value()).skip("e"),
            ),
        },
        Operation::cancel(["a"]),
        Operation::Reseal { replaced: [("old".to_string(), "new".to_string())].into() },
        Operation::set_variable("v", value()),
    ];
    there_is_one_of_each(all.iter().map(operation_place), OPERATION_PLACES);
    all
}

/// A definition with something of most that there is.
fn rich(id: &str) -> Workflow {
    let inner = [Step::task("x", "t").config(value()), Step::task("y", "t").after("x")];
    let lock = Lock::rate("api", 3, Duration::from_secs(60)).key("input.tenant");
    let steps = [
        Step::parallel("p", inner).timeout(Duration::from_millis(1_500)),
        Step::task("t", "t").after("p").when("input.ok == true").lock(lock),
        Step::wait("ask", Wait::signal("go")).after("t").metadata("k", json!([1, {"a": null}])),
        Step::workflow("sub", "inner").after("ask"),
        Step::task("clean", "t")
            .finally()
            .retry(RetryConfig::attempts(7))
            .name("ünï 🦀")
            .description("it's\n\"it\""),
    ];
    Workflow::builder(id)
        .steps(steps)
        .version(12)
        .on_failure(FailurePolicy::default())
        .label("team", "a'b")
        .metadata("m", json!({"z": 1, "a": 2}))
        .build()
        .unwrap_or_else(|error| panic!("cases use good workflows: {error}"))
}

/// One of each, as above.
fn place(event: &Event) -> usize {
    match event {
        Event::RunStarted(_) => 0,
        Event::StepReady { .. } => 1,
        Event::StepStarted { .. } => 2,
        Event::StepSucceeded { .. } => 3,
        Event::AttemptFailed { .. } => 4,
        Event::StepFailed { .. } => 5,
        Event::StepSkipped { .. } => 6,
        Event::StepCancelRequested { .. } => 7,
        Event::StepCancelled { .. } => 8,
        Event::WaitStarted { .. } => 9,
        Event::StepSuspended { .. } => 10,
        Event::VariablesSet { .. } => 11,
        Event::SignalReceived { .. } => 12,
        Event::SignalTaken { .. } => 13,
        Event::Voted { .. } => 14,
        Event::ItemsListed { .. } => 15,
        Event::StepsMade { .. } => 16,
        Event::ScopeOpened { .. } => 17,
        Event::ScopeClosed { .. } => 18,
        Event::ScopeStopping { .. } => 19,
        Event::ScopeCompensating { .. } => 20,
        Event::CompensationStarted { .. } => 21,
        Event::RunPaused { .. } => 22,
        Event::RunResumed { .. } => 23,
        Event::RunCancelRequested { .. } => 24,
        Event::RunLimitReached => 25,
        Event::Operated { .. } => 26,
        Event::WorkflowModified(_) => 27,
        Event::SecretsResealed { .. } => 28,
        Event::RunReopened { .. } => 29,
        Event::StepReset { .. } => 30,
        Event::RunFinished { .. } => 31,
        Event::RunQuarantined { .. } => 32,
        Event::StepOutcomeUnknown { .. } => 33,
        Event::RunTerminated { .. } => 34,
    }
}
const PLACES: usize = 35;

/// One of each, as above.
fn skip_place(reason: SkipReason) -> usize {
    match reason {
        SkipReason::Condition => 0,
        SkipReason::Upstream => 1,
        SkipReason::Operator => 2,
    }
}
const SKIPS: [SkipReason; 3] = [SkipReason::Condition, SkipReason::Upstream, SkipReason::Operator];

/// One of each, as above.
fn cancel_place(reason: CancelReason) -> usize {
    match reason {
        CancelReason::Rest => 0,
        CancelReason::Stopping => 1,
        CancelReason::Run => 2,
        CancelReason::TimedOut => 3,
        CancelReason::Operator => 4,
    }
}
const CANCELS: [CancelReason; 5] = [
    CancelReason::Rest,
    CancelReason::Stopping,
    CancelReason::Run,
    CancelReason::TimedOut,
    CancelReason::Operator,
];

fn step_events(step: StepKey) -> Vec<Event> {
    let signal = Box::new(Signal::keyed("paid", 42, value()).transient());
    let failed = FailedAttempt {
        attempt: u32::MAX,
        failure: failure(),
        delay: Duration::from_millis(1),
        retry_at: at(4),
    };
    let suspended = |until, timeout| Box::new(Suspended { suspension: suspension(timeout), until });
    vec![
        Event::StepReady { step },
        Event::StepStarted { step, attempt: 1 },
        Event::StepSucceeded { step, output: value() },
        Event::AttemptFailed { step, failed: Box::new(failed) },
        Event::StepFailed { step, failure: Box::new(failure()) },
        Event::StepOutcomeUnknown { step, failure: Box::new(failure()) },
        Event::StepSuspended { step, suspended: suspended(Some(at(5)), None) },
        Event::StepSuspended { step, suspended: suspended(None, Some(Duration::from_secs(9))) },
        Event::VariablesSet { step: Some(step), values: value() },
        Event::VariablesSet { step: None, values: json!({}).into() },
        Event::SignalReceived { signal: signal.clone() },
        Event::SignalTaken { step, signal },
        Event::SignalTaken {
            step,
            signal: Box::new(Signal::new("s", ()).by("ann").id("sent once")),
        },
        Event::Voted { step, vote: Box::new(vote()) },
        Event::ItemsListed { step, items: json!([1, "two", null]).into() },
        Event::StepsMade { step, unit: 4, steps: json!([{"id": "a"}]).into() },
        Event::StepReset { step, failed_items: true },
        Event::StepReset { step, failed_items: false },
    ]
}

fn run_events() -> Vec<Event> {
    let (by, scope) = (Box::new(reason()), u32::MAX);
    let opened = ScopeOpened {
        parent: StepKey::root(1),
        unit: 2,
        body: 3,
        index: 4,
        input: value(),
        variables: Value::NULL,
    };
    let steps = vec![Some(1), None, Some(0)];
    let moved = MovedScope { scope: 0, unit: 2, body: 0, steps, variables: value() };
    let (workflow, linked) = (rich("w"), vec![workflow("inner")]);
    let modified = Modified { workflow, linked, variables: value(), scopes: vec![moved] };
    let replaced = Box::new([("a".to_string(), "b".to_string())].into());
    vec![
        started(value()),
        Event::ScopeOpened { scope, opened: Box::new(opened) },
        Event::ScopeStopping { scope: 0 },
        Event::CompensationStarted { scope, of: 0 },
        Event::RunPaused { by: by.clone() },
        Event::RunPaused { by: Box::default() },
        Event::RunResumed { by: by.clone(), deadline: Timestamp::MAX },
        Event::RunCancelRequested { by: by.clone(), grace: None },
        Event::RunCancelRequested { by: by.clone(), grace: Some(Box::new(Duration::MAX)) },
        Event::RunTerminated { by },
        Event::RunQuarantined { recoveries: u32::MAX },
        Event::RunLimitReached,
        Event::WorkflowModified(Box::new(modified)),
        Event::SecretsResealed { replaced },
        Event::RunReopened { deadline: at(1) },
    ]
}

/// Events, at least one of each kind.
pub fn events() -> Vec<Event> {
    let step = StepKey { scope: u32::MAX, step: u32::MAX };
    let mut all = run_events();
    all.extend(step_events(step));
    there_is_one_of_each(SKIPS.into_iter().map(skip_place), SKIPS.len());
    all.extend(SKIPS.map(|reason| Event::StepSkipped { step, reason }));
    there_is_one_of_each(CANCELS.into_iter().map(cancel_place), CANCELS.len());
    for reason in CANCELS {
        all.push(Event::StepCancelRequested { step, deadline: at(6), reason });
        all.push(Event::StepCancelled { step, reason });
    }
    all.extend(waits().into_iter().map(|wait| Event::WaitStarted { step, wait: Box::new(wait) }));
    for outcome in outcomes().into_iter().map(Box::new) {
        all.push(Event::ScopeClosed { scope: 1, outcome: outcome.clone() });
        all.push(Event::ScopeCompensating { scope: 1, outcome: outcome.clone() });
        all.push(Event::RunFinished { outcome });
    }
    let operated =
        |operation| Event::Operated { operation: Box::new(operation), by: Box::new(reason()) };
    all.extend(operations().into_iter().map(operated));
    there_is_one_of_each(all.iter().map(place), PLACES);
    all
}

/// One of each, as above.
fn message_place(message: &Message) -> usize {
    match message {
        Message::Signal(_) => 0,
        Message::Vote { .. } => 1,
        Message::Pause(_) => 2,
        Message::Resume(_) => 3,
        Message::Operate { .. } => 4,
        Message::Cancel { .. } => 5,
        Message::Terminate(_) => 6,
    }
}
const MESSAGE_PLACES: usize = 7;

/// Messages, at least one of each kind.
pub fn messages() -> Vec<Message> {
    let mut all = vec![
        Message::Signal(Signal::new("s", value())),
        Message::Signal(Signal::new("s", ()).transient()),
        Message::Signal(Signal::new("s", ()).to("a#2").by("ann").id("once")),
        Message::Vote { approval: "a#2".into(), vote: vote() },
        Message::Pause(reason()),
        Message::Resume(Reason::default()),
        Message::Cancel { by: reason(), grace: None },
        Message::Cancel { by: reason(), grace: Some(Duration::from_nanos(1)) },
        Message::Terminate(reason()),
    ];
    let operate = |operation| Message::Operate { operation, by: reason() };
    all.extend(operations().into_iter().map(operate));
    there_is_one_of_each(all.iter().map(message_place), MESSAGE_PLACES);
    all
}

#[track_caller]
pub(super) fn there_is_one_of_each(places: impl Iterator<Item = usize>, count: usize) {
    let all: std::collections::BTreeSet<usize> = places.collect();
    assert_eq!(all.len(), count, "there is one of each kind");
}

pub(super) fn every_event_comes_back_from_a_commit(on: &Trial<'_>) {
    on.held("r", A);
    let events: Vec<Recorded> = events().into_iter().map(|kind| event(5, kind)).collect();
    on.commit("r", Commit { events: events.clone(), ..commit(A, 0) });
    for (found, given) in on.load("r").journal.iter().zip(&events) {
        assert_eq!(found, given);
    }
    assert_eq!(on.length("r"), events.len() as u64);
}

pub(super) fn every_event_comes_back_from_the_beginning(on: &Trial<'_>) {
    let journal: Vec<Recorded> = events().into_iter().map(|kind| event(5, kind)).collect();
    on.create(NewRun { journal: journal.clone(), ..run("r") });
    assert_eq!(on.load("r").journal, journal);
}

pub(super) fn every_message_comes_back(on: &Trial<'_>) {
    on.held("r", A);
    let sent = messages();
    let numbers: Vec<u64> = sent.iter().map(|message| on.post("r", message.clone())).collect();
    let expected: Vec<(u64, Message)> = numbers.into_iter().zip(sent).collect();
    assert_eq!(on.inbox("r"), expected);
}

pub(super) fn a_definition_comes_back_with_all_that_it_says(on: &Trial<'_>) {
    let linked = vec![rich("inner"), workflow("other"), rich("third")];
    on.create(NewRun { workflow: rich("w"), linked: linked.clone(), ..run("r") });
    let stored = on.load("r");
    assert_eq!(stored.workflow.definition(), rich("w").definition());
    assert_eq!(stored.linked, linked, "in their order");
}

pub(super) fn runs_of_one_name_keep_their_own_definitions(on: &Trial<'_>) {
    let plain = workflow("w");
    on.create(NewRun { workflow: plain.clone(), linked: vec![rich("x")], ..run("r") });
    on.create(NewRun { workflow: rich("w"), linked: vec![workflow("x")], ..run("s") });
    let (first, second) = (on.load("r"), on.load("s"));
    assert_eq!((first.workflow, first.linked), (plain, vec![rich("x")]));
    assert_eq!((second.workflow, second.linked), (rich("w"), vec![workflow("x")]));
}
