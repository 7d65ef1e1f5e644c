//! Removing runs that have ended.

use super::{Inner, Stored};
use crate::id::RunId;
use crate::storage::{Holding, Owner, Purge};
use crate::time::Timestamp;

/// A run that was removed and whose id is taken still.
#[derive(Debug)]
pub(super) struct Purged {
    pub(super) workflow: String,
    pub(super) owner: Owner,
}

impl Inner {
    pub(super) fn purge(&mut self, which: &Purge) -> Vec<RunId> {
        let mut named: Vec<RunId> = Vec::new();
        for (run, purged) in &self.purged {
            if purged.owner == which.owner || !self.is_alive(purged.owner) {
                named.push(run.clone());
            }
        }
        let goes: Vec<_> = self.finished(which).into_iter().take(which.room(named.len())).collect();
        named.truncate(which.limit - goes.len());
        for (_, run) in goes {
            self.locks.release_all(&run);
            if let Some(stored) = self.runs.remove(&run) {
                let workflow = stored.workflow.id().to_string();
                self.purged.insert(run.clone(), Purged { workflow, owner: which.owner });
                named.push(run);
            }
        }
        for run in &named {
            if let Some(purged) = self.purged.get_mut(run) {
                purged.owner = which.owner;
            }
        }
        named.sort_unstable();
        named
    }

    /// Finished runs that may go, the one that changed first before the others.
    fn finished(&self, which: &Purge) -> Vec<(Timestamp, RunId)> {
        let is_meant = |stored: &Stored| {
            let workflow = which.workflow.as_ref();
            stored.holding == Holding::Finished
                && workflow.is_none_or(|workflow| workflow == stored.workflow.id())
        };
        let all = self.runs.iter().filter(|(_, stored)| is_meant(stored));
        let mut all: Vec<_> = all.map(|(run, stored)| (stored.changed_at(), run, stored)).collect();
        all.sort_unstable_by_key(|(at, run, _)| (*at, *run));
        let over = which.keep.map_or(0, |keep| (all.len() as u64).saturating_sub(keep));
        let goes = (0..).zip(all).filter(|(place, (at, _, stored))| {
            let is_old = which.before.is_some_and(|before| *at <= before);
            (*place < over || is_old) && !stored.has_mail()
        });
        goes.map(|(_, (at, run, _))| (at, run.clone())).collect()
    }
}
