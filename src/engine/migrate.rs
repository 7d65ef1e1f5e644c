//! All live runs of a workflow go over to another version of it, or are asked whether they could.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use futures::stream::try_unfold;

use super::Engine;
use super::stored::program_of;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::{Mapping, Operation, Reason};
use crate::run::{Preview, RunState};
use crate::storage::{RunQuery, Storage, StoredRun, Summary};
use crate::time::Timestamp;
use crate::value::NESTING_MAX;
use crate::workflow::Workflow;

/// Summaries that are asked for at once; of runs, one is loaded at a time.
const PAGE: usize = 100;

/// How often a run is asked anew whose definition somebody else changes meanwhile.
const TRIES_MAX: usize = 5;

/// Whether a run can go over to another version, or what came of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunMigration {
    /// Which run.
    pub run: RunId,
    /// The definition that it had, as in `review@2`, and what tells it from others.
    pub from: String,
    /// The SHA-256 of that.
    pub digest: String,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a run that is to go over to another version.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It can go over, or has; this is what happens at once.
    Moves(Preview),
    /// It has this definition.
    IsThere,
    /// It cannot, and stays as it is. [`Error::problems`] lists all that stands in the way.
    Stays(Error),
}

impl RunMigration {
    /// Whether the run has the definition, or can have it.
    #[must_use]
    pub const fn is_well(&self) -> bool {
        !matches!(self.verdict, Verdict::Stays(_))
    }
}

/// A version to go over to, and how.
struct Target {
    workflow: Workflow,
    linked: Vec<Workflow>,
    mapping: Mapping,
    /// Who does it; none only looks.
    reason: Option<Reason>,
}

/// How far the list has been worked through.
struct Walk {
    engine: Engine,
    target: Arc<Target>,
    page: VecDeque<Summary>,
    /// The last run that was listed.
    last: Option<(Timestamp, RunId)>,
    is_over: bool,
}

impl Engine {
    /// Which live runs of a workflow could go over to this version of it, by this mapping, and which
    /// could not and why. Nothing is changed. Newest first, one run in memory at a time; runs that start
    /// meanwhile are not looked at.
    ///
    /// What it says of a run is what [`migrate`](Self::migrate) would do now; the run may get on until
    /// then.
    ///
    /// # Errors
    /// As [`RunHandle::migration`](crate::RunHandle::migration). The stream ends with what the storage
    /// says when runs cannot be listed; what is wrong with one run is its verdict.
    ///
    /// ```
    /// use futures::TryStreamExt;
    /// use stepwell::journal::{Mapping, Reason};
    /// use stepwell::{Engine, Step, Wait, Workflow};
    ///
    /// let engine = Engine::builder().build()?;
    /// let version = |number, id| {
    ///     let ask = Step::wait(id, Wait::signal("go"));
    ///     Workflow::builder("review").version(number).step(ask).build()
    /// };
    /// let (old, new) = (version(1, "ask")?, version(2, "confirm")?);
    /// # futures::executor::block_on(async {
    /// engine.start(&old, ()).await?;
    ///
    /// // Nobody has said what becomes of `ask`, which waits.
    /// let first: Vec<_> = engine.preview_migration(&new, Mapping::new())?.try_collect().await?;
    /// assert!(!first[0].is_well());
    ///
    /// let mapping = Mapping::new().rename("ask", "confirm");
    /// let all: Vec<_> = engine.preview_migration(&new, mapping.clone())?.try_collect().await?;
    /// assert!(all.iter().all(|run| run.is_well()));
    ///
    /// let reason = Reason::new("ann", "version 2");
    /// let moved: Vec<_> = engine.migrate(&new, mapping, reason)?.try_collect().await?;
    /// assert_eq!(moved[0].from, "review@1");
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn preview_migration(
        &self,
        workflow: &Workflow,
        mapping: Mapping,
    ) -> Result<impl Stream<Item = Result<RunMigration>> + Send + Unpin + use<>> {
        self.walk(workflow, mapping, None)
    }

    /// Has all live runs of a workflow go over to this version of it that can, wherever they are, one
    /// after the other as the stream is read. What cannot stays as it is, so that the same can be asked
    /// for again with a better mapping: runs that have gone over are passed by.
    ///
    /// # Errors
    /// As [`preview_migration`](Self::preview_migration).
    pub fn migrate(
        &self,
        workflow: &Workflow,
        mapping: Mapping,
        reason: Reason,
    ) -> Result<impl Stream<Item = Result<RunMigration>> + Send + Unpin + use<>> {
        self.walk(workflow, mapping, Some(reason))
    }

    fn walk(
        &self,
        workflow: &Workflow,
        mapping: Mapping,
        reason: Option<Reason>,
    ) -> Result<impl Stream<Item = Result<RunMigration>> + Send + Unpin + use<>> {
        if mapping.values().any(crate::value::Value::nests_too_deep) {
            let message = format!("an output in the mapping nests deeper than {NESTING_MAX}");
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let (workflow, linked) = (workflow.clone(), self.check(workflow)?);
        let target = Arc::new(Target { workflow, linked, mapping, reason });
        let (engine, page) = (self.clone(), VecDeque::new());
        let walk = Walk { engine, target, page, last: None, is_over: false };
        Ok(Box::pin(try_unfold(walk, |mut walk| async move {
            let next = walk.next().await?;
            Ok(next.map(|migration| (migration, walk)))
        })))
    }
}

impl Walk {
    async fn next(&mut self) -> Result<Option<RunMigration>> {
        loop {
            while let Some(summary) = self.page.pop_front() {
                if let Some(migration) = self.visit(&summary.id).await {
                    return Ok(Some(migration));
                }
            }
            if self.is_over {
                return Ok(None);
            }
            let query = RunQuery {
                workflow: Some(self.target.workflow.id().to_string()),
                live: true,
                before: self.last.clone(),
                limit: PAGE,
                ..RunQuery::default()
            };
            self.page = self.engine.list(query).await?.into();
            self.is_over = self.page.len() < PAGE;
            let last = self.page.back().map(|summary| (summary.created_at, summary.id.clone()));
            self.last = last.or_else(|| self.last.take());
        }
    }

    /// One run; none if it has ended meanwhile.
    async fn visit(&self, run: &RunId) -> Option<RunMigration> {
        let mut migration = self.look(run).await?;
        for tries in 1..=TRIES_MAX {
            let (Some(reason), Verdict::Moves(_)) = (&self.target.reason, &migration.verdict)
            else {
                break;
            };
            match self.engine.go_over(run, &self.target, reason.clone()).await {
                Ok(()) => break,
                // Something has happened to it since; it is asked once more what stands in the way.
                Err(error) if error.kind() == ErrorKind::Rejected && tries < TRIES_MAX => {
                    migration = self.look(run).await?;
                }
                Err(error) => migration.verdict = Verdict::Stays(error),
            }
        }
        Some(migration)
    }

    /// What would become of a run, by its journal.
    async fn look(&self, run: &RunId) -> Option<RunMigration> {
        let unknown = |error| {
            let (from, digest) = (self.target.workflow.id().to_string(), String::new());
            RunMigration { run: run.clone(), from, digest, verdict: Verdict::Stays(error) }
        };
        match self.engine.inner().storage.load(run).await {
            Ok(stored) => match self.state_of(run, &stored?).await {
                Ok(state) if state.status().is_end() => None,
                Ok(state) => Some(self.target.verdict(&state, self.engine.runtime().now())),
                Err(error) => Some(unknown(error)),
            },
            Err(error) => Some(unknown(error)),
        }
    }

    /// Its last snapshot, with what has happened since.
    async fn state_of(&self, run: &RunId, stored: &StoredRun) -> Result<RunState> {
        self.engine.inner().state_of(run, program_of(stored)?, stored).await
    }
}

impl Engine {
    async fn go_over(&self, run: &RunId, target: &Target, reason: Reason) -> Result<()> {
        let handle = self.run(run).await?;
        let operation = target.operation(handle.definition().1);
        handle.operate(operation, reason).await
    }
}

impl Target {
    fn operation(&self, revision: u32) -> Operation {
        let (workflow, mapping) = (Box::new(self.workflow.clone()), Some(self.mapping.clone()));
        Operation::Modify { workflow, linked: self.linked.clone(), revision, mapping }
    }

    fn verdict(&self, state: &RunState, now: Timestamp) -> RunMigration {
        let definition = state.definition().map(|definition| (**definition).clone());
        let current = definition.and_then(|definition| Workflow::from_definition(definition).ok());
        let (from, digest) = current.as_ref().map_or_else(Default::default, |current| {
            (current.reference(), current.digest().to_string())
        });
        let verdict = if state.runs(&self.workflow, &self.linked) {
            Verdict::IsThere
        } else {
            match state.preview(&self.operation(state.revision()), now) {
                Ok(preview) => Verdict::Moves(preview),
                Err(rejection) => Verdict::Stays(rejection.into_error().of_run(state.id())),
            }
        };
        RunMigration { run: state.id().clone(), from, digest, verdict }
    }
}
