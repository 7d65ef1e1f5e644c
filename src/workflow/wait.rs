//! What a wait step waits for.

use std::time::Duration;

use super::{Amount, When};
use crate::value::Json;

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
        /// An expression for the signal's key, so that of several steps that wait for one name each
        /// gets its own; see [`Signal::keyed`](crate::journal::Signal::keyed).
        key: Option<String>,
        /// JSON Schema of the payload; what does not fit is refused.
        schema: Option<Json>,
        /// How long at most.
        timeout: Option<Timeout>,
    },
    /// Until people have decided; see [`Approval`].
    Approval {
        /// Who, and how many of them.
        approval: Approval,
        /// How long at most.
        timeout: Option<Timeout>,
    },
    /// Whichever of these comes first; the others are forgotten. The output is
    /// `{"first": label, "payload": ...}`. Signals, times and conditions without time-outs of their
    /// own can stand here.
    First(Vec<(String, Self)>),
}

/// A decision that people take: approved as soon as a quorum has said yes, rejected as soon as that
/// cannot be reached any more, or with the first no where nobody is named. Each votes once.
///
/// An approved step succeeds with `{"approved": true, "votes": [...]}`; a rejected one fails with
/// class [`rejected`](crate::ErrorClass::Rejected), which `on_error` can lead on from.
///
/// ```
/// use stepwell::workflow::{Approval, Wait};
/// use stepwell::Step;
///
/// let two_of_three = Approval::by(["ann", "bob", "cem"]).quorum(2).prompt("Release to production?");
/// let step = Step::wait("release", Wait::approval(two_of_three));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Approval {
    /// Who may vote; none is anybody.
    pub approvers: Option<Vec<String>>,
    /// An expression for a list of who may vote, instead.
    pub approvers_from: Option<String>,
    /// How many must say yes; none is one.
    pub quorum: Option<Amount>,
    /// What they are asked.
    pub prompt: Option<String>,
    /// An expression for what they should see to decide.
    pub show: Option<String>,
    /// JSON Schema of what a yes must come with.
    pub schema: Option<Json>,
}

impl Approval {
    /// By anybody, once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// By one of these.
    pub fn by<S: Into<String>>(approvers: impl IntoIterator<Item = S>) -> Self {
        let approvers = approvers.into_iter().map(Into::into).collect();
        Self { approvers: Some(approvers), ..Self::default() }
    }

    /// By one of those that this expression lists when the step is reached.
    pub fn by_those_of(expression: impl Into<String>) -> Self {
        Self { approvers_from: Some(expression.into()), ..Self::default() }
    }

    /// How many, or how many percent of those who may vote, must say yes.
    #[must_use]
    pub fn quorum(mut self, quorum: impl Into<Amount>) -> Self {
        self.quorum = Some(quorum.into());
        self
    }

    /// What they are asked.
    #[must_use]
    pub fn prompt(mut self, text: impl Into<String>) -> Self {
        self.prompt = Some(text.into());
        self
    }

    /// An expression for what they should see to decide.
    #[must_use]
    pub fn show(mut self, expression: impl Into<String>) -> Self {
        self.show = Some(expression.into());
        self
    }

    /// JSON Schema of what a yes must come with.
    #[must_use]
    pub fn schema(mut self, schema: Json) -> Self {
        self.schema = Some(schema);
        self
    }
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
        Self::Signal { name: name.into(), key: None, schema: None, timeout: None }
    }

    /// Waits until this holds.
    pub fn condition(condition: impl Into<When>) -> Self {
        Self::Condition { condition: condition.into(), timeout: None }
    }

    /// Waits until people have decided.
    #[must_use]
    pub fn approval(approval: Approval) -> Self {
        Self::Approval { approval, timeout: None }
    }

    /// Waits for whichever comes first, each under a label.
    pub fn first<S: Into<String>>(ways: impl IntoIterator<Item = (S, Self)>) -> Self {
        Self::First(ways.into_iter().map(|(label, wait)| (label.into(), wait)).collect())
    }

    /// For a signal: only the one with the key that this expression gives.
    #[must_use]
    pub fn key(mut self, expression: impl Into<String>) -> Self {
        if let Self::Signal { key, .. } = &mut self {
            *key = Some(expression.into());
        }
        self
    }

    /// For a signal: JSON Schema of the payload.
    #[must_use]
    pub fn schema(mut self, of_payload: Json) -> Self {
        if let Self::Signal { schema, .. } = &mut self {
            *schema = Some(of_payload);
        }
        self
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
            Self::Condition { timeout, .. }
            | Self::Signal { timeout, .. }
            | Self::Approval { timeout, .. } => *timeout = Some(limit),
            Self::For(_) | Self::Until(_) | Self::First(_) => {}
        }
        self
    }
}
