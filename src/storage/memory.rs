//! Everything in this process's memory: the default, and what other storages are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::locks::Locks;
use super::{
    Commit, Created, Denied, Holding, LIST_MAX, Message, NewRun, Owner, Reply, RunQuery, Storage,
    StoredRun, Summary,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunId, StepKey};
use crate::journal::{Recorded, RunStatus};
use crate::run::Want;
use crate::time::Timestamp;
use crate::workflow::{Metadata, Workflow};

/// A storage that lasts as long as the process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// A run's id hashes to a keyed hash already.
    runs: FxHashMap<RunId, Box<Stored>>,
    /// Parked runs by when they are due.
    due: BTreeSet<(Timestamp, RunId)>,
    /// Parked and finished runs with a message.
    addressed: BTreeSet<RunId>,
    owners: BTreeMap<Owner, Timestamp>,
    locks: Locks,
    messages: u64,
}

#[derive(Debug)]
struct Stored {
    workflow: Workflow,
    linked: Vec<Workflow>,
    journal: Vec<Recorded>,
    status: RunStatus,
    holding: Holding,
    created_at: Timestamp,
    rare: Option<Box<Rare>>,
}

/// What most runs do not have.
#[derive(Debug, Default)]
struct Rare {
    user: Option<String>,
    metadata: Metadata,
    inbox: Vec<(u64, Message)>,
}

/// Events that room is made for before they happen.
const JOURNAL_RESERVED_MAX: usize = 100_000;

impl Memory {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing here can panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn unpark(&mut self, run: &RunId, holding: Holding) {
        match holding {
            Holding::Parked(due) => {
                if let Some(at) = due {
                    self.due.remove(&(at, run.clone()));
                }
                self.addressed.remove(run);
            }
            Holding::Finished => drop(self.addressed.remove(run)),
            Holding::Held(_) => {}
        }
    }

    fn park(&mut self, run: &RunId, holding: Holding, addressed: bool) {
        match holding {
            Holding::Parked(due) => {
                if let Some(at) = due {
                    self.due.insert((at, run.clone()));
                }
                if addressed {
                    self.addressed.insert(run.clone());
                }
            }
            Holding::Finished if addressed => drop(self.addressed.insert(run.clone())),
            Holding::Held(_) | Holding::Finished => {}
        }
    }

    fn hold(&mut self, run: &RunId, holding: Holding) {
        let Some(stored) = self.runs.get_mut(run) else { return };
        let before = std::mem::replace(&mut stored.holding, holding);
        let addressed = stored.rare.as_ref().is_some_and(|rare| !rare.inbox.is_empty());
        self.unpark(run, before);
        self.park(run, holding, addressed);
    }
}

impl Storage for Memory {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        let mut inner = self.inner();
        if let Some(stored) = inner.runs.get(&run.id) {
            return Reply::ready(Ok(Created::Exists(stored.workflow.id().to_string())));
        }
        let plain = run.user.is_none() && run.metadata.is_empty();
        let rare = Rare { user: run.user, metadata: run.metadata, inbox: Vec::new() };
        // A step that goes well has three events; asking for them at once saves moving them.
        let expected = 3 * run.workflow.plan().len() + 2;
        let mut journal = run.journal;
        journal.reserve_exact(expected.min(JOURNAL_RESERVED_MAX).saturating_sub(journal.len()));
        inner.park(&run.id, run.holding, false);
        let stored = Box::new(Stored {
            workflow: run.workflow,
            linked: run.linked,
            journal,
            status: run.status,
            holding: run.holding,
            created_at: run.at,
            rare: (!plain).then(|| Box::new(rare)),
        });
        inner.runs.insert(run.id, stored);
        Reply::ready(Ok(Created::New))
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let mut inner = self.inner();
        let Inner { runs, locks, .. } = &mut *inner;
        let Some(stored) = runs.get_mut(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        if stored.journal.len() as u64 != commit.expected {
            let message = "somebody else has written to this run";
            return Reply::ready(Err(Error::new(ErrorKind::Conflict, message).of_run(run)));
        }
        stored.journal.append(&mut commit.events);
        stored.status = commit.status;
        if let Some(rare) = stored.rare.as_mut().filter(|_| !commit.consumed.is_empty()) {
            rare.inbox.retain(|(number, _)| !commit.consumed.contains(number));
        }
        if !commit.released.is_empty() {
            locks.release(run, &commit.released);
        }
        if commit.status.is_end() {
            locks.release_all(run);
        }
        let left = stored.rare.as_ref().is_some_and(|rare| !rare.inbox.is_empty());
        let idle = !matches!(commit.holding, Holding::Held(_));
        if stored.holding != commit.holding || (idle && left) {
            if idle {
                stored.journal.shrink_to_fit();
            }
            inner.hold(run, commit.holding);
        }
        Reply::ready(Ok(commit.events))
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        let inner = self.inner();
        Reply::ready(Ok(inner.runs.get(run).map(|stored| {
            let rare = stored.rare.as_ref();
            StoredRun {
                workflow: stored.workflow.clone(),
                linked: stored.linked.clone(),
                user: rare.and_then(|rare| rare.user.clone()),
                metadata: rare.map(|rare| rare.metadata.clone()).unwrap_or_default(),
                journal: stored.journal.clone(),
                status: stored.status,
                holding: stored.holding,
            }
        })))
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        let mut inner = self.inner();
        inner.messages += 1;
        let number = inner.messages;
        let Some(stored) = inner.runs.get_mut(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        stored.rare.get_or_insert_default().inbox.push((number, message));
        if !matches!(stored.holding, Holding::Held(_)) {
            inner.addressed.insert(run.clone());
        }
        Reply::ready(Ok(number))
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        let inner = self.inner();
        let rare = inner.runs.get(run).and_then(|stored| stored.rare.as_ref());
        Reply::ready(Ok(rare.map_or_else(Vec::new, |rare| rare.inbox.clone())))
    }

    fn acquire(
        &self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Reply<Result<Option<Denied>>> {
        Reply::ready(Ok(self.inner().locks.acquire(run, step, wants, now)))
    }

    fn heartbeat(&self, owner: Owner, until: Timestamp) -> Reply<Result<()>> {
        self.inner().owners.insert(owner, until);
        Reply::ready(Ok(()))
    }

    fn claim(&self, owner: Owner, now: Timestamp, limit: usize) -> Reply<Result<Vec<RunId>>> {
        let mut inner = self.inner();
        let due = inner.due.iter().take_while(|(at, _)| *at <= now).map(|(_, run)| run);
        let mut runs: Vec<RunId> = due.chain(&inner.addressed).take(limit).cloned().collect();
        runs.sort_unstable();
        runs.dedup();
        let lapsed: Vec<Owner> = inner
            .owners
            .iter()
            .filter(|(other, until)| **other != owner && **until <= now)
            .map(|(other, _)| *other)
            .collect();
        for other in lapsed {
            // Rare enough to look at every run for it; sorted, so that equal histories go equally.
            let held = |stored: &Stored| stored.holding == Holding::Held(other);
            let all = inner.runs.iter().filter(|(_, stored)| held(stored));
            let mut left: Vec<RunId> = all.map(|(run, _)| run.clone()).collect();
            left.sort_unstable();
            let room = limit.saturating_sub(runs.len());
            if left.len() <= room {
                inner.owners.remove(&other);
            }
            runs.extend(left.into_iter().take(room));
        }
        for run in &runs {
            inner.hold(run, Holding::Held(owner));
        }
        Reply::ready(Ok(runs))
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        let inner = self.inner();
        let now = inner.addressed.first().map(|_| Timestamp::EPOCH);
        Reply::ready(Ok(now.or_else(|| inner.due.first().map(|(at, _)| *at))))
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        let inner = self.inner();
        let mut found: Vec<Summary> = inner
            .runs
            .iter()
            .filter(|(_, run)| query.workflow.as_deref().is_none_or(|id| id == run.workflow.id()))
            .filter(|(_, run)| query.status.is_none_or(|status| status == run.status))
            .map(|(id, run)| Summary {
                id: id.clone(),
                workflow: run.workflow.id().to_string(),
                status: run.status,
                created_at: run.created_at,
                changed_at: run.journal.last().map_or(run.created_at, |last| last.at),
                events: run.journal.len() as u64,
            })
            .collect();
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        found.truncate(if query.limit == 0 { LIST_MAX } else { query.limit.min(LIST_MAX) });
        Reply::ready(Ok(found))
    }
}

fn not_found(run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such run").of_run(run)
}
