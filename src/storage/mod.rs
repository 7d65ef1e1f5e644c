//! Where runs are kept: the ports for journals and for large values, and the in-memory defaults.
//!
//! A storage holds no rules. What to write is decided before it is called; it says yes or no to the
//! whole.

pub(crate) mod around;
mod blob;
#[cfg(feature = "files")]
mod files;
mod locks;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod reply;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod workflows;

pub use blob::{BLOB_NAME_BYTES_MAX, BLOBS_AT_ONCE, BlobStore, MemoryBlobs};
#[cfg(feature = "files")]
#[cfg_attr(docsrs, doc(cfg(feature = "files")))]
pub use files::FileBlobs;
pub use memory::Memory;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::{Postgres, PostgresOptions, SCHEMA_BYTES_MAX};
pub use reply::Reply;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{Sqlite, SqliteOptions, Synchronous};
pub use statement::{
    Parameter, RefusedWrite, STATEMENTS_BYTES_MAX, STATEMENTS_MAX, Statement, StepWrites,
};

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunId, StepKey};
use crate::journal::{Operation, Reason, Recorded, RunStatus, Signal, Snapshot, Vote};
use crate::run::{Rejection, Want};
use crate::time::Timestamp;
use crate::workflow::Workflow;

/// Keeps journals, summaries, inboxes, locks, and who holds which run.
///
/// Answers are [`Reply`]s: a storage that knows at once says so at once, without a boxed future. An
/// answer that is dropped before it came may have had its effect or not.
///
/// # Contract
///
/// *Runs*
/// - `create` with an id that is taken changes nothing and says whose it is.
/// - `commit` changes all or nothing. It fails with [`ErrorKind::NotFound`] when there is no such run,
///   and with [`ErrorKind::Conflict`] when the journal is not exactly `expected` long, or when another
///   owner holds the run; then nothing has changed. That is the fence: who was taken over cannot write.
/// - After a commit's `Ok`, every later answer anywhere tells it.
/// - `list` is sorted by when a run was added, newest first, and then by id, backwards.
///
/// *Writes of steps*
/// - A storage that [`takes_writes`](Storage::takes_writes) does what a commit's `writes` say in the
///   transaction of the commit, in their order: they are there exactly if its events are.
/// - It refuses the commit with [`ErrorKind::WriteRefused`], and nothing has changed, if a statement
///   fails; if it changes another number of rows than it says; if it is none that writes, or more than
///   one; if it would touch the storage's own tables, begin or end a transaction, or change a setting.
///   A [`RefusedWrite`] is the source of the error. It names the step, unless only the end of the
///   transaction could tell; then the commit may come again with the writes of one step.
/// - The fence comes first, and a disk or connection that fails is no refusal.
/// - Other commits do not suffer, even if they share a transaction with that one.
/// - Others fail with [`ErrorKind::Configuration`], and nothing has changed.
///
/// *Messages*
/// - A message is in the inbox, oldest first, until a commit answers it; it never comes back. Numbers
///   grow with every message to the same run. Answers to what is not in the inbox are passed over.
/// - `answer` tells what the run made of a message, for the last [`ANSWERS_KEPT`] of a run at least.
/// - `mail` names the runs that this owner holds and that have messages.
///
/// *Locks*
/// - A step is given all locks that it asks for, or none. It holds them until a commit that releases
///   it, or that ends the run. What it holds already it is given again, at no charge. Who wants no rate
///   leaves the lock's pace as it is.
/// - `acquire` fails with `NotFound` when there is no such run, and with `Conflict` when its journal is
///   not exactly `expected` long, when nobody or another owner holds it, or when it has ended: whoever
///   asks is late, and nobody would release what it is given.
///
/// *Owners*
/// - An owner is alive from its first `beat` until it is `retire`d, or until a `claim` says that it is
///   gone. Each `beat` counts one further, also after it was gone.
/// - `claim` gives each run to one owner only. What it gives: runs that are parked and due; that are
///   parked or finished and have a message; that are set aside, when their time has come; and those of
///   owners that are not alive. Each time that the last of these happens to a run whose owner did not
///   retire, its `recoveries` grow by one; a commit with `recovered` sets them to none. What the
///   claimer holds itself it is not given.
/// - By name, runs that are parked or set aside are given before their time, too: who asks for one has
///   a reason.
/// - An owner that a claim calls `gone` is so only if it has not beaten since; then it is alive no
///   more. If it beats later, it is alive again, and has what nobody has claimed. A storage that is sure
///   that nobody else uses it may take all owners for gone when it is opened.
/// - `held` names all runs that an owner holds, sorted by id, a page at a time.
/// - A run that is set aside is not claimed before its time, message or not, unless by name.
///
/// *Long journals*
/// - The snapshot of a commit takes the place of the one before. `load` gives the last one, and the
///   events that it does not know.
/// - Events before the position that a snapshot says may be forgotten, but for those that are
///   [kept](crate::journal::Event::is_kept), are told no more. All others are there, and the length of
///   a journal counts what is forgotten. What was forgotten stays so.
/// - `events` tells what there is from a position on, in order, each with its position.
///
/// *Removing*
/// - `purge` removes finished runs that have no message: those that changed last at a time or before
///   it, and of the finished runs those beyond the newest so many, by when they changed last and then
///   by id. The one that changed first goes first. With a run goes everything that is kept of it. What
///   is held, parked, set aside or has a message stays.
/// - The id of a run that was removed stays taken until it is `clear`ed: something may be kept
///   elsewhere under it. Only who removed it clears it. `purge` names to an owner what it has removed
///   and not cleared, and what others have left that are not alive, which is then this owner's. All of
///   that is within its limit. Where there is too much of both, what was left has half of it, and the
///   odd one, by id; what one does not need the other has.
///
/// [`ErrorKind::NotFound`]: crate::ErrorKind::NotFound
/// [`ErrorKind::Conflict`]: crate::ErrorKind::Conflict
/// [`ErrorKind::WriteRefused`]: crate::ErrorKind::WriteRefused
/// [`ErrorKind::Configuration`]: crate::ErrorKind::Configuration
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Adds a run with the beginning of its journal, in one piece.
    fn create(&self, run: NewRun) -> Reply<Result<Created>>;

    /// Appends events and replaces the summary. May give the emptied event buffer back to be filled
    /// again; an empty list is as good.
    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>>;

    /// A run with its last snapshot and what has happened since; none when there is none.
    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>>;

    /// Up to `limit` events of a run, those from this position on; none when there is no such run.
    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>>;

    /// Puts a message into a run's inbox; its number. Fails with `NotFound`.
    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>>;

    /// The messages of a run, oldest first.
    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>>;

    /// What the run made of a message; none when it has not seen it, or nobody knows any more.
    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>>;

    /// Takes all locks that a step asks for, or none and says why.
    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>>;

    /// Says that this owner is alive; everybody who is, this one included, in no order.
    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>>;

    /// Says that this owner will do nothing more; what it holds is anybody's at once.
    fn retire(&self, owner: Owner) -> Reply<Result<()>>;

    /// Up to `limit` runs that this owner holds and that have messages.
    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>>;

    /// Up to `limit` runs that this owner holds, by id, those after this one.
    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>>;

    /// Takes runs that something can be done for.
    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>>;

    /// Gives back a run that this owner holds and does not go on with, with its journal untouched:
    /// nobody claims it before `until`, and its summary says why. Does nothing when another owner
    /// holds the run.
    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>>;

    /// The earliest time at which a run that nobody holds can be claimed; long ago for one that has a
    /// message.
    fn next_due(&self) -> Reply<Result<Option<Timestamp>>>;

    /// How often engines ask for what other processes have put there.
    fn poll_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Says so when something may be there for this owner: then it is looked for at once. Only a hint;
    /// what is not said is found within `poll_every`.
    fn news(&self, _owner: Owner) -> BoxStream<'static, ()> {
        futures::stream::pending().boxed()
    }

    /// Whether commits may bring `writes`: there are tables, and a host may have its own beside ours.
    fn takes_writes(&self) -> bool {
        false
    }

    /// Summaries, newest first.
    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>>;

    /// Removes finished runs, and names them and those whose ids are still to be cleared, sorted. May
    /// remove fewer than it could where they are very long, but not none.
    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>>;

    /// The ids of these runs, which this owner has removed, may be used again.
    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>>;
}

/// Answers to messages that a storage keeps for a run, at least.
pub const ANSWERS_KEPT: usize = 100;

/// One incarnation of an engine: a random token made when it is built, and another one each time that it has retired; none is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(pub u128);

/// How often an owner has said that it is alive.
///
/// Nobody's clock is in it: who sees the same count for long enough, by a clock of their own that
/// only goes forward, may take the owner for gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Beat {
    /// Who.
    pub owner: Owner,
    /// How often.
    pub count: u64,
}

/// Which runs are to be taken.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who takes them.
    pub owner: Owner,
    /// What is due by then is due.
    pub now: Timestamp,
    /// Owners that are gone if these are still their last beats.
    pub gone: Vec<Beat>,
    /// Only this one; none takes any.
    pub run: Option<RunId>,
    /// At most this many.
    pub limit: usize,
}

/// A run that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Its id.
    pub run: RunId,
    /// How often it was taken from owners that were gone, this time included, since it got on.
    pub recoveries: u32,
}

/// What a run made of a message: that it did it, or why not.
pub type Answer = Result<(), Rejection>;

/// A run to be added.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Who holds it.
    pub holding: Holding,
    /// What it runs.
    pub workflow: Workflow,
    /// The workflows that its sub-workflow steps mean.
    pub linked: Vec<Workflow>,
    /// For whom.
    pub user: Option<String>,
    /// Free data.
    pub metadata: crate::workflow::Metadata,
    /// When.
    pub at: Timestamp,
    /// What has happened to it already: that it began, and what followed from that.
    pub journal: Vec<Recorded>,
    /// What has become of it by that.
    pub status: RunStatus,
}

/// Whether a run was added.
#[derive(Clone, Debug)]
pub enum Created {
    /// Yes.
    New,
    /// No: there is one, of the workflow of this id.
    Exists(String),
}

/// One atomic change of a run.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Who writes.
    pub owner: Owner,
    /// The length that its journal must have.
    pub expected: u64,
    /// What is appended.
    pub events: Vec<Recorded>,
    /// What has become of the run.
    pub status: RunStatus,
    /// Messages that these events are the consequence of, and what the run made of each.
    pub answers: Vec<(u64, Answer)>,
    /// Who holds the run from now on.
    pub holding: Holding,
    /// Steps that hold their locks no more.
    pub released: Vec<StepKey>,
    /// What was begun under an owner that was gone has ended.
    pub recovered: bool,
    /// What steps write themselves whose success is among the events; most commits have none.
    pub writes: Option<Box<[StepWrites]>>,
    /// What all events, with these, come to, and how many of them need not be kept. Now and then.
    pub snapshot: Option<Box<Snapshot>>,
}

/// The locks that a step needs.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Who asks.
    pub owner: Owner,
    /// The length that the run's journal must have.
    pub expected: u64,
    /// For which step.
    pub step: StepKey,
    /// Which ones; none twice.
    pub wants: Vec<Want>,
    /// When: rates count from it.
    pub now: Timestamp,
}

/// Which finished runs are to be removed.
#[derive(Clone, Debug)]
pub struct Purge {
    /// Who removes them.
    pub owner: Owner,
    /// Those that changed last at this time or before.
    pub before: Option<Timestamp>,
    /// Those beyond the newest so many.
    pub keep: Option<u64>,
    /// Only of this workflow; then only those of it count, too.
    pub workflow: Option<String>,
    /// At most this many.
    pub limit: usize,
}

impl Purge {
    /// How many may be removed now, when so many are still to be cleared.
    pub(crate) fn room(&self, left: usize) -> usize {
        self.limit - left.min(self.limit.div_ceil(2))
    }
}

/// Why a lock was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Which one.
    pub lock: String,
    /// When it may be asked for again, where time alone decides.
    pub until: Option<Timestamp>,
    /// Runs that hold it; not all, if they are many.
    pub holders: Vec<RunId>,
}

/// Who holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// This engine.
    Held(Owner),
    /// Nobody: nothing happens before this time, unless a message comes.
    Parked(Option<Timestamp>),
    /// Nobody, unless a message comes that has it go on.
    Finished,
    /// Nobody before this time: an engine could not go on with it, or has it wait for its turn.
    Aside(Timestamp),
}

/// A run as it is kept.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// What it runs.
    pub workflow: Workflow,
    /// The workflows that its sub-workflow steps mean.
    pub linked: Vec<Workflow>,
    /// For whom.
    pub user: Option<String>,
    /// Free data.
    pub metadata: crate::workflow::Metadata,
    /// What the events before those in `journal` come to; none when they are all there.
    pub snapshot: Option<Box<Snapshot>>,
    /// What has happened since.
    pub journal: Vec<Recorded>,
    /// What has become of it.
    pub status: RunStatus,
    /// Who holds it.
    pub holding: Holding,
    /// How often it was taken from owners that were gone, since it got on.
    pub recoveries: u32,
}

impl StoredRun {
    /// The position of the first event in `journal`.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.events)
    }

    /// How many events there were, with what is forgotten.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.from() + self.journal.len() as u64
    }
}

/// Something said to a run from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Message {
    /// A signal.
    Signal(Signal),
    /// A vote.
    Vote {
        /// Which decision.
        approval: String,
        /// Whose, and which way.
        vote: Vote,
    },
    /// Start nothing more.
    Pause(Reason),
    /// Start steps again.
    Resume(Reason),
    /// Change it.
    Operate {
        /// How.
        operation: Operation,
        /// Who and why.
        by: Reason,
    },
    /// Stop; what cleans up still runs.
    Cancel {
        /// Who and why.
        by: Reason,
        /// How long running steps have to stop by themselves; none is what the run was started with.
        grace: Option<Duration>,
    },
    /// Stop at once.
    Terminate(Reason),
}

/// What can be said of a run without its journal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its id.
    pub id: RunId,
    /// The workflow's id.
    pub workflow: String,
    /// What has become of it.
    pub status: RunStatus,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed: the time of its last event.
    pub changed_at: Timestamp,
    /// The length of its journal, with what is forgotten.
    pub events: u64,
    /// Events before this position are forgotten, but for those that are
    /// [kept](crate::journal::Event::is_kept).
    pub forgotten: u64,
    /// Why it was set aside, if it is.
    pub problem: Option<String>,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only with this status.
    pub status: Option<RunStatus>,
    /// Only those that have not ended.
    pub live: bool,
    /// Only those behind the place that a run which was added at this time, with this id, has in the
    /// list, or would have.
    pub before: Option<(Timestamp, RunId)>,
    /// At most this many; 0 is [`LIST_MAX`].
    pub limit: usize,
}

/// Summaries given at once.
pub const LIST_MAX: usize = 1_000;

/// Why there is no place for what a step writes itself.
pub(crate) const NO_TABLES: &str =
    "the engine's storage has no tables that a step could write to; use `Sqlite` or `Postgres`";

fn no_tables(run: &RunId) -> Error {
    Error::new(ErrorKind::Configuration, NO_TABLES).of_run(run)
}

fn not_found(run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such run").of_run(run)
}

fn conflict(run: &RunId) -> Error {
    let message = "somebody else has written to this run, or holds it";
    Error::new(ErrorKind::Conflict, message).of_run(run)
}

impl RunQuery {
    /// How many summaries are wanted.
    fn most(&self) -> usize {
        if self.limit == 0 { LIST_MAX } else { self.limit.min(LIST_MAX) }
    }
}
