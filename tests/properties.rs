//! Properties over random workflows and random sequences of commands.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "properties/modifying.rs"]
mod modifying;
#[path = "properties/restoring.rs"]
mod restoring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use modifying::{CHANGES, modification};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use restoring::Shadow;
use serde_json::{Value as Json, json};
use stepwell::expr::Expr;
use stepwell::journal::{MovedScope, Operation, Reason, Recorded, Signal, Vote};
use stepwell::plan::EdgeKind;
use stepwell::retry::GiveUp;
use stepwell::run::{Command, Preview, Report, RetryAllowance, RunState};
use stepwell::workflow::{
    Approval, Case, FailurePolicy, Lock, NodeKind, OnUnknown, Variable, VariableType,
};
use stepwell::{
    ErrorClass, Event, Failure, RetryConfig, RunId, SkipReason, Step, StepError, StepKey,
    StepStatus, Timestamp, Trigger, Value, Wait, Workflow,
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
    let task = (any::<bool>(), 0..10_u8, 0..14_u8).prop_map(|(retry, extra, data)| {
        let mut step = Step::task("x", "t");
        if data > 11 {
            let then = if data == 12 { OnUnknown::Ask } else { OnUnknown::Fail };
            step = step.at_most_once().on_unknown(then);
        }
        if matches!(extra, 6 | 7) {
            let undo = Step::task("undo", "t").input("what", "output");
            step = step.compensate(undo.retry(RetryConfig::attempts(2)));
        }
        if retry {
            step = step.retry(RetryConfig::attempts(3));
        }
        let step = match extra {
            0 => step.when("input.yes"),
            1 => step.when("input.no"),
            2 => step.attempt_timeout(Duration::from_secs(5)),
            3 => step.timeout(Duration::from_secs(20)),
            8 => step.when("vars.count != 3"),
            9 => step.when("len(input.items) < vars.most"),
            _ => step,
        };
        match data {
            0 => step.set("count", "output"),
            // Half of something odd is no whole number.
            1 => step.set("most", "output / 2").output("kept", "output + 1"),
            2 => step.output("secret", "vars.secret").output("before", "vars.count"),
            3 => step.output("none", "output.none.at_all"),
            _ => step,
        }
    });
    let wait = prop_oneof![
        Just(Wait::For(Duration::from_secs(30))),
        Just(Wait::signal("go")),
        Just(Wait::signal("go").timeout(Duration::from_secs(60))),
        Just(Wait::signal("go").key("vars.count")),
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
    /// Steps that are not to be begun twice, and were begun.
    begun_once: BTreeSet<StepKey>,
    /// Steps that are to be run again.
    reset: BTreeSet<StepKey>,
    attempts: BTreeMap<StepKey, u32>,
    /// What the events say about the variables.
    variables: Json,
    /// How often the secrets were sealed anew.
    sealed: u32,
    /// The same life, gone on with from snapshots.
    shadow: Shadow,
}

/// A secret as it was sealed for the nth time.
fn sealed(times: u32) -> Json {
    json!({"$sealed": format!("sealed-{times}-times")})
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
        // Writing and reading it each time would take most of the test.
        let is_tried = self.state.version().is_multiple_of(16);
        let restored = is_tried.then(|| self.shadow.decide(&self.state, command.clone(), self.now));
        let answer = self.state.decide_into(command, self.now, &mut self.journal);
        if let Some(restored) = restored {
            let news = self.journal[before.1..].to_vec();
            assert_eq!(restored, (answer.clone(), news), "what is restored decides the same");
        }
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
                self.shadow.follow(&self.journal[before.1..], &self.state);
                assert_eq!(state, self.state, "what was decided is what was applied");
                let expr = Expr::parse("vars").unwrap();
                let variables = self.state.evaluate(StepKey::root(0), &expr, self.now);
                assert_eq!(variables.unwrap(), self.variables);
            }
        }
    }

    /// Asks for an operation; what the preview says must be what happens.
    fn operate(&mut self, operation: Operation) {
        let preview = self.state.preview(&operation, self.now);
        let (before, first) = (self.state.clone(), self.journal.len());
        let by = Reason::new("ann", "why").into();
        self.ask(Command::Operate { operation: Box::new(operation.clone()), by });
        let news = &self.journal[first..];
        assert_eq!(preview.is_ok(), !news.is_empty(), "the preview says whether it happens");
        let Ok(preview) = preview else { return };
        let reopens = |recorded: &Recorded| matches!(recorded.event, Event::RunReopened { .. });
        assert_eq!(preview.reopens, news.iter().any(reopens));
        // Each list, as the events tell it.
        let mut told: [Vec<String>; 6] = Default::default();
        let mut seen = before.clone();
        for Recorded { at, event } in news {
            seen.apply(*at, event);
            if matches!(event, Event::RunReopened { .. }) {
                // The end of the run had stopped them.
                let begins = |(step, status): &(StepKey, StepStatus)| {
                    let was = before.step_status(*step);
                    *status == StepStatus::Pending && was == Some(StepStatus::Cancelled)
                };
                told[0].extend(seen.steps().filter(begins).map(|(step, _)| seen.path(step)));
            }
            let (list, step) = match event {
                Event::StepReset { step, .. } => (0, step),
                Event::StepReady { step }
                | Event::StepStarted { step, .. }
                | Event::WaitStarted { step, .. } => (1, step),
                Event::StepSkipped { step, .. } => (2, step),
                Event::StepSucceeded { step, .. } => (3, step),
                Event::StepCancelled { step, .. } | Event::StepCancelRequested { step, .. } => {
                    (4, step)
                }
                Event::StepFailed { step, .. } => (5, step),
                _ => continue,
            };
            told[list].push(seen.path(*step));
        }
        let Preview { again, starts, skipped, succeeded, cancelled, failed, .. } = &preview;
        assert_eq!([again, starts, skipped, succeeded, cancelled, failed], told.each_ref());
        // And as the steps look afterwards, but for what was not carried over.
        let gone: Vec<String> = preview.dropped.iter().chain(&preview.forgotten).cloned().collect();
        for (step, now) in self.state.steps() {
            let path = self.state.path(step);
            if gone.iter().any(|gone| path.split(['/', '[']).next() == Some(gone)) {
                continue;
            }
            let was = before.find(&path);
            let old = was.and_then(|was| before.step_status(was));
            let stopping = was.is_some_and(|was| before.is_cancelling(was));
            let new = old != Some(now);
            let (list, must) = match now {
                StepStatus::Pending => (again, old.is_some_and(StepStatus::is_end)),
                StepStatus::Running if self.state.is_cancelling(step) => (cancelled, !stopping),
                StepStatus::Ready | StepStatus::Running | StepStatus::Waiting => (starts, new),
                StepStatus::Skipped(_) => (skipped, new),
                StepStatus::Succeeded => (succeeded, new),
                StepStatus::Failed => (failed, new),
                // The end of the run stops what is left without a word.
                StepStatus::Cancelled => (cancelled, new && self.state.outcome().is_none()),
                _ => continue,
            };
            assert!(!must || list.contains(&path), "{path} was {old:?}, is {now:?}: {operation}");
        }
    }

    /// Checks one event against the state before it.
    fn watch(&mut self, state: &RunState, event: &Event) {
        match event {
            Event::WorkflowModified(modified) => {
                self.variables = (*modified.variables).clone();
                self.move_keys(&modified.scopes);
            }
            Event::VariablesSet { values, .. } => {
                for (name, value) in values.as_object().unwrap() {
                    self.variables[name] = value.clone();
                }
            }
            Event::SecretsResealed { .. } => {
                let old = sealed(self.sealed)["$sealed"].as_str().unwrap().to_string();
                self.sealed += 1;
                self.variables["secret"] = sealed(self.sealed);
                let mut after = state.clone();
                after.apply(self.now, event);
                assert!(!format!("{after:?}").contains(&old), "{old} is left: {after:#?}");
            }
            Event::RunStarted(started) => self.variables = (*started.variables).clone(),
            Event::StepReset { step, .. } => {
                self.ended.remove(step);
                self.reset.insert(*step);
                // Only operators do this.
                self.begun_once.remove(step);
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
                    let once = state.node(*step).unwrap().at_most_once().is_some();
                    let fresh = !once || self.begun_once.insert(*step);
                    assert!(fresh, "{step:?} is begun a second time, and nobody has said so");
                    self.running.insert(*step, *attempt);
                }
            }
            Event::AttemptFailed { step, failed } => {
                self.running.remove(step);
                if failed.failure.nothing_done {
                    self.begun_once.remove(step);
                }
            }
            Event::StepSuspended { step, .. } => {
                self.running.remove(step);
                self.begun_once.remove(step);
            }
            Event::StepOutcomeUnknown { step, .. } => {
                assert!(state.node(*step).unwrap().at_most_once().is_some());
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

    /// Steps stand elsewhere from now on.
    fn move_keys(&mut self, scopes: &[MovedScope]) {
        let new = |key: StepKey| match scopes.iter().find(|moved| moved.scope == key.scope) {
            Some(moved) => moved.steps[key.step as usize].map(|step| StepKey { step, ..key }),
            None => Some(key),
        };
        self.running = self.running.iter().filter_map(|(k, a)| Some((new(*k)?, *a))).collect();
        self.attempts = self.attempts.iter().filter_map(|(k, a)| Some((new(*k)?, *a))).collect();
        self.ended = self.ended.iter().copied().filter_map(new).collect();
        self.begun_once = self.begun_once.iter().copied().filter_map(new).collect();
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
        let open = [StepStatus::Waiting, StepStatus::Retrying, StepStatus::OutcomeUnknown];
        let alive = state.status().is_end()
            || state.first_ready().is_some()
            || state.running() > 0
            || state.next_due(self.now).is_some_and(|at| Some(at) != limit)
            || state.steps().any(|(_, status)| open.contains(&status));
        assert!(alive, "stranded: {:#?}", self.journal);
        let running: BTreeSet<StepKey> = state
            .steps()
            .filter(|(step, status)| {
                let node = state.node(*step).unwrap();
                *status == StepStatus::Running && matches!(node.kind, NodeKind::Task { .. })
            })
            .map(|(step, _)| step)
            .collect();
        if state.is_quarantined() && !state.status().is_end() {
            let resumed = state.clone().decide(Command::Resume(Box::default()), self.now);
            assert!(resumed.is_ok(), "what is kept from going on can be let go on: {resumed:?}");
        }
        if !state.status().is_end() {
            assert_eq!(state.running() as usize, running.len(), "the count of running tasks");
        }
    }
}

fn flow(steps: Vec<Step>, policy: FailurePolicy) -> stepwell::Result<Workflow> {
    Workflow::builder("w")
        .variable("count", Variable::of(VariableType::Any).default_value(0))
        .variable("most", Variable::of(VariableType::Integer).default_value(8))
        .variable("secret", Variable::of(VariableType::Secret).required())
        .steps(steps)
        .on_failure(policy)
        .build()
}

fn live(steps: Vec<Step>, policy: FailurePolicy, dice: &[u16]) -> Vec<Recorded> {
    let Ok(workflow) = flow(steps, policy) else {
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
        begun_once: BTreeSet::new(),
        reset: BTreeSet::new(),
        attempts: BTreeMap::new(),
        variables: Json::Null,
        sealed: 0,
        shadow: Shadow::new(&id, &program),
    };
    let input: Value = json!({"yes": true, "no": false, "items": [1, 2, 3], "plan": [
        {"id": "a", "task": "t", "compensate": {"task": "undo"}},
        {"id": "b", "after": "a", "foreach": "input.items", "steps": [{"id": "c", "task": "t"}]},
        {"id": "d", "workflow": "child"},
        {"id": "e", "wait": {"for": "30s"}, "finally": true},
    ], "secret": sealed(0)})
    .into();
    life.ask(Command::Start {
        input,
        variables: json!({"count": 0, "most": 8, "secret": sealed(0)}).into(),
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
        let denied = which % 6 == 5;
        let retry = if denied { RetryAllowance::Denied } else { RetryAllowance::Allowed };
        let failed = |class| {
            let mut failure = Failure::new(class, "no");
            failure.nothing_done = which % 4 == 1;
            Report::Failed { failure: failure.into(), retry }
        };
        let command = match kind {
            0..10 => {
                ready.get(which % ready.len().max(1)).map(|step| Command::Dispatch { step: *step })
            }
            10..18 => report(Report::Succeeded(json!(which).into())),
            18..21 => report(failed(ErrorClass::Temporary)),
            21 => report(failed(ErrorClass::Fatal)),
            22 => {
                let signal = if which % 3 == 0 { "go" } else { "more" };
                let limit = (which % 4 == 0).then(|| Duration::from_secs(30));
                let prompt = json!({"which": which, "secret": life.variables["secret"]});
                let wait = StepError::wait_for_signal(signal, prompt, limit);
                report(Report::Suspended(wait.into_failure().unwrap_err().into()))
            }
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
                let long = which % 41 == 0;
                let seconds = if long { 4000 } else { u64::from(roll / 32) % 40 };
                life.now = life.now + Duration::from_secs(seconds);
                Some(Command::Tick { retry })
            }
            26 => {
                let steps: Vec<StepKey> = life.state.steps().map(|(step, _)| step).collect();
                let path = life.state.path(steps[which % steps.len()]);
                let operation = match which % 11 {
                    0 => Some(Operation::rerun(path)),
                    1 => Some(Operation::rerun_alone(path)),
                    2 => Some(Operation::RetryFailed),
                    3 => Some(Operation::skip([path])),
                    4 => Some(Operation::succeed(path, 7)),
                    5 => Some(Operation::cancel([path])),
                    6 => Some(Operation::rerun_failed_items(path)),
                    9 => Some(Operation::fail(path, "no")),
                    7 => {
                        // One of these is no whole number.
                        let values = [json!(1), json!("none"), json!(null)];
                        let name = ["count", "most"][which / 10 % 2];
                        Some(Operation::set_variable(name, values[which / 20 % 3].clone()))
                    }
                    8 => {
                        let text = |times| sealed(times)["$sealed"].as_str().unwrap().to_string();
                        let replaced = [(text(life.sealed), text(life.sealed + 1))].into();
                        Some(Operation::Reseal { replaced })
                    }
                    _ => modification(&life.state, which / 10, &child),
                };
                operation.into_iter().for_each(|operation| life.operate(operation));
                life.assert_alive();
                None
            }
            25 if which % 3 == 0 => life.state.approvals().next().map(|(_, open)| {
                let by = ["ann", "bob", "cem", "dan"][which % 4];
                let vote = if which % 5 == 0 { Vote::reject(by) } else { Vote::approve(by) };
                Command::Vote { approval: open.id.clone(), vote: Box::new(vote) }
            }),
            25 if which % 3 == 1 => {
                let operation = modification(&life.state, which / 3, &child);
                operation.into_iter().for_each(|operation| life.operate(operation));
                life.assert_alive();
                None
            }
            25 => Some(Command::Tick { retry }),
            27 => Some(Command::Signal(match which % 6 {
                0 => Signal::new("more", sealed(life.sealed)),
                1 => Signal::new(["go", "more"][which / 6 % 2], 1).transient(),
                2 | 3 => Signal::keyed("go", life.variables["count"].clone(), 2),
                _ => Signal::new("go", ()),
            })),
            28 if which % 3 == 1 => {
                let lost = running.get(which / 3 % running.len().max(1));
                lost.map(|(step, attempt)| Command::Lose { step: *step, attempt: *attempt })
            }
            28 if which % 6 == 5 => Some(Command::Quarantine { recoveries: 6 }),
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

/// What there is more to an event than its name.
fn details(event: &Event) -> Vec<&'static str> {
    match event {
        Event::SignalTaken { signal, .. } => [
            (signal.transient, "a transient signal is taken"),
            (signal.name.contains('['), "a keyed signal is taken"),
        ]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect(),
        Event::StepFailed { failure, .. }
            if failure.causes.contains(&GiveUp::BudgetExhausted.to_string()) =>
        {
            vec!["the retry budget denies"]
        }
        Event::WorkflowModified(modified) => {
            let change = &modified.workflow.definition().metadata["change"];
            CHANGES.into_iter().filter(|name| change == name).collect()
        }
        Event::VariablesSet { step: Some(_), .. } => vec!["set by a step"],
        Event::VariablesSet { step: None, .. } => vec!["set by somebody"],
        _ => Vec::new(),
    }
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
            let built = flow(steps.clone(), policy);
            let warned = built.is_ok_and(|workflow| !never_started(&workflow).is_empty());
            *seen.borrow_mut().entry("never started".into()).or_insert(0) += u32::from(warned);
            for recorded in live(steps, policy, &dice) {
                let name = format!("{:?}", recorded.event);
                let name = name.split([' ', '(', '{']).next().unwrap().to_string();
                *seen.borrow_mut().entry(name).or_insert(0) += 1;
                for more in details(&recorded.event) {
                    *seen.borrow_mut().entry(more.into()).or_insert(0) += 1;
                }
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    for name in CHANGES.into_iter().chain([
        "never started",
        "AttemptFailed",
        "ItemsListed",
        "CompensationStarted",
        "RunCancelRequested",
        "RunTerminated",
        "RunLimitReached",
        "RunReopened",
        "Operated",
        "StepReset",
        "StepOutcomeUnknown",
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
        "RunQuarantined",
        "SecretsResealed",
        "StepSuspended",
        "VariablesSet",
        "a transient signal is taken",
        "a keyed signal is taken",
        "the retry budget denies",
        "set by a step",
        "set by somebody",
    ]) {
        assert!(seen.get(name).is_some_and(|count| *count > 20), "{name}: {seen:?}");
    }
}
