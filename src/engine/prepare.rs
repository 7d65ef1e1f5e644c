//! Before a run starts: everything that its steps need is there, or it is refused.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::admission::TypeState;
use super::{Inner, lock};
use crate::error::{Error, ErrorClass, ErrorKind, Problem, Problems, Result, StepError, nearest};
use crate::executor::{StepExecutor, executor_fn};
use crate::expr::Expr;
use crate::value::{Json, Value};
use crate::workflow::{Limits, Node, NodeKind, Program, Resources, Unit};

/// The executors of a program's tasks.
pub(crate) struct Prepared {
    units: Vec<Arc<Tasks>>,
    /// Whether any step takes locks.
    pub(crate) has_locks: bool,
    /// Those of the workflow itself; sub-workflows run inside them.
    pub(crate) limits: Limits,
    /// Why this engine cannot run it.
    lacks: Option<Arc<Lacks>>,
}

struct Lacks {
    kind: ErrorKind,
    message: String,
}

/// By body and step; none for steps that are no tasks.
type Tasks = Vec<Vec<Option<Task>>>;

/// A task, ready to be run.
pub(crate) struct Task {
    pub(crate) executor: Arc<dyn StepExecutor>,
    pub(crate) kind: Arc<TypeState>,
    pub(crate) config: Value,
    pub(crate) resources: Resources,
    pub(crate) blocking: bool,
    /// Not to be begun twice.
    pub(crate) at_most_once: bool,
}

impl Prepared {
    pub(crate) fn of(program: &Program, engine: &Inner) -> Self {
        let mut found = Found::default();
        let units = program.units().iter();
        let units = units.map(|unit| Arc::new(found.tasks(unit, engine, false))).collect();
        let lacks = found.kinds.first().map(|kind| {
            let list = found.problems.to_string().trim_end().replace('\n', "\n  ");
            Arc::new(Lacks { kind: *kind, message: format!("the run cannot start:\n  {list}") })
        });
        let (limits, has_locks) = (program.unit(0).limits.clone(), program.has_locks());
        Self { units, limits, has_locks, lacks }
    }

    /// Whether this engine has all that the tasks need.
    pub(crate) fn check(&self) -> Result<()> {
        self.lacks
            .as_ref()
            .map_or(Ok(()), |lacks| Err(Error::new(lacks.kind, lacks.message.clone())))
    }

    /// Whether this engine cannot run it, so that others have to.
    pub(crate) const fn lacks(&self) -> bool {
        self.lacks.is_some()
    }

    /// The same with those of steps that were made while the run goes on. A task that cannot work
    /// fails when it is run.
    pub(crate) fn grown(&self, program: &Program, engine: &Inner) -> Self {
        let mut units = self.units.clone();
        for unit in program.units().iter().skip(units.len()) {
            units.push(Arc::new(Found::default().tasks(unit, engine, true)));
        }
        let (limits, lacks) = (self.limits.clone(), self.lacks.clone());
        Self { units, limits, has_locks: program.has_locks(), lacks }
    }

    /// Those of the first units.
    pub(crate) fn first(&self, units: usize) -> Self {
        let units = self.units.iter().take(units).cloned().collect();
        let (limits, lacks) = (self.limits.clone(), self.lacks.clone());
        Self { units, limits, has_locks: self.has_locks, lacks }
    }

    /// How many units it knows.
    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn task(&self, body: (u32, u32), step: u32) -> Option<&Task> {
        self.units.get(body.0 as usize)?.get(body.1 as usize)?.get(step as usize)?.as_ref()
    }
}

/// What is wrong with tasks.
#[derive(Default)]
struct Found {
    problems: Problems,
    kinds: Vec<ErrorKind>,
    walked: usize,
}

impl Found {
    fn tasks(&mut self, unit: &Unit, engine: &Inner, broken_too: bool) -> Tasks {
        let types: Vec<Arc<TypeState>> =
            unit.executors.iter().map(|name| type_state(engine, name)).collect();
        let mut bodies = Vec::new();
        for (b, body) in unit.bodies.iter().enumerate() {
            let mut tasks = Vec::with_capacity(body.nodes.len());
            for (s, node) in body.nodes.iter().enumerate() {
                let place = (b as u32, s as u32);
                let before = self.kinds.len();
                self.capability(unit, place, node, engine);
                self.tables(unit, place, node, engine);
                let NodeKind::Task { executor, config } = &node.kind else {
                    tasks.push(None);
                    continue;
                };
                let kind = Arc::clone(&types[*executor as usize]);
                let executor = self.executor(unit, place, &kind.name, config, engine);
                let executor = match executor {
                    Some(executor) if self.kinds.len() == before => Some(executor),
                    _ if broken_too => Some(self.broken()),
                    executor => executor,
                };
                tasks.push(executor.map(|executor| Task {
                    executor,
                    kind,
                    config: config.clone(),
                    resources: node.resources.clone(),
                    blocking: node.blocking,
                    at_most_once: node.at_most_once().is_some(),
                }));
            }
            bodies.push(tasks);
        }
        bodies
    }

    fn capability(&mut self, unit: &Unit, (b, s): (u32, u32), node: &Node, engine: &Inner) {
        let Some(wanted) = node.capability.as_ref().filter(|c| !engine.capabilities.contains(*c))
        else {
            return;
        };
        let offered = engine.capabilities.iter().map(String::as_str);
        let message = format!("this engine does not offer `{wanted}`");
        let place = format!("steps.{}.capability", unit.path(b, s));
        let problem = Problem::error(place, message);
        self.kinds.push(ErrorKind::Configuration);
        self.problems.push(match nearest(wanted, offered) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("register it with EngineBuilder::capability"),
        });
    }

    fn tables(&mut self, unit: &Unit, (b, s): (u32, u32), node: &Node, engine: &Inner) {
        if node.is_transactional() && !engine.facilities.takes_writes {
            let place = format!("steps.{}.transactional", unit.path(b, s));
            self.kinds.push(ErrorKind::Configuration);
            self.problems.push(Problem::error(place, crate::storage::NO_TABLES));
        }
    }

    fn executor(
        &mut self,
        unit: &Unit,
        place: (u32, u32),
        name: &str,
        config: &Value,
        engine: &Inner,
    ) -> Option<Arc<dyn StepExecutor>> {
        let at = |field: &str| format!("steps.{}.{field}", unit.path(place.0, place.1));
        // Factories are the host's code, and a plan that comes as data must not bring it down.
        let created = catch_unwind(AssertUnwindSafe(|| engine.registry.create(name, config)));
        let panicked = || {
            let message = format!("the factory of `{name}` panicked over this configuration");
            Err(Error::new(ErrorKind::Configuration, message))
        };
        match created.unwrap_or_else(|_| panicked()) {
            Ok(executor) => {
                let walked = &mut self.walked;
                let read = catch_unwind(AssertUnwindSafe(|| {
                    misread(unit, place, &*executor, config, walked)
                }));
                let panicked = || vec![format!("`{name}` panicked over this configuration")];
                for wrong in read.unwrap_or_else(|_| panicked()) {
                    self.kinds.push(ErrorKind::Configuration);
                    self.problems.push(Problem::error(at("config"), wrong));
                }
                Some(executor)
            }
            Err(error) => {
                self.kinds.push(error.kind());
                self.problems.push(Problem::error(at("task"), error.to_string()));
                None
            }
        }
    }

    /// An executor that says what is wrong so far.
    fn broken(&self) -> Arc<dyn StepExecutor> {
        let message = self.problems.to_string().trim_end().to_string();
        Arc::new(executor_fn(move |_| {
            let error = StepError::new(ErrorClass::Configuration, message.clone());
            async move { Err::<(), _>(error) }
        }))
    }
}

/// Edges looked at for a whole program: a definition must not cost more than this before it runs.
const WALKED_MAX: usize = 5_000_000;

/// What is wrong with the steps that expressions in a configuration read.
fn misread(
    unit: &Unit,
    place: (u32, u32),
    executor: &dyn StepExecutor,
    config: &Json,
    walked: &mut usize,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for text in executor.expressions(config) {
        let mentions = Expr::parse(&text).map_or_else(|_| Vec::new(), |expr| expr.mentions());
        for mention in mentions {
            let id = mention.step.as_str();
            match comes_before(unit, place, id, walked) {
                Some(true) => {}
                Some(false) => wrong.push(format!(
                    "`{text}` reads `{id}`, which does not come before this step (add `after: {id}`)"
                )),
                None => wrong.push(format!("`{text}`: there is no step `{id}` to be seen")),
            }
        }
    }
    wrong
}

/// Whether the step of this id comes before the one at this place, or before a composite step around
/// it; none when it cannot be seen from there. What is too far to walk to counts as found.
fn comes_before(
    unit: &Unit,
    (body, step): (u32, u32),
    id: &str,
    walked: &mut usize,
) -> Option<bool> {
    let mut at = Some((body, step));
    while let Some((body, step)) = at {
        let here = unit.body(body);
        if let Some(wanted) = here.plan.index(id) {
            let mut seen = BTreeSet::new();
            let mut left = vec![step];
            while let Some(step) = left.pop() {
                for link in here.plan.predecessors(step) {
                    *walked += 1;
                    if link.step == wanted || *walked > WALKED_MAX {
                        return Some(true);
                    }
                    if seen.insert(link.step) {
                        left.push(link.step);
                    }
                }
            }
            return Some(false);
        }
        at = here.owner;
    }
    None
}

/// The state that all steps of a type share, in all runs.
fn type_state(engine: &Inner, name: &str) -> Arc<TypeState> {
    let mut types = lock(&engine.types);
    if let Some(known) = types.get(name) {
        return Arc::clone(known);
    }
    let state = Arc::new(TypeState::new(name, engine));
    types.insert(name.to_string(), Arc::clone(&state));
    state
}
