//! Storages with a mistake, and engines with a habit, each of which the simulation notices: one that
//! cannot fail says nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use stepwell::journal::Recorded;
use stepwell::storage::{
    Acquire, Beat, Claim, Claimed, Commit, Created, Holding, Memory, NewRun, Owner, Purge, Reply,
    RunQuery, Storage, StoredRun,
};
use stepwell::{ErrorKind, Event, Result, RunId, Timestamp, Workflow};

use super::simulate;
use super::tape::{Watched, at_once};
use super::world::SECOND;

/// What is wrong, in how many seeds it is noticed, and by what.
macro_rules! mistakes {
    ($($mistake:ident $seeds:literal $promise:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mistake { None, $($mistake,)* }

        const ALL: &[(Mistake, u64, &str)] = &[$((Mistake::$mistake, $seeds, $promise),)*];
    };
}

mistakes! {
    // The fences.
    CommitIgnoresLength 100 "",
    CommitIgnoresOwner 100 "written by who does not hold it",
    CommitIsNotDone 40 "",
    // The answer to a commit was lost, and the same is written once more behind it.
    CommitsAgain 100 "",
    LoadIsStale 40 "",
    // What has been done, and how.
    ResultsAreOthers 40 "the result of",
    LoadTellsOtherResults 100 "reads",
    OnceIsForgotten 200 "begun twice",
    ConditionsAreForgotten 40 "not what they should be",
    LimitsAreForgotten 100 "N7",
    StartsWereEarlier 200 "before its time",
    // Who has a run.
    ClaimFromLiving 40 "",
    ClaimNeverOfTheGone 40 "",
    ClaimNeverWhenDue 40 "",
    LeaseIsIgnored 40 "",
    LeaseIsByTheClock 40 "was silent for",
    BeatsOnce 40 "",
    CreateIsNotDone 40 "",
    // What cannot be run.
    AsideForNoReason 100 "N10",
    AsideSaysNothing 100 "nobody is told",
    QuarantineComesEarly 100 "in quarantine",
    // What is removed and forgotten.
    StoresOtherResults 40 "made up",
    PurgesTheYoung 40 "removed too soon",
    PurgesTheLiving 40 "has not ended",
    ForgetsTooMuch 40 "are forgotten",
    // Messages.
    MessagesStay 40 "",
    PostsTwice 40 "",
    AnswersAreGuessed 100 "",
    // Locks.
    LocksStay 40 "",
    LocksAreForAll 40 "",
    LocksHaveRoom 40 "",
    RatesAreIgnored 100 "",
}

/// Now and then, but always in the same places.
fn now_and_then(every: u64) -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
}

impl Mistake {
    /// Whether it is made on the engine's side of the faults.
    pub(crate) fn is_around(self) -> bool {
        self == Self::CommitsAgain
    }

    /// Whether it is made when a run is loaded.
    pub(crate) fn is_about_loading(self) -> bool {
        use Mistake::{
            ConditionsAreForgotten, LimitsAreForgotten, LoadIsStale, LoadTellsOtherResults,
            OnceIsForgotten, QuarantineComesEarly, StartsWereEarlier,
        };
        matches!(
            self,
            ConditionsAreForgotten
                | LimitsAreForgotten
                | LoadIsStale
                | LoadTellsOtherResults
                | OnceIsForgotten
                | QuarantineComesEarly
                | StartsWereEarlier
        )
    }

    pub(crate) fn create(self, _: &NewRun) -> Option<Created> {
        (self == Self::CreateIsNotDone && now_and_then(4)).then_some(Created::New)
    }

    /// What is written; none if nothing is.
    pub(crate) fn commit<S: Storage>(
        self,
        storage: &Watched<S>,
        run: &RunId,
        mut commit: Commit,
    ) -> Option<Commit> {
        match self {
            Self::CommitIgnoresLength => {
                let stored = storage.stored(run);
                commit.expected = stored.map_or(commit.expected, |it| it.length());
            }
            Self::CommitIgnoresOwner => {
                if let Some(Holding::Held(owner)) = storage.stored(run).map(|it| it.holding) {
                    commit.owner = owner;
                }
            }
            Self::CommitIsNotDone if now_and_then(20) => return None,
            Self::MessagesStay => commit.answers.clear(),
            Self::ResultsAreOthers if now_and_then(20) => {
                commit.events.iter_mut().for_each(has_other_result);
            }
            Self::LocksStay => commit.released.clear(),
            Self::ForgetsTooMuch => {
                if let Some(snapshot) = &mut commit.snapshot {
                    snapshot.forget = snapshot.events;
                }
            }
            _ => {}
        }
        Some(commit)
    }

    /// The same on the engine's side of the faults.
    pub(crate) fn commit_around<S: Storage>(
        self,
        storage: &Watched<S>,
        run: &RunId,
        commit: Commit,
    ) -> Reply<Result<Vec<Recorded>>> {
        if self != Self::CommitsAgain {
            return storage.inner.commit(run, commit);
        }
        let again = commit.clone();
        match storage.inner.commit(run, commit) {
            Reply::Ready(Some(Err(error))) if error.kind() == ErrorKind::Storage => {
                let expected = again.expected + again.events.len() as u64;
                storage.inner.commit(run, Commit { expected, ..again })
            }
            answer => answer,
        }
    }

    /// What is loaded of a run.
    pub(crate) fn load(self, mut stored: StoredRun) -> StoredRun {
        let mut changed = stored.workflow.definition().clone();
        for step in &mut changed.steps {
            match self {
                Self::OnceIsForgotten => (step.at_most_once, step.on_unknown) = (false, None),
                Self::ConditionsAreForgotten => step.when = None,
                Self::LimitsAreForgotten => (step.timeout, step.attempt_timeout) = (None, None),
                _ => {}
            }
        }
        if changed != *stored.workflow.definition() {
            stored.workflow = Workflow::from_definition(changed).unwrap();
        }
        for recorded in &mut stored.journal {
            match self {
                Self::LoadTellsOtherResults => has_other_result(recorded),
                Self::StartsWereEarlier => recorded.at = recorded.at - 10 * SECOND,
                _ => {}
            }
        }
        if self == Self::QuarantineComesEarly {
            stored.recoveries += 10;
        }
        if self == Self::LoadIsStale {
            stored.journal.truncate(stored.journal.len().saturating_sub(1).max(1));
        }
        stored
    }

    /// Why a run is set aside, and what is kept of that.
    pub(crate) fn set_aside(self, why: String) -> (String, String) {
        match self {
            Self::AsideForNoReason => ("no reason".into(), "no reason".into()),
            Self::AsideSaysNothing => (why, String::new()),
            _ => (why.clone(), why),
        }
    }

    /// What is really written.
    pub(crate) fn store(self, mut commit: Commit) -> Commit {
        if self == Self::StoresOtherResults && now_and_then(20) {
            commit.events.iter_mut().for_each(has_other_result);
        }
        commit
    }

    /// Says of a run that it is removed which goes on.
    pub(crate) fn purge_more<S: Storage>(self, storage: &Watched<S>, removed: &mut Vec<RunId>) {
        if self == Self::PurgesTheLiving && now_and_then(3) {
            let live = RunQuery { live: true, ..RunQuery::default() };
            let listed = at_once(storage.inner.list(live)).unwrap_or_default();
            removed.extend(listed.into_iter().next().map(|run| run.id));
        }
    }

    pub(crate) fn purge(self, mut which: Purge) -> Purge {
        if self == Self::PurgesTheYoung {
            which.before = Some(Timestamp::MAX);
        }
        which
    }

    pub(crate) fn acquire(self, mut asked: Acquire) -> Acquire {
        for want in &mut asked.wants {
            match self {
                Self::LocksHaveRoom => want.max = want.max.map(|max| max + 1),
                Self::RatesAreIgnored => want.rate = None,
                _ => {}
            }
        }
        asked
    }

    /// What it hears that does not beat again; none if it has not yet.
    pub(crate) fn beat_once<S: Storage>(
        self,
        storage: &Watched<S>,
        owner: Owner,
    ) -> Option<Vec<Beat>> {
        let nobody = Owner(u128::MAX);
        let beats = at_once(storage.inner.beat(nobody)).ok()?;
        drop(at_once(storage.inner.retire(nobody)));
        beats.iter().any(|beat| beat.owner == owner).then_some(beats)
    }

    pub(crate) fn claim<S: Storage>(self, storage: &Watched<S>, mut claim: Claim) -> Claim {
        match self {
            Self::ClaimNeverOfTheGone => claim.gone.clear(),
            Self::ClaimNeverWhenDue => claim.now = Timestamp::EPOCH,
            Self::LeaseIsIgnored => {
                let beats = at_once(storage.inner.beat(claim.owner)).unwrap_or_default();
                claim.gone = beats.into_iter().filter(|it| it.owner != claim.owner).collect();
            }
            Self::LeaseIsByTheClock => claim.gone = storage.gone_by_the_clock(claim.owner),
            _ => {}
        }
        claim
    }

    /// Gives runs that living engines have, too.
    pub(crate) fn take_more<S: Storage>(
        self,
        storage: &Watched<S>,
        owner: Owner,
        claimed: &mut Vec<Claimed>,
    ) {
        if self != Self::ClaimFromLiving || !now_and_then(10) {
            return;
        }
        for run in at_once(storage.inner.list(RunQuery::default())).unwrap_or_default() {
            let Some(stored) = storage.stored(&run.id) else { continue };
            let Holding::Held(holder) = stored.holding else { continue };
            if holder == owner {
                continue;
            }
            let taken = Commit {
                owner: holder,
                expected: stored.length(),
                events: Vec::new(),
                status: stored.status,
                answers: Vec::new(),
                holding: Holding::Held(owner),
                released: Vec::new(),
                recovered: false,
                writes: None,
                snapshot: None,
            };
            if at_once(storage.inner.commit(&run.id, taken)).is_ok() {
                claimed.push(Claimed { run: run.id, recoveries: stored.recoveries });
                return;
            }
        }
    }
}

/// A step has come to what it has not.
fn has_other_result(recorded: &mut Recorded) {
    if let Event::StepSucceeded { output, .. } = &mut recorded.event {
        *output = json!({"said": 0}).into();
    }
}

/// What the simulation of a seed says when it fails. Nobody has to read of panics that are expected.
fn failure(seed: u64, mistake: Mistake) -> Option<String> {
    static QUIET: Once = Once::new();
    thread_local!(static IS_EXPECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_EXPECTED.get() {
                loud(info);
            }
        }));
    });
    IS_EXPECTED.set(true);
    let done = catch_unwind(AssertUnwindSafe(|| drop(simulate(seed, Memory::new(), mistake))));
    IS_EXPECTED.set(false);
    let said = done.err()?;
    let text = said.downcast::<String>().map_or_else(|_| String::new(), |text| *text);
    Some(text.chars().take(400).collect())
}

#[test]
fn every_mistake_is_noticed() {
    let mut missed = Vec::new();
    for (mistake, seeds, promise) in ALL {
        let notices = |seed| Some((seed, failure(seed, *mistake)?));
        let is_it = |(_, said): &(u64, String)| said.contains(promise);
        match (0..*seeds).filter_map(notices).find(is_it) {
            Some((seed, said)) => println!("{mistake:?}: seed {seed}: {said}"),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
