//! The queries that the documentation shows.

use super::*;

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
    ];
    let seconds = [1, 2, 5, 5, 6, 7];
    let journal = std::iter::once(started())
        .chain(seconds.into_iter().zip(events).map(|(s, event)| Recorded { at: at(s), event }));
    let failed = Commit { status: RunStatus::Failed, ..commit(A, 0, journal.collect()) };
    write(&storage, "order-4711", failed).unwrap();
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

#[test]
fn the_states_of_one_run_s_steps_are_found_without_reading_others() {
    let folder = Folder::new("explain");
    drop(folder.open());
    for query in [
        "SELECT * FROM step_states WHERE run = 'x'",
        "SELECT * FROM run_overview WHERE run = 'x'",
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
