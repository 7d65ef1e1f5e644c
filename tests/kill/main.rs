//! Processes that are killed, and what is true afterwards.
//!
//! Each step notes in a witness file, which the engine knows nothing of, that it begins and ends. What
//! it comes to is another text each time, so that a result tells which attempt it is of.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod base;
#[path = "../slow/calls.rs"]
mod calls;
mod check;
mod deadly;
mod points;
mod random;
#[cfg(feature = "postgres")]
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "no server is restarted here")]
mod server;
#[cfg(unix)]
mod stopped;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base::Base;
use deadly::Deadly;
use futures::executor::block_on;
use futures::future::{Either, select};
use futures_timer::Delay;
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::storage::Statement;
use stepwell::workflow::{Lock, OnUnknown};
use stepwell::{
    Engine, ErrorClass, ExecutionContext, RetryConfig, RunHandle, RunId, RunStatus, StartOptions,
    Step, StepError, Storage, Wait, Workflow, executor_fn,
};

/// Tells a child what it is, and where.
const FOLDER: &str = "STEPWELL_TEST_KILL_FOLDER";

/// Every run of a shape ends so, with so many steps that have a result.
const SHAPES: [(&str, RunStatus, usize); 9] = [
    ("chain", RunStatus::Succeeded, 4),
    ("diamond", RunStatus::Succeeded, 5),
    ("each", RunStatus::Succeeded, 7),
    ("retry", RunStatus::Succeeded, 3),
    ("timer", RunStatus::Succeeded, 2),
    ("signal", RunStatus::Succeeded, 2),
    ("undo", RunStatus::Failed, 4),
    ("locked", RunStatus::Succeeded, 3),
    ("once", RunStatus::Succeeded, 1),
];

fn work(id: &str) -> Step {
    Step::task(id, "work")
}

fn shape(name: &str) -> Workflow {
    let undo = |id| work(id).input("done", "output");
    let order = |id| Step::task(id, "order").transactional();
    let steps = match name {
        "chain" => vec![
            work("a"),
            work("b").input("a", "a"),
            work("c").input("b", "b"),
            work("d").input("c", "c"),
        ],
        "diamond" => vec![
            work("a"),
            work("b").input("a", "a"),
            work("c").input("a", "a"),
            work("d").input("a", "a"),
            work("e").input("b", "b").input("c", "c").input("d", "d"),
        ],
        "each" => {
            let body = [work("x"), order("y").input("x", "x")];
            vec![Step::for_each("all", "input", body), work("z").after("all")]
        }
        "retry" => vec![
            work("a"),
            Step::task("b", "third_time")
                .input("a", "a")
                .retry(RetryConfig::attempts(3).base_delay(Duration::from_millis(5))),
            order("c").input("b", "b"),
        ],
        "timer" => vec![
            work("a"),
            Step::wait("w", Wait::For(Duration::from_millis(30))).after("a"),
            work("b").input("a", "a").after("w"),
        ],
        "signal" => vec![
            work("a"),
            Step::wait("go", Wait::signal("go")).after("a"),
            work("b").input("a", "a").after("go"),
        ],
        "undo" => vec![
            work("a").compensate(undo("undo_a")),
            work("b").input("a", "a").compensate(undo("undo_b")),
            Step::task("c", "never").after("b"),
        ],
        // Whoever dies while it begins a step that runs at most once leaves the other one to be done.
        "once" => vec![
            work("a")
                .at_most_once()
                .on_unknown(OnUnknown::Fail)
                .on_error(ErrorClass::OutcomeUnknown, "look"),
            work("look"),
        ],
        _ => vec![
            work("a").lock(Lock::new("one")),
            work("b").lock(Lock::new("one")),
            work("c").input("a", "a").input("b", "b"),
        ],
    };
    Workflow::builder(name).steps(steps).build().unwrap()
}

/// A folder with a witness, and runs; it goes with the test.
struct Place {
    folder: PathBuf,
    base: Base,
}

impl Place {
    fn new(name: &str, base: impl FnOnce(&Path) -> Base) -> Self {
        let name = format!("stepwell-kill-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let base = base(&folder);
        base.prepare();
        Self { folder, base }
    }

    fn in_a_file(name: &str) -> Self {
        Self::new(name, Base::file)
    }

    /// In a schema that is named alike: no two tests run in one process that name theirs so.
    #[cfg(feature = "postgres")]
    fn on_a_server(name: &str) -> Self {
        let name = format!("server-{name}");
        let url = server::server().unwrap().url();
        let schema = base::schema::Schema { url, name: name.replace('-', "_") };
        Self::new(&name, |_| Base::Schema(schema))
    }

    /// The one that a child was told.
    fn given() -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os(FOLDER)?);
        let base = Base::given(&folder);
        Some(Self { folder, base })
    }

    /// As nothing dies of.
    fn open(&self) -> Deadly {
        Deadly::harmless(self.base.open())
    }

    fn engine(&self, storage: Deadly) -> Engine {
        let orders = self.base.orders();
        let step = |kind: &'static str| {
            let (witness, orders) = (self.witness(), orders.clone());
            executor_fn(move |ctx| body(witness.clone(), ctx, kind, orders.clone()))
        };
        Engine::builder()
            .storage(storage)
            .limits(EngineLimits {
                lease: LEASE,
                // More kills than any program deserves.
                max_recoveries: 1_000,
                // So often that much is killed in the middle of one.
                snapshot_every: 5,
                history_kept: u64::MAX,
                ..EngineLimits::default()
            })
            .executor("work", step("work"))
            .executor("order", step("order"))
            .executor("third_time", step("third_time"))
            .executor("never", step("never"))
            .build()
            .unwrap()
    }

    fn witness(&self) -> Witness {
        Witness(self.folder.join("witness"))
    }

    /// What work comes to that goes on here; it is told from work that hangs.
    fn does<T>(&self, work: impl Future<Output = T>) -> T {
        match block_on(select(pin!(work), Delay::new(PATIENCE))) {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                let runs = block_on(self.open().list(Default::default())).unwrap();
                panic!("who waits for these waits for ever: {runs:#?}\n{}", self.witness().text());
            }
        }
    }

    /// This test once more, as a child that is given a part to play.
    fn child(&self, test: &str, more: &[(&str, String)]) -> Command {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(FOLDER, OsString::from(&self.folder))
            .envs(self.base.told())
            .envs(more.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped());
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A child's is its parent's, and who looks into a failure wants to see it.
        if std::env::var_os(FOLDER).is_none() && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A child is told of its parent's.
#[cfg(feature = "postgres")]
fn on_a_server(test: impl FnOnce()) {
    if std::env::var_os(FOLDER).is_some() || server::server().is_some() {
        test();
    }
}

/// Some leases, and what a machine takes that has much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// Long enough for a machine that has other things to do.
const LEASE: Duration = Duration::from_secs(3);

/// What is outside.
#[derive(Clone)]
struct Witness(PathBuf);

impl Witness {
    /// In one call, so that a line is there as a whole or not at all.
    fn note(&self, line: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        std::io::stdout().write_all(format!("noted {line}\n").as_bytes()).unwrap();
    }

    /// From here on nothing of what ran before is at work.
    fn over(&self) {
        self.mark("over");
    }

    /// From here on somebody is at work again who was stopped.
    #[cfg(unix)]
    fn back(&self) {
        self.mark("back");
    }

    fn mark(&self, what: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }
}

async fn body(
    witness: Witness,
    ctx: ExecutionContext,
    kind: &str,
    orders: String,
) -> Result<String, StepError> {
    static RESULTS: AtomicU32 = AtomicU32::new(0);
    let note = |what: &str| {
        let (run, step, key) = (ctx.execution_id(), ctx.step(), ctx.idempotency_key());
        witness.note(&format!("{run} {step} {} {key} {what}", ctx.attempt()));
    };
    let taken = ctx.inputs().as_object().into_iter().flatten();
    let taken: Vec<&str> = taken.filter_map(|(_, value)| value.as_str()).collect();
    note(&format!("start {}", taken.join(",")));
    ctx.sleep(Duration::from_millis(2)).await;
    match kind {
        "third_time" if ctx.attempt() < 3 => {
            note("fail");
            Err(StepError::retryable("not yet"))
        }
        "never" => {
            note("fail");
            Err(StepError::fatal("no"))
        }
        _ => {
            let number = RESULTS.fetch_add(1, Ordering::Relaxed);
            let result = format!("r{}-{number}", std::process::id());
            note(&format!("end {result}"));
            if kind == "order" {
                // No key keeps a second one out.
                let insert = format!("INSERT INTO {orders} (step, result) VALUES ($1, $2)");
                let insert = Statement::new(insert);
                ctx.write(insert.bind(ctx.idempotency_key()).bind(result.as_str()))?;
            }
            Ok(result)
        }
    }
}

async fn start(engine: &Engine, place: &Place, id: &str) -> stepwell::Result<RunHandle> {
    let (name, _) = id.split_once('-').unwrap();
    let handle = engine.start_with(&shape(name), json!([1, 2, 3]), StartOptions::id(id)).await?;
    place.witness().note(&format!("started {id}"));
    Ok(handle)
}

/// Starts these runs, or goes on with them, until all have ended.
async fn finish(engine: &Engine, place: &Place, ids: &[String]) -> stepwell::Result<()> {
    for id in ids {
        drop(start(engine, place, id).await?);
    }
    let all = async {
        for id in ids {
            engine.run(&RunId::new(id).unwrap()).await.unwrap().outcome().await.unwrap();
        }
    };
    engine.serve(all).await
}
