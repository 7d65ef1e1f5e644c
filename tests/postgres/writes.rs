//! Steps that write into the database of their engine.

use futures::future::{Either, join_all, select};
use serde_json::json;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Parameter, RefusedWrite, Statement, StepWrites};
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::{
    ErrorClass, ErrorKind, ExecutionContext, RetryConfig, Run, RunHandle, StartOptions, StepError,
};

use super::*;

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

    fn texts(&self, from: &str) -> Vec<String> {
        let text = format!("SELECT name FROM {}.{from} ORDER BY name COLLATE \"C\"", self.theirs);
        rows(self.server, &text).iter().map(|row| row.get(0)).collect()
    }

    fn log(&self) -> Vec<String> {
        self.texts("log")
    }
}

/// Logs its name, and does what its configuration says.
fn executor() -> impl stepwell::StepExecutor {
    async fn body(ctx: ExecutionContext) -> Result<String, StepError> {
        ctx.write(Statement::new("INSERT INTO log (name) VALUES ($1)").bind(ctx.step()))?;
        for sql in ctx.config_as::<Vec<String>>("sql").unwrap_or_default() {
            ctx.write(Statement::new(sql))?;
        }
        match ctx.config_as::<String>("then").unwrap_or_default().as_str() {
            "fail" => Err(StepError::fatal("after it has written")),
            "once more" if ctx.attempt() == 1 => Err(StepError::retryable("after it has written")),
            _ => Ok(ctx.step()),
        }
    }
    executor_fn(|ctx| async move { body(ctx).await })
}

fn engine(storage: impl Storage) -> Engine {
    Engine::builder().storage(storage).executor("write", executor()).build().unwrap()
}

fn step(id: &str, sql: &[&str], then: &str) -> Step {
    let step = Step::task(id, "write").config(json!({"sql": sql, "then": then}));
    step.transactional().retry(RetryConfig::attempts(2).base_delay(Duration::ZERO))
}

fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

fn run(storage: impl Storage, steps: impl IntoIterator<Item = Step>) -> Run {
    block_on(engine(storage).execute(&flow(steps), ())).unwrap()
}

/// What steps of a run that has no journal yet write, in one commit.
fn writing(steps: impl IntoIterator<Item = Vec<Statement>>) -> Commit {
    let writes = (0..).zip(steps).map(|(step, statements)| StepWrites {
        step: StepKey::root(step),
        statements: statements.into(),
    });
    Commit { writes: Some(writes.collect()), ..commit(A, 0, Vec::new()) }
}

fn insert(name: &str) -> Statement {
    Statement::new("INSERT INTO rows (name, number) VALUES ($1, 1)").bind(name)
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
        let error = write(&storage, "r", writing([statements])).unwrap_err();
        let why = RefusedWrite::of(&error).unwrap_or_else(|| panic!("{id}: {error}"));
        assert_eq!(why.class, ErrorClass::Configuration, "{id}: {error}");
        assert_eq!(why.step, Some(StepKey::root(0)), "{id}");
    }
    assert!(place.texts("rows").is_empty() && place.log().is_empty());
    assert_eq!(rows(place.server, &tables(&place)).len(), before);
    write(&storage, "r", writing([vec![insert("x")]])).unwrap();
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
    // All of them come down in one turn, and so in one commit, with others that are good.
    let bad = table.iter().map(|(id, sql, _)| step(id, &[sql], ""));
    let good = ["good_1", "good_2", "good_3"].map(|id| step(id, &[], ""));
    let run = run(place.open(), good[..1].iter().cloned().chain(bad).chain(good[1..].to_vec()));
    assert_eq!(place.log(), ["good_1", "good_2", "good_3"]);
    assert!(place.texts("rows").is_empty());
    let history = run.error_history();
    for (id, sql, class) in table {
        let failures: Vec<_> = history.iter().filter(|(step, _)| step == id).collect();
        assert_eq!(failures.len(), 1, "{id} is not tried again: {failures:?}");
        assert_eq!(failures[0].1.failure.class, class, "{id}: {}", failures[0].1.failure);
        assert!(failures[0].1.failure.message.contains("refused"), "{sql}");
    }
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
    write(&storage, "r", writing([all])).unwrap();
    let wrong = Statement::new("INSERT INTO kinds (g) VALUES ($1)").bind("secret");
    let error = write(&storage, "r", writing([vec![wrong]])).unwrap_err();
    assert!(error.to_string().contains("cast"), "{error}");
    let wrong = Statement::new("INSERT INTO kinds (g) VALUES ($1::uuid)").bind("secret");
    let error = write(&storage, "r", writing([vec![wrong]])).unwrap_err();
    assert_eq!(RefusedWrite::of(&error).unwrap().class, ErrorClass::Fatal);
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_refusal_names_the_statement_and_no_value() {
    let Some(place) = Place::new("names") else { return };
    let storage = place.open();
    create(&storage, "r");
    let all = vec![insert("secret"), insert("b"), insert("secret")];
    let error = write(&storage, "r", writing([vec![insert("a")], all])).unwrap_err();
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
    let take = || writing([vec![Statement::new("DELETE FROM rows WHERE name = 'a'").changes(1)]]);
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
    write(&storage, "r", writing([write_it])).unwrap();
    assert_eq!(place.texts("rows WHERE number = 7"), ["a"]);
}

#[test]
fn whichever_call_fails_each_step_writes_exactly_once() {
    for fault in [Fault::Before, Fault::After] {
        for failing in 1.. {
            let Some(place) = Place::new("calls") else { return };
            let storage =
                Faulty::new(place.open(), move |call| (call.number == failing).then_some(fault));
            let calls = storage.clone();
            let engine = engine(storage);
            let steps = [step("a", &[], ""), step("b", &[], "").after("a"), step("c", &[], "")];
            let outcome = block_on(async {
                let mut handles: Vec<RunHandle> = Vec::new();
                loop {
                    let options = StartOptions::id("r");
                    let run = engine.start_with(&flow(steps.clone()), (), options).await;
                    let Ok(run) = run else { continue };
                    handles.push(run.clone());
                    if let Ok(outcome) = run.outcome().await {
                        return outcome;
                    }
                }
            });
            assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
            assert_eq!(place.log(), ["a", "b", "c"], "{fault:?} call {failing}");
            if calls.calls() < failing {
                assert!(failing > 5, "{failing}");
                break;
            }
        }
    }
}

#[test]
fn an_engine_that_dies_at_any_call_leaves_no_step_that_writes_twice_or_not_at_all() {
    for fault in [Fault::Hangs, Fault::HangsAfter] {
        for failing in 1.. {
            let Some(place) = Place::new("dies") else { return };
            let time = VirtualRuntime::new(failing);
            let engine = |storage: Faulty<Postgres>| {
                let engine = Engine::builder().runtime(time.clone()).storage(storage);
                engine.executor("write", executor()).build().unwrap()
            };
            let first =
                Faulty::new(place.open(), move |call| (call.number == failing).then_some(fault));
            let second = Faulty::new(place.open(), |_| None);
            let workflow =
                flow([step("a", &[], ""), step("b", &[], "").after("a"), step("c", &[], "")]);
            let work = async |engine: Engine| {
                let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
                run.outcome().await.unwrap()
            };
            let outcome = time.block_on(async {
                // Gone with all that it was at, before its patience is over.
                let died = time.sleep_until(time.now() + Duration::from_secs(1));
                match select(Box::pin(work(engine(first.clone()))), Box::pin(died)).await {
                    Either::Left((outcome, _)) => outcome,
                    Either::Right(_) => work(engine(second)).await,
                }
            });
            assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
            assert_eq!(place.log(), ["a", "b", "c"], "{fault:?} call {failing}");
            if first.calls() < failing {
                assert!(failing > 5, "{failing}");
                break;
            }
        }
    }
}

#[test]
fn many_runs_at_once_are_not_hurt_by_some_that_are_refused() {
    let Some(place) = Place::new("many") else { return };
    let engine = engine(place.open());
    let flow_of = |number: usize| {
        let name = if number % 5 == 4 { "taken".to_string() } else { format!("own {number}") };
        let sql = format!("INSERT INTO rows (name) VALUES ('{name}')");
        flow([step("a", &[&sql], ""), step("b", &[], "").after("a")])
    };
    block_on(engine.execute(&flow_of(4), ())).unwrap();
    let runs: Vec<Run> = block_on(join_all((0..100).map(|number| {
        let (engine, flow) = (engine.clone(), flow_of(number));
        async move { engine.execute(&flow, ()).await.unwrap() }
    })));
    let good = runs.iter().filter(|run| run.status() == RunStatus::Succeeded).count();
    assert_eq!(good, 80);
    assert_eq!(place.log().len(), 2 * 81);
    assert_eq!(place.texts("rows").len(), 81);
}

#[test]
fn a_connection_that_is_cut_is_no_refusal_and_what_was_not_committed_never_was() {
    let Some(place) = Place::new("cut") else { return };
    let storage = place.open();
    create(&storage, "r");
    // The server ends the connection in the middle of the transaction.
    let cut = Statement::new("INSERT INTO log SELECT pg_terminate_backend(pg_backend_pid())");
    let error = write(&storage, "r", writing([vec![insert("a"), cut, insert("b")]])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.is_transient() && RefusedWrite::of(&error).is_none(), "{error}");
    assert!(place.texts("rows").is_empty());
    write(&storage, "r", writing([vec![insert("a")]])).unwrap();
    assert_eq!(place.texts("rows"), ["a"]);
}
