//! One run, from when it was created until it was removed, or to the end of the tape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stepwell::journal::{Event, Recorded, Waiting};
use stepwell::run::RunState;
use stepwell::storage::Owner;
use stepwell::workflow::Program;
use stepwell::{ErrorClass, Outcome, RunId, StepKey, Timestamp};

use super::limits::Limits;
use super::values::Values;
use super::{END_WITHIN, Story};
use crate::grown::{End, Ends};
use crate::shapes::expected;
use crate::tape::{Made, Noted};

/// A run as far as the tape was read.
pub(super) struct RunSeen<'a> {
    pub(super) made: &'a Made,
    pub(super) program: Arc<Program>,
    pub(super) journal: Vec<&'a Recorded>,
    pub(super) state: RunState,
    pub(super) holder: Option<usize>,
    /// Who that is to the others.
    pub(super) held_by: Option<Owner>,
    /// Who has held it, and where on the tape that ended last.
    pub(super) lost: BTreeMap<usize, usize>,
    /// Results by the name of the instance.
    pub(super) results: BTreeSet<String>,
    /// What has become of each step, by its path.
    pub(super) ends: Ends,
    pub(super) values: Values,
    pub(super) limits: Limits,
    /// Attempts of steps that must not be begun twice.
    pub(super) once: BTreeSet<(String, u32)>,
    /// Nobody knew what a step had done.
    pub(super) was_unknown: bool,
    /// Where each attempt was begun last, and by whom.
    pub(super) begun: BTreeMap<(String, u32), (usize, usize)>,
    /// What was begun by who had lost the run.
    pub(super) ghosts: BTreeSet<(usize, usize, String, u32)>,
    /// Waits that end by time: not before, and when that is by the other clock.
    pub(super) due: BTreeMap<StepKey, (Timestamp, Duration)>,
    /// When each of them began, and for how long.
    pub(super) waits: Vec<(Duration, Duration)>,
    pub(super) retries: BTreeMap<StepKey, Timestamp>,
    pub(super) ended_at: Duration,
    /// How often it was claimed since it was in quarantine.
    pub(super) claims: u32,
    /// Waits may have ended while nothing was started.
    pub(super) was_paused: bool,
}

impl<'a> RunSeen<'a> {
    pub(super) fn new(made: &'a Made) -> Self {
        let find = |name: &str| made.linked.iter().find(|it| it.id() == name).cloned();
        let program = Program::link(&made.workflow, find, Vec::new).unwrap();
        Self {
            made,
            state: RunState::new(made.run.clone(), Arc::clone(&program)),
            program,
            journal: Vec::new(),
            holder: None,
            held_by: None,
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
            waits: Vec::new(),
            retries: BTreeMap::new(),
            ended_at: Duration::ZERO,
            claims: 0,
            was_paused: false,
        }
    }

    /// The same instance of a step comes to one result.
    pub(super) fn n3_one_result(&mut self, run: &RunId, event: &Event) {
        if let Event::StepSucceeded { step, .. } | Event::StepFailed { step, .. } = event {
            let name = format!("{run}/{}", self.state.instance(*step));
            assert!(self.results.insert(name.clone()), "N3 {name} has two results");
        }
        // One that has not begun keeps its name when an operator wants it again.
        if let Event::StepReset { step, .. } = event {
            self.results.remove(&format!("{run}/{}", self.state.instance(*step)));
        }
    }

    /// A run is stopped that was taken over too often, and no other.
    pub(super) fn n10_quarantine_has_a_reason(&mut self, run: &RunId, event: &Event, most: u32) {
        match event {
            Event::RunQuarantined { recoveries } => {
                let has_reason = *recoveries > most && *recoveries <= self.claims;
                assert!(has_reason, "N10 {run}: in quarantine, {recoveries} of {}", self.claims);
                (self.claims, self.was_paused) = (0, true);
            }
            Event::RunPaused { .. } => self.was_paused = true,
            _ => {}
        }
    }

    pub(super) fn note_end(&mut self, event: &Event) {
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
    pub(super) fn n5_nothing_is_early(&self, run: &RunId, recorded: &Recorded) {
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
    pub(super) fn n5_lateness(&mut self, noted: &Noted, recorded: &Recorded) -> Option<Duration> {
        match &recorded.event {
            Event::WaitStarted { step, wait } => {
                if let Waiting::Until(due) | Waiting::Signal(_, Some(due)) = **wait {
                    let length = due.since(recorded.at);
                    self.due.insert(*step, (due, noted.at + length));
                    self.waits.push((noted.at, length));
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

    /// When nothing goes wrong any more, all ends.
    pub(super) fn n7_it_ended_in_time<S>(&self, story: &Story<'_, S>, run: &RunId) {
        assert!(self.state.status().is_end(), "N7 {run} has not ended");
        let took = self.ended_at.saturating_sub(story.calm_at);
        // What it waits for by itself, turn by turn.
        let waits = self.waits.iter().filter(|(at, length)| *at + *length >= story.calm_at);
        let may_take = END_WITHIN + waits.map(|(_, length)| *length).sum::<Duration>();
        assert!(story.has_jumps || took <= may_take, "N7 {run} took {took:?} after all was well");
    }

    /// One end, and it is the last of it.
    pub(super) fn n9_its_end_is_the_last_of_it(&self, id: &RunId) {
        let mut is_open = true;
        for recorded in &self.journal {
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
    pub(super) fn comes_to_what_it_should<S>(&self, story: &Story<'_, S>, id: &RunId) {
        let outcome = self.state.outcome().unwrap();
        let meddles = |recorded: &&Recorded| {
            matches!(
                recorded.event,
                Event::Operated { .. }
                    | Event::RunCancelRequested { .. }
                    | Event::RunTerminated { .. }
            )
        };
        if self.journal.iter().any(meddles) {
            let is_late = matches!(outcome, Outcome::TimedOut);
            return assert!(!is_late, "{id}: nothing here has a limit");
        }
        assert!(expected(self.made.workflow.id())(outcome), "{id}: {outcome}, {:?}", story.said);
        let Some(ends) = story.ends.get(id).filter(|_| !self.was_unknown) else { return };
        let differ = |path: &&String| ends.get(*path) != self.ends.get(*path);
        let differ: BTreeMap<&String, _> = (ends.keys().chain(self.ends.keys()).filter(differ))
            .map(|path| (path, (ends.get(path), self.ends.get(path))))
            .collect();
        assert!(differ.is_empty(), "{id}: these are not what they should be: {differ:?}");
    }
}
