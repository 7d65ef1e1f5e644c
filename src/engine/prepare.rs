//! Before a run starts: everything that its steps need is there, or it is refused.

use std::sync::Arc;

use super::admission::TypeState;
use super::{Inner, lock};
use crate::error::{Error, ErrorKind, Problem, Problems, Result, nearest};
use crate::executor::StepExecutor;
use crate::value::Value;
use crate::workflow::{Limits, NodeKind, Program, Resources};

/// The executors of a program's tasks.
pub(crate) struct Prepared {
    /// By workflow, body and step; none for steps that are no tasks.
    units: Vec<Vec<Vec<Option<Task>>>>,
    /// Those of the workflow itself; sub-workflows run inside them.
    pub(crate) limits: Limits,
}

/// A task, ready to be run.
pub(crate) struct Task {
    pub(crate) executor: Arc<dyn StepExecutor>,
    pub(crate) kind: Arc<TypeState>,
    pub(crate) config: Value,
    pub(crate) resources: Resources,
    pub(crate) blocking: bool,
}

impl Prepared {
    pub(crate) fn of(program: &Program, engine: &Inner) -> Result<Self> {
        let mut problems = Problems::default();
        let mut kinds = Vec::new();
        let mut units = Vec::new();
        for unit in program.units() {
            let types: Vec<Arc<TypeState>> =
                unit.executors.iter().map(|name| type_state(engine, name)).collect();
            let mut bodies = Vec::new();
            for (b, body) in unit.bodies.iter().enumerate() {
                let mut tasks = Vec::with_capacity(body.nodes.len());
                for (s, node) in body.nodes.iter().enumerate() {
                    let at =
                        |field: &str| format!("steps.{}.{field}", unit.path(b as u32, s as u32));
                    if let Some(wanted) = &node.capability
                        && !engine.capabilities.contains(wanted)
                    {
                        let offered = engine.capabilities.iter().map(String::as_str);
                        let message = format!("this engine does not offer `{wanted}`");
                        let near = nearest(wanted, offered);
                        let problem = Problem::error(at("capability"), message);
                        kinds.push(ErrorKind::Configuration);
                        problems.push(match near {
                            Some(near) => problem.hint(format!("did you mean `{near}`?")),
                            None => problem.hint("register it with EngineBuilder::capability"),
                        });
                    }
                    tasks.push(match &node.kind {
                        NodeKind::Task { executor, config } => {
                            let kind = Arc::clone(&types[*executor as usize]);
                            match engine.registry.create(&kind.name, config) {
                                Ok(executor) => Some(Task {
                                    executor,
                                    kind,
                                    config: config.clone(),
                                    resources: node.resources.clone(),
                                    blocking: node.blocking,
                                }),
                                Err(error) => {
                                    kinds.push(error.kind());
                                    problems.push(Problem::error(at("task"), error.to_string()));
                                    None
                                }
                            }
                        }
                        _ => None,
                    });
                }
                bodies.push(tasks);
            }
            units.push(bodies);
        }
        match kinds.first() {
            None => Ok(Self { units, limits: program.unit(0).limits.clone() }),
            Some(kind) => {
                let list = problems.to_string().trim_end().replace('\n', "\n  ");
                let message = format!("the run cannot start:\n  {list}");
                Err(Error::new(*kind, message))
            }
        }
    }

    pub(crate) fn task(&self, body: (u32, u32), step: u32) -> Option<&Task> {
        self.units.get(body.0 as usize)?.get(body.1 as usize)?.get(step as usize)?.as_ref()
    }
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
