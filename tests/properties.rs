//! Properties over random workflows and random sequences of commands.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use stepwell::journal::{Operation, Recorded, Signal, Vote};
use stepwell::plan::EdgeKind;
use stepwell::run::{Command, Report, RetryAllowance, RunState};
use stepwell::workflow::{Approval, Case, FailurePolicy, Lock, NodeKind};
use stepwell::{
    ErrorClass, Event, Failure, RetryConfig, RunId, SkipReason, Step, StepKey, StepStatus,
    Timestamp, Trigger, Value, Wait, Workflow,
};

/// Steps of one body: each depends on some before it.
fn body(depth: u32) -> BoxedStrategy<Vec<Step>> {
    prop::collection::vec((step(depth), any::<[u8; 4]>()), 1..5)
        .prop_map(|steps| {
            let count = steps.len();
            let ids: Vec<String> = (0..count).map(|at| format!("s{at}")).collect();
            let mut built: Vec<Step> = Vec::new();
            for (at, (mut step, dice)) in steps.into_iter().enumerate() {
                step.id = ids[at].as_str().into();
                if at > 0 {
                    let before = usize::from(dice[0]) % at;
                    match dice[1] % 8 {
                        0..3 => step.after.push(ids[before].as_str().into()),
                        3 => built[before].on_failure.push(ids[at].as_str().into()),
                        4 => built[before].otherwise.push(ids[at].as_str().into()),
                        5 => built[before].always.push(ids[at].as_str().into()),
                        6 => {
                            let caught = &mut built[before].on_error;
                            caught.insert(ErrorClass::Fatal, vec![ids[at].as_str().into()]);
                        }
                        _ => {}
                    }
                    let other = usize::from(dice[2]) % at;
                    if dice[2] > 128 && other != before {
                        step.after.push(ids[other].as_str().into());
                    }
                }
                step.trigger = match dice[3] % 13 {
                    0 => Some(Trigger::AnySucceeded),
                    1 => Some(Trigger::AllDone),
                    2 => Some(Trigger::AnyFailed),
                    3 => Some(Trigger::NoneFailed),
                    4 => Some(Trigger::at_least(1)),
                    5 => Some(Trigger::Always),
                    6 => Some(Trigger::AllFailed),
                    7 => Some(Trigger::tolerates(1)),
                    _ => None,
                };
                step.cancel_rest = dice[3] > 230;
                if dice[2] % 16 == 3 {
                    step = step.lock(Lock::new("l"));
                }
                // Nothing regular comes after it.
                step.finally = dice[3] > 200 && dice[3] < 215 && at + 1 == count;
                if step.finally {
                    step.after.clear();
                }
                built.push(step);
            }
            built
        })
        .boxed()
}

fn step(depth: u32) -> BoxedStrategy<Step> {
    let task = (any::<bool>(), 0..8_u8).prop_map(|(retry, extra)| {
        let mut step = Step::task("x", "t");
        if extra > 5 {
            let undo = Step::task("undo", "t").input("what", "output");
            step = step.compensate(undo.retry(RetryConfig::attempts(2)));
        }
        if retry {
            step = step.retry(RetryConfig::attempts(3));
        }
        match extra {
            0 => step.when("input.yes"),
            1 => step.when("input.no"),
            2 => step.attempt_timeout(Duration::from_secs(5)),
            3 => step.timeout(Duration::from_secs(20)),
            _ => step,
        }
    });
    let wait = prop_oneof![
        Just(Wait::For(Duration::from_secs(30))),
        Just(Wait::signal("go")),
        Just(Wait::signal("go").timeout(Duration::from_secs(60))),
        Just(Wait::condition("now() > 50")),
        Just(Wait::approval(Approval::by(["ann", "bob", "cem"]).quorum(2))),
        Just(Wait::first([("s", Wait::signal("go")), ("t", Wait::For(Duration::from_secs(90)))])),
    ]
    .prop_map(|wait| Step::wait("x", wait));
    if depth == 0 {
        return prop_oneof![4 => task, 1 => wait].boxed();
    }
    let inner = move || body(depth - 1);
    prop_oneof![
        6 => task,
        2 => wait,
        1 => inner().prop_map(|steps| Step::parallel("x", steps)),
        1 => inner().prop_map(|steps| Step::sequence("x", plain(steps))),
        1 => (inner(), inner()).prop_map(|(a, b)| {
            Step::choice("x", [Case::when("input.no", a), Case::otherwise(b)])
        }),
        1 => inner().prop_map(|steps| Step::for_each("x", "input.items", steps).concurrency(2)),
        1 => inner().prop_map(|steps| Step::for_each("x", "input.items", steps).tolerates(1)),
        1 => inner().prop_map(|steps| Step::for_each("x", "input.items", steps).enough(2)),
        1 => inner().prop_map(|steps| Step::while_loop("x", "turn < 2", steps)),
        1 => Just(Step::workflow("x", "child")),
        1 => Just(Step::dynamic("x", "input.plan").may_run("child")),
    ]
    .boxed()
}

/// Steps of a chain have no edges of their own that could run against it.
fn plain(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        step.after.clear();
        step.on_failure.clear();
        step.on_error.clear();
        step.otherwise.clear();
        step.always.clear();
        step.finally = false;
    }
    steps
}

fn child() -> Workflow {
    let steps = [Step::task("a", "t"), Step::task("b", "t").after("a")];
    Workflow::builder("child").steps(steps).build().unwrap()
}

struct Life {
    state: RunState,
    journal: Vec<Recorded>,
    now: Timestamp,
    /// Tasks that run, with their attempts.
    running: BTreeMap<StepKey, u32>,
    ended: BTreeSet<StepKey>,
    /// Steps that are to be run again.
    reset: BTreeSet<StepKey>,
    attempts: BTreeMap<StepKey, u32>,
}

/// The statuses of the steps before a step, each with the edge that leads from it.
/// An edge for failures of another class than the step's does not lead here: then it counts as if the
/// step had been stopped.
fn edges(state: &RunState, step: StepKey) -> Vec<(EdgeKind, StepStatus)> {
    let (unit, body) = state.body_of(step);
    let plan = Arc::clone(&state.program().unit(unit).body(body).plan);
    let before = plan.predecessors(step.step).iter();
    let of = |link: &stepwell::plan::Link| {
        let key = StepKey { scope: step.scope, step: link.step };
        let status = state.step_status(key).unwrap();
        let class = state.failure(key).map(|failure| failure.class);
        let node = state.node(step).unwrap();
        let other = |(from, classes): &(u32, Vec<ErrorClass>)| {
            *from == link.step && class.is_some_and(|class| !classes.contains(&class))
        };
        match link.kind == EdgeKind::OnFailure
            && node.more.as_ref().is_some_and(|more| more.catches.iter().any(other))
        {
            true => (link.kind, StepStatus::Cancelled),
            false => (link.kind, status),
        }
    };
    before.map(of).collect()
}

/// The join rules once more, as the documentation says them.
fn assert_may_start(state: &RunState, step: StepKey) {
    let trigger = state.node(step).unwrap().trigger;
    let (read, counted): (Vec<_>, Vec<_>) =
        edges(state, step).into_iter().partition(|(kind, _)| *kind == EdgeKind::Reads);
    assert!(read.iter().all(|(_, status)| status.is_end()), "{step:?} reads what is not over");
    let about_failures = trigger.catches_failure();
    let met = |(kind, status): &(EdgeKind, StepStatus)| match kind {
        EdgeKind::After => {
            let done = SkipReason::Condition;
            *status == StepStatus::Succeeded
                || matches!(status, StepStatus::Skipped(why) if *why == done || *why == SkipReason::Operator)
        }
        EdgeKind::OnSuccess => *status == StepStatus::Succeeded,
        EdgeKind::OnFailure => *status == StepStatus::Failed,
        EdgeKind::Otherwise => *status == StepStatus::Skipped(SkipReason::Condition),
        EdgeKind::Always | EdgeKind::Reads => status.is_end(),
    };
    let failed = |(kind, status): &(EdgeKind, StepStatus)| {
        let counts = match kind {
            EdgeKind::After | EdgeKind::OnSuccess => true,
            EdgeKind::OnFailure => about_failures,
            _ => false,
        };
        counts && *status == StepStatus::Failed
    };
    let over = |(_, status): &(EdgeKind, StepStatus)| status.is_end();
    let may = counted.is_empty()
        || match trigger {
            Trigger::AllSucceeded => counted.iter().all(met),
            Trigger::AnySucceeded => counted.iter().any(met),
            Trigger::AtLeast(amount) => {
                let needed = amount.at_least(counted.len() as u32) as usize;
                counted.iter().filter(|edge| met(edge)).count() >= needed
            }
            Trigger::Tolerates(amount) => {
                let tolerated = amount.at_most(counted.len() as u32) as usize;
                let failures = counted.iter().filter(|edge| failed(edge)).count();
                counted.iter().all(over) && failures <= tolerated
            }
            Trigger::AllDone | Trigger::Always => counted.iter().all(over),
            Trigger::AllFailed => counted.iter().all(failed),
            Trigger::AnyFailed => counted.iter().any(failed),
            Trigger::NoneFailed => counted.iter().all(over) && !counted.iter().any(failed),
            other => panic!("a rule without a model: {other:?}"),
        };
    assert!(may, "{step:?} starts too early: {trigger:?} over {counted:?}");
}

impl Life {
    fn ask(&mut self, command: Command) {
        let before = (self.state.clone(), self.journal.len());
        let reported = match &command {
            Command::Report { step, attempt, .. } => Some((*step, *attempt)),
            _ => None,
        };
        let answer = self.state.decide_into(command, self.now, &mut self.journal);
        if let Some((step, attempt)) = reported {
            // Only the attempt that runs may be reported; nothing late, nothing twice.
            let runs = self.running.get(&step) == Some(&attempt);
            let there = before.0.step_status(step).is_some() && before.0.outcome().is_none();
            assert_eq!(answer.is_ok(), runs && there, "{step:?} attempt {attempt}: {answer:?}");
        }
        match answer {
            Err(_) => {
                assert_eq!(self.state, before.0, "a rejection changes nothing");
                assert_eq!(self.journal.len(), before.1);
            }
            Ok(()) => {
                let mut state = before.0;
                let news = self.journal[before.1..].to_vec();
                for recorded in news {
                    self.watch(&state, &recorded.event);
                    state.apply(recorded.at, &recorded.event);
                }
                assert_eq!(state, self.state, "what was decided is what was applied");
            }
        }
    }

    /// Checks one event against the state before it.
    fn watch(&mut self, state: &RunState, event: &Event) {
        match event {
            Event::WorkflowModified(modified) => self.move_keys(state, &modified.workflow),
            Event::StepReset { step, .. } => {
                self.ended.remove(step);
                self.reset.insert(*step);
            }
            Event::StepReady { step } | Event::WaitStarted { step, .. }
                if (state.attempt(*step) == 0 || self.reset.remove(step))
                // What was ready for its locks was reached before.
                && state.step_status(*step) == Some(StepStatus::Pending) =>
            {
                assert_may_start(state, *step);
            }
            Event::StepStarted { step, attempt } => {
                assert!(!self.ended.contains(step), "{step:?} starts after its end");
                let last = self.attempts.insert(*step, *attempt).unwrap_or(0);
                assert_eq!(*attempt, last + 1, "attempts count up by one");
                if !matches!(state.node(*step).unwrap().kind, NodeKind::Task { .. }) {
                    if state.step_status(*step) == Some(StepStatus::Pending) {
                        assert_may_start(state, *step);
                    }
                } else {
                    assert_eq!(state.step_status(*step), Some(StepStatus::Ready));
                    self.running.insert(*step, *attempt);
                }
            }
            Event::AttemptFailed { step, .. } | Event::StepSuspended { step, .. } => {
                self.running.remove(step);
            }
            Event::StepSucceeded { step, .. }
            | Event::StepFailed { step, .. }
            | Event::StepSkipped { step, .. }
            | Event::StepCancelled { step, .. } => {
                assert!(self.ended.insert(*step), "{step:?} ended twice");
                self.running.remove(step);
            }
            Event::RunFinished { .. } => self.running.clear(),
            _ => {}
        }
    }

    /// The outermost steps stand elsewhere from now on.
    fn move_keys(&mut self, state: &RunState, workflow: &Workflow) {
        let body = state.body_of(StepKey::root(0));
        let before = Arc::clone(&state.program().unit(body.0).body(body.1).plan);
        let after = Arc::clone(&workflow.program().unit(0).body(0).plan);
        let new = |key: StepKey| match key.scope {
            0 => after.index(before.id(key.step).as_str()).map(StepKey::root),
            _ => Some(key),
        };
        self.running = self.running.iter().filter_map(|(k, a)| Some((new(*k)?, *a))).collect();
        self.attempts = self.attempts.iter().filter_map(|(k, a)| Some((new(*k)?, *a))).collect();
        self.ended = self.ended.iter().copied().filter_map(new).collect();
        self.reset = self.reset.iter().copied().filter_map(new).collect();
    }

    /// Every run that is not finished has something ready, running, due, waited for, or is paused.
    fn assert_alive(&self) {
        let state = &self.state;
        // The run's own time limit does not count: it would end a run that hangs, too.
        let limit = self.journal.iter().rev().find_map(|recorded| match &recorded.event {
            Event::RunStarted(started) => Some(started.deadline),
            Event::RunResumed { deadline, .. } | Event::RunReopened { deadline } => Some(*deadline),
            _ => None,
        });
        let alive = state.status().is_end()
            || state.first_ready().is_some()
            || state.running() > 0
            || state.next_due(self.now).is_some_and(|at| Some(at) != limit)
            || state
                .steps()
                .any(|(_, status)| matches!(status, StepStatus::Waiting | StepStatus::Retrying));
        assert!(alive, "stranded: {:#?}", self.journal);
        let running: BTreeSet<StepKey> = state
            .steps()
            .filter(|(step, status)| {
                let node = state.node(*step).unwrap();
                *status == StepStatus::Running && matches!(node.kind, NodeKind::Task { .. })
            })
            .map(|(step, _)| step)
            .collect();
        if !state.status().is_end() {
            assert_eq!(state.running() as usize, running.len(), "the count of running tasks");
        }
    }
}

fn live(steps: Vec<Step>, policy: FailurePolicy, dice: &[u16]) -> Vec<Recorded> {
    let Ok(workflow) = Workflow::builder("w").steps(steps).on_failure(policy).build() else {
        return Vec::new();
    };
    let child = child();
    let find = |id: &str| (id == "child").then(|| child.clone());
    let program = stepwell::workflow::Program::link(&workflow, find, Vec::new).unwrap();
    let id = RunId::new("r").unwrap();
    let mut life = Life {
        state: RunState::new(id.clone(), Arc::clone(&program)),
        journal: Vec::new(),
        now: Timestamp::EPOCH,
        running: BTreeMap::new(),
        ended: BTreeSet::new(),
        reset: BTreeSet::new(),
        attempts: BTreeMap::new(),
    };
    let input: Value = json!({"yes": true, "no": false, "items": [1, 2, 3], "plan": [
        {"id": "a", "task": "t", "compensate": {"task": "undo"}},
        {"id": "b", "after": "a", "foreach": "input.items", "steps": [{"id": "c", "task": "t"}]},
        {"id": "d", "workflow": "child"},
        {"id": "e", "wait": {"for": "30s"}, "finally": true},
    ]})
    .into();
    life.ask(Command::Start {
        input,
        variables: Value::NULL,
        seed: 5,
        grace: Duration::from_secs(10),
    });
    life.assert_alive();
    for roll in dice {
        let (kind, which) = (roll % 32, usize::from(roll / 32));
        let ready: Vec<StepKey> = life.state.ready().collect();
        let running: Vec<(StepKey, u32)> = life.running.iter().map(|(k, a)| (*k, *a)).collect();
        let report = |result| {
            let (step, attempt) = *running.get(which % running.len().max(1))?;
            Some(Command::Report { step, attempt, result })
        };
        let failed = |class| Report::Failed {
            failure: Failure::new(class, "no").into(),
            retry: RetryAllowance::Allowed,
        };
        let command = match kind {
            0..10 => {
                ready.get(which % ready.len().max(1)).map(|step| Command::Dispatch { step: *step })
            }
            10..18 => report(Report::Succeeded(json!(which).into())),
            18..21 => report(failed(ErrorClass::Temporary)),
            21..23 => report(failed(ErrorClass::Fatal)),
            23 => {
                // Of something that does not run, or of another attempt.
                let step = StepKey { scope: u32::from(roll % 7), step: u32::from(roll % 5) };
                Some(Command::Report {
                    step,
                    attempt: 1 + u32::from(roll % 3),
                    result: failed(ErrorClass::Fatal),
                })
            }
            24 => {
                let long = which % 61 == 0;
                let seconds = if long { 4000 } else { u64::from(roll / 32) % 40 };
                life.now = life.now + Duration::from_secs(seconds);
                Some(Command::Tick { retry: RetryAllowance::Allowed })
            }
            26 => {
                let steps: Vec<StepKey> = life.state.steps().map(|(step, _)| step).collect();
                let path = life.state.path(steps[which % steps.len()]);
                let operation = match which % 7 {
                    0 => Operation::rerun(path),
                    1 => Operation::rerun_alone(path),
                    2 => Operation::RetryFailed,
                    3 => Operation::skip([path]),
                    4 => Operation::succeed(path, 7),
                    5 => Operation::cancel([path]),
                    _ => Operation::rerun_failed_items(path),
                };
                let preview = life.state.preview(&operation, life.now);
                let before = life.journal.len();
                life.ask(Command::Operate { operation: operation.into(), by: Box::default() });
                let news = &life.journal[before..];
                assert_eq!(preview.is_ok(), !news.is_empty(), "the preview says what happens");
                let is_start = |event: &Event| {
                    matches!(
                        event,
                        Event::StepReady { .. }
                            | Event::StepStarted { .. }
                            | Event::WaitStarted { .. }
                    )
                };
                let starts = news.iter().filter(|recorded| is_start(&recorded.event)).count();
                assert_eq!(preview.map_or(0, |preview| preview.starts.len()), starts);
                life.assert_alive();
                None
            }
            25 if which % 3 == 0 => life.state.approvals().next().map(|(_, open)| {
                let by = ["ann", "bob", "cem", "dan"][which % 4];
                let vote = if which % 5 == 0 { Vote::reject(by) } else { Vote::approve(by) };
                Command::Vote { approval: open.id.clone(), vote: Box::new(vote) }
            }),
            25 if which % 3 == 1 => modification(&life.state, which, &child),
            25 => Some(Command::Tick { retry: RetryAllowance::Allowed }),
            27 => Some(Command::Signal(Signal::new("go", ()))),
            28 => Some(Command::Pause(Box::default())),
            29 | 30 => Some(Command::Resume(Box::default())),
            _ if which % 16 == 0 => Some(Command::Cancel { by: Box::default(), grace: None }),
            _ if which % 64 == 1 => Some(Command::Terminate(Box::default())),
            _ => None,
        };
        if let Some(command) = command {
            life.ask(command);
            life.assert_alive();
        }
    }
    let unchanged = life.state.revision() == 0;
    for id in never_started(&workflow).into_iter().filter(|_| unchanged) {
        let step = life.state.find(&id).unwrap();
        assert_eq!(life.state.attempt(step), 0, "{id} was to be out of reach");
        assert_ne!(life.state.step_status(step), Some(StepStatus::Ready), "{id}");
    }
    // Replaying the whole journal, or any beginning of it, succeeds, and the whole gives this state.
    assert_eq!(RunState::replay(id.clone(), Arc::clone(&program), &life.journal), life.state);
    let half = life.journal.len() / 2;
    let beginning = RunState::replay(id.clone(), Arc::clone(&program), &life.journal[..half]);
    assert_eq!(beginning.version() as usize, half);
    // A journal that something has happened to gives some state, and never a panic.
    for (at, roll) in dice.iter().take(8).enumerate() {
        let mut mangled = life.journal.clone();
        let length = mangled.len().max(1);
        let (one, other) = (usize::from(*roll) % length, (usize::from(*roll) / 7 + at) % length);
        match at % 4 {
            0 if !mangled.is_empty() => drop(mangled.remove(one)),
            1 if !mangled.is_empty() => mangled.swap(one, other),
            2 if !mangled.is_empty() => mangled.insert(other, mangled[one].clone()),
            _ => mangled.reverse(),
        }
        let _ = RunState::replay(id.clone(), Arc::clone(&program), &mangled);
    }
    // A journal survives being written as text.
    let text = serde_json::to_string(&life.journal).unwrap();
    let back: Vec<Recorded> = serde_json::from_str(&text).unwrap();
    for (read, written) in back.iter().zip(&life.journal) {
        assert_eq!(read, written);
    }
    life.journal
}

/// A step more, or one less, among the outermost ones.
fn modification(state: &RunState, which: usize, child: &Workflow) -> Option<Command> {
    let mut definition = (**state.definition()?).clone();
    let at = which % definition.steps.len();
    if which.is_multiple_of(2) {
        let after = definition.steps[at].id.clone();
        definition.steps.insert(at, Step::task(format!("m{which}"), "t").after(after));
    } else {
        definition.steps.remove(at);
    }
    let workflow = Box::new(Workflow::from_definition(definition).ok()?);
    let operation = Operation::Modify {
        workflow,
        linked: vec![child.clone()],
        revision: state.revision() + u32::from(which.is_multiple_of(11)),
    };
    Some(Command::Operate { operation: Box::new(operation), by: Box::default() })
}

/// The outermost steps of which the workflow warns that they can never start.
fn never_started(workflow: &Workflow) -> Vec<String> {
    let warnings = workflow.warnings().to_string();
    let named = warnings.lines().filter_map(|line| {
        let (place, _) = line.split_once(": it can never start")?;
        let id = place.split_once("steps.")?.1;
        (!id.contains('.')).then(|| id.to_string())
    });
    named.collect()
}

#[test]
fn the_properties_hold_over_random_workflows_and_commands() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 3_000, ..ProptestConfig::default() });
    // Every kind of event must occur often enough for its rules to have been tried.
    let seen = std::cell::RefCell::new(BTreeMap::<String, u32>::new());
    let strategy = (
        body(2),
        prop_oneof![Just(FailurePolicy::Continue), Just(FailurePolicy::FailFast)],
        prop::collection::vec(any::<u16>(), 0..150),
    );
    runner
        .run(&strategy, |(steps, policy, dice)| {
            let built = Workflow::builder("w").steps(steps.clone()).build();
            let warned = built.is_ok_and(|workflow| !never_started(&workflow).is_empty());
            *seen.borrow_mut().entry("never started".into()).or_insert(0) += u32::from(warned);
            for recorded in live(steps, policy, &dice) {
                let name = format!("{:?}", recorded.event);
                let name = name.split([' ', '(', '{']).next().unwrap().to_string();
                *seen.borrow_mut().entry(name).or_insert(0) += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    for name in [
        "never started",
        "AttemptFailed",
        "ItemsListed",
        "CompensationStarted",
        "RunCancelRequested",
        "RunLimitReached",
        "RunReopened",
        "Operated",
        "StepReset",
        "StepsMade",
        "Voted",
        "WorkflowModified",
        "RunFinished",
        "RunPaused",
        "RunResumed",
        "RunStarted",
        "ScopeCompensating",
        "ScopeStopping",
        "ScopeClosed",
        "ScopeOpened",
        "SignalReceived",
        "SignalTaken",
        "StepCancelRequested",
        "StepCancelled",
        "StepFailed",
        "StepReady",
        "StepSkipped",
        "StepStarted",
        "StepSucceeded",
        "WaitStarted",
    ] {
        assert!(seen.get(name).is_some_and(|count| *count > 20), "{name}: {seen:?}");
    }
}
