//! The queries that the documentation shows.

use sqlx::Row;

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
    ];
    let seconds = [1, 2, 5, 5, 6];
    let journal = std::iter::once(started())
        .chain(seconds.into_iter().zip(events).map(|(s, event)| Recorded { at: at(s), event }));
    let failed = Commit { status: RunStatus::Failed, ..commit(A, 0, journal.collect()) };
    write(storage, "order-4711", failed).unwrap();
}

#[test]
fn the_queries_of_the_documentation_answer() {
    let Some((storage, schema)) = opened("queries") else { return };
    order(&storage);
    let page = include_str!("../../src/storage/postgres/mod.rs");
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
        let query = query.replace("stepwell.", &format!("{schema}."));
        assert!(!rows(server().unwrap(), &query).is_empty(), "{query}");
    }
    let states = format!(
        "SELECT name, status FROM {schema}.step_states WHERE run = 'order-4711' ORDER BY step"
    );
    let states: Vec<(String, String)> =
        rows(server().unwrap(), &states).iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [("a", "pending"), ("b", "ready")];
    assert_eq!(states, expected.map(|(name, status)| (name.to_string(), status.to_string())));
}

#[test]
fn what_is_asked_often_is_found_without_reading_everything() {
    let Some((storage, schema)) = opened("plans") else { return };
    order(&storage);
    for query in [
        "SELECT * FROM s.step_states WHERE run = 'x'",
        "SELECT * FROM s.run_overview WHERE run = 'x'",
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
