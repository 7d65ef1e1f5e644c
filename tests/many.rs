//! Ten thousand runs at once on each storage, in virtual time: all wait together, parked or in memory,
//! and all go on to their ends.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(feature = "postgres")]
#[path = "postgres/server.rs"]
#[allow(dead_code, reason = "no server is restarted here")]
mod server;
mod slow;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{join, ready};
use futures::{FutureExt, StreamExt, stream};
use stepwell::run::RunState;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Holding, Memory, Storage};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{
    Engine, RunHandle, RunId, RunStatus, StartOptions, Step, Wait, Workflow, executor_fn,
};

use slow::{Effect, Slow};

const RUNS: usize = 10_000;
/// Callers at once, as a busy program may have.
const CALLERS: usize = 1_000;
/// As many as a storage answers at once.
const READERS: usize = 8;
const SECOND: Duration = Duration::from_secs(1);

/// Where runs are between their steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Somebody has a handle for each, and they stay in memory.
    Live,
    /// Nobody has, and they are nowhere but in the storage.
    Parked,
}

fn workflow() -> Workflow {
    let steps = [
        Step::task("before", "before"),
        Step::wait("go", Wait::signal("go")).after("before"),
        Step::task("behind", "behind").after("go").input("number", "go"),
    ];
    let limits = Limits { max_duration: Duration::MAX, ..Limits::default() };
    Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
}

fn id(number: usize) -> RunId {
    RunId::new(format!("r{number}")).unwrap()
}

struct World {
    time: VirtualRuntime,
    storage: Arc<dyn Storage>,
    engine: Engine,
    runs: usize,
    /// Steps that were begun, before the wait and behind it.
    begun: [Arc<AtomicUsize>; 2],
}

impl World {
    fn new(storage: Arc<dyn Storage>, runs: usize) -> Self {
        let time = VirtualRuntime::new(1);
        let begun = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let [before, behind] = begun.clone();
        let engine = Engine::builder()
            .runtime(time.clone())
            .storage(Slow::new(Arc::clone(&storage), Effect::AtOnce, &time))
            .executor(
                "before",
                executor_fn(move |_| {
                    before.fetch_add(1, Ordering::Relaxed);
                    async { Ok(()) }
                }),
            )
            .executor(
                "behind",
                executor_fn(move |ctx| {
                    behind.fetch_add(1, Ordering::Relaxed);
                    async move { ctx.input::<usize>("number") }
                }),
            )
            .build()
            .unwrap();
        Self { time, storage, engine, runs, begun }
    }

    fn begun(&self) -> [usize; 2] {
        self.begun.each_ref().map(|begun| begun.load(Ordering::Relaxed))
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    async fn start(&self, number: usize) -> RunHandle {
        let options = StartOptions::id(id(number).as_str());
        self.engine.start_with(&workflow(), (), options).await.unwrap()
    }

    async fn signal(&self, number: usize) {
        let run = self.engine.run(&id(number)).await.unwrap();
        run.signal("go", number).await.unwrap();
    }

    /// How each run stands. In the time of the world outside: virtual time would go on meanwhile, and
    /// the engine with it.
    fn each(&self, check: impl Fn(usize, &RunState, Holding)) {
        let loads = stream::iter(0..self.runs).map(|number| async move {
            (number, self.storage.load(&id(number)).await.unwrap().unwrap())
        });
        let checks = loads.buffer_unordered(READERS).for_each(|(number, run)| {
            let program = Arc::clone(run.workflow.program());
            let state = RunState::replay(id(number), program, &run.journal);
            check(number, &state, run.holding);
            ready(())
        });
        smol::block_on(checks);
    }

    async fn all(&self, between: Between) {
        let starts = stream::iter(0..self.runs).map(|number| self.start(number));
        let handles: Vec<Option<RunHandle>> = starts
            .buffer_unordered(CALLERS)
            .map(|handle| (between == Between::Live).then_some(handle))
            .collect()
            .await;
        // Time passes only when there is nothing else to be done.
        self.nap(60 * SECOND).await;
        assert_eq!(self.begun(), [self.runs, 0], "all wait at once");
        self.each(|_, state, holding| {
            assert_eq!((state.status(), state.open_waits().len()), (RunStatus::Running, 1));
            match between {
                Between::Parked => assert_eq!(holding, Holding::Parked(None)),
                // Or parked, if the engine came across it before its caller heard that it was there.
                Between::Live => assert_ne!(holding, Holding::Finished),
            }
        });
        let signals = stream::iter(0..self.runs).map(|number| self.signal(number));
        signals.buffer_unordered(CALLERS).collect::<Vec<()>>().await;
        self.nap(60 * SECOND).await;
        drop(handles);
        assert_eq!(self.begun(), [self.runs; 2], "each step was begun once");
        self.each(|number, state, holding| {
            assert_eq!(holding, Holding::Finished);
            let output = state.outcome().and_then(|outcome| outcome.output()).unwrap();
            assert_eq!(*output, number as u64, "each has its own signal");
        });
    }
}

fn ten_thousand(storage: impl Storage, between: Between) {
    many(RUNS, storage, between);
}

fn many(runs: usize, storage: impl Storage, between: Between) {
    let world = World::new(Arc::new(storage), runs);
    let (stop, stopped) = oneshot::channel::<()>();
    let work = async {
        world.all(between).await;
        drop(stop);
    };
    let done = world.time.block_on(join(world.engine.serve(stopped.map(drop)), work));
    done.unwrap().0.unwrap();
}

#[test]
fn ten_thousand_runs_wait_in_memory_and_end() {
    ten_thousand(Memory::new(), Between::Live);
}

#[test]
fn ten_thousand_runs_are_parked_in_memory_and_end() {
    ten_thousand(Memory::new(), Between::Parked);
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use stepwell::storage::{SqliteOptions, Synchronous};

    use super::{Between, ten_thousand};

    fn in_a_file(between: Between, name: &str) {
        let name = format!("stepwell-many-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        // Nobody cuts the power here.
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        ten_thousand(options.open(folder.join("runs.db")).unwrap(), between);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn ten_thousand_runs_wait_with_a_file_and_end() {
        in_a_file(Between::Live, "live");
    }

    #[test]
    fn ten_thousand_runs_are_parked_in_a_file_and_end() {
        in_a_file(Between::Parked, "parked");
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use futures::executor::block_on;
    use stepwell::storage::PostgresOptions;

    use super::server::server;
    use super::{Between, many};

    /// How many, instead of a tenth: each call is waited for, as virtual time stands still meanwhile.
    const RUNS: &str = "STEPWELL_TEST_MANY";

    fn on_a_server(between: Between, schema: &str) {
        let Some(server) = server() else { return };
        let options = PostgresOptions::new().schema(schema);
        let storage = block_on(options.connect(&server.url())).unwrap();
        block_on(storage.migrate()).unwrap();
        let runs = std::env::var(RUNS).map_or(super::RUNS / 10, |runs| runs.parse().unwrap());
        many(runs, storage, between);
    }

    #[test]
    fn many_runs_wait_with_a_server_and_end() {
        on_a_server(Between::Live, "live");
    }

    #[test]
    fn many_runs_are_parked_on_a_server_and_end() {
        on_a_server(Between::Parked, "parked");
    }
}
