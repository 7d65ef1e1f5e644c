//! Steps that write into the database of their engine.

use futures::executor::block_on;
use serde_json::json;
use stepwell::storage::{Memory, RefusedWrite, Statement, StepWrites};
use stepwell::{Engine, ErrorKind, executor_fn};

use super::*;
use crate::runs::writing::{
    self, Tables, beside_good_ones, engine, flow, insert, only_these_are_refused, run, step,
};

const TABLE: &str = "CREATE TABLE rows (name TEXT PRIMARY KEY, number INTEGER);
    CREATE TABLE log (name TEXT);
    CREATE TABLE children (row TEXT REFERENCES rows (name) DEFERRABLE INITIALLY DEFERRED)";

fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    drop(folder.open());
    folder.plain().execute_batch(TABLE).unwrap();
    folder
}

impl Tables for Folder {
    fn open(&self) -> impl Storage + Clone {
        self.open()
    }

    fn names(&self, table: &str) -> Vec<String> {
        let plain = self.plain();
        let mut query = plain.prepare(&format!("SELECT name FROM {table} ORDER BY name")).unwrap();
        let rows = query.query_map([], |row| row.get(0)).unwrap();
        rows.map(|row| row.unwrap()).collect()
    }
}

#[test]
fn what_a_step_writes_is_there_once_if_it_has_succeeded_and_never_was_otherwise() {
    let folder = folder("writes");
    let schema = json!({"type": "integer"});
    let steps = [
        step("good", &[], ""),
        step("again", &[], "once more"),
        step("bad", &[], "fail"),
        step("panics", &[], "panic"),
        step("refused", &[], "").output_schema(schema),
        step("said", &["nonsense"], ""),
    ];
    let run = run(folder.open(), steps);
    assert_eq!(run.status(), RunStatus::Failed);
    assert_eq!(folder.log(), ["again", "good"]);
    let status = |step| run.step_status(step).unwrap().as_str();
    assert_eq!(["good", "again"].map(status), ["succeeded"; 2]);
    assert_eq!(["bad", "panics", "refused", "said"].map(status), ["failed"; 4]);
}

#[test]
fn a_refusal_fails_the_step_by_its_class_and_hurts_no_other() {
    let folder = folder("refusals");
    let table = [
        ("taken", "INSERT INTO rows (name) VALUES ('x'), ('x')", ErrorClass::Fatal),
        ("nonsense", "nonsense", ErrorClass::Configuration),
        ("no_table", "INSERT INTO nowhere VALUES (1)", ErrorClass::Configuration),
        ("reads", "SELECT * FROM rows", ErrorClass::Configuration),
        (
            "returns",
            "INSERT INTO rows (name) VALUES ('z') RETURNING name",
            ErrorClass::Configuration,
        ),
        ("two", "DELETE FROM log; DELETE FROM rows", ErrorClass::Configuration),
        ("begins", "BEGIN", ErrorClass::Configuration),
        ("commits", "COMMIT", ErrorClass::Configuration),
        ("rolls_back", "ROLLBACK", ErrorClass::Configuration),
        ("saves", "SAVEPOINT a", ErrorClass::Configuration),
        ("releases", "RELEASE step_writes", ErrorClass::Configuration),
        ("sets", "PRAGMA foreign_keys = OFF", ErrorClass::Configuration),
        ("attaches", "ATTACH ':memory:' AS other", ErrorClass::Configuration),
        ("vacuums", "VACUUM", ErrorClass::Configuration),
        ("temporary", "CREATE TEMP TABLE events (a)", ErrorClass::Configuration),
        ("of_ours", "UPDATE runs SET status = 'failed'", ErrorClass::Configuration),
        ("from_ours", "DELETE FROM Events", ErrorClass::Configuration),
        ("into_ours", "INSERT INTO main.locks VALUES ('a', 1)", ErrorClass::Configuration),
        ("drops", "DROP TABLE answers", ErrorClass::Configuration),
        ("drops_view", "DROP VIEW step_states", ErrorClass::Configuration),
        ("drops_index", "DROP INDEX runs_by_age", ErrorClass::Configuration),
        ("alters", "ALTER TABLE runs ADD COLUMN mine", ErrorClass::Configuration),
        ("indexes", "CREATE INDEX mine ON runs (user)", ErrorClass::Configuration),
        (
            "triggers",
            "CREATE TRIGGER mine AFTER INSERT ON events BEGIN DELETE FROM rows; END",
            ErrorClass::Configuration,
        ),
        ("named", "INSERT INTO rows (name) VALUES (:name)", ErrorClass::Configuration),
        (
            "rolls_all_back",
            "INSERT OR ROLLBACK INTO rows VALUES ('y', 1), ('y', 2)",
            ErrorClass::Fatal,
        ),
        ("at_the_end", "INSERT INTO children VALUES ('nobody')", ErrorClass::Fatal),
    ];
    let run = run(folder.open(), beside_good_ones(&table));
    only_these_are_refused(&run, &folder, &table);
    let trigger = "CREATE TRIGGER sly AFTER INSERT ON log BEGIN DELETE FROM runs; END";
    folder.plain().execute_batch(trigger).unwrap();
    let run = self::run(folder.open(), [step("sly", &[], "")]);
    assert_eq!(run.status(), RunStatus::Failed, "a trigger does no more than a step may");
}

#[test]
fn a_step_may_make_tables_and_read_ours() {
    let folder = folder("may");
    let sql = [
        "CREATE TABLE IF NOT EXISTS mine (run TEXT, events INTEGER)",
        "CREATE INDEX IF NOT EXISTS mine_by_run ON mine (run)",
        "INSERT INTO mine SELECT id, events FROM runs",
        "CREATE TRIGGER mine_too AFTER UPDATE ON mine BEGIN INSERT INTO log VALUES ('trigger'); END",
        "UPDATE mine SET events = 0 -- all\n ;",
        "ALTER TABLE mine RENAME TO mine_2",
        "DROP TABLE mine_2",
    ];
    let run = run(folder.open(), [step("a", &sql, "")]);
    assert_eq!(run.status(), RunStatus::Succeeded, "{:?}", run.error_history());
    assert_eq!(folder.log(), ["a", "trigger"]);
}

#[test]
fn whichever_call_fails_each_step_writes_exactly_once() {
    writing::each_call_fails(|| folder("calls"));
}

#[test]
fn an_engine_that_dies_at_any_call_leaves_no_step_that_writes_twice_or_not_at_all() {
    writing::dies_at_each_call(|| folder("dies"));
}

#[test]
fn many_runs_at_once_are_not_hurt_by_some_that_are_refused() {
    writing::many_at_once(&folder("many"));
}

#[test]
fn a_run_that_writes_is_refused_at_once_where_there_are_no_tables() {
    let error = block_on(engine(Memory::new()).execute(&flow([step("a", &[], "")]), ()));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("steps.a.transactional"), "{error}");
    // Nobody knows of a step that is made later.
    let planned = json!([{"id": "x", "task": "write", "transactional": true}]);
    let dynamic = Workflow::builder("w").step(Step::dynamic("a", "input")).build().unwrap();
    let run = block_on(engine(Memory::new()).execute(&dynamic, planned.clone())).unwrap();
    assert_eq!(run.error_history()[0].1.failure.class, ErrorClass::Configuration);
    let folder = folder("dynamic");
    let run = block_on(engine(folder.open()).execute(&dynamic, planned)).unwrap();
    assert_eq!((run.status(), folder.log()), (RunStatus::Succeeded, vec!["a/x".to_string()]));
}

#[test]
fn a_step_that_does_not_say_so_writes_nothing() {
    let folder = folder("unsaid");
    let run = run(folder.open(), [Step::task("a", "write")]);
    let failure = &run.error_history()[0].1.failure;
    assert_eq!(failure.class, ErrorClass::Configuration);
    assert!(failure.message.contains("transactional"), "{failure}");
}

#[test]
fn a_step_writes_so_much_and_no_more_and_nothing_after_its_end() {
    let folder = folder("bounds");
    let kept = std::sync::Arc::new(std::sync::Mutex::new(None));
    let keeps = std::sync::Arc::clone(&kept);
    let wide = executor_fn(move |ctx| {
        *keeps.lock().unwrap() = Some(ctx.clone());
        async move {
            for _ in 0..stepwell::storage::STATEMENTS_MAX {
                ctx.write(Statement::new("INSERT INTO log (name) VALUES ('x')"))?;
            }
            let more = ctx.write(insert("x")).unwrap_err();
            assert_eq!(more.class(), ErrorClass::Validation);
            Ok(())
        }
    });
    let large = executor_fn(|ctx| async move {
        let bytes = vec![0_u8; stepwell::storage::STATEMENTS_BYTES_MAX];
        ctx.write(insert("x").bind(bytes))?;
        Ok(())
    });
    let engine = Engine::builder().storage(folder.open());
    let engine = engine.executor("wide", wide).executor("large", large).build().unwrap();
    let steps = ["wide", "large"].map(|kind| Step::task(kind, kind).transactional());
    let run = block_on(engine.execute(&flow(steps), ())).unwrap();
    assert_eq!(run.step_status("wide").unwrap().as_str(), "succeeded");
    assert_eq!(run.step_status("large").unwrap().as_str(), "failed");
    assert_eq!(folder.log().len(), stepwell::storage::STATEMENTS_MAX);
    let late = kept.lock().unwrap().take().unwrap().write(insert("late")).unwrap_err();
    assert!(late.to_string().contains("ended"), "{late:?}");
}

#[test]
fn a_refusal_of_a_storage_names_the_statement() {
    let folder = folder("names");
    let storage = folder.open();
    create(&storage, "r");
    let statements = [insert("a"), insert("b"), insert("a")].into();
    let writes = [StepWrites { step: StepKey::root(1), statements }];
    let bad = Commit { writes: Some(writes.into()), ..commit(A, 0, Vec::new()) };
    let error = write(&storage, "r", bad).unwrap_err();
    let why = RefusedWrite::of(&error).unwrap();
    assert!(why.message.starts_with("statement 3 of 3, `INSERT INTO rows"), "{}", why.message);
    assert!(why.message.contains("UNIQUE constraint failed: rows.name"), "{}", why.message);
}
