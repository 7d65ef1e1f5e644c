//! What a step does: run an executor, run a body of other steps, or wait.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::expr::Condition;
use crate::value::Value;
use crate::workflow::{Amount, Step};

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

/// What a wait step waits for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Wait {
    /// This long, from when the step is reached.
    For(Duration),
    /// Until a time: an expression or text that gives an RFC 3339 time.
    Until(String),
    /// Until the condition holds; asked again after each change of the run, and every second when it
    /// reads `now()`. Mentioning a step here makes no dependency.
    Condition {
        /// What must hold.
        condition: When,
        /// How long at most.
        timeout: Option<Timeout>,
    },
    /// Until the signal comes; the output is its payload.
    Signal {
        /// The signal's name.
        name: String,
        /// How long at most.
        timeout: Option<Timeout>,
    },
}

/// How long a wait may last, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// How long at most.
    pub after: Duration,
    /// What happens then.
    pub then: OnTimeout,
}

/// What a wait that has timed out becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// Failed, with class timeout.
    #[default]
    Fail,
    /// Succeeded, with output null.
    Continue,
}

impl Wait {
    /// Waits for the signal of this name.
    pub fn signal(name: impl Into<String>) -> Self {
        Self::Signal { name: name.into(), timeout: None }
    }

    /// Waits until this holds.
    pub fn condition(condition: impl Into<When>) -> Self {
        Self::Condition { condition: condition.into(), timeout: None }
    }

    /// The same, failing after this long. Waits that end by themselves have no time-out.
    #[must_use]
    pub fn timeout(self, after: Duration) -> Self {
        self.timeout_with(Timeout { after, then: OnTimeout::Fail })
    }

    /// The same, ending in the given way after its time-out.
    #[must_use]
    pub fn timeout_with(mut self, limit: Timeout) -> Self {
        match &mut self {
            Self::Condition { timeout, .. } | Self::Signal { timeout, .. } => {
                *timeout = Some(limit)
            }
            Self::For(_) | Self::Until(_) => {}
        }
        self
    }
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
