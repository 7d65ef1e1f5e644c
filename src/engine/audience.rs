//! Everybody who waits for a run: to be woken, and to hear what became of a message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use futures::channel::oneshot;

use super::lock;
use crate::run::Rejection;

/// Those who wait for one run.
#[derive(Default)]
pub(crate) struct Audience {
    wakers: Mutex<Vec<Waker>>,
    /// By the message's number: given before somebody asked, or asked for before it was given.
    answers: Mutex<BTreeMap<u64, Answer>>,
}

enum Answer {
    Given(Result<(), Rejection>),
    Awaited(oneshot::Sender<Result<(), Rejection>>),
}

/// Answers kept for somebody to ask; those to messages from other processes nobody asks for here.
const GIVEN_MAX: usize = 1_000;

impl Audience {
    /// Has this one woken with the others, once.
    pub(super) fn register(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    pub(super) fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The answer to a message that has been posted.
    pub(crate) fn answer(&self, number: u64) -> oneshot::Receiver<Result<(), Rejection>> {
        let (sender, receiver) = oneshot::channel();
        let mut answers = lock(&self.answers);
        match answers.remove(&number) {
            Some(Answer::Given(answer)) => drop(sender.send(answer)),
            _ => drop(answers.insert(number, Answer::Awaited(sender))),
        }
        receiver
    }

    /// Messages whose answers somebody waits for.
    pub(super) fn awaited(&self) -> Vec<u64> {
        let answers = lock(&self.answers);
        let awaited = answers.iter().filter(|(_, answer)| matches!(answer, Answer::Awaited(_)));
        awaited.map(|(number, _)| *number).collect()
    }

    /// Nobody will ever know the answer.
    pub(super) fn give_up(&self, number: u64) {
        let mut answers = lock(&self.answers);
        if matches!(answers.get(&number), Some(Answer::Awaited(_))) {
            answers.remove(&number);
        }
    }

    pub(super) fn give(&self, number: u64, answer: Result<(), Rejection>) {
        let mut answers = lock(&self.answers);
        match answers.remove(&number) {
            Some(Answer::Awaited(sender)) => drop(sender.send(answer)),
            _ => drop(answers.insert(number, Answer::Given(answer))),
        }
        if answers.len() > GIVEN_MAX {
            let given = |(number, answer): (&u64, &Answer)| {
                matches!(answer, Answer::Given(_)).then_some(*number)
            };
            let oldest = answers.iter().find_map(given);
            oldest.map(|number| answers.remove(&number));
        }
    }
}

impl Wake for Audience {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
