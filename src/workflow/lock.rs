//! Named locks: what steps of all runs hold together, or take turns at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that a step holds while it runs, and that steps of this run and of others want, too. A
/// composite step holds it as long as it is under way: a critical section.
///
/// Locks of one name and key are one lock, in all runs that share a storage. A step takes all that it
/// names at once or waits. Steps that hold one lock and wait for another that somebody holds who waits
/// for theirs wait for ever: name the locks of a critical section on its outermost step.
///
/// ```
/// use std::time::Duration;
/// use stepwell::Step;
/// use stepwell::workflow::Lock;
///
/// let deploy = Step::task("deploy", "deploy").lock(Lock::new("production"));
/// let export = Step::task("export", "export").lock(Lock::new("exports").key("input.tenant").max(3));
/// let call = Step::task("call", "request").lock(Lock::rate("api", 100, Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Lock {
    /// Its name.
    pub name: String,
    /// An expression for what tells locks of this name apart: a tenant, a resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many steps may hold it; none is one, and any number where there is a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// How often it may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// So many times in a length of time: all at once at first, then evenly spread (GCRA, as in ATM's
/// traffic management).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many times.
    pub count: u32,
    /// In how long.
    #[serde(with = "crate::time::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::time::LengthOfTime"))]
    pub per: Duration,
}

impl Lock {
    /// Held by one step at a time.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), key: None, max: None, rate: None }
    }

    /// Taken no more often than so many times in a length of time, by any number at once.
    pub fn rate(name: impl Into<String>, count: u32, per: Duration) -> Self {
        Self { rate: Some(Rate { count, per }), ..Self::new(name) }
    }

    /// A lock of its own for each value of this expression: a text, a number or a boolean.
    #[must_use]
    pub fn key(mut self, expression: impl Into<String>) -> Self {
        self.key = Some(expression.into());
        self
    }

    /// How many steps may hold it at once.
    #[must_use]
    pub fn max(mut self, steps: u32) -> Self {
        self.max = Some(steps);
        self
    }
}
