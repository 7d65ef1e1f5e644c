//! Runs in a SQLite file.

mod alive;
mod fault;
mod locks;
mod owners;
mod read;
mod reader;
mod rows;
mod schema;
mod worker;
mod workflows;
mod write;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::alive::Alive;
use self::fault::Fault;
use self::reader::Reader;
use self::rows::to_json;
use self::workflows::Workflows;
use self::write::{Change, NewRows};
use self::writer::Writer;
use super::{
    Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Reply, RunQuery,
    Storage, StoredRun, Summary,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunId, StepKey};
use crate::journal::Recorded;
use crate::run::Want;
use crate::time::Timestamp;

/// Runs in a SQLite file. Clones share it, and other processes may open the same file.
///
/// ```
/// use futures::executor::block_on;
/// use stepwell::storage::{RunQuery, Sqlite, Storage};
///
/// let path = std::env::temp_dir().join(format!("runs-{}.db", std::process::id()));
/// let storage = Sqlite::open(&path)?;
/// assert!(block_on(storage.list(RunQuery::default()))?.is_empty());
/// # drop(storage);
/// # std::fs::remove_file(&path)?;
/// # std::fs::remove_file(format!("{}-alive", path.display()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Sqlite(Arc<Opened>);

/// In the order in which it is closed.
struct Opened {
    writer: Writer,
    reader: Reader,
    workflows: Arc<Workflows>,
    fault: Fault,
    _alive: Alive,
}

/// How a file is opened.
///
/// ```
/// use std::time::Duration;
/// use stepwell::storage::{SqliteOptions, Synchronous};
///
/// let path = std::env::temp_dir().join(format!("fast-{}.db", std::process::id()));
/// let storage = SqliteOptions::new()
///     .synchronous(Synchronous::Normal)
///     .busy_timeout(Duration::from_secs(30))
///     .open(&path)?;
/// # drop(storage);
/// # std::fs::remove_file(&path)?;
/// # std::fs::remove_file(format!("{}-alive", path.display()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    synchronous: Synchronous,
    busy_timeout: Duration,
}

/// What an `Ok` of a write outlasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// A crash of the process, of the machine, and a loss of power.
    #[default]
    Full,
    /// A crash of the process. A loss of power may take the last moments away, but damages nothing.
    Normal,
}

impl SqliteOptions {
    /// [`Synchronous::Full`], and a busy timeout of five seconds.
    #[must_use]
    pub const fn new() -> Self {
        Self { synchronous: Synchronous::Full, busy_timeout: Duration::from_secs(5) }
    }

    /// What an `Ok` outlasts.
    #[must_use]
    pub const fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// How long a write waits for those of other processes before it fails; at most some 24 days.
    #[must_use]
    pub const fn busy_timeout(mut self, wait: Duration) -> Self {
        self.busy_timeout = wait;
        self
    }

    /// The database in this file, which is made if there is none.
    ///
    /// Waits for the file system: call it before anything else runs.
    ///
    /// # Errors
    /// `Storage`, with the file in the message, if it cannot be opened, is another program's, or was
    /// written by a newer version of this one.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Sqlite> {
        let given = path.as_ref();
        let path: Arc<Path> = match std::path::absolute(given) {
            Ok(path) => path.into(),
            Err(error) => {
                let message = format!("{} is not the path of a database", given.display());
                return Err(Error::new(ErrorKind::Storage, message).because(error));
            }
        };
        let patience = self.busy_timeout.min(BUSY_TIMEOUT_MAX);
        let fault = Fault(Arc::clone(&path));
        let (connection, alive) = schema::open(&path, patience, self.synchronous, &fault)?;
        let small = schema::reader(&path, patience, &fault)?;
        let large = schema::reader(&path, patience, &fault)?;
        Ok(Sqlite(Arc::new(Opened {
            writer: Writer::new(connection, patience, fault.clone())?,
            reader: Reader::new(small, large, fault.clone())?,
            workflows: Arc::default(),
            fault,
            _alive: alive,
        })))
    }
}

/// SQLite counts milliseconds in 32 bits.
const BUSY_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Sqlite {
    /// The database in this file, which is made if there is none, with [`SqliteOptions::new`].
    ///
    /// # Errors
    /// Those of [`SqliteOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteOptions::new().open(path)
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.0.fault.0.display())
    }
}

impl Storage for Sqlite {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        let id = run.id.clone();
        match NewRows::of(run, &self.0.workflows) {
            Ok(rows) => self.0.writer.write(Some(&id), move |connection| rows.create(connection)),
            Err(error) => Reply::ready(Err(error.of_run(&id))),
        }
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let change = match Change::of(run, &commit) {
            Ok(change) => change,
            Err(error) => return Reply::ready(Err(error.of_run(run))),
        };
        let done = self.0.writer.write(Some(run), move |connection| change.commit(connection));
        commit.events.clear();
        let emptied = commit.events;
        match done {
            Reply::Ready(done) => Reply::Ready(done.map(|done| done.map(|()| emptied))),
            Reply::Later(done) => Reply::later(async move { done.await.map(|()| emptied) }),
        }
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        let (run, workflows) = (run.clone(), Arc::clone(&self.0.workflows));
        let fault = self.0.fault.clone();
        self.0.reader.large(move |connection| {
            let loaded = read::load(connection, &workflows, &run);
            Ok(loaded.unwrap_or_else(|error| Err(fault.reading(error).of_run(&run))))
        })
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        let id = run.clone();
        match to_json(&message) {
            Ok(message) => self
                .0
                .writer
                .write(Some(run), move |connection| write::post(connection, &id, &message)),
            Err(error) => Reply::ready(Err(error.of_run(run))),
        }
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        self.0.reader.small(|connection| read::inbox(connection, run))
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        self.0.reader.small(|connection| read::answer(connection, run, number))
    }

    fn acquire(
        &self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Reply<Result<Option<Denied>>> {
        let id = run.clone();
        self.0
            .writer
            .write(Some(run), move |connection| locks::acquire(connection, &id, step, &wants, now))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        self.0.writer.write(None, move |connection| owners::beat(connection, owner))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        self.0.writer.write(None, move |connection| owners::retire(connection, owner))
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.0.reader.small(|connection| read::mail(connection, owner, limit))
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        self.0.writer.write(None, move |connection| owners::claim(connection, &claim))
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        let id = run.clone();
        self.0.writer.write(Some(run), move |connection| {
            write::set_aside(connection, &id, owner, until, &why)
        })
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        self.0.reader.small(read::next_due)
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        self.0.reader.large(move |connection| read::list(connection, &query))
    }
}
