//! What was said, and what has come of it.

use stepwell::journal::Event;
use stepwell::storage::Storage;

use super::Check;
use crate::client::Said;

/// The mark that a client has put on what it said.
fn mark(event: &Event) -> Option<String> {
    match event {
        Event::SignalReceived { signal } => Some(signal.payload.as_str()?.to_string()),
        Event::Voted { vote, .. } => Some(vote.comment.clone()),
        Event::RunPaused { by } | Event::RunResumed { by, .. } => Some(by.why.clone()),
        Event::RunCancelRequested { by, .. } | Event::RunTerminated { by } => Some(by.why.clone()),
        Event::Operated { by, .. } => Some(by.why.clone()),
        _ => None,
    }
}

fn taken(event: &Event) -> Option<&str> {
    match event {
        Event::SignalTaken { signal, .. } => signal.payload.as_str(),
        _ => None,
    }
}

/// How often it has come, and how often it was taken.
fn times<S: Storage>(check: &Check<'_, S>, said: &Said) -> (usize, usize) {
    let past = check.past.iter().filter(|(id, _)| **id == said.run).map(|(_, seen)| seen);
    let seen = check.runs.get(&said.run).into_iter().chain(past);
    let journal: Vec<&Event> =
        seen.flat_map(|seen| &seen.journal).map(|recorded| &recorded.event).collect();
    let is_it = |event: &&&Event| mark(event).as_deref() == Some(&said.mark);
    let is_taken = |event: &&&Event| taken(event) == Some(&said.mark);
    (journal.iter().filter(is_it).count(), journal.iter().filter(is_taken).count())
}

/// What was answered with `Ok` is there, and what was refused is not.
pub(super) fn n1_what_was_accepted_has_happened<S: Storage>(check: &Check<'_, S>, said: &[Said]) {
    for said in said {
        let (times, taken) = times(check, said);
        match said.heard {
            Some(true) => assert!(times + taken > 0, "N1 {said:?} was accepted, and is not there"),
            Some(false) => assert_eq!(times + taken, 0, "N1 {said:?} was refused, and is there"),
            None => {}
        }
    }
}

/// However often it was sent, and whatever was heard.
pub(super) fn n2_nothing_has_happened_twice<S: Storage>(check: &Check<'_, S>, said: &[Said]) {
    for said in said {
        let (times, taken) = times(check, said);
        assert!(times <= 1 && taken <= 1, "N2 {said:?} has happened {times} times, taken {taken}");
    }
}
