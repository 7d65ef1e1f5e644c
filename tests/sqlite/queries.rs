//! The queries that the documentation shows.

use super::runs::documented::{Schema, lists_exactly};
use super::*;
use stepwell::journal::{Mapping, Operation, Signal, Vote};

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
    let step = StepKey::root(0);
    let output = Value::of(&[1, 2]).unwrap();
    let events = [
        Event::StepReady { step },
        Event::StepStarted { step, attempt: 1 },
        Event::StepSucceeded { step, output },
        Event::StepReady { step: StepKey::root(1) },
        Event::StepReset { step, failed_items: false },
        Event::StepOutcomeUnknown {
            step: StepKey::root(1),
            failure: Box::new(Failure::new(ErrorClass::OutcomeUnknown, "who knows")),
        },
        Event::Voted { step, vote: Box::new(Vote::approve("bob").comment("fine")) },
        Event::SignalReceived { signal: Box::new(Signal::new("go", ()).by("eve")) },
    ];
    let seconds = [1, 2, 5, 5, 6, 7, 8, 8];
    let journal = std::iter::once(started())
        .chain(seconds.into_iter().zip(events).map(|(s, event)| Recorded { at: at(s), event }));
    let failed = Commit { status: RunStatus::Failed, ..commit(A, 0, journal.collect()) };
    write(&storage, "order-4711", failed).unwrap();
    create(&storage, "order-4712");
    let status = Commit { status: RunStatus::Running, ..commit(A, 0, vec![changed()]) };
    write(&storage, "order-4712", status).unwrap();
    let page = include_str!("../../src/storage/sqlite/mod.rs");
    let lines = page.lines().filter_map(|line| line.strip_prefix("///"));
    let page: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    let queries: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .flat_map(|part| part.split("```").next().unwrap().split(";\n"))
        .filter(|query| !query.trim().is_empty())
        .collect();
    assert!(queries.len() >= 5, "{queries:?}");
    for query in queries {
        let plain = folder.plain();
        let mut query_of = plain.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        assert!(query_of.exists([]).unwrap(), "{query}");
        if query.contains("AS who") {
            let text = |row: &rusqlite::Row<'_>, name: &str| row.get::<_, Option<String>>(name);
            let told = |row: &rusqlite::Row<'_>| {
                Ok(["kind", "who", "why"].map(|name| text(row, name).unwrap().unwrap_or_default()))
            };
            let told = query_of.query_map([], told).unwrap();
            let mut told: Vec<[String; 3]> = told.map(Result::unwrap).collect();
            told.sort_unstable();
            let (operated, voted) = (["operated", "ann", "version 3"], ["voted", "bob", "fine"]);
            let expected = [operated, ["signal_received", "eve", ""], voted];
            assert_eq!(told, expected.map(|of| of.map(String::from)));
        }
    }
    let states: Vec<(String, String)> = folder
        .plain()
        .prepare("SELECT name, status FROM step_states WHERE run = 'order-4711' ORDER BY step")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    let expected = [("a", "pending"), ("b", "outcome_unknown")];
    assert_eq!(states, expected.map(|(name, status)| (name.to_string(), status.to_string())));
}

/// A run goes over to another definition.
fn changed() -> Recorded {
    let workflow = Workflow::builder("w").version(3).step(Step::task("a", "t")).build().unwrap();
    let (workflow, linked) = (Box::new(workflow), Vec::new());
    let mapping = Some(Mapping::new());
    let operation = Operation::Modify { workflow, linked, revision: 0, mapping }.into();
    let by = Reason::new("ann", "version 3").into();
    Recorded { at: at(9), event: Event::Operated { operation, by } }
}

#[test]
fn the_changes_of_a_definition_are_told() {
    let folder = Folder::new("changes");
    let storage = folder.open();
    create(&storage, "r");
    write(&storage, "r", commit(A, 0, vec![changed()])).unwrap();
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
