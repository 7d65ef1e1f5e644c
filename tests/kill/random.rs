//! Killed at any moment, started again, until all runs have ended.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use stepwell::ErrorKind;

use super::check::{Snapshot, check};
use super::*;

/// How many kills there are to be, instead of as many as one round has.
const KILLS: &str = "STEPWELL_TEST_KILLS";
const KILLS_PER_ROUND: u64 = 20;
/// On a server a lease passes after each.
#[cfg(feature = "postgres")]
const KILLS_ON_A_SERVER: u64 = 8;
const RUNS: usize = 20;

/// Nothing is left but runs that wait for a signal, if a child says nothing for so long: some leases.
const SILENCE: Duration = Duration::from_secs(20);

/// Numbers that are the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % bound
    }
}

fn ids() -> Vec<String> {
    (0..RUNS).map(|number| format!("{}-{number}", SHAPES[number % SHAPES.len()].0)).collect()
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_is_killed_at_any_moment() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_is_killed_at_any_moment";
    rounds(test, KILLS_PER_ROUND, Place::in_a_file);
}

#[cfg(feature = "postgres")]
#[test]
fn nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_at_any_moment() {
    let test = "nothing_is_lost_or_done_twice_on_postgres_when_a_process_is_killed_at_any_moment";
    on_a_server(|| rounds(test, KILLS_ON_A_SERVER, Place::on_a_server));
}

fn rounds(test: &str, per_round: u64, make: fn(&str) -> Place) {
    if let Some(place) = Place::given() {
        let engine = place.engine(place.open());
        place.does(finish(&engine, &place, &ids())).unwrap();
        return;
    }
    let test = format!("random::{test}");
    let kills = std::env::var(KILLS).map_or(per_round, |count| count.parse().unwrap());
    let (mut killed, mut seed) = (0, 0);
    while killed < kills {
        killed += round(&test, per_round, &make(&format!("random{seed}")), seed);
        seed += 1;
    }
}

fn round(test: &str, per_round: u64, place: &Place, seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let mut signals: Vec<String> = ids();
    signals.retain(|id| id.starts_with("signal"));
    let mut snapshots = Vec::new();
    let mut kills = 0;
    for life in 0.. {
        let is_last = kills == per_round;
        let lines = if is_last { usize::MAX } else { 1 + dice.below(40) as usize };
        // While it starts the runs, or some time after.
        let starting = dice.below(5) == 0 && !is_last;
        // Later on there may be nothing else left to wait for.
        let some = match life {
            2 => 1,
            6.. => signals.len(),
            _ => 0,
        };
        let given = signals.split_off(signals.len() - some);
        // Beside the child that lives, or after its death.
        let beside = dice.below(2) == 0 || life >= 6;
        let mut child = place.child(test, &[]).spawn().unwrap();
        let patience = if is_last { Duration::MAX } else { SILENCE };
        let mut notes = Notes::of(child.stdout.take().unwrap(), starting, patience);
        // By then it has opened the file.
        let first = notes.next();
        let (is_alive, ended) = thread::scope(|scope| {
            let visit = |ids: Vec<String>| {
                let engine = place.engine(place.open());
                scope.spawn(move || place.does(signal_from_here(&engine, ids)))
            };
            let (now, then) = if beside { (given, Vec::new()) } else { (Vec::new(), given) };
            let visitor = (!now.is_empty()).then(|| visit(now));
            let is_alive = (first && (1..lines).all(|_| notes.next())) || notes.is_silent;
            if is_alive {
                child.kill().unwrap();
            }
            let ended = child.wait().unwrap().success();
            place.witness().over();
            let visitor = visitor.or_else(|| (!then.is_empty()).then(|| visit(then)));
            if let Some(visitor) = visitor {
                signals.extend(visitor.join().unwrap());
                place.witness().over();
            }
            (is_alive, ended)
        });
        if ended {
            assert!(signals.is_empty());
            break;
        }
        assert!(is_alive, "it died by itself");
        kills += 1;
        snapshots.push(Snapshot::take(place, &place.open()));
    }
    check(place, &snapshots);
    kills
}

/// What a child says that it has noted.
pub(super) struct Notes {
    lines: Receiver<String>,
    /// The starts of runs, too.
    starts: bool,
    patience: Duration,
    /// It has said nothing for that long.
    is_silent: bool,
}

impl Notes {
    pub(super) fn of(said: ChildStdout, starts: bool, patience: Duration) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let said = BufReader::new(said).lines().map_while(Result::ok);
            // What is said after the kill interests nobody.
            said.map(|line| sender.send(line)).all(|sent| sent.is_ok());
        });
        Self { lines, starts, patience, is_silent: false }
    }

    /// Whether there is another one.
    pub(super) fn next(&mut self) -> bool {
        loop {
            match self.lines.recv_timeout(self.patience) {
                Ok(line) if !line.contains("noted ") => {}
                Ok(line) if !self.starts && line.contains("noted started") => {}
                Ok(_) => return true,
                Err(why) => {
                    self.is_silent = why == RecvTimeoutError::Timeout;
                    return false;
                }
            }
        }
    }
}

/// Through an engine of this process, which goes on with a run as far as it must if nobody else does.
/// Those that were not there.
async fn signal_from_here(engine: &Engine, ids: Vec<String>) -> Vec<String> {
    let mut left = Vec::new();
    for id in ids {
        match engine.run(&RunId::new(&id).unwrap()).await {
            Ok(run) => run.signal("go", "gone").await.unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                left.push(id);
            }
        }
    }
    left
}
