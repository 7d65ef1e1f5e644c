//! Whoever drops an answer before it came finds all of its effect, or none.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use super::given::{A, at, begun, commit, id, ready, run};
use super::trial::Trial;
use crate::journal::Signal;
use crate::storage::{Claim, Commit, Holding, Message, Reply};

/// Drops an answer that was not asked for, or only so many times.
fn drop_after<T: Unpin>(on: &Trial<'_>, reply: Reply<T>, polls: usize) {
    on.factory().block_on(Box::pin(async {
        let mut reply = pin!(reply);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if reply.as_mut().poll(&mut context).is_ready() {
                break;
            }
        }
    }));
}

pub(super) fn a_dropped_creation(on: &Trial<'_>) {
    for polls in 0..4 {
        let name = format!("r{polls}");
        drop_after(on, on.storage().create(run(&name)), polls);
        // It may still be on its way.
        on.ask(on.storage().create(run(&name)));
        on.commit(&name, Commit { events: vec![begun()], ..commit(A, 0) });
        assert_eq!(on.length(&name), 1);
    }
}

pub(super) fn a_dropped_commit(on: &Trial<'_>) {
    for polls in 0..4 {
        let name = format!("r{polls}");
        on.held(&name, A);
        let number = on.signal(&name, "x");
        let (events, answers) = (vec![begun(), ready(0)], vec![(number, Ok(()))]);
        let one = Commit { events, answers, ..commit(A, 0) };
        drop_after(on, on.storage().commit(&id(&name), one), polls);
        let next = |expected| Commit { events: vec![ready(1)], ..commit(A, expected) };
        // It may still be on its way: then it comes before this one, or never.
        if on.try_commit(&name, next(on.length(&name))).is_err() {
            on.commit(&name, next(on.length(&name)));
        }
        let (done, left) = (on.length(&name), on.inbox(&name).len());
        assert!([(1, 1), (3, 0)].contains(&(done, left)), "a half: {done} events, {left} messages");
    }
}

pub(super) fn a_dropped_message(on: &Trial<'_>) {
    on.held("r", A);
    for polls in 0..4 {
        let before = on.inbox("r").len();
        let message = Message::Signal(Signal::new("x", ()));
        drop_after(on, on.storage().post(&id("r"), message), polls);
        assert!(on.inbox("r").len() <= before + 1);
        let number = on.signal("r", "y");
        assert_eq!(on.numbers("r").last(), Some(&number));
    }
}

pub(super) fn a_dropped_claim(on: &Trial<'_>) {
    for polls in 0..4 {
        let name = format!("r{polls}");
        on.parked(&name, Some(0));
        let claim = Claim { owner: A, now: at(0), gone: Vec::new(), run: None, limit: 10 };
        drop_after(on, on.storage().claim(claim), polls);
        let holding = on.load(&name).holding;
        assert!([Holding::Held(A), Holding::Parked(Some(at(0)))].contains(&holding));
        // Whoever has it now, it is not lost.
        on.commit(&name, Commit { holding: Holding::Finished, ..commit(A, 0) });
    }
}
