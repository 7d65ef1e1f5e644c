//! Writes that come at once share a statement, and nothing else.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use stepwell::ErrorKind;

use super::runs::together;
use super::*;

#[test]
fn many_threads_that_commit_to_many_runs_lose_nothing() {
    let Some((storage, _)) = opened("threads") else { return };
    together::many_threads_commit(&storage, 20);
}

#[test]
fn one_that_is_refused_among_many_changes_nothing_and_the_others_are_done() {
    let Some((storage, _)) = opened("refused") else { return };
    together::some_of_many_are_refused(&storage);
}

#[test]
fn several_things_for_one_run_are_done_in_the_order_in_which_they_were_asked() {
    let Some((storage, _)) = opened("order") else { return };
    let run = new_run("r", &workflow("w"), Holding::Held(A));
    let created = storage.create(run);
    let first = storage.commit(&id("r"), commit(A, 0, vec![started()]));
    let posted = storage.post(&id("r"), signal("s"));
    let second = storage.commit(&id("r"), commit(A, 1, vec![ready(0)]));
    let late = storage.commit(&id("r"), commit(A, 1, vec![ready(1)]));
    // The last is waited for first.
    let (late, second, posted, first, created) =
        block_on(async { futures::join!(late, second, posted, first, created) });
    assert!(matches!(created, Ok(Created::New)));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(first.is_ok() && second.is_ok() && posted.is_ok());
    assert_eq!(load(&storage, "r").journal, [started(), ready(0)]);
}

#[test]
fn one_that_the_database_cannot_take_does_not_spoil_the_others() {
    let Some((storage, schema)) = opened("spoil") else { return };
    for name in ["good", "bad", "fine"] {
        create(&storage, name);
    }
    let refuse = "CREATE FUNCTION s.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF new.run = (SELECT run FROM s.runs WHERE id = 'bad') THEN
            RAISE EXCEPTION 'the disk of this run is full';
          END IF;
          RETURN new;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON s.events FOR EACH ROW EXECUTE FUNCTION s.refuse()";
    sql(server().unwrap(), &refuse.replace("s.", &format!("{schema}.")));
    for turn in 0..3 {
        let commits: Vec<_> = ["good", "bad", "fine"]
            .map(|name| {
                let expected = if name == "bad" { 0 } else { 2 * turn };
                storage.commit(&id(name), commit(A, expected, vec![ready(0), ready(1)]))
            })
            .into();
        let done = block_on(join_all(commits));
        let error = done[1].as_ref().unwrap_err();
        assert!(error.kind() == ErrorKind::Storage && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("the disk of this run is full"), "{error}");
        assert!(done[0].is_ok() && done[2].is_ok(), "{done:?}");
    }
    for (name, events) in [("good", 6), ("bad", 0), ("fine", 6)] {
        assert_eq!(load(&storage, name).journal.len(), events);
    }
}

#[test]
fn what_comes_at_once_is_written_in_one_transaction_of_each_lane() {
    let Some((storage, schema)) = opened("group") else { return };
    let names: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    names.iter().for_each(|name| create(&storage, name));
    let commits = names.iter().map(|name| storage.commit(&id(name), commit(A, 0, vec![ready(0)])));
    let commits: Vec<_> = commits.collect();
    assert!(block_on(join_all(commits)).iter().all(Result::is_ok));
    let made = format!("SELECT count(DISTINCT xmin::text) FROM {schema}.events");
    let made = number(server().unwrap(), &made);
    assert!((1..=2).contains(&made), "{made} transactions");
}

#[test]
fn whoever_stops_waiting_in_the_middle_stops_nobody_else() {
    let Some((storage, schema)) = opened("leader") else { return };
    let names: Vec<String> = (0..40).map(|number| format!("r{number}")).collect();
    names.iter().for_each(|name| create(&storage, name));
    let server = server().unwrap();
    let other = block_on(PostgresOptions::new().schema(&schema).connect(&server.url())).unwrap();
    for polls in 0..12_usize {
        let turn = polls as u64;
        let mut all: Vec<_> = names
            .iter()
            .map(|name| storage.commit(&id(name), commit(A, turn, vec![ready(0)])))
            .collect();
        // These drive the writes of all, and are dropped.
        let (leaders, rest) = (all.drain(..8).collect::<Vec<_>>(), all);
        for leader in leaders {
            let mut leader = pin!(leader);
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if leader.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let done = block_on(join_all(rest));
        assert!(done.iter().all(Result::is_ok), "after {polls} polls: {done:?}");
        for name in &names {
            // By somebody else: no row stays locked. What was dropped has happened or not.
            let length = load(&other, name).journal.len() as u64;
            assert!(length == turn || length == turn + 1);
            if length == turn {
                let again = write(&other, name, commit(A, turn, vec![ready(0)]));
                // Unless it was on its way.
                assert!(again.is_ok() || load(&other, name).journal.len() as u64 == turn + 1);
            }
        }
    }
}

#[test]
fn one_connection_is_enough_for_everything() {
    let Some(server) = server() else { return };
    let options = PostgresOptions::new().schema(fresh("single")).connections(1);
    let storage = block_on(options.connect(&server.url())).unwrap();
    block_on(storage.migrate()).unwrap();
    let work = |number: usize| {
        let storage = storage.clone();
        std::thread::spawn(move || {
            let name = format!("r{number}");
            create(&storage, &name);
            for turn in 0..10 {
                write(&storage, &name, commit(A, turn, vec![ready(0)])).unwrap();
                alive(&storage, A);
            }
            load(&storage, &name).journal.len()
        })
    };
    let working: Vec<_> = (0..8).map(work).collect();
    for thread in working {
        assert_eq!(thread.join().unwrap(), 10);
    }
}

#[test]
fn whoever_listens_hears_of_messages_and_of_engines_that_go() {
    let Some((storage, _)) = opened("news") else { return };
    create(&storage, "r");
    let mut both = [A, Owner(3)].map(|owner| storage.news(owner));
    for news in &mut both {
        assert_eq!(block_on(news.next()), Some(()), "it listens");
    }
    block_on(storage.post(&id("r"), Message::Signal(Signal::new("s", 1)))).unwrap();
    assert_eq!(block_on(both[0].next()), Some(()), "it holds the run");
    create(&storage, "held");
    assert_eq!(both.each_mut().map(|news| news.next().now_or_never()), [None, None]);
    let due = Holding::Parked(Some(at(1)));
    block_on(storage.create(new_run("free", &workflow("w"), due))).unwrap();
    for news in &mut both {
        assert_eq!(block_on(news.next()), Some(()), "a run is nobody's");
    }
    block_on(storage.retire(B)).unwrap();
    for news in &mut both {
        assert_eq!(block_on(news.next()), Some(()), "somebody is gone");
    }
}

#[test]
fn statements_are_as_isolated_as_they_are_meant_to_be_whatever_the_role_has() {
    let Some(server) = server() else { return };
    let role = fresh("serial");
    sql(server, &format!("CREATE ROLE {role} LOGIN SUPERUSER"));
    sql(server, &format!("ALTER ROLE {role} SET default_transaction_isolation = 'serializable'"));
    let url = server.url().replace("postgres@", &format!("{role}@"));
    let options = || PostgresOptions::new().schema(role.clone());
    let storage = block_on(options().connect(&url)).unwrap();
    block_on(storage.migrate()).unwrap();
    let posts = |number: usize| {
        let storage = storage.clone();
        std::thread::spawn(move || {
            let name = format!("r{}", number % 2);
            (0..20).try_for_each(|_| block_on(storage.post(&id(&name), signal("s"))).map(drop))
        })
    };
    create(&storage, "r0");
    create(&storage, "r1");
    let posting: Vec<_> = (0..8).map(posts).collect();
    posting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    // What the host's own sessions have is the host's.
    let pool = block_on(sqlx::PgPool::connect(&url)).unwrap();
    let refused = block_on(options().with_pool(pool.clone())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert!(refused.to_string().contains("`serializable`"), "{refused}");
    block_on(options().behind_a_pooler().with_pool(pool)).unwrap();
}

#[test]
fn nothing_is_new_as_long_as_nobody_can_listen_and_something_may_be_when_somebody_can() {
    let Some(server) = server() else { return };
    let role = fresh("listener");
    sql(server, &format!("CREATE ROLE {role} LOGIN SUPERUSER"));
    let url = server.url().replace("postgres@", &format!("{role}@"));
    let options = PostgresOptions::new().schema(fresh("listens"));
    let storage = block_on(options.connect(&url)).unwrap();
    block_on(storage.migrate()).unwrap();
    sql(server, &format!("ALTER ROLE {role} NOLOGIN"));
    let mut news = storage.news(A);
    // For longer than between two attempts.
    let a_while = futures_timer::Delay::new(Duration::from_secs(6));
    let early = block_on(futures::future::select(news.next(), a_while));
    assert!(matches!(early, futures::future::Either::Right(_)), "nobody can log in");
    sql(server, &format!("ALTER ROLE {role} LOGIN"));
    assert_eq!(block_on(news.next()), Some(()), "something may have been missed");
    assert_eq!(news.next().now_or_never(), None, "once");
}

#[test]
fn whoever_waits_for_a_connection_and_is_not_polled_holds_up_nobody() {
    let Some((_, schema)) = opened("unpolled") else { return };
    let options = PostgresOptions::new().schema(&schema).connections(3);
    let options = options.patience(Duration::from_secs(5));
    let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
    let name = id("r");
    let mut loads: Vec<_> = (0..4).map(|_| Box::pin(async { storage.load(&name).await })).collect();
    let mut context = Context::from_waker(Waker::noop());
    // What is answered while this thread has to wait for others is not polled again.
    loads.retain_mut(|load| match load.as_mut().poll(&mut context) {
        Poll::Ready(found) => {
            assert!(found.is_ok());
            false
        }
        Poll::Pending => true,
    });
    // There is no connection for this one yet, and nobody asks for it again.
    let unpolled = loads.pop();
    assert!(block_on(join_all(loads)).iter().all(Result::is_ok));
    for _ in 0..10 {
        let other = block_on(storage.load(&name));
        assert!(other.is_ok(), "{other:?}");
    }
    assert!(unpolled.is_none_or(|unpolled| block_on(unpolled).is_ok()));
}
