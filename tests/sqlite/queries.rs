//! The queries that the documentation shows.

#[path = "../runs/asked.rs"]
mod asked;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::runs::documented::{Schema, lists_exactly};
use super::*;

#[test]
fn the_documentation_lists_the_tables_and_columns_that_there_are() {
    let folder = Folder::new("listed");
    let _storage = folder.open();
    let plain = folder.plain();
    let columns = "SELECT tables.name, columns.name, columns.type
        FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.type IN ('table', 'view') AND tables.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut columns = plain.prepare(columns).unwrap();
    let mut columns = columns.query([]).unwrap();
    let mut schema = Schema::new();
    while let Some(row) = columns.next().unwrap() {
        let table = schema.entry(row.get(0).unwrap()).or_default();
        table.insert(row.get(1).unwrap(), row.get(2).unwrap());
    }
    lists_exactly(include_str!("../../src/storage/sqlite/mod.rs"), &schema);
}

#[test]
fn the_queries_of_the_documentation_answer() {
    let folder = Folder::new("queries");
    let storage = folder.open();
    create(&storage, "order-4711");
    asked::happens(&storage, Value::of(&[1, 2]).unwrap());
    asked::add(&storage);
    let plain = folder.plain();
    let cell = |row: &Row<'_>, column: &str| match row.get_ref(column).unwrap() {
        ValueRef::Null => "-".to_string(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            let text = String::from_utf8_lossy(text);
            text.strip_suffix(".000").unwrap_or(&text).to_string()
        }
    };
    asked::are_answered(include_str!("../../src/storage/sqlite/mod.rs"), |query, columns| {
        let mut statement = plain.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        let line = |row: &Row<'_>| {
            let cells = columns.iter().map(|column| cell(row, column));
            Ok(cells.collect::<Vec<_>>().join(" | "))
        };
        statement.query_map([], line).unwrap().map(Result::unwrap).collect()
    });
}

#[test]
fn the_changes_of_a_definition_are_told() {
    let folder = Folder::new("changes");
    let storage = folder.open();
    create(&storage, "r");
    let changed = Recorded { at: at(9), event: asked::changed(3) };
    write(&storage, "r", commit(A, 0, vec![changed])).unwrap();
    let told: (String, i64, i64, String, String) = folder
        .plain()
        .query_row(
            "SELECT run, position, version, changed_by, why FROM definition_changes",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .unwrap();
    assert_eq!(told, ("r".into(), 0, 3, "ann".into(), "version 3".into()));
}

#[test]
fn the_steps_of_a_definition_and_what_they_come_after_are_told() {
    let folder = Folder::new("edges");
    let storage = folder.open();
    let run = new_run("r", &asked::edges(), Holding::Finished);
    block_on(storage.create(run)).unwrap();
    let plain = folder.plain();
    let ask = "SELECT name, depends_on, kind, class, version FROM step_dependencies
               WHERE workflow = 'edges' ORDER BY name, depends_on";
    let mut told = plain.prepare(ask).unwrap();
    let told = told.query_map([], |row| {
        let class: Option<String> = row.get(3)?;
        assert_eq!(row.get::<_, i64>(4)?, 7);
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, class))
    });
    let told: Vec<_> = told.unwrap().map(Result::unwrap).collect();
    let edges = asked::EDGES.map(|(name, before, kind, class)| {
        (name.to_string(), before.to_string(), kind.to_string(), class.map(str::to_string))
    });
    assert_eq!(told, edges);
    let ask = "SELECT name FROM workflow_steps WHERE workflow = 'edges' ORDER BY step";
    let mut told = plain.prepare(ask).unwrap();
    let told = told.query_map([], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(told.map(Result::unwrap).collect::<Vec<_>>(), asked::STEPS);
}

#[test]
fn the_states_of_one_run_s_steps_are_found_without_reading_others() {
    let folder = Folder::new("explain");
    drop(folder.open());
    for query in [
        "SELECT * FROM step_states WHERE run = 'x'",
        "SELECT * FROM run_overview WHERE run = 'x'",
        "SELECT * FROM definition_changes WHERE run = 'x'",
        "SELECT id FROM runs WHERE owner = x'00' AND inbox > 0 ORDER BY id LIMIT 1",
        "SELECT run, id, owner FROM runs WHERE due <= 1 ORDER BY due, id LIMIT 1",
        "SELECT owner FROM runs WHERE owner > x'00' ORDER BY owner LIMIT 1",
        "DELETE FROM events WHERE run = 1",
        "SELECT 1 FROM runs WHERE workflow = 1",
        "SELECT 1 FROM run_workflows WHERE workflow = 1",
    ] {
        let plain = folder.plain();
        let mut plan = plain.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let rows = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = rows.map(|row| row.unwrap()).collect();
        let through =
            plan.iter().any(|line| line.starts_with("SCAN ") && !line.contains("step_st"));
        assert!(!through, "{query}: {plan:#?}");
    }
}
