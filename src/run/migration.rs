//! A live run goes on with another definition: whether it can, and what becomes of its steps.

use std::collections::{BTreeMap, BTreeSet};

use super::RunState;
use super::command::Rejection;
use super::scope::{Cell, Scope};
use super::turn::Turn;
use crate::error::{Problem, Problems};
use crate::expr::Mismatch;
use crate::id::StepKey;
use crate::journal::{End, Mapping, Modified, MovedScope, StepStatus};
use crate::plan::EdgeKind;
use crate::value::Value;
use crate::workflow::{
    Body, Definition, Node, NodeKind, Program, Step, Unit, WaitFor, Workflow, parts,
};

impl Turn<'_> {
    /// The change that has the run go on with this definition, if it can.
    pub(super) fn migration(
        &self,
        workflow: &Workflow,
        linked: &[Workflow],
        revision: u32,
        mapping: Option<&Mapping>,
    ) -> Result<Modified, Rejection> {
        let state = &*self.state;
        if revision != state.revision {
            return Err(Rejection::Outdated { now: state.revision, given: revision });
        }
        if state.root.stopping || state.root.ending.is_some() {
            return Err(Rejection::Stopping);
        }
        let extended = state.program.extended(workflow, linked);
        let (program, unit) = extended.map_err(Rejection::Unsafe)?;
        let (old, new) = (state.program.unit(state.root.place.0), program.unit(unit));
        if old.workflow != new.workflow {
            let (old, new) = (&old.workflow, &new.workflow);
            return Err(Rejection::Unsafe(format!("`{new}` is another workflow than `{old}`")));
        }
        let nothing = Mapping::default();
        let mut plan = Plan {
            state,
            program: &program,
            mapping: mapping.unwrap_or(&nothing),
            is_strict: mapping.is_none(),
            named: BTreeSet::new(),
            problems: Problems::default(),
            scopes: Vec::new(),
        };
        let mut left =
            vec![Site { scope: 0, to: (unit, 0), old: String::new(), new: String::new() }];
        while let Some(site) = left.pop() {
            left.extend(plan.carry(&site));
        }
        plan.check_names();
        plan.check_ends(new, |bytes| self.fits_in(bytes));
        let now = state.started.as_ref().map(|start| (&start.input, &start.variables));
        let (input, now) = now.unwrap_or((&Value::NULL, &Value::NULL));
        let variables = plan.own(new, input, now, "");
        let Plan { problems, scopes, .. } = plan;
        if problems.has_errors() {
            return Err(Rejection::Misfit(problems));
        }
        let (workflow, linked) = (workflow.clone(), linked.to_vec());
        Ok(Modified { workflow, linked, variables, scopes })
    }

    /// Ends new steps that are not to run, and looks at what follows from the change.
    pub(super) fn go_on_with(&mut self, modified: &Modified, mapping: Option<&Mapping>) {
        for (id, end) in mapping.into_iter().flat_map(Mapping::ends) {
            let Some(step) = self.state.root.body.plan.index(id).map(StepKey::root) else {
                continue;
            };
            match end {
                End::Succeeded(output) => self.succeed(step, output.clone()),
                End::Skipped => self.leave_out(step),
            }
        }
        for MovedScope { scope, .. } in &modified.scopes {
            self.consider_all(*scope);
            self.look_again(*scope, mapping.is_some());
        }
    }
}

/// An open body, and what it is to become.
struct Site {
    scope: u32,
    /// Its unit and body in the new program.
    to: (u32, u32),
    /// The path of the composite step around it in the old definition, and in the new one.
    old: String,
    new: String,
}

/// What becomes of a run's steps, as far as it has been found out.
struct Plan<'a> {
    state: &'a RunState,
    /// With the new definition.
    program: &'a Program,
    mapping: &'a Mapping,
    /// What has begun has to stay as it is.
    is_strict: bool,
    /// What the mapping names that is there.
    named: BTreeSet<String>,
    problems: Problems,
    scopes: Vec<MovedScope>,
}

impl<'a> Plan<'a> {
    /// Finds out what becomes of the steps of a body; the bodies that are open inside.
    fn carry(&mut self, site: &Site) -> Vec<Site> {
        let (state, program) = (self.state, self.program);
        let Some(scope) = state.scope(site.scope) else {
            return Vec::new();
        };
        let (before, after) = (state.program.unit(scope.place.0), program.unit(site.to.0));
        let Some(body) = after.bodies.get(site.to.1 as usize) else {
            return Vec::new();
        };
        let steps = self.places(site, scope, body);
        let mut inside = Vec::new();
        for (at, (cell, to)) in scope.cells.iter().zip(&steps).enumerate() {
            let (id, node) = (scope.body.plan.id(at as u32), scope.body.node(at as u32));
            let path = join(&site.old, id.as_str());
            if self.is_strict && cell.has_begun() {
                let wrong = changes(before, after, at as u32, *to);
                wrong.into_iter().for_each(|what| self.wrong(&path, cell, what, None));
                continue;
            }
            match to {
                Some(to) => {
                    let (key, new) =
                        (StepKey { scope: site.scope, step: at as u32 }, body.node(*to));
                    self.check(&path, (cell, before, node), (after, new));
                    if cell.status == StepStatus::Running {
                        let around = join(&site.new, body.plan.id(*to).as_str());
                        let open = self.open(key, site.to.0, new);
                        inside.extend(open.into_iter().map(|(scope, to)| Site {
                            scope,
                            to,
                            old: path.clone(),
                            new: around.clone(),
                        }));
                    }
                }
                None if self.mapping.of(&path).is_none()
                    && counts(cell)
                    && !self.problems.iter().any(|known| known.path == path) =>
                {
                    let hint = format!(
                        "say what becomes of it: `Mapping::rename(\"{path}\", ..)`, or \
                         `Mapping::remove(\"{path}\")` to forget it"
                    );
                    self.wrong(&path, cell, "the new definition has no such step", Some(hint));
                }
                None => {}
            }
        }
        let variables = match &scope.own {
            Some(own) => self.own(after, &own.input, &own.variables, &site.old),
            None => Value::NULL,
        };
        let (unit, body) = site.to;
        self.scopes.push(MovedScope { scope: site.scope, unit, body, steps, variables });
        inside
    }

    /// The places that steps get in another body: first those that are named, then those that keep
    /// their ids.
    fn places(&mut self, site: &Site, scope: &Scope, body: &Body) -> Vec<Option<u32>> {
        let mut places = vec![None; scope.cells.len()];
        let mut taken: BTreeMap<u32, String> = BTreeMap::new();
        let mut unnamed = Vec::new();
        for (at, id) in scope.body.plan.ids().iter().enumerate() {
            let path = join(&site.old, id.as_str());
            let Some(to) = self.mapping.of(&path) else {
                unnamed.push((at, id, path));
                continue;
            };
            self.named.insert(path.clone());
            let Some(place) = to.and_then(|to| self.declared(site, &path, to, body)) else {
                continue;
            };
            if let Some(other) = taken.insert(place, path.clone()) {
                let id = body.plan.id(place);
                let message = format!("`{other}` becomes `{}`, too", join(&site.new, id.as_str()));
                self.problems.push(Problem::error(path, message));
            }
            places[at] = Some(place);
        }
        for (at, id, path) in unnamed {
            let Some(place) = body.plan.index(id.as_str()) else { continue };
            match taken.get(&place) {
                None => places[at] = Some(place),
                // It carries nothing with it.
                Some(_) if !counts(&scope.cells[at]) => {}
                Some(other) => {
                    let message = format!("`{other}` becomes what this was");
                    let problem = Problem::error(path, message);
                    self.problems.push(problem.hint("say what becomes of this one"));
                }
            }
        }
        places
    }

    /// The place of the step that a step is said to become.
    fn declared(&mut self, site: &Site, old: &str, new: &str, body: &Body) -> Option<u32> {
        let (around, id) = new.rsplit_once('/').unwrap_or(("", new));
        if around != site.new {
            let message = match site.new.as_str() {
                "" => format!("it is an outermost step, and cannot become `{new}`"),
                inside => {
                    format!("it is inside what becomes `{inside}`, and cannot become `{new}`")
                }
            };
            self.problems.push(Problem::error(old, message));
            return None;
        }
        let found = body.plan.index(id);
        if found.is_none() {
            let ids = body.plan.ids().iter().map(crate::StepId::as_str);
            let message = format!("the new definition has no step `{new}`");
            self.problems.push(Problem::error(old, message).suggest(id, ids));
        }
        found
    }

    /// Whether what has become of a step can be that of another one.
    fn check(
        &mut self,
        path: &str,
        (cell, before, old): (&Cell, &Unit, &Node),
        (after, new): (&Unit, &Node),
    ) {
        match cell.status {
            StepStatus::Succeeded => {
                let made = |node: &Node| node.more.as_ref().is_some_and(|m| !m.outputs.is_empty());
                // What the schema is of was not kept where the output was made from it.
                let schema = new
                    .schema()
                    .filter(|_| !made(old) && !made(new) && !crate::value::is_blob(&cell.output));
                if let Some(Err(wrong)) = schema.map(|schema| schema.check(&cell.output, "output"))
                {
                    let hint = format!("`Mapping::remove(\"{path}\")` has it run again");
                    self.wrong(path, cell, wrong.to_string(), Some(hint));
                }
            }
            status if status.is_end() || !cell.has_begun() => {}
            _ => {
                if let Err(what) = same_kind((before, old), (after, new)) {
                    let hint = format!("`Mapping::remove(\"{path}\")` stops it");
                    self.wrong(path, cell, what, Some(hint));
                }
            }
        }
    }

    /// The bodies that a composite step has open, each with the body that it becomes.
    fn open(&mut self, step: StepKey, unit: u32, new: &Node) -> Vec<(u32, (u32, u32))> {
        let state = self.state;
        let Some((cell, old)) = state.cell(step).zip(state.node(step)) else {
            return Vec::new();
        };
        let open = cell.bodies().map_or(&[][..], |bodies| &bodies.open);
        let mut found = Vec::new();
        for number in open {
            let Some(scope) = state.scope(*number) else { continue };
            let to = match (&old.kind, &new.kind) {
                (NodeKind::Body(_), NodeKind::Body(body))
                | (NodeKind::ForEach { .. }, NodeKind::ForEach { body, .. })
                | (NodeKind::Loop { .. }, NodeKind::Loop { body, .. }) => Some((unit, *body)),
                (NodeKind::Choice(cases), NodeKind::Choice(now)) => {
                    let taken = cases.iter().position(|(_, body)| *body == scope.place.1);
                    let case = taken.and_then(|taken| now.get(taken));
                    if case.is_none() {
                        let what = "the case that was chosen is not there any more";
                        self.problems.push(Problem::error(state.path(step), what));
                    }
                    case.map(|(_, body)| (unit, *body))
                }
                (NodeKind::Workflow { .. }, NodeKind::Workflow { name, .. }) => {
                    self.program.linked(unit, name).map(|unit| (unit, 0))
                }
                // Steps that were made are what they were made as.
                _ => None,
            };
            found.extend(to.map(|to| (*number, to)));
        }
        found
    }

    /// What the mapping names has to be there.
    fn check_names(&mut self) {
        let unit = self.state.root.place.0;
        let all: Vec<&str> =
            self.mapping.named().filter(|path| !self.named.contains(*path)).collect();
        for path in all.into_iter().filter(|path| !exists(&self.state.program, unit, path)) {
            let message = "the run's definition has no such step";
            let ids = self.state.root.body.plan.ids().iter().map(crate::StepId::as_str);
            self.problems.push(Problem::error(path, message).suggest(path, ids));
        }
    }

    /// New steps that do not run must be there, and not have begun as others.
    fn check_ends(&mut self, new: &Unit, fits_in: impl Fn(usize) -> Result<(), String>) {
        let body = new.body(0);
        let begun = |step: u32| {
            let moved = self.scopes.iter().find(|moved| moved.scope == 0)?;
            let at = moved.steps.iter().position(|to| *to == Some(step))?;
            let cell = self.state.root.cells.get(at)?;
            cell.has_begun().then(|| (self.state.root.body.plan.id(at as u32).clone(), cell.status))
        };
        let mut problems = Problems::default();
        for (id, end) in self.mapping.ends() {
            let Some(step) = body.plan.index(id) else {
                let message = "the new definition has no outermost step of this id";
                let ids = body.plan.ids().iter().map(crate::StepId::as_str);
                problems.push(Problem::error(id, message).suggest(id, ids));
                continue;
            };
            if let Some((before, status)) = begun(step) {
                let message = format!("it is what `{before}` becomes, which is {status}");
                problems.push(Problem::error(id, message));
            }
            let End::Succeeded(output) = end else { continue };
            if let Err(wrong) = fits_in(output.bytes()) {
                problems.push(Problem::error(id, format!("its output {wrong}")));
            }
            let schema = body.node(step).schema().filter(|_| !crate::value::is_blob(output));
            if let Some(Err(wrong)) = schema.map(|schema| schema.check(output, "output")) {
                problems.push(Problem::error(id, wrong.to_string()));
            }
        }
        self.problems.extend(problems);
    }

    /// The variables of a workflow or sub-workflow; its input has to fit, too.
    fn own(&mut self, new: &Unit, input: &Value, now: &Value, around: &str) -> Value {
        let place =
            |path: &str| if around.is_empty() { path.into() } else { format!("{around}: {path}") };
        if let Some(Err(wrong)) = new.input.as_ref().map(|schema| schema.check(input, "input")) {
            self.problems.push(Problem::error(place(&wrong.path), wrong.message));
        }
        let mut kept = BTreeMap::new();
        for (name, value) in now.as_object().into_iter().flatten() {
            // A variable that is not there any more is forgotten, one without a value may get one.
            if !new.variables.declares(name) || value.is_null() {
                continue;
            }
            match new.variables.check(name, value) {
                Ok(()) => drop(kept.insert(name.clone(), value.clone().into())),
                Err(Mismatch { path, message, .. }) => {
                    let hint = "give it another value first, with Operation::set_variable";
                    self.problems.push(Problem::error(place(&path), message).hint(hint));
                }
            }
        }
        match new.variables.complete(kept) {
            Ok(variables) => variables,
            Err(Mismatch { path, message, .. }) => {
                let path = place(&path);
                if !self.problems.iter().any(|problem| problem.path == path) {
                    self.problems.push(Problem::error(path, message).hint("give it a default"));
                }
                Value::NULL
            }
        }
    }

    fn wrong(&mut self, path: &str, cell: &Cell, what: impl AsRef<str>, hint: Option<String>) {
        let problem = Problem::error(path, format!("it is {}: {}", cell.status, what.as_ref()));
        let known =
            |other: &Problem| other.path == problem.path && other.message == problem.message;
        // Of many items one is enough.
        if !self.problems.iter().any(known) {
            self.problems.push(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    }
}

/// Whether something is lost with a step: it has come to something, or is under way.
fn counts(cell: &Cell) -> bool {
    match cell.status {
        StepStatus::Skipped(_) => false,
        StepStatus::Cancelled => cell.attempt > 0,
        _ => cell.has_begun(),
    }
}

fn join(around: &str, id: &str) -> String {
    if around.is_empty() { id.to_string() } else { format!("{around}/{id}") }
}

/// Whether a workflow has a step of this path, in the bodies of its steps and its sub-workflows.
fn exists(program: &Program, unit: u32, path: &str) -> bool {
    let mut places = vec![(unit, 0)];
    let mut parts = path.split('/').peekable();
    while let Some(id) = parts.next() {
        let mut inside = Vec::new();
        for (unit, body) in places {
            let Some(body) = program.unit(unit).bodies.get(body as usize) else { continue };
            let Some(step) = body.plan.index(id) else { continue };
            if parts.peek().is_none() {
                return true;
            }
            match &body.node(step).kind {
                NodeKind::Body(body)
                | NodeKind::ForEach { body, .. }
                | NodeKind::Loop { body, .. } => inside.push((unit, *body)),
                NodeKind::Choice(cases) => {
                    inside.extend(cases.iter().map(|(_, body)| (unit, *body)));
                }
                NodeKind::Workflow { name, .. } => {
                    inside.extend(program.linked(unit, name).map(|unit| (unit, 0)));
                }
                NodeKind::Task { .. } | NodeKind::Wait(_) | NodeKind::Dynamic { .. } => {}
            }
        }
        places = inside;
    }
    false
}

/// Whether a step that is under way can go on as another; why not.
fn same_kind((before, old): (&Unit, &Node), (after, new): (&Unit, &Node)) -> Result<(), String> {
    match (&old.kind, &new.kind) {
        (NodeKind::Task { .. }, NodeKind::Task { .. }) => {
            match (before.executor_of(old), after.executor_of(new)) {
                (old, new) if old == new => Ok(()),
                (old, new) => Err(format!(
                    "it runs `{}`, and the new step runs `{}`",
                    old.unwrap_or_default(),
                    new.unwrap_or_default()
                )),
            }
        }
        (NodeKind::Workflow { name: old, .. }, NodeKind::Workflow { name: new, .. }) => {
            match (parts(old), parts(new)) {
                (Ok((old, _)), Ok((new, _))) if old != new => {
                    Err(format!("it runs the workflow `{old}`, and the new step runs `{new}`"))
                }
                _ => Ok(()),
            }
        }
        (NodeKind::Wait(old), NodeKind::Wait(new)) => same_wait(old, new),
        (old, new) if std::mem::discriminant(old) == std::mem::discriminant(new) => Ok(()),
        (old, new) => Err(format!("it is {}, and the new step is {}", word(old), word(new))),
    }
}

/// Whether what a step waits for is what another one would.
fn same_wait(old: &WaitFor, new: &WaitFor) -> Result<(), String> {
    match (old, new) {
        (WaitFor::Duration(_) | WaitFor::Time(_), WaitFor::Duration(_) | WaitFor::Time(_))
        | (WaitFor::Condition(..), WaitFor::Condition(..))
        | (WaitFor::Approval(..), WaitFor::Approval(..)) => Ok(()),
        (WaitFor::Signal { name: old, .. }, WaitFor::Signal { name: new, .. }) if old == new => {
            Ok(())
        }
        (WaitFor::Signal { name: old, .. }, WaitFor::Signal { name: new, .. }) => {
            Err(format!("it waits for the signal `{old}`, and the new step for `{new}`"))
        }
        (WaitFor::First(old), WaitFor::First(new)) => {
            let labels = old.iter().map(|(label, _)| label);
            if !labels.eq(new.iter().map(|(label, _)| label)) {
                return Err("the ways that it waits for are others in the new step".into());
            }
            old.iter().zip(new).try_for_each(|((_, old), (_, new))| same_wait(old, new))
        }
        _ => Err("the new step waits for something else".into()),
    }
}

const fn word(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Task { .. } => "a task",
        NodeKind::Body(_) => "a body of steps",
        NodeKind::Choice(_) => "a choice",
        NodeKind::ForEach { .. } => "a for-each",
        NodeKind::Loop { .. } => "a loop",
        NodeKind::Wait(_) => "a wait",
        NodeKind::Dynamic { .. } => "a dynamic step",
        NodeKind::Workflow { .. } => "a sub-workflow",
    }
}

/// What is different about an outermost step that has begun and is to stay as it is.
fn changes(old: &Unit, new: &Unit, at: u32, now: Option<u32>) -> Option<&'static str> {
    let (before, after) = (old.body(0), new.body(0));
    let Some(now) = now else {
        return Some("it cannot be removed");
    };
    let id = before.plan.id(at).as_str();
    let (was, is) = (definition_of(old, id)?, definition_of(new, id)?);
    if without_ways_out(was) != without_ways_out(is) {
        return Some("it cannot be changed");
    }
    (ways_in(before, at) != ways_in(after, now)).then_some("what it comes after cannot be changed")
}

fn definition_of<'a>(unit: &'a Unit, id: &str) -> Option<&'a Step> {
    let definition: &Definition = unit.source.as_ref()?;
    definition.steps.iter().find(|step| step.id.as_str() == id)
}

/// A step without what leads from it to others, which is theirs.
fn without_ways_out(step: &Step) -> Step {
    let mut step = step.clone();
    for ids in [&mut step.on_success, &mut step.on_failure, &mut step.otherwise, &mut step.always] {
        ids.clear();
    }
    step.on_error.clear();
    step
}

fn ways_in(body: &Body, step: u32) -> BTreeSet<(String, EdgeKind)> {
    let links = body.plan.predecessors(step).iter();
    links.map(|link| (body.plan.id(link.step).to_string(), link.kind)).collect()
}
