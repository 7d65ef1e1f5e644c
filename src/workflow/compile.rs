//! From a definition to its compiled form, with every problem on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compile_plan::{catch_by_class, is_last, join, plan_step};
use super::kind::{Case, LoopCondition, StepKind, When};
use super::names::{Frame, Names, Visible};
use super::program::{Body, BodyOutput, LockOf, Node, NodeKind, NodeMore, Turns, Unit};
use super::reach::never_started;
use super::settings::Trigger;
use super::step::MISPLACED;
use super::variable::{self, Variables};
use super::version::{check_id, parts};
use super::{Amount, Definition, Formula, NESTING_MAX, STEPS_MAX, Step};
use crate::error::{Problem, Problems};
#[cfg(feature = "template")]
use crate::expr::TypeScope;
use crate::expr::{Aspect, Expr, Mention, ROOTS, Type};
use crate::id::check_name;
use crate::plan::{EdgeKind, ExecutionPlan};
use crate::retry::RetryConfig;

/// The compiled form, as far as there is one; it is only good if no problem is an error.
pub(super) fn compile(definition: &Definition, problems: &mut Problems) -> Option<Unit> {
    check_settings(definition, problems);
    let variables = Variables::compile(&definition.variables, problems);
    let schema = definition.input_schema.as_ref();
    let schema = schema.and_then(|schema| variable::read(schema, "input_schema", problems));
    let input = schema.as_ref().map_or(Type::Any, |schema| schema.type_of().clone());
    let retry = definition.retry.clone().map(Arc::new);
    let mut compiler = Compiler::new(problems, input, &variables, retry);
    compiler.names.frames.push(Frame::new(&definition.steps, &[]));
    compiler.body(&definition.steps, None, "steps", Shape::Graph)?;
    if let Some(text) = &definition.output {
        compiler.names.frames.push(Frame::new(&definition.steps, &[]));
        let output = compiler.parse(text, "output", false);
        if let (Some(output), Some(body)) = (output, compiler.bodies.first_mut()) {
            body.output = BodyOutput::Expr(output);
        }
    }
    let Compiler { executors, bodies, retry, has_locks, has_sub_workflows, .. } = compiler;
    Some(Unit {
        workflow: definition.id.clone(),
        executors,
        bodies: bodies.into_iter().map(Arc::new).collect(),
        variables,
        input: schema,
        limits: definition.limits.clone(),
        on_failure: definition.on_failure,
        retry,
        has_locks,
        has_sub_workflows,
        source: None,
    })
}

/// The compiled form of steps that were made while a run goes on, inside one of its workflows.
pub(super) fn compile_dynamic(
    base: &Unit,
    steps: &[Step],
    may_run: &[String],
    problems: &mut Problems,
) -> Option<Unit> {
    let input = base.input.as_ref().map_or(Type::Any, |schema| schema.type_of().clone());
    let mut compiler = Compiler::new(problems, input, &base.variables, base.retry.clone());
    // What stands around it is only known while it runs.
    compiler.names.frames.push(Frame::new(&[], &["item", "index", "turn", "last", "output"]));
    compiler.names.frames.push(Frame::new(steps, &[]));
    compiler.body(steps, None, "steps", Shape::Graph)?;
    let Compiler { executors, bodies, has_locks, has_sub_workflows, .. } = compiler;
    let unit = Unit {
        workflow: base.workflow.clone(),
        executors,
        bodies: bodies.into_iter().map(Arc::new).collect(),
        variables: base.variables.clone(),
        input: None,
        limits: base.limits.clone(),
        on_failure: base.on_failure,
        retry: base.retry.clone(),
        has_locks,
        has_sub_workflows,
        source: None,
    };
    for (path, name, _) in unit.sub_workflows() {
        if !may_run.iter().any(|known| known == name) {
            let message = format!("the dynamic step may not run the workflow `{name}`");
            let problem = Problem::error(format!("steps.{path}.workflow"), message);
            problems.push(problem.hint("name it under `may_run`"));
        }
    }
    Some(unit)
}

fn check_settings(definition: &Definition, problems: &mut Problems) {
    if let Err(reason) = check_id(&definition.id) {
        problems.push(Problem::error("id", reason));
    }
    if definition.version == Some(0) {
        problems.push(Problem::error("version", "versions count from 1"));
    }
    if definition.limits.max_concurrent_steps == 0 {
        let message = "a run that may run no step at once never ends";
        problems.push(Problem::error("limits.max_concurrent_steps", message).hint("1 or more"));
    }
    if let Some(Err(reason)) = definition.retry.as_ref().map(RetryConfig::check) {
        problems.push(Problem::error("retry", reason));
    }
}

/// What edges a body has besides those that its steps name.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// None.
    Graph,
    /// From each step to the next.
    Chain,
    /// None, and the output is always a map.
    Parallel,
}

/// What an expression can read besides what can be seen from its step.
#[derive(Clone, Copy, Default)]
struct Reads<'a> {
    /// Further names.
    extra: &'static [&'static str],
    /// The type of `output`.
    output: Option<&'a Type>,
    /// A step that it mentions does not become a dependency.
    only_looks: bool,
}

fn has_more(step: &Step) -> bool {
    let results = step.output_schema.is_some() || !step.outputs.is_empty() || !step.set.is_empty();
    results
        || !step.locks.is_empty()
        || step.compensate.is_some()
        || step.at_most_once
        || step.transactional
}

pub(super) struct Compiler<'a> {
    pub(super) problems: &'a mut Problems,
    names: Names<'a>,
    bodies: Vec<Body>,
    executors: Vec<String>,
    by_executor: BTreeMap<String, u32>,
    retry: Option<Arc<RetryConfig>>,
    steps: usize,
    has_locks: bool,
    has_sub_workflows: bool,
}

impl<'a> Compiler<'a> {
    fn new(
        problems: &'a mut Problems,
        input: Type,
        variables: &'a Variables,
        retry: Option<Arc<RetryConfig>>,
    ) -> Self {
        Self {
            problems,
            names: Names { input, variables, frames: Vec::new(), hidden: 0 },
            bodies: Vec::new(),
            executors: Vec::new(),
            by_executor: BTreeMap::new(),
            retry,
            steps: 0,
            has_locks: false,
            has_sub_workflows: false,
        }
    }

    /// Compiles a body whose frame has been pushed, and pops it. The body's number.
    fn body(
        &mut self,
        steps: &'a [Step],
        owner: Option<(u32, u32)>,
        path: &str,
        shape: Shape,
    ) -> Option<u32> {
        self.steps += steps.len();
        if self.names.frames.len() + self.names.hidden > NESTING_MAX || self.steps > STEPS_MAX {
            let message = if self.steps > STEPS_MAX {
                format!("more than {STEPS_MAX} steps")
            } else {
                format!("more than {NESTING_MAX} bodies inside each other")
            };
            self.problems.push(Problem::error(path, message).hint("use a sub-workflow"));
            return None;
        }
        // The number is taken before the bodies inside are compiled, so that owners come first.
        let number = self.bodies.len() as u32;
        let plan = ExecutionPlan::new(Vec::new(), Vec::new()).ok()?;
        let output = BodyOutput::Map(Vec::new());
        self.bodies.push(Body { plan: Arc::new(plan), nodes: Vec::new(), owner, output });
        let mut nodes = Vec::with_capacity(steps.len());
        // Looking at all of very many steps once more is what takes time.
        let mut entries = Vec::with_capacity(steps.len());
        let mut unusual = false;
        for (at, step) in steps.iter().enumerate() {
            if let Some(frame) = self.names.frames.last_mut() {
                frame.current = at as u32;
            }
            unusual |= step.finally || !step.on_error.is_empty();
            self.has_locks |= !step.locks.is_empty();
            entries.push(plan_step(step));
            // A step that cannot be compiled has its problem; the others may have theirs.
            nodes.extend(self.node(step, (number, at as u32), path));
        }
        let frame = self.names.frames.pop()?;
        if unusual {
            self.check_finally(steps, &frame, path);
            catch_by_class(steps, &mut nodes, &frame);
        }
        let plan = self.plan(steps, entries, &frame, path, (shape, unusual))?;
        if nodes.len() < steps.len() {
            return None;
        }
        let sinks = (0..plan.len() as u32).filter(|step| is_last(&plan, steps, *step, unusual));
        let sinks: Vec<u32> = sinks.collect();
        let body = self.bodies.get_mut(number as usize)?;
        body.output = match (shape, sinks.as_slice()) {
            (Shape::Parallel, _) => {
                let regular = (0..steps.len() as u32).filter(|at| !steps[*at as usize].finally);
                BodyOutput::Map(regular.collect())
            }
            (_, [only]) => BodyOutput::Step(*only),
            _ => BodyOutput::Map(sinks),
        };
        body.nodes = nodes;
        // Most workflows have nothing but `after`, and many very many steps.
        let mut plain = true;
        for (step, node) in body.nodes.iter_mut().enumerate() {
            let edges = plan.predecessors(step as u32);
            if edges.iter().any(|link| link.kind != EdgeKind::After) {
                plain = false;
                join(node, steps[step].trigger.is_none(), edges);
            }
            plain &= node.trigger == Trigger::AllSucceeded;
            node.cleans_up |= node.trigger == Trigger::Always || node.finally;
        }
        let never = if plain { Vec::new() } else { never_started(&plan, &body.nodes) };
        for (step, reason) in never {
            let place = format!("{path}.{}", plan.id(step));
            let message = format!("it can never start: {reason}");
            self.problems.push(Problem::warning(place, message));
        }
        body.plan = Arc::new(plan);
        Some(number)
    }

    fn node(&mut self, step: &'a Step, at: (u32, u32), path: &str) -> Option<Node> {
        let here = || format!("{path}.{}", step.id);
        if ROOTS.contains(&step.id.as_str()) {
            let message = format!("in expressions `{}` means something else", step.id);
            let hint = format!("read this step as `steps.{}`, or give it another id", step.id);
            self.problems.push(Problem::warning(here(), message).hint(hint));
        }
        if let Some(field) = step.metadata.get(MISPLACED) {
            let field = field.as_str().unwrap_or_default();
            let message = "a step of this kind has no such setting";
            self.problems.push(Problem::error(format!("{}.{field}", here()), message));
        }
        let retry = match &step.retry {
            Some(retry) => {
                if let Err(reason) = retry.check() {
                    self.problems.push(Problem::error(format!("{}.retry", here()), reason));
                }
                Some(Arc::new(retry.clone()))
            }
            None => self.retry.clone(),
        };
        self.check_join(step, &here);
        let when =
            step.when.as_ref().map(|w| self.condition(w, &format!("{}.when", here()), &[], true));
        let mut inputs = Vec::with_capacity(step.inputs.len());
        for (name, text) in &step.inputs {
            let place = format!("{}.inputs.{name}", here());
            let formula = self.formula(text, &place, Reads::default());
            inputs.push(formula.map(|(formula, _)| (name.clone(), formula)));
        }
        let kind = self.kind(step, at, &here);
        let more = match has_more(step) {
            true => Some(Box::new(self.more(step, at, &here)?)),
            false => None,
        };
        Some(Node {
            kind: kind?,
            trigger: step.trigger.unwrap_or_default(),
            cancel_rest: step.cancel_rest,
            when: match when {
                Some(when) => Some(when?),
                None => None,
            },
            inputs: match inputs.is_empty() {
                true => Vec::new(),
                false => inputs.into_iter().collect::<Option<_>>()?,
            },
            retry,
            timeout: step.timeout,
            attempt_timeout: step.attempt_timeout,
            priority: step.priority,
            resources: step.resources.clone(),
            capability: step.capability.clone(),
            blocking: step.blocking,
            reads: 0,
            finally: step.finally,
            more,
            cleans_up: false,
        })
    }

    fn check_join(&mut self, step: &Step, here: &impl Fn() -> String) {
        if let Some(Trigger::AtLeast(amount)) = step.trigger
            && let Some(problem) = amount.problem()
        {
            self.problems.push(Problem::error(format!("{}.trigger", here()), problem));
        }
        if step.on_unknown.is_some() && !step.at_most_once {
            let message = "what an attempt has done is always known, or found out by another one";
            let problem = Problem::error(format!("{}.on_unknown", here()), message);
            self.problems.push(problem.hint("add `at_most_once: true`, or leave this out"));
        }
        let is_task = matches!(step.kind, StepKind::Task { .. });
        for (given, field) in [
            (!step.inputs.is_empty(), "inputs"),
            (step.blocking, "blocking"),
            (step.attempt_timeout.is_some(), "attempt_timeout"),
            (step.retry.is_some(), "retry"),
            (step.at_most_once, "at_most_once"),
            (step.transactional, "transactional"),
        ] {
            if given && !is_task {
                let message = "only a task has this; this step runs no executor itself";
                self.problems.push(Problem::error(format!("{}.{field}", here()), message));
            }
        }
    }

    fn more(
        &mut self,
        step: &'a Step,
        at: (u32, u32),
        here: &impl Fn() -> String,
    ) -> Option<NodeMore> {
        let place = format!("{}.output_schema", here());
        let schema = step.output_schema.as_ref();
        let schema = schema.map(|schema| variable::read(schema, &place, self.problems));
        let raw = schema.as_ref().and_then(Option::as_ref).map(|schema| schema.type_of().clone());
        let raw = raw.unwrap_or(Type::Any);
        let outputs = self.mapping(&step.outputs, &format!("{}.outputs", here()), &raw, false);
        let set = self.mapping(&step.set, &format!("{}.set", here()), &raw, true);
        let compensation = match &step.compensate {
            Some(undo) => Some(self.compensation(undo, at, here)?),
            None => None,
        };
        Some(NodeMore {
            outputs: outputs?,
            set: set?,
            schema: match schema {
                Some(schema) => Some(schema?),
                None => None,
            },
            locks: self.locks(step, here)?,
            catches: Vec::new(),
            compensation,
            transactional: step.transactional,
            at_most_once: step.at_most_once.then(|| step.on_unknown.unwrap_or_default()),
        })
    }

    fn locks(&mut self, step: &Step, here: &impl Fn() -> String) -> Option<Vec<LockOf>> {
        let mut locks = Vec::with_capacity(step.locks.len());
        for (at, lock) in step.locks.iter().enumerate() {
            let place = format!("{}.locks[{at}]", here());
            // Brackets stand around keys.
            let name = check_name(&lock.name, &['[', ']']);
            let rate = lock.rate.filter(|rate| rate.count == 0 || rate.per.is_zero());
            let twice = step.locks[..at].iter().any(|other| other.name == lock.name);
            let wrong = match (name, lock.max, rate, twice) {
                (Err(reason), ..) => Some(reason),
                (_, Some(0), ..) => Some("a lock that nobody may hold is never taken".into()),
                (_, _, Some(_), _) => Some("a rate of nothing, or in no time, is none".into()),
                (_, _, _, true) => Some(format!("the lock `{}` is there twice", lock.name)),
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.problems.push(Problem::error(&place, wrong));
            }
            let key = match &lock.key {
                Some(text) => Some(self.expression(text, &format!("{place}.key"))?),
                None => None,
            };
            let max = lock.max.or_else(|| lock.rate.is_none().then_some(1));
            locks.push(LockOf { name: lock.name.clone(), key, max, rate: lock.rate });
        }
        Some(locks)
    }

    /// Expressions over what a step came to: for its output, or for variables.
    fn mapping(
        &mut self,
        fields: &BTreeMap<String, String>,
        place: &str,
        raw: &Type,
        variables: bool,
    ) -> Option<Vec<(String, Formula)>> {
        let mut mapped = Vec::with_capacity(fields.len());
        for (name, text) in fields {
            let place = format!("{place}.{name}");
            if variables && !self.names.variables.declares(name) {
                let known = self.names.variables.names();
                let message = format!("the workflow has no variable `{name}`");
                self.problems.push(Problem::error(&place, message).suggest(name, known));
            }
            let reads = Reads { output: Some(raw), ..Reads::default() };
            let formula = self.formula(text, &place, reads);
            if let (true, Some((_, found))) = (variables, &formula)
                && let Some(message) = self.names.variables.misfit(name, found)
            {
                self.problems.push(Problem::error(&place, message));
            }
            mapped.push(formula.map(|(formula, _)| (name.clone(), formula)));
        }
        mapped.into_iter().collect()
    }

    /// The body that undoes a step. It sees nothing of the steps around it, since they may be gone.
    fn compensation(
        &mut self,
        undo: &'a Step,
        owner: (u32, u32),
        here: &impl Fn() -> String,
    ) -> Option<u32> {
        let place = format!("{}.compensate", here());
        if undo.compensate.is_some() || undo.finally || !undo.set.is_empty() {
            let message = "what undoes a step is not undone itself, does not run finally, and sets no variables";
            self.problems.push(Problem::error(&place, message));
            return None;
        }
        let item = self.names.item().cloned();
        let around = std::mem::take(&mut self.names.frames);
        let locals: &[&str] = match item {
            Some(_) => &["output", "item", "index", "turn", "last"],
            None => &["output", "turn", "last"],
        };
        self.names.hidden = around.len();
        let mut frame = Frame::new(std::slice::from_ref(undo), locals);
        frame.item = item.unwrap_or(Type::Any);
        self.names.frames.push(frame);
        let body = self.body(std::slice::from_ref(undo), Some(owner), &place, Shape::Graph);
        self.names.hidden = 0;
        self.names.frames = around;
        let nodes = &mut self.bodies.get_mut(body? as usize)?.nodes;
        nodes.iter_mut().for_each(|node| node.cleans_up = true);
        body
    }

    fn kind(
        &mut self,
        step: &'a Step,
        at: (u32, u32),
        here: &impl Fn() -> String,
    ) -> Option<NodeKind> {
        let mut inner = |steps: &'a [Step], field: &str, shape, locals| {
            self.names.frames.push(Frame::new(steps, locals));
            self.body(steps, Some(at), &format!("{}.{field}", here()), shape)
        };
        Some(match &step.kind {
            StepKind::Task { executor, config } => {
                let executor = self.executor(executor, here);
                NodeKind::Task { executor, config: config.clone() }
            }
            StepKind::Parallel(steps) => {
                NodeKind::Body(inner(steps, "parallel", Shape::Parallel, &[])?)
            }
            StepKind::Sequence(steps) => {
                NodeKind::Body(inner(steps, "sequence", Shape::Chain, &[])?)
            }
            StepKind::Choice(cases) => NodeKind::Choice(self.cases(cases, at, here)?),
            StepKind::ForEach { items, concurrency, enough, tolerates, body } => {
                let (items, item) = self.list(items, &format!("{}.foreach", here())).unzip();
                let mut frame = Frame::new(body, &["item", "index"]);
                frame.item = item.unwrap_or(Type::Any);
                self.names.frames.push(frame);
                let path = format!("{}.steps", here());
                let body = self.body(body, Some(at), &path, Shape::Graph);
                if let Some(problem) = enough.and_then(Amount::problem) {
                    self.problems.push(Problem::error(format!("{}.enough", here()), problem));
                }
                NodeKind::ForEach {
                    items: items?,
                    concurrency: *concurrency,
                    enough: *enough,
                    tolerates: *tolerates,
                    body: body?,
                }
            }
            StepKind::Loop { condition, max_turns, body } => {
                let body = inner(body, "steps", Shape::Graph, &["turn", "last"]);
                if *max_turns == 0 {
                    let message = "a loop needs at least one turn";
                    self.problems.push(Problem::error(format!("{}.max_turns", here()), message));
                }
                let names = &["turn", "last"];
                let turns = match condition {
                    LoopCondition::While(when) => self
                        .condition(when, &format!("{}.while", here()), names, true)
                        .map(Turns::While),
                    LoopCondition::Until(when) => self
                        .condition(when, &format!("{}.until", here()), names, true)
                        .map(Turns::Until),
                };
                NodeKind::Loop { turns: turns?, max_turns: *max_turns, body: body? }
            }
            StepKind::Wait(wait) => NodeKind::Wait(self.wait(wait, &format!("{}.wait", here()))?),
            StepKind::Dynamic { steps, workflows } => {
                let (steps, _) = self.list(steps, &format!("{}.dynamic", here()))?;
                for name in workflows {
                    self.reference(name, &format!("{}.may_run", here()));
                }
                self.has_sub_workflows |= !workflows.is_empty();
                NodeKind::Dynamic { steps, workflows: workflows.clone() }
            }
            StepKind::Workflow { name, input, variables } => {
                self.reference(name, &format!("{}.workflow", here()));
                let input = match input {
                    Some(text) => Some(self.expression(text, &format!("{}.input", here()))?),
                    None => None,
                };
                let (mut given, mut types) = (Vec::new(), Vec::new());
                for (name, text) in variables {
                    let place = format!("{}.variables.{name}", here());
                    let (formula, found) = self.formula(text, &place, Reads::default())?;
                    given.push((name.clone(), formula));
                    types.push(found);
                }
                self.has_sub_workflows = true;
                NodeKind::Workflow { name: name.clone(), input, variables: given, types }
            }
        })
    }

    fn reference(&mut self, name: &str, path: &str) {
        if let Err(reason) = parts(name) {
            self.problems.push(Problem::error(path, reason));
        }
    }

    fn executor(&mut self, name: &str, here: &impl Fn() -> String) -> u32 {
        if let Some(known) = self.by_executor.get(name) {
            return *known;
        }
        if let Err(reason) = check_name(name, &[]) {
            self.problems.push(Problem::error(format!("{}.task", here()), reason));
        }
        let number = self.executors.len() as u32;
        self.executors.push(name.to_string());
        self.by_executor.insert(name.to_string(), number);
        number
    }

    fn cases(
        &mut self,
        cases: &'a [Case],
        at: (u32, u32),
        here: &impl Fn() -> String,
    ) -> Option<Vec<(Option<Expr>, u32)>> {
        if cases.is_empty() {
            let problem = Problem::error(format!("{}.choice", here()), "there are no cases");
            self.problems.push(problem);
        }
        let mut compiled = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let place = format!("{}.choice[{number}]", here());
            let when = match &case.when {
                Some(when) => Some(self.condition(when, &format!("{place}.when"), &[], true)),
                None => {
                    if number + 1 < cases.len() {
                        let message = "the case without a condition must be the last";
                        self.problems.push(Problem::error(&place, message));
                    }
                    None
                }
            };
            self.names.frames.push(Frame::new(&case.steps, &[]));
            let path = format!("{place}.steps");
            let body = self.body(&case.steps, Some(at), &path, Shape::Graph);
            compiled.push(match when {
                Some(when) => when.zip(body).map(|(when, body)| (Some(when), body)),
                None => body.map(|body| (None, body)),
            });
        }
        compiled.into_iter().collect()
    }

    pub(super) fn condition(
        &mut self,
        when: &When,
        place: &str,
        extra: &'static [&'static str],
        depends: bool,
    ) -> Option<Expr> {
        let parsed = match when {
            When::Text(text) => Expr::parse(text),
            When::Structured(condition) => condition.compile(),
        };
        let expr = match parsed {
            Ok(expr) => expr,
            Err(error) => {
                self.problems.push(Problem::error(place, error.to_string()));
                return None;
            }
        };
        let found =
            self.check(&expr, place, Reads { extra, only_looks: !depends, output: None })?;
        if !matches!(found, Type::Any | Type::Boolean) {
            let message = format!("a condition is true or false; this is {found}");
            self.problems.push(Problem::error(place, message));
        }
        Some(expr)
    }

    pub(super) fn expression(&mut self, text: &str, place: &str) -> Option<Expr> {
        self.parse(text, place, true)
    }

    /// An expression that gives a list, and the type of its items.
    fn list(&mut self, text: &str, place: &str) -> Option<(Expr, Type)> {
        let (expr, found) = self.typed(text, place, true)?;
        match found {
            Type::List(item) => Some((expr, *item)),
            Type::Any => Some((expr, Type::Any)),
            other => {
                let message = format!("expected a list, given {other}");
                self.problems.push(Problem::error(place, message));
                None
            }
        }
    }

    fn parse(&mut self, text: &str, place: &str, depends: bool) -> Option<Expr> {
        self.typed(text, place, depends).map(|(expr, _)| expr)
    }

    fn typed(&mut self, text: &str, place: &str, depends: bool) -> Option<(Expr, Type)> {
        match Expr::parse(text) {
            Ok(expr) => {
                let reads = Reads { only_looks: !depends, ..Reads::default() };
                self.check(&expr, place, reads).map(|found| (expr, found))
            }
            Err(error) => {
                self.problems.push(Problem::error(place, error.to_string()));
                None
            }
        }
    }

    /// Checks the types, and notes the steps that it mentions as dependencies.
    fn check(&mut self, expr: &Expr, place: &str, reads: Reads<'_>) -> Option<Type> {
        let Reads { extra, output, only_looks } = reads;
        let checked = expr.check(&Visible::new(&self.names, extra, output));
        let found = match checked {
            Ok(found) => found,
            Err(errors) => {
                for error in errors {
                    self.problems.push(Problem::error(place, error.to_string()));
                }
                return None;
            }
        };
        if !only_looks {
            self.depend(&expr.mentions(), place);
        }
        Some(found)
    }

    /// Notes the steps that are mentioned as dependencies of the step that is being compiled, or of the
    /// composite step around it that stands beside them.
    fn depend(&mut self, mentions: &[Mention], place: &str) {
        for mention in mentions {
            let Some((depth, on)) = self.names.find(mention.step.as_str()) else {
                continue;
            };
            let Some(frame) = self.names.frames.get_mut(depth) else {
                continue;
            };
            if frame.current == on {
                let message =
                    format!("reads `{}`, which is the step itself or one around it", mention.step);
                self.problems.push(Problem::error(place, message));
                continue;
            }
            let kind = match mention.aspect {
                Aspect::Output => EdgeKind::After,
                Aspect::Status | Aspect::Error => EdgeKind::Reads,
            };
            frame.mentions.push((frame.current, on, kind));
        }
    }

    /// An expression, or a template, and the type of its value.
    fn formula(&mut self, text: &str, place: &str, reads: Reads<'_>) -> Option<(Formula, Type)> {
        if Formula::is_template(text) {
            return self.template(text, place, reads);
        }
        match Expr::parse(text) {
            Ok(expr) => {
                let found = self.check(&expr, place, reads)?;
                Some((Formula::Expr(expr), found))
            }
            Err(error) => {
                self.problems.push(Problem::error(place, error.to_string()));
                None
            }
        }
    }

    #[cfg(not(feature = "template"))]
    fn template(&mut self, _: &str, place: &str, _: Reads<'_>) -> Option<(Formula, Type)> {
        let message =
            "a text with `{{` or `{%` is a template, and those need the feature `template`";
        self.problems.push(Problem::error(place, message));
        None
    }

    #[cfg(feature = "template")]
    fn template(&mut self, text: &str, place: &str, reads: Reads<'_>) -> Option<(Formula, Type)> {
        let template = match crate::template::Template::parse(text) {
            Ok(template) => template,
            Err(error) => {
                self.problems.push(Problem::error(place, error.to_string()));
                return None;
            }
        };
        let Reads { extra, output, .. } = reads;
        let mentions = template.mentions();
        let mut wrong = Vec::new();
        let visible = Visible::new(&self.names, extra, output);
        for root in template.roots() {
            if TypeScope::root(&visible, &root).is_none() {
                wrong.push(format!("`{root}` has no meaning here"));
            }
        }
        for mention in &mentions {
            let id = mention.step.as_str();
            if visible.step(id).is_none() {
                let near = visible.suggest(id);
                let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
                wrong.push(format!("there is no step `{id}` to be seen{hint}"));
            }
        }
        let mut found = Type::Any;
        if wrong.is_empty() {
            match template.check(&visible) {
                Ok(known) => found = known,
                Err(errors) => wrong.extend(errors.iter().map(ToString::to_string)),
            }
        }
        if !wrong.is_empty() {
            wrong.dedup();
            wrong.into_iter().for_each(|text| self.problems.push(Problem::error(place, text)));
            return None;
        }
        self.depend(&mentions, place);
        Some((Formula::Template(template), found))
    }
}
