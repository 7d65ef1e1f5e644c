//! Each call of a storage fails once: the first, the second, and so on until none is left, before it is
//! done, after it was, without an answer, and late. Then from each of them on all fail for a minute; and
//! just before each of them somebody cancels the run, or terminates it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join;
use stepwell::journal::{Reason, Recorded};
use stepwell::run::{Rejection, RunState};
use stepwell::storage::{Answer, Memory, Message, Storage};
use stepwell::testing::{Fault, VirtualRuntime};
use stepwell::workflow::Program;
use stepwell::{Event, Outcome, RunId, StartOptions, StepStatus, Workflow};

use super::client::Client;
use super::mistakes::Mistake;
use super::shapes::{expected, needs_nobody, shapes};
use super::single::{Single, Trouble, Word};
use super::slow::{Effect, Slow};
use super::tape::What;
use super::upkeep::upkeep;
use super::world::{Has, SECOND, World};
use super::{check, settle, within};

/// How long one run may take when one call has failed: a lease, a life of a client, and then some.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How long all calls fail, if it is not only one.
const MINUTE: Duration = Duration::from_secs(60);

const FAULTS: [Fault; 8] = [
    Fault::Before,
    Fault::After,
    Fault::HangsAfter,
    Fault::Hangs,
    Fault::AnswersLate(SECOND),
    Fault::AnswersLate(Duration::from_secs(40)),
    Fault::DoneLate(SECOND),
    Fault::DoneLate(Duration::from_secs(40)),
];

/// What a storage can be asked for; `poll_every`, `news` and `takes_writes` ask for nothing.
const METHODS: [&str; 18] = [
    "acquire",
    "answer",
    "beat",
    "claim",
    "clear",
    "commit",
    "create",
    "events",
    "held",
    "inbox",
    "list",
    "load",
    "mail",
    "next_due",
    "post",
    "purge",
    "retire",
    "set_aside",
];

/// What has failed.
#[derive(Debug, Default)]
struct Failed {
    calls: u64,
    methods: BTreeSet<&'static str>,
}

impl Failed {
    fn note(&mut self, method: &'static str) {
        self.calls += 1;
        self.methods.insert(method);
    }

    /// Of a run of each shape every so many calls; others of another shape, and from another first on.
    fn in_runs<S: Storage + Clone>(
        &mut self,
        trouble: Trouble,
        first: u64,
        every: u64,
        open: &impl Fn(&mut dyn FnMut(S)),
    ) {
        for (place, shape) in (first..).zip(shapes()) {
            for failing in (1 + place % every..).step_by(every as usize) {
                let mut method = None;
                open(&mut |storage| method = run(shape, storage, failing, trouble));
                let Some(method) = method else { break };
                self.note(method);
            }
        }
        let least = 40 * shapes().len() as u64 / every;
        assert!(self.calls >= least, "{} calls of {least}", self.calls);
    }

    /// Of each kind of call the first, and every so many.
    fn in_upkeep(&mut self, every: u64, calls: impl Fn(u64) -> Vec<&'static str>) {
        let mut seen = BTreeMap::new();
        for (number, method) in (1..).zip(calls(0)) {
            let nth = seen.entry(method).or_insert(0_u64);
            if nth.is_multiple_of(every) {
                assert_eq!(calls(number)[number as usize - 1], method);
                self.note(method);
            }
            *nth += 1;
        }
    }
}

/// A run of this shape, and a call at which trouble begins: the same each time but for that. Which one it
/// was, if there were so many.
fn run<S: Storage + Clone>(
    shape: &Workflow,
    storage: S,
    failing: u64,
    trouble: Trouble,
) -> Option<&'static str> {
    let world = World::new(1, storage, Mistake::None, Some(Single::new(failing, trouble)));
    let runs = world.time.block_on(async {
        let asks = async {
            let client = Client::new(Arc::clone(&world), 0, shape.clone(), 0);
            let id = client.come().await;
            settle(&world).await;
            world.all_done.store(true, Ordering::Relaxed);
            vec![id]
        };
        let all = join(asks, Arc::clone(&world).process(0, 0));
        within(&world, PATIENCE, all).await.0
    });
    let tape = check(&world, &runs.unwrap());
    let method = tape.iter().find_map(|noted| match noted.what {
        What::Faulty(method, _) => Some(method),
        _ => None,
    });
    assert_eq!(method, world.met());
    method
}

/// Every so many of the calls of each shape fail, and of those that keep a storage in order.
fn every_call_fails<S: Storage + Clone>(
    faults: &[Fault],
    every: u64,
    open: impl Fn(&mut dyn FnMut(S)),
) {
    for (number, fault) in (0..).zip(faults.iter().copied()) {
        let mut failed = Failed::default();
        failed.in_runs(Trouble::Fails(fault), number, every, &open);
        failed.in_upkeep(every, |failing| {
            let mut calls = Vec::new();
            open(&mut |storage| calls = upkeep(storage, failing, fault));
            calls
        });
        assert!(failed.methods.iter().eq(&METHODS), "{:?}", failed.methods);
        eprintln!("{fault:?}: {} calls have failed", failed.calls);
    }
}

/// From every so many of the calls of each shape on all fail for a minute.
fn all_calls_fail<S: Storage + Clone>(every: u64, open: impl Fn(&mut dyn FnMut(S))) {
    for (number, fault) in (0..).zip([Fault::Before, Fault::After]) {
        let mut failed = Failed::default();
        failed.in_runs(Trouble::Lasts(fault, MINUTE), number, every, &open);
        eprintln!("{fault:?}: all calls have failed from {} on", failed.calls);
    }
}

/// Who starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starter {
    /// Waits for its end, too.
    Stays,
    /// Leaves it to whoever wants it.
    Leaves,
}

/// What has become of what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    /// Nothing: there was no run.
    TooEarly,
    Done,
    /// It was refused, as the run had ended.
    TooLate,
}

impl Starter {
    async fn start<S: Storage + Clone>(self, world: &Arc<World<S>>, shape: &Workflow) -> RunId {
        if self == Self::Stays {
            return Client::new(Arc::clone(world), 0, shape.clone(), 0).come().await;
        }
        let id = RunId::new(format!("{}-left", shape.id())).unwrap();
        let numbered = world.engine(&world.machine(), 0, Has::All);
        let options = StartOptions::id(id.as_str());
        drop(numbered.engine.start_with(shape, (), options).await.unwrap());
        // Its last word is that others may have the run.
        numbered.engine.serve(ready(())).await.unwrap();
        id
    }
}

/// A run of this shape, and a call before which something is said to it: the same each time but for that.
/// What has become of that, if there were so many calls.
fn speak<S: Storage + Clone>(
    shape: &Workflow,
    storage: S,
    number: u64,
    word: Word,
    starter: Starter,
) -> Option<Heard> {
    let single = Single::new(number, Trouble::Said(word));
    let world = World::new(1, storage, Mistake::None, Some(single));
    let id = world.time.block_on(async {
        let asks = async {
            let id = starter.start(&world, shape).await;
            loop {
                // Something may be said, too, when it has ended, and while that is seen.
                world.nap(2 * SECOND).await;
                settle(&world).await;
                if block_on(world.storage.inbox(&id)).unwrap().is_empty() {
                    break;
                }
            }
            world.all_done.store(true, Ordering::Relaxed);
            id
        };
        let serves = async {
            // Nobody looks for runs before somebody has come to start one.
            while !world.is_asked() {
                world.nap(SECOND).await;
            }
            Arc::clone(&world).process(0, 0).await;
        };
        within(&world, PATIENCE, join(asks, serves)).await.0
    });
    let id = id.unwrap();
    let answer = world.heard();
    check(&world, from_ref(&id));
    ends_as_was_said(&world, shape, &id, word, answer.as_ref());
    world.met()?;
    Some(match answer {
        None => Heard::TooEarly,
        Some(Ok(())) => Heard::Done,
        Some(Err(_)) => Heard::TooLate,
    })
}

/// What is said to a run is what it comes to, unless it had ended; all of its steps have ended then, and
/// those that had succeeded have.
fn ends_as_was_said<S: Storage + Clone>(
    world: &World<S>,
    shape: &Workflow,
    id: &RunId,
    word: Word,
    answer: Option<&Answer>,
) {
    let stored = block_on(world.storage.load(id)).unwrap().unwrap();
    let find = |name: &str| stored.linked.iter().find(|it| it.id() == name).cloned();
    let program = Program::link(&stored.workflow, find, Vec::new).unwrap();
    let journal: Vec<Recorded> = block_on(world.storage.events(id, 0, usize::MAX))
        .unwrap()
        .into_iter()
        .map(|(_, recorded)| recorded)
        .collect();
    let (end, before) = journal.split_last().unwrap();
    let mut state = RunState::replay(id.clone(), program, before);
    let is_accepted = answer.is_some_and(Result::is_ok);
    let is_terminated = is_accepted && matches!(word(Reason::default()), Message::Terminate(_));
    // What is terminated is dropped; anything else has stopped by itself before the run ends.
    assert!(is_terminated || state.running() == 0, "{id} ends while {} run", state.running());
    state.apply(end.at, &end.event);
    let open: Vec<_> = state.steps().filter(|(_, status)| !status.is_end()).collect();
    assert!(open.is_empty(), "{id} has ended, and these have not: {open:?}");
    for recorded in &journal {
        let Event::StepSucceeded { step, .. } = recorded.event else { continue };
        // The bodies of others are forgotten when they have ended.
        let status = state.step_status(step).unwrap_or(StepStatus::Succeeded);
        assert_eq!(status, StepStatus::Succeeded, "{id}: {step:?} had succeeded");
    }
    if let Some(Err(why)) = answer {
        assert_eq!(*why, Rejection::Finished, "{id}");
    }
    let outcome = state.outcome().unwrap();
    let is_stopped = is_terminated || (is_accepted && !had_failed(&journal));
    let is_right = match is_stopped {
        true => matches!(outcome, Outcome::Cancelled),
        false => expected(shape.id())(outcome),
    };
    assert!(is_right, "{id}: {outcome}, and what was said was answered with {answer:?}");
}

/// Whether a run was cancelled while it undid what was done, as it had failed: it ends as failed then.
fn had_failed(journal: &[Recorded]) -> bool {
    let mut before =
        journal.iter().take_while(|it| !matches!(it.event, Event::RunCancelRequested { .. }));
    before.any(|it| matches!(it.event, Event::ScopeCompensating { scope: 0, .. }))
}

/// Before every so many of the calls of each shape somebody says this to the run.
fn said_before_every_call<S: Storage + Clone>(
    word: Word,
    every: u64,
    open: impl Fn(&mut dyn FnMut(S)),
) {
    for (number, starter) in (0..).zip([Starter::Stays, Starter::Leaves]) {
        let mut heard = BTreeMap::new();
        for (place, shape) in (number..).zip(shapes()) {
            if starter == Starter::Leaves && !needs_nobody(shape.id()) {
                continue;
            }
            for said in (1 + place % every..).step_by(every as usize) {
                let mut came = None;
                open(&mut |storage| came = speak(shape, storage, said, word, starter));
                let Some(came) = came else { break };
                *heard.entry(came).or_insert(0_u64) += 1;
            }
        }
        eprintln!("{starter:?}: {heard:?}");
        let least = 3 * shapes().len() as u64 / every;
        assert!(heard.get(&Heard::Done) >= Some(&least), "{heard:?}");
        assert!(heard.contains_key(&Heard::TooLate), "{heard:?}");
    }
}

fn cancel(by: Reason) -> Message {
    Message::Cancel { by, grace: None }
}

/// A storage with work of its own behind it, asked no more often than memory is: virtual time stands
/// still while it works.
fn at_once(storage: impl Storage) -> Slow<dyn Storage> {
    let storage: Arc<dyn Storage> = Arc::new(storage);
    Slow::new(storage, Effect::AtOnce, &VirtualRuntime::new(0))
        .poll_every(Memory::new().poll_every())
}

/// The same, asked so often that a run hears of a message while its steps run, and as they end.
fn asked_often(storage: impl Storage) -> Slow<dyn Storage> {
    at_once(storage).poll_every(SECOND / 2)
}

/// Every so many calls, or as the environment says.
fn every(so_many: u64) -> u64 {
    super::number("SIMULATION_EACH").unwrap_or(so_many)
}

#[test]
fn every_call_may_fail_once() {
    every_call_fails(&FAULTS, 1, |run| run(Memory::new()));
}

#[cfg(feature = "sqlite")]
#[test]
fn every_call_of_a_file_may_fail_once() {
    every_call_fails(&FAULTS[..3], every(4), |run| {
        let file = super::files::File::new();
        run(at_once(file.open()));
    });
}

#[cfg(feature = "postgres")]
#[test]
fn every_call_of_a_server_may_fail_once() {
    let Some(schema) = super::schema::Schema::new() else { return };
    every_call_fails(&FAULTS[..3], every(10), |run| run(at_once(schema.emptied())));
}

#[test]
fn all_calls_may_fail_for_a_minute() {
    all_calls_fail(every(2), |run| run(Memory::new()));
}

#[cfg(feature = "sqlite")]
#[test]
fn all_calls_of_a_file_may_fail_for_a_minute() {
    all_calls_fail(every(10), |run| {
        let file = super::files::File::new();
        run(at_once(file.open()));
    });
}

#[test]
fn a_run_may_be_cancelled_before_every_call() {
    said_before_every_call(cancel, every(1), |run| run(asked_often(Memory::new())));
}

#[test]
fn a_run_may_be_terminated_before_every_call() {
    said_before_every_call(Message::Terminate, every(1), |run| run(asked_often(Memory::new())));
}

#[cfg(feature = "sqlite")]
#[test]
fn a_run_in_a_file_may_be_cancelled_or_terminated_before_every_call() {
    let words: [Word; 2] = [cancel, Message::Terminate];
    for word in words {
        said_before_every_call(word, every(16), |run| {
            let file = super::files::File::new();
            run(asked_often(file.open()));
        });
    }
}
