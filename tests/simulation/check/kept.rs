//! What a storage has in the end, and what it has removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::executor::block_on;
use stepwell::RunId;
use stepwell::run::RunState;
use stepwell::storage::{Holding, RunQuery, Storage};

use super::run::RunSeen;
use super::{Check, Story, locks};
use crate::tape::{Purged, at_once};

/// Runs are neither lost nor made up, but for those that were removed.
pub(super) fn n8_what_was_accepted_is_there<S: Storage>(check: &Check<'_, S>) {
    let listed = at_once(check.story.storage.list(RunQuery::default())).unwrap();
    let stored: BTreeSet<&RunId> = listed.iter().map(|run| &run.id).collect();
    let there: BTreeSet<&RunId> = check.runs.keys().copied().collect();
    assert_eq!(there, stored, "N8 runs are neither lost nor made up");
    let past: BTreeSet<&RunId> = check.past.iter().map(|(id, _)| *id).collect();
    let lost = check.story.runs.iter().find(|id| !there.contains(id) && !past.contains(id));
    assert_eq!(lost, None, "N8 runs are neither lost nor made up");
    for summary in listed {
        let seen = &check.runs[&summary.id];
        assert_eq!(summary.events, seen.state.version(), "N9 {}", summary.id);
        assert_eq!(summary.status, seen.state.status(), "N9 {}", summary.id);
        assert_eq!(summary.problem, None, "N10 {}: it has ended", summary.id);
    }
}

/// What was committed is there, but for what may be forgotten; the state is what the events say.
pub(super) fn n9_history_is_what_was_committed<S: Storage>(
    story: &Story<'_, S>,
    id: &RunId,
    seen: &RunSeen<'_>,
) {
    let run = at_once(story.storage.load(id)).unwrap().unwrap();
    assert_eq!(seen.state.version(), run.length(), "N9 {id}: all that was committed, and no more");
    assert_eq!(seen.state.status(), run.status, "N9 {id}: the state is what the events say");
    assert_eq!(run.holding, Holding::Finished, "N8 {id} is held no more");
    let forgotten = run.snapshot.as_ref().map_or(0, |snapshot| snapshot.forget);
    let most = run.length().saturating_sub(story.history_kept);
    assert!(forgotten <= most, "N9 {id}: {forgotten} are forgotten of {}", run.length());
    let events = at_once(story.storage.events(id, 0, usize::MAX)).unwrap();
    let told = (0..)
        .zip(&seen.journal)
        .filter(|(position, recorded)| *position >= forgotten || recorded.event.is_kept());
    let stored = events.iter().map(|(position, recorded)| (*position, recorded));
    let told = told.map(|(position, recorded)| (position, *recorded));
    assert!(told.eq(stored), "N9 {id}: its journal has lost, or made up, what was committed");
    // Who only says something writes none.
    let has_one = run.snapshot.is_some() || story.some_only_say;
    assert!(has_one || run.length() < 50, "{id}: it has no snapshot");
    if let Some(snapshot) = &run.snapshot {
        let mut since = RunState::restore(id, Arc::clone(&seen.program), snapshot).unwrap();
        run.journal.iter().for_each(|recorded| since.apply(recorded.at, &recorded.event));
        let whole = seen.journal.iter().copied();
        let state = RunState::replay(id.clone(), Arc::clone(&seen.program), whole);
        assert!(since == state, "N9 {id}: its snapshot comes to something else");
    }
}

/// Nobody holds anything, and nothing is due, said or locked.
pub(super) fn n8_nothing_is_left<S: Storage>(story: &Story<'_, S>) {
    for id in story.runs {
        let inbox = block_on(story.storage.inbox(id)).unwrap_or_default();
        assert!(inbox.is_empty(), "N8 {id}: {inbox:?}");
    }
    let due = block_on(story.storage.next_due()).unwrap();
    assert_eq!(due, None, "N8 nothing is left to be done");
    locks::n8_no_lock_is_stuck(story.storage);
}

impl<'a, S: Storage> Check<'a, S> {
    /// Runs are removed that have ended, have no message, and are old enough or more than are wanted.
    pub(super) fn n8_only_what_is_old_is_removed(&mut self, purged: &'a Purged) {
        let age = self.story.retention;
        let is_honest = self.story.has_jumps || purged.age.is_none_or(|it| Some(it) >= age);
        assert!(is_honest, "N8 runs are removed that are {:?} old", purged.age);
        for run in &purged.runs {
            let was_taken = self.taken.insert(run, purged.by).is_some();
            let Some(seen) = self.runs.remove(run) else {
                assert!(was_taken, "N8 {run} is removed, and is not there");
                continue;
            };
            let last = |seen: &RunSeen<'_>| seen.journal.last().map(|last| last.at);
            let has_ended = seen.state.status().is_end() && seen.holder.is_none();
            assert!(has_ended, "N8 {run} is removed, and has not ended");
            assert!(!purged.mailed.contains(run), "N8 {run} is removed, and has a message");
            let newer = |(id, other): &(&&RunId, &RunSeen<'_>)| {
                other.state.status().is_end() && (last(other), **id) > (last(&seen), run)
            };
            let newer = self.runs.iter().filter(newer).count() as u64;
            let is_old = last(&seen) <= purged.before;
            let is_enough = purged.keep.is_some_and(|keep| newer >= keep);
            assert!(is_old || is_enough, "N8 {run} is removed too soon");
            self.past.push((run, seen));
        }
    }
}
