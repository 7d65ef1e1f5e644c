//! One run, whose caller goes away, and those who bring it to its end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use stepwell::engine::EngineLimits;
use stepwell::journal::{Reason, Vote};
use stepwell::run::RunState;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{BlobStore, Holding, Memory, MemoryBlobs, RunQuery, Storage, StoredRun};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Approval, Lock, Variable, VariableType};
use stepwell::{
    Engine, Event, Outcome, RunHandle, RunId, RunStatus, StartOptions, Step, Wait, Workflow,
    executor_fn,
};

use super::slow::{Effect, Slow};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Rounds of a minute until a run must have ended: leases included.
const ROUNDS: u32 = 15;

/// What is there before something is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// A run without waits for people, of which nothing was driven.
    Started,
    /// The same, left by an engine that is gone.
    Left,
    /// One that waits for a signal.
    Go,
    /// One that waits for a signal, and was left by an engine that is gone.
    LeftAtGo,
    /// One that waits for a vote.
    Vote,
    Paused,
    Ended,
}

/// Who brings the run to its end afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rescue {
    /// The same engine, by a handle that was there all the time.
    Kept,
    /// The same engine, by another handle.
    Again,
    /// The same engine, which is served from then on.
    Served,
    /// The same engine, which was served all the time.
    Serving,
    /// Another engine, when the first one is gone.
    Other,
}

pub(crate) const RESCUES: [Rescue; 5] =
    [Rescue::Kept, Rescue::Again, Rescue::Served, Rescue::Serving, Rescue::Other];

/// How serving ended.
pub(crate) type Done = oneshot::Receiver<stepwell::Result<()>>;

pub(crate) struct World {
    pub(crate) time: VirtualRuntime,
    storage: Arc<Slow<dyn Storage>>,
    blobs: Slow<dyn BlobStore>,
    engine: Mutex<Option<Engine>>,
    handle: Mutex<Option<RunHandle>>,
    /// Every engine's executor has it, as long as the engine's memory is there.
    token: Arc<()>,
}

/// Done without waits for people.
pub(crate) fn plain() -> Workflow {
    let steps = [
        work("first"),
        Step::wait("nap", Wait::For(5 * SECOND)).after("first"),
        work("last").after("nap"),
    ];
    Workflow::builder("plain").steps(steps).build().unwrap()
}

/// Waits for a signal, and then for a vote.
pub(crate) fn waits() -> Workflow {
    waiting([])
}

/// The same with a step more.
pub(crate) fn more() -> Workflow {
    waiting([work("more").after("last")])
}

fn waiting(more: impl IntoIterator<Item = Step>) -> Workflow {
    let steps = [
        work("first"),
        Step::wait("go", Wait::signal("go")).after("first"),
        Step::wait("ok", Wait::approval(Approval::by(["ann"]))).after("go"),
        work("last").after("ok"),
    ];
    let builder = Workflow::builder("waits").steps(steps).steps(more);
    let builder = builder.variable("v", Variable::of(VariableType::Integer).default_value(0));
    #[cfg(feature = "secrets")]
    let builder = builder.variable("token", Variable::of(VariableType::Secret).required());
    builder.build().unwrap()
}

/// One at a time in all runs, by a lock and by a limit of the engine.
fn work(id: &str) -> Step {
    Step::task(id, "work").lock(Lock::new("l"))
}

pub(crate) fn options() -> StartOptions {
    let options = StartOptions::id("r");
    #[cfg(feature = "secrets")]
    let options = options.secret("token", "hunter2");
    options
}

pub(crate) fn reason() -> Reason {
    Reason::new("ann", "because")
}

impl World {
    pub(crate) fn new(storage: Arc<dyn Storage>, effect: Effect) -> Arc<Self> {
        let time = VirtualRuntime::new(7);
        let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobs::new());
        let world = Self {
            // No storage is asked more often than memory: each asking costs, and time is virtual.
            storage: Arc::new(
                Slow::new(storage, effect, &time).poll_every(Memory::new().poll_every()),
            ),
            blobs: Slow::new(blobs, effect, &time),
            time,
            engine: Mutex::default(),
            handle: Mutex::default(),
            token: Arc::default(),
        };
        *world.engine.lock().unwrap() = Some(world.new_engine(true));
        Arc::new(world)
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine.lock().unwrap().clone().unwrap()
    }

    /// The handle that was there before, for the one who goes away.
    pub(crate) fn handle(&self) -> RunHandle {
        self.handle.lock().unwrap().take().unwrap()
    }

    /// The same handle, for somebody else.
    pub(crate) fn kept(&self) -> Option<RunHandle> {
        self.handle.lock().unwrap().clone()
    }

    /// The one who went away has no handle any more.
    pub(crate) fn let_go(&self) {
        drop(self.handle.lock().unwrap().take());
    }

    pub(crate) async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    fn new_engine(&self, new_keys: bool) -> Engine {
        let token = Arc::clone(&self.token);
        let limits = EngineLimits {
            per_type: [("work".to_string(), 1)].into(),
            spill_over: 32,
            ..EngineLimits::default()
        };
        let builder = Engine::builder()
            .runtime(self.time.clone())
            .storage((*self.storage).clone())
            .blobs(self.blobs.clone())
            .limits(limits)
            .executor(
                "work",
                executor_fn(move |ctx| {
                    let token = Arc::clone(&token);
                    async move {
                        ctx.sleep(2 * SECOND).await;
                        if let Some(earlier) = ctx.output_of("first") {
                            assert_eq!(ctx.load(&earlier).await?, "long ".repeat(20));
                        }
                        drop(token);
                        Ok("long ".repeat(20))
                    }
                }),
            );
        #[cfg(feature = "secrets")]
        let builder = {
            use stepwell::secret::{Key, Keyring};
            let old = Key::from_bytes([1; 32]);
            let new = || Keyring::new("new", Key::from_bytes([2; 32]));
            match new_keys {
                true => builder.keys(new().and("old", old)),
                false => builder.keys(Keyring::new("old", old)),
            }
        };
        let _ = new_keys;
        builder.build().unwrap()
    }

    /// Brings the run as far as it is to be.
    pub(crate) async fn prepare(&self, before: Before) {
        let left = matches!(before, Before::Left | Before::LeftAtGo);
        let engine = if left { self.new_engine(false) } else { self.engine() };
        let (flow, options) = match before {
            Before::Nothing => return,
            Before::Started | Before::Left => (plain(), StartOptions::id("r")),
            _ => (waits(), options()),
        };
        let handle = engine.start_with(&flow, (), options).await.unwrap();
        if before == Before::Left {
            return;
        }
        if before != Before::Started {
            self.drive(&handle).await;
        }
        match before {
            Before::Vote => {
                handle.signal("go", "other").await.unwrap();
                self.drive(&handle).await;
            }
            Before::Paused => handle.pause(reason()).await.unwrap(),
            Before::Ended => drop(self.finish(&engine, true).await),
            _ => {}
        }
        if !left {
            *self.handle.lock().unwrap() = Some(handle);
        }
    }

    async fn drive(&self, handle: &RunHandle) {
        drop(select(Box::pin(handle.outcome()), Box::pin(self.nap(20 * SECOND))).await);
    }

    /// Serves an engine until something is sent, or the sender dropped.
    pub(crate) fn serve(&self, engine: Engine) -> (oneshot::Sender<()>, Done) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let serving = async move {
            let served = engine.serve(stopped.map(drop)).await;
            drop(engine);
            let _ = done.send(served);
        };
        assert!(self.time.spawn(Box::pin(serving)).is_ok());
        (stop, is_done)
    }

    /// The run is brought to its end; by which engine, and how it ended.
    pub(crate) async fn rescue(
        &self,
        rescue: Rescue,
        kept: Option<RunHandle>,
    ) -> (Engine, Outcome) {
        let engine = match rescue {
            Rescue::Other => {
                *self.engine.lock().unwrap() = None;
                self.new_engine(true)
            }
            _ => self.engine.lock().unwrap().take().unwrap(),
        };
        let outcome = match rescue {
            Rescue::Kept | Rescue::Again => self.finish(&engine, true).await,
            Rescue::Serving => self.finish(&engine, false).await,
            Rescue::Served | Rescue::Other => {
                let (stop, is_done) = self.serve(engine.clone());
                let outcome = self.finish(&engine, false).await;
                drop(stop);
                is_done.await.unwrap().unwrap();
                outcome
            }
        };
        drop(kept);
        (engine, outcome)
    }

    /// Sees the run end, and says what it waits for meanwhile.
    async fn finish(&self, engine: &Engine, drives: bool) -> Outcome {
        // What is on its way comes first.
        self.nap(SECOND).await;
        let id = self.only_run(engine).await;
        for _ in 0..ROUNDS {
            if !drives {
                self.nap(MINUTE).await;
                if !self.wants_a_word(&id).await {
                    continue;
                }
            }
            let handle = engine.run(&id).await.unwrap();
            if drives || handle.status().is_end() {
                let ended = select(Box::pin(handle.outcome()), Box::pin(self.nap(MINUTE))).await;
                if let Either::Left((outcome, _)) = ended {
                    return outcome.unwrap();
                }
            }
            if handle.status() == RunStatus::Paused {
                handle.resume(reason()).await.unwrap();
            }
            if handle.waits().iter().any(|wait| wait.step == "go") {
                handle.signal("go", "other").await.unwrap();
            }
            for open in handle.approvals() {
                handle.approve(&open.id, Vote::approve("ann")).await.unwrap();
            }
        }
        let stored = self.stored(&id).await;
        panic!("the run does not come to its end: {stored:#?}");
    }

    /// Whether it has ended or waits for somebody: else nobody is to touch it, and it goes on.
    async fn wants_a_word(&self, id: &RunId) -> bool {
        let stored = self.stored(id).await;
        let program = Arc::clone(stored.workflow.program());
        let state = RunState::replay(id.clone(), program, &stored.journal);
        let waits = !state.open_waits().is_empty();
        waits || state.status().is_end() || state.status() == RunStatus::Paused
    }

    /// The run that there is, or one of the fixed id.
    async fn only_run(&self, engine: &Engine) -> RunId {
        let runs = self.storage.inner.list(RunQuery::default()).await.unwrap();
        assert!(runs.len() <= 1, "{runs:#?}");
        match runs.into_iter().next() {
            Some(run) => run.id,
            None => engine.start_with(&waits(), (), options()).await.unwrap().id().clone(),
        }
    }

    async fn stored(&self, id: &RunId) -> StoredRun {
        self.storage.inner.load(id).await.unwrap().unwrap()
    }

    /// Nothing is left of the one who went away; what the run's journal says.
    pub(crate) async fn check(&self, engine: Engine, outcome: &Outcome) -> Vec<Event> {
        // What came after the end is answered by whoever serves.
        let (stop, is_done) = self.serve(engine.clone());
        self.nap(MINUTE).await;
        drop(stop);
        // Another one may serve it already.
        let _ = is_done.await;
        let run = self.storage.inner.list(RunQuery::default()).await.unwrap().remove(0);
        let stored = self.stored(&run.id).await;
        let program = Arc::clone(stored.workflow.program());
        let state = RunState::replay(run.id.clone(), program, &stored.journal);
        assert_eq!(state.outcome(), Some(outcome), "what was said and what is kept");
        assert_eq!((state.status(), stored.status), (run.status, run.status));
        assert_eq!(stored.holding, Holding::Finished);
        assert_eq!(self.storage.inner.inbox(&run.id).await.unwrap(), [], "all was answered");
        let mut done = BTreeSet::new();
        for recorded in &stored.journal {
            match &recorded.event {
                Event::StepSucceeded { step, .. } => assert!(done.insert(*step), "{step:?} twice"),
                Event::StepReset { step, .. } => drop(done.remove(step)),
                Event::StepStarted { step, .. } => assert!(!done.contains(step), "{step:?} again"),
                _ => {}
            }
        }
        // The lock is free, and the engine has room.
        let flow = plain();
        let next = engine.execute(&flow, ());
        match select(Box::pin(next), Box::pin(self.nap(MINUTE))).await {
            Either::Left((run, _)) => assert!(run.unwrap().output().is_some()),
            Either::Right(_) => panic!("the next run finds no room"),
        }
        stored.journal.into_iter().map(|recorded| recorded.event).collect()
    }

    /// No memory and no timer is left behind.
    pub(crate) async fn all_is_gone(&self) {
        self.nap(2 * MINUTE).await;
        assert_eq!(Arc::strong_count(&self.token), 1, "engines are gone");
        assert_eq!(self.time.pending_timers(), 0, "nobody sleeps");
    }
}
