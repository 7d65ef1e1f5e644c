//! Where runs are kept: the ports for journals and for large values, and the in-memory defaults.
//!
//! A storage holds no rules. What to write is decided before it is called; it says yes or no to the
//! whole.

mod blob;
#[cfg(feature = "files")]
mod files;
mod locks;
mod memory;
mod reply;

pub use blob::{BLOB_NAME_BYTES_MAX, BlobStore, MemoryBlobs};
#[cfg(feature = "files")]
#[cfg_attr(docsrs, doc(cfg(feature = "files")))]
pub use files::FileBlobs;
pub use memory::Memory;
pub use reply::Reply;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{RunId, StepKey};
use crate::journal::{Operation, Reason, Recorded, RunStatus, Signal, Vote};
use crate::run::Want;
use crate::time::Timestamp;
use crate::workflow::Workflow;

/// Keeps journals, summaries, inboxes and who owns which run.
///
/// Answers are [`Reply`]s: a storage that knows at once says so at once, without a boxed future.
///
/// # Contract
/// - `create` with an id that is taken changes nothing and says so.
/// - `commit` changes all or nothing; it fails with [`ErrorKind::Conflict`](crate::ErrorKind) and
///   changes nothing unless the journal is exactly `expected` long. The journal's own length is the
///   fence: a late owner's commit is refused because somebody else has written meanwhile.
/// - After a commit's `Ok`, every later `load` anywhere sees it.
/// - A message is in the inbox until a commit that names it in `consumed`; it never comes back.
/// - A lock is held from `acquire` until a commit that releases it, or that ends the run.
/// - `claim` gives each run to one owner only, and only runs that are parked and due, parked or
///   finished with a message, or whose owner's heartbeat has lapsed.
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Adds a run with the beginning of its journal, in one piece.
    fn create(&self, run: NewRun) -> Reply<Result<Created>>;

    /// Appends events and replaces the summary. May give the emptied event buffer back to be filled
    /// again; an empty list is as good.
    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>>;

    /// A run with its journal; none when there is none.
    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>>;

    /// Puts a message into a run's inbox; its number. Fails with `NotFound`.
    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>>;

    /// The messages of a run, oldest first.
    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>>;

    /// Takes all of these locks for a step, or none and says why. Taking what the step holds already
    /// changes nothing.
    fn acquire(
        &self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Reply<Result<Option<Denied>>>;

    /// Says that this owner is alive until then.
    fn heartbeat(&self, owner: Owner, until: Timestamp) -> Reply<Result<()>>;

    /// Up to `limit` runs that nobody holds and that something can be done for, now held by `owner`.
    fn claim(&self, owner: Owner, now: Timestamp, limit: usize) -> Reply<Result<Vec<RunId>>>;

    /// The earliest time at which a parked run is due.
    fn next_due(&self) -> Reply<Result<Option<Timestamp>>>;

    /// Summaries, newest first.
    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>>;
}

/// One incarnation of an engine: a random token made when it is built, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(pub u128);

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
    /// The length that its journal must have.
    pub expected: u64,
    /// What is appended.
    pub events: Vec<Recorded>,
    /// What has become of the run.
    pub status: RunStatus,
    /// Messages that these events are the consequence of.
    pub consumed: Vec<u64>,
    /// Who holds the run from now on.
    pub holding: Holding,
    /// Steps that hold their locks no more.
    pub released: Vec<StepKey>,
}

/// Why a lock was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// What has happened.
    pub journal: Vec<Recorded>,
    /// What has become of it.
    pub status: RunStatus,
    /// Who holds it.
    pub holding: Holding,
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
    Cancel(Reason),
    /// Stop at once.
    Terminate(Reason),
}

/// What can be said of a run without its journal.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Its id.
    pub id: RunId,
    /// The workflow's id.
    pub workflow: String,
    /// What has become of it.
    pub status: RunStatus,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
    /// The length of its journal.
    pub events: u64,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only with this status.
    pub status: Option<RunStatus>,
    /// At most this many; 0 is [`LIST_MAX`].
    pub limit: usize,
}

/// Summaries given at once.
pub const LIST_MAX: usize = 1_000;
