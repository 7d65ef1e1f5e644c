//! One decision: try again, and when, or give up, and why.

use std::fmt;
use std::time::Duration;

use super::classifier::ErrorClassifier;
use super::config::{Jitter, RetryConfig};
use crate::error::{ErrorClass, Failure, StepError};
use crate::id::StepKey;

/// The longest that another side's wish to be left alone is followed; a longer one is cut to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where the jitter of one delay comes from: a number that is the same whenever it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seed(u64);

impl Seed {
    /// The seed for the delay after this attempt of this step of the run with this seed.
    #[must_use]
    pub fn of(run: u64, step: StepKey, attempt: u32) -> Self {
        let place = (u64::from(step.scope) << 32) | u64::from(step.step);
        Self(mix(mix(mix(run) ^ place) ^ u64::from(attempt)))
    }

    /// The seed from one number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(mix(number))
    }

    /// From 0 to below 1, evenly.
    fn fraction(self) -> f64 {
        // 53 bits are what an `f64` holds.
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again after this long.
    RetryAfter(Duration),
    /// Stop.
    GiveUp(GiveUp),
}

/// Why nothing is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GiveUp {
    /// Failures of this class do not pass by themselves.
    NotRetryable,
    /// The policy's attempts are used up.
    AttemptsExhausted,
    /// Too much of what the engine does is retries already.
    BudgetExhausted,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRetryable => "failures of this class are not tried again",
            Self::AttemptsExhausted => "no attempts are left",
            Self::BudgetExhausted => "the engine's retry budget is used up",
        })
    }
}

/// Applies a [`RetryConfig`]: no state, no clock.
///
/// ```
/// use std::time::Duration;
/// use stepwell::retry::{Jitter, RetryDecision, RetryManager, Seed};
/// use stepwell::{ErrorClass, Failure, RetryConfig};
///
/// let retry = RetryManager::new(RetryConfig::attempts(3).jitter(Jitter::None));
/// let busy = Failure::new(ErrorClass::Connection, "refused");
/// let seed = Seed::from_number(1);
/// let decide = |attempt| retry.decide(attempt, Duration::ZERO, &busy, seed);
/// assert_eq!(decide(2), RetryDecision::RetryAfter(Duration::from_secs(2)));
/// assert!(matches!(decide(3), RetryDecision::GiveUp(_)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetryManager {
    config: RetryConfig,
    classifier: ErrorClassifier,
}

impl RetryManager {
    /// Applies this policy.
    #[must_use]
    pub fn new(config: RetryConfig) -> Self {
        Self { config, classifier: ErrorClassifier::default() }
    }

    /// Tells errors apart with this instead of the default.
    #[must_use]
    pub fn classifier(mut self, classifier: ErrorClassifier) -> Self {
        self.classifier = classifier;
        self
    }

    pub(crate) fn class_of(&self, error: &StepError) -> ErrorClass {
        self.classifier.classify(error)
    }

    /// The policy.
    #[must_use]
    pub fn config(&self) -> &RetryConfig {
        &self.config
    }

    /// What follows from the failure of this attempt, counted from 1; `previous` is the delay before
    /// it, zero before the first.
    #[must_use]
    pub fn decide(
        &self,
        attempt: u32,
        previous: Duration,
        failure: &Failure,
        seed: Seed,
    ) -> RetryDecision {
        decide(&self.config, attempt, previous, failure, seed)
    }

    /// The delay after the failure of this attempt, counted from 1.
    #[must_use]
    pub fn calculate_delay(&self, attempt: u32, previous: Duration, seed: Seed) -> Duration {
        delay(&self.config, attempt, previous, seed)
    }

    /// Whether the policy tries failures like this again.
    #[must_use]
    pub fn is_retryable_error(&self, failure: &Failure) -> bool {
        is_retryable(&self.config, failure)
    }
}

/// [`RetryManager::decide`] for a borrowed policy.
pub(crate) fn decide(
    config: &RetryConfig,
    attempt: u32,
    previous: Duration,
    failure: &Failure,
    seed: Seed,
) -> RetryDecision {
    if !is_retryable(config, failure) {
        return RetryDecision::GiveUp(GiveUp::NotRetryable);
    }
    if attempt >= config.max_attempts {
        return RetryDecision::GiveUp(GiveUp::AttemptsExhausted);
    }
    let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    RetryDecision::RetryAfter(delay(config, attempt, previous, seed).max(asked))
}

fn is_retryable(config: &RetryConfig, failure: &Failure) -> bool {
    match &config.retryable {
        Some(classes) => classes.contains(&failure.class),
        None => failure.class.is_retryable(),
    }
}

fn delay(config: &RetryConfig, attempt: u32, previous: Duration, seed: Seed) -> Duration {
    let (base, cap) = (config.base_delay.as_secs_f64(), config.max_delay.as_secs_f64());
    let doublings = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    // `min` also turns the infinities and NaNs of absurd policies into the cap.
    let full = (base * config.exponential_base.powi(doublings)).min(cap).max(0.0);
    let seconds = match config.jitter {
        Jitter::None => full,
        Jitter::Full => full * seed.fraction(),
        Jitter::Equal => (full / 2.0).mul_add(seed.fraction(), full / 2.0),
        Jitter::Decorrelated => {
            let widest = (previous.as_secs_f64() * 3.0).max(base);
            (widest - base).mul_add(seed.fraction(), base).min(cap)
        }
    };
    // Whole microseconds, which is what the journal keeps.
    let delay = Duration::try_from_secs_f64(seconds).unwrap_or(config.max_delay);
    Duration::from_micros(delay.min(config.max_delay).as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(jitter: Jitter, attempt: u32, previous: Duration) -> Vec<f64> {
        let retry = RetryManager::new(RetryConfig::attempts(100).jitter(jitter));
        (0..10_000)
            .map(|n| retry.calculate_delay(attempt, previous, Seed::from_number(n)).as_secs_f64())
            .collect()
    }

    fn assert_spread(delays: &[f64], low: f64, high: f64) {
        assert!(delays.iter().all(|d| *d >= low && *d <= high), "outside {low}..{high}");
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let middle = f64::midpoint(low, high);
        assert!((mean - middle).abs() < (high - low).mul_add(0.02, 1e-9), "{mean} is not {middle}");
    }

    #[test]
    fn delays_follow_the_published_formulas() {
        for (attempt, full) in [(1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (u32::MAX, 60.0)] {
            assert_spread(&delays(Jitter::None, attempt, Duration::ZERO), full, full);
            assert_spread(&delays(Jitter::Full, attempt, Duration::ZERO), 0.0, full);
            assert_spread(&delays(Jitter::Equal, attempt, Duration::ZERO), full / 2.0, full);
        }
        assert_spread(&delays(Jitter::Decorrelated, 1, Duration::ZERO), 1.0, 1.0);
        assert_spread(&delays(Jitter::Decorrelated, 2, Duration::from_secs(4)), 1.0, 12.0);
    }

    #[test]
    fn absurd_policies_stay_under_the_cap() {
        for base in [0.0, 1.0, f64::NAN, f64::INFINITY, -1.0, 1e300] {
            for jitter in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
                let config = RetryConfig::attempts(5).exponential_base(base).jitter(jitter);
                let retry = RetryManager::new(config);
                for attempt in [0, 1, 2, 1000, u32::MAX] {
                    let delay = retry.calculate_delay(attempt, Duration::MAX, Seed::from_number(7));
                    assert!(delay <= Duration::from_secs(60), "{base} {jitter:?} {attempt}");
                }
            }
        }
    }

    #[test]
    fn ten_thousand_failures_at_once_do_not_return_at_once() {
        let mut buckets = [0_u32; 60];
        for delay in delays(Jitter::Full, 7, Duration::ZERO) {
            buckets[(delay as usize).min(59)] += 1;
        }
        let mean = 10_000 / 60;
        assert!(buckets.iter().all(|count| *count <= 3 * mean), "{buckets:?}");
    }

    #[test]
    fn the_other_side_is_left_alone_as_long_as_it_asks_up_to_a_day() {
        let retry = RetryManager::default();
        let mut busy = Failure::new(ErrorClass::Temporary, "429");
        for (asked, followed) in [(300, 300), (10_000_000, 86_400)] {
            busy.retry_after = Some(Duration::from_secs(asked));
            let decision = retry.decide(1, Duration::ZERO, &busy, Seed::from_number(1));
            assert_eq!(decision, RetryDecision::RetryAfter(Duration::from_secs(followed)));
        }
    }

    #[test]
    fn a_policy_may_name_its_own_retryable_classes() {
        let retry = RetryManager::new(RetryConfig::default().retryable([ErrorClass::Validation]));
        assert!(retry.is_retryable_error(&Failure::new(ErrorClass::Validation, "")));
        assert!(!retry.is_retryable_error(&Failure::new(ErrorClass::Timeout, "")));
        let fatal = Failure::new(ErrorClass::Permission, "no");
        let decision =
            RetryManager::default().decide(1, Duration::ZERO, &fatal, Seed::from_number(1));
        assert_eq!(decision, RetryDecision::GiveUp(GiveUp::NotRetryable));
    }
}
