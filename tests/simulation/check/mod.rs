//! What must be true of everything that has happened: the tape is gone through in order, beside the
//! journals. Each promise has a function with its number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::{Event, Recorded, Waiting};
use stepwell::run::{RunState, Want};
use stepwell::storage::{Holding, RunQuery, Storage, StoredRun, Summary};
use stepwell::testing::Fault;
use stepwell::workflow::Program;
use stepwell::{ErrorClass, Outcome, RunId, StepKey, Timestamp};

use super::client::Said;
use super::grown::{End, Ends};
use super::shapes::expected;
use super::tape::{Begun, Done, Noted, What, at_once};
use super::world::{LEASE, SECOND};

mod limits;
mod locks;
mod messages;
mod values;

use limits::Limits;
use locks::Slots;
use values::Values;

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
    /// What is to become of the steps of some runs.
    pub(crate) ends: BTreeMap<RunId, Ends>,
}

/// An engine as far as the tape was read.
#[derive(Default)]
struct EngineSeen {
    beat_at: Option<Duration>,
    has_retired: bool,
    is_over: bool,
    is_stopped: bool,
    trouble_at: Option<Duration>,
    /// Until when what it reads, or has written before, may be late.
    late_until: Duration,
    /// Where on the tape what it was at was last dropped.
    over_at: usize,
}

/// A run as it is kept in the end, and all of its events.
struct Kept {
    run: StoredRun,
    program: Arc<Program>,
    whole: Vec<Recorded>,
}

/// A run as far as the tape was read.
struct RunSeen<'a> {
    journal: &'a [Recorded],
    state: RunState,
    holder: Option<usize>,
    /// Who has held it, and where on the tape that ended last.
    lost: BTreeMap<usize, usize>,
    /// Results by the name of the instance.
    results: BTreeSet<String>,
    /// What has become of each step, by its path.
    ends: Ends,
    values: Values,
    limits: Limits,
    /// Attempts of steps that must not be begun twice.
    once: BTreeSet<(String, u32)>,
    /// Nobody knew what a step had done.
    was_unknown: bool,
    /// Where each attempt was begun last, and by whom.
    begun: BTreeMap<(String, u32), (usize, usize)>,
    /// What was begun by who had lost the run.
    ghosts: BTreeSet<(usize, usize, String, u32)>,
    /// Waits that end by time: not before, and when that is by the other clock.
    due: BTreeMap<StepKey, (Timestamp, Duration)>,
    retries: BTreeMap<StepKey, Timestamp>,
    ended_at: Duration,
}

pub(crate) struct Check<'a, S> {
    story: &'a Story<'a, S>,
    engines: BTreeMap<usize, EngineSeen>,
    runs: BTreeMap<&'a RunId, RunSeen<'a>>,
    slots: Slots,
    /// Code that has come to something, by where it began.
    done: BTreeSet<usize>,
    trouble_at: Option<Duration>,
}

impl<S: Storage> Story<'_, S> {
    pub(crate) fn check(&self) {
        let stored = n8_what_was_accepted_is_there(self);
        let mut check = Check {
            story: self,
            engines: BTreeMap::new(),
            runs: stored.iter().map(|(id, run)| (id, RunSeen::new(id, run))).collect(),
            slots: Slots::new(self.has_jumps),
            done: BTreeSet::new(),
            trouble_at: None,
        };
        for (place, noted) in self.tape.iter().enumerate() {
            check.read(place, noted);
        }
        for (id, stored) in &stored {
            let seen = &check.runs[id];
            n9_history_is_what_was_committed(id, seen, stored);
            n7_it_ended_in_time(self, id, seen);
            messages::n1_what_was_accepted_has_happened(id, &stored.whole, self.said);
            messages::n2_nothing_has_happened_twice(id, &stored.whole, self.said);
            comes_to_what_it_should(self, id, seen, stored);
        }
        n8_nothing_is_left(self);
    }
}

impl<'a, S: Storage> Check<'a, S> {
    fn read(&mut self, place: usize, noted: &'a Noted) {
        match &noted.what {
            What::Created { run, events } => {
                let beat = self.engines.entry(noted.engine).or_default().beat_at;
                assert!(beat.is_some(), "{run}: created before its engine was heard of");
                self.apply(noted, run, *events);
                self.give(place, run, Some(noted.engine));
            }
            What::Committed(done) => self.committed(place, noted, done),
            What::Claimed { run } => {
                self.n4_only_the_silent_lose_runs(noted, run);
                self.give(place, run, Some(noted.engine));
            }
            What::Aside { run } => self.give(place, run, None),
            What::Granted { run, step, wants } => {
                self.slots.granted(run, *step, wants, noted.at);
            }
            What::Beat => {
                let engine = self.engines.entry(noted.engine).or_default();
                (engine.beat_at, engine.has_retired) = (Some(noted.at), false);
            }
            What::Retired => self.engines.entry(noted.engine).or_default().has_retired = true,
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
        engine.trouble_at = Some(noted.at);
        match noted.what {
            What::Stopped(is_stopped) => engine.is_stopped = is_stopped,
            What::Faulty(_, Fault::AnswersLate(by) | Fault::DoneLate(by)) => {
                engine.late_until = engine.late_until.max(noted.at + by + LEASE);
            }
            What::Over => (engine.over_at, engine.is_over) = (place, true),
            _ => {}
        }
    }

    fn give(&mut self, place: usize, run: &'a RunId, to: Option<usize>) {
        let Some(seen) = self.runs.get_mut(run) else { panic!("{run} is not there in the end") };
        if let Some(before) = seen.holder.filter(|before| Some(*before) != to) {
            seen.lost.insert(before, place);
            self.slots.lost(run, before);
        }
        seen.holder = to;
    }

    fn apply(&mut self, noted: &Noted, run: &'a RunId, events: u64) {
        let Some(seen) = self.runs.get_mut(run) else { panic!("{run} is not there in the end") };
        let from = seen.state.version() as usize;
        let Some(new) = seen.journal.get(from..from + events as usize) else {
            panic!("{run}: its journal has lost events that were committed");
        };
        for recorded in new {
            seen.n3_one_result(run, &recorded.event);
            seen.n3_the_result_is_that_of_code(run, &recorded.event, self.story.tape, &self.done);
            seen.n5_nothing_is_early(run, recorded);
            let limit = seen.limits.n5_reached(run, &seen.state, recorded, noted.at);
            if let Some(late) = seen.n5_lateness(noted, recorded).or(limit)
                && !self.story.has_jumps
            {
                let quiet = self.trouble_at.is_none_or(|at| at + QUIET < noted.at);
                let limit = Duration::from_secs(10) + SECOND;
                assert!(!quiet || late <= limit, "N5 {run}: {:?} late: {late:?}", recorded.event);
            }
            seen.note_end(&recorded.event);
            seen.state.apply(recorded.at, &recorded.event);
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
        self.apply(noted, &done.run, done.events);
        self.slots.released(&done.run, &done.released, done.has_ended);
        self.give(place, &done.run, done.is_held.then_some(noted.engine));
    }

    /// Nobody loses a run who was heard of less than a lease ago, and nobody is silent for no reason.
    fn n4_only_the_silent_lose_runs(&self, noted: &Noted, run: &RunId) {
        let Some(seen) = self.runs.get(run) else { panic!("{run} is not there in the end") };
        let Some(holder) = seen.holder.filter(|holder| *holder != noted.engine) else { return };
        let engine = &self.engines[&holder];
        if engine.has_retired {
            return;
        }
        let Some(beat_at) = engine.beat_at else {
            panic!("N4 {run}: held by who was never heard of")
        };
        let silent = noted.at.saturating_sub(beat_at);
        assert!(
            silent >= LEASE,
            "N4 {run}: taken from {holder} who was silent for {silent:?} only"
        );
        // In memory, whoever waits for a run that only waits does not say so.
        let has_reason = engine.is_over
            || engine.is_stopped
            || seen.state.is_parked()
            || engine.trouble_at.is_some_and(|at| at >= beat_at);
        assert!(has_reason, "N4 {run}: {holder} was silent for {silent:?}, and nothing was wrong");
    }

    fn begun(&mut self, place: usize, noted: &'a Noted, begun: &'a Begun) {
        let Begun { run, path, attempt, key, is_once, read } = begun;
        let over_at = |engine: usize| self.engines.get(&engine).map_or(0, |seen| seen.over_at);
        let Some(seen) = self.runs.get_mut(run) else { panic!("{run}: code of a run that is not") };
        let is_holder = seen.holder == Some(noted.engine);
        let is_new = seen.once.insert((key.clone(), *attempt));
        assert!(is_new || !is_once, "N4 {run}: {path} attempt {attempt} begun twice");
        assert!(
            is_holder || seen.lost.contains_key(&noted.engine),
            "N4 {run}: {path} begun by {} who has never had it",
            noted.engine
        );
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

impl<'a> RunSeen<'a> {
    fn new(id: &RunId, kept: &'a Kept) -> Self {
        Self {
            journal: &kept.whole,
            state: RunState::new(id.clone(), Arc::clone(&kept.program)),
            holder: None,
            lost: BTreeMap::new(),
            results: BTreeSet::new(),
            begun: BTreeMap::new(),
            ghosts: BTreeSet::new(),
            ends: Ends::new(),
            values: Values::default(),
            limits: Limits::default(),
            once: BTreeSet::new(),
            was_unknown: false,
            due: BTreeMap::new(),
            retries: BTreeMap::new(),
            ended_at: Duration::ZERO,
        }
    }

    /// The same instance of a step comes to one result.
    fn n3_one_result(&mut self, run: &RunId, event: &Event) {
        if let Event::StepSucceeded { step, .. } | Event::StepFailed { step, .. } = event {
            let name = format!("{run}/{}", self.state.instance(*step));
            assert!(self.results.insert(name.clone()), "N3 {name} has two results");
        }
        // One that has not begun keeps its name when an operator wants it again.
        if let Event::StepReset { step, .. } = event {
            self.results.remove(&format!("{run}/{}", self.state.instance(*step)));
        }
    }

    fn note_end(&mut self, event: &Event) {
        let (step, end) = match event {
            Event::StepSucceeded { step, .. } => (step, End::Done),
            Event::StepFailed { step, failure } => {
                self.was_unknown |= failure.class == ErrorClass::OutcomeUnknown;
                (step, End::Failed)
            }
            Event::StepSkipped { step, .. } => (step, End::Skipped),
            _ => return,
        };
        self.ends.insert(self.state.path(*step), end);
    }

    /// No timer, time-out or retry comes before its time, by the clock of who recorded it.
    fn n5_nothing_is_early(&self, run: &RunId, recorded: &Recorded) {
        let (step, due) = match &recorded.event {
            Event::StepSucceeded { step, .. } => (step, self.due.get(step).map(|(due, _)| *due)),
            // The clock may be set back before it begins.
            Event::StepReady { step } => (step, self.retries.get(step).copied()),
            _ => return,
        };
        let is_early = due.is_some_and(|due| recorded.at < due);
        assert!(!is_early, "N5 {run}: {step:?} at {}, and not due before {due:?}", recorded.at);
    }

    /// How late a timer is, if this is the end of one.
    fn n5_lateness(&mut self, noted: &Noted, recorded: &Recorded) -> Option<Duration> {
        match &recorded.event {
            Event::WaitStarted { step, wait } => {
                if let Waiting::Until(due) | Waiting::Signal(_, Some(due)) = **wait {
                    self.due.insert(*step, (due, noted.at + due.since(recorded.at)));
                }
                None
            }
            Event::AttemptFailed { step, failed } => {
                self.retries.insert(*step, failed.retry_at);
                None
            }
            Event::StepReady { step } => {
                self.retries.remove(step);
                None
            }
            Event::StepSucceeded { step, .. } => {
                let (_, due) = self.due.remove(step)?;
                Some(noted.at.saturating_sub(due))
            }
            Event::StepReset { step, .. }
            | Event::StepSkipped { step, .. }
            | Event::StepCancelled { step, .. } => {
                self.due.remove(step);
                self.retries.remove(step);
                None
            }
            Event::Operated { .. } => {
                // Some take a step for done before its time.
                self.due.clear();
                None
            }
            _ => None,
        }
    }
}

/// When nothing goes wrong any more, all ends.
fn n7_it_ended_in_time<S>(story: &Story<'_, S>, run: &RunId, seen: &RunSeen<'_>) {
    assert!(seen.state.status().is_end(), "N7 {run} has not ended");
    let took = seen.ended_at.saturating_sub(story.calm_at);
    assert!(story.has_jumps || took <= END_WITHIN, "N7 {run} took {took:?} after all was well");
}

/// Runs are neither lost nor made up.
fn n8_what_was_accepted_is_there<S: Storage>(story: &Story<'_, S>) -> BTreeMap<RunId, Kept> {
    let listed = at_once(story.storage.list(RunQuery::default())).unwrap();
    let names: BTreeSet<&RunId> = story.runs.iter().collect();
    let stored: BTreeSet<&RunId> = listed.iter().map(|run| &run.id).collect();
    assert_eq!(names, stored, "N8 runs are neither lost nor made up");
    let of = |summary: &Summary| {
        let run = at_once(story.storage.load(&summary.id)).unwrap().unwrap();
        assert_eq!(summary.events, run.length(), "N9 {}", summary.id);
        assert_eq!(summary.status, run.status, "N9 {}", summary.id);
        let whole = at_once(story.storage.events(&summary.id, 0, usize::MAX)).unwrap();
        let positions = whole.iter().map(|(position, _)| *position);
        assert!((0..run.length()).eq(positions), "N9 {}: no gap", summary.id);
        let whole = whole.into_iter().map(|(_, recorded)| recorded).collect();
        let find = |name: &str| run.linked.iter().find(|it| it.id() == name).cloned();
        let program = Program::link(&run.workflow, find, Vec::new).unwrap();
        (summary.id.clone(), Kept { run, program, whole })
    };
    listed.iter().map(of).collect()
}

/// Nobody holds anything, and nothing is due, said or locked.
fn n8_nothing_is_left<S: Storage>(story: &Story<'_, S>) {
    for id in story.runs {
        let inbox = block_on(story.storage.inbox(id)).unwrap();
        assert!(inbox.is_empty(), "N8 {id}: {inbox:?}");
    }
    let due = block_on(story.storage.next_due()).unwrap();
    assert_eq!(due, None, "N8 nothing is left to be done");
    locks::n8_no_lock_is_stuck(story.storage);
}

/// One end, and it is the last of it; the state is what the events say.
fn n9_history_is_what_was_committed(id: &RunId, seen: &RunSeen<'_>, kept: &Kept) {
    let Kept { run, whole, .. } = kept;
    assert_eq!(seen.state.version(), run.length(), "N9 {id}: all that was committed, and no more");
    assert_eq!(seen.state.status(), run.status, "N9 {id}: the state is what the events say");
    assert_eq!(run.holding, Holding::Finished, "N8 {id} is held no more");
    assert!(run.snapshot.is_some() || run.length() < 25, "{id}: it has no snapshot");
    if let Some(snapshot) = &run.snapshot {
        let mut since = RunState::restore(id, Arc::clone(&kept.program), snapshot).unwrap();
        run.journal.iter().for_each(|recorded| since.apply(recorded.at, &recorded.event));
        let state = RunState::replay(id.clone(), Arc::clone(&kept.program), whole);
        assert_eq!(since, state, "N9 {id}: its snapshot comes to something else");
    }
    let mut is_open = true;
    for recorded in whole {
        match recorded.event {
            Event::RunFinished { .. } => {
                assert!(is_open, "N9 {id} ends twice");
                is_open = false;
            }
            Event::RunReopened { .. } => {
                assert!(!is_open, "N9 {id} is opened twice");
                is_open = true;
            }
            // An operation on a run that has ended comes before it is opened.
            Event::Operated { .. } => {}
            _ => assert!(is_open, "N9 {id}: something follows its end"),
        }
    }
    assert!(!is_open, "N9 {id}: its end is the last of it");
}

/// What nobody has meddled with comes to what its workflow says, and so does each of its steps.
fn comes_to_what_it_should<S>(story: &Story<'_, S>, id: &RunId, seen: &RunSeen<'_>, kept: &Kept) {
    let outcome = seen.state.outcome().unwrap();
    let meddles = |recorded: &Recorded| {
        matches!(recorded.event, Event::Operated { .. } | Event::RunCancelRequested { .. })
    };
    if kept.whole.iter().any(meddles) {
        let is_late = matches!(outcome, Outcome::TimedOut);
        return assert!(!is_late, "{id}: nothing here has a limit");
    }
    assert!(expected(kept.run.workflow.id())(outcome), "{id}: {outcome}, {:?}", story.said);
    let Some(ends) = story.ends.get(id).filter(|_| !seen.was_unknown) else { return };
    let differ = |path: &&String| ends.get(*path) != seen.ends.get(*path);
    let differ: BTreeMap<&String, _> = (ends.keys().chain(seen.ends.keys()).filter(differ))
        .map(|path| (path, (ends.get(path), seen.ends.get(path))))
        .collect();
    assert!(differ.is_empty(), "{id}: these are not what they should be: {differ:?}");
}

/// The locks that a step wants, as far as they have a limit.
fn limited(wants: &[Want]) -> impl Iterator<Item = (&str, u32)> {
    wants.iter().filter_map(|want| Some((want.lock.as_str(), want.max?)))
}
