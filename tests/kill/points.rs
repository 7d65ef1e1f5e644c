//! Dead at every write: before it, and after it is done but before anybody hears so.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use stepwell::ErrorKind;

use super::check::{Snapshot, check};
use super::*;

const DIES_AT: &str = "STEPWELL_TEST_KILL_AT";
const RUNS: [&str; 6] = ["each-0", "retry-1", "timer-2", "signal-3", "undo-4", "locked-5"];

/// Another number than 5: every fifth write is tried on a server, as a lease passes after each.
#[cfg(feature = "postgres")]
const EACH: &str = "STEPWELL_TEST_KILL_EACH";

/// Which points are tried, and where.
#[derive(Clone, Copy)]
struct Plan {
    before: bool,
    /// Every point, every second, and so on.
    every: u64,
    /// How many are tried at once.
    at_once: usize,
    make: fn(&str) -> Place,
}

impl Plan {
    const fn in_a_file(before: bool) -> Self {
        let make = |name: &str| Place::new(name, Base::file);
        Self { before, every: 1, at_once: 1, make }
    }

    #[cfg(feature = "postgres")]
    fn on_a_server(before: bool) -> Self {
        let make = |name: &str| {
            let name = format!("server-{name}");
            Place::new(&name, schema_of(&name))
        };
        let every = std::env::var(EACH).map_or(5, |every| every.parse().unwrap());
        Self { before, every, at_once: 4, make }
    }
}

/// All runs to their ends, the one that waits for a signal, too.
fn all(place: &Place, storage: Deadly) {
    let engine = place.engine(storage);
    block_on(async {
        let run = start(&engine, place, "signal-3").await.unwrap();
        if let Err(error) = run.signal("go", "gone").await {
            // An earlier one came through, and the run has ended.
            assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        }
        finish(&engine, place, &RUNS.map(String::from)).await.unwrap();
        // Until now: what a run that nobody wants is at is dropped, and begun again.
        drop(run);
    });
}

fn at_every_write(test: &str, plan: Plan) {
    if let Some(place) = Place::given() {
        let dies_at = std::env::var(DIES_AT).unwrap().parse().unwrap();
        return all(&place, Deadly::new(place.base.open(), dies_at, plan.before));
    }
    let test = format!("points::{test}");
    // Two tests of one plan take different ones, when they do not take all.
    let first = 1 + u64::from(plan.before) % plan.every;
    let (next, over) = (AtomicU64::new(first), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..plan.at_once {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let point = next.fetch_add(plan.every, Ordering::Relaxed);
                    if at_write(&test, plan, point) {
                        assert!(point > 40, "{point} writes are too few to mean anything");
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Whether there are no so many writes.
fn at_write(test: &str, plan: Plan, point: u64) -> bool {
    let when = if plan.before { "before" } else { "after" };
    let place = (plan.make)(&format!("{when}-{point}"));
    let lives = |dies_at: u64| {
        let mut child = place.child(test, &[(DIES_AT, dies_at.to_string())]);
        let output = child.output().unwrap();
        place.witness().over();
        if output.status.code().is_some_and(|code| code != 0) {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    };
    let is_last = lives(point);
    let mut snapshots = vec![Snapshot::take(&place, &place.open())];
    if !is_last && point.is_multiple_of(4) {
        // While it recovers, too.
        lives(1 + point / 4 % 12);
        snapshots.push(Snapshot::take(&place, &place.open()));
    }
    all(&place, place.open());
    check(&place, &snapshots);
    is_last
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes";
    at_every_write(test, Plan::in_a_file(true));
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes";
    at_every_write(test, Plan::in_a_file(false));
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_before_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_before_a_write";
    on_a_server(test, true);
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_after_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_after_a_write";
    on_a_server(test, false);
}

#[cfg(feature = "postgres")]
fn on_a_server(test: &str, before: bool) {
    // A child is told of its parent's.
    if std::env::var_os(FOLDER).is_some() || server::server().is_some() {
        at_every_write(test, Plan::on_a_server(before));
    }
}
