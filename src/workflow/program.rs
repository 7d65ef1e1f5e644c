//! The compiled form of a definition: dense numbers, parsed expressions, one plan per body.
//!
//! It is what [`crate::run`] decides over. All runs of a definition share one behind an `Arc`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::settings::{FailurePolicy, Limits, OnUnknown, Priority, Resources, Trigger};
use super::variable::Variables;
use super::{Amount, Definition, Formula, NESTING_MAX, Rate, Timeout, Workflow, missing};
use crate::error::{Error, ErrorClass, Problem, Problems, Result};
use crate::expr::{Expr, Schema, Type};
use crate::plan::ExecutionPlan;
use crate::retry::RetryConfig;
use crate::value::Value;

/// A workflow with every sub-workflow that it can reach: all that a run needs to know for its life.
#[derive(Debug)]
pub struct Program {
    pub(super) units: Vec<Arc<Unit>>,
    /// For each unit, the unit that each of its sub-workflow names means.
    pub(super) links: Vec<BTreeMap<String, u32>>,
}

/// One compiled workflow.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unit {
    /// The workflow's id.
    pub workflow: String,
    /// Its bodies; the first is the workflow's own list of steps.
    pub bodies: Vec<Arc<Body>>,
    /// The executor types that its steps name, each once; nodes hold indices into it.
    pub executors: Vec<String>,
    /// Its variables.
    pub variables: Variables,
    /// What its input has to fit.
    pub input: Option<Schema>,
    /// Its limits.
    pub limits: Limits,
    /// What a failure does.
    pub on_failure: FailurePolicy,
    /// How steps are tried again that do not say it themselves.
    pub retry: Option<Arc<RetryConfig>>,
    /// Whether a step of it takes a lock.
    pub has_locks: bool,
    /// Whether a step of it names a workflow.
    pub has_sub_workflows: bool,
    /// What it was compiled from; none for steps that were made while a run goes on.
    pub source: Option<Arc<Definition>>,
}

/// A list of steps with dependencies, compiled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Body {
    /// Which steps depend on which.
    pub plan: Arc<ExecutionPlan>,
    /// The steps, in the plan's order.
    pub nodes: Vec<Node>,
    /// The composite step that this is a body of: its body and its place there.
    pub owner: Option<(u32, u32)>,
    /// What the output of the whole is.
    pub output: BodyOutput,
}

/// How a body's output comes from its steps' outputs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum BodyOutput {
    /// This expression.
    Expr(Expr),
    /// This step's output.
    Step(u32),
    /// A map of these steps' ids to their outputs.
    Map(Vec<u32>),
}

/// One step, compiled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// What it does.
    pub kind: NodeKind,
    /// Its join rule, the default made explicit.
    pub trigger: Trigger,
    /// Whether it cancels dependencies that have not ended, once it starts.
    pub cancel_rest: bool,
    /// Runs only if this holds.
    pub when: Option<Expr>,
    /// Executor inputs.
    pub inputs: Vec<(String, Formula)>,
    /// How it is tried again; none is once.
    pub retry: Option<Arc<RetryConfig>>,
    /// For all attempts together.
    pub timeout: Option<Duration>,
    /// For one attempt.
    pub attempt_timeout: Option<Duration>,
    /// Which of several ready steps starts first.
    pub priority: Priority,
    /// What it counts for while it runs.
    pub resources: Resources,
    /// What the engine must offer.
    pub capability: Option<String>,
    /// Whether it blocks its thread.
    pub blocking: bool,
    /// Dependencies that it only reads: they must have ended, and its join rule does not count them.
    pub reads: u32,
    /// Whether it runs after all other steps of its body, and after what was done is undone.
    pub finally: bool,
    /// What most steps do not have.
    pub more: Option<Box<NodeMore>>,
    /// Whether it runs even where everything else is being stopped: it cleans up.
    pub cleans_up: bool,
}

/// What most steps do not have.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NodeMore {
    /// Its output, from what it came to; none leaves that as it is.
    pub outputs: Vec<(String, Formula)>,
    /// Variables that are set when it has succeeded.
    pub set: Vec<(String, Formula)>,
    /// What it comes to has to fit this.
    pub schema: Option<Schema>,
    /// What it holds while it runs.
    pub locks: Vec<LockOf>,
    /// Steps whose failure leads here only with errors of these classes.
    pub catches: Vec<(u32, Vec<ErrorClass>)>,
    /// The body that undoes it.
    pub compensation: Option<u32>,
    /// That it is begun once only, and what becomes of it when nobody knows what it has done.
    pub at_most_once: Option<OnUnknown>,
    /// Whether it writes in the transaction that records its success.
    pub transactional: bool,
}

/// A lock that a step takes, compiled.
#[derive(Debug)]
#[non_exhaustive]
pub struct LockOf {
    /// Its name.
    pub name: String,
    /// What tells locks of this name apart.
    pub key: Option<Expr>,
    /// How many may hold it; none is any number.
    pub max: Option<u32>,
    /// How often it may be taken.
    pub rate: Option<Rate>,
}

/// What a node does.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeKind {
    /// One executor call.
    Task {
        /// Index into [`Unit::executors`].
        executor: u32,
        /// Configuration.
        config: Value,
    },
    /// A body: parallel and sequence.
    Body(u32),
    /// The first body whose condition holds.
    Choice(Vec<(Option<Expr>, u32)>),
    /// A body for each item.
    ForEach {
        /// The list.
        items: Expr,
        /// Bodies at once; 0 is no limit.
        concurrency: u32,
        /// Bodies that are enough.
        enough: Option<Amount>,
        /// Bodies that may fail.
        tolerates: Option<Amount>,
        /// The body.
        body: u32,
    },
    /// A body again and again.
    Loop {
        /// When it goes on.
        turns: Turns,
        /// More than this many fail it.
        max_turns: u32,
        /// The body.
        body: u32,
    },
    /// A wait.
    Wait(WaitFor),
    /// Steps that are made while the run goes on.
    Dynamic {
        /// A list of them.
        steps: Expr,
        /// Workflows that they may name.
        workflows: Vec<String>,
    },
    /// Another workflow.
    Workflow {
        /// Its id.
        name: String,
        /// Its input; none is the input of the workflow that this stands in.
        input: Option<Expr>,
        /// Its variables.
        variables: Vec<(String, Formula)>,
        /// What is known of the values of these, in the same order.
        types: Vec<Type>,
    },
}

/// When a loop goes on, compiled.
#[derive(Debug)]
pub enum Turns {
    /// Asked before each turn.
    While(Expr),
    /// Asked after each turn.
    Until(Expr),
}

/// What a wait waits for, compiled.
#[derive(Debug)]
#[non_exhaustive]
pub enum WaitFor {
    /// A length of time.
    Duration(Duration),
    /// A time.
    Time(Expr),
    /// A condition.
    Condition(Expr, Option<Timeout>),
    /// A signal.
    Signal {
        /// Its name.
        name: String,
        /// Its key.
        key: Option<Expr>,
        /// What its payload has to fit.
        schema: Option<Schema>,
        /// How long at most.
        timeout: Option<Timeout>,
    },
    /// A decision of people.
    Approval(Box<ApprovalOf>, Option<Timeout>),
    /// Whichever comes first, each under its label.
    First(Vec<(String, Self)>),
}

/// A decision of people, compiled.
#[derive(Debug)]
#[non_exhaustive]
pub struct ApprovalOf {
    /// Who may vote; empty is anybody.
    pub approvers: Vec<String>,
    /// A list of who may vote, instead.
    pub approvers_from: Option<Expr>,
    /// How many must say yes.
    pub quorum: Amount,
    /// What they are asked.
    pub prompt: Option<String>,
    /// What they should see.
    pub show: Option<Expr>,
    /// What a yes must come with.
    pub schema: Option<Schema>,
}

/// A sub-workflow step: its path, the name it gives, and the variables, if it is known what it gives.
type SubWorkflow<'a> = (String, &'a str, Option<Given<'a>>);

/// Variables that a sub-workflow is given, and what is known of their values.
type Given<'a> = (&'a [(String, Formula)], &'a [Type]);

/// Units of one program. Sub-workflows may name each other, so only a count bounds them.
const UNITS_MAX: usize = 1_000;

impl Program {
    pub(super) fn of(unit: Unit) -> Self {
        Self { units: vec![Arc::new(unit)], links: vec![BTreeMap::new()] }
    }

    /// The compiled form of a workflow with all sub-workflows that it names, and those that they
    /// name. Workflows may name each other in a circle; how deep a run follows is limited when it
    /// runs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) naming each step whose
    /// workflow `find` does not know.
    pub fn link(
        workflow: &Workflow,
        find: impl Fn(&str) -> Option<Workflow>,
        known: impl Fn() -> Vec<String>,
    ) -> Result<Arc<Self>> {
        let own = workflow.program();
        if !own.units.iter().any(|unit| unit.has_sub_workflows) {
            return Ok(Arc::clone(own));
        }
        let mut program = Self { units: vec![Arc::clone(&own.units[0])], links: Vec::new() };
        let mut index = BTreeMap::from([(workflow.id().to_string(), 0_u32)]);
        let mut problems = Problems::default();
        while let Some(unit) = program.units.get(program.links.len()).cloned() {
            let mut links = BTreeMap::new();
            for (path, name, given) in unit.sub_workflows() {
                let at = match index.get(name) {
                    Some(at) => *at,
                    None => match find(name).filter(|_| program.units.len() < UNITS_MAX) {
                        Some(found) => {
                            let at = program.place_of(&found.program().units[0]);
                            index.insert(name.to_string(), at);
                            at
                        }
                        None => {
                            let path = format!("{}: steps.{path}.workflow", unit.workflow);
                            problems.push(unknown(path, name, &known()));
                            continue;
                        }
                    },
                };
                if let Some(given) = given {
                    let place = (unit.workflow.as_str(), path.as_str());
                    let found = &program.units[at as usize];
                    check_variables(place, name, given, found, &mut problems);
                }
                links.insert(name.to_string(), at);
            }
            program.links.push(links);
        }
        if problems.has_errors() { Err(Error::invalid(problems)) } else { Ok(Arc::new(program)) }
    }

    /// The place of a unit, which may have been found by another name.
    fn place_of(&mut self, unit: &Arc<Unit>) -> u32 {
        let known = self.units.iter().position(|other| Arc::ptr_eq(other, unit));
        let place = known.unwrap_or(self.units.len());
        if known.is_none() {
            self.units.push(Arc::clone(unit));
        }
        place as u32
    }

    /// A unit by its number; 0 is the workflow itself.
    #[must_use]
    pub fn unit(&self, unit: u32) -> &Unit {
        &self.units[unit as usize]
    }

    /// All units.
    #[must_use]
    pub fn units(&self) -> &[Arc<Unit>] {
        &self.units
    }

    /// Whether a step of any unit takes a lock.
    #[must_use]
    pub fn has_locks(&self) -> bool {
        self.units.iter().any(|unit| unit.has_locks)
    }

    /// The units that the same names mean inside two units.
    pub(crate) fn linked_pairs(
        &self,
        one: u32,
        other: u32,
    ) -> impl Iterator<Item = (u32, u32)> + '_ {
        let names = self.links.get(one as usize).into_iter().flatten();
        names.filter_map(move |(name, unit)| Some((*unit, self.linked(other, name)?)))
    }

    /// The unit that a sub-workflow's name means inside a unit.
    #[must_use]
    pub fn linked(&self, unit: u32, name: &str) -> Option<u32> {
        self.links.get(unit as usize)?.get(name).copied()
    }
}

fn unknown(path: String, name: &str, known: &[String]) -> Problem {
    let (message, hint) = missing(name, known);
    let problem = Problem::error(path, message);
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem.suggest(name, known.iter().map(String::as_str)),
    }
}

/// Whether a step gives a sub-workflow the variables that it needs, and no others, with values that
/// they may have.
fn check_variables(
    (workflow, step): (&str, &str),
    name: &str,
    (given, types): Given<'_>,
    unit: &Unit,
    problems: &mut Problems,
) {
    let path = format!("{workflow}: steps.{step}.workflow");
    for needed in unit.variables.required() {
        if !given.iter().any(|(name, _)| name == needed) {
            let message = format!("`{name}` requires the variable `{needed}`");
            let problem = Problem::error(&path, message);
            problems.push(problem.hint("give it under `variables`, or give it a default"));
        }
    }
    for ((variable, _), found) in given.iter().zip(types) {
        if !unit.variables.declares(variable) {
            let message = format!("`{name}` has no variable `{variable}`");
            problems.push(Problem::error(&path, message).suggest(variable, unit.variables.names()));
        } else if let Some(wrong) = unit.variables.misfit(variable, found) {
            let path = format!("{workflow}: steps.{step}.variables.{variable}");
            let message = format!("the variable of `{name}`: {wrong}");
            problems.push(Problem::error(path, message));
        }
    }
}

impl Unit {
    /// A body by its number; 0 is the workflow's own list of steps.
    #[must_use]
    pub fn body(&self, body: u32) -> &Arc<Body> {
        &self.bodies[body as usize]
    }

    /// The ids from the outermost step to this one, joined by `/`.
    #[must_use]
    pub fn path(&self, body: u32, step: u32) -> String {
        let mut path = Vec::new();
        let mut at = Some((body, step));
        while let Some((body, step)) = at.filter(|_| path.len() <= NESTING_MAX) {
            let body = self.body(body);
            path.push(body.plan.id(step).as_str());
            at = body.owner;
        }
        path.reverse();
        path.join("/")
    }

    /// The executor type of a task.
    #[must_use]
    pub fn executor_of(&self, node: &Node) -> Option<&str> {
        match &node.kind {
            NodeKind::Task { executor, .. } => {
                self.executors.get(*executor as usize).map(String::as_str)
            }
            _ => None,
        }
    }

    /// Every sub-workflow step: its path, the name it gives, and the variables. Of a dynamic step what
    /// its steps may name.
    pub(super) fn sub_workflows(&self) -> impl Iterator<Item = SubWorkflow<'_>> {
        self.bodies.iter().enumerate().flat_map(move |(b, body)| {
            body.nodes.iter().enumerate().flat_map(move |(s, node)| {
                let (named, given): (&[String], _) = match &node.kind {
                    NodeKind::Workflow { name, variables, types, .. } => {
                        let given = (variables.as_slice(), types.as_slice());
                        (std::slice::from_ref(name), Some(given))
                    }
                    NodeKind::Dynamic { workflows, .. } => (workflows, None),
                    _ => (&[], None),
                };
                let path = move || self.path(b as u32, s as u32);
                named.iter().map(move |name| (path(), name.as_str(), given))
            })
        })
    }
}

impl Node {
    /// The locks that it takes.
    #[must_use]
    pub fn locks(&self) -> &[LockOf] {
        self.more.as_ref().map_or(&[], |more| &more.locks)
    }

    /// The body that undoes it.
    #[must_use]
    pub fn compensation(&self) -> Option<u32> {
        self.more.as_ref()?.compensation
    }

    /// That it is begun once only, and what becomes of it when nobody knows what it has done.
    #[must_use]
    pub fn at_most_once(&self) -> Option<OnUnknown> {
        self.more.as_ref()?.at_most_once
    }

    /// Whether it writes in the transaction that records its success.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.transactional)
    }

    /// What it comes to has to fit this.
    #[must_use]
    pub fn schema(&self) -> Option<&Schema> {
        self.more.as_ref()?.schema.as_ref()
    }

    /// Whether an error of this class, of that step, leads here over an edge for failures.
    #[must_use]
    pub fn catches(&self, from: u32, class: ErrorClass) -> bool {
        let catches = self.more.as_ref().map_or(&[][..], |more| &more.catches);
        let known = catches.iter().find(|(step, _)| *step == from);
        known.is_none_or(|(_, classes)| classes.contains(&class))
    }
}

impl Body {
    /// A step by its place.
    #[must_use]
    pub fn node(&self, step: u32) -> &Node {
        &self.nodes[step as usize]
    }
}
