//! Several that share a database, and a database that goes away.

use stepwell::ErrorKind;

use super::server::Own;
use super::*;

#[test]
fn each_parked_run_is_given_to_one_of_many_that_ask_at_once() {
    let Some((storage, schema)) = opened("race") else { return };
    for number in 0..200 {
        let run = new_run(&format!("p{number}"), &workflow("w"), Holding::Parked(Some(at(5))));
        block_on(storage.create(run)).unwrap();
    }
    let take = |owner: u128| {
        let options = PostgresOptions::new().schema(&schema);
        std::thread::spawn(move || {
            let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
            alive(&storage, Owner(owner));
            let few = || claimed(&storage, Claim { limit: 3, ..claim(Owner(owner), 5) });
            std::iter::repeat_with(few).take_while(|few| !few.is_empty()).flatten().collect()
        })
    };
    let takers: Vec<_> = (1..=6).map(take).collect();
    let taken: Vec<Vec<(String, u32)>> =
        takers.into_iter().map(|taker| taker.join().unwrap()).collect();
    let mut taken: Vec<(String, u32)> = taken.concat();
    assert_eq!(taken.len(), 200);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 200, "each was given to one");
}

#[test]
fn a_claim_passes_over_a_run_that_somebody_is_just_changing() {
    let Some((storage, schema)) = opened("locked") else { return };
    for name in ["a", "b"] {
        let run = new_run(name, &workflow("w"), Holding::Parked(Some(at(5))));
        block_on(storage.create(run)).unwrap();
    }
    let server = server().unwrap();
    let mut other = block_on(async {
        <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap()
    });
    let lock = format!("BEGIN; SELECT * FROM {schema}.runs WHERE id = 'a' FOR UPDATE");
    block_on(sqlx::Executor::execute(&mut other, sqlx::AssertSqlSafe(lock))).unwrap();
    assert_eq!(claimed(&storage, claim(A, 5)), [("b".to_string(), 0)]);
    block_on(sqlx::Executor::execute(&mut other, "COMMIT")).unwrap();
    assert_eq!(claimed(&storage, claim(A, 5)), [("a".to_string(), 0)]);
}

#[test]
fn whoever_was_taken_over_cannot_write() {
    let Some((one, schema)) = opened("fence") else { return };
    let options = PostgresOptions::new().schema(&schema);
    let two = block_on(options.connect(&server().unwrap().url())).unwrap();
    create(&one, "r");
    alive(&one, A);
    assert_eq!(claimed(&two, claim(B, 1)), [], "its owner is alive");
    let gone = vec![Beat { owner: A, count: 1 }];
    assert_eq!(claimed(&two, Claim { gone, ..claim(B, 1) }), [("r".to_string(), 1)]);
    let late = write(&one, "r", commit(A, 0, vec![ready(0)])).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert!(load(&one, "r").journal.is_empty());
    write(&two, "r", commit(B, 0, vec![ready(0)])).unwrap();
}

/// Does this until it goes well; what fails before is worth trying again.
fn insist<T>(mut work: impl FnMut() -> Result<T>) -> T {
    for _ in 0..100 {
        match work() {
            Ok(done) => return done,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    panic!("it does not come back");
}

#[test]
fn connections_that_were_cut_are_replaced() {
    let Some((storage, schema)) = opened("cut") else { return };
    create(&storage, "r");
    for turn in 0..5 {
        // Ours only: others use the same server.
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND query LIKE '%{schema}%'"
        );
        assert!(number(server().unwrap(), &cut) > 0);
        let length = insist(|| block_on(storage.load(&id("r")))).unwrap().journal.len() as u64;
        assert_eq!(length, turn);
        // Nothing of it was sent on a connection that was cut before.
        insist(|| write(&storage, "r", commit(A, turn, vec![ready(0)])));
        insist(|| block_on(storage.beat(A)));
    }
}

#[test]
fn a_server_that_was_restarted_has_all_that_it_said_was_written() {
    let Some(mut own) = Own::start() else { return };
    let storage = block_on(PostgresOptions::new().connect(&own.url())).unwrap();
    block_on(storage.migrate()).unwrap();
    create(&storage, "r");
    for turn in 0..4 {
        write(&storage, "r", commit(A, turn, vec![ready(0)])).unwrap();
        own.restart();
        let length = insist(|| block_on(storage.load(&id("r")))).unwrap().journal.len() as u64;
        assert_eq!(length, turn + 1);
        insist(|| block_on(storage.claim(claim(B, 1))));
        // The first may fail, as the connection was cut; nothing of it is written then.
        let length = || load(&storage, "r").journal.len() as u64;
        let first = write(&storage, "r", commit(B, turn + 1, Vec::new()));
        assert!(first.is_ok() || first.is_err_and(|error| error.is_transient()));
        assert_eq!(length(), turn + 1);
        insist(|| {
            write(
                &storage,
                "r",
                Commit { holding: Holding::Held(A), ..commit(B, turn + 1, vec![]) },
            )
        });
    }
}

#[test]
fn an_engine_goes_on_when_its_connections_are_cut() {
    let Some((storage, schema)) = opened("engine") else { return };
    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND query LIKE '%{schema}%'"
    );
    let cutting = executor_fn(move |_| {
        let cut = cut.clone();
        // On a thread that is not in the middle of a future.
        let thread = std::thread::spawn(move || number(server().unwrap(), &cut));
        thread.join().unwrap();
        async { Ok(()) }
    });
    let engine =
        Engine::builder().storage(storage.clone()).executor("cut", cutting).build().unwrap();
    let steps = (0..6).map(|number| {
        let step = Step::task(format!("s{number}"), "cut");
        if number == 0 { step } else { step.after(format!("s{}", number - 1)) }
    });
    let workflow = steps.fold(Workflow::builder("w"), |all, step| all.step(step)).build().unwrap();
    let handle = block_on(engine.start(&workflow, ())).unwrap();
    let outcome = insist(|| block_on(handle.outcome()));
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
    let journal = load(&storage, handle.id().as_str()).journal;
    let starts = journal.iter().filter(|it| matches!(it.event, Event::StepStarted { .. }));
    assert_eq!(starts.count(), 6, "each was begun once");
}
