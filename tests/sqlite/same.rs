//! The storage in a file says what the one in memory says, whatever is asked of both.

use std::fmt::Debug;

use stepwell::run::{Rejection, Want};
use stepwell::storage::{Memory, Reply, RunQuery};
use stepwell::workflow::Rate;

use super::*;

/// Numbers from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }
}

struct Both {
    memory: Memory,
    sqlite: Sqlite,
    chance: Chance,
    now: i64,
    /// Messages: the run, and its number in each.
    posted: Vec<(RunId, u64, u64)>,
    log: Vec<String>,
}

/// What an answer is, as far as both have to agree.
fn said<T: Debug + Unpin>(reply: Reply<Result<T>>) -> String {
    match block_on(reply) {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{:?} {:?}", error.kind(), error.run()),
    }
}

impl Both {
    #[track_caller]
    fn ask<T: Debug + Unpin>(
        &mut self,
        what: String,
        ask: impl Fn(&dyn Storage, bool) -> Reply<Result<T>>,
    ) {
        let (memory, sqlite) = (said(ask(&self.memory, true)), said(ask(&self.sqlite, false)));
        self.log.push(format!("{what} -> {memory}"));
        let recent = &self.log[self.log.len().saturating_sub(40)..];
        assert_eq!(memory, sqlite, "{}", recent.join("\n"));
    }

    fn run(&mut self) -> RunId {
        id(&format!("r{}", self.chance.below(12)))
    }

    fn owner(&mut self) -> Owner {
        self.chance.of(&[A, B, Owner(7)])
    }

    fn at(&mut self) -> Timestamp {
        let ahead = self.chance.below(20);
        at(self.now - 5 + ahead as i64)
    }

    fn holding(&mut self, owner: Owner) -> Holding {
        match self.chance.below(8) {
            0 => Holding::Parked(None),
            1 => Holding::Parked(Some(self.at())),
            2 => Holding::Finished,
            3 => Holding::Aside(self.at()),
            _ => Holding::Held(owner),
        }
    }

    fn status(&mut self) -> RunStatus {
        use RunStatus::{Cancelled, Failed, Paused, Running, Succeeded, TimedOut};
        self.chance.of(&[Running, Running, Running, Paused, Succeeded, Failed, Cancelled, TimedOut])
    }

    fn step(&mut self) -> StepKey {
        StepKey { scope: self.chance.below(2) as u32, step: self.chance.below(2) as u32 }
    }

    fn events(&mut self) -> Vec<Recorded> {
        let event = |both: &mut Self| match both.chance.below(4) {
            0 => Event::RunLimitReached,
            1 => Event::StepSucceeded { step: both.step(), output: Value::of(&0.1).unwrap() },
            2 => Event::StepReady { step: both.step() },
            _ => Event::ScopeStopping { scope: 3 },
        };
        let count = self.chance.below(4);
        (0..count).map(|_| Recorded { at: at(self.now), event: event(self) }).collect()
    }

    fn create(&mut self) {
        let (name, owner) = (self.run(), self.owner());
        let holding = self.holding(owner);
        let journal = self.events();
        let which = self.chance.of(&["w", "v"]);
        let mut run = new_run(name.as_str(), &workflow(which), holding);
        run.at = at(self.now / 3);
        run.journal = journal;
        if self.chance.one_in(2) {
            run.user = None;
            run.metadata.clear();
        }
        self.ask(format!("{run:?}"), |storage, _| storage.create(run.clone()));
    }

    fn commit(&mut self) {
        let (run, owner) = (self.run(), self.owner());
        let stored = block_on(self.memory.load(&run)).unwrap();
        let length = stored.map_or(0, |stored| stored.journal.len() as u64);
        let expected = if self.chance.one_in(8) { self.chance.below(5) } else { length };
        let events = self.events();
        let answer = self.chance.of(&[Ok(()), Err(Rejection::NotStarted)]);
        let mut answered: Vec<(u64, u64)> = Vec::new();
        for (other, one, two) in &self.posted.clone() {
            if *other == run && !self.chance.one_in(3) {
                answered.push((*one, *two));
            }
        }
        let steps: Vec<StepKey> = (0..self.chance.below(3)).map(|_| self.step()).collect();
        let commit = Commit {
            status: self.status(),
            holding: self.holding(owner),
            released: steps,
            recovered: self.chance.one_in(6),
            ..super::commit(owner, expected, events)
        };
        let of = |memory: bool| -> Vec<_> {
            let number = |(one, two): &(u64, u64)| if memory { *one } else { *two };
            answered.iter().map(|both| (number(both), answer.clone())).collect()
        };
        self.ask(format!("{run} {commit:?} {answered:?}"), |storage, memory| {
            storage.commit(&run, Commit { answers: of(memory), ..commit.clone() })
        });
    }

    fn post(&mut self) {
        let run = self.run();
        let one = block_on(self.memory.post(&run, pause()));
        let two = block_on(self.sqlite.post(&run, pause()));
        assert_eq!(one.is_ok(), two.is_ok(), "{run}");
        self.log.push(format!("post {run}"));
        if let (Ok(one), Ok(two)) = (one, two) {
            self.posted.push((run, one, two));
        }
    }

    fn acquire(&mut self) {
        let (run, step, now) = (self.run(), self.step(), at(self.now));
        let want = |both: &mut Self| {
            let mut want = Want::new(both.chance.of(&["x", "y", "z"]));
            want.max = both.chance.of(&[None, Some(1), Some(2), Some(3)]);
            let rate = Rate { count: 2, per: Duration::from_secs(10) };
            want.rate = both.chance.of(&[None, Some(rate)]);
            want
        };
        let count = self.chance.below(4);
        let wants: Vec<Want> = (0..count).map(|_| want(self)).collect();
        self.ask(format!("acquire {run} {step:?} {wants:?}"), |storage, _| {
            storage.acquire(&run, step, wants.clone(), now)
        });
    }

    fn claim(&mut self) {
        let owner = self.owner();
        let mut gone = Vec::new();
        if self.chance.one_in(3) {
            gone.push(Beat { owner: self.owner(), count: 1 + self.chance.below(3) });
        }
        let run = if self.chance.one_in(3) { Some(self.run()) } else { None };
        let limit = self.chance.of(&[0, 1, 3, 100]);
        let claim = Claim { owner, now: at(self.now), gone, run, limit };
        self.ask(format!("{claim:?}"), |storage, _| storage.claim(claim.clone()));
    }

    fn beat(&mut self) {
        let owner = self.owner();
        let sorted = |storage: &dyn Storage| {
            let mut beats = block_on(storage.beat(owner)).unwrap();
            beats.sort_by_key(|beat| beat.owner);
            beats
        };
        assert_eq!(sorted(&self.memory), sorted(&self.sqlite));
        self.log.push(format!("beat {owner:?}"));
    }

    fn turn(&mut self) {
        self.now += self.chance.below(2) as i64;
        match self.chance.below(20) {
            0..=3 => self.create(),
            4..=10 => self.commit(),
            11..=12 => self.post(),
            13..=14 => self.acquire(),
            15..=16 => self.claim(),
            17 => self.beat(),
            18 => {
                let owner = self.owner();
                self.ask(format!("retire {owner:?}"), |storage, _| storage.retire(owner));
            }
            _ => {
                let (run, owner, until) = (self.run(), self.owner(), self.at());
                self.ask(format!("aside {run} {owner:?} {until}"), |storage, _| {
                    storage.set_aside(&run, owner, until, "it does not load".into())
                });
            }
        }
    }

    fn compare(&mut self) {
        for number in 0..12 {
            let run = id(&format!("r{number}"));
            self.ask(format!("load {run}"), |storage, _| storage.load(&run));
            let messages = |storage: &dyn Storage| -> Vec<Message> {
                let inbox = block_on(storage.inbox(&run)).unwrap();
                assert!(inbox.is_sorted_by_key(|(number, _)| *number));
                inbox.into_iter().map(|(_, message)| message).collect()
            };
            assert_eq!(messages(&self.memory), messages(&self.sqlite), "{run}");
        }
        for (run, one, two) in self.posted.clone() {
            self.ask(format!("answer {run} {one}"), |storage, memory| {
                storage.answer(&run, if memory { one } else { two })
            });
        }
        for owner in [A, B, Owner(7)] {
            for limit in [1, 100] {
                self.ask(format!("mail {owner:?}"), |storage, _| storage.mail(owner, limit));
            }
        }
        self.ask("next due".into(), |storage, _| storage.next_due());
        let some = RunStatus::Succeeded;
        for query in [
            RunQuery::default(),
            RunQuery { limit: 3, ..RunQuery::default() },
            RunQuery { workflow: Some("v".into()), ..RunQuery::default() },
            RunQuery { workflow: Some("w".into()), status: Some(some), limit: 2 },
        ] {
            self.ask(format!("{query:?}"), |storage, _| storage.list(query.clone()));
        }
    }
}

#[test]
fn any_sequence_of_calls_is_answered_as_in_memory() {
    for seed in 0..12 {
        let folder = Folder::new(&format!("same-{seed}"));
        let mut both = Both {
            memory: Memory::new(),
            sqlite: folder.open(),
            chance: Chance(seed),
            now: 100,
            posted: Vec::new(),
            log: vec![format!("seed {seed}")],
        };
        for turn in 0..400 {
            both.turn();
            if turn % 25 == 0 {
                both.compare();
            }
        }
        both.compare();
    }
}
