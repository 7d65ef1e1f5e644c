//! What was said, and what has come of it.

use stepwell::RunId;
use stepwell::journal::{Event, Recorded};

use crate::client::Said;

/// The mark that a client has put on what it said.
fn mark(event: &Event) -> Option<String> {
    match event {
        Event::SignalReceived { signal } => Some(signal.payload.as_str()?.to_string()),
        Event::Voted { vote, .. } => Some(vote.comment.clone()),
        Event::RunPaused { by } | Event::RunResumed { by, .. } => Some(by.why.clone()),
        Event::RunCancelRequested { by, .. } => Some(by.why.clone()),
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

fn times(journal: &[Recorded], said: &Said) -> (usize, usize) {
    let is_it = |recorded: &&Recorded| mark(&recorded.event).as_deref() == Some(&said.mark);
    let is_taken = |recorded: &&Recorded| taken(&recorded.event) == Some(&said.mark);
    (journal.iter().filter(is_it).count(), journal.iter().filter(is_taken).count())
}

/// What was answered with `Ok` is there, and what was refused is not.
pub(super) fn n1_what_was_accepted_has_happened(id: &RunId, journal: &[Recorded], said: &[Said]) {
    for said in said.iter().filter(|said| said.run == *id) {
        let (times, taken) = times(journal, said);
        match said.heard {
            Some(true) => assert!(times + taken > 0, "N1 {said:?} was accepted, and is not there"),
            Some(false) => assert_eq!(times + taken, 0, "N1 {said:?} was refused, and is there"),
            None => {}
        }
    }
}

/// However often it was sent, and whatever was heard.
pub(super) fn n2_nothing_has_happened_twice(id: &RunId, journal: &[Recorded], said: &[Said]) {
    for said in said.iter().filter(|said| said.run == *id) {
        let (times, taken) = times(journal, said);
        assert!(times <= 1 && taken <= 1, "N2 {said:?} has happened {times} times, taken {taken}");
    }
}
