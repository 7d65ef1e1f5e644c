//! Where each mistake is made.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::Recorded;
use stepwell::run::Want;
use stepwell::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Holding, Message, NewRun,
    Owner, Purge, Reply, RunQuery, Storage, StoredRun, Summary,
};
use stepwell::{Error, ErrorKind, Result, RunId, StepKey, Timestamp};

use super::{Broken, Mistake as M, ascii};

impl Broken {
    fn conflict<T>(&self, kind: ErrorKind) -> Reply<Result<T>> {
        Reply::ready(Err(Error::new(kind, "no")))
    }

    /// What is left of a commit that was refused.
    fn tear(&self, run: &RunId, commit: &Commit) {
        self.force(run, |torn| match self.mistake {
            M::CommitTearsStatus => torn.status = commit.status,
            M::CommitTearsSnapshot => torn.snapshot.clone_from(&commit.snapshot),
            M::CommitTearsAnswers => torn.answers.clone_from(&commit.answers),
            M::CommitTearsReleases => torn.released.clone_from(&commit.released),
            M::CommitTearsRecovered => torn.recovered = commit.recovered,
            M::CommitTearsHolding => torn.holding = commit.holding,
            M::CommitTearsEvents => torn.events.clone_from(&commit.events),
            M::CommitTearsEnds if commit.status.is_end() => {
                torn.released = self.steps_of(run);
            }
            _ => {}
        });
    }

    fn twisted(&self, run: &RunId, stored: &StoredRun, mut commit: Commit) -> Commit {
        let length = stored.length();
        let holder = match stored.holding {
            Holding::Held(owner) => Some(owner),
            _ => None,
        };
        commit.events = self.events(commit.events);
        if let Some(snapshot) = &mut commit.snapshot {
            match self.mistake {
                M::SnapshotIsAscii => snapshot.state = ascii(&snapshot.state),
                M::ForgetsNothing => snapshot.forget = 0,
                M::ForgetsAll => snapshot.forget = snapshot.events,
                M::ForgetsOneMore => snapshot.forget += 1,
                _ => {}
            }
        }
        match self.mistake {
            M::SnapshotNever => commit.snapshot = None,
            M::SnapshotFirst if stored.snapshot.is_some() => commit.snapshot = None,
            M::CommitIgnoresLength => commit.expected = length,
            M::CommitTakesLonger => commit.expected = commit.expected.min(length),
            M::CommitIgnoresOwner => commit.owner = holder.unwrap_or(commit.owner),
            M::CommitKnowsHalfAnOwner => {
                commit.owner = holder
                    .filter(|it| it.0 as u64 == commit.owner.0 as u64)
                    .unwrap_or(commit.owner);
            }
            M::CommitReverses => commit.events.reverse(),
            M::CommitForgetsStatus => commit.status = stored.status,
            M::CommitForgetsHolding => commit.holding = stored.holding,
            M::CommitForgetsAnswers => commit.answers.clear(),
            M::CommitForgetsReleases => commit.released.clear(),
            M::AnswersAreGood => commit.answers.iter_mut().for_each(|(_, answer)| *answer = Ok(())),
            M::RecoveredAlways => commit.recovered = true,
            M::RecoveredNever => commit.recovered = false,
            M::LocksEndWithAnyCommit => commit.released = self.steps_of(run),
            M::LocksEndWithHolding if !matches!(commit.holding, Holding::Held(_)) => {
                commit.released = self.steps_of(run);
            }
            M::LocksOfWholeRuns if !commit.released.is_empty() => {
                commit.released = vec![StepKey::root(0)];
            }
            _ => {}
        }
        commit
    }

    fn after_commit(&self, run: &RunId, commit: &Commit) {
        let mut notes = self.notes();
        notes.answered.extend(commit.answers.iter().map(|(number, _)| (run.clone(), *number)));
        let gone = |of: &RunId, step: &StepKey| of == run && commit.released.contains(step);
        notes.granted.retain(|(of, step, _)| !gone(of, step));
        let granted = notes.granted.clone();
        drop(notes);
        let ends = commit.status.is_end();
        if self.is(M::LocksOutliveRuns) && ends {
            for (_, step, wants) in granted.iter().filter(|(of, ..)| of == run) {
                // Another has them now that nobody will ask to give them back.
                let key = StepKey { scope: 88 + step.scope, step: step.step };
                self.give(key, wants.clone(), Timestamp::MAX);
            }
        }
        let others = |step: &StepKey| match self.mistake {
            M::LocksOfSteps => commit.released.contains(step),
            M::LocksEndWithAnyRun => ends,
            _ => false,
        };
        for (of, step, _) in granted.iter().filter(|(of, step, _)| of != run && others(step)) {
            self.force(of, |commit| commit.released = vec![*step]);
        }
        if self.is(M::CommitTouchesAll) {
            for (of, _) in self.runs() {
                self.force(&of, |other| other.status = commit.status);
            }
        }
    }

    /// Undoes what a claim may not do, after it was done.
    fn give_back(&self, given: &mut Vec<Claimed>, before: &[(RunId, StoredRun)], now: Timestamp) {
        given.retain(|claimed| {
            let (_, was) = before.iter().find(|(run, _)| *run == claimed.run).unwrap();
            let is_kept = match (self.mistake, was.holding) {
                (M::ClaimFromNobody, Holding::Held(_)) => false,
                (M::ClaimNeverByMessage, Holding::Parked(due)) => due.is_some_and(|due| due <= now),
                (M::ClaimNeverByMessage | M::ClaimNeverFinished, Holding::Finished) => false,
                (M::ClaimNeverAside, Holding::Aside(_)) => false,
                _ => true,
            };
            if !is_kept {
                self.force(&claimed.run, |commit| commit.holding = was.holding);
            }
            is_kept
        });
    }

    /// Takes more than a claim may.
    fn take_more(&self, given: &mut Vec<Claimed>, before: &[(RunId, StoredRun)], claim: &Claim) {
        for (run, was) in before {
            let is_taken = match (self.mistake, was.holding) {
                (M::ClaimFromLiving, Holding::Held(owner)) => owner != claim.owner,
                (M::ClaimOwn, Holding::Held(owner)) => owner == claim.owner,
                (M::ClaimAsideByMessage, Holding::Aside(_)) => !self.inbox_of(run).is_empty(),
                (M::ClaimFinished, Holding::Finished) | (M::ClaimParked, Holding::Parked(None)) => {
                    true
                }
                _ => false,
            };
            let is_asked = claim.run.as_ref().is_none_or(|asked| asked == run);
            if is_taken && is_asked && given.iter().all(|claimed| claimed.run != *run) {
                self.force(run, |commit| commit.holding = Holding::Held(claim.owner));
                given.push(Claimed { run: run.clone(), recoveries: was.recoveries });
            }
        }
    }

    fn after_claim(&self, given: &mut Vec<Claimed>, before: &[(RunId, StoredRun)]) {
        for claimed in given.iter_mut() {
            match self.mistake {
                M::RecoveriesNever => claimed.recoveries = 0,
                M::RecoveriesAlways => claimed.recoveries += 1,
                M::ClaimChangesStatus => {
                    self.force(&claimed.run, |it| it.status = stepwell::RunStatus::Running);
                }
                M::ClaimForgetsInbox => self.answer_all(&claimed.run),
                M::ClaimReleases => {
                    let released = self.steps_of(&claimed.run);
                    self.force(&claimed.run, |commit| commit.released = released);
                }
                M::ClaimRecovers if before.iter().any(|(run, _)| *run == claimed.run) => {
                    self.force(&claimed.run, |commit| commit.recovered = true);
                }
                _ => {}
            }
        }
        let mut notes = self.notes();
        if self.is(M::ClaimTwice) {
            given.extend(
                notes.claimed.iter().map(|run| Claimed { run: run.clone(), recoveries: 0 }),
            );
        }
        notes.claimed.extend(given.iter().map(|claimed| claimed.run.clone()));
    }

    /// All that is there of a journal.
    fn history(&self, run: &RunId) -> Vec<Recorded> {
        let all = block_on(self.inner.events(run, 0, usize::MAX)).unwrap();
        all.into_iter().map(|(_, recorded)| recorded).collect()
    }

    fn current(&self, owner: Owner) -> Vec<Beat> {
        let count = self.notes().beats.get(&owner).copied();
        count.map(|count| Beat { owner, count }).into_iter().collect()
    }
}

impl Storage for Broken {
    fn create(&self, mut run: NewRun) -> Reply<Result<Created>> {
        run.id = self.id(&run.id);
        run.at = self.time(run.at);
        run.journal = self.events(run.journal);
        run.metadata = self.twist(run.metadata);
        run.user = self.twist(run.user);
        match self.mistake {
            M::CreateForgetsUser => run.user = None,
            M::CreateForgetsMetadata => run.metadata.clear(),
            M::CreateForgetsLinked => run.linked.clear(),
            M::CreateForgetsBeginning => run.journal.clear(),
            M::CreateHolds => run.holding = Holding::Held(Owner(1)),
            M::EmptyIsNotEmpty => run.user = run.user.filter(|user| !user.is_empty()),
            M::WorkflowsByName => {
                let (name, new) = (run.workflow.id().to_string(), (run.workflow, run.linked));
                let known = self.notes().workflows.entry(name).or_insert(new).clone();
                (run.workflow, run.linked) = known;
            }
            _ => {}
        }
        let (id, own, status) = (run.id.clone(), run.workflow.id().to_string(), run.status);
        let created = block_on(self.inner.create(run)).unwrap();
        let is_new = matches!(created, Created::New);
        if self.is(M::CreateChangesStatus) && !is_new {
            self.force(&id, |commit| commit.status = status);
        }
        let lies = self.is(M::CreateRaces) && self.meets() || self.is(M::CreateSaysNew);
        Reply::ready(Ok(match created {
            Created::Exists(_) if lies => Created::New,
            Created::Exists(_) if self.is(M::CreateNamesItself) => Created::Exists(own),
            other => other,
        }))
    }

    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let run = &self.id(run);
        let Some(stored) = self.find(run) else {
            return match self.mistake {
                M::CommitSaysConflict => self.conflict(ErrorKind::Conflict),
                M::UnknownIsNew => Reply::ready(Ok(Vec::new())),
                _ => self.inner.commit(run, commit),
            };
        };
        let (is_held, is_alive) = (
            matches!(stored.holding, Holding::Held(_)),
            self.notes().beats.contains_key(&commit.owner),
        );
        match self.mistake {
            M::CommitAsksForAHolder if !is_held => return self.conflict(ErrorKind::Conflict),
            M::CommitNeedsALivingOwner if !is_alive => return self.conflict(ErrorKind::Conflict),
            M::CommitForgetsWrites => {
                return self.inner.commit(run, Commit { writes: None, ..commit });
            }
            M::CommitNeedsEvents if commit.events.is_empty() => {
                return Reply::ready(Ok(Vec::new()));
            }
            _ => {}
        }
        let commit = self.twisted(run, &stored, commit);
        if self.is(M::CommitInTwoSteps) {
            let (storage, run, mut waited) = (self.inner.clone(), run.clone(), false);
            let mut rest = commit.clone();
            return Reply::later(async move {
                let first = Commit { answers: Vec::new(), holding: stored.holding, ..commit };
                rest.expected += first.events.len() as u64;
                rest.events.clear();
                storage.commit(&run, first).await?;
                poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut waited, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                storage.commit(&run, rest).await
            });
        }
        let lies = self.is(M::CommitRaces) && self.meets();
        let mut answer = block_on(self.inner.commit(run, commit.clone()));
        if answer.is_ok() {
            self.after_commit(run, &commit);
        } else if format!("{:?}", self.mistake).starts_with("CommitTears") {
            self.tear(run, &commit);
        }
        if lies {
            answer = Ok(Vec::new());
        }
        if self.is(M::CommitGivesEventsBack) && answer.is_ok() {
            answer = Ok(commit.events);
        }
        Reply::ready(answer)
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        let run = &self.id(run);
        let mut found = self.find(run);
        if let Some(stored) = &mut found {
            match self.mistake {
                M::RecoveriesNever => stored.recoveries = 0,
                M::JournalIsShort => stored.journal.truncate(5_000),
                M::SnapshotWithAllEvents => stored.journal = self.history(run),
                M::ForgetsBackwards => {
                    if let Some(snapshot) = &mut stored.snapshot {
                        snapshot.forget = snapshot.forget.min(2);
                    }
                }
                M::HandlesAreStale => {
                    *stored = self
                        .notes()
                        .seen
                        .entry(run.clone())
                        .or_insert_with(|| stored.clone())
                        .clone();
                }
                _ => {}
            }
        }
        Reply::ready(Ok(found))
    }

    fn events(
        &self,
        run: &RunId,
        mut from: u64,
        mut limit: usize,
    ) -> Reply<Result<Vec<(u64, Recorded)>>> {
        let run = &self.id(run);
        match self.mistake {
            M::EventsWithoutLimit => limit = usize::MAX,
            M::EventsFromTheFirst => from = 0,
            _ => {}
        }
        let mut found = block_on(self.inner.events(run, from, limit)).unwrap();
        match self.mistake {
            M::EventsCountedAnew => {
                found = (0..).zip(found).map(|(place, (_, recorded))| (place, recorded)).collect();
            }
            M::ForgetsPeople if self.find(run).is_some() => {
                let forgotten = self.summary(run).forgotten;
                found.retain(|(position, _)| *position >= forgotten);
            }
            _ => {}
        }
        Reply::ready(Ok(found))
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        let run = &self.id(run);
        let message = self.twist(message);
        let Some(stored) = self.find(run) else {
            return match self.mistake {
                M::PostSaysNothing => Reply::ready(Ok(1)),
                _ => self.inner.post(run, message),
            };
        };
        let (is_held, count) =
            (matches!(stored.holding, Holding::Held(_)), self.notes().posted.len() as u64);
        let is_lost = match self.mistake {
            M::PostLosesSome => count % 3 == 2,
            M::PostOnlyToHeld => !is_held,
            M::PostFoldsEqual => self.inbox_of(run).iter().any(|(_, other)| *other == message),
            _ => false,
        };
        let mut number = match is_lost {
            true => 1_000_000 + count,
            false => block_on(self.inner.post(run, message.clone())).unwrap(),
        };
        let first = self.inbox_of(run).first().map_or(number, |(number, _)| *number);
        match self.mistake {
            M::PostRepeatsNumbers => number = first,
            M::PostGoesToAll => {
                for (other, _) in self.runs().iter().filter(|(other, _)| other != run) {
                    block_on(self.inner.post(other, message.clone())).unwrap();
                }
            }
            M::PostParks if is_held => {
                self.force(run, |commit| commit.holding = Holding::Parked(None));
            }
            M::PostRaces if self.meets() => number = first,
            _ => {}
        }
        self.notes().posted.push((run.clone(), number, message));
        Reply::ready(Ok(number))
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        let run = &self.id(run);
        let mut inbox = self.inbox_of(run);
        match self.mistake {
            M::InboxBackwards => inbox.reverse(),
            M::InboxIsShort => inbox.truncate(500),
            M::InboxEmptiesAtOnce => self.answer_all(run),
            M::InboxKeepsAnswered => {
                let notes = self.notes();
                let of = notes.posted.iter().filter(|(of, ..)| of == run);
                inbox = of.map(|(_, number, message)| (*number, message.clone())).collect();
            }
            M::InboxIsEverybody => {
                inbox = self.runs().iter().flat_map(|(of, _)| self.inbox_of(of)).collect();
            }
            _ => {}
        }
        Reply::ready(Ok(inbox))
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        let run = &self.id(run);
        let answer = block_on(self.inner.answer(run, number)).unwrap();
        let answered = self.notes().answered.clone();
        let known = |(of, other): &(RunId, u64)| of == run && *other == number;
        let later = answered.iter().rev().position(known);
        let of_run =
            answered.iter().rev().filter(|(of, _)| of == run).position(|(_, n)| *n == number);
        Reply::ready(Ok(match self.mistake {
            M::AnswersAreNone => None,
            M::AnswersAreFew => answer.filter(|_| of_run.is_some_and(|place| place < 50)),
            M::AnswersAreFewOfAll => answer.filter(|_| later.is_some_and(|place| place < 105)),
            M::AnswersAreGuessed => answer.or(Some(Ok(()))),
            M::AnswersOfUnknown if later.is_some() => answer.or(Some(Ok(()))),
            M::AnswersEndWithRuns => {
                answer.filter(|_| self.find(run).is_some_and(|it| !it.status.is_end()))
            }
            _ => answer,
        }))
    }

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        let mut run = self.id(run);
        let Acquire { mut owner, mut expected, mut step, mut wants, mut now } = asked;
        let stored = self.find(&run);
        let length = stored.as_ref().map_or(0, StoredRun::length);
        let holder = match stored.as_ref().map(|stored| stored.holding) {
            Some(Holding::Held(owner)) => Some(owner),
            _ => None,
        };
        let granted = |step| {
            let notes = self.notes();
            notes.granted.iter().filter(|(of, at, _)| *of == run && *at == step).count() as u32
        };
        match self.mistake {
            M::LocksFree => return Reply::ready(Ok(None)),
            M::AcquireIgnoresLength => expected = length,
            M::AcquireTakesLonger => expected = expected.min(length),
            M::AcquireTakesShorter => expected = expected.max(length),
            M::AcquireIgnoresOwner => owner = holder.unwrap_or(owner),
            M::AcquireOfParked if stored.is_some() && holder.is_none() => {
                return Reply::ready(Ok(None));
            }
            M::AcquireOfNothing if stored.is_none() => return Reply::ready(Ok(None)),
            M::AcquireSaysConflict if stored.is_none() => {
                return self.conflict(ErrorKind::Conflict);
            }
            M::LocksAfterTheEnd if self.summary(&run).status.is_end() => {
                return Reply::ready(Ok(None));
            }
            M::LocksChargeAgain => step.scope += 1_000 * granted(step),
            M::LocksOfWholeRuns => step = StepKey::root(0),
            M::LocksOfScopes => step.scope = 0,
            M::LocksOfPlaces => {
                (run, owner, expected) = self.oldest_held().unwrap_or((run, owner, expected));
            }
            M::RatesInWholeSeconds => {
                now = Timestamp::from_micros((now.as_micros() + 999_999) / 1_000_000 * 1_000_000);
            }
            M::LocksNever => wants.push(Want::new("never")),
            _ => {}
        }
        if self.is(M::LocksNever) {
            self.give(StepKey { scope: 77, step: 77 }, vec![Want::new("never")], now);
        }
        for want in &mut wants {
            match self.mistake {
                M::LocksFoldNames => want.lock = want.lock.to_lowercase(),
                M::LocksAreAscii => want.lock = ascii(&want.lock),
                M::LocksAreShort => want.lock = want.lock.chars().take(100).collect(),
                M::LocksAlwaysOne => want.max = Some(1),
                M::LocksOneMore => want.max = want.max.map(|max| max + 1),
                M::RatesFree => want.rate = None,
                M::RatesAsMax if want.rate.is_some() => {
                    want.max = want.rate.take().map(|rate| rate.count);
                }
                M::RatesByRun if want.rate.is_some() => want.lock.push_str(run.as_str()),
                M::RatesWithoutBurst => {
                    if let Some(rate) = &mut want.rate {
                        rate.per /= rate.count;
                        rate.count = 1;
                    }
                }
                M::RatesAreOne if want.rate.is_some() => want.lock = "api".into(),
                M::RatesOneMore => {
                    want.rate.iter_mut().for_each(|rate| rate.count += 1);
                }
                _ => {}
            }
        }
        let one_by_one = [M::LocksOneByOne, M::AcquireRaces].contains(&self.mistake);
        let parts = match one_by_one {
            true => wants.iter().map(|want| vec![want.clone()]).collect(),
            false => vec![wants.clone()],
        };
        for part in parts {
            let ask = self.inner.acquire(&run, Acquire { owner, expected, step, wants: part, now });
            let answer = match block_on(ask) {
                Ok(answer) => answer,
                Err(refused) => return Reply::ready(Err(refused)),
            };
            if let Some(mut denied) = answer {
                match self.mistake {
                    M::LocksNameNobody => denied.holders.clear(),
                    M::RatesForgetUntil => denied.until = None,
                    M::RatesChargeRefused => {
                        let key = StepKey { scope: 99, step: self.notes().posted.len() as u32 };
                        let later = denied.until.unwrap_or(now);
                        self.give(key, wants, later);
                    }
                    M::LocksRaces if self.meets() => return Reply::ready(Ok(None)),
                    _ => {}
                }
                return Reply::ready(Ok(Some(denied)));
            }
            if self.is(M::AcquireRaces) {
                self.meets();
            }
        }
        if self.is(M::LocksRaces) {
            self.meets();
        }
        self.notes().granted.push((run, step, wants));
        Reply::ready(Ok(None))
    }

    fn beat(&self, mut owner: Owner) -> Reply<Result<Vec<Beat>>> {
        if self.is(M::BeatOfHalfAnOwner) {
            owner = Owner(u128::from(owner.0 as u64));
        }
        if self.is(M::BeatCountsTwice) {
            block_on(self.inner.beat(owner)).unwrap();
        }
        if self.is(M::BeatRaces) && self.meets() && self.notes().beats.contains_key(&owner) {
            return Reply::ready(Ok(self.current(owner)));
        }
        let mut beats = block_on(self.inner.beat(owner)).unwrap();
        self.notes().beats.extend(beats.iter().map(|beat| (beat.owner, beat.count)));
        match self.mistake {
            M::BeatTellsItself => beats.retain(|beat| beat.owner == owner),
            M::BeatTellsOthers => beats.retain(|beat| beat.owner != owner),
            M::BeatAlwaysOne => beats.iter_mut().for_each(|beat| beat.count = 1),
            _ => {}
        }
        Reply::ready(Ok(beats))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        match self.mistake {
            M::RetireNever => {}
            M::RetireAll => {
                let all: Vec<Owner> = self.notes().beats.keys().copied().collect();
                all.into_iter().for_each(|owner| block_on(self.inner.retire(owner)).unwrap());
            }
            M::RetireCounts => {
                let (gone, now) = (self.current(owner), Timestamp::MIN);
                block_on(self.inner.claim(Claim { owner, now, gone, run: None, limit: 0 }))
                    .unwrap();
            }
            M::RetireGivesOne => {
                let held = |stored: &StoredRun| stored.holding == Holding::Held(owner);
                if let Some((run, _)) = self.runs().iter().find(|(_, stored)| held(stored)) {
                    self.force(run, |it| it.holding = Holding::Parked(Some(Timestamp::MIN)));
                }
            }
            _ => return self.inner.retire(owner),
        }
        Reply::ready(Ok(()))
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        let of = |wanted: &dyn Fn(&RunId, Holding) -> bool| {
            let runs = self.runs().into_iter().filter(|(run, it)| wanted(run, it.holding));
            Reply::ready(Ok(runs.map(|(run, _)| run).take(limit).collect()))
        };
        let held = |holding| holding == Holding::Held(owner);
        match self.mistake {
            M::MailOfEverybody => of(&|run, _| !self.inbox_of(run).is_empty()),
            M::MailWithoutMessages => of(&|_, holding| held(holding)),
            M::MailOfIdle => of(&|run, holding| {
                let is_held = matches!(holding, Holding::Held(_));
                !self.inbox_of(run).is_empty() && (held(holding) || !is_held)
            }),
            M::MailKeepsAnswered => {
                let posted = self.notes().posted.clone();
                of(&|run, holding| held(holding) && posted.iter().any(|(of, ..)| of == run))
            }
            M::MailWithoutLimit => self.inner.mail(owner, usize::MAX),
            M::MailNever => Reply::ready(Ok(Vec::new())),
            _ => self.inner.mail(owner, limit),
        }
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        let names = |reply: Reply<Result<Vec<RunId>>>| block_on(reply).unwrap();
        match self.mistake {
            M::HeldNever => Reply::ready(Ok(Vec::new())),
            M::HeldOfEverybody => {
                let all = block_on(self.inner.list(RunQuery::default())).unwrap();
                let mut all: Vec<RunId> = all.into_iter().map(|run| run.id).collect();
                all.sort_unstable();
                all.retain(|run| after.as_ref().is_none_or(|after| run > after));
                all.truncate(limit);
                Reply::ready(Ok(all))
            }
            M::HeldWithoutLimit => self.inner.held(owner, after, usize::MAX),
            M::HeldFromTheFirst => self.inner.held(owner, None, limit),
            M::HeldBackwards => {
                let mut held = names(self.inner.held(owner, after, limit));
                held.reverse();
                Reply::ready(Ok(held))
            }
            _ => self.inner.held(owner, after, limit),
        }
    }

    fn claim(&self, mut claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        claim.run = claim.run.as_ref().map(|run| self.id(run));
        let (before, asked) = (self.runs(), claim.clone());
        let named = claim.run.as_ref().and_then(|run| self.find(run).map(|it| (run.clone(), it)));
        match self.mistake {
            M::ClaimEarly => claim.now = Timestamp::MAX,
            M::ClaimLate => claim.now = Timestamp::from_micros(claim.now.as_micros() - 1),
            M::ClaimInWholeSeconds => claim.now = claim.now + Duration::from_millis(1),
            M::ClaimWithoutLimit => claim.limit = usize::MAX,
            M::ClaimAnyName => claim.run = None,
            M::ClaimNameWhenDue => {
                let later = |(run, it): (RunId, StoredRun)| match it.holding {
                    Holding::Parked(due) => {
                        due.is_none_or(|due| due > claim.now) && self.inbox_of(&run).is_empty()
                    }
                    Holding::Aside(until) => until > claim.now,
                    _ => false,
                };
                claim.limit = if named.is_some_and(later) { 0 } else { claim.limit };
            }
            M::ClaimNameOfFinished => {
                if let Some((run, it)) = named.filter(|(_, it)| it.holding == Holding::Finished) {
                    self.force(&run, |it| it.holding = Holding::Held(claim.owner));
                    let recoveries = it.recoveries;
                    return Reply::ready(Ok(vec![Claimed { run, recoveries }]));
                }
            }
            M::TakesAreFew => {
                let left = 500_usize.saturating_sub(self.notes().claimed.len());
                claim.limit = claim.limit.min(left);
            }
            M::GoneNever => claim.gone.clear(),
            M::GoneWithoutCompare => {
                let all = claim.gone.iter().flat_map(|beat| self.current(beat.owner));
                claim.gone = all.collect();
            }
            M::GoneWithOlder => {
                let older = |beat: &Beat| {
                    let count = beat.count;
                    self.current(beat.owner).into_iter().filter(move |now| now.count <= count)
                };
                claim.gone = claim.gone.iter().flat_map(older).collect();
            }
            M::GoneTakesAll if !claim.gone.is_empty() => {
                let all: Vec<Owner> = self.notes().beats.keys().copied().collect();
                claim.gone = all.into_iter().flat_map(|owner| self.current(owner)).collect();
            }
            M::GoneOnlyWhenTaken if claim.run.is_some() => {
                let holds = |it: &(RunId, StoredRun), beat: &Beat| {
                    it.1.holding == Holding::Held(beat.owner)
                };
                claim.gone.retain(|beat| named.as_ref().is_some_and(|it| holds(it, beat)));
            }
            M::GoneForGood => {}
            _ => {}
        }
        let now = claim.now;
        let gone: Vec<Owner> = claim.gone.iter().map(|beat| beat.owner).collect();
        let mut given = block_on(self.inner.claim(claim)).unwrap();
        self.give_back(&mut given, &before, now);
        self.take_more(&mut given, &before, &asked);
        if self.is(M::GoneForGood) {
            gone.into_iter().for_each(|owner| block_on(self.inner.retire(owner)).unwrap());
        }
        if self.is(M::ClaimRaces) {
            let own: Vec<RunId> = given.iter().map(|claimed| claimed.run.clone()).collect();
            self.notes().claimed = own;
            if self.meets() && !given.is_empty() {
                let last = self.notes().claimed.clone();
                given.extend(last.into_iter().map(|run| Claimed { run, recoveries: 1 }));
            }
            return Reply::ready(Ok(given));
        }
        self.after_claim(&mut given, &before);
        Reply::ready(Ok(given))
    }

    fn set_aside(
        &self,
        run: &RunId,
        mut owner: Owner,
        mut until: Timestamp,
        mut why: String,
    ) -> Reply<Result<()>> {
        let run = &self.id(run);
        let holding = self.find(run).map(|stored| stored.holding);
        match (self.mistake, holding) {
            (M::AsideByAnybody, Some(Holding::Held(holder))) => owner = holder,
            (M::AsideOfIdle, Some(Holding::Parked(_) | Holding::Finished | Holding::Aside(_))) => {
                self.force(run, |commit| commit.holding = Holding::Held(owner));
            }
            (M::AsideNever, _) => return Reply::ready(Ok(())),
            (M::AsideWithoutTime, _) => until = Timestamp::MIN,
            (M::AsideWhyIsCut, _) => why = ascii(&why),
            (M::AsideWithoutWhy, _) => why.clear(),
            (M::AsideForgetsInbox, _) => self.answer_all(run),
            (M::AsideReleases, _) => {
                let released = self.steps_of(run);
                self.force(run, |commit| commit.released = released);
            }
            (M::AsideFails, _) => {
                self.force(run, |commit| commit.status = stepwell::RunStatus::Failed);
            }
            (M::AsideRecovers, _) => self.force(run, |commit| commit.recovered = true),
            _ => {}
        }
        if self.is(M::AsideIsParked) && holding == Some(Holding::Held(owner)) {
            self.force(run, |commit| commit.holding = Holding::Parked(Some(until)));
            return Reply::ready(Ok(()));
        }
        self.inner.set_aside(run, owner, until, why)
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        let times = || {
            self.runs().into_iter().filter_map(|(_, stored)| match stored.holding {
                Holding::Parked(due) => due,
                Holding::Aside(until) => Some(until),
                _ => None,
            })
        };
        match self.mistake {
            M::DueNever => return Reply::ready(Ok(None)),
            M::DueOnlyByTime => return Reply::ready(Ok(times().min())),
            M::DueLatest => return Reply::ready(Ok(times().max())),
            M::DueAlways => return Reply::ready(Ok(Some(Timestamp::EPOCH))),
            M::DueByAnyMessage => {
                let has_mail = |(run, _): &(RunId, StoredRun)| !self.inbox_of(run).is_empty();
                if self.runs().iter().any(has_mail) {
                    return Reply::ready(Ok(Some(Timestamp::EPOCH)));
                }
            }
            M::DueTakes => {
                let (owner, now, gone) = (Owner(77), Timestamp::MAX, Vec::new());
                let due = self.inner.next_due();
                block_on(self.inner.claim(Claim { owner, now, gone, run: None, limit: 1 }))
                    .unwrap();
                return due;
            }
            _ => {}
        }
        self.inner.next_due()
    }

    fn list(&self, mut query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        match self.mistake {
            M::ListAnyWorkflow => query.workflow = None,
            M::ListAnyStatus => query.status = None,
            M::ListEnded => query.live = false,
            M::ListFromTheTop => query.before = None,
            M::ListWithoutLimit => query.limit = 0,
            M::ListFoldsNames => {
                let wanted = query.workflow.take().map(|name| name.to_lowercase());
                let mut found = block_on(self.inner.list(query)).unwrap();
                let is_it = |run: &Summary| {
                    wanted.as_ref().is_none_or(|wanted| run.workflow.to_lowercase() == *wanted)
                };
                found.retain(is_it);
                return Reply::ready(Ok(found));
            }
            M::ListCutsFirst => {
                let all = RunQuery { limit: query.limit, ..RunQuery::default() };
                let mut found = block_on(self.inner.list(all)).unwrap();
                found.retain(|run| query.status.is_none_or(|status| status == run.status));
                found.retain(|run| query.workflow.as_ref().is_none_or(|of| *of == run.workflow));
                return Reply::ready(Ok(found));
            }
            _ => {}
        }
        let mut found = block_on(self.inner.list(query)).unwrap();
        match self.mistake {
            M::ListBackwards => found.reverse(),
            M::ListById => found.sort_by(|a, b| b.id.cmp(&a.id)),
            M::ListByChange => {
                found.sort_by(|a, b| (b.changed_at, &b.id).cmp(&(a.changed_at, &a.id)));
            }
            M::ListFoldsIds => found.sort_by(|a, b| {
                let key = |run: &Summary| (run.created_at, run.id.as_str().to_lowercase());
                key(b).cmp(&key(a))
            }),
            M::ListIsShort => found.truncate(900),
            _ => {}
        }
        for run in &mut found {
            match self.mistake {
                M::ListNamesAreAscii => run.workflow = ascii(&run.workflow),
                M::ListWithoutTimes => run.changed_at = run.created_at,
                M::ListWithoutProblems => run.problem = None,
                M::ListKeepsProblems => {
                    run.problem = run.problem.take().or_else(|| Some("is there one?".into()));
                }
                M::ListForgetsNothing => run.forgotten = 0,
                M::ListCountsWhatIsLeft => run.events -= run.forgotten,
                M::ListCountsOneLess => run.events = run.events.saturating_sub(1),
                M::ListWithoutStatus => run.status = stepwell::RunStatus::Running,
                _ => {}
            }
        }
        Reply::ready(Ok(found))
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        self.purge_wrongly(which)
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        self.clear_wrongly(owner, runs)
    }
}
