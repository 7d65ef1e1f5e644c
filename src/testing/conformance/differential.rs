//! The same random operations on a storage and on [`Memory`], every answer compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::ops::Range;
use std::sync::Arc;

use super::StorageFactory;
use super::given::{at, commit, event, id, ready, run, started, workflow};
use super::operations::{Chance, OWNERS, Operation, RUNS, VALUES, operation, want};
use super::trial::{stored, wait};
use crate::error::{Error, Result};
use crate::id::StepKey;
use crate::journal::{Recorded, Signal, Snapshot};
use crate::run::Rejection;
use crate::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Holding, Memory, Message,
    NewRun, Owner, Purge, Reply, RunQuery, Storage,
};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{Metadata, Workflow};

/// Does the same things, in an order that follows from each seed, to a storage and to [`Memory`], and
/// compares every answer, and everything that can be read, in the end.
///
/// Where the contract leaves a choice, any will do: which of the runs that are free a claim gives, the
/// order of owners, how many holders of a lock are named.
///
/// # Panics
/// At the first difference: with its seed, and the fewest operations found that show it.
pub fn differential(factory: &dyn StorageFactory, seeds: Range<u64>, operations: usize) {
    for seed in seeds {
        let mut chance = Chance::new(seed);
        let all: Vec<Operation> =
            (0..operations).map(|place| operation(&mut chance, place as i64)).collect();
        let mut attempts = Attempts { factory, seed, count: 0 };
        if let Some(found) = attempts.first_difference(&all) {
            let (few, found) = attempts.shorten(all, found);
            let mut text = format!("seed {seed}: Memory answers differently after");
            for (place, operation) in few.iter().enumerate() {
                let _ = write!(text, "\n  {}. {operation:?}", place + 1);
            }
            panic!("{text}\n{}", found.what);
        }
    }
}

struct Difference {
    /// After how many operations.
    after: usize,
    what: String,
}

struct Attempts<'a> {
    factory: &'a dyn StorageFactory,
    seed: u64,
    count: usize,
}

/// Sequences that are tried to find a short one.
const ATTEMPTS_MAX: usize = 400;

impl Attempts<'_> {
    fn first_difference(&mut self, all: &[Operation]) -> Option<Difference> {
        self.count += 1;
        let mut pair = Pair::new(self.factory, format!("random_{}_{}", self.seed, self.count));
        for (place, operation) in all.iter().enumerate() {
            if let Err(what) = pair.perform(operation) {
                return Some(Difference { after: place + 1, what });
            }
        }
        let what = pair.compare_all().err()?;
        Some(Difference { after: all.len(), what })
    }

    /// Leaves operations out, one after the other, as long as there is a difference.
    fn shorten(
        &mut self,
        mut all: Vec<Operation>,
        mut found: Difference,
    ) -> (Vec<Operation>, Difference) {
        all.truncate(found.after);
        let mut place = all.len();
        while place > 0 && self.count < ATTEMPTS_MAX {
            place -= 1;
            let mut fewer = all.clone();
            fewer.remove(place);
            if let Some(other) = self.first_difference(&fewer) {
                fewer.truncate(other.after);
                (all, found) = (fewer, other);
                place = place.min(all.len());
            }
        }
        (all, found)
    }
}

/// One storage, and the numbers that it gave to messages.
struct Side<'a> {
    factory: &'a dyn StorageFactory,
    storage: Arc<dyn Storage>,
    /// The run of each message, and its number, in the order of posting.
    posted: Vec<(usize, u64)>,
}

struct InMemory;

impl StorageFactory for InMemory {
    fn open(&self, _: &str) -> Arc<dyn Storage> {
        Arc::new(Memory::new())
    }
}

/// In pairs that differ by a capital letter.
fn name(run: usize) -> String {
    format!("{}{}", if run.is_multiple_of(2) { "r" } else { "R" }, run / 2)
}

/// What stands at a place in the list of values, and things made of it.
struct Values {
    value: Value,
    user: Option<String>,
    metadata: Metadata,
    linked: Vec<Workflow>,
}

fn values(place: usize) -> Values {
    let json = VALUES[place].clone();
    let texts = [None, Some(""), Some("ann"), Some("ü\u{0}'")];
    let metadata = Some(json.clone()).filter(|json| !json.is_null());
    Values {
        value: json.into(),
        user: texts[place % texts.len()].map(String::from),
        metadata: metadata.map(|json| ("k".to_string(), json)).into_iter().collect(),
        linked: (0..place % 3).map(|number| workflow(&format!("linked{number}"))).collect(),
    }
}

/// Steps of two scopes.
fn step(number: u32) -> StepKey {
    StepKey { scope: number % 2, step: number / 2 }
}

impl Side<'_> {
    fn ask<T: Unpin + Send>(&self, ask: impl FnOnce(&dyn Storage) -> Reply<T>) -> T {
        wait(self.factory, ask(&*self.storage))
    }

    /// The place in the order of posting of the message to a run with this number.
    fn message(&self, run: usize, number: u64) -> Option<usize> {
        self.posted.iter().position(|posted| *posted == (run, number))
    }

    /// Messages by their places.
    fn inbox(&self, run: usize) -> Result<Vec<(Option<usize>, Message)>> {
        let inbox = self.ask(|storage| storage.inbox(&id(&name(run))))?;
        Ok(inbox
            .into_iter()
            .map(|(number, message)| (self.message(run, number), message))
            .collect())
    }

    /// All of a run, as text.
    fn read(&self, run: usize) -> Result<Vec<String>> {
        let name = name(run);
        let Some(found) = self.ask(|storage| storage.load(&id(&name)))? else {
            return Ok(vec!["no run".into()]);
        };
        let mut lines = stored(&name, &found);
        let events = self.ask(|storage| storage.events(&id(&name), 0, usize::MAX))?;
        lines.push(format!("{events:?}"));
        lines.push(format!("{:?}", self.inbox(run)?));
        Ok(lines)
    }

    fn read_all(&self, owners: &BTreeSet<Owner>) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for run in 0..RUNS {
            lines.extend(self.read(run)?);
        }
        for (place, (run, number)) in self.posted.iter().enumerate() {
            let answer = self.ask(|storage| storage.answer(&id(&name(*run)), *number))?;
            lines.push(format!("message {place} is answered {answer:?}"));
        }
        for owner in owners {
            let mut mail = self.ask(|storage| storage.mail(*owner, 100))?;
            mail.sort_unstable();
            lines.push(format!("{owner:?} has mail for {mail:?}"));
            let held = self.ask(|storage| storage.held(*owner, None, 100))?;
            lines.push(format!("{owner:?} holds {held:?}"));
        }
        lines.push(format!("{:?}", self.ask(|storage| storage.list(RunQuery::default()))?));
        lines.push(format!("the next is due {:?}", due(self.ask(|storage| storage.next_due())?)));
        Ok(lines)
    }
}

/// Long ago is long ago.
fn due(due: Option<Timestamp>) -> Option<Timestamp> {
    due.map(|due| due.max(Timestamp::EPOCH))
}

/// What two storages say; errors by their kinds.
fn same<T: Debug>(found: Result<T>, expected: Result<T>) -> Result<(), String> {
    let text = |answer: Result<T>| match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("an error: {:?}", error.kind()),
    };
    let (found, expected) = (text(found), text(expected));
    if found == expected {
        return Ok(());
    }
    Err(format!("expected: {expected:.2000}\n   found: {found:.2000}"))
}

fn failed(error: &Error) -> String {
    format!("a question has failed: {error}")
}

/// The storage under test beside `Memory`, and what is known of owners without asking either.
struct Pair<'a> {
    name: String,
    tested: Side<'a>,
    model: Side<'static>,
    owners: Vec<Owner>,
    /// How often each has beaten, of all that ever were.
    beats: BTreeMap<Owner, u64>,
    alive: BTreeSet<Owner>,
}

impl<'a> Pair<'a> {
    fn new(factory: &'a dyn StorageFactory, name: String) -> Self {
        let tested = Side { factory, storage: factory.open(&name), posted: Vec::new() };
        let storage = InMemory.open(&name);
        Self {
            name,
            tested,
            model: Side { factory: &InMemory, storage, posted: Vec::new() },
            // All the same for whoever keeps only half of them.
            owners: (0..OWNERS as u128).map(|owner| Owner((owner << 64) + 1)).collect(),
            beats: BTreeMap::new(),
            alive: BTreeSet::new(),
        }
    }

    fn both<T: Debug + Unpin + Send>(
        &self,
        ask: impl Fn(&dyn Storage) -> Reply<Result<T>>,
    ) -> Result<(), String> {
        same(self.tested.ask(&ask), self.model.ask(&ask))
    }

    fn compare(&self, run: usize) -> Result<(), String> {
        lines(&self.tested.read(run), &self.model.read(run))
    }

    fn compare_all(&self) -> Result<(), String> {
        let owners = self.beats.keys().chain(&self.owners).copied().collect();
        lines(&self.tested.read_all(&owners), &self.model.read_all(&owners))
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Create { run: of, workflow: flow, holding, events, value, seconds } => {
                let Values { value, user, metadata, linked } = values(*value);
                let mut journal: Vec<Recorded> = (0..*events).map(ready).collect();
                journal.push(event(*seconds, started(value)));
                let new = NewRun {
                    holding: holding.of(&self.owners),
                    workflow: workflow(&name(*flow)),
                    linked,
                    user,
                    metadata,
                    at: at(*seconds),
                    journal,
                    ..run(&name(*of))
                };
                let word = |created: Created| match created {
                    Created::New => "new".to_string(),
                    Created::Exists(workflow) => workflow,
                };
                let create = |side: &Side<'_>| side.ask(|it| it.create(new.clone())).map(word);
                let (found, expected) = (create(&self.tested), create(&self.model));
                if found.as_deref().is_ok_and(|word| word == "new") {
                    // What one of this id was told went with it.
                    self.tested.posted.retain(|(run, _)| run != of);
                    self.model.posted.retain(|(run, _)| run != of);
                }
                same(found, expected)?;
                self.compare(*of)
            }
            Operation::Commit { run, .. } => {
                self.commit(operation)?;
                self.compare(*run)
            }
            Operation::Post { run, value } => self.post(*run, *value),
            Operation::Acquire { .. } => self.acquire(operation),
            Operation::Beat { owner } => self.beat(self.owners[*owner]),
            Operation::Retire { owner } => {
                let retired = self.owners[*owner];
                self.both(|storage| storage.retire(retired))?;
                self.alive.remove(&retired);
                // An owner is never used again.
                self.owners[*owner] = Owner(retired.0 + ((OWNERS as u128) << 64));
                Ok(())
            }
            Operation::Mail { owner, limit } => self.mail(self.owners[*owner], *limit),
            Operation::Claim { owner, gone, run, limit, seconds } => {
                let gone = gone.iter().filter_map(|(owner, off)| {
                    let owner = self.owners[*owner];
                    let count = self.beats.get(&owner)?.saturating_add_signed(*off);
                    Some(Beat { owner, count })
                });
                let gone: Vec<Beat> =
                    gone.filter(|beat| beat.owner != self.owners[*owner]).collect();
                let (owner, run) = (self.owners[*owner], run.map(|run| id(&name(run))));
                self.claim(&Claim { owner, now: at(*seconds), gone, run, limit: *limit })
            }
            Operation::SetAside { run, owner, until } => {
                if self.model.read(*run).is_ok_and(|lines| lines.len() > 1) {
                    let (run, owner, until) = (id(&name(*run)), self.owners[*owner], at(*until));
                    self.both(|storage| {
                        storage.set_aside(&run, owner, until, format!("ünï: not before {until}"))
                    })?;
                }
                self.compare(*run)
            }
            Operation::NextDue => {
                let next = |side: &Side<'_>| side.ask(|storage| storage.next_due()).map(due);
                same(next(&self.tested), next(&self.model))
            }
            Operation::List { workflow, status, live, before, limit } => {
                let (workflow, status) = (workflow.map(name), *status);
                let before = before.map(|(seconds, run)| (at(seconds), id(&name(run))));
                let query = RunQuery { workflow, status, live: *live, before, limit: *limit };
                self.both(|storage| storage.list(query.clone()))
            }
            Operation::Events { run, from, limit } => {
                let run = id(&name(*run));
                self.both(|storage| storage.events(&run, *from, *limit))
            }
            Operation::Purge { owner, before, keep, workflow, limit, cleared } => {
                let which = Purge {
                    owner: self.owners[*owner],
                    before: before.map(at),
                    keep: *keep,
                    workflow: workflow.map(name),
                    limit: *limit,
                };
                self.both(|storage| storage.purge(which.clone()))?;
                let again = Purge { before: None, keep: None, ..which };
                let mut named = self
                    .model
                    .ask(|storage| storage.purge(again))
                    .map_err(|error| failed(&error))?;
                named.truncate(*cleared);
                self.both(|storage| storage.clear(self.owners[*owner], named.clone()))?;
                self.compare_all()
            }
            Operation::Clear { owner, run } => {
                let (owner, run) = (self.owners[*owner], id(&name(*run)));
                self.both(|storage| storage.clear(owner, vec![run.clone()]))
            }
            Operation::Reopen => self.reopen(),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        if !self.tested.factory.survives_reopen() {
            return Ok(());
        }
        // Dropped before it is opened again: two may not be open at once.
        self.tested.storage = Arc::new(Memory::new());
        self.tested.storage = self.tested.factory.open(&self.name);
        if self.tested.factory.forgets_owners() {
            self.forget_owners()?;
        }
        self.compare_all()
    }

    /// `Memory` is not opened again: a claim that takes nothing says to it that all owners are gone.
    fn forget_owners(&mut self) -> Result<(), String> {
        let alive = std::mem::take(&mut self.alive).into_iter();
        let gone = alive.map(|owner| Beat { owner, count: self.beats[&owner] }).collect();
        let claim = Claim { owner: self.owners[0], now: at(0), gone, run: None, limit: 0 };
        let taken = self.model.ask(|storage| storage.claim(claim));
        taken.map(drop).map_err(|error| failed(&error))
    }

    fn commit(&self, operation: &Operation) -> Result<(), String> {
        let Operation::Commit {
            run,
            owner,
            off,
            events,
            status,
            answers,
            again,
            value,
            holding,
            released,
            recovered,
            snapshot,
            seconds,
        } = operation
        else {
            return Ok(());
        };
        let of = id(&name(*run));
        let found = self.model.ask(|storage| storage.load(&of)).map_err(|error| failed(&error))?;
        let length = found.map_or(0, |found| found.length());
        let inbox = self.model.inbox(*run).map_err(|error| failed(&error))?;
        let first = self.model.posted.iter().position(|(of, _)| of == run).filter(|_| *again);
        let next = inbox.iter().filter_map(|(place, _)| *place).take(*answers);
        let mut answered: Vec<usize> = next.chain(first).collect();
        answered.dedup();
        let what = |place: usize| -> Answer {
            if place.is_multiple_of(2) {
                Ok(())
            } else {
                Err(Rejection::Unsafe(format!("message {place}")))
            }
        };
        let written = |step: u32| match step {
            0 => event(*seconds, started(values(*value).value)),
            step => event(*seconds, ready(step).event),
        };
        let given = |side: &Side<'_>| Commit {
            events: (0..*events).map(written).collect(),
            status: *status,
            answers: answered.iter().map(|place| (side.posted[*place].1, what(*place))).collect(),
            holding: holding.of(&self.owners),
            released: released.iter().map(|number| step(*number)).collect(),
            recovered: *recovered,
            writes: None,
            snapshot: snapshot.map(|forget| {
                let events = length + u64::from(*events);
                let state = format!("{{\"ü\": {seconds}}}");
                Snapshot { events, forget: forget.min(events), state }.into()
            }),
            ..commit(self.owners[*owner], length.wrapping_add_signed(*off))
        };
        let write = |side: &Side<'_>| {
            side.ask(|storage| storage.commit(&of, given(side))).map(|buffer| buffer.is_empty())
        };
        same(write(&self.tested), write(&self.model))
    }

    fn post(&mut self, run: usize, value: usize) -> Result<(), String> {
        let of = id(&name(run));
        let message = || Message::Signal(Signal::new("s", values(value).value));
        let found = self.tested.ask(|storage| storage.post(&of, message()));
        let expected = self.model.ask(|storage| storage.post(&of, message()));
        if let (Ok(found), Ok(expected)) = (&found, &expected) {
            let mut of_run = self.tested.posted.iter().filter(|(other, _)| *other == run);
            if let Some((_, last)) = of_run.next_back().filter(|(_, last)| last >= found) {
                return Err(format!("message {found} of {of} comes after {last}"));
            }
            self.tested.posted.push((run, *found));
            self.model.posted.push((run, *expected));
        }
        same(found.map(drop), expected.map(drop))?;
        self.compare(run)
    }

    /// Any of those that have messages, if there are more than were asked for.
    fn mail(&self, owner: Owner, limit: usize) -> Result<(), String> {
        let ask = |side: &Side<'_>, limit| -> Result<BTreeSet<String>, String> {
            let mail = side.ask(|storage| storage.mail(owner, limit));
            let mail = mail.map_err(|error| failed(&error))?;
            let names: BTreeSet<String> = mail.iter().map(ToString::to_string).collect();
            let is_right = names.len() == mail.len() && mail.len() <= limit;
            is_right.then_some(names).ok_or_else(|| format!("at most {limit}, each once: {mail:?}"))
        };
        let (found, all) = (ask(&self.tested, limit)?, ask(&self.model, usize::MAX)?);
        if found.is_subset(&all) && found.len() == all.len().min(limit) {
            return Ok(());
        }
        Err(format!("the mail is for {all:?}, and of {limit} it is said to be for {found:?}"))
    }

    /// This run, or the next one that somebody holds, and who.
    fn held_from(&self, run: usize) -> Result<Option<(usize, Owner)>> {
        for run in (run..RUNS).chain(0..run) {
            if let Some(stored) = self.model.ask(|storage| storage.load(&id(&name(run))))?
                && let Holding::Held(owner) = stored.holding
                && !stored.status.is_end()
            {
                return Ok(Some((run, owner)));
            }
        }
        Ok(None)
    }

    fn acquire(&self, operation: &Operation) -> Result<(), String> {
        let Operation::Acquire { owner, off, run, step: number, wants, seconds } = operation else {
            return Ok(());
        };
        let holder = match owner {
            Some(_) => None,
            None => self.held_from(*run).map_err(|error| failed(&error))?,
        };
        let owner = self.owners[owner.unwrap_or_default()];
        let (run, owner) = holder.unwrap_or((*run, owner));
        let of = id(&name(run));
        let found = self.model.ask(|storage| storage.load(&of)).map_err(|error| failed(&error))?;
        let asked = Acquire {
            owner,
            expected: found.map_or(0, |found| found.length()).wrapping_add_signed(*off),
            step: step(*number),
            wants: wants.iter().map(|number| want(*number)).collect(),
            now: at(*seconds),
        };
        let ask = |side: &Side<'_>| {
            let sorted = |mut denied: Denied| {
                denied.holders.sort_unstable();
                denied.holders.dedup();
                denied
            };
            let answer = side.ask(|it| it.acquire(&of, asked.clone()));
            answer.map(|denied| denied.map(sorted))
        };
        let (found, expected) = (ask(&self.tested), ask(&self.model));
        match (&found, &expected) {
            // Any of several locks that are not free may be named.
            (Ok(Some(found)), Ok(Some(expected))) if found.lock != expected.lock => {
                let is_wanted = asked.wants.iter().any(|want| want.lock == found.lock);
                is_wanted.then_some(()).ok_or_else(|| format!("nobody asked for {}", found.lock))
            }
            _ => same(found, expected),
        }
    }

    fn beat(&mut self, owner: Owner) -> Result<(), String> {
        let sorted = |side: &Side<'_>| {
            side.ask(|storage| storage.beat(owner)).map(|mut beats| {
                beats.sort_unstable_by_key(|beat| beat.owner);
                beats
            })
        };
        *self.beats.entry(owner).or_default() += 1;
        self.alive.insert(owner);
        let beat = |owner: &Owner| Beat { owner: *owner, count: self.beats[owner] };
        let expected: Vec<Beat> = self.alive.iter().map(beat).collect();
        same(sorted(&self.model), Ok(expected.clone()))?;
        same(sorted(&self.tested), Ok(expected))
    }

    /// The runs that a claim may give, read from what is kept: not as `Memory` finds them.
    fn free(&self, claim: &Claim) -> Result<BTreeSet<String>> {
        let mut free = BTreeSet::new();
        for run in 0..RUNS {
            let of = id(&name(run));
            let Some(found) = self.model.ask(|storage| storage.load(&of))? else { continue };
            let has_mail = !self.model.inbox(run)?.is_empty();
            let is_named = claim.run.as_ref() == Some(&of);
            let is_free = match found.holding {
                Holding::Held(owner) => owner != claim.owner && !self.alive.contains(&owner),
                Holding::Parked(due) => {
                    is_named || has_mail || due.is_some_and(|due| due <= claim.now)
                }
                Holding::Aside(until) => is_named || until <= claim.now,
                Holding::Finished => has_mail,
            };
            if is_free && (is_named || claim.run.is_none()) {
                free.insert(name(run));
            }
        }
        Ok(free)
    }

    /// Any of the free runs may be given; then `Memory` gives the same.
    fn claim(&mut self, claim: &Claim) -> Result<(), String> {
        for beat in &claim.gone {
            if self.beats.get(&beat.owner) == Some(&beat.count) {
                self.alive.remove(&beat.owner);
            }
        }
        let free = self.free(claim).map_err(|error| failed(&error))?;
        let found =
            self.tested.ask(|it| it.claim(claim.clone())).map_err(|error| failed(&error))?;
        let given: BTreeSet<String> = found.iter().map(|given| given.run.to_string()).collect();
        // Fewer than there are may be given, but not none, and not when there is room for many more.
        let is_all = claim.limit < 2 * RUNS || given.len() == free.len();
        let some = claim.limit == 0 || free.is_empty() || !given.is_empty();
        let once = given.len() == found.len() && found.len() <= claim.limit;
        if !(given.is_subset(&free) && is_all && some && once) {
            return Err(format!("a claim gave {found:?}, of {free:?}, which are free"));
        }
        let nothing = Claim { limit: 0, run: None, ..claim.clone() };
        let mut expected =
            self.model.ask(|it| it.claim(nothing)).map_err(|error| failed(&error))?;
        for run in found.iter().map(|given| given.run.clone()) {
            let named = Claim { run: Some(run), gone: Vec::new(), limit: 1, ..claim.clone() };
            let given = self.model.ask(|it| it.claim(named)).map_err(|error| failed(&error))?;
            expected.extend(given);
        }
        same::<Vec<Claimed>>(Ok(found), Ok(expected))?;
        (0..RUNS).filter(|run| given.contains(&name(*run))).try_for_each(|run| self.compare(run))
    }
}

fn lines(found: &Result<Vec<String>>, expected: &Result<Vec<String>>) -> Result<(), String> {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let mut both = found.iter().zip(expected);
            let differs = both.find(|(found, expected)| found != expected);
            differs.map_or(Ok(()), |(found, expected)| same(Ok(found), Ok(expected)))?;
            same(Ok(found.len()), Ok(expected.len()))
        }
        (Err(error), _) | (_, Err(error)) => Err(failed(error)),
    }
}
