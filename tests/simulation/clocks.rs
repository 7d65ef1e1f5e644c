//! The clocks of the machines: apart from each other, and set, all of them or one alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::runtime::Runtime as _;
use stepwell::storage::Storage;
use stepwell::testing::VirtualRuntime;

use super::tape::What;
use super::world::World;

const HOUR: i64 = 3_600;
/// How far clocks are apart that somebody looks after, in seconds, either way.
const APART: u32 = 5;

#[derive(Default)]
pub(crate) struct Clocks {
    machines: Mutex<Vec<Machine>>,
    /// How far one has been ahead, in seconds.
    ahead: AtomicU64,
}

/// Seconds between its clock and the one that nobody has set.
struct Machine {
    time: VirtualRuntime,
    off: i64,
    /// What stays of that in the end.
    stays: i64,
}

impl Clocks {
    fn add(&self, time: VirtualRuntime, stays: i64) {
        let mut machines = self.machines.lock().unwrap();
        // A new clock shows what the first one shows.
        let off = machines.first().map_or(0, |first| first.off);
        machines.push(Machine { time, off, stays });
    }

    /// Sets those that are chosen by their numbers.
    fn set(&self, by: impl Fn(usize, &Machine) -> i64) {
        let mut machines = self.machines.lock().unwrap();
        for (number, machine) in machines.iter_mut().enumerate() {
            let by = by(number, machine);
            machine.off += by;
            self.ahead.fetch_max(machine.off.max(0).unsigned_abs(), Ordering::Relaxed);
            if by != 0 {
                machine.time.set_clock(by);
            }
        }
    }
}

impl<S: Storage + Clone> World<S> {
    /// A machine, with a clock of its own if clocks are apart.
    pub(crate) fn machine(&self) -> VirtualRuntime {
        if self.clocks.machines.lock().unwrap().is_empty() {
            self.clocks.add(self.time.clone(), 0);
        }
        if !self.has_skew() {
            return self.time.clone();
        }
        let stays = i64::from(self.dice(2 * APART + 1)) - i64::from(APART);
        let machine = self.time.own_clock();
        self.clocks.add(machine.clone(), stays);
        let off = if self.dice(4) == 0 { self.up_to_an_hour() } else { stays };
        let last = self.clocks.machines.lock().unwrap().len() - 1;
        self.clocks.set(|number, _| if number == last { off } else { 0 });
        machine
    }

    fn up_to_an_hour(&self) -> i64 {
        i64::from(self.dice(7_201)) - HOUR
    }

    pub(crate) async fn jumps(self: Arc<Self>) {
        if !self.has_jumps() && !self.has_skew() {
            return;
        }
        for _ in 0..self.dice(4) {
            self.nap(self.seconds(20, 150)).await;
            if self.is_calm() {
                break;
            }
            self.jump();
        }
        if self.has_skew() {
            // They stay apart as long as things go wrong.
            self.nap(super::TROUBLE.saturating_sub(self.time.monotonic())).await;
        }
        // In the end they are put right, or, as days of waiting take their time, to the latest time that
        // one has shown.
        let to = match self.seed % 96 == 15 {
            true => 0,
            false => i64::try_from(self.clocks.ahead.load(Ordering::Relaxed)).unwrap_or(0),
        };
        self.tape.note(usize::MAX, What::ClockSet);
        self.clocks.set(|_, machine| to + machine.stays - machine.off);
        if to > 0 {
            // Whatever was due by any of them is due now.
            self.clocks.ahead.store(0, Ordering::Relaxed);
        }
    }

    /// One of them is set, or all.
    fn jump(&self) {
        let count = self.clocks.machines.lock().unwrap().len() as u32;
        let chosen = self.dice(count) as usize;
        let all = self.has_jumps() && (!self.has_skew() || self.dice(2) == 0);
        let by = match all {
            true => [HOUR, -HOUR, 24 * HOUR, -24 * HOUR, 1][self.dice(5) as usize],
            false => self.up_to_an_hour(),
        };
        self.tape.note(usize::MAX, What::ClockSet);
        self.clocks.set(|number, _| if all || number == chosen { by } else { 0 });
    }

    pub(crate) fn was_ahead(&self) -> Duration {
        Duration::from_secs(self.clocks.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn has_jumps(&self) -> bool {
        self.seed.is_multiple_of(3) && !self.is_single()
    }

    /// Whether each machine has a clock of its own.
    pub(crate) fn has_skew(&self) -> bool {
        (self.seed / 20).is_multiple_of(4) && !self.is_single()
    }
}
