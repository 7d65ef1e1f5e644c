//! What really happened, in the order in which it did: what the storage has done, which code has run,
//! and what has gone wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::Recorded;
use stepwell::run::Want;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Holding, Message, NewRun,
    Owner, Purge, Reply, RunQuery, Storage, StoredRun, Summary,
};
use stepwell::testing::{Fault, VirtualRuntime};
use stepwell::{Error, ErrorKind, Result, RunId, StepKey, Timestamp, Value, Workflow};

use super::mistakes::Mistake;
use super::world::LEASE;

/// One thing that has happened.
#[derive(Clone)]
pub(crate) struct Noted {
    /// By the clock that only goes forward.
    pub(crate) at: Duration,
    /// By the clock that is set.
    pub(crate) now: Timestamp,
    pub(crate) engine: usize,
    pub(crate) what: What,
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, now, engine, what } = self;
        match what {
            What::Faulty(method, fault) => {
                write!(f, "{at:?} ({now}) {engine}: {method} {fault:?}")
            }
            what => write!(f, "{at:?} ({now}) {engine}: {what:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Created(Box<Made>),
    Committed(Box<Done>),
    Claimed {
        run: RunId,
        by: Owner,
    },
    Aside {
        run: RunId,
        why: String,
        /// Whether those who ask are told why.
        is_told: bool,
    },
    Granted {
        run: RunId,
        step: StepKey,
        wants: Vec<Want>,
    },
    Purged(Box<Purged>),
    /// These ids may be used again.
    Cleared {
        runs: Vec<RunId>,
        by: Owner,
    },
    /// Who an engine is to the others is somebody else each time that it has retired.
    Beat(Owner),
    Retired(Owner),
    /// Code of a step begins.
    Begun(Box<Begun>),
    /// The one that began at this place of the tape has ended, or was dropped.
    Left {
        body: usize,
        has_ended: bool,
    },
    Faulty(&'static str, Fault),
    /// Nothing of the engine runs from now on, or it does again.
    Stopped(bool),
    /// What the engine was at is dropped: it crashed, or its service has ended.
    Over,
    ClockSet,
}

#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) run: RunId,
    pub(crate) workflow: Workflow,
    pub(crate) linked: Vec<Workflow>,
    pub(crate) events: Vec<Recorded>,
    pub(crate) held_by: Option<Owner>,
}

/// Runs that were removed, or whose ids are to be cleared.
#[derive(Clone, Debug)]
pub(crate) struct Purged {
    pub(crate) by: Owner,
    pub(crate) runs: Vec<RunId>,
    pub(crate) before: Option<Timestamp>,
    /// How long before, by the clock of who removes them.
    pub(crate) age: Option<Duration>,
    pub(crate) keep: Option<u64>,
    /// Those that had a message.
    pub(crate) mailed: Vec<RunId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) run: RunId,
    pub(crate) from: u64,
    pub(crate) events: Vec<Recorded>,
    pub(crate) held_by: Option<Owner>,
    pub(crate) has_ended: bool,
    pub(crate) released: Vec<StepKey>,
}

#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) run: RunId,
    pub(crate) path: String,
    pub(crate) attempt: u32,
    pub(crate) key: String,
    /// Whether it must not be begun twice.
    pub(crate) is_once: bool,
    /// Its inputs.
    pub(crate) read: Value,
}

#[derive(Clone)]
pub(crate) struct Tape {
    time: VirtualRuntime,
    noted: Arc<Mutex<Vec<Noted>>>,
    /// How often a storage was called, and when last.
    calls: Arc<Mutex<(Duration, u64)>>,
    /// When each engine has beaten last, by its own clock.
    beats: Arc<Mutex<BTreeMap<Owner, Timestamp>>>,
    removed: Arc<Mutex<BTreeSet<RunId>>>,
}

/// What is said of a run that cannot be read.
pub(crate) const DAMAGE: &str = "what is kept of it is damaged";

/// Two of the runs of a simulation, so that others go on beside them.
pub(crate) fn can_be_damaged(run: &RunId) -> bool {
    run.as_str().ends_with("-0") || run.as_str().ends_with("-1")
}

/// Calls of a storage at one instant after which somebody must be asking without end.
const CALLS_MAX: u64 = 4_000;

impl Tape {
    pub(crate) fn new(time: &VirtualRuntime) -> Self {
        let (noted, calls, beats, removed) = Default::default();
        Self { time: time.clone(), noted, calls, beats, removed }
    }

    /// Whether a run has been removed, though it may be there again.
    pub(crate) fn was_removed(&self, run: &RunId) -> bool {
        self.removed.lock().unwrap().contains(run)
    }

    /// Where on the tape it is.
    pub(crate) fn note(&self, engine: usize, what: What) -> usize {
        if let What::Purged(purged) = &what {
            self.removed.lock().unwrap().extend(purged.runs.iter().cloned());
        }
        let noted = Noted { at: self.time.monotonic(), now: self.time.now(), engine, what };
        let mut tape = self.noted.lock().unwrap();
        tape.push(noted);
        tape.len() - 1
    }

    /// What has happened, if somebody wants to read it.
    fn tell(&self) {
        if std::env::var_os("SIMULATION_TAPE").is_some() {
            let noted = self.noted.lock().unwrap();
            noted.iter().enumerate().for_each(|(place, noted)| eprintln!("{place} {noted:?}"));
        }
    }

    pub(crate) fn take(&self) -> Vec<Noted> {
        std::mem::take(&mut self.noted.lock().unwrap())
    }
}

/// Whether a run cannot be read now.
pub(crate) type Damaged = Arc<dyn Fn(&RunId) -> bool + Send + Sync>;

/// A storage as one engine sees it, with what it does noted, and with a mistake, if that is wanted.
#[derive(Clone)]
pub(crate) struct Watched<S> {
    pub(crate) inner: S,
    pub(crate) is_damaged: Option<Damaged>,
    /// With the clock of the engine.
    pub(crate) machine: VirtualRuntime,
    pub(crate) engine: usize,
    pub(crate) tape: Option<Tape>,
    pub(crate) mistake: Mistake,
    /// How often engines ask, if not as often as the storage wants.
    pub(crate) poll_every: Option<Duration>,
}

/// An answer, now: there is nothing else to wait for.
pub(crate) fn at_once<T: Unpin>(reply: Reply<T>) -> T {
    match reply {
        Reply::Ready(Some(answer)) => answer,
        later => block_on(later),
    }
}

impl<S: Storage> Watched<S> {
    fn count(&self) {
        if let Some(tape) = &self.tape {
            let mut calls = tape.calls.lock().unwrap();
            let now = tape.time.monotonic();
            *calls = (now, if calls.0 == now { calls.1 + 1 } else { 0 });
            if calls.1 == CALLS_MAX {
                tape.tell();
            }
            assert!(calls.1 < CALLS_MAX, "N7 the storage is asked without end");
        }
    }

    fn note(&self, what: What) {
        if let Some(tape) = &self.tape {
            tape.note(self.engine, what);
        }
    }

    /// Those who have not beaten for a lease, if clocks could tell.
    pub(crate) fn gone_by_the_clock(&self, owner: Owner) -> Vec<Beat> {
        let Some(tape) = &self.tape else { return Vec::new() };
        let beats = at_once(self.inner.beat(owner)).unwrap_or_default();
        let known = tape.beats.lock().unwrap();
        let is_gone = |beat: &Beat| {
            let last = known.get(&beat.owner).filter(|_| beat.owner != owner);
            last.is_some_and(|last| *last + LEASE <= self.machine.now())
        };
        beats.into_iter().filter(is_gone).collect()
    }

    /// Runs that have a message.
    fn mailed(&self) -> Vec<RunId> {
        let listed = at_once(self.inner.list(RunQuery::default())).unwrap_or_default();
        let has_mail = |run: &RunId| at_once(self.inner.inbox(run)).is_ok_and(|it| !it.is_empty());
        listed.into_iter().map(|run| run.id).filter(has_mail).collect()
    }

    pub(crate) fn stored(&self, run: &RunId) -> Option<StoredRun> {
        at_once(self.inner.load(run)).ok().flatten()
    }
}

fn holder(holding: Holding) -> Option<Owner> {
    match holding {
        Holding::Held(owner) => Some(owner),
        _ => None,
    }
}

impl<S: Storage> Storage for Watched<S> {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        self.count();
        if self.tape.is_none() {
            return self.inner.create(run);
        }
        let made = Made {
            run: run.id.clone(),
            workflow: run.workflow.clone(),
            linked: run.linked.clone(),
            events: run.journal.clone(),
            held_by: holder(run.holding),
        };
        if let Some(created) = self.mistake.create(&run) {
            return Reply::ready(Ok(created));
        }
        let created = at_once(self.inner.create(run));
        if let Ok(Created::New) = created {
            self.note(What::Created(Box::new(made)));
        }
        Reply::ready(created)
    }

    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        self.count();
        if self.tape.is_none() {
            return self.mistake.commit_around(self, run, commit);
        }
        let Some(commit) = self.mistake.commit(self, run, commit) else {
            return Reply::ready(Ok(Vec::new()));
        };
        let done = Done {
            run: run.clone(),
            from: commit.expected,
            events: commit.events.clone(),
            held_by: holder(commit.holding),
            has_ended: commit.status.is_end(),
            released: commit.released.clone(),
        };
        let commit = self.mistake.store(commit);
        let emptied = at_once(self.inner.commit(run, commit));
        if emptied.is_ok() {
            self.note(What::Committed(Box::new(done)));
        }
        Reply::ready(emptied)
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        self.count();
        if self.is_damaged.as_ref().is_some_and(|is_damaged| is_damaged(run)) {
            return Reply::ready(Err(Error::new(ErrorKind::Damaged, DAMAGE).of_run(run)));
        }
        let stored = self.inner.load(run);
        match self.tape {
            Some(_) if self.mistake.is_about_loading() => {
                let changed = |stored: Option<StoredRun>| stored.map(|it| self.mistake.load(it));
                Reply::ready(at_once(stored).map(changed))
            }
            _ => stored,
        }
    }

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        self.inner.events(run, from, limit)
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        self.count();
        if self.tape.is_none() {
            return self.inner.purge(which);
        }
        let Purge { owner, before, keep, .. } = which;
        let age = before.map(|before| self.machine.now().since(before));
        let mailed = self.mailed();
        let mut removed = at_once(self.inner.purge(self.mistake.purge(which)));
        if let Ok(runs) = &mut removed {
            self.mistake.purge_more(self, runs);
        }
        if let Ok(runs) = &removed {
            let purged = Purged { by: owner, runs: runs.clone(), before, age, keep, mailed };
            self.note(What::Purged(Box::new(purged)));
        }
        Reply::ready(removed)
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        if self.tape.is_none() {
            return self.inner.clear(owner, runs);
        }
        let cleared = at_once(self.inner.clear(owner, runs.clone()));
        if cleared.is_ok() {
            self.note(What::Cleared { runs, by: owner });
        }
        Reply::ready(cleared)
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        if self.mistake == Mistake::PostsTwice && self.tape.is_some() {
            drop(at_once(self.inner.post(run, message.clone())));
        }
        self.inner.post(run, message)
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        self.count();
        self.inner.inbox(run)
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        if self.mistake == Mistake::AnswersAreGuessed {
            return Reply::ready(Ok(Some(Ok(()))));
        }
        self.inner.answer(run, number)
    }

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        if self.tape.is_none() {
            return self.inner.acquire(run, asked);
        }
        self.count();
        if self.mistake == Mistake::LocksAreForAll {
            return Reply::ready(Ok(None));
        }
        let (step, wants) = (asked.step, asked.wants.clone());
        let asked = self.mistake.acquire(asked);
        let denied = at_once(self.inner.acquire(run, asked));
        if let Ok(None) = denied {
            self.note(What::Granted { run: run.clone(), step, wants });
        }
        Reply::ready(denied)
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        self.count();
        if self.mistake == Mistake::BeatsOnce
            && let Some(beats) = self.mistake.beat_once(self, owner)
        {
            return Reply::ready(Ok(beats));
        }
        let beats = self.inner.beat(owner);
        if let Some(tape) = &self.tape {
            tape.beats.lock().unwrap().insert(owner, self.machine.now());
        }
        self.note(What::Beat(owner));
        beats
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        let retired = self.inner.retire(owner);
        self.note(What::Retired(owner));
        retired
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.inner.mail(owner, limit)
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.inner.held(owner, after, limit)
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        if self.tape.is_none() {
            return self.inner.claim(claim);
        }
        self.count();
        let claim = self.mistake.claim(self, claim);
        let owner = claim.owner;
        let mut claimed = at_once(self.inner.claim(claim));
        if let Ok(claimed) = &mut claimed {
            self.mistake.take_more(self, owner, claimed);
            for Claimed { run, .. } in claimed {
                self.note(What::Claimed { run: run.clone(), by: owner });
            }
        }
        Reply::ready(claimed)
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        if self.tape.is_none() {
            return self.inner.set_aside(run, owner, until, why);
        }
        let holder = self.stored(run).map(|stored| stored.holding);
        let (why, kept) = self.mistake.set_aside(why);
        let done = at_once(self.inner.set_aside(run, owner, until, kept));
        if done.is_ok() && holder == Some(Holding::Held(owner)) {
            let listed = at_once(self.inner.list(RunQuery::default())).unwrap_or_default();
            let tells = |it: &Summary| it.id == *run && it.problem.as_ref() == Some(&why);
            let is_told = listed.iter().any(tells);
            self.note(What::Aside { run: run.clone(), why, is_told });
        }
        Reply::ready(done)
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        self.count();
        self.inner.next_due()
    }

    fn poll_every(&self) -> Duration {
        self.poll_every.unwrap_or_else(|| self.inner.poll_every())
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        self.inner.list(query)
    }
}

impl<S: fmt::Debug> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({:?})", self.inner)
    }
}
