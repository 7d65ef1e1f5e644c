//! Dead at every write: before it, and after it is done but before anybody hears so.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use stepwell::ErrorKind;

use super::check::{Snapshot, check};
use super::deadly::{End, HALTS};
use super::*;

const DIES_AT: &str = "STEPWELL_TEST_KILL_AT";
pub(super) const RUNS: [&str; 7] =
    ["each-0", "retry-1", "timer-2", "signal-3", "undo-4", "locked-5", "once-6"];

/// Another number of writes than a plan says, of which one is tried. On a server, and where another has to
/// go on, a lease passes after each.
const EACH: &str = "STEPWELL_TEST_KILL_EACH";

/// Which points are tried, and where.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    before: bool,
    end: End,
    /// Every point, every second, and so on.
    every: u64,
    /// How many are tried at once.
    at_once: usize,
    make: fn(&str) -> Place,
}

impl Plan {
    pub(super) const fn in_a_file(before: bool, end: End) -> Self {
        Self { before, end, every: 1, at_once: 1, make: Place::in_a_file }
    }

    #[cfg(feature = "postgres")]
    pub(super) fn on_a_server(before: bool, end: End) -> Self {
        Self { before, end, every: 1, at_once: 1, make: Place::on_a_server }.every(5)
    }

    /// One of so many, and several at once, as each takes its time.
    pub(super) fn every(self, every: u64) -> Self {
        let every = std::env::var(EACH).map_or(every, |every| every.parse().unwrap());
        Self { every, at_once: 4, ..self }
    }

    pub(super) fn place(self, what: &str, point: u64) -> Place {
        let when = if self.before { "before" } else { "after" };
        (self.make)(&format!("{what}-{when}-{point}"))
    }

    /// Tries the points until one says that there are no so many writes. A child is told where it ends.
    pub(super) fn run(self, test: &str, at_write: fn(&str, Self, u64) -> bool) {
        if let Some(place) = Place::given() {
            let dies_at = std::env::var(DIES_AT).unwrap().parse().unwrap();
            let storage = Deadly::new(place.base.open(), dies_at, self.before, self.end);
            return all(&place, storage);
        }
        // Two tests of one plan take different ones, when they do not take all.
        let first = 1 + u64::from(self.before) % self.every;
        let (next, over) = (AtomicU64::new(first), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..self.at_once {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let point = next.fetch_add(self.every, Ordering::Relaxed);
                        if at_write(test, self, point) {
                            assert!(point > 40, "{point} writes are too few to mean anything");
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    }
}

/// A child that goes with its test, also when that fails while the child is stopped.
pub(super) struct Mortal(pub(super) Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child that may halt.
pub(super) struct Halting {
    pub(super) child: Mortal,
    said: BufReader<ChildStdout>,
}

impl Halting {
    pub(super) fn start(place: &Place, test: &str, point: u64) -> Self {
        let mut child = place.child(test, &[(DIES_AT, point.to_string())]);
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child: Mortal(child), said }
    }

    /// Whether it does, before it ends.
    pub(super) fn halts(&mut self) -> bool {
        // The first line begins with the name of the test.
        (&mut self.said).lines().map_while(|line| line.ok()).any(|line| line.ends_with(HALTS))
    }

    /// Lets it go on to its end, which has to be a good one.
    pub(super) fn ends(mut self) {
        drop(self.child.0.stdin.take());
        assert!(!self.halts());
        assert!(self.child.0.wait().unwrap().success());
    }
}

/// All runs to their ends, the one that waits for a signal, too.
pub(super) fn all(place: &Place, storage: Deadly) {
    let engine = place.engine(storage);
    place.does(async {
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
    plan.run(&format!("points::{test}"), at_write);
    let is_child = Place::given().is_some();
    let looked = &LOOKED[usize::from(plan.before)];
    assert!(is_child || plan.every > 1 || looked.load(Ordering::Relaxed) > 0);
}

/// Whether there are no so many writes.
fn at_write(test: &str, plan: Plan, point: u64) -> bool {
    let place = plan.place(if plan.end == End::Halts { "killed" } else { "aborts" }, point);
    let lives = |dies_at: u64| {
        let lives = match plan.end {
            End::Aborts => lives(&place, test, dies_at),
            End::Halts => lives_unkilled(&place, test, dies_at),
        };
        place.witness().over();
        lives
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
    let looked = place.witness().text().contains("once-6 look");
    LOOKED[usize::from(plan.before)].fetch_add(u64::from(looked), Ordering::Relaxed);
    is_last
}

/// How often nobody knew what had become of the step that runs at most once, after a death behind a write
/// and before one.
static LOOKED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn lives(place: &Place, test: &str, dies_at: u64) -> bool {
    let output = place.child(test, &[(DIES_AT, dies_at.to_string())]).output().unwrap();
    if output.status.code().is_some_and(|code| code != 0) {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// It is killed where it halts.
fn lives_unkilled(place: &Place, test: &str, dies_at: u64) -> bool {
    let mut halting = Halting::start(place, test, dies_at);
    if !halting.halts() {
        halting.ends();
        return true;
    }
    halting.child.0.kill().unwrap();
    halting.child.0.wait().unwrap();
    false
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes";
    at_every_write(test, Plan::in_a_file(true, End::Aborts));
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes";
    at_every_write(test, Plan::in_a_file(false, End::Aborts));
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_is_killed_before_a_write() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_is_killed_before_a_write";
    at_every_write(test, Plan::in_a_file(true, End::Halts).every(4));
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_is_killed_after_a_write() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_is_killed_after_a_write";
    at_every_write(test, Plan::in_a_file(false, End::Halts).every(4));
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_before_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_before_a_write";
    on_a_server(|| at_every_write(test, Plan::on_a_server(true, End::Halts).every(10)));
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_after_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_after_a_write";
    on_a_server(|| at_every_write(test, Plan::on_a_server(false, End::Halts).every(10)));
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_before_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_before_a_write";
    on_a_server(|| at_every_write(test, Plan::on_a_server(true, End::Aborts)));
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_after_a_write() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_dies_after_a_write";
    on_a_server(|| at_every_write(test, Plan::on_a_server(false, End::Aborts)));
}
