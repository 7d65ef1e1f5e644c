//! One step of a definition.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::StepDocument;
use super::kind::{Case, LoopCondition, StepKind, When};
use super::settings::{Metadata, OnUnknown, Priority, Resources, Trigger};
use super::{Amount, Lock, Wait};
use crate::error::ErrorClass;
use crate::id::StepId;
use crate::retry::RetryConfig;
use crate::value::{Json, Value};

/// One step of a workflow or of a composite step's body.
///
/// Plain data: built with these methods or read from a document, checked by
/// [`WorkflowBuilder::build`](super::WorkflowBuilder::build).
///
/// ```
/// use serde_json::json;
/// use stepwell::{RetryConfig, Step};
///
/// let step = Step::task("test", "shell")
///     .config(json!({"command": ["cargo", "test"]}))
///     .after("lint")
///     .retry(RetryConfig::attempts(3));
/// assert_eq!(step.id.as_str(), "test");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StepDocument", into = "StepDocument")]
#[non_exhaustive]
pub struct Step {
    /// Its name among its siblings.
    pub id: StepId,
    /// What people read instead of the id.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What it does.
    pub kind: StepKind,
    /// Steps that must have succeeded, or been skipped by their own condition, before this one.
    pub after: Vec<StepId>,
    /// Steps to go to when this one really succeeded.
    pub on_success: Vec<StepId>,
    /// Steps to go to when this one failed; the failure then counts as dealt with.
    pub on_failure: Vec<StepId>,
    /// Steps to go to when this one failed with an error of this class; the failure then counts as
    /// dealt with.
    pub on_error: BTreeMap<ErrorClass, Vec<StepId>>,
    /// Steps to go to when this one was skipped because its condition was false.
    pub otherwise: Vec<StepId>,
    /// Steps to go to whatever became of this one.
    pub always: Vec<StepId>,
    /// Runs only if this holds; mentioning a step makes it a dependency.
    pub when: Option<When>,
    /// Which of its dependencies it needs; none is the default described at [`Trigger`].
    pub trigger: Option<Trigger>,
    /// What undoes it: run when the body around it, or one further out, ends badly after this step has
    /// succeeded. It reads `output`, what this step came to.
    pub compensate: Option<Box<Self>>,
    /// Whether it runs after all other steps of its body, whatever became of them: to clean up.
    pub finally: bool,
    /// Whether, once started, it cancels those of its direct dependencies that have not ended.
    pub cancel_rest: bool,
    /// Expressions for the executor's inputs, by name.
    pub inputs: BTreeMap<String, String>,
    /// Expressions that make its output, by name, from what it came to, which they read as `output`;
    /// none leaves it as it is.
    pub outputs: BTreeMap<String, String>,
    /// Expressions for variables of the workflow that are set when it has succeeded, by name; they
    /// read `output`, too.
    pub set: BTreeMap<String, String>,
    /// JSON Schema of what it comes to: lets conditions be checked when the workflow is built, and is
    /// checked each time.
    pub output_schema: Option<Json>,
    /// How often and when to try again; none is the workflow's.
    pub retry: Option<RetryConfig>,
    /// How long all attempts and delays together may take, from the first start.
    pub timeout: Option<Duration>,
    /// How long one attempt may take.
    pub attempt_timeout: Option<Duration>,
    /// Which of several ready steps starts first.
    pub priority: Priority,
    /// What it needs while it runs.
    pub resources: Resources,
    /// What it holds while it runs.
    pub locks: Vec<Lock>,
    /// Something that the engine must offer.
    pub capability: Option<String>,
    /// Whether the executor blocks its thread and so must run where that stalls nobody.
    pub blocking: bool,
    /// Whether an attempt of it may be begun once only, as far as anybody can tell.
    pub at_most_once: bool,
    /// What becomes of it when nobody knows what an attempt has done; only of use with `at_most_once`.
    pub on_unknown: Option<OnUnknown>,
    /// Whether it writes into the engine's storage, in the transaction that records its success.
    pub transactional: bool,
    /// Free data.
    pub metadata: Metadata,
}

impl Step {
    /// A step of this kind.
    pub fn new(id: impl Into<StepId>, kind: StepKind) -> Self {
        Self {
            id: id.into(),
            name: None,
            description: None,
            kind,
            after: Vec::new(),
            on_success: Vec::new(),
            on_failure: Vec::new(),
            on_error: BTreeMap::new(),
            otherwise: Vec::new(),
            always: Vec::new(),
            when: None,
            trigger: None,
            compensate: None,
            finally: false,
            cancel_rest: false,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            set: BTreeMap::new(),
            output_schema: None,
            retry: None,
            timeout: None,
            attempt_timeout: None,
            priority: Priority::default(),
            resources: Resources::default(),
            locks: Vec::new(),
            capability: None,
            blocking: false,
            at_most_once: false,
            on_unknown: None,
            transactional: false,
            metadata: Metadata::new(),
        }
    }

    /// A call of the executor registered under this name.
    pub fn task(id: impl Into<StepId>, executor: impl Into<String>) -> Self {
        Self::new(id, StepKind::Task { executor: executor.into(), config: Value::NULL })
    }

    /// These steps at once.
    pub fn parallel(id: impl Into<StepId>, steps: impl IntoIterator<Item = Self>) -> Self {
        Self::new(id, StepKind::Parallel(steps.into_iter().collect()))
    }

    /// These steps one after the other.
    pub fn sequence(id: impl Into<StepId>, steps: impl IntoIterator<Item = Self>) -> Self {
        Self::new(id, StepKind::Sequence(steps.into_iter().collect()))
    }

    /// The first case that holds.
    pub fn choice(id: impl Into<StepId>, cases: impl IntoIterator<Item = Case>) -> Self {
        Self::new(id, StepKind::Choice(cases.into_iter().collect()))
    }

    /// These steps for each item of the list that the expression gives.
    pub fn for_each(
        id: impl Into<StepId>,
        items: impl Into<String>,
        body: impl IntoIterator<Item = Self>,
    ) -> Self {
        let body = body.into_iter().collect();
        let kind = StepKind::ForEach {
            items: items.into(),
            concurrency: 0,
            enough: None,
            tolerates: None,
            body,
        };
        Self::new(id, kind)
    }

    /// These steps as long as the condition holds, at most [`TURNS_DEFAULT`] times.
    pub fn while_loop(
        id: impl Into<StepId>,
        condition: impl Into<When>,
        body: impl IntoIterator<Item = Self>,
    ) -> Self {
        Self::repeat(id, LoopCondition::While(condition.into()), body)
    }

    /// These steps until the condition holds, at least once, at most [`TURNS_DEFAULT`] times.
    pub fn until_loop(
        id: impl Into<StepId>,
        condition: impl Into<When>,
        body: impl IntoIterator<Item = Self>,
    ) -> Self {
        Self::repeat(id, LoopCondition::Until(condition.into()), body)
    }

    fn repeat(
        id: impl Into<StepId>,
        condition: LoopCondition,
        body: impl IntoIterator<Item = Self>,
    ) -> Self {
        let body = body.into_iter().collect();
        Self::new(id, StepKind::Loop { condition, max_turns: TURNS_DEFAULT, body })
    }

    /// A wait.
    pub fn wait(id: impl Into<StepId>, wait: Wait) -> Self {
        Self::new(id, StepKind::Wait(wait))
    }

    /// The steps that an expression lists when this one is reached, each as a document writes it: what
    /// an earlier step has planned, for example. They see the input and the variables, and each other.
    pub fn dynamic(id: impl Into<StepId>, steps: impl Into<String>) -> Self {
        Self::new(id, StepKind::Dynamic { steps: steps.into(), workflows: Vec::new() })
    }

    /// The steps of the workflow of this name.
    pub fn workflow(id: impl Into<StepId>, name: impl Into<String>) -> Self {
        let kind =
            StepKind::Workflow { name: name.into(), input: None, variables: BTreeMap::new() };
        Self::new(id, kind)
    }

    /// The executor's configuration. Only tasks have one; `build()` refuses it elsewhere.
    #[must_use]
    pub fn config(mut self, value: impl Into<Value>) -> Self {
        let value = value.into();
        match &mut self.kind {
            StepKind::Task { config, .. } => *config = value,
            _ => {
                self.metadata.insert(MISPLACED.into(), "config".into());
            }
        }
        self
    }

    /// An input of the executor: a name and the expression that gives its value.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, expression: impl Into<String>) -> Self {
        self.inputs.insert(name.into(), expression.into());
        self
    }

    /// A part of the step's output: a name, and the expression that gives its value from what the step
    /// came to, which it reads as `output`.
    #[must_use]
    pub fn output(mut self, name: impl Into<String>, expression: impl Into<String>) -> Self {
        self.outputs.insert(name.into(), expression.into());
        self
    }

    /// Sets a variable of the workflow when this step has succeeded; the expression reads what it came
    /// to as `output`.
    #[must_use]
    pub fn set(mut self, variable: impl Into<String>, expression: impl Into<String>) -> Self {
        self.set.insert(variable.into(), expression.into());
        self
    }

    /// A variable of a sub-workflow: its name, and the expression that gives its value. Only those
    /// have them; `build()` refuses it elsewhere.
    #[must_use]
    pub fn workflow_variable(
        mut self,
        name: impl Into<String>,
        expression: impl Into<String>,
    ) -> Self {
        match &mut self.kind {
            StepKind::Workflow { variables, .. } => {
                variables.insert(name.into(), expression.into());
            }
            _ => {
                self.metadata.insert(MISPLACED.into(), "workflow_variable".into());
            }
        }
        self
    }

    /// The input of a sub-workflow. Only those have one; `build()` refuses it elsewhere.
    #[must_use]
    pub fn workflow_input(mut self, expression: impl Into<String>) -> Self {
        match &mut self.kind {
            StepKind::Workflow { input, .. } => *input = Some(expression.into()),
            _ => {
                self.metadata.insert(MISPLACED.into(), "workflow_input".into());
            }
        }
        self
    }

    /// A workflow that a dynamic step's steps may name. `build()` refuses it elsewhere.
    #[must_use]
    pub fn may_run(mut self, workflow: impl Into<String>) -> Self {
        match &mut self.kind {
            StepKind::Dynamic { workflows, .. } => workflows.push(workflow.into()),
            _ => {
                self.metadata.insert(MISPLACED.into(), "may_run".into());
            }
        }
        self
    }

    /// How many bodies of a for-each run at once. `build()` refuses it elsewhere.
    #[must_use]
    pub fn concurrency(mut self, bodies: u32) -> Self {
        match &mut self.kind {
            StepKind::ForEach { concurrency, .. } => *concurrency = bodies,
            _ => {
                self.metadata.insert(MISPLACED.into(), "concurrency".into());
            }
        }
        self
    }

    /// How many bodies of a for-each are enough: as soon as they have ended well, the others are
    /// cancelled. `build()` refuses it elsewhere.
    #[must_use]
    pub fn enough(mut self, bodies: impl Into<Amount>) -> Self {
        match &mut self.kind {
            StepKind::ForEach { enough, .. } => *enough = Some(bodies.into()),
            _ => {
                self.metadata.insert(MISPLACED.into(), "enough".into());
            }
        }
        self
    }

    /// How many bodies of a for-each may fail. `build()` refuses it elsewhere.
    #[must_use]
    pub fn tolerates(mut self, bodies: impl Into<Amount>) -> Self {
        match &mut self.kind {
            StepKind::ForEach { tolerates, .. } => *tolerates = Some(bodies.into()),
            _ => {
                self.metadata.insert(MISPLACED.into(), "tolerates".into());
            }
        }
        self
    }

    /// More turns of a loop than this fail it. `build()` refuses it elsewhere.
    #[must_use]
    pub fn max_turns(mut self, turns: u32) -> Self {
        match &mut self.kind {
            StepKind::Loop { max_turns, .. } => *max_turns = turns,
            _ => {
                self.metadata.insert(MISPLACED.into(), "max_turns".into());
            }
        }
        self
    }

    /// Runs after this step; call it again for more.
    #[must_use]
    pub fn after(mut self, step: impl Into<StepId>) -> Self {
        self.after.push(step.into());
        self
    }

    /// Runs after all of these steps.
    #[must_use]
    pub fn after_all<S: Into<StepId>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        self.after.extend(steps.into_iter().map(Into::into));
        self
    }

    /// Where to go when this step really succeeded.
    #[must_use]
    pub fn on_success(mut self, step: impl Into<StepId>) -> Self {
        self.on_success.push(step.into());
        self
    }

    /// Where to go when this step failed.
    #[must_use]
    pub fn on_failure(mut self, step: impl Into<StepId>) -> Self {
        self.on_failure.push(step.into());
        self
    }

    /// Where to go when this step failed with an error of this class.
    #[must_use]
    pub fn on_error(mut self, class: ErrorClass, step: impl Into<StepId>) -> Self {
        self.on_error.entry(class).or_default().push(step.into());
        self
    }

    /// Where to go when this step's condition was false.
    #[must_use]
    pub fn otherwise(mut self, step: impl Into<StepId>) -> Self {
        self.otherwise.push(step.into());
        self
    }

    /// Where to go whatever became of this step.
    #[must_use]
    pub fn always(mut self, step: impl Into<StepId>) -> Self {
        self.always.push(step.into());
        self
    }

    /// Runs only if this holds.
    #[must_use]
    pub fn when(mut self, condition: impl Into<When>) -> Self {
        self.when = Some(condition.into());
        self
    }

    /// Which of its dependencies it needs.
    #[must_use]
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = Some(trigger);
        self
    }

    /// What undoes this step, should what it is a part of end badly after it has succeeded. Its
    /// expressions read `output`, what this step came to, and `input`, `vars`, `item`, `index`,
    /// `turn` and `last` as they were then; other steps it cannot see.
    #[must_use]
    pub fn compensate(mut self, step: Self) -> Self {
        self.compensate = Some(Box::new(step));
        self
    }

    /// Runs after all other steps of its body, whatever became of them, and even when the run is
    /// cancelled or over its time limit.
    #[must_use]
    pub fn finally(mut self) -> Self {
        self.finally = true;
        self
    }

    /// Once started, cancels those of its direct dependencies that have not ended.
    #[must_use]
    pub fn cancel_rest(mut self) -> Self {
        self.cancel_rest = true;
        self
    }

    /// JSON Schema of the output.
    #[must_use]
    pub fn output_schema(mut self, schema: Json) -> Self {
        self.output_schema = Some(schema);
        self
    }

    /// How often and when to try again.
    #[must_use]
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.retry = Some(retry);
        self
    }

    /// How long all attempts together may take.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How long one attempt may take.
    #[must_use]
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = Some(limit);
        self
    }

    /// Which of several ready steps starts first.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// What it needs while it runs.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// What it holds while it runs; call it again for more.
    #[must_use]
    pub fn lock(mut self, lock: Lock) -> Self {
        self.locks.push(lock);
        self
    }

    /// Something that the engine must offer.
    #[must_use]
    pub fn capability(mut self, name: impl Into<String>) -> Self {
        self.capability = Some(name.into());
        self
    }

    /// The executor blocks its thread.
    #[must_use]
    pub fn blocking(mut self) -> Self {
        self.blocking = true;
        self
    }

    /// Never begun a second time by the engine on its own: for what must not happen twice, and where
    /// nobody can be asked whether it has happened. See [effects](crate::guide::durability#effects).
    ///
    /// ```
    /// use stepwell::Step;
    /// use stepwell::workflow::OnUnknown;
    ///
    /// let letter = Step::task("letter", "print_letter").at_most_once();
    /// let call = Step::task("call", "ring").at_most_once().on_unknown(OnUnknown::Fail);
    /// # let _ = (letter, call);
    /// ```
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// What becomes of it when nobody knows what an attempt has done. Only steps that run
    /// [at most once](Self::at_most_once) have this; `build()` refuses it elsewhere.
    #[must_use]
    pub fn on_unknown(mut self, then: OnUnknown) -> Self {
        self.on_unknown = Some(then);
        self
    }

    /// Its executor may [`write`](crate::ExecutionContext::write) into the engine's storage, in the
    /// transaction that records its success: each write is there exactly once. The storage has to be one
    /// with tables, such as `Sqlite`; a run on another is refused when it is started.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// What people read instead of the id.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Free data.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

/// Turns of a loop whose author set no limit.
pub const TURNS_DEFAULT: u32 = 1_000;

/// Marks a setting given to a step of a kind that has none, for `build()` to report.
pub(crate) const MISPLACED: &str = "\u{0}misplaced";
