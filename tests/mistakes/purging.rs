//! Mistakes in removing runs.

use std::time::Duration;

use futures::executor::block_on;
use stepwell::storage::{Holding, Owner, Purge, Reply, Storage, StoredRun};
use stepwell::{Result, RunId, Timestamp};

use super::{Broken, Mistake as M};

impl Broken {
    fn ended(&self) -> Vec<RunId> {
        let ended = |(_, run): &(RunId, StoredRun)| run.holding == Holding::Finished;
        self.runs().into_iter().filter(ended).map(|(run, _)| run).collect()
    }

    pub(super) fn purge_wrongly(&self, mut which: Purge) -> Reply<Result<Vec<RunId>>> {
        let (owner, limit) = (which.owner, which.limit);
        match self.mistake {
            M::PurgeNever => return Reply::ready(Ok(Vec::new())),
            M::PurgeAll => which.keep = Some(0),
            M::PurgeByAgeOnly => which.keep = None,
            M::PurgeByNumberOnly => which.before = None,
            M::PurgeInWholeSeconds => {
                which.before = which.before.map(|before| before + Duration::from_millis(1));
            }
            M::PurgeAnyWorkflow => which.workflow = None,
            M::PurgeWithoutLimit => which.limit = usize::MAX,
            M::PurgeCountsAll => {
                let others = self.runs().len() as u64 - self.ended().len() as u64;
                which.keep = which.keep.map(|keep| keep.saturating_sub(others));
            }
            M::PurgeWithMessages => {
                self.ended().iter().for_each(|run| self.answer_all(run));
            }
            M::PurgeRunning => {
                for (run, _) in self.runs() {
                    self.force(&run, |commit| commit.holding = Holding::Finished);
                }
            }
            M::PurgeTellsEverybody => {
                let others = self.notes().purged.clone();
                which.owner = others.first().map_or(owner, |(_, other)| *other);
            }
            M::PurgeLeavesNobodys => {
                // Whoever removed something stays alive.
                let others = self.notes().purged.clone();
                others.iter().for_each(|(_, other)| drop(block_on(self.inner.beat(*other))));
            }
            _ => {}
        }
        let mut named = block_on(self.inner.purge(which)).unwrap();
        let before = self.notes().purged.clone();
        self.notes().purged.extend(named.iter().map(|run| (run.clone(), owner)));
        match self.mistake {
            M::PurgeFreesIds => block_on(self.inner.clear(owner, named.clone())).unwrap(),
            M::PurgeTellsOnce => named.retain(|run| before.iter().all(|(other, _)| other != run)),
            M::PurgeTellsHalf => {
                let told = before.iter().filter(|(run, _)| named.contains(run)).count();
                named.truncate(named.len() - told.min(limit / 2));
            }
            M::PurgeWithoutLimit if limit == 0 => named.clear(),
            _ => {}
        }
        Reply::ready(Ok(named))
    }

    pub(super) fn clear_wrongly(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        match self.mistake {
            M::ClearNever => return Reply::ready(Ok(())),
            M::ClearByAnybody => {
                let all: Vec<Owner> = self.notes().purged.iter().map(|(_, owner)| *owner).collect();
                for owner in all {
                    block_on(self.inner.clear(owner, runs.clone())).unwrap();
                }
            }
            M::ClearRemoves => {
                let (before, keep, workflow) = (Some(Timestamp::MAX), None, None);
                let which = Purge { owner, before, keep, workflow, limit: usize::MAX };
                block_on(self.inner.purge(which)).unwrap();
            }
            _ => {}
        }
        self.inner.clear(owner, runs)
    }
}
