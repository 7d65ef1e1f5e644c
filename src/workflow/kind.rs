//! What a step does: run an executor, run a body of other steps, or wait.

use std::collections::BTreeMap;

use crate::expr::Condition;
use crate::value::Value;
use crate::workflow::{Amount, Step, Wait};

/// What a step does.
///
/// All composite kinds run a *body*, a list of steps with dependencies of its own, and end when the
/// body has ended. They nest to any depth up to [`NESTING_MAX`](super::NESTING_MAX).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepKind {
    /// One executor call.
    Task {
        /// The name under which the executor is registered.
        executor: String,
        /// Its configuration, checked by the executor before the run starts.
        config: Value,
    },
    /// All steps of the body at once; the output maps their ids to their outputs.
    Parallel(Vec<Step>),
    /// The steps of the body one after the other; the output is the last one's.
    Sequence(Vec<Step>),
    /// The first case whose condition holds; none holds: skipped, as if its own condition was false.
    Choice(Vec<Case>),
    /// The body once per item; the output lists the outputs in the order of the items.
    ForEach {
        /// An expression that gives a list.
        items: String,
        /// How many bodies run at once; 0 is as many as the workflow's limit lets.
        concurrency: u32,
        /// As soon as this many bodies have ended well the others are cancelled; none is all.
        enough: Option<Amount>,
        /// Up to this many bodies may fail, or be cancelled, and it still ends well; their outputs are
        /// null. None is none.
        tolerates: Option<Amount>,
        /// The body; it reads `item` and `index` (from 0).
        body: Vec<Step>,
    },
    /// The body again and again; the output is the last turn's.
    Loop {
        /// When to go on; it reads `turn` (bodies done so far) and `last` (the last one's output).
        condition: LoopCondition,
        /// More turns than this fail the step.
        max_turns: u32,
        /// The body; it reads `turn` and `last`.
        body: Vec<Step>,
    },
    /// Nothing, until something happens; holds no executor, no slot and no thread.
    Wait(Wait),
    /// Steps that are made while the run goes on.
    Dynamic {
        /// An expression for a list of steps, each as a document writes it.
        steps: String,
        /// Workflows that sub-workflow steps among them may name.
        workflows: Vec<String>,
    },
    /// Another workflow's steps, with an input of their own.
    Workflow {
        /// Its name, as the engine knows it.
        name: String,
        /// An expression for its input; none hands on this workflow's.
        input: Option<String>,
        /// Expressions for its variables, by name; the others have their defaults.
        variables: BTreeMap<String, String>,
    },
}

/// One way a [`StepKind::Choice`] can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// When to take it; none is the default, which must be the last.
    pub when: Option<When>,
    /// What to run.
    pub steps: Vec<Step>,
}

impl Case {
    /// The way to go when this holds and nothing before it did.
    pub fn when(condition: impl Into<When>, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { when: Some(condition.into()), steps: steps.into_iter().collect() }
    }

    /// The way to go when nothing else held.
    pub fn otherwise(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { when: None, steps: steps.into_iter().collect() }
    }
}

/// When a loop goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum LoopCondition {
    /// Asked before each turn; ends when false.
    While(When),
    /// Asked after each turn; ends when true.
    Until(When),
}

/// A condition as its author wrote it: expression text, parsed by `build()` so that all mistakes are
/// reported together, or the structured form.
#[derive(Clone, Debug, PartialEq)]
pub enum When {
    /// An expression, as in `tests.coverage > 80%`.
    Text(String),
    /// The structured form.
    Structured(Condition),
}

impl From<&str> for When {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for When {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Condition> for When {
    fn from(condition: Condition) -> Self {
        Self::Structured(condition)
    }
}
