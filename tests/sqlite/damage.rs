//! Runs whose rows somebody has damaged are left aside, each for itself, and all others end.

use std::sync::Arc;

use stepwell::runtime::Runtime as _;
use stepwell::storage::RunQuery;
use stepwell::testing::VirtualRuntime;
use stepwell::{Engine, StartOptions, Wait, executor_fn};

use super::slow::{Effect, Slow};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What is done to the rows of a run.
const DAMAGES: [&str; 11] = [
    "UPDATE events SET kind = 'nonsense' WHERE run = ?1 AND position = 1",
    "UPDATE events SET data = '{]' WHERE run = ?1 AND position = 0",
    "UPDATE events SET data = substr(data, 1, 9) WHERE run = ?1 AND position = 0",
    "UPDATE events SET data = '{}' WHERE run = ?1 AND position = 0",
    "DELETE FROM events WHERE run = ?1 AND position = 0",
    "DELETE FROM events WHERE run = ?1 AND position = 1",
    "DELETE FROM events WHERE run = ?1",
    "UPDATE events SET position = position + 7 WHERE run = ?1 AND position > 0",
    "UPDATE runs SET events = events + 1 WHERE run = ?1",
    "UPDATE runs SET metadata = '[]' WHERE run = ?1",
    "UPDATE messages SET message = '{]' WHERE run = ?1",
];

fn engine(storage: &Sqlite, time: &VirtualRuntime) -> Engine {
    let inner: Arc<dyn Storage> = Arc::new(storage.clone());
    let storage = Slow::new(inner, Effect::AtOnce, time);
    let done = executor_fn(|_| async { Ok(1) });
    let engine = Engine::builder().runtime(time.clone()).storage(storage);
    engine.executor("t", done).build().unwrap()
}

#[test]
fn what_is_damaged_is_left_aside_and_all_others_end() {
    let folder = Folder::new("damage");
    let (storage, time) = (folder.open(), VirtualRuntime::new(1));
    let wait = Step::wait("w", Wait::For(60 * SECOND));
    let flow = Workflow::builder("w").step(wait).step(Step::task("a", "t").after("w"));
    let flow = flow.build().unwrap();
    let nap = |seconds| time.sleep(seconds * SECOND);
    let name = |number: usize, turn| match DAMAGES.get(number) {
        Some(_) => format!("damaged-{number}-{turn}"),
        None => format!("whole-{number}-{turn}"),
    };
    // Between others, in the order of everything that is sorted.
    let all = (0..50).flat_map(|number| (0..4).map(move |turn| (number, turn)));
    let first = engine(&storage, &time);
    time.block_on(async {
        for (number, turn) in all.clone() {
            let options = StartOptions::id(name(number, turn));
            drop(first.start_with(&flow, (), options).await.unwrap());
        }
        // They are parked.
        first.serve(nap(20)).await.unwrap();
    })
    .unwrap();
    drop(first);
    for (number, turn) in all.clone() {
        if let Some(damage) = DAMAGES.get(number) {
            if damage.contains("messages") {
                block_on(storage.post(&id(&name(number, turn)), signal("s"))).unwrap();
            }
            let find = "(SELECT run FROM runs WHERE id = ?1)";
            let changed = folder.plain().execute(&damage.replace("?1", find), [name(number, turn)]);
            assert!(changed.unwrap() > 0, "{damage}");
        }
    }
    let second = engine(&storage, &time);
    time.block_on(second.serve(nap(200))).unwrap().unwrap();
    let listed = block_on(storage.list(RunQuery::default())).unwrap();
    assert_eq!(listed.len(), 200);
    for run in listed {
        let is_damaged = run.id.as_str().starts_with("damaged");
        assert_eq!(run.status == RunStatus::Succeeded, !is_damaged, "{run:?}");
        let problem = run.problem.unwrap_or_default();
        assert_eq!(problem.contains("damaged"), is_damaged, "{} {problem}", run.id);
    }
}
