//! Random operations on a storage, as data.

use std::sync::LazyLock;

use serde_json::json;

use super::given::{at, at_most, mutex, rate};
use crate::journal::RunStatus;
use crate::run::Want;
use crate::storage::{Holding, Owner};
use crate::value::{Json, NESTING_MAX};

/// Runs and owners that a sequence is about. Few, so that they meet.
pub(super) const RUNS: usize = 6;
pub(super) const OWNERS: usize = 3;

/// Random numbers that follow from a seed: splitmix64.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Who holds a run, with owners by their places.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    Held(usize),
    Parked(Option<i64>),
    Finished,
    Aside(i64),
}

impl Hold {
    pub(super) fn of(self, owners: &[Owner]) -> Holding {
        match self {
            Self::Held(owner) => Holding::Held(owners[owner]),
            Self::Parked(due) => Holding::Parked(due.map(at)),
            Self::Finished => Holding::Finished,
            Self::Aside(until) => Holding::Aside(at(until)),
        }
    }
}

/// What is done. Lengths, messages and beats are said as seen from what is there by then, so that
/// what is left of a sequence still makes sense when some of it is left out.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Create {
        run: usize,
        workflow: usize,
        holding: Hold,
        events: u32,
        value: usize,
        seconds: i64,
    },
    Commit {
        run: usize,
        owner: usize,
        /// Added to the length that the journal has.
        off: i64,
        events: u32,
        status: RunStatus,
        /// So many of the inbox are answered, from its beginning.
        answers: usize,
        /// The first message of the run is answered, too, as if it were for the first time.
        again: bool,
        value: usize,
        holding: Hold,
        released: Option<u32>,
        recovered: bool,
        /// So many events need not be kept of those that there are then.
        snapshot: Option<u64>,
        seconds: i64,
    },
    Post {
        run: usize,
        value: usize,
    },
    Acquire {
        /// None is who holds the run, or the next one that somebody holds: others are given none.
        owner: Option<usize>,
        /// How far from the right length of the journal.
        off: i64,
        run: usize,
        step: u32,
        wants: Vec<usize>,
        seconds: i64,
    },
    Beat {
        owner: usize,
    },
    Retire {
        owner: usize,
    },
    Mail {
        owner: usize,
        limit: usize,
    },
    /// With what is added to the last beat of who is called gone.
    Claim {
        owner: usize,
        gone: Option<(usize, i64)>,
        run: Option<usize>,
        limit: usize,
        seconds: i64,
    },
    SetAside {
        run: usize,
        owner: usize,
        until: i64,
    },
    NextDue,
    Events {
        run: usize,
        from: u64,
        limit: usize,
    },
    /// With how many of those that it names are cleared.
    Purge {
        owner: usize,
        before: Option<i64>,
        keep: Option<u64>,
        workflow: Option<usize>,
        limit: usize,
        cleared: usize,
    },
    Clear {
        owner: usize,
        run: usize,
    },
    List {
        workflow: Option<usize>,
        status: Option<RunStatus>,
        live: bool,
        /// The time and the run behind which it goes on.
        before: Option<(i64, usize)>,
        limit: usize,
    },
    Reopen,
}

/// Locks that are asked for; each always with the same limit and rate.
pub(super) fn want(number: usize) -> Want {
    match number {
        0 => mutex("a"),
        1 => mutex("A"),
        2 => at_most(2, "c"),
        // Thirty and a half seconds apart.
        _ => rate(2, 61, "d"),
    }
}

/// Values that a storage could change on their way. What they are is for the cases to say; here they
/// meet everything else.
pub(super) static VALUES: LazyLock<[Json; 8]> = LazyLock::new(|| {
    let deep = (1..NESTING_MAX).fold(json!([]), |deep, _| Json::Array(vec![deep]));
    [
        Json::Null,
        json!(""),
        json!(["a\u{0}b", " x ", "\u{0}"]),
        json!({"b": u64::MAX, "a": [i64::MIN, (1_u64 << 53) + 1]}),
        json!([-0.0, 5e-324, 1e308, 0.1]),
        json!({"🦀": "é\u{301}", "'": "''\\\\\""}),
        json!([true, "1", "null", {}]),
        deep,
    ]
});

/// The place of one of them; mostly the first.
fn value(chance: &mut Chance) -> usize {
    if chance.one_in(3) { chance.below(VALUES.len()) } else { 0 }
}

const STATUSES: [RunStatus; 6] = [
    RunStatus::Pending,
    RunStatus::Running,
    RunStatus::Running,
    RunStatus::Paused,
    RunStatus::Succeeded,
    RunStatus::Failed,
];

fn hold(chance: &mut Chance, writer: usize, seconds: i64) -> Hold {
    match chance.below(10) {
        0 => Hold::Held(chance.below(OWNERS)),
        1..=4 => Hold::Held(writer),
        5 => Hold::Parked(None),
        6 | 7 => Hold::Parked(Some(seconds + chance.below(20) as i64)),
        8 => Hold::Finished,
        _ => Hold::Aside(seconds + chance.below(20) as i64),
    }
}

/// One operation that could be next, at about this time: clocks go a little back, too.
pub(super) fn operation(chance: &mut Chance, seconds: i64) -> Operation {
    let seconds = seconds - chance.below(5) as i64;
    let (run, owner) = (chance.below(RUNS), chance.below(OWNERS));
    match chance.below(24) {
        0 | 1 => {
            let (holding, workflow) = (hold(chance, owner, seconds), chance.below(2));
            // Several are added at the same time.
            let (seconds, events) = (seconds - seconds.rem_euclid(30), chance.below(3) as u32);
            Operation::Create { run, workflow, holding, events, value: value(chance), seconds }
        }
        2..=7 => Operation::Commit {
            run,
            owner,
            off: chance.pick(&[0, 0, 0, 0, 1, -1]),
            events: chance.below(4) as u32,
            // Seldom an end: a run that has ended is given no locks.
            status: if chance.one_in(5) { chance.pick(&STATUSES) } else { RunStatus::Running },
            answers: chance.below(3),
            again: chance.one_in(10),
            value: value(chance),
            holding: hold(chance, owner, seconds),
            released: chance.one_in(3).then(|| chance.below(3) as u32),
            recovered: chance.one_in(4),
            snapshot: chance.one_in(4).then(|| chance.below(6) as u64),
            seconds,
        },
        8 | 9 => Operation::Post { run, value: value(chance) },
        10 | 11 => {
            let mut wants: Vec<usize> = (0..4).filter(|_| chance.one_in(2)).collect();
            wants.truncate(2);
            Operation::Acquire {
                owner: chance.one_in(5).then_some(owner),
                off: chance.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, -1]),
                run,
                step: chance.below(3) as u32,
                wants,
                seconds,
            }
        }
        12 => Operation::Beat { owner },
        13 => match chance.one_in(3) {
            true => Operation::Retire { owner },
            false => Operation::Beat { owner },
        },
        14 => Operation::Mail { owner, limit: chance.pick(&[0, 1, 100]) },
        15 | 16 => Operation::Claim {
            owner,
            gone: chance.one_in(3).then(|| (chance.below(OWNERS), chance.pick(&[0, 0, -1, 1]))),
            run: chance.one_in(3).then_some(run),
            limit: chance.pick(&[0, 1, 2, 100, 100]),
            seconds,
        },
        17 => Operation::SetAside { run, owner, until: seconds + chance.below(20) as i64 },
        18 => match chance.one_in(3) {
            true => Operation::Reopen,
            false => Operation::NextDue,
        },
        19 => Operation::Events { run, from: chance.below(6) as u64, limit: chance.below(5) },
        20 | 21 => Operation::Purge {
            owner,
            before: chance.one_in(2).then(|| seconds - chance.below(20) as i64),
            keep: chance.one_in(2).then(|| chance.below(4) as u64),
            workflow: chance.one_in(3).then(|| chance.below(2)),
            limit: chance.pick(&[0, 1, 2, 100]),
            cleared: chance.pick(&[0, 1, 100]),
        },
        22 => Operation::Clear { owner, run },
        _ => Operation::List {
            workflow: chance.one_in(2).then(|| chance.below(2)),
            status: chance.one_in(3).then(|| chance.pick(&STATUSES)),
            live: chance.one_in(2),
            before: chance.one_in(2).then(|| (seconds - chance.below(20) as i64, run)),
            limit: chance.below(4),
        },
    }
}
