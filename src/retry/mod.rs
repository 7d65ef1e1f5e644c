//! Trying again: when, how often, and when to stop.
//!
//! Everything here is a pure function of its arguments: time comes in as a [`Timestamp`], and jitter
//! is a hash of run, step and attempt, so a recovered run computes the delays it had computed
//! before.
//!
//! [`Timestamp`]: crate::Timestamp

mod breaker;
mod budget;
mod classifier;
mod config;
mod manager;

pub use breaker::{BreakerConfig, CircuitBreaker, Permit};
pub use budget::RetryBudget;
pub use classifier::ErrorClassifier;
pub use config::{ATTEMPTS_MAX, DELAY_MAX, Jitter, RetryConfig};
pub(crate) use manager::decide;
pub use manager::{GiveUp, RETRY_AFTER_MAX, RetryDecision, RetryManager, Seed};
