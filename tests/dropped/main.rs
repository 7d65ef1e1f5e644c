//! Everything that is awaited may be dropped: after the first poll, the second, and so on until it ends
//! by itself. Whatever it was at has happened once or not at all, and whoever comes next goes on.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(feature = "sqlite")]
mod files;
mod polled;
mod scenarios;
#[cfg(feature = "postgres")]
#[path = "../simulation/schema.rs"]
mod schema;
#[cfg(feature = "postgres")]
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "no server is restarted here")]
mod server;
#[path = "../slow/mod.rs"]
mod slow;
mod sources;
mod steps;
mod storages;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use stepwell::storage::{Memory, Storage};
#[cfg(feature = "postgres")]
use stepwell::testing::Faulty;

use polled::polled;
use scenarios::{SCENARIOS, Scenario};
use slow::{EFFECTS, Effect};
use world::{Before, RESCUES, Rescue, World};

/// Polls after which everything has ended by itself.
const POLLS_MAX: u32 = 2_000;

/// Whether it ended by itself.
fn one(
    scenario: &Scenario,
    storage: Arc<dyn Storage>,
    effect: Effect,
    rescue: Rescue,
    polls: u32,
) -> bool {
    let world = World::new(storage, effect);
    let ended = world.time.block_on(async {
        let serving = (rescue == Rescue::Serving).then(|| world.serve(world.engine()));
        world.prepare(scenario.before).await;
        let kept = (rescue == Rescue::Kept).then(|| world.kept()).flatten();
        let ended = polled((scenario.act)(Arc::clone(&world)), polls).await.is_some();
        world.let_go();
        let (engine, outcome) = world.rescue(rescue, kept).await;
        let journal = world.check(engine, &outcome).await;
        let times = journal.iter().filter(|event| (scenario.trace)(event)).count();
        let most = if scenario.before == Before::Ended { 2 } else { 1 };
        assert!(times <= most, "it had its effect {times} times");
        assert!(!ended || times > 0, "it said so, and nothing has happened");
        assert_eq!(outcome.output().is_none(), scenario.stops && times > 0, "{outcome}");
        drop(serving);
        ended
    });
    world.time.block_on(world.all_is_gone()).unwrap();
    ended.unwrap()
}

/// Drops these after each number of polls, each time with some of the rescues, in turn; how many trials
/// that were.
fn each<'a>(
    scenarios: impl IntoIterator<Item = &'a Scenario>,
    effects: &[Effect],
    rescues: &[Rescue],
    open: impl Fn() -> Arc<dyn Storage>,
) -> u32 {
    let (mut trials, at_once) = (0, at_once());
    let each = |scenario| effects.iter().map(move |effect| (scenario, *effect));
    for (scenario, effect) in scenarios.into_iter().flat_map(each) {
        let serves = scenario.of == "Engine::serve";
        let fits = |rescue: &Rescue| *rescue != Rescue::Serving || !serves;
        // Those with which it has not ended by itself yet.
        let mut left: Vec<Rescue> = rescues.iter().copied().filter(fits).collect();
        let mut polls = 0;
        while !left.is_empty() {
            assert!(polls < POLLS_MAX, "{} does not end", scenario.of);
            for _ in 0..at_once.min(left.len()) {
                let rescue = left.remove(0);
                trials += 1;
                if !blamed(scenario, open(), effect, rescue, polls) {
                    left.push(rescue);
                }
            }
            polls += 1;
        }
    }
    trials
}

/// As [`one`]; says which it was if it fails.
fn blamed(
    scenario: &Scenario,
    storage: Arc<dyn Storage>,
    effect: Effect,
    rescue: Rescue,
    polls: u32,
) -> bool {
    let work = || one(scenario, storage, effect, rescue, polls);
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let (of, before) = (scenario.of, scenario.before);
        eprintln!(
            "{of} on a run {before:?}, {effect:?}, dropped after {polls} polls, brought to its end by \
             {rescue:?}"
        );
        resume_unwind(panic);
    })
}

/// Rescues for each number of polls: two in turn, or all.
fn at_once() -> usize {
    std::env::var("STEPWELL_TEST_DROPS").map_or(2, |_| RESCUES.len())
}

#[test]
fn whatever_is_dropped_the_run_goes_on_in_memory() {
    let trials = each(SCENARIOS, &EFFECTS, &RESCUES, || Arc::new(Memory::new()));
    assert!(trials > 1_000, "{trials}");
}

/// Databases take their time: some functions, behind as a thread of its own can be.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn some(open: impl Fn() -> Arc<dyn Storage>) {
    let some = SCENARIOS.iter().filter(|scenario| {
        let of = (scenario.of, scenario.before);
        at_once() > 2
            || [("Engine::execute", Before::Nothing), ("RunHandle::signal", Before::LeftAtGo)]
                .contains(&of)
    });
    let trials = each(some, &[Effect::Behind], &[Rescue::Other], open);
    assert!(trials > 20, "{trials}");
}

#[cfg(feature = "sqlite")]
#[test]
fn whatever_is_dropped_the_run_goes_on_in_a_file() {
    let file = files::File::new();
    let number = std::cell::Cell::new(0);
    some(|| {
        number.set(number.get() + 1);
        file.open_as(number.get())
    });
}

#[cfg(feature = "postgres")]
#[test]
fn whatever_is_dropped_the_run_goes_on_on_a_server() {
    let Some(schema) = schema::Schema::new() else { return };
    // It answers at once, so that virtual time does not pass meanwhile.
    some(|| Arc::new(Faulty::new(schema.emptied(), |_| None)));
}
