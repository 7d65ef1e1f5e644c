//! Limits of time for attempts, and for all attempts of a step together.

use std::collections::BTreeMap;
use std::time::Duration;

use stepwell::journal::Recorded;
use stepwell::run::RunState;
use stepwell::workflow::NodeKind;
use stepwell::{ErrorClass, Event, RunId, StepKey, Timestamp};

/// What has begun, as far as the journal was read.
#[derive(Default)]
pub(super) struct Limits {
    begun: BTreeMap<StepKey, Attempts>,
}

/// By the clock of who recorded it, and by the one that only goes forward.
#[derive(Clone, Copy)]
struct Attempts {
    first: (Timestamp, Duration),
    last: (Timestamp, Duration),
}

impl Limits {
    /// Reads one event, before the state has heard of it. No limit is reached before its time; how late
    /// it is, if one is.
    pub(super) fn n5_reached(
        &mut self,
        run: &RunId,
        state: &RunState,
        recorded: &Recorded,
        at: Duration,
    ) -> Option<Duration> {
        let (step, class) = match &recorded.event {
            Event::StepStarted { step, .. } => {
                let now = (recorded.at, at);
                let begun = self.begun.entry(*step).or_insert(Attempts { first: now, last: now });
                begun.last = now;
                return None;
            }
            Event::AttemptFailed { step, failed } => (*step, failed.failure.class),
            Event::StepFailed { step, failure } => (*step, failure.class),
            Event::StepReset { step, .. } => {
                self.begun.remove(step);
                return None;
            }
            // Steps have other places now.
            Event::WorkflowModified(_) => {
                self.begun.clear();
                return None;
            }
            _ => return None,
        };
        // What is around a step fails as that does.
        let node = state.node(step).filter(|node| matches!(node.kind, NodeKind::Task { .. }))?;
        if class != ErrorClass::Timeout {
            return None;
        }
        let Attempts { first, last } = *self.begun.get(&step)?;
        let limits =
            [node.timeout.map(|most| (first, most)), node.attempt_timeout.map(|most| (last, most))];
        let reached =
            limits.into_iter().flatten().filter(|(from, most)| recorded.at >= from.0 + *most);
        let late = reached.map(|(from, most)| at.saturating_sub(from.1 + most)).max();
        let path = state.path(step);
        assert!(late.is_some(), "N5 {run}: {path} was stopped at {}, before its time", recorded.at);
        late
    }
}
