//! Steps that write into the database of their engine.

use stepwell::storage::{Parameter, RefusedWrite, Statement, StepWrites};
use stepwell::{ErrorClass, ErrorKind};

use super::*;
use crate::runs::writing::{
    self, Tables, beside_good_ones, insert, only_these_are_refused, run, step,
};

/// A schema of ours, and one of the host's that its names mean.
struct Place {
    server: &'static Server,
    ours: String,
    theirs: String,
}

impl Place {
    fn new(name: &str) -> Option<Self> {
        let (ours, theirs) = (fresh(name), fresh(&format!("{name}_host")));
        let place = Self { server: server()?, ours, theirs };
        sql(place.server, &format!("CREATE SCHEMA {}", place.theirs));
        block_on(place.open().migrate()).unwrap();
        place.sql(
            "CREATE TABLE rows (name text PRIMARY KEY, number int);
             CREATE TABLE log (name text);
             CREATE TABLE children (row text REFERENCES rows DEFERRABLE INITIALLY DEFERRED)",
        );
        Some(place)
    }

    fn open(&self) -> Postgres {
        let url = format!("{}&options[search_path]={}", self.server.url(), self.theirs);
        block_on(PostgresOptions::new().schema(&self.ours).connect(&url)).unwrap()
    }

    fn sql(&self, text: &str) {
        sql(self.server, &format!("SET search_path = {}; {text}", self.theirs));
    }
}

impl Tables for Place {
    fn open(&self) -> impl Storage + Clone {
        self.open()
    }

    fn names(&self, table: &str) -> Vec<String> {
        let text = format!("SELECT name FROM {}.{table} ORDER BY name COLLATE \"C\"", self.theirs);
        rows(self.server, &text).iter().map(|row| row.get(0)).collect()
    }
}

/// What steps of a run that has no journal yet write, in one commit.
fn writes_of(steps: impl IntoIterator<Item = Vec<Statement>>) -> Commit {
    let writes = (0..).zip(steps).map(|(step, statements)| StepWrites {
        step: StepKey::root(step),
        statements: statements.into(),
    });
    Commit { writes: Some(writes.collect()), ..commit(A, 0, Vec::new()) }
}

#[test]
fn what_a_step_writes_is_there_once_if_it_has_succeeded_and_never_was_otherwise() {
    let Some(place) = Place::new("writes") else { return };
    let steps = [
        step("good", &[], ""),
        step("again", &[], "once more"),
        step("bad", &[], "fail"),
        step("said", &["nonsense"], ""),
    ];
    let run = run(place.open(), steps);
    assert_eq!(run.status(), RunStatus::Failed);
    assert_eq!(place.log(), ["again", "good"]);
    let status = |step| run.step_status(step).unwrap().as_str();
    assert_eq!(
        ["good", "again", "bad", "said"].map(status),
        ["succeeded", "succeeded", "failed", "failed"]
    );
}

/// What no step may say. `@` stands for our schema.
const FORBIDDEN: [(&str, &str); 41] = [
    ("nonsense", "nonsense"),
    ("no_table", "INSERT INTO nowhere VALUES (1)"),
    ("reads", "SELECT * FROM rows"),
    ("reads_more", "WITH a AS (SELECT 1) SELECT * FROM a"),
    ("two", "DELETE FROM log; DELETE FROM rows"),
    ("begins", "BEGIN"),
    ("commits", "COMMIT"),
    ("ends", "/* DELETE */ END"),
    ("rolls_back", "ROLLBACK"),
    ("aborts", "ABORT"),
    ("saves", "SAVEPOINT a"),
    ("prepares", "PREPARE TRANSACTION 'a'"),
    ("sets", "SET search_path = public"),
    ("sets_more", "INSERT INTO log SELECT set_config('synchronous_commit', 'off', true)"),
    ("sets_slyly", "UPDATE pg_settings SET setting = 'off' WHERE name = 'synchronous_commit'"),
    ("resets", "RESET ALL"),
    ("discards", "DISCARD ALL"),
    ("constrains", "SET CONSTRAINTS ALL DEFERRED"),
    ("vacuums", "VACUUM"),
    ("does", "DO $$ BEGIN DELETE FROM log; END $$"),
    ("calls", "CALL nothing()"),
    ("copies", "COPY log FROM PROGRAM 'true'"),
    ("locks", "LOCK TABLE rows"),
    ("temporary", "CREATE TEMP TABLE rows (a int)"),
    ("sly_temporary", "CREATE TABLE pg_temp.rows (a int)"),
    ("unlogged", "CREATE UNLOGGED TABLE mine (a int)"),
    ("of_ours", "UPDATE @.runs SET status = 'failed'"),
    ("none_of_ours", "UPDATE @.runs SET status = 'failed' WHERE false"),
    ("from_ours", "DELETE FROM @.events"),
    ("into_ours", "INSERT INTO @.locks VALUES ('a', 1)"),
    ("in_parts", "WITH a AS (DELETE FROM @.events RETURNING kind) INSERT INTO log SELECT * FROM a"),
    ("counts", "INSERT INTO log SELECT nextval('@.runs_run_seq')"),
    ("drops", "DROP TABLE @.answers"),
    ("drops_view", "DROP VIEW @.step_states"),
    ("drops_index", "DROP INDEX @.runs_by_age"),
    ("renames_index", "ALTER INDEX @.runs_by_age RENAME TO mine"),
    ("alters", "ALTER TABLE @.answers ADD COLUMN mine int"),
    ("moves_in", "ALTER TABLE rows SET SCHEMA @"),
    ("moves_out", "ALTER TABLE @.answers SET SCHEMA public"),
    ("makes_there", "CREATE TABLE @.mine (a int)"),
    ("drops_all", "DROP SCHEMA @ CASCADE"),
];

#[test]
fn a_step_says_nothing_that_is_forbidden() {
    let Some(place) = Place::new("forbidden") else { return };
    let storage = place.open();
    let before = rows(place.server, &tables(&place)).len();
    create(&storage, "r");
    for (id, text) in FORBIDDEN {
        let text = text.replace('@', &place.ours);
        let statements = vec![insert("x"), Statement::new(&text), insert("y")];
        let error = write(&storage, "r", writes_of([statements])).unwrap_err();
        let why = RefusedWrite::of(&error).unwrap_or_else(|| panic!("{id}: {error}"));
        assert_eq!(why.class, ErrorClass::Configuration, "{id}: {error}");
        assert_eq!(why.step, Some(StepKey::root(0)), "{id}");
    }
    assert!(place.names("rows").is_empty() && place.log().is_empty());
    assert_eq!(rows(place.server, &tables(&place)).len(), before);
    write(&storage, "r", writes_of([vec![insert("x")]])).unwrap();
}

fn tables(place: &Place) -> String {
    format!(
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname IN ('{}', '{}')",
        place.ours, place.theirs
    )
}

#[test]
fn a_trigger_and_a_function_do_no_more_than_a_step_may() {
    let Some(place) = Place::new("sly") else { return };
    place.sql(&format!(
        "CREATE FUNCTION sly() RETURNS trigger LANGUAGE plpgsql
         AS 'BEGIN DELETE FROM {}.messages; RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER sly AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION sly()",
        place.ours
    ));
    let run = run(place.open(), [step("a", &[], ""), step("b", &[], "")]);
    assert_eq!(run.step_status("a").unwrap().as_str(), "failed");
    assert_eq!(run.step_status("b").unwrap().as_str(), "failed");
    assert_eq!(run.error_history()[0].1.failure.class, ErrorClass::Configuration);
    assert!(place.log().is_empty());
}

#[test]
fn a_refusal_fails_the_step_by_its_class_and_hurts_no_other() {
    let Some(place) = Place::new("refusals") else { return };
    let table = [
        ("taken", "INSERT INTO rows (name) VALUES ('x'), ('x')", ErrorClass::Fatal),
        ("at_the_end", "INSERT INTO children VALUES ('nobody')", ErrorClass::Fatal),
        ("no_number", "UPDATE log SET name = 1 / 0", ErrorClass::Fatal),
        ("nonsense", "nonsense", ErrorClass::Configuration),
        ("commits", "COMMIT", ErrorClass::Configuration),
        ("returns_none", "INSERT INTO rows (name) VALUES ($1)", ErrorClass::Configuration),
    ];
    let run = run(place.open(), beside_good_ones(&table));
    only_these_are_refused(&run, &place, &table);
}

#[test]
fn a_step_may_make_tables_and_read_ours() {
    let Some(place) = Place::new("may") else { return };
    let sql = [
        "CREATE TABLE IF NOT EXISTS mine (run text, events bigint)",
        "CREATE INDEX IF NOT EXISTS mine_by_run ON mine (run)",
        "INSERT INTO mine SELECT id, events FROM @.runs",
        "WITH a AS (SELECT run FROM mine) INSERT INTO log SELECT 'from ours' FROM a RETURNING name",
        "UPDATE mine SET events = 0 -- all\n ;",
        "MERGE INTO mine USING log ON log.name = 'a' WHEN MATCHED THEN DELETE",
        "TRUNCATE mine",
        "ALTER TABLE mine RENAME TO mine_2",
        "DROP TABLE mine_2",
    ];
    let sql = sql.map(|sql| sql.replace('@', &place.ours));
    let run = run(place.open(), [step("a", &sql.each_ref().map(String::as_str), "")]);
    assert_eq!(run.status(), RunStatus::Succeeded, "{:?}", run.error_history());
    assert_eq!(place.log(), ["a", "from ours"]);
}

#[test]
fn values_come_into_columns_of_many_types_and_others_are_cast() {
    let Some(place) = Place::new("types") else { return };
    let storage = place.open();
    create(&storage, "r");
    let table = "CREATE TABLE kinds (a int, b smallint, c numeric, d varchar(9), e json, f jsonb, \
                 g uuid, h timestamptz, i real, j boolean, k text, l mood)";
    place.sql("CREATE TYPE mood AS ENUM ('good', 'bad')");
    let insert = "INSERT INTO kinds VALUES ($1, $1, $2, $3, $4::json, $4::jsonb, $5::uuid, \
                  $6::timestamptz, $2, $7, $8, $9)";
    let bind = |text: &str| {
        let insert = Statement::new(text).bind(7).bind(99.5).bind("abc").bind(r#"{"a": [1]}"#);
        let insert = insert.bind("01234567-89ab-cdef-0123-456789abcdef").bind("2026-01-02 03:04Z");
        insert.bind(true).bind(Parameter::Null).bind(Parameter::Null)
    };
    let find = "UPDATE kinds SET a = 8 WHERE a = $1 AND b = $1 AND c = $2 AND d = $3 AND \
                e::text = $4 AND f = $4::jsonb AND g = $5::uuid AND h = $6::timestamptz AND i = $2 \
                AND j = $7 AND k IS NOT DISTINCT FROM $8 AND l IS NOT DISTINCT FROM $9";
    let all = vec![Statement::new(table), bind(insert).changes(1), bind(find).changes(1)];
    write(&storage, "r", writes_of([all])).unwrap();
    let wrong = Statement::new("INSERT INTO kinds (g) VALUES ($1)").bind("secret");
    let error = write(&storage, "r", writes_of([vec![wrong]])).unwrap_err();
    assert!(error.to_string().contains("cast"), "{error}");
    let wrong = Statement::new("INSERT INTO kinds (g) VALUES ($1::uuid)").bind("secret");
    let error = write(&storage, "r", writes_of([vec![wrong]])).unwrap_err();
    assert_eq!(RefusedWrite::of(&error).unwrap().class, ErrorClass::Fatal);
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_refusal_names_the_statement_and_no_value() {
    let Some(place) = Place::new("names") else { return };
    let storage = place.open();
    create(&storage, "r");
    let all = vec![insert("secret"), insert("b"), insert("secret")];
    let error = write(&storage, "r", writes_of([vec![insert("a")], all])).unwrap_err();
    let why = RefusedWrite::of(&error).unwrap();
    assert_eq!(why.step, Some(StepKey::root(1)));
    assert!(why.message.starts_with("statement 3 of 3, `INSERT INTO rows"), "{}", why.message);
    assert!(why.message.contains("duplicate key value violates"), "{}", why.message);
    assert!(!why.message.contains("secret"), "{}", why.message);
}

#[test]
fn whoever_is_in_the_way_of_a_step_is_not_waited_for_without_end() {
    let Some(place) = Place::new("in_the_way") else { return };
    place.sql("INSERT INTO rows VALUES ('a', 1)");
    let url = format!("{}&options[search_path]={}", place.server.url(), place.theirs);
    let options = PostgresOptions::new().schema(&place.ours).patience(Duration::from_secs(4));
    let storage = block_on(options.connect(&url)).unwrap();
    create(&storage, "r");
    let mut other = block_on(<PgConnection as sqlx::Connection>::connect(&url)).unwrap();
    let lock = "BEGIN; SELECT * FROM rows WHERE name = 'a' FOR UPDATE";
    block_on(sqlx::Executor::execute(&mut other, lock)).unwrap();
    let take = || writes_of([vec![Statement::new("DELETE FROM rows WHERE name = 'a'").changes(1)]]);
    let error = write(&storage, "r", take()).unwrap_err();
    assert_eq!(RefusedWrite::of(&error).unwrap().class, ErrorClass::Temporary, "{error}");
    block_on(sqlx::Executor::execute(&mut other, "COMMIT")).unwrap();
    write(&storage, "r", take()).unwrap();
}

#[test]
fn a_host_that_has_prepared_the_same_text_is_not_mistaken() {
    let Some(place) = Place::new("same") else { return };
    let url = format!("{}&options[search_path]={}", place.server.url(), place.theirs);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_lazy(&url).unwrap();
    let text = "UPDATE rows SET number = $1";
    block_on(sqlx::query(text).bind(1_i32).execute(&pool)).unwrap();
    let options = PostgresOptions::new().schema(&place.ours);
    let storage = block_on(options.with_pool(pool)).unwrap();
    create(&storage, "r");
    let write_it = vec![insert("a"), Statement::new(text).bind(7).changes(1)];
    write(&storage, "r", writes_of([write_it])).unwrap();
    assert_eq!(place.names("rows WHERE number = 7"), ["a"]);
}

#[test]
fn whichever_call_fails_each_step_writes_exactly_once() {
    if server().is_some() {
        writing::each_call_fails(|| Place::new("calls").unwrap());
    }
}

#[test]
fn an_engine_that_dies_at_any_call_leaves_no_step_that_writes_twice_or_not_at_all() {
    if server().is_some() {
        writing::dies_at_each_call(|| Place::new("dies").unwrap());
    }
}

#[test]
fn many_runs_at_once_are_not_hurt_by_some_that_are_refused() {
    let Some(place) = Place::new("many") else { return };
    writing::many_at_once(&place);
}

#[test]
fn a_connection_that_is_cut_is_no_refusal_and_what_was_not_committed_never_was() {
    let Some(place) = Place::new("cut") else { return };
    let storage = place.open();
    create(&storage, "r");
    // The server ends the connection in the middle of the transaction.
    let cut = Statement::new("INSERT INTO log SELECT pg_terminate_backend(pg_backend_pid())");
    let error = write(&storage, "r", writes_of([vec![insert("a"), cut, insert("b")]])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.is_transient() && RefusedWrite::of(&error).is_none(), "{error}");
    assert!(place.names("rows").is_empty());
    write(&storage, "r", writes_of([vec![insert("a")]])).unwrap();
    assert_eq!(place.names("rows"), ["a"]);
}
