//! The same life, gone on with from snapshots.

use std::sync::Arc;

use stepwell::journal::Recorded;
use stepwell::run::{Command, Rejection, RunState};
use stepwell::workflow::Program;
use stepwell::{RunId, Timestamp};

/// Goes on from snapshots that were made at many lengths of the journal.
pub(crate) struct Shadow {
    base: Arc<Program>,
    id: RunId,
    /// One that was made at each power of two, with what has happened since.
    behind: Vec<RunState>,
}

impl Shadow {
    pub(crate) fn new(id: &RunId, base: &Arc<Program>) -> Self {
        Self { base: Arc::clone(base), id: id.clone(), behind: Vec::new() }
    }

    fn restored(&self, state: &RunState) -> RunState {
        let snapshot = state.clone().snapshot(10).unwrap();
        assert_eq!(snapshot.events, state.version());
        let restored = RunState::restore(&self.id, Arc::clone(&self.base), &snapshot).unwrap();
        assert_eq!(restored, *state, "from {}", snapshot.state);
        restored
    }

    /// What follows from a command in the state that was written and read.
    pub(crate) fn decide(
        &self,
        state: &RunState,
        command: Command,
        now: Timestamp,
    ) -> (Result<(), Rejection>, Vec<Recorded>) {
        let (mut restored, mut events) = (self.restored(state), Vec::new());
        let answer = restored.decide_into(command, now, &mut events);
        (answer, events)
    }

    /// A snapshot and what has happened since make the state that the whole journal makes.
    pub(crate) fn follow(&mut self, news: &[Recorded], state: &RunState) {
        for behind in &mut self.behind {
            news.iter().for_each(|recorded| behind.apply(recorded.at, &recorded.event));
            assert_eq!(behind, state);
            assert_eq!(
                behind.ready().collect::<Vec<_>>(),
                state.ready().collect::<Vec<_>>(),
                "in the same order"
            );
        }
        if state.version() >= 1 << self.behind.len() {
            self.behind.push(self.restored(state));
        }
    }
}
