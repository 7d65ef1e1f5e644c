//! What a schema is when it is opened: nothing, ours, newer, or somebody else's.

use futures::FutureExt;
use stepwell::ErrorKind;
use stepwell::engine::EngineLimits;

use super::*;

#[test]
fn a_schema_that_was_never_migrated_says_what_to_call() {
    let Some(server) = server() else { return };
    let options = PostgresOptions::new().schema(fresh("nothing"));
    let storage = block_on(options.connect(&server.url())).unwrap();
    let error = block_on(storage.list(Default::default())).unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Storage, false));
    assert!(error.to_string().contains("Postgres::migrate"), "{error}");
    let run = new_run("r", &workflow("w"), Holding::Finished);
    let error = block_on(storage.create(run)).unwrap_err();
    assert!(error.to_string().contains("Postgres::migrate"), "{error}");
    block_on(storage.migrate()).unwrap();
    assert!(block_on(storage.list(Default::default())).unwrap().is_empty());
}

#[test]
fn many_that_migrate_at_once_all_can_and_what_is_there_stays() {
    let Some(server) = server() else { return };
    let options = PostgresOptions::new().schema(fresh("many"));
    let migrate = |number: usize| {
        let options = options.clone();
        std::thread::spawn(move || {
            let storage = block_on(options.connect(&server.url())).unwrap();
            block_on(storage.migrate()).unwrap();
            create(&storage, &format!("r{number}"));
            storage
        })
    };
    let migrating: Vec<_> = (0..8).map(migrate).collect();
    let storages: Vec<_> = migrating.into_iter().map(|thread| thread.join().unwrap()).collect();
    for storage in storages {
        block_on(storage.migrate()).unwrap();
        assert_eq!(block_on(storage.list(Default::default())).unwrap().len(), 8);
    }
}

#[test]
fn the_first_schema_becomes_the_newest_and_what_is_there_stays() {
    let Some(server) = server() else { return };
    // The rows are written by the newest program, and then everything is as it was.
    let (other, from) = opened("first_other").unwrap();
    create(&other, "r");
    let schema = fresh("first");
    let first = format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE stepwell.migrations
           (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO stepwell.migrations VALUES (1); {}",
        include_str!("../../src/storage/postgres/schema.sql")
    );
    sql(server, &first.replace("stepwell.", &format!("{schema}.")));
    for table in ["workflows", "runs", "events"] {
        sql(
            server,
            &format!(
                "INSERT INTO {schema}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {from}.{table}"
            ),
        );
    }
    // That of a run that was removed.
    let left = "OVERRIDING SYSTEM VALUE VALUES (77, 'w', 'x', '{}')";
    let left = format!("INSERT INTO {schema}.workflows (workflow, id, hash, definition) {left}");
    sql(server, &left);
    let options = PostgresOptions::new().schema(&schema);
    let storage = block_on(options.connect(&server.url())).unwrap();
    let run = RunId::new("r").unwrap();
    let error = block_on(storage.load(&run)).unwrap_err();
    assert!(error.to_string().contains("version 1"), "{error}");
    block_on(storage.migrate()).unwrap();
    let (found, expected) = (block_on(storage.load(&run)), block_on(other.load(&run)));
    let (found, expected) = (found.unwrap().unwrap(), expected.unwrap().unwrap());
    assert_eq!((found.journal, found.snapshot), (expected.journal, None));
    assert_eq!(number(server, &format!("SELECT count(*) FROM {schema}.workflows")), 1);
    let newest = number(server, &format!("SELECT max(version)::bigint FROM {schema}.migrations"));
    assert!(newest > 1, "{newest}");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let Some(server) = server() else { return };
    let schema = fresh("newer");
    let options = PostgresOptions::new().schema(&schema);
    let storage = block_on(options.clone().connect(&server.url())).unwrap();
    block_on(storage.migrate()).unwrap();
    sql(server, &format!("INSERT INTO {schema}.migrations VALUES (99)"));
    let error = block_on(options.connect(&server.url())).unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Storage && !error.is_transient(), "{error:?}");
    assert!(text.contains("version 99") && text.contains(&schema), "{text}");
    let error = block_on(storage.migrate()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}

fn becomes_newer(schema: &str) {
    sql(server().unwrap(), &format!("INSERT INTO {schema}.migrations VALUES (99)"));
}

fn is_refused<T: std::fmt::Debug>(done: Result<T>) {
    let error = done.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn a_program_that_is_running_notices_a_newer_schema_when_it_says_that_it_is_alive() {
    let Some((storage, schema)) = opened("overtaken") else { return };
    create(&storage, "r");
    alive(&storage, A);
    becomes_newer(&schema);
    is_refused(block_on(storage.beat(A)));
    is_refused(block_on(storage.load(&id("r"))));
    // Also on the connections that are kept for writing.
    is_refused(write(&storage, "r", commit(A, 0, vec![started()])));
    is_refused(block_on(storage.create(new_run("s", &workflow("w"), Holding::Finished))));
    let beats = format!("SELECT beats FROM {schema}.owners");
    assert_eq!(number(server().unwrap(), &beats), 1, "whoever cannot go on is not alive");
}

#[test]
fn an_engine_that_is_served_lets_a_newer_schema_alone() {
    let Some((storage, schema)) = opened("overtaken_engine") else { return };
    let limits = EngineLimits { lease: Duration::from_millis(300), ..EngineLimits::default() };
    let engine = Engine::builder().storage(storage.clone()).limits(limits).build().unwrap();
    let (end, ends) = futures::channel::oneshot::channel::<()>();
    let serves = std::thread::spawn(move || block_on(engine.serve(ends.map(drop))));
    let owners = format!("SELECT count(*) FROM {schema}.owners WHERE beats > 2");
    until("it beats", || number(server().unwrap(), &owners) > 0);
    becomes_newer(&schema);
    // Nobody but the engine has it looked at.
    until("it notices", || block_on(storage.list(Default::default())).is_err());
    end.send(()).unwrap();
    is_refused(serves.join().unwrap());
}

#[test]
fn a_statement_that_a_newer_schema_does_not_know_has_the_version_looked_at() {
    let Some((storage, schema)) = opened("renamed") else { return };
    create(&storage, "r");
    becomes_newer(&schema);
    sql(server().unwrap(), &format!("ALTER TABLE {schema}.messages RENAME number TO place"));
    // Who never says that it is alive.
    assert!(block_on(storage.post(&id("r"), signal("s"))).is_err());
    is_refused(block_on(storage.post(&id("r"), signal("s"))));
}

/// Somebody who migrates for so long, and whether they have begun.
fn migrates(schema: &str, seconds: u32) -> std::thread::JoinHandle<()> {
    let key = format!("hashtextextended('migrate {schema}', 0)");
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
         AND ((classid::bigint << 32) | objid::bigint) = {key}"
    );
    let text = format!("SELECT pg_advisory_lock({key}); SELECT pg_sleep({seconds})");
    let other = std::thread::spawn(move || sql(server().unwrap(), &text));
    until("the lock is held", || number(server().unwrap(), &held) > 0);
    other
}

#[test]
fn who_migrates_waits_for_another_that_migrates_for_longer_than_for_anything_else() {
    let Some(server) = server() else { return };
    let schema = fresh("waits");
    let options = PostgresOptions::new().schema(&schema).patience(Duration::from_secs(1));
    let storage = block_on(options.connect(&server.url())).unwrap();
    let other = migrates(&schema, 3);
    block_on(storage.migrate()).unwrap();
    other.join().unwrap();
    assert!(block_on(storage.list(Default::default())).unwrap().is_empty());
}

#[test]
fn who_waits_for_long_for_another_that_migrates_is_told_so() {
    let Some(server) = server() else { return };
    let schema = fresh("waits_long");
    let options = PostgresOptions::new().schema(&schema);
    let options = options.migration_patience(Duration::from_millis(100));
    let storage = block_on(options.connect(&server.url())).unwrap();
    let other = migrates(&schema, 2);
    let error = block_on(storage.migrate()).unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Storage && error.is_transient(), "{error:?}");
    assert!(text.contains("another program") && text.contains(&schema), "{text}");
    other.join().unwrap();
    block_on(storage.migrate()).unwrap();
}

#[test]
fn a_server_that_is_to_give_up_soon_lets_a_migration_take_its_time() {
    let Some(server) = server() else { return };
    let schema = fresh("slow");
    let url = format!("{}&options[statement_timeout]=1s", server.url());
    let storage = block_on(PostgresOptions::new().schema(&schema).connect(&url)).unwrap();
    let other = migrates(&schema, 2);
    block_on(storage.migrate()).unwrap();
    other.join().unwrap();
}

#[test]
fn a_schema_of_another_program_is_refused_and_left_alone() {
    let Some(server) = server() else { return };
    let schema = fresh("foreign");
    sql(server, &format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.bookmarks (url text)"));
    let options = PostgresOptions::new().schema(&schema);
    let storage = block_on(options.connect(&server.url())).unwrap();
    let error = block_on(storage.migrate()).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    let count = format!(
        "SELECT count(*) FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid
         WHERE nspname = '{schema}'"
    );
    assert_eq!(number(server, &count), 1);
}

#[test]
fn an_empty_schema_with_a_strange_name_will_do() {
    let Some(server) = server() else { return };
    let name = "stepwell.\"ünï\"; DROP TABLE x --";
    sql(server, "CREATE SCHEMA \"stepwell.\"\"ünï\"\"; DROP TABLE x --\"");
    let storage = block_on(PostgresOptions::new().schema(name).connect(&server.url())).unwrap();
    block_on(storage.migrate()).unwrap();
    create(&storage, "r");
    write(&storage, "r", commit(A, 0, vec![started()])).unwrap();
    assert_eq!(load(&storage, "r").journal, [started()]);
}

#[test]
fn a_name_that_no_schema_can_have_is_refused() {
    let Some(server) = server() else { return };
    for name in ["", "a\0b", &"n".repeat(64), "pg_", "pg_runs"] {
        let error = block_on(PostgresOptions::new().schema(name).connect(&server.url()));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name:?}");
        assert!(error.to_string().contains("`pg_`"), "{error}");
    }
    // The server keeps only those for itself.
    for name in ["PG_runs", "my_pg_runs"] {
        let storage = block_on(PostgresOptions::new().schema(name).connect(&server.url())).unwrap();
        block_on(storage.migrate()).unwrap();
    }
}

#[test]
fn no_password_is_told_to_anybody() {
    let Some(server) = server() else { return };
    let nowhere = "/nowhere/at/all";
    let urls = [
        "postgres://ann:hunter2@localhost:not-a-port/x".to_string(),
        "hunter2".to_string(),
        format!("postgres://ann:hunter2@localhost/x?host={nowhere}"),
        server.url().replace("postgres@", "nobody-at-all:hunter2@"),
        server.url().replace("/postgres?", "/no_such_database?").replace('@', ":hunter2@"),
    ];
    for url in urls {
        let options = PostgresOptions::new().patience(Duration::from_secs(3));
        let error = block_on(options.connect(&url)).unwrap_err();
        let told = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!told.contains("hunter2") && !told.contains("SELECT"), "{told}");
    }
    let url = server.url().replace('@', ":hunter2@");
    let storage = block_on(PostgresOptions::new().schema("other").connect(&url)).unwrap();
    let told = format!("{storage:?}");
    assert!(!told.contains("hunter2") && told.contains("other in /"), "{told}");
}

#[test]
fn runs_of_one_definition_share_it_and_another_content_is_another_row() {
    let Some((storage, schema)) = opened("share") else { return };
    for run in ["x", "y"] {
        // Built twice: what counts is the content.
        create(&storage, run);
    }
    let (x, y) = (load(&storage, "x").workflow, load(&storage, "y").workflow);
    assert!(Arc::ptr_eq(x.program(), y.program()));
    let other = Workflow::builder("w").step(Step::task("other", "t")).build().unwrap();
    block_on(storage.create(new_run("z", &other, Holding::Finished))).unwrap();
    let server = server().unwrap();
    let definitions = format!("SELECT count(DISTINCT definition) FROM {schema}.run_overview");
    assert_eq!(number(server, &definitions), 2);
    // Whoever knows nothing yet reads what is there.
    let fresh = block_on(PostgresOptions::new().schema(&schema).connect(&server.url())).unwrap();
    assert_eq!(load(&fresh, "z").workflow, other);
    // Definitions that were removed are written again.
    sql(server, &format!("DELETE FROM {schema}.runs; DELETE FROM {schema}.workflows"));
    create(&storage, "x");
    assert_eq!(load(&fresh, "x").workflow, x);
}

#[test]
fn a_damaged_run_is_an_error_that_names_it_and_others_are_not_touched() {
    let Some((storage, schema)) = opened("damaged") else { return };
    let damages = [
        ("kind", "UPDATE s.events SET kind = 'nonsense' WHERE run = ? AND position = 1"),
        ("data", "UPDATE s.events SET data = '{}' WHERE run = ? AND position = 0"),
        ("gap", "DELETE FROM s.events WHERE run = ? AND position = 1"),
        ("end", "DELETE FROM s.events WHERE run = ? AND position = 2"),
        ("metadata", "UPDATE s.runs SET metadata = '[]' WHERE run = ?"),
    ];
    create(&storage, "whole");
    for (name, damage) in damages {
        create(&storage, name);
        write(&storage, name, commit(A, 0, vec![started(), ready(0), ready(1)])).unwrap();
        let find = format!("(SELECT run FROM s.runs WHERE id = '{name}')");
        let damage = damage.replace('?', &find).replace("s.", &format!("{schema}."));
        sql(server().unwrap(), &damage);
        let error = block_on(storage.load(&id(name))).unwrap_err();
        assert_eq!((error.kind(), error.run()), (ErrorKind::Damaged, Some(&id(name))), "{name}");
        assert!(!error.is_transient());
    }
    assert_eq!(load(&storage, "whole").status, RunStatus::Pending);
    // A list of runs would fail for all of them.
    let refused = block_on(async {
        let url = server().unwrap().url();
        let mut connection = <PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
        let dancing = format!("UPDATE {schema}.runs SET status = 'dancing'");
        sqlx::raw_sql(AssertSqlSafe(dancing)).execute(&mut connection).await
    });
    assert!(refused.unwrap_err().to_string().contains("runs_status_check"));
}
