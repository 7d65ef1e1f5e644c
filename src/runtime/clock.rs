//! The only place that reads the machine's clocks, its randomness and what the process uses.
#![allow(clippy::disallowed_methods)]

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use super::ProcessUsage;
use crate::time::Timestamp;

pub(super) fn now() -> Timestamp {
    let micros = |span: Duration| {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        seconds.saturating_mul(1_000_000).saturating_add(i64::from(span.subsec_micros()))
    };
    Timestamp::from_micros(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => micros(since),
        // A clock set before 1970 is wrong, but it is the clock.
        Err(before) => -micros(before.duration()),
    })
}

pub(super) fn monotonic() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

pub(super) fn random() -> u64 {
    rand::random()
}

/// Clock ticks per second: 100 on every Linux that Rust runs on (`USER_HZ`).
const TICKS: f64 = 100.0;
/// Bytes of a page of memory; larger ones exist on few machines and read as too little memory.
const PAGE: u64 = 4096;

/// Reads `/proc/self` (proc(5)); elsewhere than on Linux nothing is known.
pub(super) fn usage() -> ProcessUsage {
    let cpu_time = Duration::from_secs_f64(ticks().unwrap_or(0) as f64 / TICKS);
    ProcessUsage { memory_mb: memory_mb().unwrap_or(0), cpu_time }
}

fn memory_mb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE / (1024 * 1024))
}

fn ticks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_uses_memory_and_time() {
        assert!(memory_mb().is_some_and(|memory| memory > 0));
        assert!(ticks().is_some());
    }
}
