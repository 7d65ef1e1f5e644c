//! How long runs are kept that have ended.

use std::time::Duration;

use super::driver::yield_now;
use super::{Engine, Inner, lock};
use crate::error::{Error, Result};
use crate::id::RunId;
use crate::storage::{Purge, Storage};

/// Runs that are removed at once, at most.
const PURGED_AT_ONCE: usize = 1_000;
/// How often [`Engine::serve`] looks for runs that have been there for long enough.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// How long runs are kept that have ended, and how many. A run that either says is removed.
///
/// ```
/// use std::time::Duration;
/// use stepwell::engine::Retention;
///
/// let month = Duration::from_secs(30 * 24 * 3600);
/// let all = Retention::new().finished_for(month);
/// let drafts = Retention::new().workflow("draft").finished_for(month / 30).keep_at_most(100);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    finished_for: Option<Duration>,
    keep_at_most: Option<u64>,
    workflow: Option<String>,
}

impl Retention {
    /// Keeps everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps runs for so long after their last event.
    #[must_use]
    pub const fn finished_for(mut self, time: Duration) -> Self {
        self.finished_for = Some(time);
        self
    }

    /// Keeps so many, those whose last events are the newest.
    #[must_use]
    pub const fn keep_at_most(mut self, runs: u64) -> Self {
        self.keep_at_most = Some(runs);
        self
    }

    /// Is about the runs of this workflow only, and counts only them.
    #[must_use]
    pub fn workflow(mut self, id: impl Into<String>) -> Self {
        self.workflow = Some(id.into());
        self
    }
}

impl Engine {
    /// Removes the runs that have been kept for long enough, with everything that is kept of them, also
    /// in the blob store: in batches, until there are no more. How many.
    ///
    /// Only a run that has ended and has no message goes; whatever is said to it from then on is
    /// refused. Its id may be used again when this has come back. If this is dropped or fails in the
    /// middle, the next purge goes on with it. With [`EngineBuilder::retention`],
    /// [`serve`](Self::serve) does this all the time.
    ///
    /// The other engines hear meanwhile that this one is alive, served or not. If they cannot, it fails
    /// within half a lease, as one of them may soon go on with what it has begun.
    ///
    /// # Errors
    /// What the storage says, and the blob store. What is [transient](Error::is_transient) may go well
    /// the next time.
    ///
    /// ```
    /// use stepwell::engine::Retention;
    /// use stepwell::{Engine, ErrorKind, Step, Workflow, executor_fn};
    ///
    /// let engine = Engine::builder().executor("work", executor_fn(|_| async { Ok(1) })).build()?;
    /// let workflow = Workflow::builder("w").step(Step::task("a", "work")).build()?;
    /// # futures::executor::block_on(async {
    /// let (old, new) = (engine.execute(&workflow, ()).await?, engine.execute(&workflow, ()).await?);
    /// assert_eq!(engine.purge(&Retention::new().keep_at_most(1)).await?, 1);
    /// assert!(engine.run(new.id()).await.is_ok());
    /// assert_eq!(engine.run(old.id()).await.unwrap_err().kind(), ErrorKind::NotFound);
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    ///
    /// [`EngineBuilder::retention`]: crate::engine::EngineBuilder::retention
    pub async fn purge(&self, retention: &Retention) -> Result<u64> {
        let mut removed = 0;
        loop {
            match self.inner().purge_some(retention).await? {
                0 => return Ok(removed),
                some => removed += some as u64,
            }
        }
    }
}

impl Inner {
    /// Removes runs as the engine's rules say, again and again, if it has any.
    pub(super) async fn keep_less(&self) {
        while !self.retention.is_empty() {
            let at = *lock(&self.purge_at);
            self.runtime.sleep(at.saturating_sub(self.runtime.monotonic())).await;
            // However it goes: who fails is not to fail all the time.
            *lock(&self.purge_at) = self.runtime.monotonic() + PURGE_EVERY;
            match self.purge_by_rules().await {
                Ok(0) => {}
                // There may be more.
                Ok(_) => *lock(&self.purge_at) = Duration::ZERO,
                // Runs that go on have nothing to do with it.
                Err(error) => {
                    tracing::warn!(target: "stepwell", %error, "runs that have ended were not removed");
                }
            }
        }
    }

    async fn purge_by_rules(&self) -> Result<usize> {
        let (mut some, mut failed) = (0, None);
        for retention in &self.retention {
            match self.purge_some(retention).await {
                Ok(count) => some += count,
                // The other rules have nothing to do with it.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(some), Err)
    }

    async fn purge_some(&self, retention: &Retention) -> Result<usize> {
        // An id that is named here must not be cleared, and used again, while its blobs are removed.
        let _alone = self.purging.lock().await;
        // Nor may another engine remove them, too.
        self.while_heard(self.purge_alone(retention)).await
    }

    async fn purge_alone(&self, retention: &Retention) -> Result<usize> {
        let runs = self.storage.purge(Purge {
            owner: self.owner(),
            before: retention.finished_for.map(|time| self.runtime.now() - time),
            keep: retention.keep_at_most,
            workflow: retention.workflow.clone(),
            limit: PURGED_AT_ONCE,
        });
        let runs = runs.await?;
        if runs.is_empty() {
            return Ok(0);
        }
        let count = runs.len();
        let (clean, failed) = self.remove_blobs(runs).await;
        self.storage.clear(self.owner(), clean).await?;
        // Those that are left come again.
        failed.map_or(Ok(count), Err)
    }

    /// The runs that have no blobs any more, and why others have: one that cannot be removed keeps
    /// no others.
    async fn remove_blobs(&self, runs: Vec<RunId>) -> (Vec<RunId>, Option<Error>) {
        let Some(blobs) = &self.facilities.blobs else { return (runs, None) };
        let (mut clean, mut failed) = (Vec::new(), None);
        for run in runs {
            match blobs.delete_run(&run).await {
                Ok(()) => clean.push(run),
                Err(error) => failed = Some(error),
            }
            // Blobs that are gone at once would have nobody hear of this engine.
            yield_now().await;
        }
        (clean, failed)
    }
}
