//! `Sqlite` with one mistake about what steps write.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::executor::block_on;
use stepwell::journal::Recorded;
use stepwell::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner,
    Parameter, Purge, RefusedWrite, Reply, RunQuery, Sqlite, SqliteOptions, Statement, Storage,
    StoredRun, Summary, Synchronous,
};
use stepwell::testing::conformance::StorageFactory;
use stepwell::{Error, ErrorClass, ErrorKind, Result, RunId, Timestamp};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    Taken,
    ForgetsAll,
    ForgetsAllButTheLast,
    DoesAllTwice,
    DoesAllBackwards,
    CountsNoRows,
    ShoutsTexts,
    SwallowsRefusals,
    SaysNoSource,
    NamesTheFirstStep,
    SaysAllIsFatal,
    WritesBesideTheCommit,
    LeavesWhatWasRefused,
    ForgetsTheEventsOfWhatItRefuses,
}

pub(crate) const CARELESS: [Care; 13] = [
    Care::ForgetsAll,
    Care::ForgetsAllButTheLast,
    Care::DoesAllTwice,
    Care::DoesAllBackwards,
    Care::CountsNoRows,
    Care::ShoutsTexts,
    Care::SwallowsRefusals,
    Care::SaysNoSource,
    Care::NamesTheFirstStep,
    Care::SaysAllIsFatal,
    Care::WritesBesideTheCommit,
    Care::LeavesWhatWasRefused,
    Care::ForgetsTheEventsOfWhatItRefuses,
];

/// In a folder that goes with it.
pub(crate) struct InFiles(PathBuf, Care);

impl InFiles {
    pub(crate) fn new(care: Care) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell-careless-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path, care)
    }
}

impl Drop for InFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl StorageFactory for InFiles {
    fn open(&self, name: &str) -> Arc<dyn Storage> {
        let path = self.0.join(name);
        let inner = SqliteOptions::new().synchronous(Synchronous::Normal).open(&path).unwrap();
        Arc::new(Careless { inner, path, care: self.1 })
    }

    fn survives_reopen(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Careless {
    inner: Sqlite,
    path: PathBuf,
    care: Care,
}

impl Careless {
    /// Does what it can of them, each in a transaction of its own.
    fn beside(&self, statements: &[Statement]) {
        let connection = rusqlite::Connection::open(&self.path).unwrap();
        for statement in statements {
            let values = statement.parameters.iter().map(|parameter| match parameter {
                Parameter::Text(text) => rusqlite::types::Value::Text(text.clone()),
                Parameter::Integer(number) => rusqlite::types::Value::Integer(*number),
                _ => rusqlite::types::Value::Null,
            });
            let _ = connection.execute(&statement.sql, rusqlite::params_from_iter(values));
        }
    }

    fn change(&self, statements: &mut Vec<Statement>) {
        match self.care {
            Care::DoesAllTwice => statements.extend(statements.clone()),
            Care::DoesAllBackwards => statements.reverse(),
            Care::CountsNoRows => statements.iter_mut().for_each(|it| it.changes = None),
            Care::ShoutsTexts => {
                let all = statements.iter_mut().filter(|it| it.sql.starts_with("INSERT"));
                for parameter in all.flat_map(|statement| &mut statement.parameters) {
                    if let Parameter::Text(text) = parameter {
                        *text = text.to_uppercase();
                    }
                }
            }
            _ => {}
        }
    }

    fn try_commit(&self, run: &RunId, mut commit: Commit) -> Result<Vec<Recorded>> {
        let mut writes = commit.writes.take().map(Vec::from).unwrap_or_default();
        for of_step in &mut writes {
            let mut statements = of_step.statements.to_vec();
            self.change(&mut statements);
            of_step.statements = statements.into();
        }
        let all: Vec<Statement> = writes.iter().flat_map(|it| it.statements.to_vec()).collect();
        let first = writes.first().map(|writes| writes.step);
        match self.care {
            Care::ForgetsAll => writes.clear(),
            Care::ForgetsAllButTheLast => drop(writes.drain(..writes.len().saturating_sub(1))),
            Care::WritesBesideTheCommit if !all.iter().any(|it| it.changes.is_some()) => {
                writes.clear();
                self.beside(&all);
            }
            _ => {}
        }
        commit.writes = (!writes.is_empty()).then(|| writes.into());
        let done = block_on(self.inner.commit(run, commit.clone()));
        let Err(error) = done else { return done };
        let Some(refused) = RefusedWrite::of(&error).cloned() else { return Err(error) };
        Err(match self.care {
            Care::SwallowsRefusals => {
                commit.writes = None;
                return block_on(self.inner.commit(run, commit));
            }
            Care::ForgetsTheEventsOfWhatItRefuses => {
                (commit.writes, commit.status) = (None, stepwell::RunStatus::Failed);
                commit.events.clear();
                block_on(self.inner.commit(run, commit)).unwrap();
                error
            }
            Care::LeavesWhatWasRefused => {
                self.beside(&all);
                error
            }
            Care::SaysNoSource => Error::new(ErrorKind::WriteRefused, "no"),
            Care::NamesTheFirstStep => RefusedWrite { step: first, ..refused }.into_error(),
            Care::SaysAllIsFatal => {
                RefusedWrite { class: ErrorClass::Fatal, ..refused }.into_error()
            }
            _ => error,
        })
    }
}

macro_rules! as_it_is {
    ($(fn $method:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        fn $method(&self, $($name: $type),*) -> Reply<Result<$answer>> {
            self.inner.$method($($name),*)
        }
    )*};
}

impl Storage for Careless {
    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        // What comes together is to share a transaction.
        if self.care == Care::Taken {
            return self.inner.commit(run, commit);
        }
        Reply::ready(self.try_commit(run, commit))
    }

    fn takes_writes(&self) -> bool {
        true
    }

    as_it_is! {
        fn create(run: NewRun) -> Created;
        fn load(run: &RunId) -> Option<StoredRun>;
        fn post(run: &RunId, message: Message) -> u64;
        fn inbox(run: &RunId) -> Vec<(u64, Message)>;
        fn answer(run: &RunId, number: u64) -> Option<Answer>;
        fn acquire(run: &RunId, asked: Acquire) -> Option<Denied>;
        fn beat(owner: Owner) -> Vec<Beat>;
        fn retire(owner: Owner) -> ();
        fn mail(owner: Owner, limit: usize) -> Vec<RunId>;
        fn held(owner: Owner, after: Option<RunId>, limit: usize) -> Vec<RunId>;
        fn claim(claim: Claim) -> Vec<Claimed>;
        fn set_aside(run: &RunId, owner: Owner, until: Timestamp, why: String) -> ();
        fn next_due() -> Option<Timestamp>;
        fn list(query: RunQuery) -> Vec<Summary>;
        fn events(run: &RunId, from: u64, limit: usize) -> Vec<(u64, Recorded)>;
        fn purge(which: Purge) -> Vec<RunId>;
        fn clear(owner: Owner, runs: Vec<RunId>) -> ();
    }
}
