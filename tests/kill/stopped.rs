//! Stopped as a machine that sleeps, for longer than a lease, while others go on; then it comes back.

use stepwell::ErrorKind;

use super::check::{Snapshot, came_back, check};
use super::deadly::End;
use super::points::{Halting, Mortal, Plan, RUNS, all};
use super::random::{Dice, Notes};
use super::*;

/// How many processes are stopped at some moment, instead of as many as a test says.
const STOPS: &str = "STEPWELL_TEST_KILL_STOPS";

/// Others cannot go on, if they say nothing for so long: it was stopped in the middle of a transaction.
const SILENCE: Duration = Duration::from_secs(12);

/// Stops a process where it is. What it had begun to write it has written by then.
fn stop(process: u32) {
    tell("STOP", process);
    while !is_stopped(process) {
        std::thread::yield_now();
    }
}

/// All its threads. Other systems than Linux are believed to be quick.
fn is_stopped(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return true };
    threads.map_while(Result::ok).all(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // It stands behind the name, which may be anything.
        state.rsplit_once(')').is_none_or(|(_, state)| state.trim_start().starts_with('T'))
    })
}

fn goes_on(process: u32) {
    tell("CONT", process);
}

fn tell(signal: &str, process: u32) {
    let tell = format!("kill -{signal} {process}");
    assert!(Command::new("sh").args(["-c", &tell]).status().unwrap().success());
}

fn at_writes(test: &str, plan: Plan) {
    plan.run(&format!("stopped::{test}"), at_write);
}

/// Whether there are no so many writes.
fn at_write(test: &str, plan: Plan, point: u64) -> bool {
    let place = plan.place("stopped", point);
    let mut halting = Halting::start(&place, test, point);
    if !halting.halts() {
        halting.ends();
        check(&place, &[]);
        return true;
    }
    stop(halting.child.0.id());
    place.witness().over();
    let stopped = Snapshot::take(&place, &place.open());
    all(&place, place.open());
    let done = Snapshot::take(&place, &place.open());
    goes_on(halting.child.0.id());
    // It has ended well when it has learnt that all runs have ended.
    halting.ends();
    came_back(&place, &done);
    check(&place, &[stopped, done.without_notes()]);
    false
}

#[test]
fn who_is_stopped_before_a_write_writes_nothing_when_others_have_done_it() {
    let test = "who_is_stopped_before_a_write_writes_nothing_when_others_have_done_it";
    at_writes(test, Plan::in_a_file(true, End::Halts).every(8));
}

#[test]
fn who_is_stopped_after_a_write_writes_nothing_more_when_others_have_gone_on() {
    let test = "who_is_stopped_after_a_write_writes_nothing_more_when_others_have_gone_on";
    at_writes(test, Plan::in_a_file(false, End::Halts).every(8));
}

#[cfg(feature = "postgres")]
#[test]
fn who_is_stopped_before_a_write_writes_nothing_to_postgres_when_others_have_done_it() {
    let test = "who_is_stopped_before_a_write_writes_nothing_to_postgres_when_others_have_done_it";
    on_a_server(|| at_writes(test, Plan::on_a_server(true, End::Halts).every(12)));
}

#[cfg(feature = "postgres")]
#[test]
fn who_is_stopped_after_a_write_writes_nothing_more_to_postgres_when_others_have_gone_on() {
    let test =
        "who_is_stopped_after_a_write_writes_nothing_more_to_postgres_when_others_have_gone_on";
    on_a_server(|| at_writes(test, Plan::on_a_server(false, End::Halts).every(12)));
}

/// As [`all`], but it asks again when the storage fails: who is stopped may hold up others.
async fn all_in_the_end(place: &Place, engine: Engine) {
    for run in RUNS {
        insist(async || start(&engine, place, run).await).await;
    }
    let id = |run: &str| RunId::new(run).unwrap();
    let run = insist(async || engine.run(&id("signal-3")).await).await;
    insist(async || match run.signal("go", "gone").await {
        Err(error) if error.kind() == ErrorKind::Rejected => Ok(()),
        said => said,
    })
    .await;
    drop(run);
    let ends = async {
        for run in RUNS {
            insist(async || engine.run(&id(run)).await?.outcome().await).await;
        }
    };
    // Whether it could say that it has ended or not.
    let _ = engine.serve(ends).await;
}

/// Does this until it goes well: only the storage may be at fault.
async fn insist<T>(mut work: impl AsyncFnMut() -> stepwell::Result<T>) -> T {
    loop {
        match work().await {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Storage, "{error}"),
        }
        Delay::new(Duration::from_millis(20)).await;
    }
}

/// Two processes that share runs, of which the first is stopped at some moment, until the second has
/// done everything, or can do nothing any more.
fn at_any_moment(test: &str, stops: u64, make: fn(&str) -> Place) {
    if let Some(place) = Place::given() {
        return place.does(all_in_the_end(&place, place.engine(place.open())));
    }
    let test = format!("stopped::{test}");
    let stops = std::env::var(STOPS).map_or(stops, |stops| stops.parse().unwrap());
    let (mut done, mut seed) = (0, 0);
    while done < stops {
        let (place, mut dice) = (make(&format!("moment-{seed}")), Dice(seed));
        done += u64::from(was_stopped(&test, &place, 1 + dice.below(25)));
        seed += 1;
    }
}

/// Whether it was, after so many notes, or had ended by then.
fn was_stopped(test: &str, place: &Place, notes: u64) -> bool {
    let storage = place.open();
    let [(mut first, mut said), (mut second, mut heard)] = [(); 2].map(|()| {
        let mut child = place.child(test, &[]).spawn().unwrap();
        let said = Notes::of(child.stdout.take().unwrap(), true, SILENCE);
        (Mortal(child), said)
    });
    let is_alive = (0..notes).all(|_| said.next());
    let mut snapshots = Vec::new();
    if is_alive {
        stop(first.0.id());
        // What it had in hand may be begun again.
        place.witness().over();
        snapshots.push(Snapshot::take(place, &storage));
        while heard.next() {}
        place.witness().back();
        snapshots.push(Snapshot::take(place, &storage).without_notes());
        goes_on(first.0.id());
    }
    assert!(first.0.wait().unwrap().success());
    assert!(second.0.wait().unwrap().success());
    check(place, &snapshots);
    is_alive
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_is_stopped_at_any_moment() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_is_stopped_at_any_moment";
    at_any_moment(test, 3, Place::in_a_file);
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_stopped_at_any_moment() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_stopped_at_any_moment";
    on_a_server(|| at_any_moment(test, 2, Place::on_a_server));
}
