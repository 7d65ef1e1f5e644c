//! What the queries of the documentation answer, of the same runs in each database.

use std::time::Duration;

use futures::executor::block_on;
use serde_json::json;
use stepwell::journal::{Mapping, Operation, Reason, Recorded, Signal, Vote, Waiting};
use stepwell::run::Want;
use stepwell::storage::{Acquire, Commit, Holding, Owner, Storage};
use stepwell::workflow::Rate;
use stepwell::{
    ErrorClass, Event, Failure, Outcome, RunStatus, Step, StepKey, Timestamp, Value, Workflow,
};

use crate::runs::{A, alive, at, commit, id, new_run, workflow, write};
use crate::started;

/// What only one query says, the columns that are looked at, and their rows: in the order that the query
/// gives them, or sorted, if it gives none.
type Answer = (&'static str, &'static [&'static str], &'static [&'static str]);

/// `order-4711` is made by whoever asks, goes on by [`happens`], and everything else is by [`add`].
static ANSWERS: [Answer; 17] = [
    (
        "'run_finished'",
        &["id", "workflow", "at", "step", "why"],
        &[
            "order-4711 | w | 1970-01-01 00:00:10 | a | no stock",
            "order-4710 | w | 1970-01-01 00:00:04 | b | too late",
        ],
    ),
    (
        "'aside'",
        &["run", "workflow", "due", "problem"],
        &["broken | other | 1970-01-01 00:01:30 | its definition is damaged"],
    ),
    ("'run_quarantined'", &["id", "since", "recoveries"], &["kills | 1970-01-01 00:00:30 | 6"]),
    (
        "'step_outcome_unknown'",
        &["id", "scope", "step", "since", "why"],
        &["unknown | 0 | 0 | 1970-01-01 00:01:00 | nobody has answered"],
    ),
    (
        "'wait_started'",
        &["id", "since", "approval", "waits_for"],
        &[
            "decided | 1970-01-01 00:00:40 | release | ann",
            "decided | 1970-01-01 00:00:42 | look | -",
        ],
    ),
    (
        "lock_holders",
        &["lock", "run", "scope", "step", "workflow", "status", "next"],
        &[
            "crane | order-4712 | 0 | 1 | w | running | 1970-01-01 00:02:00",
            "dock | order-4712 | 0 | 1 | w | running | -",
        ],
    ),
    ("owners", &["state", "held"], &["alive | 6", "retired | 0"]),
    (
        "count(*) AS runs",
        &["workflow", "version", "status", "runs"],
        &[
            "other | - | cancelled | 1",
            "other | - | paused | 2",
            "other | - | pending | 1",
            "other | - | running | 2",
            "w | - | failed | 2",
            "w | - | running | 2",
        ],
    ),
    ("removed", &["runs"], &["10"]),
    ("<> 2", &["run", "version", "latest"], &["order-4712 | - | 3"]),
    (
        "SELECT position",
        &["position", "kind", "step"],
        &[
            "0 | run_started | -",
            "1 | step_ready | 0",
            "2 | step_started | 0",
            "3 | step_succeeded | 0",
            "4 | step_ready | 1",
            "5 | step_reset | 0",
            "6 | step_outcome_unknown | 1",
            "7 | voted | 0",
            "8 | signal_received | -",
            "9 | run_finished | -",
        ],
    ),
    (
        "'signal_taken'",
        &["id", "kind", "who", "why"],
        &[
            "decided | voted | cem | -",
            "decided | voted | bob | -",
            "resumed | run_paused | ann | lunch",
            "resumed | run_resumed | ann | try again",
            "order-4713 | operated | ann | version 2",
            "order-4713 | operated | ann | version 3",
            "order-4712 | operated | ann | version 3",
            "order-4712 | operated | ann | version 2",
            "order-4711 | signal_received | eve | -",
            "order-4711 | voted | bob | fine",
        ],
    ),
    (
        "name, status, since",
        &["scope", "step", "name", "status"],
        &["0 | 0 | a | pending", "0 | 1 | b | outcome_unknown"],
    ),
    (
        "workflow_steps",
        &["run", "step", "name"],
        &["kills | 0 | a", "kills | 1 | b", "resumed | 0 | a", "resumed | 1 | b"],
    ),
    ("step_dependencies", &["name", "depends_on", "kind", "class"], &["b | a | after | -"]),
    ("AS seconds", &["id", "step"], &["order-4711 | 0"]),
    ("AS output", &["id", "step"], &["decided | 0", "order-4711 | 0"]),
];

/// Each query of a page gives the rows that are known of it. Whoever asks joins the columns of a row by
/// ` | `, with `-` for nothing and times to the second.
pub(crate) fn are_answered(page: &str, ask: impl Fn(&str, &[&str]) -> Vec<String>) {
    let queries = queries(page);
    for query in &queries {
        let known: Vec<&Answer> =
            ANSWERS.iter().filter(|(text, ..)| query.contains(*text)).collect();
        let [(_, columns, expected)] = known[..] else {
            panic!("{} answers are known of {query}", known.len());
        };
        let mut found = ask(query, columns);
        if !query.contains("ORDER BY") {
            found.sort_unstable();
        }
        assert_eq!(found, *expected, "{query}");
    }
    assert_eq!(queries.len(), ANSWERS.len(), "{queries:#?}");
}

fn queries(page: &str) -> Vec<String> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("///"));
    let page: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    let blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let queries = blocks.flat_map(|block| block.split(";\n"));
    queries.filter(|query| !query.trim().is_empty()).map(String::from).collect()
}

/// What has happened to the run that the documentation asks for by its name, which is there.
pub(crate) fn happens(storage: &impl Storage, output: Value) {
    let step = StepKey::root(0);
    let events = [
        Event::StepReady { step },
        Event::StepStarted { step, attempt: 1 },
        Event::StepSucceeded { step, output },
        Event::StepReady { step: StepKey::root(1) },
        Event::StepReset { step, failed_items: false },
        Event::StepOutcomeUnknown {
            step: StepKey::root(1),
            failure: Box::new(Failure::new(ErrorClass::OutcomeUnknown, "who knows")),
        },
        Event::Voted { step, vote: Box::new(Vote::approve("bob").comment("fine")) },
        Event::SignalReceived { signal: Box::new(Signal::new("go", ()).by("eve")) },
        failed("a", "no stock"),
    ];
    let seconds = [1, 2, 5, 5, 6, 7, 8, 9, 10];
    let journal = std::iter::once(started())
        .chain(seconds.into_iter().zip(events).map(|(s, event)| Recorded { at: at(s), event }));
    let (status, holding) = (RunStatus::Failed, Holding::Finished);
    let failed = Commit { status, holding, ..commit(A, 0, journal.collect()) };
    write(storage, "order-4711", failed).unwrap();
}

/// Runs of all kinds that somebody asks for, and beside each some that are nearly so.
pub(crate) fn add(storage: &impl Storage) {
    alive(storage, A);
    block_on(storage.retire(Owner(2))).unwrap();
    let [first, second] = [0, 1].map(StepKey::root);
    let by = |why: &str| Reason::new("ann", why).into();
    let vote = |step: StepKey, who: &str| Event::Voted { step, vote: Vote::approve(who).into() };

    let cancelled = Event::RunFinished { outcome: Outcome::Cancelled.into() };
    let reopened = Event::RunReopened { deadline: Timestamp::MAX };
    let ended = [cancelled, reopened, failed("b", "too late")];
    run(storage, "w", "order-4710", RunStatus::Failed, 2, ended);

    run(storage, "w", "order-4712", RunStatus::Running, 20, [changed(2), changed(3)]);
    run(storage, "w", "order-4713", RunStatus::Running, 22, [changed(3), changed(2)]);
    let rate = Some(Rate { count: 1, per: Duration::from_secs(60) });
    let mut crane = Want::new("crane");
    crane.rate = rate;
    let wants = vec![crane, Want::new("dock")];
    let asked = Acquire { owner: A, expected: 2, step: second, wants, now: at(60) };
    assert_eq!(block_on(storage.acquire(&id("order-4712"), asked)).unwrap(), None);

    let quarantined = || Event::RunQuarantined { recoveries: 6 };
    run(storage, "other", "kills", RunStatus::Paused, 30, [quarantined()]);
    let resumed = Event::RunResumed { by: by("try again"), deadline: Timestamp::MAX };
    let again = [quarantined(), resumed, Event::RunPaused { by: by("lunch") }];
    run(storage, "other", "resumed", RunStatus::Paused, 32, again);

    let inner = StepKey { scope: 1, step: 0 };
    let waits = [
        approval(first, "release", &["ann", "bob"]),
        vote(first, "bob"),
        approval(second, "look", &[]),
        vote(second, "cem"),
        approval(inner, "done", &["eve"]),
        Event::StepSucceeded { step: inner, output: Value::NULL },
    ];
    run(storage, "other", "decided", RunStatus::Running, 40, waits);
    let waits = [approval(first, "release", &["ann"])];
    run(storage, "other", "given_up", RunStatus::Cancelled, 50, waits);

    let failure = || Box::new(Failure::new(ErrorClass::OutcomeUnknown, "nobody has answered"));
    let unknown = |step: StepKey| Event::StepOutcomeUnknown { step, failure: failure() };
    let told = Event::StepFailed { step: second, failure: failure() };
    let lost = [unknown(first), unknown(second), told];
    run(storage, "other", "unknown", RunStatus::Running, 60, lost);

    let broken = new_run("broken", &workflow("other"), Holding::Held(A));
    block_on(storage.create(broken)).unwrap();
    let why = "its definition is damaged".to_string();
    block_on(storage.set_aside(&id("broken"), A, at(90), why)).unwrap();
}

/// Adds a run to which this has happened, one event in each second from this one on.
fn run(
    storage: &impl Storage,
    of: &str,
    name: &str,
    status: RunStatus,
    seconds: i64,
    events: impl IntoIterator<Item = Event>,
) {
    block_on(storage.create(new_run(name, &workflow(of), Holding::Held(A)))).unwrap();
    let recorded = |(second, event)| Recorded { at: at(second), event };
    let journal = (seconds..).zip(events).map(recorded).collect();
    let holding = if status.is_end() { Holding::Finished } else { Holding::Held(A) };
    write(storage, name, Commit { status, holding, ..commit(A, 0, journal) }).unwrap();
}

/// The run failed at this step.
pub(crate) fn failed(step: &str, why: &str) -> Event {
    let failure = Failure::new(ErrorClass::Fatal, why);
    Event::RunFinished { outcome: Outcome::Failed { step: step.into(), failure }.into() }
}

/// The run goes over to another definition.
pub(crate) fn changed(version: u32) -> Event {
    let workflow = Workflow::builder("w").version(version).step(Step::task("a", "t"));
    let (workflow, linked) = (Box::new(workflow.build().unwrap()), Vec::new());
    let mapping = Some(Mapping::new());
    let operation = Operation::Modify { workflow, linked, revision: 0, mapping }.into();
    Event::Operated { operation, by: Reason::new("ann", format!("version {version}")).into() }
}

fn approval(step: StepKey, id: &str, approvers: &[&str]) -> Event {
    let open = json!({"id": id, "show": null, "approvers": approvers, "quorum": 2, "votes": []});
    let wait: Waiting = serde_json::from_value(json!({"approval": open})).unwrap();
    Event::WaitStarted { step, wait: wait.into() }
}

/// A workflow with every way in which one step comes after another.
pub(crate) fn edges() -> Workflow {
    let task = |id: &str| Step::task(id, "t");
    let first = task("first")
        .when("input == 1")
        .otherwise("other")
        .always("always")
        .on_success("good")
        .on_failure("bad")
        .on_failure("worse")
        .on_error(ErrorClass::Timeout, "late")
        .on_error(ErrorClass::ServerError, "down");
    let named = ["other", "always", "good", "bad", "worse", "late", "down"].map(task);
    let last = [task("one").after("first"), task("two").after_all(["one", "good"])];
    let steps = [first].into_iter().chain(named).chain(last);
    let steps = steps.chain([task("last").finally()]);
    Workflow::builder("edges").version(7).steps(steps).build().unwrap()
}

/// What the views say of it.
pub(crate) const EDGES: [(&str, &str, &str, Option<&str>); 10] = [
    ("always", "first", "always", None),
    ("bad", "first", "on_failure", None),
    ("down", "first", "on_error", Some("server_error")),
    ("good", "first", "on_success", None),
    ("late", "first", "on_error", Some("timeout")),
    ("one", "first", "after", None),
    ("other", "first", "otherwise", None),
    ("two", "good", "after", None),
    ("two", "one", "after", None),
    ("worse", "first", "on_failure", None),
];

pub(crate) const STEPS: [&str; 11] =
    ["first", "other", "always", "good", "bad", "worse", "late", "down", "one", "two", "last"];
