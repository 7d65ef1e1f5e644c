//! The only place that reads the machine's clocks and its randomness.
#![allow(clippy::disallowed_methods)]

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use crate::time::Timestamp;

pub(super) fn now() -> Timestamp {
    let since = |earlier: SystemTime, later: SystemTime| {
        i64::try_from(later.duration_since(earlier).unwrap_or_default().as_micros())
            .unwrap_or(i64::MAX)
    };
    let now = SystemTime::now();
    let micros = since(SystemTime::UNIX_EPOCH, now);
    // A clock set before 1970 is wrong, but it is the clock.
    Timestamp::from_micros(if micros == 0 { -since(now, SystemTime::UNIX_EPOCH) } else { micros })
}

pub(super) fn monotonic() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

pub(super) fn random() -> u64 {
    rand::random()
}
