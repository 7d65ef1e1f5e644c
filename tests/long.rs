//! Runs that go on for very long: what is read, what is kept, and how much it takes.
//!
//! `LONG_TURNS=1000000 cargo test --release --all-features --test long -- --nocapture` does as many
//! turns, and says what they left behind. Nothing here is measured in time: what is bounded is what is
//! read, asked and kept.
#![cfg(all(feature = "testing", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(feature = "postgres")]
#[path = "postgres/server.rs"]
#[allow(dead_code, reason = "no server is restarted here")]
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::types::ValueRef;
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::{Reason, Snapshot};
use stepwell::run::RunState;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{
    Commit, Holding, Memory, Owner, RunQuery, Sqlite, SqliteOptions, Storage, StoredRun,
    Synchronous,
};
use stepwell::testing::{Faulty, VirtualRuntime};
use stepwell::workflow::Limits;
use stepwell::{
    Engine, ErrorKind, Event, Outcome, RetryConfig, RunId, StartOptions, Step, StepError, Value,
    Wait, Workflow, executor_fn,
};

const EVERY: u64 = 100;
const KEPT: u64 = 500;

fn limits() -> EngineLimits {
    EngineLimits { snapshot_every: EVERY, history_kept: KEPT, ..EngineLimits::default() }
}

/// So many, unless it is said otherwise.
fn turns_or(usual: u32) -> u32 {
    std::env::var("LONG_TURNS").map_or(usual, |turns| turns.parse().unwrap())
}

fn turns() -> u32 {
    turns_or(2_000)
}

fn engine(time: &VirtualRuntime, storage: impl Storage, limits: EngineLimits) -> Engine {
    let tried = Arc::new(AtomicU32::new(0));
    Engine::builder()
        .runtime(time.clone())
        .storage(storage)
        .limits(limits)
        .executor(
            "poll",
            executor_fn(move |ctx| {
                // Now and then one fails first.
                let fails = tried.fetch_add(1, Ordering::Relaxed) % 50 == 49 && ctx.attempt() == 1;
                async move {
                    match fails {
                        true => Err(StepError::retryable("not yet")),
                        false => Ok(json!({"turn": ctx.step().to_string(), "text": "a little"})),
                    }
                }
            }),
        )
        .build()
        .unwrap()
}

/// Asks ten times a second, for so many turns.
fn polling(turns: u32) -> Workflow {
    let body = [
        Step::task("ask", "poll").retry(RetryConfig::attempts(3)),
        Step::wait("pause", Wait::For(Duration::from_millis(100))).after("ask"),
    ];
    let long = Duration::from_secs(1 << 40);
    Workflow::builder("polling")
        .step(Step::while_loop("loop", format!("turn < {turns}"), body).max_turns(u32::MAX))
        .limits(Limits { max_duration: long, ..Limits::default() })
        .build()
        .unwrap()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("stepwell-long-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn open(&self) -> Sqlite {
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        options.open(self.0.join("runs.db")).unwrap()
    }

    fn stored(&self) -> Stored {
        let plain = rusqlite::Connection::open(self.0.join("runs.db")).unwrap();
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table'";
        let mut tables = plain.prepare(tables).unwrap();
        let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let mut stored = Stored { rows: 0, bytes: 0 };
        for table in tables.map(Result::unwrap) {
            let mut rows = plain.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                stored.rows += 1;
                for column in 0..columns {
                    stored.bytes += match row.get_ref(column).unwrap() {
                        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
                        _ => 8,
                    };
                }
            }
        }
        stored
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn stored(storage: &impl Storage, id: &RunId) -> StoredRun {
    storage.load(id).await.unwrap().unwrap()
}

/// A loop of so many turns; what is kept of it in the end, and how much there was to read at most.
async fn looped(time: &VirtualRuntime, storage: impl Storage + Clone, turns: u32) -> StoredRun {
    let first = engine(time, storage.clone(), limits());
    let run = first.start_with(&polling(turns), (), StartOptions::id("long")).await.unwrap();
    run.pause(Reason::new("ann", "lunch")).await.unwrap();
    run.resume(Reason::new("ann", "lunch is over")).await.unwrap();
    let outcome = run.outcome().await.unwrap();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
    stored(&storage, run.id()).await
}

fn is_bounded(run: &StoredRun, turns: u32) {
    assert!(run.length() > 6 * u64::from(turns), "it was long: {}", run.length());
    let snapshot = run.snapshot.as_ref().unwrap();
    let (read, state, kept) =
        (run.journal.len(), snapshot.state.len(), run.length() - snapshot.forget);
    println!("{turns} turns: {state} bytes and {read} events to read, {kept} to keep");
    assert!(run.journal.len() as u64 <= 2 * EVERY, "{} are read", run.journal.len());
    assert!(snapshot.state.len() < 200_000, "{} bytes are read", snapshot.state.len());
    assert!(
        run.length() - snapshot.forget <= KEPT + 3 * EVERY,
        "{} are kept",
        run.length() - snapshot.forget
    );
}

#[test]
fn a_long_loop_is_read_and_kept_in_bounds_in_memory() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    time.block_on(async {
        let run = looped(&time, storage.clone(), turns()).await;
        is_bounded(&run, turns());
        let id = RunId::new("long").unwrap();
        let left = storage.events(&id, 0, usize::MAX).await.unwrap();
        assert!(left.len() as u64 <= KEPT + 3 * EVERY + 10, "{} events", left.len());
        // How it began, and who did what and why, is there.
        let first: Vec<&Event> = left.iter().take(3).map(|(_, recorded)| &recorded.event).collect();
        assert!(matches!(first[0], Event::RunStarted(_)), "{first:?}");
        assert!(matches!(first[1], Event::RunPaused { by } if by.why == "lunch"), "{first:?}");
        assert!(matches!(first[2], Event::RunResumed { .. }), "{first:?}");
        let listed = storage.list(RunQuery::default()).await.unwrap();
        assert_eq!(listed[0].events, run.length());
        assert_eq!(listed[0].forgotten, run.snapshot.unwrap().forget);
    })
    .unwrap();
}

/// What is in the tables after so many turns.
#[derive(Debug)]
struct Stored {
    /// Of all tables together.
    rows: u64,
    bytes: u64,
}

/// However many turns: events that are kept, answers to the two who said something, and one row each of
/// the run, its definition, its snapshot, and engines.
fn are_few(stored: &Stored) {
    println!("{stored:?}");
    assert!(stored.rows <= KEPT + 3 * EVERY + 20, "{stored:?}");
    assert!(stored.bytes <= 400_000, "{stored:?}");
}

/// Another engine goes on with what is stored, and asks for little.
async fn goes_on(time: &VirtualRuntime, storage: &Faulty<impl Storage>) {
    let before = storage.calls();
    let again = engine(time, storage.clone(), limits());
    let run = again.run(&RunId::new("long").unwrap()).await.unwrap();
    assert!(run.forgotten() > 0);
    let journal = run.journal(run.forgotten(), 1).await.unwrap();
    assert_eq!(journal[0].0, run.forgotten());
    let calls = storage.calls() - before;
    assert!(calls <= 4, "{calls} calls");
}

#[test]
fn a_long_loop_is_read_and_kept_in_bounds_in_a_file() {
    let time = VirtualRuntime::new(1);
    let mut sizes = Vec::new();
    // Far along, the file has the size that it had before.
    for (place, turns) in [turns() / 4, turns()].into_iter().enumerate() {
        let folder = Folder::new(&format!("file-{place}"));
        // Virtual time does not wait for threads.
        let storage = Faulty::new(folder.open(), |_| None);
        time.block_on(async {
            let run = looped(&time, storage.clone(), turns).await;
            is_bounded(&run, turns);
            goes_on(&time, &storage).await;
        })
        .unwrap();
        are_few(&folder.stored());
        drop(storage);
        sizes.push(std::fs::metadata(folder.0.join("runs.db")).unwrap().len());
    }
    println!("sqlite: {sizes:?} bytes");
    assert!(sizes[1] <= sizes[0] * 3 / 2, "the file grows with the turns: {sizes:?}");
}

#[cfg(feature = "postgres")]
#[test]
fn a_long_loop_is_read_and_kept_in_bounds_on_a_server() {
    use futures::executor::block_on;
    use stepwell::storage::PostgresOptions;

    let Some(server) = server::server() else { return };
    let turns = turns_or(1_000);
    let time = VirtualRuntime::new(1);
    for (place, turns) in [turns / 2, turns].into_iter().enumerate() {
        let schema = format!("long_{place}");
        let options = PostgresOptions::new().schema(&schema);
        let opened = block_on(options.connect(&server.url())).unwrap();
        block_on(opened.migrate()).unwrap();
        let storage = Faulty::new(opened, |_| None);
        time.block_on(async {
            let run = looped(&time, storage.clone(), turns).await;
            is_bounded(&run, turns);
            goes_on(&time, &storage).await;
        })
        .unwrap();
        are_few(&block_on(stored_on(&server.url(), &schema)));
    }
}

#[cfg(feature = "postgres")]
async fn stored_on(url: &str, schema: &str) -> Stored {
    use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

    let mut plain = PgConnection::connect(url).await.unwrap();
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = $1";
    let tables = sqlx::query_scalar(tables).bind(schema).fetch_all(&mut plain).await;
    let mut stored = Stored { rows: 0, bytes: 0 };
    for table in tables.unwrap() {
        let table: String = table;
        let size = format!(
            "SELECT count(*), coalesce(sum(length(of_it::text)), 0)::bigint FROM {schema}.{table} AS of_it"
        );
        let size = sqlx::query_as(AssertSqlSafe(size)).fetch_one(&mut plain).await;
        let (rows, bytes): (i64, i64) = size.unwrap();
        stored.rows += rows as u64;
        stored.bytes += bytes as u64;
    }
    stored
}

#[test]
fn a_run_of_few_events_for_its_steps_keeps_them_all() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let steps = (0..2_000).map(|step| Step::task(format!("s{step}"), "poll"));
    let workflow = Workflow::builder("wide").steps(steps).build().unwrap();
    time.block_on(async {
        let limits = EngineLimits { snapshot_every: 5_000, history_kept: 0, ..limits() };
        let run = engine(&time, storage.clone(), limits).execute(&workflow, ()).await.unwrap();
        assert_eq!(stored(&storage, run.id()).await.snapshot, None);
    })
    .unwrap();
}

/// A run that waits, with a snapshot, and of whose journal the beginning is there or not.
async fn waiting(time: &VirtualRuntime, storage: &Memory, kept: u64) -> RunId {
    let limits = EngineLimits { snapshot_every: 10, history_kept: kept, ..EngineLimits::default() };
    let workflow = Workflow::builder("w")
        .step(Step::while_loop("loop", "turn < 20", [Step::task("ask", "poll")]))
        .step(Step::wait("go", Wait::signal("go")).after("loop"))
        .output("steps.loop.output.turn")
        .build()
        .unwrap();
    let engine = engine(time, storage.clone(), limits);
    let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
    // Nobody wants it any more, and it is parked.
    let id = run.id().clone();
    drop(run);
    engine.serve(time.sleep_until(time.now() + Duration::from_secs(5))).await.unwrap();
    let run = stored(storage, &id).await;
    assert!(run.snapshot.is_some() && matches!(run.holding, Holding::Parked(_)));
    id
}

async fn damage(storage: &Memory, id: &RunId) {
    let run = stored(storage, id).await;
    let Snapshot { events, forget, .. } = *run.snapshot.clone().unwrap();
    let snapshot = Some(Snapshot { events, forget, state: "{\"format\":7}".into() }.into());
    let commit = Commit {
        owner: Owner(1),
        expected: run.length(),
        events: Vec::new(),
        status: run.status,
        answers: Vec::new(),
        holding: run.holding,
        released: Vec::new(),
        recovered: false,
        writes: None,
        snapshot,
    };
    storage.commit(id, commit).await.unwrap();
}

#[test]
fn a_snapshot_that_cannot_be_read_is_passed_over_where_the_whole_journal_is_there() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    time.block_on(async {
        let id = waiting(&time, &storage, u64::MAX).await;
        damage(&storage, &id).await;
        let run = engine(&time, storage.clone(), limits()).run(&id).await.unwrap();
        run.signal("go", ()).await.unwrap();
        assert_eq!(run.outcome().await.unwrap(), Outcome::Succeeded("loop[19]/ask".into()));
    })
    .unwrap();
}

#[test]
fn a_run_that_cannot_be_read_is_named_and_others_go_on() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    time.block_on(async {
        let id = waiting(&time, &storage, 0).await;
        damage(&storage, &id).await;
        let engine = engine(&time, storage.clone(), limits());
        let error = engine.run(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let text = error.to_string();
        assert!(text.contains("run r: ") && text.contains("form 7"), "{text}");
        assert!(text.contains("forgotten"), "{text}");
        engine.execute(&polling(1), ()).await.unwrap();
        // Whoever serves it leaves it alone for a while, and says why.
        engine.serve(time.sleep_until(time.now() + Duration::from_secs(1))).await.unwrap();
    })
    .unwrap();
}

#[test]
fn another_engine_goes_on_from_a_snapshot_and_an_observer_misses_nothing() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    time.block_on(async {
        let id = waiting(&time, &storage, 30).await;
        let before = stored(&storage, &id).await;
        let run = engine(&time, storage.clone(), limits()).run(&id).await.unwrap();
        let program = Arc::clone(before.workflow.program());
        let snapshot = before.snapshot.as_ref().unwrap();
        let mut state = RunState::restore(&id, program, snapshot).unwrap();
        before.journal.iter().for_each(|recorded| state.apply(recorded.at, &recorded.event));
        assert_eq!(run.status(), state.status());
        assert_eq!(run.waits().len(), 1);
        run.signal("go", Value::NULL).await.unwrap();
        assert!(matches!(run.outcome().await.unwrap(), Outcome::Succeeded(_)));
        assert!(stored(&storage, &id).await.length() > before.length());
    })
    .unwrap();
}
