//! One storage under test, and questions to it that wait for their answers.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use super::StorageFactory;
use super::given::{A, B, C, acquire, at, commit, id, run};
use crate::error::{ErrorKind, Result};
use crate::id::StepKey;
use crate::journal::{RunStatus, Signal};
use crate::run::Want;
use crate::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Holding, Message, NewRun,
    Owner, Reply, RunQuery, Storage, StoredRun, Summary,
};
use crate::time::Timestamp;

pub(super) struct Trial<'a> {
    factory: &'a dyn StorageFactory,
    name: String,
    /// None only while it is opened again.
    storage: RefCell<Option<Arc<dyn Storage>>>,
    /// Messages that were posted: a dump asks for their answers.
    posted: RefCell<Vec<(String, u64)>>,
}

/// Waits for an answer as the factory wants it.
pub(super) fn wait<T>(factory: &dyn StorageFactory, reply: Reply<T>) -> T
where
    T: Unpin + Send,
{
    let mut answer = None;
    factory.block_on(Box::pin(async { answer = Some(reply.await) }));
    answer.expect("`block_on` came back before the future had ended")
}

impl<'a> Trial<'a> {
    pub(super) fn new(factory: &'a dyn StorageFactory, name: impl Into<String>) -> Self {
        let name = name.into();
        let storage = RefCell::new(Some(factory.open(&name)));
        Self { factory, name, storage, posted: RefCell::default() }
    }

    /// Closes the storage and opens it again, if it survives that.
    pub(super) fn reopen(&self) -> bool {
        if self.factory.survives_reopen() {
            drop(self.storage.borrow_mut().take());
            *self.storage.borrow_mut() = Some(self.factory.open(&self.name));
        }
        self.factory.survives_reopen()
    }

    /// What tells it from the trials of other cases.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn forgets_owners(&self) -> bool {
        self.factory.forgets_owners()
    }

    /// Another handle to the same data, as another process would have it.
    pub(super) fn beside(&self) -> Option<Self> {
        self.factory.is_shared().then(|| Self::new(self.factory, &self.name))
    }

    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        self.storage.borrow().clone().expect("the storage is open")
    }

    pub(super) fn factory(&self) -> &'a dyn StorageFactory {
        self.factory
    }

    #[track_caller]
    pub(super) fn ask<T: Unpin + Send>(&self, reply: Reply<Result<T>>) -> T {
        match wait(self.factory, reply) {
            Ok(answer) => answer,
            Err(error) => panic!("the storage has failed: {error}"),
        }
    }

    #[track_caller]
    pub(super) fn create(&self, run: NewRun) {
        let name = run.id.clone();
        match self.ask(self.storage().create(run)) {
            Created::New => {}
            Created::Exists(workflow) => panic!("{name} is new, and is said to be of {workflow}"),
        }
    }

    /// The workflow that is said to have the id already.
    #[track_caller]
    pub(super) fn create_again(&self, run: NewRun) -> String {
        match self.ask(self.storage().create(run)) {
            Created::New => panic!("a run was added under an id that is taken"),
            Created::Exists(workflow) => workflow,
        }
    }

    /// A run with an empty journal that this owner holds.
    #[track_caller]
    pub(super) fn held(&self, name: &str, owner: Owner) {
        self.create(NewRun { holding: Holding::Held(owner), ..run(name) });
    }

    #[track_caller]
    pub(super) fn parked(&self, name: &str, due: Option<i64>) {
        self.create(NewRun { holding: Holding::Parked(due.map(at)), ..run(name) });
    }

    #[track_caller]
    pub(super) fn finished(&self, name: &str) {
        self.held(name, A);
        let status = RunStatus::Succeeded;
        self.commit(name, Commit { status, holding: Holding::Finished, ..commit(A, 0) });
    }

    #[track_caller]
    pub(super) fn aside(&self, name: &str, until: i64) {
        self.held(name, A);
        self.set_aside(name, A, until, "it is broken");
    }

    #[track_caller]
    pub(super) fn try_commit(&self, name: &str, commit: Commit) -> Result<(), ErrorKind> {
        match wait(self.factory, self.storage().commit(&id(name), commit)) {
            Ok(buffer) => {
                assert!(buffer.is_empty(), "what is given back is not empty");
                Ok(())
            }
            Err(error) => Err(error.kind()),
        }
    }

    #[track_caller]
    pub(super) fn commit(&self, name: &str, commit: Commit) {
        let text = format!("{commit:.200?}");
        let answer = self.try_commit(name, commit);
        assert_eq!(answer, Ok(()), "a commit to {name} was refused: {text}");
    }

    /// A conflict, by which nothing has changed.
    #[track_caller]
    pub(super) fn refuses(&self, name: &str, commit: Commit) {
        let (before, text) = (self.dump(), format!("{commit:?}"));
        let answer = self.try_commit(name, commit);
        assert_eq!(answer, Err(ErrorKind::Conflict), "this commit to {name} conflicts: {text}");
        self.is_as(&before, "a commit that was refused has changed something");
    }

    #[track_caller]
    pub(super) fn find(&self, name: &str) -> Option<StoredRun> {
        self.ask(self.storage().load(&id(name)))
    }

    #[track_caller]
    pub(super) fn load(&self, name: &str) -> StoredRun {
        self.find(name).unwrap_or_else(|| panic!("{name} was added, and is not there"))
    }

    #[track_caller]
    pub(super) fn length(&self, name: &str) -> u64 {
        self.load(name).length()
    }

    #[track_caller]
    pub(super) fn post(&self, name: &str, message: Message) -> u64 {
        let number = self.ask(self.storage().post(&id(name), message));
        self.posted.borrow_mut().push((name.to_string(), number));
        number
    }

    #[track_caller]
    pub(super) fn signal(&self, name: &str, signal: &str) -> u64 {
        self.post(name, Message::Signal(Signal::new(signal, ())))
    }

    #[track_caller]
    pub(super) fn inbox(&self, name: &str) -> Vec<(u64, Message)> {
        self.ask(self.storage().inbox(&id(name)))
    }

    /// The numbers of the messages in an inbox.
    #[track_caller]
    pub(super) fn numbers(&self, name: &str) -> Vec<u64> {
        self.inbox(name).into_iter().map(|(number, _)| number).collect()
    }

    #[track_caller]
    pub(super) fn answer(&self, name: &str, number: u64) -> Option<Answer> {
        self.ask(self.storage().answer(&id(name), number))
    }

    /// Locks for a step of a run, as who holds it asks for them.
    #[track_caller]
    pub(super) fn acquire(
        &self,
        name: &str,
        step: u32,
        wants: &[Want],
        seconds: i64,
    ) -> Option<Denied> {
        let step = StepKey::root(step);
        let asked = Acquire { step, now: at(seconds), ..self.asks(name, wants) };
        self.ask(self.storage().acquire(&id(name), asked))
    }

    /// Who holds a run asks for locks for its first step.
    #[track_caller]
    pub(super) fn asks(&self, name: &str, wants: &[Want]) -> Acquire {
        let run = self.load(name);
        let Holding::Held(owner) = run.holding else { panic!("nobody holds {name}: {run:?}") };
        acquire(owner, run.length(), wants)
    }

    /// What is said to who may not have locks, who gets none.
    #[track_caller]
    pub(super) fn refuses_locks(&self, name: &str, asked: Acquire) -> ErrorKind {
        let text = format!("{asked:?}");
        match wait(self.factory, self.storage().acquire(&id(name), asked)) {
            Ok(answer) => panic!("{name} is not to be given {text}, and was: {answer:?}"),
            Err(error) => error.kind(),
        }
    }

    /// Everybody who is alive, sorted.
    #[track_caller]
    pub(super) fn beat(&self, owner: Owner) -> Vec<Beat> {
        let mut beats = self.ask(self.storage().beat(owner));
        beats.sort_unstable_by_key(|beat| beat.owner);
        beats
    }

    #[track_caller]
    pub(super) fn retire(&self, owner: Owner) {
        self.ask(self.storage().retire(owner));
    }

    #[track_caller]
    pub(super) fn mail(&self, owner: Owner) -> Vec<String> {
        names(self.ask(self.storage().mail(owner, 100)))
    }

    #[track_caller]
    pub(super) fn claim(&self, claim: Claim) -> Vec<Claimed> {
        self.ask(self.storage().claim(claim))
    }

    /// What a claim of this owner at this time gives, sorted.
    #[track_caller]
    pub(super) fn claims(&self, owner: Owner, seconds: i64) -> Vec<String> {
        let claim = Claim { owner, now: at(seconds), gone: Vec::new(), run: None, limit: 100 };
        names(self.claim(claim).into_iter().map(|claimed| claimed.run).collect())
    }

    /// Whether a claim by name gives the run.
    #[track_caller]
    pub(super) fn claims_named(&self, owner: Owner, name: &str, seconds: i64) -> bool {
        let (now, run) = (at(seconds), Some(id(name)));
        let given = self.claim(Claim { owner, now, gone: Vec::new(), run, limit: 1 });
        assert!(given.iter().all(|claimed| claimed.run == id(name)), "{name} was asked for");
        assert!(given.len() < 2, "a run was given twice");
        !given.is_empty()
    }

    /// What a claim gives when this beat is said to be the last of its owner, sorted.
    #[track_caller]
    pub(super) fn claims_from(&self, owner: Owner, gone: Owner, count: u64) -> Vec<String> {
        let gone = vec![Beat { owner: gone, count }];
        let claim = Claim { owner, now: at(0), gone, run: None, limit: 100 };
        names(self.claim(claim).into_iter().map(|claimed| claimed.run).collect())
    }

    #[track_caller]
    pub(super) fn set_aside(&self, name: &str, owner: Owner, until: i64, why: &str) {
        self.ask(self.storage().set_aside(&id(name), owner, at(until), why.to_string()));
    }

    #[track_caller]
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.ask(self.storage().next_due())
    }

    #[track_caller]
    pub(super) fn list(&self, query: RunQuery) -> Vec<Summary> {
        self.ask(self.storage().list(query))
    }

    #[track_caller]
    pub(super) fn summary(&self, name: &str) -> Summary {
        let found = self.list(RunQuery::default()).into_iter().find(|run| run.id == id(name));
        found.unwrap_or_else(|| panic!("{name} is not in the list"))
    }

    /// All that can be seen without changing anything, as text: two numbers that are equal can be
    /// written differently.
    #[track_caller]
    pub(super) fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for summary in self.list(RunQuery::default()) {
            let name = summary.id.as_str();
            lines.push(format!("{name} is listed as {summary:?}"));
            lines.extend(stored(name, &self.load(name)));
            lines.push(format!("{name} has the messages {:?}", self.inbox(name)));
        }
        for (name, number) in self.posted.borrow().iter() {
            lines.push(format!("{name} {number} is answered {:?}", self.answer(name, *number)));
        }
        for owner in [A, B, C] {
            lines.push(format!("{owner:?} has mail for {:?}", self.mail(owner)));
        }
        lines.push(format!("the next is due {:?}", self.next_due()));
        lines
    }

    #[track_caller]
    pub(super) fn is_as(&self, before: &[String], wrong: &str) {
        same(before, &self.dump(), wrong);
    }
}

/// A stored run as text.
pub(super) fn stored(name: &str, run: &StoredRun) -> Vec<String> {
    let mut head = format!("{name} runs {:?} with {:?}", run.workflow, run.linked);
    let _ = write!(head, " for {:?} {:?}; {:?}", run.user, run.metadata, run.status);
    let _ = write!(head, " {:?}, recoveries {}", run.holding, run.recoveries);
    let event = |(at, event)| format!("{name} event {at}: {event:?}");
    let mut lines = vec![head, format!("{name} goes on from {:?}", run.snapshot)];
    lines.extend((run.from()..).zip(&run.journal).map(event));
    lines
}

/// Compares dumps; of what differs only the first is said.
#[track_caller]
pub(super) fn same(expected: &[String], found: &[String], wrong: &str) {
    let differs = expected.iter().zip(found).find(|(expected, found)| expected != found);
    if let Some((expected, found)) = differs {
        panic!("{wrong}\n  expected: {expected:.2000}\n     found: {found:.2000}");
    }
    assert_eq!(expected.len(), found.len(), "{wrong}: one has more");
}

fn names(mut runs: Vec<crate::id::RunId>) -> Vec<String> {
    runs.sort_unstable();
    let count = runs.len();
    runs.dedup();
    assert_eq!(runs.len(), count, "a run is given twice: {runs:?}");
    runs.iter().map(ToString::to_string).collect()
}
