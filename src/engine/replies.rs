//! What became of messages to a run, for those who wait to hear.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::channel::oneshot;

use super::lock;
use crate::run::Rejection;

/// Answers by the message's number: given before somebody asked, or asked for before it was given.
#[derive(Default)]
pub(crate) struct Replies(Mutex<BTreeMap<u64, Answer>>);

enum Answer {
    Given(Result<(), Rejection>),
    Awaited(oneshot::Sender<Result<(), Rejection>>),
}

/// Answers kept for somebody to ask; those to messages from other processes nobody asks for here.
const GIVEN_MAX: usize = 1_000;

impl Replies {
    /// The answer to a message that has been posted.
    pub(crate) fn answer(&self, number: u64) -> oneshot::Receiver<Result<(), Rejection>> {
        let (sender, receiver) = oneshot::channel();
        let mut answers = lock(&self.0);
        match answers.remove(&number) {
            Some(Answer::Given(answer)) => drop(sender.send(answer)),
            _ => drop(answers.insert(number, Answer::Awaited(sender))),
        }
        receiver
    }

    pub(super) fn give(&self, number: u64, answer: Result<(), Rejection>) {
        let mut answers = lock(&self.0);
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
