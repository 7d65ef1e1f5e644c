//! Definitions: what a workflow is, as data.
//!
//! A [`Workflow`] exists only if it is valid: [`WorkflowBuilder::build`] and the document readers
//! report every problem at once. It is immutable and cheap to clone. What a definition means when it
//! runs is decided in [`crate::run`]; nothing here runs anything.

mod amount;
mod builder;
mod compile;
mod compile_plan;
mod compile_wait;
mod definition;
pub mod document;
mod dynamic;
mod formula;
mod kind;
mod lock;
mod names;
mod program;
mod reach;
mod settings;
mod step;
mod variable;
mod version;
mod wait;

pub use amount::Amount;
pub use builder::WorkflowBuilder;
pub use definition::Definition;
pub use dynamic::DYNAMIC_STEPS_MAX;
pub use formula::Formula;
pub use kind::{Case, LoopCondition, StepKind, When};
pub use lock::{Lock, Rate};
pub use program::{
    ApprovalOf, Body, BodyOutput, LockOf, Node, NodeKind, NodeMore, Program, Turns, Unit, WaitFor,
};
pub use settings::{FailurePolicy, Limits, Metadata, OnUnknown, Priority, Resources, Trigger};
pub use step::{Step, TURNS_DEFAULT};
pub use variable::{Variable, VariableType, Variables};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use version::{canonical, digest_of};
pub(crate) use version::{missing, parts, resolve};
pub use wait::{Approval, OnTimeout, Timeout, Wait};

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Problems, Result};
use crate::plan::{DagResolver, ExecutionPlan};

/// Bodies inside bodies: more than this is refused, so that nothing that walks a definition can run
/// out of stack, and that every definition can be written as JSON and read again.
pub const NESTING_MAX: usize = 30;

/// Steps of one workflow with all its bodies. A plan of a million steps takes some hundred MB.
pub const STEPS_MAX: usize = 2_000_000;

/// A definition that has been checked and can be run.
///
/// ```
/// use stepwell::{Step, Workflow};
///
/// let workflow = Workflow::builder("review")
///     .step(Step::task("lint", "shell"))
///     .step(Step::task("test", "shell").after("lint"))
///     .build()?;
/// assert_eq!(workflow.plan().len(), 2);
///
/// let error = Workflow::builder("review").step(Step::task("test", "shell").after("lnit")).build();
/// assert!(error.unwrap_err().to_string().contains("there is no step `lnit`"));
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone)]
pub struct Workflow(Arc<Built>);

struct Built {
    definition: Arc<Definition>,
    program: Arc<Program>,
    warnings: Problems,
    /// Computed when it is first asked for.
    digest: OnceLock<String>,
}

impl Workflow {
    /// Begins a definition with this id.
    pub fn builder(id: impl Into<String>) -> WorkflowBuilder {
        WorkflowBuilder::new(id)
    }

    /// Checks a definition.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems.
    pub fn from_definition(definition: Definition) -> Result<Self> {
        let mut problems = Problems::default();
        match compile::compile(&definition, &mut problems) {
            Some(mut unit) if !problems.has_errors() => {
                let definition = Arc::new(definition);
                unit.source = Some(Arc::clone(&definition));
                let program = Arc::new(Program::of(unit));
                Ok(Self(Arc::new(Built {
                    definition,
                    program,
                    warnings: problems,
                    digest: OnceLock::new(),
                })))
            }
            _ => Err(Error::invalid(problems)),
        }
    }

    /// The id: what sub-workflow steps and schedules name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.definition.id
    }

    /// The definition as data.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.0.definition
    }

    /// The outermost steps as a plan.
    #[must_use]
    pub fn plan(&self) -> &Arc<ExecutionPlan> {
        &self.0.program.unit(0).body(0).plan
    }

    /// What is strange about the definition without making it unusable.
    #[must_use]
    pub fn warnings(&self) -> &Problems {
        &self.0.warnings
    }

    /// The compiled form that runs share.
    #[must_use]
    pub fn program(&self) -> &Arc<Program> {
        &self.0.program
    }
}

impl DagResolver {
    /// The plan of a workflow's outermost steps: batches, order, dependencies.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems.
    ///
    /// ```
    /// use stepwell::workflow::Definition;
    /// use stepwell::{DagResolver, Step};
    ///
    /// let mut diamond = Definition::new("diamond");
    /// diamond.steps = vec![
    ///     Step::task("a", "t"),
    ///     Step::task("b", "t").after("a"),
    ///     Step::task("c", "t").after("a"),
    ///     Step::task("d", "t").after("b").after("c"),
    /// ];
    /// let plan = DagResolver::create_execution_plan(&diamond)?;
    /// assert_eq!(plan.batches().map(<[u32]>::len).collect::<Vec<_>>(), [1, 2, 1]);
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn create_execution_plan(definition: &Definition) -> Result<Arc<ExecutionPlan>> {
        let mut problems = Problems::default();
        match compile::compile(definition, &mut problems) {
            Some(unit) if !problems.has_errors() => Ok(Arc::clone(&unit.body(0).plan)),
            _ => Err(Error::invalid(problems)),
        }
    }

    /// Every problem of a definition, warnings included.
    #[must_use]
    pub fn validate(definition: &Definition) -> Problems {
        let mut problems = Problems::default();
        compile::compile(definition, &mut problems);
        problems
    }
}

impl PartialEq for Workflow {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.definition == other.0.definition
    }
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.definition.fmt(f)
    }
}

impl Serialize for Workflow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.definition.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Workflow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let definition = Definition::deserialize(deserializer)?;
        Self::from_definition(definition).map_err(serde::de::Error::custom)
    }
}
