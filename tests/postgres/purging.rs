//! Removing runs while others add some, and while others hold tables.

use futures::future::join_all;
use stepwell::storage::Purge;

use super::*;

fn end(storage: &Postgres, name: &str) -> bool {
    let run = new_run(name, &workflow("w"), Holding::Finished);
    matches!(block_on(storage.create(run)).unwrap(), Created::New)
}

fn all() -> Purge {
    Purge { owner: A, before: None, keep: Some(0), workflow: None, limit: 100 }
}

fn purged(storage: &Postgres) -> Result<Vec<String>> {
    let runs = block_on(storage.purge(all()))?;
    Ok(runs.iter().map(ToString::to_string).collect())
}

/// Somebody with a transaction that is open, as a backup or a person has one.
struct Other(PgConnection);

impl Other {
    fn begin(schema: &str, text: &str) -> Self {
        let url = server().unwrap().url();
        let connect = <PgConnection as sqlx::Connection>::connect(&url);
        let mut other = Self(block_on(connect).unwrap());
        other.says(schema, "BEGIN");
        other.says(schema, text);
        other
    }

    fn says(&mut self, schema: &str, text: &str) {
        let text = AssertSqlSafe(text.replace("s.", &format!("{schema}.")));
        block_on(sqlx::raw_sql(text).execute(&mut self.0)).unwrap();
    }

    fn ends(mut self) {
        self.says("", "COMMIT");
    }
}

/// Until somebody waits for this table.
fn until_waited_for(schema: &str, table: &str) {
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{schema}.{table}'::regclass AND NOT granted"
    );
    until("somebody waits", || number(server().unwrap(), &waits) > 0);
}

#[test]
fn a_backup_that_is_being_made_holds_up_neither_who_removes_runs_nor_who_adds_some() {
    let Some((_, schema)) = opened("backup") else { return };
    let options = PostgresOptions::new().schema(&schema).patience(Duration::from_secs(5));
    let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
    assert!(end(&storage, "old"));
    // As `pg_dump` does.
    let dump = "LOCK TABLE s.purged, s.runs, s.events, s.owners IN ACCESS SHARE MODE";
    let dump = Other::begin(&schema, dump);
    assert_eq!(purged(&storage).unwrap(), ["old"]);
    assert!(end(&storage, "new"));
    dump.ends();
}

#[test]
fn who_removes_runs_waits_only_a_while_for_who_holds_the_table_and_the_next_removes_them() {
    let Some((storage, schema)) = opened("stuck") else { return };
    assert!(end(&storage, "r"));
    let somebody = Other::begin(&schema, "LOCK TABLE s.purged IN ROW EXCLUSIVE MODE");
    let error = purged(&storage).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("55P03"), "{error}");
    assert!(end(&storage, "s"), "nobody waits for who has given up");
    assert_eq!(storage_names(&storage), ["r", "s"], "nothing was removed");
    somebody.ends();
    assert_eq!(purged(&storage).unwrap(), ["r", "s"]);
}

#[test]
fn who_removes_runs_keeps_nobody_waiting_while_it_waits_itself() {
    let Some((storage, schema)) = opened("stuck_early") else { return };
    assert!(end(&storage, "r"));
    // As somebody who makes an index.
    let somebody = Other::begin(&schema, "LOCK TABLE s.answers IN SHARE MODE");
    let error = purged(&storage).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("55P03"), "{error}");
    somebody.ends();
    assert_eq!(purged(&storage).unwrap(), ["r"]);
}

fn storage_names(storage: &Postgres) -> Vec<String> {
    let runs = block_on(storage.list(Default::default())).unwrap();
    let mut names: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    names.sort_unstable();
    names
}

#[test]
fn who_adds_a_run_that_is_just_being_removed_is_told_that_its_id_is_taken() {
    let Some((storage, schema)) = opened("taken") else { return };
    // Often enough for the server to keep a plan.
    for turn in 0..20 {
        assert!(end(&storage, &format!("r{turn}")));
        let mut purge = Other::begin(&schema, "LOCK TABLE s.purged IN EXCLUSIVE MODE");
        let adding = {
            let storage = storage.clone();
            std::thread::spawn(move || end(&storage, &format!("r{turn}")))
        };
        until_waited_for(&schema, "purged");
        let remove = "INSERT INTO s.purged SELECT id, 'w', gen_random_uuid() FROM s.runs;
                      DELETE FROM s.runs";
        purge.says(&schema, remove);
        purge.ends();
        assert!(!adding.join().unwrap());
        assert_eq!(storage_names(&storage), [""; 0]);
    }
}

#[test]
fn under_no_id_is_a_run_added_that_was_removed_and_is_not_cleared() {
    let Some((storage, schema)) = opened("ids") else { return };
    let storage = Arc::new(storage);
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let adding: Vec<_> = (0..3)
        .map(|_| {
            let (storage, is_over) = (Arc::clone(&storage), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut added = 0;
                while !is_over.load(Ordering::Relaxed) {
                    for name in ["a", "b", "c"] {
                        let run = new_run(name, &workflow("w"), Holding::Finished);
                        match block_on(storage.create(run)) {
                            Ok(created) => added += u32::from(matches!(created, Created::New)),
                            // It was there, and then it was not.
                            Err(error) => assert!(error.is_transient(), "{error}"),
                        }
                    }
                }
                added
            })
        })
        .collect();
    let both = format!("SELECT count(*) FROM {schema}.runs JOIN {schema}.purged USING (id)");
    let mut removed = 0;
    while removed < 150 {
        let runs = block_on(storage.purge(all())).unwrap();
        removed += runs.len();
        assert_eq!(number(server().unwrap(), &both), 0);
        block_on(storage.clear(A, runs)).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let added: u32 = adding.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(added as usize >= removed);
}

#[test]
fn many_that_remove_at_once_remove_each_run_once() {
    let Some((storage, schema)) = opened("removers") else { return };
    for number in 0..300 {
        assert!(end(&storage, &format!("r{number}")));
    }
    let remove = |owner: u128| {
        let options = PostgresOptions::new().schema(&schema);
        std::thread::spawn(move || {
            let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
            let (owner, mut removed) = (Owner(owner), Vec::new());
            alive(&storage, owner);
            loop {
                let some = Purge { owner, limit: 7, ..all() };
                let runs = block_on(storage.purge(some)).unwrap();
                if runs.is_empty() {
                    return removed;
                }
                removed.extend(runs.iter().map(ToString::to_string));
                block_on(storage.clear(owner, runs)).unwrap();
            }
        })
    };
    let removers: Vec<_> = (1..=4).map(remove).collect();
    let removed: Vec<Vec<String>> =
        removers.into_iter().map(|remover| remover.join().unwrap()).collect();
    let mut removed = removed.concat();
    assert_eq!(removed.len(), 300);
    removed.sort_unstable();
    removed.dedup();
    assert_eq!(removed.len(), 300, "each was removed by one");
}

#[test]
fn runs_that_were_removed_are_counted() {
    let Some((storage, schema)) = opened("counted") else { return };
    let server = server().unwrap();
    let counts = || {
        let runs = number(server, &format!("SELECT count(*) FROM {schema}.runs"));
        let removed = rows(server, &format!("SELECT workflow, runs FROM {schema}.removed"));
        (runs, removed.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    runs::counted::none_is_unaccounted_for(&storage, &counts);
}

/// How many definitions there are, and how many sub-workflows of runs.
fn definitions(schema: &str) -> (i64, i64) {
    let count = |table: &str| {
        let count = format!("SELECT count(*) FROM {schema}.{table}");
        number(server().unwrap(), &count)
    };
    (count("workflows"), count("run_workflows"))
}

fn another(schema: &str) -> Postgres {
    let options = PostgresOptions::new().schema(schema);
    block_on(options.connect(&server().unwrap().url())).unwrap()
}

#[test]
fn no_definition_outlives_the_runs_that_name_it() {
    let Some((storage, schema)) = opened("outlives") else { return };
    runs::definitions::none_outlives_its_runs(&storage, &|| definitions(&schema));
}

#[test]
fn a_definition_that_a_run_names_stays() {
    let Some((storage, schema)) = opened("named") else { return };
    runs::definitions::one_that_is_named_stays(&storage, &|| definitions(&schema));
}

#[test]
fn a_definition_that_was_removed_is_written_again() {
    let Some((one, schema)) = opened("written_again") else { return };
    let two = another(&schema);
    let rows = || definitions(&schema);
    runs::definitions::one_that_was_removed_is_written_again(&one, &two, &rows);
}

#[test]
fn many_runs_that_are_added_at_once_of_definitions_that_were_removed_are_all_added() {
    let Some((storage, schema)) = opened("many_again") else { return };
    let names: Vec<String> = (0..100).map(|number| format!("r{number:02}")).collect();
    for turn in 0..3 {
        let run = |(place, name): (usize, &String)| {
            let linked = vec![workflow(&format!("inner{}", place % 3))];
            let of = workflow(&format!("w{}", place % 10));
            NewRun { linked, ..new_run(name, &of, Holding::Finished) }
        };
        let creates: Vec<_> = names.iter().enumerate().map(run).collect();
        let creates = creates.into_iter().map(|run| storage.create(run)).collect::<Vec<_>>();
        for created in block_on(join_all(creates)) {
            assert!(matches!(created, Ok(Created::New)), "{turn}: {created:?}");
        }
        assert_eq!(definitions(&schema), (13, 100));
        let other = another(&schema);
        let removed = block_on(other.purge(all())).unwrap();
        assert_eq!(removed.len(), 100);
        block_on(other.clear(A, removed)).unwrap();
        assert_eq!(definitions(&schema), (0, 0));
    }
}

#[test]
fn who_writes_definitions_waits_for_nobody_who_waits_for_him() {
    let Some((storage, schema)) = opened("in_order") else { return };
    // Each of its statements is a transaction, or belongs to one.
    let pooled = || {
        let options = PostgresOptions::new().schema(&schema).behind_a_pooler();
        block_on(options.connect(&server().unwrap().url())).unwrap()
    };
    let run = |name: &str, [of, first, last]: [&str; 3]| {
        let linked = vec![workflow(first), workflow(last)];
        NewRun { linked, ..new_run(name, &workflow(of), Holding::Finished) }
    };
    assert!(matches!(block_on(storage.create(run("before", ["b", "b", "b"]))), Ok(Created::New)));
    // Somebody else is just writing the one in the middle.
    let write = "CREATE TABLE s.copied AS SELECT * FROM s.workflows";
    sql(server().unwrap(), &write.replace("s.", &format!("{schema}.")));
    let removed = purged(&storage).unwrap();
    assert_eq!((removed.len(), definitions(&schema)), (1, (0, 0)));
    let somebody = Other::begin(
        &schema,
        "INSERT INTO s.workflows (id, version, hash, definition)
         SELECT id, version, hash, definition FROM s.copied",
    );
    let adding = [("one", ["a", "b", "c"]), ("two", ["c", "b", "a"])].map(|(name, workflows)| {
        let (storage, run) = (pooled(), run(name, workflows));
        std::thread::spawn(move || block_on(storage.create(run)))
    });
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND query LIKE '%{schema}%'"
    );
    until("both wait", || number(server().unwrap(), &waiting) == 2);
    somebody.ends();
    for added in adding {
        let added = added.join().unwrap();
        assert!(matches!(added, Ok(Created::New)), "{added:?}");
    }
}

#[test]
fn runs_are_added_while_their_definitions_are_removed_again_and_again() {
    let Some((storage, schema)) = opened("again_and_again") else { return };
    let add = |adder: usize| {
        // Half of them share what they know of definitions.
        let storage = if adder.is_multiple_of(2) { storage.clone() } else { another(&schema) };
        std::thread::spawn(move || {
            for number in 0..200 {
                // So many that often one has no run.
                let of = |number: usize| workflow(&format!("w{}", number % 40));
                let run = new_run(&format!("r{adder}_{number}"), &of(number), Holding::Finished);
                let run = NewRun { linked: vec![of(number + 1)], ..run };
                let created = block_on(storage.create(run));
                assert!(matches!(created, Ok(Created::New)), "{adder} {number}: {created:?}");
            }
        })
    };
    let adding: Vec<_> = (0..4).map(add).collect();
    let mut removed = 0;
    loop {
        let is_over = adding.iter().all(std::thread::JoinHandle::is_finished);
        let runs = block_on(storage.purge(all())).unwrap();
        if is_over && runs.is_empty() {
            break;
        }
        removed += runs.len();
        block_on(storage.clear(A, runs)).unwrap();
    }
    adding.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((removed, definitions(&schema)), (800, (0, 0)));
}

#[test]
fn a_definition_that_somebody_names_by_hand_at_the_same_moment_stays() {
    let Some((storage, schema)) = opened("by_hand") else { return };
    assert!(end(&storage, "r"));
    let copy = "INSERT INTO s.runs (id, workflow, status, created_at, changed_at, events, state)
                SELECT 'hand', workflow, status, created_at, changed_at, events, state FROM s.runs";
    let somebody = Other::begin(&schema, copy);
    assert_eq!(purged(&storage).unwrap(), ["r"]);
    somebody.ends();
    assert_eq!((storage_names(&storage), definitions(&schema)), (vec!["hand".into()], (1, 0)));
    assert_eq!(purged(&storage).unwrap(), ["hand", "r"]);
    assert_eq!(definitions(&schema), (0, 0));
}
