//! What the shapes never ask of a storage: a run that an engine cannot go on with is set aside, runs are
//! listed, journals read, somebody asks what has become of a message, and runs are removed. One call
//! fails, and all of it is done all the same.

use std::future::{Future, ready};
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, join, select};
use stepwell::engine::Retention;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{RunQuery, Storage, Summary};
use stepwell::testing::{Call, Fault, Faulty, VirtualRuntime};
use stepwell::{
    Engine, ErrorKind, Outcome, Result, RunHandle, RunId, RunStatus, StartOptions, Step, Wait,
    Workflow, executor_fn,
};

use super::tape::at_once;
use super::world::SECOND;

/// How long all of it may take: some leases, and what runs wait for.
const PATIENCE: Duration = Duration::from_secs(1_200);

struct Upkeep<S> {
    time: VirtualRuntime,
    storage: S,
    failing: (u64, Fault),
    calls: Arc<Mutex<Vec<&'static str>>>,
    /// By which engine each step was begun.
    begun: Arc<Mutex<Vec<&'static str>>>,
}

/// All of it, with one call that fails, counted from 1; the calls that there were.
pub(super) fn upkeep<S: Storage + Clone>(
    storage: S,
    failing: u64,
    fault: Fault,
) -> Vec<&'static str> {
    let (time, failing) = (VirtualRuntime::new(1), (failing, fault));
    let (calls, begun) = Default::default();
    let upkeep = Upkeep { time, storage, failing, calls, begun };
    let done = async {
        match select(pin!(upkeep.all()), upkeep.time.sleep(PATIENCE)).await {
            Either::Left(((), _)) => {}
            Either::Right(_) => panic!("{failing:?}: {:?} was left", upkeep.listed()),
        }
    };
    upkeep.time.block_on(done).unwrap();
    take(&mut *upkeep.calls.lock().unwrap())
}

fn workflow() -> Workflow {
    let steps = [Step::wait("w", Wait::For(100 * SECOND)), Step::task("a", "work").after("w")];
    Workflow::builder("w").steps(steps).build().unwrap()
}

impl<S: Storage + Clone> Upkeep<S> {
    async fn all(&self) {
        let first = self.engine(Some("first"));
        drop(self.start(&first, "left").await);
        // Its last word may fail.
        let _ = first.serve(ready(())).await;
        drop(first);

        let stranger = self.engine(None);
        let is_aside = |run: &Summary| run.problem.as_ref().is_some_and(|why| why.contains("work"));
        self.serve(&stranger, is_aside).await;
        drop(stranger);
        let second = self.engine(Some("second"));
        self.serve(&second, |run| run.status == RunStatus::Succeeded).await;

        let listed = insist(|| second.list(RunQuery::default())).await;
        assert_eq!(listed, self.listed());
        let left = RunId::new("left").unwrap();
        let run = insist(|| second.run(&left)).await;
        let journal = insist(|| run.journal(0, 100)).await;
        assert_eq!(journal, at_once(self.storage.events(&left, 0, 100)).unwrap());
        assert_eq!(journal.len() as u64, listed[0].events);

        // The newer is the one that was begun later.
        self.time.sleep(SECOND).await;
        let newer = self.start(&second, "newer").await;
        let visitor = self.engine(Some("visitor"));
        join(self.end(&newer), self.visit(&visitor, newer.id())).await;
        let retention = Retention::new().keep_at_most(1);
        insist(|| second.purge(&retention)).await;
        let kept: Vec<String> = self.listed().iter().map(|run| run.id.to_string()).collect();
        assert_eq!(kept, ["newer"]);
        self.end(&self.start(&second, "left").await).await;
        assert_eq!(take(&mut *self.begun.lock().unwrap()), ["second"; 3], "nobody else could");
    }

    /// One that has no name lacks the executor.
    fn engine(&self, name: Option<&'static str>) -> Engine {
        let (calls, (failing, fault)) = (Arc::clone(&self.calls), self.failing);
        let storage = Faulty::new(self.storage.clone(), move |call: Call| {
            let mut calls = calls.lock().unwrap();
            calls.push(call.method);
            (calls.len() as u64 == failing).then_some(fault)
        });
        let builder = Engine::builder()
            .runtime(self.time.clone())
            .storage(storage.runtime(self.time.clone()));
        let Some(name) = name else { return builder.build().unwrap() };
        let begun = Arc::clone(&self.begun);
        let work = executor_fn(move |_| {
            begun.lock().unwrap().push(name);
            async { Ok(()) }
        });
        builder.executor("work", work).build().unwrap()
    }

    async fn start(&self, engine: &Engine, id: &str) -> RunHandle {
        let workflow = workflow();
        insist(|| engine.start_with(&workflow, (), StartOptions::id(id))).await
    }

    async fn end(&self, run: &RunHandle) {
        let outcome = insist(|| run.outcome()).await;
        assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
    }

    /// Says something to a run that another engine has, and asks until there is an answer.
    async fn visit(&self, engine: &Engine, id: &RunId) {
        let run = insist(|| engine.run(id)).await;
        insist(|| run.signal("go", ())).await;
    }

    /// Until this is true of the only run.
    async fn serve(&self, engine: &Engine, is_so: impl Fn(&Summary) -> bool) {
        let until = async {
            while !self.listed().iter().any(&is_so) {
                self.time.sleep(5 * SECOND).await;
            }
        };
        // Its last word may fail.
        let _ = engine.serve(until).await;
    }

    /// By who sees everything.
    fn listed(&self) -> Vec<Summary> {
        at_once(self.storage.list(RunQuery::default())).unwrap()
    }
}

/// Until it goes well: once more at most.
async fn insist<T, F: Future<Output = Result<T>>>(mut work: impl FnMut() -> F) -> T {
    for _ in 0..3 {
        match work().await {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Storage, "{error}"),
        }
    }
    panic!("only one call fails");
}
