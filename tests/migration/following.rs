//! A run that goes over to a definition with other names, in another order, comes to the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use stepwell::journal::{Mapping, Operation, Recorded, Signal, Vote};
use stepwell::retry::Jitter;
use stepwell::run::{Command, Explanation, Report, RetryAllowance, RunState};
use stepwell::workflow::{Approval, Case, Program};
use stepwell::{
    ErrorClass, Event, Failure, RetryConfig, RunId, Step, StepKey, StepStatus, Timestamp, Wait,
    Workflow,
};

/// Steps of a random definition, in bodies inside bodies, each with a number of its own.
#[derive(Clone, Debug)]
struct Shape {
    number: usize,
    kind: Kind,
    /// Which of the steps before it in its body it comes after.
    after: Vec<usize>,
    retried: bool,
    conditional: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Task,
    Signal,
    Approval,
    Delay(u64),
    Parallel(Vec<Shape>),
    ForEach(Vec<Shape>),
    Loop(Vec<Shape>),
    Choice(Vec<Shape>),
    Sub(Vec<Shape>),
}

/// Names of steps: the number that each name stands for, turned by some.
#[derive(Clone, Copy)]
struct Names {
    turned: usize,
    count: usize,
    /// Whether the steps of a body stand the other way round.
    reversed: bool,
}

impl Names {
    fn of(self, number: usize) -> String {
        format!("s{}", (number + self.turned) % self.count)
    }

    /// The number behind a name.
    fn number(self, name: &str) -> usize {
        let turned: usize = name[1..].parse().unwrap();
        (turned + self.count - self.turned) % self.count
    }

    /// A path with numbers for names.
    fn plain(self, path: &str) -> String {
        let part = |part: &str| {
            let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
            format!("{}{index}", self.number(name))
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }
}

/// A value without the keys of its maps: what was put together keeps the names of its time.
fn plain_value(value: &Json) -> Json {
    match value {
        Json::Array(list) => list.iter().map(plain_value).collect(),
        Json::Object(map) => {
            let mut values: Vec<Json> = map.values().map(plain_value).collect();
            values.sort_by_key(Json::to_string);
            values.into()
        }
        plain => plain.clone(),
    }
}

/// Reads shapes out of a list of random numbers.
fn shapes(dice: &mut impl Iterator<Item = u8>, count: &mut usize, depth: usize) -> Vec<Shape> {
    let most = if depth == 0 { 5 } else { 3 };
    let length = 1 + usize::from(dice.next().unwrap_or(0)) % most;
    let mut made: Vec<Shape> = Vec::new();
    for _ in 0..length {
        let number = *count;
        *count += 1;
        let roll = dice.next().unwrap_or(0);
        let kind = match roll % 12 {
            kind @ 7..=11 if depth < 2 => {
                let inside = shapes(dice, count, depth + 1);
                match kind {
                    7 => Kind::Parallel(inside),
                    8 => Kind::ForEach(inside),
                    9 => Kind::Loop(inside),
                    10 => Kind::Choice(inside),
                    _ => Kind::Sub(inside),
                }
            }
            4 => Kind::Signal,
            5 => Kind::Approval,
            6 => Kind::Delay(u64::from(roll)),
            _ => Kind::Task,
        };
        let after = made
            .iter()
            .filter(|_| dice.next().unwrap_or(0).is_multiple_of(3))
            .map(|shape| shape.number)
            .collect();
        let more = dice.next().unwrap_or(0);
        let (retried, conditional) = (more.is_multiple_of(3), more.is_multiple_of(5));
        made.push(Shape { number, kind, after, retried, conditional });
    }
    made
}

/// The steps, and the workflows that sub-workflow steps name.
fn steps(shapes: &[Shape], names: Names, version: u32, others: &mut Vec<Workflow>) -> Vec<Step> {
    let mut made = Vec::new();
    for shape in shapes {
        let id = names.of(shape.number);
        let mut inside = |shapes| steps(shapes, names, version, others);
        let mut step = match &shape.kind {
            Kind::Task => Step::task(id, "t"),
            Kind::Signal => Step::wait(id, Wait::signal("go")),
            Kind::Approval => Step::wait(id, Wait::approval(Approval::new())),
            Kind::Delay(seconds) => {
                Step::wait(id, Wait::For(std::time::Duration::from_secs(*seconds)))
            }
            Kind::Parallel(shapes) => Step::parallel(id, inside(shapes)),
            Kind::ForEach(shapes) => Step::for_each(id, "input", inside(shapes)),
            Kind::Loop(shapes) => Step::until_loop(id, "turn == 2", inside(shapes)),
            Kind::Choice(shapes) => {
                let never = Case::when("false", [Step::task("never", "t")]);
                Step::choice(id, [never, Case::otherwise(inside(shapes))])
            }
            Kind::Sub(shapes) => {
                let inside = inside(shapes);
                let name = format!("sub{}", shape.number);
                let sub = Workflow::builder(&name).version(version).steps(inside).build().unwrap();
                others.push(sub);
                Step::workflow(id, name)
            }
        };
        for before in &shape.after {
            step = step.after(names.of(*before));
        }
        if let (true, Some(before)) = (shape.conditional, shape.after.first()) {
            step = step.when(format!("steps.{}.status != \"failed\"", names.of(*before)));
        }
        if shape.retried && matches!(shape.kind, Kind::Task) {
            let retry = RetryConfig::attempts(3).base_delay(std::time::Duration::from_secs(7));
            step = step.retry(retry.jitter(Jitter::None));
        }
        made.push(step);
    }
    if names.reversed {
        made.reverse();
    }
    made
}

fn definition(shapes: &[Shape], names: Names, version: u32) -> (Workflow, Vec<Workflow>) {
    let mut others = Vec::new();
    let steps = steps(shapes, names, version, &mut others);
    (super::flow(version, steps), others)
}

/// The mapping of everything from some names to others.
fn mapping(shapes: &[Shape], from: Names, to: Names) -> Mapping {
    fn add(
        mapping: Mapping,
        shapes: &[Shape],
        (from, to): (Names, Names),
        around: [&str; 2],
    ) -> Mapping {
        shapes.iter().fold(mapping, |mapping, shape| {
            let path = |around: &str, names: Names| match around {
                "" => names.of(shape.number),
                around => format!("{around}/{}", names.of(shape.number)),
            };
            let (old, new) = (path(around[0], from), path(around[1], to));
            let mapping = mapping.rename(&old, &new);
            match &shape.kind {
                Kind::Parallel(inside)
                | Kind::ForEach(inside)
                | Kind::Loop(inside)
                | Kind::Choice(inside)
                | Kind::Sub(inside) => add(mapping, inside, (from, to), [&old, &new]),
                _ => mapping,
            }
        })
    }
    add(Mapping::new(), shapes, (from, to), ["", ""])
}

/// A run that is driven by random numbers, the same way whatever its steps are called.
struct Life {
    state: RunState,
    program: Arc<Program>,
    journal: Vec<Recorded>,
    now: Timestamp,
    names: Names,
    /// By what others know the steps that have begun, and which steps that are.
    known: BTreeMap<String, String>,
}

impl Life {
    fn new(shapes: &[Shape], names: Names) -> Self {
        let (workflow, others) = definition(shapes, names, 1);
        let find = |name: &str| others.iter().find(|other| other.id() == name).cloned();
        let program = Program::link(&workflow, find, Vec::new).unwrap();
        let state = RunState::new(RunId::new("r").unwrap(), Arc::clone(&program));
        let (now, known) = (Timestamp::EPOCH, BTreeMap::new());
        let mut life = Self { state, program, journal: Vec::new(), now, names, known };
        let (input, variables) = (json!([1, 2]).into(), stepwell::Value::NULL);
        let grace = std::time::Duration::ZERO;
        life.ask(Command::Start { input, variables, seed: 1, grace });
        life
    }

    fn ask(&mut self, command: Command) {
        let first = self.journal.len();
        self.state.decide_into(command, self.now, &mut self.journal).unwrap();
        for recorded in &self.journal[first..] {
            if let Event::StepStarted { step, .. } | Event::WaitStarted { step, .. } =
                &recorded.event
                && self.state.step_status(*step).is_some()
            {
                let path = self.names.plain(&self.state.path(*step));
                let before = self.known.insert(self.state.instance(*step), path.clone());
                assert!(before.is_none_or(|before| before == path), "two steps have one name");
            }
        }
    }

    /// Steps of this status, in an order that does not depend on their names and places.
    fn all(&self, status: StepStatus) -> Vec<StepKey> {
        let steps = self.state.steps().filter(|(_, other)| *other == status);
        let mut found: Vec<StepKey> = steps.map(|(step, _)| step).collect();
        found.sort_by_key(|step| self.names.plain(&self.state.path(*step)));
        found
    }

    /// Does the next thing; whether there was one.
    fn act(&mut self, roll: usize) -> bool {
        while let Some(step) = self.state.first_ready() {
            self.ask(Command::Dispatch { step });
        }
        if self.state.outcome().is_some() {
            return false;
        }
        let mut running = self.all(StepStatus::Running);
        running.retain(|step| {
            self.state
                .unit(*step)
                .zip(self.state.node(*step))
                .is_some_and(|(unit, node)| unit.executor_of(node).is_some())
        });
        let approvals = self.state.approvals().map(|(path, open)| (self.names.plain(&path), open));
        let mut approvals: Vec<_> = approvals.map(|(path, open)| (path, open.id.clone())).collect();
        approvals.sort();
        let mut signalled = self.all(StepStatus::Waiting);
        let is_open = |what: &Explanation| matches!(what, Explanation::WaitsForSignal { .. });
        signalled.retain(|step| self.state.explain(*step).is_some_and(|what| is_open(&what)));
        let due = self.state.next_due(self.now);
        match roll % 4 {
            1 if !approvals.is_empty() => {
                let approval = approvals[roll / 4 % approvals.len()].1.clone();
                self.ask(Command::Vote { approval, vote: Box::new(Vote::approve("ann")) });
            }
            2 if !signalled.is_empty() => {
                let to = self.state.instance(signalled[roll / 4 % signalled.len()]);
                self.ask(Command::Signal(Signal::new("go", roll).to(to)));
            }
            _ if !running.is_empty() => {
                let step = running[roll / 4 % running.len()];
                let output = json!([self.names.plain(&self.state.path(step)), roll]);
                let result = match roll / 64 % 4 {
                    0 => Report::Failed {
                        failure: Failure::new(ErrorClass::Temporary, "no").into(),
                        retry: RetryAllowance::Allowed,
                    },
                    _ => Report::Succeeded(output.into()),
                };
                let attempt = self.state.attempt(step);
                self.ask(Command::Report { step, attempt, result });
            }
            _ => match due {
                Some(due) => {
                    self.now = self.now.max(due);
                    self.ask(Command::Tick { retry: RetryAllowance::Allowed });
                }
                None => {
                    return self.act(roll - roll % 4 + if signalled.is_empty() { 1 } else { 2 });
                }
            },
        }
        true
    }

    fn migrate(&mut self, shapes: &[Shape], names: Names, version: u32) {
        if self.state.outcome().is_some() {
            return;
        }
        let (workflow, linked) = definition(shapes, names, version);
        let (workflow, revision) = (Box::new(workflow), self.state.revision());
        let mapping = Some(mapping(shapes, self.names, names));
        let operation = Operation::Modify { workflow, linked, revision, mapping };
        let preview = self.state.preview(&operation, self.now).unwrap();
        assert!(preview.dropped.is_empty() && preview.forgotten.is_empty(), "{preview:?}");
        self.names = names;
        self.ask(Command::Operate { operation: Box::new(operation), by: Box::default() });
    }

    /// What has become of it, without names.
    fn result(&self) -> (Json, BTreeMap<String, (String, u32, Json)>) {
        let outcome = match self.state.outcome() {
            Some(stepwell::Outcome::Succeeded(output)) => plain_value(output),
            Some(stepwell::Outcome::Failed { failure, .. }) => json!(failure.class.as_str()),
            other => json!(format!("{other:?}")),
        };
        let steps = self.state.steps().map(|(step, status)| {
            let output = plain_value(&self.state.output(step));
            let what = (status.to_string(), self.state.attempt(step), output);
            (self.names.plain(&self.state.path(step)), what)
        });
        (outcome, steps.collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_comes_to_the_same_under_other_names(
        seed in prop::collection::vec(any::<u8>(), 5..80),
        rolls in prop::collection::vec(0_usize..4096, 60..200),
        turned in 0_usize..50,
        reversed in any::<bool>(),
        (first, second) in (0_usize..40, 0_usize..40),
    ) {
        let mut count = 0;
        let shapes = shapes(&mut seed.into_iter(), &mut count, 0);
        let old = Names { turned: 0, count, reversed: false };
        let new = Names { turned: turned % count, count, reversed };
        let (mut stays, mut moves) = (Life::new(&shapes, old), Life::new(&shapes, old));
        for (place, roll) in rolls.into_iter().enumerate() {
            if place == first {
                moves.migrate(&shapes, new, 2);
            }
            if place == first + second {
                // Back again, after names have been given away.
                moves.migrate(&shapes, old, 3);
            }
            let (one, other) = (stays.act(roll), moves.act(roll));
            prop_assert_eq!(one, other);
            prop_assert_eq!(stays.result(), moves.result());
            if !one {
                break;
            }
        }
        let text = serde_json::to_string(&moves.journal).unwrap();
        let journal: Vec<Recorded> = serde_json::from_str(&text).unwrap();
        let id = moves.state.id().clone();
        let replayed = RunState::replay(id, Arc::clone(&moves.program), &journal);
        prop_assert!(replayed == moves.state, "replaying the journal gives another state");
        let names = |state: &RunState| -> Vec<String> {
            state.steps().map(|(step, _)| state.instance(step)).collect()
        };
        prop_assert_eq!(names(&replayed), names(&moves.state));
    }
}
