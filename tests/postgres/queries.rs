//! The queries that the documentation shows.

use sqlx::Row;
use stepwell::journal::{Mapping, Operation, Reason, Vote};

use super::runs::documented::{Schema, lists_exactly};
use super::*;

fn order(storage: &Postgres) {
    let run = new_run("order-4711", &workflow("w"), Holding::Held(A));
    // A user and a value that PostgreSQL has no text for.
    let run = NewRun { user: Some("a\0b".into()), ..run };
    block_on(storage.create(run)).unwrap();
    let step = StepKey::root(0);
    let output = Value::of(&["\0", "2"]).unwrap();
    let events = [
        Event::StepReady { step },
        Event::StepStarted { step, attempt: 1 },
        Event::StepSucceeded { step, output },
        Event::StepReady { step: StepKey::root(1) },
        Event::StepReset { step, failed_items: false },
        Event::Voted { step, vote: Box::new(Vote::approve("bob").comment("fine")) },
        Event::SignalReceived { signal: Box::new(Signal::new("go", ()).by("eve")) },
    ];
    let seconds = [1, 2, 5, 5, 6, 7, 8];
    let journal = std::iter::once(started())
        .chain(seconds.into_iter().zip(events).map(|(s, event)| Recorded { at: at(s), event }));
    let failed = Commit { status: RunStatus::Failed, ..commit(A, 0, journal.collect()) };
    write(storage, "order-4711", failed).unwrap();
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
    create(&storage, "order-4712");
    write(&storage, "order-4712", commit(A, 0, vec![changed(2), changed(3)])).unwrap();
    create(&storage, "order-4713");
    write(&storage, "order-4713", commit(A, 0, vec![changed(3), changed(2)])).unwrap();
    let page = include_str!("../../src/storage/postgres/mod.rs");
    let lines = page.lines().filter_map(|line| line.strip_prefix("///"));
    let page: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    let queries: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .flat_map(|part| part.split("```").next().unwrap().split(";\n"))
        .filter(|query| !query.trim().is_empty())
        .collect();
    assert!(queries.len() >= 7, "{queries:?}");
    for query in queries {
        let query = query.replace("stepwell.", &format!("{schema}."));
        let rows = rows(server().unwrap(), &query);
        assert!(!rows.is_empty(), "{query}");
        if query.contains("AS who") {
            let why = |row| sqlx::Row::get::<Option<&str>, _>(row, "why").unwrap_or_default();
            let told = rows.iter().map(|row| [row.get("kind"), row.get("who"), why(row)]);
            let mut told: Vec<[&str; 3]> = told.collect();
            told.sort_unstable();
            let of = |why| ["operated", "ann", why];
            let mut expected =
                ["version 2", "version 2", "version 3", "version 3"].map(of).to_vec();
            expected.extend([["signal_received", "eve", ""], ["voted", "bob", "fine"]]);
            assert_eq!(told, expected);
        }
        if query.contains("<> 2") {
            let runs: Vec<(String, i64)> =
                rows.iter().map(|row| (row.get("run"), row.get("latest"))).collect();
            assert_eq!(runs, [("order-4712".to_string(), 3)], "the other is at version 2");
        }
    }
    let states = format!(
        "SELECT name, status FROM {schema}.step_states WHERE run = 'order-4711' ORDER BY step"
    );
    let states: Vec<(String, String)> =
        rows(server().unwrap(), &states).iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [("a", "pending"), ("b", "ready")];
    assert_eq!(states, expected.map(|(name, status)| (name.to_string(), status.to_string())));
}

/// A run goes over to another definition.
fn changed(version: u32) -> Recorded {
    let workflow = Workflow::builder("w").version(version).step(Step::task("a", "t"));
    let (workflow, linked) = (Box::new(workflow.build().unwrap()), Vec::new());
    let mapping = Some(Mapping::new());
    let operation = Operation::Modify { workflow, linked, revision: 0, mapping }.into();
    let by = Reason::new("ann", format!("version {version}")).into();
    Recorded { at: at(9), event: Event::Operated { operation, by } }
}

#[test]
fn the_changes_of_a_definition_are_told() {
    let Some((storage, schema)) = opened("changes") else { return };
    create(&storage, "r");
    write(&storage, "r", commit(A, 0, vec![changed(3)])).unwrap();
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
