//! Thirty virtual days of a served engine over a file, with short runs, timers, decisions, retries,
//! signals that never come and cancellations: what it keeps in memory does not grow.
//!
//! `STEPWELL_TEST_SOAK=1000` starts that many runs a day. The program has one test, as it counts all
//! bytes that are allocated in it; what SQLite itself allocates is not among them.
#![cfg(all(feature = "testing", feature = "sqlite"))]
#![allow(clippy::unwrap_used)]

mod slow;

use std::alloc::System;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::join;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use stepwell::engine::EngineLimits;
use stepwell::journal::{Reason, Vote};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{SqliteOptions, Storage, Synchronous};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Approval, Limits, Lock};
use stepwell::{
    Engine, RetryConfig, RunId, RunStatus, StartOptions, Step, StepError, Wait, Workflow,
    executor_fn,
};

use slow::{Effect, Slow};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DAYS: u32 = 30;
/// Days until runs that take longest are as many as there will ever be at once.
const WARM: u32 = 3;
/// Bytes that any later day may keep above the first warm one, for what is under way by chance. They
/// are some hundreds as a rule; eight for each run that there was would be too many.
const GROWTH_MAX: usize = 8 << 10;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn per_day() -> u32 {
    let number = std::env::var("STEPWELL_TEST_SOAK").ok().and_then(|text| text.parse().ok());
    number.unwrap_or(42)
}

fn retained() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn work(id: &str) -> Step {
    Step::task(id, "work")
}

/// What is started in turn, and how it ends.
fn workflows() -> Vec<(Workflow, RunStatus)> {
    let flow = |name: &str, steps: Vec<Step>| {
        let limits = Limits { max_duration: Duration::MAX, ..Limits::default() };
        Workflow::builder(name).limits(limits).steps(steps).build().unwrap()
    };
    let never = Wait::signal("never").timeout(12 * HOUR);
    let approval = Wait::approval(Approval::by(["ann"]));
    vec![
        (
            flow("short", vec![work("a"), work("b").after("a"), work("c").after("b")]),
            RunStatus::Succeeded,
        ),
        (
            flow("timer", vec![Step::wait("w", Wait::For(36 * HOUR)), work("a").after("w")]),
            RunStatus::Succeeded,
        ),
        (
            flow("decision", vec![work("a"), Step::wait("ok", approval).after("a")]),
            RunStatus::Succeeded,
        ),
        (
            flow("retry", vec![work("a").input("fails", "2").retry(RetryConfig::attempts(3))]),
            RunStatus::Succeeded,
        ),
        (flow("never", vec![Step::wait("w", never), work("a").after("w")]), RunStatus::Failed),
        (flow("stopped", vec![Step::wait("w", Wait::signal("w"))]), RunStatus::Cancelled),
        (
            flow(
                "each",
                vec![
                    Step::for_each("all", "[1, 2, 3, 4]", [work("x").lock(Lock::new("one"))])
                        .concurrency(2),
                ],
            ),
            RunStatus::Succeeded,
        ),
    ]
}

struct Soak {
    time: VirtualRuntime,
    storage: Arc<dyn Storage>,
    engine: Engine,
    workflows: Vec<(Workflow, RunStatus)>,
    per_day: u32,
}

fn id(number: u32) -> RunId {
    RunId::new(format!("r{number}")).unwrap()
}

impl Soak {
    fn new(storage: Arc<dyn Storage>) -> Self {
        let time = VirtualRuntime::new(1);
        // Thirty days of a beat every ten seconds would be a test of beats.
        let limits = EngineLimits { lease: HOUR, ..EngineLimits::default() };
        let engine = Engine::builder()
            .runtime(time.clone())
            .storage(
                Slow::new(Arc::clone(&storage), Effect::AtOnce, &time)
                    .poll_every(Duration::from_secs(600)),
            )
            .limits(limits)
            .executor(
                "work",
                executor_fn(|ctx| async move {
                    ctx.sleep(Duration::from_secs(5)).await;
                    let fails: u32 = ctx.input("fails").unwrap_or(0);
                    if ctx.attempt() <= fails {
                        return Err(StepError::retryable("not yet"));
                    }
                    Ok("x".repeat(1_000))
                }),
            )
            .build()
            .unwrap();
        Self { time, storage, engine, workflows: workflows(), per_day: per_day() }
    }

    fn workflow(&self, number: u32) -> &(Workflow, RunStatus) {
        &self.workflows[number as usize % self.workflows.len()]
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    async fn start(&self, number: u32) {
        let (workflow, _) = self.workflow(number);
        let options = StartOptions::id(id(number).as_str());
        self.engine.start_with(workflow, "x".repeat(1_000), options).await.unwrap();
    }

    /// What people say to a run a day later.
    async fn look_after(&self, number: u32) {
        match self.workflow(number).0.id() {
            "decision" => {
                let run = self.engine.run(&id(number)).await.unwrap();
                let open = run.approvals().remove(0);
                run.approve(open.id, Vote::approve("ann")).await.unwrap();
            }
            "stopped" => {
                let run = self.engine.run(&id(number)).await.unwrap();
                run.cancel(Reason::new("ann", "enough")).await.unwrap();
            }
            _ => {}
        }
    }

    /// What is kept at the end of each day.
    async fn days(&self) -> Vec<usize> {
        let mut kept = Vec::with_capacity(DAYS as usize);
        for day in 0..DAYS {
            for number in 0..self.per_day {
                self.start(day * self.per_day + number).await;
                if day > 0 {
                    self.look_after((day - 1) * self.per_day + number).await;
                }
                self.nap(DAY / (self.per_day + 1)).await;
            }
            self.nap(DAY / (self.per_day + 1)).await;
            kept.push(retained());
        }
        kept
    }

    async fn check(&self) {
        for number in 0..(DAYS - WARM) * self.per_day {
            let run = self.storage.load(&id(number)).await.unwrap().unwrap();
            let (workflow, status) = self.workflow(number);
            assert_eq!(run.status, *status, "{} {number}", workflow.id());
        }
    }
}

#[test]
fn thirty_days_take_no_more_memory_than_three() {
    let folder = Folder::new();
    let options = SqliteOptions::new().synchronous(Synchronous::Normal);
    let soak = Soak::new(Arc::new(options.open(folder.0.join("runs.db")).unwrap()));
    let (stop, stopped) = oneshot::channel::<()>();
    let work = async {
        let kept = soak.days().await;
        drop(stop);
        kept
    };
    let (served, kept) =
        soak.time.block_on(join(soak.engine.serve(stopped.map(drop)), work)).unwrap();
    served.unwrap();
    futures::executor::block_on(soak.check());
    let first = kept[WARM as usize - 1];
    let most = kept[WARM as usize..].iter().max().unwrap();
    assert!(*most <= first + GROWTH_MAX, "bytes kept at the end of each day: {kept:?}");
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("stepwell-soak-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
