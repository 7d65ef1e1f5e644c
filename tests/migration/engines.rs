//! Migration through engines: restarts, crashes, other editors, all runs of a workflow at once.

use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use serde_json::json;
use stepwell::engine::{EngineLimits, RunMigration, Verdict};
use stepwell::journal::Mapping;
use stepwell::storage::{Memory, RunQuery, Storage};
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::{Engine, ErrorKind, RunHandle, StartOptions, Step, Wait, Workflow, executor_fn};

use super::{SECOND, drive, flow, reason};

/// Which attempts of which steps have begun, with their keys.
type Begun = Arc<Mutex<Vec<(String, String)>>>;

/// An engine whose steps take ten seconds.
fn engine(time: &VirtualRuntime, storage: impl Storage, begun: &Begun) -> Engine {
    let begun = Arc::clone(begun);
    let work = executor_fn(move |ctx| {
        begun.lock().unwrap().push((ctx.step(), ctx.idempotency_key()));
        async move {
            ctx.sleep(10 * SECOND).await;
            Ok(ctx.step())
        }
    });
    // What has happened is read from snapshots wherever it can be.
    let limits = EngineLimits { snapshot_every: 1, ..EngineLimits::default() };
    let engine = Engine::builder().runtime(time.clone()).storage(storage).limits(limits);
    engine.executor("work", work).build().unwrap()
}

fn task(id: &str) -> Step {
    Step::task(id, "work")
}

/// One that waits first, one that works first.
fn versions() -> (Workflow, Workflow) {
    let old = [Step::wait("ask", Wait::signal("go")), task("ship").after("ask"), task("lint")];
    let new = [
        task("check"),
        Step::wait("approve", Wait::signal("go")),
        task("test").after("approve"),
        task("ship").after("test").after("check"),
    ];
    (flow(1, old), flow(2, new))
}

fn renames() -> Mapping {
    Mapping::new().rename("ask", "approve").rename("lint", "check")
}

async fn migrate(run: &RunHandle, to: &Workflow, mapping: Mapping) -> stepwell::Result<()> {
    let migration = run.migration(to, mapping, run.definition().1)?;
    run.operate(migration, reason()).await
}

#[test]
fn a_step_that_runs_goes_on_under_its_new_name_and_over_a_restart_with_its_key() {
    let (time, storage, begun) = (VirtualRuntime::new(1), Memory::new(), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let first = engine(&time, storage.clone(), &begun);
        let run = first.start(&old, ()).await.unwrap();
        drive(&first, &run, 2 * SECOND).await;
        migrate(&run, &new, renames()).await.unwrap();
        assert_eq!(run.definition().0.version, Some(2));
        drive(&first, &run, 2 * SECOND).await;
        let id = run.id().clone();
        drop((run, first));
        let second = engine(&time, storage.clone(), &begun);
        let run = second.run(&id).await.unwrap();
        assert_eq!(run.definition().0, *new.definition());
        run.signal("go", ()).await.unwrap();
        let outcome = run.outcome().await.unwrap();
        assert_eq!(outcome.output().unwrap(), "ship");
        // The attempt was begun before its step had this name, and ended after.
        assert_eq!(run.snapshot().step_output("check").unwrap(), "check");
    })
    .unwrap();
    let begun = begun.lock().unwrap();
    let names: Vec<&str> = begun.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(names, ["lint", "check", "test", "ship"]);
    assert_eq!(begun[0].1, begun[1].1, "the same attempt has the same key");
}

#[test]
fn a_step_that_runs_meanwhile_ends_under_its_new_name() {
    let (time, begun) = (VirtualRuntime::new(1), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let engine = engine(&time, Memory::new(), &begun);
        let run = engine.start(&old, ()).await.unwrap();
        drive(&engine, &run, 2 * SECOND).await;
        migrate(&run, &new, renames()).await.unwrap();
        drive(&engine, &run, 20 * SECOND).await;
        assert_eq!(run.snapshot().step_output("check").unwrap(), "check");
        // Removed while it waits, and begun anew by the definition that has it again.
        migrate(&run, &old, Mapping::new().remove("approve").rename("check", "lint"))
            .await
            .unwrap();
        run.signal("go", ()).await.unwrap();
        assert_eq!(
            run.outcome().await.unwrap().output().unwrap(),
            &json!({"lint": "check", "ship": "ship"})
        );
    })
    .unwrap();
    let begun = begun.lock().unwrap();
    let names: Vec<&str> = begun.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(names, ["lint", "ship"]);
}

#[test]
fn what_is_removed_while_it_runs_is_dropped_and_its_name_is_not_given_again() {
    let (time, begun) = (VirtualRuntime::new(1), Begun::default());
    let (old, new) = (flow(1, [task("a"), task("b")]), flow(2, [task("b"), task("a").after("b")]));
    time.block_on(async {
        let engine = engine(&time, Memory::new(), &begun);
        let run = engine.start(&old, ()).await.unwrap();
        drive(&engine, &run, 2 * SECOND).await;
        let migration = run.migration(&new, Mapping::new().remove("a"), 0).unwrap();
        assert_eq!(run.preview(&migration).unwrap().dropped, ["a"]);
        run.operate(migration, reason()).await.unwrap();
        drive(&engine, &run, SECOND).await;
        assert_eq!(run.progress().running, 1);
        run.outcome().await.unwrap();
    })
    .unwrap();
    let begun = begun.lock().unwrap();
    let names: Vec<&str> = begun.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(names, ["a", "b", "a"]);
    assert_ne!(begun[0].1, begun[2].1, "another step has another key");
}

#[test]
fn of_two_editors_one_is_told() {
    let (time, begun) = (VirtualRuntime::new(1), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let engine = engine(&time, Memory::new(), &begun);
        let run = engine.start(&old, ()).await.unwrap();
        let (mine, theirs) = (run.migration(&new, renames(), 0), run.modification(&new, 0));
        run.operate(mine.unwrap(), reason()).await.unwrap();
        let late = run.operate(theirs.unwrap(), reason()).await.unwrap_err();
        assert!(late.to_string().contains("at revision 1 by now"), "{late}");
    })
    .unwrap();
}

#[test]
fn what_stands_in_the_way_comes_as_problems() {
    let (time, begun) = (VirtualRuntime::new(1), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let engine = engine(&time, Memory::new(), &begun);
        let run = engine.start(&old, ()).await.unwrap();
        drive(&engine, &run, SECOND).await;
        let refused = migrate(&run, &new, Mapping::new()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Rejected);
        let paths: Vec<&str> = refused.problems().iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["ask", "lint"]);
        let unknown = flow(3, [Step::task("x", "wrok")]);
        assert_eq!(run.migration(&unknown, renames(), 0).unwrap_err().kind(), ErrorKind::NotFound);
    })
    .unwrap();
}

#[test]
fn a_crash_before_or_after_the_commit_migrates_once_or_not_at_all() {
    for fault in [Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter] {
        for number in 1..30 {
            let (time, storage, begun) = (VirtualRuntime::new(1), Memory::new(), Begun::default());
            let (old, new) = versions();
            time.block_on(async {
                let armed = Arc::new(Mutex::new(None::<u64>));
                let plan = Arc::clone(&armed);
                let faulty = Faulty::new(storage.clone(), move |_| {
                    let mut left = plan.lock().unwrap();
                    *left = left.map(|left| left.wrapping_sub(1));
                    (*left == Some(0)).then_some(fault)
                });
                let first = engine(&time, faulty, &begun);
                let run = first.start(&old, ()).await.unwrap();
                drive(&first, &run, 2 * SECOND).await;
                let id = run.id().clone();
                *armed.lock().unwrap() = Some(number);
                {
                    let migration = migrate(&run, &new, renames());
                    let nap = first.runtime().sleep_until(first.runtime().now() + SECOND);
                    futures::future::select(Box::pin(migration), nap).await;
                }
                *armed.lock().unwrap() = None;
                drop((run, first));
                let second = engine(&time, storage.clone(), &begun);
                let run = second.run(&id).await.unwrap();
                drive(&second, &run, 120 * SECOND).await;
                let revision = run.definition().1;
                assert!(revision <= 1, "{fault:?} {number}: {revision}");
                if revision == 0 {
                    migrate(&run, &new, renames()).await.unwrap();
                }
                run.signal("go", ()).await.unwrap();
                let outcome = run.outcome().await.unwrap();
                assert_eq!(outcome.output().unwrap(), "ship", "{fault:?} {number}");
            })
            .unwrap();
        }
    }
}

/// Runs in as many states as there are numbers, each with its id.
async fn several(engine: &Engine, old: &Workflow, count: usize) {
    for number in 0..count {
        let run =
            engine.start_with(old, (), StartOptions::id(format!("r{number:03}"))).await.unwrap();
        drive(engine, &run, (number % 4) as u32 * 5 * SECOND).await;
        match number % 3 {
            1 => run.signal("go", ()).await.unwrap(),
            2 => run.pause(reason()).await.unwrap(),
            _ => {}
        }
        if number % 10 == 9 {
            run.terminate(reason()).await.unwrap();
        }
    }
}

fn told(all: &[RunMigration]) -> Vec<String> {
    let tell = |migration: &RunMigration| {
        let verdict = match &migration.verdict {
            Verdict::Moves(preview) => format!("moves {preview:?}"),
            Verdict::Stays(error) => format!("stays {error}"),
            other => format!("{other:?}"),
        };
        format!("{} {} {verdict}", migration.run, migration.from)
    };
    all.iter().map(tell).collect()
}

#[test]
fn the_preview_of_all_runs_is_what_happens() {
    let (time, storage, begun) = (VirtualRuntime::new(1), Memory::new(), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let engine = engine(&time, storage.clone(), &begun);
        // More than a page, and some of another workflow.
        several(&engine, &old, 130).await;
        let other =
            Workflow::builder("other").step(Step::wait("x", Wait::signal("go"))).build().unwrap();
        engine.start(&other, ()).await.unwrap();
        let lengths = async || {
            let all = engine.list(RunQuery::default()).await.unwrap();
            all.into_iter().map(|run| (run.id, run.events)).collect::<Vec<_>>()
        };
        let before = lengths().await;
        // Those that have shipped cannot go over without a word about it.
        let mapping = || Mapping::new().rename("lint", "check");
        let preview: Vec<_> =
            engine.preview_migration(&new, mapping()).unwrap().try_collect().await.unwrap();
        assert_eq!(lengths().await, before, "a preview has written");
        let live = RunQuery { workflow: Some("w".into()), live: true, ..RunQuery::default() };
        assert_eq!(preview.len(), engine.list(live.clone()).await.unwrap().len());
        assert!(preview.len() > 100, "{}", preview.len());
        let kinds = |all: &[RunMigration]| {
            let well = all.iter().filter(|run| run.is_well()).count();
            (well, all.len() - well)
        };
        assert!(kinds(&preview).1 > 10, "{:?}", kinds(&preview));
        let done: Vec<_> =
            engine.migrate(&new, mapping(), reason()).unwrap().try_collect().await.unwrap();
        assert_eq!(told(&done), told(&preview));
        for migration in &done {
            let run = engine.run(&migration.run).await.unwrap();
            assert_eq!(run.definition().1, u32::from(migration.is_well()), "{migration:?}");
        }
        // Once more, with what was missing: what is there is passed by.
        let rest: Vec<_> =
            engine.migrate(&new, renames(), reason()).unwrap().try_collect().await.unwrap();
        let there = rest.iter().filter(|run| matches!(run.verdict, Verdict::IsThere)).count();
        assert_eq!((kinds(&rest).1, there), (0, kinds(&done).0), "{:#?}", told(&rest));
        for migration in rest {
            let run = engine.run(&migration.run).await.unwrap();
            assert_eq!(run.definition().0.version, Some(2));
        }
    })
    .unwrap();
}

#[test]
fn a_run_that_cannot_be_read_is_told_and_the_others_go_on() {
    let (time, storage, begun) = (VirtualRuntime::new(1), Memory::new(), Begun::default());
    let (old, new) = versions();
    time.block_on(async {
        let loads = Mutex::new(0);
        let faulty = Faulty::new(storage, move |call| {
            let mut loads = loads.lock().unwrap();
            *loads += u32::from(call.method == "load");
            (call.method == "load" && *loads == 2).then_some(Fault::Before)
        });
        let engine = engine(&time, faulty, &begun);
        for id in ["a", "b", "c"] {
            engine.start_with(&old, (), StartOptions::id(id)).await.unwrap();
        }
        let all: Vec<_> =
            engine.preview_migration(&new, renames()).unwrap().try_collect().await.unwrap();
        let well: Vec<bool> = all.iter().map(RunMigration::is_well).collect();
        assert_eq!(well, [true, false, true], "{all:?}");
    })
    .unwrap();
}

#[test]
fn sub_workflows_of_another_version_are_another_definition() {
    let (time, begun) = (VirtualRuntime::new(1), Begun::default());
    let sub = |version, id| {
        let steps = [Step::wait(id, Wait::signal("go"))];
        Workflow::builder("sub").version(version).steps(steps).build().unwrap()
    };
    let workflow = flow(1, [Step::workflow("s", "sub")]);
    time.block_on(async {
        let engine = engine(&time, Memory::new(), &begun);
        engine.define(&sub(1, "a")).unwrap();
        let run = engine.start(&workflow, ()).await.unwrap();
        let verdict = async |mapping| {
            let stream = engine.preview_migration(&workflow, mapping).unwrap();
            let mut all: Vec<_> = stream.try_collect().await.unwrap();
            all.pop().unwrap().verdict
        };
        assert!(matches!(verdict(Mapping::new()).await, Verdict::IsThere));
        engine.define(&sub(2, "b")).unwrap();
        assert!(matches!(verdict(Mapping::new()).await, Verdict::Stays(_)));
        let mapping = Mapping::new().rename("s/a", "s/b");
        assert!(matches!(verdict(mapping.clone()).await, Verdict::Moves(_)));
        migrate(&run, &workflow, mapping).await.unwrap();
        assert_eq!(run.waits()[0].step, "s/b");
        run.signal("go", 5).await.unwrap();
        assert_eq!(run.outcome().await.unwrap().output().unwrap(), &5);
    })
    .unwrap();
}
