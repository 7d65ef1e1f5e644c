//! Running on disk, beside plain code for the same database that writes the same rows in the same process:
//! `rusqlite` with prepared statements, `sqlx` with arrays. It knows what it will write from the beginning,
//! decides nothing and starts no steps; turn by turn, one transaction for all runs.
//!
//! `cargo bench --features sqlite,postgres --bench durable` prints a table of medians and ratios, then
//! criterion's figures; files are in the folder for temporary ones (`TMPDIR`). Without the feature
//! `postgres`, or where no server is installed, that part is left out.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[cfg(feature = "postgres")]
mod postgres;
mod recovery;
mod script;
#[cfg(feature = "postgres")]
#[path = "../../tests/postgres/server.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod server;
mod sqlite;

use std::path::{Path, PathBuf};
use std::time::Instant;

use criterion::Criterion;
use futures::executor::block_on;
use futures::future::join_all;
use stepwell::storage::{Storage, Synchronous};
use stepwell::{Engine, RunStatus, Step, Workflow, executor_fn};

/// How much is measured.
struct Amounts {
    /// Runs at once, of this many steps in a row.
    runs: usize,
    steps: usize,
    /// Steps of the run that is alone.
    lone: usize,
    parked: usize,
    rounds: usize,
}

const WHOLE: Amounts = Amounts { runs: 1_000, steps: 5, lone: 200, parked: 10_000, rounds: 5 };

/// To see that everything works.
const ONCE: Amounts = Amounts { runs: 20, steps: 5, lone: 10, parked: 20, rounds: 1 };

/// A folder that is gone with this value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("stepwell-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Steps that do nothing, one after the other.
pub(crate) fn chain(steps: usize) -> Workflow {
    let step = |at: usize| {
        Step::task(format!("s{at}"), "noop").after_all(at.checked_sub(1).map(|at| format!("s{at}")))
    };
    Workflow::builder("chain").steps((0..steps).map(step)).build().unwrap()
}

pub(crate) fn engine(storage: impl Storage) -> Engine {
    let noop = executor_fn(|_| async { Ok(()) });
    Engine::builder().storage(storage).executor("noop", noop).build().unwrap()
}

/// Runs at once, to their ends.
pub(crate) fn execute(engine: &Engine, workflow: &Workflow, runs: usize) {
    block_on(join_all((0..runs).map(|_| async {
        let run = engine.execute(workflow, ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded);
    })));
}

pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

/// Medians of two that take turns, so that both see the same machine; a first round is not counted.
pub(crate) fn medians(
    rounds: usize,
    mut by_hand: impl FnMut() -> f64,
    mut ours: impl FnMut() -> f64,
) -> (f64, f64) {
    let mut times: Vec<_> = (0..=rounds).map(|_| (by_hand(), ours())).skip(1).collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let hand = times[times.len() / 2].0;
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    (hand, times[times.len() / 2].1)
}

/// Seconds by hand, and ours, for work of many steps.
pub(crate) type Pair = (f64, f64);

fn row(work: &str, (hand, ours): Pair, say: impl Fn(f64) -> String) {
    println!("| {work} | {} | {} | {:.2} |", say(hand), say(ours), ours / hand);
}

fn table(amounts: &Amounts) {
    let Amounts { runs, steps, lone, parked, rounds } = *amounts;
    let together = format!("{runs} runs of {steps} steps at once");
    let alone = format!("a run of {lone} steps, alone");
    let rate = |seconds: f64| format!("{:.0} steps/s", (runs * steps) as f64 / seconds);
    let each = |seconds: f64| format!("{:.1} us/step", seconds * 1e6 / lone as f64);
    let whole = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    println!("| work | hand-written | stepwell | time, stepwell / hand-written |");
    println!("| --- | --- | --- | --- |");
    for (name, synchronous) in [("FULL", Synchronous::Full), ("NORMAL", Synchronous::Normal)] {
        let folder = Folder::new();
        let pair = sqlite::Pair::open(&folder, synchronous, steps).medians(runs, rounds);
        row(&format!("SQLite {name}, {together}"), pair, rate);
        let folder = Folder::new();
        let pair = sqlite::Pair::open(&folder, synchronous, lone).medians(1, rounds);
        row(&format!("SQLite {name}, {alone}"), pair, each);
    }
    let pair = recovery::parked(parked, rounds);
    row(&format!("SQLite, a start beside {parked} parked runs, and loading them"), pair, whole);
    let pair = recovery::dead_engine(runs, rounds);
    row(&format!("SQLite, taking over {runs} runs of an engine that is gone"), pair, whole);
    #[cfg(feature = "postgres")]
    if let Some(server) = server::Own::with_the_usual_settings() {
        let pair = postgres::Pair::open(&server.url(), "together", steps).medians(runs, rounds);
        row(&format!("PostgreSQL, {together}"), pair, rate);
        let pair = postgres::Pair::open(&server.url(), "alone", lone).medians(1, rounds);
        row(&format!("PostgreSQL, {alone}"), pair, each);
    }
}

fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable");
    group.sample_size(10);
    for (name, synchronous) in [("FULL", Synchronous::Full), ("NORMAL", Synchronous::Normal)] {
        for (work, runs, steps) in [("1,000 runs of 5", WHOLE.runs, WHOLE.steps), ("alone", 1, 100)]
        {
            let folder = Folder::new();
            let mut pair = sqlite::Pair::open(&folder, synchronous, steps);
            group.bench_function(format!("SQLite {name}/{work}/by hand"), |b| {
                b.iter(|| pair.by_hand(runs));
            });
            group.bench_function(format!("SQLite {name}/{work}/ours"), |b| {
                b.iter(|| pair.ours(runs));
            });
        }
    }
    group.finish();
}

/// The file and what SQLite keeps beside it.
pub(crate) fn remove(file: &Path) {
    for end in ["", "-wal", "-shm", "-alive"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}

fn main() {
    if std::env::args().any(|word| word == "--test") {
        return table(&ONCE);
    }
    table(&WHOLE);
    // Criterion refuses arguments that it does not know.
    if std::env::var_os("TABLE_ONLY").is_none() {
        criterion(&mut Criterion::default().configure_from_args());
    }
}
