//! Starting runs: here, or for whoever takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::slot::{Inherited, Slot};
use super::{Engine, Run, RunHandle, StartOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::RunContext;
use crate::id::RunId;
use crate::journal::Recorded;
use crate::run::{Command, RunState};
use crate::storage::{Created, Holding, NewRun, Storage};
use crate::time::Timestamp;
use crate::value::{NESTING_MAX, Value};
use crate::workflow::{Program, Variables, Workflow};

/// A run that nobody knows of yet.
struct Beginning {
    id: RunId,
    at: Timestamp,
    state: RunState,
    journal: Vec<Recorded>,
}

impl Engine {
    /// Starts a run and drives it to its end. Dropping the future drops what runs; the run stays, and
    /// goes on when [`serve`](Self::serve) or a handle from [`run`](Self::run) drives it.
    ///
    /// # Errors
    /// Only when the run could not be started or stored; a run that failed is an `Ok`.
    pub async fn execute(&self, workflow: &Workflow, input: impl Into<Value>) -> Result<Run> {
        let handle = self.start(workflow, input).await?;
        handle.outcome().await?;
        Ok(handle.snapshot())
    }

    /// Starts a run under a new id. Nothing of it runs before it is driven. Who may drop the future
    /// gives the run an id, with [`start_with`](Self::start_with), to be able to ask for it again.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub async fn start(&self, workflow: &Workflow, input: impl Into<Value>) -> Result<RunHandle> {
        self.start_with(workflow, input, StartOptions::default()).await
    }

    /// Starts a run. Starting twice under one id is starting once.
    ///
    /// Dropping the future leaves the run there or not; starting it again under the same id gives it,
    /// and [`serve`](Self::serve) drives it in any case.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for executors that nobody registered, naming the known ones;
    /// [`ErrorKind::InvalidWorkflow`] for sub-workflows that the engine does not know;
    /// [`ErrorKind::Configuration`] for configurations and variables that cannot work and
    /// capabilities that the engine does not offer; [`ErrorKind::AlreadyExists`] for an id that a
    /// run of another workflow has, and for a workflow whose version is known with another content.
    pub async fn start_with(
        &self,
        workflow: &Workflow,
        input: impl Into<Value>,
        options: StartOptions,
    ) -> Result<RunHandle> {
        let (program, linked) = self.link(workflow)?;
        let prepared = self.prepare(&program);
        prepared.check()?;
        let run = self.begin(program, input.into(), &options)?;
        // Before it is said who holds it: the engine may have retired meanwhile.
        self.0.introduce().await?;
        let (id, owner) = (run.id.clone(), self.0.owner());
        let (new, state) = run.stored(workflow, linked, &options, Holding::Held(owner));
        let unheard = self.0.unheard();
        let created = self.0.storage.create(new).await?;
        unheard.heard();
        if !is_new(created, workflow, &id)? {
            return self.run(&id).await.map_err(being_removed);
        }
        let has_ended = state.status().is_end();
        let facilities = Arc::clone(&self.0.facilities);
        let context = RunContext::new(state, options.user, options.metadata, facilities);
        if has_ended {
            context.set_ended();
        }
        let begun = Inherited { elsewhere: false, held: Some(owner), recoveries: 0 };
        Ok(self.keep(Slot::new(context, prepared, begun)))
    }

    /// Starts a run and leaves it to whoever [serves](Self::serve), on this storage, an engine that can
    /// run it: this one, if it is served, at once, or any other, as soon as it looks, which on databases is
    /// within a second or so. For programs that start runs and drive none: they need no executors, only the
    /// workflows that sub-workflow steps name. Starting twice under one id is starting once.
    ///
    /// A run that is [started](Self::start_with) instead belongs to the engine that has started it; others
    /// take it when that one is gone, or gives it away because nobody there wants it.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with), but for executors, what steps configure them with, and
    /// capabilities: nobody asks for those before the run begins. An engine that lacks them leaves it to
    /// others, and its summary says why.
    ///
    /// ```
    /// use stepwell::{Engine, StartOptions, Step, Workflow};
    ///
    /// # futures::executor::block_on(async {
    /// // This one has no executors at all.
    /// let web = Engine::builder().build()?;
    /// let workflow = Workflow::builder("w").step(Step::task("a", "charge")).build()?;
    /// let id = web.enqueue(&workflow, (), StartOptions::id("order-4711")).await?;
    /// assert_eq!(id.as_str(), "order-4711");
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub async fn enqueue(
        &self,
        workflow: &Workflow,
        input: impl Into<Value>,
        options: StartOptions,
    ) -> Result<RunId> {
        let (program, linked) = self.link(workflow)?;
        let run = self.begin(program, input.into(), &options)?;
        let (id, holding) = (run.id.clone(), Holding::Parked(Some(run.at)));
        let (new, _) = run.stored(workflow, linked, &options, holding);
        let created = self.0.storage.create(new).await?;
        if !is_new(created, workflow, &id)? && self.0.storage.load(&id).await?.is_none() {
            let gone = Error::new(ErrorKind::NotFound, "there is no run of this id");
            return Err(being_removed(gone.of_run(&id)));
        }
        self.0.look_soon();
        Ok(id)
    }

    /// What a run begins with, if it can begin so.
    fn begin(
        &self,
        program: Arc<Program>,
        input: Value,
        options: &StartOptions,
    ) -> Result<Beginning> {
        if input.nests_too_deep() || options.variables.values().any(Value::nests_too_deep) {
            let message = format!("an input or a variable nests deeper than {NESTING_MAX}");
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let unit = program.unit(0);
        let refuse =
            |wrong: crate::expr::Mismatch| Error::new(ErrorKind::Configuration, wrong.to_string());
        if let Some(schema) = &unit.input {
            schema.check(&input, "input").map_err(refuse)?;
        }
        let at = self.0.runtime.now();
        let id = match &options.id {
            Some(id) => {
                RunId::new(id).map_err(|reason| Error::new(ErrorKind::Configuration, reason))?
            }
            None => self.new_id(at),
        };
        let given = self.given(&id, &unit.variables, options)?;
        let variables = unit.variables.complete(given).map_err(refuse)?;
        let most = unit.limits.max_value_bytes;
        if input.bytes().max(variables.bytes()) > most {
            let message = format!(
                "the input, or the variables, take more than {most} bytes (raise \
                 `limits.max_value_bytes`)"
            );
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let mut state = RunState::new(id.clone(), program);
        let mut journal = Vec::new();
        let seed = self.0.runtime.random();
        let grace = self.0.limits.cancel_grace;
        let start = Command::Start { input, variables, seed, grace };
        // A run that nothing has happened to cannot refuse to begin.
        let _ = state.decide_into(start, at, &mut journal);
        Ok(Beginning { id, at, state, journal })
    }

    /// The variables that a run is started with, secrets sealed for it.
    #[cfg(feature = "secrets")]
    fn given(
        &self,
        id: &RunId,
        known: &Variables,
        options: &StartOptions,
    ) -> Result<BTreeMap<String, Value>> {
        let wrong = |name: &str, why: String| {
            Error::new(ErrorKind::Configuration, format!("vars.{name}: {why}"))
        };
        let mut given = options.variables.clone();
        for (name, secret) in &options.secrets {
            if !known.secrets().any(|known| known == name) {
                let why = "the workflow has no secret of this name";
                return Err(wrong(name, why.into()));
            }
            let keys = self.0.facilities.keys.as_ref();
            let keys = keys.ok_or_else(|| {
                wrong(name, "the engine has no keys; give it some with EngineBuilder::keys".into())
            })?;
            let place = crate::secret::Place { run: id.as_str(), name: &format!("vars.{name}") };
            let sealed = crate::secret::seal(&**keys, self.0.facilities.nonce(), place, secret);
            let sealed = sealed.map_err(|error| wrong(name, error.to_string()))?;
            given.insert(name.clone(), sealed.into());
        }
        Ok(given)
    }

    #[cfg(not(feature = "secrets"))]
    fn given(
        &self,
        _: &RunId,
        known: &Variables,
        options: &StartOptions,
    ) -> Result<BTreeMap<String, Value>> {
        match known.secrets().next() {
            Some(name) => {
                let message = format!("vars.{name}: secrets need the feature `secrets`");
                Err(Error::new(ErrorKind::Configuration, message))
            }
            None => Ok(options.variables.clone()),
        }
    }

    fn new_id(&self, now: Timestamp) -> RunId {
        let runtime = &self.0.runtime;
        let millis = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
        let mut random = [0; 10];
        random[..8].copy_from_slice(&runtime.random().to_le_bytes());
        random[8..].copy_from_slice(&runtime.random().to_le_bytes()[..2]);
        RunId::generated(millis, random)
    }
}

impl Beginning {
    /// As it is stored, held as this says unless it has ended by beginning; and as it is in memory.
    fn stored(
        self,
        workflow: &Workflow,
        linked: Vec<Workflow>,
        options: &StartOptions,
        holding: Holding,
    ) -> (NewRun, RunState) {
        let status = self.state.status();
        let new = NewRun {
            id: self.id,
            holding: if status.is_end() { Holding::Finished } else { holding },
            workflow: workflow.clone(),
            linked,
            user: options.user.clone(),
            metadata: options.metadata.clone(),
            at: self.at,
            journal: self.journal,
            status,
        };
        (new, self.state)
    }
}

/// Whether the run was created; it may be there, but not of another workflow.
fn is_new(created: Created, workflow: &Workflow, id: &RunId) -> Result<bool> {
    match created {
        Created::New => Ok(true),
        Created::Exists(other) if other == workflow.id() => Ok(false),
        Created::Exists(other) => {
            let message = format!("the id belongs to a run of workflow `{other}`");
            Err(Error::new(ErrorKind::AlreadyExists, message).of_run(id))
        }
    }
}

/// The error of who starts a run under an id that somebody has just removed.
fn being_removed(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let message = "the id is taken as long as blobs of the run that had it are removed; start it \
                           again in a while";
            Error::new(ErrorKind::AlreadyExists, message).because(error)
        }
        _ => error,
    }
}
