//! What is dropped: each public function that is awaited, on the runs that it matters for.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join};
use futures::{StreamExt, TryStreamExt};
use stepwell::engine::{Retention, RunMigration, Verdict};
use stepwell::journal::{Mapping, Operation, Signal, Vote};
use stepwell::storage::RunQuery;
use stepwell::{Event, RunId, RunStatus, StartOptions};

use super::world::{Before, SECOND, World, more, options, plain, reason, waits};

pub(crate) struct Scenario {
    /// The function, as `Type::name`.
    pub(crate) of: &'static str,
    pub(crate) before: Before,
    pub(crate) act: fn(Arc<World>) -> BoxFuture<'static, ()>,
    /// What the journal says if it had its effect; it is there once, or not at all.
    pub(crate) trace: fn(&Event) -> bool,
    /// Whether the run ends otherwise if it had its effect.
    pub(crate) stops: bool,
}

const fn scenario(
    of: &'static str,
    before: Before,
    trace: fn(&Event) -> bool,
    act: fn(Arc<World>) -> BoxFuture<'static, ()>,
) -> Scenario {
    Scenario { of, before, act, trace, stops: false }
}

const fn stops(scenario: Scenario) -> Scenario {
    Scenario { stops: true, ..scenario }
}

macro_rules! act {
    ($world:ident: $($work:tt)*) => { |$world| Box::pin(async move { $($work)* }) };
}

fn begins(event: &Event) -> bool {
    matches!(event, Event::RunStarted(_))
}

fn ends(event: &Event) -> bool {
    matches!(event, Event::RunFinished { .. })
}

fn taken(event: &Event) -> bool {
    matches!(event, Event::SignalTaken { signal, .. } if signal.payload == "mine")
}

fn votes(event: &Event) -> bool {
    matches!(event, Event::Voted { .. })
}

fn pauses(event: &Event) -> bool {
    matches!(event, Event::RunPaused { .. })
}

fn resumes(event: &Event) -> bool {
    matches!(event, Event::RunResumed { .. })
}

fn cancels(event: &Event) -> bool {
    matches!(event, Event::RunCancelRequested { .. } | Event::RunTerminated { .. })
}

fn cuts(event: &Event) -> bool {
    matches!(event, Event::RunFinished { outcome } if outcome.output().is_none())
}

fn operates(event: &Event) -> bool {
    matches!(event, Event::Operated { .. })
}

fn reopens(event: &Event) -> bool {
    matches!(event, Event::RunReopened { .. })
}

#[cfg(feature = "secrets")]
fn reseals(event: &Event) -> bool {
    matches!(event, Event::SecretsResealed { .. })
}

fn modifies(event: &Event) -> bool {
    matches!(event, Event::WorkflowModified(_))
}

async fn migrates(world: &World) {
    let all = world.engine().migrate(&more(), Mapping::new(), reason()).unwrap();
    let all: Vec<_> = all.try_collect().await.unwrap();
    assert!(matches!(all[..], [RunMigration { verdict: Verdict::Moves(_), .. }]), "{all:?}");
}

fn id() -> RunId {
    RunId::new("r").unwrap()
}

fn set() -> Operation {
    Operation::set_variable("v", 1)
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario(
        "Engine::execute",
        Before::Nothing,
        begins,
        act! { world:
            world.engine().execute(&plain(), ()).await.unwrap();
        },
    ),
    scenario(
        "Engine::start",
        Before::Nothing,
        begins,
        act! { world:
            let workflow = plain();
            world.engine().start(&workflow, ()).await.unwrap();
        },
    ),
    scenario(
        "Engine::start_with",
        Before::Nothing,
        begins,
        act! { world:
            world.engine().start_with(&waits(), (), options()).await.unwrap();
        },
    ),
    scenario(
        "Engine::start_with",
        Before::LeftAtGo,
        begins,
        act! { world:
            world.engine().start_with(&waits(), (), options()).await.unwrap();
        },
    ),
    scenario(
        "Engine::start_with",
        Before::Left,
        begins,
        act! { world:
            // And drives it: what is taken over is begun again.
            let run = world.engine().start_with(&plain(), (), StartOptions::id("r")).await.unwrap();
            run.outcome().await.unwrap();
        },
    ),
    scenario(
        "Engine::enqueue",
        Before::Nothing,
        begins,
        act! { world:
            world.engine().enqueue(&waits(), (), options()).await.unwrap();
        },
    ),
    scenario(
        "Engine::enqueue",
        Before::LeftAtGo,
        begins,
        act! { world:
            world.engine().enqueue(&waits(), (), options()).await.unwrap();
        },
    ),
    scenario(
        "Engine::run",
        Before::LeftAtGo,
        begins,
        act! { world:
            world.engine().run(&id()).await.unwrap();
        },
    ),
    scenario(
        "Engine::list",
        Before::Go,
        begins,
        act! { world:
            let runs = world.engine().list(RunQuery::default()).await.unwrap();
            assert_eq!(runs.len(), 1);
        },
    ),
    scenario(
        "Engine::serve",
        Before::Started,
        ends,
        act! { world:
            drop(world.handle());
            world.engine().serve(world.nap(25 * SECOND)).await.unwrap();
        },
    ),
    scenario(
        "Engine::serve",
        Before::Left,
        ends,
        act! { world:
            world.engine().serve(world.nap(45 * SECOND)).await.unwrap();
        },
    ),
    scenario(
        "Engine::serve",
        Before::LeftAtGo,
        ends,
        act! { world:
            world.engine().serve(world.nap(45 * SECOND)).await.unwrap();
        },
    ),
    scenario(
        "Engine::reopen",
        Before::Ended,
        reopens,
        act! { world:
            let again = Operation::rerun("last");
            world.engine().reopen(&id(), again, reason()).await.unwrap();
        },
    ),
    scenario(
        "Engine::reopen",
        Before::LeftAtGo,
        operates,
        act! { world:
            world.engine().reopen(&id(), set(), reason()).await.unwrap();
        },
    ),
    #[cfg(feature = "secrets")]
    scenario(
        "Engine::reseal",
        Before::LeftAtGo,
        reseals,
        act! { world:
            assert_eq!(world.engine().reseal(&id(), reason()).await.unwrap(), 1);
        },
    ),
    scenario(
        "RunHandle::outcome",
        Before::Started,
        ends,
        act! { world:
            world.handle().outcome().await.unwrap();
        },
    ),
    scenario(
        "RunHandle::signal",
        Before::Go,
        taken,
        act! { world:
            world.handle().signal("go", "mine").await.unwrap();
        },
    ),
    scenario(
        "RunHandle::signal",
        Before::LeftAtGo,
        taken,
        act! { world:
            let handle = world.engine().run(&id()).await.unwrap();
            handle.signal("go", "mine").await.unwrap();
        },
    ),
    scenario(
        "RunHandle::signal_with",
        Before::Go,
        taken,
        act! { world:
            world.handle().signal_with(Signal::new("go", "mine").transient()).await.unwrap();
        },
    ),
    scenario(
        "RunHandle::approve",
        Before::Vote,
        votes,
        act! { world:
            let handle = world.handle();
            let open = handle.approvals().remove(0);
            handle.approve(open.id, Vote::approve("ann")).await.unwrap();
        },
    ),
    scenario(
        "RunHandle::load",
        Before::Go,
        begins,
        act! { world:
            let handle = world.handle();
            let output = handle.snapshot().step_output("first").unwrap();
            assert_ne!(output, "long ".repeat(20), "it is elsewhere");
            assert_eq!(handle.load(&output).await.unwrap(), "long ".repeat(20));
        },
    ),
    scenario(
        "RunHandle::journal",
        Before::Go,
        begins,
        act! { world:
            let events = world.handle().journal(0, 10).await.unwrap();
            assert!(matches!(events[0], (0, _)));
        },
    ),
    scenario(
        "RunHandle::events",
        Before::Started,
        ends,
        act! { world:
            let handle = world.handle();
            let mut events = handle.events();
            let mut last = None;
            let reads = async {
                while let Some(event) = events.next().await {
                    last = Some(event);
                }
            };
            let (outcome, ()) = join(handle.outcome(), reads).await;
            assert_eq!(outcome.unwrap().status(), RunStatus::Succeeded);
            assert!(last.is_some(), "what has happened was said");
        },
    ),
    scenario(
        "Engine::preview_migration",
        Before::LeftAtGo,
        begins,
        act! { world:
            let all = world.engine().preview_migration(&more(), Mapping::new()).unwrap();
            let all: Vec<_> = all.try_collect().await.unwrap();
            assert!(matches!(all[..], [RunMigration { verdict: Verdict::Moves(_), .. }]), "{all:?}");
        },
    ),
    scenario("Engine::migrate", Before::Go, modifies, act! { world: migrates(&world).await; }),
    scenario(
        "Engine::migrate",
        Before::LeftAtGo,
        modifies,
        act! { world: migrates(&world).await; },
    ),
    scenario(
        "Engine::purge",
        Before::Go,
        begins,
        act! { world:
            let all = Retention::new().keep_at_most(0);
            assert_eq!(world.engine().purge(&all).await.unwrap(), 0, "it has not ended");
        },
    ),
    scenario(
        "RunHandle::pause",
        Before::Go,
        pauses,
        act! { world:
            world.handle().pause(reason()).await.unwrap();
        },
    ),
    scenario(
        "RunHandle::resume",
        Before::Paused,
        resumes,
        act! { world:
            world.handle().resume(reason()).await.unwrap();
        },
    ),
    stops(scenario(
        "RunHandle::cancel",
        Before::Go,
        cancels,
        act! { world:
            world.handle().cancel(reason()).await.unwrap();
        },
    )),
    stops(scenario(
        "RunHandle::cancel_within",
        Before::Started,
        cancels,
        act! { world:
            world.handle().cancel_within(Duration::ZERO, reason()).await.unwrap();
        },
    )),
    stops(scenario(
        "RunHandle::terminate",
        Before::Vote,
        cuts,
        act! { world:
            world.handle().terminate(reason()).await.unwrap();
        },
    )),
    scenario(
        "RunHandle::operate",
        Before::Go,
        operates,
        act! { world:
            world.handle().operate(set(), reason()).await.unwrap();
        },
    ),
];
