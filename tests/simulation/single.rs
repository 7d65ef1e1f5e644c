//! A world in which only one thing happens, at one of the calls of its storage: all else goes well.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use stepwell::journal::Reason;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Answer, Message, RunQuery, Storage};
use stepwell::testing::Fault;

use super::client::Said;
use super::tape::at_once;
use super::world::World;

/// What is said to a run, for a reason.
pub(crate) type Word = fn(Reason) -> Message;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The call fails.
    Fails(Fault),
    /// It fails, and so do all calls for so long.
    Lasts(Fault, Duration),
    /// Just before the call somebody says this to the only run, if it is there. Calls count that are the
    /// first of their method since something was written: who asks the same again finds the same.
    Said(Word),
}

/// The one thing that happens.
pub(crate) struct Single {
    /// At which of the calls that count, from 1.
    number: u64,
    trouble: Trouble,
    seen: Mutex<Seen>,
}

/// What there has been so far.
#[derive(Debug, Default)]
struct Seen {
    /// Those that count.
    calls: u64,
    /// Methods since something was written.
    asked: BTreeSet<&'static str>,
    /// The call at which it happened, and when that was.
    met: Option<(&'static str, Duration)>,
    /// What was said: the number of the message, and its place among all that was said.
    said: Option<(u64, usize)>,
}

impl Single {
    pub(crate) fn new(number: u64, trouble: Trouble) -> Self {
        Self { number, trouble, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Takes note of a call; whether it is the one.
    fn meets(&self, method: &'static str, at: Duration) -> bool {
        let mut seen = self.seen();
        let counts = match self.trouble {
            Trouble::Fails(_) | Trouble::Lasts(..) => true,
            Trouble::Said(_) => seen.asked.insert(method),
        };
        if matches!(method, "create" | "commit") {
            seen.asked.clear();
        }
        seen.calls += u64::from(counts);
        let is_it = counts && seen.calls == self.number;
        if is_it {
            seen.met = Some((method, at));
        }
        is_it
    }
}

impl<S: Storage + Clone> World<S> {
    /// How a call fails, if it does.
    pub(crate) fn single_fault(&self, single: &Single, method: &'static str) -> Option<Fault> {
        let now = self.time.monotonic();
        match single.trouble {
            Trouble::Fails(fault) => single.meets(method, now).then_some(fault),
            Trouble::Lasts(fault, length) => {
                single.meets(method, now);
                let met = single.seen().met;
                met.is_some_and(|(_, since)| now < since + length).then_some(fault)
            }
            Trouble::Said(word) => {
                // When all is over nobody would answer.
                if !self.is_over() && single.meets(method, now) {
                    self.say(single, word);
                }
                None
            }
        }
    }

    /// Says it where all can find it, under a mark of its own.
    fn say(&self, single: &Single, word: Word) {
        let listed = at_once(self.storage.list(RunQuery::default())).unwrap();
        let Some(run) = listed.into_iter().next().map(|run| run.id) else { return };
        let mut said = self.said.lock().unwrap();
        let mark = format!("mark-{}", said.len());
        let message = word(Reason::new("somebody", mark.as_str()));
        let number = at_once(self.storage.post(&run, message)).unwrap();
        single.seen().said = Some((number, said.len()));
        said.push(Said { run, mark, heard: None });
    }

    /// What the run has made of what was said to it, if it was there to be told.
    pub(crate) fn heard(&self) -> Option<Answer> {
        let (number, place) = self.single.as_ref()?.seen().said?;
        let mut all = self.said.lock().unwrap();
        let said = &mut all[place];
        let answer = at_once(self.storage.answer(&said.run, number)).unwrap();
        said.heard = answer.as_ref().map(Result::is_ok);
        assert!(answer.is_some(), "N1 {said:?} is not answered");
        answer
    }

    /// The call at which it has happened.
    pub(crate) fn met(&self) -> Option<&'static str> {
        self.single.as_ref()?.seen().met.map(|(method, _)| method)
    }

    /// Whether anybody has asked for anything.
    pub(crate) fn is_asked(&self) -> bool {
        self.single.as_ref().is_some_and(|single| single.seen().calls > 0)
    }
}
