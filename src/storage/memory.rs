//! Everything in this process's memory: the default, and what other storages are compared with.

mod beginning;
mod purge;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use self::beginning::Beginning;
use self::purge::Purged;
use super::locks::Locks;
use super::{
    ANSWERS_KEPT, Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Holding, Message,
    NewRun, Owner, Purge, Reply, RunQuery, Storage, StoredRun, Summary, conflict, no_tables,
    not_found,
};
use crate::error::Result;
use crate::id::RunId;
use crate::journal::{Recorded, RunStatus};
use crate::time::Timestamp;
use crate::workflow::{Metadata, Workflow};

/// A storage that lasts as long as the process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// A run's id hashes to a keyed hash already.
    runs: FxHashMap<RunId, Box<Stored>>,
    /// Runs that nobody holds by when they are due.
    due: BTreeSet<(Timestamp, RunId)>,
    /// Parked and finished runs with a message.
    addressed: BTreeSet<RunId>,
    /// Held runs with a message.
    mail: BTreeSet<(Owner, RunId)>,
    owners: BTreeMap<Owner, Life>,
    /// How many runs each holds.
    held: BTreeMap<Owner, usize>,
    locks: Locks,
    messages: u64,
    purged: BTreeMap<RunId, Purged>,
}

/// What an owner has said of itself, and others of it.
#[derive(Debug, Default)]
struct Life {
    /// How often it has beaten. Kept when it is gone: if it comes back, it counts on, and who saw an
    /// earlier beat cannot take that for the last.
    beats: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Alive,
    Gone,
    Retired,
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
    answers: VecDeque<(u64, Answer)>,
    recoveries: u32,
    problem: Option<String>,
    beginning: Option<Box<Beginning>>,
}

impl Rare {
    /// Answers to what is not in the inbox are passed over.
    fn answer(&mut self, answers: Vec<(u64, Answer)>) {
        for (number, answer) in answers {
            if let Ok(place) = self.inbox.binary_search_by_key(&number, |(number, _)| *number) {
                self.inbox.remove(place);
                self.answers.push_back((number, answer));
            }
        }
        let over = self.answers.len().saturating_sub(ANSWERS_KEPT);
        drop(self.answers.drain(..over));
    }
}

impl Stored {
    fn has_mail(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.inbox.is_empty())
    }

    fn beginning(&self) -> Option<&Beginning> {
        self.rare.as_ref()?.beginning.as_deref()
    }

    /// The position of the first event in the journal.
    fn forgotten(&self) -> u64 {
        self.beginning().map_or(0, |beginning| beginning.forgotten)
    }

    /// The length that the journal has, with what is forgotten.
    fn length(&self) -> u64 {
        self.forgotten() + self.journal.len() as u64
    }

    fn changed_at(&self) -> Timestamp {
        let last = self.journal.last().map(|last| last.at);
        let before = || self.beginning().and_then(|beginning| beginning.changed_at);
        last.or_else(before).unwrap_or(self.created_at)
    }

    /// What has happened from this position on, as far as it is kept.
    fn events(&self, from: u64) -> impl Iterator<Item = (u64, Recorded)> + '_ {
        let (beginning, forgotten) = (self.beginning(), self.forgotten());
        let kept = beginning.into_iter().flat_map(move |beginning| beginning.kept_from(from));
        let first = usize::try_from(from.saturating_sub(forgotten)).unwrap_or(usize::MAX);
        kept.chain((forgotten..).zip(self.journal.iter().cloned()).skip(first))
    }
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
    fn unfile(&mut self, run: &RunId, holding: Holding, has_mail: bool) {
        match holding {
            Holding::Held(owner) => {
                if let Some(count) = self.held.get_mut(&owner) {
                    *count -= 1;
                    if *count == 0 {
                        self.held.remove(&owner);
                    }
                }
                if has_mail {
                    self.mail.remove(&(owner, run.clone()));
                }
            }
            Holding::Parked(Some(at)) | Holding::Aside(at) => {
                self.due.remove(&(at, run.clone()));
            }
            Holding::Parked(None) | Holding::Finished => {}
        }
        if has_mail {
            self.addressed.remove(run);
        }
    }

    fn file(&mut self, run: &RunId, holding: Holding, has_mail: bool) {
        match holding {
            Holding::Held(owner) => {
                *self.held.entry(owner).or_default() += 1;
                if has_mail {
                    self.mail.insert((owner, run.clone()));
                }
            }
            Holding::Parked(Some(at)) | Holding::Aside(at) => {
                self.due.insert((at, run.clone()));
            }
            Holding::Parked(None) | Holding::Finished => {}
        }
        if has_mail && matches!(holding, Holding::Parked(_) | Holding::Finished) {
            self.addressed.insert(run.clone());
        }
    }

    fn hold(&mut self, run: &RunId, holding: Holding) {
        let Some(stored) = self.runs.get_mut(run) else { return };
        let before = std::mem::replace(&mut stored.holding, holding);
        if !matches!(holding, Holding::Aside(_))
            && let Some(rare) = &mut stored.rare
        {
            rare.problem = None;
        }
        let has_mail = stored.has_mail();
        self.unfile(run, before, has_mail);
        self.file(run, holding, has_mail);
    }

    fn is_alive(&self, owner: Owner) -> bool {
        self.owners.get(&owner).is_some_and(|life| life.state == State::Alive)
    }

    /// Whether this run, asked for by name, may be taken.
    fn is_free(&self, run: &RunId, taker: Owner) -> bool {
        self.runs.get(run).is_some_and(|stored| match stored.holding {
            Holding::Held(owner) => owner != taker && !self.is_alive(owner),
            Holding::Parked(_) | Holding::Aside(_) => true,
            Holding::Finished => stored.has_mail(),
        })
    }

    /// Runs that may be taken, sorted, so that equal histories go equally.
    fn free(&self, taker: Owner, now: Timestamp, limit: usize) -> Vec<RunId> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, run)| run);
        let mut chosen = BTreeSet::new();
        for run in due.chain(&self.addressed) {
            // A run can be due and have a message, and is one all the same.
            if chosen.len() == limit {
                break;
            }
            chosen.insert(run);
        }
        let mut runs: Vec<RunId> = chosen.into_iter().cloned().collect();
        for owner in self.held.keys().filter(|owner| **owner != taker && !self.is_alive(**owner)) {
            // Rare enough to look at every run for it.
            let held = |stored: &Stored| stored.holding == Holding::Held(*owner);
            let all = self.runs.iter().filter(|(_, stored)| held(stored));
            let mut left: Vec<RunId> = all.map(|(run, _)| run.clone()).collect();
            left.sort_unstable();
            let room = limit.saturating_sub(runs.len());
            runs.extend(left.into_iter().take(room));
        }
        runs
    }

    fn take(&mut self, run: RunId, taker: Owner) -> Option<Claimed> {
        let stored = self.runs.get_mut(&run)?;
        let rare = &mut stored.rare;
        if let Holding::Held(owner) = stored.holding
            && self.owners.get(&owner).is_none_or(|life| life.state != State::Retired)
        {
            let recoveries = &mut rare.get_or_insert_default().recoveries;
            *recoveries = recoveries.saturating_add(1);
        }
        let recoveries = rare.as_ref().map_or(0, |rare| rare.recoveries);
        self.hold(&run, Holding::Held(taker));
        Some(Claimed { run, recoveries })
    }
}

impl Storage for Memory {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        let mut inner = self.inner();
        if let Some(stored) = inner.runs.get(&run.id) {
            return Reply::ready(Ok(Created::Exists(stored.workflow.id().to_string())));
        }
        if let Some(purged) = inner.purged.get(&run.id) {
            return Reply::ready(Ok(Created::Exists(purged.workflow.clone())));
        }
        let rare = (run.user.is_some() || !run.metadata.is_empty())
            .then(|| Box::new(Rare { user: run.user, metadata: run.metadata, ..Rare::default() }));
        // A step that goes well has three events; asking for them at once saves moving them.
        let expected = 3 * run.workflow.plan().len() + 2;
        let mut journal = run.journal;
        journal.reserve_exact(expected.min(JOURNAL_RESERVED_MAX).saturating_sub(journal.len()));
        inner.file(&run.id, run.holding, false);
        let stored = Box::new(Stored {
            workflow: run.workflow,
            linked: run.linked,
            journal,
            status: run.status,
            holding: run.holding,
            created_at: run.at,
            rare,
        });
        inner.runs.insert(run.id, stored);
        Reply::ready(Ok(Created::New))
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let mut inner = self.inner();
        let Inner { runs, locks, mail, addressed, .. } = &mut *inner;
        let Some(stored) = runs.get_mut(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        let held_by_another = |owner| owner != commit.owner;
        if stored.length() != commit.expected
            || matches!(stored.holding, Holding::Held(owner) if held_by_another(owner))
        {
            return Reply::ready(Err(conflict(run)));
        }
        // Taken out, so that none need be dropped: nearly every commit has none.
        if let Some(_writes) = commit.writes {
            return Reply::ready(Err(no_tables(run)));
        }
        stored.journal.append(&mut commit.events);
        stored.status = commit.status;
        if let Some(snapshot) = commit.snapshot {
            let rare = stored.rare.get_or_insert_default();
            rare.beginning.get_or_insert_default().take(snapshot, &mut stored.journal);
        }
        if let Some(rare) = stored.rare.as_mut() {
            if commit.recovered {
                rare.recoveries = 0;
            }
            if !commit.answers.is_empty() {
                rare.answer(commit.answers);
                if rare.inbox.is_empty() {
                    addressed.remove(run);
                    if let Holding::Held(owner) = stored.holding {
                        mail.remove(&(owner, run.clone()));
                    }
                }
            }
        }
        if !commit.released.is_empty() {
            locks.release(run, &commit.released);
        }
        if commit.status.is_end() {
            locks.release_all(run);
        }
        if stored.holding != commit.holding {
            if !matches!(commit.holding, Holding::Held(_)) {
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
            let snapshot = stored.beginning().and_then(|beginning| beginning.snapshot.clone());
            let from = snapshot.as_ref().map_or(0, |snapshot| snapshot.events);
            StoredRun {
                workflow: stored.workflow.clone(),
                linked: stored.linked.clone(),
                user: rare.and_then(|rare| rare.user.clone()),
                metadata: rare.map(|rare| rare.metadata.clone()).unwrap_or_default(),
                journal: match snapshot {
                    Some(_) => stored.events(from).map(|(_, recorded)| recorded).collect(),
                    None => stored.journal.clone(),
                },
                snapshot,
                status: stored.status,
                holding: stored.holding,
                recoveries: rare.map_or(0, |rare| rare.recoveries),
            }
        })))
    }

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        let inner = self.inner();
        let found = inner.runs.get(run).map(|stored| stored.events(from).take(limit).collect());
        Reply::ready(Ok(found.unwrap_or_default()))
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        let mut inner = self.inner();
        inner.messages += 1;
        let number = inner.messages;
        let Some(stored) = inner.runs.get_mut(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        stored.rare.get_or_insert_default().inbox.push((number, message));
        match stored.holding {
            Holding::Held(owner) => drop(inner.mail.insert((owner, run.clone()))),
            Holding::Parked(_) | Holding::Finished => drop(inner.addressed.insert(run.clone())),
            Holding::Aside(_) => {}
        }
        Reply::ready(Ok(number))
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        let inner = self.inner();
        let rare = inner.runs.get(run).and_then(|stored| stored.rare.as_ref());
        Reply::ready(Ok(rare.map_or_else(Vec::new, |rare| rare.inbox.clone())))
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        let inner = self.inner();
        let rare = inner.runs.get(run).and_then(|stored| stored.rare.as_ref());
        let answers = rare.into_iter().flat_map(|rare| &rare.answers);
        let found = answers.into_iter().find(|(other, _)| *other == number);
        Reply::ready(Ok(found.map(|(_, answer)| answer.clone())))
    }

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        let mut inner = self.inner();
        let Some(stored) = inner.runs.get(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        if stored.length() != asked.expected
            || stored.holding != Holding::Held(asked.owner)
            || stored.status.is_end()
        {
            return Reply::ready(Err(conflict(run)));
        }
        Reply::ready(Ok(inner.locks.acquire(run, asked.step, asked.wants, asked.now)))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        let mut inner = self.inner();
        let life = inner.owners.entry(owner).or_default();
        life.beats += 1;
        life.state = State::Alive;
        let alive = inner.owners.iter().filter(|(_, life)| life.state == State::Alive);
        let beat = |(owner, life): (&Owner, &Life)| Beat { owner: *owner, count: life.beats };
        Reply::ready(Ok(alive.map(beat).collect()))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        self.inner().owners.entry(owner).or_default().state = State::Retired;
        Reply::ready(Ok(()))
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        let inner = self.inner();
        let of = inner.mail.iter().filter(|(holder, _)| *holder == owner);
        Reply::ready(Ok(of.take(limit).map(|(_, run)| run.clone()).collect()))
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        let inner = self.inner();
        let is_held = |stored: &Stored| stored.holding == Holding::Held(owner);
        let all = inner.runs.iter().filter(|(_, stored)| is_held(stored)).map(|(run, _)| run);
        let mut held: Vec<RunId> =
            all.filter(|run| after.as_ref().is_none_or(|after| *run > after)).cloned().collect();
        held.sort_unstable();
        held.truncate(limit);
        Reply::ready(Ok(held))
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        let mut inner = self.inner();
        for beat in claim.gone {
            let last = inner.owners.get_mut(&beat.owner).filter(|life| life.beats == beat.count);
            if let Some(life) = last.filter(|life| life.state == State::Alive) {
                life.state = State::Gone;
            }
        }
        let runs = match claim.run {
            Some(run) if claim.limit > 0 && inner.is_free(&run, claim.owner) => vec![run],
            Some(_) => Vec::new(),
            None => inner.free(claim.owner, claim.now, claim.limit),
        };
        let taken = runs.into_iter().filter_map(|run| inner.take(run, claim.owner)).collect();
        // Those that have retired are remembered as long as they hold something.
        let Inner { owners, held, .. } = &mut *inner;
        owners.retain(|owner, life| life.state != State::Retired || held.contains_key(owner));
        Reply::ready(Ok(taken))
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        let mut inner = self.inner();
        let Some(stored) = inner.runs.get_mut(run) else {
            return Reply::ready(Err(not_found(run)));
        };
        if stored.holding == Holding::Held(owner) {
            stored.rare.get_or_insert_default().problem = Some(why);
            inner.hold(run, Holding::Aside(until));
        }
        Reply::ready(Ok(()))
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        let inner = self.inner();
        let now = inner.addressed.first().map(|_| Timestamp::EPOCH);
        Reply::ready(Ok(now.or_else(|| inner.due.first().map(|(at, _)| *at))))
    }

    /// No other process, and few other engines.
    fn poll_every(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        let inner = self.inner();
        let mut found: Vec<Summary> = inner
            .runs
            .iter()
            .filter(|(_, run)| query.workflow.as_deref().is_none_or(|id| id == run.workflow.id()))
            .filter(|(_, run)| query.status.is_none_or(|status| status == run.status))
            .filter(|(_, run)| !query.live || !run.status.is_end())
            .filter(|(id, run)| {
                let last = query.before.as_ref();
                last.is_none_or(|(at, last)| (run.created_at, *id) < (*at, last))
            })
            .map(|(id, run)| Summary {
                id: id.clone(),
                workflow: run.workflow.id().to_string(),
                status: run.status,
                created_at: run.created_at,
                changed_at: run.changed_at(),
                events: run.length(),
                forgotten: run.forgotten(),
                problem: run.rare.as_ref().and_then(|rare| rare.problem.clone()),
            })
            .collect();
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        found.truncate(query.most());
        Reply::ready(Ok(found))
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        Reply::ready(Ok(self.inner().purge(&which)))
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        let mut inner = self.inner();
        for run in runs {
            if inner.purged.get(&run).is_some_and(|purged| purged.owner == owner) {
                inner.purged.remove(&run);
            }
        }
        Reply::ready(Ok(()))
    }
}
