//! What this process uses, looked at now and then.

use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::runtime::Runtime;

/// What the process used when it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) memory_mb: u64,
    /// CPU in percent of all cores, over the time since it was looked at before.
    pub(crate) cpu_percent: u32,
}

/// Reads `/proc/self` (proc(5)); elsewhere than on Linux nothing is known and nothing waits.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Option<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    /// Clock ticks of CPU time.
    ticks: u64,
    usage: Usage,
}

/// How long a look is good for.
const GOOD_FOR: Duration = Duration::from_millis(500);
/// Clock ticks per second: 100 on every Linux that Rust runs on (`USER_HZ`).
const TICKS: f64 = 100.0;
/// Bytes of a page of memory; larger ones exist on few machines and read as too little memory.
const PAGE: u64 = 4096;

impl Sampler {
    pub(crate) fn usage(&self, runtime: &dyn Runtime) -> Usage {
        let now = runtime.monotonic();
        let mut last = lock(&self.0);
        if let Some(sample) = last.filter(|sample| now.saturating_sub(sample.at) < GOOD_FOR) {
            return sample.usage;
        }
        let ticks = ticks().unwrap_or(0);
        let cpu_percent = last.map_or(0, |before| {
            let seconds = now.saturating_sub(before.at).as_secs_f64();
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let used = ticks.saturating_sub(before.ticks) as f64 / TICKS;
            // A long silence says nothing of now.
            if seconds > 10.0 { 0 } else { (used / seconds / cores as f64 * 100.0) as u32 }
        });
        let usage = Usage { memory_mb: memory_mb().unwrap_or(0), cpu_percent };
        *last = Some(Sample { at: now, ticks, usage });
        usage
    }
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
