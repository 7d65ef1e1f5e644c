//! Runs in a SQLite file.

mod alive;
mod fault;
mod guests;
mod history;
mod locks;
mod owners;
mod purge;
mod read;
mod reader;
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
use self::guests::Guests;
use self::reader::Reader;
use self::write::Change;
use self::writer::Writer;
use super::rows::{NewRows, to_json};
use super::workflows::Workflows;
use super::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Purge,
    Reply, RunQuery, Storage, StoredRun, Summary,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::Recorded;
use crate::time::Timestamp;

/// Runs in a SQLite file. Clones share it, and other processes may open the same file.
///
/// An `Ok` of a write is on the disk, unless [`Synchronous::Normal`] was asked for. Writes that come
/// together share one transaction, so that many runs wait for the disk together. A run that is alone
/// writes on the thread of its caller, which then waits for the disk: some microseconds with `Normal`,
/// as long as the disk takes with `Full`. Everything else is done on two threads of its own. They end
/// with the last clone, whose `drop` waits for what was sent.
///
/// Beside the file `runs.db` there are `runs.db-wal` and `runs.db-shm`, SQLite's own, as long as it is
/// open, and `runs.db-alive`, which is empty: each process that uses the database holds a lock on it.
/// Who opens the file and finds no lock knows that all others are gone, and that their runs can go on
/// at once. Network file systems do not keep what SQLite needs; put it on a local one.
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
///
/// # The schema
///
/// Tables of your own may be beside these, once stepwell has made the file: steps can
/// [write](crate::ExecutionContext::write) to them with their results.
///
/// Any SQLite tool from version 3.38 on can read the file, while it is open, too. Times are
/// microseconds since 1970 in UTC; the views have them as text. What is written by hand is not
/// checked.
///
/// | table | one row for each | columns |
/// | --- | --- | --- |
/// | `runs` | run | `run INTEGER`, `id TEXT`, `workflow INTEGER`, `status TEXT`, `created_at INTEGER`, `changed_at INTEGER`, `events INTEGER` (length of the journal), `state TEXT` (`held`, `parked`, `finished`, `aside`), `owner BLOB`, `due INTEGER`, `inbox INTEGER` (messages that wait), `posted INTEGER`, `answered INTEGER`, `recoveries INTEGER`, `problem TEXT`, `user TEXT`, `metadata TEXT` (JSON) |
/// | `workflows` | definition | `workflow INTEGER`, `id TEXT`, `version INTEGER` (its author's, or null), `hash TEXT` (its [digest](crate::Workflow::digest)), `definition TEXT` (JSON) |
/// | `run_workflows` | sub-workflow of a run | `run INTEGER`, `position INTEGER`, `workflow INTEGER` |
/// | `events` | event of a journal | `run INTEGER`, `position INTEGER` (from 0), `at INTEGER`, `kind TEXT`, `scope INTEGER` and `step INTEGER` (where it is about a step), `data TEXT` (JSON) |
/// | `snapshots` | run whose state was written | `run INTEGER`, `events INTEGER` (how many made it), `forgotten INTEGER` (events before this position are gone, but for those about what people did), `state TEXT` (JSON) |
/// | `messages` | message without an answer | `run INTEGER`, `number INTEGER`, `message TEXT` (JSON) |
/// | `answers` | of the last answers of a run | `run INTEGER`, `position INTEGER`, `number INTEGER`, `rejection TEXT` (JSON; null when it was done) |
/// | `locks` | lock with a rate | `lock TEXT`, `next INTEGER` (when it could be taken at an even pace) |
/// | `lock_holders` | lock that a step holds | `lock TEXT`, `run TEXT` (id), `scope INTEGER`, `step INTEGER` |
/// | `owners` | engine | `owner BLOB`, `beats INTEGER`, `state TEXT` (`alive`, `retired`, `gone`) |
/// | `purged` | removed run whose blobs may be there still | `id TEXT`, `workflow TEXT` (id), `owner BLOB` |
/// | `removed` | workflow of which runs were removed | `workflow TEXT` (id), `runs INTEGER` (how many) |
///
/// | view | one row for each | columns |
/// | --- | --- | --- |
/// | `run_overview` | run | `run` (id), `workflow` (id), `version` and `definition` (first letters of the digest) of the workflow that it began with, `status`, `created_at`, `changed_at`, `events`, `forgotten`, `state`, `due`, `inbox`, `recoveries`, `problem`, `user` |
/// | `definition_changes` | other definition that a run was given | `run` (id), `position` (in its journal), `at`, `version`, `changed_by`, `why` |
/// | `step_states` | step of a run that has moved | `run` (id), `scope`, `step`, `name` (of outermost steps), `status`, `since`, `position` (of the event that says so); numbers are those of the definition of the time, names those of the one that the run began with |
/// | `workflow_steps` | outermost step of a definition | `workflow` (id), `version`, `definition` (first letters of the digest), `step` (number), `name` |
/// | `step_dependencies` | pair of outermost steps of which one comes after the other | `workflow` (id), `version`, `definition` (first letters of the digest), `name`, `depends_on`, `kind` (`after`, `on_success`, `on_failure`, `on_error`, `otherwise`, `always`: what the definition says), `class` (of errors; a step that is `finally` comes after all others, and is listed with none) |
///
/// Where `run_overview` says that something is `forgotten`, `events` lacks what happened before, and
/// `step_states` the steps that have not moved since.
///
/// What failed last, at which step, and why:
/// ```sql
/// SELECT runs.id, workflows.id AS workflow, datetime(events.at / 1e6, 'unixepoch') AS at,
///   events.data ->> '$.outcome.failed.step' AS step,
///   events.data ->> '$.outcome.failed.failure.message' AS why
/// FROM runs JOIN workflows USING (workflow) JOIN events USING (run)
/// WHERE runs.status = 'failed' AND events.kind = 'run_finished'
///   AND events.data -> '$.outcome.failed' IS NOT NULL
/// ORDER BY events.at DESC LIMIT 20;
/// ```
/// Which runs are set aside, as no engine could go on with them, or to wait for their turn, until when, why:
/// ```sql
/// SELECT run, workflow, due, problem FROM run_overview WHERE state = 'aside';
/// ```
/// Which are in quarantine, since when, and how often they were taken from engines that were gone:
/// ```sql
/// SELECT runs.id, datetime(events.at / 1e6, 'unixepoch') AS since,
///   events.data ->> '$.recoveries' AS recoveries
/// FROM runs JOIN events USING (run)
/// WHERE runs.status IN ('paused', 'cancelling') AND events.kind = 'run_quarantined'
///   AND NOT EXISTS (SELECT 1 FROM events AS later WHERE later.run = events.run
///     AND later.position > events.position AND later.kind IN ('run_resumed', 'run_reopened'));
/// ```
/// Of which steps somebody has to say what became of them, and what is known:
/// ```sql
/// SELECT runs.id, events.scope, events.step, datetime(events.at / 1e6, 'unixepoch') AS since,
///   events.data ->> '$.failure.message' AS why
/// FROM runs JOIN events USING (run)
/// WHERE runs.status IN ('running', 'paused', 'cancelling') AND events.kind = 'step_outcome_unknown'
///   AND NOT EXISTS (SELECT 1 FROM events AS later WHERE later.run = events.run
///     AND later.position > events.position AND (later.scope, later.step) = (events.scope, events.step));
/// ```
/// Which decisions wait for whose vote, or for anybody's, where it names nobody:
/// ```sql
/// SELECT runs.id, datetime(events.at / 1e6, 'unixepoch') AS since,
///   events.data ->> '$.wait.approval.id' AS approval, voter.value AS waits_for
/// FROM runs JOIN events USING (run)
/// LEFT JOIN json_each(events.data, '$.wait.approval.approvers') AS voter
/// WHERE runs.status IN ('running', 'paused', 'cancelling') AND events.kind = 'wait_started'
///   AND events.data -> '$.wait.approval' IS NOT NULL
///   AND NOT EXISTS (SELECT 1 FROM events AS later WHERE later.run = events.run
///     AND later.position > events.position AND (later.scope, later.step) = (events.scope, events.step)
///     AND (later.kind <> 'voted' OR later.data ->> '$.vote.by' = voter.value));
/// ```
/// Who holds which lock, and when one with a rate could be taken at an even pace:
/// ```sql
/// SELECT lock, run, scope, step, workflow, status, datetime(next / 1e6, 'unixepoch') AS next
/// FROM lock_holders JOIN run_overview USING (run) LEFT JOIN locks USING (lock) ORDER BY lock, run;
/// ```
/// How many runs each engine holds:
/// ```sql
/// SELECT hex(owner) AS engine, owners.state, count(run) AS held
/// FROM owners LEFT JOIN runs USING (owner) GROUP BY owner ORDER BY held DESC;
/// ```
/// How many runs of which workflow are in which state:
/// ```sql
/// SELECT workflow, version, status, count(*) AS runs FROM run_overview GROUP BY 1, 2, 3;
/// ```
/// How many runs there have ever been:
/// ```sql
/// SELECT (SELECT count(*) FROM runs) + (SELECT coalesce(sum(runs), 0) FROM removed) AS runs;
/// ```
/// Which live runs are not at version 2 of a workflow:
/// ```sql
/// SELECT run, version, latest FROM run_overview LEFT JOIN (
///   SELECT run, version AS latest, max(position) FROM definition_changes GROUP BY run) USING (run)
/// WHERE workflow = 'w' AND status IN ('running', 'paused') AND coalesce(latest, version, 0) <> 2;
/// ```
/// What has happened to a run:
/// ```sql
/// SELECT position, datetime(at / 1e6, 'unixepoch') AS at, kind, step, data
/// FROM events WHERE run = (SELECT run FROM runs WHERE id = 'order-4711') ORDER BY position;
/// ```
/// Who has paused, resumed, cancelled, changed, decided or sent what, and why; a signal that was kept
/// until a step took it is listed twice:
/// ```sql
/// SELECT runs.id, datetime(events.at / 1e6, 'unixepoch') AS at, events.kind,
///   coalesce(events.data ->> '$.by.by', events.data ->> '$.vote.by',
///     events.data ->> '$.signal.by') AS who,
///   coalesce(events.data ->> '$.by.why', events.data ->> '$.vote.comment') AS why,
///   coalesce(events.data -> '$.operation', events.data -> '$.vote', events.data -> '$.signal') AS what
/// FROM runs JOIN events USING (run)
/// WHERE events.kind IN ('run_paused', 'run_resumed', 'run_cancel_requested', 'run_terminated',
///   'operated', 'voted', 'signal_received', 'signal_taken')
/// ORDER BY events.at DESC LIMIT 100;
/// ```
/// Where its steps stand:
/// ```sql
/// SELECT scope, step, name, status, since FROM step_states WHERE run = 'order-4711';
/// ```
/// Which steps nothing has happened to so far, of live runs that still have the definition that they began with:
/// ```sql
/// SELECT runs.run, steps.step, steps.name FROM run_overview AS runs
/// JOIN workflow_steps AS steps USING (definition)
/// LEFT JOIN step_states AS states ON states.run = runs.run AND states.scope = 0
///   AND states.step = steps.step
/// WHERE runs.status IN ('running', 'paused') AND states.step IS NULL
///   AND NOT EXISTS (SELECT 1 FROM definition_changes AS changes WHERE changes.run = runs.run)
/// ORDER BY runs.run, steps.step;
/// ```
/// Which step of a workflow comes after which:
/// ```sql
/// SELECT name, depends_on, kind, class FROM step_dependencies WHERE workflow = 'w'
/// ORDER BY name, depends_on;
/// ```
/// The slowest attempts of the steps of a workflow, in seconds:
/// ```sql
/// SELECT runs.id, began.step, max(ended.at - began.at) / 1e6 AS seconds
/// FROM workflows JOIN runs USING (workflow)
/// JOIN events AS began ON began.run = runs.run AND began.kind = 'step_started'
/// JOIN events AS ended ON ended.run = began.run AND ended.position > began.position
///   AND (ended.scope, ended.step) = (began.scope, began.step) AND ended.kind = 'step_succeeded'
/// WHERE workflows.id = 'w' GROUP BY runs.id, began.step ORDER BY seconds DESC LIMIT 10;
/// ```
/// What steps have come to:
/// ```sql
/// SELECT runs.id, events.step, events.data ->> '$.output' AS output
/// FROM runs JOIN events USING (run) WHERE events.kind = 'step_succeeded' LIMIT 100;
/// ```
#[derive(Clone)]
pub struct Sqlite(Arc<Opened>);

/// In the order in which it is closed.
struct Opened {
    writer: Writer,
    reader: Reader,
    guests: Guests,
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
        let (mut connection, alive) = schema::open(&path, patience, self.synchronous, &fault)?;
        let guests = Guests::watch(&mut connection).map_err(|error| fault.opening(error))?;
        let small = schema::reader(&path, patience, &fault)?;
        let large = schema::reader(&path, patience, &fault)?;
        Ok(Sqlite(Arc::new(Opened {
            writer: Writer::new(connection, patience, fault.clone())?,
            reader: Reader::new(small, large, fault.clone())?,
            guests,
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
            Ok(rows) => {
                self.0.writer.write(Some(&id), move |connection| write::create(&rows, connection))
            }
            Err(error) => Reply::ready(Err(error.of_run(&id))),
        }
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let change = match Change::of(run, &commit, &self.0.guests) {
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

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        let run = run.clone();
        self.0.reader.large(move |connection| history::events(connection, &run, from, limit))
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

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        let id = run.clone();
        self.0.writer.write(Some(run), move |connection| locks::acquire(connection, &id, &asked))
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

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.0.reader.large(move |connection| read::held(connection, owner, after.as_ref(), limit))
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

    fn takes_writes(&self) -> bool {
        true
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        self.0.reader.small(read::next_due)
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        self.0.reader.large(move |connection| read::list(connection, &query))
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        self.0.writer.write(None, move |connection| purge::purge(connection, &which))
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        self.0.writer.write(None, move |connection| purge::clear(connection, owner, &runs))
    }
}
