//! What a step may be in, wherever it stands, and what becomes of it when the definition changes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stepwell::journal::{Mapping, Operation, Signal};
use stepwell::run::{Command, Rejection, Report, RetryAllowance, RunState};
use stepwell::workflow::{Case, Program};
use stepwell::{
    ErrorClass, Failure, RetryConfig, RunId, Step, StepStatus, Timestamp, Value, Wait, Workflow,
};

const PLACES: [&str; 7] =
    ["outermost", "parallel", "foreach", "loop", "choice", "sub-workflow", "nested"];
const STATES: [&str; 10] = [
    "pending",
    "ready",
    "running",
    "stopping",
    "waiting",
    "retrying",
    "succeeded",
    "failed",
    "skipped",
    "cancelled",
];
const CHANGES: [&str; 5] = ["same", "renamed", "gone", "removed", "another"];

/// Two definitions and what they run.
struct Flow {
    workflow: Workflow,
    linked: Vec<Workflow>,
}

/// The steps of a body, where they are to stand.
fn flow(place: &str, body: Vec<Step>, version: u32) -> Flow {
    let mut linked = Vec::new();
    let steps = match place {
        "outermost" => body,
        "parallel" => vec![Step::parallel("p", body)],
        "foreach" => vec![Step::for_each("p", "input", body)],
        "loop" => vec![Step::until_loop("p", "turn == 1", body)],
        "choice" => vec![Step::choice("p", [Case::otherwise(body)])],
        "sub-workflow" => {
            linked.push(Workflow::builder("sub").version(version).steps(body).build().unwrap());
            vec![Step::workflow("p", "sub")]
        }
        _ => {
            linked.push(Workflow::builder("sub").version(version).steps(body).build().unwrap());
            let inside = Step::for_each("f", "input", [Step::workflow("s", "sub")]);
            vec![Step::parallel("p", [inside])]
        }
    };
    Flow { workflow: super::flow(version, steps), linked }
}

/// The path of a step, and the same without numbers.
fn paths(place: &str, id: &str) -> (String, String) {
    let (path, plain) = match place {
        "outermost" => ("", ""),
        "foreach" | "loop" => ("p[0]/", "p/"),
        "nested" => ("p/f[0]/s/", "p/f/s/"),
        _ => ("p/", "p/"),
    };
    (format!("{path}{id}"), format!("{plain}{id}"))
}

/// The step `x` as it has to be for a state; `k` keeps its body open.
fn body(state: &str) -> Vec<Step> {
    let x = match state {
        "pending" => Step::task("x", "t").after("k"),
        "waiting" => Step::wait("x", Wait::signal("go")),
        "retrying" => {
            let retry = RetryConfig::attempts(2).base_delay(Duration::from_secs(60));
            Step::task("x", "t").retry(retry)
        }
        "skipped" => Step::task("x", "t").when("false"),
        _ => Step::task("x", "t"),
    };
    vec![x, Step::task("k", "t")]
}

/// The same body after a change, and what is declared.
fn changed(state: &str, place: &str, change: &str) -> (Vec<Step>, Mapping) {
    let (mut body, mapping) = (body(state), Mapping::new());
    let path = |id| paths(place, id).1;
    match change {
        "same" => {}
        "renamed" => {
            body[0].id = "y".into();
            body.reverse();
            return (body, mapping.rename(path("x"), path("y")));
        }
        "gone" => drop(body.remove(0)),
        "removed" => {
            body.remove(0);
            return (body, mapping.remove(path("x")));
        }
        _ => {
            let after = body[0].after.clone();
            body[0] = Step::wait("x", Wait::For(Duration::from_secs(9)));
            body[0].after = after;
        }
    }
    (body, mapping)
}

struct Life {
    state: RunState,
    program: Arc<Program>,
    journal: Vec<stepwell::journal::Recorded>,
    now: Timestamp,
}

impl Life {
    fn new(flow: &Flow) -> Self {
        let find = |name: &str| flow.linked.iter().find(|other| other.id() == name).cloned();
        let program = Program::link(&flow.workflow, find, Vec::new).unwrap();
        let state = RunState::new(RunId::new("r").unwrap(), Arc::clone(&program));
        let mut life = Self { state, program, journal: Vec::new(), now: Timestamp::EPOCH };
        let (input, variables) = (json!([0]).into(), Value::NULL);
        life.ask(Command::Start { input, variables, seed: 1, grace: Duration::from_secs(5) });
        life
    }

    fn ask(&mut self, command: Command) {
        self.state.decide_into(command, self.now, &mut self.journal).unwrap();
    }

    fn report(&mut self, path: &str, result: Report) {
        let step = self.state.find(path).unwrap();
        let attempt = self.state.attempt(step);
        self.ask(Command::Report { step, attempt, result });
    }

    fn fail(&mut self, path: &str) {
        let failure = Failure::new(ErrorClass::Temporary, "no").into();
        self.report(path, Report::Failed { failure, retry: RetryAllowance::Allowed });
    }

    fn status(&self, path: &str) -> Option<StepStatus> {
        self.state.find(path).and_then(|step| self.state.step_status(step))
    }

    /// Brings the step into a state.
    fn bring(&mut self, state: &str, path: &str) {
        let dispatched = |life: &mut Self| {
            let step = life.state.find(path).unwrap();
            life.ask(Command::Dispatch { step });
        };
        let operation = Operation::cancel([path]);
        let cancel = Command::Operate { operation: operation.into(), by: Box::default() };
        match state {
            "running" => dispatched(self),
            "stopping" => {
                dispatched(self);
                self.ask(cancel);
            }
            "retrying" | "failed" => {
                dispatched(self);
                self.fail(path);
            }
            "succeeded" => {
                dispatched(self);
                self.report(path, Report::Succeeded(7.into()));
            }
            "cancelled" => self.ask(cancel),
            _ => {}
        }
    }

    fn migrate(&mut self, flow: &Flow, mapping: Mapping) -> Result<(), Rejection> {
        let (workflow, revision) = (Box::new(flow.workflow.clone()), self.state.revision());
        let (linked, mapping) = (flow.linked.clone(), Some(mapping));
        let operation = Operation::Modify { workflow, linked, revision, mapping };
        let before = self.state.clone();
        let preview = self.state.preview(&operation, self.now);
        let command = Command::Operate { operation: operation.into(), by: Box::default() };
        let done = self.state.decide_into(command, self.now, &mut self.journal);
        assert_eq!(preview.map(drop), done, "the preview says something else");
        if done.is_err() {
            assert!(self.state == before, "a refusal has changed something");
        }
        done
    }

    /// Goes on until the run has ended.
    fn end(&mut self) {
        for _ in 0..50 {
            if self.state.outcome().is_some() {
                let id = self.state.id().clone();
                let replayed = RunState::replay(id, Arc::clone(&self.program), &self.journal);
                assert!(replayed == self.state, "replaying the journal gives another state");
                return;
            }
            while let Some(step) = self.state.first_ready() {
                self.ask(Command::Dispatch { step });
            }
            let running = self.state.steps().find(|(step, status)| {
                let task = self.state.node(*step).zip(self.state.unit(*step));
                let task = task.is_some_and(|(node, unit)| unit.executor_of(node).is_some());
                *status == StepStatus::Running && task
            });
            if let Some((step, _)) = running {
                let attempt = self.state.attempt(step);
                let result = Report::Succeeded(1.into());
                self.ask(Command::Report { step, attempt, result });
            } else if let Some(due) =
                self.state.next_due(self.now).filter(|_| self.now.as_micros() % 2 == 0)
            {
                self.now = Timestamp::from_micros(due.as_micros() | 1).max(self.now);
                self.ask(Command::Tick { retry: RetryAllowance::Allowed });
            } else {
                self.now = self.now + Duration::from_micros(1);
                self.ask(Command::Signal(Signal::new("go", ())));
            }
        }
        panic!("it does not end: {:?}", self.state.steps().collect::<Vec<_>>());
    }
}

#[test]
fn every_state_in_every_place_goes_over_or_is_refused() {
    for place in PLACES {
        for state in STATES {
            for change in CHANGES {
                let what = format!("{state} in {place}, {change}");
                let mut life = Life::new(&flow(place, body(state), 1));
                let (path, plain) = paths(place, "x");
                life.bring(state, &path);
                let before = life.status(&path);
                let (body, mapping) = changed(state, place, change);
                let done = life.migrate(&flow(place, body, 2), mapping);
                let begun = !matches!(state, "pending" | "ready" | "skipped" | "cancelled");
                let live = matches!(state, "running" | "stopping" | "waiting" | "retrying");
                let refused = change == "gone" && begun || change == "another" && live;
                match done {
                    Err(Rejection::Misfit(problems)) => {
                        assert!(refused, "{what}: {problems}");
                        let [problem] = problems.iter().collect::<Vec<_>>()[..] else {
                            panic!("{what}: {problems}");
                        };
                        assert_eq!(problem.path, plain, "{what}");
                        assert!(problem.hint.is_some(), "{what}");
                    }
                    Err(other) => panic!("{what}: {other}"),
                    Ok(()) => {
                        assert!(!refused, "{what} was done");
                        let now = match change {
                            "renamed" => life.status(&paths(place, "y").0),
                            _ => life.status(&path),
                        };
                        match change {
                            "gone" | "removed" => assert_eq!(now, None, "{what}"),
                            // It waits as what it is now.
                            "another" if state == "ready" => {
                                assert_eq!(now, Some(StepStatus::Waiting), "{what}");
                            }
                            _ => assert_eq!(now, before, "{what}"),
                        }
                    }
                }
                life.end();
            }
        }
    }
}

#[test]
fn a_step_under_way_keeps_its_times_and_its_attempts() {
    for place in PLACES {
        let mut life = Life::new(&flow(place, body("retrying"), 1));
        life.bring("retrying", &paths(place, "x").0);
        let due = life.state.next_due(life.now);
        life.now = life.now + Duration::from_secs(10);
        let (mut body, mapping) = changed("retrying", place, "renamed");
        body[1] = body[1].clone().retry(RetryConfig::attempts(9));
        life.migrate(&flow(place, body, 2), mapping).unwrap();
        assert_eq!(life.state.next_due(life.now), due, "{place}");
        life.now = due.unwrap();
        life.ask(Command::Tick { retry: RetryAllowance::Allowed });
        let path = paths(place, "y").0;
        let step = life.state.find(&path).unwrap();
        life.ask(Command::Dispatch { step });
        assert_eq!(life.state.attempt(step), 2);
        assert!(life.state.instance(step).ends_with('x'), "{}", life.state.instance(step));
        // What it may do from now on the new definition says.
        life.fail(&path);
        assert_eq!(life.status(&path), Some(StepStatus::Retrying), "{place}");
        life.end();
    }
}

#[test]
fn steps_that_were_made_stay_what_they_were_made_as() {
    let steps = |id: &str| vec![Step::dynamic(id, "input"), Step::task("k", "t")];
    let mut life =
        Life::new(&Flow { workflow: super::flow(1, [Step::task("k", "t")]), linked: vec![] });
    assert!(life.state.find("d").is_none());
    let new = Flow { workflow: super::flow(2, steps("d")), linked: vec![] };
    life.migrate(&new, Mapping::new()).unwrap();
    // The input is no list of steps.
    let d = life.state.find("d").unwrap();
    assert_eq!(life.state.step_status(d), Some(StepStatus::Failed));

    let program = super::flow(1, steps("d"));
    let state = RunState::new(RunId::new("r").unwrap(), Arc::clone(program.program()));
    let (journal, now) = (Vec::new(), Timestamp::EPOCH);
    let mut life = Life { state, program: Arc::clone(program.program()), journal, now };
    let (input, variables) = (json!([{"id": "x", "task": "t"}]).into(), Value::NULL);
    life.ask(Command::Start { input, variables, seed: 1, grace: Duration::ZERO });
    let new = Flow { workflow: super::flow(2, steps("e")), linked: vec![] };
    let inside = Mapping::new().rename("d", "e").rename("d/x", "e/y");
    let refused = life.migrate(&new, inside).unwrap_err().to_string();
    assert!(refused.contains("d/x: the run's definition has no such step"), "{refused}");
    life.migrate(&new, Mapping::new().rename("d", "e")).unwrap();
    assert_eq!(life.status("e/x"), Some(StepStatus::Ready));
    life.end();
    assert_eq!(life.state.outcome().unwrap().output().unwrap(), &json!({"e": 1, "k": 1}));
}

#[test]
fn a_run_that_is_stopping_or_undoing_stays_as_it_is_and_a_paused_one_goes_over_paused() {
    let undone = |id: &str| Step::task(id, "t").compensate(Step::task("undo", "t"));
    let steps = |id: &str| vec![undone(id), Step::task("b", "t").after(id)];
    let flow =
        |version, id: &str| Flow { workflow: super::flow(version, steps(id)), linked: vec![] };
    let (mapping, by) = (Mapping::new().rename("a", "z"), Box::default);
    let begun = || {
        let mut life = Life::new(&flow(1, "a"));
        life.bring("running", "a");
        life
    };
    let mut paused = begun();
    paused.ask(Command::Pause(by()));
    paused.migrate(&flow(2, "z"), mapping.clone()).unwrap();
    assert_eq!(paused.state.status(), stepwell::RunStatus::Paused);
    paused.ask(Command::Resume(by()));
    paused.end();
    let mut stopping = begun();
    stopping.ask(Command::Cancel { by: by(), grace: None });
    assert_eq!(stopping.migrate(&flow(2, "z"), mapping.clone()), Err(Rejection::Stopping));
    stopping.end();
    let mut undoing = begun();
    undoing.report("a", Report::Succeeded(1.into()));
    undoing.bring("running", "b");
    undoing.fail("b");
    assert!(undoing.status("a[undo]/undo").is_some());
    assert_eq!(undoing.migrate(&flow(2, "z"), mapping.clone()), Err(Rejection::Stopping));
    undoing.end();
    // An inner body that is being undone goes over around it.
    let body = |id: &str| vec![undone(id), Step::task("b", "t").after(id)];
    let around = |version, id: &str| {
        let steps = [Step::parallel("p", body(id)).always("last"), Step::task("last", "t")];
        Flow { workflow: super::flow(version, steps), linked: vec![] }
    };
    let mut inside = Life::new(&around(1, "a"));
    inside.bring("succeeded", "p/a");
    inside.bring("failed", "p/b");
    assert!(inside.status("p/a[undo]/undo").is_some());
    inside.migrate(&around(2, "z"), Mapping::new().rename("p/a", "p/z")).unwrap();
    assert!(inside.status("p/a[undo]/undo").is_some());
    inside.end();
}

#[test]
fn a_case_that_was_taken_stays_taken() {
    let choice = |cases: Vec<Case>| Flow {
        workflow: super::flow(cases.len() as u32, [Step::choice("c", cases)]),
        linked: vec![],
    };
    let case = |when: &str, id: &str| Case::when(when, [Step::task(id, "t")]);
    let two = || vec![case("false", "a"), case("true", "b")];
    let mut life = Life::new(&choice(two()));
    // Its condition would not hold any more.
    let three = vec![case("false", "a"), case("false", "b"), case("true", "c")];
    life.migrate(&choice(three), Mapping::new()).unwrap();
    assert_eq!(life.status("c/b"), Some(StepStatus::Ready));
    let refused = life.migrate(&choice(vec![case("true", "a")]), Mapping::new()).unwrap_err();
    assert!(
        refused.to_string().contains("c: the case that was chosen is not there any more"),
        "{refused}"
    );
    life.end();
}

#[test]
fn more_bodies_at_once_begin_when_the_new_definition_lets_them() {
    let flow = |version, most: u32| {
        let each = Step::for_each("f", "input.list", [Step::task("x", "t")]).concurrency(most);
        Flow { workflow: super::flow(version, [each]), linked: vec![] }
    };
    let old = flow(1, 1);
    let program = Arc::clone(old.workflow.program());
    let state = RunState::new(RunId::new("r").unwrap(), Arc::clone(&program));
    let mut life = Life { state, program, journal: Vec::new(), now: Timestamp::EPOCH };
    let (input, variables) = (json!({"list": [1, 2, 3]}).into(), Value::NULL);
    life.ask(Command::Start { input, variables, seed: 1, grace: Duration::ZERO });
    assert!(life.status("f[1]/x").is_none());
    life.migrate(&flow(2, 2), Mapping::new()).unwrap();
    assert!(life.status("f[1]/x").is_some() && life.status("f[2]/x").is_none());
    life.end();
}
