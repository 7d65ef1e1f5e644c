//! What this process uses, looked at now and then.

use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::runtime::{ProcessUsage, Runtime};

/// What the process used when it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) memory_mb: u64,
    /// CPU in percent of all cores, over the time since it was looked at before.
    pub(crate) cpu_percent: u32,
}

/// Looks at the process through the runtime, now and then.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Option<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    cpu_time: Duration,
    usage: Usage,
}

/// How long a look is good for.
const GOOD_FOR: Duration = Duration::from_millis(500);
impl Sampler {
    pub(crate) fn usage(&self, runtime: &dyn Runtime) -> Usage {
        let now = runtime.monotonic();
        let mut last = lock(&self.0);
        if let Some(sample) = last.filter(|sample| now.saturating_sub(sample.at) < GOOD_FOR) {
            return sample.usage;
        }
        let ProcessUsage { memory_mb, cpu_time } = runtime.usage();
        let cpu_percent = last.map_or(0, |before| {
            let seconds = now.saturating_sub(before.at).as_secs_f64();
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let used = cpu_time.saturating_sub(before.cpu_time).as_secs_f64();
            // A long silence says nothing of now.
            if seconds > 10.0 { 0 } else { (used / seconds / cores as f64 * 100.0) as u32 }
        });
        let usage = Usage { memory_mb, cpu_percent };
        *last = Some(Sample { at: now, cpu_time, usage });
        usage
    }
}
