//! Beginning again on what is in a SQLite file: ours, and reading and writing the same rows by hand.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::join_all;
use rusqlite::{Connection, params};
use stepwell::storage::{Sqlite, SqliteOptions, Synchronous};
use stepwell::{Engine, RunId, Step, Wait, Workflow, executor_fn};

use super::{Folder, Pair, engine, medians, seconds};

fn open(file: &Path) -> Sqlite {
    SqliteOptions::new().synchronous(Synchronous::Normal).open(file).unwrap()
}

fn ids(file: &Path, state: &str) -> Vec<RunId> {
    let connection = Connection::open(file).unwrap();
    let mut select = connection.prepare("SELECT id FROM runs WHERE state = ?1").unwrap();
    let ids = select.query_map([state], |row| row.get::<_, String>(0)).unwrap();
    ids.map(|id| RunId::new(id.unwrap()).unwrap()).collect()
}

/// Opening a file and loading all the runs in it, which wait for a signal.
pub(crate) fn parked(runs: usize, rounds: usize) -> Pair {
    let folder = Folder::new();
    let file = folder.file("parked.db");
    let workflow = Workflow::builder("parked")
        .step(Step::task("a", "noop"))
        .step(Step::wait("b", Wait::signal("go")).after("a"))
        .step(Step::task("c", "noop").after("b"))
        .build()
        .unwrap();
    let before = engine(open(&file));
    block_on(async {
        join_all((0..runs).map(|_| async { before.start(&workflow, ()).await.unwrap() })).await;
        while ids(&file, "parked").len() < runs {
            serve(&before, Duration::from_millis(200)).await;
        }
    });
    drop(before);
    let ids = ids(&file, "parked");
    let ours = || {
        seconds(|| {
            let engine = engine(open(&file));
            let loaded = block_on(join_all(ids.iter().map(|id| engine.run(id))));
            assert!(loaded.iter().all(Result::is_ok));
        })
    };
    medians(rounds, || seconds(|| read(&file, &ids)), ours)
}

async fn serve(engine: &Engine, time: Duration) {
    let runtime = Arc::clone(engine.runtime());
    engine.serve(runtime.sleep_until(runtime.now() + time)).await.unwrap();
}

/// The rows of runs and of their journals.
fn read(file: &Path, ids: &[RunId]) {
    let connection = Connection::open(file).unwrap();
    let mut bytes = 0;
    for id in ids {
        let mut run = connection.prepare_cached("SELECT run FROM runs WHERE id = ?1").unwrap();
        let run: i64 = run.query_row([id.as_str()], |row| row.get(0)).unwrap();
        let mut events = connection
            .prepare_cached("SELECT kind, data FROM events WHERE run = ?1 ORDER BY position")
            .unwrap();
        let mut events = events.query([run]).unwrap();
        while let Some(event) = events.next().unwrap() {
            let (kind, data): (String, Option<String>) =
                (event.get(0).unwrap(), event.get(1).unwrap());
            bytes += kind.len() + data.map_or(0, |data| data.len());
        }
    }
    assert!(bytes > 0);
}

/// Runs whose engine has gone in the midst of a step: from opening the file until all steps have been
/// begun again.
pub(crate) fn dead_engine(runs: usize, rounds: usize) -> Pair {
    let folder = Folder::new();
    let (kept, file) = (folder.file("kept.db"), folder.file("left.db"));
    leave(&kept, runs);
    let ids = ids(&kept, "held");
    assert_eq!(ids.len(), runs);
    let restore = || {
        super::remove(&file);
        std::fs::copy(&kept, &file).unwrap();
    };
    let by_hand = || {
        restore();
        seconds(|| {
            claim(&file);
            read(&file, &ids);
        })
    };
    let ours = || {
        restore();
        seconds(|| begin_again(&file, runs))
    };
    medians(rounds, by_hand, ours)
}

/// Begins runs, and goes away while they are in their third step.
fn leave(file: &Path, runs: usize) {
    let workflow = Workflow::builder("left")
        .step(Step::task("a", "noop"))
        .step(Step::task("b", "noop").after("a"))
        .step(Step::task("c", "long").after("b"))
        .build()
        .unwrap();
    let (engine, all_begun) = counting(file, runs);
    block_on(async {
        let handles: Vec<_> =
            join_all((0..runs).map(|_| async { engine.start(&workflow, ()).await.unwrap() })).await;
        let ends = join_all(handles.iter().map(|handle| handle.outcome()));
        futures::future::select(Box::pin(ends), all_begun).await;
    });
}

/// An engine whose executor `long` never ends, and what comes when it was begun this often.
fn counting(file: &Path, runs: usize) -> (Engine, oneshot::Receiver<()>) {
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    let begun = Arc::new(AtomicUsize::new(0));
    let long = executor_fn(move |_| {
        if begun.fetch_add(1, Ordering::Relaxed) + 1 == runs {
            let _ = sender.lock().unwrap().take().unwrap().send(());
        }
        std::future::pending::<Result<(), stepwell::StepError>>()
    });
    let noop = executor_fn(|_| async { Ok(()) });
    let engine = Engine::builder().storage(open(file)).executor("noop", noop);
    (engine.executor("long", long).build().unwrap(), receiver)
}

fn begin_again(file: &Path, runs: usize) {
    let (engine, all_begun) = counting(file, runs);
    // Its shutdown is not waited for: it would wait for steps that never end.
    block_on(async {
        futures::future::select(Box::pin(engine.serve(std::future::pending())), all_begun).await;
    });
}

fn claim(file: &Path) {
    let mut connection = Connection::open(file).unwrap();
    let transaction = connection.transaction().unwrap();
    let mut select =
        transaction.prepare("SELECT run FROM runs WHERE owner IS NOT NULL ORDER BY id").unwrap();
    let runs: Vec<i64> =
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut update = transaction
        .prepare("UPDATE runs SET owner = ?1, recoveries = recoveries + 1 WHERE run = ?2")
        .unwrap();
    for run in runs {
        update.execute(params![[7_u8; 16], run]).unwrap();
    }
    drop((select, update));
    transaction.commit().unwrap();
}
