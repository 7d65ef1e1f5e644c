//! From what a storage keeps of a run to its state.

use std::sync::Arc;

use super::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::Recorded;
use crate::run::RunState;
use crate::storage::{Storage, StoredRun};
use crate::workflow::{Program, resolve};

/// Events that are asked for at once.
const EVENTS_AT_ONCE: usize = 10_000;

/// What a stored run began with, with the sub-workflows that are kept with it.
pub(crate) fn program_of(stored: &StoredRun) -> Result<Arc<Program>> {
    let find = |name: &str| resolve(name, &stored.workflow, stored.linked.iter()).cloned();
    Program::link(&stored.workflow, find, Vec::new)
}

impl Inner {
    /// The state of a stored run: its last snapshot with what has happened since, or, if that snapshot
    /// cannot be read, its whole journal.
    pub(crate) async fn state_of(
        &self,
        id: &RunId,
        base: Arc<Program>,
        stored: &StoredRun,
    ) -> Result<RunState> {
        let Some(snapshot) = &stored.snapshot else {
            return Ok(RunState::replay(id.clone(), base, &stored.journal));
        };
        match RunState::restore(id, Arc::clone(&base), snapshot) {
            Ok(mut state) => {
                state.follow(&stored.journal);
                Ok(state)
            }
            Err(why) => {
                tracing::warn!(target: "stepwell", run_id = %id, %why, "a snapshot cannot be read");
                self.whole(id, base, stored.length(), &why).await
            }
        }
    }

    async fn whole(
        &self,
        id: &RunId,
        base: Arc<Program>,
        length: u64,
        why: &str,
    ) -> Result<RunState> {
        let mut state = RunState::new(id.clone(), base);
        while state.version() < length {
            let page = self.events(id, state.version(), length).await?;
            if page.is_empty() {
                let message = format!(
                    "its snapshot cannot be read: {why}; and of its journal the beginning is \
                     forgotten. Use the version of the program that wrote it, or a backup"
                );
                return Err(Error::new(ErrorKind::Damaged, message).of_run(id));
            }
            state.follow(&page);
        }
        Ok(state)
    }

    /// Events of a run from one position to before another; none if not even the first is there any
    /// more.
    pub(crate) async fn events(&self, id: &RunId, from: u64, to: u64) -> Result<Vec<Recorded>> {
        let most = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let page = self.storage.events(id, from, most.min(EVENTS_AT_ONCE)).await?;
        let in_order = (from..).zip(page).take_while(|(expected, (found, _))| expected == found);
        Ok(in_order.map(|(_, (_, recorded))| recorded).collect())
    }

    /// What has happened to a stored run from this position on, as far as it is still there.
    pub(crate) async fn since(
        &self,
        id: &RunId,
        from: u64,
        stored: &StoredRun,
    ) -> Result<Vec<Recorded>> {
        let mut since = Vec::new();
        while from + (since.len() as u64) < stored.from() {
            let page = self.events(id, from + since.len() as u64, stored.from()).await?;
            if page.is_empty() {
                break;
            }
            since.extend(page);
        }
        let known = usize::try_from(from.saturating_sub(stored.from())).unwrap_or(usize::MAX);
        since.extend_from_slice(stored.journal.get(known..).unwrap_or_default());
        Ok(since)
    }
}
