//! The queries that the documentation shows.

#[path = "../runs/asked.rs"]
mod asked;

use sqlx::Row;

use super::runs::documented::{Schema, lists_exactly};
use super::*;

/// What has happened to the run that the documentation asks for by its name.
fn order(storage: &Postgres) {
    let run = new_run("order-4711", &workflow("w"), Holding::Held(A));
    // A user and a value that PostgreSQL has no text for.
    let run = NewRun { user: Some("a\0b".into()), ..run };
    block_on(storage.create(run)).unwrap();
    asked::happens(storage, Value::of(&["\0", "2"]).unwrap());
}

#[test]
fn the_documentation_lists_the_tables_and_columns_that_there_are() {
    let Some((_, schema)) = opened("listed") else { return };
    let columns = format!(
        "SELECT relname::text, attname::text, format_type(atttypid, atttypmod)
         FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid
         JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE nspname = '{schema}' AND relkind NOT IN ('i', 'S') AND attnum > 0 AND NOT attisdropped"
    );
    let mut real = Schema::new();
    for row in rows(server().unwrap(), &columns) {
        let table = real.entry(row.get(0)).or_default();
        table.insert(row.get(1), row.get(2));
    }
    lists_exactly(include_str!("../../src/storage/postgres/mod.rs"), &real);
}

#[test]
fn the_queries_of_the_documentation_answer() {
    let Some((storage, schema)) = opened("queries") else { return };
    order(&storage);
    asked::add(&storage);
    let cell = |row: &PgRow, column: &str| {
        let text: Option<String> = row.get_unchecked(column);
        let text = text.unwrap_or_else(|| "-".into());
        text.strip_suffix("+00").unwrap_or(&text).to_string()
    };
    asked::are_answered(include_str!("../../src/storage/postgres/mod.rs"), |query, columns| {
        let query = query.replace("stepwell.", &format!("{schema}."));
        let line = |row: &PgRow| {
            let cells = columns.iter().map(|column| cell(row, column));
            cells.collect::<Vec<_>>().join(" | ")
        };
        raw(server().unwrap(), &query).iter().map(line).collect()
    });
}

#[test]
fn the_changes_of_a_definition_are_told() {
    let Some((storage, schema)) = opened("changes") else { return };
    create(&storage, "r");
    let changed = Recorded { at: at(9), event: asked::changed(3) };
    write(&storage, "r", commit(A, 0, vec![changed])).unwrap();
    let told =
        format!("SELECT run, position, version, changed_by, why FROM {schema}.definition_changes");
    let told = rows(server().unwrap(), &told);
    let told: Vec<(String, i64, i64, String, String)> = told
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect();
    assert_eq!(told, [("r".into(), 0, 3, "ann".into(), "version 3".into())]);
}

#[test]
fn the_steps_of_a_definition_and_what_they_come_after_are_told() {
    let Some((storage, schema)) = opened("edges") else { return };
    let run = new_run("r", &asked::edges(), Holding::Finished);
    block_on(storage.create(run)).unwrap();
    let told = rows(
        server().unwrap(),
        &format!(
            "SELECT name, depends_on, kind, class, version FROM {schema}.step_dependencies
             WHERE workflow = 'edges' ORDER BY name COLLATE \"C\", depends_on COLLATE \"C\""
        ),
    );
    let told: Vec<(String, String, String, Option<String>)> = told
        .iter()
        .map(|row| {
            assert_eq!(row.get::<i64, _>(4), 7);
            (row.get(0), row.get(1), row.get(2), row.get(3))
        })
        .collect();
    let edges = asked::EDGES.map(|(name, before, kind, class)| {
        (name.to_string(), before.to_string(), kind.to_string(), class.map(str::to_string))
    });
    assert_eq!(told, edges);
    let steps =
        format!("SELECT name FROM {schema}.workflow_steps WHERE workflow = 'edges' ORDER BY step");
    let steps = rows(server().unwrap(), &steps);
    let steps: Vec<String> = steps.iter().map(|row| row.get(0)).collect();
    assert_eq!(steps, asked::STEPS);
}

#[test]
fn what_is_asked_often_is_found_without_reading_everything() {
    let Some((storage, schema)) = opened("plans") else { return };
    order(&storage);
    for query in [
        "SELECT * FROM s.step_states WHERE run = 'x'",
        "SELECT * FROM s.run_overview WHERE run = 'x'",
        "SELECT * FROM s.definition_changes WHERE run = 'x'",
        "SELECT id FROM s.runs WHERE owner = gen_random_uuid() AND inbox > 0 ORDER BY id LIMIT 1",
        "SELECT run FROM s.runs WHERE due <= 1 ORDER BY due, id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "SELECT owner FROM s.runs WHERE owner IS NOT NULL ORDER BY owner LIMIT 1",
        "SELECT id FROM s.runs ORDER BY created_at DESC, id DESC LIMIT 1",
        "DELETE FROM s.events WHERE run = 1",
        "SELECT FROM s.runs WHERE workflow = 1",
        "SELECT FROM s.run_workflows WHERE workflow = 1",
    ] {
        let query = query.replace("s.", &format!("{schema}."));
        // Few rows as there are, it would read them all if it could do so only.
        let explain = format!("SET enable_seqscan = off; EXPLAIN {query}");
        let plan: Vec<String> = raw(server().unwrap(), &explain)
            .iter()
            .map(|row| row.get_unchecked::<String, _>(0))
            .collect();
        let through = plan.iter().any(|line| line.contains("Seq Scan"));
        assert!(!through, "{query}: {plan:#?}");
    }
}
