//! What a step returns when it does not succeed, and what the journal keeps of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// What kind of thing failed; decides, unless a policy says otherwise, whether trying again makes
/// sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// The other side could not be reached.
    Connection,
    /// No answer within the time allowed.
    Timeout,
    /// The other side said that it failed (HTTP 5xx).
    ServerError,
    /// Anything else that may pass by itself, such as a rate limit.
    Temporary,
    /// Not known; tried again, since transient faults are the common case and attempts are bounded.
    Unknown,
    /// The data is wrong.
    Validation,
    /// Not known who asks.
    Authentication,
    /// Not allowed to.
    Permission,
    /// Set up wrongly.
    Configuration,
    /// Somebody who was asked has said no.
    Rejected,
    /// Stopped on purpose.
    Cancelled,
    /// The step panicked.
    Panic,
    /// The step itself says that trying again is useless.
    Fatal,
    /// Nobody knows whether the step has done what it is for, and it must not do so twice.
    OutcomeUnknown,
}

impl ErrorClass {
    /// Whether trying again makes sense by default.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Connection
            | Self::Timeout
            | Self::ServerError
            | Self::Temporary
            | Self::Unknown
            | Self::Panic => true,
            Self::Validation
            | Self::Authentication
            | Self::Permission
            | Self::Configuration
            | Self::Rejected
            | Self::Cancelled
            | Self::Fatal
            | Self::OutcomeUnknown => false,
        }
    }

    /// The class as documents write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::ServerError => "server_error",
            Self::Temporary => "temporary",
            Self::Unknown => "unknown",
            Self::Validation => "validation",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::Configuration => "configuration",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an attempt, a step or a run failed, as data: what the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// What kind of thing failed.
    pub class: ErrorClass,
    /// What was said about it; at most [`MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// The messages of the causes, outermost first; at most [`CAUSES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// For a composite step: the path of the step inside it that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// How long the other side asked to be left alone.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::time::duration_option"
    )]
    pub retry_after: Option<Duration>,
    /// The step says that nothing was done; see [`StepError::nothing_done`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_done: bool,
}

/// Bytes of a failure's message that are kept: a journal is not a log store.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Causes of a failure that are kept.
pub const CAUSES_MAX: usize = 16;

impl Failure {
    /// Adds a cause, as long as there is room for one.
    pub(crate) fn because(&mut self, cause: String) {
        if self.causes.len() < CAUSES_MAX {
            self.causes.push(clip(cause));
        }
    }

    /// A failure of this class; an over-long message is cut.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        uncut(class, clip(message.into()))
    }
}

/// A failure whose message is still to be cut: half a secret at its end would not be found any more.
const fn uncut(class: ErrorClass, message: String) -> Failure {
    let (origin, retry_after, nothing_done) = (None, None, false);
    Failure { class, message, causes: Vec::new(), origin, retry_after, nothing_done }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "in step {origin}: ")?;
        }
        write!(f, "{}: {}", self.class, self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

/// What a step returns when it has no result: a failure, or a wish to wait.
///
/// Every `std` error converts with `?` and is tried again (class [`ErrorClass::Unknown`], unless the
/// engine's classifier knows better).
///
/// ```
/// use std::time::Duration;
/// use stepwell::{ErrorClass, StepError};
///
/// let busy = StepError::retryable("rate limited").after(Duration::from_secs(30));
/// assert_eq!(busy.class(), ErrorClass::Temporary);
/// let wrong = StepError::fatal("no such customer");
/// assert!(!wrong.class().is_retryable());
/// ```
#[derive(Debug)]
pub struct StepError(Box<Cause>);

#[derive(Debug)]
enum Cause {
    Failed(Failure, Option<Box<dyn std::error::Error + Send + Sync>>),
    Suspended(Suspension),
}

/// A step's wish to be run again when a signal has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Suspension {
    /// The signal's name.
    pub signal: String,
    /// What is asked, for whoever answers.
    pub prompt: Value,
    /// After this time without an answer the step fails with class [`ErrorClass::Timeout`].
    #[serde(default, with = "crate::time::duration_option")]
    pub timeout: Option<Duration>,
}

impl StepError {
    /// A failure of this class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self(Box::new(Cause::Failed(uncut(class, message.into()), None)))
    }

    /// A failure that may pass by itself.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Temporary, message)
    }

    /// A failure that trying again will not mend.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Fatal, message)
    }

    /// Not a failure: the step is to be run again when the signal has come, with its payload in
    /// `ExecutionContext::signal`. No executor is held meanwhile.
    pub fn wait_for_signal(
        signal: impl Into<String>,
        prompt: impl Into<Value>,
        timeout: Option<Duration>,
    ) -> Self {
        let suspension = Suspension { signal: signal.into(), prompt: prompt.into(), timeout };
        Self(Box::new(Cause::Suspended(suspension)))
    }

    /// The same, not to be tried again before this much time has passed, as an HTTP `Retry-After`
    /// says.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Cause::Failed(failure, _) = &mut *self.0 {
            failure.retry_after = Some(delay.min(crate::time::DURATION_MAX));
        }
        self
    }

    /// The same, and nothing was done: the step may be begun again although it runs
    /// [at most once](crate::Step::at_most_once). Of other steps it says nothing.
    ///
    /// ```
    /// use stepwell::StepError;
    ///
    /// // Nobody has heard the request.
    /// let refused = StepError::retryable("connection refused").nothing_done();
    /// ```
    #[must_use]
    pub fn nothing_done(mut self) -> Self {
        if let Cause::Failed(failure, _) = &mut *self.0 {
            failure.nothing_done = true;
        }
        self
    }

    /// The class of the failure; [`ErrorClass::Unknown`] for a wish to wait.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match &*self.0 {
            Cause::Failed(failure, _) => failure.class,
            Cause::Suspended(_) => ErrorClass::Unknown,
        }
    }

    /// Whether this is a wish to wait, and no failure.
    #[must_use]
    pub const fn is_wait(&self) -> bool {
        matches!(*self.0, Cause::Suspended(_))
    }

    /// The error that this was made from with `?`.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        match &*self.0 {
            Cause::Failed(_, source) => source.as_deref(),
            Cause::Suspended(_) => None,
        }
    }

    /// Whether what it asks nests too deep to be kept.
    pub(crate) fn nests_too_deep(&self) -> bool {
        matches!(&*self.0, Cause::Suspended(wait) if wait.prompt.nests_too_deep())
    }

    /// Changes every text and value that it carries.
    pub(crate) fn scrub(&mut self, text: impl Fn(String) -> String, value: impl Fn(&mut Value)) {
        match &mut *self.0 {
            Cause::Failed(failure, _) => {
                failure.message = text(std::mem::take(&mut failure.message));
                for cause in failure.causes.iter_mut().chain(&mut failure.origin) {
                    *cause = text(std::mem::take(cause));
                }
            }
            Cause::Suspended(suspension) => {
                value(&mut suspension.prompt);
                suspension.signal = text(std::mem::take(&mut suspension.signal));
            }
        }
    }

    /// Drops the error that this was made of; its text is kept.
    pub(crate) fn forget_source(&mut self) {
        if let Cause::Failed(_, source) = &mut *self.0 {
            drop(source.take());
        }
    }

    /// The data of it, for the journal.
    ///
    /// # Errors
    /// The suspension, when this is not a failure but a wish to wait.
    pub fn into_failure(self) -> std::result::Result<Failure, Suspension> {
        match *self.0 {
            Cause::Failed(mut failure, _) => {
                for text in failure.causes.iter_mut().chain([&mut failure.message]) {
                    *text = clip(std::mem::take(text));
                }
                Ok(failure)
            }
            Cause::Suspended(suspension) => Err(suspension),
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Cause::Failed(failure, _) => failure.fmt(f),
            Cause::Suspended(wait) => write!(f, "waits for signal {}", wait.signal),
        }
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self(Box::new(Cause::Failed(failure, None)))
    }
}

// `StepError` is not itself a `std` error, which is what leaves room for this (as in `anyhow`).
impl<E: std::error::Error + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        let mut failure = uncut(ErrorClass::Unknown, error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause.filter(|_| failure.causes.len() < CAUSES_MAX) {
            failure.causes.push(error.to_string());
            cause = error.source();
        }
        Self(Box::new(Cause::Failed(failure, Some(Box::new(error)))))
    }
}

fn clip(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX - 3));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_mark_keeps_the_chain_of_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = StepError::from(Outer(std::io::Error::other("inner")));
        let failure = error.into_failure().unwrap();
        assert_eq!(
            (failure.message.as_str(), failure.causes),
            ("outer", vec!["inner".to_string()])
        );
    }

    #[test]
    fn a_long_message_is_cut_at_a_letter() {
        let long = "ä".repeat(5000);
        let failure = Failure::new(ErrorClass::Unknown, &long);
        assert!(failure.message.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(StepError::fatal(&long).into_failure().unwrap().message, failure.message);
        let caused = std::io::Error::other(std::io::Error::other(long));
        let failure = StepError::from(caused).into_failure().unwrap();
        assert!(failure.message.len() <= MESSAGE_BYTES_MAX);
        assert!(failure.causes.iter().all(|cause| cause.len() <= MESSAGE_BYTES_MAX));
    }
}
