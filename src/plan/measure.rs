//! How long a plan takes at least and at most, from how long its steps take.

use std::time::Duration;

use super::ExecutionPlan;

/// The chain of dependent steps that takes longest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CriticalPath {
    /// Its steps, first to last.
    pub steps: Vec<u32>,
    /// The sum of their times.
    pub length: Duration,
}

impl ExecutionPlan {
    /// The chain of dependent steps that takes longest when each takes `time(step)`: no number of
    /// workers makes the whole faster.
    #[must_use]
    pub fn critical_path(&self, time: impl Fn(u32) -> Duration) -> CriticalPath {
        let mut ends = vec![Duration::ZERO; self.len()];
        let mut came_from: Vec<Option<u32>> = vec![None; self.len()];
        let mut last: Option<u32> = None;
        for &step in self.order() {
            let mut begin = Duration::ZERO;
            for link in self.predecessors(step) {
                if ends[link.step as usize] > begin || came_from[step as usize].is_none() {
                    begin = begin.max(ends[link.step as usize]);
                    came_from[step as usize] = Some(link.step);
                }
            }
            ends[step as usize] = begin.saturating_add(time(step));
            if last.is_none_or(|last| ends[step as usize] > ends[last as usize]) {
                last = Some(step);
            }
        }
        let length = last.map_or(Duration::ZERO, |last| ends[last as usize]);
        let mut steps = Vec::new();
        while let Some(step) = last {
            steps.push(step);
            last = came_from[step as usize];
        }
        steps.reverse();
        CriticalPath { steps, length }
    }

    /// The time that one worker needs.
    #[must_use]
    pub fn total_work(&self, time: impl Fn(u32) -> Duration) -> Duration {
        (0..self.len() as u32).map(time).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// No schedule over this many workers is faster: the critical path, or an even share of the
    /// work.
    #[must_use]
    pub fn lower_bound(&self, time: impl Fn(u32) -> Duration, workers: u32) -> Duration {
        let share = self.total_work(&time) / workers.max(1);
        self.critical_path(time).length.max(share)
    }

    /// No schedule that never leaves a worker idle while a step is ready is slower: critical path +
    /// (work - critical path) / workers (R. L. Graham, "Bounds on multiprocessing timing
    /// anomalies", 1969).
    #[must_use]
    pub fn graham_bound(&self, time: impl Fn(u32) -> Duration, workers: u32) -> Duration {
        let critical = self.critical_path(&time).length;
        critical + self.total_work(time).saturating_sub(critical) / workers.max(1)
    }
}
