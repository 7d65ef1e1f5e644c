//! A bound on how much of all work is retries.

use std::time::Duration;

use crate::time::Timestamp;

/// Lets retries be at most a share of first attempts, so that an outage is not answered with a storm.
///
/// Each first attempt puts `ratio` of a retry into the budget, each retry takes one out, and some
/// per second are always allowed, so that a quiet system can still retry. What is not used is lost
/// after ten seconds. (The scheme is that of Finagle's `RetryBudget`.)
///
/// ```
/// use stepwell::retry::RetryBudget;
/// use stepwell::Timestamp;
///
/// let mut budget = RetryBudget::new(0.2, 0.0);
/// let now = Timestamp::EPOCH;
/// (0..10).for_each(|_| budget.deposit(now));
/// assert_eq!((0..10).filter(|_| budget.withdraw(now)).count(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct RetryBudget {
    ratio: f64,
    per_second: f64,
    balance: f64,
    last: Timestamp,
}

/// How long an unused retry is kept.
const WINDOW: Duration = Duration::from_secs(10);

impl RetryBudget {
    /// A budget of `ratio` retries per first attempt, and `per_second` besides.
    #[must_use]
    pub fn new(ratio: f64, per_second: f64) -> Self {
        let sane = |number: f64| {
            if number.is_finite() { number.max(0.0) } else { 0.0 }
        };
        let per_second = sane(per_second);
        let balance = per_second * WINDOW.as_secs_f64();
        Self { ratio: sane(ratio), per_second, balance, last: Timestamp::EPOCH }
    }

    /// A first attempt begins.
    pub fn deposit(&mut self, now: Timestamp) {
        self.settle(now);
        self.balance += self.ratio;
    }

    /// Whether one more retry may be made.
    pub fn allows(&mut self, now: Timestamp) -> bool {
        self.settle(now);
        // Sums of tenths fall a little short of the whole.
        self.balance >= 1.0 - 1e-9
    }

    /// Whether one more retry may be made; takes it out of the budget if so.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        let allowed = self.allows(now);
        if allowed {
            self.balance -= 1.0;
        }
        allowed
    }

    /// Lets the balance decay towards what is always allowed. A clock that went back changes nothing.
    fn settle(&mut self, now: Timestamp) {
        let passed = now.since(self.last).as_secs_f64() / WINDOW.as_secs_f64();
        self.last = self.last.max(now);
        let floor = self.per_second * WINDOW.as_secs_f64();
        self.balance = (self.balance - floor).mul_add((-passed).exp(), floor);
    }
}

impl Default for RetryBudget {
    /// One retry per five first attempts, and ten per second.
    fn default() -> Self {
        Self::new(0.2, 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_to_the_allowed_rate() {
        let mut budget = RetryBudget::default();
        let allowed: usize = (0..60_u64)
            .map(|second| {
                let now = Timestamp::EPOCH + Duration::from_secs(second);
                (0..1_000).filter(|_| budget.withdraw(now)).count()
            })
            .sum();
        // A full window at first, then ten a second at the most.
        assert!((100..=700).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_takes_nothing() {
        let mut budget = RetryBudget::new(1.0, 0.0);
        let late = Timestamp::EPOCH + Duration::from_secs(100);
        budget.deposit(late);
        assert!(budget.withdraw(Timestamp::EPOCH));
        assert!(!budget.withdraw(late));
    }
}
