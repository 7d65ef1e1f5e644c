//! What must be true of everything that has happened: the tape is gone through in order, beside the
//! journals. Each promise has a function with its number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stepwell::RunId;
use stepwell::journal::Recorded;
use stepwell::run::Want;
use stepwell::storage::{Owner, Storage};
use stepwell::testing::Fault;

use super::client::Said;
use super::grown::Ends;
use super::tape::{Begun, DAMAGE, Done, Noted, What, can_be_damaged};
use super::world::{LEASE, SECOND};

mod kept;
mod limits;
mod locks;
mod messages;
mod run;
mod values;

use locks::Slots;
use run::RunSeen;

/// From the end of what goes wrong, or of what is said to it, until a run has ended.
const END_WITHIN: Duration = Duration::from_secs(400);
/// How long nothing must have gone wrong for timers to be on time: what was held by the gone is taken
/// over, and what failed is asked again.
const QUIET: Duration = Duration::from_secs(200);

/// Everything that a simulation leaves.
pub(crate) struct Story<'a, S> {
    pub(crate) storage: &'a S,
    pub(crate) tape: &'a [Noted],
    pub(crate) said: &'a [Said],
    pub(crate) runs: &'a [RunId],
    /// When nothing went wrong any more.
    pub(crate) calm_at: Duration,
    /// Times of the clock say how much time has passed.
    pub(crate) has_jumps: bool,
    /// How old runs are that are removed for their age.
    pub(crate) retention: Option<Duration>,
    /// How often a run may be taken over in vain.
    pub(crate) max_recoveries: u32,
    /// Events that are kept of each run.
    pub(crate) history_kept: u64,
    /// Some engines cannot run anything.
    pub(crate) some_only_say: bool,
    /// What is to become of the steps of some runs.
    pub(crate) ends: BTreeMap<RunId, Ends>,
}

/// An engine as far as the tape was read.
#[derive(Default)]
struct EngineSeen {
    has_beaten: bool,
    is_over: bool,
    is_stopped: bool,
    /// Until when what went wrong may have kept it from saying anything: a call without an answer is given
    /// up after a lease.
    trouble_until: Option<Duration>,
    /// Until when what it reads, or has written before, may be late.
    late_until: Duration,
    /// Where on the tape what it was at was last dropped.
    over_at: usize,
}

pub(crate) struct Check<'a, S> {
    story: &'a Story<'a, S>,
    engines: BTreeMap<usize, EngineSeen>,
    /// When each was heard last that has not retired since.
    heard: BTreeMap<Owner, Duration>,
    retired: BTreeSet<Owner>,
    runs: BTreeMap<&'a RunId, RunSeen<'a>>,
    /// Those that were removed, in order.
    past: Vec<(&'a RunId, RunSeen<'a>)>,
    /// Ids that may not be used again before who has this name says so: an engine that has retired has
    /// another one, and what it said by the old one says nothing any more, however late it is heard.
    taken: BTreeMap<&'a RunId, Owner>,
    slots: Slots,
    /// Code that has come to something, by where it began.
    done: BTreeSet<usize>,
    trouble_at: Option<Duration>,
}

impl<S: Storage> Story<'_, S> {
    pub(crate) fn check(&self) {
        let mut check = Check {
            story: self,
            engines: BTreeMap::new(),
            heard: BTreeMap::new(),
            retired: BTreeSet::new(),
            runs: BTreeMap::new(),
            past: Vec::new(),
            taken: BTreeMap::new(),
            slots: Slots::new(self.has_jumps),
            done: BTreeSet::new(),
            trouble_at: None,
        };
        for (place, noted) in self.tape.iter().enumerate() {
            check.read(place, noted);
        }
        kept::n8_what_was_accepted_is_there(&check);
        for (id, seen) in &check.runs {
            kept::n9_history_is_what_was_committed(self, id, seen);
        }
        let past = check.past.iter().map(|(id, seen)| (*id, seen));
        for (id, seen) in check.runs.iter().map(|(id, seen)| (*id, seen)).chain(past) {
            seen.n7_it_ended_in_time(self, id);
            seen.n9_its_end_is_the_last_of_it(id);
            seen.comes_to_what_it_should(self, id);
        }
        messages::n1_what_was_accepted_has_happened(&check, self.said);
        messages::n2_nothing_has_happened_twice(&check, self.said);
        kept::n8_nothing_is_left(self);
    }
}

impl<'a, S: Storage> Check<'a, S> {
    fn read(&mut self, place: usize, noted: &'a Noted) {
        match &noted.what {
            What::Created(made) => {
                let run = &made.run;
                let has_beaten = self.engines.entry(noted.engine).or_default().has_beaten;
                let may_be = has_beaten || made.held_by.is_none();
                assert!(may_be, "{run}: created before its engine was heard of");
                assert!(
                    !self.taken.contains_key(run),
                    "N8 {run}: what it has left may be there still"
                );
                let twice = self.runs.insert(run, RunSeen::new(made));
                assert!(twice.is_none(), "N1 {run} was created twice");
                self.apply(noted, run, &made.events);
                self.give(place, noted, run, made.held_by);
            }
            What::Purged(purged) => self.n8_only_what_is_old_is_removed(purged),
            What::Cleared { runs, by } => {
                self.taken.retain(|run, taker| taker != by || !runs.contains(*run));
            }
            What::Committed(done) => self.committed(place, noted, done),
            What::Claimed { run, by } => {
                self.n4_only_the_silent_lose_runs(noted, run);
                if let Some(seen) = self.runs.get_mut(&run) {
                    seen.claims += 1;
                }
                self.give(place, noted, run, Some(*by));
            }
            What::Aside { run, why, is_told } => {
                self.n10_what_is_left_aside_says_why(run, why, *is_told);
                self.give(place, noted, run, None);
            }
            What::Granted { run, step, wants } => {
                self.slots.granted(run, *step, wants, noted.at);
            }
            What::Beat(owner) => {
                self.engines.entry(noted.engine).or_default().has_beaten = true;
                self.heard.insert(*owner, noted.at);
                self.retired.remove(owner);
            }
            What::Retired(owner) => drop(self.retired.insert(*owner)),
            What::Begun(begun) => self.begun(place, noted, begun),
            What::Left { body, has_ended } => {
                self.slots.left(*body);
                self.done.extend(has_ended.then_some(*body));
            }
            What::Faulty(..) | What::Stopped(_) | What::Over | What::ClockSet => {
                self.trouble(place, noted);
            }
        }
    }

    fn trouble(&mut self, place: usize, noted: &Noted) {
        self.trouble_at = Some(noted.at);
        if let What::ClockSet = noted.what {
            // Engines beat by the other one.
            return;
        }
        let engine = self.engines.entry(noted.engine).or_default();
        // Of what it waits for otherwise, others hear nothing.
        let unanswered = match noted.what {
            What::Faulty("beat" | "retire", fault) => match fault {
                Fault::AnswersLate(by) | Fault::DoneLate(by) => by.min(LEASE),
                Fault::Hangs | Fault::HangsAfter => LEASE,
                _ => Duration::ZERO,
            },
            _ => Duration::ZERO,
        };
        engine.trouble_until = engine.trouble_until.max(Some(noted.at + unanswered));
        match noted.what {
            What::Stopped(is_stopped) => engine.is_stopped = is_stopped,
            What::Faulty(_, Fault::AnswersLate(by) | Fault::DoneLate(by)) => {
                engine.late_until = engine.late_until.max(noted.at + by + LEASE);
            }
            What::Over => (engine.over_at, engine.is_over) = (place, true),
            _ => {}
        }
    }

    fn give(&mut self, place: usize, noted: &Noted, run: &'a RunId, held_by: Option<Owner>) {
        let Some(seen) = self.runs.get_mut(run) else { panic!("N8 {run} is not there") };
        let to = held_by.map(|_| noted.engine);
        if let Some(before) = seen.holder.filter(|before| Some(*before) != to) {
            seen.lost.insert(before, place);
            self.slots.lost(run, before);
        }
        (seen.holder, seen.held_by) = (to, held_by);
    }

    fn apply(&mut self, noted: &Noted, run: &'a RunId, events: &'a [Recorded]) {
        let Some(seen) = self.runs.get_mut(run) else { panic!("N8 {run} is not there") };
        for recorded in events {
            seen.n3_one_result(run, &recorded.event);
            seen.n3_the_result_is_that_of_code(run, &recorded.event, self.story.tape, &self.done);
            seen.n5_nothing_is_early(run, recorded);
            seen.n10_quarantine_has_a_reason(run, &recorded.event, self.story.max_recoveries);
            let limit = seen.limits.n5_reached(run, &seen.state, recorded, noted.at);
            if let Some(late) = seen.n5_lateness(noted, recorded).or(limit)
                && !self.story.has_jumps
                && !seen.was_paused
            {
                let quiet = self.trouble_at.is_none_or(|at| at + QUIET < noted.at);
                let limit = Duration::from_secs(10) + SECOND;
                assert!(!quiet || late <= limit, "N5 {run}: {:?} late: {late:?}", recorded.event);
            }
            seen.note_end(&recorded.event);
            seen.state.apply(recorded.at, &recorded.event);
            seen.journal.push(recorded);
        }
        if seen.state.status().is_end() {
            seen.ended_at = noted.at;
        }
    }

    fn committed(&mut self, place: usize, noted: &'a Noted, done: &'a Done) {
        let Some(seen) = self.runs.get(&done.run) else {
            panic!("{} is not there in the end", done.run);
        };
        let length = seen.state.version();
        assert_eq!(done.from, length, "N9 {}: written where it was not at", done.run);
        let by_holder = seen.holder.is_none_or(|holder| holder == noted.engine);
        assert!(by_holder, "N9 {}: written by who does not hold it", done.run);
        self.apply(noted, &done.run, &done.events);
        self.slots.released(&done.run, &done.released, done.has_ended);
        self.give(place, noted, &done.run, done.held_by);
    }

    /// A run is left to others for a reason: nobody can read it, this engine cannot run it, or it may be
    /// what engines have died of.
    fn n10_what_is_left_aside_says_why(&self, run: &RunId, why: &str, is_told: bool) {
        assert!(is_told, "N10 {run} was set aside, and nobody is told why");
        let is_damaged = why.contains(DAMAGE) && can_be_damaged(run);
        // By one that only says things.
        let has_nothing = why.contains("no executor `work`");
        let is_rare = why.contains("`rare`") && run.as_str().starts_with("rare");
        // As a test wants it, or after the length of a lease.
        let failed = why.contains("fails because") || why.contains("has not answered");
        let times = self.runs.get(run).map_or(0, |seen| seen.claims);
        let is_suspected = why.contains("that had it under way are gone") && times >= 2;
        assert!(
            is_damaged || has_nothing || is_rare || is_suspected || failed,
            "N10 {run} was set aside, as {why}"
        );
    }

    /// Nobody loses a run who was heard of less than a lease ago, and nobody is silent for no reason.
    fn n4_only_the_silent_lose_runs(&self, noted: &Noted, run: &RunId) {
        let Some(seen) = self.runs.get(run) else { panic!("N8 {run} is not there") };
        let Some(holder) = seen.holder.filter(|holder| *holder != noted.engine) else { return };
        let Some(owner) = seen.held_by.filter(|owner| !self.retired.contains(owner)) else {
            return;
        };
        let Some(beat_at) = self.heard.get(&owner).copied() else {
            panic!("N4 {run}: held by who was never heard of")
        };
        let engine = &self.engines[&holder];
        let silent = noted.at.saturating_sub(beat_at);
        assert!(
            silent >= LEASE,
            "N4 {run}: taken from {holder} who was silent for {silent:?} only"
        );
        // In memory, whoever waits for a run that only waits does not say so.
        let has_reason = engine.is_over
            || engine.is_stopped
            || seen.state.is_parked()
            || engine.trouble_until.is_some_and(|until| until >= beat_at);
        assert!(has_reason, "N4 {run}: {holder} was silent for {silent:?}, and nothing was wrong");
    }

    fn begun(&mut self, place: usize, noted: &'a Noted, begun: &'a Begun) {
        let Begun { run, path, attempt, key, is_once, read } = begun;
        let over_at = |engine: usize| self.engines.get(&engine).map_or(0, |seen| seen.over_at);
        let Some(seen) = seen_by(&mut self.runs, &mut self.past, noted.engine, run) else {
            panic!("N4 {run}: {path} begun by {} who has never had it", noted.engine)
        };
        let is_holder = seen.holder == Some(noted.engine);
        let is_new = seen.once.insert((key.clone(), *attempt));
        assert!(is_new || !is_once, "N4 {run}: {path} attempt {attempt} begun twice");
        let lost = |engine| seen.lost.get(&engine).copied().unwrap_or(0);
        if !is_holder {
            // The answer to its commit came late, or it was asleep: once for each time that it lost it.
            let ghost = (noted.engine, lost(noted.engine), key.clone(), *attempt);
            assert!(seen.ghosts.insert(ghost), "N4 {run}: {path} begun again by who has lost it");
            return;
        }
        // A repeat has a reason: what was begun is dropped, or its engine has lost the run.
        if let Some((engine, before)) = seen.begun.get(&(key.clone(), *attempt)).copied() {
            assert!(
                over_at(engine).max(lost(engine)) > before,
                "N4 {run}: {path} attempt {attempt} begun again by {}, after {engine}, for no reason",
                noted.engine
            );
        }
        seen.begun.insert((key.clone(), *attempt), (noted.engine, place));
        let step = seen.state.find(path);
        let runs = step.is_some_and(|step| seen.state.is_running(step, *attempt));
        let late_until = self.engines.get(&noted.engine).map_or(Duration::ZERO, |it| it.late_until);
        if !runs && noted.at <= late_until {
            // Its own commit was done after it had read the journal, or given the commit up.
            return;
        }
        assert!(runs, "N3 {run}: {path} attempt {attempt} begun, and nothing recorded wants it");
        let Some(step) = step else { return };
        let name = format!("{run}/{}", seen.state.instance(step));
        assert_eq!(*key, name, "N4 {run}: one instance, one key");
        assert!(!seen.results.contains(&name), "N3 {run}: {path} begun after its result");
        seen.n3_reads_what_was_recorded(run, step, read);
        let wants = seen.state.locks(step, noted.now).unwrap_or_default();
        self.slots.begun(run, step, key, noted.engine, place, &wants);
    }
}

/// The run of this id that an engine has, or that it has had.
fn seen_by<'s, 'a>(
    runs: &'s mut BTreeMap<&'a RunId, RunSeen<'a>>,
    past: &'s mut [(&'a RunId, RunSeen<'a>)],
    engine: usize,
    run: &RunId,
) -> Option<&'s mut RunSeen<'a>> {
    let past = past.iter_mut().rev().filter(|(id, _)| *id == run).map(|(_, seen)| seen);
    let had =
        |seen: &&mut RunSeen<'a>| seen.holder == Some(engine) || seen.lost.contains_key(&engine);
    runs.get_mut(run).into_iter().chain(past).find(had)
}

/// The locks that a step wants, as far as they have a limit.
fn limited(wants: &[Want]) -> impl Iterator<Item = (&str, u32)> {
    wants.iter().filter_map(|want| Some((want.lock.as_str(), want.max?)))
}
