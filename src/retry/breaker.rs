//! A circuit breaker: after too many failures nobody is asked for a while.

use std::time::Duration;

use crate::time::Timestamp;

/// When a breaker opens and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// The share of failed calls that opens it; default 0.5.
    pub failure_ratio: f64,
    /// Calls in the window below which it never opens; default 10.
    pub minimum_calls: u32,
    /// How far back calls count; default 60 s.
    pub window: Duration,
    /// How long it stays open before one call may probe; default 30 s.
    pub open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            minimum_calls: 10,
            window: Duration::from_secs(60),
            open_for: Duration::from_secs(30),
        }
    }
}

/// Closed, it lets every call through and counts; open, none; half open, one that probes.
///
/// The states are those of Michael Nygard, "Release It!", 2007. A pure state machine over the times
/// that it is told; it keeps ten counters whatever the load.
///
/// ```
/// use std::time::Duration;
/// use stepwell::Timestamp;
/// use stepwell::retry::{BreakerConfig, CircuitBreaker, Permit};
///
/// let mut breaker = CircuitBreaker::new(BreakerConfig::default());
/// let now = Timestamp::EPOCH;
/// (0..10).for_each(|_| breaker.failed(now));
/// assert_eq!(breaker.permit(now), Permit::Denied { until: now + Duration::from_secs(30) });
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    config: BreakerConfig,
    state: State,
    /// Calls and failures per tenth of the window, by number of the tenth since the epoch.
    buckets: [(i64, u32, u32); BUCKETS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Timestamp,
    },
    /// A probe is out; if nothing is heard of it, another may go at that time.
    HalfOpen {
        until: Timestamp,
    },
}

/// What a breaker says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Allowed,
    /// Go on; what becomes of it decides for the others.
    Probe,
    /// Wait; ask again then.
    Denied {
        /// When to ask again.
        until: Timestamp,
    },
}

const BUCKETS: usize = 10;

impl CircuitBreaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed, buckets: [(0, 0, 0); BUCKETS] }
    }

    /// Whether a call may be made now.
    pub fn permit(&mut self, now: Timestamp) -> Permit {
        match self.state {
            State::Closed => Permit::Allowed,
            State::Open { until } | State::HalfOpen { until }
                if now < until && self.sane(until, now) =>
            {
                Permit::Denied { until }
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::HalfOpen { until: now + self.config.open_for };
                Permit::Probe
            }
        }
    }

    /// Until when it is open, if it is.
    #[must_use]
    pub fn open_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Closed => None,
            State::Open { until } | State::HalfOpen { until } => Some(until),
        }
    }

    /// A call went well.
    pub fn succeeded(&mut self, now: Timestamp) {
        if let State::HalfOpen { .. } = self.state {
            self.state = State::Closed;
            self.buckets = [(0, 0, 0); BUCKETS];
        }
        self.count(now, 0);
    }

    /// So many calls went well, lately.
    pub(crate) fn succeeded_often(&mut self, calls: u32, now: Timestamp) {
        if calls > 0 {
            self.succeeded(now);
            let bucket = self.tenth(now).rem_euclid(BUCKETS as i64) as usize;
            self.buckets[bucket].1 = self.buckets[bucket].1.saturating_add(calls - 1);
        }
    }

    /// Nothing was heard of a call: if it was the probe, another may go.
    pub fn unheard(&mut self, now: Timestamp) {
        if let State::HalfOpen { .. } = self.state {
            self.state = State::Open { until: now };
        }
    }

    /// A call failed in a way that says something of the other side's health.
    pub fn failed(&mut self, now: Timestamp) {
        self.count(now, 1);
        let open = State::Open { until: now + self.config.open_for };
        match self.state {
            State::HalfOpen { .. } => self.state = open,
            State::Closed => {
                let (calls, failures) = self.totals(now);
                let ratio = f64::from(failures) / f64::from(calls.max(1));
                if calls >= self.config.minimum_calls && ratio >= self.config.failure_ratio {
                    self.state = open;
                }
            }
            // A call from before it opened.
            State::Open { .. } => {}
        }
    }

    /// A time that lies further ahead than any wait can is from before the clock went back.
    fn sane(&self, until: Timestamp, now: Timestamp) -> bool {
        until.since(now) <= self.config.open_for
    }

    fn tenth(&self, at: Timestamp) -> i64 {
        let length =
            i64::try_from(self.config.window.as_micros() / BUCKETS as u128).unwrap_or(i64::MAX);
        at.as_micros().div_euclid(length.max(1))
    }

    fn count(&mut self, now: Timestamp, failures: u32) {
        let tenth = self.tenth(now);
        let bucket = &mut self.buckets[tenth.rem_euclid(BUCKETS as i64) as usize];
        if bucket.0 != tenth {
            *bucket = (tenth, 0, 0);
        }
        bucket.1 = bucket.1.saturating_add(1);
        bucket.2 = bucket.2.saturating_add(failures);
    }

    fn totals(&self, now: Timestamp) -> (u32, u32) {
        let tenth = self.tenth(now);
        let recent = self
            .buckets
            .iter()
            .filter(|(at, ..)| (tenth - BUCKETS as i64 + 1..=tenth).contains(at));
        recent.fold((0, 0), |(calls, failures), (_, c, f)| {
            (calls.saturating_add(*c), failures.saturating_add(*f))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn one_probe_decides_for_the_others() {
        let mut breaker = CircuitBreaker::new(BreakerConfig::default());
        (0..10).for_each(|_| breaker.failed(at(0)));
        assert_eq!(breaker.permit(at(29)), Permit::Denied { until: at(30) });
        assert_eq!(breaker.permit(at(30)), Permit::Probe);
        assert_eq!(breaker.permit(at(31)), Permit::Denied { until: at(60) });
        breaker.failed(at(32));
        assert_eq!(breaker.permit(at(33)), Permit::Denied { until: at(62) });
        assert_eq!(breaker.permit(at(62)), Permit::Probe);
        breaker.succeeded(at(63));
        assert_eq!(breaker.permit(at(63)), Permit::Allowed);
    }

    #[test]
    fn a_clock_set_back_does_not_keep_it_open() {
        let mut breaker = CircuitBreaker::new(BreakerConfig::default());
        (0..10).for_each(|_| breaker.failed(at(1_000_000)));
        assert_eq!(breaker.permit(at(5)), Permit::Probe);
    }

    proptest! {
        #[test]
        fn it_opens_exactly_when_the_window_says_so(calls in prop::collection::vec((0_u64..4, any::<bool>()), 1..200)) {
            let mut breaker = CircuitBreaker::new(BreakerConfig::default());
            let mut history: Vec<(u64, bool)> = Vec::new();
            let mut second = 1_000;
            for (passed, failed) in calls {
                second += passed;
                prop_assert_eq!(breaker.permit(at(second)), Permit::Allowed);
                history.push((second, failed));
                if failed { breaker.failed(at(second)) } else { breaker.succeeded(at(second)) }
                // The reference keeps every call, and counts by the same tenths of the window.
                let recent: Vec<bool> = history
                    .iter()
                    .filter(|(at, _)| second / 6 - at / 6 < 10)
                    .map(|(_, failed)| *failed)
                    .collect();
                let failures = recent.iter().filter(|failed| **failed).count();
                let open = failed && recent.len() >= 10 && failures * 2 >= recent.len();
                prop_assert_eq!(breaker.open_until().is_some(), open);
                if open {
                    break;
                }
            }
        }
    }
}
