//! What can go wrong: for callers ([`Error`]), in documents ([`Problem`]), and inside steps
//! ([`StepError`], [`Failure`]).

mod failure;
mod problem;

pub use failure::{CAUSES_MAX, ErrorClass, Failure, MESSAGE_BYTES_MAX, StepError, Suspension};
pub use problem::{PROBLEMS_MAX, Problem, Problems, Severity, nearest};

use std::borrow::Cow;
use std::fmt;

use crate::id::RunId;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Anything that can go wrong in this crate, in one word-sized value.
///
/// Match on [`kind`](Self::kind), read the sentence that `Display` prints.
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: Cow<'static, str>,
    run: Option<RunId>,
    step: Option<String>,
    problems: Problems,
    transient: bool,
    source: Option<Source>,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The definition has problems; [`Error::problems`] lists all of them.
    InvalidWorkflow,
    /// A document, an expression or a text in it does not parse; the message points at the place.
    Syntax,
    /// The engine, an executor or a limit was configured in a way that cannot work.
    Configuration,
    /// No run, workflow or step with this name.
    NotFound,
    /// The id is taken by a run of a different workflow.
    AlreadyExists,
    /// The run refused the command in its present state.
    Rejected,
    /// Someone else committed first.
    Conflict,
    /// A limit of this crate was reached; the message names it.
    LimitExceeded,
    /// The run ended without success; the message says why.
    RunFailed,
    /// The storage failed; see `source`.
    Storage,
    /// What is kept of a run cannot be read: its rows were changed by something else, or are of a newer
    /// program.
    Damaged,
    /// The storage refused what a step writes itself, and nothing has changed; see `source`.
    WriteRefused,
}

impl Error {
    /// An error of this kind with this sentence.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            run: None,
            step: None,
            problems: Problems::default(),
            transient: false,
            source: None,
        }))
    }

    /// A definition that has these problems.
    #[must_use]
    pub fn invalid(problems: Problems) -> Self {
        Self::new(ErrorKind::InvalidWorkflow, "the workflow is not valid").with(problems)
    }

    /// The same, with these problems.
    pub(crate) fn with(mut self, problems: Problems) -> Self {
        self.0.problems = problems;
        self
    }

    /// The same, about this run.
    #[must_use]
    pub fn of_run(mut self, run: &RunId) -> Self {
        self.0.run = Some(run.clone());
        self
    }

    /// The same, about the step at this path.
    #[must_use]
    pub fn of_step(mut self, path: impl Into<String>) -> Self {
        self.0.step = Some(path.into());
        self
    }

    /// The same, because of this.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same, marked as worth trying again.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.transient = true;
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again later may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// The run this is about.
    #[must_use]
    pub fn run(&self) -> Option<&RunId> {
        self.0.run.as_ref()
    }

    /// The path of the step this is about.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        self.0.step.as_deref()
    }

    /// Every problem found in a definition, or in going over to it; empty for other kinds.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.0.problems
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.run, &self.0.step) {
            (Some(run), Some(step)) => write!(f, "run {run}, step {step}: ")?,
            (Some(run), None) => write!(f, "run {run}: ")?,
            (None, Some(step)) => write!(f, "step {step}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.message)?;
        for problem in self.0.problems.iter() {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        if let Some(source) = &self.0.source {
            write!(f, " (because: {source})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_and_says_where() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let run = RunId::new("order-4711").unwrap();
        let error =
            Error::new(ErrorKind::Rejected, "the run has finished").of_run(&run).of_step("ship[3]");
        assert_eq!(error.to_string(), "run order-4711, step ship[3]: the run has finished");
    }
}
