//! A retry policy, as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::ErrorClass;

/// Attempts that a policy may ask for; with the longest delay that is over a year.
pub const ATTEMPTS_MAX: u32 = 10_000;
/// The longest delay that a policy may ask for: longer waits are schedules, not retries.
pub const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// How often and when something is tried again.
///
/// Defaults: 3 attempts; delays from 1 s, doubling, at most 60 s; full jitter; the classes that
/// [`ErrorClass::is_retryable`] names.
///
/// ```
/// use std::time::Duration;
/// use stepwell::retry::Jitter;
/// use stepwell::{ErrorClass, RetryConfig};
///
/// let patient = RetryConfig::attempts(10)
///     .base_delay(Duration::from_millis(200))
///     .jitter(Jitter::Decorrelated)
///     .retryable([ErrorClass::Connection, ErrorClass::Timeout]);
/// assert_eq!(patient.max_attempts, 10);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts in all, the first included; 1 never tries again.
    pub max_attempts: u32,
    /// The delay after the first failure, before jitter.
    #[serde(with = "crate::time::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::time::LengthOfTime"))]
    pub base_delay: Duration,
    /// No delay is longer, unless the other side asked for it.
    #[serde(with = "crate::time::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::time::LengthOfTime"))]
    pub max_delay: Duration,
    /// What each further delay is multiplied with.
    pub exponential_base: f64,
    /// How delays are spread, so that what failed together does not return together.
    pub jitter: Jitter,
    /// Only these classes are tried again; none is the default of each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<Vec<ErrorClass>>,
}

/// How a delay is spread.
///
/// With `d = min(max_delay, base_delay * exponential_base^(attempt - 1))`. The formulas are those of
/// Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Anywhere from 0 to `d`.
    #[default]
    Full,
    /// Anywhere from `d / 2` to `d`.
    Equal,
    /// Anywhere from `base_delay` to three times the delay before, at most `max_delay`.
    Decorrelated,
    /// Exactly `d`.
    None,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            exponential_base: 2.0,
            jitter: Jitter::Full,
            retryable: None,
        }
    }
}

impl RetryConfig {
    /// The default with this many attempts in all.
    #[must_use]
    pub fn attempts(max_attempts: u32) -> Self {
        Self { max_attempts, ..Self::default() }
    }

    /// Never tries again.
    #[must_use]
    pub fn none() -> Self {
        Self::attempts(1)
    }

    /// The delay after the first failure, before jitter.
    #[must_use]
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base_delay = delay;
        self
    }

    /// The longest delay.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// What each further delay is multiplied with.
    #[must_use]
    pub fn exponential_base(mut self, base: f64) -> Self {
        self.exponential_base = base;
        self
    }

    /// How delays are spread.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Only these classes are tried again.
    #[must_use]
    pub fn retryable(mut self, classes: impl IntoIterator<Item = ErrorClass>) -> Self {
        self.retryable = Some(classes.into_iter().collect());
        self
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// The first that does not, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.max_attempts == 0 || self.max_attempts > ATTEMPTS_MAX {
            let given = self.max_attempts;
            return Err(format!("max_attempts is {given}; it must be from 1 to {ATTEMPTS_MAX}"));
        }
        if !(self.exponential_base >= 1.0 && self.exponential_base <= 100.0) {
            let given = self.exponential_base;
            return Err(format!("exponential_base is {given}; it must be from 1 to 100"));
        }
        if self.max_delay > DELAY_MAX {
            return Err("max_delay is more than 24h".into());
        }
        if self.base_delay > self.max_delay {
            return Err("base_delay is longer than max_delay".into());
        }
        Ok(())
    }
}
